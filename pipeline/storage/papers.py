"""Queries for papers in their current version: by id, key, date and batch."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Select, and_, delete, exists, func, or_, select, update

from pipeline.domain import Links, Paper
from pipeline.storage import database, ingest_state
from pipeline.storage.database import in_chunks, readable
from pipeline.storage.dedup import paper_key
from pipeline.storage.schema import (
    BatchRow,
    PaperRow,
    PaperVersionRow,
    PickRow,
    ReactionRow,
    SightingRow,
)

CHUNK = 500
LOOK_UP_FOR: Final = timedelta(days=14)  # after the announcement of a paper
LOOK_UP_EVERY: Final = timedelta(hours=20)  # arXiv's API is refreshed once a day


@dataclass(frozen=True, slots=True)
class Upvoted:
    id: int
    upvotes: int
    touched_batch: int


_IS_CURRENT: Final = (PaperVersionRow.paper_id == PaperRow.id) & (
    PaperVersionRow.version == PaperRow.version
)


def _query() -> Select[Any]:
    return select(*PaperRow.__table__.c, PaperVersionRow.content).join(PaperVersionRow, _IS_CURRENT)


def by_ids(conn: Connection, ids: Iterable[int]) -> dict[int, Paper]:
    """Return papers in their current version, by id; missing ids are left out."""
    papers: dict[int, Paper] = {}
    for chunk in in_chunks(sorted(set(ids)), CHUNK):
        papers |= {p.id: p for p in _papers(conn, _query().where(PaperRow.id.in_(chunk)))}
    return papers


def touched_since(conn: Connection, batch: int) -> list[Paper]:
    """Return the papers to be matched in a batch after `batch`."""
    return list(_papers(conn, _query().where(PaperRow.touched_batch > batch)))


def touched_ids(conn: Connection, batch: int) -> list[int]:
    """Return the ids of the papers in `touched_since`, oldest first."""
    query = select(PaperRow.id).where(PaperRow.touched_batch > batch)
    return list(conn.scalars(query.order_by(PaperRow.id)))


def announced(
    conn: Connection,
    *,
    since: date | None = None,
    through_batch: int,
    before: Paper | None = None,
    limit: int | None = None,
) -> list[Paper]:
    """Return papers up to batch `through_batch`, newest announcement first.

    If `since` is given, only papers announced on or after it are returned; of several with the day
    of `before`, only those with a lower id.
    """
    query = _query().where(PaperRow.batch <= through_batch)
    if since is not None:
        query = query.where(PaperRow.announced_on >= since)
    if before is not None:
        # Both conditions say the same; only the first one can use the index.
        row = select(PaperRow.announced_on).where(PaperRow.id == before.id).scalar_subquery()
        query = query.where(PaperRow.announced_on <= row)
        query = query.where(or_(PaperRow.announced_on < row, PaperRow.id < before.id))
    query = query.order_by(PaperRow.announced_on.desc(), PaperRow.id.desc()).limit(limit)
    return list(_papers(conn, query))


def recent(conn: Connection, *, through_batch: int, limit: int = 2_000) -> list[Paper]:
    """Return the newest papers, from which word frequencies are computed."""
    query = _query().where(PaperRow.batch <= through_batch)
    return list(_papers(conn, query.order_by(PaperRow.id.desc()).limit(limit)))


def in_batches(conn: Connection, after: int, through: int) -> list[Paper]:
    """Return the papers added by the batches (after, through]."""
    query = _query().where(PaperRow.batch > after, PaperRow.batch <= through)
    return list(_papers(conn, query.order_by(PaperRow.id)))


def most_upvoted(
    conn: Connection, after: int, through: int, limit: int, *, oldest: int
) -> list[Upvoted]:
    """Return papers that were touched after batch `after`, most upvotes first.

    Papers added up to batch `oldest` or after `through`, and papers without a count of upvotes, are
    left out.
    """
    rows = conn.execute(
        select(PaperRow.id, PaperRow.upvotes, PaperRow.touched_batch)
        .where(
            PaperRow.touched_batch > after,
            PaperRow.batch > oldest,
            PaperRow.batch <= through,
            PaperRow.upvotes.is_not(None),
        )
        .order_by(PaperRow.upvotes.desc(), PaperRow.id.desc())
        .limit(limit)
    )
    return [Upvoted(row.id, row.upvotes or 0, row.touched_batch) for row in rows]


def touched_batches(conn: Connection, ids: Iterable[int]) -> dict[int, int]:
    """Return the batch in which each paper was last to be matched, by paper id."""
    found: dict[int, int] = {}
    for chunk in in_chunks(ids, CHUNK):
        rows = conn.execute(
            select(PaperRow.id, PaperRow.touched_batch).where(PaperRow.id.in_(chunk))
        )
        found |= {row.id: row.touched_batch for row in rows}
    return found


def missing_from(conn: Connection, source: str, *, now: datetime, limit: int) -> list[str]:
    """Return the arXiv ids of the newest papers that `source` has not announced.

    Left out are papers announced before `LOOK_UP_FOR` and those looked up within `LOOK_UP_EVERY`.
    """
    announced = exists().where(SightingRow.paper_id == PaperRow.id, SightingRow.source == source)
    query = (
        select(PaperRow.arxiv_id)
        .where(
            PaperRow.arxiv_id.is_not(None),
            PaperRow.announced_on >= (now - LOOK_UP_FOR).date(),
            or_(PaperRow.looked_up_at.is_(None), PaperRow.looked_up_at <= now - LOOK_UP_EVERY),
            ~announced,
        )
        .order_by(PaperRow.id.desc())
        .limit(limit)
    )
    return [arxiv_id for arxiv_id in conn.scalars(query) if arxiv_id]


def mark_looked_up(conn: Connection, arxiv_ids: Sequence[str], now: datetime) -> None:
    conn.execute(update(PaperRow).where(PaperRow.arxiv_id.in_(arxiv_ids)).values(looked_up_at=now))


def terms_of(conn: Connection, ids: Iterable[int]) -> dict[int, bytes]:
    """Return the stored terms of the current versions, by id; see `matching.profile.Terms`."""
    found: dict[int, bytes] = {}
    for chunk in in_chunks(sorted(set(ids)), CHUNK):
        rows = conn.execute(
            select(PaperRow.id, PaperVersionRow.terms)
            .join(PaperVersionRow, _IS_CURRENT)
            .where(PaperRow.id.in_(chunk), PaperVersionRow.terms.is_not(None))
        )
        found |= {row.id: row.terms for row in rows}
    return found


def without_terms(conn: Connection, *, after_batch: int, limit: int) -> list[int]:
    """Return the ids of papers touched by a batch after `after_batch`, newest first.

    Only those whose current version has no stored terms.
    """
    query = select(PaperRow.id).join(PaperVersionRow, _IS_CURRENT)
    query = query.where(PaperRow.touched_batch > after_batch, PaperVersionRow.terms.is_(None))
    return list(conn.scalars(query.order_by(PaperRow.id.desc()).limit(limit)))


def store_terms(conn: Connection, terms: Mapping[tuple[int, int], bytes]) -> None:
    """Store the terms of papers by (id, version); a version that is gone is ignored."""
    for (id_, version), dumped in sorted(terms.items()):
        conn.execute(
            update(PaperVersionRow)
            .where(PaperVersionRow.paper_id == id_, PaperVersionRow.version == version)
            .values(terms=dumped)
        )


def unreadable(conn: Connection) -> Iterator[tuple[object, str]]:
    """Yield the id and the error of each paper with unreadable content."""
    ids = conn.scalars(select(PaperRow.id).order_by(PaperRow.id)).all()
    for chunk in in_chunks(ids, CHUNK):
        query = _query().where(PaperRow.id.in_(chunk))
        yield from database.unreadable(
            conn, query, PaperRow.id, lambda row: paper_from(row, row.content)
        )


def _papers(conn: Connection, query: Select[Any]) -> Iterator[Paper]:
    return readable(conn, "paper", query, PaperRow.id, lambda row: paper_from(row, row.content))


def paper_from(row: Any, content: dict[str, Any]) -> Paper:
    """Convert a row of `papers` and the content of one of its versions.

    Sources and announcement dates are part of the version, so they do not change in old digests.
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
        stars=row.stars,
        links=Links(**content["links"]),
        batch=row.batch,
        note=content["note"],
        withdrawn=content["withdrawn"],
        organization=content.get("organization", ""),
    )


def delete_old(conn: Connection, *, before: datetime, limit: int) -> int:
    """Delete at most `limit` papers that no source has brought since `before`; return how many.

    Kept are papers in a stored digest, papers with a reaction, and the newest paper, whose id
    SQLite would use again. Versions, sightings and matches are deleted with their paper.
    """
    is_over = and_(
        PaperRow.touched_batch <= ingest_state.last_before(conn, before),
        PaperRow.id < select(func.max(PaperRow.id)).scalar_subquery(),
        ~exists().where(PickRow.paper_id == PaperRow.id),
        ~exists().where(ReactionRow.paper_id == PaperRow.id),
    )
    found = select(PaperRow.id).where(is_over).limit(limit)
    ids = conn.execute(found.with_for_update(skip_locked=True)).scalars().all()
    # Check again under the lock: a digest or a reaction may have been added before it.
    return conn.execute(delete(PaperRow).where(PaperRow.id.in_(ids), is_over)).rowcount


_ROW_ID = re.compile(r"id:([0-9]{1,15})")
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

    A key is "doi:" with a DOI, "title:" with the beginning of a hash, "id:" with the id of a row,
    or an arXiv id, with or without "arxiv:" and a version. The DOI, "doi:", "arxiv:" and the "v"
    match in any case.
    """
    name = key.strip()
    if "\x00" in name:  # PostgreSQL rejects a parameter with NUL
        return None
    if name.lower().startswith("doi:"):
        wanted = PaperRow.doi == name[4:].lower()
    elif row_id := _ROW_ID.fullmatch(name):
        wanted = PaperRow.id == int(row_id[1])
    elif name.startswith("title:"):
        # The key contains the beginning of the hash; the range condition can use the index.
        digest = name[6:]
        wanted = PaperRow.title_key.between(digest, digest + "~") & PaperRow.arxiv_id.is_(None)
        wanted &= PaperRow.doi.is_(None)
    else:
        bare = _ARXIV_VERSION.sub("", _ARXIV_PREFIX.sub("", name))
        wanted = PaperRow.arxiv_id == bare
    visible = PaperRow.batch <= ingest_state.published_batch(conn)
    found = conn.execute(
        select(PaperRow.id).where(wanted, visible).order_by(PaperRow.id).limit(1)
    ).scalar()
    return by_ids(conn, [found]).get(found) if found is not None else None


def identified(
    conn: Connection,
    *,
    arxiv_ids: Sequence[str] = (),
    dois: Sequence[str] = (),
    title_keys: Sequence[str] = (),
) -> dict[str, Paper]:
    """Return visible papers by arXiv id, by DOI and by `title_key`, whichever finds them.

    A title that several papers have finds none.
    """
    published = ingest_state.published_batch(conn)
    found: dict[str, list[int]] = defaultdict(list)
    columns: list[tuple[Any, Sequence[str]]] = [
        (PaperRow.arxiv_id, arxiv_ids),
        (PaperRow.doi, dois),
        (PaperRow.title_key, title_keys),
    ]
    for column, names in columns:
        for chunk in in_chunks(sorted(set(names)), CHUNK):
            wanted = select(column, PaperRow.id).where(column.in_(chunk))
            for name, id_ in conn.execute(wanted.where(PaperRow.batch <= published)):
                found[name].append(id_)
    only = {name: ids[0] for name, ids in found.items() if len(ids) == 1}
    by_id = by_ids(conn, only.values())
    return {name: by_id[id_] for name, id_ in only.items() if id_ in by_id}


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
