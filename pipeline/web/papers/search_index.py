"""In-memory search index of the visible papers, refreshed by a background thread."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from functools import cached_property
from itertools import pairwise
from math import prod
from typing import Final

import numpy as np
import numpy.typing as npt
import structlog
from sqlalchemy import Connection, Engine

from pipeline.domain import Breadth
from pipeline.matching.author_names import Names
from pipeline.matching.corpus import CorpusStatistics
from pipeline.matching.index import Found, PaperIndex
from pipeline.matching.match import PaperText
from pipeline.matching.query import Query
from pipeline.matching.semantic import Embedder
from pipeline.storage import ingest_state, papers
from pipeline.storage.database import read_only
from pipeline.storage.papers import Listed
from pipeline.web.papers.periods import Days

log = structlog.get_logger(__name__)

SEGMENT: Final = 2_048  # ids in a segment, which is rebuilt as a whole when one paper is new
FEW: Final = 300  # newest papers, searched while the first index is being built
PATIENCE: Final = 2.0  # seconds that a request waits for the first index
# Placeholder for a paper that was merged into another since the catalog was loaded.
GONE: Final = PaperText(id="", title="", abstract="")


# --- Catalog ------------------------------------------------------------------------------------

Places = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Scores = npt.NDArray[np.float64]

MOST = 100_000  # newest papers; older ones are in no list, but keep their own pages


class Sort(StrEnum):
    BEST = "best"  # highest score first; only if there is a query
    TRENDING = "trending"  # most upvotes first
    NEWEST = "newest"


@dataclass(frozen=True)
class Catalog:
    """Papers visible at `batch`, sorted by id. A place is a position in these arrays."""

    batch: int
    ids: Places
    versions: Places
    upvotes: Places
    newest: Places  # the last day on which a source announced it, as a date ordinal
    sighted: Places  # one entry for each announcement by a source: the place of the paper
    sighted_on: Places  # and its day, as a date ordinal
    is_cut: bool  # True: older papers are stored, too

    @property
    def size(self) -> int:
        return self.ids.size

    @cached_property
    def days(self) -> tuple[date, ...]:
        """Return all days with papers, ascending."""
        return tuple(date.fromordinal(int(day)) for day in np.unique(self.sighted_on))

    def within(self, period: Days | None) -> Mask:
        """Return a mask of the papers that any source announced in `period`; None: all papers."""
        mask = np.full(self.size, period is None, dtype=np.bool_)
        if period is not None:
            first, last = period.first.toordinal(), period.last.toordinal()
            mask[self.sighted[(self.sighted_on >= first) & (self.sighted_on <= last)]] = True
        return mask

    def sorted(self, places: Places, by: Sort, scores: Scores | None = None) -> Places:
        """Return `places` sorted; ties are broken by the newest day, then by the highest id.

        Without `scores`, BEST is the same as NEWEST.
        """
        keys: list[npt.NDArray[np.generic]] = [-self.ids[places], -self.newest[places]]
        if by is Sort.TRENDING:
            keys.append(-self.upvotes[places])
        elif by is Sort.BEST and scores is not None:
            keys.append(-scores)
        ordered: Places = places[np.lexsort(keys)]
        return ordered

    def per_day(self, places: Places, period: Days) -> dict[date, int]:
        """Return the number of papers for each day of the period, including days without any.

        A paper counts once, on its first day in the period.
        """
        start, end = period.first.toordinal(), period.last.toordinal() + 1
        first = np.full(self.size, end)
        inside = (self.sighted_on >= start) & (self.sighted_on < end)
        np.minimum.at(first, self.sighted[inside], self.sighted_on[inside])
        counts = np.bincount(first[places] - start, minlength=end - start + 1)
        return {date.fromordinal(start + i): int(n) for i, n in enumerate(counts[:-1])}


def load_catalog(conn: Connection, *, most: int = MOST) -> Catalog:
    """Load the `most` newest papers of the published batch from the database."""
    batch = ingest_state.published_batch(conn)
    listed = papers.listed(conn, through_batch=batch, limit=most + 1)
    return _catalog(batch, listed[-most:], is_cut=len(listed) > most)


def _catalog(batch: int, listed: list[Listed], *, is_cut: bool) -> Catalog:
    return Catalog(
        batch=batch,
        ids=_array([paper.id for paper in listed]),
        versions=_array([paper.version for paper in listed]),
        upvotes=_array([paper.upvotes for paper in listed]),
        newest=_array([paper.days[-1].toordinal() for paper in listed]),
        sighted=_array([place for place, paper in enumerate(listed) for _ in paper.days]),
        sighted_on=_array([day.toordinal() for paper in listed for day in paper.days]),
        is_cut=is_cut,
    )


def _array(numbers: list[int]) -> Places:
    return np.array(numbers, dtype=np.int64)


# --- Index --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Segment:
    """Index segment: the papers of one range of ids."""

    holds: bytes  # ids and versions of the papers; equal bytes mean an unchanged segment
    index: PaperIndex
    statistics: CorpusStatistics


@dataclass(frozen=True, slots=True)
class SearchIndex:
    """Searchable index of all segments. Places are positions in `catalog`."""

    catalog: Catalog
    starts: Places  # the place of each segment's first paper, and the end of the last segment
    segments: tuple[Segment, ...]
    corpus: CorpusStatistics  # of all segments
    complete: bool = True  # False: only the newest papers, while the index is being built

    @property
    def size(self) -> int:
        """Return the number of indexed papers, which are the newest of the catalog."""
        return self.catalog.size - int(self.starts[0])

    @property
    def since(self) -> date | None:
        """Return the day of the oldest indexed paper; None if all papers are indexed."""
        first = int(self.starts[0])
        if first == 0 and not self.catalog.is_cut:
            return None
        return date.fromordinal(int(self.catalog.newest[first]))

    def find(
        self,
        query: Query,
        *,
        floor: bool = True,
        breadth: Breadth = Breadth.BALANCED,
        within: Mask | None = None,
    ) -> Found:
        """Return all matches in the order of the catalog.

        Without `floor` there is no relevance threshold: one word of several is enough. Segments
        without a paper in the mask `within` are skipped; others are searched as a whole.
        """
        spans = zip(self.segments, pairwise(self.starts), strict=True)
        found = [
            (start, segment.index.find(query, floor=floor, breadth=breadth))
            for segment, (start, end) in spans
            if within is None or within[start:end].any()
        ]
        if not found:
            return Found(np.empty(0, dtype=np.int64), np.empty(0), np.empty(0, dtype=np.int8))
        return Found(
            np.concatenate([one.papers + start for start, one in found]),
            np.concatenate([one.scores for _, one in found]),
            np.concatenate([one.breadths for _, one in found]),
        )

    def written_by(self, names: Names) -> dict[int, str]:
        """Return the places of an author's papers, ascending, with the name as printed there."""
        return {
            place + int(start): name
            for segment, start in zip(self.segments, self.starts[:-1], strict=True)
            for place, name in segment.index.written_by(names).items()
        }

    def is_common(self, names: Names) -> bool:
        """Return whether at least one paper would have an author of this name by chance.

        That is the share of authors with each of the names, multiplied: many are called Wei and
        many are called Wang, so several are called Wei Wang. A name of one word is not full.
        """
        sums = np.sum([one.index.bearers(names) for one in self.segments], axis=0)
        *counts, everybody = sums.tolist() if self.segments else [0]
        return len(names) > 1 and prod(counts) >= everybody ** (len(names) - 1) > 0

    def phrases(self, query: Query, places: Places) -> dict[int, tuple[str, ...]]:
        """Return the matched phrases of each paper, by place; only the segments of `places`."""
        words: dict[int, tuple[str, ...]] = {}
        for segment, (start, end) in zip(self.segments, pairwise(self.starts), strict=True):
            here = places[(places >= start) & (places < end)] - start
            if here.size:
                found = segment.index.phrases(query, here)
                words |= {place + int(start): phrases for place, phrases in found.items()}
        return words


class LiveIndex:
    """Search index of one process, shared by its threads.

    The catalog is loaded by the first request that needs it, the segments by a background thread.
    When a newer batch is published, the thread refreshes both; requests are answered from the
    previous version meanwhile. Without `background`, only `renew` refreshes. The `most` newest
    papers and the others of the oldest one's segment are indexed, so that the memory does not grow
    with the archive.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        patience: float = PATIENCE,
        background: bool = True,
        embedder: Embedder | None = None,
        most: int = MOST,
    ) -> None:
        self._engine = engine
        self._most = most
        self._embedder = embedder
        self._patience = patience
        self._background = background
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wake, self._ready = threading.Event(), threading.Event()
        self._closed = False
        self._started_at = 0.0
        self._catalog: Catalog | None = None
        self._current: SearchIndex | None = None
        self._few: SearchIndex | None = None

    def catalog(self, published: int) -> Catalog:
        """Return the catalog at batch `published`, or an older one while a refresh is running.

        If it is older, wake the background thread; load it here if there is none or it is empty.
        """
        known = self._catalog
        if known is not None and known.batch < published:
            self.start()
            self._wake.set()
        if known is None or (not known.size and known.batch < published):
            known = self._catalog = self._load()
        return known

    def current(self) -> SearchIndex:
        """Return the current index; before there is one, wait at most `patience` seconds.

        If it is not built by then, return an index of the newest papers: of those that are indexed
        so far, or of `FEW`.
        """
        self.start()
        if not self._ready.is_set() and self._background:
            waited = time.monotonic() - self._started_at
            self._ready.wait(max(0.0, self._patience - waited))
        return self._current or self._newest()

    def ready(self) -> SearchIndex | None:
        """Return the current index without waiting, None if not built; start building it."""
        self.start()
        return self._current

    def start(self) -> None:
        """Start the background thread; idempotent. No effect without `background`, or if closed."""
        with self._lock:
            if self._thread is None and self._background and not self._closed:
                self._started_at = time.monotonic()
                self._thread = threading.Thread(target=self._run, name="search-index", daemon=True)
                self._wake.set()
                self._thread.start()

    @asynccontextmanager
    async def while_serving(self, _app: object) -> AsyncIterator[None]:
        """Run the background thread during the lifespan of the ASGI application."""
        self.start()
        try:
            yield
        finally:
            self.close()

    def close(self) -> None:
        """Ask the background thread to stop, and return without waiting for it."""
        self._closed = True
        self._wake.set()

    def renew(self) -> None:
        """Load the catalog and rebuild the index, reusing segments with unchanged papers."""
        catalog = self._catalog = self._load()
        kept = (
            {segment.holds: segment for segment in self._current.segments} if self._current else {}
        )
        started = time.monotonic()
        self._current = self._fill(catalog, kept)
        self._few = None
        self._ready.set()
        log.info("search_index.loaded", papers=self._current.size, batch=catalog.batch,
                 seconds=round(time.monotonic() - started, 1))  # fmt: skip

    def _run(self) -> None:
        while True:
            self._wake.wait()
            if self._closed:
                return
            self._wake.clear()
            try:
                self.renew()
            except Exception:  # the entry point of this thread
                if not self._closed:
                    log.exception("search_index.failed")

    def _load(self, most: int = MOST) -> Catalog:
        with self._reading() as conn:
            return load_catalog(conn, most=most)

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        """Open a connection detached from the pool: the thread may outlive the pool briefly."""
        with read_only(self._engine) as conn:
            conn.detach()
            yield conn

    def _fill(self, catalog: Catalog, kept: dict[bytes, Segment]) -> SearchIndex:
        """Return the index of the newest papers; until there is one, publish each part of it.

        The newest segment is built first, so that a search soon covers what visitors look for.
        """
        starts = _starts(catalog, self._most)
        filled: list[Segment] = []
        for place, ((start, end), holds) in reversed(list(enumerate(_ranges(catalog, starts)))):
            filled.insert(0, kept.get(holds) or self._segment(catalog, start, end, holds))
            if self._current is None:
                some = _measured(catalog, starts[place:], filled, complete=False)
                with self._lock:
                    self._few = some
        return _measured(catalog, starts, filled)

    def _newest(self) -> SearchIndex:
        """Return the index that is built so far, or one of the newest `FEW` papers, built here."""
        with self._lock:
            if self._few is None:
                # Not the whole catalog: while the thread loads it, a request should not, too.
                catalog = self._catalog or self._load(FEW + 1)
                starts = np.array([max(0, catalog.size - FEW), catalog.size])
                segment = self._segment(catalog, int(starts[0]), catalog.size, b"")
                self._few = _measured(catalog, starts, [segment], complete=catalog.size <= FEW)
            return self._few

    def _segment(self, catalog: Catalog, start: int, end: int, holds: bytes) -> Segment:
        """Build one segment from the database. Raise RuntimeError if the index is closed."""
        if self._closed:
            raise RuntimeError("the index is closed")
        ids = catalog.ids[start:end].tolist()
        with self._reading() as conn:
            found = papers.by_ids(conn, ids)
        index = PaperIndex([found.get(id_, GONE) for id_ in ids], embedder=self._embedder)
        index.index_authors()
        return Segment(holds, index, index.statistics())


def _starts(catalog: Catalog, most: int) -> Places:
    """Return the place of the first paper in each range of `SEGMENT` ids, and the total size.

    The first range contains the oldest of the `most` newest papers, so up to `SEGMENT` - 1 papers
    more are indexed: a part of a range would be rebuilt whenever a paper is new.
    """
    first = max(0, catalog.size - most)
    places = np.flatnonzero(np.diff(catalog.ids // SEGMENT, prepend=-1))
    oldest = max(0, int(np.searchsorted(places, first, side="right")) - 1)
    return np.append(places[oldest:], catalog.size).astype(np.int64)


def _ranges(catalog: Catalog, starts: Places) -> Iterator[tuple[tuple[int, int], bytes]]:
    for start, end in pairwise(starts.tolist()):
        holds = catalog.ids[start:end].tobytes() + catalog.versions[start:end].tobytes()
        yield (start, end), holds


def _measured(
    catalog: Catalog, starts: Places, filled: list[Segment], *, complete: bool = True
) -> SearchIndex:
    """Return the index, each segment scored with the word frequencies of all segments."""
    corpus = sum((segment.statistics for segment in filled), start=CorpusStatistics())
    segments = tuple(
        Segment(segment.holds, segment.index.measured_by(corpus), segment.statistics)
        for segment in filled
    )
    return SearchIndex(catalog, starts, segments, corpus, complete)
