"""Navigation links of a paper list: other periods, sort orders and pages."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from pipeline.translations import gettext
from pipeline.web.papers import periods
from pipeline.web.papers.catalog import Sort
from pipeline.web.papers.params import ListParams
from pipeline.web.papers.periods import Period, Span


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


def calendar(asked: ListParams, days: tuple[date, ...]) -> Calendar | None:
    """Return links to the nearest periods with papers; None if the list has no period."""
    period = asked.period
    if period is None:
        return None
    anchor = _anchor(period, days)
    return Calendar(
        title=period.title,
        earlier=_step(asked, periods.before(period, days)),
        later=_step(asked, periods.after(period, days)),
        spans=tuple(
            (name, asked.but(period=periods.around(anchor, span)).address(), span is period.span)
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


def _step(asked: ListParams, period: Period | None) -> NavigationLink | None:
    return NavigationLink(period.short, asked.but(period=period).address()) if period else None


def sorts(asked: ListParams) -> tuple[tuple[str, str, bool], ...]:
    """Return (name, URL, is current) of each sort order; best match only if there is a query."""
    names = {
        Sort.BEST: gettext("Best match"),
        Sort.TRENDING: gettext("Trending"),
        Sort.NEWEST: gettext("Newest"),
    }
    return tuple(
        (name, asked.but(sort=sort).address(), sort is asked.order)
        for sort, name in names.items()
        if asked.is_search or sort is not Sort.BEST
    )


def steps(asked: ListParams, number: int, last: int) -> tuple[str | None, str | None]:
    """Return the URLs of the previous and the next page; None where there is none."""
    before = asked.but(page=number - 1).address() if number > 1 else None
    return before, asked.but(page=number + 1).address() if number < last else None
