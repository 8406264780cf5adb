"""Data retention: delete or redact rows that are too old.

Each function processes at most `limit` rows and returns their number; 0 when none is left. Rows
locked by another transaction are skipped until the next run (`drop_skips` waits for them). All
queries use an index that excludes rows redacted before, so the cost of a nightly run depends on the
rows of one day.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Select, delete, exists, select, update

from pipeline.domain import OPERATOR_MAIL, UNSENT, DeliveryStatus, SubscriberStatus
from pipeline.storage.rate_limits import PROXIES
from pipeline.storage.schema import (
    DeliveryRow,
    PendingConfirmationRow,
    PickRow,
    RateLimitRow,
    RequestRow,
    SkipRow,
    SubscriberRow,
)

_IN_PLAY: Final = (*UNSENT, DeliveryStatus.SENDING)


def delete_pending(conn: Connection, *, before: datetime, limit: int) -> int:
    """Delete pending subscribers created before `before` and without a request since then.

    If such a subscriber was confirmed in the past, it becomes unsubscribed instead. The operator's
    row is kept while mail to the operator is newer or not settled: it would be deleted with it.
    """
    has_newer_request = exists().where(
        RequestRow.subscriber_id == SubscriberRow.id, RequestRow.created_at >= before
    )
    is_unsettled = DeliveryRow.status.in_((*_IN_PLAY, DeliveryStatus.UNCERTAIN))
    has_operator_mail = exists().where(
        DeliveryRow.subscriber_id == SubscriberRow.id,
        DeliveryRow.kind.in_(OPERATOR_MAIL),
        (DeliveryRow.created_at >= before) | is_unsettled,
    )
    is_over = (
        (SubscriberRow.status == SubscriberStatus.PENDING)
        & (SubscriberRow.created_at < before)
        & ~has_newer_request
        & ~has_operator_mail
    )
    # Lock first and check again: a transaction that held the row may have added a request.
    ids = _locked(conn, select(SubscriberRow.id).where(is_over), limit)
    were_readers = SubscriberRow.confirmed_at.is_not(None)
    left = conn.execute(
        update(SubscriberRow)
        .where(SubscriberRow.id.in_(ids), is_over, were_readers)
        .values(status=SubscriberStatus.UNSUBSCRIBED, left_at=before, next_slot_at=None)
    ).rowcount
    dropped = conn.execute(
        delete(SubscriberRow).where(SubscriberRow.id.in_(ids), is_over, ~were_readers)
    ).rowcount
    return left + dropped


def delete_requests(conn: Connection, *, before: datetime, limit: int) -> int:
    """Delete unanswered requests. Answered ones stay: they are the record of consent."""
    is_over = (RequestRow.created_at < before) & RequestRow.used_at.is_(None)
    ids = _locked(conn, select(RequestRow.id).where(is_over), limit)
    return conn.execute(delete(RequestRow).where(RequestRow.id.in_(ids))).rowcount


def redact_addresses(conn: Connection, *, before: datetime, limit: int) -> int:
    """Redact address and domain of mails that did not go to the subscriber's own address.

    Such a mail asked another address, once, for a confirmation.
    """
    is_over = (
        (DeliveryRow.created_at < before)
        & DeliveryRow.status.not_in(_IN_PLAY)
        & (DeliveryRow.address != "")
    )
    ids = _locked(conn, select(DeliveryRow.id).where(is_over), limit)
    # Not NULL, which means the subscriber's own address.
    return conn.execute(
        update(DeliveryRow).where(DeliveryRow.id.in_(ids)).values(address="", domain="")
    ).rowcount


def redact_requests(conn: Connection, *, before: datetime, limit: int) -> int:
    """Redact the IP address and the choices of requests: the subscription has them by now."""
    is_over = ~RequestRow.redacted & (RequestRow.created_at < before)
    ids = _locked(conn, select(RequestRow.id).where(is_over), limit)
    return conn.execute(
        update(RequestRow).where(RequestRow.id.in_(ids)).values(ip=None, choices={}, redacted=True)
    ).rowcount


def delete_counters(conn: Connection, *, before: datetime, limit: int) -> int:
    """Delete rate limit counters of requests (signup.abuse_limits), and proxies no longer seen."""
    is_ours = RateLimitRow.name.startswith("ask:") | RateLimitRow.name.startswith(PROXIES)
    is_over = is_ours & (RateLimitRow.window_start < before)
    names = _locked(conn, select(RateLimitRow.name).where(is_over), limit)
    return conn.execute(delete(RateLimitRow).where(RateLimitRow.name.in_(names))).rowcount


def delete_pending_confirmations(conn: Connection, *, before: datetime, limit: int) -> int:
    """Delete unanswered confirmations that are too old to count for the rate limits."""
    ids = _locked(
        conn,
        select(PendingConfirmationRow.id).where(PendingConfirmationRow.requested_at < before),
        limit,
    )
    return conn.execute(
        delete(PendingConfirmationRow).where(PendingConfirmationRow.id.in_(ids))
    ).rowcount


def redact_deliveries(conn: Connection, *, before: datetime, limit: int) -> int:
    """Redact deliveries: delete the picks, the topics, and the mail server's reply and queue id.

    The row with its status and times stays.
    """
    is_over = (
        ~DeliveryRow.redacted
        & (DeliveryRow.created_at < before)
        & DeliveryRow.status.not_in(_IN_PLAY)
    )
    ids = _locked(conn, select(DeliveryRow.id).where(is_over), limit)
    conn.execute(delete(PickRow).where(PickRow.delivery_id.in_(ids)))
    # A reply may contain the address, and so does the server's log under its queue id.
    return conn.execute(
        update(DeliveryRow)
        .where(DeliveryRow.id.in_(ids))
        .values(
            topics=[],
            recap=[],
            more=0,
            unpicked=[],
            suggestions=[],
            reply=None,
            queue_id=None,
            redacted=True,
        )
    ).rowcount


def delete_deliveries(conn: Connection, *, before: datetime, limit: int) -> int:
    """Delete redacted deliveries; the daily counts of their events stay.

    Their dedupe keys are not needed any more: each contains a past date of the subscriber's
    calendar, a request that was used or deleted, or a past hour.
    """
    is_over = (
        DeliveryRow.redacted
        & (DeliveryRow.created_at < before)
        & DeliveryRow.status.not_in(_IN_PLAY)
    )
    ids = _locked(conn, select(DeliveryRow.id).where(is_over), limit)
    return conn.execute(delete(DeliveryRow).where(DeliveryRow.id.in_(ids))).rowcount


def delete_skips(conn: Connection, *, before: datetime, limit: int) -> int:
    """Delete slots without a mail, of days with digests that are no longer stored, either."""
    old = select(SkipRow.subscriber_id, SkipRow.edition_on).where(SkipRow.slot_at < before)
    rows = conn.execute(old.limit(limit)).all()
    return sum(
        conn.execute(
            delete(SkipRow).where(
                SkipRow.subscriber_id == subscriber_id, SkipRow.edition_on == edition_on
            )
        ).rowcount
        for subscriber_id, edition_on in rows
    )


def _locked(conn: Connection, query: Select[Any], limit: int) -> Sequence[Any]:
    """Lock the rows that `query` finds; return their ids, without rows locked by others."""
    free = query.limit(limit).with_for_update(skip_locked=True)
    return conn.execute(free).scalars().all()
