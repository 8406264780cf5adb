"""Rank papers for topics without the relevance threshold, to evaluate labelled data sets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.matching.index import PaperIndex
from pipeline.matching.meaning import Embedder
from pipeline.matching.query import parse, plain_words

DEEPEST_RANK = 1_000


@dataclass(frozen=True, slots=True)
class PaperText:
    """A paper of a labelled data set, with an id of any form."""

    id: str
    title: str
    abstract: str
    authors: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TopicText:
    id: str
    query: str


class Ranked(NamedTuple):
    topic: str
    paper: str
    score: float


def rank(
    papers: Iterable[PaperText],
    topics: Iterable[TopicText],
    top: int = DEEPEST_RANK,
    *,
    language: bool = False,
    embedder: Embedder | None = None,
) -> Iterator[Ranked]:
    """Yield the papers of each topic in turn, best first, equal scores by id, at most `top`.

    Each query is ranked as plain words, even if it contains operators; with `language` it is parsed
    as the topic language, which raises QueryError if it is invalid. A paper that shares no word
    with a plain query is not returned.
    """
    rows = sorted(papers, key=lambda paper: paper.id)
    index = PaperIndex(rows, embedder=embedder)
    for topic in topics:
        query = parse(topic.query) if language else plain_words(topic.query)
        for found in index.search(query, floor=False, top=top, with_phrases=False):
            yield Ranked(topic.id, rows[found.paper].id, found.score)
