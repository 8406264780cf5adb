"""The circuit breaker of the mail server: who refuses us as a whole is left alone for a while.

It is closed where there is no row, open until `open_until`, and half open after it: one sender at a
time may then try one mail.
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
    reply: str  # the server's last words, without addresses


def get(conn: Connection) -> Breaker | None:
    """None: closed, mail may flow."""
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
    """Open a closed one; False where it is not closed."""
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
    """Open a half open one for longer; False where it has changed since it was `seen`.

    Of many connections that are refused at the same moment only one counts.
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
    """Be the one who tries a half open one, for at most `length`; False: not now, or not you."""
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
    """Leave the trying to others: there was nothing to send, or no server to ask."""
    given = conn.execute(
        update(BreakerRow)
        .where(BreakerRow.name == SMTP, BreakerRow.probed_by == token)
        .values(probed_by=None, probe_until=None)
    )
    return given.rowcount == 1


def close(conn: Connection, token: str) -> bool:
    """Let mail flow, once the holder of `token` has got through; False where that is old news."""
    closed = conn.execute(
        delete(BreakerRow).where(BreakerRow.name == SMTP, BreakerRow.probed_by == token)
    )
    return closed.rowcount == 1


def forget(conn: Connection) -> bool:
    """The operator's word: try again at once; False where mail flows already."""
    return conn.execute(delete(BreakerRow).where(BreakerRow.name == SMTP)).rowcount == 1
