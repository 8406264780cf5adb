"""What keeps junk out: when bare words say enough about a paper to call it a match.

Decided for each paper alone, so a day with nothing relevant brings nothing. The figures behind
the constants are in docs/matching.md.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.matching.postings import Counts, Positions, Postings
from pipeline.matching.scoring import Scorer, Unit
from pipeline.matching.words import STOP_WORDS

Mask = npt.NDArray[np.bool_]

# A single word must be mentioned the more often the more papers have it; the title counts as
# three mentions. From each share of papers on, so much is needed.
WORD_NEEDS = ((0.0, 1.0), (0.02, 2.0), (0.1, 3.0), (0.3, 5.0))

# Several words must stand together, with as many others between them as there are words. Where
# even the rarest is this common, next to each other, and twice or in the title.
COMMON_SHARE = 0.2
LONGEST_TOGETHER = 4  # more words than this make a sentence: they may stand apart

# How much of the idf of all words must be there: each word beyond the first may cost some.
SLACK, LEAST_COVERED = 0.05, 0.5


def admitted(scorer: Scorer, forms: tuple[str, ...]) -> Mask:
    """Which papers the words, side by side, are enough for."""
    units = scorer.units(forms)
    if STOP_WORDS.issuperset(forms):
        return np.zeros(scorer.postings.papers, dtype=np.bool_)
    if len(units) == 1:
        return _mentioned(scorer, units[0])
    if len(units) > LONGEST_TOGETHER:
        return _covered(scorer, units)
    return _together(scorer, units, _span(forms))


def _mentioned(scorer: Scorer, unit: Unit) -> Mask:
    need = max(need for share, need in WORD_NEEDS if unit.share >= share)
    return scorer.postings.count(scorer.where(unit.spellings)) >= need


def _covered(scorer: Scorer, units: list[Unit]) -> Mask:
    covered = np.zeros(scorer.postings.papers)
    for unit in units:
        covered += unit.idf * (scorer.postings.count(scorer.where(unit.spellings)) > 0)
    return covered >= _least(units)


def _together(scorer: Scorer, units: list[Unit], span: int) -> Mask:
    """Enough of the words close to each other in one text, in any order."""
    postings, least = scorer.postings, _least(units)
    common = min(unit.share for unit in units) >= COMMON_SHARE
    places = _places(scorer, units, least)
    at, covered = _windows(postings, units, places, span if common else span + len(units))
    return postings.count(at[covered >= least]) >= (2.0 if common else 1.0)


def _places(scorer: Scorer, units: list[Unit], least: float) -> list[Positions]:
    """Where each word stands, in the papers that have enough of the words anywhere."""
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
    postings: Postings, units: list[Unit], places: list[Positions], window: int
) -> tuple[Positions, Counts]:
    """The idf of the words that stand in the window beginning at each mention of any."""
    starts = np.concatenate(places)
    covered = np.zeros(starts.size)
    for unit, at in zip(units, places, strict=True):
        if at.size:
            nearest = at[np.minimum(np.searchsorted(at, starts), at.size - 1)]
            ahead = (nearest >= starts) & (nearest < starts + window)
            covered += unit.idf * (ahead & (postings.texts[nearest] == postings.texts[starts]))
    return starts, covered


def _least(units: list[Unit]) -> float:
    share = max(LEAST_COVERED, 1 - SLACK * (len(units) - 1))
    return share * sum(unit.idf for unit in units) - 1e-9  # sums of floats differ by their order


def _span(forms: tuple[str, ...]) -> int:
    """How many words the phrase takes when written as asked."""
    telling = [i for i, form in enumerate(forms) if form not in STOP_WORDS]
    return telling[-1] - telling[0] + 1
