"""Controls of sending in shared rows: pauses, the circuit breaker, authentication failures.

A pause is a row, so it survives restarts. Paused deliveries are neither claimed nor marked as
sending: a delivery that was claimed before the pause returns to the outbox.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)

from pipeline.domain import OPERATOR_MAIL
from pipeline.storage.database import upsert
from pipeline.storage.schema import AuthFailureRow, CircuitBreakerRow, DeliveryRow, PauseRow

EVERYTHING: Final = "everything"


@dataclass(frozen=True, slots=True)
class Pause:
    edition_on: date | None  # None: all mail
    since: datetime
    reason: str
    automatic: bool = False  # set by code: the operator is alerted


def pause(
    conn: Connection,
    edition_on: date | None,
    reason: str,
    now: datetime,
    *,
    automatic: bool = False,
) -> bool:
    """Pause an edition, or all mail if it is None; return False if it is paused already."""
    held = conn.execute(
        upsert(conn, PauseRow)
        .values(
            name=_pause_name(edition_on),
            edition_on=edition_on,
            since=now,
            reason=reason,
            automatic=automatic,
        )
        .on_conflict_do_nothing(index_elements=["name"])
        .returning(PauseRow.name)
    )
    return held.one_or_none() is not None


def resume(conn: Connection, edition_on: date | None) -> bool:
    """Resume an edition, or all mail; return False if it was not paused."""
    lifted = conn.execute(delete(PauseRow).where(PauseRow.name == _pause_name(edition_on)))
    return lifted.rowcount == 1


def list_pauses(conn: Connection) -> list[Pause]:
    """Return the pauses: of all mail first, then by edition."""
    rows = conn.execute(
        select(PauseRow.edition_on, PauseRow.since, PauseRow.reason, PauseRow.automatic)
    )
    pauses = [Pause(*row) for row in rows]
    return sorted(pauses, key=lambda one: one.edition_on or date.min)


def is_paused() -> ColumnElement[bool]:
    """Return the condition that a delivery is paused, by its edition or with all mail.

    Mail to the operator never is: it says that sending is paused, and why.
    """
    held = exists().where(
        or_(PauseRow.edition_on.is_(None), PauseRow.edition_on == DeliveryRow.edition_on)
    )
    return and_(DeliveryRow.kind.not_in(OPERATOR_MAIL), held)


def _pause_name(edition_on: date | None) -> str:
    return f"edition:{edition_on}" if edition_on else EVERYTHING


SMTP: Final = "smtp"


@dataclass(frozen=True, slots=True)
class CircuitBreaker:
    refusals: int  # in a row
    open_until: datetime
    since: datetime
    reply: str  # the server's last reply, without addresses


def circuit_breaker(conn: Connection) -> CircuitBreaker | None:
    """Return the open or half-open breaker; None if it is closed, and mail may be sent."""
    row = conn.execute(
        select(
            CircuitBreakerRow.refusals,
            CircuitBreakerRow.open_until,
            CircuitBreakerRow.since,
            CircuitBreakerRow.reply,
        ).where(CircuitBreakerRow.name == SMTP)
    ).one_or_none()
    return CircuitBreaker(*row) if row else None


def open_breaker(conn: Connection, reply: str, now: datetime, length: timedelta) -> bool:
    """Open the breaker for `length`; return False if it is not closed."""
    opened = conn.execute(
        upsert(conn, CircuitBreakerRow)
        .values(name=SMTP, refusals=1, open_until=now + length, since=now, reply=reply)
        .on_conflict_do_nothing(index_elements=["name"])
        .returning(CircuitBreakerRow.name)
    )
    return opened.one_or_none() is not None


def reopen_breaker(
    conn: Connection, seen: CircuitBreaker, reply: str, now: datetime, length: timedelta
) -> bool:
    """Open a half-open breaker again, and count a refusal; return False if it changed since `seen`.

    If many connections are refused at the same moment, only one refusal counts. The probe ends.
    """
    opened = conn.execute(
        update(CircuitBreakerRow)
        .where(
            CircuitBreakerRow.name == SMTP,
            CircuitBreakerRow.refusals == seen.refusals,
            CircuitBreakerRow.open_until == seen.open_until,
            CircuitBreakerRow.open_until <= now,
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


def probe_breaker(conn: Connection, token: str, now: datetime, length: timedelta) -> bool:
    """Lease the probe of a half-open breaker to `token`, for at most `length`.

    Returns False if the breaker is not half open, or the probe is leased already.
    """
    won = conn.execute(
        update(CircuitBreakerRow)
        .where(
            CircuitBreakerRow.name == SMTP,
            CircuitBreakerRow.open_until <= now,
            or_(CircuitBreakerRow.probed_by.is_(None), CircuitBreakerRow.probe_until <= now),
        )
        .values(probed_by=token, probe_until=now + length)
    )
    return won.rowcount == 1


def abandon_probe(conn: Connection, token: str) -> bool:
    """Release the probe, because there was nothing to send or the server was not reachable.

    Returns False if `token` does not hold it.
    """
    given = conn.execute(
        update(CircuitBreakerRow)
        .where(CircuitBreakerRow.name == SMTP, CircuitBreakerRow.probed_by == token)
        .values(probed_by=None, probe_until=None)
    )
    return given.rowcount == 1


def close_breaker(conn: Connection, token: str) -> bool:
    """Close the breaker after a successful probe; return False if `token` no longer holds it."""
    closed = conn.execute(
        delete(CircuitBreakerRow).where(
            CircuitBreakerRow.name == SMTP, CircuitBreakerRow.probed_by == token
        )
    )
    return closed.rowcount == 1


def forget_breaker(conn: Connection) -> bool:
    """Close the breaker on the operator's request; return False if it is closed already."""
    return (
        conn.execute(delete(CircuitBreakerRow).where(CircuitBreakerRow.name == SMTP)).rowcount == 1
    )


def record_auth_failure(
    conn: Connection,
    edition_on: date | None,
    subscriber_id: int,
    now: datetime,
    *,
    keep: timedelta,
) -> None:
    """Record one refusal, and delete those older than `keep`."""
    conn.execute(delete(AuthFailureRow).where(AuthFailureRow.at < now - keep))
    conn.execute(
        insert(AuthFailureRow).values(edition_on=edition_on, subscriber_id=subscriber_id, at=now)
    )


def count_auth_failures(conn: Connection, edition_on: date, *, since: datetime) -> tuple[int, int]:
    """Return (refusals, distinct recipients) of an edition after `since`."""
    refusals, recipients = conn.execute(
        select(func.count(), func.count(AuthFailureRow.subscriber_id.distinct())).where(
            AuthFailureRow.edition_on == edition_on, AuthFailureRow.at > since
        )
    ).one()
    return refusals, recipients
