"""Dispatching: messages sent, statuses written, and the rows that a crash leaves behind."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
import time_machine
from sqlalchemy import event, update
from sqlalchemy.exc import OperationalError

from pipeline.dispatch import DispatchStoppedError, Tally, controls, senders
from pipeline.dispatch.group_commit import GroupCommit, Lease
from pipeline.dispatch.retry_policy import GAPS
from pipeline.domain import (
    DeliveryStatus,
    SubscriberStatus,
)
from pipeline.errors import RenderError
from pipeline.smtp.session import SessionLimits
from pipeline.storage import database, deliveries, send_controls
from pipeline.storage.database import open_engine
from pipeline.storage.deliveries import CancelReason, Resolution, Settlement
from pipeline.storage.schema import DeliveryRow
from tests.support import outbox
from tests.support.dispatching import compose, make_dispatcher, send
from tests.support.factories import NOW, TODAY
from tests.support.outbox import add_confirmation, add_delivery, add_subscriber, row
from tests.support.sinks import HANG_UP, STAY_SILENT, open_sink

Status = DeliveryStatus


@pytest.fixture
def sink():
    with open_sink() as sink:
        yield sink


# --- Successful delivery ------------------------------------------------------------------------


def test_due_deliveries_are_sent_once(engine, sink):
    ids = [add_delivery(engine, f"reader{number}@example.net") for number in range(12)]

    first, second = send(engine, sink), send(engine, sink)

    assert first == Tally(sent=12)
    assert second == Tally()
    assert sorted(sink.recipients) == sorted(f"reader{n}@example.net" for n in range(12))
    assert set(outbox.statuses(engine)) == {Status.SENT}
    assert {row(engine, id_).reason for id_ in ids} == {"accepted"}
    assert row(engine, ids[0]).queue_id.startswith("Q")


def test_each_reader_gets_their_own_message(engine, sink):
    add_delivery(engine, "ada@example.org", dedupe_key="for ada")
    add_delivery(engine, "bob@example.org", dedupe_key="for bob")

    send(engine, sink)

    bodies = {message.recipient: message.body for message in sink.accepted}
    assert b"for ada" in bodies["ada@example.org"]
    assert b"for bob" in bodies["bob@example.org"]


def test_empty_outbox_opens_no_connection(engine, sink):
    assert send(engine, sink) == Tally()
    assert sink.connections == 0


@pytest.mark.full
def test_concurrent_dispatchers_send_each_delivery_once(engine, sink):
    for number in range(60):
        add_delivery(engine, f"reader{number}@example.net")
    dispatchers = [make_dispatcher(engine, sink, chunk=7) for _ in range(2)]

    with ThreadPoolExecutor(2) as processes:
        tallies = [
            run.result()
            for run in [processes.submit(dispatcher.drain, once=True) for dispatcher in dispatchers]
        ]

    assert sum(tally.sent for tally in tallies) == 60
    assert len(sink.recipients) == len(set(sink.recipients)) == 60


def test_connection_is_replaced_after_its_maximum_of_messages(engine, sink):
    for _ in range(5):
        add_delivery(engine)

    tally = send(engine, sink, connections=1, bounds=SessionLimits(messages=2))

    assert tally.sent == 5
    assert sink.connections == 3


def test_drain_waits_for_new_deliveries_until_stopped(engine, sink):
    stopped = threading.Event()
    dispatcher = make_dispatcher(engine, sink)

    with ThreadPoolExecutor(1) as process:
        run = process.submit(dispatcher.drain, stop=stopped.is_set)
        add_delivery(engine)
        _wait_for(lambda: sink.accepted)
        stopped.set()

        assert run.result(timeout=10) == Tally(sent=1)


@pytest.mark.parametrize("skew", [timedelta(), timedelta(days=-2), timedelta(days=2)])
def test_drain_with_a_limit_ends_when_nothing_is_due(engine, sink, skew):
    """It must not hold the worker, whose other tasks wait; nor compare its clock with another."""
    add_delivery(engine)
    add_delivery(engine, "later@example.org", not_before=NOW + timedelta(minutes=1))
    began = time.monotonic()

    with time_machine.travel(NOW + skew):
        tally = make_dispatcher(engine, sink).drain(limit=timedelta(minutes=10))

    assert tally == Tally(sent=1)
    assert time.monotonic() - began < 60


def test_drain_ends_at_its_limit(engine, sink):
    for number in range(3):
        add_delivery(engine, f"reader{number}@example.org")

    assert make_dispatcher(engine, sink).drain(limit=timedelta()) == Tally()
    assert outbox.statuses(engine) == [Status.QUEUED] * 3


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_drain_with_a_limit_ends_while_the_breaker_is_open(engine, sink):
    """A task that fails each few seconds would fill the log; the opened breaker is logged once."""
    add_delivery(engine)
    with engine.begin() as conn:
        send_controls.open_breaker(conn, "no", NOW, timedelta(minutes=1))

    assert make_dispatcher(engine, sink).drain(limit=timedelta(minutes=1)) == Tally()


# --- Refusals -----------------------------------------------------------------------------------


def test_an_unknown_address_is_suppressed(engine, sink):
    add_delivery(engine, "gone@example.org")
    add_delivery(engine, "ada@example.org")
    sink.answers = {"RCPT gone@example.org": "550 5.1.1 No such user"}

    tally = send(engine, sink)

    assert tally == Tally(sent=1, failed=1)
    assert outbox.suppressions(engine) == {"hash of gone@example.org": "hard"}
    assert outbox.statuses(engine) == [Status.SUPPRESSED, Status.SENT]


@pytest.mark.parametrize("moment", ["RCPT", "DATA", "DOT"])
def test_temporary_refusal_defers_the_delivery(engine, sink, moment):
    id_ = add_delivery(engine)
    sink.answers = {moment: ["451 4.3.0 Try later"]}

    assert send(engine, sink) == Tally(deferred=1)

    waiting = row(engine, id_)
    assert (waiting.status, waiting.attempts) == (Status.QUEUED, 1)
    assert NOW + GAPS[0] <= waiting.not_before < NOW + GAPS[0] * 1.25
    assert waiting.reply == "451 4.3.0 Try later"
    assert send(engine, sink, now=NOW + GAPS[0] * 1.25) == Tally(sent=1)


def test_refused_sender_stops_the_drain_without_charging_attempts(engine, sink):
    for _ in range(20):
        add_delivery(engine)
    sink.answers = {"MAIL": "550 5.7.1 Sender not allowed"}

    with pytest.raises(DispatchStoppedError, match="Sender not allowed") as stopped:
        send(engine, sink)

    assert set(outbox.statuses(engine)) == {Status.QUEUED}
    assert {row(engine, id_).attempts for id_ in range(1, 21)} == {0}
    assert len(sink.commands) < 30, "the others did not try in vain"
    assert stopped.value.tally.sent == 0
    assert stopped.value.refused
    sink.answers = {}
    assert send(engine, sink, now=NOW + timedelta(minutes=1)) == Tally(sent=20)


def test_unreachable_server_gives_every_lease_back(engine):
    for _ in range(3):
        add_delivery(engine)
    with open_sink() as gone:
        pass

    with pytest.raises(DispatchStoppedError, match=r"127\.0\.0\.1"):
        send(engine, gone)

    assert outbox.statuses(engine) == [Status.QUEUED] * 3


def test_drain_sends_all_mail_if_some_connections_are_refused(engine, sink):
    for _ in range(30):
        add_delivery(engine)
    sink.answers = {"CONNECT": ["220 Welcome", *["421 4.7.0 Too many connections"] * 2]}

    assert send(engine, sink).sent == 30


def test_too_large_message_fails_and_rewinds_the_cursor(engine, sink):
    id_ = add_delivery(engine)
    sink.answers = {"DOT": "552 5.3.4 Message too big"}

    assert send(engine, sink) == Tally(failed=1)
    assert row(engine, id_).reason == "too large at dot"
    assert outbox.cursor(engine, id_) == 2, "its papers are owed anew"
    assert outbox.suppressions(engine) == {}


def test_compose_error_of_one_digest_does_not_stop_the_others(engine, sink):
    bad, buggy, good = (add_delivery(engine) for _ in range(3))

    def compose_some(delivery, digest):
        if delivery.id == bad:
            raise RenderError("the template is broken")
        if delivery.id == buggy:
            raise KeyError("a mistake")
        return compose(delivery, digest)

    tally = send(engine, sink, compose=compose_some)

    assert tally == Tally(sent=1, failed=1, deferred=1)
    assert row(engine, bad).status == Status.FAILED
    assert row(engine, bad).reason == "not composed: the template is broken"
    assert outbox.cursor(engine, bad) == 2
    assert (row(engine, buggy).status, row(engine, buggy).attempts) == (Status.QUEUED, 1)
    assert row(engine, good).status == Status.SENT


# --- Lost connections ---------------------------------------------------------------------------


@pytest.mark.parametrize("reply", ["421 4.3.2 Shutting down", HANG_UP])
@pytest.mark.parametrize("moment", ["MAIL", "RCPT", "DATA"])
def test_connection_lost_before_the_dot_is_reopened(engine, sink, moment, reply):
    id_ = add_delivery(engine)
    sink.answers = {moment: [reply]}

    assert send(engine, sink) == Tally(sent=1)
    assert row(engine, id_).attempts == 1, "the lost connection is charged to nobody"
    assert len(sink.accepted) == 1


def test_reply_421_between_messages_reconnects_and_sends_every_message(engine, sink):
    for _ in range(6):
        add_delivery(engine)
    sink.answers = {"MAIL": ["250 Ok", "250 Ok", "421 Enough", "250 Ok", "421 Enough"]}

    assert send(engine, sink, connections=1) == Tally(sent=6)
    assert sink.connections == 3


def test_reply_lost_after_the_dot_is_uncertain_and_not_retried(engine, sink):
    id_ = add_delivery(engine)
    sink.answers = {"DOT": HANG_UP}

    assert send(engine, sink) == Tally(uncertain=1)

    assert row(engine, id_).status == Status.UNCERTAIN
    assert row(engine, id_).reason == "unknown at dot"
    sink.answers = {}
    assert send(engine, sink, now=NOW + timedelta(hours=1)) == Tally()


def test_uncertain_confirmation_is_retried_once(engine, sink):
    id_ = add_confirmation(engine)
    sink.answers = {"DOT": HANG_UP}

    tallies = [send(engine, sink) for _ in range(3)]

    assert tallies == [Tally(uncertain=1), Tally(uncertain=1), Tally()]
    assert row(engine, id_).status == Status.UNCERTAIN


def test_resolve_resend_sends_an_uncertain_delivery_again(engine, sink):
    id_ = add_delivery(engine)
    sink.answers = {"DOT": [HANG_UP]}
    send(engine, sink)

    with engine.begin() as conn:
        deliveries.resolve(conn, id_, Resolution.RESEND, NOW)

    assert send(engine, sink) == Tally(sent=1)


def test_timeout_after_the_dot_is_uncertain(engine, sink):
    add_delivery(engine)
    sink.answers = {"DOT": STAY_SILENT}

    assert send(engine, sink, bounds=SessionLimits(patience=0.2)) == Tally(uncertain=1)


# --- Unsubscribing in time ----------------------------------------------------------------------


def leave(engine, subscriber_id):
    with engine.begin() as conn:
        deliveries.cancel_unsent(conn, [subscriber_id], CancelReason.LEFT)


def test_unsubscribe_between_claim_and_dot_cancels_the_delivery(engine, sink):
    """The body is on the wire already; without the final dot the server discards it."""
    subscriber_id = add_subscriber(engine, "ada@example.org")
    add_delivery(engine, subscriber_id=subscriber_id)
    add_delivery(engine, "bob@example.org")

    def compose_while_ada_leaves(delivery, digest):
        if delivery.email == "ada@example.org":
            leave(engine, subscriber_id)
        return compose(delivery, digest)

    tally = send(engine, sink, compose=compose_while_ada_leaves)

    assert tally.sent == 1
    assert sink.recipients == ["bob@example.org"]
    assert outbox.statuses(engine) == [Status.CANCELLED, Status.SENT]


def test_delivery_to_an_unsubscribed_reader_is_cancelled_at_the_mark(engine, sink):
    """The mark checks the subscriber's status, even if the queued delivery was not cancelled."""
    subscriber_id = add_subscriber(engine)
    id_ = add_delivery(engine, subscriber_id=subscriber_id)

    def compose_while_leaving(delivery, digest):
        outbox.set_status(engine, subscriber_id, SubscriberStatus.UNSUBSCRIBED)
        return compose(delivery, digest)

    assert send(engine, sink, compose=compose_while_leaving) == Tally(cancelled=1)
    assert sink.accepted == []
    assert (row(engine, id_).status, row(engine, id_).reason) == (Status.CANCELLED, "left")


# --- Shutdown and crashes -----------------------------------------------------------------------


def test_stop_finishes_the_current_message_and_requeues_the_rest(engine, sink):
    for _ in range(50):
        add_delivery(engine)
    stopped = threading.Event()
    sink.on_dot = stopped.set

    tally = make_dispatcher(engine, sink).drain(stop=stopped.is_set)

    after = outbox.statuses(engine)
    assert tally.sent == after.count(Status.SENT) == len(sink.accepted)
    assert 1 <= tally.sent < 50
    assert after.count(Status.QUEUED) == 50 - tally.sent


@pytest.mark.parametrize(
    ("answers", "left"),
    [
        ({"DOT": STAY_SILENT}, Status.UNCERTAIN),
        ({"RCPT": STAY_SILENT}, Status.QUEUED),
        ({"CONNECT": STAY_SILENT}, Status.QUEUED),
    ],
)
def test_stop_does_not_wait_for_a_silent_server(engine, sink, monkeypatch, answers, left):
    """If the dot was sent, the message is settled as uncertain; no lease is left behind."""
    monkeypatch.setattr(senders, "GRACE", 0.1)
    id_ = add_delivery(engine)
    sink.answers = answers
    moments = list[str]()
    sink.on_moment = moments.append
    started = time.monotonic()

    with contextlib.suppress(DispatchStoppedError):
        make_dispatcher(engine, sink).drain(stop=lambda: not answers.keys().isdisjoint(moments))

    assert time.monotonic() - started < 10
    assert row(engine, id_).status == left
    assert row(engine, id_).lease_until is None


def test_keyboard_interrupt_leaves_every_delivery_sent_or_queued(engine, sink):
    for _ in range(30):
        add_delivery(engine)
    composed = iter(range(30))

    def compose_until_interrupted(delivery, digest):
        if next(composed) == 20:
            raise KeyboardInterrupt
        return compose(delivery, digest)

    with pytest.raises(KeyboardInterrupt):
        send(engine, sink, compose=compose_until_interrupted)

    after = outbox.statuses(engine)
    assert after.count(Status.SENT) == len(sink.accepted)
    assert after.count(Status.SENT) + after.count(Status.QUEUED) == 30


def test_expired_delivery_is_not_sent(engine, sink):
    id_ = add_delivery(engine)

    assert send(engine, sink, now=NOW + timedelta(hours=18)) == Tally(expired=1)
    assert sink.accepted == []
    assert outbox.cursor(engine, id_) == 2


CHILD = """
    import os, signal, sys
    sys.path.insert(0, os.getcwd())
    from pipeline.dispatch import group_commit
    from pipeline.smtp.session import SMTPConnection
    from pipeline.storage import deliveries
    from pipeline.storage.database import open_engine
    from tests.support.dispatching import make_dispatcher

    url, port, point = sys.argv[1], int(sys.argv[2]), sys.argv[3]

    class Sink:
        pass

    Sink.port = port

    def die(*args, **options):
        os.kill(os.getpid(), signal.SIGKILL)

    if point == "before mark":
        deliveries.mark = die
    if point == "between mark and dot":
        SMTPConnection.finish = die
    if point == "before settle":
        deliveries.settle = die
    make_dispatcher(open_engine(url), Sink, connections=1).drain(once=True)
"""


@pytest.mark.full
@pytest.mark.parametrize(
    ("point", "left", "taken"),
    [
        ("before mark", Status.LEASED, 0),
        ("between mark and dot", Status.SENDING, 0),
        ("before settle", Status.SENDING, 1),
    ],
)
def test_deliveries_of_a_killed_sender_are_sent_once_or_uncertain(
    database_url, engine, sink, point, left, taken
):
    """The next drain sends messages that were certainly unsent; one in doubt becomes uncertain."""
    ids = [add_delivery(engine, f"reader{number}@example.net") for number in range(3)]

    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHILD), database_url, str(sink.port), point],
        check=False,
        timeout=60,
    )

    assert child.returncode == -signal.SIGKILL
    assert row(engine, ids[0]).status == left
    assert len(sink.accepted) == taken
    tally = send(engine, sink, now=NOW + timedelta(hours=1))
    certain = 3 if left == Status.LEASED else 2
    assert tally == Tally(sent=certain, uncertain=3 - certain)
    assert len(sink.recipients) == len(set(sink.recipients)), "nobody got it twice"


def test_lease_from_a_wrong_clock_is_recovered(engine, sink):
    """The leases expire in a year: a sender claimed them while its clock was wrong, and died."""
    ids = [add_delivery(engine), add_delivery(engine)]
    ahead = NOW + timedelta(days=365)
    with engine.begin() as conn:
        deliveries.claim(conn, 2, "dead", timedelta(minutes=6), NOW)
        deliveries.mark(conn, ids[:1], "dead", timedelta(minutes=11), NOW)
        conn.execute(update(DeliveryRow).values(lease_until=ahead))

    tally = make_dispatcher(engine, sink).drain(once=True)

    assert (tally.sent, tally.uncertain) == (1, 1)


# --- Group commit -------------------------------------------------------------------------------


def test_no_dot_is_sent_if_the_mark_cannot_be_committed(engine, sink):
    """No dot is sent if the mark is not committed; the error is raised and the rows stay queued."""
    for _ in range(5):
        add_delivery(engine)
    failing = threading.Event()

    def clock(_conn):
        if failing.is_set():
            raise OSError("the disk is gone")
        return NOW

    def compose_then_fail(delivery, digest):
        failing.set()
        return compose(delivery, digest)

    with pytest.raises(OSError, match="the disk is gone"):
        send(engine, sink, compose=compose_then_fail, clock=clock)

    assert sink.accepted == []
    assert outbox.statuses(engine) == [Status.QUEUED] * 5


@pytest.fixture
def outage(backend, database_url, monkeypatch):
    """Return a function that cuts off the database: PostgreSQL hangs up, SQLite is locked."""
    monkeypatch.setattr(database, "BUSY_TIMEOUT", 0.02)
    monkeypatch.setattr(database, "LOOK_AGAIN", 0.02)

    def hang_up():
        with psycopg.connect(database_url) as conn:
            conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

    def lock():
        with contextlib.closing(sqlite3.connect(database_url.removeprefix("sqlite:///"))) as conn:
            conn.execute("BEGIN IMMEDIATE")
            time.sleep(2)  # longer than a few retries take

    return hang_up if backend == "postgresql" else lock


def test_drain_survives_a_database_outage(database_url, sink, outage):
    """Replies received during the outage are written afterwards; no delivery becomes uncertain."""
    engine = open_engine(database_url)
    for _ in range(40):
        add_delivery(engine)
    dots = iter(range(1_000))
    sink.on_dot = lambda: outage() if next(dots) % 15 == 10 else None

    send(engine, sink, chunk=10)

    assert set(outbox.statuses(engine)) == {Status.SENT}
    assert len(sink.recipients) == len(set(sink.recipients)) == 40
    engine.dispose()


def test_mark_is_granted_on_retry_if_the_commit_reply_was_lost(engine):
    """If it were not granted, the delivery would become uncertain although nothing was sent."""
    id_ = add_delivery(engine)
    with engine.begin() as conn:
        deliveries.claim(conn, 1, "mine", timedelta(minutes=6), NOW)
    unheard = [OperationalError("COMMIT", {}, psycopg.OperationalError("the server is gone"))]

    class Deaf:
        """An engine that commits, but raises at the first commit as if the reply were lost."""

        def connect(self):
            conn = engine.connect()
            event.listen(conn, "commit", lose_the_answer)
            return conn

    def lose_the_answer(conn):
        conn.connection.dbapi_connection.commit()
        if unheard:
            raise unheard.pop()

    committer = make_committer(Deaf())
    committer.start()

    granted = committer.mark(id_, None)
    committer.stop()

    assert granted
    assert row(engine, id_).status == Status.SENDING


def make_committer(engine, length=timedelta(minutes=6), clock=lambda _conn: NOW):
    return GroupCommit(engine, Lease("mine", length, timedelta(minutes=11)), clock)


def test_committer_renews_a_waiting_claim(engine):
    length = timedelta(seconds=0.3)
    id_ = add_delivery(engine)
    with engine.begin() as conn:
        deliveries.claim(conn, 1, "mine", length, NOW)
    started = time.monotonic()

    committer = make_committer(
        engine, length, lambda _conn: NOW + timedelta(seconds=time.monotonic() - started)
    )
    committer.start()
    _wait_for(lambda: row(engine, id_).lease_until > NOW + 2 * length)
    committer.stop()

    assert committer.error is None


def test_mark_also_writes_the_settlement_of_the_previous_delivery(engine):
    """At most one delivery per connection can become uncertain."""
    first, second = add_delivery(engine), add_delivery(engine)
    with engine.begin() as conn:
        deliveries.claim(conn, 2, "mine", timedelta(minutes=6), NOW)
    committer = make_committer(engine)
    committer.start()

    assert committer.mark(first, None)
    assert committer.mark(second, Settlement(first, Status.SENT, "accepted"))
    after = outbox.statuses(engine)
    committer.stop()

    assert after == [Status.SENT, Status.SENDING]


def test_committer_writes_settlements_before_it_stops(engine):
    id_ = add_delivery(engine)
    with engine.begin() as conn:
        deliveries.claim(conn, 1, "mine", timedelta(minutes=6), NOW)
        deliveries.mark(conn, [id_], "mine", timedelta(minutes=11), NOW)
    committer = make_committer(engine)

    committer.start()
    committer.settle(Settlement(id_, Status.SENT, "accepted"))
    committer.stop()

    assert row(engine, id_).status == Status.SENT
    assert not committer.mark(id_, None), "nobody is there to write it"


# --- Throttling and idle connections ------------------------------------------------------------


def test_throttling_reply_defers_the_delivery_and_slows_sending(engine, sink):
    ids = [add_delivery(engine) for _ in range(3)]
    sink.answers = {"MAIL": ["454 Throttling failure: Maximum sending rate exceeded"]}
    started = time.monotonic()

    assert send(engine, sink, connections=1) == Tally(sent=2, deferred=1)

    assert time.monotonic() - started >= 0.25
    assert row(engine, ids[0]).attempts == 1


def test_idle_connection_is_closed(engine, sink, monkeypatch):
    monkeypatch.setattr(senders, "IDLE", 0.2)
    stopped = threading.Event()
    add_delivery(engine)

    with ThreadPoolExecutor(1) as process:
        run = process.submit(make_dispatcher(engine, sink).drain, stop=stopped.is_set)
        _wait_for(lambda: "QUIT" in sink.commands)
        stopped.set()

        assert run.result(timeout=10).sent == 1


def _wait_for(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


# --- Malformed replies ----------------------------------------------------------------------------


ODD = ["a" * 3_900, "\0 nul \x1b[31m red", "queued as " + "B" * 3_900, "\u202e\u5b57" * 600]


@pytest.mark.parametrize("moment", ["MAIL", "RCPT", "DATA", "DOT"])
@pytest.mark.parametrize("words", ODD, ids=["long", "controls", "a long name", "other scripts"])
def test_drain_survives_malformed_server_replies(engine, sink, moment, words):
    """Replies are cleaned when they are parsed, so that every database can store them."""
    code = {"MAIL": "450", "DOT": "250"}.get(moment, "550")
    sink.answers = {moment: [f"{code} {words}"]}
    first = add_delivery(engine, subscriber_id=add_subscriber(engine, "ada@example.org"))

    send(engine, sink)

    settled = row(engine, first)
    assert settled.status != "leased"
    assert (settled.reply or "").isprintable()
    assert len(settled.queue_id or "") <= 200


def test_third_refused_edition_in_a_row_suppresses_the_address(engine, sink):
    """Refusals during the SMTP session count as strikes, as bounces do."""
    sink.answers = {"RCPT": "550 5.0.0 We would rather not"}
    subscriber = add_subscriber(engine, "ada@example.org")
    statuses = []
    for days in range(3):
        edition = {"edition_on": TODAY + timedelta(days=days), "subscriber_id": subscriber}
        id_ = add_delivery(engine, **edition)
        outbox.accept_others(engine, edition["edition_on"])
        send(engine, sink)
        statuses.append((row(engine, id_).status, bool(outbox.suppressions(engine))))

    assert statuses == [("failed", False), ("failed", False), ("failed", True)]
    assert outbox.suppressions(engine) == {"hash of ada@example.org": "soft"}


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_drain_ends_if_all_due_mail_is_held(engine, sink):
    """The test uses the real clock: if a drain waited for paused mail, it would never return."""
    now = datetime.now(UTC)
    times = {"not_before": now - timedelta(hours=1), "expires_at": now + timedelta(hours=9)}
    add_delivery(engine, edition_on=TODAY, **times)
    controls.stop(engine, now, TODAY)
    claims = []
    event.listen(engine, "begin", lambda _conn: claims.append(1))
    gives_up = time.monotonic() + 20

    dispatcher = make_dispatcher(engine, sink, clock=database.server_now)
    assert dispatcher.drain(once=True, stop=lambda: time.monotonic() > gives_up) == Tally()

    assert time.monotonic() < gives_up
    before = len(claims)
    stops = time.monotonic() + 1.5
    dispatcher.drain(stop=lambda: time.monotonic() > stops)
    assert len(claims) - before < 25, "an idle sender looks every two seconds"
