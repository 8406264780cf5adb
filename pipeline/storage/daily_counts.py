"""Daily counts: how often each event happened on each UTC day. Numbers only, kept for good.

An event is counted in the transaction that it happens in, so its total never falls, whatever is
purged or erased later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from datetime import date, datetime
from typing import TypeAlias

from sqlalchemy import ColumnElement, Connection, func, select, true

from pipeline.domain import CountedEvent
from pipeline.storage.database import upsert
from pipeline.storage.schema import DailyCountRow

Counts: TypeAlias = Mapping[tuple[str, CountedEvent], int]
"""Numbers by kind of mail and event; the kind is "" for events about subscribers."""


def add(conn: Connection, counts: Counts, now: datetime) -> None:
    """Add to the counts of the day of `now`, in one order for all callers: no deadlocks.

    Call it last in a transaction: until the commit, others that count the same event wait.
    """
    for (kind, event), count in sorted(counts.items()):
        statement = upsert(conn, DailyCountRow).values(
            day=now.date(), kind=kind, event=event, count=count
        )
        conn.execute(
            statement.on_conflict_do_update(
                index_elements=["day", "kind", "event"],
                set_={"count": DailyCountRow.count + count},
            )
        )


def add_once(conn: Connection, day: date, kind: str, event: CountedEvent) -> bool:
    """Count an event that happens at most once a day; return False if it is counted already."""
    added = conn.execute(
        upsert(conn, DailyCountRow)
        .values(day=day, kind=kind, event=event, count=1)
        .on_conflict_do_nothing(index_elements=["day", "kind", "event"])
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
