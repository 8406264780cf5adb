"""Result lists: select, sort and paginate papers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import numpy as np
from sqlalchemy import Connection

from pipeline.matching.query import Query
from pipeline.rendering import House
from pipeline.storage import batches
from pipeline.web import periods, showing
from pipeline.web.asking import Asked, pages
from pipeline.web.catalog import Catalog, Places, Sort
from pipeline.web.library import Library, Shelves
from pipeline.web.periods import Days, Span
from pipeline.web.showing import FoundBy, Shown

SIZE = 30  # papers on a page


@dataclass(frozen=True, slots=True)
class Chosen:
    """Sorted result list, as positions in the catalog."""

    catalog: Catalog
    places: Places
    query: Query | None = None
    shelves: Shelves | None = None  # the index that was searched; None without a query

    @property
    def total(self) -> int:
        return self.places.size

    @property
    def is_partial(self) -> bool:
        """Return whether older papers are missing because the index is still being built."""
        return self.shelves is not None and not self.shelves.complete

    def show(self, conn: Connection, part: slice, house: House) -> list[Shown]:
        """Load this slice of the list from the database, with the matched words highlighted."""
        places = self.places[part]
        ids = self.catalog.ids
        if self.shelves is None or self.query is None:
            return showing.shown(conn, ids[places].tolist(), house)
        phrases = self.shelves.phrases(self.query, places)
        found_by = FoundBy(self.query, {int(ids[at]): said for at, said in phrases.items()})
        return showing.shown(conn, ids[places].tolist(), house, found_by)


@dataclass(frozen=True, slots=True)
class Page:
    """Page of a result list; `number` counts from 1."""

    papers: list[Shown]
    total: int
    number: int
    last: int
    is_partial: bool


def choose(
    library: Library, conn: Connection, query: Query | None, days: Days | None, order: Sort
) -> Chosen:
    """Return the sorted papers of `days` that match `query`; None for either does not filter."""
    if query is None:
        catalog = library.catalog(batches.published(conn))
        places = np.flatnonzero(catalog.within(days))
        return Chosen(catalog, catalog.sorted(places, order))
    library.catalog(batches.published(conn))  # triggers a refresh if a newer batch is published
    shelves = library.shelves()
    catalog, found = shelves.catalog, shelves.find(query)
    inside = catalog.within(days)[found.papers]
    places = catalog.sorted(found.papers[inside], order, found.scores[inside])
    return Chosen(catalog, places, query, shelves)


def page(chosen: Chosen, number: int, conn: Connection, house: House) -> Page:
    """Return page `number`, clamped to the existing pages."""
    last = pages(chosen.total, SIZE)
    number = min(max(number, 1), last)
    part = slice((number - 1) * SIZE, number * SIZE)
    return Page(chosen.show(conn, part, house), chosen.total, number, last, chosen.is_partial)


def with_period(asked: Asked, days: tuple[date, ...]) -> Asked:
    """Return `asked` with the newest day as its period if it has neither a query nor a period."""
    if asked.period is None and not asked.is_search and days:
        return asked.but(period=periods.around(days[-1], Span.DAY), page=asked.page)
    return asked
