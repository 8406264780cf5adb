"""Lists of papers: query parameters, selection, pages, and links to other periods and orders."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import date
from typing import Any
from urllib.parse import urlencode

import numpy as np
from sqlalchemy import Connection

from pipeline.domain import TRENDING
from pipeline.errors import QueryError
from pipeline.matching.index import Found
from pipeline.matching.query import Phrase, Query, Words, author_topic, parse
from pipeline.rendering import Branding, formatting
from pipeline.storage import ingest_state
from pipeline.translations import gettext
from pipeline.web.papers import periods, views
from pipeline.web.papers.periods import Days, Period, Span
from pipeline.web.papers.search_index import Catalog, LiveIndex, Mask, Places, SearchIndex, Sort
from pipeline.web.papers.views import FoundBy, PaperInList
from pipeline.web.subscribe import curated

# --- Query parameters ---------------------------------------------------------------------------

_PAGE = re.compile(r"[0-9]{1,6}")


@dataclass(frozen=True, slots=True)
class ListParams:
    """Parsed query parameters of `/papers`."""

    q: str = ""  # as typed
    topic: str = ""  # the slug of a curated topic, or a query
    period: Period | None = None
    sort: Sort | None = None  # None: the default of the list (see `order`)
    page: int = 1

    @property
    def topic_query(self) -> str:
        """Return the query of the topic; "" if there is no topic, and for trending."""
        known = curated.in_use().by_slug.get(self.topic)
        query = known.query if known else self.topic
        return "" if query == TRENDING else query

    @property
    def topic_name(self) -> str:
        known = curated.in_use().by_slug.get(self.topic)
        return known.name if known else formatting.clean(self.topic)

    @property
    def query(self) -> str:
        """Return the topic's query and `q`, joined with AND if both are given."""
        both = [text for text in (self.topic_query, self.q) if text]
        return both[0] if len(both) == 1 else " AND ".join(f"({text})" for text in both)

    @property
    def is_search(self) -> bool:
        return bool(self.query)

    @property
    def order(self) -> Sort:
        """Return the sort order. "best" needs a query and is then the default, else "trending"."""
        if self.sort is None or (self.sort is Sort.BEST and not self.is_search):
            return Sort.BEST if self.is_search else Sort.TRENDING
        return self.sort

    def parsed(self) -> Query | None:
        """Return the parsed query; None if there is none.

        Raise QueryError if it is invalid; `q` is parsed first by itself, so that the position of
        an error in it refers to the typed text.
        """
        typed = parse(self.q) if self.q else None
        if self.topic_query:
            return parse(self.query)
        return typed

    def but(self, **changes: Any) -> ListParams:
        """Return a copy with some parameters changed; the page is reset to 1 unless given."""
        return replace(self, **{"page": 1, **changes})

    def address(self, path: str = "/papers") -> str:
        """Return the path with all parameters that are not the default."""
        parameters = {
            "q": self.q,
            "topic": self.topic,
            self.period.span if self.period else "date": self.period.name if self.period else "",
            "sort": self.sort or "",
            "page": str(self.page) if self.page > 1 else "",
        }
        given = urlencode({str(name): value for name, value in parameters.items() if value})
        return f"{path}?{given}" if given else path

    def subscribe(self) -> str:
        """Return the URL of the sign-up form, prefilled with the query or topic."""
        topic = self.query if self.q else self.topic
        return f"/subscribe?{urlencode({'topic': topic})}" if topic else "/subscribe"


def parse_params(
    *, q: str, topic: str, date: str, week: str, month: str, sort: str, page: str
) -> ListParams:
    """Parse the parameters. Raise ValueError if the period is invalid.

    An invalid page or sort order is replaced by the default. Of several periods the shortest
    counts.
    """
    return ListParams(
        q=q.strip(),
        topic=topic.strip(),
        period=_period({Span.DAY: date, Span.WEEK: week, Span.MONTH: month}),
        sort=Sort(sort) if sort in set(Sort) else None,
        page=int(page) if _PAGE.fullmatch(page) else 1,
    )


def _period(names: dict[Span, str]) -> Period | None:
    given = [(span, name) for span, name in names.items() if name]
    return periods.parse(*given[0]) if given else None


@dataclass(frozen=True, slots=True)
class QueryMistake:
    """Syntax error of a query: the text before its position, and the text from there on."""

    message: str
    before: str
    after: str


def mistake(error: QueryError) -> QueryMistake:
    """Split the query at the error, with a space for each unprintable character."""
    typed = "".join(letter if letter.isprintable() else " " for letter in error.query)
    return QueryMistake(error.message, typed[: error.position], typed[error.position :])


# --- Selection and pages ------------------------------------------------------------------------

SIZE = 30  # papers on a page
PARTIAL = 300  # papers listed that match only in part


@dataclass(frozen=True, slots=True)
class SelectedPapers:
    """Sorted result list, as positions in the catalog."""

    catalog: Catalog
    places: Places
    partial: int = 0  # of them, at the end: papers that match only in part
    query: Query | None = None
    search_index: SearchIndex | None = None  # the index that was searched; None without a query
    author: str = ""  # the query for the author whose papers come first

    @property
    def total(self) -> int:
        return self.places.size

    @property
    def is_partial(self) -> bool:
        """Return whether older papers are missing because the index is still being built."""
        return self.search_index is not None and not self.search_index.complete

    @property
    def since(self) -> date | None:
        """Return the day of the oldest paper that was searched; None if all papers were."""
        return self.search_index.since if self.search_index else None

    def show(self, conn: Connection, part: slice, branding: Branding) -> list[PaperInList]:
        """Load this slice of the list from the database, with the matched words highlighted."""
        places = self.places[part]
        ids = self.catalog.ids
        if self.search_index is None or self.query is None:
            return views.views_of(conn, ids[places].tolist(), branding)
        phrases = self.search_index.phrases(self.query, places)
        found_by = FoundBy(self.query, {int(ids[place]): texts for place, texts in phrases.items()})
        return views.views_of(conn, ids[places].tolist(), branding, found_by)


@dataclass(frozen=True, slots=True)
class Page:
    """Page of a result list; `number` counts from 1."""

    papers: list[PaperInList]
    total: int
    number: int
    last: int
    partial: int  # papers of all pages that match only in part; they come last
    is_partial: bool
    searched: int  # papers
    since: str  # the day of the oldest of them; "" if no older paper is stored


def choose(
    live_index: LiveIndex,
    conn: Connection,
    query: Query | None,
    days: Days | None,
    order: Sort,
    *,
    typed: str = "",
) -> SelectedPapers:
    """Return the sorted papers of `days` that match `query`; None for either does not filter.

    If a visitor `typed` the query, papers by an author of that name and the best `PARTIAL` papers
    below the threshold of mails are found, too; the latter come last.
    """
    if query is None:
        catalog = live_index.catalog(ingest_state.published_batch(conn))
        places = np.flatnonzero(catalog.within(days))
        return SelectedPapers(catalog, catalog.sorted(places, order))
    live_index.catalog(
        ingest_state.published_batch(conn)
    )  # triggers a refresh if a newer batch is published
    search_index = live_index.current()
    catalog = search_index.catalog
    within = catalog.within(days)
    places = _sorted(search_index, search_index.find(query), within, order)
    if not typed:
        return SelectedPapers(catalog, places, query=query, search_index=search_index)
    author = author_query(query, typed)
    if author:
        written = _sorted(search_index, search_index.find(parse(author)), within, order)
        # A single word is more often a subject than a name.
        is_subject = bool(places.size) and " " not in typed.strip()
        first, second = (places, written) if is_subject else (written, places)
        author = "" if is_subject or not written.size else author
        places = np.concatenate([first, _without(second, first)])
    weaker = _sorted(search_index, search_index.find(query, floor=False), within, Sort.BEST)
    weaker = _without(weaker, places)[:PARTIAL]
    return SelectedPapers(
        catalog, np.concatenate([places, weaker]), weaker.size, query, search_index, author
    )


def author_query(query: Query, typed: str) -> str:
    """Return a query for papers by the author `typed`; "" if it is no name of up to 4 words."""
    if not isinstance(query, Words | Phrase) or len(query.forms) > 4:
        return ""
    try:
        return author_topic(typed).typed
    except QueryError:
        return ""


def _sorted(search_index: SearchIndex, found: Found, within: Mask, order: Sort) -> Places:
    inside = within[found.papers]
    return search_index.catalog.sorted(found.papers[inside], order, found.scores[inside])


def _without(places: Places, others: Places) -> Places:
    return places[~np.isin(places, others)]


def page(selected: SelectedPapers, number: int, conn: Connection, branding: Branding) -> Page:
    """Return page `number`, clamped to the existing pages."""
    last = pages(selected.total, SIZE)
    number = min(max(number, 1), last)
    part = slice((number - 1) * SIZE, number * SIZE)
    return Page(
        selected.show(conn, part, branding),
        selected.total,
        number,
        last,
        selected.partial,
        selected.is_partial,
        selected.search_index.size if selected.search_index else selected.catalog.size,
        formatting.full_day(selected.since) if selected.since else "",
    )


def with_period(params: ListParams, days: tuple[date, ...]) -> ListParams:
    """Return `params` with the newest day as its period if it has neither a query nor a period."""
    if params.period is None and not params.is_search and days:
        return params.but(period=periods.around(days[-1], Span.DAY), page=params.page)
    return params


def pages(total: int, size: int) -> int:
    """Return the number of pages for `total` papers; an empty list has one page."""
    return max(1, -(-total // size))


# --- Links --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NavigationLink:
    """Link to a period."""

    label: str
    address: str


@dataclass(frozen=True, slots=True)
class Calendar:
    """Period of the list, with links to others."""

    title: str
    earlier: NavigationLink | None
    later: NavigationLink | None
    spans: tuple[tuple[str, str, bool], ...]  # Day, Week, Month: (name, URL, is current)


def calendar(params: ListParams, days: tuple[date, ...]) -> Calendar | None:
    """Return links to the nearest periods with papers; None if the list has no period."""
    period = params.period
    if period is None:
        return None
    anchor = _anchor(period, days)
    return Calendar(
        title=period.title,
        earlier=_step(params, periods.before(period, days)),
        later=_step(params, periods.after(period, days)),
        spans=tuple(
            (name, params.but(period=periods.around(anchor, span)).address(), span is period.span)
            for name, span in (
                (gettext("Day"), Span.DAY),
                (gettext("Week"), Span.WEEK),
                (gettext("Month"), Span.MONTH),
            )
        ),
    )


def _anchor(period: Period, days: tuple[date, ...]) -> date:
    """Return the last day with papers, or the first day if none; shorter periods contain it."""
    inside = [day for day in days if day in period]
    return inside[-1] if inside else period.first


def _step(params: ListParams, period: Period | None) -> NavigationLink | None:
    return NavigationLink(period.short, params.but(period=period).address()) if period else None


def sorts(params: ListParams) -> tuple[tuple[str, str, bool], ...]:
    """Return (name, URL, is current) of each sort order; best match only if there is a query."""
    names = {
        Sort.BEST: gettext("Best match"),
        Sort.TRENDING: gettext("Trending"),
        Sort.NEWEST: gettext("Newest"),
    }
    return tuple(
        (name, params.but(sort=sort).address(), sort is params.order)
        for sort, name in names.items()
        if params.is_search or sort is not Sort.BEST
    )


def steps(params: ListParams, number: int, last: int) -> tuple[str | None, str | None]:
    """Return the URLs of the previous and the next page; None where there is none."""
    before = params.but(page=number - 1).address() if number > 1 else None
    return before, params.but(page=number + 1).address() if number < last else None
