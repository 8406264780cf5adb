"""Feedback events (webhooks and bounces), deduplicated and kept for a month with their effect."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, or_, select, update

from pipeline.storage.database import upsert
from pipeline.storage.schema import EventRow


@dataclass(frozen=True, slots=True)
class StoredEvent:
    provider: str
    event_id: str
    kind: str
    raw: str


def add(conn: Connection, event: StoredEvent, now: datetime) -> int | None:
    """Store an event; return its id, or None if it was received before.

    If another transaction is storing the same event, wait for it; if that one is rolled back, this
    event is new.
    """
    return conn.execute(
        upsert(conn, EventRow)
        .values(
            provider=event.provider,
            event_id=event.event_id,
            kind=event.kind,
            raw=event.raw,
            effect="",
            received_at=now,
        )
        .on_conflict_do_nothing(index_elements=["provider", "event_id"])
        .returning(EventRow.id)
    ).scalar_one_or_none()


def redact(conn: Connection, id_: int) -> None:
    """Redact an event: keep only the fact that it was received."""
    conn.execute(update(EventRow).where(EventRow.id == id_).values(raw="", address_hash=None))


def record_effect(
    conn: Connection,
    id_: int,
    *,
    raw: str,
    effect: str,
    delivery_id: int | None,
    subscriber_id: int | None,
    address_hash: str | None,
) -> None:
    """Write the effect of an event, and the delivery, subscriber and address it is about."""
    conn.execute(
        update(EventRow)
        .where(EventRow.id == id_)
        .values(
            raw=raw,
            effect=effect,
            delivery_id=delivery_id,
            subscriber_id=subscriber_id,
            address_hash=address_hash,
        )
    )


def records_of(conn: Connection, subscriber_id: int) -> list[dict[str, Any]]:
    """Return the stored events about a subscriber's mail, oldest first, for the owner's export."""
    rows = conn.execute(
        select(
            EventRow.provider,
            EventRow.event_id,
            EventRow.kind,
            EventRow.effect,
            EventRow.received_at,
            EventRow.raw,
        )
        .where(EventRow.subscriber_id == subscriber_id)
        .order_by(EventRow.id)
    )
    return [dict(row._mapping) for row in rows]


def redact_subscriber(conn: Connection, subscriber_id: int, address_hash: str) -> None:
    """Redact all events of a subscriber; the rows stay, so that duplicates are still detected."""
    conn.execute(
        update(EventRow)
        .where(or_(EventRow.subscriber_id == subscriber_id, EventRow.address_hash == address_hash))
        .values(raw="", address_hash=None)
    )


def delete_old(conn: Connection, *, before: datetime, limit: int) -> int:
    """Delete at most `limit` events received before then; return their number.

    Rows locked by another transaction are skipped.
    """
    old = (
        select(EventRow.id)
        .where(EventRow.received_at < before)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    ids = list(conn.execute(old).scalars())
    return conn.execute(delete(EventRow).where(EventRow.id.in_(ids))).rowcount
