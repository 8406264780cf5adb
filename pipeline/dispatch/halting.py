"""Stop sending, all of it or one edition, and go on. Every step may be taken twice."""

from __future__ import annotations

from datetime import date, datetime

import structlog
from sqlalchemy import Engine

from pipeline.errors import NotFoundError
from pipeline.storage import breakers, deliveries, holds, paces
from pipeline.storage.database import retried, with_retries

log = structlog.get_logger(__name__)

BY_HAND = "stopped by the operator"


@retried
def stop(engine: Engine, now: datetime, edition_on: date | None = None, reason: str = "") -> bool:
    """Hold an edition up, or everything; False where it is held up already.

    Holds for what is claimed too; a mail whose final dot is on the wire is finished.
    """
    with engine.begin() as conn:
        stopped = holds.put(conn, edition_on, reason or BY_HAND, now)
    log.warning("sending held up", edition=_name(edition_on), new=stopped)
    return stopped


@retried
def start(engine: Engine, edition_on: date | None = None) -> bool:
    """Let it go on; False where nothing held it up.

    Everything, or an edition that the program has held: a server that refused us is tried at once.
    What pauses for itself stays paused.
    """
    with engine.begin() as conn:
        was_held = any(
            one.automatic and one.edition_on == edition_on for one in holds.listing(conn)
        )
        started = holds.lift(conn, edition_on)
        if edition_on is None or was_held:
            started = breakers.forget(conn) or started
    log.warning("sending goes on", edition=_name(edition_on), new=started)
    return started


@retried
def release(engine: Engine, domain: str) -> None:
    """Write to a slowed domain as to any other, at once. Raises NotFoundError."""
    with engine.begin() as conn:
        if not paces.free_by_name(conn, domain):
            raise NotFoundError(f"nothing slows mail to {domain}")
    log.warning("domain released", domain=domain)


def cancel(engine: Engine, edition_on: date) -> int:
    """End what is owed of an edition; how many. The papers are owed anew, in the next digest.

    Chunk by chunk: who dies on the way has cancelled some, and may be run again for the others.
    """
    total = 0
    while ended := with_retries(lambda: _cancel_some(engine, edition_on)):
        total += ended
    log.warning("edition cancelled", edition=str(edition_on), deliveries=total)
    return total


def _cancel_some(engine: Engine, edition_on: date) -> int:
    with engine.begin() as conn:
        return deliveries.cancel_edition(conn, edition_on)


def _name(edition_on: date | None) -> str:
    return str(edition_on or holds.EVERYTHING)
