"""Signing up and leaving: readers change their own subscriptions and no others."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from sqlalchemy import Engine

from pipeline import editions, signup
from pipeline.domain import (
    DeliveryKind,
    DeliveryStatus,
    Subscriber,
    SubscriberStatus,
    SuppressionReason,
)
from pipeline.errors import (
    AddressError,
    InvalidTokenError,
    NotFoundError,
    SettingsError,
)
from pipeline.signup import Choices, parse_queries
from pipeline.storage import addresses, deliveries, digests, suppressions
from pipeline.storage.database import read_only
from pipeline.storage.schema import (
    DeliveryRow,
    PickRow,
    RequestRow,
    SkipRow,
    SubscriberRow,
    SubscriptionRow,
    SuppressionRow,
    TopicRow,
)
from tests.support.factories import NOW, TODAY, make_schedule, make_sighting
from tests.support.newsroom import SUPPRESSION_KEY, add_reader, count, ingest, rows

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
SOON = NOW - HOUR


def ask(engine: Engine, email: str = "ada@example.org", *queries: str) -> Subscriber:
    """Add a subscriber with a pending confirmation and return it."""
    return signup.add(
        engine,
        email,
        Choices(parse_queries(queries)),
        confirmed=False,
        suppression_key=SUPPRESSION_KEY,
        now=SOON,
    )


def request_of(engine: Engine, reader: Subscriber) -> int:
    """Return the id of the newest request of this subscriber."""
    return max(r.id for r in rows(engine, RequestRow) if r.subscriber_id == reader.id)


def owed(engine: Engine) -> list[tuple[str, str]]:
    return [(d.kind, d.status) for d in rows(engine, DeliveryRow, DeliveryRow.id)]


def publish(engine: Engine) -> None:
    list(editions.publish(engine, now=NOW, expiry=18 * HOUR, template="1"))


# --- Joining ------------------------------------------------------------------------------------


def test_subscriber_added_by_operator_starts_one_week_back(engine: Engine):
    ingest(engine, make_sighting("3001.00001"), now=NOW - 8 * DAY)
    ingest(engine, make_sighting("3001.00002"), now=NOW - 6 * DAY)

    reader = add_reader(engine, "cat:cs.IR", now=SOON)

    assert (reader.status, reader.cursor) == (SubscriberStatus.ACTIVE, 1)
    assert (reader.next_slot_at, reader.last_slot_at) == (NOW, None)
    assert owed(engine) == []


def test_unconfirmed_signup_queues_a_confirmation_mail(engine: Engine):
    reader = ask(engine)

    assert reader.status is SubscriberStatus.PENDING
    assert owed(engine) == [("confirmation", "queued")]
    (delivery,) = rows(engine, DeliveryRow)
    assert delivery.dedupe_key == f"confirmation:{reader.id}:1"
    assert delivery.expires_at == SOON + 72 * HOUR


def test_no_topic_means_trending(engine: Engine):
    ask(engine)

    assert [(t.query, t.kind) for t in rows(engine, TopicRow)] == [("trending", "trending")]


def test_equal_queries_share_one_topic(engine: Engine):
    add_reader(engine, "cat:cs.IR", email="ada@example.org")
    add_reader(engine, " CAT:cs.ir ", email="grace@example.org")

    assert count(engine, TopicRow) == 1
    assert count(engine, SubscriptionRow) == 2


@pytest.mark.parametrize(
    ("email", "choices", "error"),
    [
        ("nobody", Choices(), AddressError),
        ("ada@example.org", Choices(schedule=make_schedule(timezone="Mars/Base")), SettingsError),
    ],
)
def test_invalid_input_stores_nothing(
    engine: Engine, email: str, choices: Choices, error: type[Exception]
):
    with pytest.raises(error):
        signup.add(engine, email, choices, confirmed=True,
                   suppression_key=SUPPRESSION_KEY, now=NOW)  # fmt: skip

    assert count(engine, SubscriberRow) == count(engine, TopicRow) == 0


@pytest.mark.parametrize("email", ["ada@example.org", " ADA@Example.ORG "])
def test_active_address_is_rejected_when_added_again(engine: Engine, email: str):
    add_reader(engine, "cat:cs.IR")

    with pytest.raises(AddressError, match="already"):
        add_reader(engine, "cat:cs.LG", email=email)

    assert [t.query for t in rows(engine, TopicRow)] == ["cat:cs.ir"]


def test_addresses_with_dots_and_plus_signs_are_separate_subscribers(engine: Engine):
    for email in ("ada@example.org", "a.da@example.org", "ada+papers@example.org"):
        add_reader(engine, email=email)

    assert count(engine, SubscriberRow) == 3


# --- Confirming ---------------------------------------------------------------------------------


def test_confirming_activates_and_cancels_the_queued_confirmation(engine: Engine):
    """A queued confirmation mail is cancelled; when confirmed again, nothing changes."""
    pending = ask(engine)

    first = signup.confirm(engine, request_of(engine, pending), SOON)
    second = signup.confirm(engine, request_of(engine, pending), NOW)

    assert first.subscriber.status is SubscriberStatus.ACTIVE
    assert first.subscriber.next_slot_at == NOW
    assert (first.first_time, second.first_time) == (True, False)
    assert second.subscriber == first.subscriber
    assert owed(engine) == [("confirmation", "cancelled")]


def test_old_confirmation_link_is_rejected_after_unsubscribe(engine: Engine):
    pending = ask(engine)
    left = signup.leave(engine, pending.secret, NOW)

    for request_id in (request_of(engine, pending), 999):
        with pytest.raises(InvalidTokenError):
            signup.confirm(engine, request_id, NOW)

    assert signup.find(engine, pending.email)[0] == left


def test_unsubscribed_reader_can_confirm_again_with_new_topics(engine: Engine):
    """With the topics requested now, and without the pause of the earlier subscription."""
    reader = add_reader(engine, "cat:cs.IR")
    signup.pause(engine, reader.id, TODAY + 99 * DAY, NOW)
    signup.leave(engine, reader.secret, NOW)

    asked = ask(engine, "Ada@example.org", "cat:cs.LG")
    back = signup.confirm(engine, request_of(engine, asked), SOON).subscriber

    assert (asked.id, asked.status) == (reader.id, SubscriberStatus.PENDING)
    assert owed(engine) == [("confirmation", "cancelled")]
    assert (back.status, back.paused_until) == (SubscriberStatus.ACTIVE, None)
    assert signup.find(engine, reader.email)[1] == ("cat:cs.lg",)


# --- Changing -----------------------------------------------------------------------------------


def test_change_updates_topics_and_schedule(engine: Engine):
    reader = add_reader(engine, "cat:cs.IR", now=SOON)

    changed = signup.change(
        engine,
        reader.id,
        Choices(parse_queries(("cat:cs.LG",)), make_schedule(9, "Europe/Berlin"), 3),
        NOW,
    )

    assert changed.next_slot_at == NOW + DAY  # nine in Berlin is eight in London, just past
    assert changed.max_papers == 3
    assert signup.find(engine, reader.email)[1] == ("cat:cs.lg",)


def test_invalid_change_changes_nothing(engine: Engine):
    reader = add_reader(engine, "cat:cs.IR")

    with pytest.raises(SettingsError):
        signup.change(engine, reader.id, Choices(schedule=make_schedule(9, "Mars/Base")), NOW)

    assert signup.find(engine, reader.email) == (reader, ("cat:cs.ir",))


def test_change_after_unsubscribe_schedules_no_digest(engine: Engine):
    reader = add_reader(engine)
    signup.leave(engine, reader.secret, NOW)

    assert signup.change(engine, reader.id, Choices(), NOW).next_slot_at is None


# --- Leaving ------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [DeliveryStatus.QUEUED, DeliveryStatus.LEASED])
def test_unsubscribe_cancels_queued_and_leased_digests(engine: Engine, state: DeliveryStatus):
    """If a sender had claimed it, it can no longer be marked as sending."""
    reader = add_reader(engine, "cat:cs.IR", now=SOON)
    ingest(engine, make_sighting())
    publish(engine)
    (delivery,) = rows(engine, DeliveryRow)
    if state is DeliveryStatus.LEASED:
        with engine.begin() as conn:
            deliveries.claim(conn, 1, "token", HOUR, NOW)

    left = signup.leave(engine, reader.secret, NOW)
    again = signup.leave(engine, reader.secret, NOW + DAY)

    assert left.status is SubscriberStatus.UNSUBSCRIBED
    assert again == left
    assert owed(engine) == [("digest", "cancelled")]
    with engine.begin() as conn:
        assert deliveries.mark(conn, [delivery.id], "token", HOUR, NOW) == set()
    with pytest.raises(NotFoundError):
        signup.leave(engine, "somebody's guess", NOW)


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_unsubscribe_concurrently_with_compilation_cancels_the_digest(engine: Engine):
    """Whichever comes first, no delivery to the unsubscribed reader stays queued."""
    for number in range(5):
        reader = add_reader(engine, "cat:cs.IR", email=f"r{number}@example.org", now=SOON)
        ingest(engine, make_sighting())
        threads = [
            threading.Thread(target=publish, args=[engine]),
            threading.Thread(target=signup.leave, args=[engine, reader.secret, NOW]),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)

    assert {status for _, status in owed(engine)} <= {"cancelled"}


# --- Erasing ------------------------------------------------------------------------------------


def test_erasing_deletes_personal_data_and_keeps_the_suppression(engine: Engine):
    """No personal data is kept."""
    reader = add_reader(engine, "cat:cs.IR", now=SOON)
    hash_ = addresses.address_hash(reader.email, SUPPRESSION_KEY)
    ingest(engine, make_sighting())
    publish(engine)
    with engine.begin() as conn:
        suppressions.suppress(conn, hash_, SuppressionReason.COMPLAINT, NOW)

    signup.erase(engine, " ADA@example.org")

    left = (SubscriptionRow, PickRow, SkipRow)
    assert [count(engine, table) for table in left] == [0] * len(left)
    assert owed(engine) == [("digest", "suppressed")]
    assert list(signup.everyone(engine)) == []
    assert [row.email for row in rows(engine, SubscriberRow)] == [""]
    assert [row.hash for row in rows(engine, SuppressionRow)] == [hash_]
    with pytest.raises(NotFoundError):
        signup.erase(engine, reader.email)


def test_a_complaint_is_never_replaced_by_a_lesser_reason(engine: Engine):
    with engine.begin() as conn:
        for reason in (SuppressionReason.FULL, SuppressionReason.COMPLAINT, SuppressionReason.HARD):
            suppressions.suppress(conn, "hash", reason, NOW)
        found = suppressions.by_hash(conn, "hash")

    assert found is not None
    assert found.reason is SuppressionReason.COMPLAINT


def test_concurrent_signups_create_one_subscriber(engine: Engine):
    outcomes: list[object] = []

    def join() -> None:
        try:
            outcomes.append(add_reader(engine, "cat:cs.IR").id)
        except AddressError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=join) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert count(engine, SubscriberRow) == 1
    assert sum(isinstance(outcome, AddressError) for outcome in outcomes) == 2


def test_repeated_signups_get_their_own_confirmation_dedupe_keys(engine: Engine):
    """A dedupe key is built from facts that do not change."""
    pending = ask(engine)
    ask(engine)

    keys = [d.dedupe_key for d in rows(engine, DeliveryRow, DeliveryRow.id)]

    assert keys == [f"confirmation:{pending.id}:1", f"confirmation:{pending.id}:2"]
    assert {kind for kind, _ in owed(engine)} == {DeliveryKind.CONFIRMATION}
    with read_only(engine) as conn:
        assert digests.load(conn, [row.id for row in rows(engine, DeliveryRow)]) == {}
