"""Semantic similarity of topics and papers, if an embedding model is configured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pipeline.matching.corpus import Readable
from pipeline.matching.postings import Counts

Vectors = npt.NDArray[np.float32]

WEIGHT = 1.0  # of similarity 1, relative to one mention of every word of the topic


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
