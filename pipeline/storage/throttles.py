"""Throttles per recipient domain, in rows that all senders share."""

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

from pipeline.storage.addresses import email_key
from pipeline.storage.database import in_chunks, upsert
from pipeline.storage.schema import IS_QUEUED, DeliveryRow, ThrottleRow

CHUNK: Final = 500


class ThrottleState(StrEnum):
    """The reason why a domain is throttled."""

    SLOWED = "slowed"  # it deferred mail: we sent too fast
    BLOCKED = "blocked"  # it blocks all our mail for now: the operator should check


@dataclass(frozen=True, slots=True)
class Throttle:
    """The throttle of a recipient domain that refused our mail."""

    domain: str
    state: ThrottleState
    allowance: float  # mails per minute
    not_before: datetime  # earliest time of the next mail
    refusals: int  # since it was last unthrottled
    since: datetime
    refused_at: datetime  # the last time it was slowed
    reply: str  # the server's reply, without addresses


def list_all(conn: Connection) -> list[Throttle]:
    """Return all throttled domains, by name."""
    rows = conn.execute(select(ThrottleRow.__table__).order_by(ThrottleRow.domain))
    return [_throttle(row) for row in rows]


def by_domain(conn: Connection, domain: str) -> Throttle | None:
    """Return and lock the throttle of a domain until this transaction ends; None if unthrottled."""
    query = select(ThrottleRow.__table__).where(ThrottleRow.domain == domain)
    row = conn.execute(query.with_for_update()).one_or_none()
    return _throttle(row) if row else None


def insert(conn: Connection, pace: Throttle) -> bool:
    """Throttle a domain; return False if another sender throttled it first."""
    slowed = conn.execute(
        upsert(conn, ThrottleRow)
        .values(**_values(pace))
        .on_conflict_do_nothing(index_elements=["domain"])
        .returning(ThrottleRow.domain)
    )
    return slowed.one_or_none() is not None


def replace(conn: Connection, seen: Throttle, pace: Throttle) -> bool:
    """Replace `seen` by `pace`; return False if the row has changed since it was read."""
    changed = conn.execute(update(ThrottleRow).where(_is(seen)).values(**_values(pace)))
    return changed.rowcount == 1


def free(conn: Connection, seen: Throttle) -> bool:
    """Remove a throttle; return False if the row has changed since it was read as `seen`."""
    return conn.execute(delete(ThrottleRow).where(_is(seen))).rowcount == 1


def free_by_name(conn: Connection, domain: str) -> bool:
    """Remove a throttle on the operator's command; return False if there is none."""
    freed = conn.execute(delete(ThrottleRow).where(ThrottleRow.domain == domain))
    return freed.rowcount == 1


def free_slowed_since(conn: Connection, domains: Collection[str], since: datetime) -> None:
    """Remove the throttles of these domains that were last slowed at or after `since`."""
    for some in in_chunks(sorted(domains), CHUNK):
        conn.execute(
            delete(ThrottleRow).where(ThrottleRow.domain.in_(some), ThrottleRow.refused_at >= since)
        )


def next_turn(conn: Connection, now: datetime) -> datetime | None:
    """Return when a queued mail that waits for its domain's throttle only may be sent.

    This is the earliest such time; None if no mail waits.
    """
    waits = exists().where(
        IS_QUEUED,
        DeliveryRow.domain == ThrottleRow.domain,
        DeliveryRow.not_before <= now,
        DeliveryRow.expires_at > now,
    )
    first: ScalarSelect[datetime] = (
        select(ThrottleRow.not_before)
        .where(ThrottleRow.not_before > now, waits)
        .order_by(ThrottleRow.not_before)
        .limit(1)
        .scalar_subquery()
    )
    return conn.execute(select(first)).scalar_one()


def _is(seen: Throttle) -> ColumnElement[bool]:
    return and_(
        ThrottleRow.domain == seen.domain,
        ThrottleRow.refused_at == seen.refused_at,
        ThrottleRow.allowance == seen.allowance,
        ThrottleRow.not_before == seen.not_before,
    )


def _values(pace: Throttle) -> dict[str, Any]:
    return {column.name: getattr(pace, column.name) for column in ThrottleRow.__table__.c}


def _throttle(row: Row[Any]) -> Throttle:
    fields = row._asdict()
    return Throttle(**{**fields, "state": ThrottleState(fields["state"])})


_ONE_PROVIDER: Final = (
    ("gmail.com", "googlemail.com"),
    ("outlook.com", "hotmail.com", "live.com", "msn.com"),
    ("yahoo.com", "ymail.com", "rocketmail.com", "aol.com"),
    ("icloud.com", "me.com", "mac.com"),
)
"""Domains of one provider, which limits their mail together; the first one names the group."""

_NATIONAL: Final = {"yahoo": "yahoo.com", "hotmail": "outlook.com", "outlook": "outlook.com"}
"""Providers with a domain in many countries, such as yahoo.co.uk and hotmail.fr."""

_GROUPS: Final = {domain: group[0] for group in _ONE_PROVIDER for domain in group}


def domain_of(email: str) -> str:
    """Return `gmail.com` for an address at googlemail.com; "" if it is not an address.

    The result is stored with a delivery when it is queued, so changes of these tables affect only
    deliveries that are queued later.
    """
    if "@" not in email:
        return ""
    domain = email_key(email).rpartition("@")[2]
    return _GROUPS.get(domain) or _national(domain) or domain


def _national(domain: str) -> str | None:
    name, _, country = domain.partition(".")
    if domain == "yahoo.co.jp":
        return None  # a different company
    is_country = len(country) == 2 or country.startswith(("co.", "com."))
    return _NATIONAL.get(name) if is_country else None
