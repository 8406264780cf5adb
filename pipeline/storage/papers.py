"""Papers as they stand: reading them by id, by day and by batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any

from sqlalchemy import Connection, Select, select

from pipeline.domain import Links, Paper
from pipeline.storage import database
from pipeline.storage.database import in_chunks, readable
from pipeline.storage.identity import paper_key
from pipeline.storage.schema import PaperRow, PaperVersionRow

CHUNK = 500


@dataclass(frozen=True, slots=True)
class Upvoted:
    id: int
    upvotes: int
    touched_batch: int


def _query() -> Select[Any]:
    return select(*PaperRow.__table__.c, PaperVersionRow.content).join(
        PaperVersionRow,
        (PaperVersionRow.paper_id == PaperRow.id) & (PaperVersionRow.version == PaperRow.version),
    )


def by_ids(conn: Connection, ids: Iterable[int]) -> dict[int, Paper]:
    """Papers as they stand today; an id that is gone is left out."""
    papers: dict[int, Paper] = {}
    for chunk in in_chunks(sorted(set(ids)), CHUNK):
        papers |= {p.id: p for p in _papers(conn, _query().where(PaperRow.id.in_(chunk)))}
    return papers


def touched_since(conn: Connection, batch: int) -> list[Paper]:
    """Papers that are to be matched under a batch after `batch`."""
    return list(_papers(conn, _query().where(PaperRow.touched_batch > batch)))


def touched_ids(conn: Connection, batch: int) -> list[int]:
    """The same papers by their ids, oldest first."""
    query = select(PaperRow.id).where(PaperRow.touched_batch > batch)
    return list(conn.scalars(query.order_by(PaperRow.id)))


def announced(
    conn: Connection, *, since: date | None = None, through_batch: int, limit: int | None = None
) -> list[Paper]:
    """Visible papers announced on or after `since`, newest first."""
    query = _query().where(PaperRow.batch <= through_batch)
    if since is not None:
        query = query.where(PaperRow.announced_on >= since)
    query = query.order_by(PaperRow.announced_on.desc(), PaperRow.id.desc()).limit(limit)
    return list(_papers(conn, query))


def recent(conn: Connection, *, through_batch: int, limit: int = 2_000) -> list[Paper]:
    """The newest papers, which tell how common a word is."""
    query = _query().where(PaperRow.batch <= through_batch)
    return list(_papers(conn, query.order_by(PaperRow.id.desc()).limit(limit)))


def in_batches(conn: Connection, after: int, through: int) -> list[Paper]:
    """Papers that the batches (after, through] brought."""
    query = _query().where(PaperRow.batch > after, PaperRow.batch <= through)
    return list(_papers(conn, query.order_by(PaperRow.id)))


def most_upvoted(conn: Connection, after: int, through: int, limit: int) -> list[Upvoted]:
    """Papers that the batches (after, through] brought or changed, most upvotes first."""
    rows = conn.execute(
        select(PaperRow.id, PaperRow.upvotes, PaperRow.touched_batch)
        .where(
            PaperRow.touched_batch > after,
            PaperRow.batch <= through,
            PaperRow.upvotes.is_not(None),
        )
        .order_by(PaperRow.upvotes.desc(), PaperRow.id.desc())
        .limit(limit)
    )
    return [Upvoted(row.id, row.upvotes or 0, row.touched_batch) for row in rows]


def touched_batches(conn: Connection, ids: Iterable[int]) -> dict[int, int]:
    """The batch each of these papers was last to be matched under."""
    found: dict[int, int] = {}
    for chunk in in_chunks(ids, CHUNK):
        rows = conn.execute(
            select(PaperRow.id, PaperRow.touched_batch).where(PaperRow.id.in_(chunk))
        )
        found |= {row.id: row.touched_batch for row in rows}
    return found


def unreadable(conn: Connection) -> Iterator[tuple[object, str]]:
    """Papers that cannot be read, and why."""
    ids = conn.scalars(select(PaperRow.id).order_by(PaperRow.id)).all()
    for chunk in in_chunks(ids, CHUNK):
        query = _query().where(PaperRow.id.in_(chunk))
        yield from database.unreadable(
            conn, query, PaperRow.id, lambda row: paper_from(row, row.content)
        )


def _papers(conn: Connection, query: Select[Any]) -> Iterator[Paper]:
    return readable(conn, "paper", query, PaperRow.id, lambda row: paper_from(row, row.content))


def paper_from(row: Any, content: dict[str, Any]) -> Paper:
    """A Paper of a row of `papers` and one version of its words.

    Who announced it and when is part of a version, so that a digest keeps telling it as it did.
    """
    days = [day for day in content["announced"].values() if day]
    return Paper(
        id=row.id,
        key=paper_key(row.arxiv_id, row.doi, row.title_key),
        version=row.version,
        title=content["title"],
        abstract=content["abstract"],
        authors=tuple(content["authors"]),
        author_count=content["author_count"],
        categories=tuple(content["categories"]),
        keywords=tuple(content["keywords"]),
        sources=tuple(sorted(content["announced"])),
        announced_on=date.fromisoformat(min(days)) if days else row.announced_on,
        upvotes=row.upvotes,
        comments=row.comments,
        links=Links(**content["links"]),
        batch=row.batch,
        note=content["note"],
        withdrawn=content["withdrawn"],
    )
