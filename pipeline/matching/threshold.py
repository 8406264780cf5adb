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
from pipeline.matching.postings import Counts, Positions, Postings
from pipeline.matching.scoring import Scorer, Unit
from pipeline.matching.tokens import STOP_WORDS

Mask = npt.NDArray[np.bool_]
Breadths = npt.NDArray[np.int8]
"""For each paper, the narrowest breadth that admits it, or NEVER."""

NEVER: Final = max(Breadth) + 1
NARROWEST: Final = min(Breadth)

# If even the rarest of several words is this common, they must be next to each other.
COMMON_SHARE = 0.2
LONGEST_TOGETHER = 4  # words; if there are more, they are a sentence, and may be apart
ABOUT = 2.0  # mentions that are more than one in passing; one in the title counts as three

# The share of the total idf that must be present: lower for each word after the first.
SLACK, LEAST_COVERED = 0.05, 0.5


@dataclass(frozen=True, slots=True)
class ThresholdRule:
    """Requirements of one breadth for bare words."""

    single: tuple[float, ...]  # mentions of a single word, by its document frequency: see SHARES
    apart: int  # other words allowed between several words, per word of the topic
    mentions: float  # mentions of several words together
    common: float | None  # the same for common words; None if they are treated like others
    covered: float  # share of the idf that a sentence needs on top of `_least`


SHARES = (0.0, 0.02, 0.1, 0.3)  # of papers with the word: lower bounds for the entries of `single`
RULES: Final = {
    Breadth.MORE: ThresholdRule((1, 1, 2, 3), apart=2, mentions=1, common=None, covered=-0.1),
    Breadth.BALANCED: ThresholdRule((1, 2, 3, 5), apart=1, mentions=1, common=ABOUT, covered=0),
    Breadth.FEWER: ThresholdRule((ABOUT, 3, 4, 6), apart=0, mentions=ABOUT, common=3, covered=0.1),
}


def breadths(scorer: Scorer, forms: tuple[str, ...]) -> Breadths:
    """Return the breadth of every paper for adjacent bare words; NEVER if all are stop words."""
    found = np.full(scorer.postings.papers, NEVER, dtype=np.int8)
    if STOP_WORDS.issuperset(forms):
        return found
    for breadth, mask in _admitted(scorer, forms):
        found[mask] = breadth
    return found


def names_topic(scorer: Scorer, at: Positions) -> Breadths:
    """Return the breadth of every paper for an explicit condition: one mention is enough.

    If there are fewer than `ABOUT` mentions, the breadth is BALANCED, else FEWER.
    """
    mentions = scorer.postings.count(at)
    found = np.where(mentions > 0, Breadth.BALANCED, NEVER)
    return np.where(mentions >= ABOUT, Breadth.FEWER, found).astype(np.int8)


def _admitted(scorer: Scorer, forms: tuple[str, ...]) -> list[tuple[Breadth, Mask]]:
    """Return a mask per breadth, the broadest first, so that narrower ones overwrite it."""
    units = scorer.units(forms)
    if len(units) == 1:
        mentions = scorer.postings.count(scorer.where(units[0].spellings))
        return [(one, mentions >= _needed(rule, units[0])) for one, rule in RULES.items()]
    if len(units) > LONGEST_TOGETHER:
        covered, whole = _covered(scorer, units), sum(unit.idf for unit in units)
        return [
            (one, covered >= _least(units) + rule.covered * whole) for one, rule in RULES.items()
        ]
    return _together(scorer, units, _span(forms))


def _needed(rule: ThresholdRule, unit: Unit) -> float:
    return max(need for share, need in zip(SHARES, rule.single, strict=True) if unit.share >= share)


def _covered(scorer: Scorer, units: list[Unit]) -> Counts:
    covered = np.zeros(scorer.postings.papers)
    for unit in units:
        covered += unit.idf * (scorer.postings.count(scorer.where(unit.spellings)) > 0)
    return covered


def _together(scorer: Scorer, units: list[Unit], span: int) -> list[tuple[Breadth, Mask]]:
    """Admit papers with enough of the words close to each other in one text, in any order."""
    postings, least = scorer.postings, _least(units)
    places = _places(scorer, units, least)
    if not any(at.size for at in places):
        return []
    starts = np.concatenate(places)
    is_common = min(unit.share for unit in units) >= COMMON_SHARE
    admitted = []
    for breadth, rule in RULES.items():
        is_strict = is_common and rule.common is not None
        window = span if is_strict else span + rule.apart * len(units)
        at = starts[_windows(postings, units, places, starts, window) >= least]
        need = rule.common if is_strict and rule.common else rule.mentions
        admitted.append((breadth, postings.count(at) >= need))
    return admitted


def _places(scorer: Scorer, units: list[Unit], least: float) -> list[Positions]:
    """Return the positions of each word, in papers that have enough of the words anywhere."""
    postings = scorer.postings
    places = [np.sort(scorer.where(unit.spellings)) for unit in units]
    covered = np.zeros(postings.papers)
    for unit, at in zip(units, places, strict=True):
        mentioned = np.zeros(postings.papers, dtype=np.bool_)
        mentioned[postings.paper[at]] = True
        covered += unit.idf * mentioned
    enough = covered >= least
    return [at[enough[postings.paper[at]]] for at in places]


def _windows(
    postings: Postings,
    units: list[Unit],
    places: list[Positions],
    starts: Positions,
    window: int,
) -> Counts:
    """Return the total idf of the words in the window that begins at each of the starts."""
    covered = np.zeros(starts.size)
    for unit, at in zip(units, places, strict=True):
        if at.size:
            nearest = at[np.minimum(np.searchsorted(at, starts), at.size - 1)]
            ahead = (nearest >= starts) & (nearest < starts + window)
            covered += unit.idf * (ahead & (postings.texts[nearest] == postings.texts[starts]))
    return covered


def _least(units: list[Unit]) -> float:
    share = max(LEAST_COVERED, 1 - SLACK * (len(units) - 1))
    return share * sum(unit.idf for unit in units) - 1e-9  # sums of floats depend on the order


def _span(forms: tuple[str, ...]) -> int:
    """Return the number of words as typed, from the first to the last that is not a stop word."""
    telling = [i for i, form in enumerate(forms) if form not in STOP_WORDS]
    return telling[-1] - telling[0] + 1
