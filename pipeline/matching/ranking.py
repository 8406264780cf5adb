"""Matches to picks: which papers fill one reader's digest, and in which order."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from pipeline.domain import Reason
from pipeline.matching.words import STOP_WORDS, forms, stem

UPVOTE_WEIGHT = 0.1  # the most upvotes of the day weigh a tenth of the best score of a topic
NEARLY_EQUAL = 0.99  # Learning to Reason, Reasoning to Learn
NEAR_DUPLICATE = 0.8  # the share of its words that one title has in common with another


@dataclass(frozen=True, slots=True)
class Candidate:
    """A paper that matched a topic. For the trending topic the score is its upvotes."""

    paper: int
    score: float
    phrases: tuple[str, ...] = ()
    title: str = ""
    upvotes: int | None = None


@dataclass(frozen=True, slots=True)
class TopicCandidates:
    """What a topic that the reader follows has to offer, in any order."""

    label: str
    candidates: Sequence[Candidate]


@dataclass(frozen=True, slots=True)
class Picked:
    paper: int
    reasons: tuple[Reason, ...]  # every topic it matched, the best match first
    score: float  # within its best topic: 1 is the best of the day, more by upvotes


@dataclass(frozen=True, slots=True)
class Selection:
    picks: tuple[Picked, ...]
    more: int = 0  # papers that matched too and found no place


@dataclass(frozen=True, slots=True)
class _Offer:
    """A candidate as its topic values it, comparable between topics."""

    value: float
    topic: int
    candidate: Candidate

    @property
    def order(self) -> tuple[float, int]:
        return -self.value, self.candidate.paper


def pick(candidates: Sequence[TopicCandidates], max_papers: int) -> Selection:
    """At most `max_papers`, each once, with a fair share for every topic.

    A turn goes to the topic that got the least so far; a paper counts for every topic it
    matched. Deterministic whatever the order of candidates; ties go to the topic named first,
    then to the lower paper id.
    """
    offers = _offers(candidates)
    by_paper: dict[int, list[_Offer]] = {}
    for offer in sorted((one for topic in offers for one in topic), key=lambda one: one.order):
        by_paper.setdefault(offer.candidate.paper, []).append(offer)
    chosen = _choose(offers, by_paper, max_papers)
    picks = tuple(_picked(by_paper[paper], candidates) for paper in chosen)
    return Selection(picks, more=len(by_paper) - len(picks))


def _choose(
    offers: list[list[_Offer]], by_paper: dict[int, list[_Offer]], max_papers: int
) -> list[int]:
    """First without near-duplicates; they come in where places are left, equal titles never."""
    shelf = _Shelf(by_paper, [0] * len(offers))
    for limit in (NEAR_DUPLICATE, 1.0):
        for paper in _turns(offers, shelf, limit):
            if len(shelf.chosen) >= max_papers:
                return shelf.chosen
            shelf.put(paper)
    return shelf.chosen


@dataclass(slots=True)
class _Shelf:
    """What is chosen so far, and how much of it each topic got."""

    by_paper: dict[int, list[_Offer]]
    shares: list[int]
    chosen: list[int] = field(default_factory=list)
    titles: list[_Title] = field(default_factory=list)

    def put(self, paper: int) -> None:
        self.chosen.append(paper)
        self.titles.append(_title(self.by_paper[paper][0].candidate.title))
        for offer in self.by_paper[paper]:
            self.shares[offer.topic] += 1

    def takes(self, candidate: Candidate, limit: float) -> bool:
        if candidate.paper in self.chosen:
            return False
        title = _title(candidate.title)
        return all(_alike(title, other) < limit for other in self.titles)


def _turns(offers: list[list[_Offer]], shelf: _Shelf, limit: float) -> Iterator[int]:
    """The paper that each next turn brings; whoever takes it puts it on the shelf."""
    waiting = {topic: list(reversed(ours)) for topic, ours in enumerate(offers)}
    while True:
        for ours in waiting.values():
            while ours and not shelf.takes(ours[-1].candidate, limit):
                ours.pop()
        waiting = {topic: ours for topic, ours in waiting.items() if ours}
        if not waiting:
            return
        turn = min(waiting, key=lambda one: (shelf.shares[one], -waiting[one][-1].value, one))
        yield waiting[turn].pop().candidate.paper


def _offers(topics: Sequence[TopicCandidates]) -> list[list[_Offer]]:
    """By topic, best first."""
    most = max([0.0, *(_popularity(one) for topic in topics for one in topic.candidates)]) or 1.0
    return [_offers_of(number, topic.candidates, most) for number, topic in enumerate(topics)]


def _offers_of(topic: int, candidates: Sequence[Candidate], most: float) -> list[_Offer]:
    best = max([0.0, *(one.score for one in candidates)]) or 1.0
    offers = [
        _Offer(one.score / best + UPVOTE_WEIGHT * _popularity(one) / most, topic, one)
        for one in candidates
    ]
    return sorted(offers, key=lambda offer: offer.order)


def _popularity(candidate: Candidate) -> float:
    return math.log1p(max(0, candidate.upvotes or 0))


def _picked(offers: list[_Offer], topics: Sequence[TopicCandidates]) -> Picked:
    reasons = {topics[one.topic].label: one.candidate.phrases for one in reversed(offers)}
    return Picked(
        offers[0].candidate.paper,
        tuple(Reason(label, phrases) for label, phrases in reversed(reasons.items())),
        round(offers[0].value, 6),
    )


class _Title(NamedTuple):
    words: frozenset[str]  # their stems
    letters: str  # without capitals, accents, hyphens and punctuation


@lru_cache(maxsize=1 << 14)  # the papers of one edition meet every reader
def _title(title: str) -> _Title:
    found = forms(title)
    return _Title(frozenset(map(stem, found)) - STOP_WORDS, "".join(found))


def _alike(one: _Title, other: _Title) -> float:
    """The share of common words (Jaccard), below 1 for different titles of the same words.

    Titles without words are like none.
    """
    ours, theirs = one.words, other.words
    if ours and ours == theirs:
        return 1.0 if one.letters == other.letters else NEARLY_EQUAL
    return len(ours & theirs) / len(ours | theirs) if ours and theirs else 0.0
