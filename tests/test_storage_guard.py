"""The guard: refusals caused by the sender count against no subscriber, with any reply text."""

from __future__ import annotations

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import insert, update

from pipeline import settings
from pipeline.dispatch import DispatchStoppedError, controls
from pipeline.doctor import services
from pipeline.doctor.finding import Installation
from pipeline.domain import (
    DeliveryKind,
    DeliveryStatus,
    Notice,
    NoticeKind,
    StrikeKind,
    SuppressionReason,
    Verdict,
)
from pipeline.feedback.process import Effect, Event, Feedback
from pipeline.feedback.suppression import undo, undoable
from pipeline.storage import (
    deliveries,
    guard,
    refusals,
    send_controls,
    stats,
    suppressions,
)
from pipeline.storage.deliveries import Settlement
from pipeline.storage.refusals import wording
from pipeline.storage.schema import RefusalRow, StrikeRow
from tests.support import outbox
from tests.support.dispatching import send
from tests.support.dying import dying
from tests.support.factories import KEY, NOW, SENDER, TODAY
from tests.support.newsroom import rows
from tests.support.outbox import accept_others, add_confirmation, add_delivery, add_subscriber, row
from tests.support.sinks import open_sink

Status = DeliveryStatus
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
NONSENSE = "554 Zbrwl qmpf: vurolimantsch hentu"
UNKNOWN = "550 5.1.1 User unknown"


@pytest.fixture
def sink():
    with open_sink() as sink:
        yield sink


@pytest.fixture
def feedback(engine):
    return Feedback(engine, SENDER, KEY)


def address(number: int) -> str:
    return f"reader{number}@d{number % 40}.example"


def add_readers(engine, count: int = 100) -> list[int]:
    """Queue deliveries of one edition to readers at 40 domains and return their ids."""
    return [add_delivery(engine, address(n), domain=f"d{n % 40}.example") for n in range(count)]


def send_all(engine, sink, **changes):
    """Drain the queue once; return the reason if the guard or the breaker stopped it, else None.

    If the disk is slow, all mails are refused before the first refusal is counted: then the edition
    is held, too, but there is nothing left to stop.
    """
    try:
        send(engine, sink, connections=10, **changes)
    except DispatchStoppedError as stopped:
        return str(stopped)
    with engine.connect() as conn:
        held = [hold.reason for hold in send_controls.list_pauses(conn) if hold.automatic]
    return held[0] if held else None


def judge(engine, now=NOW, **which):
    with engine.begin() as conn:
        return guard.judge(conn, now, **which)


def held(engine):
    with engine.connect() as conn:
        return {hold.edition_on: hold.automatic for hold in send_controls.list_pauses(conn)}


def nobody_is_charged(engine) -> bool:
    return (
        outbox.suppressions(engine) == {}
        and rows(engine, StrikeRow) == []
        and not any(refusal.counted for refusal in rows(engine, RefusalRow))
    )


def mend(engine, *editions):
    for edition_on in (*editions, None):
        controls.start(engine, edition_on)


# --- Reply wordings -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("550 5.1.1 <ada@example.org> unknown", "550 5.1.1 <bob@example.net> unknown"),
        ("554 id 4Xk2b: refused by mx1.example.org[192.0.2.1]", "554 ID 9aB1c: refused by mx2.a"),
        ("550 no user ada here", "550 no user Bob here"),
        ("550 Вы: 12 писем", "550 вы: 7 писем"),
    ],
)
def test_wording_ignores_addresses_hosts_and_ids(one, other):
    assert wording(one, "ada@example.org") == wording(other, "bob@example.net")


def test_wording_keeps_reply_codes_and_removes_addresses():
    said = wording("550 5.1.1 <ada@example.org>: user\0 unknown", "ada@example.org")

    assert said == "550 5.1.1 # user unknown"
    assert wording("550 5.7.1 user unknown") != wording("550 5.1.1 user unknown")
    assert wording("550 - gone <!> (ada) 7 mx1.example.org", "ada@example.org") == "550 gone #"
    assert wording("5551 id4 gone") == "# gone"
    assert wording("no " * 100) == ("no " * 100)[:200]


@pytest.mark.parametrize(("attempts", "hours"), [(0, 1), (1, 2), (2, 4), (3, 8), (4, 8), (60, 8)])
def test_retry_gap_doubles_up_to_eight_hours(attempts, hours):
    assert refusals.next_try(attempts) == hours * HOUR


@pytest.mark.parametrize("strike", [None, *StrikeKind])
def test_outside_an_edition_only_a_hard_refusal_may_count(strike):
    assert refusals.countable(strike, TODAY) is strike
    assert refusals.countable(strike, None) is (
        StrikeKind.HARD if strike is StrikeKind.HARD else None
    )


# --- Decisions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("refused", "domains", "size", "expected"),
    [
        (5, 3, 10, True),
        (4, 3, 10, False),
        (5, 2, 10, False),
        (6, 6, 200, False),
        (10, 3, 200, True),
        (19, 9, 10**6, False),
        (20, 3, 10**6, True),
    ],
)
def test_limit_of_consecutive_refusals_depends_on_edition_size_and_domains(
    refused, domains, size, expected
):
    assert guard.too_many_in_a_row(refused, domains, size) is expected


@pytest.mark.parametrize(
    ("wordings", "tried", "size", "expected"),
    [
        ({"a": 20}, 100, 100, "a"),
        ({"a": 19}, 19, 100, None),
        ({"a": 20}, 101, 101, None),
        ({}, 0, 0, None),
        (dict.fromkeys("abcdefghijklmnopqrst", 1), 40, 100, ""),
        ({"a": 10, "b": 9}, 20, 100, None),
        ({"a": 10, "b": 10}, 40, 100, ""),
        ({"a": 10, "b": 10}, 41, 100, None),
        ({"a": 20, "b": 25}, 125, 200, "b"),
        ({"a": 20, "b": 25}, 126, 200, None),
        ({"a": 5}, 5, 10, "a"),
        ({"a": 5}, 5, 11, None),
        ({"a": 4}, 4, 4, None),
        ({"a": 3, "b": 2}, 10, 10, ""),
    ],
)
def test_refused_share_is_limited_per_wording_and_in_total(wordings, tried, size, expected):
    assert guard.too_large_a_share(Counter(wordings), tried, size) == expected


# --- A server that refuses every reader ---------------------------------------------------------


@pytest.mark.full
@pytest.mark.parametrize(
    ("moment", "reply"),
    [
        ("RCPT", UNKNOWN),
        ("RCPT", "552 5.2.2 Über quota"),
        ("DATA", "550 5.2.1 x"),
    ],
)
def test_server_refusing_all_mail_holds_the_edition_without_strikes(engine, sink, moment, reply):
    ids = add_readers(engine)
    sink.answers = {moment: reply}

    assert send_all(engine, sink).startswith("sending is held: ")

    assert nobody_is_charged(engine)
    assert set(outbox.statuses(engine)) == {Status.QUEUED}
    assert held(engine) == {TODAY: True}
    with engine.connect() as conn:
        assert send_controls.circuit_breaker(conn)
    sink.answers = {}
    mend(engine, TODAY)
    assert send_all(engine, sink, now=NOW + HOUR) is None
    assert sorted(sink.recipients) == sorted(address(n) for n in range(len(ids)))


@pytest.mark.full
def test_unknown_reply_after_data_holds_the_edition_without_strikes(engine, sink):
    """After the dot a reply is about the message: a few fail, then the edition is held."""
    ids = add_readers(engine)
    sink.answers = {"DOT": NONSENSE}

    assert send_all(engine, sink).startswith("sending is held: ")

    assert nobody_is_charged(engine)
    ended = Counter(outbox.statuses(engine))
    assert set(ended) <= {Status.QUEUED, Status.FAILED}
    assert ended[Status.FAILED] <= 30
    assert held(engine) == {TODAY: True}
    sink.answers = {}
    mend(engine, TODAY)
    assert send_all(engine, sink, now=NOW + HOUR) is None
    assert len(sink.recipients) == len(ids) - ended[Status.FAILED]


@pytest.mark.full
def test_held_edition_makes_no_further_attempts(engine, sink):
    add_readers(engine)
    sink.answers = {"RCPT": NONSENSE}

    send_all(engine, sink)
    tried = sum(command.startswith("RCPT") for command in sink.commands)
    send_all(engine, sink, now=NOW + timedelta(minutes=1))

    assert tried < 90
    assert sum(command.startswith("RCPT") for command in sink.commands) == tried


@pytest.mark.full
def test_one_wording_for_three_tenths_of_an_edition_holds_it_without_strikes(engine, sink):
    add_readers(engine)
    refused = [address(n) for n in range(100) if n % 10 < 3]
    sink.answers = {f"RCPT {one}": NONSENSE for one in refused}

    said = send_all(engine, sink)

    assert "refused alike" in said or "in a row" in said
    assert nobody_is_charged(engine)
    assert held(engine) == {TODAY: True}
    sink.answers = {}
    mend(engine, TODAY)
    send_all(engine, sink, now=NOW + HOUR)
    assert sorted(sink.recipients) == sorted(address(n) for n in range(100))


@pytest.mark.full
def test_many_different_wordings_hold_sending_without_strikes(engine, sink):
    """Hold sending if a server refuses six of ten readers, each with a different reply text."""
    add_readers(engine)
    chance = random.Random(4)
    sink.answers = {
        f"RCPT {address(n)}": "550 " + "".join(chance.choices("abcdefghij", k=12))
        for n in range(100)
        if n % 10 < 6
    }

    assert send_all(engine, sink)
    assert nobody_is_charged(engine)


@pytest.mark.full
def test_six_unknown_recipients_of_a_hundred_are_suppressed(engine, sink):
    """Also when they are refused first, before any recipient was accepted."""
    add_readers(engine)
    unknown = {address(n) for n in (0, 1, 2, 40, 70, 99)}
    sink.answers = {f"RCPT {one}": UNKNOWN for one in unknown}

    assert send_all(engine, sink) is None

    assert outbox.suppressions(engine) == {f"hash of {one}": "hard" for one in unknown}
    assert Counter(outbox.statuses(engine)) == {Status.SENT: 94, Status.SUPPRESSED: 6}
    assert held(engine) == {}


@pytest.mark.full
def test_refusals_about_the_sender_leave_no_delivery_failed(engine, sink):
    """Deliveries in flight return to the queue, too, when the third refusal holds the edition."""
    add_readers(engine, 60)
    sink.answers = {"RCPT": "550 5.7.25 The IP address sending this message has no PTR record"}

    send_all(engine, sink)

    assert held(engine) == {TODAY: True}
    assert set(outbox.statuses(engine)) == {Status.QUEUED}
    assert sum(command.startswith("RCPT") for command in sink.commands) < 40
    sink.answers = {}
    controls.start(engine, TODAY)
    assert send_all(engine, sink, now=NOW + timedelta(minutes=1)) is None
    assert Counter(sink.recipients) == Counter(address(n) for n in range(60))


@pytest.mark.full
def test_resumed_edition_is_not_throttled(engine, sink):
    """Domains that passed on a refusal about the sender are not throttled."""
    add_readers(engine, 60)
    sink.answers = {"RCPT": "554 5.7.1 Relay access denied"}
    assert "in a row" in send_all(engine, sink)

    sink.answers = {}
    controls.start(engine, TODAY)

    assert send_all(engine, sink, now=NOW + timedelta(minutes=1)) is None
    assert Counter(sink.recipients) == Counter(address(n) for n in range(60))


@pytest.mark.full
def test_concurrent_senders_hold_sending_without_strikes(engine, sink):
    add_readers(engine)
    sink.answers = {"RCPT": NONSENSE}

    with ThreadPoolExecutor(2) as senders:
        said = list(senders.map(lambda _: send_all(engine, sink, chunk=20), range(2)))

    assert any(said)
    judge(engine)
    assert nobody_is_charged(engine)
    assert set(outbox.statuses(engine)) == {Status.QUEUED}


@pytest.mark.full
def test_earlier_acceptances_do_not_excuse_consecutive_refusals(engine, sink):
    """Earlier acceptances do not excuse a row of refusals that follows them."""
    for _ in range(40):
        add_delivery(engine, edition_on=TODAY, status=Status.SENT, sent_at=NOW - HOUR)
    add_readers(engine, 40)
    sink.answers = {"DOT": UNKNOWN}

    assert send_all(engine, sink)
    assert nobody_is_charged(engine)


def test_refused_confirmations_stay_queued_and_are_sent_later(engine, sink):
    for n in range(12):
        add_confirmation(engine, address(n), domain=f"d{n}.example")
    sink.answers = {"RCPT": UNKNOWN}

    assert "in a row" in send_all(engine, sink)

    assert nobody_is_charged(engine)
    assert set(outbox.statuses(engine)) == {Status.QUEUED}
    assert held(engine) == {}, "there is no edition to hold; the breaker is open"
    sink.answers = {}
    assert send_all(engine, sink, now=NOW + HOUR) is None
    assert len(sink.accepted) == 12


# --- Few readers --------------------------------------------------------------------------------


def refuse(engine, delivery_id, now=NOW, strike=StrikeKind.HARD, server="mx"):
    """Claim one delivery and settle it as refused, as a sender does."""
    with engine.begin() as conn:
        claimed = deliveries.claim(conn, 500, "mine", HOUR, now)
        status = Status.SUPPRESSED if strike is StrikeKind.HARD else Status.FAILED
        one = Settlement(delivery_id, status, "refused", reply=UNKNOWN, charged=True, strike=strike)
        deliveries.settle(conn, [one], "mine", now, server)
        deliveries.hand_back(conn, [d.id for d in claimed], "mine")


def test_one_unknown_recipient_of_three_on_a_domain_is_suppressed(engine, sink):
    for name in ("ada", "bob", "gone"):
        add_delivery(engine, f"{name}@lab.example", domain="lab.example")
    sink.answers = {"RCPT gone@lab.example": UNKNOWN}

    assert send_all(engine, sink) is None
    assert outbox.suppressions(engine) == {"hash of gone@lab.example": "hard"}


def add_lab(engine) -> list[str]:
    """Queue two readers at one server and ten at another; return the addresses of the ten."""
    here = [f"reader{n}@lab.example" for n in range(2)]
    there = [f"reader{n}@far.example" for n in range(10)]
    for one in (*here, *there):
        add_delivery(engine, one, domain=one.partition("@")[2])
    return there


@pytest.mark.parametrize("reply", [NONSENSE, UNKNOWN])
def test_edition_of_twelve_is_held_if_one_domain_refuses_ten(engine, sink, reply):
    there = add_lab(engine)
    sink.answers = {f"RCPT {one}": reply for one in there}

    assert "refused alike" in send_all(engine, sink)

    assert nobody_is_charged(engine)
    assert held(engine) == {TODAY: True}
    sink.answers = {}
    controls.start(engine, TODAY)
    assert send_all(engine, sink, now=NOW + timedelta(minutes=1)) is None
    assert len(set(sink.recipients)) == len(sink.accepted) == 12


def test_edition_completes_after_unknown_recipients_are_suppressed_manually(engine, sink):
    """Resuming alone holds it again; if nine are suppressed, the tenth counts by itself."""
    there = add_lab(engine)
    sink.answers = {f"RCPT {one}": UNKNOWN for one in there}
    send_all(engine, sink)
    controls.start(engine, TODAY)
    assert send_all(engine, sink, now=NOW + timedelta(minutes=1))
    assert held(engine) == {TODAY: True}

    with engine.begin() as conn:
        for one in there[:9]:
            suppressions.suppress(conn, f"hash of {one}", SuppressionReason.MANUAL, NOW)
    controls.start(engine, TODAY)

    assert send_all(engine, sink, now=NOW + timedelta(minutes=2)) is None
    assert held(engine) == {}
    assert outbox.suppressions(engine)[f"hash of {there[9]}"] == "hard"
    assert len(sink.accepted) == 2


def test_confirmations_to_unknown_addresses_do_not_stop_digests(engine, sink):
    asked = [f"nobody{n}@d1.example" for n in range(6)]
    for one in asked:
        add_confirmation(engine, one, domain="d1.example")
    add_readers(engine, 10)
    sink.answers = {f"RCPT {one}": UNKNOWN for one in asked}

    assert send_all(engine, sink) is None
    assert len(sink.accepted) == 10


def test_three_recipients_all_refused_once_are_not_suppressed(engine, sink):
    for name in ("ada", "bob", "cyn"):
        add_delivery(engine, f"{name}@lab.example", domain="lab.example")
    sink.answers = {"RCPT": UNKNOWN}

    assert send_all(engine, sink) is None
    assert outbox.suppressions(engine) == {}
    sink.answers = {}
    assert send_all(engine, sink, now=NOW + HOUR) is None
    assert len(sink.accepted) == 3
    assert judge(engine, NOW + HOUR).counted == set()
    assert nobody_is_charged(engine)


def days_of(engine, subscriber_id, count=5):
    """Refuse one digest a day while no reader is accepted."""
    for day in range(count):
        now = NOW + day * DAY
        id_ = add_delivery(
            engine, subscriber_id=subscriber_id, edition_on=TODAY + day * DAY,
            not_before=now, expires_at=now + 18 * HOUR, created_at=now,
        )  # fmt: skip
        refuse(engine, id_, now)
        judge(engine, now)
        with engine.begin() as conn:
            deliveries.expire_due(conn, now + 20 * HOUR)


def test_only_subscriber_refused_in_three_editions_holds_all_sending(engine):
    """A wrong address and a broken server look the same here; the operator has to decide."""
    reader = add_subscriber(engine)

    days_of(engine, reader, 3)

    assert held(engine) == {None: True}
    assert nobody_is_charged(engine)
    controls.start(engine)
    days_of(engine, reader, 2)
    assert held(engine) == {}, "it begins anew"


def test_reader_refused_in_three_editions_is_suppressed_if_other_mail_is_accepted(engine):
    reader = add_subscriber(engine, "gone@example.org")
    accept_others(engine, None)

    days_of(engine, reader, 3)

    assert held(engine) == {}
    assert outbox.suppressions(engine) == {"hash of gone@example.org": "hard"}


def test_refusals_separated_by_an_acceptance_do_not_add_up(engine):
    """Three bad days of a server in a year do not add up if the reader accepts mail in between."""
    reader = add_subscriber(engine, "ada@example.org")
    accept_others(engine, None)
    for day in range(3):
        now = NOW + day * 2 * DAY
        edition = {"subscriber_id": reader, "edition_on": TODAY + day * 2 * DAY}
        id_ = add_delivery(engine, **edition, not_before=now, expires_at=now + DAY)
        refuse(engine, id_, now)
        outbox.alter(engine, id_, status=Status.EXPIRED)
        judge(engine, now)
        add_delivery(
            engine, subscriber_id=reader, edition_on=TODAY + (day * 2 + 1) * DAY,
            status=Status.SENT, sent_at=now + DAY,
        )  # fmt: skip

    judge(engine, NOW + 9 * DAY)

    assert nobody_is_charged(engine)
    assert held(engine) == {}


# --- Conditions, at their limits ----------------------------------------------------------------

SECOND = timedelta(seconds=1)
SINGLE = {"edition_on": None, "range_from": None, "range_to": None, "kind": DeliveryKind.LINK}


@pytest.mark.parametrize(
    ("changes", "counts"),
    [
        ({}, True),
        ({"sent_at": NOW - DAY + SECOND}, True),
        ({"sent_at": NOW - DAY}, False),
        ({"created_at": NOW - guard.LIVES + SECOND}, True),
        ({"created_at": NOW - guard.LIVES}, False),
        ({"redacted": True}, False),
        ({"status": Status.UNCERTAIN}, False),
        ({"edition_on": TODAY}, False),
    ],
)
def test_refused_single_mail_counts_if_another_was_accepted_within_a_day(engine, changes, counts):
    gone = add_delivery(engine, "gone@example.org", **SINGLE)
    refuse(engine, gone)
    add_delivery(engine, **SINGLE | {"status": Status.SENT, "sent_at": NOW} | changes)

    assert judge(engine).counted == ({gone} if counts else set())


@pytest.mark.parametrize(
    ("changes", "counts"),
    [
        ({}, True),
        ({"created_at": NOW - guard.LIVES + SECOND}, True),
        ({"created_at": NOW - guard.LIVES}, False),
        ({"sent_at": NOW - SECOND}, False),
        ({"status": Status.UNCERTAIN}, False),
        ({"redacted": True}, False),
        ({"subscriber_id": 1, "address": "other@example.org"}, False),
        ({"came_back": True}, False),
    ],
)
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_reader_refused_for_days_counts_only_if_another_mail_was_accepted(engine, changes, counts):
    reader = add_subscriber(engine, "gone@example.org")
    if changes.get("subscriber_id"):
        changes = changes | {"subscriber_id": reader}
    accepted = {"status": Status.SENT, "sent_at": NOW} | changes
    came_back = accepted.pop("came_back", False)
    other = add_delivery(engine, **SINGLE | accepted)
    if came_back:
        record(engine, other, server="", kind=None)

    days_of(engine, reader, 3)

    assert held(engine) == ({} if counts else {None: True})
    assert bool(outbox.suppressions(engine)) is counts
    if not counts:
        assert {one.address_hash for one in rows(engine, RefusalRow)} <= {f"hash of {address(0)}"}


@pytest.mark.parametrize(
    ("own", "counts"),
    [
        ({}, False),
        ({"sent_at": NOW}, True),
        ({"status": Status.FAILED}, True),
        ({"address": "other@example.org"}, True),
        ({"came_back": True}, True),
        ({"subscriber_id": None}, True),
    ],
)
def test_later_accepted_mail_to_the_same_address_cancels_a_refusal(engine, own, counts):
    reader = add_subscriber(engine, "gone@example.org")
    refused = add_delivery(engine, subscriber_id=reader)
    refuse(engine, refused)
    accept_others(engine)
    later = {"subscriber_id": reader, "status": Status.SENT, "sent_at": NOW + HOUR} | own
    came_back = later.pop("came_back", False)
    id_ = add_delivery(engine, **SINGLE | later)
    if came_back:
        record(engine, id_, server="", kind=None, edition_on=None)

    assert judge(engine, NOW + DAY).counted == ({refused} if counts else set())


@pytest.mark.parametrize(
    ("waiting", "counts"),
    [
        ({}, False),
        ({"not_before": NOW + SECOND}, True),
        ({"expires_at": NOW}, True),
        ({"expires_at": NOW + SECOND}, False),
        ({"status": Status.LEASED}, False),
        ({"status": Status.SENDING}, False),
        ({"status": Status.CANCELLED}, True),
        ({"edition_on": TODAY + DAY}, True),
    ],
)
def test_common_wording_is_not_judged_while_its_edition_is_unfinished(engine, waiting, counts):
    gone = add_delivery(engine, "gone@example.org")
    refuse(engine, gone)
    accept_others(engine, count=3)
    add_delivery(engine, **waiting)

    assert judge(engine).counted == ({gone} if counts else set())


@pytest.mark.parametrize(("accepted", "counts"), [(4, False), (5, True)])
def test_wording_of_a_fifth_of_attempts_does_not_count_yet(engine, accepted, counts):
    gone = add_delivery(engine, "gone@example.org")
    refuse(engine, gone)
    accept_others(engine, count=accepted)
    add_delivery(engine)

    assert judge(engine).counted == ({gone} if counts else set())


@pytest.mark.parametrize(
    ("oldest", "trips"), [(NOW, True), (NOW - DAY + SECOND, True), (NOW - DAY, False)]
)
def test_five_refused_single_mails_within_a_day_trip_the_guard(engine, oldest, trips):
    for n in range(5):
        id_ = add_delivery(engine, address(n), **SINGLE)
        record(engine, id_, n, edition_on=None, at=NOW if n else oldest)

    with engine.begin() as conn:
        assert bool(guard.watch(conn, [None], NOW)) is trips


@pytest.mark.parametrize(("sent_at", "trips"), [(NOW, True), (NOW + SECOND, False)])
def test_refused_single_mails_do_not_trip_after_an_accepted_digest(engine, sent_at, trips):
    outbox.alter(engine, add_delivery(engine), status=Status.SENT, sent_at=sent_at)
    for n in range(6):
        id_ = add_delivery(engine, address(n), **SINGLE)
        record(engine, id_, n, edition_on=None, at=NOW + n * SECOND)

    with engine.begin() as conn:
        assert bool(guard.watch(conn, [None], NOW + HOUR)) is trips


@pytest.mark.parametrize(
    ("sent_at", "refused"), [(NOW - SECOND, 5), (NOW, None), (NOW + SECOND, None)]
)
def test_acceptance_resets_consecutive_refusals(engine, sent_at, refused):
    accept_others(engine, count=1)
    outbox.alter(engine, 1, sent_at=sent_at)
    for n in range(5):
        record(engine, add_delivery(engine, address(n)), n)
    for n in range(5, 10):  # five are less than half of the edition
        add_delivery(engine, address(n))

    trips = judge(engine).trips

    assert [trip.refused for trip in trips] == ([refused] if refused else [])
    if refused:
        assert trips[0].reason == "5 refusals in a row at 5 domains: no"


def test_bounces_and_later_acceptances_are_not_consecutive_refusals(engine):
    """Six refusals do not make a row if one is a later bounce and one was accepted in the end."""
    for n in range(6):
        id_ = add_delivery(engine, address(n))
        record(engine, id_, n, server="" if n == 0 else "mx")
        if n == 1:
            outbox.alter(engine, id_, status=Status.SENT, sent_at=NOW - HOUR)
    for n in range(6, 12):  # five are less than half of the edition
        add_delivery(engine, address(n))

    assert judge(engine).trips == []


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("a" * 20, "20 of 20 mails were refused alike: a"),
        ("abcdefghijklmnopqrst", "20 of 20 mails were refused, in various words"),
    ],
)
def test_hold_reason_states_one_wording_or_various(engine, words, reason):
    """At two domains only, so that the refusals make no row."""
    for n, said in enumerate(words):
        record(engine, add_delivery(engine, address(n)), n % 2, wording=said)

    assert [trip.reason for trip in judge(engine).trips] == [reason]


def test_each_hold_opens_the_circuit_breaker(engine):
    for day in range(2):
        now = NOW + day * DAY
        for n in range(5):
            id_ = add_delivery(engine, address(10 * day + n), edition_on=TODAY + day * DAY)
            record(engine, id_, n, edition_on=TODAY + day * DAY, at=now)
        assert judge(engine, now).trips[0].edition_on == TODAY + day * DAY
        with engine.connect() as conn:
            breaker = send_controls.circuit_breaker(conn)
        assert (breaker.open_until, breaker.refusals) == (now + guard.OPEN_FOR, day + 1)


def test_judge_returns_the_number_of_queued_deliveries_it_ended(engine):
    """Return the number of queued deliveries ended; bounced and expired ones had ended before."""
    accept_others(engine)
    queued, bounced, expired = (add_delivery(engine, address(n)) for n in range(3))
    for n, id_ in enumerate((queued, bounced, expired)):
        record(engine, id_, n, server="" if id_ == bounced else "mx")
    outbox.alter(engine, bounced, status=Status.SENT, sent_at=NOW)
    outbox.alter(engine, expired, status=Status.EXPIRED)
    with engine.connect() as conn:
        assert guard.count_waiting(conn) == 3

    judgement = judge(engine)

    assert (judgement.counted, judgement.ended) == ({queued, bounced, expired}, 1)
    assert outbox.statuses(engine)[2:] == [Status.SUPPRESSED, Status.SENT, Status.EXPIRED]
    assert judge(engine).ended == 0
    with engine.connect() as conn:
        assert guard.count_waiting(conn) == 0


def test_refusal_suppresses_the_old_address_and_keeps_mail_to_the_new_one(engine):
    reader = add_subscriber(engine, "old@example.org")
    refuse(engine, add_delivery(engine, subscriber_id=reader))
    owed = add_delivery(engine, subscriber_id=reader, edition_on=TODAY + DAY)
    with engine.begin() as conn:
        conn.exec_driver_sql("UPDATE subscribers SET address_hash = 'new'")
    accept_others(engine)

    judge(engine)

    assert outbox.suppressions(engine) == {"hash of old@example.org": "hard"}
    assert row(engine, owed).status == Status.QUEUED


def test_judge_is_limited_to_the_given_editions(engine):
    ids = [add_delivery(engine, address(n), edition_on=TODAY + n * DAY) for n in range(2)]
    for n, id_ in enumerate(ids):
        accept_others(engine, TODAY + n * DAY)
        record(engine, id_, n, edition_on=TODAY + n * DAY)

    assert judge(engine, editions=[TODAY + DAY]).counted == {ids[1]}
    assert judge(engine).counted == {ids[0]}


def test_restore_lifts_one_suppression_and_deletes_its_strikes(engine):
    """Deliveries return to the queue unless they have expired; rows of other readers stay."""
    readers = [add_subscriber(engine, address(n)) for n in range(2)]
    for reader, n in zip(readers, range(2), strict=True):
        add_delivery(engine, subscriber_id=reader, status=Status.SUPPRESSED,
                     expires_at=NOW - SECOND)  # fmt: skip
        add_delivery(engine, subscriber_id=reader, status=Status.SUPPRESSED, range_from=5,
                     range_to=7, expires_at=NOW + HOUR)  # fmt: skip
        with engine.begin() as conn:
            conn.execute(
                insert(StrikeRow).values(
                    address_hash=f"hash of {address(n)}", edition_on=TODAY, kind="soft",
                    noted_at=NOW,
                )
            )  # fmt: skip
            suppressions.suppress(conn, f"hash of {address(n)}", SuppressionReason.HARD, NOW)

    with engine.begin() as conn:
        assert not guard.restore(conn, f"hash of {address(0)}", NOW + SECOND, NOW)
        assert guard.restore(conn, f"hash of {address(0)}", NOW, NOW)

    assert outbox.suppressions(engine) == {f"hash of {address(1)}": "hard"}
    assert outbox.statuses(engine) == [
        Status.SUPPRESSED, Status.QUEUED, Status.SUPPRESSED, Status.SUPPRESSED
    ]  # fmt: skip
    assert [one.address_hash for one in rows(engine, StrikeRow)] == [f"hash of {address(1)}"]


def test_suppression_cause_is_the_newest_counted_refusal(engine):
    reader = add_subscriber(engine, address(0))
    for hours, said, counted in ((0, "first", True), (1, "second", True), (2, "third", False)):
        id_ = add_delivery(engine, subscriber_id=reader)
        record(engine, id_, at=NOW + hours * HOUR, wording=said, counted=counted)
    record(engine, add_delivery(engine), 1, at=NOW + 3 * HOUR, wording="other", counted=True)

    with engine.connect() as conn:
        assert guard.cause_of(conn, f"hash of {address(0)}") == (TODAY, "second")
        assert guard.cause_of(conn, "hash of nobody") == (None, "")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"status": Status.FAILED, "reply": "550 b"}, "550 b"),
        ({"status": Status.SUPPRESSED, "reply": "550 b"}, "550 b"),
        ({"status": Status.FAILED, "reply": None}, "550 a"),
        ({"status": Status.SENT, "reply": "250 b"}, "550 a"),
        (
            {"status": Status.SENT, "reply": "250", "reason": "accepted, then hard"},
            "accepted then hard",
        ),
        ({"status": Status.FAILED, "reply": "550 b", "address": "other@example.org"}, "550 a"),
        ({"status": Status.FAILED, "reply": "550 b", "subscriber_id": None}, "550 a"),
    ],
)
def test_suppression_cause_falls_back_to_the_newest_refused_delivery(engine, changes, said):
    reader = add_subscriber(engine, address(0))
    add_delivery(engine, subscriber_id=reader, status=Status.FAILED, reply="550 a")
    add_delivery(engine, **{"subscriber_id": reader} | changes)

    with engine.connect() as conn:
        assert guard.cause_of(conn, f"hash of {address(0)}") == (TODAY, said)


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        ({"kind": "soft"}, {"kind": "full"}, "full"),
        ({"kind": "hard"}, {"kind": "soft", "server": ""}, "soft"),
        ({"kind": "soft", "counted": True}, {"kind": "full", "server": ""}, "soft"),
        ({"kind": "soft", "counted": True}, {"kind": "full"}, "full"),
        ({"kind": "soft", "counted": True}, {"kind": "hard", "server": ""}, "hard"),
        ({"kind": "hard", "counted": True}, {"kind": "soft"}, "hard"),
    ],
)
def test_counted_refusal_is_replaced_only_by_a_stronger_one(engine, first, second, kept):
    id_ = add_delivery(engine, address(0))
    record(engine, id_, wording="first", **first)
    record(engine, id_, wording="second", **second)

    (refusal,) = rows(engine, RefusalRow)
    is_new = refusal.wording == "second"
    assert (refusal.kind, refusal.counted) == (kept, first.get("counted", False) and not is_new)
    with engine.connect() as conn:
        assert refusals.is_counted(conn, id_) is refusal.counted
        assert not refusals.is_counted(conn, id_ + 1)


def test_refusals_are_listed_oldest_first_and_cleared_per_address(engine):
    for n, hours in ((0, 2), (1, 0), (0, 1)):
        record(engine, add_delivery(engine, subscriber_id=None), n, at=NOW + hours * HOUR,
               edition_on=None if hours == 1 else TODAY)  # fmt: skip

    with engine.begin() as conn:
        said = refusals.records_of(conn, f"hash of {address(0)}")
        assert [one["at"] for one in said] == [NOW + HOUR, NOW + 2 * HOUR]
        assert said[0] == {"at": NOW + HOUR, "kind": "hard", "wording": "no", "counted": False}
        assert refusals.editions_of(conn, [1, 2]) == {TODAY}
        assert refusals.editions_of(conn, [1, 3, 4]) == {TODAY, None}
        refusals.clear_refusals(conn, f"hash of {address(0)}")
    assert [one.delivery_id for one in rows(engine, RefusalRow)] == [2]


def test_old_refusals_are_deleted_in_batches(engine):
    for n in range(4):
        record(engine, add_delivery(engine), n, at=NOW + n * HOUR)

    with engine.begin() as conn:
        drop = refusals.delete_old
        dropped = [drop(conn, before=NOW + 3 * HOUR, limit=2) for _ in range(3)]

    assert dropped == [2, 1, 0]
    assert [one.delivery_id for one in rows(engine, RefusalRow)] == [4]


def test_recipient_of_returns_the_delivery_address_if_it_has_its_own(engine):
    own = add_delivery(engine, address(0), domain="d0.example", attempts=2)
    moved = add_delivery(engine, address(1), address="new@d.example", domain="d.example", **SINGLE)

    with engine.connect() as conn:
        found = [refusals.recipient_of(conn, id_) for id_ in (own, moved, moved + 1)]

    assert found == [
        refusals.RefusedRecipient(
            TODAY, False, address(0), f"hash of {address(0)}", "d0.example", 2
        ),
        refusals.RefusedRecipient(
            None, True, "new@d.example", f"hash of {address(1)}", "d.example", 0
        ),
        None,
    ]


# --- Concurrency, crashes, repetition -----------------------------------------------------------


def test_crash_never_separates_a_refusal_from_its_delivery(engine):
    id_ = add_delivery(engine)
    statements = 0
    while True:
        with dying(engine, statements) as seen:
            refuse(engine, id_)
        if len(seen) <= statements:
            break
        assert (row(engine, id_).status, row(engine, id_).attempts) == (Status.QUEUED, 0)
        assert rows(engine, RefusalRow) == []
        statements += 1

    assert (row(engine, id_).status, row(engine, id_).attempts) == (Status.QUEUED, 1)
    assert len(rows(engine, RefusalRow)) == 1


def test_judgement_survives_a_crash_at_any_statement(engine):
    gone = add_delivery(engine, "gone@example.org")
    refuse(engine, gone)
    accept_others(engine)
    statements = 0
    while True:
        with dying(engine, statements) as seen:
            judge(engine)
        if len(seen) <= statements:
            break
        assert outbox.suppressions(engine) == {}
        assert row(engine, gone).status == Status.QUEUED
        statements += 1

    assert outbox.suppressions(engine) == {"hash of gone@example.org": "hard"}
    assert row(engine, gone).status == Status.SUPPRESSED
    assert judge(engine).counted == set(), "twice changes nothing"


def test_holding_an_edition_survives_a_crash_at_any_statement(engine):
    for n, id_ in enumerate(add_readers(engine, 8)):
        outbox.alter(engine, id_, attempts=1)
        record(engine, id_, n)
    statements = 0
    while True:
        with dying(engine, statements) as seen:
            judge(engine)
        if len(seen) <= statements:
            break
        assert held(engine) == {}
        assert len(rows(engine, RefusalRow)) == 8
        statements += 1

    assert statements > 5
    assert held(engine) == {TODAY: True}
    assert nobody_is_charged(engine)
    assert judge(engine).trips == []


def record(
    engine, delivery_id, number=0, *, server="mx", at=NOW, kind=StrikeKind.HARD, edition_on=TODAY,
    wording="no", counted=False,
):  # fmt: skip
    ends_as = Status.SUPPRESSED if server else None
    values = (edition_on, f"hash of {address(number)}", f"d{number}.example", kind, ends_as)
    with engine.begin() as conn:
        refusals.record(conn, refusals.Refusal(delivery_id, *values, wording, server, at))
        if counted:
            this = RefusalRow.delivery_id == delivery_id
            conn.execute(update(RefusalRow).where(this).values(counted=True))


def test_leased_delivery_is_not_judged(engine):
    id_ = add_delivery(engine, "gone@example.org")
    refuse(engine, id_)
    accept_others(engine)
    outbox.alter(engine, id_, status=Status.LEASED, lease="another's", lease_until=NOW + HOUR)

    assert judge(engine).counted == set()
    assert outbox.suppressions(engine) == {}


def test_refusal_does_not_count_if_the_delivery_was_sent_later(engine):
    id_ = add_delivery(engine)
    refuse(engine, id_)
    accept_others(engine)
    outbox.alter(engine, id_, status=Status.SENT, sent_at=NOW)

    assert judge(engine).counted == set()
    assert nobody_is_charged(engine)
    assert row(engine, id_).status == Status.SENT


def test_refusals_by_a_replaced_server_do_not_count(engine):
    id_ = add_delivery(engine)
    refuse(engine, id_, server="old")
    accept_others(engine)

    assert judge(engine, server="new").counted == set()

    assert nobody_is_charged(engine)
    assert (row(engine, id_).not_before, row(engine, id_).attempts) == (NOW, 0)


def test_soft_refusal_adds_no_strike_after_an_address_change(engine):
    reader = add_subscriber(engine, "old@example.org")
    id_ = add_delivery(engine, subscriber_id=reader)
    refuse(engine, id_, strike=StrikeKind.SOFT)
    with engine.begin() as conn:
        conn.exec_driver_sql("UPDATE subscribers SET address_hash = 'new'")
    accept_others(engine)

    judge(engine)

    assert rows(engine, StrikeRow) == []


@pytest.mark.full
def test_many_late_bounces_lift_the_suppressions_of_the_first_ones(engine):
    """Late bounces of one wording lift the suppressions that the first of them caused."""
    owed_tomorrow = []
    for n, id_ in enumerate(add_readers(engine, 60)):
        outbox.alter(engine, id_, status=Status.SENT, sent_at=NOW)
        if n < 25:
            record(engine, id_, n, server="", at=NOW)
            subscriber = row(engine, id_).subscriber_id
            owed_tomorrow.append(
                add_delivery(engine, subscriber_id=subscriber, edition_on=TODAY + DAY,
                             range_from=5, range_to=7)
            )  # fmt: skip
            judge(engine)

    assert nobody_is_charged(engine)
    assert {row(engine, id_).status for id_ in owed_tomorrow} == {Status.QUEUED}
    assert set(held(engine)) == {TODAY, TODAY + DAY}


def test_manual_suppression_is_never_lifted(engine):
    reader = add_subscriber(engine, "ada@example.org")
    outbox.suppress(engine, reader)
    with engine.begin() as conn:
        assert not suppressions.lift_recent(
            conn, "hash of ada@example.org", guard.OURS, since=NOW - DAY
        )
    assert outbox.suppressions(engine) == {"hash of ada@example.org": "manual"}


# --- Bounces and webhooks -----------------------------------------------------------------------


def bounce(engine, feedback, delivery_id, reason=UNKNOWN, provider=None, now=NOW):
    envelope = SENDER.envelope(delivery_id, row(engine, delivery_id).dedupe_key)
    notice = Notice(
        NoticeKind.HARD, envelope=envelope, status="5.1.1", verdict=Verdict.HARD, reason=reason
    )
    if provider is None:
        return feedback.apply(notice, now)
    return feedback.take(provider, Event(str(delivery_id), "Bounce", "{}", (notice,)), now)[0]


@pytest.mark.full
@pytest.mark.parametrize("provider", [None, "ses", "generic"])
def test_edition_that_bounces_completely_suppresses_no_reader(engine, sink, feedback, provider):
    ids = add_readers(engine)
    send_all(engine, sink)

    for id_ in ids:
        bounce(engine, feedback, id_, provider=provider)

    assert outbox.suppressions(engine) == {}
    assert rows(engine, StrikeRow) == []
    assert held(engine) == {TODAY: True}
    returned = [id_ for id_ in ids if row(engine, id_).status == Status.FAILED]
    assert len(returned) >= 20
    assert {outbox.cursor(engine, id_) for id_ in returned} == {2}, "their papers are owed"


@pytest.mark.full
@pytest.mark.parametrize("provider", [None, "ses", "generic"])
def test_six_bounces_of_a_hundred_suppress_their_addresses(engine, sink, feedback, provider):
    ids = add_readers(engine)
    send_all(engine, sink)

    effects = {bounce(engine, feedback, id_, provider=provider) for id_ in ids[::17]}

    assert effects == {Effect.SUPPRESSED}
    assert len(outbox.suppressions(engine)) == 6
    assert held(engine) == {}


def test_single_bounce_counts_only_after_other_mail_was_accepted(engine, sink, feedback):
    id_ = add_delivery(engine, "gone@example.org")
    send_all(engine, sink)

    assert bounce(engine, feedback, id_) is Effect.HELD
    assert outbox.suppressions(engine) == {}
    accept_others(engine)
    assert judge(engine).counted == {id_}
    assert outbox.suppressions(engine) == {"hash of gone@example.org": "hard"}


# --- The operator -------------------------------------------------------------------------------


@pytest.mark.full
def test_hold_is_reported_by_progress_health_and_doctor(engine, sink, database_url):
    add_readers(engine, 40)
    sink.answers = {"RCPT": NONSENSE}
    send_all(engine, sink)

    with engine.connect() as conn:
        made = stats.read_stats(conn, NOW)
    installation = Installation(settings.load(None, database_url=database_url), NOW)
    found = list(services.sending(installation))
    installation.services.engine.dispose()

    assert "zbrwl" in made.held[0].reason
    (told,) = [why for why in stats.problems(made, NOW, NOW) if "is held" in why]
    assert f"sending of {TODAY} is held: " in told
    assert [finding.ok for finding in found] == [False, False]
    assert f"paperboy editions resume {TODAY}" in found[0].advice
    assert "User" not in found[0].detail


@pytest.mark.full
@pytest.mark.parametrize(("refused", "alerts"), [(20, True), (4, False)])
def test_refusals_after_data_between_acceptances_alert_the_operator(
    engine, sink, database_url, refused, alerts
):
    """One provider may refuse what the others accept: nothing is held and no reader is charged."""
    add_readers(engine, 40)
    sink.answers = {f"DOT {address(2 * n)}": NONSENSE for n in range(refused)}

    assert send_all(engine, sink) is None

    assert held(engine) == {}
    assert nobody_is_charged(engine)
    with engine.connect() as conn:
        reasons = stats.problems(stats.read_stats(conn, NOW), NOW, NOW)
    installation = Installation(settings.load(None, database_url=database_url), NOW)
    found = list(services.sending(installation))
    installation.services.engine.dispose()
    expected = f"20 of 40 mails of the edition of {TODAY} failed alike: 554 zbrwl"
    assert [why.startswith(expected) for why in reasons if "failed" in why] == [True] * alerts
    assert [finding.ok for finding in found] == [not alerts]


def test_manual_hold_raises_no_alert(engine):
    controls.stop(engine, NOW, TODAY)
    with engine.connect() as conn:
        assert stats.problems(stats.read_stats(conn, NOW), NOW, NOW) == []


def suppressed_reader(engine, number, reply, days=0, reason="hard"):
    """Suppress a reader after one refusal, as an older version did; return the delivery's id."""
    reader = add_subscriber(engine, address(number))
    at = NOW + days * DAY
    refused = add_delivery(
        engine, subscriber_id=reader, status=Status.SUPPRESSED, reply=reply,
        edition_on=TODAY + days * DAY, created_at=at, expires_at=at + 18 * HOUR,
    )  # fmt: skip
    with engine.begin() as conn:
        suppressions.suppress(conn, f"hash of {address(number)}", SuppressionReason(reason), at)
    return refused


def test_undo_lifts_recent_suppressions_with_a_given_reply(engine):
    ids = [suppressed_reader(engine, n, f"550 5.7.25 {address(n)} no PTR") for n in range(6)]
    suppressed_reader(engine, 10, UNKNOWN)
    suppressed_reader(engine, 11, "550 5.7.25 no PTR", days=-2)
    for n, reason in ((12, "complaint"), (13, "manual")):
        suppressed_reader(engine, n, "550 5.7.25 no PTR", reason=reason)

    found = undoable(engine, NOW, reply="no ptr")

    assert Counter(one.wording for one in found) == {"550 5.7.25 # no ptr": 6}
    assert {one.edition_on for one in found} == {TODAY}
    assert undo(engine, found, NOW + HOUR) == 6
    assert undo(engine, found, NOW + HOUR) == 0, "twice changes nothing"
    assert undoable(engine, NOW, reply="no ptr") == []
    assert set(outbox.suppressions(engine).values()) == {"hard", "complaint", "manual"}
    assert {row(engine, id_).status for id_ in ids} == {Status.QUEUED}, "they are owed again"


def test_undoable_filters_by_time_and_reason(engine):
    for n, (days, reason) in enumerate([(0, "hard"), (0, "soft"), (1, "full"), (2, "hard")]):
        suppressed_reader(engine, n, UNKNOWN, days=days, reason=reason)

    def count(**which):
        return len(undoable(engine, **{"since": NOW, **which}))

    assert count() == 4
    assert count(until=NOW + DAY) == 2
    assert count(reasons=[SuppressionReason.SOFT, SuppressionReason.COMPLAINT]) == 1
    assert count(since=NOW + 2 * DAY) == 1


def test_undo_after_expiry_moves_the_papers_to_the_next_digest(engine):
    refused = suppressed_reader(engine, 1, UNKNOWN)

    undo(engine, undoable(engine, NOW), NOW + 2 * DAY)

    assert row(engine, refused).status == Status.SUPPRESSED
    assert outbox.cursor(engine, refused) == 2


def test_undo_keeps_a_complaint_recorded_meanwhile(engine):
    suppressed_reader(engine, 1, UNKNOWN)
    found = undoable(engine, NOW)
    with engine.begin() as conn:
        suppressions.suppress(
            conn, f"hash of {address(1)}", SuppressionReason.COMPLAINT, NOW + HOUR
        )

    assert undo(engine, found, NOW + HOUR) == 0
    assert set(outbox.suppressions(engine).values()) == {"complaint"}


def test_undo_survives_a_crash_at_any_statement(engine):
    suppressed_reader(engine, 1, UNKNOWN)
    statements = 0
    while True:
        found = undoable(engine, NOW)
        with dying(engine, statements) as seen:
            undo(engine, found, NOW + HOUR)
        if len(seen) <= statements:
            break
        assert len(outbox.suppressions(engine)) == 1
        statements += 1

    assert statements > 2
    assert outbox.suppressions(engine) == {}
