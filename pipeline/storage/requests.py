"""Requests that need confirmation: they have no effect until their token is POSTed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select, update

from pipeline.domain import Origin, RequestKind
from pipeline.storage.addresses import email_key
from pipeline.storage.schema import RequestRow


@dataclass(frozen=True, slots=True)
class StoredRequest:
    id: int
    kind: RequestKind
    subscriber_id: int
    email: str
    choices: dict[str, Any]  # JSON, in the format of the use case that wrote it
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None


def add(
    conn: Connection,
    kind: RequestKind,
    subscriber_id: int,
    *,
    email: str,
    choices: dict[str, Any],
    ip: str | None,
    origin: Origin,
    expires_at: datetime,
    now: datetime,
    used_at: datetime | None = None,
) -> int:
    """Store a request and return its id, for its link; set `used_at` if it needs no answer."""
    return conn.execute(
        insert(RequestRow)
        .values(
            kind=kind,
            subscriber_id=subscriber_id,
            email=email,
            email_key=email_key(email),
            origin=origin,
            choices=choices,
            created_at=now,
            expires_at=expires_at,
            used_at=used_at,
            ip=ip,
        )
        .returning(RequestRow.id)
    ).scalar_one()


def by_id(conn: Connection, request_id: int) -> StoredRequest | None:
    row = conn.execute(
        select(
            RequestRow.id,
            RequestRow.kind,
            RequestRow.subscriber_id,
            RequestRow.email,
            RequestRow.choices,
            RequestRow.created_at,
            RequestRow.expires_at,
            RequestRow.used_at,
        ).where(RequestRow.id == request_id)
    ).one_or_none()
    if row is None:
        return None
    id_, kind, *rest = row
    return StoredRequest(id_, RequestKind(kind), *rest)


def use(conn: Connection, request_id: int, now: datetime, *, wording: str) -> bool:
    """Use a request once, and store the consent text; return False if used before or expired."""
    won = conn.execute(
        update(RequestRow)
        .where(
            RequestRow.id == request_id,
            RequestRow.used_at.is_(None),
            RequestRow.expires_at > now,
        )
        .values(used_at=now, wording=wording)
    )
    return won.rowcount == 1


def end_open(conn: Connection, subscriber_id: int, kind: RequestKind, now: datetime) -> None:
    """Expire the other open requests of this kind, when the owner has confirmed one."""
    conn.execute(
        update(RequestRow)
        .where(
            RequestRow.subscriber_id == subscriber_id,
            RequestRow.kind == kind,
            RequestRow.used_at.is_(None),
            RequestRow.expires_at > now,
        )
        .values(expires_at=now)
    )


def redact(conn: Connection, subscriber_id: int, now: datetime) -> None:
    """Redact and expire the subscriber's requests.

    The rows and their ids are kept, so that no old link finds a new request.
    """
    conn.execute(
        update(RequestRow)
        .where(RequestRow.subscriber_id == subscriber_id)
        .values(email="", email_key="", choices={}, ip=None, expires_at=now, redacted=True)
    )


def redact_address(conn: Connection, email: str, now: datetime) -> list[int]:
    """Redact an address in the requests of all subscribers; return the ids of those requests.

    The requests expire. Their `ip` is kept for its usual time, because it is the requester's.
    """
    return list(
        conn.execute(
            update(RequestRow)
            .where(RequestRow.email_key == email_key(email))
            .values(email="", email_key="", choices={}, expires_at=now)
            .returning(RequestRow.id)
        ).scalars()
    )


def records_of(conn: Connection, subscriber_id: int) -> list[dict[str, Any]]:
    """Return all columns of the subscriber's requests, oldest first."""
    rows = conn.execute(
        select(*RequestRow.__table__.c)
        .where(RequestRow.subscriber_id == subscriber_id)
        .order_by(RequestRow.id)
    )
    return [dict(row._mapping) for row in rows]
