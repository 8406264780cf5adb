"""Strikes: editions that bounced or were refused, and the thresholds for a suppression.

An edition counts once, even if several replies, bounces and events report it. A sequence of strikes
is broken by an edition that arrived, which is read from the deliveries: accepting a mail writes
nothing here, so a bounce that comes days after its 250 still continues the sequence.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
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
FULL_FOR: Final = timedelta(days=14)  # mailboxes also fill up during holidays
MEMORY: Final = timedelta(days=120)  # older editions are not counted


@dataclass(frozen=True, slots=True)
class EditionOutcome:
    """An edition with a known outcome: `strike` is None if it arrived."""

    on: date
    strike: StrikeKind | None = None


# --- Decisions: pure ----------------------------------------------------------------------------


def reason_to_suppress(editions: Iterable[EditionOutcome]) -> SuppressionReason | None:
    """Return the reason to suppress an address with these editions (oldest first), or None.

    Soft and disabled strikes count only if consecutive: an edition that arrived resets them. Full
    mailboxes have a score that increases with each full edition and decreases with each that
    arrived.
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


def record_strike(
    conn: Connection, delivery_id: int, kind: StrikeKind, now: datetime
) -> SuppressionReason | None:
    """Store a strike against the address of a delivery; return the reason if it must be suppressed.

    Transactional mail and mail to another address never counts. The subscriber's row is locked, so
    that of two concurrent strikes the second sees the first.
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
    # A bounce cannot be earlier than the acceptance of its mail, even if clocks differ.
    noted_at = max(now, struck.sent_at or now)
    _note(conn, address_hash, struck.edition_on, kind, noted_at)
    since = struck.edition_on - MEMORY
    return reason_to_suppress(_editions(conn, struck.subscriber_id, address_hash, since))


def records_of(conn: Connection, address_hash: str) -> list[dict[str, Any]]:
    """Return the strikes of an address, oldest edition first."""
    rows = conn.execute(
        select(StrikeRow.edition_on, StrikeRow.kind, StrikeRow.noted_at)
        .where(StrikeRow.address_hash == address_hash)
        .order_by(StrikeRow.edition_on)
    )
    return [dict(row._mapping) for row in rows]


def struck_since(conn: Connection, subscriber_ids: Collection[int], since: date) -> set[int]:
    """Return those of these subscribers whose address has a strike of an edition since then."""
    query = (
        select(SubscriberRow.id)
        .join(StrikeRow, StrikeRow.address_hash == SubscriberRow.address_hash)
        .where(SubscriberRow.id.in_(subscriber_ids), StrikeRow.edition_on >= since)
    )
    return set(conn.scalars(query))


def clear_strikes(conn: Connection, address_hash: str) -> None:
    """Delete the strikes and refusals of an address, after its owner or an operator vouched."""
    conn.execute(delete(StrikeRow).where(StrikeRow.address_hash == address_hash))
    refusals.clear_refusals(conn, address_hash)


def delete_old(conn: Connection, *, before: datetime, limit: int) -> int:
    """Delete at most `limit` strikes noted before `before`; return how many were deleted."""
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


def _editions(
    conn: Connection, subscriber_id: int, address_hash: str, since: date
) -> list[EditionOutcome]:
    """Return the outcomes of a reader's editions, oldest first, without unfinished ones."""
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
        # A mailbox that was full on the first attempt may have accepted the mail on a later one.
        if kind and (sent is None or noted_at >= sent):
            editions.append(EditionOutcome(edition_on, StrikeKind(kind)))
        elif sent:
            editions.append(EditionOutcome(edition_on))
    return editions
