"""Labelled sets, as files: papers, topics, and relevance grades by people.

A set is a folder with `papers.jsonl` {id, title, abstract, authors?, categories?}, `topics.jsonl`
{id, query} and `qrels.jsonl` {topic, paper, grade}.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import PaperboyError
from pipeline.matching.match import PaperText, TopicText
from pipeline.sources.entries import text_in
from pipeline.sources.text import clean


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


def read(folder: Path) -> LabelledSet:
    """Read a labelled set. Raise PaperboyError if a file is missing or invalid, or is ungraded."""
    grades: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for row in _lines(folder / "qrels.jsonl", "topic", "paper", "grade"):
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
        for row in _lines(path, "id", "title", text="title")
    ]


def topics_in(path: Path) -> list[TopicText]:
    """Parse topics. Raise PaperboyError with the line that is invalid."""
    return [
        TopicText(str(row["id"]), row["query"]) for row in _lines(path, "id", "query", text="query")
    ]


def _grade(value: object) -> int:
    if not isinstance(value, int):
        raise PaperboyError(f"the grade {value!r} is no whole number")
    return value


def _strings(value: object) -> tuple[str, ...]:
    return tuple(v for v in value if isinstance(v, str)) if isinstance(value, list) else ()


def _lines(path: Path, *required: str, text: str = "") -> Iterator[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _record(f"{path}, line {number}", line, required, text)
    except (OSError, UnicodeDecodeError) as error:
        raise PaperboyError(f"{path}: {error}") from error


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
