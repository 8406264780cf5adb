"""What must not be sent for now: everything, or what belongs to one edition.

A hold is a row, so that it outlives every process. Claims pass by what is held up, and so do marks:
what was claimed before goes back to the outbox.
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
    edition_on: date | None  # None: everything
    since: datetime
    reason: str
    automatic: bool = False  # put by the program: the operator must be told


def put(
    conn: Connection,
    edition_on: date | None,
    reason: str,
    now: datetime,
    *,
    automatic: bool = False,
) -> bool:
    """Hold an edition up, or everything; False where it is held up already."""
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
    """Let it go on; False where nothing held it up."""
    lifted = conn.execute(delete(HoldRow).where(HoldRow.name == _name(edition_on)))
    return lifted.rowcount == 1


def listing(conn: Connection) -> list[Hold]:
    """Everything first, then by edition."""
    rows = conn.execute(
        select(HoldRow.edition_on, HoldRow.since, HoldRow.reason, HoldRow.automatic)
    )
    holds = [Hold(*row) for row in rows]
    return sorted(holds, key=lambda hold: hold.edition_on or date.min)


def is_held() -> ColumnElement[bool]:
    """Of a delivery: something holds it up."""
    return exists().where(
        or_(HoldRow.edition_on.is_(None), HoldRow.edition_on == DeliveryRow.edition_on)
    )


def _name(edition_on: date | None) -> str:
    return f"edition:{edition_on}" if edition_on else EVERYTHING
