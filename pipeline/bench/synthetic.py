"""Synthetic papers, topics and readers with the length and vocabulary of real ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import cycle
from random import Random
from typing import Final

import numpy as np
import numpy.typing as npt

from pipeline.domain import Links, Paper, Sighting, Topic

A_DAY: Final = 100  # papers
COINED: Final = 40_000  # words in addition to those of the samples: names, methods, typing errors
COINED_SHARE: Final = 0.12  # of running text
CATEGORIES: Final = ("cs.AI", "cs.CL", "cs.CV", "cs.LG", "cs.RO", "eess.AS", "q-bio.PE", "stat.ML")
SYLLABLES: Final = (
    "ba",
    "co",
    "di",
    "fu",
    "ge",
    "hi",
    "jo",
    "ka",
    "lu",
    "me",
    "no",
    "pi",
    "qua",
    "re",
    "si",
    "to",
)


@dataclass(frozen=True, slots=True)
class Search:
    """One search, in the topic language and in the language of SQLite's FTS5."""

    query: str
    fts5: str


class Scribe:
    """Generator of papers and searches, the same in every run."""

    def __init__(self, samples: Sequence[Paper]) -> None:
        """Take the vocabulary from `samples`, each word as often as it occurs there."""
        self._words = [word for paper in samples for word in _words(paper)]
        self._chance = Random(1)  # noqa: S311  (made up, not secret)

    def papers(self, count: int, newest: date) -> Iterator[Sighting]:
        """Yield `count` papers, A_DAY for each day, the newest day last."""
        for number in reversed(range(count)):
            announced_on = newest - timedelta(days=number // A_DAY)
            arxiv_id = f"{announced_on:%y%m}.{number % 100_000:05d}"
            yield Sighting(
                source="arxiv",
                source_id=arxiv_id,
                arxiv_id=arxiv_id,
                title=self._text(6, 14).capitalize(),
                abstract=self._text(120, 220),
                authors=tuple(self._text(2, 2).title() for _ in range(self._chance.randint(1, 8))),
                categories=tuple(self._chance.sample(CATEGORIES, 2)),
                announced_on=announced_on,
                upvotes=int(self._chance.paretovariate(1.2)) - 1,
            )

    def searches(self, count: int, papers: Sequence[Sighting]) -> list[Search]:
        """Return typical searches: words, a phrase, a title word, a word in a category, a NOT."""
        kinds = cycle((self._plain, self._phrase, self._title, self._category, self._without))
        return [next(kinds)(self._chance.choice(papers)) for _ in range(count)]

    # --- Words ----------------------------------------------------------------------------------

    def _text(self, least: int, most: int) -> str:
        return " ".join(self._word() for _ in range(self._chance.randint(least, most)))

    def _word(self) -> str:
        if self._chance.random() >= COINED_SHARE:
            return self._chance.choice(self._words)
        # Approximates Zipf's law: a few coined words occur in many papers, most in one or two.
        return _coined(int(self._chance.paretovariate(0.6)) % COINED)

    # --- Searches -------------------------------------------------------------------------------

    def _plain(self, paper: Sighting) -> Search:
        words = self._chance.sample(_bare(paper.title), 3)
        return Search(" ".join(words), " OR ".join(map(_quoted, words)))

    def _phrase(self, paper: Sighting) -> Search:
        words = _bare(paper.title)
        start = self._chance.randrange(len(words) - 1)
        phrase = _quoted(" ".join(words[start : start + 2]))
        return Search(phrase, phrase)

    def _title(self, paper: Sighting) -> Search:
        word = self._chance.choice(_bare(paper.title))
        return Search(f"ti:{word}", f"title : {_quoted(word)}")

    def _category(self, paper: Sighting) -> Search:
        word, category = self._chance.choice(_bare(paper.title)), paper.categories[0]
        return Search(
            f"{word} cat:{category}", f"{_quoted(word)} AND categories : {_quoted(category)}"
        )

    def _without(self, paper: Sighting) -> Search:
        first, second, third = self._chance.sample(_bare(paper.title), 3)
        return Search(
            f"{first} AND {second} -{third}",
            f"({_quoted(first)} AND {_quoted(second)}) NOT {_quoted(third)}",
        )


def _words(paper: Paper) -> list[str]:
    found = (word.strip(".,;:()").lower() for word in f"{paper.title} {paper.abstract}".split())
    return [word for word in found if word.isascii() and word.isalpha()]


def _bare(text: str) -> list[str]:
    """Return the words without "and", "or" and "not", which are operators in a query."""
    return [word for word in text.lower().split() if word not in {"and", "or", "not"}]


def _coined(number: int) -> str:
    word = ""
    while number or len(word) < 4:
        number, rest = divmod(number, len(SYLLABLES))
        word += SYLLABLES[rest]
    return word


def _quoted(text: str) -> str:
    return f'"{text}"'


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
