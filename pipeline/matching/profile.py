"""Learn what a reader likes from papers: weighted terms and authors, as in Rocchio (1971). Pure.

A paper is a sparse vector of its words and of its pairs of adjacent words. A profile is the mean of
the papers that the reader liked, without the mean of those that were shown beside them; it only
orders papers. How well that works is measured by `paperboy bench readers`, see docs/matching.md.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Final, NamedTuple
from zlib import crc32

import numpy as np
import numpy.typing as npt

from pipeline.matching.corpus import CorpusStatistics, Readable
from pipeline.matching.tokens import STOP_WORDS, forms, stem

Vector = npt.NDArray[np.float32]
Places = npt.NDArray[np.uint32]
Rows = npt.NDArray[np.intp]

SPACE: Final = 1 << 18  # places of a vector; the hash of a term is its place
OF_PAPER: Final = 200  # terms kept of a paper
ROUGHLY: Final = 50  # terms of a paper that are compared first, among thousands of papers
OF_PROFILE: Final = 2_000  # terms kept of a profile
TITLED: Final = 2.0  # a word in the title counts as two
HALF_LIFE: Final = 240.0  # days after which a liked paper counts half
CONTRAST: Final = 0.8  # share of the mean of the papers shown that is subtracted
COMMON: Final = 1.2  # weight of the words that all papers share, while few papers were shown
TYPICAL: Final = 0.014  # weight of a term in a paper, divided by its idf: median of 10,000 papers
SHOWN: Final = 20  # with that many papers shown, their mean and the common words count half each
MOST_LIKENESS: Final = 0.2  # of terms, approached; papers of one field seldom have over 0.05
SAME_AUTHOR: Final = 0.1  # added for an author of a liked paper, if the terms are a little alike
NAMESAKE: Final = 0.03  # else: it may be another person
A_LITTLE: Final = 0.004  # likeness of terms
MOST_AUTHORS: Final = 30  # of a liked paper; the authors of a larger group are no recommendation


class Term(NamedTuple):
    """A word or a pair of words: its stems, which identify it, and how the paper writes it."""

    stems: str
    written: str


@dataclass(frozen=True, slots=True)
class Terms:
    """A paper as a vector of length 1 (at most; only the heaviest `OF_PAPER` terms are kept)."""

    places: Places
    weights: Vector
    common: float  # likeness to all papers of the corpus: how general its words are

    def dump(self) -> bytes:
        """Return the terms in 4 bytes, and 6 for each term (little endian)."""
        return b"".join(
            (
                np.float32(self.common).astype("<f4").tobytes(),
                self.places.astype("<u4").tobytes(),
                self.weights.astype("<f2").tobytes(),
            )
        )

    @classmethod
    def load(cls, dumped: bytes) -> Terms:
        """Return dumped terms. Raise ValueError if the bytes are damaged."""
        count, rest = divmod(len(dumped) - 4, 6)
        if count < 0 or rest:
            raise ValueError("damaged terms of a paper")
        common, places, weights = (
            np.frombuffer(dumped, "<f4", 1),
            np.frombuffer(dumped, "<u4", count, 4) % SPACE,
            np.frombuffer(dumped, "<f2", count, 4 + 4 * count),
        )
        return cls(places, weights.astype(np.float32), float(common[0]))


@dataclass(frozen=True, slots=True)
class Opinion:
    """A paper that a reader liked, or did not like, and on which day (an ordinal)."""

    terms: Terms
    authors: Mapping[str, str]  # by `author_keys`
    day: float
    likes: bool = True


@dataclass(frozen=True, slots=True)
class Profile:
    """Terms that a reader likes (and dislikes, below 0), and authors of the liked papers."""

    places: Places
    weights: Vector
    common: float  # weight of `Terms.common`, which is subtracted
    authors: Mapping[str, str]  # key -> name

    def dump(self) -> bytes:
        return Terms(self.places, self.weights, self.common).dump()

    @classmethod
    def load(cls, dumped: bytes, authors: Mapping[str, str]) -> Profile:
        """Return a dumped profile. Raise ValueError if the bytes are damaged."""
        terms = Terms.load(dumped)
        return cls(terms.places, terms.weights, terms.common, authors)

    def weight_of(self, term: str) -> float:
        """Return the weight of a term, given by its stems; 0 if it is not in the profile."""
        found = self.weights[self.places == place(term)]
        return float(found[0]) if found.size else 0.0

    def known(self, authors: Mapping[str, str]) -> str:
        """Return the name of one of `authors` who wrote a liked paper, too; "" if none did."""
        shared = self.authors.keys() & authors.keys()
        return authors[min(shared)] if shared else ""


class Pool(NamedTuple):
    """Terms of some papers, one row each."""

    columns: Rows
    weights: Vector
    common: Vector

    def likeness(self, dense: Vector, common: float) -> Vector:
        # Columns are in range; to "clip" them is faster than to raise an error if not.
        found = np.einsum("ij,ij->i", dense.take(self.columns, mode="clip"), self.weights)
        likeness: Vector = found - np.float32(common) * self.common
        return likeness


class TermTable:
    """The terms of many papers, to compare them with profiles. Not thread-safe.

    The places of these papers have the columns 1, 2, ... of a shorter vector, which stays in the
    cache of the processor. A paper takes 2.4 KB; a profile is compared with 150 papers in about a
    tenth of a millisecond.
    """

    def __init__(self, papers: Mapping[int, Terms] | None = None) -> None:
        self._row: dict[int, int] = {}
        self._column = np.zeros(SPACE, dtype=np.uint32)  # of a place; 0 if no paper has it
        self._place = np.zeros(SPACE + 1, dtype=np.uint32)  # of a column
        self._width = 1
        self._columns = np.zeros((256, OF_PAPER), dtype=np.intp)
        self._weights = np.zeros((256, OF_PAPER), dtype=np.float32)
        self._common = np.zeros(256, dtype=np.float32)
        self._dense = np.zeros(SPACE + 1, dtype=np.float32)  # the profile that was compared last
        self._filled_columns: npt.NDArray[np.uint32] = np.empty(0, np.uint32)
        self._profile: Profile | None = None
        self.add(papers or {})

    def __contains__(self, paper: int) -> bool:
        return paper in self._row

    def add(self, papers: Mapping[int, Terms]) -> None:
        """Add papers by id, which are not in the table yet."""
        while len(self._row) + len(papers) >= len(self._common):
            self._columns = np.concatenate((self._columns, np.zeros_like(self._columns)))
            self._weights = np.concatenate((self._weights, np.zeros_like(self._weights)))
            self._common = np.concatenate((self._common, np.zeros_like(self._common)))
        self._clear()  # it lacks the columns to come
        for id_, terms in papers.items():
            row = self._row[id_] = 1 + len(self._row)
            size = terms.places.size  # the other terms of the row have column 0 and weight 0
            self._columns[row, :size] = self._columns_of(terms.places)
            self._weights[row, :size] = terms.weights
            self._common[row] = terms.common

    def _columns_of(self, places: Places) -> npt.NDArray[np.uint32]:
        new = np.unique(places[self._column[places] == 0])
        columns = np.arange(self._width, self._width + new.size)
        self._column[new], self._place[columns] = columns, new
        self._width += new.size
        return self._column[places]

    def rows(self, papers: Sequence[int]) -> Rows:
        """Return the rows of papers, for `likeness`; row 0, without terms, for unknown ones."""
        return np.fromiter((self._row.get(paper, 0) for paper in papers), np.intp, len(papers))

    def likeness(self, profile: Profile, rows: Rows) -> Vector:
        """Return how similar papers are to the liked ones, -0.2 to 0.2; 0 if not known."""
        found = self.pool(rows, OF_PAPER).likeness(self._filled(profile), profile.common)
        limit = np.float32(MOST_LIKENESS)
        return np.asarray(limit * np.tanh(found / limit), dtype=np.float32)

    def pool(self, rows: Rows, most: int = ROUGHLY) -> Pool:
        """Return a few terms of each paper, to find the nearest among thousands."""
        return Pool(
            self._columns[:, :most].take(rows, axis=0),
            self._weights[:, :most].take(rows, axis=0),
            self._common[rows],
        )

    def nearest(
        self, profile: Profile, pool: Pool, among: npt.NDArray[np.bool_], most: int
    ) -> Rows:
        """Return the positions in a pool of about the most similar papers `among` those chosen."""
        likeness = pool.likeness(self._filled(profile), profile.common)
        places = np.flatnonzero(among)
        if places.size <= most:
            return places
        return places[np.argpartition(-likeness[places], most)[:most]]

    def _filled(self, profile: Profile) -> Vector:
        """Return the profile with all columns; terms that no paper has are left out."""
        if profile is not self._profile:
            self._clear()
            self._filled_columns = self._column[profile.places]
            self._dense[self._filled_columns] = profile.weights
            self._dense[0] = 0.0
            self._profile = profile
        return self._dense

    def _clear(self) -> None:
        self._dense[self._filled_columns] = 0.0
        self._profile = None

    def terms(self, paper: int) -> Terms:
        row = self._row[paper]
        places = self._place[self._columns[row]]
        return Terms(places, self._weights[row], float(self._common[row]))


def terms_of(paper: Readable, corpus: CorpusStatistics) -> Terms:
    """Return the terms of a paper, weighted by 1 + log(mentions) times idf.

    `corpus` need not know pairs: their idf is the sum of those of their words.
    """
    return _terms(_weighed(paper, corpus), corpus)


def terms_with_names(
    paper: Readable, corpus: CorpusStatistics, most: int
) -> tuple[Terms, list[Term]]:
    """Return `terms_of` and `telling_terms` of a paper, in half the time of both."""
    weighed = _weighed(paper, corpus)
    return _terms(weighed, corpus), [term for term, _ in weighed[:most]]


def _terms(weighed: Sequence[tuple[Term, float]], corpus: CorpusStatistics) -> Terms:
    weights = np.fromiter((weight for _, weight in weighed), np.float32, len(weighed))
    weights /= np.linalg.norm(weights) or 1.0
    by_place: defaultdict[int, float] = defaultdict(float)
    common = 0.0
    for (term, _), weight in zip(weighed[:OF_PAPER], weights.tolist(), strict=False):
        by_place[place(term.stems)] += weight
        if " " not in term.stems:
            common += weight * corpus.share(term.stems) * corpus.idf(term.stems)
    return Terms(
        np.fromiter(by_place, np.uint32, len(by_place)),
        np.fromiter(by_place.values(), np.float32, len(by_place)),
        TYPICAL * common,
    )


def telling_terms(paper: Readable, corpus: CorpusStatistics, most: int = 12) -> list[Term]:
    """Return the heaviest terms of a paper, to name what a reader likes."""
    return [term for term, _ in _weighed(paper, corpus)[:most]]


def place(term: str) -> int:
    return crc32(term.encode()) % SPACE


def _weighed(paper: Readable, corpus: CorpusStatistics) -> list[tuple[Term, float]]:
    """Return all terms of a paper and their weights, heaviest first."""
    counts: defaultdict[str, float] = defaultdict(float)
    idf: dict[str, float] = {}
    written: dict[str, str] = {}
    for text, weight in ((paper.title, TITLED), (paper.abstract, 1.0)):
        words = [(stem(form), form) for form in forms(text)]
        for word, form in words:
            if word not in STOP_WORDS:
                counts[word] += weight
                idf[word] = corpus.idf(word)
                written.setdefault(word, form)
        for (one, first), (other, second) in pairwise(words):
            if one not in STOP_WORDS and other not in STOP_WORDS:
                pair = f"{one} {other}"
                counts[pair] += weight
                idf[pair] = idf[one] + idf[other]
                written.setdefault(pair, f"{first} {second}")
    weights = {term: (1 + math.log(count)) * idf[term] for term, count in counts.items()}
    ordered = sorted(weights.items(), key=lambda one: (-one[1], one[0]))
    return [(Term(term, written[term]), weight) for term, weight in ordered]


def learn(
    opinions: Sequence[Opinion], shown: Sequence[Terms] = (), removed: Collection[str] = ()
) -> Profile:
    """Return the profile of a reader, without the terms and author keys in `removed`.

    `shown` are papers that the reader saw beside the liked ones. Only the ages of the opinions in
    relation to each other count, so a stored profile stays valid.
    """
    liked = [one for one in opinions if one.likes]
    disliked = [one for one in opinions if not one.likes]
    newest = max((one.day for one in opinions), default=0.0)
    parts: list[tuple[Terms, float]] = []
    for some, sign in ((liked, 1.0), (disliked, -CONTRAST)):
        ages = [0.5 ** ((newest - one.day) / HALF_LIFE) for one in some]
        total = sum(ages)
        parts += [(one.terms, sign * age / total) for one, age in zip(some, ages, strict=True)]
    trust = len(shown) / (len(shown) + SHOWN)
    parts += [(other, -CONTRAST * trust / len(shown)) for other in shown]
    vector = _sum(parts)
    vector[[place(term) for term in removed]] = 0.0
    places = np.flatnonzero(vector != 0)  # of booleans, which is ten times faster
    if places.size > OF_PROFILE:
        places = places[np.argpartition(-np.abs(vector[places]), OF_PROFILE)[:OF_PROFILE]]
    authors = {
        key: name
        for one in liked
        if len(one.authors) <= MOST_AUTHORS
        for key, name in one.authors.items()
        if key not in removed
    }
    common = COMMON * (1 - trust) if liked else 0.0
    return Profile(places.astype(np.uint32), vector[places], common, authors)


def _sum(parts: Sequence[tuple[Terms, float]]) -> Vector:
    """Return the sum of terms times factors, as a vector with all places."""
    if not parts:
        return np.zeros(SPACE, dtype=np.float32)
    factors = np.repeat([factor for _, factor in parts], [one.places.size for one, _ in parts])
    weights = factors * np.concatenate([one.weights for one, _ in parts])
    places = np.concatenate([one.places for one, _ in parts])
    return np.bincount(places, weights, SPACE).astype(np.float32)


def with_author(likeness: float) -> float:
    """Return the likeness of a paper by an author of a liked one, from the likeness of terms."""
    return likeness + (SAME_AUTHOR if likeness >= A_LITTLE else NAMESAKE)


def author_keys(authors: Iterable[str]) -> dict[str, str]:
    """Return names by a key without their order and middle initials, to compare with others.

    People with the same name are one person here, and somebody who writes "G. Hinton" is another.
    """
    return {_author_key(author): author for author in reversed(list(authors))}


@lru_cache(maxsize=1 << 16)
def _author_key(author: str) -> str:
    names = forms(author)
    whole = [name for name in names if len(name) > 1]
    return " ".join(sorted(whole if len(whole) > 1 else names))
