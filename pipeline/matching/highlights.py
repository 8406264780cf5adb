"""The matched phrases of a paper, as written by its authors, and their mentions in a text."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from pipeline.matching.postings import Counts, Joint, Positions
from pipeline.matching.scoring import Papers, Scorer
from pipeline.matching.tokens import STOP_WORDS, forms, is_hyphen, stem, stems

Stems = tuple[str, ...]
Span = tuple[int, int]  # characters: start, and end (exclusive)
BETWEEN = " -\u2010\u2011"  # characters between the words of one expression


def stems_of(phrases: Iterable[str]) -> frozenset[Stems]:
    """Return phrases as stems, which `mentions` compares."""
    wanted: set[Stems] = set()
    for phrase in phrases:
        stemmed = tuple(stems(phrase)[0])
        if stemmed:
            wanted.add(stemmed)
        if len(stemmed) == 2 and any(map(is_hyphen, phrase)):
            wanted.add((_as_one(phrase),))
    return frozenset(wanted)


def find(text: str, phrases: tuple[str, ...]) -> list[Span]:
    """Return the `mentions` of phrases in plain text. The stems of the phrases are cached."""
    return highlights(text, _known_stems_of(phrases))


@lru_cache(maxsize=8_192)
def _known_stems_of(phrases: tuple[str, ...]) -> frozenset[Stems]:
    return stems_of(phrases)


def highlights(text: str, wanted: Iterable[Stems]) -> list[Span]:
    """Return the spans of all mentions in order; merge those with only spaces or hyphens between.

    A mention may be written in another way than the phrase: "Language Models", "language-model";
    also "multi-modal" for "multimodal", and the other way round.
    """
    phrases = set(wanted)
    if not phrases:
        return []
    found, spans, compounds = _read(text)
    joined: list[Span] = []
    for first, last in _places(found, compounds, phrases):
        start, end = spans[first][0], spans[last][1]
        if joined and not text[joined[-1][1] : start].strip(BETWEEN):
            start = joined.pop()[0]
        joined.append((start, end))
    return joined


@lru_cache(maxsize=1_024)
def _read(text: str) -> tuple[list[str], list[Span], dict[int, str]]:
    """Return stems, spans and compounds. Cached: many readers get one text with other phrases."""
    found, spans = stems(text)
    return found, spans, _compounds(text, spans)


def _compounds(text: str, spans: list[Span]) -> dict[int, str]:
    """Return pairs of words joined by a hyphen as one stem, by the index of the first word."""
    pairs = enumerate(itertools.pairwise(spans))
    return {
        i: _as_one(text[first[0] : second[1]])
        for i, (first, second) in pairs
        if is_hyphen(text[first[1] : second[0]])
    }


def _as_one(words: str) -> str:
    return stem("".join(forms(words)))


def _places(
    found: list[str], compounds: dict[int, str], phrases: set[Stems]
) -> Iterator[tuple[int, int]]:
    """Yield the first and last word of each mention, in order; the longest at each start."""
    by_first: dict[str, list[Stems]] = {}
    for phrase in sorted(phrases, key=len, reverse=True):
        by_first.setdefault(phrase[0], []).append(phrase)
    end = 0
    for i, first in enumerate(found):
        if i < end:
            continue
        known = by_first.get(first, ())
        length = next((len(p) for p in known if tuple(found[i : i + len(p)]) == p), 0)
        if length < 2 and (compounds.get(i),) in phrases:
            length = 2
        if length:
            end = i + length
            yield i, end - 1


MOST_PHRASES = 5
LEAST_TELLING = 0.3  # of the idf of the best phrase


@dataclass(frozen=True, slots=True)
class _Marks:
    """Positions of matched words, in order, and the idf of each (0 for a stop word)."""

    at: Positions
    worth: Counts


class Group(NamedTuple):
    """Words of a query, and the papers that they matched.

    Of a quoted phrase, `phrase` has the spellings and the positions at which it matches.
    """

    forms: tuple[str, ...]
    papers: Papers
    phrase: Sequence[tuple[Stems, Positions]] = ()


class _Run(NamedTuple):
    """Matched words next to each other, and their total idf."""

    first: int
    last: int
    worth: float


def phrases(scorer: Scorer, groups: Iterable[Group], papers: Papers) -> dict[int, tuple[str, ...]]:
    """Return at most `MOST_PHRASES` distinct runs of matched words per paper, best first."""
    marks = _marks(scorer, groups)
    return {int(paper): _of_paper(scorer, marks, int(paper)) for paper in papers}


def _marks(scorer: Scorer, groups: Iterable[Group]) -> _Marks:
    """Return the words that made the groups match their papers."""
    places: list[Positions] = [np.empty(0, dtype=np.int64)]
    worth: list[Counts] = [np.empty(0)]
    for group in groups:
        wanted = np.zeros(scorer.postings.papers, dtype=np.bool_)
        wanted[group.papers] = True
        for at, idfs in _spellings(scorer, group):
            found = at[wanted[scorer.postings.paper[at]]]
            for i, idf in enumerate(idfs):
                places.append(found + i)
                worth.append(np.full(found.size, idf))
    every = np.concatenate(places)
    at, which = np.unique(every, return_inverse=True)
    best = np.zeros(at.size)
    np.maximum.at(best, which, np.concatenate(worth))
    return _Marks(at, best)


def _spellings(scorer: Scorer, group: Group) -> Iterator[tuple[Positions, list[float]]]:
    """Yield positions to mark, and the idf of each word there; 0 for a stop word beside others."""
    tells = not STOP_WORDS.issuperset(group.forms)
    for spelling, at in group.phrase:
        idfs = map(scorer.statistics.idf, spelling)
        stops = (tells and one in STOP_WORDS for one in spelling)
        yield at, [0.0 if stop else idf for stop, idf in zip(stops, idfs, strict=True)]
    if group.phrase:
        return
    for unit in scorer.units(group.forms):
        for spelling in unit.spellings:
            yield scorer.postings.occurrences(spelling), [unit.idf] * len(spelling)
    for form in STOP_WORDS.intersection(group.forms):
        yield scorer.postings.occurrences((stem(form),)), [0.0]


def _of_paper(scorer: Scorer, marks: _Marks, paper: int) -> tuple[str, ...]:
    postings = scorer.postings
    low, high = np.searchsorted(marks.at, postings.words_of(paper))
    at, tells = marks.at[low:high], marks.worth[low:high]
    stems, broken = postings.stems[at].tolist(), (postings.joint[at] == Joint.BREAK).tolist()
    runs: dict[frozenset[int], _Run] = {}
    for run in _runs(at.tolist(), tells.tolist(), broken):
        runs.setdefault(frozenset(stems[run.first : run.last + 1]), run)
    return tuple(postings.written(at[run.first], at[run.last]) for run in _best(runs))


def _best(runs: dict[frozenset[int], _Run]) -> list[_Run]:
    """Return the runs to show: none of low idf, and none if a better one has all its words."""
    ranked = sorted(runs, key=lambda run: -runs[run].worth)  # stable: earliest first
    kept: list[frozenset[int]] = []
    for run in ranked:
        little = runs[run].worth < LEAST_TELLING * runs[ranked[0]].worth
        if not little and not any(run <= other for other in kept):
            kept.append(run)
    return [runs[run] for run in kept[:MOST_PHRASES]]


def _runs(at: list[int], worth: list[float], broken: list[bool]) -> Iterator[_Run]:
    """Yield runs of adjacent matches, as indexes into `at`, without stop words at the edges."""
    first = 0
    for i in range(1, len(at) + 1):
        if i == len(at) or broken[i - 1] or at[i] != at[i - 1] + 1:
            telling = [one for one in range(first, i) if worth[one] > 0]
            if telling:
                yield _Run(telling[0], telling[-1], sum(worth[first:i]))
            first = i
