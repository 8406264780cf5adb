"""The circuit breaker of the mail server: stop sending for a while when it refuses all mail.

It is closed if there is no row, open until `open_until`, and half open after that: one sender at a
time may then probe the server with one mail.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, delete, or_, select, update

from pipeline.storage.database import upsert
from pipeline.storage.schema import BreakerRow

SMTP: Final = "smtp"


@dataclass(frozen=True, slots=True)
class Breaker:
    refusals: int  # in a row
    open_until: datetime
    since: datetime
    reply: str  # the server's last reply, without addresses


def get(conn: Connection) -> Breaker | None:
    """Return the open or half-open breaker; None if it is closed, and mail may be sent."""
    row = conn.execute(
        select(
            BreakerRow.refusals,
            BreakerRow.open_until,
            BreakerRow.since,
            BreakerRow.reply,
        ).where(BreakerRow.name == SMTP)
    ).one_or_none()
    return Breaker(*row) if row else None


def open_first(conn: Connection, reply: str, now: datetime, length: timedelta) -> bool:
    """Open the breaker for `length`; return False if it is not closed."""
    opened = conn.execute(
        upsert(conn, BreakerRow)
        .values(name=SMTP, refusals=1, open_until=now + length, since=now, reply=reply)
        .on_conflict_do_nothing(index_elements=["name"])
        .returning(BreakerRow.name)
    )
    return opened.one_or_none() is not None


def open_again(
    conn: Connection, seen: Breaker, reply: str, now: datetime, length: timedelta
) -> bool:
    """Open a half-open breaker again, and count a refusal; return False if it changed since `seen`.

    If many connections are refused at the same moment, only one refusal counts. The probe ends.
    """
    opened = conn.execute(
        update(BreakerRow)
        .where(
            BreakerRow.name == SMTP,
            BreakerRow.refusals == seen.refusals,
            BreakerRow.open_until == seen.open_until,
            BreakerRow.open_until <= now,
        )
        .values(
            refusals=seen.refusals + 1,
            open_until=now + length,
            reply=reply,
            probed_by=None,
            probe_until=None,
        )
    )
    return opened.rowcount == 1


def probe(conn: Connection, token: str, now: datetime, length: timedelta) -> bool:
    """Lease the probe of a half-open breaker to `token`, for at most `length`.

    Returns False if the breaker is not half open, or the probe is leased already.
    """
    won = conn.execute(
        update(BreakerRow)
        .where(
            BreakerRow.name == SMTP,
            BreakerRow.open_until <= now,
            or_(BreakerRow.probed_by.is_(None), BreakerRow.probe_until <= now),
        )
        .values(probed_by=token, probe_until=now + length)
    )
    return won.rowcount == 1


def give_up(conn: Connection, token: str) -> bool:
    """Release the probe, because there was nothing to send or the server was not reachable.

    Returns False if `token` does not hold it.
    """
    given = conn.execute(
        update(BreakerRow)
        .where(BreakerRow.name == SMTP, BreakerRow.probed_by == token)
        .values(probed_by=None, probe_until=None)
    )
    return given.rowcount == 1


def close(conn: Connection, token: str) -> bool:
    """Close the breaker after a successful probe; return False if `token` no longer holds it."""
    closed = conn.execute(
        delete(BreakerRow).where(BreakerRow.name == SMTP, BreakerRow.probed_by == token)
    )
    return closed.rowcount == 1


def forget(conn: Connection) -> bool:
    """Close the breaker on the operator's request; return False if it is closed already."""
    return conn.execute(delete(BreakerRow).where(BreakerRow.name == SMTP)).rowcount == 1
