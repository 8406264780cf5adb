"""Restored databases: detect them, and reconcile them with the database they replace."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from secrets import token_urlsafe
from typing import Any, Final

from sqlalchemy import Connection, delete, func, insert, or_, select, text, update

from pipeline.domain import UNSENT, DeliveryKind, DeliveryStatus, Schedule, SubscriberStatus
from pipeline.storage import addresses, deliveries, subscribers
from pipeline.storage.database import upsert
from pipeline.storage.deliveries import NewDelivery
from pipeline.storage.schema import (
    DatabaseCopyRow,
    DeliveryRow,
    PaperRow,
    PickRow,
    RequestRow,
    SubscriberRow,
)

CHUNK: Final = 500
GAP: Final = 1_000_000  # ids to skip if the replaced database, which may have used them, is lost
TAKEN: Final = "may have been sent before the restore"

_ROW = DeliveryRow.__table__.c
_OPEN: Final = (*UNSENT, DeliveryStatus.SENDING)


# --- Identity of the database -------------------------------------------------------------------


def identity(conn: Connection) -> str | None:
    """Return an identity that differs between a restored dump and the original database.

    It consists of the server's system identifier ("-" if this role may not read it), and the OIDs
    of the database and of the table `deliveries`: restoring a dump changes at least one of them.
    Returns None on SQLite, where a copy cannot be distinguished.
    """
    if conn.dialect.name == "sqlite":
        return None
    may_ask = text("SELECT has_function_privilege('pg_control_system()', 'execute')")
    server = "-"
    if conn.execute(may_ask).scalar_one():
        server = conn.execute(
            text("SELECT system_identifier FROM pg_control_system()")
        ).scalar_one()
    database = text(
        "SELECT oid, 'deliveries'::regclass::oid FROM pg_database WHERE datname=current_database()"
    )
    return ":".join(map(str, (server, *conn.execute(database).one())))


def stored_identity(conn: Connection) -> str | None:
    return conn.execute(select(DatabaseCopyRow.identity)).scalar_one_or_none()


def store_identity(conn: Connection, identity: str, now: datetime) -> None:
    values = {"identity": identity, "noted_at": now}
    conn.execute(
        upsert(conn, DatabaseCopyRow)
        .values(id=1, **values)
        .on_conflict_do_update(index_elements=["id"], set_=values)
    )


# --- Ids ----------------------------------------------------------------------------------------


def highest_ids(conn: Connection) -> dict[str, int]:
    """Return the highest id of each table with ids that links contain; 0 if it is empty."""
    return {
        table.__tablename__: conn.execute(select(func.max(table.id))).scalar_one() or 0
        for table in (SubscriberRow, DeliveryRow, RequestRow)
    }


def reserve_ids(conn: Connection, through: Mapping[str, int], now: datetime) -> None:
    """Never assign ids up to these, which the replaced database may have assigned.

    Links contain ids: with a reused id, an old link opens the preferences of another reader.
    """
    if conn.dialect.name == "postgresql":
        for table, top in through.items():
            conn.execute(
                text("SELECT setval(pg_get_serial_sequence(:table, 'id'), :top)"),
                {"table": table, "top": max(top, 1)},
            )
        return
    # SQLite assigns max(id) + 1, so a placeholder row keeps the highest id.
    subscriber_id = _placeholder(conn, through["subscribers"], now)
    top = through["deliveries"]
    reserved = NewDelivery(
        DeliveryKind.DIGEST, f"reserved:{top}", subscriber_id, "", not_before=now, expires_at=now
    )
    ended = {
        "status": DeliveryStatus.CANCELLED,
        "reason": "keeps numbers of a replaced database apart",
        "redacted": True,
    }
    conn.execute(
        upsert(conn, DeliveryRow)
        .values(id=top, **deliveries.row_of(reserved, now) | ended)
        .on_conflict_do_nothing()
    )
    request_id = conn.execute(
        upsert(conn, RequestRow)
        .values(
            id=through["requests"], kind="join", subscriber_id=subscriber_id, email="",
            email_key="", origin="operator", choices={}, created_at=now, expires_at=now,
            redacted=True,
        )
        .on_conflict_do_nothing()
        .returning(RequestRow.id)
    ).scalar_one_or_none()  # fmt: skip
    if request_id:
        conn.execute(delete(RequestRow).where(RequestRow.id == request_id))


def _placeholder(conn: Connection, id_: int, now: datetime) -> int:
    """Insert a row like that of an erased subscriber, if the id is free; return the id."""
    conn.execute(
        upsert(conn, SubscriberRow)
        .values(
            id=id_, email=addresses.ERASED, email_key=f"erased:{id_}",
            address_hash=f"erased:{id_}", secret=token_urlsafe(16), max_papers=1, cursor=0,
            status=SubscriberStatus.UNSUBSCRIBED, created_at=now, left_at=now,
            **subscribers.columns_of(Schedule()),
        )
        .on_conflict_do_nothing()
    )  # fmt: skip
    return id_


# --- Sent after the dump ------------------------------------------------------------------------


def take_as_sent(conn: Connection, sent_until: datetime, now: datetime, limit: int = CHUNK) -> int:
    """Mark open deliveries uncertain if they existed, or had their slot, at `sent_until`.

    They may have been sent before the restore, so only an operator can resend them. At most `limit`
    are marked; returns their number.
    """
    open_then = (
        select(_ROW.id)
        .where(
            or_(_ROW.created_at <= sent_until, _ROW.slot_at <= sent_until),
            or_(
                _ROW.status.in_(_OPEN),
                (_ROW.status == DeliveryStatus.UNCERTAIN) & _ROW.resent_at.is_(None),
            ),
        )
        .limit(limit)
    )
    return conn.execute(
        update(DeliveryRow)
        .where(_ROW.id.in_(open_then))
        .values(
            status=DeliveryStatus.UNCERTAIN,
            reason=TAKEN,
            resent_at=now,
            lease=None,
            lease_until=None,
        )
    ).rowcount


def due_then(conn: Connection, sent_until: datetime, limit: int = CHUNK) -> list[Any]:
    """Return and lock at most `limit` active subscribers with a slot due at or before `sent_until`.

    The slot of a welcome digest is the time of confirmation.
    """
    query = (
        select(*SubscriberRow.__table__.c)
        .where(
            SubscriberRow.status == SubscriberStatus.ACTIVE,
            or_(
                SubscriberRow.next_slot_at <= sent_until,
                SubscriberRow.welcome_due & (SubscriberRow.confirmed_at <= sent_until),
            ),
        )
        .order_by(SubscriberRow.id)
        .limit(limit)
        .with_for_update()
    )
    return [subscribers.subscriber_of(row) for row in conn.execute(query)]


def move_on(conn: Connection, subscriber_id: int, values: Mapping[str, Any]) -> None:
    conn.execute(
        update(SubscriberRow).where(SubscriberRow.id == subscriber_id).values(**dict(values))
    )


# --- From the replaced database -----------------------------------------------------------------


def subscribers_after(conn: Connection, last_id: int, limit: int = CHUNK) -> list[dict[str, Any]]:
    """Return at most `limit` rows of subscribers after this id, including erased ones."""
    query = select(*SubscriberRow.__table__.c).where(SubscriberRow.id > last_id)
    rows = conn.execute(query.order_by(SubscriberRow.id).limit(limit))
    return [dict(row._mapping) for row in rows]


def by_secret(conn: Connection, secrets: Collection[str]) -> dict[str, dict[str, Any]]:
    """Return the rows of subscribers by secret, without erased ones, which get a new secret."""
    query = select(*SubscriberRow.__table__.c).where(SubscriberRow.secret.in_(secrets))
    return {row.secret: dict(row._mapping) for row in conn.execute(query)}


def deliveries_after(conn: Connection, last_id: int, limit: int = CHUNK) -> list[dict[str, Any]]:
    query = select(*_ROW).where(_ROW.id > last_id).order_by(_ROW.id).limit(limit)
    return [dict(row._mapping) for row in conn.execute(query)]


def by_dedupe_key(conn: Connection, keys: Collection[str]) -> dict[str, Any]:
    """Return rows (dedupe_key, id, status, subscriber_id) by dedupe key."""
    query = select(_ROW.dedupe_key, _ROW.id, _ROW.status, _ROW.subscriber_id)
    return {row.dedupe_key: row for row in conn.execute(query.where(_ROW.dedupe_key.in_(keys)))}


def take_over(conn: Connection, delivery_id: int, theirs: Mapping[str, Any]) -> None:
    """Copy the content, status and result of a delivery from the replaced database; end its lease.

    Its picks are replaced by `replace_picks`. Does nothing if the delivery is neither open nor
    uncertain here.
    """
    names = ("status", "reason", "attempts", "marked_at", "resent_at", "sent_at", "queue_id",
             "reply", "not_before", "topics", "recap", "more", "near_misses",
             "suggestions", "pauses_on")  # fmt: skip
    conn.execute(
        update(DeliveryRow)
        .where(_ROW.id == delivery_id, _ROW.status.in_((*_OPEN, DeliveryStatus.UNCERTAIN)))
        .values(lease=None, lease_until=None, unpicked=[], **{name: theirs[name] for name in names})
    )


def picks_of(conn: Connection, delivery_ids: Sequence[int]) -> list[dict[str, Any]]:
    """Return the picks of these deliveries, with arXiv id, DOI and title key of each paper."""
    query = (
        select(*PickRow.__table__.c, PaperRow.arxiv_id, PaperRow.doi, PaperRow.title_key)
        .join(PaperRow, PaperRow.id == PickRow.paper_id)
        .where(PickRow.delivery_id.in_(delivery_ids))
        .order_by(PickRow.delivery_id, PickRow.position)
    )
    return [dict(row._mapping) for row in conn.execute(query)]


def add_delivery(
    conn: Connection, theirs: Mapping[str, Any], picks: Sequence[Mapping[str, Any]]
) -> bool:
    """Insert a digest of the replaced database with its picks, under the same id if that is free.

    Returns False if one of its papers does not exist here; the digest is then stored without it.
    """
    values = dict(theirs)
    if conn.execute(select(_ROW.id).where(_ROW.id == values["id"])).first():
        del values["id"]
    delivery_id = conn.execute(
        insert(DeliveryRow).values(**values).returning(DeliveryRow.id)
    ).scalar_one()
    return add_picks(conn, delivery_id, picks)


def replace_picks(conn: Connection, delivery_id: int, picks: Sequence[Mapping[str, Any]]) -> bool:
    """Replace the picks of a digest by those that the replaced database sent; see `add_picks`."""
    conn.execute(delete(PickRow).where(PickRow.delivery_id == delivery_id))
    return add_picks(conn, delivery_id, picks)


def add_picks(conn: Connection, delivery_id: int, picks: Sequence[Mapping[str, Any]]) -> bool:
    """Insert the picks of papers that exist here; return False if a paper is missing."""
    rows = []
    for pick in picks:
        paper = _paper_like(conn, pick)
        if paper:
            names = ("position", "score", "upvotes", "comments", "stars", "reasons")
            rows.append(
                {
                    "delivery_id": delivery_id,
                    "paper_id": paper.id,
                    "paper_version": paper.version,
                    **{name: pick[name] for name in names},
                }
            )
    if rows:
        conn.execute(insert(PickRow), rows)
    return len(rows) == len(picks)


def _paper_like(conn: Connection, pick: Mapping[str, Any]) -> Any:
    """Return (id, version) of the paper with the same arXiv id, DOI or title key, or None."""
    for column in (PaperRow.arxiv_id, PaperRow.doi, PaperRow.title_key):
        if pick[column.name]:
            query = select(PaperRow.id, PaperRow.version).where(column == pick[column.name])
            found = conn.execute(query.order_by(PaperRow.id).limit(1)).first()
            if found:
                return found
    return None
