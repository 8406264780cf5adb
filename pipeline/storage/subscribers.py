"""Subscribers and their wishes, and the addresses we do not write to."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import idna
from sqlalchemy import ColumnElement, Connection, delete, select, update

from pipeline.domain import (
    Frequency,
    Schedule,
    Subscriber,
    SubscriberStatus,
    SuppressionReason,
    Weekday,
)
from pipeline.storage.database import upsert
from pipeline.storage.schema import SubscriberRow, SuppressionRow


@dataclass(frozen=True, slots=True)
class Served:
    """A slot that was served: where its reader stands before and after."""

    subscriber_id: int
    old_cursor: int
    cursor: int
    slot_at: datetime
    edition_on: date
    next_slot_at: datetime
    paused_until: date | None


@dataclass(frozen=True, slots=True)
class Suppression:
    hash: str
    reason: SuppressionReason
    since: datetime


# --- Addresses: pure ----------------------------------------------------------------------------


def email_key(email: str) -> str:
    """The one form of an address: trimmed, NFC, case folded, its domain in IDNA.

    Dots and plus signs stay: they may be another mailbox.
    """
    local, _, domain = unicodedata.normalize("NFC", email.strip()).casefold().rpartition("@")
    try:
        ascii_domain = idna.encode(domain, uts46=True).decode()
    except idna.IDNAError:
        ascii_domain = domain
    return f"{local}@{ascii_domain}"


def address_hash(email: str, suppression_key: str) -> str:
    """What stands for an address in `suppressions`: keyed, so that it cannot be guessed back."""
    return hmac.new(suppression_key.encode(), email_key(email).encode(), hashlib.sha256).hexdigest()


# --- Subscribers --------------------------------------------------------------------------------


def add(
    conn: Connection,
    *,
    email: str,
    suppression_key: str,
    schedule: Schedule,
    max_papers: int,
    status: SubscriberStatus,
    cursor: int,
    next_slot_at: datetime | None,
    now: datetime,
) -> int | None:
    """The id of a new subscriber; None where the address is known already."""
    confirmed_at = now if status is SubscriberStatus.ACTIVE else None
    return conn.execute(
        upsert(conn, SubscriberRow)
        .values(
            email=email,
            email_key=email_key(email),
            address_hash=address_hash(email, suppression_key),
            status=status,
            max_papers=max_papers,
            secret=secrets.token_urlsafe(16),
            next_slot_at=next_slot_at,
            cursor=cursor,
            created_at=now,
            confirmed_at=confirmed_at,
            **_columns(schedule),
        )
        .on_conflict_do_nothing(index_elements=["email_key"])
        .returning(SubscriberRow.id)
    ).scalar_one_or_none()


def change_wishes(
    conn: Connection,
    subscriber_id: int,
    *,
    schedule: Schedule,
    max_papers: int,
    next_slot_at: datetime | None,
) -> None:
    conn.execute(
        update(SubscriberRow)
        .where(SubscriberRow.id == subscriber_id)
        .values(max_papers=max_papers, next_slot_at=next_slot_at, **_columns(schedule))
    )


def activate(
    conn: Connection, subscriber_id: int, *, cursor: int, next_slot_at: datetime, now: datetime
) -> bool:
    """Pending becomes active, once; False when it was not pending. A pause of old is over."""
    won = conn.execute(
        update(SubscriberRow)
        .where(
            SubscriberRow.id == subscriber_id,
            SubscriberRow.status == SubscriberStatus.PENDING,
        )
        .values(
            status=SubscriberStatus.ACTIVE,
            cursor=cursor,
            next_slot_at=next_slot_at,
            paused_until=None,
            confirmed_at=now,
        )
    )
    return won.rowcount == 1


def reopen(conn: Connection, subscriber_id: int) -> bool:
    """Unsubscribed becomes pending: they are to be asked again. False when they had not left."""
    won = conn.execute(
        update(SubscriberRow)
        .where(
            SubscriberRow.id == subscriber_id,
            SubscriberRow.status == SubscriberStatus.UNSUBSCRIBED,
        )
        .values(status=SubscriberStatus.PENDING, left_at=None)
    )
    return won.rowcount == 1


def pause(conn: Connection, subscriber_id: int, until: date) -> None:
    """Skip the editions before `until`; the first one after looks back a few days only."""
    conn.execute(
        update(SubscriberRow).where(SubscriberRow.id == subscriber_id).values(paused_until=until)
    )


def leave(conn: Connection, subscriber_id: int, now: datetime) -> bool:
    """Active or pending becomes unsubscribed; False when they had left before.

    The caller cancels what is owed in the same transaction.
    """
    won = conn.execute(
        update(SubscriberRow)
        .where(
            SubscriberRow.id == subscriber_id,
            SubscriberRow.status != SubscriberStatus.UNSUBSCRIBED,
        )
        .values(status=SubscriberStatus.UNSUBSCRIBED, left_at=now, next_slot_at=None)
    )
    return won.rowcount == 1


def erase(conn: Connection, subscriber_id: int) -> None:
    """Remove the subscriber and all that hangs on it; suppressions stay."""
    conn.execute(delete(SubscriberRow).where(SubscriberRow.id == subscriber_id))


def by_email(conn: Connection, email: str, *, for_change: bool = False) -> Subscriber | None:
    return _one(conn, SubscriberRow.email_key == email_key(email), for_change=for_change)


def by_secret(conn: Connection, secret: str) -> Subscriber | None:
    return _one(conn, SubscriberRow.secret == secret)


def by_id(conn: Connection, subscriber_id: int, *, for_change: bool = False) -> Subscriber | None:
    """`for_change` keeps everybody else from changing it before this transaction ends."""
    return _one(conn, SubscriberRow.id == subscriber_id, for_change=for_change)


def listing(conn: Connection) -> list[Subscriber]:
    return [_subscriber(row) for row in conn.execute(_query().order_by(SubscriberRow.id))]


def due(
    conn: Connection, *, now: datetime, everyone: bool, after_id: int, limit: int
) -> list[Subscriber]:
    """Active subscribers whose slot has come, by id; locked, those another run holds left out.

    `everyone` takes all active ones, whatever the hour.
    """
    query = _query().where(
        SubscriberRow.status == SubscriberStatus.ACTIVE,
        SubscriberRow.id > after_id,
    )
    if not everyone:
        query = query.where(SubscriberRow.next_slot_at <= now)
    rows = conn.execute(
        query.order_by(SubscriberRow.id).limit(limit).with_for_update(skip_locked=True)
    )
    return [_subscriber(row) for row in rows]


def serve(conn: Connection, served: Served) -> bool:
    """Move a reader past a slot; False when they left or another run moved them first."""
    won = conn.execute(
        update(SubscriberRow)
        .where(
            SubscriberRow.id == served.subscriber_id,
            SubscriberRow.status == SubscriberStatus.ACTIVE,
            SubscriberRow.cursor == served.old_cursor,
        )
        .values(
            cursor=served.cursor,
            last_slot_at=served.slot_at,
            last_edition_on=served.edition_on,
            next_slot_at=served.next_slot_at,
            paused_until=served.paused_until,
        )
    )
    return won.rowcount == 1


# --- Suppressions -------------------------------------------------------------------------------


def suppress(conn: Connection, hash_: str, reason: SuppressionReason, now: datetime) -> None:
    """Stop writing to an address; a complaint replaces any other reason, nothing replaces it."""
    statement = upsert(conn, SuppressionRow).values(hash=hash_, reason=reason, since=now)
    conn.execute(
        statement.on_conflict_do_update(
            index_elements=["hash"],
            set_={"reason": reason, "since": now},
            where=SuppressionRow.reason != SuppressionReason.COMPLAINT,
        )
    )


def lift(conn: Connection, hash_: str) -> bool:
    """Write to the address again; False when it was not suppressed."""
    gone = conn.execute(delete(SuppressionRow).where(SuppressionRow.hash == hash_))
    return gone.rowcount == 1


def suppressed(conn: Connection, hash_: str) -> Suppression | None:
    row = conn.execute(
        select(*SuppressionRow.__table__.c).where(SuppressionRow.hash == hash_)
    ).one_or_none()
    return None if row is None else _suppression(row)


def suppressed_among(conn: Connection, subscriber_ids: Sequence[int]) -> set[int]:
    """Those of these subscribers whose address is suppressed."""
    rows = conn.execute(
        select(SubscriberRow.id)
        .join(SuppressionRow, SuppressionRow.hash == SubscriberRow.address_hash)
        .where(SubscriberRow.id.in_(subscriber_ids))
    )
    return set(rows.scalars())


def suppressions(conn: Connection) -> list[Suppression]:
    query = select(*SuppressionRow.__table__.c).order_by(SuppressionRow.since)
    return [_suppression(row) for row in conn.execute(query)]


# --- Rows ---------------------------------------------------------------------------------------


def _columns(schedule: Schedule) -> dict[str, Any]:
    return {
        "at": schedule.at,
        "timezone": schedule.timezone,
        "frequency": schedule.frequency,
        "weekday": int(schedule.weekday),
    }


def _query() -> Any:
    return select(*SubscriberRow.__table__.c)


def _one(
    conn: Connection, condition: ColumnElement[bool], *, for_change: bool = False
) -> Subscriber | None:
    query = _query().where(condition)
    row = conn.execute(query.with_for_update() if for_change else query).one_or_none()
    return None if row is None else _subscriber(row)


def _suppression(row: Any) -> Suppression:
    return Suppression(row.hash, SuppressionReason(row.reason), row.since)


def _subscriber(row: Any) -> Subscriber:
    return Subscriber(
        id=row.id,
        email=row.email,
        status=SubscriberStatus(row.status),
        schedule=Schedule(row.at, row.timezone, Frequency(row.frequency), Weekday(row.weekday)),
        max_papers=row.max_papers,
        secret=row.secret,
        paused_until=row.paused_until,
        next_slot_at=row.next_slot_at,
        last_slot_at=row.last_slot_at,
        last_edition_on=row.last_edition_on,
        cursor=row.cursor,
    )
