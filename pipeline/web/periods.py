"""Days, weeks and months of papers, as addresses name them."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from calendar import monthrange
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum

from pipeline.rendering import words

_NAMES = {
    "date": re.compile(r"(\d{4})-(\d{2})-(\d{2})"),
    "week": re.compile(r"(\d{4})-W(\d{2})"),
    "month": re.compile(r"(\d{4})-(\d{2})"),
}


class Span(StrEnum):
    """How long a period is; also the parameter that names one."""

    DAY = "date"
    WEEK = "week"  # ISO 8601: from Monday
    MONTH = "month"


@dataclass(frozen=True, slots=True)
class Days:
    """Days in a row; `first` and `last` belong to them."""

    first: date
    last: date

    def __contains__(self, day: date) -> bool:
        return self.first <= day <= self.last


@dataclass(frozen=True, slots=True)
class Period(Days):
    """A day, a week or a month."""

    span: Span

    @property
    def name(self) -> str:
        """ "2030-01-02", "2030-W01" or "2030-01"; `read` understands it."""
        if self.span is Span.DAY:
            return self.first.isoformat()
        if self.span is Span.WEEK:
            year, week, _ = self.first.isocalendar()
            return f"{year:04}-W{week:02}"
        return f"{self.first.year:04}-{self.first.month:02}"

    @property
    def title(self) -> str:
        if self.span is Span.DAY:
            return words.full_day(self.first)
        if self.span is Span.WEEK:
            days = words.days(self.first, self.last)
            year = "" if self.first.year != self.last.year else f" {self.last.year}"
            return f"Week {self.first.isocalendar().week}: {days}{year}"
        return words.month(self.first)

    @property
    def short(self) -> str:
        """As a link names it: "31 Jul", "Week 31", "July 2026"."""
        if self.span is Span.DAY:
            return words.day(self.first)
        if self.span is Span.WEEK:
            return f"Week {self.first.isocalendar().week}"
        return words.month(self.first)


def around(day: date, span: Span) -> Period:
    """The period of this length that has the day."""
    if span is Span.DAY:
        return Period(day, day, span)
    if span is Span.WEEK:
        monday = day - timedelta(days=day.weekday())
        sunday = min(monday.toordinal() + 6, date.max.toordinal())  # the last week has no Sunday
        return Period(monday, date.fromordinal(sunday), span)
    last = monthrange(day.year, day.month)[1]
    return Period(day.replace(day=1), day.replace(day=last), span)


def read(span: Span, name: str) -> Period:
    """The period of this name. Raises ValueError for anything else."""
    found = _NAMES[span].fullmatch(name)
    if found is None or not name.isascii():
        raise ValueError(f"not a {span}: {name!r}")
    year, number, *day = (int(part) for part in found.groups())
    is_week = span is Span.WEEK
    first = date.fromisocalendar(year, number, 1) if is_week else date(year, number, *(day or [1]))
    return around(first, span)


def before(period: Period, days: Sequence[date]) -> Period | None:
    """The nearest earlier period with one of the `days`, which are in order."""
    place = bisect_left(days, period.first)
    return around(days[place - 1], period.span) if place else None


def after(period: Period, days: Sequence[date]) -> Period | None:
    """The nearest later period with one of the `days`, which are in order."""
    place = bisect_right(days, period.last)
    return around(days[place], period.span) if place < len(days) else None


def until(last: date, days: int) -> Days:
    """So many days, ending with `last`."""
    return Days(last - timedelta(days=days - 1), last)
