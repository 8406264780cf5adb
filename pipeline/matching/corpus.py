"""Document frequencies over many papers, so that the scores of a small batch are stable."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from pipeline.matching.abbreviations import Abbreviations, Definition, definitions
from pipeline.matching.tokens import forms, stem

TITLE_WEIGHT = 3.0  # a word in the title counts as three in the abstract
KEYWORD_WEIGHT = 2.0
UNSEEN_PAPERS = 200


class Readable(Protocol):
    """The attributes of a paper that matching reads; `domain.Paper` has them all."""

    @property
    def title(self) -> str: ...
    @property
    def abstract(self) -> str: ...
    @property
    def authors(self) -> tuple[str, ...]: ...
    @property
    def categories(self) -> tuple[str, ...]: ...
    @property
    def keywords(self) -> tuple[str, ...]: ...
    @property
    def sources(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class CorpusStatistics:
    """Number of papers, number of papers that contain each stem, and total length.

    Also the number of papers that define each abbreviation with each long form.

    The length of a paper is its number of words, weighted for the title and the keywords.
    """

    papers: int = 0
    frequencies: Mapping[str, int] = field(default_factory=dict)
    length: float = 0.0
    definitions: Mapping[Definition, int] = field(default_factory=dict)

    @cached_property
    def abbreviations(self) -> Abbreviations:
        return Abbreviations(self.definitions, self.frequencies)

    @property
    def average_length(self) -> float:
        return self.length / self.papers if self.papers else 1.0

    def share(self, stem: str) -> float:
        """Return the share of papers that contain the stem, 0 to 1.

        Smoothed by `UNSEEN_PAPERS` papers without the stem: if a word is in one of the thirty
        papers of a first day, it is not a common word yet.
        """
        return self.frequencies.get(stem, 0) / (self.papers + UNSEEN_PAPERS)

    def idf(self, stem: str) -> float:
        """Return the idf of the stem, above 0: log(1 + (N - n + 0.5) / (n + 0.5)), as in Lucene."""
        found = min(self.frequencies.get(stem, 0), self.papers)
        return math.log(1 + (self.papers - found + 0.5) / (found + 0.5))

    def __add__(self, other: CorpusStatistics) -> CorpusStatistics:
        """Return the statistics of both corpora together; they must not share papers."""
        return CorpusStatistics(
            self.papers + other.papers,
            Counter(self.frequencies) + Counter(other.frequencies),
            self.length + other.length,
            Counter(self.definitions) + Counter(other.definitions),
        )


def statistics(papers: Iterable[Readable]) -> CorpusStatistics:
    frequencies: Counter[str] = Counter()
    defined: Counter[Definition] = Counter()
    count, length = 0, 0.0
    for paper in papers:
        title, abstract = forms(paper.title), forms(paper.abstract)
        keywords = forms(" ".join(paper.keywords))
        frequencies.update({stem(form) for form in (*title, *abstract, *keywords)})
        defined.update(definitions(f"{paper.title}\n{paper.abstract}"))
        length += TITLE_WEIGHT * len(title) + len(abstract) + KEYWORD_WEIGHT * len(keywords)
        count += 1
    return CorpusStatistics(count, dict(frequencies), length, dict(defined))
