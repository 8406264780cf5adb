"""Words for people: dates, counts, and text cut where a reader would cut it."""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Sequence
from datetime import date

WIDTH = 76  # columns of the text part
HEADLINE = 60  # characters of a title in the subject
ELLIPSIS = "…"

# Bidirectional controls can turn a line around (a link that reads as another); surrogates and
# unassigned code points cannot be shown. Marks, joiners and emoji stay.
_UNSAFE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff"
    "\ue000-\uf8ff\ufff9-\ufffb\ufffe\uffff\ud800-\udfff]"
)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=\S)|(?<=[\u3002\uff01\uff1f])")


def clean(text: str) -> str:
    """`text` on one line, without anything that a reader cannot see."""
    return " ".join(_UNSAFE.sub("", text).split())


def cut(text: str, limit: int) -> str:
    """At most `limit` columns of `text`, ending at a sentence where one ends late enough.

    A character outside ASCII counts as six: it takes six to twelve on the wire.
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
    """At most `limit` characters of `text`, whole words where there are any."""
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
    """How many leading characters of `text` take at most `limit` columns."""
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
    """ "a", "a and b", "a, b and c"."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def authors(names: Sequence[str], total: int) -> str:
    """The first three names and how many more there are; "" when nobody is named."""
    shown = [name for name in map(clean, names[:3]) if name]
    more = max(total, len(names)) - len(shown)
    if not shown:
        return ""
    if more <= 0:
        return listed(shown)
    return f"{', '.join(shown)} and {more:,} more"


def day(on: date) -> str:
    """ "31 Jul"; the names of months do not depend on the machine's language."""
    return f"{on.day} {_MONTHS[on.month - 1][:3]}"


def full_day(on: date) -> str:
    """ "Friday, 31 July 2026"."""
    return f"{_WEEKDAYS[on.weekday()]}, {on.day} {_MONTHS[on.month - 1]} {on.year}"


def month(on: date) -> str:
    """ "July 2026"."""
    return f"{_MONTHS[on.month - 1]} {on.year}"


def days(first: date, last: date) -> str:
    """ "Thursday 30 July", "28 to 31 July", "30 June to 2 July"."""
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
    """`text` in lines of at most `width` columns; a word (an address) is never broken."""
    if 0 < len(text) <= width - len(indent) and text == " ".join(text.split()):
        return indent + text  # what `fill` says too, after much longer
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
