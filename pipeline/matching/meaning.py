"""How alike a topic and a paper are in what they mean, where a model is there to tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pipeline.matching.corpus import Readable
from pipeline.matching.postings import Counts

Vectors = npt.NDArray[np.float32]

WEIGHT = 1.0  # of being alike, beside all words of the topic being there once


class Embedder(Protocol):
    """Turns texts into vectors of length 1, so that their product is the cosine."""

    def papers(self, texts: Sequence[str]) -> Vectors:
        """A row for each text; NaN where it is not known yet."""
        ...

    def topic(self, text: str) -> Vectors:
        """One vector."""
        ...


class Meaning:
    """What some papers mean, ready to be compared with any number of topics."""

    def __init__(self, papers: Sequence[Readable], embedder: Embedder) -> None:
        self._embedder = embedder
        self._vectors = embedder.papers([text(paper) for paper in papers])

    def likeness(self, forms: tuple[str, ...]) -> Counts:
        """Of each paper with these words, 0 to 1.

        A paper that is not known yet is taken to be as alike as the others are on average: it
        is neither preferred nor put last.
        """
        cosines = (self._vectors @ self._embedder.topic(" ".join(forms))).astype(np.float64)
        known = ~np.isnan(cosines)
        cosines[~known] = cosines[known].mean() if known.any() else 0.0
        return np.maximum(cosines, 0.0)


def text(paper: Readable) -> str:
    """What a model reads of a paper."""
    return f"{paper.title}. {paper.abstract}"
