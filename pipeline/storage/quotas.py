"""Quotas of a mail provider per minute, hour or day: sliding windows in rows shared by all senders.

A window is divided into slices, and a slice counts until all of it has left the window. So the
quota is never exceeded in any interval of the window's length.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import ColumnElement, Connection, case, func, select

from pipeline.storage.database import upsert
from pipeline.storage.rate_limits import window_start
from pipeline.storage.schema import RateLimitRow

SLICES: Final = 24  # per window; one more is stored: the slice that is leaving the window


def remaining(conn: Connection, name: str, most: int, window: timedelta, now: datetime) -> int:
    """Lock the quota until this transaction ends, and return how many mails it allows now."""
    conn.execute(
        upsert(conn, RateLimitRow)
        .values(name=name, window_start=now, used=0, free_at=now)
        .on_conflict_do_nothing(index_elements=["name"])
    )
    conn.execute(select(RateLimitRow.name).where(RateLimitRow.name == name).with_for_update())
    used = conn.execute(
        select(func.coalesce(func.sum(RateLimitRow.used), 0)).where(*_counted(name, window, now))
    ).scalar_one()
    return max(0, most - int(used))


def take(conn: Connection, name: str, count: int, window: timedelta, now: datetime) -> None:
    """Count `count` mails. The caller has called `left` in the same transaction."""
    start = window_start(now, window / SLICES)
    number = round(start.timestamp() / (window / SLICES).total_seconds()) % (SLICES + 1)
    statement = upsert(conn, RateLimitRow).values(
        name=f"{name}:{number:02}", window_start=start, used=count, free_at=start + window
    )
    same = RateLimitRow.window_start == start
    conn.execute(
        statement.on_conflict_do_update(
            index_elements=["name"],
            set_={
                "used": case((same, RateLimitRow.used + count), else_=count),
                "window_start": start,
                "free_at": start + window,
            },
        )
    )


def free_at(conn: Connection, name: str, window: timedelta, now: datetime) -> datetime:
    """Return when the oldest slice stops counting; `now` if no slice counts."""
    oldest = conn.execute(
        select(func.min(RateLimitRow.window_start)).where(*_counted(name, window, now))
    ).scalar_one()
    return now if oldest is None else oldest + window + window / SLICES


def _counted(name: str, window: timedelta, now: datetime) -> tuple[ColumnElement[bool], ...]:
    return (
        RateLimitRow.name.startswith(f"{name}:", autoescape=True),
        RateLimitRow.used > 0,
        RateLimitRow.window_start > now - window - window / SLICES,
        # Ignore slices from a clock that was ahead; else they block all mail until that time.
        RateLimitRow.window_start <= now + window,
    )
