"""State of ingest: the batches of papers and their lease, HTTP validators, and each source."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, func, insert, or_, select, update

from pipeline.domain import Frequency, SourceState
from pipeline.errors import LeaseLostError
from pipeline.storage import database
from pipeline.storage.database import readable, upsert
from pipeline.storage.schema import BatchRow, HTTPValidatorRow, IngestStateRow, SourceStateRow

ONE_ROW = IngestStateRow.id == 1
LOOK_UP: Final = "arxiv-look-up"  # row of `source_states` with the time before the next look-up


def published_batch(conn: Connection) -> int:
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


def publish_batch(
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


def published_at(conn: Connection, batches: Collection[int]) -> dict[int, datetime]:
    """Return the time at which each of these batches was published; unknown ones are left out."""
    query = select(BatchRow.number, BatchRow.published_at).where(BatchRow.number.in_(batches))
    return {row.number: row.published_at for row in conn.execute(query)}


GAP_DAYS: Final = {Frequency.DAILY: 7, Frequency.WEEKDAYS: 7, Frequency.WEEKLY: 14}
"""Days of papers that a digest covers at most after a pause or an undone unsubscription."""


def look_back(conn: Connection, now: datetime, *, days: int) -> int:
    """Return the cursor for a reader that is to get all batches of the last `days` days."""
    return last_before(conn, now - timedelta(days=days))


def http_validator(conn: Connection, url: str) -> tuple[str | None, str | None] | None:
    """Return (etag, last_modified) of the last stored response; None if there is none."""
    row = conn.execute(
        select(HTTPValidatorRow.etag, HTTPValidatorRow.last_modified).where(
            HTTPValidatorRow.url == url
        )
    ).one_or_none()
    return None if row is None else (row.etag, row.last_modified)


def put_http_validator(
    conn: Connection, url: str, etag: str | None, last_modified: str | None, now: datetime
) -> None:
    values = {"url": url, "etag": etag, "last_modified": last_modified, "stored_at": now}
    conn.execute(
        upsert(conn, HTTPValidatorRow)
        .values(values)
        .on_conflict_do_update(index_elements=["url"], set_=values)
    )


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """The state of one source; a time is None until the event has happened once."""

    source: str
    state: SourceState
    since: datetime
    checked_at: datetime
    read_at: datetime | None = None
    news_at: datetime | None = None
    cursor: str | None = None
    error: str | None = None
    failures: int = 0
    next_try_at: datetime | None = None


def source_state(conn: Connection, source: str) -> SourceRecord | None:
    query = select(*SourceStateRow.__table__.c).where(SourceStateRow.source == source)
    return next(readable(conn, "source", query, SourceStateRow.source, _source_of_row), None)


def list_source_states(conn: Connection) -> list[SourceRecord]:
    """Return the states of the sources by name; `LOOK_UP` is none of them."""
    query = select(*SourceStateRow.__table__.c).where(SourceStateRow.source != LOOK_UP)
    query = query.order_by(SourceStateRow.source)
    return list(readable(conn, "source", query, SourceStateRow.source, _source_of_row))


def unreadable_source_states(conn: Connection) -> list[tuple[object, str]]:
    """Return the name and the error of each source with an unreadable state."""
    query = select(*SourceStateRow.__table__.c)
    return database.unreadable(conn, query, SourceStateRow.source, _source_of_row)


def put_source_state(conn: Connection, record: SourceRecord) -> None:
    values = {name: getattr(record, name) for name in SourceRecord.__dataclass_fields__}
    conn.execute(
        upsert(conn, SourceStateRow)
        .values(values)
        .on_conflict_do_update(index_elements=["source"], set_=values)
    )


def _source_of_row(row: Any) -> SourceRecord:
    return _source_record(row._asdict())


def _source_record(values: dict[str, object]) -> SourceRecord:
    return SourceRecord(**values | {"state": SourceState(str(values["state"]))})  # type: ignore[arg-type]
