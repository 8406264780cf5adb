"""Celery beat's scheduler on a real Valkey: a clock that is set, absent workers, restarts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import pytest
import redis
import time_machine
from celery import Celery, beat
from kombu.exceptions import OperationalError

from pipeline import settings
from pipeline.broker import QUEUES
from pipeline.scheduler import Scheduler, wake_up
from pipeline.tasks import client

START = datetime(2030, 1, 2, 10, 0, tzinfo=UTC)


@pytest.fixture
def broker(valkey: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey) as opened:
        opened.flushall()
        yield opened


@pytest.fixture
def app(valkey: str, broker: redis.Redis) -> Iterator[Celery]:
    with client(settings.load(None, redis_url=valkey)) as app:
        yield app


@pytest.fixture
def start(app: Celery) -> Iterator[Callable[[], beat.Scheduler]]:
    """Return a function that starts a scheduler, which is closed at the end."""
    with ExitStack() as stack:

        def start(kind: type[beat.Scheduler] = Scheduler) -> beat.Scheduler:
            scheduler = kind(app=app)
            stack.callback(scheduler.close)
            return scheduler

        yield start


def take_all(broker: redis.Redis) -> Counter[str]:
    """Empty the queues, as workers do; return the number of messages of each task."""
    taken: Counter[str] = Counter()
    for queue in QUEUES:
        for message in broker.lrange(queue, 0, -1):
            taken[json.loads(message)["headers"]["task"].removeprefix("paperboy.")] += 1
        broker.delete(queue)
    return taken


def run(scheduler: beat.Scheduler) -> float:
    """Tick until nothing is due; return the seconds until the next tick."""
    for _ in range(50):
        if (sleep := scheduler.tick()) > 0:
            return sleep
    raise AssertionError("always something is due")


def test_wake_ups_do_not_pile_up_while_no_worker_takes_them(start, broker):
    with time_machine.travel(START, tick=False) as clock:
        scheduler = start()
        for _ in range(200):
            run(scheduler)
            clock.shift(30)

    assert set(take_all(broker).values()) == {1}


def test_a_taken_wake_up_is_followed_by_the_next(start, broker):
    with time_machine.travel(START, tick=False) as clock:
        scheduler = start()
        taken: Counter[str] = Counter()
        for _ in range(720):
            run(scheduler)
            taken += take_all(broker)
            clock.shift(5)

    assert taken["dispatch"] == pytest.approx(720, abs=2)
    assert taken["publish"] == pytest.approx(60, abs=1)
    assert taken["bounces"] == pytest.approx(6, abs=1)
    assert taken["ingest"] == 1, "at minute 7"


def test_the_wake_up_of_a_night_is_sent_at_each_start_that_of_an_hour_is_not(start, broker):
    with time_machine.travel(START, tick=False):
        run(start())

    assert take_all(broker) == {"purge": 1}


@pytest.mark.parametrize("error", [timedelta(seconds=65), timedelta(hours=7), timedelta(days=400)])
def test_a_clock_that_is_corrected_backwards_stops_nothing(start, broker, error):
    with time_machine.travel(START + error, tick=False) as clock:
        scheduler = start()
        clock.shift(3_600)
        run(scheduler)
        take_all(broker)

        clock.move_to(START + timedelta(hours=1))
        assert run(scheduler) <= 5
        for _ in range(3):
            clock.shift(30)
            run(scheduler)
            assert take_all(broker)["dispatch"] == 1
        clock.move_to(START + timedelta(hours=2, minutes=8))
        run(scheduler)
        assert take_all(broker)["ingest"] == 1


def test_celerys_own_scheduler_stops_after_such_a_correction(start, broker):
    """When this fails, `Scheduler.tick` is no longer needed."""
    with time_machine.travel(START, tick=False) as clock:
        scheduler = start(beat.Scheduler)
        clock.shift(3_600)
        run(scheduler)
        take_all(broker)
        clock.shift(-1_800)
        for _ in range(10):
            run(scheduler)
            clock.shift(30)

    assert not take_all(broker)


def test_wake_ups_carry_no_time_that_another_clock_could_judge(start, broker):
    with time_machine.travel(START):
        run(start())

    [message] = broker.lrange("ingest", 0, -1)
    assert json.loads(message)["headers"]["expires"] is None
    assert json.loads(message)["headers"]["eta"] is None


def test_many_confirmations_queue_one_wake_up(app, broker):
    for _ in range(20):
        wake_up(app, "paperboy.publish")

    assert take_all(broker) == {"publish": 1}


def test_messages_of_others_in_a_queue_hide_no_wake_up(app, broker):
    for junk in (b"garbage", b"\xff", b"[1]", b"{}", b'{"headers": 7}'):
        broker.lpush("edition", junk)

    wake_up(app, "paperboy.publish")

    assert b"paperboy.publish" in broker.lrange("edition", 0, 0)[0]


def test_wake_up_names_a_broker_that_does_not_answer():
    with (
        client(settings.load(None, redis_url="redis://127.0.0.1:1/0")) as app,
        pytest.raises(OperationalError),
    ):
        wake_up(app, "paperboy.publish")
