"""Refusals because of failed authentication (SPF, DKIM, DMARC), counted within a time window."""

from __future__ import annotations

from datetime import date, datetime, timedelta

from sqlalchemy import Connection, delete, func, insert, select

from pipeline.storage.schema import DistrustRow


def record(
    conn: Connection,
    edition_on: date | None,
    subscriber_id: int,
    now: datetime,
    *,
    keep: timedelta,
) -> None:
    """Record one refusal, and delete those older than `keep`."""
    conn.execute(delete(DistrustRow).where(DistrustRow.at < now - keep))
    conn.execute(
        insert(DistrustRow).values(edition_on=edition_on, subscriber_id=subscriber_id, at=now)
    )


def count(conn: Connection, edition_on: date, *, since: datetime) -> tuple[int, int]:
    """Return (refusals, distinct recipients) of an edition after `since`."""
    refusals, recipients = conn.execute(
        select(func.count(), func.count(DistrustRow.subscriber_id.distinct())).where(
            DistrustRow.edition_on == edition_on, DistrustRow.at > since
        )
    ).one()
    return refusals, recipients
