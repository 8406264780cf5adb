"""Batches: who may write the next one, and the moment readers may see it."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Connection, func, insert, or_, select, update

from pipeline.errors import LeaseLostError
from pipeline.storage.schema import BatchRow, IngestStateRow

ONE_ROW = IngestStateRow.id == 1


def published(conn: Connection) -> int:
    """The newest batch readers may see; 0 before the first."""
    return conn.execute(select(IngestStateRow.published_batch).where(ONE_ROW)).scalar_one()


def take_lease(conn: Connection, *, now: datetime, until: datetime) -> int | None:
    """A fencing token for one ingest run; None while another run holds the lease.

    Whoever held it before finds its token outdated at its next write.
    """
    return conn.execute(
        update(IngestStateRow)
        .where(ONE_ROW, or_(IngestStateRow.lease_until.is_(None), IngestStateRow.lease_until < now))
        .values(token=IngestStateRow.token + 1, lease_until=until)
        .returning(IngestStateRow.token)
    ).scalar_one_or_none()


def hold_lease(conn: Connection, token: int, *, until: datetime) -> None:
    """Renew the lease, and lock its row for the rest of this transaction.

    Every transaction of an ingest run calls this first: a run that was taken for dead and wakes
    up writes nothing. Raises LeaseLostError.
    """
    held = conn.execute(
        update(IngestStateRow)
        .where(ONE_ROW, IngestStateRow.token == token, IngestStateRow.lease_until.is_not(None))
        .values(lease_until=until)
    )
    if held.rowcount != 1:
        raise LeaseLostError("another ingest run has taken over")


def release_lease(conn: Connection, token: int) -> None:
    """Let the next run start at once; nothing happens when the lease is not ours any more."""
    conn.execute(
        update(IngestStateRow)
        .where(ONE_ROW, IngestStateRow.token == token)
        .values(lease_until=None)
    )


def publish(
    conn: Connection, number: int, *, token: int, papers: int, matches: int, now: datetime
) -> None:
    """Make batch `number` visible. Raises LeaseLostError when that is no longer ours to do."""
    won = conn.execute(
        update(IngestStateRow)
        .where(
            ONE_ROW,
            IngestStateRow.published_batch == number - 1,
            IngestStateRow.token == token,
        )
        .values(published_batch=number)
    )
    if won.rowcount != 1:
        raise LeaseLostError(f"batch {number} was published by another run")
    conn.execute(
        insert(BatchRow).values(number=number, published_at=now, papers=papers, matches=matches)
    )


def last_before(conn: Connection, moment: datetime) -> int:
    """The newest batch that was already visible at `moment`; 0 when there was none."""
    newest = select(func.max(BatchRow.number)).where(BatchRow.published_at <= moment)
    return conn.execute(newest).scalar_one() or 0


def look_back(conn: Connection, now: datetime, *, days: int) -> int:
    """The cursor of a reader who is to get everything of the last `days` days."""
    return last_before(conn, now - timedelta(days=days))
