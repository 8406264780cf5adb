"""Pauses of sending: of all mail, or of one edition.

A hold is a row, so it survives restarts. Paused deliveries are neither claimed nor marked as
sending: a delivery that was claimed before the pause returns to the outbox.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Final

from sqlalchemy import ColumnElement, Connection, delete, exists, or_, select

from pipeline.storage.database import upsert
from pipeline.storage.schema import DeliveryRow, HoldRow

EVERYTHING: Final = "everything"


@dataclass(frozen=True, slots=True)
class Hold:
    edition_on: date | None  # None: all mail
    since: datetime
    reason: str
    automatic: bool = False  # set by code: the operator is alerted


def put(
    conn: Connection,
    edition_on: date | None,
    reason: str,
    now: datetime,
    *,
    automatic: bool = False,
) -> bool:
    """Pause an edition, or all mail if it is None; return False if it is paused already."""
    held = conn.execute(
        upsert(conn, HoldRow)
        .values(
            name=_name(edition_on),
            edition_on=edition_on,
            since=now,
            reason=reason,
            automatic=automatic,
        )
        .on_conflict_do_nothing(index_elements=["name"])
        .returning(HoldRow.name)
    )
    return held.one_or_none() is not None


def lift(conn: Connection, edition_on: date | None) -> bool:
    """Resume an edition, or all mail; return False if it was not paused."""
    lifted = conn.execute(delete(HoldRow).where(HoldRow.name == _name(edition_on)))
    return lifted.rowcount == 1


def listing(conn: Connection) -> list[Hold]:
    """Return the holds: of all mail first, then by edition."""
    rows = conn.execute(
        select(HoldRow.edition_on, HoldRow.since, HoldRow.reason, HoldRow.automatic)
    )
    holds = [Hold(*row) for row in rows]
    return sorted(holds, key=lambda hold: hold.edition_on or date.min)


def is_held() -> ColumnElement[bool]:
    """Return the condition that a delivery is paused, by its edition or with all mail."""
    return exists().where(
        or_(HoldRow.edition_on.is_(None), HoldRow.edition_on == DeliveryRow.edition_on)
    )


def _name(edition_on: date | None) -> str:
    return f"edition:{edition_on}" if edition_on else EVERYTHING
