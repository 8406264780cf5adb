"""Match followed topics that are behind, so that a digest covers its range of batches."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import Engine

from pipeline.domain import Match, Paper
from pipeline.logs import set_aside
from pipeline.matching.corpus import statistics
from pipeline.matching.match import match, parse_topics
from pipeline.matching.semantic import Embedder
from pipeline.storage import ingest_state, papers, topics
from pipeline.storage.database import in_chunks, read_only, retry_transaction
from pipeline.storage.topics import TopicProgress

BACKFILL_DAYS = 30  # for a new topic


def match_late_topics(
    engine: Engine, batch: int, now: datetime, embedder: Embedder | None = None
) -> frozenset[int]:
    """Match every followed topic that is behind through `batch`; return the ids of those that fail.

    If a topic fails, it stays behind until a version of Paperboy can match it. Idempotent, and safe
    during an ingest: a known match is not changed unless it has become surer.
    """
    failed: set[int] = set()

    def aside(kind: str, id_: Any, error: Exception) -> None:
        set_aside(kind, id_, error)
        if kind == "topic":
            failed.add(id_)

    with read_only(engine) as conn:
        behind = topics.behind(conn, batch)
        # Parsed before papers are loaded: an invalid topic must not cost a load at every run.
        queries = parse_topics((progress.topic for progress in behind), aside)
        late = [progress for progress in behind if progress.topic in queries]
        if not late:
            return frozenset(failed)
        floor = ingest_state.look_back(conn, now, days=BACKFILL_DAYS)
        oldest = ingest_state.look_back(conn, now, days=topics.MATCHED_FOR)
        after = min(max(floor, progress.matched_through) for progress in late)
        late_papers = papers.touched_since(conn, after)
        touched = papers.touched_batches(conn, [p.id for p in late_papers])
        # Leave out papers touched by a running ingest: they are matched with their own batch.
        waiting = [
            p for p in late_papers if p.batch > oldest and touched.get(p.id, batch + 1) <= batch
        ]
        corpus = statistics(papers.recent(conn, through_batch=batch))
    for progress in _grouped(late):
        some = {one.topic: queries[one.topic] for one in progress}
        found = partial(match, some, corpus=corpus, embedder=embedder, set_aside=aside)
        _match_late(engine, progress, batch, floor, waiting, touched, found, failed)
    return frozenset(failed)


def unreadable(late: Iterable[TopicProgress]) -> frozenset[int]:
    """Return the ids of the topics with a stored text that is no longer valid; log each of them."""
    stored = [progress.topic for progress in late]
    valid = parse_topics(stored, set_aside)
    return frozenset(topic.id for topic in stored if topic not in valid)


def _grouped(late: Sequence[TopicProgress]) -> Iterator[list[TopicProgress]]:
    """Yield the topics in groups that are matched through the same batch, lowest first."""
    for stand in sorted({progress.matched_through for progress in late}):
        yield [progress for progress in late if progress.matched_through == stand]


def _match_late(
    engine: Engine,
    late: Sequence[TopicProgress],
    batch: int,
    floor: int,
    waiting: Sequence[Paper],
    touched: Mapping[int, int],
    matches: Callable[[list[Paper]], Iterator[Match]],
    failed: Collection[int],
) -> None:
    stand = late[0].matched_through
    is_new = stand == topics.NEVER_MATCHED
    unseen = [p for p in waiting if (p.batch if is_new else touched[p.id]) > max(floor, stand)]
    arose = {p.id: matched_batch(p.batch, touched[p.id], stand) for p in unseen}
    found = matches(unseen)
    for chunk in in_chunks(found, 1_000):
        _add(engine, [(new, arose[new.paper_id]) for new in chunk])
    with engine.begin() as conn:
        done = [p.topic.id for p in late if p.topic.id not in failed]
        topics.advance(conn, done, from_batch=stand, to_batch=batch)


@retry_transaction
def _add(engine: Engine, found: Sequence[tuple[Match, int]]) -> None:
    with engine.begin() as conn:
        topics.add_matches(conn, found)


def matched_batch(paper_batch: int, touched_batch: int, matched_through: int) -> int:
    """Return the batch to store with a match that is found late.

    For a new topic it is the paper's own batch. If a topic fell behind and the paper is not newer
    than `matched_through`, the topic was matched against it before: the match is due to a later
    change of the paper and gets the batch of that change.
    """
    if matched_through == topics.NEVER_MATCHED or paper_batch > matched_through:
        return paper_batch
    return touched_batch
