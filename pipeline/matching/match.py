"""Match topics against papers, or rank papers without the threshold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple, TypeAlias

from pipeline.domain import Breadth, Match, Paper, Topic
from pipeline.errors import QueryError
from pipeline.matching.corpus import CorpusStatistics, statistics
from pipeline.matching.index import PaperIndex
from pipeline.matching.query import Query, TopicQuery, parse, plain_words
from pipeline.matching.semantic import Embedder

SetAside: TypeAlias = Callable[[str, object, Exception], None]
"""Callback for a row that is left out: its kind, its id, and the exception it raised."""

AT_ONCE = 1_000  # papers per index, which takes 50 KB each; most days have fewer


def parse_topics(topics: Iterable[Topic], set_aside: SetAside | None = None) -> dict[Topic, Query]:
    """Return the parsed query of each topic; an invalid one is passed to `set_aside`, or raised."""
    return dict(_parsed(topics, set_aside))


def match(
    queries: Mapping[Topic, Query],
    papers: Sequence[Paper],
    *,
    corpus: CorpusStatistics,
    embedder: Embedder | None = None,
    set_aside: SetAside | None = None,
) -> Iterator[Match]:
    """Yield the matches of every breadth, in no order; `corpus` gives the idf of each word.

    A topic without a match among the papers yields its near misses, see `PaperIndex.matches`.

    A topic or a paper that raises is left out and passed to `set_aside`; if that is None, the error
    is raised. Do not pass the trending topic: it is not a query, but its name is one.
    """
    queries = dict(queries)
    for start in range(0, len(papers) if queries else 0, AT_ONCE):
        some, index = _indexed(papers[start : start + AT_ONCE], corpus, embedder, set_aside)
        for topic, query in list(queries.items()):
            try:
                found = index.matches(query)
            except Exception as error:
                if set_aside is None:
                    raise
                set_aside("topic", topic.id, error)
                del queries[topic]
                continue
            for scored in found:
                paper = some[scored.paper].id
                yield Match(topic.id, paper, scored.score, scored.phrases, scored.breadth)


def _parsed(topics: Iterable[Topic], set_aside: SetAside | None) -> Iterator[tuple[Topic, Query]]:
    for topic in topics:
        try:
            yield topic, parse(topic.query)
        except QueryError as error:
            if set_aside is None:
                raise
            set_aside("topic", topic.id, error)


def _indexed(
    papers: Sequence[Paper],
    corpus: CorpusStatistics,
    embedder: Embedder | None,
    set_aside: SetAside | None,
) -> tuple[Sequence[Paper], PaperIndex]:
    """Return papers and their index; if that fails, only the papers that can be indexed alone."""
    try:
        return papers, PaperIndex(papers, corpus, embedder)
    except Exception:
        if set_aside is None:
            raise
    good = []
    for paper in papers:
        try:
            PaperIndex([paper], corpus, embedder)
        except Exception as error:  # noqa: BLE001  (one paper must not stop the others)
            set_aside("paper", paper.id, error)
        else:
            good.append(paper)
    return good, PaperIndex(good, corpus, embedder)


def found_by(
    queries: Iterable[TopicQuery],
    papers: Sequence[Paper],
    *,
    corpus: CorpusStatistics,
    breadth: Breadth,
) -> dict[TopicQuery, list[Paper]]:
    """Return the papers that each query finds."""
    found: dict[TopicQuery, list[Paper]] = {query: [] for query in queries}
    for start in range(0, len(papers), AT_ONCE):
        some = papers[start : start + AT_ONCE]
        index = PaperIndex(some, corpus)
        for query, listed in found.items():
            places = index.find(query.tree, breadth=breadth).papers
            listed.extend(some[place] for place in places.tolist())
    return found


def search(
    query: Query,
    papers: Sequence[Paper],
    *,
    corpus: Iterable[Paper],
    breadth: Breadth = Breadth.BALANCED,
    embedder: Embedder | None = None,
) -> list[Match]:
    """Return the matches of a query that need not be a topic, best first; their `topic_id` is 0."""
    found = match({Topic(0, ""): query}, papers, corpus=statistics(corpus), embedder=embedder)
    wanted = [one for one in found if one.breadth <= breadth]
    return sorted(wanted, key=attrgetter("score"), reverse=True)


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
    breadth: Breadth | None = None,
    embedder: Embedder | None = None,
) -> Iterator[Ranked]:
    """Yield the papers of each topic in turn, best first, equal scores by id, at most `top`.

    With a breadth, only papers that pass its threshold are returned, else all that share a word.

    Each query is ranked as plain words, even if it contains operators; with `language` it is parsed
    as the topic language, which raises QueryError if it is invalid.
    """
    rows = sorted(papers, key=lambda paper: paper.id)
    index = PaperIndex(rows, embedder=embedder)
    for topic in topics:
        query = parse(topic.query) if language else plain_words(topic.query)
        found = index.search(
            query,
            floor=breadth is not None,
            breadth=breadth or Breadth.MORE,
            top=top,
            with_phrases=False,
        )
        for scored in found:
            yield Ranked(topic.id, rows[scored.paper].id, scored.score)
