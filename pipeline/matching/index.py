"""Papers to scores: which of some papers a query finds, how well, and by which words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.matching.corpus import CorpusStatistics, Readable
from pipeline.matching.fields import Fields
from pipeline.matching.floor import admitted
from pipeline.matching.phrases import phrases
from pipeline.matching.postings import Counts, Postings, Zone
from pipeline.matching.query import And, Field, Fielded, Not, Or, Phrase, Query, Words
from pipeline.matching.scoring import Scorer

Mask = npt.NDArray[np.bool_]

_ZONES = {Field.TITLE: Zone.TITLE, Field.ABSTRACT: Zone.ABSTRACT}
_FILTERED = 1.0  # the score where a query only filters


@dataclass(frozen=True, slots=True)
class Scored:
    """A paper that a query finds; `paper` is its place in the sequence that was indexed."""

    paper: int
    score: float
    phrases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """What a query finds, as arrays: places in the sequence that was indexed, and their scores."""

    papers: npt.NDArray[np.int64]
    scores: Counts


@dataclass(frozen=True, slots=True)
class _Found:
    """Which papers, and their scores: 0 wherever the mask is."""

    mask: Mask
    scores: Counts


class PaperIndex:
    """Some papers, ready for any number of queries.

    `corpus` says which words are rare; without it the papers themselves do, which is fair for
    thousands of papers and not for twenty.
    """

    def __init__(self, papers: Sequence[Readable], corpus: CorpusStatistics | None = None) -> None:
        self._postings = Postings(papers)
        self._fields = Fields(papers)
        self._scorer = Scorer(self._postings, corpus or self._postings.statistics())
        self._size = len(papers)

    def statistics(self) -> CorpusStatistics:
        """Of the papers of this index alone."""
        return self._postings.statistics()

    def measured_by(self, corpus: CorpusStatistics) -> PaperIndex:
        """The same papers, scored by what is rare elsewhere; nothing is read or copied."""
        other = copy(self)
        other._scorer = Scorer(self._postings, corpus)
        return other

    def search(
        self,
        query: Query,
        *,
        floor: bool = True,
        top: int | None = None,
        with_phrases: bool = True,
    ) -> list[Scored]:
        """What the query finds, best first, equal scores in the order of the papers.

        Without the floor one word of several is enough. Phrases are the paper's own words, at
        most five.
        """
        found = self.find(query, floor=floor)
        best = np.argsort(-found.scores, kind="stable")[:top]
        chosen = found.papers[best]
        words = self.phrases(query, chosen) if with_phrases else {}
        return [
            Scored(int(paper), float(score), words.get(int(paper), ()))
            for paper, score in zip(chosen, found.scores[best], strict=True)
        ]

    def find(self, query: Query, *, floor: bool = True) -> Found:
        """Everything the query finds, in the order of the papers: to be counted, or sorted anew."""
        found = self._evaluate(query, floor=floor)
        papers = np.flatnonzero(found.mask)
        scores = np.round(found.scores[papers], 6)
        if not scores.any():
            scores = np.full(papers.size, _FILTERED)
        return Found(papers, scores)

    def phrases(self, query: Query, papers: npt.NDArray[np.int64]) -> dict[int, tuple[str, ...]]:
        """By which of its words each of the papers was found."""
        return phrases(self._scorer, _positive(query), papers)

    def _evaluate(self, query: Query, *, floor: bool) -> _Found:
        match query:
            case Words(forms):
                scores = self._scorer.score(forms)
                return _within(admitted(self._scorer, forms) if floor else scores > 0, scores)
            case Phrase(forms):
                return _within(self._has_phrase(forms), self._scorer.score(forms))
            case Fielded(field, forms) if field in _ZONES:
                mask = self._has_phrase(forms, _ZONES[field])
                return _within(mask, self._scorer.score(forms))
            case Fielded(field, forms):
                return self._nothing_scored(self._mask(self._fields.find(field, forms)))
            case Not(operand):
                return self._nothing_scored(~self._holds(operand))
            case And(operands):
                return self._all(operands, floor=floor)
            case Or(operands):
                found = [self._evaluate(operand, floor=floor) for operand in operands]
                return _Found(
                    ~_every(~one.mask for one in found),
                    np.maximum.reduce([one.scores for one in found]),
                )

    def _all(self, operands: tuple[Query, ...], *, floor: bool) -> _Found:
        # A word joined to another by AND is asked for by itself: it need only be there.
        several = sum(_brings_score(operand) for operand in operands) > 1
        found = [
            self._evaluate(one, floor=floor and not (several and _is_word(one))) for one in operands
        ]
        mask = _every(one.mask for one in found)
        return _within(mask, np.add.reduce([one.scores for one in found]))

    def _holds(self, query: Query) -> Mask:
        """As yes or no, for what is left out: words side by side hold where all of them stand."""
        match query:
            case Words(forms):
                return _every(self._has_phrase((form,)) for form in forms)
            case Not(operand):
                return ~self._holds(operand)
            case And(operands):
                return _every(self._holds(operand) for operand in operands)
            case Or(operands):
                return ~_every(~self._holds(operand) for operand in operands)
            case _:
                return self._evaluate(query, floor=False).mask

    def _has_phrase(self, forms: tuple[str, ...], zone: Zone | None = None) -> Mask:
        at = self._scorer.where(tuple(self._scorer.phrase_spellings(forms)))
        if zone is not None:
            at = at[self._postings.zone[at] == zone]
        mask = np.zeros(self._size, dtype=np.bool_)
        mask[self._postings.paper[at]] = True
        return mask

    def _mask(self, papers: set[int]) -> Mask:
        mask = np.zeros(self._size, dtype=np.bool_)
        mask[list(papers)] = True
        return mask

    def _nothing_scored(self, mask: Mask) -> _Found:
        return _Found(mask, np.zeros(self._size))


def _within(mask: Mask, scores: Counts) -> _Found:
    return _Found(mask, np.where(mask, scores, 0.0))


def _every(masks: Iterable[Mask]) -> Mask:
    together: Mask = np.logical_and.reduce(list(masks))
    return together


def _brings_score(query: Query) -> bool:
    if isinstance(query, Fielded):
        return query.field in _ZONES
    return not isinstance(query, Not)


def _is_word(query: Query) -> bool:
    return isinstance(query, Words) and len(query.forms) == 1


def _positive(query: Query) -> Iterator[tuple[str, ...]]:
    """The words of the query that can be shown to a reader, group by group."""
    match query:
        case Words(forms) | Phrase(forms):
            yield forms
        case Fielded(field, forms) if field in _ZONES:
            yield forms
        case And(operands) | Or(operands):
            for operand in operands:
                yield from _positive(operand)
        case _:
            return
