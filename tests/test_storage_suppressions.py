"""Suppressed addresses: reasons that replace others, and the deliveries that they cancel."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pipeline.domain import DeliveryKind, DeliveryStatus, SubscriberStatus, SuppressionReason
from pipeline.storage import suppressions
from pipeline.storage.schema import SuppressionRow
from tests.support import outbox
from tests.support.factories import NOW
from tests.support.outbox import add_delivery, add_subscriber

SECOND, HOUR, DAY = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1)
HASH = "hash of ada@example.org"
Reason = SuppressionReason


def call(engine, function, *args, **options):
    with engine.begin() as conn:
        return function(conn, *args, **options)


@pytest.mark.parametrize("old", list(Reason))
@pytest.mark.parametrize("new", list(Reason))
def test_complaint_overrides_all_and_manual_overrides_other_reasons(engine, old, new):
    for hash_ in ("one", "other"):
        call(engine, suppressions.suppress, hash_, old, NOW)

    call(engine, suppressions.suppress, "one", new, NOW + DAY)

    stays = old is Reason.COMPLAINT or (old is Reason.MANUAL and new is not Reason.COMPLAINT)
    expected = suppressions.Suppression(
        "one", old if stays else new, NOW + (0 if stays else 1) * DAY
    )
    assert call(engine, suppressions.by_hash, "one") == expected
    assert call(engine, suppressions.by_hash, "other").reason is old


@pytest.mark.parametrize("reason", list(Reason))
def test_lifting_a_suppression_depends_on_its_reason(engine, reason):
    def suppress():
        with engine.begin() as conn:
            conn.execute(SuppressionRow.__table__.delete())
        for hash_ in ("one", "other"):
            call(engine, suppressions.suppress, hash_, reason, NOW)

    suppress()
    call(engine, suppressions.delete_erased, "one")
    assert set(outbox.suppressions(engine)) == (
        {"other"} if reason is Reason.ERASED else {"one", "other"}
    )
    suppress()
    call(engine, suppressions.lift_after_confirmation, "one")
    assert set(outbox.suppressions(engine)) == (
        {"one", "other"} if reason is Reason.COMPLAINT else {"other"}
    )
    suppress()
    call(engine, suppressions.remember_erased, "one", NOW + DAY)
    assert call(engine, suppressions.by_hash, "one").reason is reason
    assert call(engine, suppressions.lift, "one") is True
    assert call(engine, suppressions.lift, "one") is False
    assert outbox.suppressions(engine) == {"other": reason}


def test_erased_address_is_suppressed_by_its_hash(engine):
    call(engine, suppressions.remember_erased, "one", NOW)

    assert call(engine, suppressions.list_all) == [
        suppressions.Suppression("one", Reason.ERASED, NOW)
    ]


def test_suppressed_among_returns_suppressed_subscribers(engine):
    for name in "abc":
        add_subscriber(engine, f"{name}@example.org")
    for name in "ac":
        call(engine, suppressions.suppress, f"hash of {name}@example.org", Reason.HARD, NOW)

    assert call(engine, suppressions.suppressed_among, [1, 2]) == {1}


def test_suppressions_are_listed_oldest_first(engine):
    for hash_, days in (("b", 2), ("a", 3), ("c", 1)):
        call(engine, suppressions.suppress, hash_, Reason.HARD, NOW + days * DAY)

    assert [one.hash for one in call(engine, suppressions.list_all)] == ["c", "b", "a"]


@pytest.mark.parametrize(
    ("reason", "before", "confirmed_at", "kept", "new"),
    [
        ("hard", None, None, "hard", 1),
        ("hard", "soft", None, "soft", 0),
        ("complaint", "soft", None, "complaint", 0),
        ("hard", None, NOW + HOUR, None, 0),
        ("hard", None, NOW, "hard", 1),
        ("complaint", None, NOW + HOUR, "complaint", 1),
    ],
)
def test_imported_suppression_is_merged_with_existing_ones(
    engine, reason, before, confirmed_at, kept, new
):
    add_subscriber(engine, "ada@example.org", confirmed_at=confirmed_at)
    hash_ = "hash of ada@example.org"
    if before:
        call(engine, suppressions.suppress, hash_, SuppressionReason(before), NOW - DAY)
    imported = suppressions.Suppression(hash_, SuppressionReason(reason), NOW)

    assert call(engine, suppressions.add_imported, [imported]) == new

    assert outbox.suppressions(engine) == ({hash_: kept} if kept else {})


# --- Deliveries ---------------------------------------------------------------------------------


def test_suppressing_ends_queued_and_leased_deliveries_of_that_address_only(engine):
    reader = add_subscriber(engine, "ada@example.org")
    ids = {
        status: add_delivery(engine, subscriber_id=reader, status=status, lease="theirs")
        for status in DeliveryStatus
    }
    other = add_delivery(engine)

    call(engine, suppressions.suppress, HASH, Reason.MANUAL, NOW)

    for status in (DeliveryStatus.QUEUED, DeliveryStatus.LEASED):
        found = outbox.row(engine, ids.pop(status))
        assert (found.status, found.reason, found.lease) == ("suppressed", "suppressed", None)
    assert {status: outbox.row(engine, id_).status for status, id_ in ids.items()} == {
        status: status for status in ids
    }
    assert outbox.row(engine, other).status == DeliveryStatus.QUEUED


@pytest.mark.parametrize("reason", [Reason.HARD, Reason.COMPLAINT])
@pytest.mark.parametrize("kind", [DeliveryKind.CONFIRMATION, DeliveryKind.LINK])
@pytest.mark.parametrize("since", [NOW - SECOND, NOW])
def test_only_a_confirmation_queued_after_the_suppression_stays(engine, reason, kind, since):
    """An imported suppression is older than mails that were requested here since."""
    reader = add_subscriber(engine, "ada@example.org", status=SubscriberStatus.PENDING)
    id_ = add_delivery(engine, subscriber_id=reader, kind=kind, created_at=NOW)

    call(engine, suppressions.suppress, HASH, reason, since)

    stays = kind is DeliveryKind.CONFIRMATION and reason is Reason.HARD and since < NOW
    assert outbox.row(engine, id_).status == ("queued" if stays else "suppressed")


def test_imported_suppression_cancels_queued_deliveries(engine):
    id_ = add_delivery(engine, "ada@example.org")
    imported = suppressions.Suppression(HASH, Reason.HARD, NOW - DAY)

    call(engine, suppressions.add_imported, [imported])

    assert outbox.row(engine, id_).status == DeliveryStatus.SUPPRESSED
