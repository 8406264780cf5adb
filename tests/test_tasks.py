"""Celery: a real worker on a real Valkey; the worker is killed, and the broker loses its data."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
import redis
from sqlalchemy import Engine, update

from pipeline import editions, ingest, settings, signup
from pipeline.bootstrap import Services
from pipeline.doctor import services as doctor_services
from pipeline.doctor import site as doctor_site
from pipeline.doctor.finding import Check, Finding, Installation
from pipeline.domain import UNSENT, DeliveryKind, DeliveryStatus
from pipeline.local import processes
from pipeline.signup import Choices, parse_queries
from pipeline.sources import FetchResult
from pipeline.storage import delivery_queries
from pipeline.storage.database import read_only
from pipeline.storage.schema import DeliveryRow
from pipeline.tasks import client, wake_editions, workers
from tests.support.factories import make_sighting
from tests.support.sinks import Sink, open_sink
from tests.support.site import open_site

READERS = 120
PATIENCE = 60.0  # seconds

pytestmark = [pytest.mark.full, pytest.mark.timeout(180)]

# A worker takes seconds to start, so tests that do not depend on the database run on one.
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)


@pytest.fixture
def broker(valkey: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey) as client:
        client.flushall()
        yield client


@pytest.fixture
def environment(database_url: str, valkey: str, sink: Sink) -> Mapping[str, str]:
    return settings.child_environment(
        DATABASE_URL=database_url,
        REDIS_URL=valkey,
        SMTP_URL=f"smtp://127.0.0.1:{sink.port}",
        SMTP_CONNECTIONS="2",
        LOG_LEVEL="WARNING",
    )


@pytest.fixture
def sink() -> Iterator[Sink]:
    with open_sink() as sink:
        yield sink


@pytest.fixture
def owed(engine: Engine) -> list[str]:
    """Queue a digest for each of many subscribers; return their addresses."""
    now = datetime.now(UTC)
    key = Services(settings.load(None), engine).suppression_key
    readers = [f"reader{number}@example.org" for number in range(READERS)]
    for reader in readers:
        signup.add(
            engine, reader, Choices(parse_queries(("tea",))), confirmed=True,
            suppression_key=key, now=now,
        )  # fmt: skip
    found = FetchResult((make_sighting(title="Tea leaves"),))
    ingest.ingest_recorded(engine, [("arxiv", found)], now=now)
    list(editions.publish(engine, now=now, expiry=timedelta(hours=18), template="t", everyone=True))
    return readers


@pytest.fixture
def wake(environment: Mapping[str, str]) -> Iterator[Callable[[str], None]]:
    """Return a function that sends a wake-up by name, as beat does."""
    with client(settings.load(None, redis_url=environment["REDIS_URL"])) as sender:
        yield lambda name: sender.send_task(f"paperboy.{name}")


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def statuses(engine: Engine) -> Counter[DeliveryStatus]:
    with read_only(engine) as conn:
        return Counter(delivery_queries.counts(conn))


def under_way(engine: Engine) -> int:
    """Return the number of unfinished deliveries.

    All statuses are read at once: between two queries a delivery may change its status.
    """
    told = statuses(engine)
    return sum(told[s] for s in (*UNSENT, DeliveryStatus.SENDING))


def sent(engine: Engine) -> int:
    return statuses(engine)[DeliveryStatus.SENT]


def let_leases_end(engine: Engine) -> None:
    """Expire the lease of each dead sender."""
    with engine.begin() as conn:
        past = datetime.now(UTC) - timedelta(hours=1)
        conn.execute(
            update(DeliveryRow).where(DeliveryRow.lease.is_not(None)).values(lease_until=past)
        )


@on_postgresql
def test_wake_up_sends_queued_deliveries(engine, broker, environment, sink, owed, wake):
    """The worker sends each subscriber one mail."""
    with processes.worker(environment, concurrency=1):
        wake("dispatch")
        until(lambda: sent(engine) == READERS)

    assert sorted(sink.recipients) == sorted(owed)


@on_sqlite
def test_sending_survives_redis_flushall_without_loss_or_duplicates(
    engine, broker, environment, sink, owed, wake
):
    """Redis is no source of truth: if it is emptied during a run, at most a wake-up is lost."""
    sink.on_dot = lambda: time.sleep(0.01)

    with processes.worker(environment, concurrency=2):
        wake("dispatch")
        until(lambda: len(sink.accepted) > READERS // 4)
        broker.flushall()
        wake("dispatch")
        until(lambda: sent(engine) == READERS)

    assert Counter(sink.recipients) == Counter(owed)


@on_postgresql
def test_killed_worker_leaves_at_most_one_uncertain_mail_per_connection(
    engine, broker, environment, sink, owed, wake
):
    """SIGKILL during a run: another worker finishes it, and uncertain deliveries are listed."""
    sink.on_dot = lambda: time.sleep(0.02)
    with processes.worker(environment, concurrency=1) as worker:
        wake("dispatch")
        until(lambda: len(sink.accepted) > READERS // 4)
        worker.kill()
    sink.on_dot = None
    let_leases_end(engine)

    with processes.worker(environment, concurrency=1):
        wake("dispatch")
        until(lambda: not under_way(engine))

    told = statuses(engine)
    uncertain = told[DeliveryStatus.UNCERTAIN]
    assert uncertain <= 2, "one per connection"
    assert told[DeliveryStatus.SENT] + uncertain == READERS
    taken = Counter(sink.recipients)
    assert max(taken.values()) == 1, "nobody gets it twice"
    assert READERS - uncertain <= len(taken) <= READERS


@on_sqlite
def test_stopped_worker_returns_unsent_deliveries(engine, broker, environment, sink, owed, wake):
    """SIGTERM: the current message is finished, all leases are returned, nothing is uncertain."""
    sink.on_dot = lambda: time.sleep(0.03)
    with processes.worker(environment, concurrency=1) as worker:
        wake("dispatch")
        until(lambda: len(sink.accepted) > 10)
        worker.stop()

    told = statuses(engine)
    assert told[DeliveryStatus.LEASED] == told[DeliveryStatus.SENDING] == 0
    assert told[DeliveryStatus.UNCERTAIN] == 0
    assert told[DeliveryStatus.SENT] == len(sink.accepted) < READERS
    assert told[DeliveryStatus.QUEUED] == READERS - len(sink.accepted)


@on_sqlite
def test_confirming_triggers_the_welcome_without_beat(engine, broker, environment):
    """The site wakes a worker, which matches the new topic and compiles the first digest."""
    site = open_site(
        engine,
        wake_editions=partial(
            wake_editions, settings.load(None, redis_url=environment["REDIS_URL"])
        ),
    )
    site.announce()

    with processes.worker(environment, queues=("edition",), concurrency=1):
        site.post(site.ask())
        until(lambda: statuses(engine)[DeliveryStatus.QUEUED] == 1)

    assert site.deliveries()[-1].kind == DeliveryKind.WELCOME


def test_wake_editions_does_not_raise_if_the_broker_is_down():
    """If the broker is down, a line is logged and nothing is raised: beat tries within a minute."""
    wake_editions(settings.load(None, redis_url="redis://127.0.0.1:1/0"))


@on_sqlite
def test_beat_wakes_the_workers(engine, broker, environment, sink, owed):
    """Queued deliveries are sent when only beat sends wake-ups."""
    with processes.worker(environment, concurrency=1), processes.beat(environment):
        until(lambda: sent(engine) == READERS)

    assert Counter(sink.recipients) == Counter(owed)


@on_sqlite
def test_doctor_names_queues_that_no_worker_reads_and_compares_clocks(engine, broker, environment):
    loaded = settings.load(None, redis_url=environment["REDIS_URL"], site_url="http://127.0.0.1:1")

    def findings(*checks: Check) -> dict[str, Finding]:
        installation = Installation(loaded, datetime.now(UTC), workers)
        try:
            return {one.check: one for check in checks for one in check(installation)}
        finally:
            installation.services.engine.dispose()

    assert findings(doctor_services.running)["workers"].ok is None, "a trial without workers"
    with processes.worker(environment, queues=("edition", "dispatch"), concurrency=1):
        until(lambda: findings(doctor_services.running)["workers"].ok is False)
        found = findings(doctor_services.running, doctor_site.clock)
        assert found["workers"].detail == "no worker that answers reads: ingest"
        assert found["beat"].ok is False
        assert found["clock"].detail.startswith("agrees with the worker paperboy-")
        with (
            processes.worker(environment, queues=("ingest",), concurrency=1),
            processes.beat(environment),
        ):
            until(lambda: findings(doctor_services.running)["beat"].ok is True)
            until(lambda: findings(doctor_services.running)["workers"].ok is True)


def envelope(**changes: object) -> bytes:
    """Return a message as Celery puts it into a list of Redis, with `changes` to its members."""
    message = {
        "body": base64.b64encode(b"[[], {}, {}]").decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": "paperboy.publish", "id": "1", "root_id": "1"},
        "properties": {
            "correlation_id": "1",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "dispatch"},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": "1",
        },
        **changes,
    }
    return json.dumps(message).encode()


UNREADABLE = {
    "no JSON": b"garbage",
    "no text": b"\xff\xfe\x00",
    "empty": b"",
    "a list": b"[1, 2]",
    "a number": b"17",
    "null": b"null",
    "nested deeply": b"[" * 200_000,
    "no members": b"{}",
    "no delivery tag": envelope(properties={}),
    "a tag that is a list": envelope(
        properties={
            "delivery_tag": [1],
            "delivery_info": {"exchange": "", "routing_key": "dispatch"},
        }
    ),
    "a tag that is null": envelope(
        properties={
            "delivery_tag": None,
            "delivery_info": {"exchange": "", "routing_key": "dispatch"},
        }
    ),
    "no base64": envelope(body="*"),
    "a body that is a number": envelope(body=17),
    "a body that is no JSON": envelope(body=base64.b64encode(b"{").decode()),
    "pickle": envelope(**{"content-type": "application/x-python-serialize"}),
    "an unknown encoding": envelope(**{"content-encoding": "utf8mb4"}),
    "an unknown compression": envelope(headers={"compression": "x", "task": "paperboy.publish"}),
    "headers that are a list": envelope(headers=[1]),
    "headers that are null": envelope(headers=None),
    "an unknown task": envelope(headers={"lang": "py", "task": "rm", "id": "1"}),
    "arguments that no task takes": envelope(body=base64.b64encode(b"[[1], {}, {}]").decode()),
    "a body that is a list of nothing": envelope(body=base64.b64encode(b"[]").decode()),
    "a date that is none": envelope(
        headers={"lang": "py", "task": "paperboy.publish", "id": "1", "expires": "soon"}
    ),
    "an eta that is none": envelope(
        headers={"lang": "py", "task": "paperboy.publish", "id": "1", "eta": [1]}
    ),
    "a task that is a number": envelope(headers={"lang": "py", "task": 17, "id": 17}),
}


@on_sqlite
def test_worker_survives_unreadable_broker_messages(engine, broker, environment, sink, owed, wake):
    """Messages that another program or version left in the queue are dropped and logged."""
    for message in UNREADABLE.values():
        broker.lpush("dispatch", message)
    broker.hset("unacked", "junk", b"garbage")
    broker.hset("unacked", "list", b"[1]")
    broker.zadd("unacked_index", {"junk": 1, "list": 2, "gone": 3})

    with processes.worker(environment, concurrency=1) as worker:
        wake("dispatch")
        until(lambda: sent(engine) == READERS or not worker.is_running)

        assert worker.is_running
    assert sorted(sink.recipients) == sorted(owed)
    assert broker.zcard("unacked_index") == 0


TASKS = """
import sys
from datetime import UTC, datetime
from pipeline import bootstrap, settings, tasks
tasks._import_parts()
known = set(sys.modules)
now, services = datetime.now(UTC), bootstrap.build(settings.load())
list(services.publish(now))
sent = services.dispatch(once=True).sent
services.sources(), services.purge(now), services.read_own_mailbox(now), services.feedback
later = [name for name in sys.modules if name not in known and name.startswith("pipeline.")]
print(sent, later)
"""


@on_sqlite
def test_pool_children_import_nothing_of_ours_after_the_fork(owed, environment):
    done = subprocess.run(
        [sys.executable, "-c", TASKS],
        env=environment, capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip

    assert done.stdout.splitlines()[-1] == f"{READERS} []"
