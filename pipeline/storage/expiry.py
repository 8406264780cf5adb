"""What is kept for a time only: how to find it when it is too old, and to forget it.

Each function takes at most `limit` rows and tells how many it took; 0 when nothing is left. Rows
that somebody else holds at the moment are left for the next time. All of them find what is over
by an index that leaves out what was forgotten before, so a night costs what one day brought.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import date, datetime
from typing import Any, Final

from sqlalchemy import Connection, Select, delete, exists, select, update

from pipeline.domain import OWED, DeliveryStatus, SubscriberStatus
from pipeline.storage.database import upsert
from pipeline.storage.limits import PROXIES
from pipeline.storage.schema import (
    AskedRow,
    DailyCountRow,
    DeliveryRow,
    LimitRow,
    PickRow,
    RequestRow,
    SkipRow,
    SubscriberRow,
)

_IN_PLAY: Final = (*OWED, DeliveryStatus.SENDING)


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
        & DeliveryRow.status.not_in(_IN_PLAY)
        & (DeliveryRow.address != "")
    )
    ids = _locked(conn, select(DeliveryRow.id).where(is_over), limit)
    # Not NULL: that would be the subscriber's own.
    return conn.execute(
        update(DeliveryRow).where(DeliveryRow.id.in_(ids)).values(address="", domain="")
    ).rowcount


def blank_requests(conn: Connection, *, before: datetime, limit: int) -> int:
    """From where a request came, and what for: the reader has it by now."""
    is_over = ~RequestRow.blanked & (RequestRow.created_at < before)
    ids = _locked(conn, select(RequestRow.id).where(is_over), limit)
    return conn.execute(
        update(RequestRow).where(RequestRow.id.in_(ids)).values(ip=None, wishes={}, blanked=True)
    ).rowcount


def drop_counters(conn: Connection, *, before: datetime, limit: int) -> int:
    """Counters of questions (see signup.asking for their names), and proxies no longer seen."""
    is_ours = LimitRow.name.startswith("ask:") | LimitRow.name.startswith(PROXIES)
    is_over = is_ours & (LimitRow.window_start < before)
    names = _locked(conn, select(LimitRow.name).where(is_over), limit)
    return conn.execute(delete(LimitRow).where(LimitRow.name.in_(names))).rowcount


def drop_asked(conn: Connection, *, before: datetime, limit: int) -> int:
    """Questions too old to count against another one."""
    ids = _locked(conn, select(AskedRow.id).where(AskedRow.asked_at < before), limit)
    return conn.execute(delete(AskedRow).where(AskedRow.id.in_(ids))).rowcount


def blank_deliveries(conn: Connection, *, before: datetime, limit: int) -> int:
    """What was in a digest, the topics it was made for, and what the mail server said of a mail.

    That it was sent, and when, stays.
    """
    is_over = (
        ~DeliveryRow.blanked
        & (DeliveryRow.created_at < before)
        & DeliveryRow.status.not_in(_IN_PLAY)
    )
    ids = _locked(conn, select(DeliveryRow.id).where(is_over), limit)
    conn.execute(delete(PickRow).where(PickRow.delivery_id.in_(ids)))
    # What a server said may name the address, and so does its log under the number it gave.
    return conn.execute(
        update(DeliveryRow)
        .where(DeliveryRow.id.in_(ids))
        .values(topics=[], more=0, reply=None, queue_id=None, blanked=True)
    ).rowcount


def drop_deliveries(conn: Connection, *, before: datetime, limit: int) -> int:
    """That somebody was sent a mail. How many were sent that day stays.

    Their dedupe keys go with them: each names a date that its reader's calendar has long passed,
    a request that was used or is gone, or an hour that is over.
    """
    is_over = (
        DeliveryRow.blanked
        & (DeliveryRow.created_at < before)
        & DeliveryRow.status.not_in(_IN_PLAY)
    )
    found = select(DeliveryRow.id, DeliveryRow.created_at, DeliveryRow.kind, DeliveryRow.status)
    rows = conn.execute(_free(found.where(is_over), limit)).all()
    _count(conn, Counter((row.created_at.date(), row.kind, row.status) for row in rows))
    ids = [row.id for row in rows]
    return conn.execute(delete(DeliveryRow).where(DeliveryRow.id.in_(ids))).rowcount


def _count(conn: Connection, counted: Counter[tuple[date, str, str]]) -> None:
    for (day, kind, status), count in sorted(counted.items()):
        statement = upsert(conn, DailyCountRow).values(
            day=day, kind=kind, status=status, count=count
        )
        conn.execute(
            statement.on_conflict_do_update(
                index_elements=["day", "kind", "status"],
                set_={"count": DailyCountRow.count + count},
            )
        )


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


def _locked(conn: Connection, query: Select[Any], limit: int) -> Sequence[Any]:
    """The ids that `query` finds and nobody else holds."""
    return conn.execute(_free(query, limit)).scalars().all()


def _free(query: Select[*tuple[Any, ...]], limit: int) -> Select[*tuple[Any, ...]]:
    return query.limit(limit).with_for_update(skip_locked=True)
