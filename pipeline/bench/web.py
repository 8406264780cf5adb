"""Benchmark of the site: latency of searches and of every public page.

A real server answers over loopback. Each search is also run in SQLite's full-text index, and
followed by a page that does nothing, so that all three run under the same conditions.
"""

from __future__ import annotations

import http.client
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final
from urllib.parse import quote

from pipeline import settings
from pipeline.bench import outbox
from pipeline.bench.synthetic import Scribe, Search
from pipeline.domain import Sighting
from pipeline.errors import PaperboyError, ServiceError
from pipeline.ingest import ingest_recorded
from pipeline.local.processes import Child, free_port
from pipeline.sources import FetchResult
from pipeline.storage.database import open_engine
from pipeline.web.papers.search_index import MOST, SEGMENT

HOST: Final = "127.0.0.1"
START_TIMEOUT: Final = 300.0  # seconds until every paper can be searched
PATIENCE: Final = 30.0  # seconds for one reply
SHOWN: Final = 50  # maximum number of papers that the full-text index returns
LOOKS: Final = 30  # requests per public page


@dataclass(frozen=True, slots=True)
class Plan:
    papers: int = 30_000
    searches: int = 500
    database_url: str | None = None  # None: SQLite in a temporary file


@dataclass(frozen=True, slots=True)
class Spread:
    """Percentiles of latencies, in milliseconds."""

    p50: float
    p99: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread:
        return cls(round(median(seconds) * 1e3, 2), round(quantiles(seconds, n=100)[98] * 1e3, 2))


@dataclass(frozen=True, slots=True)
class Report:
    plan: Plan
    database: str
    ready_s: float  # from the start of the server until all papers could be searched
    memory_mb: float | None  # peak of the server; None if there is no /proc
    search: Spread
    fts5: Spread | None  # the same searches in SQLite, without a page; None without FTS5
    floor: Spread  # a page that does nothing
    pages: dict[str, Spread] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {
            "search_p50_ms": self.search.p50,
            "search_p99_ms": self.search.p99,
            "ratio_fts5": round(self.search.p50 / self.fts5.p50, 3) if self.fts5 else None,
            "ratio_floor": round(self.search.p50 / self.floor.p50, 3),
            "fts5_p50_ms": self.fts5.p50 if self.fts5 else None,
            "fts5_p99_ms": self.fts5.p99 if self.fts5 else None,
            "floor_p50_ms": self.floor.p50,
            "floor_p99_ms": self.floor.p99,
            "pages": {
                path: {"p50_ms": one.p50, "p99_ms": one.p99} for path, one in self.pages.items()
            },
            "ready_s": self.ready_s,
            "memory_mb": self.memory_mb,
            "database": self.database,
            "papers": self.plan.papers,
            "searches": self.plan.searches,
        }


def run(plan: Plan, progress: Callable[[str], None] = lambda _step: None) -> Report:
    """Run the benchmark, with a callback per step. Raise PaperboyError if a reply is not 200."""
    with outbox.temporary_database(plan.database_url) as url:
        progress("storing papers")
        papers, searches = _fill(plan, url)
        with _serving(url, plan.papers) as server, _fts5(papers) as index:
            progress("waiting until all papers can be searched")
            ready = server.wait_until_found(papers[0])
            progress("searching")
            spreads = _search(server, index, searches)
            progress("looking at pages")
            pages = {path: _look(server, path) for path in _pages(papers)}
            return Report(
                plan, url.partition(":")[0], ready, server.memory_mb(), *spreads, pages=pages
            )


def _fill(plan: Plan, url: str) -> tuple[list[Sighting], list[Search]]:
    """Store sample and synthetic papers, and return the synthetic ones with searches for them.

    The Hugging Face samples stay the newest.
    """
    engine, now = open_engine(url), datetime.now(UTC)
    try:
        samples = outbox.ingest_samples(engine, now)
        scribe = Scribe(samples)
        papers = list(scribe.papers(plan.papers, min(paper.announced_on for paper in samples)))
        ingest_recorded(engine, [("arxiv", FetchResult(tuple(papers)))], now=now)
    finally:
        engine.dispose()
    return papers, scribe.searches(plan.searches, papers)


def _pages(papers: Sequence[Sighting]) -> Iterator[str]:
    yield "/"
    yield f"/papers?month={papers[-1].announced_on:%Y-%m}"
    yield "/topics"
    yield "/topics/agents"
    yield "/topics/agents.atom"
    yield f"/papers/{papers[-1].source_id}"
    yield "/subscribe"


# --- Server -------------------------------------------------------------------------------------


class Server:
    """A site in a process of its own, requested over one persistent connection."""

    def __init__(self, child: Child, port: int) -> None:
        self._child = child
        self._connection = http.client.HTTPConnection(HOST, port, timeout=PATIENCE)
        self._started_at = time.monotonic()

    def get(self, path: str) -> bytes:
        """Return the page, gzipped as for browsers. Raise PaperboyError if it is not a 200."""
        self._connection.request("GET", path, headers={"Accept-Encoding": "gzip"})
        answer = self._connection.getresponse()
        page = answer.read()
        if answer.status != 200:
            raise PaperboyError(f"{path} was answered with {answer.status}")
        return page

    def wait_until_found(self, paper: Sighting) -> float:
        """Return seconds from the start until a search finds the paper.

        Raise ServiceError if the server ends or START_TIMEOUT is over.
        """
        path = _address(f'ti:"{paper.title.lower()}"')
        while not self._finds(path):
            if not self._child.is_running() or self._waited() > START_TIMEOUT:
                raise ServiceError("the site does not come up")
            time.sleep(0.1)
        return round(self._waited(), 1)

    def memory_mb(self) -> float | None:
        status = Path(f"/proc/{self._child.pid}/status")
        if not status.exists():
            return None
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return round(int(peak.split()[1]) / 1024, 1)

    def _finds(self, path: str) -> bool:
        try:
            self._connection.request("GET", path)
            return b'<article class="card"' in self._connection.getresponse().read()
        except OSError:
            self._connection.close()
            return False

    def _waited(self) -> float:
        return time.monotonic() - self._started_at


@contextmanager
def _serving(database_url: str, papers: int) -> Iterator[Server]:
    port = free_port()
    environment = settings.child_environment(
        DATABASE_URL=database_url,
        SITE_URL=f"http://{HOST}:{port}",
        LOG_LEVEL="ERROR",
        SEARCH_PAPERS=str(min(papers + 2 * SEGMENT, MOST)),
        PREVIEWS_PER_MINUTE="10000",  # all searches come from one address
    )
    command = [sys.executable, "-m", "pipeline", "serve", "--host", HOST, "--port", str(port)]
    child = Child(command, environment=environment, silent=True)
    try:
        yield Server(child, port)
    finally:
        child.stop(timeout=10)


def _address(query: str) -> str:
    return f"/papers?q={quote(query)}"


# --- Timing -------------------------------------------------------------------------------------


def _search(
    server: Server, index: sqlite3.Connection | None, searches: Sequence[Search]
) -> tuple[Spread, Spread | None, Spread]:
    """Time a search, the same in FTS5 and an empty page in turn, for each search."""
    ours, theirs, floor = [], [], []
    for search in searches:
        ours.append(_timed(partial(server.get, _address(search.query))))
        if index:
            theirs.append(_timed(partial(_ask, index, search)))
        floor.append(_timed(partial(server.get, "/healthz")))
    return Spread.of(ours), Spread.of(theirs) if theirs else None, Spread.of(floor)


def _look(server: Server, path: str) -> Spread:
    server.get(path)
    return Spread.of([_timed(partial(server.get, path)) for _ in range(LOOKS)])


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


# --- SQLite full-text search --------------------------------------------------------------------


@contextmanager
def _fts5(papers: Sequence[Sighting]) -> Iterator[sqlite3.Connection | None]:
    """Yield a full-text index of the papers in memory; None if SQLite was built without FTS5."""
    with closing(sqlite3.connect(":memory:")) as conn:
        try:
            conn.execute(
                "CREATE VIRTUAL TABLE papers USING fts5"
                " (title, abstract, categories, tokenize = 'porter unicode61')"
            )
        except sqlite3.OperationalError:
            yield None
            return
        rows = ((paper.title, paper.abstract, " ".join(paper.categories)) for paper in papers)
        conn.executemany("INSERT INTO papers VALUES (?, ?, ?)", rows)
        yield conn


def _ask(index: sqlite3.Connection, search: Search) -> list[Any]:
    return index.execute(
        "SELECT title, abstract FROM papers WHERE papers MATCH ?"
        " ORDER BY bm25(papers, 2.0, 1.0) LIMIT ?",
        (search.fts5, SHOWN),
    ).fetchall()
