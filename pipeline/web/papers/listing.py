"""Result lists: select, sort and paginate papers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import numpy as np
from sqlalchemy import Connection

from pipeline.matching.query import Query
from pipeline.rendering import Branding
from pipeline.storage import ingest_state
from pipeline.web.papers import periods, views
from pipeline.web.papers.catalog import Catalog, Places, Sort
from pipeline.web.papers.params import ListParams, pages
from pipeline.web.papers.periods import Days, Span
from pipeline.web.papers.search_index import LiveIndex, SearchIndex
from pipeline.web.papers.views import FoundBy, Shown

SIZE = 30  # papers on a page


@dataclass(frozen=True, slots=True)
class SelectedPapers:
    """Sorted result list, as positions in the catalog."""

    catalog: Catalog
    places: Places
    query: Query | None = None
    search_index: SearchIndex | None = None  # the index that was searched; None without a query

    @property
    def total(self) -> int:
        return self.places.size

    @property
    def is_partial(self) -> bool:
        """Return whether older papers are missing because the index is still being built."""
        return self.search_index is not None and not self.search_index.complete

    def show(self, conn: Connection, part: slice, branding: Branding) -> list[Shown]:
        """Load this slice of the list from the database, with the matched words highlighted."""
        places = self.places[part]
        ids = self.catalog.ids
        if self.search_index is None or self.query is None:
            return views.views_of(conn, ids[places].tolist(), branding)
        phrases = self.search_index.phrases(self.query, places)
        found_by = FoundBy(self.query, {int(ids[at]): said for at, said in phrases.items()})
        return views.views_of(conn, ids[places].tolist(), branding, found_by)


@dataclass(frozen=True, slots=True)
class Page:
    """Page of a result list; `number` counts from 1."""

    papers: list[Shown]
    total: int
    number: int
    last: int
    is_partial: bool


def choose(
    live_index: LiveIndex, conn: Connection, query: Query | None, days: Days | None, order: Sort
) -> SelectedPapers:
    """Return the sorted papers of `days` that match `query`; None for either does not filter."""
    if query is None:
        catalog = live_index.catalog(ingest_state.published_batch(conn))
        places = np.flatnonzero(catalog.within(days))
        return SelectedPapers(catalog, catalog.sorted(places, order))
    live_index.catalog(
        ingest_state.published_batch(conn)
    )  # triggers a refresh if a newer batch is published
    search_index = live_index.current()
    catalog, found = search_index.catalog, search_index.find(query)
    inside = catalog.within(days)[found.papers]
    places = catalog.sorted(found.papers[inside], order, found.scores[inside])
    return SelectedPapers(catalog, places, query, search_index)


def page(chosen: SelectedPapers, number: int, conn: Connection, branding: Branding) -> Page:
    """Return page `number`, clamped to the existing pages."""
    last = pages(chosen.total, SIZE)
    number = min(max(number, 1), last)
    part = slice((number - 1) * SIZE, number * SIZE)
    return Page(chosen.show(conn, part, branding), chosen.total, number, last, chosen.is_partial)


def with_period(asked: ListParams, days: tuple[date, ...]) -> ListParams:
    """Return `asked` with the newest day as its period if it has neither a query nor a period."""
    if asked.period is None and not asked.is_search and days:
        return asked.but(period=periods.around(days[-1], Span.DAY), page=asked.page)
    return asked
