"""Rate limits of visitors and sources, and quotas of a mail provider, in shared rows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import ColumnElement, Connection, case, func, or_, select, update

from pipeline.storage.database import server_now, upsert
from pipeline.storage.schema import RateLimitRow

PROXIES: Final = "proxy:"  # prefix of proxies that forward requests and are not in the settings


def take_turn(conn: Connection, name: str, *, gap: timedelta) -> timedelta:
    """Reserve the next turn of `name`, and return the time to wait for it.

    Turns are at least `gap` apart across all processes. If a process dies before it uses its turn,
    the turn is lost and not assigned again. The row is locked until this transaction ends; times
    are those of the database's clock.
    """
    now = server_now(conn)
    conn.execute(
        upsert(conn, RateLimitRow)
        .values(name=name, window_start=now, used=0, free_at=now)
        .on_conflict_do_nothing(index_elements=["name"])
    )
    free_at: datetime = conn.execute(
        select(RateLimitRow.free_at).where(RateLimitRow.name == name).with_for_update()
    ).scalar_one()
    # If the clock was set back, wait for at most 100 turns and not until it has caught up.
    turn = max(now, min(free_at, now + 100 * gap))
    conn.execute(
        update(RateLimitRow)
        .where(RateLimitRow.name == name)
        .values(free_at=turn + gap, used=RateLimitRow.used + 1)
    )
    return turn - now


def count(
    conn: Connection, name: str, *, most: int, window: timedelta, now: datetime, uses: int = 1
) -> bool:
    """Count `uses` of `name`; return False and count nothing if the window would exceed `most`.

    Windows are fixed and consecutive, so up to twice as many are possible around a boundary. It is
    one statement: it waits for a transaction that has locked the row, and a transaction that is
    rolled back counts nothing.
    """
    if uses > most:
        return False
    start = window_start(now, window)
    # If another process's clock is in the next window already, count there. If the stored window
    # is later still, that clock was wrong: reset it, or all uses are refused until that time.
    is_over = or_(RateLimitRow.window_start < start, RateLimitRow.window_start > start + window)
    statement = upsert(conn, RateLimitRow).values(
        name=name, window_start=start, used=uses, free_at=start + window
    )
    counted = conn.execute(
        statement.on_conflict_do_update(
            index_elements=["name"],
            set_={
                "used": case((is_over, uses), else_=RateLimitRow.used + uses),
                "window_start": case((is_over, start), else_=RateLimitRow.window_start),
                "free_at": case((is_over, start + window), else_=RateLimitRow.free_at),
            },
            where=or_(is_over, RateLimitRow.used + uses <= most),
        ).returning(RateLimitRow.name)
    )
    return counted.one_or_none() is not None


def put_memo(conn: Connection, name: str, now: datetime) -> None:
    """Store `now` as the last time that `name` was seen, and increment its count."""
    statement = upsert(conn, RateLimitRow).values(name=name, window_start=now, used=1, free_at=now)
    conn.execute(
        statement.on_conflict_do_update(
            index_elements=["name"], set_={"used": RateLimitRow.used + 1, "window_start": now}
        )
    )


def memo(conn: Connection, prefix: str) -> list[str]:
    """Return the names with this prefix, without it, most recently seen first."""
    found = select(RateLimitRow.name).where(RateLimitRow.name.startswith(prefix, autoescape=True))
    names = conn.execute(found.order_by(RateLimitRow.window_start.desc())).scalars()
    return [name.removeprefix(prefix) for name in names]


def window_start(now: datetime, window: timedelta) -> datetime:
    """Return the start of the window that contains `now`; windows are aligned to 1970-01-01."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return now - (now - epoch) % window


SLICES: Final = 24  # per window; one more is stored: the slice that is leaving the window


def remaining_quota(
    conn: Connection, name: str, most: int, window: timedelta, now: datetime
) -> int:
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


def take_quota(conn: Connection, name: str, count: int, window: timedelta, now: datetime) -> None:
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


def quota_free_at(conn: Connection, name: str, window: timedelta, now: datetime) -> datetime:
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
