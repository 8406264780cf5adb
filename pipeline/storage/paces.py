"""Recipient domains that are written to slowly, and for how long. Rows, shared by all senders."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    ScalarSelect,
    and_,
    delete,
    exists,
    select,
    update,
)

from pipeline.storage.database import in_chunks, upsert
from pipeline.storage.schema import IS_QUEUED, DeliveryRow, DomainPaceRow

CHUNK: Final = 500


class PaceState(StrEnum):
    """Why a domain is written to slowly."""

    SLOWED = "slowed"  # it found us too fast
    BLOCKED = "blocked"  # it wants none of our mail for now: an operator should look


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a domain that has refused us is written to."""

    domain: str
    state: PaceState
    allowance: float  # mails a minute
    not_before: datetime  # the next mail to it
    refusals: int  # since it was last free
    since: datetime
    refused_at: datetime  # the last time it was slowed
    reply: str  # the server's words, without addresses


def listing(conn: Connection) -> list[Pace]:
    """Every domain that is not free, by name."""
    rows = conn.execute(select(DomainPaceRow.__table__).order_by(DomainPaceRow.domain))
    return [_pace(row) for row in rows]


def get(conn: Connection, domain: str) -> Pace | None:
    """Also keeps others from changing it before this transaction ends."""
    query = select(DomainPaceRow.__table__).where(DomainPaceRow.domain == domain)
    row = conn.execute(query.with_for_update()).one_or_none()
    return _pace(row) if row else None


def insert(conn: Connection, pace: Pace) -> bool:
    """Slow a domain that was free; False where somebody else has just done so."""
    slowed = conn.execute(
        upsert(conn, DomainPaceRow)
        .values(**_values(pace))
        .on_conflict_do_nothing(index_elements=["domain"])
        .returning(DomainPaceRow.domain)
    )
    return slowed.one_or_none() is not None


def replace(conn: Connection, seen: Pace, pace: Pace) -> bool:
    """Put `pace` in the place of the one that was `seen`; False where that has changed."""
    changed = conn.execute(update(DomainPaceRow).where(_is(seen)).values(**_values(pace)))
    return changed.rowcount == 1


def free(conn: Connection, seen: Pace) -> bool:
    """Write to it as to any other; False where its pace has changed since it was `seen`."""
    return conn.execute(delete(DomainPaceRow).where(_is(seen))).rowcount == 1


def free_by_name(conn: Connection, domain: str) -> bool:
    """The operator's word; False where it is free already."""
    freed = conn.execute(delete(DomainPaceRow).where(DomainPaceRow.domain == domain))
    return freed.rowcount == 1


def free_slowed_since(conn: Connection, domains: Collection[str], since: datetime) -> None:
    """Write to those of these domains that were slowed since then as to any other."""
    for some in in_chunks(sorted(domains), CHUNK):
        conn.execute(
            delete(DomainPaceRow).where(
                DomainPaceRow.domain.in_(some), DomainPaceRow.refused_at >= since
            )
        )


def next_turn(conn: Connection, now: datetime) -> datetime | None:
    """When the first mail that waits for nothing but its domain's turn may leave; None: none."""
    waits = exists().where(
        IS_QUEUED,
        DeliveryRow.domain == DomainPaceRow.domain,
        DeliveryRow.not_before <= now,
        DeliveryRow.expires_at > now,
    )
    first: ScalarSelect[datetime] = (
        select(DomainPaceRow.not_before)
        .where(DomainPaceRow.not_before > now, waits)
        .order_by(DomainPaceRow.not_before)
        .limit(1)
        .scalar_subquery()
    )
    return conn.execute(select(first)).scalar_one()


def _is(seen: Pace) -> ColumnElement[bool]:
    return and_(
        DomainPaceRow.domain == seen.domain,
        DomainPaceRow.refused_at == seen.refused_at,
        DomainPaceRow.allowance == seen.allowance,
        DomainPaceRow.not_before == seen.not_before,
    )


def _values(pace: Pace) -> dict[str, Any]:
    return {column.name: getattr(pace, column.name) for column in DomainPaceRow.__table__.c}


def _pace(row: Row[Any]) -> Pace:
    fields = row._asdict()
    return Pace(**{**fields, "state": PaceState(fields["state"])})
