"""Batches of papers: the lease of the ingest run that writes the next one, and publication."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Connection, func, insert, or_, select, update

from pipeline.errors import LeaseLostError
from pipeline.storage.schema import BatchRow, IngestStateRow

ONE_ROW = IngestStateRow.id == 1


def published(conn: Connection) -> int:
    """Return the number of the newest published batch; 0 before the first."""
    return conn.execute(select(IngestStateRow.published_batch).where(ONE_ROW)).scalar_one()


def take_lease(conn: Connection, *, now: datetime, until: datetime) -> int | None:
    """Return a fencing token for one ingest run; None if another run holds the lease.

    The token of the previous run becomes invalid: its next write raises LeaseLostError.
    """
    return conn.execute(
        update(IngestStateRow)
        .where(ONE_ROW, or_(IngestStateRow.lease_until.is_(None), IngestStateRow.lease_until < now))
        .values(token=IngestStateRow.token + 1, lease_until=until)
        .returning(IngestStateRow.token)
    ).scalar_one_or_none()


def hold_lease(conn: Connection, token: int, *, until: datetime) -> None:
    """Renew the lease, and lock its row for the rest of this transaction.

    Every transaction of an ingest run calls this first, so that a run that was presumed dead and
    resumes writes nothing. Raises LeaseLostError if the token is outdated or the lease released.
    """
    held = conn.execute(
        update(IngestStateRow)
        .where(ONE_ROW, IngestStateRow.token == token, IngestStateRow.lease_until.is_not(None))
        .values(lease_until=until)
    )
    if held.rowcount != 1:
        raise LeaseLostError("another ingest run has taken over")


def release_lease(conn: Connection, token: int) -> None:
    """Release the lease, so that the next run may start at once; no-op if the lease was lost."""
    conn.execute(
        update(IngestStateRow)
        .where(ONE_ROW, IngestStateRow.token == token)
        .values(lease_until=None)
    )


def publish(
    conn: Connection, number: int, *, token: int, papers: int, matches: int, now: datetime
) -> None:
    """Publish batch `number`: make its papers visible, and record its counts.

    Raises LeaseLostError if the token is outdated or `number` is not the next batch.
    """
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
    """Return the number of the newest batch published at or before `moment`; 0 if none was."""
    newest = select(func.max(BatchRow.number)).where(BatchRow.published_at <= moment)
    return conn.execute(newest).scalar_one() or 0


def look_back(conn: Connection, now: datetime, *, days: int) -> int:
    """Return the cursor for a reader that is to get all batches of the last `days` days."""
    return last_before(conn, now - timedelta(days=days))
