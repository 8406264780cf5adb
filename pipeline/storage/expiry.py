"""What is kept for a time only: how to find it when it is too old, and to forget it.

Each function takes at most `limit` rows and tells how many it took; 0 when nothing is left. Rows
that somebody else holds at the moment are left for the next time.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, delete, exists, or_, select, update

from pipeline.domain import OWED, SubscriberStatus
from pipeline.storage.schema import (
    AskedRow,
    DeliveryRow,
    LimitRow,
    PickRow,
    RequestRow,
    SkipRow,
    SubscriberRow,
)


def drop_pending(conn: Connection, *, before: datetime, limit: int) -> int:
    """Addresses that nobody confirmed, nor asked for since; who was a reader once has left."""
    asked_since = exists().where(
        RequestRow.subscriber_id == SubscriberRow.id, RequestRow.created_at >= before
    )
    is_over = (
        (SubscriberRow.status == SubscriberStatus.PENDING)
        & (SubscriberRow.created_at < before)
        & ~asked_since
    )
    # Locked first and looked at again: who held a row may have asked in its name just now.
    ids = _locked(conn, select(SubscriberRow.id).where(is_over), limit)
    were_readers = SubscriberRow.confirmed_at.is_not(None)
    left = conn.execute(
        update(SubscriberRow)
        .where(SubscriberRow.id.in_(ids), is_over, were_readers)
        .values(status=SubscriberStatus.UNSUBSCRIBED, left_at=before, next_slot_at=None)
    ).rowcount
    dropped = conn.execute(
        delete(SubscriberRow).where(SubscriberRow.id.in_(ids), is_over, ~were_readers)
    ).rowcount
    return left + dropped


def drop_requests(conn: Connection, *, before: datetime, limit: int) -> int:
    """Requests that nobody answered. The answered ones stay: they are the record of consent."""
    is_over = (RequestRow.created_at < before) & RequestRow.used_at.is_(None)
    ids = _locked(conn, select(RequestRow.id).where(is_over), limit)
    return conn.execute(delete(RequestRow).where(RequestRow.id.in_(ids))).rowcount


def forget_addresses(conn: Connection, *, before: datetime, limit: int) -> int:
    """Where a mail went that did not go to its subscriber: an address that was asked, once."""
    is_over = (
        (DeliveryRow.created_at < before)
        & DeliveryRow.status.not_in(list(OWED))
        & (DeliveryRow.address != "")
    )
    ids = _locked(conn, select(DeliveryRow.id).where(is_over), limit)
    # Not NULL: that would be the subscriber's own.
    return conn.execute(
        update(DeliveryRow).where(DeliveryRow.id.in_(ids)).values(address="", domain="")
    ).rowcount


def forget_ips(conn: Connection, *, before: datetime, limit: int) -> int:
    """From where an answered request came, and what for: the reader has it by now."""
    is_over = (RequestRow.created_at < before) & RequestRow.ip.is_not(None)
    ids = _locked(conn, select(RequestRow.id).where(is_over), limit)
    return conn.execute(
        update(RequestRow).where(RequestRow.id.in_(ids)).values(ip=None, wishes={})
    ).rowcount


def drop_counters(conn: Connection, *, before: datetime, limit: int) -> int:
    """Counters of questions from one place; see signup.asking for their names."""
    is_over = LimitRow.name.startswith("ask:") & (LimitRow.window_start < before)
    names = _locked(conn, select(LimitRow.name).where(is_over), limit)
    return conn.execute(delete(LimitRow).where(LimitRow.name.in_(names))).rowcount


def drop_asked(conn: Connection, *, before: datetime, limit: int) -> int:
    """Questions too old to count against another one."""
    ids = _locked(conn, select(AskedRow.id).where(AskedRow.asked_at < before), limit)
    return conn.execute(delete(AskedRow).where(AskedRow.id.in_(ids))).rowcount


def forget_digests(conn: Connection, *, before: datetime, limit: int) -> int:
    """What was in a digest, and the topics it was made for. That it was sent stays."""
    has_picks = exists().where(PickRow.delivery_id == DeliveryRow.id)
    is_over = (
        (DeliveryRow.created_at < before)
        & DeliveryRow.status.not_in(list(OWED))
        & or_(has_picks, DeliveryRow.reply.is_not(None))
    )
    ids = _locked(conn, select(DeliveryRow.id).where(is_over), limit)
    conn.execute(delete(PickRow).where(PickRow.delivery_id.in_(ids)))
    # What a server said may name the address.
    conn.execute(
        update(DeliveryRow).where(DeliveryRow.id.in_(ids)).values(topics=[], reply=None, more=0)
    )
    return len(ids)


def drop_skips(conn: Connection, *, before: datetime, limit: int) -> int:
    """Slots without mail, of the days whose digests are no longer kept either."""
    old = select(SkipRow.subscriber_id, SkipRow.edition_on).where(SkipRow.slot_at < before)
    rows = conn.execute(old.limit(limit)).all()
    return sum(
        conn.execute(
            delete(SkipRow).where(
                SkipRow.subscriber_id == subscriber_id, SkipRow.edition_on == edition_on
            )
        ).rowcount
        for subscriber_id, edition_on in rows
    )


def _locked(conn: Connection, query: Select[Any], limit: int) -> list[Any]:
    """The ids that `query` finds and nobody else holds."""
    return list(conn.execute(query.limit(limit).with_for_update(skip_locked=True)).scalars())
