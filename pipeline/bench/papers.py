"""Synthetic papers with the length and vocabulary of real ones, and searches for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import cycle
from random import Random
from typing import Final

from pipeline.domain import Paper, Sighting

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

    def __init__(self, known: Sequence[Paper]) -> None:
        """Take the vocabulary from `known`, each word as often as it occurs there."""
        self._words = [word for paper in known for word in _words(paper)]
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
