"""Throttling with real servers: which mail waits, which is sent, and what all senders share."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date, timedelta

import pytest
from sqlalchemy import event

from pipeline.dispatch import DispatchStoppedError, Quota, Tally, controls, throttle
from pipeline.dispatch.group_commit import Lease
from pipeline.dispatch.shared_throttle import SharedThrottle
from pipeline.domain import DeliveryStatus, Precedence
from pipeline.storage import deliveries, delivery_queries, send_controls, throttles
from pipeline.storage.deliveries import CancelReason
from pipeline.storage.throttles import ThrottleState
from pipeline.token_bucket import SharedBucket
from tests.support import outbox
from tests.support.dispatching import make_dispatcher, send
from tests.support.dying import dying
from tests.support.factories import NOW, TODAY
from tests.support.outbox import add_confirmation, add_delivery, alter, row
from tests.support.sinks import open_sink

Status = DeliveryStatus
MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)
REFUSED = {"MAIL": "550 5.7.1 Sender not allowed"}
SLOW_DOWN = "421 4.7.28 Too many mails, slow down"
ON = {"gmail": {"domain": "gmail.com"}, "other": {"domain": "example.org"}}


@pytest.fixture
def sink():
    with open_sink() as sink:
        yield sink


def read(engine, query, *args):
    with engine.connect() as conn:
        return query(conn, *args)


def claim(engine, limit=10, now=NOW, **which):
    with engine.begin() as conn:
        claimed = deliveries.claim(conn, limit, "mine", 6 * MINUTE, now, **which)
    return [delivery.id for delivery in claimed]


def mark(engine, *ids):
    with engine.begin() as conn:
        return deliveries.mark(conn, ids, "mine", 11 * MINUTE, NOW)


# --- Precedence ---------------------------------------------------------------------------------


@pytest.mark.full
def test_confirmation_is_claimed_before_digests(engine):
    digests = [
        add_delivery(engine, precedence=Precedence.DIGEST, not_before=NOW - MINUTE)
        for _ in range(3)
    ]
    confirmation = add_confirmation(engine)

    assert claim(engine, limit=2) == [confirmation, digests[0]]
    assert claim(engine) == digests[1:]


@pytest.mark.parametrize("domain", [None, "gmail.com"])
def test_claim_reads_the_outbox_by_index_without_sorting(engine, domain):
    """By an index and without sorting, however long the queue is."""
    with engine.begin() as conn:
        if engine.dialect.name == "postgresql":
            # The table is empty: PostgreSQL would scan it sequentially and sort.
            for way in ("seqscan", "bitmapscan", "sort"):
                conn.exec_driver_sql(f"SET LOCAL enable_{way} = off")
        plans = []

        def explain(_conn, cursor, statement, parameters, *_):
            if "WITH due" in statement and not statement.startswith("EXPLAIN"):
                how = "EXPLAIN" if engine.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN"
                cursor.execute(f"{how} {statement}", parameters)
                plans.append(" ".join(str(line) for line in cursor.fetchall()))

        event.listen(conn, "before_cursor_execute", explain)
        deliveries.claim(conn, 10, "mine", MINUTE, NOW, domain=domain)

    assert len(plans) == 2
    for plan in plans:
        # If two indexes have the order, PostgreSQL uses either for an empty table.
        chosen = domain and engine.dialect.name == "sqlite"
        assert ("ix_deliveries_outbox_domain" if chosen else "ix_deliveries_outbox") in plan
        assert "Sort" not in plan
        assert "TEMP B-TREE FOR ORDER BY" not in plan


def test_claim_can_include_or_exclude_domains(engine):
    gmail, other = add_delivery(engine, **ON["gmail"]), add_delivery(engine, **ON["other"])

    assert claim(engine, domain="gmail.com", besides=["gmail.com"]) == []
    assert claim(engine, besides=["gmail.com"]) == [other]
    assert claim(engine, domain="gmail.com") == [gmail]


# --- Pauses -------------------------------------------------------------------------------------


def test_stopped_sending_resumes_when_started(engine, sink):
    add_delivery(engine)
    add_confirmation(engine)

    assert controls.stop(engine, NOW)
    assert not controls.stop(engine, NOW), "twice changes nothing"
    assert send(engine, sink) == Tally()
    assert controls.start(engine)
    assert not controls.start(engine)
    assert send(engine, sink) == Tally(sent=2)


def test_paused_edition_waits_and_other_mail_is_sent(engine, sink):
    paused = add_delivery(engine)
    add_delivery(engine, edition_on=date(2030, 1, 3))
    add_confirmation(engine)
    controls.stop(engine, NOW, TODAY)

    assert send(engine, sink) == Tally(sent=2)
    assert row(engine, paused).status == Status.QUEUED
    controls.start(engine, TODAY)
    assert send(engine, sink) == Tally(sent=1)


@pytest.mark.parametrize("edition_on", [None, TODAY])
def test_claimed_delivery_is_handed_back_during_a_hold_without_an_attempt(engine, edition_on):
    id_ = add_delivery(engine)
    claim(engine)

    controls.stop(engine, NOW, edition_on)

    assert mark(engine, id_) == set()
    with engine.begin() as conn:
        assert deliveries.withdraw(conn, [id_], "mine") == 0
        assert deliveries.hand_back(conn, [id_], "another's") == 0
        assert deliveries.hand_back(conn, [id_], "mine") == 1
        assert deliveries.hand_back(conn, [id_], "mine") == 0
    assert (row(engine, id_).status, row(engine, id_).attempts) == (Status.QUEUED, 0)
    assert claim(engine) == []


def test_marked_delivery_is_not_handed_back(engine):
    id_ = add_delivery(engine)
    claim(engine)
    mark(engine, id_)

    controls.stop(engine, NOW)

    with engine.begin() as conn:
        assert deliveries.hand_back(conn, [id_], "mine") == 0
    assert row(engine, id_).status == Status.SENDING


def test_stopping_during_a_drain_requeues_the_rest(engine, sink):
    for _ in range(30):
        add_delivery(engine)
    sink.on_dot = lambda: controls.stop(engine, NOW)

    tally = send(engine, sink)

    assert tally.sent == len(sink.accepted) <= 3, "what was marked on three connections"
    assert tally.cancelled == 0
    after = [row(engine, id_) for id_ in range(1, 31)]
    assert sum(one.status == Status.QUEUED for one in after) == 30 - tally.sent
    assert {one.attempts for one in after if one.status == Status.QUEUED} == {0}


def test_paused_edition_expires_and_its_papers_move_to_the_next_digest(engine, sink):
    id_ = add_delivery(engine)
    controls.stop(engine, NOW, TODAY)

    assert send(engine, sink, now=NOW + timedelta(hours=18)) == Tally(expired=1)
    assert outbox.cursor(engine, id_) == 2


def test_cancel_moves_papers_to_the_next_digest_and_keeps_sent_deliveries(engine):
    owed, claimed = add_delivery(engine), add_delivery(engine, status="leased", lease="theirs")
    sent = add_delivery(engine, status="sent")
    other = add_delivery(engine, edition_on=date(2030, 1, 3))

    assert controls.cancel(engine, TODAY) == 2
    assert controls.cancel(engine, TODAY) == 0

    ended = [row(engine, id_) for id_ in (owed, claimed)]
    assert {(one.status, one.reason) for one in ended} == {
        (Status.CANCELLED, CancelReason.OPERATOR)
    }
    assert outbox.cursor(engine, owed) == 2
    assert (row(engine, sent).status, row(engine, other).status) == (Status.SENT, Status.QUEUED)


# --- The circuit breaker ------------------------------------------------------------------------


def refuse_us(engine, sink, now):
    sink.answers = dict(REFUSED)
    with pytest.raises(DispatchStoppedError) as stopped:
        send(engine, sink, now=now)
    assert stopped.value.refused
    return read(engine, send_controls.circuit_breaker)


def test_breaker_stays_open_for_longer_after_each_server_refusal(engine, sink):
    for _ in range(9):
        add_delivery(engine)

    first = refuse_us(engine, sink, NOW)
    connections = sink.connections
    refuse_us(engine, sink, NOW + 59 * SECOND)
    untouched = sink.connections == connections
    second = refuse_us(engine, sink, NOW + MINUTE)

    assert (first.refusals, first.open_until) == (1, NOW + MINUTE), "three carriers count once"
    assert untouched, "while it is open nobody connects"
    assert (second.refusals, second.open_until) == (2, NOW + 6 * MINUTE)
    assert sink.connections == connections + 1, "half open: one connection tries"
    assert first.reply == "550 5.7.1 Sender not allowed"
    assert {row(engine, id_).attempts for id_ in range(1, 10)} == {0}


def test_breaker_closes_when_the_probe_succeeds(engine, sink):
    for _ in range(9):
        add_delivery(engine)
    refuse_us(engine, sink, NOW)
    sink.answers = {"RCPT": ["550 5.1.1 No such user"]}

    assert send(engine, sink, now=NOW + MINUTE) == Tally(sent=8, failed=1)
    assert read(engine, send_controls.circuit_breaker) is None


def test_breaker_probe_is_exclusive_until_its_lease_expires(engine):
    with engine.begin() as conn:
        send_controls.open_breaker(conn, "no", NOW, MINUTE)
        assert not send_controls.probe_breaker(conn, "mine", NOW, 6 * MINUTE), "still open"
        assert send_controls.probe_breaker(conn, "mine", NOW + MINUTE, 6 * MINUTE)
        assert not send_controls.probe_breaker(conn, "theirs", NOW + MINUTE, 6 * MINUTE)
        assert send_controls.probe_breaker(conn, "theirs", NOW + 7 * MINUTE, 6 * MINUTE), (
            "mine has died"
        )
        assert not send_controls.close_breaker(conn, "mine"), "it was only slow: old news"
        assert send_controls.close_breaker(conn, "theirs")


def test_empty_outbox_does_not_take_the_breaker_probe(engine, sink):
    with engine.begin() as conn:
        send_controls.open_breaker(conn, "no", NOW, MINUTE)

    assert send(engine, sink, now=NOW + MINUTE) == Tally()
    with engine.begin() as conn:
        assert send_controls.probe_breaker(conn, "theirs", NOW + MINUTE, MINUTE)


def test_manual_start_closes_the_breaker(engine, sink):
    add_delivery(engine)
    refuse_us(engine, sink, NOW)
    sink.answers = {}

    assert controls.start(engine)

    assert send(engine, sink) == Tally(sent=1)


# --- Domains ------------------------------------------------------------------------------------


def slowed(engine):
    return {one.domain: one for one in read(engine, throttles.list_all)}


def test_throttled_domain_waits_and_other_domains_do_not(engine, sink):
    """Also if its mail is first in the queue; waiting does not count as an attempt."""
    gmail = [
        add_delivery(engine, f"g{n}@gmail.com", **ON["gmail"], not_before=NOW - MINUTE)
        for n in range(20)
    ]
    for n in range(20):
        add_delivery(engine, f"o{n}@example.org", **ON["other"])
    sink.answers = {f"RCPT g{n}@gmail.com": SLOW_DOWN for n in range(20)}

    tally = send(engine, sink, chunk=4, connections=1)

    assert tally.sent == 20
    assert tally.deferred <= 8, "of two claims at most: the rest were given back"
    waiting = [row(engine, id_) for id_ in gmail]
    assert {one.status for one in waiting} == {Status.QUEUED}
    assert sum(one.attempts for one in waiting) == tally.deferred
    known = slowed(engine)["gmail.com"]
    assert (known.state, known.allowance, known.refusals) == (ThrottleState.SLOWED, 60, 1)
    assert known.not_before == NOW + MINUTE
    assert known.reply == SLOW_DOWN


def put_pace(engine, **changes):
    first = throttle.refused(None, "gmail.com", ThrottleState.SLOWED, "slow", NOW - MINUTE)
    with engine.begin() as conn:
        throttles.insert(conn, replace(first, **changes))


def test_domain_gets_its_turns_after_its_pause(engine, sink):
    for n in range(20):
        add_delivery(engine, f"g{n}@gmail.com", **ON["gmail"])
    put_pace(engine, not_before=NOW - 3 * SECOND)

    assert send(engine, sink).sent == 4, "one a second, and three saved up"
    assert send(engine, sink).sent == 0
    assert send(engine, sink, now=NOW + SECOND).sent == 1
    assert slowed(engine)["gmail.com"].not_before > NOW + SECOND


def test_concurrent_senders_share_the_turns_of_a_domain(engine, sink):
    for n in range(40):
        add_delivery(engine, f"g{n}@gmail.com", **ON["gmail"])
    put_pace(engine, not_before=NOW - 3 * SECOND)
    dispatchers = [make_dispatcher(engine, sink) for _ in range(2)]

    with ThreadPoolExecutor(2) as senders:
        tallies = list(senders.map(lambda one: one.drain(once=True), dispatchers))

    assert sum(tally.sent for tally in tallies) == 4


def test_in_hand_counts_unexpired_leases_of_the_domain_only(engine):
    """Expired leases and mail of other domains are not counted."""
    for lease, status, length in [
        ("mine", Status.LEASED, MINUTE),
        ("mine", Status.SENDING, MINUTE),
        ("hers", Status.SENDING, MINUTE),
        ("dead", Status.LEASED, -SECOND),
    ]:
        held = {"status": status, "lease": lease, "lease_until": NOW + length}
        add_delivery(engine, **ON["gmail"], **held)
        add_delivery(engine, **ON["other"], **held)
    add_delivery(engine, **ON["gmail"])

    found = read(engine, delivery_queries.in_hand, "gmail.com", "mine", NOW)

    assert (found.ours, found.others) == (2, 1)


def claim_paced(engine, token, now=NOW, limit=10):
    lease = Lease(token, 6 * MINUTE, 11 * MINUTE)
    with engine.begin() as conn:
        return SharedThrottle(None, None, lease, 50).claim(conn, limit, now)


def test_deliveries_leased_by_others_reduce_the_claim(engine):
    """Deliveries of a dead sender count, too, until its lease expires."""
    for n in range(6):
        add_delivery(engine, f"g{n}@gmail.com", **ON["gmail"])
    put_pace(engine, not_before=NOW - MINUTE, allowance=45)
    assert len(claim_paced(engine, "hers", limit=2).deliveries) == 2

    first, second = claim_paced(engine, "mine"), claim_paced(engine, "mine", NOW + MINUTE)
    theirs = claim_paced(engine, "theirs", NOW + MINUTE)
    later = claim_paced(engine, "theirs", NOW + 6 * MINUTE)

    assert [len(one.deliveries) for one in (first, second, theirs, later)] == [1, 0, 0, 3]
    assert (second.wait, second.is_ours) == (SECOND, True)
    assert (theirs.wait, theirs.is_ours) == (SECOND, False)


def test_concurrent_claims_stay_within_the_domain_limit(engine):
    for n in range(6):
        add_delivery(engine, f"g{n}@gmail.com", **ON["gmail"])
    put_pace(engine, not_before=NOW - MINUTE, allowance=45)

    with ThreadPoolExecutor(2) as senders:
        claims = list(senders.map(lambda token: claim_paced(engine, token), ["one", "two"]))

    assert sum(len(one.deliveries) for one in claims) == 3


class Crowd:
    """A domain that accepts at most `most` mails at a time; each takes a moment.

    After `crowd_up` each mail stays open until another was refused: on a busy machine connections
    may otherwise come one after the other, so that nothing is ever refused.
    """

    def __init__(self, sink, most):
        self.most_seen, self.refused, self._open, self._most = 0, 0, 0, most
        self._lock = threading.Lock()
        sink.answers = self
        self._refusal = threading.Event()
        self._refusal.set()
        sink.on_dot = self._stay

    def crowd_up(self):
        self._refusal.clear()

    def _stay(self):
        self._refusal.wait(10)
        time.sleep(0.05)

    def get(self, key):
        moment, _, address = key.partition(" ")
        if not address.endswith("@gmail.com") or moment not in ("RCPT", "DOT"):
            return None
        with self._lock:
            if moment == "DOT":
                self._open -= 1
                return None
            if self._open >= self._most:
                self.refused += 1
                self._refusal.set()
                return "421 4.7.28 Too many at once, slow down"
            self._open += 1
            self.most_seen = max(self.most_seen, self._open)
            return None

    def __contains__(self, _key):
        return False


def test_concurrent_mails_to_a_slowed_domain_stay_within_its_limit(engine, sink):
    """A drain waits for its own mail before it claims more; other connections continue."""
    crowd = Crowd(sink, most=3)
    for n in range(4):
        add_delivery(engine, f"g{n}@gmail.com", **ON["gmail"])
        add_delivery(engine, f"o{n}@example.org", **ON["other"])
    put_pace(engine, not_before=NOW - MINUTE, allowance=45)

    tally = send(engine, sink, connections=6)

    assert tally == Tally(sent=8)
    assert (crowd.most_seen, crowd.refused) == (3, 0)


@pytest.mark.full
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_domain_with_a_connection_limit_gets_all_mail_and_others_do_not_wait(engine, sink):
    """It accepts two at a time, a limit found by refusals: slow down to it, then speed up again."""
    crowd = Crowd(sink, most=2)
    ids = [add_delivery(engine, f"g{n}@gmail.com", **ON["gmail"]) for n in range(12)]
    others = [add_delivery(engine, f"o{n}@example.org", **ON["other"]) for n in range(12)]

    crowd.crowd_up()
    first = make_dispatcher(engine, sink, connections=6).drain(once=True)
    assert {row(engine, id_).status for id_ in others} == {Status.SENT}
    assert first.deferred == crowd.refused > 0
    seen, now = [], NOW
    while any(row(engine, id_).status == Status.QUEUED for id_ in ids):
        known = slowed(engine)["gmail.com"]
        seen.append(throttle.most_in_flight(known))
        if min(seen) > 2:  # above its limit, and not refused yet
            crowd.crowd_up()
        now = max(known.not_before, now) + 10 * SECOND
        for id_ in ids:  # if left to retry jitter, the number at a time would be random
            if row(engine, id_).status == Status.QUEUED:
                alter(engine, id_, not_before=now)
        with ThreadPoolExecutor(2) as senders:
            both = [make_dispatcher(engine, sink, connections=6, now=now) for _ in range(2)]
            list(senders.map(lambda one: one.drain(once=True), both))

    assert {row(engine, id_).status for id_ in ids} == {Status.SENT}
    assert len(sink.recipients) == len(set(sink.recipients)) == 24
    assert crowd.most_seen <= 2
    assert min(seen) <= 2 < max(seen)


def test_domain_throttle_ends_after_enough_accepted_mails(engine, sink):
    for n in range(3):
        add_delivery(engine, f"g{n}@gmail.com", **ON["gmail"])
    put_pace(engine, not_before=NOW - MINUTE, allowance=throttle.FREE - 0.01)

    # The clock stands still: a drain may return before its last mail lifts the throttle.
    assert sum(send(engine, sink, chunk=1).sent for _ in range(2)) == 3
    assert slowed(engine) == {}


def test_blocking_domain_is_paused_until_released(engine, sink):
    for n in range(3):
        add_delivery(engine, f"g{n}@gmail.com", **ON["gmail"])
    sink.answers = {"RCPT g0@gmail.com": "550 5.7.1 Blocked, <g0@gmail.com>"}

    tally = send(engine, sink, chunk=1, connections=1)

    known = slowed(engine)["gmail.com"]
    assert tally.failed == 1
    assert (known.state, known.not_before) == (ThrottleState.BLOCKED, NOW + timedelta(minutes=30))
    assert known.reply == "550 5.7.1 Blocked, <address>", "no addresses"
    assert send(engine, sink, now=NOW + timedelta(minutes=29)) == Tally()
    controls.release(engine, "gmail.com")
    assert send(engine, sink, now=NOW + timedelta(minutes=29)).sent >= 1


# --- Authentication failures --------------------------------------------------------------------

NOT_OURS = "550 5.7.26 Not authenticated"


@pytest.mark.parametrize(("recipients", "paused"), [(2, False), (3, True)])
def test_edition_is_held_after_three_authentication_failures(engine, sink, recipients, paused):
    for n in range(recipients):
        add_delivery(engine, f"r{n}@example.org")
    sink.answers = {"RCPT": NOT_OURS}

    send(engine, sink, connections=1)

    held = [hold.edition_on for hold in read(engine, send_controls.list_pauses)]
    assert held == ([TODAY] if paused else [])


def test_authentication_failures_of_one_recipient_do_not_hold_the_edition(engine, sink):
    subscriber_id = outbox.add_subscriber(engine)
    sink.answers = {"RCPT": NOT_OURS}
    for n in range(4):
        add_delivery(engine, subscriber_id=subscriber_id, dedupe_key=f"number {n}")

    send(engine, sink)

    assert read(engine, send_controls.list_pauses) == []


# --- Quotas -------------------------------------------------------------------------------------


@pytest.mark.full
def test_concurrent_dispatchers_stay_within_the_daily_rate(engine, sink):
    for _ in range(60):
        add_delivery(engine, expires_at=NOW + timedelta(days=3))
    day = Quota("smtp:day", 20, timedelta(days=1))
    dispatchers = [make_dispatcher(engine, sink, rates=[day], chunk=7) for _ in range(2)]

    with ThreadPoolExecutor(2) as senders:
        tallies = list(senders.map(lambda one: one.drain(once=True), dispatchers))

    assert sum(tally.sent for tally in tallies) == len(sink.accepted) == 20
    assert outbox.statuses(engine).count(Status.QUEUED) == 40
    assert send(engine, sink, rates=[day], now=NOW + timedelta(hours=24)).sent == 0
    assert send(engine, sink, rates=[day], now=NOW + timedelta(hours=25)).sent == 20


def test_claim_takes_only_as_many_tokens_as_deliveries(engine, sink):
    hour = Quota("smtp:hour", 20, timedelta(hours=1))
    add_delivery(engine)
    send(engine, sink, rates=[hour])
    for _ in range(25):
        add_delivery(engine)

    assert send(engine, sink, rates=[hour]).sent == 19


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_claim_killed_at_any_statement_takes_no_tokens(engine, sink):
    """Tokens and their deliveries are written in one transaction."""
    add_delivery(engine)
    day = Quota("smtp:day", 1, timedelta(days=1))
    pacing = make_dispatcher(engine, sink, rates=[day])
    total = len(_statements_of_a_claim(engine, pacing, after=10_000, undo=True))

    for after in range(total):
        _statements_of_a_claim(engine, pacing, after=after)

    assert total >= 6
    assert send(engine, sink, rates=[day]).sent == 1


def _statements_of_a_claim(engine, dispatcher, *, after, undo=False):
    lease = Lease("mine", MINUTE, MINUTE)
    with dying(engine, after) as seen, engine.connect() as conn:
        pacing = SharedThrottle(
            lambda work: work(conn), dispatcher.clock, lease, 10, dispatcher.rates
        )
        pacing.claim(conn, 10, NOW)
        assert undo, "it should have died"
        conn.rollback()
    return seen


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_drain_survives_a_redis_flush(engine, sink, valkey):
    import redis

    for _ in range(30):
        add_delivery(engine)
    bucket = SharedBucket(valkey, "smtp", 40, processes=1)
    flushed = threading.Event()

    def flush_once():
        if not flushed.is_set():
            flushed.set()
            with redis.Redis.from_url(valkey) as client:
                client.flushall()

    sink.on_dot = flush_once

    tally = send(engine, sink, bucket=bucket, chunk=10)

    bucket.close()
    assert flushed.is_set()
    assert tally == Tally(sent=30)
    assert len(set(sink.recipients)) == 30
