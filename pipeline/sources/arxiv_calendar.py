"""arXiv's announcement calendar: https://info.arxiv.org/help/availability.html.

Papers submitted before 14:00 in New York are announced at 20:00 there, Sunday to Thursday. The
feeds list them from midnight, Monday to Friday; that day is called the feed day here.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

NEW_YORK = ZoneInfo("America/New_York")
_CUTOFF = time(14)
_DAY = timedelta(days=1)

# Evenings without an announcement. For other years only weekends are excluded.
_HOLIDAYS = frozenset(
    date(2026, month, day)
    for month, day in (
        (1, 1), (1, 19), (6, 19), (7, 3), (9, 7), (11, 26), (12, 25), (12, 29), (12, 31),
    )
)  # fmt: skip


def feed_day(day: date) -> bool:
    """Return whether the feed lists new papers on `day`: arXiv announced the evening before."""
    evening = day - _DAY
    return evening.weekday() not in {4, 5} and evening not in _HOLIDAYS


def feed_days(first: date, end: date) -> Iterator[date]:
    """Return the feed days from `first` up to but not including `end`."""
    for number in range((end - first).days):
        day = first + number * _DAY
        if feed_day(day):
            yield day


def first_feed_day(submitted_at: datetime) -> date:
    """Return the earliest feed day of a submission; if moderators hold it, it appears later."""
    local = submitted_at.astimezone(NEW_YORK)
    day = local.date() if local.time() < _CUTOFF else local.date() + _DAY
    while day.weekday() >= 5:  # weekend submissions count as Monday's
        day += _DAY
    evening = day + 2 * _DAY if day.weekday() == 4 else day  # Friday's are announced on Sunday
    while not feed_day(evening + _DAY):
        evening += _DAY
    return evening + _DAY
