"""Explain why a paper was found: its own words that matched, as its authors wrote them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.matching.postings import Counts, Joint, Positions
from pipeline.matching.scoring import Scorer
from pipeline.matching.tokens import STOP_WORDS, stem

MOST_PHRASES = 5
LEAST_TELLING = 0.3  # of the idf of the best phrase


@dataclass(frozen=True, slots=True)
class _Marks:
    """Positions of matched words, in order, and the idf of each (0 for a stop word)."""

    at: Positions
    worth: Counts


class _Run(NamedTuple):
    """Matched words next to each other, and their total idf."""

    first: int
    last: int
    worth: float


def phrases(
    scorer: Scorer, groups: Iterable[tuple[str, ...]], papers: npt.NDArray[np.int64]
) -> dict[int, tuple[str, ...]]:
    """Return at most `MOST_PHRASES` distinct runs of matched words per paper, best first."""
    marks = _marks(scorer, groups, papers)
    return {int(paper): _of_paper(scorer, marks, int(paper)) for paper in papers}


def _marks(
    scorer: Scorer, groups: Iterable[tuple[str, ...]], papers: npt.NDArray[np.int64]
) -> _Marks:
    """Return the matched words of these papers."""
    places: list[Positions] = [papers[:0]]
    worth: list[Counts] = [np.empty(0)]
    for group in groups:
        for unit in scorer.units(group):
            for stems in unit.spellings:
                found = _inside(scorer, stems, papers)
                at = np.concatenate([found + i for i in range(len(stems))])
                places.append(at)
                worth.append(np.full(at.size, unit.idf))
        for form in STOP_WORDS.intersection(group):
            at = _inside(scorer, (stem(form),), papers)
            places.append(at)
            worth.append(np.zeros(at.size))
    every = np.concatenate(places)
    at, which = np.unique(every, return_inverse=True)
    best = np.zeros(at.size)
    np.maximum.at(best, which, np.concatenate(worth))
    return _Marks(at, best)


def _inside(scorer: Scorer, stems: tuple[str, ...], papers: npt.NDArray[np.int64]) -> Positions:
    found = scorer.postings.occurrences(stems)
    bounds = [scorer.postings.words_of(int(paper)) for paper in papers]
    ends = np.searchsorted(found, np.array(bounds, dtype=np.int64))
    return np.concatenate([found[:0], *(found[low:high] for low, high in ends)])


def _of_paper(scorer: Scorer, marks: _Marks, paper: int) -> tuple[str, ...]:
    postings = scorer.postings
    low, high = np.searchsorted(marks.at, postings.words_of(paper))
    at, tells = marks.at[low:high], marks.worth[low:high]
    stems, broken = postings.stems[at].tolist(), (postings.joint[at] == Joint.BREAK).tolist()
    told: dict[frozenset[int], _Run] = {}
    for run in _runs(at.tolist(), tells.tolist(), broken):
        told.setdefault(frozenset(stems[run.first : run.last + 1]), run)
    return tuple(postings.written(at[run.first], at[run.last]) for run in _best(told))


def _best(told: dict[frozenset[int], _Run]) -> list[_Run]:
    """Return the runs to show: none of low idf, and none if a better one has all its words."""
    ranked = sorted(told, key=lambda stems: -told[stems].worth)  # stable: earliest first
    kept: list[frozenset[int]] = []
    for stems in ranked:
        little = told[stems].worth < LEAST_TELLING * told[ranked[0]].worth
        if not little and not any(stems <= other for other in kept):
            kept.append(stems)
    return [told[stems] for stems in kept[:MOST_PHRASES]]


def _runs(at: list[int], worth: list[float], broken: list[bool]) -> Iterator[_Run]:
    """Yield runs of adjacent matches, as indexes into `at`, without stop words at the edges."""
    first = 0
    for i in range(1, len(at) + 1):
        if i == len(at) or broken[i - 1] or at[i] != at[i - 1] + 1:
            telling = [one for one in range(first, i) if worth[one] > 0]
            if telling:
                yield _Run(telling[0], telling[-1], sum(worth[first:i]))
            first = i
