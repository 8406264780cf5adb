"""Statements of the export and the import, which read and write many rows at once."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import insert

from pipeline.domain import SubscriberStatus, SuppressionReason
from pipeline.storage import subscriber_transfer, subscribers, suppressions, topics
from pipeline.storage.schema import BatchRow, RequestRow, SubscriberRow
from tests.support import outbox
from tests.support.factories import NOW
from tests.support.newsroom import rows
from tests.support.outbox import add_subscriber, subscriber_values

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def call(engine, function, *args, **options):
    with engine.begin() as conn:
        return function(conn, *args, **options)


def request(engine, subscriber_id, **changes):
    values = {
        "kind": "join", "subscriber_id": subscriber_id, "email": "", "email_key": "",
        "origin": "form", "choices": {}, "created_at": NOW, "expires_at": NOW, "used_at": NOW,
    }  # fmt: skip
    with engine.begin() as conn:
        conn.execute(insert(RequestRow).values(**values | changes))


def test_everyone_returns_each_subscriber_once_ordered_by_id(engine, monkeypatch):
    monkeypatch.setattr(subscriber_transfer, "CHUNK", 2)
    ids = [add_subscriber(engine, f"{n}@example.org") for n in range(5)]
    outbox.set_status(engine, ids[1], SubscriberStatus.PENDING)
    call(engine, subscribers.erase, ids[2], NOW)
    call(engine, suppressions.suppress, "hash of 3@example.org", SuppressionReason.HARD, NOW)
    call(
        engine,
        lambda conn: conn.execute(
            insert(BatchRow).values(number=5, published_at=NOW, papers=0, matches=0)
        ),
    )

    found = call(engine, lambda conn: list(subscriber_transfer.everyone(conn)))

    assert [one.subscriber.id for one in found] == [ids[0], ids[1], ids[3], ids[4]]
    assert [bool(one.suppression) for one in found] == [False, False, True, False]
    assert {one.covered_until for one in found} == {NOW}
    assert found[0].record["secret"] == found[0].subscriber.secret
    assert {one.consent for one in found} == {None}


def test_consent_is_the_last_used_join_request(engine):
    ada, bob = (add_subscriber(engine) for _ in range(2))
    request(engine, ada, used_at=NOW + HOUR, wording="second", ip="192.0.2.1")
    request(engine, ada, used_at=NOW, wording="first")
    request(engine, ada, used_at=None, wording="never used")
    request(engine, ada, used_at=NOW + 2 * HOUR, kind="new-address", wording="another kind")
    request(engine, bob, used_at=NOW + 3 * HOUR, wording="another's")

    found = call(engine, lambda conn: list(subscriber_transfer.everyone(conn)))

    assert found[0].consent == {
        "subscriber_id": ada, "created_at": NOW, "used_at": NOW + HOUR, "origin": "form",
        "wording": "second", "ip": "192.0.2.1",
    }  # fmt: skip
    assert found[1].consent["wording"] == "another's"


def test_suppressions_without_subscriber_exclude_known_addresses(engine):
    add_subscriber(engine, "ada@example.org")
    erased = add_subscriber(engine, "bob@example.org")
    call(engine, subscribers.erase, erased, NOW)
    for hash_, days in (("b", 2), ("hash of ada@example.org", 0), ("a", 2), ("c", 1)):
        call(engine, suppressions.suppress, hash_, SuppressionReason.HARD, NOW + days * DAY)
    call(engine, suppressions.suppress, f"erased:{erased}", SuppressionReason.ERASED, NOW)

    found = call(engine, suppressions.without_subscriber)

    assert [one.hash for one in found] == [f"erased:{erased}", "c", "a", "b"]
    assert set(call(engine, suppressions.by_hashes, ["a", "c", "x"])) == {"a", "c"}


@pytest.mark.parametrize("lock", [False, True])
def test_known_address_is_imported_unless_it_signed_up_by_form(engine, lock):
    names = ["a", "b", "c", "d"]
    ids = [add_subscriber(engine, f"{name}@example.org", confirmed_at=NOW) for name in names]
    request(engine, ids[0], origin="import")
    request(engine, ids[1], origin="import")
    request(engine, ids[1], origin="form")
    request(engine, ids[2], origin="form", kind="new-address")
    keys = [f"{name}@example.org" for name in ("a", "b", "c", "x")]

    found = call(engine, subscriber_transfer.existing, keys, lock=lock)

    assert {key: one.is_imported for key, one in found.items()} == {
        "a@example.org": True, "b@example.org": False, "c@example.org": True,
    }  # fmt: skip
    assert found["a@example.org"] == subscriber_transfer.ExistingSubscriber(
        ids[0], SubscriberStatus.ACTIVE, NOW, True
    )


@pytest.mark.parametrize(("hour", "days"), [(0, 0), (5.99, 0), (6, 1), (23, 1)])
def test_papers_from_is_the_first_day_not_yet_covered(hour, days):
    midnight = NOW.replace(hour=0)

    assert subscriber_transfer.papers_from(midnight + hour * HOUR) == midnight.date() + days * DAY


@pytest.mark.parametrize("status", list(SubscriberStatus))
def test_import_replaces_pending_and_unsubscribes_remaining_readers(engine, status):
    gone = {"left_at": NOW, "next_slot_at": NOW, "welcome_due": True}
    ada, _ = (add_subscriber(engine, status=status, **gone) for _ in range(2))

    is_pending = status is SubscriberStatus.PENDING
    assert call(engine, subscriber_transfer.begin_anew, ada, {"max_papers": 3}) is is_pending
    assert [row.max_papers for row in rows(engine, SubscriberRow, SubscriberRow.id)] == [
        3 if is_pending else 10,
        10,
    ]
    leaves = status is not SubscriberStatus.UNSUBSCRIBED
    assert call(engine, subscribers.leave, ada, NOW + DAY) is leaves
    found = rows(engine, SubscriberRow, SubscriberRow.id)
    assert found[1].status == status
    if leaves:
        assert (found[0].status, found[0].left_at) == ("unsubscribed", NOW + DAY)
        assert (found[0].next_slot_at, found[0].welcome_due) == (None, False)
    assert call(engine, subscriber_transfer.secrets_in_use, [found[0].secret, "free"]) == {
        found[0].secret
    }


def test_new_readers_are_added_once_and_follow_in_their_order(engine):
    values = subscriber_values("ada@example.org")
    assert call(engine, subscriber_transfer.add_subscribers, []) == {}
    added = call(engine, subscriber_transfer.add_subscribers, [values])
    assert list(added) == ["ada@example.org"]
    later = call(
        engine, subscriber_transfer.add_subscribers, [values, subscriber_values("bob@example.org")]
    )
    assert list(later) == ["bob@example.org"]
    ada, bob = added["ada@example.org"], later["bob@example.org"]
    pairs = [("llm", "Models"), ("ai", "AI"), ("llm", "Again")]

    call(engine, subscriber_transfer.follow, {ada: pairs, bob: [("ai", "Mine")]}, NOW)

    found = call(engine, topics.followed_by, [ada, bob])
    assert [(one.topic.query, one.label) for one in found[ada]] == [
        ("llm", "Models"), ("ai", "AI"),
    ]  # fmt: skip
    call(engine, subscriber_transfer.unfollow, ada)
    found = call(engine, topics.followed_by, [ada, bob])
    assert [len(found[id_]) for id_ in (ada, bob)] == [0, 1]
