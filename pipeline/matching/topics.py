"""Topics against papers: what every topic brings, each evaluated once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from pipeline.domain import Match, Paper, Topic
from pipeline.matching.corpus import statistics
from pipeline.matching.index import PaperIndex
from pipeline.matching.query import parse


def match(
    topics: Iterable[Topic], papers: Sequence[Paper], *, corpus: Iterable[Paper]
) -> Iterator[Match]:
    """The matches above the floor, topic by topic, best first; `corpus` tells how rare a word is.

    Trending is no query: it never comes with matches.
    """
    index = PaperIndex(papers, statistics(corpus))
    for topic in topics:
        for scored in index.search(parse(topic.query)):
            yield Match(topic.id, papers[scored.paper].id, scored.score, scored.phrases)


def search(query: str, papers: Sequence[Paper], *, corpus: Iterable[Paper]) -> Iterator[Match]:
    """What a topic that nobody follows yet would bring; its `topic_id` is 0."""
    return match([Topic(0, query)], papers, corpus=corpus)
