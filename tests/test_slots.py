"""Slots of a reader: every hour of every zone, and never two on one day."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline import slots
from pipeline.domain import Frequency, Schedule, Weekday
from pipeline.errors import SettingsError
from tests.support.factories import make_schedule

ODD_ZONES = (
    "Africa/Casablanca",  # suspends its summer time for Ramadan
    "America/Nuuk",  # its clocks jump from 22:00 or 23:00 into the next day
    "America/Sao_Paulo",  # had no midnight once a year
    "Asia/Kathmandu",
    "Asia/Tehran",
    "Australia/Lord_Howe",  # moves by half an hour
    "Europe/Berlin",
    "Pacific/Apia",  # had no 30 December 2011
    "Pacific/Kiritimati",
    "Pacific/Pago_Pago",
)
EARLIEST, LATEST = date(2005, 1, 1), date(2035, 12, 31)

installation = settings(deadline=None)  # the machine may be busy

zones = st.sampled_from(ODD_ZONES) | st.sampled_from(sorted(available_timezones() - {"localtime"}))
days = st.dates(EARLIEST, LATEST)
hours = st.builds(time, st.integers(0, 23), st.sampled_from([0, 15, 30]))
schedules = st.builds(
    Schedule, hours, zones, st.sampled_from(list(Frequency)), st.sampled_from(list(Weekday))
)
moments = st.datetimes(datetime(2005, 1, 1), datetime(2035, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001


def local(instant: datetime, timezone: str) -> datetime:
    return instant.astimezone(ZoneInfo(timezone)).replace(tzinfo=None)


# --- One slot -----------------------------------------------------------------------------------


@installation
@given(days, schedules)
@example(date(2011, 12, 30), make_schedule(8, "Pacific/Apia"))
@example(date(2024, 3, 30), make_schedule(23, "America/Nuuk"))
def test_slot_is_the_first_instant_at_or_after_the_local_hour(day, schedule):
    """For a plain hour, for the first of two, and for the end of a gap."""
    wanted = datetime.combine(day, schedule.at)

    slot = slots.slot_on(day, schedule)

    assert local(slot, schedule.timezone) >= wanted
    # No clock is set back by more than a few hours, so these quarters of an hour are enough.
    quarters = (slot - timedelta(minutes=15 * n) for n in range(1, 13))
    assert all(local(earlier, schedule.timezone) < wanted for earlier in quarters)
    assert local(slot - timedelta(microseconds=1), schedule.timezone) < wanted


@pytest.mark.parametrize(
    ("day", "hour", "timezone", "expected"),
    [
        (date(2030, 3, 31), 2, "Europe/Berlin", "2030-03-31T01:00"),  # 02:00 does not exist
        (date(2030, 10, 27), 2, "Europe/Berlin", "2030-10-27T00:00"),  # 02:00 comes twice
        (date(2024, 10, 6), 2, "Australia/Lord_Howe", "2024-10-05T15:30"),  # 02:00 is 02:30
        (date(2024, 4, 7), 1, "Australia/Lord_Howe", "2024-04-06T14:00"),
        (date(2018, 11, 4), 0, "America/Sao_Paulo", "2018-11-04T03:00"),  # no midnight
        (date(2011, 12, 30), 8, "Pacific/Apia", "2011-12-30T10:00"),  # no such day at all
        (date(2030, 1, 2), 8, "Asia/Kathmandu", "2030-01-02T02:15"),
    ],
)
def test_slots_at_known_clock_changes(day, hour, timezone, expected):
    slot = slots.slot_on(day, make_schedule(hour, timezone))

    assert slot == datetime.fromisoformat(expected).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("hour", "day", "timezone", "end"),
    [
        (2, date(2030, 3, 31), "Europe/Berlin", "2030-03-31T01:00"),
        (8, date(2011, 12, 30), "Pacific/Apia", "2011-12-30T10:00"),
        (23, date(2024, 3, 30), "America/Nuuk", "2024-03-31T01:00"),
    ],
)
def test_times_inside_a_clock_gap_map_to_its_end(hour, day, timezone, end):
    for minute in range(60):
        schedule = replace(make_schedule(hour, timezone), at=time(hour, minute))

        slot = slots.slot_on(day, schedule)

        assert slot == datetime.fromisoformat(end).replace(tzinfo=UTC)


@installation
@given(moments, schedules)
def test_first_slot_is_the_earliest_future_slot(after, schedule):
    today = slots.local_date(after, schedule)
    days = (today + timedelta(days=n) for n in range(-2, 10))
    ahead = [slots.slot_on(day, schedule) for day in days if slots.is_slot_day(day, schedule)]

    assert slots.first_slot(schedule, after) == min(slot for slot in ahead if slot > after)


def test_first_slot_excludes_the_current_instant():
    eight = datetime(2030, 1, 2, 8, tzinfo=UTC)

    assert slots.first_slot(make_schedule(8), eight - timedelta(microseconds=1)) == eight
    assert slots.first_slot(make_schedule(8), eight) == eight + timedelta(days=1)


@pytest.mark.parametrize(
    ("hours", "days", "follows"),
    [
        (20, 1, True),
        (20 - 1 / 3600, 1, False),  # one second less
        (24, 0, False),  # its date was already served
        (24, -1, False),
        (24, None, True),
        (None, 1, True),
        (None, 0, False),
        (None, None, True),
    ],
)
def test_slots_are_at_least_twenty_hours_and_one_date_apart(hours, days, follows):
    slot = datetime(2030, 1, 2, 8, tzinfo=UTC)
    last_slot_at = None if hours is None else slot - timedelta(hours=hours)
    last_edition_on = None if days is None else slot.date() - timedelta(days=days)

    assert slots.may_follow(slot, make_schedule(8), last_slot_at, last_edition_on) is follows


@installation
@given(moments, schedules)
def test_first_slot_is_within_nine_days(after, schedule):
    slot = slots.first_slot(schedule, after)

    assert after < slot <= after + timedelta(days=9)


def test_first_slot_skips_a_day_already_served():
    """The reader returns at nine and chooses ten o'clock; today's edition came at eight."""
    served = datetime(2030, 1, 2, 8, tzinfo=UTC)
    after = served + timedelta(hours=1)

    assert slots.first_slot(make_schedule(10), after) == served + timedelta(hours=2)
    assert slots.first_slot(make_schedule(10), after, served, served.date()) == served + timedelta(
        hours=26
    )


@pytest.mark.parametrize("name", ["Mars/Olympus", "Europe", "../etc/passwd", "x" * 300, "a\0b"])
def test_unknown_time_zone_is_named_in_the_error(name):
    with pytest.raises(SettingsError, match="unknown time zone") as caught:
        slots.slot_on(EARLIEST, make_schedule(timezone=name))

    assert repr(name) in str(caught.value)


# --- Days ---------------------------------------------------------------------------------------


def test_weekly_defaults_to_monday():
    monday = date(2030, 1, 7)
    week = [monday + timedelta(days=n) for n in range(7)]

    weekly = Schedule(frequency=Frequency.WEEKLY)
    on_sundays = make_schedule(frequency=Frequency.WEEKLY, weekday=Weekday.SUNDAY)
    weekdays = make_schedule(frequency=Frequency.WEEKDAYS)

    assert [day for day in week if slots.is_slot_day(day, weekly)] == [monday]
    assert [day for day in week if slots.is_slot_day(day, on_sundays)] == week[6:]
    assert [day for day in week if slots.is_slot_day(day, weekdays)] == week[:5]
    assert all(slots.is_slot_day(day, make_schedule()) for day in week)


def test_edition_date_is_local_to_the_reader():
    """When it is eight in the morning on Kiritimati, it is still yesterday in London."""
    schedule = make_schedule(8, "Pacific/Kiritimati")
    slot = slots.slot_on(date(2030, 1, 2), schedule)

    assert slot.date() == date(2030, 1, 1)
    assert slots.local_date(slot, schedule) == date(2030, 1, 2)


# --- A reader's history -------------------------------------------------------------------------


@installation
@given(
    start=moments.filter(lambda moment: moment.year < 2035),
    history=st.lists(st.tuples(schedules, st.integers(1, 200)), min_size=1, max_size=12),
)
def test_edition_dates_increase_and_slots_stay_20_hours_apart(start, history):
    """When zone, hour and frequency change, and when the service stops for hours or days."""
    now, last_slot_at, last_edition_on = start, None, None
    for schedule, slept in history:
        due_at = (
            slots.first_slot(schedule, now)
            if last_slot_at is None
            else slots.next_slot(schedule, last_slot_at, last_edition_on)
        )
        now = max(now, due_at) + timedelta(hours=slept)

        slot = slots.newest_slot(schedule, now, due_at, last_slot_at, last_edition_on)
        edition_on = slots.local_date(slot, schedule)

        assert due_at <= slot <= now
        if last_slot_at is not None:
            assert slot - last_slot_at >= timedelta(hours=20)
            assert edition_on > last_edition_on
        last_slot_at, last_edition_on = slot, edition_on


@installation
@given(moments, schedules, st.integers(1, 60))
def test_after_an_outage_only_the_newest_slot_is_served(start, schedule, days_away):
    first = slots.first_slot(schedule, start)
    now = first + timedelta(days=days_away)

    slot = slots.newest_slot(schedule, now, first, None, None)

    following = slots.next_slot(schedule, slot, slots.local_date(slot, schedule))
    assert slot <= now
    assert following > now or following - slot < timedelta(hours=24)  # its date was already served


WEDNESDAY = datetime(2030, 1, 2, 8, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("frequency", "due", "now", "served"),
    [
        (Frequency.DAILY, 0, 0, 0),
        (Frequency.DAILY, 0, 3, 3),  # exactly at the slot
        (Frequency.DAILY, 0, 2.9, 2),
        (Frequency.DAILY, 0, 40.5, 40),
        (Frequency.WEEKDAYS, 0, 4.5, 2),  # on a Sunday, the slot of Friday
        (Frequency.WEEKDAYS, 0, 5, 5),
        (Frequency.WEEKLY, -2, 4.9, -2),  # on a Monday before the hour, the slot of a week ago
        (Frequency.WEEKLY, -2, 5, 5),
        (Frequency.WEEKLY, -2, 30, 26),
    ],
)
def test_newest_slot_after_an_outage_of_days(frequency, due, now, served):
    schedule = make_schedule(8, frequency=frequency)

    slot = slots.newest_slot(schedule, WEDNESDAY + now * DAY, WEDNESDAY + due * DAY, None, None)

    assert slot == WEDNESDAY + served * DAY


def test_after_an_outage_a_slot_too_soon_after_the_last_is_skipped():
    """If the reader chose a later hour, today's slot comes too soon after the last one."""
    schedule = make_schedule(8)
    last = WEDNESDAY + 2 * DAY - timedelta(hours=19)

    slot = slots.newest_slot(schedule, WEDNESDAY + 2 * DAY, WEDNESDAY, last, last.date())

    assert slot == WEDNESDAY


@installation
@given(schedules, days)
@example(  # 23:00 did not exist on Saturday, 30 March 2024: the slot was at 0:00 on Sunday
    Schedule(time(23), "America/Nuuk", Frequency.WEEKLY, Weekday.SATURDAY), date(2024, 1, 1)
)
def test_thirty_consecutive_slots_have_at_most_two_long_gaps(schedule, start):
    """Thirty slots in a row are thirty days of the calendar, except where the zone has a gap."""
    first = slots.first_slot(schedule, datetime.combine(start, time(), UTC))
    served = list(_in_a_row(schedule, first, 30))

    step = 7 if schedule.frequency is Frequency.WEEKLY else 1
    dates = [slots.local_date(slot, schedule) for slot in served]
    steps = [later - earlier for earlier, later in pairwise(dates)]
    longest = {Frequency.DAILY: 2, Frequency.WEEKDAYS: 4, Frequency.WEEKLY: 8}
    assert all(timedelta(max(1, step - 1)) <= gap for gap in steps)
    assert max(steps) <= timedelta(longest[schedule.frequency])
    late = [gap for gap in steps if gap > timedelta(longest[schedule.frequency] - 1)]
    assert len(late) <= 2


def _in_a_row(schedule: Schedule, slot: datetime, count: int) -> Iterator[datetime]:
    for _ in range(count):
        yield slot
        slot = slots.next_slot(schedule, slot, slots.local_date(slot, schedule))
