"""Semantic similarity of papers to topics and to liked papers, if a model is configured.

A profile has a vector beside its terms: as in `profile.learn`, the mean of the liked papers without
that of the papers shown beside them. What it adds is in docs/matching.md.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.matching.corpus import Readable
from pipeline.matching.postings import Counts
from pipeline.matching.profile import CONTRAST, HALF_LIFE, SHOWN

Vectors = npt.NDArray[np.float32]
Key = TypeVar("Key", bound=Hashable)

WEIGHT = 1.0  # of similarity 1, relative to one mention of every word of the topic
OF_LIKENESS: Final = 0.05  # weight of similarity 1 to a profile, added to the likeness of terms


class Embedder(Protocol):
    """Model that embeds texts as vectors of length 1, so that their dot product is the cosine."""

    def papers(self, texts: Sequence[str]) -> Vectors:
        """Return one row per text; NaN if its vector is not computed yet."""
        ...

    def topic(self, text: str) -> Vectors:
        """Return the vector of a topic."""
        ...


class SemanticSimilarity:
    """Vectors of some papers, to compare with any number of topics."""

    def __init__(self, papers: Sequence[Readable], embedder: Embedder) -> None:
        self._embedder = embedder
        self._vectors = embedder.papers([text(paper) for paper in papers])

    def likeness(self, forms: tuple[str, ...]) -> Counts:
        """Return the similarity of each paper to these words, 0 to 1; a negative cosine is 0.

        If a paper has no vector yet, it gets the mean of the others: it is neither preferred nor
        put last.
        """
        cosines = (self._vectors @ self._embedder.topic(" ".join(forms))).astype(np.float64)
        known = ~np.isnan(cosines)
        cosines[~known] = cosines[known].mean() if known.any() else 0.0
        return np.maximum(cosines, 0.0)


def text(paper: Readable) -> str:
    """Return the text of a paper to embed."""
    return f"{paper.title}. {paper.abstract}"


# --- The vector of a profile --------------------------------------------------------------------


class Judged(NamedTuple):
    """The vector of a paper that a reader liked, or did not like, and on which day (an ordinal)."""

    vector: Vectors
    day: float
    likes: bool = True


@dataclass(frozen=True, slots=True)
class ProfileVector:
    """The direction of the papers that a reader likes."""

    direction: Vectors
    usual: float  # dot product with a paper of no special interest, which is subtracted

    def dump(self) -> bytes:
        """Return the vector in 4 bytes, and 2 for each dimension (little endian)."""
        usual, direction = np.float32(self.usual).astype("<f4"), self.direction.astype("<f2")
        return b"".join((usual.tobytes(), direction.tobytes()))

    @classmethod
    def load(cls, dumped: bytes) -> Self:
        """Return a dumped vector. Raise ValueError if the bytes are damaged."""
        if len(dumped) < 4 or len(dumped) % 2:
            raise ValueError("damaged vector of a profile")
        direction = np.frombuffer(dumped, "<f2", offset=4).astype(np.float32)
        return cls(direction, float(np.frombuffer(dumped, "<f4", 1)[0]))


def readable(dumped: Mapping[Key, bytes], size: int = 0) -> dict[Key, Vectors]:
    """Return stored vectors (little-endian float16) of one model by key, without damaged ones.

    Those are damaged whose dimensions are not `size`, or without a size not the most of all.
    """
    length = 2 * size or max(map(len, dumped.values()), default=0)
    whole = {k: one for k, one in dumped.items() if len(one) == length and length % 2 == 0}
    vectors = {k: np.frombuffer(one, "<f2").astype(np.float32) for k, one in whole.items()}
    return {k: vector for k, vector in vectors.items() if np.isfinite(vector).all()}


def learn_vector(
    judged: Sequence[Judged], shown: Sequence[Vectors], usual: Sequence[Vectors]
) -> ProfileVector:
    """Return the vector of a profile from at least one judged paper.

    `shown` are papers that the reader saw beside the liked ones, and `usual` are random papers,
    which stand for them while they are few. All vectors are of one model.
    """
    newest = max(one.day for one in judged)
    direction = np.zeros_like(judged[0].vector)
    for likes, sign in ((True, 1.0), (False, -CONTRAST)):
        some = [one for one in judged if one.likes is likes]
        if some:
            ages = [0.5 ** ((newest - one.day) / HALF_LIFE) for one in some]
            mean = np.average([one.vector for one in some], axis=0, weights=ages)
            direction += np.float32(sign) * mean.astype(np.float32)
    mean_of_all = _mean(usual, direction)
    if any(one.likes for one in judged):
        trust = np.float32(len(shown) / (len(shown) + SHOWN))
        beside = trust * _mean(shown, direction) + (1 - trust) * mean_of_all
        direction -= np.float32(CONTRAST) * beside
    return ProfileVector(direction, float(direction @ mean_of_all))


def _mean(vectors: Sequence[Vectors], like: Vectors) -> Vectors:
    return np.mean(vectors, axis=0, dtype=np.float32) if len(vectors) else np.zeros_like(like)


class VectorTable:
    """The vectors of many papers by one model, to compare them with profiles.

    A paper takes 1.5 KB; a profile is compared with 150 papers in about a tenth of a millisecond.
    """

    def __init__(self) -> None:
        self._row: dict[int, int | None] = {}  # None: without a vector
        self._vectors = np.zeros((0, 0), dtype=np.float32)

    def __contains__(self, paper: int) -> bool:
        """Return whether a paper was added, with or without a vector."""
        return paper in self._row

    def add(self, papers: Iterable[int], vectors: Mapping[int, bytes]) -> None:
        """Add papers, and the dumped vectors of those that have one, by id."""
        self._row |= dict.fromkeys(papers)
        count, size = self._vectors.shape
        found = readable(vectors, size)
        if found:
            new = np.array(list(found.values()), dtype=np.float32)
            self._vectors = np.concatenate((self._vectors, new)) if count else new
            self._row |= {id_: row for row, id_ in enumerate(found, count)}

    def likeness(self, profile: ProfileVector, papers: Sequence[int]) -> dict[int, float]:
        """Return what to add to the likeness of papers, by id.

        Papers without a vector are left out: they are as any other.
        """
        rows = {id_: row for id_ in papers if (row := self._row.get(id_)) is not None}
        if not rows or profile.direction.size != self._vectors.shape[1]:
            return {}
        found = self._vectors.take(list(rows.values()), axis=0) @ profile.direction
        added = np.nan_to_num(OF_LIKENESS * (found - np.float32(profile.usual)))
        return dict(zip(rows, added.tolist(), strict=True))
