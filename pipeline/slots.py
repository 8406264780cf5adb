"""Calendar of a reader: the instants at which a digest is due. Pure.

A calendar slot is the reader's delivery time on a day of their frequency. The date of an edition is
the local date of the slot, not the date on which it is compiled.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import count
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pipeline.domain import Frequency, Schedule, Weekday
from pipeline.errors import SettingsError

REST = timedelta(hours=20)
"""Minimum time between two slots, so that a change of time zone never causes two mails a day."""


def zone(name: str) -> ZoneInfo:
    """Return the IANA time zone `name`. Raises SettingsError that names it if it is unknown."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise SettingsError(f"unknown time zone: {name!r}") from error


def slot_on(day: date, schedule: Schedule) -> datetime:
    """Return the instant, in UTC, of the reader's delivery time on `day`.

    A local time in a DST gap becomes the first instant after the gap. If a local time occurs twice,
    the first is returned.
    """
    tz = zone(schedule.timezone)
    local = datetime.combine(day, schedule.at, tzinfo=tz)  # fold=0: the first of the two
    instant = local.astimezone(UTC)
    if instant.astimezone(tz).replace(tzinfo=None) == local.replace(tzinfo=None):
        return instant
    return _end_of_gap(local, tz)


def local_date(instant: datetime, schedule: Schedule) -> date:
    """Return the date of `instant` in the reader's time zone."""
    return instant.astimezone(zone(schedule.timezone)).date()


def is_slot_day(day: date, schedule: Schedule) -> bool:
    """Return whether the reader's frequency includes `day`."""
    match schedule.frequency:
        case Frequency.DAILY:
            return True
        case Frequency.WEEKDAYS:
            return day.weekday() <= Weekday.FRIDAY
        case Frequency.WEEKLY:
            return day.weekday() == schedule.weekday


def first_slot(
    schedule: Schedule,
    after: datetime,
    last_slot_at: datetime | None = None,
    last_edition_on: date | None = None,
) -> datetime:
    """Return the first slot strictly after `after`, for a reader that is new or returns.

    `last_slot_at` and `last_edition_on` are of the last slot served, if any.
    """
    return next(
        slot
        for slot in _slots_from(local_date(after, schedule), schedule)
        if slot > after and may_follow(slot, schedule, last_slot_at, last_edition_on)
    )


def next_slot(schedule: Schedule, last_slot_at: datetime, last_edition_on: date) -> datetime:
    """Return the first calendar slot dated after the last edition and at least 20 h after its slot.

    If it is in the past, it is due.
    """
    return next(
        slot
        for slot in _slots_from(last_edition_on, schedule)
        if may_follow(slot, schedule, last_slot_at, last_edition_on)
    )


def newest_slot(
    schedule: Schedule,
    now: datetime,
    next_slot_at: datetime,
    last_slot_at: datetime | None,
    last_edition_on: date | None,
) -> datetime:
    """Return the slot to serve at `now` when `next_slot_at` is due: after an outage, the newest."""
    today = local_date(now, schedule)
    for days in count():
        day = today - timedelta(days=days)
        if not is_slot_day(day, schedule):
            continue
        slot = slot_on(day, schedule)
        if slot <= next_slot_at:
            break
        if slot <= now and may_follow(slot, schedule, last_slot_at, last_edition_on):
            return slot
    return next_slot_at


def may_follow(
    slot: datetime,
    schedule: Schedule,
    last_slot_at: datetime | None,
    last_edition_on: date | None,
) -> bool:
    """Return whether a slot is at least `REST` and one local date after the last one served."""
    if last_slot_at is not None and slot - last_slot_at < REST:
        return False
    return last_edition_on is None or local_date(slot, schedule) > last_edition_on


def _slots_from(day: date, schedule: Schedule) -> Iterator[datetime]:
    while True:
        if is_slot_day(day, schedule):
            yield slot_on(day, schedule)
        day += timedelta(days=1)


def _end_of_gap(local: datetime, tz: ZoneInfo) -> datetime:
    """Return the instant at which the clock jumped over `local`, which lies in a DST gap."""
    # PEP 495: in a gap, fold=1 takes the offset after the jump, and so lies before it in time.
    before = local.replace(fold=1).astimezone(UTC)
    after = local.replace(fold=0).astimezone(UTC)
    old_offset = before.astimezone(tz).utcoffset()
    while after - before > timedelta(seconds=1):
        middle = before + (after - before) / 2
        if middle.astimezone(tz).utcoffset() == old_offset:
            before = middle
        else:
            after = middle
    return after.replace(microsecond=0)
