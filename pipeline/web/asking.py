"""What an address asks of a list of papers, and how to write such an address."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from pipeline.domain import TRENDING
from pipeline.errors import QueryError
from pipeline.matching.query import Query, parse
from pipeline.rendering import words
from pipeline.web import curated, periods
from pipeline.web.catalog import Sort
from pipeline.web.periods import Period, Span

_PAGE = re.compile(r"[0-9]{1,6}")


@dataclass(frozen=True, slots=True)
class Asked:
    """The parameters of `/papers`, as understood."""

    q: str = ""  # as typed
    topic: str = ""  # the slug of a curated topic, or a query
    period: Period | None = None
    sort: Sort | None = None  # None: what suits the list
    page: int = 1

    @property
    def topic_query(self) -> str:
        """What the topic looks for; "" for none and for trending, which looks for nothing."""
        known = curated.BY_SLUG.get(self.topic)
        query = known.query if known else self.topic
        return "" if query == TRENDING else query

    @property
    def topic_name(self) -> str:
        known = curated.BY_SLUG.get(self.topic)
        return known.name if known else words.clean(self.topic)

    @property
    def query(self) -> str:
        """Both queries as one text, for a subscription."""
        both = [text for text in (self.topic_query, self.q) if text]
        return both[0] if len(both) == 1 else " AND ".join(f"({text})" for text in both)

    @property
    def is_search(self) -> bool:
        return bool(self.query)

    @property
    def order(self) -> Sort:
        """How the list is sorted. Only what is searched has a best match."""
        if self.sort is None or (self.sort is Sort.BEST and not self.is_search):
            return Sort.BEST if self.is_search else Sort.TRENDING
        return self.sort

    def parsed(self) -> Query | None:
        """Raises QueryError of `q` alone where that is the mistake."""
        if self.q:
            parse(self.q)
        return parse(self.query) if self.query else None

    def but(self, **changes: Any) -> Asked:
        """The same question with a difference; it begins on its first page."""
        return replace(self, **{"page": 1, **changes})

    def address(self, path: str = "/papers") -> str:
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
        """The form, with what was asked here filled in."""
        wanted = self.query if self.q else self.topic
        return f"/subscribe?{urlencode({'topic': wanted})}" if wanted else "/subscribe"


def read(*, q: str, topic: str, date: str, week: str, month: str, sort: str, page: str) -> Asked:
    """Raises ValueError for a period that there is not; a wrong page or order does not matter."""
    return Asked(
        q=q.strip(),
        topic=topic.strip(),
        period=_period({Span.DAY: date, Span.WEEK: week, Span.MONTH: month}),
        sort=Sort(sort) if sort in set(Sort) else None,
        page=int(page) if _PAGE.fullmatch(page) else 1,
    )


def _period(names: dict[Span, str]) -> Period | None:
    given = [(span, name) for span, name in names.items() if name]
    return periods.read(*given[0]) if given else None


@dataclass(frozen=True, slots=True)
class Mistake:
    """A query that cannot be read, in parts: what is before the place, and what begins there."""

    message: str
    before: str
    after: str


def mistake(error: QueryError) -> Mistake:
    typed = "".join(letter if letter.isprintable() else " " for letter in error.query)
    return Mistake(error.message, typed[: error.position], typed[error.position :])


def pages(total: int, size: int) -> int:
    """How many pages so many papers take; an empty list is one page."""
    return max(1, -(-total // size))
