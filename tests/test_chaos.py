"""The delivery guarantee when real processes are killed or stopped: the short run."""

from __future__ import annotations

import itertools
import multiprocessing
import resource
import shutil
import subprocess
import time
from collections import Counter
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from pipeline import settings
from pipeline.bootstrap import Services
from pipeline.domain import DeliveryStatus
from pipeline.signup import unsubscribe
from pipeline.smtp import SMTPTransport
from pipeline.storage import deliveries, migrate
from pipeline.storage.database import open_engine
from tests.chaos.compiling import compile_in_chaos
from tests.chaos.judging import judge
from tests.chaos.killing import kill
from tests.chaos.sleeping import wait_until_asleep, wake
from tests.chaos.stage import CONNECTIONS, Stage
from tests.chaos.stage import open_sink as open_sink_process
from tests.chaos.victims import OUTSIDE, run_send
from tests.chaos.visiting import visit
from tests.support import outbox, servers
from tests.support.dispatching import compose, make_dispatcher
from tests.support.factories import NOW
from tests.support.outbox import add_confirmation, add_delivery, add_subscriber, row
from tests.support.running import SECONDS, Command, read_until, wait_until
from tests.support.sinks import HANG_UP, open_sink

pytestmark = pytest.mark.full

Status = DeliveryStatus
PAST_THE_MARK = {"between mark and dot", "between 250 and settling"}
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


@pytest.fixture
def sink():
    with open_sink() as sink:
        yield sink


@pytest.mark.timeout(300)
@on_sqlite
def test_killed_senders_lose_and_repeat_no_mail(backend):
    """Six senders die at named steps and at random; `make chaos` kills hundreds, and servers."""
    kills, _, found = kill(backend, kills=6, seed=int(time.time()), workers=False)

    assert kills.total() >= 6
    assert found.holds(CONNECTIONS), found


@pytest.mark.timeout(300)
@on_sqlite
def test_ingest_and_publish_survive_being_killed(database_url, engine, tmp_path):
    """Ingest and publish are killed at once: no paper is lost or repeated, no batch is half."""
    with open_sink_process(tmp_path / "ledger") as port:
        stage = Stage(tmp_path, database_url, port)

        story = compile_in_chaos(stage, kills=4, seed=int(time.time()))

        stage.engine.dispose()
    assert sum(story.kills.values()) >= 4
    assert story.holds, story
    assert story.picks > story.digests > 0


@pytest.mark.timeout(600)
@on_sqlite
def test_no_row_is_lost_if_other_processes_open_the_database(backend):
    """Sign-ups, senders, commands, plain clients, VACUUM, backups at once: no row is lost."""
    visited = visit(backend, signups=20, workers=False)

    assert visited.holds(CONNECTIONS), visited
    assert visited.acknowledged >= 20
    assert visited.copies > 0


@on_sqlite
def test_judge_finds_lost_and_repeated_deliveries(engine, tmp_path):
    """If the judge missed a fault, the chaos runs would prove nothing."""
    marked = {"marked_at": NOW, "lease": "dead"}
    rows = {
        "twice": {"status": Status.SENT, "reason": "accepted"},
        "never came": {"status": Status.SENT, "reason": "accepted"},
        "still owed": {"status": Status.QUEUED},
        "no mark": {"status": Status.UNCERTAIN, "lease": "dead"},
        "refused": {"status": Status.FAILED, "reason": "soft at dot"},
        "one": {"status": Status.UNCERTAIN, **marked},
        "two": {"status": Status.UNCERTAIN, **marked},
        "resent": {"status": Status.SENT, "reason": "accepted", "resent_at": NOW},
    }
    for key, values in rows.items():
        add_delivery(engine, f"{key[:3]}@example.org", dedupe_key=key, **values)
    ledger = tmp_path / "ledger"
    accepted = ["twice", "twice", "refused", "one", "resent", "resent"]
    ledger.write_text("".join(f"{key[:3]}@example.org <{key}>\n" for key in accepted))

    found = judge(engine, ledger, lambda key: f"<{key}>")

    assert found.twice == ("twice",)
    assert {wrong.partition(":")[0] for wrong in found.lost} == {
        "never came",
        "still owed",
        "no mark",
        "refused",
    }
    assert found.most_uncertain == 3
    assert not found.holds(CONNECTIONS)


# --- Unsubscribing during a delivery ------------------------------------------------------------


class Leaving:
    """A sender to one subscriber; the subscriber unsubscribes with one click at the given step."""

    def __init__(self, engine, sink, step):
        subscriber = add_subscriber(engine, "ada@example.org", secret="the secret")
        self.id = add_delivery(engine, subscriber_id=subscriber)
        add_delivery(engine, subscriber_id=subscriber)
        self._engine = engine
        self._step = step
        self._left = False
        sink.on_moment = self.at
        self._dispatcher = make_dispatcher(
            engine,
            sink,
            connections=1,
            compose=self._compose,
            load=self._load,
        )
        object.__setattr__(
            self._dispatcher, "transport", _Watched(self._dispatcher.transport, self)
        )

    def run(self):
        return self._dispatcher.drain(once=True)

    def at(self, step):
        if step == self._step and not self._left:
            self._left = True
            unsubscribe.leave(self._engine, "the secret", NOW)

    def _load(self, _conn, _deliveries):
        return {}

    def _compose(self, delivery, digest):
        self.at("claimed")
        body = compose(delivery, digest)
        self.at("composed")
        return body


class _Watched:
    """A transport that reports the moments offered, marked and answered of each message."""

    def __init__(self, transport: SMTPTransport, leaving: Leaving):
        self._transport = transport
        self._leaving = leaving

    def open(self, give_up):
        connection = self._transport.open(give_up)
        begin, finish = connection.begin, connection.finish

        def watched_begin(*args):
            outcome = begin(*args)
            self._leaving.at("offered")
            return outcome

        def watched_finish():
            self._leaving.at("marked")
            outcome = finish()
            self._leaving.at("answered")
            return outcome

        connection.begin, connection.finish = watched_begin, watched_finish
        return connection


@pytest.mark.parametrize(
    ("step", "messages"),
    [
        ("claimed", 0),
        ("composed", 0),
        ("CONNECT", 0),
        ("EHLO", 0),
        ("MAIL", 0),
        ("RCPT", 0),
        ("DATA", 0),
        ("offered", 0),
        ("marked", 1),
        ("DOT", 1),
        ("answered", 1),
    ],
)
def test_unsubscribe_cancels_every_delivery_not_yet_marked(engine, sink, step, messages):
    reader = Leaving(engine, sink, step)

    reader.run()

    assert len(sink.accepted) == messages
    ended = Counter(outbox.statuses(engine))
    assert ended == Counter({Status.SENT: messages, Status.CANCELLED: 2 - messages})


# --- A slow sender ------------------------------------------------------------------------------


def test_sender_with_an_expired_lease_sends_nothing(engine, sink):
    """Stopped before the mark; another sender has sent the message meanwhile, so its mark fails."""
    add_delivery(engine)
    others = make_dispatcher(engine, sink, now=NOW + timedelta(hours=1))
    composed = itertools.count()

    def compose_late(delivery, digest):
        if next(composed) == 0:
            others.drain(once=True)
        return compose(delivery, digest)

    late = make_dispatcher(engine, sink, compose=compose_late).drain(once=True)

    assert late.sent == 0
    assert len(sink.accepted) == 1
    assert outbox.statuses(engine) == [Status.SENT]


@pytest.fixture
def stage(engine, database_url, tmp_path):
    """Return a stage with twenty queued messages and a mail server that logs accepted ones."""
    with open_sink_process(tmp_path / "ledger") as port:
        stage = Stage(tmp_path, database_url, port)
        stage.paper()
        stage.owe(20)
        yield stage
        stage.engine.dispose()


@pytest.mark.parametrize("step", OUTSIDE)
def test_sender_stopped_past_its_lease_sends_nothing_twice(stage, tmp_path, step):
    """A real process is stopped by SIGSTOP; the next sender takes over its deliveries."""
    loaded = settings.load(None, database_url=stage.database_url, smtp_url=stage.smtp_url)
    others = Services(loaded, stage.engine)

    with asleep_at(stage, step, tmp_path / "alarm") as sleeper:
        others.dispatch(once=True, clock=datetime.now(UTC) + timedelta(hours=1))
        assert stage.count(Status.LEASED, Status.SENDING) == 0
        assert (step in PAST_THE_MARK) <= stage.count(Status.UNCERTAIN) <= 1
        wake(sleeper, tmp_path / "alarm")
    stage.make_due()
    others.dispatch(once=True)

    found = judge(stage.engine, stage.ledger, stage.message_id)
    assert sleeper.exitcode == 0
    assert found.holds(1), found
    assert found.copies == 0
    assert found.statuses[Status.SENT] == found.accepted == 18


@contextmanager
def asleep_at(stage, step, alarm):
    """Start a sender that stops with a digest in progress, its threads in no transaction."""
    passes = 1 if step == "after the claim" else 6
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tests.chaos.victims"])
    process = processes.Process(
        target=run_send,
        args=(
            {**stage.environment, "SMTP_CONNECTIONS": "1"},
            step,
            passes,
        ),
        kwargs={"alarm": alarm, "in_a_hurry": False},
        daemon=True,
    )
    process.start()
    try:
        wait_until_asleep(process.pid, stage.engine)
        yield process
    finally:
        process.kill()
        process.join()


def test_late_250_reply_settles_an_uncertain_delivery_as_sent(engine, sink):
    """The lease expires while the reply is pending; the reply counts, and nothing is resent."""
    id_ = add_delivery(engine)

    def take_over():
        with engine.begin() as conn:
            deliveries.recover_leases(conn, NOW + timedelta(hours=1))
        assert row(engine, id_).status == Status.UNCERTAIN

    sink.on_dot = take_over

    make_dispatcher(engine, sink).drain(once=True)

    assert row(engine, id_).status == Status.SENT
    assert make_dispatcher(engine, sink, now=NOW + timedelta(hours=2)).drain(once=True).sent == 0


@pytest.mark.parametrize("jump", [timedelta(days=-400), timedelta(hours=2)])
def test_clock_jump_neither_loses_nor_repeats_a_delivery(engine, sink, jump):
    """The clock jumps during a drain, and another sender starts with the new time."""
    ids = [add_delivery(engine, not_before=NOW - timedelta(days=500),
                        expires_at=NOW + timedelta(days=1)) for _ in range(30)]  # fmt: skip
    clock = [NOW]
    dots = itertools.count()

    def jump_once():
        if next(dots) == 10:
            clock[0] = NOW + jump
            make_dispatcher(engine, sink, now=clock[0]).drain(once=True)

    sink.on_dot = jump_once
    make_dispatcher(engine, sink, chunk=10, clock=lambda _conn: clock[0]).drain(once=True)
    make_dispatcher(engine, sink, now=clock[0] + timedelta(hours=1)).drain(once=True)

    assert {row(engine, id_).status for id_ in ids} == {Status.SENT}
    assert len(sink.recipients) == len(set(sink.recipients)) == 30


# --- A full disk --------------------------------------------------------------------------------


def owe_confirmations(engine, count):
    """Queue confirmations that are due by the real clock, for real processes; return their ids."""
    now = datetime.now(UTC)
    dates = {"not_before": now, "created_at": now, "expires_at": now + timedelta(hours=1)}
    return [add_confirmation(engine, request_id=1, **dates) for _ in range(count)]


@on_sqlite
def test_sender_logs_a_full_disk_and_resumes(database_url, engine, sink, tmp_path):
    """The kernel rejects every write of the process for a while; sending resumes afterwards."""
    owe_confirmations(engine, 40)
    sink.on_dot = lambda: time.sleep(0.02)
    settings = {"DATABASE_URL": database_url, "SMTP_URL": f"smtp://127.0.0.1:{sink.port}"}
    no_limit = resource.RLIM_INFINITY

    with Command(tmp_path, settings | {"SMTP_CONNECTIONS": "2"}).start("send", "--once") as sender:
        wait_until(lambda: len(sink.accepted) > 5)
        resource.prlimit(sender.pid, resource.RLIMIT_FSIZE, (0, no_limit))
        read_until(sender, "database.unreachable")
        resource.prlimit(sender.pid, resource.RLIMIT_FSIZE, (no_limit, no_limit))
        sender.communicate(timeout=SECONDS)

    assert sender.returncode == 0
    assert set(outbox.statuses(engine)) == {Status.SENT}
    assert len(sink.recipients) == len(set(sink.recipients)) == 40


@pytest.fixture
def small_postgresql():
    """Yield the folder and URL of a PostgreSQL server on its own 192 MB tmpfs disk."""
    folder = servers.open_run_folder()
    try:
        with small_disk(folder / "postgresql"):
            yield folder, servers.start_postgresql(folder).format(name="postgres")
            servers.stop_postgresql(folder)
    finally:
        servers.close_run_folder(folder)


@contextmanager
def small_disk(place):
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=192m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("nobody may mount a disk here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_sender_logs_a_full_disk_and_resumes_on_postgresql(small_postgresql, sink, tmp_path):
    """Neither tables nor WAL can grow; sending resumes when there is room again."""
    folder, url = small_postgresql
    engine = open_engine(url)
    migrate.upgrade(engine)
    owe_confirmations(engine, 100)
    settings = {"DATABASE_URL": url, "SMTP_URL": f"smtp://127.0.0.1:{sink.port}"}
    sink.on_dot = lambda: time.sleep(0.05)

    paperboy = Command(tmp_path, settings | {"SMTP_CONNECTIONS": "2"})

    with paperboy.start("send", "--once") as sender:
        wait_until(lambda: len(sink.accepted) > 5)
        filler = fill(folder / "postgresql")
        with pytest.raises(DBAPIError):
            exhaust_wal(engine)  # its last segment may have room for all that is sent
        read_until(sender, "database.unreachable")
        filler.unlink()
        restart_what_has_ended(folder)
        _, rest = sender.communicate(timeout=SECONDS)

    assert sender.returncode == 0
    assert "database.unreachable" not in rest
    assert "database.reachable" in rest
    assert "Traceback" not in rest
    assert paperboy.run("send", "--once")[0] == 0  # queued while the first ended
    statuses = outbox.statuses(engine)
    engine.dispose()
    assert set(statuses) == {Status.SENT}
    assert len(sink.recipients) == len(set(sink.recipients)) == len(statuses) >= 100


def exhaust_wal(engine):
    """Write to the WAL until it cannot grow; the server then fails."""
    message = text("SELECT pg_logical_emit_message(false, 'test', repeat('x', 1000000))")
    for _ in range(1_000):
        with engine.begin() as conn:
            conn.execute(message)


def fill(disk):
    """Write a file until the disk is full to the last page; return its path."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            with suppress(OSError):
                while True:
                    file.write(b"0" * size)
    return filler


def restart_what_has_ended(folder):
    """Start PostgreSQL again if it has panicked, as it does when the WAL cannot be written."""
    pidfile = folder / "postgresql" / "cluster" / "postmaster.pid"
    with suppress(FileNotFoundError):
        if Path(f"/proc/{pidfile.read_text().split()[0]}").exists():
            return
        pidfile.unlink()
    servers.start_postgresql(folder)


# --- Decisions of the operator ------------------------------------------------------------------


@on_sqlite
def test_resolve_drops_or_resends_an_uncertain_delivery(database_url, engine, sink, tmp_path):
    """`deliveries resolve`: --drop treats a message as accepted, --resend sends it again."""
    to_drop, to_resend = owe_confirmations(engine, 2)
    paperboy = Command(tmp_path, {"DATABASE_URL": database_url})
    sink.answers = {"DOT": HANG_UP}
    for _ in range(2):  # the second drain is the automatic resend
        make_dispatcher(engine, sink, now=datetime.now(UTC)).drain(once=True)
    sink.answers = {}

    dropped = paperboy.run("deliveries", "resolve", str(to_drop), "--drop")
    resent = paperboy.run("deliveries", "resolve", str(to_resend), "--resend")
    make_dispatcher(engine, sink, now=datetime.now(UTC)).drain(once=True)

    assert (dropped[0], resent[0]) == (0, 0)
    assert row(engine, to_drop).reason == "taken as accepted by the operator"
    assert row(engine, to_resend).reason == "accepted"
    assert len(sink.accepted) == 1
