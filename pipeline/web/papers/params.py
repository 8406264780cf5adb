"""Query parameters of the paper list: parse them, and build URLs from them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from pipeline.domain import TRENDING
from pipeline.errors import QueryError
from pipeline.matching.query import Query, parse
from pipeline.rendering import formatting
from pipeline.web.papers import periods
from pipeline.web.papers.catalog import Sort
from pipeline.web.papers.periods import Period, Span
from pipeline.web.subscribe import curated

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
        known = curated.BY_SLUG.get(self.topic)
        query = known.query if known else self.topic
        return "" if query == TRENDING else query

    @property
    def topic_name(self) -> str:
        known = curated.BY_SLUG.get(self.topic)
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
        wanted = self.query if self.q else self.topic
        return f"/subscribe?{urlencode({'topic': wanted})}" if wanted else "/subscribe"


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


def pages(total: int, size: int) -> int:
    """Return the number of pages for `total` papers; an empty list has one page."""
    return max(1, -(-total // size))
