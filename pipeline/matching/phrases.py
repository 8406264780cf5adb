"""Why a paper was found: its own words that matched, as its authors wrote them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.matching.postings import Counts, Joint, Positions
from pipeline.matching.scoring import Scorer
from pipeline.matching.words import STOP_WORDS, forms, stem

MOST_PHRASES = 5
LEAST_TELLING = 0.3  # of what the best phrase tells


@dataclass(frozen=True, slots=True)
class _Marks:
    """Positions of matched words, in order, and what each tells (0 for a stop word)."""

    at: Positions
    worth: Counts


def phrases(
    scorer: Scorer, groups: Iterable[tuple[str, ...]], papers: npt.NDArray[np.int64]
) -> dict[int, tuple[str, ...]]:
    """For each of the papers, the telling runs of matched words, best first, none twice."""
    marks = _marks(scorer, groups)
    return {int(paper): _of_paper(scorer, marks, int(paper)) for paper in papers}


def _marks(scorer: Scorer, groups: Iterable[tuple[str, ...]]) -> _Marks:
    places: list[Positions] = []
    worth: list[Counts] = []
    for group in groups:
        for unit in scorer.units(group):
            for stems in unit.spellings:
                found = scorer.postings.occurrences(stems)
                at = np.concatenate([found + i for i in range(len(stems))])
                places.append(at)
                worth.append(np.full(at.size, unit.idf))
        if len(group) > 1:
            for form in STOP_WORDS.intersection(group):
                at = scorer.postings.occurrences((stem(form),))
                places.append(at)
                worth.append(np.zeros(at.size))
    if not places:
        return _Marks(np.empty(0, dtype=np.int64), np.empty(0))
    every = np.concatenate(places)
    at, which = np.unique(every, return_inverse=True)
    best = np.zeros(at.size)
    np.maximum.at(best, which, np.concatenate(worth))
    return _Marks(at, best)


def _of_paper(scorer: Scorer, marks: _Marks, paper: int) -> tuple[str, ...]:
    low, high = np.searchsorted(marks.at, scorer.postings.words_of(paper))
    told: dict[frozenset[str], tuple[float, str]] = {}
    at, tells = marks.at[low:high], marks.worth[low:high]
    broken = scorer.postings.joint[at] == Joint.BREAK
    for begin, end, worth in _runs(at.tolist(), tells.tolist(), broken.tolist()):
        text = scorer.postings.written(begin, end)
        told.setdefault(frozenset(stem(form) for form in forms(text)), (worth, text))
    return _best(told)


def _best(told: dict[frozenset[str], tuple[float, str]]) -> tuple[str, ...]:
    """The texts worth showing: none whose words another has too, none that tells little."""
    ranked = sorted(told, key=lambda stems: -told[stems][0])  # the earliest of equals stays first
    kept: list[frozenset[str]] = []
    for stems in ranked:
        little = told[stems][0] < LEAST_TELLING * told[ranked[0]][0]
        if not little and not any(stems <= other for other in kept):
            kept.append(stems)
    return tuple(told[stems][1] for stems in kept[:MOST_PHRASES])


def _runs(
    at: list[int], worth: list[float], broken: list[bool]
) -> Iterator[tuple[int, int, float]]:
    """Neighbouring matches as first, last and worth, without stop words at the edges."""
    run: list[int] = []
    for i, position in enumerate(at):
        if run and (broken[run[-1]] or position != at[run[-1]] + 1):
            yield from _trimmed(run, at, worth)
            run = []
        run.append(i)
    yield from _trimmed(run, at, worth)


def _trimmed(run: list[int], at: list[int], worth: list[float]) -> Iterator[tuple[int, int, float]]:
    telling = [i for i in run if worth[i] > 0]
    if telling:
        yield at[telling[0]], at[telling[-1]], sum(worth[i] for i in telling)
