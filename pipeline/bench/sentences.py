"""Quality of the key sentences of abstracts: ROUGE-1 against summaries; and their training."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pipeline import key_sentence
from pipeline.bench.quality import opened
from pipeline.errors import PaperboyError
from pipeline.key_sentence import FEATURES, USUAL, Weights
from pipeline.rendering import formatting
from pipeline.sources.text import clean

FOLDS: Final = 10
CANDIDATES: Final = 300  # the most frequent words, of which
WORDS: Final = 80  # have a weight of their own
PENALTY: Final = 5_000  # of the ridge regression, on standardised features
START: Final = 380  # columns of the start of an abstract, to compare with

Numbers = npt.NDArray[np.float64]
_ALONE = [Weights(tuple(map(float, row)), {}) for row in np.eye(len(FEATURES))]
_WORDS = re.compile(r"\w+")
_TEXTS = ("title", "abstract", "ai_summary")


@dataclass(frozen=True, slots=True)
class Summarised:
    """A paper with a summary of one sentence."""

    id: str
    title: str
    abstract: str
    summary: str


@dataclass(frozen=True, slots=True)
class Quality:
    """Means of ROUGE-1 F over papers, times 100."""

    papers: int
    start: float  # of the first columns of the abstract
    chosen: float  # of the key sentence
    best: float  # of the best sentence of each abstract

    def as_json(self) -> dict[str, Any]:
        return {
            "papers": self.papers,
            "rouge1_start": round(self.start, 1),
            "rouge1_chosen": round(self.chosen, 1),
            "rouge1_best": round(self.best, 1),
        }


@dataclass(frozen=True, slots=True)
class Training:
    """Weights, and the quality on papers that were not used for them."""

    weights: Weights
    chosen: float  # mean over the folds of a cross-validation
    error: float  # standard error of that mean

    def as_json(self) -> dict[str, Any]:
        return {"cross_validated": round(self.chosen, 2), "error": round(self.error, 2)}


def measure(papers: Sequence[Summarised]) -> Quality:
    rows = [_scores(paper) for paper in papers]
    return Quality(len(papers), *(float(mean) for mean in np.mean(rows, axis=0)))


def _scores(paper: Summarised) -> tuple[float, float, float]:
    shown = formatting.cut(formatting.clean(paper.abstract), START)
    start, end = key_sentence.find(paper.title, paper.abstract)
    every = (paper.abstract[slice(*span)] for span in key_sentence.split(paper.abstract))
    return (
        rouge1(shown, paper.summary),
        rouge1(paper.abstract[start:end], paper.summary),
        max((rouge1(text, paper.summary) for text in every), default=0.0),
    )


def rouge1(text: str, summary: str) -> float:
    """Return 100 F of the words that both have, in lower case; repeated words count repeatedly."""
    ours, theirs = (Counter(_WORDS.findall(one.lower())) for one in (text, summary))
    common = (ours & theirs).total()
    return 200 * common / (ours.total() + theirs.total()) if common else 0.0


# --- Training -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Examples:
    """The sentences of a paper: their words, FEATURES and ROUGE-1."""

    words: list[list[str]]
    features: Numbers
    rouge: Numbers


def train(papers: Sequence[Summarised]) -> Training:
    """Fit the weights by ridge regression of ROUGE-1 within papers; deterministic.

    The frequent words are selected without the papers of a fold, too. Raise PaperboyError if there
    are too few papers.
    """
    examples = [_examples(paper) for paper in papers]
    examples = [one for one in examples if len(one.features) > 1]
    if len(examples) < FOLDS:
        raise PaperboyError(f"{FOLDS} papers with several English sentences are needed")
    order = np.random.default_rng(0).permutation(len(examples))
    means = [_fold(examples, fold.tolist()) for fold in np.array_split(order, FOLDS)]
    error = float(np.std(means, ddof=1)) / FOLDS**0.5
    return Training(fit(examples), float(np.mean(means)), error)


def _examples(paper: Summarised) -> Examples:
    spans = key_sentence.split(paper.abstract)
    words = key_sentence.words_of(paper.abstract, spans)
    # The score is linear, so the values of a feature are the scores with its weight alone.
    columns = [key_sentence.scores(paper.title, words, alone) for alone in _ALONE]
    rouge = np.array([rouge1(paper.abstract[slice(*span)], paper.summary) for span in spans])
    return Examples(words, np.array(columns, dtype=np.float64).T, rouge)


def _fold(examples: Sequence[Examples], held_out: Sequence[int]) -> float:
    """Return the mean ROUGE-1 of the sentences chosen on `held_out` with weights of the others."""
    omitted = set(held_out)
    weights = fit([one for number, one in enumerate(examples) if number not in omitted])
    vocabulary = {word: place for place, word in enumerate(weights.words)}
    vector = np.array([*weights.features, *weights.words.values()])
    chosen = (examples[number] for number in held_out)
    return float(
        np.mean([one.rouge[np.argmax(_matrix(one, vocabulary) @ vector)] for one in chosen])
    )


def fit(examples: Sequence[Examples]) -> Weights:
    """Return the weights for FEATURES and for WORDS of the most frequent words.

    Those words are selected whose weights are furthest from 0 when all CANDIDATES have one.
    """
    found = Counter(word for one in examples for words in one.words for word in set(words))
    frequent = sorted(found, key=lambda word: (-found[word], word))[:CANDIDATES]
    vocabulary = {word: place for place, word in enumerate(frequent)}
    rows = [_matrix(one, vocabulary) for one in examples]
    # Only differences within a paper matter for the choice.
    known = np.vstack([row - row.mean(axis=0) for row in rows])
    rouge = np.concatenate([one.rouge - one.rouge.mean() for one in examples])
    scale = known.std(axis=0)
    scale[scale == 0] = 1
    known /= scale
    own = len(FEATURES)
    telling = np.argsort(-np.abs(_ridge(known, rouge)[own:]), kind="stable")[:WORDS]
    columns = np.concatenate([np.arange(own), own + telling])
    fitted = _ridge(known[:, columns], rouge) / scale[columns]
    rounded = [float(f"{weight:.3g}") for weight in fitted]
    words = [frequent[place] for place in telling]
    return Weights(tuple(rounded[:own]), dict(zip(words, rounded[own:], strict=True)))


def _ridge(known: Numbers, rouge: Numbers) -> Numbers:
    penalty = PENALTY * np.eye(known.shape[1])
    return np.asarray(np.linalg.solve(known.T @ known + penalty, known.T @ rouge), np.float64)


def _matrix(one: Examples, vocabulary: dict[str, int]) -> Numbers:
    """Return a row per sentence: FEATURES, and for each word of the vocabulary if it occurs."""
    counts = np.zeros((len(one.words), len(vocabulary)))
    for row, words in zip(counts, one.words, strict=True):
        for word in set(words):
            if (place := vocabulary.get(word)) is not None:
                row[place] = 100 / (len(words) + USUAL)
    return np.hstack([one.features, counts])


def write(weights: Weights, path: Path) -> None:
    """Write the weights in the form that `key_sentence.shipped` reads."""
    named = dict(zip(FEATURES, weights.features, strict=True))
    both = {"features": named, "words": dict(sorted(weights.words.items()))}
    path.write_text(json.dumps(both, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")


# --- Files --------------------------------------------------------------------------------------


def read(path: Path) -> list[Summarised]:
    """Read .jsonl or .jsonl.gz, cleaned as when ingested.

    Raise PaperboyError with the line that is invalid, or if there are no papers.
    """
    try:
        with opened(path) as file:
            papers = [
                _paper(f"{path}, line {number}", line)
                for number, line in enumerate(file, 1)
                if line.strip()
            ]
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise PaperboyError(f"{path}: {error}") from error
    if not papers:
        raise PaperboyError(f"{path}: no papers")
    return papers


def _paper(where: str, line: str) -> Summarised:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise PaperboyError(f"{where}: not JSON ({error})") from error
    if not isinstance(row, dict):
        raise PaperboyError(f"{where}: not an object")
    missing = [name for name in ("id", *_TEXTS) if name not in row]
    if missing:
        raise PaperboyError(f"{where}: {', '.join(missing)} is missing")
    if wrong := [name for name in _TEXTS if not isinstance(row[name], str)]:
        raise PaperboyError(f"{where}: {', '.join(wrong)} is no text")
    title, abstract = clean(row["title"]), clean(row["abstract"])
    return Summarised(str(row["id"]), title, abstract, row["ai_summary"])
