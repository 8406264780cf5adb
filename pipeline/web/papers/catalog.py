"""Arrays with the sort keys of all visible papers, to select and sort lists in memory."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from functools import cached_property

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection

from pipeline.storage import ingest_state
from pipeline.storage import papers as catalog
from pipeline.storage.papers import Listed
from pipeline.web.papers.periods import Days

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


def load(conn: Connection, *, most: int = MOST) -> Catalog:
    """Load the `most` newest papers of the published batch from the database."""
    batch = ingest_state.published_batch(conn)
    return _catalog(batch, catalog.listed(conn, through_batch=batch, limit=most))


def _catalog(batch: int, papers: list[Listed]) -> Catalog:
    return Catalog(
        batch=batch,
        ids=_array([paper.id for paper in papers]),
        versions=_array([paper.version for paper in papers]),
        upvotes=_array([paper.upvotes for paper in papers]),
        newest=_array([paper.days[-1].toordinal() for paper in papers]),
        sighted=_array([place for place, paper in enumerate(papers) for _ in paper.days]),
        sighted_on=_array([day.toordinal() for paper in papers for day in paper.days]),
    )


def _array(numbers: list[int]) -> Places:
    return np.array(numbers, dtype=np.int64)
