"""Suppressed addresses: add, find, import and lift suppressions.

Only this module writes the table, so that no address is suppressed without cancelling its mail.

An address is stored as its keyed hash (see `addresses.address_hash`), also after it is erased.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, delete, exists, select, tuple_

from pipeline.domain import SuppressionReason
from pipeline.storage import addresses, deliveries
from pipeline.storage.database import PAGE, in_chunks, upsert
from pipeline.storage.schema import SubscriberRow, SuppressionRow

CHUNK: Final = 500

_ROW: Final = SuppressionRow.__table__.c


@dataclass(frozen=True, slots=True)
class Suppression:
    hash: str
    reason: SuppressionReason
    since: datetime


# --- Add ----------------------------------------------------------------------------------------


def suppress(conn: Connection, hash_: str, reason: SuppressionReason, since: datetime) -> None:
    """Suppress an address and cancel the queued deliveries of its subscriber, if there is one.

    The reason and time of an older suppression are replaced. A complaint replaces every other
    reason and is never replaced; a manual suppression is replaced by a complaint only.
    """
    permanent = {SuppressionReason.COMPLAINT}
    if reason is not SuppressionReason.COMPLAINT:
        permanent.add(SuppressionReason.MANUAL)
    statement = upsert(conn, SuppressionRow).values(hash=hash_, reason=reason, since=since)
    conn.execute(
        statement.on_conflict_do_update(
            index_elements=["hash"],
            set_={"reason": reason, "since": since},
            where=SuppressionRow.reason.not_in(permanent),
        )
    )
    deliveries.cancel_suppressed(conn, hash_, reason, since)


def add_imported(conn: Connection, imported: Iterable[Suppression]) -> int:
    """Store imported suppressions with their dates; return how many addresses are new.

    An existing suppression is replaced by a complaint only. A suppression that is older than the
    confirmation of the address here is ignored, unless it is a complaint. Queued deliveries of
    suppressed subscribers are cancelled.
    """
    new = 0
    for some in in_chunks(imported, CHUNK):
        before = by_hashes(conn, [one.hash for one in some])
        confirmed = _confirmed_at(conn, [one.hash for one in some])
        for one in sorted(some, key=lambda one: one.hash):
            is_complaint = one.reason is SuppressionReason.COMPLAINT
            again = confirmed.get(one.hash)
            if not is_complaint and (one.hash in before or (again and again > one.since)):
                continue
            suppress(conn, one.hash, one.reason, one.since)
            new += one.hash not in before
    return new


def _confirmed_at(conn: Connection, hashes: Sequence[str]) -> dict[str, datetime | None]:
    query = select(SubscriberRow.address_hash, SubscriberRow.confirmed_at)
    rows = conn.execute(query.where(SubscriberRow.address_hash.in_(hashes)))
    return {row.address_hash: row.confirmed_at for row in rows}


def remember_erased(conn: Connection, hash_: str, now: datetime) -> None:
    """Store that an address was erased, by its hash; an existing suppression is kept."""
    conn.execute(
        upsert(conn, SuppressionRow)
        .values(hash=hash_, reason=SuppressionReason.ERASED, since=now)
        .on_conflict_do_nothing(index_elements=["hash"])
    )


# --- Lift ---------------------------------------------------------------------------------------


def lift(conn: Connection, hash_: str) -> bool:
    """Delete a suppression of any reason; return False if the address was not suppressed."""
    deleted = conn.execute(delete(SuppressionRow).where(_ROW.hash == hash_))
    return deleted.rowcount == 1


def lift_recent(
    conn: Connection, hash_: str, reasons: Collection[SuppressionReason], *, since: datetime
) -> bool:
    """Delete a suppression of these reasons, made at or after `since`; return False if none is."""
    deleted = conn.execute(
        delete(SuppressionRow).where(
            _ROW.hash == hash_, _ROW.reason.in_(reasons), _ROW.since >= since
        )
    )
    return deleted.rowcount == 1


def lift_after_confirmation(conn: Connection, hash_: str) -> None:
    """Lift a suppression after its owner confirmed the address; a complaint is kept."""
    conn.execute(
        delete(SuppressionRow).where(_ROW.hash == hash_, _ROW.reason != SuppressionReason.COMPLAINT)
    )


def delete_erased(conn: Connection, hash_: str) -> None:
    """Allow an erased address to subscribe again; suppressions for other reasons are kept."""
    conn.execute(
        delete(SuppressionRow).where(_ROW.hash == hash_, _ROW.reason == SuppressionReason.ERASED)
    )


# --- Queries ------------------------------------------------------------------------------------


def find(conn: Connection, email: str, suppression_key: str) -> Suppression | None:
    """Return the suppression of an address; None if it is not suppressed."""
    return by_hash(conn, addresses.address_hash(email, suppression_key))


def by_hash(conn: Connection, hash_: str) -> Suppression | None:
    return by_hashes(conn, [hash_]).get(hash_)


def by_hashes(conn: Connection, hashes: Iterable[str]) -> dict[str, Suppression]:
    """Return the suppressions of these address hashes, by hash."""
    found: dict[str, Suppression] = {}
    for some in in_chunks(hashes, CHUNK):
        rows = conn.execute(select(*_ROW).where(_ROW.hash.in_(some)))
        found |= {row.hash: _suppression(row) for row in rows}
    return found


def suppressed_among(conn: Connection, subscriber_ids: Sequence[int]) -> set[int]:
    """Return the ids of those subscribers that have a suppressed address."""
    rows = conn.execute(
        select(SubscriberRow.id)
        .join(SuppressionRow, _ROW.hash == SubscriberRow.address_hash)
        .where(SubscriberRow.id.in_(subscriber_ids))
    )
    return set(rows.scalars())


def list_all(conn: Connection) -> list[Suppression]:
    """Return all suppressions, oldest first."""
    return [_suppression(row) for row in conn.execute(_oldest_first())]


def listed(
    conn: Connection, *, since: datetime | None, before: Suppression | None, limit: int | None
) -> Iterator[Suppression]:
    """Yield suppressions made at or after `since`, oldest first; None does not filter.

    At most `limit` of them are the newest ones, older than `before`. Without it, rows are read in
    parts.
    """
    query = select(*_ROW).execution_options(yield_per=PAGE)
    if since is not None:
        query = query.where(_ROW.since >= since)
    if before is not None:
        query = query.where(tuple_(_ROW.since, _ROW.hash) < (before.since, before.hash))
    if limit is None:
        yield from map(_suppression, conn.execute(query.order_by(_ROW.since, _ROW.hash)))
        return
    newest = query.order_by(_ROW.since.desc(), _ROW.hash.desc()).limit(limit)
    yield from map(_suppression, reversed(conn.execute(newest).all()))


def without_subscriber(conn: Connection) -> list[Suppression]:
    """Return suppressions without a subscriber: only the hash of the address is stored."""
    has_subscriber = exists().where(
        SubscriberRow.address_hash == _ROW.hash, SubscriberRow.email != addresses.ERASED
    )
    return [_suppression(row) for row in conn.execute(_oldest_first().where(~has_subscriber))]


def _oldest_first() -> Any:
    return select(*_ROW).order_by(_ROW.since, _ROW.hash)


def _suppression(row: Any) -> Suppression:
    return Suppression(row.hash, SuppressionReason(row.reason), row.since)
