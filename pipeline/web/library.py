"""Everything the site can search, kept in memory and renewed beside the requests."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import structlog
from sqlalchemy import Connection, Engine

from pipeline.domain import Breadth
from pipeline.matching.corpus import CorpusStatistics
from pipeline.matching.evaluation import PaperText
from pipeline.matching.index import Found, PaperIndex
from pipeline.matching.meaning import Embedder
from pipeline.matching.query import Query
from pipeline.storage import papers
from pipeline.storage.database import reading
from pipeline.web import catalog as catalogs
from pipeline.web.catalog import Catalog, Places

log = structlog.get_logger(__name__)

SHELF: Final = 4_096  # ids: what one new paper makes us read again
FEW: Final = 300  # papers that are searched while the first shelves are being filled
PATIENCE: Final = 2.0  # seconds a reader waits for them
# In the place of a paper that became part of another since the catalog was read.
GONE: Final = PaperText(id="", title="", abstract="")


@dataclass(frozen=True, slots=True)
class Shelf:
    """The papers of a range of ids, ready to be searched."""

    holds: bytes  # their ids and versions
    index: PaperIndex
    statistics: CorpusStatistics


@dataclass(frozen=True, slots=True)
class Shelves:
    """Papers ready to be searched. Places are those of `catalog`."""

    catalog: Catalog
    starts: Places  # the place of each shelf's first paper, and where the last shelf ends
    shelves: tuple[Shelf, ...]
    complete: bool = True  # False: only the newest papers, while the rest is being read

    def find(
        self, query: Query, *, floor: bool = True, breadth: Breadth = Breadth.BALANCED
    ) -> Found:
        """Everything the query finds, in the order of the catalog."""
        found = [shelf.index.find(query, floor=floor, breadth=breadth) for shelf in self.shelves]
        if not found:
            return Found(np.empty(0, dtype=np.int64), np.empty(0), np.empty(0, dtype=np.int8))
        offset = [one.papers + start for one, start in zip(found, self.starts[:-1], strict=True)]
        return Found(
            np.concatenate(offset),
            np.concatenate([one.scores for one in found]),
            np.concatenate([one.breadths for one in found]),
        )

    def phrases(self, query: Query, places: Places) -> dict[int, tuple[str, ...]]:
        """By which of its words each of these papers was found."""
        words: dict[int, tuple[str, ...]] = {}
        for shelf, (start, end) in zip(self.shelves, pairwise(self.starts), strict=True):
            here = places[(places >= start) & (places < end)] - start
            if here.size:
                found = shelf.index.phrases(query, here)
                words |= {place + int(start): phrases for place, phrases in found.items()}
        return words


class Library:
    """One for each process, shared by its threads.

    The catalog is read at the first request that needs it, the shelves by a thread; both are
    renewed by the thread once a newer batch is published, and whoever asks meanwhile gets what
    was there before. Without `background` only `renew` does so.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        patience: float = PATIENCE,
        background: bool = True,
        embedder: Embedder | None = None,
    ) -> None:
        self._engine = engine
        self._embedder = embedder
        self._patience = patience
        self._background = background
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wake, self._ready = threading.Event(), threading.Event()
        self._closed = False
        self._started_at = 0.0
        self._catalog: Catalog | None = None
        self._shelves: Shelves | None = None
        self._few: Shelves | None = None

    def catalog(self, published: int) -> Catalog:
        """The papers in short, at `published` or a little behind it."""
        known = self._catalog
        if known is not None and known.batch < published:
            self.start()
            self._wake.set()
        if known is None or (not known.size and known.batch < published):
            known = self._catalog = self._load()
        return known

    def shelves(self) -> Shelves:
        """What can be searched now. At the very first this waits a moment."""
        self.start()
        if not self._ready.is_set() and self._background:
            waited = time.monotonic() - self._started_at
            self._ready.wait(max(0.0, self._patience - waited))
        return self._shelves or self._newest()

    def ready(self) -> Shelves | None:
        """What can be searched without waiting; begins to read the papers where nobody has."""
        self.start()
        return self._shelves

    def start(self) -> None:
        """Begin to read the papers; does nothing when that has begun."""
        with self._lock:
            if self._thread is None and self._background and not self._closed:
                self._started_at = time.monotonic()
                self._thread = threading.Thread(target=self._run, name="library", daemon=True)
                self._wake.set()
                self._thread.start()

    @asynccontextmanager
    async def while_serving(self, _app: object) -> AsyncIterator[None]:
        """Read the papers from the start of a server to its end."""
        self.start()
        try:
            yield
        finally:
            self.close()

    def close(self) -> None:
        """Stop reading, soon."""
        self._closed = True
        self._wake.set()

    def renew(self) -> None:
        """Read what is new. Shelves whose papers have not changed stay as they are."""
        catalog = self._catalog = self._load()
        kept = {shelf.holds: shelf for shelf in self._shelves.shelves} if self._shelves else {}
        started = time.monotonic()
        self._shelves = self._fill(catalog, kept)
        self._few = None
        self._ready.set()
        log.info("papers ready to be searched", papers=catalog.size, batch=catalog.batch,
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
                    log.exception("the papers could not be read")

    def _load(self) -> Catalog:
        with self._reading() as conn:
            return catalogs.load(conn)

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        """A connection outside the pool: the thread may outlive the pool by a moment."""
        with reading(self._engine) as conn:
            conn.detach()
            yield conn

    def _fill(self, catalog: Catalog, kept: dict[bytes, Shelf]) -> Shelves:
        starts = _starts(catalog)
        filled = [
            kept.get(holds) or self._shelf(catalog, start, end, holds)
            for (start, end), holds in _ranges(catalog, starts)
        ]
        return _measured(catalog, starts, filled)

    def _newest(self) -> Shelves:
        """The newest papers alone, read on the spot."""
        with self._lock:
            if self._few is None:
                catalog = self._catalog or self._load()
                starts = np.array([max(0, catalog.size - FEW), catalog.size])
                shelf = self._shelf(catalog, int(starts[0]), catalog.size, b"")
                self._few = _measured(catalog, starts, [shelf], complete=catalog.size <= FEW)
            return self._few

    def _shelf(self, catalog: Catalog, start: int, end: int, holds: bytes) -> Shelf:
        if self._closed:
            raise RuntimeError("the library is closed")
        ids = catalog.ids[start:end].tolist()
        with self._reading() as conn:
            found = papers.by_ids(conn, ids)
        index = PaperIndex([found.get(id_, GONE) for id_ in ids], embedder=self._embedder)
        return Shelf(holds, index, index.statistics())


def _starts(catalog: Catalog) -> Places:
    """Where the shelves begin: at the first paper of each range of ids."""
    places = np.flatnonzero(np.diff(catalog.ids // SHELF, prepend=-1))
    return np.append(places, catalog.size).astype(np.int64)


def _ranges(catalog: Catalog, starts: Places) -> Iterator[tuple[tuple[int, int], bytes]]:
    for start, end in pairwise(starts.tolist()):
        holds = catalog.ids[start:end].tobytes() + catalog.versions[start:end].tobytes()
        yield (start, end), holds


def _measured(
    catalog: Catalog, starts: Places, filled: list[Shelf], *, complete: bool = True
) -> Shelves:
    """Every shelf scored by what is rare in all of them."""
    corpus = sum((shelf.statistics for shelf in filled), start=CorpusStatistics())
    shelves = tuple(
        Shelf(shelf.holds, shelf.index.measured_by(corpus), shelf.statistics) for shelf in filled
    )
    return Shelves(catalog, starts, shelves, complete)
