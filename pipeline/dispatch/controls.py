"""Hold, resume and cancel sending, as a whole or for one edition. Each command is idempotent."""

from __future__ import annotations

from datetime import date, datetime

import structlog
from sqlalchemy import Engine

from pipeline.errors import NotFoundError
from pipeline.storage import deliveries, send_controls, throttles
from pipeline.storage.database import retry_transaction

log = structlog.get_logger(__name__)

BY_HAND = "stopped by the operator"


@retry_transaction
def stop(engine: Engine, now: datetime, edition_on: date | None = None, reason: str = "") -> bool:
    """Hold one edition, or all sending if None; return False if it is held already.

    Claimed deliveries are held, too; a mail with its final dot on the wire is finished.
    """
    with engine.begin() as conn:
        stopped = send_controls.pause(conn, edition_on, reason or BY_HAND, now)
    log.warning("sending.paused", edition=_name(edition_on), new=stopped)
    return stopped


@retry_transaction
def start(engine: Engine, edition_on: date | None = None) -> bool:
    """Lift the hold of an edition, or of all sending if None; return False if there was none.

    If all sending resumes, or an edition that the program itself had held, the circuit breaker is
    closed, too, so the server is tried at once. Other holds and throttled domains stay.
    """
    with engine.begin() as conn:
        was_held = any(
            one.automatic and one.edition_on == edition_on
            for one in send_controls.list_pauses(conn)
        )
        started = send_controls.resume(conn, edition_on)
        if edition_on is None or was_held:
            started = send_controls.forget_breaker(conn) or started
    log.warning("sending.resumed", edition=_name(edition_on), new=started)
    return started


@retry_transaction
def release(engine: Engine, domain: str) -> None:
    """Remove the throttle of a domain. Raise NotFoundError if it is not throttled."""
    with engine.begin() as conn:
        if not throttles.free_by_name(conn, domain):
            raise NotFoundError(f"nothing slows mail to {domain}")
    log.warning("domain.released", domain=domain)


def cancel(engine: Engine, edition_on: date) -> int:
    """Cancel the unsent deliveries of an edition; return how many.

    Their papers come again in the next digest. Each batch is a transaction of its own: after a
    crash some are cancelled, and another run cancels the rest.
    """
    total = 0
    while ended := _cancel_some(engine, edition_on):
        total += ended
    log.warning("edition.cancelled", edition=str(edition_on), deliveries=total)
    return total


@retry_transaction
def _cancel_some(engine: Engine, edition_on: date) -> int:
    with engine.begin() as conn:
        return deliveries.cancel_edition(conn, edition_on)


def _name(edition_on: date | None) -> str:
    return str(edition_on or send_controls.EVERYTHING)
