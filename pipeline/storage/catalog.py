"""Queries of the site for papers: short listings, lookup by key, and the sources of a paper."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime

from sqlalchemy import Connection, select

from pipeline.domain import Paper
from pipeline.storage import batches, papers
from pipeline.storage.database import in_chunks
from pipeline.storage.identity import paper_key
from pipeline.storage.schema import BatchRow, PaperRow, SightingRow

CHUNK = 500
_ARXIV_PREFIX = re.compile(r"^arxiv:", re.IGNORECASE)
_ARXIV_VERSION = re.compile(r"(?<=\d)v\d+$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Listed:
    """A visible paper with only the fields to filter and sort by."""

    id: int
    version: int
    upvotes: int
    days: tuple[date, ...]  # when sources announced it, the earliest first; never empty


@dataclass(frozen=True, slots=True)
class Seen:
    """One source's announcement of a paper, with its current counts."""

    source: str
    source_id: str
    announced_on: date | None
    upvotes: int | None
    comments: int | None


def listed(conn: Connection, *, through_batch: int, limit: int) -> list[Listed]:
    """Return the `limit` newest papers of batches up to `through_batch`, oldest first."""
    newest = (
        select(PaperRow.id, PaperRow.version, PaperRow.upvotes, PaperRow.announced_on)
        .where(PaperRow.batch <= through_batch)
        .order_by(PaperRow.id.desc())
        .limit(limit)
    )
    rows = conn.execute(newest).all()
    days = _days(conn, since_id=rows[-1].id) if rows else {}
    return [
        Listed(row.id, row.version, row.upvotes or 0, days.get(row.id) or (row.announced_on,))
        for row in reversed(rows)
    ]


def _days(conn: Connection, *, since_id: int) -> dict[int, tuple[date, ...]]:
    days: dict[int, tuple[date, ...]] = {}
    rows = conn.execute(
        select(SightingRow.paper_id, SightingRow.announced_on)
        .where(SightingRow.paper_id >= since_id)
        .order_by(SightingRow.announced_on)
    )
    for paper_id, day in rows:
        if day is not None:
            days[paper_id] = (*days.get(paper_id, ()), day)
    return days


def by_key(conn: Connection, key: str) -> Paper | None:
    """Return the visible paper with this key, or None.

    A key is "doi:" with a DOI, "title:" with the beginning of a hash, or an arXiv id, with or
    without "arxiv:" and a version. The DOI, "doi:", "arxiv:" and the "v" match in any case.
    """
    name = key.strip()
    if "\x00" in name:  # PostgreSQL rejects a parameter with NUL
        return None
    if name.lower().startswith("doi:"):
        wanted = PaperRow.doi == name[4:].lower()
    elif name.startswith("title:"):
        # The key contains the beginning of the hash; the range condition can use the index.
        digest = name[6:]
        wanted = PaperRow.title_key.between(digest, digest + "~") & PaperRow.arxiv_id.is_(None)
        wanted &= PaperRow.doi.is_(None)
    else:
        bare = _ARXIV_VERSION.sub("", _ARXIV_PREFIX.sub("", name))
        wanted = PaperRow.arxiv_id == bare
    visible = PaperRow.batch <= batches.published(conn)
    found = conn.execute(
        select(PaperRow.id).where(wanted, visible).order_by(PaperRow.id).limit(1)
    ).scalar()
    return papers.by_ids(conn, [found]).get(found) if found is not None else None


def newest_keys(conn: Connection, *, through_batch: int, limit: int) -> list[str]:
    """Return the keys of the `limit` newest visible papers, newest first."""
    rows = conn.execute(
        select(PaperRow.arxiv_id, PaperRow.doi, PaperRow.title_key)
        .where(PaperRow.batch <= through_batch)
        .order_by(PaperRow.id.desc())
        .limit(limit)
    )
    return [paper_key(row.arxiv_id, row.doi, row.title_key) for row in rows]


def sightings_of(conn: Connection, paper_ids: Iterable[int]) -> dict[int, tuple[Seen, ...]]:
    """Return the announcements of each paper, earliest first; unknown days come last.

    Papers without one are left out.
    """
    found: defaultdict[int, list[Seen]] = defaultdict(list)
    for chunk in in_chunks(paper_ids, CHUNK):
        for row in conn.execute(select(*SightingRow.__table__.c).where(
            SightingRow.paper_id.in_(chunk)
        )):  # fmt: skip
            found[row.paper_id].append(
                Seen(row.source, row.source_id, row.announced_on, row.upvotes, row.comments)
            )
    return {id_: tuple(sorted(seen, key=_when)) for id_, seen in found.items()}


def _when(seen: Seen) -> tuple[date, str]:
    return seen.announced_on or date.max, seen.source


def published_at(conn: Connection, batch: int) -> datetime | None:
    """Return when a batch was published; None if it never was."""
    return conn.execute(select(BatchRow.published_at).where(BatchRow.number == batch)).scalar()
