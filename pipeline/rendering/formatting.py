"""Format text for readers: dates, counts, and text cut at the end of a sentence or word."""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Sequence
from datetime import date

WIDTH = 76  # columns of the text part
HEADLINE = 60  # characters of a title in the subject
ELLIPSIS = "…"

# Bidirectional controls can reverse a line, so that a link reads as another; surrogates and
# unassigned code points cannot be shown. Combining marks, joiners and emoji stay.
_UNSAFE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff"
    "\ue000-\uf8ff\ufff9-\ufffb\ufffe\uffff\ud800-\udfff]"
)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=\S)|(?<=[\u3002\uff01\uff1f])")


def clean(text: str) -> str:
    """Return `text` on one line, without control characters and others that cannot be shown."""
    return " ".join(_UNSAFE.sub("", text).split())


def cut(text: str, limit: int) -> str:
    """Return about `limit` columns of `text`; end after a sentence if one ends late enough.

    After a sentence, the ellipsis may exceed the limit. A character outside ASCII counts as six
    columns, as its encoding takes six to twelve.
    """
    fit = _fitting(text, limit)
    if fit == len(text):
        return text
    if fit == 0:
        return ""
    ends = [end.start() for end in _SENTENCE_END.finditer(text[: fit + 1])]
    if ends and ends[-1] >= fit * 0.6:
        return f"{text[: ends[-1]].rstrip()} {ELLIPSIS}"
    return cut_at_word(text, fit)


def cut_at_word(text: str, limit: int) -> str:
    """Return at most `limit` characters of `text`, cut between words if possible."""
    if len(text) <= limit:
        return text
    kept = text[: limit - 1]
    space = kept.rfind(" ")
    if not text[limit - 1].isspace() and space >= limit // 2:
        kept = kept[:space]
    while kept and unicodedata.combining(text[len(kept)]):
        kept = kept[:-1]
    return kept.rstrip(" ,;:-(\u200d") + ELLIPSIS


def _fitting(text: str, limit: int) -> int:
    """Return the number of leading characters of `text` that take at most `limit` columns."""
    if text.isascii():
        return min(len(text), limit)
    columns = 0
    for position, character in enumerate(text):
        columns += 1 if character.isascii() else 6
        if columns > limit:
            return position
    return len(text)


def count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def listed(words: Sequence[str]) -> str:
    """Return "a", "a and b" or "a, b and c"."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def authors(names: Sequence[str], total: int) -> str:
    """Return the first three names and the number of others; "" if there are no names."""
    shown = [name for name in map(clean, names[:3]) if name]
    more = max(total, len(names)) - len(shown)
    if not shown:
        return ""
    if more <= 0:
        return listed(shown)
    return f"{', '.join(shown)} and {more:,} more"


def day(on: date) -> str:
    """Return "31 Jul"; the names of months do not depend on the locale."""
    return f"{on.day} {_MONTHS[on.month - 1][:3]}"


def full_day(on: date) -> str:
    """Return "Friday, 31 July 2026"."""
    return f"{_WEEKDAYS[on.weekday()]}, {on.day} {_MONTHS[on.month - 1]} {on.year}"


def month(on: date) -> str:
    """Return "July 2026"."""
    return f"{_MONTHS[on.month - 1]} {on.year}"


def days(first: date, last: date) -> str:
    """Return "Thursday 30 July", "28 to 31 July" or "30 June to 2 July"."""
    if first == last:
        return f"{_WEEKDAYS[first.weekday()]} {first.day} {_MONTHS[first.month - 1]}"
    start = f"{first.day}"
    if (first.year, first.month) != (last.year, last.month):
        start += f" {_MONTHS[first.month - 1]}"
    if first.year != last.year:
        start += f" {first.year}"
    end = f"{last.day} {_MONTHS[last.month - 1]}"
    return f"{start} to {end}" if first.year == last.year else f"{start} to {end} {last.year}"


def wrap(text: str, indent: str = "", width: int = WIDTH) -> str:
    """Return `text` in lines of at most `width` columns; never break a word (a URL)."""
    if 0 < len(text) <= width - len(indent) and text == " ".join(text.split()):
        return indent + text  # the same result as `fill`, much faster
    return textwrap.fill(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


_MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
