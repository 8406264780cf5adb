"""Quotas of a provider per minute, hour or day: for all senders together, in any such period."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from pipeline.storage import rate_limits
from tests.support.factories import NOW

HOUR = timedelta(hours=1)


def take(engine, wanted, now=NOW, most=10):
    with engine.begin() as conn:
        count = min(wanted, rate_limits.remaining_quota(conn, "smtp:hour", most, HOUR, now))
        if count:
            rate_limits.take_quota(conn, "smtp:hour", count, HOUR, now)
    return count


def test_take_never_exceeds_the_limit(engine):
    assert [take(engine, 4), take(engine, 4), take(engine, 4), take(engine, 4)] == [4, 4, 2, 0]


def test_no_sliding_hour_exceeds_the_limit(engine):
    minutes = [minute for minute in range(0, 180, 4) for _ in range(take(
        engine, 3, NOW + timedelta(minutes=minute)))]  # fmt: skip

    most = max(sum(start <= minute < start + 60 for minute in minutes) for start in minutes)
    assert most == 10
    assert len(minutes) >= 28, "and nearly all of it is used"


def test_concurrent_senders_do_not_exceed_the_limit(engine):
    together = threading.Barrier(4)

    def take_some(_number):
        together.wait()
        return sum(take(engine, 2) for _ in range(3))

    with ThreadPoolExecutor(4) as senders:
        assert sum(senders.map(take_some, range(4))) == 10


def test_rolled_back_take_consumes_nothing(engine):
    with engine.connect() as conn:
        rate_limits.remaining_quota(conn, "smtp:hour", 10, HOUR, NOW)
        rate_limits.take_quota(conn, "smtp:hour", 10, HOUR, NOW)
        conn.rollback()

    assert take(engine, 10) == 10


def test_free_at_returns_the_time_of_the_next_free_slot(engine):
    take(engine, 10)

    with engine.begin() as conn:
        free_at = rate_limits.quota_free_at(conn, "smtp:hour", HOUR, NOW)

    assert take(engine, 1, free_at - timedelta(seconds=1)) == 0
    assert take(engine, 1, free_at) == 1


def test_entries_from_a_wrong_clock_are_ignored(engine):
    take(engine, 10, NOW + timedelta(days=400))

    assert take(engine, 10) == 10
