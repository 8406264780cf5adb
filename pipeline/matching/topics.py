"""Topics against papers: what every topic brings, each evaluated once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter

from pipeline.domain import Breadth, Match, Paper, Topic
from pipeline.matching.corpus import CorpusStatistics, statistics
from pipeline.matching.index import PaperIndex
from pipeline.matching.meaning import Embedder
from pipeline.matching.query import parse

AT_ONCE = 1_000  # papers in one index, which takes 50 KB each; more than most days bring


def match(
    topics: Iterable[Topic],
    papers: Sequence[Paper],
    *,
    corpus: CorpusStatistics,
    embedder: Embedder | None = None,
) -> Iterator[Match]:
    """The matches of every breadth, in no order; `corpus` tells how rare a word is.

    Trending is no query: it never comes with matches.
    """
    queries = [(topic.id, parse(topic.query)) for topic in topics]
    for start in range(0, len(papers) if queries else 0, AT_ONCE):
        some = papers[start : start + AT_ONCE]
        index = PaperIndex(some, corpus, embedder)
        for topic_id, query in queries:
            for scored in index.search(query, breadth=Breadth.MORE):
                paper = some[scored.paper].id
                yield Match(topic_id, paper, scored.score, scored.phrases, scored.breadth)


def found_by(
    queries: Iterable[str], papers: Sequence[Paper], *, corpus: CorpusStatistics, breadth: Breadth
) -> dict[str, list[Paper]]:
    """Which of these papers each query finds."""
    found: dict[str, list[Paper]] = {query: [] for query in queries}
    for start in range(0, len(papers), AT_ONCE):
        some = papers[start : start + AT_ONCE]
        index = PaperIndex(some, corpus)
        for query, listed in found.items():
            places = index.find(parse(query), breadth=breadth).papers
            listed.extend(some[place] for place in places.tolist())
    return found


def search(
    query: str,
    papers: Sequence[Paper],
    *,
    corpus: Iterable[Paper],
    breadth: Breadth = Breadth.BALANCED,
    embedder: Embedder | None = None,
) -> list[Match]:
    """What a topic that nobody follows yet would bring, best first; its `topic_id` is 0."""
    found = match([Topic(0, query)], papers, corpus=statistics(corpus), embedder=embedder)
    wanted = [one for one in found if one.breadth <= breadth]
    return sorted(wanted, key=attrgetter("score"), reverse=True)
