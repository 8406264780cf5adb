"""Relevance threshold: the narrowest breadth at which the words of a topic match a paper.

Each paper is judged on its own, so a day without relevant papers has no matches. The figures behind
the constants are in docs/matching.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from pipeline.domain import Breadth
from pipeline.matching.postings import Counts, Positions, Zone
from pipeline.matching.scoring import Scorer, Unit
from pipeline.matching.tokens import STOP_WORDS

Mask = npt.NDArray[np.bool_]
Breadths = npt.NDArray[np.int8]
"""For each paper, the narrowest breadth that admits it, or NEVER."""

NEVER: Final = Breadth.NEAR_MISS + 1
NARROWEST: Final = min(Breadth)

ABOUT = 2.0  # mentions that are more than one in passing; one in the title counts as three

# The score that several words need, as a share of the score of a text that mentions them once, in
# order: lower for each word after the second, because a long topic is rarely repeated whole.
SLACK, LEAST_SCORED = 0.05, 0.5
LEAST_COVERED = 0.5  # share of the total idf of the words that the paper contains


@dataclass(frozen=True, slots=True)
class ThresholdRule:
    """Requirements of one breadth for bare words."""

    single: tuple[float, ...]  # mentions of a single word, by its document frequency: see SHARES
    scored: float  # share of the score of one mention in order, for two words


SHARES = (0.0, 0.02, 0.1, 0.3)  # of papers with the word: lower bounds for the entries of `single`
RULES: Final = {
    Breadth.NEAR_MISS: ThresholdRule((1, 1, 1, 1), scored=0.5),
    Breadth.MORE: ThresholdRule((1, 1, 2, 3), scored=0.7),
    Breadth.BALANCED: ThresholdRule((1, 2, 3, 5), scored=0.9),
    Breadth.FEWER: ThresholdRule((ABOUT, 3, 4, 6), scored=1.1),
}


def breadths(scorer: Scorer, forms: tuple[str, ...], scores: Counts) -> Breadths:
    """Return the breadth of every paper for adjacent bare words; NEVER if all are stop words.

    `scores` are the scores of the papers by these words.
    """
    found = np.full(scorer.postings.papers, NEVER, dtype=np.int8)
    if STOP_WORDS.issuperset(forms):
        return found
    for breadth, mask in _admitted(scorer, forms, scores):
        found[mask] = breadth
    return found


def names_topic(scorer: Scorer, at: Positions) -> Breadths:
    """Return the breadth of every paper for an explicit condition: one mention is enough.

    If there are fewer than `ABOUT` mentions, the breadth is BALANCED, else FEWER.
    """
    mentions = scorer.postings.count(at)
    found = np.where(mentions > 0, Breadth.BALANCED, NEVER)
    return np.where(mentions >= ABOUT, Breadth.FEWER, found).astype(np.int8)


def _admitted(scorer: Scorer, forms: tuple[str, ...], scores: Counts) -> list[tuple[Breadth, Mask]]:
    """Return a mask per breadth, the broadest first, so that narrower ones overwrite it."""
    units = scorer.units(forms)
    if len(units) == 1:
        mentions = scorer.postings.count(scorer.where(units[0].spellings))
        return [(one, mentions >= _needed(rule, units[0])) for one, rule in RULES.items()]
    whole = sum(unit.idf for unit in units)
    covered, titled = _covered(scorer, units)
    once = whole + scorer.worth_of_order(forms)
    enough = covered >= LEAST_COVERED * whole - 1e-9  # sums of floats depend on the order
    admitted = {
        breadth: enough & (scores >= _least(rule, len(units)) * once - 1e-9)
        for breadth, rule in RULES.items()
    }
    admitted[Breadth.MORE] |= titled
    admitted[Breadth.BALANCED] |= titled
    return list(admitted.items())


def _needed(rule: ThresholdRule, unit: Unit) -> float:
    return max(need for share, need in zip(SHARES, rule.single, strict=True) if unit.share >= share)


def _least(rule: ThresholdRule, words: int) -> float:
    return max(LEAST_SCORED, rule.scored - SLACK * (words - 2))


def _covered(scorer: Scorer, units: list[Unit]) -> tuple[Counts, Mask]:
    """Return the idf of the words in each paper, and the papers with all of them in the title."""
    postings = scorer.postings
    covered = np.zeros(postings.papers)
    titled = np.ones(postings.papers, dtype=np.bool_)
    for unit in units:
        at = scorer.where(unit.spellings)
        mentioned, in_title = np.zeros((2, postings.papers), dtype=np.bool_)
        mentioned[postings.paper[at]] = True
        in_title[postings.paper[at[postings.zone[at] == Zone.TITLE]]] = True
        covered += unit.idf * mentioned
        titled &= in_title
    return covered, titled
