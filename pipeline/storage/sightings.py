"""Store sightings and deduplicate them into papers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, delete, exists, func, insert, or_, select, update

from pipeline.domain import DeliveryStatus, Sighting
from pipeline.storage import ingest_state, topics
from pipeline.storage.database import in_chunks, upsert
from pipeline.storage.dedup import (
    KnownPaper,
    author_key,
    content_of,
    merged,
    same_work,
    title_key,
    with_arxiv_id,
)
from pipeline.storage.schema import (
    LONGEST_SOURCE_ID,
    DeliveryRow,
    MatchRow,
    PaperRow,
    PaperVersionRow,
    PickRow,
    ReactionRow,
    SightingRow,
    bounded,
)

CHUNK = 500


@dataclass(frozen=True, slots=True)
class StoreCounts:
    """Number of rows changed by storing sightings."""

    sightings: int = 0
    new: int = 0  # papers that were not stored before
    touched: int = 0  # new papers, and known ones to be matched again

    def __add__(self, other: StoreCounts) -> StoreCounts:
        return StoreCounts(
            self.sightings + other.sightings, self.new + other.new, self.touched + other.touched
        )


def store(
    conn: Connection, sightings: Iterable[Sighting], *, batch: int, now: datetime
) -> StoreCounts:
    """Merge sightings into papers of the next batch, which is invisible until it is published.

    The caller must hold the ingest lease: no other process writes papers. Idempotent: storing a
    sighting again only updates the time it was last seen.
    """
    total = StoreCounts()
    for chunk in in_chunks(map(with_arxiv_id, sightings), CHUNK):
        counts = _Chunk(conn, chunk, batch=batch, now=now).store()
        total = total + counts
    return total


class _Chunk:
    """A chunk of sightings and, in memory, the stored papers that they may announce."""

    def __init__(
        self, conn: Connection, sightings: Sequence[Sighting], *, batch: int, now: datetime
    ) -> None:
        self.conn, self.sightings, self.batch, self.now = conn, sightings, batch, now
        self.by_id: dict[int, KnownPaper] = {}
        self.by_arxiv: dict[str, KnownPaper] = {}
        self.by_doi: dict[str, KnownPaper] = {}
        self.by_title: defaultdict[str, list[KnownPaper]] = defaultdict(list)
        self.seen: dict[tuple[str, str], int] = {}  # sighting -> paper id
        self.new: set[int] = set()
        self.changed: set[int] = set()  # papers to write back
        self.stored: dict[int, dict[str, Any]] = {}  # the stored content of each paper
        self._load()

    def store(self) -> StoreCounts:
        rows = [row for sighting in self.sightings if (row := self._place(sighting))]
        self._write_papers()
        self._write_sightings(rows)
        announced = {self.seen[row["source"], row["source_id"]] for row in rows}
        # Also count papers touched in this batch by a crashed run or by another source.
        touched = [i for i in announced if self.by_id[i].touched_batch == self.batch]
        return StoreCounts(len(self.sightings), len(self.new), len(touched))

    def _load(self) -> None:
        keys = {_sighting_key(s) for s in self.sightings}
        for source in {source for source, _ in keys}:
            ids = [source_id for name, source_id in keys if name == source]
            rows = self.conn.execute(
                select(SightingRow.source_id, SightingRow.paper_id).where(
                    SightingRow.source == source, SightingRow.source_id.in_(ids)
                )
            )
            self.seen |= {(source, row.source_id): row.paper_id for row in rows}
        columns: list[tuple[Any, set[Any]]] = [
            (PaperRow.id, set(self.seen.values())),
            (PaperRow.arxiv_id, {s.arxiv_id for s in self.sightings if s.arxiv_id}),
            (PaperRow.doi, {s.doi for s in self.sightings if s.doi}),
            (PaperRow.title_key, {title_key(s.title) for s in self.sightings}),
        ]
        for column, values in columns:
            query = select(*PaperRow.__table__.c, PaperVersionRow.content).join(
                PaperVersionRow,
                (PaperVersionRow.paper_id == PaperRow.id)
                & (PaperVersionRow.version == PaperRow.version),
            )
            # Locked against deletion by the purge until they are written back.
            kept = query.with_for_update(key_share=True, read=True, of=PaperRow)
            for row in self.conn.execute(kept.where(column.in_(values))):
                if row.id not in self.by_id:
                    self._remember(_known_paper(row))
                    self.stored[row.id] = row.content
        for paper_id, source in self.conn.execute(
            select(SightingRow.paper_id, SightingRow.source).where(
                SightingRow.paper_id.in_(self.by_id)
            )
        ):
            self.by_id[paper_id].sources.add(source)

    def _remember(self, paper: KnownPaper) -> None:
        self.by_id[paper.id] = paper
        if paper.arxiv_id:
            self.by_arxiv[paper.arxiv_id] = paper
        if paper.doi:
            self.by_doi[paper.doi] = paper
        self.by_title[paper.title_key].append(paper)

    def _forget(self, paper: KnownPaper) -> None:
        del self.by_id[paper.id]
        self.by_title[paper.title_key].remove(paper)
        self.changed.discard(paper.id)
        self.new.discard(paper.id)

    def _place(self, sighting: Sighting) -> dict[str, Any] | None:
        """Find, create or merge the paper of a sighting, and return the sighting's row.

        Returns None if the paper is not stored and the sighting is an update or a withdrawal only.
        """
        papers = self._find(sighting)
        if not papers:
            if sighting.update_only or sighting.withdrawn:
                return None
            paper = self._create(sighting)
        else:
            paper = papers[0]
            for other in papers[1:]:
                self._merge_into(paper, other)
            self._apply(paper, sighting)
        source, source_id = _sighting_key(sighting)
        self.seen[source, source_id] = paper.id
        return {
            "source": source,
            "source_id": source_id,
            "paper_id": paper.id,
            "announced_on": sighting.announced_on,
            "upvotes": sighting.upvotes,
            "comments": sighting.comments,
            "first_seen_at": self.now,
            "last_seen_at": self.now,
        }

    def _find(self, sighting: Sighting) -> list[KnownPaper]:
        seen = self.by_id.get(self.seen.get(_sighting_key(sighting), 0))
        candidates = [
            paper
            for paper in (
                seen,
                self.by_arxiv.get(sighting.arxiv_id or ""),
                self.by_doi.get(sighting.doi or ""),
                *self.by_title[title_key(sighting.title)],
            )
            if paper is not None
        ]
        return same_work(sighting, list({p.id: p for p in candidates}.values()), seen)

    def _create(self, sighting: Sighting) -> KnownPaper:
        row: dict[str, Any] = {
            "arxiv_id": sighting.arxiv_id,
            # A DOI is unique: a second work that claims it is stored without one.
            "doi": None if sighting.doi in self.by_doi else sighting.doi,
            "title_key": title_key(sighting.title),
            "author_key": author_key(sighting.authors),
            "version": 1,
            "upvotes": sighting.upvotes,
            "comments": sighting.comments,
            "stars": sighting.stars,
            "announced_on": sighting.announced_on or self.now.date(),
            "batch": self.batch,
            "touched_batch": self.batch,
        }
        paper_id = self.conn.execute(
            insert(PaperRow)
            .values(**row, published_at=sighting.published_at, created_at=self.now)
            .returning(PaperRow.id)
        ).scalar_one()
        content = content_of(sighting)
        self.conn.execute(
            insert(PaperVersionRow).values(paper_id=paper_id, version=1, content=content)
        )
        paper = KnownPaper(id=paper_id, content=content, sources={sighting.source}, **row)
        self._remember(paper)
        self.stored[paper_id] = content
        self.new.add(paper_id)
        return paper

    def _apply(self, paper: KnownPaper, sighting: Sighting) -> None:
        content = merged(paper.content, content_of(sighting))
        gained = (
            sighting.source not in paper.sources
            or set(content["categories"]) > set(paper.content["categories"])
            or set(content["keywords"]) > set(paper.content["keywords"])
        )
        before = _columns(paper)
        if gained:
            paper.touched_batch = self.batch
        paper.sources.add(sighting.source)
        paper.upvotes = paper.upvotes if sighting.upvotes is None else sighting.upvotes
        paper.comments = paper.comments if sighting.comments is None else sighting.comments
        paper.stars = paper.stars if sighting.stars is None else sighting.stars
        paper.announced_on = min(paper.announced_on, sighting.announced_on or paper.announced_on)
        paper.author_key = paper.author_key or author_key(sighting.authors)
        self._learn_ids(paper, sighting)
        if content != paper.content:
            paper.content = content
            self.changed.add(paper.id)
        if before != _columns(paper):
            self.changed.add(paper.id)

    def _learn_ids(self, paper: KnownPaper, sighting: Sighting) -> None:
        if sighting.arxiv_id and not paper.arxiv_id:
            paper.arxiv_id = sighting.arxiv_id
            self.by_arxiv[sighting.arxiv_id] = paper
        if sighting.doi and not paper.doi and sighting.doi not in self.by_doi:
            paper.doi = sighting.doi
            self.by_doi[sighting.doi] = paper

    def _merge_into(self, paper: KnownPaper, duplicate: KnownPaper) -> None:
        """Merge `duplicate` into `paper`, because both are the same work, and delete `duplicate`.

        Its sightings, matches, picks and reactions move to `paper`: readers that were sent one of
        the two are not sent the work again, and queued digests with one still contain it.
        """
        conn = self.conn
        conn.execute(
            update(SightingRow)
            .where(SightingRow.paper_id == duplicate.id)
            .values(paper_id=paper.id)
        )
        conn.execute(
            update(ReactionRow)
            .where(ReactionRow.paper_id == duplicate.id)
            .values(paper_id=paper.id)
        )
        self._delete_late_matches(paper, duplicate)
        self._merge_matches(paper.id, duplicate.id)
        self._move_picks(paper, duplicate)
        conn.execute(delete(PaperRow).where(PaperRow.id == duplicate.id))
        paper.content = merged(paper.content, duplicate.content)
        paper.sources |= duplicate.sources
        paper.upvotes = duplicate.upvotes if paper.upvotes is None else paper.upvotes
        paper.comments = duplicate.comments if paper.comments is None else paper.comments
        paper.stars = duplicate.stars if paper.stars is None else paper.stars
        paper.announced_on = min(paper.announced_on, duplicate.announced_on)
        paper.author_key = paper.author_key or duplicate.author_key
        paper.doi = paper.doi or duplicate.doi
        paper.arxiv_id = paper.arxiv_id or duplicate.arxiv_id
        paper.batch = min(paper.batch, duplicate.batch)
        paper.touched_batch = self.batch
        self._forget(duplicate)
        for index in (self.by_arxiv, self.by_doi):
            for key in [key for key, indexed in index.items() if indexed is duplicate]:
                index[key] = paper
        self.seen = {key: paper.id if i == duplicate.id else i for key, i in self.seen.items()}
        self.changed.add(paper.id)

    def _delete_late_matches(self, *same: KnownPaper) -> None:
        """Delete the matches of the newer paper if the older one is not matched any more.

        The matches of the older one may be deleted, see `topics.MATCHED_FOR`: with new ones, the
        work would be sent a second time.
        """
        older, newer = sorted(same, key=lambda paper: paper.batch)
        if older.batch <= ingest_state.look_back(self.conn, self.now, days=topics.MATCHED_FOR):
            self.conn.execute(delete(MatchRow).where(MatchRow.paper_id == newer.id))

    def _merge_matches(self, paper_id: int, other_id: int) -> None:
        """Move matches of `other_id`. If a topic matched both, keep the one of lower breadth.

        If the breadths are equal, keep the one of the earlier batch: readers may have had it. The
        match of lower breadth also reaches readers that the other one was too broad for.
        """
        conn, theirs = self.conn, MatchRow.__table__.alias("theirs")
        is_equal = MatchRow.breadth == theirs.c.breadth
        for loser, winner, is_later in (
            (paper_id, other_id, MatchRow.batch > theirs.c.batch),
            (other_id, paper_id, MatchRow.batch >= theirs.c.batch),
        ):
            conn.execute(
                delete(MatchRow).where(
                    MatchRow.paper_id == loser,
                    exists().where(
                        theirs.c.topic_id == MatchRow.topic_id,
                        theirs.c.paper_id == winner,
                        or_(MatchRow.breadth > theirs.c.breadth, and_(is_equal, is_later)),
                    ),
                )
            )
        conn.execute(
            update(MatchRow).where(MatchRow.paper_id == other_id).values(paper_id=paper_id)
        )

    def _move_picks(self, paper: KnownPaper, duplicate: KnownPaper) -> None:
        """Move picks of `duplicate`, and copy the versions they refer to as versions of `paper`.

        So digests keep the text they were compiled with. A queued digest that contains both papers
        keeps only the pick of `paper`.
        """
        theirs = PickRow.__table__.alias("theirs")
        self.conn.execute(
            delete(PickRow).where(
                PickRow.paper_id == duplicate.id,
                PickRow.delivery_id.in_(
                    select(theirs.c.delivery_id)
                    .join(DeliveryRow, DeliveryRow.id == theirs.c.delivery_id)
                    .where(
                        theirs.c.paper_id == paper.id, DeliveryRow.status == DeliveryStatus.QUEUED
                    )
                ),
            )
        )
        picked = self.conn.execute(
            select(PaperVersionRow.version, PaperVersionRow.content)
            .where(
                PaperVersionRow.paper_id == duplicate.id,
                PaperVersionRow.version.in_(
                    select(PickRow.paper_version).where(PickRow.paper_id == duplicate.id)
                ),
            )
            .order_by(PaperVersionRow.version)
        ).all()
        for row in picked:
            paper.version += 1
            self.conn.execute(
                insert(PaperVersionRow).values(
                    paper_id=paper.id, version=paper.version, content=row.content
                )
            )
            self.conn.execute(
                update(PickRow)
                .where(PickRow.paper_id == duplicate.id, PickRow.paper_version == row.version)
                .values(paper_id=paper.id, paper_version=paper.version)
            )
        if picked:
            self.stored[paper.id] = picked[-1].content

    def _write_papers(self) -> None:
        versions = []
        for paper_id in sorted(self.changed):
            paper = self.by_id[paper_id]
            # If sightings of one chunk differ, only the last content becomes a version.
            if paper.content != self.stored[paper_id]:
                paper.version += 1
                versions.append(
                    {"paper_id": paper_id, "version": paper.version, "content": paper.content}
                )
            self.conn.execute(
                update(PaperRow)
                .where(PaperRow.id == paper_id)
                .values(
                    arxiv_id=paper.arxiv_id,
                    doi=paper.doi,
                    author_key=paper.author_key,
                    version=paper.version,
                    upvotes=paper.upvotes,
                    comments=paper.comments,
                    stars=paper.stars,
                    announced_on=paper.announced_on,
                    batch=paper.batch,
                    touched_batch=paper.touched_batch,
                )
            )
        if versions:
            self.conn.execute(insert(PaperVersionRow), versions)

    def _write_sightings(self, rows: list[dict[str, Any]]) -> None:
        if not rows:
            return
        unique = {(row["source"], row["source_id"]): row for row in rows}
        current = [row | {"paper_id": self.seen[key]} for key, row in unique.items()]
        statement = upsert(self.conn, SightingRow).values(current)
        new = statement.excluded
        self.conn.execute(
            statement.on_conflict_do_update(
                index_elements=["source", "source_id"],
                set_={
                    "paper_id": new.paper_id,
                    "announced_on": func.coalesce(SightingRow.announced_on, new.announced_on),
                    "upvotes": func.coalesce(new.upvotes, SightingRow.upvotes),
                    "comments": func.coalesce(new.comments, SightingRow.comments),
                    "last_seen_at": new.last_seen_at,
                },
            )
        )


def _columns(paper: KnownPaper) -> tuple[object, ...]:
    """Return the values that a sighting of a known paper may change, except its content."""
    return (
        paper.touched_batch,
        paper.upvotes,
        paper.comments,
        paper.stars,
        paper.announced_on,
        paper.arxiv_id,
        paper.doi,
        paper.author_key,
    )


def _sighting_key(sighting: Sighting) -> tuple[str, str]:
    source_id = sighting.source_id or sighting.arxiv_id or sighting.doi
    name = source_id or f"title:{title_key(sighting.title)}"
    return sighting.source, bounded(name, LONGEST_SOURCE_ID)


def _known_paper(row: Any) -> KnownPaper:
    return KnownPaper(
        id=row.id,
        arxiv_id=row.arxiv_id,
        doi=row.doi,
        title_key=row.title_key,
        author_key=row.author_key,
        version=row.version,
        content=row.content,
        upvotes=row.upvotes,
        comments=row.comments,
        stars=row.stars,
        announced_on=row.announced_on,
        batch=row.batch,
        touched_batch=row.touched_batch,
    )


def count_by_source(conn: Connection, since: datetime, until: datetime) -> dict[str, int]:
    """Return the number of papers that each source announced for the first time in a period."""
    rows = conn.execute(
        select(SightingRow.source, func.count())
        .where(SightingRow.first_seen_at >= since, SightingRow.first_seen_at < until)
        .group_by(SightingRow.source)
        .order_by(SightingRow.source)
    )
    return {row[0]: row[1] for row in rows}
