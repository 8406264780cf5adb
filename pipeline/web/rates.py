"""How often topics bring papers, in words: too many, too few, and what to write instead. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

from pipeline.rendering import words
from pipeline.web.wishing import Mistake

DAYS: Final = 30  # that are looked at
FLOOD: Final = 20  # papers a day
TRICKLE: Final = 1  # papers a week
WEEK: Final = 7
NARROWER, BROADER = 0.7, 1.5  # of the papers: what is worth suggesting
OVERLAP: Final = 0.5  # of a topic's papers that another brings too: worth telling
LEAST_SHARED: Final = 3  # papers
DROWNS: Final = (
    "That is a lot. The best come first; a narrower topic shows you more of what you are after."
)
BARREN: Final = "Perhaps it is written in another way, or this site does not read that field."
STARVES: Final = "That is rare. On a day without a paper for you, no mail comes."


@dataclass(frozen=True, slots=True)
class Rate:
    """How often a topic, or all of them together, brings papers."""

    label: str
    pace: str = ""  # "about 12 papers a day"
    silence: str = ""  # "nothing on 3 of 20 days"
    hint: str = ""
    mistake: Mistake | None = None
    instead: tuple[Instead, ...] = ()


@dataclass(frozen=True, slots=True)
class Instead:
    """Another way to write a topic."""

    word: str  # "Narrower", "Broader"
    query: str
    pace: str


@dataclass(frozen=True, slots=True)
class Count:
    """The papers of a topic on days on which anything was announced.

    A weekend says nothing about a topic, so it is not among them.
    """

    papers: int
    silent: int  # days without a paper
    days: int
    span: int  # in days of the calendar

    @property
    def a_day(self) -> float:
        return self.papers / self.days

    @property
    def a_week(self) -> float:
        if self.span < WEEK:
            return self.a_day * 5
        return self.a_day * min(7.0, 7 * self.days / self.span)

    @property
    def is_flood(self) -> bool:
        return self.a_day > FLOOD

    @property
    def is_trickle(self) -> bool:
        return self.a_week < TRICKLE


def count(per_day: Mapping[date, int], days: Sequence[date]) -> Count:
    """Of the papers on each day, among the days with news, in order."""
    span = (days[-1] - days[0]).days + 1
    return Count(sum(per_day.values()), len(days) - len(per_day), len(days), span)


def rate(label: str, counted: Count, *, more: Iterable[str] = ()) -> Rate:
    """`more` are sentences that come before the hint."""
    silent = counted.silent if counted.papers else 0
    days = words.count(counted.days, "day", "days")
    return Rate(
        label,
        pace=pace(counted),
        silence=f"nothing on {silent} of {days}" if silent else "",
        hint=" ".join(filter(None, (*more, _hint(counted)))),
    )


def pace(counted: Count) -> str:
    if not counted.papers:
        return "no paper in these days"
    if counted.a_day >= 1:
        return f"about {words.count(round(counted.a_day), 'paper', 'papers')} a day"
    if counted.a_week >= 1:
        return f"about {words.count(round(counted.a_week), 'paper', 'papers')} a week"
    days = words.count(counted.span, "day", "days")
    return f"{words.count(counted.papers, 'paper', 'papers')} in {days}"


def narrower(counted: Count, others: Mapping[str, Count]) -> Instead | None:
    """Of these queries the one that leaves most and still takes a good part away."""
    fewer = {q: one for q, one in others.items() if 0 < one.papers <= NARROWER * counted.papers}
    best = max(fewer, key=lambda query: fewer[query].papers, default=None)
    return None if best is None else Instead("Narrower", best, pace(fewer[best]))


def broader(counted: Count, others: Mapping[str, Count]) -> Instead | None:
    """Of these queries the one that adds least and yet is worth it, short of a flood."""
    least = max(1.0, BROADER * counted.papers)
    more = {q: one for q, one in others.items() if one.papers >= least and not one.is_flood}
    best = min(more, key=lambda query: more[query].papers, default=None)
    return None if best is None else Instead("Broader", best, pace(more[best]))


def overlap(own: Collection[int], others: Mapping[str, Collection[int]]) -> str:
    """Which other topic brings most of the same papers; "" where none brings half of them."""
    papers = set(own)
    shared = {label: len(papers.intersection(theirs)) for label, theirs in others.items()}
    best = max(shared, key=lambda label: shared[label], default="")
    if not best or shared[best] < max(LEAST_SHARED, OVERLAP * len(papers)):
        return ""
    return f"{shared[best]} of its {len(papers)} papers come with “{best}” too."


def _hint(counted: Count) -> str:
    if not counted.papers:
        return BARREN
    if counted.is_flood:
        return DROWNS
    return STARVES if counted.is_trickle else ""
