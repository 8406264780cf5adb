"""Topics, their subscriptions, and the papers that match them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, and_, bindparam, delete, exists, func, insert, select, update
from sqlalchemy.orm import InstrumentedAttribute

from pipeline.domain import (
    TRENDING,
    Breadth,
    Match,
    SubscriberStatus,
    Subscription,
    Topic,
    TopicKind,
)
from pipeline.storage import ingest_state
from pipeline.storage.database import in_chunks, readable, upsert
from pipeline.storage.schema import MatchRow, PaperRow, SubscriberRow, SubscriptionRow, TopicRow

NEVER_MATCHED = -1
# Days after its batch for which a paper is matched again if a source changes it. An older match may
# be deleted (see `purge`): matched again, the paper would be sent a second time.
MATCHED_FOR = 120
CHUNK = 1_000
GAINED = ("batch", "score", "phrases", "breadth")  # columns replaced by a match of lower breadth


@dataclass(frozen=True, slots=True)
class TopicProgress:
    """A topic to be matched with the batches after `matched_through`."""

    topic: Topic
    matched_through: int


@dataclass(frozen=True, slots=True)
class PublishedMatch:
    """A match of a published batch, for digests."""

    paper_id: int
    batch: int
    score: float
    phrases: tuple[str, ...]
    breadth: Breadth


def find_or_add(conn: Connection, canonical: str, now: datetime) -> Topic:
    """Return the topic of a canonical query, added if missing and locked in share mode.

    Equal queries share one topic.
    """
    kind = TopicKind.TRENDING if canonical == TRENDING else TopicKind.QUERY
    add = (
        upsert(conn, TopicRow)
        .values(query=canonical, kind=kind, matched_through=NEVER_MATCHED, created_at=now)
        .on_conflict_do_nothing(index_elements=["query"])
    )
    # The lock prevents deletion until this transaction ends. If `delete_unfollowed` holds the row,
    # wait for it, and add the topic again if it was deleted.
    find = (
        select(TopicRow.id, TopicRow.kind)
        .where(TopicRow.query == canonical)
        .with_for_update(key_share=True, read=True)
    )
    while True:
        conn.execute(add)
        row = conn.execute(find).one_or_none()
        if row is not None:
            return Topic(row.id, canonical, TopicKind(row.kind))


def delete_unfollowed(
    conn: Connection, *, among: Sequence[int] | None = None, limit: int | None = None
) -> int:
    """Delete topics without a subscriber and their matches; return how many were deleted.

    They are deleted because a query may be personal. Digests keep their labels and papers; if a
    reader follows the query again, it is matched again. With `among`, only these topics are
    considered, and locked rows are waited for; without it, locked rows are skipped until the next
    run.
    """
    is_unfollowed = and_(
        TopicRow.kind == TopicKind.QUERY,
        ~exists().where(SubscriptionRow.topic_id == TopicRow.id),
    )
    found = select(TopicRow.id).where(is_unfollowed).order_by(TopicRow.id).limit(limit)
    if among is not None:
        found = found.where(TopicRow.id.in_(among))
    locked = found.with_for_update(skip_locked=among is None)
    ids = conn.execute(locked).scalars().all()
    # Check again under the lock: a reader may have followed the topic before it was locked.
    return conn.execute(delete(TopicRow).where(TopicRow.id.in_(ids), is_unfollowed)).rowcount


def follow(
    conn: Connection, subscriber_id: int, topics: Iterable[tuple[Topic, str]], now: datetime
) -> None:
    """Replace the subscriber's subscriptions by (topic, label) pairs, in this order.

    If a topic occurs twice, its first label is stored. If only labels change, `created_at` stays:
    it is the time from which the topics are followed.
    """
    labels: dict[int, str] = {}
    for topic, label in topics:
        labels.setdefault(topic.id, label)
    before = {one.topic.id: one.label for one in followed_by(conn, [subscriber_id])[subscriber_id]}
    if list(before) == list(labels):
        for id_, label in labels.items():
            if before[id_] != label:
                conn.execute(
                    update(SubscriptionRow)
                    .where(
                        SubscriptionRow.subscriber_id == subscriber_id,
                        SubscriptionRow.topic_id == id_,
                    )
                    .values(label=label)
                )
        return
    conn.execute(delete(SubscriptionRow).where(SubscriptionRow.subscriber_id == subscriber_id))
    rows = [
        {
            "subscriber_id": subscriber_id,
            "topic_id": id_,
            "label": label,
            "created_at": now + timedelta(microseconds=place),  # keeps the order
        }
        for place, (id_, label) in enumerate(labels.items())
    ]
    if rows:
        conn.execute(insert(SubscriptionRow), rows)


def followed_by(
    conn: Connection, subscriber_ids: Sequence[int]
) -> dict[int, tuple[Subscription, ...]]:
    """Return the subscriptions of each subscriber, in the chosen order; empty tuples included."""
    followed: defaultdict[int, list[Subscription]] = defaultdict(list)
    for chunk in in_chunks(subscriber_ids, CHUNK):
        query = (
            select(
                SubscriptionRow.subscriber_id,
                SubscriptionRow.label,
                TopicRow.id,
                TopicRow.query,
                TopicRow.kind,
            )
            .join(TopicRow)
            .where(SubscriptionRow.subscriber_id.in_(chunk))
            .order_by(SubscriptionRow.created_at, SubscriptionRow.topic_id)
        )
        for subscriber_id, one in readable(conn, "topic", query, TopicRow.id, _subscription):
            followed[subscriber_id].append(one)
    return {id_: tuple(followed[id_]) for id_ in subscriber_ids}


def _subscription(row: Any) -> tuple[int, Subscription]:
    topic = Topic(row.id, row.query, TopicKind(row.kind))
    return row.subscriber_id, Subscription(topic, row.label)


def followed(conn: Connection) -> list[Topic]:
    """Return all topics with a query (not trending) that have a subscriber."""
    rows = conn.execute(
        select(TopicRow.id, TopicRow.query)
        .where(TopicRow.kind != TopicKind.TRENDING)
        .where(TopicRow.id.in_(select(SubscriptionRow.topic_id)))
        .order_by(TopicRow.id)
    )
    return [Topic(row.id, row.query) for row in rows]


def record_of(conn: Connection, subscriber_id: int) -> list[dict[str, Any]]:
    """Return the query, label and start of each subscription, for a data export."""
    rows = conn.execute(
        select(TopicRow.query, SubscriptionRow.label, SubscriptionRow.created_at.label("since"))
        .join(TopicRow)
        .where(SubscriptionRow.subscriber_id == subscriber_id)
        .order_by(SubscriptionRow.created_at, SubscriptionRow.topic_id)
    )
    return [dict(row._mapping) for row in rows]


def behind(conn: Connection, batch: int) -> list[TopicProgress]:
    """Return followed topics that are not matched through `batch` yet."""
    rows = conn.execute(
        select(TopicRow.id, TopicRow.query, TopicRow.matched_through)
        .where(
            TopicRow.matched_through < batch,
            TopicRow.kind == TopicKind.QUERY,
            TopicRow.id.in_(select(SubscriptionRow.topic_id)),
        )
        .order_by(TopicRow.id)
    )
    return [TopicProgress(Topic(r.id, r.query), r.matched_through) for r in rows]


def count_behind(conn: Connection, batch: int) -> int:
    """Return the number of topics in `behind`."""
    return conn.execute(
        select(func.count())
        .select_from(TopicRow)
        .where(
            TopicRow.matched_through < batch,
            TopicRow.kind == TopicKind.QUERY,
            TopicRow.id.in_(select(SubscriptionRow.topic_id)),
        )
    ).scalar_one()


def is_any_behind(conn: Connection, topic_ids: Iterable[int], batch: int) -> bool:
    """Return whether any of these topics is not matched through `batch` yet."""
    for chunk in in_chunks(topic_ids, CHUNK):
        late = select(TopicRow.id).where(
            TopicRow.id.in_(chunk),
            TopicRow.kind == TopicKind.QUERY,
            TopicRow.matched_through < batch,
        )
        if conn.execute(late.limit(1)).first() is not None:
            return True
    return False


def matched_through(conn: Connection, batch: int) -> list[Topic]:
    """Return followed topics matched through exactly `batch`, to be matched with the next one."""
    rows = conn.execute(
        select(TopicRow.id, TopicRow.query)
        .where(
            TopicRow.matched_through == batch,
            TopicRow.kind == TopicKind.QUERY,
            TopicRow.id.in_(select(SubscriptionRow.topic_id)),
        )
        .order_by(TopicRow.id)
    )
    return [Topic(row.id, row.query) for row in rows]


def advance(conn: Connection, topic_ids: Iterable[int], *, from_batch: int, to_batch: int) -> None:
    """Set `matched_through` to `to_batch`; topics that are not at `from_batch` are skipped."""
    for chunk in in_chunks(topic_ids, CHUNK):
        conn.execute(
            update(TopicRow)
            .where(TopicRow.id.in_(chunk), TopicRow.matched_through == from_batch)
            .values(matched_through=to_batch)
        )


def add_matches(conn: Connection, matches: Iterable[tuple[Match, int]]) -> None:
    """Store (match, batch) pairs.

    A stored match keeps its batch, unless the new one has a lower breadth: then it is new to
    readers that the old one was too broad for, and moves to this batch. Matches are skipped if the
    paper was merged into another, or the topic was deleted, since they were read.
    """
    for read in in_chunks(matches, CHUNK):
        papers = _lock(conn, PaperRow.id, {match.paper_id for match, _ in read})
        topics = _lock(conn, TopicRow.id, {match.topic_id for match, _ in read})
        chunk = [
            (match, batch)
            for match, batch in read
            if match.paper_id in papers and match.topic_id in topics
        ]
        if not chunk:
            continue
        statement = upsert(conn, MatchRow)
        statement = statement.on_conflict_do_update(
            index_elements=["topic_id", "paper_id"],
            set_={name: statement.excluded[name] for name in GAINED},
            where=statement.excluded.breadth < MatchRow.breadth,
        )
        rows = [
            {
                "topic_id": match.topic_id,
                "paper_id": match.paper_id,
                "batch": batch,
                "score": match.score,
                "phrases": list(match.phrases),
                "breadth": match.breadth,
            }
            for match, batch in chunk
        ]
        conn.execute(statement.values(rows))


def _lock(conn: Connection, id_: InstrumentedAttribute[int], ids: Iterable[int]) -> set[int]:
    """Lock rows against deletion until this transaction ends; return the ids that exist."""
    return set(
        conn.execute(
            select(id_).where(id_.in_(ids)).order_by(id_).with_for_update(key_share=True, read=True)
        ).scalars()
    )


def delete_unpublished_matches(conn: Connection, published: int) -> int:
    """Delete matches after batch `published`, left by a crashed run; return how many."""
    return conn.execute(delete(MatchRow).where(MatchRow.batch > published)).rowcount


def delete_old_matches(conn: Connection, *, before: datetime, limit: int) -> int:
    """Delete at most `limit` matches of batches published before `before`; return how many."""
    is_old = MatchRow.batch <= ingest_state.last_before(conn, before)
    query = select(MatchRow.topic_id, MatchRow.paper_id).where(is_old).limit(limit)
    rows = conn.execute(query.with_for_update(skip_locked=True)).all()
    if rows:
        wanted = (MatchRow.topic_id == bindparam("topic")) & (
            MatchRow.paper_id == bindparam("paper")
        )
        conn.execute(
            delete(MatchRow).where(wanted), [{"topic": row[0], "paper": row[1]} for row in rows]
        )
    return len(rows)


def matches_of(
    conn: Connection, topic_ids: Iterable[int], *, after: int, through: int
) -> dict[int, list[PublishedMatch]]:
    """Return each topic's matches in the batches (after, through], highest score first."""
    found: dict[int, list[PublishedMatch]] = {}
    for chunk in in_chunks(topic_ids, CHUNK):
        found |= {topic_id: [] for topic_id in chunk}
        query = (
            select(
                MatchRow.topic_id,
                MatchRow.paper_id,
                MatchRow.batch,
                MatchRow.score,
                MatchRow.phrases,
                MatchRow.breadth,
            )
            .where(MatchRow.topic_id.in_(chunk), MatchRow.batch > after, MatchRow.batch <= through)
            .order_by(MatchRow.score.desc(), MatchRow.paper_id)
        )
        for topic_id, one in readable(conn, "match of paper", query, MatchRow.paper_id, _match):
            found[topic_id].append(one)
    return found


def _match(row: Any) -> tuple[int, PublishedMatch]:
    return row.topic_id, PublishedMatch(
        row.paper_id, row.batch, row.score, tuple(row.phrases), Breadth(row.breadth)
    )


def count(conn: Connection) -> int:
    return conn.execute(select(func.count()).select_from(TopicRow)).scalar_one()


def most_followed(conn: Connection, limit: int, *, at_least: int) -> list[tuple[str, int]]:
    """Return (query, followers) of the topics with the most active followers, but `at_least`."""
    followers = func.count(SubscriptionRow.subscriber_id)
    rows = conn.execute(
        select(TopicRow.query, followers)
        .join(SubscriptionRow, SubscriptionRow.topic_id == TopicRow.id)
        .join(SubscriberRow, SubscriberRow.id == SubscriptionRow.subscriber_id)
        .where(SubscriberRow.status == SubscriberStatus.ACTIVE)
        .group_by(TopicRow.id, TopicRow.query)
        .having(followers >= at_least)
        .order_by(followers.desc(), TopicRow.query)
        .limit(limit)
    )
    return [(row[0], row[1]) for row in rows]
