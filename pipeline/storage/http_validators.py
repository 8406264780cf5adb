"""HTTP cache validators (ETag and Last-Modified) by URL, for conditional requests."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, select

from pipeline.storage.database import upsert
from pipeline.storage.schema import HTTPValidatorRow


def get(conn: Connection, url: str) -> tuple[str | None, str | None] | None:
    """Return (etag, last_modified) of the last stored response; None if there is none."""
    row = conn.execute(
        select(HTTPValidatorRow.etag, HTTPValidatorRow.last_modified).where(
            HTTPValidatorRow.url == url
        )
    ).one_or_none()
    return None if row is None else (row.etag, row.last_modified)


def put(
    conn: Connection, url: str, etag: str | None, last_modified: str | None, now: datetime
) -> None:
    values = {"url": url, "etag": etag, "last_modified": last_modified, "stored_at": now}
    conn.execute(
        upsert(conn, HTTPValidatorRow)
        .values(values)
        .on_conflict_do_update(index_elements=["url"], set_=values)
    )
