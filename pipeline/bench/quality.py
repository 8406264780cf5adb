"""Quality of matching on labelled sets: ranking, threshold, and days without relevant papers."""

from __future__ import annotations

import gzip
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TextIO

import numpy as np
import numpy.typing as npt

from pipeline.domain import BREADTHS, Breadth
from pipeline.errors import PaperboyError
from pipeline.matching.index import PaperIndex
from pipeline.matching.match import PaperText, TopicText
from pipeline.matching.query import plain_words
from pipeline.matching.semantic import Embedder
from pipeline.sources.documents import text_in
from pipeline.sources.text import clean

DEPTH: Final = 10
RESAMPLES: Final = 2_000  # of the bootstrap
DAYS, DAY = 50, 30  # simulated days without relevant papers per topic; papers per day

Places = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class FloorQuality:
    """Digests of readers with one breadth setting, in percent; means over topics."""

    precision: float
    recall: float
    papers: float  # per topic, not in percent
    quiet: float  # of days without a relevant paper, the share that returned no paper
    elsewhere: float | None = None  # the same for days of another set, which has no relevant paper


@dataclass(frozen=True, slots=True)
class Quality:
    name: str
    topics: int
    ndcg: float
    error: float  # standard error of the mean, by resampling topics
    floors: Mapping[Breadth, FloorQuality]

    def as_json(self) -> dict[str, Any]:
        return {
            "set": self.name,
            "topics": self.topics,
            "ndcg@10": round(self.ndcg, 1),
            "error": round(self.error, 1),
            "floor": {
                breadth.name.lower(): {
                    "precision": round(one.precision, 1),
                    "recall": round(one.recall, 1),
                    "papers": round(one.papers, 1),
                    "quiet": round(one.quiet, 1),
                    "elsewhere": None if one.elsewhere is None else round(one.elsewhere, 1),
                }
                for breadth, one in self.floors.items()
            },
        }


def measure(
    labelled: LabelledSet,
    elsewhere: Sequence[PaperText] = (),
    embedder: Embedder | None = None,
) -> Quality:
    """Return the quality on a set; `elsewhere` has papers of other fields, all irrelevant."""
    index = PaperIndex(labelled.papers, embedder=embedder)
    others = PaperIndex(elsewhere, index.statistics()) if elsewhere else None
    ranks = [_ndcg(index, labelled, topic) for topic in labelled.topics]
    chance = np.random.default_rng(0)  # the same days, and the same error, each time
    means = chance.choice(ranks, (RESAMPLES, len(ranks))).mean(axis=1)
    floors = [_floors(index, labelled, topic, chance) for topic in labelled.topics]
    quiet = [_elsewhere(others, len(elsewhere), topic, chance) for topic in labelled.topics]
    return Quality(
        labelled.name,
        len(ranks),
        float(np.mean(ranks)),
        float(means.std()),
        {
            breadth: replace(
                _mean([one[breadth] for one in floors]),
                elsewhere=float(np.mean([one[breadth] for one in quiet])) if others else None,
            )
            for breadth in BREADTHS
        },
    )


# --- Ranking ------------------------------------------------------------------------------------


def _ndcg(index: PaperIndex, labelled: LabelledSet, topic: TopicText) -> float:
    """Return nDCG@10 of 100; the gain of a grade is 2^grade - 1, the discount log2(rank + 1)."""
    grades = labelled.grades[topic.id]
    found = index.find(plain_words(topic.query), floor=False)
    best_first = found.papers[np.argsort(-found.scores, kind="stable")]
    ids = [labelled.papers[paper].id for paper in best_first.tolist()]
    if labelled.is_judged:
        ids = [id_ for id_ in ids if id_ in grades]
    best = _gain(sorted(grades.values(), reverse=True))
    return 100 * _gain([grades.get(id_, 0) for id_ in ids]) / best if best else 0.0


def ndcg(grades: Sequence[int]) -> float:
    """Return nDCG@10 of 100 of papers with these grades, in their order."""
    best = _gain(sorted(grades, reverse=True))
    return 100 * _gain(grades) / best if best else 0.0


def _gain(grades: Sequence[int]) -> float:
    return sum((2.0**grade - 1) / math.log2(i + 2) for i, grade in enumerate(grades[:DEPTH]))


# --- Threshold ----------------------------------------------------------------------------------


def _floors(
    index: PaperIndex, labelled: LabelledSet, topic: TopicText, chance: np.random.Generator
) -> dict[Breadth, FloorQuality]:
    grades = labelled.grades[topic.id]
    ids = [paper.id for paper in labelled.papers]
    judged = np.array([id_ in grades or not labelled.is_judged for id_ in ids])
    relevant = np.array([grades.get(id_, 0) >= labelled.relevant_from for id_ in ids])
    worthless = np.flatnonzero(np.array([grades.get(id_, 0) == 0 for id_ in ids]))
    days = chance.choice(worthless, (DAYS, min(DAY, worthless.size)))
    found = index.find(plain_words(topic.query), breadth=Breadth.MORE)
    floors = {}
    for breadth in BREADTHS:
        sent = np.zeros(len(ids), dtype=np.bool_)
        sent[found.papers[found.breadths <= breadth]] = True
        right = (sent & relevant).sum()
        floors[breadth] = FloorQuality(
            precision=_share(right, (sent & judged).sum()),
            recall=_share(right, relevant.sum()),
            papers=float(sent.sum()),
            quiet=100 * float((~sent[days].any(axis=1)).mean()),
        )
    return floors


def _elsewhere(
    others: PaperIndex | None, papers: int, topic: TopicText, chance: np.random.Generator
) -> dict[Breadth, float]:
    """Return the percentage of days with only irrelevant papers of other fields without a match."""
    if others is None:
        return dict.fromkeys(BREADTHS, math.nan)
    days = chance.integers(0, papers, (DAYS, DAY))
    found = others.find(plain_words(topic.query), breadth=Breadth.MORE)
    quiet = {}
    for breadth in BREADTHS:
        here = np.isin(days, found.papers[found.breadths <= breadth])
        quiet[breadth] = 100 * float((~here.any(axis=1)).mean())
    return quiet


def _share(some: float, of_all: float) -> float:
    """Return a percentage; NaN if `of_all` is 0."""
    return 100 * float(some) / float(of_all) if of_all else math.nan


def _mean(floors: Iterable[FloorQuality]) -> FloorQuality:
    """Return means over topics.

    A topic without matches has no precision, one without relevant papers no recall; both are left
    out of the mean.
    """
    rows = [(one.precision, one.recall, one.papers, one.quiet) for one in floors]
    return FloorQuality(*(float(column) for column in np.nanmean(np.array(rows), axis=0)))


@dataclass(frozen=True, slots=True)
class LabelledSet:
    name: str
    papers: Sequence[PaperText]
    topics: Sequence[TopicText]
    grades: Mapping[str, Mapping[str, int]]  # by topic, then paper

    @property
    def is_judged(self) -> bool:
        """Return whether irrelevant papers were graded, too: then missing grades are unknown.

        If no paper has the grade 0, a paper without a grade counts as irrelevant.
        """
        return any(grade == 0 for known in self.grades.values() for grade in known.values())

    @property
    def relevant_from(self) -> int:
        """Return the lowest grade that counts as relevant: the upper half of the scale."""
        best = max(grade for known in self.grades.values() for grade in known.values())
        return max(1, math.ceil(best / 2))


def read_set(folder: Path) -> LabelledSet:
    """Read a labelled set. Raise PaperboyError if a file is missing or invalid, or is ungraded."""
    grades: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for row in rows(folder / "qrels.jsonl", "topic", "paper", "grade"):
        grades[str(row["topic"])][str(row["paper"])] = _grade(row["grade"])
    if not grades:
        raise PaperboyError(f"{folder / 'qrels.jsonl'}: no grades")
    papers = sorted(papers_in(folder / "papers.jsonl"), key=lambda paper: paper.id)
    topics = [topic for topic in topics_in(folder / "topics.jsonl") if topic.id in grades]
    return LabelledSet(folder.name, papers, topics, grades)


def papers_in(path: Path) -> list[PaperText]:
    """Parse papers. Raise PaperboyError with the line that is invalid."""
    return [
        PaperText(
            id=str(row["id"]),
            title=clean(row["title"]),
            abstract=clean(text_in(row, "abstract")),
            authors=_strings(row.get("authors")),
            categories=_strings(row.get("categories")),
        )
        for row in rows(path, "id", "title", text="title")
    ]


def topics_in(path: Path) -> list[TopicText]:
    """Parse topics. Raise PaperboyError with the line that is invalid."""
    return [
        TopicText(str(row["id"]), row["query"]) for row in rows(path, "id", "query", text="query")
    ]


def _grade(value: object) -> int:
    if not isinstance(value, int):
        raise PaperboyError(f"the grade {value!r} is no whole number")
    return value


def _strings(value: object) -> tuple[str, ...]:
    return tuple(v for v in value if isinstance(v, str)) if isinstance(value, list) else ()


def rows(path: Path, *required: str, text: str = "") -> Iterator[dict[str, Any]]:
    """Yield the rows of a file of JSON lines, .jsonl or .jsonl.gz, which have the `required` keys.

    `text` is one of them that must be a string. Raise PaperboyError with the line that is invalid.
    """
    try:
        with opened(path) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _record(f"{path}, line {number}", line, required, text)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise PaperboyError(f"{path}: {error}") from error


def opened(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8")


def _record(where: str, line: str, required: tuple[str, ...], text: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise PaperboyError(f"{where}: not JSON ({error})") from error
    missing = [name for name in required if not isinstance(row, dict) or name not in row]
    if missing:
        raise PaperboyError(f"{where}: {', '.join(missing)} is missing")
    if text and not isinstance(row[text], str):
        raise PaperboyError(f"{where}: {text} is no text")
    return dict(row)
