"""Select and order the papers of one reader's digest from the matches of their topics.

A paper's value in a topic is its score, as a share of the best one of the day, plus a little for
upvotes, plus what the reader's profile adds or takes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from operator import itemgetter
from typing import NamedTuple

from pipeline.domain import Reason
from pipeline.matching.tokens import STOP_WORDS, forms, stem

UPVOTE_WEIGHT = 0.1  # the most upvotes of the day add a tenth of the best score of a topic
NOTED = 0.01  # likeness from which a better place is put down to what the reader liked
LIKING_WEIGHT = 3.0  # a profile adds so many times the likeness, which is at most 0.2
FILTERED = 0.5  # value of the best paper of a topic without words: half of the best match of words
NEARLY_EQUAL = 0.99  # Learning to Reason, Reasoning to Learn
NEAR_DUPLICATE = 0.8  # the share of words that two titles have in common


@dataclass(frozen=True, slots=True)
class Candidate:
    """A paper that matched a topic. For the trending topic the score is its upvotes."""

    paper: int
    score: float
    phrases: tuple[str, ...] = ()
    title: str = ""
    upvotes: int | None = None
    day: int = 0  # ordinal of the announcement date
    likeness: float = 0.0  # to papers that the reader liked; see matching.profile


@dataclass(frozen=True, slots=True)
class TopicCandidates:
    """The candidates of one topic that the reader follows, in any order."""

    label: str
    candidates: Sequence[Candidate]


@dataclass(frozen=True, slots=True)
class Picked:
    paper: int
    reasons: tuple[Reason, ...]  # every topic it matched, the best match first
    score: float  # in its best topic: 1 for the best match of the day, plus upvotes and likeness
    rose: bool = False  # the profile put it before another paper of the topic


@dataclass(frozen=True, slots=True)
class Selection:
    picks: tuple[Picked, ...]
    more: int = 0  # papers that matched but did not fit
    unpicked: tuple[int, ...] = ()  # the same, best first


@dataclass(frozen=True, slots=True)
class _Offer:
    """A candidate and its value in one topic, which is comparable between topics."""

    value: float
    topic: int
    candidate: Candidate
    rose: bool = False

    @property
    def order(self) -> tuple[float, int]:
        return -self.value, self.candidate.paper


def pick(candidates: Sequence[TopicCandidates], max_papers: int) -> Selection:
    """Select at most `max_papers` distinct papers, with a fair share for every topic.

    A turn goes to the topic with the fewest papers so far; a paper counts for every topic it
    matched. The result does not depend on the order of candidates: if topics tie, the better
    candidate wins, then the topic listed first; in a topic, equal papers are ordered by id.
    """
    offers = _offers(candidates)
    by_paper: dict[int, list[_Offer]] = {}
    for offer in sorted((one for topic in offers for one in topic), key=lambda one: one.order):
        by_paper.setdefault(offer.candidate.paper, []).append(offer)
    chosen = _choose(offers, by_paper, max_papers)
    picks = tuple(_picked(by_paper[paper], candidates) for paper in chosen)
    taken = set(chosen)
    unpicked = tuple(paper for paper in by_paper if paper not in taken)
    return Selection(picks, len(unpicked), unpicked)


def _choose(
    offers: list[list[_Offer]], by_paper: dict[int, list[_Offer]], max_papers: int
) -> list[int]:
    """Choose papers without near-duplicates; add those if places are left, but no equal titles."""
    segment = _Bucket(by_paper, [0] * len(offers))
    for limit in (NEAR_DUPLICATE, 1.0):
        for paper in _turns(offers, segment, limit):
            if len(segment.chosen) >= max_papers:
                return segment.chosen
            segment.put(paper)
    return segment.chosen


@dataclass(slots=True)
class _Bucket:
    """The papers chosen so far, and how many of them each topic got."""

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


def _turns(offers: list[list[_Offer]], segment: _Bucket, limit: float) -> Iterator[int]:
    """Yield the paper of each turn; the caller puts it on the shelf if it takes it."""
    waiting = {topic: list(reversed(ours)) for topic, ours in enumerate(offers)}
    while True:
        for ours in waiting.values():
            while ours and not segment.takes(ours[-1].candidate, limit):
                ours.pop()
        waiting = {topic: ours for topic, ours in waiting.items() if ours}
        if not waiting:
            return
        turn = min(waiting, key=lambda one: (segment.shares[one], -waiting[one][-1].value, one))
        yield waiting[turn].pop().candidate.paper


def _offers(topics: Sequence[TopicCandidates]) -> list[list[_Offer]]:
    """Return the offers of each topic, best first."""
    most = max([0.0, *(_popularity(one) for topic in topics for one in topic.candidates)]) or 1.0
    offers = [_offers_of(number, topic.candidates, most) for number, topic in enumerate(topics)]
    by_words: dict[int, float] = {}
    for ours in offers:
        if not _only_filters(ours):
            for offer in ours:
                paper = offer.candidate.paper
                by_words[paper] = max(offer.value, by_words.get(paper, 0.0))
    return [_spread(ours, by_words) if _only_filters(ours) else ours for ours in offers]


def _only_filters(offers: list[_Offer]) -> bool:
    """Return whether the topic has no words: a category or an author, whose papers score alike."""
    return len(offers) > 1 and len({offer.candidate.score for offer in offers}) == 1


def _spread(offers: list[_Offer], by_words: Mapping[int, float]) -> list[_Offer]:
    """Order the papers of a topic without words, taking turns between the days they cover.

    In a day, papers that also match topics with words come first, then those with more upvotes,
    then newer ones. Values fall with the order, from `FILTERED`.
    """
    ordered = sorted(
        offers,
        key=lambda one: (by_words.get(one.candidate.paper, 0.0), one.value, one.candidate.paper),
        reverse=True,
    )
    turn: Counter[int] = Counter()
    places = []
    for offer in ordered:
        day = offer.candidate.day
        places.append((turn[day], -day))
        turn[day] += 1
    spread = [offer for _, offer in sorted(zip(places, ordered, strict=True), key=itemgetter(0))]
    return [replace(one, value=FILTERED * (1 - n / len(spread))) for n, one in enumerate(spread)]


def _offers_of(topic: int, candidates: Sequence[Candidate], most: float) -> list[_Offer]:
    best = max([0.0, *(one.score for one in candidates)]) or 1.0
    if any(one.likeness for one in candidates):
        return _by_likeness(topic, candidates, best, most)
    offers = [
        _Offer(one.score / best + UPVOTE_WEIGHT * _popularity(one) / most, topic, one)
        for one in candidates
    ]
    return sorted(offers, key=lambda offer: offer.order)


def _by_likeness(
    topic: int, candidates: Sequence[Candidate], best: float, most: float
) -> list[_Offer]:
    """Return the offers with what the profile adds, best first; mark those that rise by it."""
    usual = sorted(
        (-(one.score / best + UPVOTE_WEIGHT * _popularity(one) / most), one.paper, number)
        for number, one in enumerate(candidates)
    )
    ordered = sorted(
        (value - LIKING_WEIGHT * candidates[number].likeness, paper, number, place)
        for place, (value, paper, number) in enumerate(usual)
    )
    return [
        _Offer(
            -value, topic, candidates[number], candidates[number].likeness >= NOTED and new < place
        )
        for new, (value, _, number, place) in enumerate(ordered)
    ]


def _popularity(candidate: Candidate) -> float:
    return math.log1p(max(0, candidate.upvotes or 0))


def _picked(offers: list[_Offer], topics: Sequence[TopicCandidates]) -> Picked:
    reasons = {topics[one.topic].label: one.candidate.phrases for one in reversed(offers)}
    return Picked(
        offers[0].candidate.paper,
        tuple(Reason(label, phrases) for label, phrases in reversed(reasons.items())),
        round(offers[0].value, 6),
        any(offer.rose for offer in offers),
    )


class _Title(NamedTuple):
    words: frozenset[str]  # stems, without stop words
    letters: str  # without case, accents, spaces and punctuation


@lru_cache(maxsize=1 << 14)  # the readers of one edition share its papers
def _title(title: str) -> _Title:
    found = forms(title)
    return _Title(frozenset(map(stem, found)) - STOP_WORDS, "".join(found))


def _alike(one: _Title, other: _Title) -> float:
    """Return the share of common words (Jaccard); below 1 for different titles of the same words.

    It is 0 if a title has no words.
    """
    ours, theirs = one.words, other.words
    if ours and ours == theirs:
        return 1.0 if one.letters == other.letters else NEARLY_EQUAL
    return len(ours & theirs) / len(ours | theirs) if ours and theirs else 0.0
