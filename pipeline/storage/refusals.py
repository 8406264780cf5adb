"""Refusals and bounces: one row for each delivery, with the latest one.

A row is written in the transaction that processes the refusal. It is no strike by itself: `guard`
decides from all rows of an edition if it counts against the address.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, delete, select

from pipeline.domain import DeliveryStatus, StrikeKind
from pipeline.storage.database import in_chunks, upsert
from pipeline.storage.schema import DeliveryRow, RefusalRow, SubscriberRow

CHUNK: Final = 500
LONGEST_WORDING: Final = 200

FIRST_GAP: Final = timedelta(hours=1)
MOST_DOUBLINGS: Final = 3

_ADDRESS: Final = re.compile(r"<?[^\s<>:;,()]+@[^\s<>:;,()]+>?")
_CODE: Final = re.compile(r"[245]\d\d|[245]\.\d{1,3}\.\d{1,3}")
_MARKS: Final = " \t<>()[]{}\"'.,:;!?-"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refusal of one delivery by an SMTP server, or its bounce."""

    delivery_id: int
    edition_on: date | None
    address_hash: str
    domain: str
    kind: StrikeKind | None  # None: it never counts against the address
    ends_as: DeliveryStatus | None
    wording: str
    server: str  # "" for a bounce
    at: datetime


def countable(strike: StrikeKind | None, edition_on: date | None) -> StrikeKind | None:
    """Return `strike` if it may count for a mail of this edition, else None.

    Strikes are counted per edition, so a refused mail outside an edition counts only if it is HARD.
    """
    return strike if edition_on or strike is StrikeKind.HARD else None


def wording(text: str, address: str = "") -> str:
    """Normalise a reply, so that replies with the same wording compare as equal.

    Addresses, host names, numbers, queue ids and the local part of `address` (the recipient) are
    replaced by `#`; reply codes are kept. At most 200 characters are returned.
    """
    local = address.rpartition("@")[0].casefold()
    words: list[str] = []
    for word in _ADDRESS.sub(" # ", text.replace("\0", "").casefold()).split():
        bare = word.strip(_MARKS)
        if not bare:
            continue
        is_plain = bool(_CODE.fullmatch(bare)) or not re.search(r"[\d./@:_=\\]", bare)
        if bare == local or not is_plain:
            bare = "#"
        if not (bare == "#" and words[-1:] == ["#"]):
            words.append(bare)
    return " ".join(words)[:LONGEST_WORDING]


def next_try(attempts: int) -> timedelta:
    """Return the backoff (1, 2, 4, 8 hours) of a delivery while its refusal is not counted."""
    return FIRST_GAP * (1 << min(attempts, MOST_DOUBLINGS))


def record(conn: Connection, refusal: Refusal) -> None:
    """Store a refusal as not counted, in place of an older one of the same delivery.

    A counted refusal is replaced only if it was not hard, and the new one is hard or ends the
    delivery.
    """
    values = {
        "edition_on": refusal.edition_on,
        "address_hash": refusal.address_hash,
        "domain": refusal.domain,
        "kind": refusal.kind,
        "ends_as": refusal.ends_as,
        "wording": refusal.wording,
        "server": refusal.server,
        "at": refusal.at,
        "counted": False,
    }
    statement = upsert(conn, RefusalRow).values(delivery_id=refusal.delivery_id, **values)
    replaceable = ~RefusalRow.counted
    if refusal.kind == StrikeKind.HARD or refusal.ends_as:
        replaceable |= RefusalRow.kind != StrikeKind.HARD
    conn.execute(
        statement.on_conflict_do_update(
            index_elements=["delivery_id"], set_=values, where=replaceable
        )
    )


def is_counted(conn: Connection, delivery_id: int) -> bool:
    """Return whether the refusal of this delivery counts against its address."""
    return bool(
        conn.scalar(select(RefusalRow.counted).where(RefusalRow.delivery_id == delivery_id))
    )


def records_of(conn: Connection, address_hash: str) -> list[dict[str, Any]]:
    """Return the refusals of an address, oldest first, for its owner's export."""
    rows = conn.execute(
        select(RefusalRow.at, RefusalRow.kind, RefusalRow.wording, RefusalRow.counted)
        .where(RefusalRow.address_hash == address_hash)
        .order_by(RefusalRow.at)
    )
    return [dict(row._mapping) for row in rows]


@dataclass(frozen=True, slots=True)
class RefusedRecipient:
    """The recipient of a refused delivery."""

    edition_on: date | None
    is_elsewhere: bool  # not sent to the subscriber's own address
    email: str
    address_hash: str  # of the subscriber's own address
    domain: str
    attempts: int


def recipient_of(conn: Connection, delivery_id: int) -> RefusedRecipient | None:
    row = conn.execute(
        select(
            DeliveryRow.edition_on,
            DeliveryRow.address,
            SubscriberRow.email,
            SubscriberRow.address_hash,
            DeliveryRow.domain,
            DeliveryRow.attempts,
        )
        .join(SubscriberRow, SubscriberRow.id == DeliveryRow.subscriber_id)
        .where(DeliveryRow.id == delivery_id)
    ).one_or_none()
    if row is None:
        return None
    return RefusedRecipient(
        row.edition_on,
        row.address is not None,
        row.address or row.email,
        row.address_hash,
        row.domain,
        row.attempts,
    )


def editions_of(conn: Connection, delivery_ids: Collection[int]) -> set[date | None]:
    """Return the editions of the refusals of these deliveries; None for transactional mail."""
    found: set[date | None] = set()
    for some in in_chunks(delivery_ids, CHUNK):
        found.update(
            conn.execute(
                select(RefusalRow.edition_on).where(RefusalRow.delivery_id.in_(some)).distinct()
            ).scalars()
        )
    return found


def discard(conn: Connection, delivery_ids: Collection[int]) -> None:
    """Delete the refusals of these deliveries, so that they never count as strikes."""
    for some in in_chunks(sorted(delivery_ids), CHUNK):
        conn.execute(delete(RefusalRow).where(RefusalRow.delivery_id.in_(some)))


def clear_refusals(conn: Connection, address_hash: str) -> None:
    """Delete the refusals of an address after its owner, or an operator, vouched for it."""
    conn.execute(delete(RefusalRow).where(RefusalRow.address_hash == address_hash))


def delete_old(conn: Connection, *, before: datetime, limit: int) -> int:
    """Delete at most `limit` refusals older than `before`; return how many were deleted."""
    old = (
        select(RefusalRow.delivery_id)
        .where(RefusalRow.at < before)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    ids = list(conn.execute(old).scalars())
    return conn.execute(delete(RefusalRow).where(RefusalRow.delivery_id.in_(ids))).rowcount
