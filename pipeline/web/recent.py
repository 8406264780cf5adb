"""The papers of the last month, as the preview of a digest looks at them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from datetime import date, timedelta
from functools import cached_property
from typing import Final

import numpy as np
from sqlalchemy import Connection, Engine

from pipeline.domain import Breadth, Paper
from pipeline.matching.floor import NARROWEST
from pipeline.matching.index import Found
from pipeline.matching.query import parse
from pipeline.storage import batches, papers
from pipeline.storage.database import reading
from pipeline.web.catalog import Mask, Places
from pipeline.web.library import Library, Shelves
from pipeline.web.rates import DAYS

MOST_KEPT: Final = 16 * 1024 * 1024  # octets of what queries found


class Recent:
    """Papers announced within `DAYS` days up to the newest one; places are those of the catalog."""

    def __init__(self, shelves: Shelves) -> None:
        self.shelves = shelves
        self._found: OrderedDict[str, Found] = OrderedDict()
        self._kept = 0  # octets in `_found`
        self._lock = threading.Lock()

    def found(self, query: str, breadth: Breadth = Breadth.BALANCED) -> Found:
        """What a canonical query finds, in no order."""
        with self._lock:
            found = self._found.get(query)
        if found is None:
            found = self._find(query)
            self._keep(query, found)
        return found.take(found.breadths <= breadth)

    def _keep(self, query: str, found: Found) -> None:
        """Remember what a query found; what was found longest ago gives way."""
        with self._lock:
            if query in self._found:
                return
            self._found[query] = found
            self._kept += _octets(query, found)
            while self._kept > MOST_KEPT:
                self._kept -= _octets(*self._found.popitem(last=False))

    def _find(self, query: str) -> Found:
        found = self.shelves.find(parse(query), breadth=Breadth.MORE)
        return found.take(self._within[found.papers])

    @cached_property
    def days(self) -> tuple[date, ...]:
        """Those with papers, in order; of a library still being filled, those it has reached."""
        numbers = np.unique(self._newest[self._within])
        return tuple(date.fromordinal(int(number)) for number in numbers)

    @property
    def is_complete(self) -> bool:
        return self.shelves.complete

    def phrases(self, query: str, places: Places) -> dict[int, tuple[str, ...]]:
        """By which of its words each of these papers was found."""
        return self.shelves.phrases(parse(query), places)

    def announced(self, places: Places, first: date, last: date) -> Mask:
        """Which of these were announced in the days from `first` to `last`."""
        days = self._newest[places]
        inside: Mask = (days >= first.toordinal()) & (days <= last.toordinal())
        return inside

    def per_day(self, places: Places) -> dict[date, int]:
        days, numbers = np.unique(self._newest[places], return_counts=True)
        return {date.fromordinal(int(d)): int(n) for d, n in zip(days, numbers, strict=True)}

    def most_upvoted(self, first: date, last: date, most: int) -> Found:
        places = np.flatnonzero(self._within & (self.shelves.catalog.upvotes > 0))
        places = places[self.announced(places, first, last)]
        upvotes = self.shelves.catalog.upvotes[places]
        best = np.argsort(-upvotes, kind="stable")[:most]
        sure = np.full(best.size, NARROWEST, dtype=np.int8)
        return Found(places[best], upvotes[best].astype(np.float64), sure)

    def read(self, conn: Connection, places: Iterable[int]) -> dict[int, Paper]:
        """The papers at these places that can be read, by place."""
        by_id = {int(self.shelves.catalog.ids[place]): place for place in places}
        found = papers.by_ids(conn, by_id)
        return {by_id[id_]: paper for id_, paper in found.items() if not paper.withdrawn}

    @property
    def _newest(self) -> Places:
        return self.shelves.catalog.newest

    @cached_property
    def _within(self) -> Mask:
        mask = np.zeros(self._newest.size, dtype=np.bool_)
        if self._newest.size:
            since = int(self._newest.max()) - timedelta(days=DAYS - 1).days
            mask = self._newest >= since
            mask[: int(self.shelves.starts[0])] = False
        return mask


def _octets(query: str, found: Found) -> int:
    arrays = found.papers.nbytes + found.scores.nbytes + found.breadths.nbytes
    return 4 * len(query) + arrays + 500


class RecentPapers:
    """What `Recent` says now, from the library that all pages share."""

    def __init__(self, library: Library, engine: Engine) -> None:
        self._library = library
        self._engine = engine
        self._kept: Recent | None = None

    @property
    def is_ready(self) -> bool:
        """Whether somebody has asked before, so that nobody waits for it now."""
        return self._kept is not None

    def get(self) -> Recent:
        """At most one batch behind."""
        with reading(self._engine) as conn:
            self._library.catalog(batches.published(conn))  # lets it see that there is news
        shelves = self._library.shelves()
        kept = self._kept
        if kept is None or kept.shelves is not shelves:
            kept = self._kept = Recent(shelves)
        return kept
