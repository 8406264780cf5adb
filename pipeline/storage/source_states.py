"""State of each source: for operators, and for the next run to resume from."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from pipeline.domain import SourceState
from pipeline.storage import database
from pipeline.storage.database import readable, upsert
from pipeline.storage.schema import SourceStateRow


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


def get(conn: Connection, source: str) -> SourceRecord | None:
    query = select(*SourceStateRow.__table__.c).where(SourceStateRow.source == source)
    return next(readable(conn, "source", query, SourceStateRow.source, _of_row), None)


def listing(conn: Connection) -> list[SourceRecord]:
    query = select(*SourceStateRow.__table__.c).order_by(SourceStateRow.source)
    return list(readable(conn, "source", query, SourceStateRow.source, _of_row))


def unreadable(conn: Connection) -> list[tuple[object, str]]:
    """Return the name and the error of each source with an unreadable state."""
    query = select(*SourceStateRow.__table__.c)
    return database.unreadable(conn, query, SourceStateRow.source, _of_row)


def put(conn: Connection, record: SourceRecord) -> None:
    values = {name: getattr(record, name) for name in SourceRecord.__dataclass_fields__}
    conn.execute(
        upsert(conn, SourceStateRow)
        .values(values)
        .on_conflict_do_update(index_elements=["source"], set_=values)
    )


def _of_row(row: Any) -> SourceRecord:
    return _record(row._asdict())


def _record(values: dict[str, object]) -> SourceRecord:
    return SourceRecord(**values | {"state": SourceState(str(values["state"]))})  # type: ignore[arg-type]
