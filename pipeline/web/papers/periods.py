"""Periods of a day, a week or a month, and their names in URLs."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from calendar import monthrange
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum

from pipeline.rendering import formatting
from pipeline.translations import gettext

_NAMES = {
    "date": re.compile(r"(\d{4})-(\d{2})-(\d{2})"),
    "week": re.compile(r"(\d{4})-W(\d{2})"),
    "month": re.compile(r"(\d{4})-(\d{2})"),
}


class Span(StrEnum):
    """Length of a period; the value is its query parameter."""

    DAY = "date"
    WEEK = "week"  # ISO 8601, starts on Monday
    MONTH = "month"


@dataclass(frozen=True, slots=True)
class Days:
    """Range of days, `first` and `last` included."""

    first: date
    last: date

    def __contains__(self, day: date) -> bool:
        return self.first <= day <= self.last


@dataclass(frozen=True, slots=True)
class Period(Days):
    """Range of exactly one day, one ISO week or one month."""

    span: Span

    @property
    def name(self) -> str:
        """Return "2030-01-02", "2030-W01" or "2030-01", the inverse of `read`."""
        if self.span is Span.DAY:
            return self.first.isoformat()
        if self.span is Span.WEEK:
            year, week, _ = self.first.isocalendar()
            return f"{year:04}-W{week:02}"
        return f"{self.first.year:04}-{self.first.month:02}"

    @property
    def title(self) -> str:
        if self.span is Span.DAY:
            return formatting.full_day(self.first)
        if self.span is Span.WEEK:
            days = formatting.days(self.first, self.last)
            week = self.first.isocalendar().week
            if self.first.year != self.last.year:  # `days` has both
                return gettext("Week %(week)s: %(days)s", week=week, days=days)
            year = self.last.year
            return gettext("Week %(week)s: %(days)s %(year)s", week=week, days=days, year=year)
        return formatting.month(self.first)

    @property
    def short(self) -> str:
        """Return the text of a link: "31 Jul", "Week 31" or "July 2026"."""
        if self.span is Span.DAY:
            return formatting.day(self.first)
        if self.span is Span.WEEK:
            return gettext("Week %(week)s", week=self.first.isocalendar().week)
        return formatting.month(self.first)


def around(day: date, span: Span) -> Period:
    """Return the period of this length that contains `day`."""
    if span is Span.DAY:
        return Period(day, day, span)
    if span is Span.WEEK:
        monday = day - timedelta(days=day.weekday())
        sunday = min(monday.toordinal() + 6, date.max.toordinal())  # year 9999 ends on a Friday
        return Period(monday, date.fromordinal(sunday), span)
    last = monthrange(day.year, day.month)[1]
    return Period(day.replace(day=1), day.replace(day=last), span)


def parse(span: Span, name: str) -> Period:
    """Parse the name of a period. Raise ValueError if it is malformed or does not exist."""
    found = _NAMES[span].fullmatch(name)
    if found is None or not name.isascii():
        raise ValueError(f"not a {span}: {name!r}")
    year, number, *day = (int(part) for part in found.groups())
    is_week = span is Span.WEEK
    first = date.fromisocalendar(year, number, 1) if is_week else date(year, number, *(day or [1]))
    return around(first, span)


def before(period: Period, days: Sequence[date]) -> Period | None:
    """Return the nearest earlier period that contains one of `days` (sorted); None if none."""
    place = bisect_left(days, period.first)
    return around(days[place - 1], period.span) if place else None


def after(period: Period, days: Sequence[date]) -> Period | None:
    """Return the nearest later period that contains one of `days` (sorted); None if none."""
    place = bisect_right(days, period.last)
    return around(days[place], period.span) if place < len(days) else None


def until(last: date, days: int) -> Days:
    """Return a range of `days` days that ends with `last`."""
    return Days(last - timedelta(days=days - 1), last)
