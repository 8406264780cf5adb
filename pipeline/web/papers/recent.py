"""Papers of the last 30 days for the preview of a digest, with a cache of query results."""

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
from pipeline.matching.index import Found
from pipeline.matching.query import Query, TopicQuery
from pipeline.matching.suggestions import DAYS
from pipeline.matching.threshold import NARROWEST
from pipeline.storage import ingest_state, papers
from pipeline.storage.database import read_only
from pipeline.web.papers.search_index import LiveIndex, Mask, Places, SearchIndex
from pipeline.web.subscribe import curated

MOST_KEPT: Final = 16 * 1024 * 1024  # octets of cached query results
ENOUGH_DAYS: Final = 21  # from the first recent paper to the last, to call a topic silent


class RecentWindow:
    """Papers announced within `DAYS` days up to the newest; places are positions in the catalog.

    Thread-safe; query results are cached, at most `MOST_KEPT` octets.
    """

    def __init__(self, search_index: SearchIndex) -> None:
        self.search_index = search_index
        self._found: OrderedDict[str, Found] = OrderedDict()
        self._kept = 0  # octets in `_found`
        self._lock = threading.Lock()

    def found(self, query: TopicQuery, breadth: Breadth = Breadth.BALANCED) -> Found:
        """Return the recent papers that match a query, not sorted by score.

        Results are cached at the broadest setting and filtered by `breadth`.
        """
        with self._lock:
            found = self._found.get(query.text)
        if found is None:
            found = self._find(query.tree)
            self._keep(query.text, found)
        return found.take(found.breadths <= breadth)

    def _keep(self, query: str, found: Found) -> None:
        """Cache the result of a query, evicting the oldest entries (FIFO) beyond `MOST_KEPT`."""
        with self._lock:
            if query in self._found:
                return
            self._found[query] = found
            self._kept += _octets(query, found)
            while self._kept > MOST_KEPT:
                self._kept -= _octets(*self._found.popitem(last=False))

    def _find(self, query: Query) -> Found:
        found = self.search_index.find(query, breadth=Breadth.MORE, within=self._within)
        return found.take(self._within[found.papers])

    @cached_property
    def days(self) -> tuple[date, ...]:
        """Return the days with papers, ascending; only of the papers that are indexed so far."""
        numbers = np.unique(self._newest[self._within])
        return tuple(date.fromordinal(int(number)) for number in numbers)

    @property
    def size(self) -> int:
        """Return the number of papers."""
        return int(np.count_nonzero(self._within))

    @property
    def is_complete(self) -> bool:
        return self.search_index.complete

    def silent_topics(self) -> frozenset[str]:
        """Return the slugs of the curated topics without a recent paper.

        Empty if the papers of fewer than `ENOUGH_DAYS` are known, as on a new site.
        """
        days = self.days
        if not self.is_complete or not days or (days[-1] - days[0]).days + 1 < ENOUGH_DAYS:
            return frozenset()
        return frozenset(
            topic.slug
            for topic in curated.in_use().topics
            if not topic.parsed.is_trending and not self.found(topic.parsed).papers.size
        )

    def phrases(self, query: Query, places: Places) -> dict[int, tuple[str, ...]]:
        """Return the matched phrases of each paper, by place."""
        return self.search_index.phrases(query, places)

    def announced(self, places: Places, first: date, last: date) -> Mask:
        """Return a mask over `places`: last announced from `first` to `last`, both included."""
        days = self._newest[places]
        inside: Mask = (days >= first.toordinal()) & (days <= last.toordinal())
        return inside

    def per_day(self, places: Places) -> dict[date, int]:
        days, numbers = np.unique(self._newest[places], return_counts=True)
        return {date.fromordinal(int(d)): int(n) for d, n in zip(days, numbers, strict=True)}

    def most_upvoted(self, first: date, last: date, most: int) -> Found:
        """Return at most `most` papers with upvotes, highest first; the score is the upvotes."""
        places = np.flatnonzero(self._within & (self.search_index.catalog.upvotes > 0))
        places = places[self.announced(places, first, last)]
        upvotes = self.search_index.catalog.upvotes[places]
        best = np.argsort(-upvotes, kind="stable")[:most]
        sure = np.full(best.size, NARROWEST, dtype=np.int8)
        return Found(places[best], upvotes[best].astype(np.float64), sure)

    def read(self, conn: Connection, places: Iterable[int]) -> dict[int, Paper]:
        """Load papers by place; withdrawn and merged ones are left out."""
        by_id = {int(self.search_index.catalog.ids[place]): place for place in places}
        found = papers.by_ids(conn, by_id)
        return {by_id[id_]: paper for id_, paper in found.items() if not paper.withdrawn}

    @property
    def _newest(self) -> Places:
        return self.search_index.catalog.newest

    @cached_property
    def _within(self) -> Mask:
        mask = np.zeros(self._newest.size, dtype=np.bool_)
        if self._newest.size:
            since = int(self._newest.max()) - timedelta(days=DAYS - 1).days
            mask = self._newest >= since
            mask[: int(self.search_index.starts[0])] = False
        return mask


def _octets(query: str, found: Found) -> int:
    arrays = found.papers.nbytes + found.scores.nbytes + found.breadths.nbytes
    return 4 * len(query) + arrays + 500


class RecentPapers:
    """Provider of the current `RecentWindow`, from the index that all pages share."""

    def __init__(self, live_index: LiveIndex, engine: Engine) -> None:
        self._live_index = live_index
        self._engine = engine
        self._kept: RecentWindow | None = None
        self._counted: RecentWindow | None = None
        self.silent_topics = frozenset[str]()  # as last counted by `count_topics`

    @property
    def is_ready(self) -> bool:
        """Return whether `get` was called before, so that it need not wait for the first index."""
        return self._kept is not None

    def get(self) -> RecentWindow:
        """Return the recent papers, at most one batch behind; cached until the index changes."""
        with read_only(self._engine) as conn:
            self._live_index.catalog(ingest_state.published_batch(conn))  # triggers a refresh
        search_index = self._live_index.current()
        kept = self._kept
        if kept is None or kept.search_index is not search_index:
            kept = self._kept = RecentWindow(search_index)
        return kept

    def count_topics(self) -> None:
        """Update `silent_topics`, once for each index.

        It searches for all curated topics, which takes a second: run it after a response.
        """
        window = self.get()
        if window is not self._counted:
            self._counted = window
            self.silent_topics = window.silent_topics()
