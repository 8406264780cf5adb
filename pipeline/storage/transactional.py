"""Transactional mail: queue it, and count the confirmations that were not answered yet.

Whether a mail is wanted is a condition in the statements, not a branch around them: response times
must not reveal to a visitor whether an address is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, case, delete, func, or_, select

from pipeline.domain import DeliveryKind
from pipeline.storage import deliveries
from pipeline.storage.database import insert_if
from pipeline.storage.deliveries import NewDelivery
from pipeline.storage.schema import PendingConfirmationRow, SubscriberRow
from pipeline.storage.throttles import domain_of


@dataclass(frozen=True, slots=True)
class PendingConfirmation:
    """Counts of confirmations mailed to one inbox and not answered yet."""

    count: int
    by_requester: int  # of them, those that one network requested
    last_at: datetime | None


def enqueue(
    conn: Connection,
    kind: DeliveryKind,
    subscriber_id: int,
    *,
    about: object,
    expires_at: datetime,
    now: datetime,
    request_id: int | None = None,
    address: str | None = None,
    wanted: bool = True,
) -> None:
    """Queue a transactional mail if `wanted`; due at once.

    Idempotent: one mail is queued for each kind, subscriber and `about`. `address` is the recipient
    if that is not the subscriber's own address.
    """
    own = select(SubscriberRow.email).where(SubscriberRow.id == subscriber_id)
    email = conn.execute(own).scalar_one_or_none() if address is None else address
    new = NewDelivery(
        kind,
        f"{kind}:{subscriber_id}:{about}",
        subscriber_id,
        domain_of(email or ""),
        not_before=now,
        expires_at=expires_at,
        address=address,
        request_id=request_id,
    )
    deliveries.add_if(conn, new, now, wanted=wanted)


def record_pending(
    conn: Connection,
    address_hash: str,
    now: datetime,
    *,
    inbox: str,
    requester: str,
    wanted: bool = True,
) -> None:
    """Record that a confirmation was mailed to this address, if `wanted`.

    `inbox` and `requester` are hashes for rate limits, see signup.abuse_limits.
    """
    values = {
        "address_hash": address_hash,
        "requested_at": now,
        "inbox": inbox,
        "requester": requester,
    }
    conn.execute(insert_if(conn, PendingConfirmationRow, values, condition=wanted))


def pending_confirmations(
    conn: Connection, inbox: str, *, since: datetime, requester: str = ""
) -> PendingConfirmation:
    is_theirs = case((PendingConfirmationRow.requester == requester, 1), else_=0)
    count, by_requester, last_at = conn.execute(
        select(
            func.count(),
            func.coalesce(func.sum(is_theirs), 0),
            func.max(PendingConfirmationRow.requested_at),
        ).where(PendingConfirmationRow.inbox == inbox, PendingConfirmationRow.requested_at > since)
    ).one()
    return PendingConfirmation(count, int(by_requester), last_at)


def pending_times(conn: Connection, address_hash: str) -> list[datetime]:
    """Return the times of unanswered confirmations mailed to this address, oldest first."""
    query = select(PendingConfirmationRow.requested_at).where(
        PendingConfirmationRow.address_hash == address_hash
    )
    return list(conn.execute(query.order_by(PendingConfirmationRow.requested_at)).scalars())


def delete_pending(conn: Connection, address_hash: str) -> None:
    """Delete the unanswered confirmations of an address and its inbox: the owner has answered."""
    same = select(PendingConfirmationRow.inbox).where(
        PendingConfirmationRow.address_hash == address_hash
    )
    conn.execute(
        delete(PendingConfirmationRow).where(
            or_(
                PendingConfirmationRow.address_hash == address_hash,
                PendingConfirmationRow.inbox.in_(same),
            )
        )
    )
