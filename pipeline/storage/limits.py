"""Limits that protect people or contracts: rows, so that every process shares them."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Connection, select, update

from pipeline.storage.database import server_now, upsert
from pipeline.storage.schema import LimitRow


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
