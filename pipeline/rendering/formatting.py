"""Format text for readers: dates, counts, and text cut at the end of a sentence or word."""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Sequence
from datetime import date

from pipeline.translations import gettext, gettext_noop, ngettext

WIDTH = 76  # columns of the text part
HEADLINE = 90  # characters of a title in the subject; phones show about 40
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


def short_number(number: int) -> str:
    """Return a count as "999", "1.2k", "45k" or "1,234k": rounded down."""
    if number < 1_000:
        return str(number)
    if number < 10_000 and (tenths := number // 100) % 10:
        return f"{tenths / 10}k"
    return f"{number // 1_000:,}k"


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


def cut_at_column(text: str, limit: int) -> str:
    """Return about `limit` columns of `text`, as counted by `cut`, cut between words."""
    return cut_at_word(text, max(1, _fitting(text, limit)))


def columns(text: str) -> int:
    """Return the columns of `text`: six for a character outside ASCII."""
    return len(text) if text.isascii() else sum(1 if c.isascii() else 6 for c in text)


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


def listed(words: Sequence[str]) -> str:
    """Return "a", "a and b" or "a, b and c"."""
    if len(words) < 2:
        return "".join(words)
    return gettext("%(most)s and %(last)s", most=", ".join(words[:-1]), last=words[-1])


def authors(names: Sequence[str], total: int, most: int = 3) -> str:
    """Return the first `most` names and the number of others; "" if there are no names."""
    shown = [name for name in map(clean, names[:most]) if name]
    more = max(total, len(names)) - len(shown)
    if not shown:
        return ""
    if more <= 0:
        return listed(shown)
    if most < 3:
        others = f"{more:,}"
        return gettext("%(names)s +%(more)s", names=", ".join(shown), more=others)
    return ngettext(
        "%(names)s and %(num)s more", "%(names)s and %(num)s more", more, names=", ".join(shown)
    )


def day(on: date) -> str:
    """Return "31 Jul"."""
    return gettext("%(day)s %(month)s", day=on.day, month=gettext(_SHORT_MONTHS[on.month - 1]))


def full_day(on: date) -> str:
    """Return "Friday, 31 July 2026"."""
    return gettext(
        "%(weekday)s, %(day)s %(month)s %(year)s",
        weekday=gettext(_WEEKDAYS[on.weekday()]),
        day=on.day,
        month=gettext(_MONTHS[on.month - 1]),
        year=on.year,
    )


def weekday(number: int) -> str:
    """Return "Monday" for 0."""
    return gettext(_WEEKDAYS[number])


def month(on: date) -> str:
    """Return "July 2026"."""
    return gettext("%(month)s %(year)s", month=gettext(_MONTHS[on.month - 1]), year=on.year)


def days(first: date, last: date) -> str:
    """Return "Thursday 30 July", "28 to 31 July" or "30 June to 2 July"."""
    if first == last:
        return gettext(
            "%(weekday)s %(day)s %(month)s",
            weekday=gettext(_WEEKDAYS[first.weekday()]),
            day=first.day,
            month=gettext(_MONTHS[first.month - 1]),
        )
    if first.year != last.year:
        start, end = _day_of_year(first), _day_of_year(last)
    elif first.month != last.month:
        start, end = day_of_month(first), day_of_month(last)
    else:
        start, end = str(first.day), day_of_month(last)
    return gettext("%(start)s to %(end)s", start=start, end=end)


def day_of_month(on: date) -> str:
    """Return "31 July"."""
    return gettext("%(day)s %(month)s", day=on.day, month=gettext(_MONTHS[on.month - 1]))


def _day_of_year(on: date) -> str:
    month = gettext(_MONTHS[on.month - 1])
    return gettext("%(day)s %(month)s %(year)s", day=on.day, month=month, year=on.year)


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
    gettext_noop("January"),
    gettext_noop("February"),
    gettext_noop("March"),
    gettext_noop("April"),
    gettext_noop("May"),
    gettext_noop("June"),
    gettext_noop("July"),
    gettext_noop("August"),
    gettext_noop("September"),
    gettext_noop("October"),
    gettext_noop("November"),
    gettext_noop("December"),
)
_SHORT_MONTHS = (
    gettext_noop("Jan"),
    gettext_noop("Feb"),
    gettext_noop("Mar"),
    gettext_noop("Apr"),
    gettext_noop("May"),
    gettext_noop("Jun"),
    gettext_noop("Jul"),
    gettext_noop("Aug"),
    gettext_noop("Sep"),
    gettext_noop("Oct"),
    gettext_noop("Nov"),
    gettext_noop("Dec"),
)
_WEEKDAYS = (
    gettext_noop("Monday"),
    gettext_noop("Tuesday"),
    gettext_noop("Wednesday"),
    gettext_noop("Thursday"),
    gettext_noop("Friday"),
    gettext_noop("Saturday"),
    gettext_noop("Sunday"),
)
