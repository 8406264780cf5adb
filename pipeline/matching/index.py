"""Index papers and search them: the papers a query finds, their scores and matched phrases."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.domain import NEAR_MISSES, Breadth
from pipeline.matching.corpus import CorpusStatistics, Readable
from pipeline.matching.fields import Fields
from pipeline.matching.highlights import Group, phrases
from pipeline.matching.postings import Counts, Positions, Postings, Zone
from pipeline.matching.query import And, Field, Fielded, Not, Or, Phrase, Query, Words
from pipeline.matching.scoring import Papers, Scorer
from pipeline.matching.semantic import WEIGHT, Embedder, SemanticSimilarity
from pipeline.matching.threshold import NARROWEST, NEVER, Breadths, breadths, names_topic

Mask = npt.NDArray[np.bool_]

_ZONES = {Field.TITLE: Zone.TITLE, Field.ABSTRACT: Zone.ABSTRACT}
_FILTERED = 1.0  # the score if a query only filters


@dataclass(frozen=True, slots=True)
class Scored:
    """A paper that a query finds; `paper` is its index in the indexed sequence."""

    paper: int
    score: float
    phrases: tuple[str, ...] = ()
    breadth: Breadth = Breadth.BALANCED


@dataclass(frozen=True, slots=True)
class Found:
    """The result of a query as arrays: indexes in the indexed sequence, scores and breadths."""

    papers: Papers
    scores: Counts
    breadths: Breadths

    def take(self, chosen: Mask | npt.NDArray[np.int64]) -> Found:
        """Return a part of the result, by a mask or by indexes into these arrays."""
        return Found(self.papers[chosen], self.scores[chosen], self.breadths[chosen])


@dataclass(frozen=True, slots=True)
class _Found:
    """The narrowest breadth that finds each paper, and its score: 0 if it is never found."""

    breadths: Breadths
    scores: Counts

    def within(self, breadth: Breadth) -> Found:
        """Return the papers found at `breadth`; if none of them has a score, each has 1."""
        papers = np.flatnonzero(self.breadths <= breadth)
        scores = np.round(self.scores[papers], 6)
        if not scores.any():
            scores = np.full(papers.size, _FILTERED)
        return Found(papers, scores, self.breadths[papers])


class PaperIndex:
    """Index of some papers for any number of queries.

    `corpus` gives the idf of each word; without it the papers themselves are counted, which is fair
    for thousands of papers and not for twenty. With an embedder, semantic similarity is added to
    the score; whether a paper is found depends on its words alone.
    """

    def __init__(
        self,
        papers: Sequence[Readable],
        corpus: CorpusStatistics | None = None,
        embedder: Embedder | None = None,
    ) -> None:
        self._postings = Postings(papers)
        self._meaning = SemanticSimilarity(papers, embedder) if embedder and papers else None
        self._fields = Fields(papers)
        self._scorer = Scorer(self._postings, corpus or self._postings.statistics())
        self._size = len(papers)

    def index_authors(self) -> None:
        """Build the lookup of authors, so that no request waits for it; idempotent."""
        self._fields.index_authors()

    def written_by(self, names: tuple[str, ...]) -> dict[int, str]:
        """Return the papers of an author, ascending, with the name as the paper prints it."""
        return self._fields.written_by(names)

    def bearers(self, names: tuple[str, ...]) -> list[int]:
        """Return how many authors have each of the names, then the number of all; see `Fields`."""
        return self._fields.bearers(names)

    def statistics(self) -> CorpusStatistics:
        """Return the statistics of the papers of this index alone."""
        return self._postings.statistics()

    def measured_by(self, corpus: CorpusStatistics) -> PaperIndex:
        """Return an index of the same papers with the idf of `corpus`; the arrays are shared."""
        other = copy(self)
        other._scorer = Scorer(self._postings, corpus)
        return other

    def search(
        self,
        query: Query,
        *,
        floor: bool = True,
        breadth: Breadth = Breadth.BALANCED,
        top: int | None = None,
        with_phrases: bool = True,
    ) -> list[Scored]:
        """Return the papers that the query finds, best first, equal scores in the order of papers.

        Without `floor`, one word of several is enough. Phrases are the paper's own words, at most
        five per paper.
        """
        found = self.find(query, floor=floor, breadth=breadth)
        best = found.take(np.argsort(-found.scores, kind="stable")[:top])
        words = self.phrases(query, best.papers, floor=floor) if with_phrases else {}
        return list(_listed(best, words))

    def matches(self, query: Query) -> list[Scored]:
        """Return the papers of every breadth; if there are none, at most `NEAR_MISSES` near misses.

        Best first, equal scores in the order of papers.
        """
        evaluated = self._evaluate(query, floor=True)
        found, most = evaluated.within(Breadth.MORE), None
        if not found.papers.size:
            found, most = evaluated.within(Breadth.NEAR_MISS), NEAR_MISSES
        best = found.take(np.argsort(-found.scores, kind="stable")[:most])
        return list(_listed(best, self.phrases(query, best.papers)))

    def find(
        self, query: Query, *, floor: bool = True, breadth: Breadth = Breadth.BALANCED
    ) -> Found:
        """Return all papers that the query finds, in their own order: to count, or to sort.

        Scores do not depend on `breadth`, with one exception: if no paper found has a score, the
        query only filters, and each score is 1.
        """
        return self._evaluate(query, floor=floor).within(breadth)

    def phrases(
        self, query: Query, papers: Papers, *, floor: bool = True
    ) -> dict[int, tuple[str, ...]]:
        """Return the words by which each of the papers was found."""
        return phrases(self._scorer, self._matched(query, papers, floor=floor), papers)

    def _matched(self, query: Query, papers: Papers, *, floor: bool) -> Iterator[Group]:
        """Yield the words by which the papers were found, without sides of OR that do not hold."""
        match query:
            case Words(forms):
                yield Group(forms, papers)
            case Phrase(forms):
                yield Group(forms, papers, self._scorer.quoted(forms))
            case Fielded(field, forms) if field in _ZONES:
                yield Group(forms, papers, self._phrase(forms, _ZONES[field]))
            case And(operands):
                for operand in operands:
                    yield from self._matched(operand, papers, floor=floor)
            case Or(operands):
                for operand, holds in zip(operands, self._sides(operands, floor), strict=True):
                    chosen = papers[holds.breadths[papers] < NEVER]
                    yield from self._matched(operand, chosen, floor=floor)
            case _:
                return

    def _evaluate(self, query: Query, *, floor: bool) -> _Found:
        match query:
            case Words(forms):
                return self._words(forms, floor=floor)
            case Phrase(forms):
                return self._named(forms, self._scorer.quoted(forms))
            case Fielded(field, forms) if field in _ZONES:
                return self._named(forms, self._phrase(forms, _ZONES[field]))
            case Fielded(field, forms):
                return self._nothing_scored(self._mask(self._fields.find(field, forms)))
            case Not(operand):
                return self._nothing_scored(~self._holds(operand))
            case And(operands):
                return self._all(operands, floor=floor)
            case Or(operands):
                found = self._sides(operands, floor)
                return _Found(
                    np.minimum.reduce([one.breadths for one in found]),
                    np.maximum.reduce([one.scores for one in found]),
                )

    def _sides(self, operands: tuple[Query, ...], floor: bool) -> list[_Found]:
        """Evaluate the sides of OR; a near miss of one side is dropped if another one matches."""
        found = [self._evaluate(operand, floor=floor) for operand in operands]
        is_near = np.minimum.reduce([one.breadths for one in found]) >= Breadth.NEAR_MISS
        sides = ((one, is_near | (one.breadths < Breadth.NEAR_MISS)) for one in found)
        return [
            _within(np.where(holds, one.breadths, NEVER).astype(np.int8), one.scores)
            for one, holds in sides
        ]

    def _words(self, forms: tuple[str, ...], *, floor: bool) -> _Found:
        scores = self._scorer.score(forms)
        found = breadths(self._scorer, forms, scores) if floor else _sure(scores > 0)
        return _within(found, self._score(forms, scores))

    def _score(self, forms: tuple[str, ...], scores: Counts | None = None) -> Counts:
        """Return the score by words plus the weighted similarity; `scores` is the former, if known.

        The weight is the total idf of the topic's words, so that the scores of one topic can be
        compared from batch to batch.
        """
        by_words = self._scorer.score(forms) if scores is None else scores
        if self._meaning is None:
            return by_words
        return by_words + WEIGHT * self._scorer.worth(forms) * self._meaning.likeness(forms)

    def _all(self, operands: tuple[Query, ...], *, floor: bool) -> _Found:
        several = sum(_brings_score(operand) for operand in operands) > 1
        found = [
            self._condition(one, floor=floor) if several else self._evaluate(one, floor=floor)
            for one in operands
        ]
        together = np.maximum.reduce([one.breadths for one in found])
        return _within(together, np.add.reduce([one.scores for one in found]))

    def _condition(self, query: Query, *, floor: bool) -> _Found:
        """Evaluate one side of AND: of a single word one mention is enough, as in quotes."""
        match query:
            case Words((form,)):
                at = self._scorer.where(self._scorer.units((form,))[0].spellings)
                return _within(names_topic(self._scorer, at), self._score((form,)))
            case _:
                return self._evaluate(query, floor=floor)

    def _named(
        self, forms: tuple[str, ...], phrase: list[tuple[tuple[str, ...], Positions]]
    ) -> _Found:
        at = np.concatenate([places for _, places in phrase])
        return _within(names_topic(self._scorer, at), self._score(forms))

    def _holds(self, query: Query) -> Mask:
        """Return a mask for a negated query: adjacent words hold if a paper has all of them."""
        match query:
            case Words(forms):
                return _every(map(self._has_word, forms))
            case Not(operand):
                return ~self._holds(operand)
            case And(operands):
                return _every(self._holds(operand) for operand in operands)
            case Or(operands):
                return ~_every(~self._holds(operand) for operand in operands)
            case _:
                return self._evaluate(query, floor=False).breadths < NEVER

    def _has_word(self, form: str) -> Mask:
        mask = np.zeros(self._size, dtype=np.bool_)
        at = self._scorer.where(tuple(self._scorer.phrase_spellings((form,))))
        mask[self._postings.paper[at]] = True
        return mask

    def _phrase(
        self, forms: tuple[str, ...], zone: Zone
    ) -> list[tuple[tuple[str, ...], Positions]]:
        """Return the spellings of a phrase and their positions in a zone."""
        found = []
        for spelling in self._scorer.phrase_spellings(forms):
            at = self._postings.occurrences(spelling)
            found.append((spelling, at[self._postings.zone[at] == zone]))
        return found

    def _mask(self, papers: set[int]) -> Mask:
        mask = np.zeros(self._size, dtype=np.bool_)
        mask[list(papers)] = True
        return mask

    def _nothing_scored(self, mask: Mask) -> _Found:
        return _Found(_sure(mask), np.zeros(self._size))


def _listed(found: Found, words: Mapping[int, tuple[str, ...]]) -> Iterator[Scored]:
    arrays = found.papers.tolist(), found.scores.tolist(), found.breadths.tolist()
    for paper, score, needs in zip(*arrays, strict=True):
        yield Scored(paper, score, words.get(paper, ()), Breadth(needs))


def _within(breadths: Breadths, scores: Counts) -> _Found:
    return _Found(breadths, np.where(breadths < NEVER, scores, 0.0))


def _sure(mask: Mask) -> Breadths:
    """Return the breadths of a yes-or-no condition: found under every breadth, or under none."""
    return np.where(mask, NARROWEST, NEVER).astype(np.int8)


def _every(masks: Iterable[Mask]) -> Mask:
    together: Mask = np.logical_and.reduce(list(masks))
    return together


def _brings_score(query: Query) -> bool:
    if isinstance(query, Fielded):
        return query.field in _ZONES
    return not isinstance(query, Not)
