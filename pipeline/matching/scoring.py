"""Score papers for the words of a topic: BM25 over stems, pairs of words and whole phrases."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from pipeline.matching.corpus import CorpusStatistics
from pipeline.matching.postings import Counts, Positions, Postings, Zone
from pipeline.matching.stemming import relatives
from pipeline.matching.tokens import STOP_WORDS, stem

Papers = npt.NDArray[np.int64]

SATURATION = 1.0  # k1 of BM25: how soon further mentions stop raising the score
LENGTH_PENALTY = 0.9  # b of BM25
PAIR_WEIGHT = 0.5  # of two adjacent words of the topic, in addition to the words themselves
PHRASE_WEIGHT, PHRASE_MENTIONS, PHRASE_IN_TITLE = 2.0, 4, 4.0


@dataclass(frozen=True, slots=True)
class Unit:
    """A word of a topic, or a pair of words, in all its spellings."""

    spellings: tuple[tuple[str, ...], ...]
    idf: float
    share: float = 0.0  # of papers that contain it


@dataclass(frozen=True, slots=True)
class Scorer:
    postings: Postings
    statistics: CorpusStatistics

    def score(self, forms: tuple[str, ...]) -> Counts:
        """Return the score of every paper; 0 if it contains no word of the topic."""
        total = np.zeros(self.postings.papers)
        for unit in self.units(forms):
            self._add(total, unit, unit.idf)
        if len(forms) > 1:
            for pair in self._pairs(forms):
                self._add(total, pair, PAIR_WEIGHT * pair.idf)
            self._add_phrase(total, forms)
        return total

    def worth(self, forms: tuple[str, ...]) -> float:
        """Return the total idf: the score of a paper of average length with one mention of each."""
        return sum(unit.idf for unit in self.units(forms))

    def worth_of_order(self, forms: tuple[str, ...]) -> float:
        """Return what pairs and the phrase add to `worth` if the words are mentioned in order."""
        pairs = sum(self._pair_idf(pair) for pair in _adjacent(forms))
        return PAIR_WEIGHT * pairs + PHRASE_WEIGHT

    def units(self, forms: tuple[str, ...]) -> list[Unit]:
        """Return the words of a topic with their spellings; stop words if there are no others."""
        telling = [i for i, form in enumerate(forms) if form not in STOP_WORDS]
        plain = tuple(stem(form) for form in forms)
        variants = self.statistics.abbreviations.variants(plain)
        units: dict[str, Unit] = {}
        for i in telling or range(len(forms)):
            spellings = (
                *self.postings.spellings(forms[i]),
                *self._joins(forms, i),
                *(other for first, last, other in variants if first <= i < last),
                *((other,) for other in relatives(plain[i]) if len(telling) > 1),
            )
            idf, share = self.statistics.idf(plain[i]), self.statistics.share(plain[i])
            units[plain[i]] = Unit(spellings, idf, share)
        return list(units.values())

    def _joins(self, forms: tuple[str, ...], i: int) -> list[tuple[str, ...]]:
        neighbours = pairwise(forms[max(0, i - 1) : i + 2])
        joined = (self.postings.joined(left, right) for left, right in neighbours)
        return [one for one in joined if one is not None]

    def _pairs(self, forms: tuple[str, ...]) -> list[Unit]:
        return [self._pair(pair) for pair in _adjacent(forms)]

    def _pair(self, forms: tuple[str, ...]) -> Unit:
        return Unit(tuple(self.phrase_spellings(forms)), self._pair_idf(forms))

    def _pair_idf(self, forms: tuple[str, ...]) -> float:
        return (self.statistics.idf(stem(forms[0])) + self.statistics.idf(stem(forms[-1]))) / 2

    def phrase_spellings(self, forms: tuple[str, ...]) -> list[tuple[str, ...]]:
        """Return the stems of a phrase, also with any one compound written together or apart."""
        plain = tuple(stem(form) for form in forms)
        spellings = {plain: None}
        for i, form in enumerate(forms):
            for apart in self.postings.spellings(form)[1:]:
                spellings[(*plain[:i], *apart, *plain[i + 1 :])] = None
            if i + 1 < len(forms) and (one := self.postings.joined(form, forms[i + 1])):
                spellings[(*plain[:i], *one, *plain[i + 2 :])] = None
        return list(spellings)

    def quoted(self, forms: tuple[str, ...]) -> list[tuple[tuple[str, ...], Positions]]:
        """Return the spellings of a quoted phrase and their positions; plurals are one spelling."""
        plain, *compounds = self.phrase_spellings(forms)
        written = (plain, self.postings.as_written(forms))
        return [written, *((one, self.postings.occurrences(one)) for one in compounds)]

    def where(self, spellings: tuple[tuple[str, ...], ...]) -> Positions:
        found = [self.postings.occurrences(stems) for stems in spellings]
        found = [at for at in found if at.size]
        if len(found) == 1:
            return found[0]
        return np.concatenate(found) if found else np.empty(0, dtype=np.int64)

    def _add(self, total: Counts, unit: Unit, weight: float) -> None:
        at = self.where(unit.spellings)
        if not at.size:
            return
        postings = self.postings
        mentions = postings.count(at)
        papers = np.flatnonzero(mentions)
        mentions = mentions[papers]
        relative = postings.lengths[papers] / self.statistics.average_length
        damping = SATURATION * (1 - LENGTH_PENALTY + LENGTH_PENALTY * relative)
        total[papers] += weight * mentions * (SATURATION + 1) / (mentions + damping)

    def _add_phrase(self, total: Counts, forms: tuple[str, ...]) -> None:
        at = self.where(tuple(self.phrase_spellings(forms)))
        if not at.size:
            return
        paper = self.postings.paper[at]
        mentions = np.bincount(paper, minlength=self.postings.papers)
        total += PHRASE_WEIGHT * np.minimum(mentions, PHRASE_MENTIONS)
        titled = paper[self.postings.zone[at] == Zone.TITLE]
        total[np.unique(titled)] += PHRASE_IN_TITLE


def _adjacent(forms: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return the pairs of adjacent words of a topic, with any stop words between them."""
    telling = [i for i, form in enumerate(forms) if form not in STOP_WORDS]
    return [forms[left : right + 1] for left, right in pairwise(telling)]
