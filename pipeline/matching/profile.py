"""Learn what a reader likes from papers: weighted terms and authors, as in Rocchio (1971). Pure.

A paper is a vector of its words and of its pairs of adjacent words. A profile is the mean of the
papers that the reader liked, without the mean of those shown on the same days; it only orders
papers. How well that works is measured by `paperboy bench readers`, see docs/matching.md.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from pipeline.matching.corpus import CorpusStatistics, Readable
from pipeline.matching.tokens import STOP_WORDS, forms, stem

Vector = npt.NDArray[np.float32]

TITLED: Final = 2.0  # a word in the title counts as two
HALF_LIFE: Final = 240.0  # days after which a liked paper counts half
CONTRAST: Final = 0.8  # share of the mean of the papers shown that is subtracted
SAME_AUTHOR: Final = 0.2  # added for an author of a liked paper: more than any likeness of terms


@dataclass(frozen=True, slots=True)
class Terms:
    """A paper as a vector of length 1; only the terms that it has."""

    places: npt.NDArray[np.int64]
    weights: Vector


@dataclass(frozen=True, slots=True)
class Liked:
    """A paper that a reader liked, and how many days ago."""

    terms: Terms
    authors: frozenset[str]
    days: float


@dataclass(frozen=True, slots=True)
class Profile:
    """Terms that a reader likes, and authors of the liked papers by `author_keys`."""

    terms: Vector
    authors: frozenset[str]

    def likeness(self, papers: Sequence[Terms]) -> Vector:
        """Return how similar the papers are to the liked ones, about -0.1 to 0.5."""
        if not papers:
            return np.empty(0, dtype=np.float32)
        lengths = [paper.places.size for paper in papers]
        places = np.concatenate([paper.places for paper in papers])
        weights = np.concatenate([paper.weights for paper in papers])
        sums = np.zeros(len(papers), dtype=np.float32)
        np.add.at(sums, np.repeat(np.arange(len(papers)), lengths), self.terms[places] * weights)
        return sums

    def knows(self, authors: frozenset[str]) -> bool:
        """Return whether one of the authors wrote a liked paper, too."""
        return not self.authors.isdisjoint(authors)


class TermSpace:
    """Numbers of terms, given when a term is first met: a vector has one place for each.

    Not thread-safe. 10,000 papers have a million terms, which take 150 MB.
    """

    def __init__(self, corpus: CorpusStatistics) -> None:
        """Weigh terms by the idf of `corpus`, which need not know pairs."""
        self._corpus = corpus
        self._places: dict[str, int] = {}

    def terms(self, paper: Readable) -> Terms:
        """Return the terms of a paper: 1 + log(mentions), times idf; that of a pair is the sum."""
        counts: defaultdict[str, float] = defaultdict(float)
        idf: dict[str, float] = {}
        for text, weight in ((paper.title, TITLED), (paper.abstract, 1.0)):
            stems = [stem(form) for form in forms(text)]
            for word in stems:
                if word not in STOP_WORDS:
                    counts[word] += weight
                    idf[word] = self._corpus.idf(word)
            for pair in pairwise(stems):
                if STOP_WORDS.isdisjoint(pair):
                    counts[" ".join(pair)] += weight
                    idf[" ".join(pair)] = idf[pair[0]] + idf[pair[1]]
        places = (self._places.setdefault(term, len(self._places)) for term in counts)
        weights = ((1 + math.log(count)) * idf[term] for term, count in counts.items())
        values = np.fromiter(weights, dtype=np.float32, count=len(counts))
        length = np.linalg.norm(values) or 1.0
        return Terms(np.fromiter(places, dtype=np.int64, count=len(counts)), values / length)

    def learn(self, liked: Sequence[Liked], shown: Iterable[Terms] = ()) -> Profile:
        """Return the profile of a reader.

        `shown` are papers that were not liked when others were. Terms met later are not in it.
        """
        terms = np.zeros(len(self._places), dtype=np.float32)
        ages = [0.5 ** (one.days / HALF_LIFE) for one in liked]
        for one, weight in zip(liked, ages, strict=True):
            terms[one.terms.places] += weight / sum(ages) * one.terms.weights
        others = list(shown)
        for other in others:
            terms[other.places] -= CONTRAST / len(others) * other.weights
        return Profile(terms, frozenset().union(*(one.authors for one in liked)))


def author_keys(authors: Iterable[str]) -> frozenset[str]:
    """Return the names of authors without order and middle initials, to compare with others.

    People with the same name are one person here, and somebody who writes "G. Hinton" is another.
    """
    return frozenset(map(_author_key, authors))


@lru_cache(maxsize=1 << 16)
def _author_key(author: str) -> str:
    names = forms(author)
    whole = [name for name in names if len(name) > 1]
    return " ".join(sorted(whole if len(whole) > 1 else names))
