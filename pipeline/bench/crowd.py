"""Synthetic papers, topics and readers for benchmarks: any number, the same each time.

The frequency of words approximates that of texts (Zipf), and half of the words are drawn from three
fixed successors of the word before, so that postings are as long and phrases as rare as in real
abstracts.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Final

import numpy as np
import numpy.typing as npt

from pipeline.domain import Links, Paper, Topic

DAY: Final = date(2030, 1, 1)
VOCABULARY: Final = 20_000
TITLE, ABSTRACT = 10, 170  # words
LONGEST_TOPIC: Final = 4  # words
FOLLOWED: Final = 4  # topics of a reader
_SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u")]

Followed = npt.NDArray[np.int64]
"""Array with a row for each reader: indexes of the followed topics."""


def papers(count: int, seed: int = 0) -> list[Paper]:
    chance = np.random.default_rng(seed)
    words = [_word(number) for number in range(VOCABULARY)]
    return [_paper(number, words, chance) for number in range(count)]


def topics(count: int, some: Sequence[Paper], seed: int = 1) -> list[Topic]:
    """Return `count` distinct topics of one to four adjacent words of a paper.

    Does not return if `some` has fewer such phrases.
    """
    chance = np.random.default_rng(seed)
    queries: dict[str, None] = {}
    while len(queries) < count:
        words = some[int(chance.integers(len(some)))].abstract.split()
        first, length = chance.integers(len(words)), chance.integers(1, LONGEST_TOPIC + 1)
        queries[" ".join(words[first : first + length]).rstrip(".")] = None
    return [Topic(number, query) for number, query in enumerate(queries)]


def readers(count: int, topic_count: int, seed: int = 2) -> Followed:
    """Return topics for each reader; a few topics have most of the followers."""
    chance = np.random.default_rng(seed)
    return (topic_count * chance.random((count, FOLLOWED)) ** 3).astype(np.int64)


def _paper(number: int, words: Sequence[str], chance: np.random.Generator) -> Paper:
    drawn = _drawn(TITLE + ABSTRACT, chance)
    text = [words[one] for one in drawn]
    return Paper(
        id=number,
        key=f"3001.{number:05}",
        version=1,
        title=" ".join(text[:TITLE]),
        abstract=" ".join(text[TITLE:]) + ".",
        authors=(),
        author_count=0,
        categories=(),
        keywords=(),
        sources=("arxiv",),
        announced_on=DAY,
        upvotes=None,
        comments=None,
        links=Links(),
        batch=1,
    )


def _drawn(count: int, chance: np.random.Generator) -> list[int]:
    """Return indexes of words. If a word depends on the one before, it is one of three."""
    ranks = VOCABULARY ** chance.random(count)  # log-uniform: the n-th word has a share of 1/n
    drawn = (ranks - 1).astype(np.int64)
    follows, which = chance.random(count) < 0.5, chance.integers(0, 3, count)
    for i in range(1, count):
        if follows[i]:
            drawn[i] = (drawn[i - 1] * 7 + 31 * (which[i] + 1)) % VOCABULARY
    return [int(one) for one in drawn]


def _word(number: int) -> str:
    syllables = []
    for _ in range(3):
        number, which = divmod(number, len(_SYLLABLES))
        syllables.append(_SYLLABLES[which])
    return "".join(syllables)
