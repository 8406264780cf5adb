"""Look up the delivery of a bounce, complaint or event, and record its outcome."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, select, update

from pipeline.domain import DeliveryStatus, RequestKind
from pipeline.storage import addresses
from pipeline.storage.schema import DeliveryRow, RequestRow, SubscriberRow

_ROW = DeliveryRow.__table__.c


@dataclass(frozen=True, slots=True)
class FoundDelivery:
    """A delivery that a bounce, complaint or event refers to, and its subscriber."""

    delivery_id: int
    dedupe_key: str
    subscriber_id: int
    address: str | None  # recipient, if not the subscriber's address; "" once redacted
    address_hash: str  # of the subscriber's current address
    edition_on: date | None
    is_current: bool  # the subscriber has not changed the address since
    is_erased: bool  # the subscriber was erased
    is_vouched: bool  # the subscriber has confirmed since: the address works despite a bounce


def by_id(conn: Connection, delivery_id: int) -> FoundDelivery | None:
    return _one(conn, _ROW.id == delivery_id)


def by_dedupe_key(conn: Connection, dedupe_key: str) -> FoundDelivery | None:
    return _one(conn, _ROW.dedupe_key == dedupe_key)


def by_queue_id(conn: Connection, queue_id: str) -> FoundDelivery | None:
    """Return the newest delivery with this queue id: mail servers reuse them."""
    return _one(conn, _ROW.queue_id == queue_id)


def settle_uncertain(conn: Connection, delivery_id: int, reason: str, now: datetime) -> bool:
    """Mark an uncertain delivery sent, when an event proves it; return False if not uncertain."""
    won = conn.execute(
        update(DeliveryRow)
        .where(_ROW.id == delivery_id, _ROW.status == DeliveryStatus.UNCERTAIN)
        .values(
            status=DeliveryStatus.SENT,
            reason=reason,
            sent_at=func.coalesce(_ROW.marked_at, now),
            lease=None,
            lease_until=None,
        )
    )
    return won.rowcount == 1


def record_outcome(conn: Connection, delivery_id: int, reason: str) -> None:
    """Store the reason of a bounce or complaint on a sent delivery; other states are ignored."""
    conn.execute(
        update(DeliveryRow)
        .where(_ROW.id == delivery_id, _ROW.status == DeliveryStatus.SENT)
        .values(reason=reason)
    )


def _one(conn: Connection, condition: ColumnElement[bool]) -> FoundDelivery | None:
    row = conn.execute(
        select(
            _ROW.id,
            _ROW.dedupe_key,
            _ROW.subscriber_id,
            _ROW.address,
            _ROW.edition_on,
            SubscriberRow.address_hash,
            SubscriberRow.confirmed_at,
            (SubscriberRow.email == addresses.ERASED).label("is_erased"),
            func.coalesce(_ROW.marked_at, _ROW.created_at).label("left_us_at"),
        )
        .join(SubscriberRow, SubscriberRow.id == _ROW.subscriber_id)
        .where(condition)
        .order_by(_ROW.id.desc())
        .limit(1)
    ).one_or_none()
    if row is None:
        return None
    return FoundDelivery(
        row.id,
        row.dedupe_key,
        row.subscriber_id,
        row.address,
        row.address_hash,
        row.edition_on,
        is_current=not _moved_since(conn, row),
        is_erased=row.is_erased,
        is_vouched=row.confirmed_at is not None and row.confirmed_at > row.left_us_at,
    )


def _moved_since(conn: Connection, row: Any) -> bool:
    """Return whether the subscriber has changed the address since this delivery was sent."""
    moved_at = conn.execute(
        select(func.max(RequestRow.used_at)).where(
            RequestRow.subscriber_id == row.subscriber_id,
            RequestRow.kind == RequestKind.NEW_ADDRESS,
        )
    ).scalar_one()
    return moved_at is not None and moved_at > row.left_us_at
