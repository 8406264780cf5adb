"""Joining: only the owner of an address can subscribe it, and replies never reveal its state."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, event

from pipeline import editions, signup
from pipeline.domain import (
    DeliveryKind,
    DeliveryStatus,
    Origin,
    SkipReason,
    Subscriber,
    SubscriberStatus,
    SuppressionReason,
)
from pipeline.errors import (
    AddressError,
    InvalidTokenError,
    LimitError,
    QueryError,
    SettingsError,
)
from pipeline.signup import Choices, parse_queries
from pipeline.signup.abuse_limits import Limits, inbox_of
from pipeline.signup.choices import as_json, from_json
from pipeline.storage import addresses, deliveries, subscribers, suppressions, transactional
from pipeline.storage.deliveries import Settlement
from pipeline.storage.schema import (
    DeliveryRow,
    PendingConfirmationRow,
    PickRow,
    RateLimitRow,
    RequestRow,
    SkipRow,
    StrikeRow,
    SubscriberRow,
    SubscriptionRow,
)
from tests.support.dying import dying
from tests.support.factories import NOW, TODAY, make_schedule, make_sighting
from tests.support.newsroom import SUPPRESSION_KEY, add_reader, count, ingest, rows

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
ADA = "ada@example.org"
WISHES = Choices(
    parse_queries(("cat:cs.IR", "Dense  retrieval")), make_schedule(9, "Europe/Berlin"), 5
)
KINDS = ["new", "pending", "active", "unsubscribed", "suppressed", "complained"]


IP = "203.0.113.7"
FEW = Limits(per_hour=5, per_day=20, everybody=2_000)


def ask(engine: Engine, email: str = ADA, choices: Choices = WISHES, **changes: Any) -> None:
    given = {"ip": IP, "suppression_key": SUPPRESSION_KEY, "now": NOW, "limits": FEW}
    assert signup.request_subscription(engine, email, choices, **{**given, **changes}) is None


def mails(engine: Engine) -> list[tuple[str, str]]:
    return [(d.kind, d.status) for d in rows(engine, DeliveryRow, DeliveryRow.id)]


def last_request(engine: Engine) -> int:
    return max(row.id for row in rows(engine, RequestRow))


def hash_of(email: str) -> str:
    return addresses.address_hash(email, SUPPRESSION_KEY)


def suppress(engine: Engine, email: str, reason: SuppressionReason) -> None:
    with engine.begin() as conn:
        suppressions.suppress(conn, hash_of(email), reason, NOW)


def make_known(engine: Engine, kind: str) -> None:
    """Put the address in this state three days ago, without a recent confirmation mail."""
    before = NOW - 3 * DAY
    if kind == "pending":
        ask(engine, now=before)
    if kind in {"active", "unsubscribed"}:
        reader = add_reader(engine, "cat:cs.LG", now=before)
        if kind == "unsubscribed":
            signup.leave(engine, reader.secret, before)
    if kind == "suppressed":
        suppress(engine, ADA, SuppressionReason.HARD)
    if kind == "complained":
        suppress(engine, ADA, SuppressionReason.COMPLAINT)


@contextmanager
def watching(engine: Engine) -> Iterator[list[str]]:
    """Yield a list of the statements run, with COMMIT or ROLLBACK when a transaction ends."""
    seen: list[str] = []
    hooks = {
        "before_cursor_execute": lambda _c, _cursor, statement, *_: seen.append(
            " ".join(statement.split()[:3])
        ),
        "commit": lambda _: seen.append("COMMIT"),
        "rollback": lambda _: seen.append("ROLLBACK"),
    }
    for name, hook in hooks.items():
        event.listen(engine, name, hook)
    yield seen
    for name, hook in hooks.items():
        event.remove(engine, name, hook)


def publish(engine: Engine, now=NOW) -> list[editions.SlotResult]:
    return list(editions.publish(engine, now=now, expiry=18 * HOUR, template="1"))


def welcome(engine: Engine, reader: Subscriber, now=NOW) -> editions.SlotResult | None:
    """Publish and return the outcome for this reader, or None if nothing was due."""
    return next((o for o in publish(engine, now) if o.subscriber_id == reader.id), None)


def send(engine: Engine, now=NOW) -> None:
    """Claim, mark and settle all due deliveries as sent."""
    with engine.begin() as conn:
        ids = [d.id for d in deliveries.claim(conn, 100, "token", HOUR, now)]
        assert deliveries.mark(conn, ids, "token", HOUR, now) == set(ids)
        sent = [Settlement(id_, DeliveryStatus.SENT, "accepted") for id_ in ids]
        deliveries.settle(conn, sent, "token", now)


def join(engine: Engine, *queries: str, now=NOW) -> Subscriber:
    """Return a newly confirmed reader without a welcome mail."""
    ask(engine, choices=Choices(parse_queries(queries or ("cat:cs.IR",))), now=now)
    return signup.confirm(engine, last_request(engine), now).subscriber


# --- Requests -----------------------------------------------------------------------------------


def test_signup_form_queues_a_confirmation_and_changes_nothing_else(engine: Engine):
    ask(engine)

    (subscriber,) = rows(engine, SubscriberRow)
    assert subscriber.status == SubscriberStatus.PENDING
    assert subscriber.next_slot_at is None
    assert count(engine, SubscriptionRow) == 0
    (delivery,) = rows(engine, DeliveryRow)
    assert delivery.dedupe_key == f"confirmation:{subscriber.id}:{last_request(engine)}"
    assert (delivery.request_id, delivery.expires_at) == (last_request(engine), NOW + 72 * HOUR)


def test_signup_form_does_not_change_an_active_reader(engine: Engine):
    """An active reader is notified of the request, which changes nothing."""
    reader = add_reader(engine, "cat:cs.LG")

    ask(engine)

    assert mails(engine) == [("already-in", "queued")]
    assert signup.find(engine, ADA) == (reader, ("cat:cs.lg",))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("new", ["confirmation"]),
        ("pending", ["confirmation", "confirmation"]),
        ("active", ["already-in"]),
        ("unsubscribed", ["confirmation"]),
        ("suppressed", ["confirmation"]),
        ("complained", []),
    ],
)
def test_each_address_state_gets_the_expected_mail(engine: Engine, kind: str, expected: list[str]):
    make_known(engine, kind)

    ask(engine)

    assert [mail for mail, _ in mails(engine)] == expected


def test_signup_runs_the_same_statements_for_any_address(engine: Engine):
    """The same statements in one transaction, also if the address is over its limit."""
    seen = {}
    for number, kind in enumerate([*KINDS, "asked"]):
        for reader, _ in list(signup.everyone(engine)):
            signup.erase_by_id(engine, reader.id, NOW - 4 * DAY)
        make_known(engine, kind)
        if kind == "asked":
            ask(engine, ip=None, now=NOW - HOUR)
        with watching(engine) as seen[kind]:
            ask(engine, ip=f"198.51.{number}.7")
        with engine.begin() as conn:
            hash_ = addresses.address_hash(ADA, SUPPRESSION_KEY)
            suppressions.lift(conn, hash_)
            conn.execute(PendingConfirmationRow.__table__.delete())

    assert seen["new"].count("COMMIT") == 1
    assert len(seen["new"]) >= 10
    assert all(statements == seen["new"] for statements in seen.values())


@pytest.mark.parametrize(
    ("email", "choices", "error"),
    [
        ("nobody", Choices(), AddressError),
        (ADA, Choices(schedule=make_schedule(timezone="Mars/Base")), SettingsError),
    ],
)
def test_invalid_form_stores_nothing(engine: Engine, email: str, choices: Choices, error):
    with pytest.raises(error):
        ask(engine, email, choices)

    assert [count(engine, t) for t in (SubscriberRow, RequestRow, RateLimitRow)] == [0, 0, 0]


@pytest.mark.parametrize("texts", [("moss", "(open"), [f"topic {n}" for n in range(101)]])
def test_topics_are_parsed_before_a_subscription_is_requested(texts):
    with pytest.raises(QueryError):
        parse_queries(texts)


# --- Limits -------------------------------------------------------------------------------------


def test_address_gets_one_confirmation_a_day_and_three_a_month(engine: Engine):
    for hours in (0, 23, 24, 30, 48, 72, 30 * 24 + 1):
        ask(engine, ip=None, now=NOW + hours * HOUR)

    asked = [
        row.requested_at - NOW
        for row in rows(engine, PendingConfirmationRow, PendingConfirmationRow.requested_at)
    ]
    assert asked == [hours * HOUR for hours in (0, 24, 48, 30 * 24 + 1)]
    assert len(mails(engine)) == 4


def sent_at(engine: Engine) -> list[timedelta]:
    return [
        row.requested_at - NOW
        for row in rows(engine, PendingConfirmationRow, PendingConfirmationRow.requested_at)
    ]


def most_in_a_month(times: list[timedelta]) -> int:
    return max(sum(start <= at < start + 30 * DAY for at in times) for start in times)


@pytest.mark.full
def test_repeated_requests_delay_the_owner_by_at_most_a_day(engine: Engine):
    """The stranger requests twice a day for 60 days; the owner then requests from elsewhere."""
    for hour in range(0, 60 * 24, 12):
        ask(engine, ip="198.51.100.1", now=NOW + hour * HOUR, limits=Limits(10**6, 10**6, 10**6))
    before = sent_at(engine)
    assert most_in_a_month(before) <= 12

    tries = 0
    while len(sent_at(engine)) == len(before):
        tries += 1
        ask(engine, now=NOW + 60 * DAY + tries * HOUR, limits=Limits(10**6, 10**6, 10**6))

    assert tries <= 24


@pytest.mark.full
@pytest.mark.parametrize("networks", [1, 1_000])
def test_newest_confirmation_link_is_always_valid(engine: Engine, networks: int):
    """With requests from one network or a thousand; also if the owner is in the same network."""
    for step in range(0, 60 * 24, 12):
        ip = f"198.{step % networks % 250}.{step % networks // 250}.1"
        ask(engine, ip=ip, now=NOW + step * HOUR, limits=Limits(10**6, 10**6, 10**6))
        newest = sent_at(engine)[-1]
        assert step * HOUR - newest < 72 * HOUR, "the link in the newest mail has ended"

    assert most_in_a_month(sent_at(engine)) <= (12 if networks == 1 else 18)
    gaps = [later - one for one, later in pairwise(sent_at(engine))]
    assert min(gaps) >= DAY


def test_address_variants_of_one_inbox_share_a_limit(engine: Engine):
    """For limits only: they are separate subscribers."""
    for email in ("ada+1@example.org", "ada@example.org", "Ada+x+y@example.org"):
        ask(engine, email)
    for email in ("a.d.a@gmail.com", "ada+x@googlemail.com", "ada@gmail.com"):
        ask(engine, email, ip="198.51.100.1")
    ask(engine, "a.da@example.org", ip="192.0.2.1")

    assert len(mails(engine)) == 3
    assert count(engine, SubscriberRow) == 7


def test_confirming_one_address_resets_the_limit_of_its_inbox(engine: Engine):
    ask(engine, "ada+papers@example.org")
    signup.confirm(engine, last_request(engine), NOW)

    ask(engine, "ada@example.org")

    assert [kind for kind, _ in mails(engine)] == ["confirmation", "confirmation"]


def test_inbox_of_keeps_a_local_part_of_only_plus_or_dots():
    assert inbox_of("+@Example.org") == "+@example.org"
    assert inbox_of("...@gmail.com") == "...@gmail.com"


@pytest.mark.full
@pytest.mark.parametrize("reason", [SuppressionReason.HARD])
def test_suppressed_address_gets_one_mail_per_network_and_three_a_month(engine: Engine, reason):
    """One mail per network and three in all: the address most likely bounces again."""
    add_reader(engine, "cat:cs.LG", now=NOW - 9 * DAY)
    suppress(engine, ADA, reason)
    for day in range(20):
        ask(engine, ip="198.51.100.1", now=NOW + day * DAY)
    assert len(mails(engine)) == 1

    for day in range(20, 29):
        ask(engine, ip=f"203.0.{day}.1", now=NOW + day * DAY)

    assert len(mails(engine)) == 3


def test_confirming_resets_the_confirmation_limit(engine: Engine):
    reader = join(engine)
    signup.leave(engine, reader.secret, NOW + HOUR)

    ask(engine, now=NOW + 2 * HOUR)

    assert mails(engine) == [("confirmation", "cancelled"), ("confirmation", "queued")]


@pytest.mark.parametrize("ip", ["203.0.113.7", "::ffff:203.0.113.7", "2001:db8:1:2::9", "socket"])
def test_ip_address_is_limited_to_five_requests_an_hour(engine: Engine, ip: str):
    """For any address; the sixth request raises LimitError and stores nothing."""
    add_reader(engine, email="r9@example.org")
    for number in range(5):
        ask(engine, f"r{number}@example.org", ip=ip)

    for email in ("r9@example.org", "r5@example.org"):
        with pytest.raises(LimitError) as refused:
            ask(engine, email, ip=ip)
        assert refused.value.retry_at == NOW + HOUR

    asked = [row for row in rows(engine, RequestRow) if row.origin == Origin.FORM]
    assert (len(asked), len(mails(engine))) == (5, 5)
    ask(engine, "r5@example.org", ip=ip, now=NOW + HOUR)


def test_addresses_of_one_network_share_a_limit(engine: Engine):
    """Rotating inside an IPv4 /24 or an IPv6 /48 soon reaches the limit."""
    one = Limits(per_hour=1)
    for network in ("203.0.113.{}", "2001:db8:7:{}00::1"):
        for host in (1, 2, 3, 4):
            ask(engine, f"{host}@{len(network)}.org", ip=network.format(host), limits=one)
        with pytest.raises(LimitError):
            ask(engine, "more@example.org", ip=network.format(5), limits=one)

    ask(engine, "more@example.org", ip="203.0.114.1", limits=one)


@pytest.mark.full
def test_forty_signups_from_one_ip_address_are_accepted_by_default(engine: Engine):
    for number in range(40):
        ask(engine, f"r{number}@example.org", limits=Limits())

    assert len(mails(engine)) == 40


def test_global_limit_is_shared_by_all_networks(engine: Engine):
    two = Limits(everybody=2)
    for number in range(2):
        ask(engine, f"r{number}@example.org", ip=f"198.51.{number}.1", limits=two)

    with pytest.raises(LimitError):
        ask(engine, ip="198.51.9.1", limits=two)


@pytest.mark.parametrize("wrong_by", [-HOUR, timedelta(0), 400 * DAY])
def test_limit_counters_of_an_earlier_hour_or_wrong_clock_are_ignored(
    engine: Engine, wrong_by: timedelta
):
    """One window ahead is another process; if it is further ahead, a clock was wrong: ignore it."""
    for number in range(5):
        ask(engine, f"r{number}@example.org", now=NOW + wrong_by)

    if wrong_by:
        ask(engine)
    else:
        with pytest.raises(LimitError):
            ask(engine)


def test_concurrent_requests_are_each_counted(engine: Engine):
    refused: list[LimitError] = []

    def one(number: int) -> None:
        try:
            ask(engine, f"r{number}@example.org")
        except LimitError as error:
            refused.append(error)

    threads = [threading.Thread(target=one, args=[n]) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert (len(refused), count(engine, RequestRow)) == (3, 5)


def test_concurrent_requests_for_one_address_queue_one_mail(engine: Engine):
    threads = [threading.Thread(target=ask, args=[engine]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert (count(engine, SubscriberRow), count(engine, RequestRow)) == (1, 4)
    assert mails(engine) == [("confirmation", "queued")]


@pytest.mark.parametrize("after", [2, 6, 10])
def test_crash_during_signup_stores_nothing(engine: Engine, after: int):
    with dying(engine, after):
        ask(engine)

    tables = (SubscriberRow, RequestRow, DeliveryRow, PendingConfirmationRow, RateLimitRow)
    assert [count(engine, table) for table in tables] == [0] * len(tables)


# --- Confirming ---------------------------------------------------------------------------------


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.builds(
        Choices,
        st.lists(st.from_regex(r"[a-z]{3,8}(  [A-Z]{3,8})?", fullmatch=True), max_size=3).map(
            parse_queries
        ),
        st.builds(make_schedule, st.integers(0, 23)),
        st.integers(1, 50),
    )
)
def test_wishes_round_trip_through_json(choices: Choices):
    read = from_json(as_json(choices))

    assert read == choices
    assert read.labels == choices.labels


def test_confirming_applies_the_requested_wishes(engine: Engine):
    ask(engine)
    request = signup.read_request(engine, last_request(engine), NOW)

    first = signup.confirm(engine, request.id, NOW)
    again = signup.confirm(engine, request.id, NOW + 99 * HOUR)

    assert (request.choices, request.is_used) == (WISHES, False)
    assert (first.first_time, again.first_time) == (True, False)
    assert first.subscriber.status is SubscriberStatus.ACTIVE
    assert (first.subscriber.schedule, first.subscriber.max_papers) == (WISHES.schedule, 5)
    assert first.subscriber.next_slot_at == NOW + DAY
    assert signup.choices_of(engine, first.subscriber.id).topics == (
        ("cat:cs.ir", "cat:cs.IR"),
        ("dense retrieval", "Dense retrieval"),
    )
    assert again.subscriber == first.subscriber
    assert count(engine, PendingConfirmationRow) == 0
    assert signup.read_request(engine, request.id, NOW + 99 * HOUR).is_used


@pytest.mark.parametrize("status", ["pending", "unsubscribed"])
def test_confirming_invalidates_older_requests(engine: Engine, status: str):
    """An older mail, perhaps requested by a stranger, cannot change a confirmed reader."""
    make_known(engine, status)
    ask(engine, choices=Choices(parse_queries(("cat:q-bio",))), now=NOW - 2 * DAY)
    ask(engine)
    older, newer = sorted(row.id for row in rows(engine, RequestRow))[-2:]

    confirmed = signup.confirm(engine, newer, NOW)

    assert confirmed.subscriber.status is SubscriberStatus.ACTIVE
    with pytest.raises(InvalidTokenError):
        signup.confirm(engine, older, NOW)
    assert signup.find(engine, ADA)[1] == ("cat:cs.ir", "dense retrieval")


def test_request_expires_after_three_days(engine: Engine):
    ask(engine)

    for read in (signup.read_request, signup.confirm):
        with pytest.raises(InvalidTokenError, match="expired"):
            read(engine, last_request(engine), NOW + 72 * HOUR)
        with pytest.raises(InvalidTokenError):
            read(engine, 999, NOW)


@pytest.mark.parametrize("reason", SuppressionReason)
def test_confirming_lifts_any_suppression_except_a_complaint(
    engine: Engine, reason: SuppressionReason
):
    ask(engine)
    suppress(engine, ADA, reason)

    signup.confirm(engine, last_request(engine), NOW)

    with engine.begin() as conn:
        hash_ = addresses.address_hash(ADA, SUPPRESSION_KEY)
        still = suppressions.by_hash(conn, hash_)
    assert (still is not None) == (reason is SuppressionReason.COMPLAINT)


@pytest.mark.parametrize(
    "reason",
    sorted(set(SuppressionReason) - {SuppressionReason.COMPLAINT, SuppressionReason.ERASED}),
)
def test_suppressed_address_gets_one_confirmation_a_month(
    engine: Engine, reason: SuppressionReason
):
    """Its mailbox may work again; the confirmation mail is the only one it receives."""
    reader = add_reader(engine, "cat:cs.LG", now=NOW - 9 * DAY)
    suppress(engine, ADA, reason)

    for days in (0, 1, 29):
        ask(engine, now=NOW + days * DAY)
    assert mails(engine) == [("confirmation", "queued")]
    send(engine)
    ask(engine, now=NOW + 30 * DAY)

    assert mails(engine) == [("confirmation", "sent"), ("confirmation", "queued")]
    assert signup.find(engine, ADA) == (reader, ("cat:cs.lg",)), "nobody retunes a stranger"


def test_suppressed_reader_gets_digests_again_after_confirming(engine: Engine):
    ingest(engine, make_sighting())
    reader = add_reader(engine, "cat:cs.IR", now=NOW - 9 * DAY)
    suppress(engine, ADA, SuppressionReason.SOFT)
    with engine.begin() as conn:
        strike = {"address_hash": hash_of(ADA), "edition_on": TODAY, "kind": "soft"}
        conn.execute(StrikeRow.__table__.insert().values(noted_at=NOW, **strike))
    ask(engine)
    send(engine)

    signup.confirm(engine, last_request(engine), NOW)

    assert count(engine, StrikeRow) == 0
    assert [o.skipped for o in publish(engine, NOW + DAY)] == [None]
    assert mails(engine) == [("confirmation", "sent"), ("digest", "queued")]
    assert signup.find(engine, ADA)[0].id == reader.id


def test_address_with_a_complaint_gets_no_mail(engine: Engine):
    suppress(engine, ADA, SuppressionReason.COMPLAINT)
    signup.add(engine, ADA, WISHES, confirmed=False, suppression_key=SUPPRESSION_KEY, now=NOW)
    assert mails(engine) == [], "not even the operator's question"

    with engine.begin() as conn:
        subscriber = subscribers.by_email(conn, ADA)
        transactional.enqueue(
            conn, DeliveryKind.CONFIRMATION, subscriber.id, about=1, expires_at=NOW + DAY, now=NOW
        )
        assert deliveries.claim(conn, 100, "token", HOUR, NOW) == []


def test_queued_confirmation_is_not_sent_after_a_suppression(engine: Engine):
    ask(engine, now=NOW - HOUR)
    suppress(engine, ADA, SuppressionReason.HARD)

    with engine.begin() as conn:
        assert deliveries.claim(conn, 100, "token", HOUR, NOW) == []


def test_concurrent_confirmations_succeed_once(engine: Engine):
    ask(engine)
    confirmed: list[signup.Confirmed] = []

    def press() -> None:
        confirmed.append(signup.confirm(engine, last_request(engine), NOW))

    threads = [threading.Thread(target=press) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert sorted(c.first_time for c in confirmed) == [False, False, False, True]


@pytest.mark.parametrize("after", [1, 3, 6, 9])
def test_confirming_can_be_repeated_after_a_crash(engine: Engine, after: int):
    ask(engine)
    request_id = last_request(engine)
    with dying(engine, after):
        signup.confirm(engine, request_id, NOW)

    assert signup.confirm(engine, request_id, NOW).first_time


# --- Welcome ------------------------------------------------------------------------------------


def test_welcome_has_papers_of_one_week_and_replaces_todays_digest(engine: Engine):
    for days in (8, 6, 1):
        ingest(engine, make_sighting(f"3001.0000{days}"), now=NOW - days * DAY)
    reader = join(engine)

    outcome = welcome(engine, reader)

    assert outcome is not None
    assert set(outcome.papers) == {"3001.00006", "3001.00001"}
    assert welcome(engine, reader) is None
    (delivery,) = [d for d in rows(engine, DeliveryRow) if d.kind == "welcome"]
    assert delivery.dedupe_key == f"welcome:{TODAY}:{reader.id}"
    assert (delivery.range_from, delivery.range_to) == (1, 3)
    served = signup.find(engine, ADA)[0]
    assert (served.last_edition_on, served.cursor) == (TODAY, 3)
    assert (served.next_slot_at, served.welcome_due) == (NOW + DAY, False)


def test_digest_after_a_welcome_has_only_new_papers(engine: Engine):
    ingest(engine, make_sighting("3001.00001"), now=NOW - DAY)
    reader = join(engine, now=NOW + 15 * HOUR)
    welcome(engine, reader, NOW + 15 * HOUR)
    send(engine, NOW + 15 * HOUR)
    ingest(engine, make_sighting("3001.00002"), now=NOW + 16 * HOUR)

    (outcome,) = publish(engine, NOW + DAY)

    assert (outcome.kind, outcome.papers) == ("digest", ("3001.00002",))


def test_welcome_is_compiled_by_the_next_run_at_any_hour(engine: Engine):
    ingest(engine, make_sighting("3001.00001"), now=NOW - DAY)
    join(engine, now=NOW + HOUR)

    outcomes = publish(engine, NOW + HOUR)

    assert [(o.kind, o.papers) for o in outcomes] == [("welcome", ("3001.00001",))]
    assert publish(engine, NOW + HOUR) == []


def test_empty_welcome_records_a_skip_reason(engine: Engine):
    reader = join(engine)

    outcome = welcome(engine, reader)

    assert outcome is not None
    assert outcome.skipped is SkipReason.NOTHING_NEW
    assert [(r.edition_on, r.reason) for r in rows(engine, SkipRow)] == [(TODAY, "nothing new")]
    assert signup.choices_of(engine, reader.id).skips[0].reason is SkipReason.NOTHING_NEW


def test_reader_with_todays_digest_gets_no_welcome_after_rejoining(engine: Engine):
    ingest(engine, make_sighting(), now=NOW - DAY)
    add_reader(engine, "cat:cs.IR", now=NOW - HOUR)
    publish(engine)
    signup.leave(engine, signup.find(engine, ADA)[0].secret, NOW + HOUR)
    back = join(engine, now=NOW + 2 * HOUR)

    assert welcome(engine, back, NOW + 2 * HOUR) is None
    assert publish(engine, NOW + 2 * HOUR) == []
    now = signup.find(engine, ADA)[0]
    assert (now.next_slot_at, now.welcome_due) == (NOW + DAY, False)


def test_concurrent_runs_create_one_welcome(engine: Engine):
    ingest(engine, make_sighting(), now=NOW - DAY)
    join(engine)

    threads = [threading.Thread(target=publish, args=[engine]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert [kind for kind, _ in mails(engine)] == ["confirmation", "welcome"]
    assert count(engine, PickRow) == 1


def test_welcome_is_compiled_later_after_a_crash(engine: Engine):
    ingest(engine, make_sighting(), now=NOW - DAY)
    reader = join(engine)
    with dying(engine, 14):
        welcome(engine, reader)

    assert [o.kind for o in publish(engine)] == ["welcome"]


# --- Confirming: state that is kept, and the record ---------------------------------------------


def test_confirming_new_wishes_keeps_the_queued_digest(engine: Engine):
    """If a reader changes topics by the form, the digest queued for today is still sent."""
    reader = add_reader(engine, "cat:cs.IR")
    ingest(engine, make_sighting())
    list(editions.publish(engine, now=NOW, expiry=timedelta(hours=18), template="1", everyone=True))
    ask(engine, reader.email)
    request = max(row.id for row in rows(engine, RequestRow))

    signup.confirm(engine, request, NOW)

    digests = [row for row in rows(engine, DeliveryRow) if row.kind == DeliveryKind.DIGEST]
    assert [row.status for row in digests] == [DeliveryStatus.QUEUED]


def test_reader_confirmed_by_mail_can_undo_unsubscribe(engine: Engine):
    """Undo requires a confirmed reader, so confirming records its time."""
    ask(engine, ADA)
    confirmed = signup.confirm(engine, rows(engine, RequestRow)[0].id, NOW)
    [row] = rows(engine, SubscriberRow)
    signup.leave(engine, row.secret, NOW + timedelta(hours=1))

    back = signup.undo(engine, row.secret, NOW + timedelta(hours=2))

    assert confirmed.subscriber.status is SubscriberStatus.ACTIVE
    assert row.confirmed_at == NOW
    assert back.status is SubscriberStatus.ACTIVE
