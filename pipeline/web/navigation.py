"""The links of a list of papers: to other days, other orders, other pages."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from pipeline.web import periods
from pipeline.web.asking import Asked
from pipeline.web.catalog import Sort
from pipeline.web.periods import Period, Span


@dataclass(frozen=True, slots=True)
class Step:
    """A link to a period."""

    label: str
    address: str


@dataclass(frozen=True, slots=True)
class Calendar:
    """The period that is shown, and the ways to others."""

    title: str
    earlier: Step | None
    later: Step | None
    spans: tuple[tuple[str, str, bool], ...]  # Day, Week, Month: name, address, is it this one


def calendar(asked: Asked, days: tuple[date, ...]) -> Calendar | None:
    """Where the list stands among the periods that have papers."""
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
            for name, span in (("Day", Span.DAY), ("Week", Span.WEEK), ("Month", Span.MONTH))
        ),
    )


def _anchor(period: Period, days: tuple[date, ...]) -> date:
    """The last day of the period that has papers: where a shorter period is looked for."""
    inside = [day for day in days if day in period]
    return inside[-1] if inside else period.first


def _step(asked: Asked, period: Period | None) -> Step | None:
    return Step(period.short, asked.but(period=period).address()) if period else None


def sorts(asked: Asked) -> tuple[tuple[str, str, bool], ...]:
    names = {Sort.BEST: "Best match", Sort.TRENDING: "Trending", Sort.NEWEST: "Newest"}
    return tuple(
        (name, asked.but(sort=sort).address(), sort is asked.order)
        for sort, name in names.items()
        if asked.is_search or sort is not Sort.BEST
    )


def steps(asked: Asked, number: int, last: int) -> tuple[str | None, str | None]:
    """The addresses of the page before and the page after."""
    before = asked.but(page=number - 1).address() if number > 1 else None
    return before, asked.but(page=number + 1).address() if number < last else None
