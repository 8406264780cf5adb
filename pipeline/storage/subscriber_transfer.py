"""Bulk reads and writes of subscribers with all their data, for exports and imports."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, delete, exists, insert, select, update

from pipeline.domain import (
    Origin,
    RequestKind,
    Subscriber,
    SubscriberStatus,
    Subscription,
)
from pipeline.storage import addresses, reactions, subscribers, suppressions, topics
from pipeline.storage.database import in_chunks, upsert
from pipeline.storage.reactions import Reaction
from pipeline.storage.schema import (
    BatchRow,
    ProfileRow,
    RequestRow,
    SubscriberRow,
    SubscriptionRow,
    TopicRow,
)
from pipeline.storage.suppressions import Suppression

CHUNK: Final = 500


@dataclass(frozen=True, slots=True)
class StoredSubscriber:
    """A subscriber with all data that an export contains."""

    subscriber: Subscriber
    record: Mapping[str, Any]  # the columns that a `Subscriber` does not have
    topics: tuple[Subscription, ...]
    consent: Mapping[str, Any] | None  # the last request to join that was confirmed
    suppression: Suppression | None
    covered_until: datetime | None  # publication of the last batch that was served to them
    profile: Mapping[str, Any] | None = None  # the row in `profiles`
    reactions: tuple[Reaction, ...] = ()


@dataclass(frozen=True, slots=True)
class ExistingSubscriber:
    """A stored subscriber, found by address."""

    id: int
    status: SubscriberStatus
    confirmed_at: datetime | None
    is_imported: bool  # no request to join, or all of them from imports


def key_fingerprint(suppression_key: str) -> str:
    """Return 16 hex digits that identify a key without revealing it.

    An import compares them, because the hashes in an export are useless under another key.
    """
    return hmac.new(suppression_key.encode(), b"paperboy.export", hashlib.sha256).hexdigest()[:16]


# --- Reading ------------------------------------------------------------------------------------


def everyone(conn: Connection) -> Iterator[StoredSubscriber]:
    """Yield all subscribers by id, reading a chunk at a time; erased ones are left out."""
    last_id = 0
    while chunk := _after(conn, last_id):
        yield from chunk
        last_id = chunk[-1].subscriber.id


def _after(conn: Connection, last_id: int) -> list[StoredSubscriber]:
    rows = conn.execute(
        select(*SubscriberRow.__table__.c, BatchRow.published_at.label("covered_until"))
        .outerjoin(BatchRow, BatchRow.number == SubscriberRow.cursor)
        .where(SubscriberRow.id > last_id, SubscriberRow.email != addresses.ERASED)
        .order_by(SubscriberRow.id)
        .limit(CHUNK)
    ).all()
    ids = [row.id for row in rows]
    followed = topics.followed_by(conn, ids)
    consents = _consents(conn, ids)
    suppressed = suppressions.by_hashes(conn, [row.address_hash for row in rows])
    profiles = _profiles(conn, ids)
    reacted = reactions.of_readers(conn, ids)
    return [
        StoredSubscriber(
            subscribers.subscriber_of(row),
            dict(row._mapping),
            followed[row.id],
            consents.get(row.id),
            suppressed.get(row.address_hash),
            row.covered_until,
            profiles.get(row.id),
            tuple(reacted[row.id]),
        )
        for row in rows
    ]


def _profiles(conn: Connection, ids: Sequence[int]) -> dict[int, Mapping[str, Any]]:
    rows = conn.execute(select(*ProfileRow.__table__.c).where(ProfileRow.subscriber_id.in_(ids)))
    return {row.subscriber_id: dict(row._mapping) for row in rows}


def _consents(conn: Connection, ids: Sequence[int]) -> dict[int, Mapping[str, Any]]:
    rows = conn.execute(
        select(
            RequestRow.subscriber_id,
            RequestRow.created_at,
            RequestRow.used_at,
            RequestRow.origin,
            RequestRow.wording,
            RequestRow.ip,
        )
        .where(
            RequestRow.subscriber_id.in_(ids),
            RequestRow.kind == RequestKind.JOIN,
            RequestRow.used_at.is_not(None),
        )
        .order_by(RequestRow.used_at, RequestRow.id)
    )
    return {row.subscriber_id: dict(row._mapping) for row in rows}


def existing(
    conn: Connection, email_keys: Collection[str], *, lock: bool
) -> dict[str, ExistingSubscriber]:
    """Return the stored subscribers with these addresses, by `email_key`.

    `lock` locks their rows, in order of id, until this transaction ends.
    """
    has_own_request = exists().where(
        RequestRow.subscriber_id == SubscriberRow.id,
        RequestRow.kind == RequestKind.JOIN,
        RequestRow.origin != Origin.IMPORT,
    )
    query = (
        select(
            SubscriberRow.id,
            SubscriberRow.email_key,
            SubscriberRow.status,
            SubscriberRow.confirmed_at,
            (~has_own_request).label("is_imported"),
        )
        .where(SubscriberRow.email_key.in_(email_keys))
        .order_by(SubscriberRow.id)
    )
    if lock:
        query = query.with_for_update()
    return {
        row.email_key: ExistingSubscriber(
            row.id, SubscriberStatus(row.status), row.confirmed_at, bool(row.is_imported)
        )
        for row in conn.execute(query)
    }


def secrets_in_use(conn: Connection, secrets: Collection[str]) -> set[str]:
    """Return those of these secrets that a subscriber has already."""
    query = select(SubscriberRow.secret).where(SubscriberRow.secret.in_(secrets))
    return set(conn.execute(query).scalars())


def papers_from(covered_until: datetime) -> date:
    """Return the first announcement date that is new to a reader served until that time.

    arXiv's feed of a day is complete by 06:00 UTC, and is fetched within the hour.
    """
    return (covered_until - timedelta(hours=6)).date() + timedelta(days=1)


# --- Writing ------------------------------------------------------------------------------------


def add_subscribers(conn: Connection, rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Insert subscribers, skipping conflicts; return the ids of the new ones by `email_key`."""
    if not rows:
        return {}
    statement = upsert(conn, SubscriberRow).on_conflict_do_nothing()
    found = conn.execute(
        statement.returning(SubscriberRow.id, SubscriberRow.email_key), [dict(row) for row in rows]
    )
    return {row.email_key: row.id for row in found}


def begin_anew(conn: Connection, subscriber_id: int, values: Mapping[str, Any]) -> bool:
    """Overwrite a pending subscriber with an imported one; return False if no longer pending."""
    won = conn.execute(
        update(SubscriberRow)
        .where(SubscriberRow.id == subscriber_id, SubscriberRow.status == SubscriberStatus.PENDING)
        .values(**values)
    )
    return won.rowcount == 1


def unfollow(conn: Connection, subscriber_id: int) -> None:
    """Delete all subscriptions of a subscriber, before new ones are stored."""
    conn.execute(delete(SubscriptionRow).where(SubscriptionRow.subscriber_id == subscriber_id))


def follow(
    conn: Connection, followed: Mapping[int, Sequence[tuple[str, str]]], now: datetime
) -> None:
    """Store subscriptions of new subscribers: (canonical query, label) pairs, in this order.

    If a query occurs twice, its first label is stored. Missing topics are added.
    """
    queries = {query for pairs in followed.values() for query, _ in pairs}
    stored = select(TopicRow.id, TopicRow.query)
    found: dict[str, int] = {}
    for some in in_chunks(queries, CHUNK):
        # Lock: a topic without subscriptions may be deleted concurrently.
        lock = stored.where(TopicRow.query.in_(some)).order_by(TopicRow.id)
        rows = conn.execute(lock.with_for_update(key_share=True, read=True))
        found |= {row.query: row.id for row in rows}
    # Insert in sorted order, so that concurrent imports do not deadlock.
    for query in sorted(queries - found.keys()):
        found[query] = topics.find_or_add(conn, query, now).id
    subscriptions = []
    for subscriber_id, pairs in followed.items():
        labels: dict[int, str] = {}
        for query, label in pairs:
            labels.setdefault(found[query], label)
        subscriptions += [
            {
                "subscriber_id": subscriber_id,
                "topic_id": topic_id,
                "label": label,
                "created_at": now + timedelta(microseconds=place),  # keeps the order
            }
            for place, (topic_id, label) in enumerate(labels.items())
        ]
    for chunk in in_chunks(subscriptions, CHUNK):
        conn.execute(insert(SubscriptionRow), chunk)


def add_consents(conn: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Store requests to join that were confirmed elsewhere, or that the operator vouches for."""
    for some in in_chunks(rows, CHUNK):
        conn.execute(insert(RequestRow), [dict(row) for row in some])
