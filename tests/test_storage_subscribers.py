"""Rows of subscribers: which row a statement changes, and which it leaves."""

from __future__ import annotations

from datetime import date, time, timedelta

import pytest
from sqlalchemy import insert, select, update
from sqlalchemy.exc import OperationalError

from pipeline.domain import (
    Breadth,
    Frequency,
    Schedule,
    SubscriberStatus,
    Weekday,
)
from pipeline.storage import addresses, subscribers
from pipeline.storage.schema import (
    SkipRow,
    SubscriberRow,
    SubscriptionRow,
    TopicRow,
)
from tests.support import outbox
from tests.support.factories import NOW, TODAY
from tests.support.outbox import add_subscriber

SECOND, HOUR, DAY = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1)
ACTIVE, PENDING, LEFT = (
    SubscriberStatus.ACTIVE,
    SubscriberStatus.PENDING,
    SubscriberStatus.UNSUBSCRIBED,
)
WEEKLY = Schedule(time(6, 30), "Europe/Paris", Frequency.WEEKLY, Weekday.FRIDAY)


def row(engine, subscriber_id):
    with engine.connect() as conn:
        found = select(*SubscriberRow.__table__.c).where(SubscriberRow.id == subscriber_id)
        return conn.execute(found).one()._mapping


def call(engine, function, *args, **options):
    with engine.begin() as conn:
        return function(conn, *args, **options)


def changed(engine, function, *args, **options):
    """Call `function` for the first of two subscribers; return its result and the changed columns.

    The row of the second subscriber must stay as it is.
    """
    before, other = dict(row(engine, 1)), dict(row(engine, 2))
    result = call(engine, function, *args, **options)
    after = row(engine, 1)
    assert dict(row(engine, 2)) == other
    return result, {name: after[name] for name in before if after[name] != before[name]}


def two(engine, **changes):
    """Add two subscribers, with ids 1 and 2; their rows differ in the addresses only."""
    assert [add_subscriber(engine, f"{name}@example.org", **changes) for name in "ab"] == [1, 2]


# --- Subscribe, change, unsubscribe -------------------------------------------------------------


def add(engine, email, **changes):
    values = {
        "suppression_key": "key", "schedule": WEEKLY, "max_papers": 7, "status": PENDING,
        "cursor": 3, "next_slot_at": NOW + DAY, "now": NOW, "breadth": Breadth.FEWER,
    }  # fmt: skip
    return call(engine, subscribers.add, email=email, **values | changes)


def test_new_subscriber_is_stored_with_its_values_only_once(engine):
    first = add(engine, "Ada@Example.org")
    second = add(engine, "bob@example.org", status=ACTIVE)

    assert add(engine, "ada@example.ORG") is None
    found = row(engine, first)
    assert (found["email"], found["email_key"]) == ("Ada@Example.org", "ada@example.org")
    assert found["address_hash"] == addresses.address_hash("ada@example.org", "key")
    assert (found["status"], found["cursor"], found["max_papers"]) == (PENDING, 3, 7)
    assert (found["next_slot_at"], found["created_at"]) == (NOW + DAY, NOW)
    assert (found["at"], found["timezone"]) == (time(6, 30), "Europe/Paris")
    assert (found["frequency"], found["weekday"], found["breadth"]) == ("weekly", 4, Breadth.FEWER)
    assert (found["confirmed_at"], row(engine, second)["confirmed_at"]) == (None, NOW)
    assert (found["active_on"], row(engine, second)["active_on"]) == (None, TODAY)
    secrets = {found["secret"], row(engine, second)["secret"]}
    assert len(secrets) == 2
    assert {len(secret) for secret in secrets} == {22}


def test_change_wishes_updates_all_preferences(engine):
    two(engine)

    _, found = changed(
        engine, subscribers.change_choices, 1, schedule=WEEKLY, max_papers=7,
        breadth=Breadth.FEWER, near_misses_after=0, next_slot_at=NOW + DAY,
    )  # fmt: skip

    assert found == {
        "at": time(6, 30), "timezone": "Europe/Paris", "frequency": "weekly", "weekday": 4,
        "max_papers": 7, "breadth": Breadth.FEWER, "near_misses_after": 0,
        "next_slot_at": NOW + DAY,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("status", "left_at", "requested_at", "is_activated"),
    [
        (PENDING, None, None, True),
        (PENDING, None, NOW, True),
        (ACTIVE, None, NOW, False),
        (ACTIVE, NOW - HOUR, NOW, False),
        (LEFT, NOW - HOUR, None, False),
        (LEFT, NOW, NOW, True),
        (LEFT, NOW + SECOND, NOW, False),
    ],
)
def test_activate_succeeds_unless_the_reader_has_left_since(
    engine, status, left_at, requested_at, is_activated
):
    old = {"paused_until": TODAY, "left_reason": "x", "left_at": left_at, "cursor": 1}
    two(engine, status=status, **old)

    won, found = changed(
        engine, subscribers.activate, 1, cursor=9, next_slot_at=NOW + DAY, now=NOW,
        requested_at=requested_at, welcome=True,
    )  # fmt: skip

    assert won is is_activated
    expected = {
        "status": ACTIVE, "cursor": 9, "next_slot_at": NOW + DAY, "paused_until": None,
        "confirmed_at": NOW, "active_on": TODAY, "left_at": None, "left_reason": None,
        "welcome_due": True,
    }  # fmt: skip
    if left_at is None:
        del expected["left_at"]
    assert found == (expected if is_activated else {})


def test_activate_sets_no_welcome_by_default(engine):
    two(engine, status=PENDING)

    call(engine, subscribers.activate, 1, cursor=9, next_slot_at=NOW, now=NOW)

    assert row(engine, 1)["welcome_due"] is False


@pytest.mark.parametrize(
    ("changes", "is_back"),
    [
        ({}, True),
        ({"status": PENDING}, False),
        ({"status": ACTIVE}, False),
        ({"left_at": NOW}, False),
        ({"confirmed_at": None}, False),
    ],
)
def test_come_back_restores_a_recently_unsubscribed_reader(engine, changes, is_back):
    left = {"status": LEFT, "left_at": NOW + SECOND, "confirmed_at": NOW, "left_reason": "x"}
    two(engine, **left | changes)

    now = NOW + subscribers.UNDO
    may_return = call(engine, subscribers.may_be_restored, 1, now)
    won, found = changed(engine, subscribers.restore, 1, now=now, cursor=9, next_slot_at=NOW + DAY)

    assert won is may_return is is_back
    expected = {
        "status": ACTIVE, "cursor": 9, "next_slot_at": NOW + DAY, "left_at": None,
        "left_reason": None,
    }  # fmt: skip
    assert found == (expected if is_back else {})


@pytest.mark.parametrize("status", list(SubscriberStatus))
def test_allowed_transitions_depend_on_the_status(engine, status):
    two(engine, status=status, left_at=NOW, left_reason="x", welcome_due=True, next_slot_at=NOW)

    was_left = status is LEFT
    assert changed(engine, subscribers.reopen, 1) == (
        was_left,
        {"status": PENDING, "left_at": None, "left_reason": None} if was_left else {},
    )
    call(engine, lambda conn: conn.execute(update(SubscriberRow).values(status=status)))
    _, said = changed(engine, subscribers.set_leaving_reason, 1, "too much")
    assert said == ({"left_reason": "too much"} if was_left else {})
    won, found = changed(engine, subscribers.leave, 1, NOW + DAY)
    assert won is not was_left
    gone = {"status": LEFT, "left_at": NOW + DAY, "next_slot_at": None, "welcome_due": False}
    assert found == ({} if was_left else gone)
    call(engine, lambda conn: conn.execute(update(SubscriberRow).values(status=status)))
    call(engine, subscribers.delete_pending, 1)
    with engine.connect() as conn:
        left = list(conn.execute(select(SubscriberRow.id).order_by(SubscriberRow.id)).scalars())
    assert left == ([2] if status is PENDING else [1, 2])


def test_pause_changes_one_subscriber(engine):
    two(engine)

    assert changed(engine, subscribers.pause, 1, TODAY) == (None, {"paused_until": TODAY})


@pytest.mark.parametrize(
    ("status", "email", "is_moved"),
    [
        (ACTIVE, "New@example.org", True),
        (ACTIVE, "A@example.org", True),
        (ACTIVE, "B@example.org", False),
        (PENDING, "new@example.org", False),
        (LEFT, "new@example.org", False),
    ],
)
def test_active_subscriber_can_move_to_a_free_address(engine, status, email, is_moved):
    two(engine, status=status)

    won, found = changed(engine, subscribers.move, 1, email=email, hash_="new")

    assert won is is_moved
    keys = {"email": email, "email_key": email.lower(), "address_hash": "new"}
    if email.lower() == "a@example.org":
        del keys["email_key"]
    assert found == (keys if is_moved else {})


def test_erase_leaves_no_personal_data_in_the_row(engine):
    said = {"paused_until": TODAY, "next_slot_at": NOW, "last_slot_at": NOW, "confirmed_at": NOW,
            "last_edition_on": TODAY, "left_reason": "x", "welcome_due": True, "weekday": 4,
            "max_papers": 9, "breadth": Breadth.FEWER, "timezone": "Europe/Paris",
            "frequency": "weekly", "papers_from": TODAY, "active_on": TODAY}  # fmt: skip
    two(engine, **said)
    with engine.begin() as conn:
        topic = {"query": "ai", "kind": "words", "matched_through": 0, "created_at": NOW}
        conn.execute(insert(TopicRow).values(id=1, **topic))
        spans = {"range_from": 0, "range_to": 1}
        for id_ in (1, 2):
            follows = {"subscriber_id": id_, "topic_id": 1, "label": "AI", "created_at": NOW}
            conn.execute(insert(SubscriptionRow).values(**follows))
            skip = {"edition_on": TODAY, "slot_at": NOW, "reason": "empty"} | spans
            conn.execute(insert(SkipRow).values(subscriber_id=id_, **skip))

    _, found = changed(engine, subscribers.erase, 1, NOW + DAY)

    plain = subscribers.columns_of(Schedule())
    assert {name: row(engine, 1)[name] for name in plain} == plain
    erased = {
        "email": "", "email_key": "erased:1", "address_hash": "erased:1", "status": LEFT,
        "max_papers": 1, "breadth": Breadth.BALANCED, "paused_until": None, "next_slot_at": None,
        "last_slot_at": None, "last_edition_on": None, "cursor": 0, "confirmed_at": None,
        "left_at": NOW + DAY, "left_reason": None, "welcome_due": False, "papers_from": None,
        "active_on": None,
    }  # fmt: skip
    assert {name: value for name, value in found.items() if name not in plain} == {
        **erased, "secret": found["secret"],
    }  # fmt: skip
    assert found["secret"] != "secret-1"
    with engine.connect() as conn:
        for table in (SubscriptionRow, SkipRow):
            assert list(conn.execute(select(table.subscriber_id)).scalars()) == [2]
        assert subscribers.by_id(conn, 1) is None
        assert subscribers.by_secret(conn, found["secret"]) is None
        assert [one.id for one in subscribers.list_all(conn)] == [2]


def test_hash_of_and_record_of_return_one_subscriber(engine):
    two(engine)

    assert call(engine, subscribers.hash_of, 1) == "hash of a@example.org"
    assert call(engine, subscribers.hash_of, 3) == ""
    assert call(engine, subscribers.record_of, 2) == dict(row(engine, 2))


def test_subscriber_is_found_by_address_secret_or_id(engine):
    two(engine)
    secret = row(engine, 2)["secret"]

    assert call(engine, subscribers.by_email, "B@example.org").id == 2
    assert call(engine, subscribers.by_secret, secret).id == 2
    assert call(engine, subscribers.by_id, 2).id == 2
    assert call(engine, subscribers.by_email, "c@example.org") is None
    assert call(engine, subscribers.by_secret, "secret") is None
    assert call(engine, subscribers.by_id, 3) is None


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_subscriber_row_is_locked_only_for_a_change(engine):
    """A page that only shows a subscriber takes no lock and does not wait for one."""
    two(engine)
    secret = row(engine, 1)["secret"]
    finders = (
        (subscribers.by_id, 1), (subscribers.by_email, "a@example.org"),
        (subscribers.by_secret, secret),
    )  # fmt: skip

    for find, key in finders:
        with engine.begin() as mine, engine.connect() as theirs:
            assert find(mine, key, for_change=True).id == 1
            theirs.exec_driver_sql("SET lock_timeout = '50ms'")
            assert find(theirs, key).id == 1
            with pytest.raises(OperationalError):
                find(theirs, key, for_change=True)
            theirs.rollback()
        with engine.begin() as mine, engine.connect() as theirs:
            theirs.exec_driver_sql("SET lock_timeout = '50ms'")
            assert find(mine, key).id == 1
            assert find(theirs, key, for_change=True).id == 1


# --- Slots --------------------------------------------------------------------------------------


def test_due_returns_active_subscribers_with_a_reached_slot(engine):
    soon = {"next_slot_at": NOW}
    ids = [
        add_subscriber(engine, **changes)
        for changes in (
            soon, {"next_slot_at": NOW + SECOND}, {"next_slot_at": None, "welcome_due": True},
            soon | {"status": PENDING}, soon | {"status": LEFT}, soon, {"next_slot_at": None},
            soon | {"status": PENDING},
        )
    ]  # fmt: skip

    def due(**which):
        options = {"now": NOW, "everyone": False, "after_id": 0, "limit": 9, **which}
        return [ids.index(one.id) for one in call(engine, subscribers.due, **options)]

    assert due() == [0, 2, 5]
    assert due(limit=2) == [0, 2]
    assert due(after_id=ids[0]) == [2, 5]
    assert due(everyone=True) == [0, 1, 2, 5, 6]
    assert call(engine, subscribers.count_due, NOW) == 2


def test_unreadable_subscribers_do_not_hide_later_ones(engine):
    for n in range(4):
        add_subscriber(engine, next_slot_at=NOW, max_papers=0 if n in (0, 1) else 5)
    add_subscriber(engine, status=LEFT, max_papers=0)

    found = call(engine, subscribers.due, now=NOW, everyone=False, after_id=0, limit=2)

    assert [one.id for one in found] == [3, 4]
    assert [id_ for id_, _why in call(engine, lambda c: list(subscribers.unreadable(c)))] == [1, 2]
    mended = {one.id: one for one in call(engine, subscribers.list_all)}
    assert (mended[1].max_papers, mended[1].schedule) == (10, Schedule())
    assert mended[3].max_papers == 5


@pytest.mark.parametrize(
    "changes", [{"max_papers": 0}, {"timezone": "Mars/Olympus"}, {"frequency": "never"}]
)
def test_unreadable_preferences_become_defaults(engine, changes):
    id_ = add_subscriber(engine, **changes, breadth=Breadth.FEWER)

    found = call(engine, subscribers.by_id, id_)

    assert (found.max_papers, found.schedule, found.breadth) == (10, Schedule(), Breadth.BALANCED)


def test_max_papers_of_one_is_valid(engine):
    assert call(engine, subscribers.by_id, add_subscriber(engine, max_papers=1)).max_papers == 1


SERVED = {
    "subscriber_id": 1, "old_cursor": 5, "cursor": 9, "slot_at": NOW, "edition_on": TODAY,
    "next_slot_at": NOW + DAY, "paused_until": date(2030, 2, 1),
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "served", "is_served"),
    [
        ({}, {}, True),
        ({"status": LEFT}, {}, False),
        ({"cursor": 6}, {}, False),
        ({"welcome_due": True}, {}, False),
        ({"welcome_due": True}, {"welcome": True}, True),
        ({}, {"welcome": True}, False),
    ],
)
def test_serve_advances_a_subscriber_past_a_slot_once(engine, changes, served, is_served):
    two(engine, **changes)

    won, found = changed(engine, subscribers.serve, subscribers.Served(**SERVED | served))

    assert won is is_served
    moved = {
        "cursor": 9, "last_slot_at": NOW, "last_edition_on": TODAY, "next_slot_at": NOW + DAY,
        "paused_until": date(2030, 2, 1),
    }  # fmt: skip
    if changes.get("welcome_due"):
        moved["welcome_due"] = False
    assert found == (moved if is_served else {})


def test_no_welcome_clears_welcome_due(engine):
    two(engine, welcome_due=True)

    assert changed(engine, subscribers.cancel_welcome, [1]) == (None, {"welcome_due": False})


def test_leaving_cancels_queued_deliveries_even_if_repeated(engine):
    reader, other = add_subscriber(engine), add_subscriber(engine)
    ids = [outbox.add_delivery(engine, subscriber_id=one) for one in (reader, other)]

    assert call(engine, subscribers.leave, reader, NOW)
    later = outbox.add_delivery(engine, subscriber_id=reader)
    assert not call(engine, subscribers.leave, reader, NOW)

    found = [(row.status, row.reason) for row in (outbox.row(engine, id_) for id_ in (*ids, later))]
    assert found == [("cancelled", "left"), ("queued", None), ("cancelled", "left")]
