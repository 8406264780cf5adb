"""Daily counts: how often each event happened on each UTC day. Numbers only, kept for good.

An event is counted in the transaction that it happens in, so its total never falls, whatever is
purged or erased later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from datetime import date, datetime
from functools import cache
from secrets import randbelow
from typing import TypeAlias

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Select,
    Update,
    and_,
    bindparam,
    func,
    insert,
    select,
    true,
    update,
)

from pipeline.domain import CountedEvent
from pipeline.storage.database import upsert
from pipeline.storage.schema import DailyCountRow

Counts: TypeAlias = Mapping[tuple[str, CountedEvent], int]
"""Numbers by kind of mail and event; the kind is "" for events about subscribers."""


def add(conn: Connection, counts: Counts, now: datetime) -> None:
    """Add to the counts of the day of `now`, without waiting for any other transaction.

    A count has a row for each transaction that counted at the same time: one that does not go on,
    because its process sleeps, must not stop all others.
    """
    for (kind, event), count in counts.items():
        where = {"of_day": now.date(), "of_kind": kind, "of_event": event}
        shard = conn.execute(_free_shard(), where).scalar_one_or_none()
        if shard is not None:
            conn.execute(_add_to_shard(), {**where, "of_shard": shard, "more": count})
        else:
            values = {"day": now.date(), "kind": kind, "event": event, "count": count}
            conn.execute(insert(DailyCountRow), {**values, "shard": 1 + randbelow(1 << 30)})


@cache  # to build it takes longer than to execute it
def _free_shard() -> Select[int]:
    """Return a query that locks a row which no other transaction has locked."""
    return (
        select(DailyCountRow.shard).where(_is_of_count()).limit(1).with_for_update(skip_locked=True)
    )


@cache
def _add_to_shard() -> Update:
    is_shard = DailyCountRow.shard == bindparam("of_shard")
    more = DailyCountRow.count + bindparam("more", type_=Integer)
    return update(DailyCountRow).where(_is_of_count(), is_shard).values(count=more)


def _is_of_count() -> ColumnElement[bool]:
    return and_(
        DailyCountRow.day == bindparam("of_day"),
        DailyCountRow.kind == bindparam("of_kind"),
        DailyCountRow.event == bindparam("of_event"),
    )


def add_once(conn: Connection, day: date, kind: str, event: CountedEvent) -> bool:
    """Count an event that happens at most once a day; return False if it is counted already.

    All transactions use shard 0, so that one of them waits for the other.
    """
    added = conn.execute(
        upsert(conn, DailyCountRow)
        .values(day=day, kind=kind, event=event, shard=0, count=1)
        .on_conflict_do_nothing(index_elements=["day", "kind", "event", "shard"])
        .returning(DailyCountRow.count)
    )
    return added.one_or_none() is not None


def is_counted(conn: Connection, day: date, event: CountedEvent) -> bool:
    """Return whether an event is counted on a day, for any kind of mail."""
    return any(found is event for _, found in between(conn, day, day))


def has_before(conn: Connection, day: date) -> bool:
    """Return whether anything was counted before a day."""
    return (
        conn.execute(select(DailyCountRow.day).where(DailyCountRow.day < day)).first() is not None
    )


def days_with(
    conn: Connection, first: date, last: date, kinds: Collection[str], event: CountedEvent
) -> int:
    """Return the number of days, from `first` to `last`, with an event of these kinds of mail."""
    days = select(func.count(DailyCountRow.day.distinct())).where(
        DailyCountRow.day.between(first, last),
        DailyCountRow.kind.in_(kinds),
        DailyCountRow.event == event,
    )
    return conn.execute(days).scalar_one()


def totals(conn: Connection) -> Counts:
    """Return the totals since the database was created."""
    return _sum(conn, true())


def between(conn: Connection, first: date, last: date) -> Counts:
    """Return the totals of the days from `first` to `last`, inclusive."""
    return _sum(conn, DailyCountRow.day.between(first, last))


def _sum(conn: Connection, days: ColumnElement[bool]) -> Counts:
    rows = conn.execute(
        select(DailyCountRow.kind, DailyCountRow.event, func.sum(DailyCountRow.count))
        .where(days)
        .group_by(DailyCountRow.kind, DailyCountRow.event)
    )
    return Counter({(kind, CountedEvent(event)): int(count) for kind, event, count in rows})
