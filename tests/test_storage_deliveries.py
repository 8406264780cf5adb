"""The outbox: which deliveries may be sent, and their rows after each transition."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta

import pytest
from sqlalchemy import insert, update

from pipeline.dispatch import throttle
from pipeline.domain import (
    DeliveryKind,
    DeliveryStatus,
    StrikeKind,
    SubscriberStatus,
)
from pipeline.errors import NotFoundError
from pipeline.storage import deliveries, delivery_queries, guard, refusals, send_controls, throttles
from pipeline.storage.database import ALL, Page
from pipeline.storage.deliveries import CancelReason, Resolution, Settlement
from pipeline.storage.delivery_queries import Wanted, list_ids
from pipeline.storage.schema import DeliveryRow, RefusalRow, RequestRow, SubscriberRow
from pipeline.storage.throttles import ThrottleState
from tests.support import outbox
from tests.support.factories import NOW, TODAY
from tests.support.newsroom import rows
from tests.support.outbox import add_confirmation, add_delivery, add_subscriber, row
from tests.support.plans import is_indexed, selecting

LEASE = timedelta(minutes=6)
PATIENCE = timedelta(minutes=11)
Status = DeliveryStatus


def claim(engine, token="mine", limit=100, now=NOW):
    with engine.begin() as conn:
        return [d.id for d in deliveries.claim(conn, limit, token, LEASE, now)]


def mark(engine, ids, token="mine", now=NOW):
    with engine.begin() as conn:
        return deliveries.mark(conn, ids, token, PATIENCE, now)


def settle(engine, *settlements, token="mine", now=NOW):
    with engine.begin() as conn:
        return deliveries.settle(conn, settlements, token, now)


def recover(engine, now):
    with engine.begin() as conn:
        return deliveries.recover_leases(conn, now)


def in_hand(engine, delivery_id):
    """Claim and mark a delivery, as when its dot may be on the wire; return its id."""
    claim(engine)
    assert mark(engine, [delivery_id]) == {delivery_id}
    return delivery_id


def status_of(engine, delivery_id):
    return row(engine, delivery_id).status


# --- Claim --------------------------------------------------------------------------------------


def test_claim_returns_due_deliveries_oldest_first(engine):
    late = add_delivery(engine, not_before=NOW - timedelta(minutes=1))
    early = add_delivery(engine, not_before=NOW - timedelta(hours=1))
    add_delivery(engine, not_before=NOW + timedelta(minutes=1))

    assert claim(engine, limit=1) == [early]
    assert claim(engine) == [late]
    assert claim(engine) == []


def test_claim_returns_the_fields_needed_for_sending(engine):
    id_ = add_delivery(engine, "ada@example.org", attempts=2)

    with engine.begin() as conn:
        (delivery,) = deliveries.claim(conn, 10, "mine", LEASE, NOW)

    assert (delivery.id, delivery.email, delivery.attempts) == (id_, "ada@example.org", 2)
    assert delivery.kind is DeliveryKind.DIGEST
    assert delivery.expires_at == NOW + timedelta(hours=18)


def test_claim_skips_pending_unsubscribed_and_suppressed_subscribers(engine):
    for status in (SubscriberStatus.PENDING, SubscriberStatus.UNSUBSCRIBED):
        add_delivery(engine, subscriber_id=add_subscriber(engine, status=status))
    suppressed = add_subscriber(engine)
    outbox.suppress(engine, suppressed)
    add_delivery(engine, subscriber_id=suppressed)
    confirmation = add_confirmation(engine)

    assert claim(engine) == [confirmation]


def test_expired_delivery_is_not_claimed(engine):
    add_delivery(engine, expires_at=NOW)

    assert claim(engine) == []


def test_concurrent_claims_never_share_a_delivery(engine):
    ids = {add_delivery(engine) for _ in range(40)}
    together = threading.Barrier(4)

    def take(number):
        together.wait()
        return [id_ for _ in range(5) for id_ in claim(engine, f"worker {number}", limit=3)]

    with ThreadPoolExecutor(4) as workers:
        taken = [id_ for ids in workers.map(take, range(4)) for id_ in ids]

    assert sorted(taken) == sorted(set(taken))
    assert set(taken) == ids


# --- Lease --------------------------------------------------------------------------------------


def test_returned_delivery_can_be_claimed_again(engine):
    id_ = add_delivery(engine)
    claim(engine)

    with engine.begin() as conn:
        assert deliveries.give_back(conn, "another's") == 0
        assert deliveries.give_back(conn, "mine") == 1

    assert claim(engine) == [id_]


def test_marked_delivery_is_not_returned_to_the_queue(engine):
    id_ = in_hand(engine, add_delivery(engine))

    with engine.begin() as conn:
        assert deliveries.give_back(conn, "mine") == 0

    assert status_of(engine, id_) == Status.SENDING


def test_renewed_lease_is_not_recovered(engine):
    add_delivery(engine)
    claim(engine)

    with engine.begin() as conn:
        assert deliveries.renew(conn, "mine", LEASE, NOW + timedelta(minutes=5)) == 1

    assert recover(engine, NOW + LEASE).queued == 0
    assert recover(engine, NOW + timedelta(minutes=5) + LEASE).queued == 1


def test_claim_of_a_crashed_sender_is_requeued(engine):
    id_ = add_delivery(engine)
    claim(engine)

    assert recover(engine, NOW + LEASE) == deliveries.Recovery(queued=1, uncertain=0)
    assert recover(engine, NOW + LEASE) == deliveries.Recovery(queued=0, uncertain=0)
    assert claim(engine, "another's", now=NOW + LEASE) == [id_]
    assert mark(engine, [id_]) == set(), "the dead sender woke up: it may not send"


def test_marked_delivery_of_a_crashed_sender_becomes_uncertain(engine):
    id_ = in_hand(engine, add_delivery(engine))

    found = recover(engine, NOW + PATIENCE)

    assert found == deliveries.Recovery(queued=0, uncertain=1)
    assert status_of(engine, id_) == Status.UNCERTAIN
    assert outbox.cursor(engine, id_) == 5, "it may have been read"


# --- Mark ---------------------------------------------------------------------------------------


def test_only_the_lease_holder_can_mark_and_only_once(engine):
    id_ = add_delivery(engine)
    claim(engine)

    assert mark(engine, [id_], token="another's") == set()
    assert mark(engine, [id_]) == {id_}
    assert mark(engine, [id_]) == set()


def test_unsubscribe_after_the_claim_cancels_the_delivery(engine):
    subscriber_id = add_subscriber(engine)
    id_ = add_delivery(engine, subscriber_id=subscriber_id)
    claim(engine)

    with engine.begin() as conn:
        deliveries.cancel_unsent(conn, [subscriber_id], CancelReason.LEFT)

    assert mark(engine, [id_]) == set()
    assert (status_of(engine, id_), row(engine, id_).reason) == (Status.CANCELLED, "left")


@pytest.mark.parametrize("change", ["left", "suppressed"])
def test_mark_checks_the_subscriber_row(engine, change):
    """The mark checks the subscriber's row, even if the delivery was not cancelled."""
    subscriber_id = add_subscriber(engine)
    id_ = add_delivery(engine, subscriber_id=subscriber_id)
    claim(engine)
    if change == "left":
        outbox.set_status(engine, subscriber_id, SubscriberStatus.UNSUBSCRIBED)
    else:
        outbox.suppress(engine, subscriber_id)

    assert mark(engine, [id_]) == set()
    with engine.begin() as conn:
        assert deliveries.withdraw(conn, [id_], "mine") == 1

    ended = Status.CANCELLED if change == "left" else Status.SUPPRESSED
    assert (status_of(engine, id_), row(engine, id_).reason) == (ended, change)


def test_pending_subscriber_gets_only_the_confirmation(engine):
    confirmation = add_confirmation(engine)
    subscriber_id = row(engine, confirmation).subscriber_id
    digest = add_delivery(engine, subscriber_id=subscriber_id, status="leased", lease="mine")
    claim(engine)

    assert mark(engine, [confirmation, digest]) == {confirmation}


def test_expired_delivery_cannot_be_marked(engine):
    id_ = add_delivery(engine)
    claim(engine)

    assert mark(engine, [id_], now=NOW + timedelta(hours=18)) == set()


# --- Settle -------------------------------------------------------------------------------------


def test_accepted_delivery_stays_sent(engine):
    id_ = in_hand(engine, add_delivery(engine))
    accepted = Settlement(id_, Status.SENT, "accepted", reply="250 Ok", queue_id="Q1")

    assert settle(engine, accepted)[Status.SENT] == 1
    assert settle(engine, accepted)[Status.SENT] == 0, "written once"

    sent = row(engine, id_)
    assert (sent.status, sent.reason, sent.queue_id) == (Status.SENT, "accepted", "Q1")
    assert sent.attempts == 1
    assert sent.sent_at is not None
    assert sent.lease is None
    assert claim(engine, now=NOW + timedelta(days=1)) == []


def test_many_settlements_are_counted(engine):
    ids = [add_delivery(engine) for _ in range(5)]
    claim(engine)
    mark(engine, ids)

    written = settle(engine, *(Settlement(id_, Status.SENT, "accepted") for id_ in ids))

    assert written == {Status.SENT: 5}


def test_settle_with_another_lease_changes_nothing(engine):
    id_ = in_hand(engine, add_delivery(engine))

    for status in (Status.SENT, Status.QUEUED, Status.FAILED, Status.UNCERTAIN):
        assert not settle(engine, Settlement(id_, status, "late"), token="another's").total()

    assert status_of(engine, id_) == Status.SENDING


def test_deferred_delivery_waits_and_counts_an_attempt(engine):
    id_ = in_hand(engine, add_delivery(engine))
    gap = timedelta(minutes=5)

    settle(engine, Settlement(id_, Status.QUEUED, "deferred", charged=True, delay=gap))

    assert claim(engine, now=NOW + gap - timedelta(seconds=1)) == []
    assert claim(engine, now=NOW + gap) == [id_]
    assert row(engine, id_).attempts == 1


def test_refused_delivery_stays_queued_until_the_guard_judges_it(engine):
    """A crash between the refusal and its judgement loses neither of them."""
    subscriber_id = add_subscriber(engine, "gone@example.org")
    refused = in_hand(engine, add_delivery(engine, subscriber_id=subscriber_id))
    owed = add_delivery(engine, subscriber_id=subscriber_id, edition_on=TODAY + timedelta(days=1))
    hard = Settlement(refused, Status.SUPPRESSED, "hard", reply="550 gone", strike=StrikeKind.HARD)

    written = settle(engine, hard)

    assert written == {Status.QUEUED: 1}
    assert outbox.suppressions(engine) == {}
    assert row(engine, refused).not_before == NOW + timedelta(hours=1)
    outbox.accept_others(engine)
    with engine.begin() as conn:
        assert guard.judge(conn, NOW).counted == {refused}
    assert outbox.suppressions(engine) == {"hash of gone@example.org": "hard"}
    assert outbox.statuses(engine)[:2] == [Status.SUPPRESSED, Status.SUPPRESSED]
    assert (row(engine, refused).reason, row(engine, owed).reason) == ("hard", "suppressed")
    assert outbox.cursor(engine, refused) == 5


def test_late_acceptance_settles_an_uncertain_delivery_as_sent(engine):
    """The sender was slow, not dead: its lease expired, but no other process changed the row."""
    id_ = in_hand(engine, add_delivery(engine))
    recover(engine, NOW + PATIENCE)

    assert settle(engine, Settlement(id_, Status.SENT, "accepted"))[Status.SENT] == 1
    assert status_of(engine, id_) == Status.SENT


def test_lost_reply_leaves_the_delivery_uncertain(engine):
    id_ = in_hand(engine, add_delivery(engine))

    settle(engine, Settlement(id_, Status.UNCERTAIN, "unknown at dot"))

    assert status_of(engine, id_) == Status.UNCERTAIN
    assert claim(engine, now=NOW + timedelta(hours=1)) == []


def test_stored_reply_is_cleaned_and_truncated(engine):
    id_ = in_hand(engine, add_delivery(engine))

    settle(engine, Settlement(id_, Status.FAILED, "soft", reply="554 \0" + "x" * 10_000))

    assert row(engine, id_).reply == "554 " + "x" * 496


# --- The subscriber's cursor --------------------------------------------------------------------


def test_expired_digest_sets_the_cursor_back(engine):
    id_ = add_delivery(engine)

    with engine.begin() as conn:
        assert deliveries.expire_due(conn, NOW + timedelta(hours=18)) == 1
        assert deliveries.expire_due(conn, NOW + timedelta(hours=18)) == 0

    assert status_of(engine, id_) == Status.EXPIRED
    assert outbox.cursor(engine, id_) == 2


def test_expired_claim_cannot_be_marked(engine):
    id_ = add_delivery(engine)
    claim(engine)

    with engine.begin() as conn:
        deliveries.expire_due(conn, NOW + timedelta(hours=18))

    assert mark(engine, [id_]) == set()


def test_delivery_being_sent_does_not_expire(engine):
    in_hand(engine, add_delivery(engine))

    with engine.begin() as conn:
        assert deliveries.expire_due(conn, NOW + timedelta(hours=18)) == 0


def test_expire_due_respects_its_limit(engine):
    for _ in range(3):
        add_delivery(engine)

    with engine.begin() as conn:
        assert deliveries.expire_due(conn, NOW + timedelta(days=1), limit=2) == 2

    assert sorted(outbox.statuses(engine)) == [Status.EXPIRED, Status.EXPIRED, Status.QUEUED]


@pytest.mark.parametrize(("unread", "cursor"), [(True, 2), (False, 5)])
def test_unread_failure_sets_the_cursor_back_and_a_refusal_does_not(engine, unread, cursor):
    id_ = in_hand(engine, add_delivery(engine))

    settle(engine, Settlement(id_, Status.FAILED, "too large", unread=unread))

    assert outbox.cursor(engine, id_) == cursor


@pytest.mark.parametrize(
    ("reason", "cursor"),
    [
        (CancelReason.OPERATOR, 2),
        (CancelReason.LEFT, 5),
        (CancelReason.SUPERSEDED, 5),
    ],
)
def test_only_cancelling_by_the_operator_sets_the_cursor_back(engine, reason, cursor):
    subscriber_id = add_subscriber(engine)
    id_ = add_delivery(engine, subscriber_id=subscriber_id)

    with engine.begin() as conn:
        ended = deliveries.cancel_unsent(conn, [subscriber_id], reason)

    assert ended == [id_]
    assert outbox.cursor(engine, id_) == cursor


def test_set_cursors_back_never_moves_a_cursor_forward(engine):
    subscriber_id = add_subscriber(engine, cursor=1)
    id_ = add_delivery(engine, subscriber_id=subscriber_id)

    with engine.begin() as conn:
        deliveries.set_cursors_back(conn, [id_])

    assert outbox.cursor(engine, id_) == 1


@pytest.mark.parametrize(
    ("status", "range_from", "cursor"),
    [("queued", 2, 8), ("sent", 0, 8), ("uncertain", 2, 8), ("sent", 5, 2), ("failed", 2, 2)],
)
def test_newer_digest_that_covers_the_range_keeps_the_cursor(engine, status, range_from, cursor):
    subscriber_id = add_subscriber(engine, cursor=8)
    ended = add_delivery(engine, subscriber_id=subscriber_id)
    add_delivery(
        engine, subscriber_id=subscriber_id, status=status, range_from=range_from, range_to=8
    )

    with engine.begin() as conn:
        deliveries.set_cursors_back(conn, [ended])

    assert outbox.cursor(engine, ended) == cursor


def test_cursors_of_other_subscribers_are_unchanged(engine):
    ended, other = add_delivery(engine), add_delivery(engine)

    with engine.begin() as conn:
        deliveries.set_cursors_back(conn, [ended])

    assert outbox.cursor(engine, other) == 5


def test_expired_confirmation_does_not_change_the_cursor(engine):
    id_ = add_confirmation(engine)

    with engine.begin() as conn:
        deliveries.expire_due(conn, NOW + timedelta(days=1))

    assert outbox.cursor(engine, id_) == 5


# --- Uncertain deliveries -----------------------------------------------------------------------


def resend(engine, now=NOW, kinds=(DeliveryKind.CONFIRMATION,)):
    with engine.begin() as conn:
        return deliveries.resend_uncertain(conn, kinds, now)


def test_an_uncertain_confirmation_is_resent_once(engine):
    id_ = in_hand(engine, add_confirmation(engine))
    settle(engine, Settlement(id_, Status.UNCERTAIN, "unknown at dot"))

    assert resend(engine) == 1
    in_hand(engine, id_)
    settle(engine, Settlement(id_, Status.UNCERTAIN, "unknown at dot"))
    assert resend(engine) == 0

    assert status_of(engine, id_) == Status.UNCERTAIN


def test_uncertain_digest_is_resent_only_if_requested(engine):
    id_ = in_hand(engine, add_delivery(engine))
    settle(engine, Settlement(id_, Status.UNCERTAIN, "unknown at dot"))

    assert resend(engine) == 0
    assert resend(engine, kinds=tuple(DeliveryKind)) == 1


def test_a_resent_delivery_cannot_be_settled_by_its_first_sender(engine):
    id_ = in_hand(engine, add_confirmation(engine))
    recover(engine, NOW + PATIENCE)
    resend(engine)

    assert settle(engine, Settlement(id_, Status.SENT, "accepted")).total() == 0


def test_operator_can_drop_or_resend_an_uncertain_delivery(engine):
    dropped, resent = (
        add_delivery(engine, status="uncertain"),
        add_delivery(engine, status="uncertain"),
    )
    late = NOW + timedelta(days=2)

    with engine.begin() as conn:
        deliveries.resolve(conn, dropped, Resolution.DROP, late)
        deliveries.resolve(conn, resent, Resolution.RESEND, late)

    assert status_of(engine, dropped) == Status.SENT
    assert row(engine, dropped).reason == "taken as accepted by the operator"
    assert claim(engine, now=late) == [resent], "it has not expired in the meantime"


@pytest.mark.parametrize("status", sorted(set(Status) - {Status.UNCERTAIN}))
def test_only_uncertain_deliveries_can_be_resolved(engine, status):
    id_ = add_delivery(engine, status=status)

    with engine.begin() as conn, pytest.raises(NotFoundError):
        deliveries.resolve(conn, id_, Resolution.RESEND, NOW)

    assert status_of(engine, id_) == status


# --- Queries ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "places"),
    [
        (Page(), [0, 1, 2, 3, 4]),
        (Page(limit=2), [3, 4]),
        (Page(limit=2, before=3), [1, 2]),
        (Page(limit=2, after=0), [1, 2]),
        (Page(after=1, before=3), [2]),
    ],
)
@pytest.mark.parametrize("status", [None, Status.SENT])
def test_page_is_between_ids_or_the_newest_deliveries(engine, page, places, status):
    ids = [add_delivery(engine, status="sent", created_at=NOW) for _ in range(5)]
    with engine.begin() as conn:  # a lease orders the index of the statuses differently
        conn.execute(update(DeliveryRow).where(DeliveryRow.id == ids[1]).values(lease_until=NOW))
    add_delivery(engine, status="failed", created_at=NOW - timedelta(days=1))

    def bound(place):
        return None if place is None else ids[place]

    page = Page(bound(page.after), bound(page.before), page.limit)
    with engine.connect() as conn:
        found = list_ids(conn, page, Wanted(status=status, since=NOW))

    assert found == [ids[place] for place in places]


@pytest.mark.full
@pytest.mark.parametrize(
    "wanted",
    [
        Wanted(),
        Wanted(status=Status.SENT),
        Wanted(subscriber_id=1),
        Wanted(edition_on=date(2030, 1, 2)),
        Wanted(since=NOW),
    ],
    ids=["all", "status", "subscriber", "edition", "since"],
)
def test_page_of_deliveries_is_found_by_an_index(engine, wanted):
    add_delivery(engine)
    with selecting(engine) as seen, engine.connect() as conn:
        list_ids(conn, Page(limit=100, before=1_000), wanted)

    assert seen
    assert all(is_indexed(engine, statement, parameters) for statement, parameters in seen)


def test_listing_returns_all_deliveries_or_those_of_one_status(engine):
    first = add_delivery(engine, "ada@example.org", reason="because")
    second = add_delivery(engine, status="sent")

    with engine.connect() as conn:
        everything = delivery_queries.list_views(conn)
        sent = delivery_queries.list_views(conn, list_ids(conn, ALL, Wanted(status=Status.SENT)))

    assert [view.id for view in everything] == [first, second]
    assert [view.id for view in sent] == [second]
    assert (everything[0].email, everything[0].reason, everything[0].papers) == (
        "ada@example.org",
        "because",
        0,
    )


def test_counts_include_every_status(engine):
    add_delivery(engine)

    with engine.connect() as conn:
        counted = delivery_queries.counts(conn)

    assert counted == {**dict.fromkeys(Status, 0), Status.QUEUED: 1}


def test_next_due_at_returns_the_earliest_time(engine):
    with engine.connect() as conn:
        assert delivery_queries.next_due_at(conn) is None
    add_delivery(engine, not_before=NOW + timedelta(hours=2))
    add_delivery(engine, not_before=NOW + timedelta(hours=1))

    with engine.connect() as conn:
        assert delivery_queries.next_due_at(conn) == NOW + timedelta(hours=1)


@pytest.mark.parametrize("precedence", [0, 1])
def test_next_due_at_ignores_unsendable_deliveries(engine, precedence):
    """If the sender waited for these, it would poll in a loop, and a drain would never end."""
    day = {"precedence": precedence}
    add_delivery(engine, **day, domain="slowed.example")
    add_delivery(engine, **day, edition_on=TODAY + timedelta(days=3))
    left, gone = add_subscriber(engine), add_subscriber(engine)
    add_delivery(engine, **day, subscriber_id=left)
    add_delivery(engine, **day, subscriber_id=gone)
    add_delivery(engine, **day, status=Status.SENT)
    outbox.set_status(engine, left, SubscriberStatus.UNSUBSCRIBED)
    outbox.suppress(engine, gone)
    with engine.begin() as conn:
        slow = throttle.refused(None, "slowed.example", ThrottleState.SLOWED, "slow", NOW)
        throttles.insert(conn, slow)
        send_controls.pause(conn, TODAY + timedelta(days=3), "held", NOW)

    with engine.connect() as conn:
        assert delivery_queries.next_due_at(conn) is None
    add_delivery(engine, **day, not_before=NOW + timedelta(hours=1))
    with engine.connect() as conn:
        assert delivery_queries.next_due_at(conn) == NOW + timedelta(hours=1)


def test_manual_resend_never_shortens_the_expiry(engine):
    """The digest expires in 18 hours at the earliest; a later expiry is kept."""
    later, sooner = NOW + timedelta(hours=40), NOW + timedelta(hours=1)
    long, short = (
        add_delivery(engine, status=Status.UNCERTAIN, expires_at=end) for end in (later, sooner)
    )

    with engine.begin() as conn:
        for id_ in (long, short):
            deliveries.resolve(conn, id_, Resolution.RESEND, NOW)

    assert row(engine, long).expires_at == later
    assert row(engine, short).expires_at == NOW + timedelta(hours=18)


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_claim_skips_rows_locked_by_another_claim(engine):
    """SQLite has a single writer at a time; PostgreSQL skips locked rows."""
    first, second = add_delivery(engine), add_delivery(engine)

    with engine.begin() as mine, engine.begin() as theirs:
        theirs.exec_driver_sql("SET LOCAL lock_timeout = '2s'")
        taken = deliveries.claim(mine, 1, "mine", LEASE, NOW)
        others = deliveries.claim(theirs, 5, "theirs", LEASE, NOW)

    assert [one.id for one in taken] == [first]
    assert [one.id for one in others] == [second]


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_expire_due_skips_locked_rows(engine):
    over = {"expires_at": NOW - timedelta(hours=1)}
    held, free = add_delivery(engine, **over), add_delivery(engine, **over)

    with engine.begin() as mine, engine.begin() as theirs:
        theirs.exec_driver_sql("SET LOCAL lock_timeout = '2s'")
        mine.execute(update(DeliveryRow).where(DeliveryRow.id == held).values(attempts=1))
        assert deliveries.expire_due(theirs, NOW) == 1

    assert (status_of(engine, held), status_of(engine, free)) == (Status.QUEUED, Status.EXPIRED)


# --- Each condition of a statement --------------------------------------------------------------

SECOND, HOUR, DAY = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1)
SINGLE = {"edition_on": None, "range_from": None, "range_to": None}


def only(engine, of, changed):
    """Call `of` with a connection and return its result; exactly the ids in `changed` change."""
    before = rows(engine, DeliveryRow, DeliveryRow.id)
    with engine.begin() as conn:
        result = of(conn)
    after = rows(engine, DeliveryRow, DeliveryRow.id)
    assert {a.id for a, b in zip(after, before, strict=True) if vars_of(a) != vars_of(b)} == changed
    return result


def vars_of(delivery):
    return {column.name: getattr(delivery, column.name) for column in DeliveryRow.__table__.c}


@pytest.mark.parametrize(
    ("lease_until", "is_over"),
    [
        (NOW, True),
        (NOW + SECOND, False),
        (NOW + HOUR, False),
        (NOW + HOUR + SECOND, True),
    ],
)
def test_lease_is_recovered_if_expired_or_set_by_a_wrong_clock(engine, lease_until, is_over):
    held = {"lease": "theirs", "lease_until": lease_until, "attempts": 1}
    claimed = add_delivery(engine, status=Status.LEASED, **held)
    on_the_wire = add_delivery(engine, status=Status.SENDING, **held)
    ended = add_delivery(engine, status=Status.SENT, **held)

    changed = {claimed, on_the_wire} if is_over else set()
    found = only(engine, lambda conn: deliveries.recover_leases(conn, NOW), changed)

    assert found == deliveries.Recovery(queued=int(is_over), uncertain=int(is_over))
    assert row(engine, ended).lease == "theirs"
    if is_over:
        one, other = row(engine, claimed), row(engine, on_the_wire)
        assert (one.status, one.attempts, one.lease) == (Status.QUEUED, 1, None)
        assert (other.status, other.attempts, other.lease) == (Status.UNCERTAIN, 2, "theirs")
        assert other.lease_until is None


@pytest.mark.parametrize(
    ("changes", "newer", "status", "attempts", "cursor"),
    [
        ({}, None, "queued", 2, 5),
        ({"status": "suppressed"}, None, "queued", 2, 5),
        ({"status": "queued", "not_before": NOW + HOUR}, None, "queued", 2, 5),
        ({"attempts": 0}, None, "queued", 0, 5),
        ({"status": "sent"}, None, "sent", 3, 5),
        ({"status": "expired"}, None, "expired", 3, 5),
        ({"expires_at": NOW}, None, "failed", 3, 2),
        ({"expires_at": NOW + SECOND}, None, "queued", 2, 5),
        ({}, {"status": "sent"}, "failed", 3, 2),
        ({}, {"status": "sent", "range_from": 2}, "failed", 3, 5),
        ({}, {"status": "uncertain"}, "failed", 3, 2),
        ({}, {"status": "queued"}, "failed", 3, 2),
        ({}, {"status": "cancelled"}, "queued", 2, 5),
        ({}, {"status": "sent", "range_to": 4}, "queued", 2, 5),
    ],
)
def test_requeue_refused_requeues_the_delivery_or_sets_the_cursor_back(
    engine, changes, newer, status, attempts, cursor
):
    reader = add_subscriber(engine)
    refused = {"status": Status.FAILED, "attempts": 3, "marked_at": NOW, "lease": "theirs"}
    id_ = add_delivery(engine, subscriber_id=reader, **refused | changes)
    if newer:
        add_delivery(engine, subscriber_id=reader, **{"range_from": 4, "range_to": 5} | newer)
    other = add_delivery(engine, **refused)

    with engine.begin() as conn:
        deliveries.requeue_refused(conn, [id_], NOW)

    found = row(engine, id_)
    assert (found.status, found.attempts, outbox.cursor(engine, id_)) == (status, attempts, cursor)
    if status == "queued":
        assert (found.not_before, found.marked_at, found.lease) == (NOW, None, None)
    assert (row(engine, other).attempts, outbox.cursor(engine, other)) == (3, 5)


def test_take_back_fails_a_sent_delivery_and_sets_its_cursor_back(engine):
    ids = {status: add_delivery(engine, status=status) for status in Status}
    other = add_delivery(engine, status=Status.SENT)
    back = ids[Status.SENT]

    only(engine, lambda conn: deliveries.take_back(conn, ids.values(), "came back"), {back})

    assert (status_of(engine, back), row(engine, back).reason) == (Status.FAILED, "came back")
    assert {outbox.cursor(engine, id_) for id_ in {*ids.values(), other} - {back}} == {5}
    assert outbox.cursor(engine, back) == 2


@pytest.mark.parametrize(
    ("changes", "is_resent"),
    [
        ({}, True),
        ({"status": Status.SENT}, False),
        ({"kind": DeliveryKind.LINK}, False),
        ({"resent_at": NOW - HOUR}, False),
        ({"expires_at": NOW}, False),
        ({"expires_at": NOW + SECOND}, True),
    ],
)
def test_resend_uncertain_requeues_only_eligible_deliveries(engine, changes, is_resent):
    uncertain = {"status": Status.UNCERTAIN, "not_before": NOW - DAY, "lease": "theirs"}
    id_ = add_delivery(engine, **uncertain | {"kind": DeliveryKind.CONFIRMATION} | changes)

    assert only(engine, lambda conn: deliveries.resend_uncertain(
        conn, [DeliveryKind.CONFIRMATION], NOW
    ), {id_} if is_resent else set()) == int(is_resent)  # fmt: skip

    if is_resent:
        found = row(engine, id_)
        assert (found.status, found.lease, found.resent_at) == (Status.QUEUED, None, NOW)
        assert found.not_before == NOW


def test_cancelling_ends_queued_and_leased_mail_of_the_given_readers_only(engine):
    reader = add_subscriber(engine)
    ids = {s: add_delivery(engine, subscriber_id=reader, status=s, lease="theirs") for s in Status}
    add_delivery(engine)
    owed = {ids[Status.QUEUED], ids[Status.LEASED]}

    ended = only(engine, lambda conn: deliveries.cancel_unsent(
        conn, [reader], CancelReason.LEFT
    ), owed)  # fmt: skip

    assert set(ended) == owed
    for id_ in owed:
        found = row(engine, id_)
        assert (found.status, found.reason, found.lease) == (Status.CANCELLED, "left", None)
    with engine.begin() as conn:
        assert deliveries.cancel_unsent(conn, [reader], CancelReason.LEFT) == []


def test_cancel_edition_works_in_bounded_steps_and_sets_cursors_back(engine):
    ids = {status: add_delivery(engine, status=status) for status in Status}
    add_delivery(engine, edition_on=TODAY + DAY)
    owed = {ids[Status.QUEUED], ids[Status.LEASED]}

    def cancel(conn):
        return [deliveries.cancel_edition(conn, TODAY, limit=1) for _ in range(3)]

    assert only(engine, cancel, owed) == [1, 1, 0]

    assert {row(engine, id_).reason for id_ in owed} == {"cancelled by the operator"}
    assert {id_ for id_ in ids.values() if outbox.cursor(engine, id_) == 2} == owed


def test_editions_are_counted_by_status_newest_first(engine):
    for status, day in (("sent", 0), ("sent", 0), ("queued", 0), ("failed", 1)):
        add_delivery(engine, status=status, edition_on=TODAY + day * DAY)
    add_confirmation(engine)

    with engine.connect() as conn:
        found = delivery_queries.edition_counts(conn)

    assert list(found.items()) == [
        (TODAY + DAY, {Status.FAILED: 1}),
        (TODAY, {Status.SENT: 2, Status.QUEUED: 1}),
    ]


def test_readdress_moves_unsent_deliveries_to_the_new_domain(engine):
    reader = add_subscriber(engine)
    ids = {s: add_delivery(engine, subscriber_id=reader, status=s, domain="old.example")
           for s in Status}  # fmt: skip
    add_delivery(engine, domain="old.example")
    add_delivery(engine, subscriber_id=reader, address="x@old.example", domain="old.example")
    owed = {ids[status] for status in (Status.QUEUED, Status.LEASED, Status.UNCERTAIN)}

    only(engine, lambda conn: deliveries.readdress(conn, reader, "ada@new.example"), owed)

    assert {row(engine, id_).domain for id_ in owed} == {"new.example"}


WORDS = {"reply": "550 <ada@example.org>", "queue_id": "Q1"}


def test_blank_removes_personal_data_from_deliveries_of_a_reader(engine):
    reader = add_subscriber(engine)
    said = WORDS | {"address": "a@b.example", "domain": "b.example", "topics": ["AI"], "more": 3}
    mine = add_delivery(engine, subscriber_id=reader, **said)
    other = add_delivery(engine, **said)
    with engine.begin() as conn:
        for id_ in (mine, other):
            refusal = ("hash", "b.example", StrikeKind.HARD, None, "no", "mx", NOW)
            refusals.record(conn, refusals.Refusal(id_, TODAY, *refusal))

    only(engine, lambda conn: deliveries.redact(conn, reader), {mine})

    found = row(engine, mine)
    assert (found.address, found.domain, found.topics, found.more) == (None, "", [], 0)
    assert (found.reply, found.queue_id, found.redacted) == (None, None, True)
    assert [one.delivery_id for one in rows(engine, RefusalRow)] == [other]


def test_forget_address_cancels_queued_mail_and_redacts_the_address(engine):
    """Queued mail of the request is cancelled and its address redacted; other mail stays."""
    add_confirmation(engine)
    with engine.begin() as conn:
        requested = [
            conn.execute(insert(RequestRow).values(
                kind="join", subscriber_id=1, email="", email_key="", origin="form", choices={},
                created_at=NOW, expires_at=NOW + DAY,
            )).inserted_primary_key[0]
            for n in range(2)
        ]  # fmt: skip
    asked = WORDS | {"address": "new@example.org", "request_id": requested[0]}
    owed = add_delivery(engine, **asked)
    sent = add_delivery(engine, **asked, status=Status.SENT)
    add_delivery(engine, **asked | {"address": None})
    add_delivery(engine, **asked | {"request_id": requested[1]})
    add_delivery(engine, **asked | {"request_id": None})

    only(engine, lambda conn: deliveries.redact_address(conn, requested[:1]), {owed, sent})

    for id_, status in ((owed, Status.CANCELLED), (sent, Status.SENT)):
        found = row(engine, id_)
        assert (found.status, found.address, found.redacted) == (status, "", True)
        assert (found.reply, found.queue_id) == (None, None)
    assert row(engine, owed).reason == "its address was erased"


LEFT = {"status": SubscriberStatus.UNSUBSCRIBED, "left_at": NOW}
PENDING = {"status": SubscriberStatus.PENDING}


@pytest.mark.parametrize(
    ("reader", "changes", "is_welcome"),
    [
        ({}, {}, True),
        (PENDING, {}, False),
        (PENDING, {"kind": "confirmation"}, True),
        (PENDING, {"kind": "data-link"}, False),
        (LEFT, {}, False),
        (LEFT, {"kind": "confirmation"}, True),
        (LEFT, {"kind": "data-link"}, True),
        (LEFT, {"kind": "link"}, False),
        (LEFT, {"kind": "confirmation", "created_at": NOW - SECOND}, False),
        ({"email": ""}, {}, False),
    ],
)
def test_claim_respects_subscriber_state_and_delivery_kind(engine, reader, changes, is_welcome):
    id_ = add_delivery(engine, subscriber_id=add_subscriber(engine, **reader), **changes)
    add_delivery(engine, status=Status.SENT)
    if "email" in reader:
        with engine.begin() as conn:
            conn.execute(update(SubscriberRow).values(email=reader["email"]))

    assert claim(engine) == ([id_] if is_welcome else [])


@pytest.mark.parametrize(
    ("reason", "since", "changes", "is_written"),
    [
        ("hard", NOW, {}, False),
        ("hard", NOW, {"address": "new@example.org"}, True),
        ("hard", NOW, {"kind": "confirmation"}, True),
        ("hard", NOW + SECOND, {"kind": "confirmation"}, False),
        ("complaint", NOW, {"kind": "confirmation"}, False),
        ("hard", NOW, {"kind": "link"}, False),
    ],
)
def test_suppressed_address_gets_only_newly_requested_mail(
    engine, reason, since, changes, is_written
):
    ada = add_subscriber(engine, "ada@example.org")
    id_ = add_delivery(engine, subscriber_id=ada, **changes)
    outbox.suppress(engine, ada, reason, since)

    assert claim(engine) == ([id_] if is_written else [])


def test_claim_orders_by_precedence_and_filters_domains(engine):
    late, early = (add_delivery(engine, not_before=NOW - n * HOUR, precedence=1) for n in (1, 2))
    awaited = add_delivery(engine, not_before=NOW, precedence=0)
    slow = add_delivery(engine, not_before=NOW, precedence=1, domain="slow.example")
    add_delivery(engine, not_before=NOW + SECOND)

    def take(limit, **which):
        with engine.begin() as conn:
            taken = deliveries.claim(conn, limit, "mine", LEASE, NOW, **which)
            deliveries.give_back(conn, "mine")
        return [one.id for one in taken]

    assert take(9) == [awaited, early, late, slow]
    assert take(2) == [awaited, early]
    assert take(1) == [awaited]
    assert take(9, domain="slow.example") == [slow]
    assert take(9, besides={"slow.example", ""}) == []
    assert take(9, besides={"slow.example"}) == [awaited, early, late]


def test_in_hand_counts_own_and_other_leases_of_a_domain(engine):
    held = {"domain": "d.example", "lease": "mine", "lease_until": NOW + SECOND}
    for status in Status:
        add_delivery(engine, status=status, **held)
    add_delivery(engine, status=Status.LEASED, **held | {"lease": "theirs"})
    add_delivery(engine, status=Status.LEASED, **held | {"lease_until": NOW})
    add_delivery(engine, status=Status.LEASED, **held | {"domain": "other.example"})

    with engine.connect() as conn:
        found = delivery_queries.in_hand(conn, "d.example", "mine", NOW)

    assert found == delivery_queries.InHand(ours=2, others=1)
    assert found.total == 3
    assert found + found == delivery_queries.InHand(ours=4, others=2)


def test_unmarked_deliveries_are_withdrawn_or_handed_back(engine):
    left, gone, held, taken, other = (add_delivery(engine, address_of(n)) for n in range(5))
    claim(engine)
    outbox.set_status(engine, 1, SubscriberStatus.UNSUBSCRIBED)
    outbox.suppress(engine, 2)
    outbox.alter(engine, taken, lease="theirs")
    for reader in (1, 2):
        add_delivery(engine, subscriber_id=reader, status=Status.LEASED, lease="theirs")
        add_delivery(engine, subscriber_id=reader, status=Status.LEASED, lease="mine")
    ids = [left, gone, held, taken]

    assert only(engine, lambda conn: deliveries.withdraw(conn, ids, "mine"), {left, gone}) == 2
    assert only(engine, lambda conn: deliveries.hand_back(conn, ids, "mine"), {held}) == 1

    found = [(row(engine, id_).status, row(engine, id_).reason) for id_ in (left, gone)]
    assert found == [(Status.CANCELLED, "left"), (Status.SUPPRESSED, "suppressed")]
    assert (status_of(engine, held), row(engine, held).lease) == (Status.QUEUED, None)
    assert (status_of(engine, taken), status_of(engine, other)) == (Status.LEASED, Status.LEASED)
    assert row(engine, left).lease is None


def address_of(number):
    return f"reader{number}@example.org"


def test_record_of_returns_own_deliveries_without_lease_columns(engine):
    reader = add_subscriber(engine)
    ids = [add_delivery(engine, subscriber_id=reader) for _ in range(2)]
    add_delivery(engine)

    with engine.connect() as conn:
        found = delivery_queries.record_of(conn, reader)

    assert [one["id"] for one in found] == ids
    columns = {column.name for column in DeliveryRow.__table__.c}
    assert set(found[0]) == columns - {"lease", "lease_until"}


def test_deliveries_of_unknown_kind_or_status_are_reported(engine):
    good, *bad = (add_delivery(engine) for _ in range(3))
    for id_, wrong in zip(bad, ({"kind": "pigeon"}, {"status": "lost"}), strict=True):
        outbox.alter(engine, id_, **wrong)

    with engine.connect() as conn:
        assert [id_ for id_, _why in delivery_queries.unreadable(conn)] == bad
        assert [view.id for view in delivery_queries.list_views(conn)] == [good]


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({}, ("hard", "suppressed")),
        ({"status": Status.FAILED, "strike": "soft"}, ("soft", "failed")),
        ({"status": Status.FAILED, "strike": None}, (None, None)),
        ({"status": Status.QUEUED, "strike": "full"}, ("full", None)),
        ({"status": Status.QUEUED, "strike": None}, None),
        ({"status": Status.FAILED, "strike": None, "reply": None}, None),
        ({"address": "new@example.org"}, (None, None)),
        ({**SINGLE}, ("hard", "suppressed")),
        ({**SINGLE, "status": Status.FAILED, "strike": "soft"}, (None, None)),
        ({"token": "theirs"}, None),
    ],
)
def test_refusal_is_recorded_with_its_possible_strike(engine, changes, kept):
    fields = set(Settlement.__dataclass_fields__)
    of_the_row = {k: v for k, v in changes.items() if k in {"address", *SINGLE}}
    id_ = in_hand(engine, add_delivery(engine, "ada@example.org", **of_the_row))
    told = {
        "status": Status.SUPPRESSED, "reason": "hard", "reply": "550 gone", "charged": True,
        "strike": "hard",
    }  # fmt: skip
    told |= {k: v for k, v in changes.items() if k in fields}
    told["strike"] = StrikeKind(told["strike"]) if told.get("strike") else None

    settle(engine, Settlement(id_, **told), token=changes.get("token", "mine"))

    found = [(one.kind, one.ends_as) for one in rows(engine, RefusalRow)]
    assert found == ([kept] if kept else [])
    is_open = (kept and kept[1]) or told["status"] == Status.QUEUED
    expected = Status.QUEUED if is_open else told["status"]
    assert status_of(engine, id_) == (expected if "token" not in changes else Status.SENDING)


@pytest.mark.parametrize("status", list(Status))
def test_only_sending_or_uncertain_deliveries_can_be_accepted(engine, status):
    id_ = add_delivery(engine, status=status, lease="mine", attempts=1)

    written = settle(engine, Settlement(id_, Status.SENT, "accepted", queue_id="Q1"))

    is_taken = status in (Status.SENDING, Status.UNCERTAIN)
    found = row(engine, id_)
    assert written.total() == is_taken
    assert (found.status, found.queue_id) == ((Status.SENT, "Q1") if is_taken else (status, None))
    assert found.attempts == (2 if status is Status.SENDING else 1)


@pytest.mark.parametrize(
    ("other", "cursor"),
    [
        ({"range_to": 4}, 2),
        ({"range_from": 3}, 2),
        ({}, 5),
        ({"subscriber_id": None}, 2),
        ({"status": Status.EXPIRED}, 2),
    ],
)
def test_cursor_is_set_back_unless_another_digest_covers_all_papers(engine, other, cursor):
    reader = add_subscriber(engine)
    ended = add_delivery(engine, subscriber_id=reader, status=Status.CANCELLED)
    add_delivery(engine, **{"subscriber_id": reader, "status": Status.SENT} | other)

    with engine.begin() as conn:
        deliveries.set_cursors_back(conn, [ended])

    assert outbox.cursor(engine, ended) == cursor


def test_queued_delivery_does_not_count_as_covering_its_own_papers(engine):
    """The delivery covers its own range, but must not count as the newer one that covers it."""
    id_ = add_delivery(engine)

    with engine.begin() as conn:
        deliveries.set_cursors_back(conn, [id_])

    assert outbox.cursor(engine, id_) == 2


# --- Pauses -------------------------------------------------------------------------------------


def test_hold_applies_to_everything_or_one_edition_and_is_idempotent(engine):
    later = add_delivery(engine, edition_on=TODAY + DAY)
    first = add_delivery(engine)
    single = add_confirmation(engine)

    def held():
        held_up = claim(engine)
        with engine.begin() as conn:
            deliveries.give_back(conn, "mine")
        return {first, later, single} - set(held_up)

    def call(function, *args, **options):
        with engine.begin() as conn:
            return function(conn, *args, **options)

    assert held() == set()
    assert call(send_controls.pause, TODAY + DAY, "late", NOW) is True
    assert call(send_controls.pause, TODAY, "bad", NOW + HOUR, automatic=True) is True
    assert call(send_controls.pause, TODAY, "again", NOW) is False
    assert held() == {first, later}
    assert call(send_controls.pause, None, "all", NOW) is True
    assert held() == {first, later, single}
    assert call(send_controls.list_pauses) == [
        send_controls.Pause(None, NOW, "all"),
        send_controls.Pause(TODAY, NOW + HOUR, "bad", automatic=True),
        send_controls.Pause(TODAY + DAY, NOW, "late"),
    ]
    assert call(send_controls.resume, None) is True
    assert call(send_controls.resume, None) is False
    assert call(send_controls.resume, TODAY) is True
    assert held() == {later}
