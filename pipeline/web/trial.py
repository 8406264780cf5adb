"""What a form would bring if it were sent: today's digest, and how many papers there are. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

from pipeline.domain import TRENDING, Paper
from pipeline.matching.ranking import Candidate, Picked, Selection, TopicCandidates, pick
from pipeline.rendering import House, views, words
from pipeline.rendering.views import Card
from pipeline.web.recent import Recent
from pipeline.web.wishing import Asked, Mistake

WEEK: Final = timedelta(days=7)
TRENDING_POOL: Final = 300
FLOOD: Final = 20  # papers a day
TRICKLE: Final = 1  # papers a week
ENOUGH_DAYS: Final = 5  # with news, to speak of an average
ROOM: Final = views.Room(abstract=0, phrases=4, links=1)
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


@dataclass(frozen=True, slots=True)
class Trial:
    rates: tuple[Rate, ...]
    together: Rate | None  # where there is more than one topic to count
    heading: str  # "Your digest of Friday, 31 July 2026"
    cards: tuple[Card, ...]
    more: int
    counted: str  # "Counted over the 21 days with news of 2 to 31 July."


def trial(
    recent: Recent, asked: Sequence[Asked], max_papers: int, house: House, *, weekly: bool
) -> Trial | None:
    """None as long as there are no papers to try it on."""
    newest = recent.newest
    if newest is None:
        return None
    heading, selection = _digest(recent, asked, max_papers, newest, weekly=weekly)
    return Trial(
        rates=tuple(_rate(recent, topic) for topic in asked),
        together=_together(recent, asked),
        heading=heading,
        cards=tuple(_card(recent.papers[one.paper], one, house) for one in selection.picks),
        more=selection.more,
        counted=_counted(recent.days) if any(_is_counted(topic) for topic in asked) else "",
    )


# --- The digest ---------------------------------------------------------------------------------


def _digest(
    recent: Recent, asked: Sequence[Asked], most: int, newest: date, *, weekly: bool
) -> tuple[str, Selection]:
    """Of the newest day, or of the week up to it where that is asked for, or nothing else came."""
    today = Selection(())
    if not weekly:
        today = _selected(recent, asked, most, newest, newest)
        if today.picks:
            return f"Your digest of {words.full_day(newest)}", today
    week = _selected(recent, asked, most, newest - WEEK + timedelta(days=1), newest)
    span = f"the seven days up to {words.full_day(newest)}"
    return (f"Your digest of {span}" if weekly else f"Nothing today; in {span}"), week


def _selected(
    recent: Recent, asked: Sequence[Asked], most: int, first: date, last: date
) -> Selection:
    offers = [
        TopicCandidates(topic.label, list(_candidates(recent, topic, most, first, last)))
        for topic in asked
        if topic.query
    ]
    return pick(offers, most)


def _candidates(
    recent: Recent, topic: Asked, most: int, first: date, last: date
) -> Iterator[Candidate]:
    if topic.query == TRENDING:
        yield from _trending(recent, most, last)
        return
    for found in recent.search(topic.query):
        paper = recent.papers[found.paper]
        if first <= paper.announced_on <= last:
            yield Candidate(found.paper, found.score, found.phrases, paper.title, paper.upvotes)


def _trending(recent: Recent, most: int, last: date) -> list[Candidate]:
    """The most upvoted of the last days, as many as a mail takes."""
    candidates = [
        Candidate(number, float(paper.upvotes), (), paper.title, paper.upvotes)
        for number, paper in enumerate(recent.papers)
        if paper.upvotes and paper.announced_on > last - WEEK
    ]
    return sorted(candidates, key=lambda one: (-one.score, one.paper))[:most]


def _card(paper: Paper, picked: Picked, house: House) -> Card:
    return views.card(paper, views.reasons(picked.reasons, ROOM), house, ROOM)


# --- How many papers ----------------------------------------------------------------------------


def _rate(recent: Recent, topic: Asked) -> Rate:
    if topic.mistake:
        return Rate(topic.label, mistake=topic.mistake)
    if topic.query == TRENDING:
        return Rate(topic.label, pace="the most upvoted papers of the week")
    return _counted_rate(topic.label, _found(recent, topic.query), recent)


def _together(recent: Recent, asked: Iterable[Asked]) -> Rate | None:
    queries = {topic.query for topic in asked if _is_counted(topic)}
    if len(queries) < 2:
        return None
    found = set[int]().union(*(_found(recent, query) for query in queries))
    return _counted_rate("Together", found, recent)


def _is_counted(topic: Asked) -> bool:
    """Trending has as many papers as are wanted."""
    return topic.query not in {"", TRENDING}


def _found(recent: Recent, query: str) -> set[int]:
    return {one.paper for one in recent.search(query)}


def _counted_rate(label: str, found: set[int], recent: Recent) -> Rate:
    """Averages over days on which anything was announced: a weekend says nothing about a topic."""
    by_day = Counter(recent.papers[number].announced_on for number in found)
    days = len(recent.days)
    a_day = len(found) / days
    span = (recent.days[-1] - recent.days[0]).days + 1
    a_week = a_day * min(7.0, 7 * days / span) if span >= WEEK.days else a_day * 5
    hint = _hint(len(found), a_day, a_week)
    silent = days - len(by_day) if found else 0
    return Rate(
        label,
        pace=_pace(len(found), a_day, a_week, span),
        silence=f"nothing on {silent} of {words.count(days, 'day', 'days')}" if silent else "",
        hint=hint,
    )


def _hint(found: int, a_day: float, a_week: float) -> str:
    if not found:
        return BARREN
    if a_day > FLOOD:
        return DROWNS
    return STARVES if a_week < TRICKLE else ""


def _pace(found: int, a_day: float, a_week: float, span: int) -> str:
    if not found:
        return "no paper in these days"
    if a_day >= 1:
        return f"about {words.count(round(a_day), 'paper', 'papers')} a day"
    if a_week >= 1:
        return f"about {words.count(round(a_week), 'paper', 'papers')} a week"
    return f"{words.count(found, 'paper', 'papers')} in {words.count(span, 'day', 'days')}"


def _counted(days: Sequence[date]) -> str:
    span = words.days(days[0], days[-1])
    if len(days) < ENOUGH_DAYS:
        return f"Counted over {words.count(len(days), 'day', 'days')} only: {span}."
    return f"Counted over the {len(days)} days with news of {span}."
