"""A small pipeline for tests: scripted sources, and queries about the stored rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from sqlalchemy import Engine, MetaData, func, select, text

from pipeline import ingest as ingesting
from pipeline import signup
from pipeline.domain import Paper, Schedule, Sighting, Subscriber
from pipeline.ingest import SourceReport
from pipeline.signup import Choices, parse_queries
from pipeline.sources import FetchResult, Validator
from pipeline.storage import ingest_state, papers, sightings
from pipeline.storage.database import read_only
from pipeline.storage.schema import MatchRow, Table
from pipeline.storage.sightings import StoreCounts
from tests.support.factories import NOW

SUPPRESSION_KEY = "a key of the tests"


@dataclass
class Press:
    """A source that returns the given sightings; `news` may raise instead."""

    name: str = "arxiv"
    sightings: Sequence[Sighting] = ()
    news: Callable[[], None] = lambda: None
    cursor: str | None = None
    validators: tuple[tuple[str, Validator], ...] = ()
    requests: list[tuple[date, str | None]] | None = None
    quiet: bool = False  # its calendar expects no announcement
    gaps: tuple[str, ...] = ()

    def read(self, *, since: date, cursor: str | None, now: datetime) -> FetchResult:
        if self.requests is not None:
            self.requests.append((since, cursor))
        self.news()
        return FetchResult(
            tuple(self.sightings), self.cursor, gaps=self.gaps, validators=self.validators
        )

    def news_due(self, on: date) -> bool:
        return not self.quiet


def ingest(engine: Engine, *found: Sighting, now: datetime = NOW) -> list[SourceReport]:
    """Run one ingestion of these sightings, each returned by its own source."""
    names = sorted({sighting.source for sighting in found})
    sources = [Press(name, [s for s in found if s.source == name]) for name in names]
    return ingesting.ingest(engine, sources, now=now)


def store(engine: Engine, *found: Sighting, batch: int = 1) -> StoreCounts:
    """Store the sightings only; nothing is matched or published."""
    with engine.begin() as conn:
        return sightings.store(conn, found, batch=batch, now=NOW)


def stored(engine: Engine) -> list[Paper]:
    """Return all papers, oldest first, visible or not."""
    with read_only(engine) as conn:
        return sorted(papers.touched_since(conn, 0), key=lambda paper: paper.id)


def touched(engine: Engine) -> dict[str, int]:
    """Return the batch in which each paper was last to be matched, by the paper's key."""
    with read_only(engine) as conn:
        changed = papers.touched_since(conn, 0)
        batch_of = papers.touched_batches(conn, [paper.id for paper in changed])
    return {paper.key: batch_of[paper.id] for paper in changed}


def published(engine: Engine) -> int:
    with read_only(engine) as conn:
        return ingest_state.published_batch(conn)


def matches(engine: Engine) -> set[tuple[int, int, int]]:
    """Return (topic, paper, batch) of each match, visible or not."""
    with read_only(engine) as conn:
        rows = conn.execute(select(MatchRow.topic_id, MatchRow.paper_id, MatchRow.batch))
        return {(row.topic_id, row.paper_id, row.batch) for row in rows}


def add_reader(
    engine: Engine,
    *queries: str,
    email: str = "ada@example.org",
    schedule: Schedule | None = None,
    max_papers: int = 10,
    now: datetime = NOW,
    **choices_changes: Any,
) -> Subscriber:
    """Add an active subscriber, due at eight o'clock UTC, to papers published from now on."""
    choices = Choices(parse_queries(queries), schedule or Schedule(), max_papers, **choices_changes)
    return signup.add(
        engine, email, choices, confirmed=True, suppression_key=SUPPRESSION_KEY, now=now
    )


def everything(engine: Engine) -> dict[str, list[Any]]:
    """Return the rows of all tables, by name."""
    found = MetaData()
    with engine.connect() as conn:
        found.reflect(conn)
        return {table.name: conn.execute(select(table)).all() for table in found.sorted_tables}


def rows(engine: Engine, table: type[Table], *order: Any) -> list[Any]:
    with read_only(engine) as conn:
        return list(conn.execute(select(*table.__table__.c).order_by(*order)))


def count(engine: Engine, table: type[Table]) -> int:
    with read_only(engine) as conn:
        return conn.execute(select(func.count()).select_from(table)).scalar_one()


def empty(engine: Engine) -> None:
    """Delete all rows, so that one database serves many generated histories."""
    with engine.begin() as conn:
        for table in reversed(Table.metadata.sorted_tables):
            if table.name != "ingest_state":
                conn.execute(table.delete())
        conn.execute(text("UPDATE ingest_state SET published_batch = 0, lease_until = NULL"))
