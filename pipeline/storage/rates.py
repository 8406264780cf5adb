"""What a mail provider allows in a minute, an hour or a day, counted in rows for all senders.

A window is cut into slices, and a slice counts until it has wholly left the window. So there is no
stretch of a window's length, wherever it begins, in which more was taken than allowed.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import ColumnElement, Connection, case, func, select

from pipeline.storage.database import upsert
from pipeline.storage.limits import window_start
from pipeline.storage.schema import LimitRow

SLICES: Final = 24  # of a window; one more is kept, for the one that is about to leave


def left(conn: Connection, name: str, most: int, window: timedelta, now: datetime) -> int:
    """How many may still be taken now. Until this transaction ends nobody else takes any."""
    conn.execute(
        upsert(conn, LimitRow)
        .values(name=name, window_start=now, used=0, free_at=now)
        .on_conflict_do_nothing(index_elements=["name"])
    )
    conn.execute(select(LimitRow.name).where(LimitRow.name == name).with_for_update())
    used = conn.execute(
        select(func.coalesce(func.sum(LimitRow.used), 0)).where(*_counted(name, window, now))
    ).scalar_one()
    return max(0, most - int(used))


def take(conn: Connection, name: str, count: int, window: timedelta, now: datetime) -> None:
    """Take so many of what was `left` in this transaction."""
    start = window_start(now, window / SLICES)
    number = round(start.timestamp() / (window / SLICES).total_seconds()) % (SLICES + 1)
    statement = upsert(conn, LimitRow).values(
        name=f"{name}:{number:02}", window_start=start, used=count, free_at=start + window
    )
    same = LimitRow.window_start == start
    conn.execute(
        statement.on_conflict_do_update(
            index_elements=["name"],
            set_={
                "used": case((same, LimitRow.used + count), else_=count),
                "window_start": start,
                "free_at": start + window,
            },
        )
    )


def free_at(conn: Connection, name: str, window: timedelta, now: datetime) -> datetime:
    """When the oldest of what was taken stops to count; `now` where nothing counts."""
    oldest = conn.execute(
        select(func.min(LimitRow.window_start)).where(*_counted(name, window, now))
    ).scalar_one()
    return now if oldest is None else oldest + window + window / SLICES


def _counted(name: str, window: timedelta, now: datetime) -> tuple[ColumnElement[bool], ...]:
    return (
        LimitRow.name.startswith(f"{name}:", autoescape=True),
        LimitRow.used > 0,
        LimitRow.window_start > now - window - window / SLICES,
        # A clock that was wrong must not shut everybody out until it would have been right.
        LimitRow.window_start <= now + window,
    )
