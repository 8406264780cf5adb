"""News as it came: each piece taken once, and kept for a month with what was done about it."""

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
    """The id of a new event; None where it came before, or is coming in another transaction.

    That other one is waited for: where it dies, this one is new.
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


def blank(conn: Connection, id_: int) -> None:
    """Keep of this one only that it came."""
    conn.execute(update(EventRow).where(EventRow.id == id_).values(raw="", address_hash=None))


def close(
    conn: Connection,
    id_: int,
    *,
    raw: str,
    effect: str,
    delivery_id: int | None,
    subscriber_id: int | None,
    address_hash: str | None,
) -> None:
    """Write what was done about it, and whose news it is."""
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


def of(conn: Connection, subscriber_id: int) -> list[dict[str, Any]]:
    """What is kept of the news about this subscriber's mail, oldest first."""
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


def forget(conn: Connection, subscriber_id: int, address_hash: str) -> None:
    """Keep no word that names this reader. That the events came stays: each is taken once."""
    conn.execute(
        update(EventRow)
        .where(or_(EventRow.subscriber_id == subscriber_id, EventRow.address_hash == address_hash))
        .values(raw="", address_hash=None)
    )


def drop_events(conn: Connection, *, before: datetime, limit: int) -> int:
    """Delete at most `limit` events that came before then; how many."""
    old = (
        select(EventRow.id)
        .where(EventRow.received_at < before)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    ids = list(conn.execute(old).scalars())
    return conn.execute(delete(EventRow).where(EventRow.id.in_(ids))).rowcount
