"""Limits that protect people or contracts: rows, so that every process shares them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import Connection, case, or_, select, update

from pipeline.storage.database import server_now, upsert
from pipeline.storage.schema import LimitRow

PROXIES: Final = "proxy:"  # names of proxies that forwarded requests and are not in the settings


def take_turn(conn: Connection, name: str, *, gap: timedelta) -> timedelta:
    """Reserve the next free moment of `name`, and return how long to wait for it.

    Turns are at least `gap` apart, whoever takes them. A turn that its taker did not live to use
    is lost, never given twice.
    """
    now = server_now(conn)
    conn.execute(
        upsert(conn, LimitRow)
        .values(name=name, window_start=now, used=0, free_at=now)
        .on_conflict_do_nothing(index_elements=["name"])
    )
    free_at: datetime = conn.execute(
        select(LimitRow.free_at).where(LimitRow.name == name).with_for_update()
    ).scalar_one()
    # A clock that was set back must not make everybody wait for it to catch up.
    turn = max(now, min(free_at, now + 100 * gap))
    conn.execute(
        update(LimitRow)
        .where(LimitRow.name == name)
        .values(free_at=turn + gap, used=LimitRow.used + 1)
    )
    return turn - now


def count(
    conn: Connection, name: str, *, most: int, window: timedelta, now: datetime, uses: int = 1
) -> bool:
    """Count `uses` of `name`; False, and nothing counted, when this window would exceed `most`.

    Windows lie end to end, so around a seam there may be twice as many. One statement: whoever
    holds the row is waited for, and a transaction that dies has counted nothing.
    """
    if uses > most:
        return False
    start = window_start(now, window)
    # Another process's clock may be in the next window already: then we count there. A clock that
    # was wrong by more than that must not shut everybody out until it would have been right.
    is_over = or_(LimitRow.window_start < start, LimitRow.window_start > start + window)
    statement = upsert(conn, LimitRow).values(
        name=name, window_start=start, used=uses, free_at=start + window
    )
    counted = conn.execute(
        statement.on_conflict_do_update(
            index_elements=["name"],
            set_={
                "used": case((is_over, uses), else_=LimitRow.used + uses),
                "window_start": case((is_over, start), else_=LimitRow.window_start),
                "free_at": case((is_over, start + window), else_=LimitRow.free_at),
            },
            where=or_(is_over, LimitRow.used + uses <= most),
        ).returning(LimitRow.name)
    )
    return counted.one_or_none() is not None


def note(conn: Connection, name: str, now: datetime) -> None:
    """Remember under `name` that something was seen at `now`, and how often."""
    statement = upsert(conn, LimitRow).values(name=name, window_start=now, used=1, free_at=now)
    conn.execute(
        statement.on_conflict_do_update(
            index_elements=["name"], set_={"used": LimitRow.used + 1, "window_start": now}
        )
    )


def noted(conn: Connection, prefix: str) -> list[str]:
    """What was noted under names with this prefix, the newest first."""
    found = select(LimitRow.name).where(LimitRow.name.startswith(prefix, autoescape=True))
    names = conn.execute(found.order_by(LimitRow.window_start.desc())).scalars()
    return [name.removeprefix(prefix) for name in names]


def window_start(now: datetime, window: timedelta) -> datetime:
    """The beginning of the window that `now` lies in; windows are counted from 1970."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return now - (now - epoch) % window
