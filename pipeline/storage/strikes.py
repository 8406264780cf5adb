"""Strikes: editions that an address did not take, and when they are enough.

An edition counts once, however many replies, bounces and events tell of it. What breaks a row is an
edition that arrived, and the deliveries know which did: accepting a mail writes nothing here, and
a bounce that comes days after its 250 finds the row as it was.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, and_, case, delete, func, select

from pipeline.domain import DeliveryStatus, StrikeKind, SuppressionReason
from pipeline.storage import refusals
from pipeline.storage.database import upsert
from pipeline.storage.schema import DeliveryRow, StrikeRow, SubscriberRow

MOST_DISABLED: Final = 2
MOST_SOFT: Final = 3
MOST_FULL: Final = 5
FULL_FOR: Final = timedelta(days=14)  # a holiday fills a mailbox too
MEMORY: Final = timedelta(days=120)  # how far back a row may begin


@dataclass(frozen=True, slots=True)
class Past:
    """An edition whose end is known: it arrived, or `strike` says why not."""

    on: date
    strike: StrikeKind | None = None


# --- Decisions: pure ----------------------------------------------------------------------------


def enough(editions: Iterable[Past]) -> SuppressionReason | None:
    """Why to write no more to an address that took its editions like this, oldest first.

    Refusals count in a row: one edition that arrived, and they begin anew. A full mailbox has a
    score, which goes up with each full edition and down with each that arrived.
    """
    soft = disabled = full = 0
    full_since: date | None = None
    for edition in editions:
        match edition.strike:
            case None:
                soft = disabled = 0
                full = max(0, full - 1)
            case StrikeKind.FULL:
                full += 1
            case StrikeKind.SOFT:
                soft += 1
            case StrikeKind.DISABLED:
                soft += 1
                disabled += 1
        full_since = (full_since or edition.on) if full else None
        if disabled >= MOST_DISABLED:
            return SuppressionReason.HARD
        if soft >= MOST_SOFT:
            return SuppressionReason.SOFT
        if full >= MOST_FULL and full_since and edition.on - full_since >= FULL_FOR:
            return SuppressionReason.FULL
    return None


# --- Rows ---------------------------------------------------------------------------------------


def count(
    conn: Connection, delivery_id: int, kind: StrikeKind, now: datetime
) -> SuppressionReason | None:
    """Count this delivery's edition against its subscriber's address; why it is enough, if so.

    Only editions count: a confirmation that was refused says little. The subscriber is locked, so
    that of two strikes at one moment the second sees the first.
    """
    row = DeliveryRow.__table__.c
    struck = conn.execute(
        select(row.subscriber_id, row.edition_on, row.sent_at).where(
            row.id == delivery_id, row.edition_on.is_not(None), row.address.is_(None)
        )
    ).one_or_none()
    if struck is None:
        return None
    address_hash = conn.execute(
        select(SubscriberRow.address_hash)
        .where(SubscriberRow.id == struck.subscriber_id)
        .with_for_update()
    ).scalar_one()
    # News of a mail is later than its acceptance, whatever clock says so.
    noted_at = max(now, struck.sent_at or now)
    _note(conn, address_hash, struck.edition_on, kind, noted_at)
    since = struck.edition_on - MEMORY
    return enough(_editions(conn, struck.subscriber_id, address_hash, since))


def of(conn: Connection, address_hash: str) -> list[dict[str, Any]]:
    """The editions that this address did not take, oldest first."""
    rows = conn.execute(
        select(StrikeRow.edition_on, StrikeRow.kind, StrikeRow.noted_at)
        .where(StrikeRow.address_hash == address_hash)
        .order_by(StrikeRow.edition_on)
    )
    return [dict(row._mapping) for row in rows]


def clear(conn: Connection, address_hash: str) -> None:
    """Begin to count anew: somebody has vouched for this address."""
    conn.execute(delete(StrikeRow).where(StrikeRow.address_hash == address_hash))
    refusals.clear(conn, address_hash)


def drop_strikes(conn: Connection, *, before: datetime, limit: int) -> int:
    """Delete at most `limit` strikes noted before then; how many."""
    old = (
        select(StrikeRow.address_hash, StrikeRow.edition_on)
        .where(StrikeRow.noted_at < before)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return sum(
        conn.execute(
            delete(StrikeRow).where(
                StrikeRow.address_hash == address_hash, StrikeRow.edition_on == edition_on
            )
        ).rowcount
        for address_hash, edition_on in conn.execute(old).all()
    )


def _note(
    conn: Connection, address_hash: str, edition_on: date, kind: StrikeKind, at: datetime
) -> None:
    statement = upsert(conn, StrikeRow).values(
        address_hash=address_hash, edition_on=edition_on, kind=kind, noted_at=at
    )
    conn.execute(
        statement.on_conflict_do_update(
            index_elements=["address_hash", "edition_on"],
            set_={"kind": kind, "noted_at": at},
            where=StrikeRow.noted_at <= at,
        )
    )


def _editions(conn: Connection, subscriber_id: int, address_hash: str, since: date) -> list[Past]:
    """What became of this reader's editions, oldest first; those still open are left out."""
    row = DeliveryRow.__table__.c
    accepted_at = func.coalesce(row.sent_at, row.marked_at, row.created_at)
    sent_at = func.max(case((row.status == DeliveryStatus.SENT, accepted_at)))
    found = conn.execute(
        select(row.edition_on, StrikeRow.kind, StrikeRow.noted_at, sent_at.label("sent_at"))
        .select_from(DeliveryRow.__table__)
        .outerjoin(
            StrikeRow,
            and_(StrikeRow.edition_on == row.edition_on, StrikeRow.address_hash == address_hash),
        )
        .where(row.subscriber_id == subscriber_id, row.edition_on >= since)
        .group_by(row.edition_on, StrikeRow.kind, StrikeRow.noted_at)
        .order_by(row.edition_on)
    )
    editions = []
    for edition_on, kind, noted_at, sent in found:
        # A server that was full in the morning may have taken it at noon.
        if kind and (sent is None or noted_at >= sent):
            editions.append(Past(edition_on, StrikeKind(kind)))
        elif sent:
            editions.append(Past(edition_on))
    return editions
