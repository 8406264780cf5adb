"""Personal data of a reader: read, export and erase."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any

import structlog
from sqlalchemy import Connection, Engine

from pipeline.domain import DeliveryKind, DeliveryStatus, SkipReason, Subscriber, SubscriberStatus
from pipeline.errors import NotFoundError
from pipeline.signup.choices import existing_subscriber, version_of, without_terms
from pipeline.signup.preferences import pause_reason
from pipeline.signup.subscribe import agreed_to
from pipeline.storage import (
    bounce_scores,
    deliveries,
    delivery_queries,
    digests,
    events,
    reactions,
    refusals,
    requests,
    subscribers,
    suppressions,
    topics,
    transactional,
)
from pipeline.storage.database import (
    ALL,
    Page,
    in_pages,
    read_only,
    retry_transaction,
    server_now,
    truncate_wal,
)
from pipeline.storage.deliveries import CancelReason

log = structlog.get_logger(__name__)

LATELY = 10  # digests and skipped slots on the preferences page
DATA_LINK_EXPIRY = timedelta(hours=24)  # like the link in it
UNKNOWN = "no subscriber has this address"


@dataclass(frozen=True, slots=True)
class PastDigest:
    delivery_id: int
    edition_on: date
    status: DeliveryStatus
    papers: int  # 0 if they have been purged


@dataclass(frozen=True, slots=True)
class PastSkip:
    edition_on: date
    reason: SkipReason


@dataclass(frozen=True, slots=True)
class Preferences:
    """The content of the preferences page."""

    subscriber: Subscriber
    topics: tuple[tuple[str, str], ...]  # (query, label)
    digests: tuple[PastDigest, ...]  # newest first
    skips: tuple[PastSkip, ...]  # newest first

    @property
    def version(self) -> str:
        """Return the fingerprint with which `signup.change` detects a concurrent change."""
        return version_of(self.subscriber, self.topics)


def everyone(engine: Engine, page: Page = ALL) -> Iterator[tuple[Subscriber, tuple[str, ...]]]:
    """Yield the subscribers of a page, each with the queries of the followed topics."""
    return in_pages(engine, page, subscribers.list_ids, _with_queries)


def _with_queries(
    conn: Connection, ids: Sequence[int]
) -> Iterator[tuple[Subscriber, tuple[str, ...]]]:
    followed = topics.followed_by(conn, ids)
    for subscriber in subscribers.list_all(conn, ids):
        yield subscriber, tuple(s.topic.query for s in followed[subscriber.id])


def find(engine: Engine, email: str) -> tuple[Subscriber, tuple[str, ...]]:
    """Return a subscriber and the queries of the followed topics; raise NotFoundError."""
    with read_only(engine) as conn:
        subscriber = _of(conn, email)
        followed = topics.followed_by(conn, [subscriber.id])[subscriber.id]
    return subscriber, tuple(s.topic.query for s in followed)


def choices_of(engine: Engine, subscriber_id: int) -> Preferences:
    """Return the preferences and the latest digests of a subscriber; raise NotFoundError."""
    with read_only(engine) as conn:
        subscriber = existing_subscriber(conn, subscriber_id)
        followed = topics.followed_by(conn, [subscriber_id])[subscriber_id]
        past = digests.latest_digests(conn, subscriber_id, LATELY)
        skipped = digests.latest_skips(conn, subscriber_id, LATELY)
    return Preferences(
        subscriber,
        tuple((s.topic.query, s.label) for s in followed),
        tuple(PastDigest(*row) for row in past),
        tuple(PastSkip(*row) for row in skipped),
    )


@retry_transaction
def ask_data_link(engine: Engine, subscriber_id: int, now: datetime) -> None:
    """Queue a mail with the link to export and erase, at most one per clock hour.

    The link is mailed and not shown, so that the recipient of a forwarded digest cannot use it.
    Nothing is queued for a pending subscriber. Raise NotFoundError if there is no such subscriber.
    """
    with engine.begin() as conn:
        subscriber = existing_subscriber(conn, subscriber_id, for_change=True)
        transactional.enqueue(
            conn, DeliveryKind.DATA_LINK, subscriber_id, about=f"{now:%Y%m%dT%H}",
            expires_at=now + DATA_LINK_EXPIRY, now=now,
            wanted=subscriber.status is not SubscriberStatus.PENDING,
        )  # fmt: skip


def export(engine: Engine, subscriber_id: int) -> dict[str, Any]:
    """Return all stored data of a reader, in JSON types; raise NotFoundError."""
    with read_only(engine) as conn:
        subscriber = existing_subscriber(conn, subscriber_id)
        record = subscribers.record_of(conn, subscriber_id)
        mails = delivery_queries.record_of(conn, subscriber_id)
        papers = digests.record_of(conn, subscriber_id)
        suppression = suppressions.by_hash(conn, record["address_hash"])
        held = {
            "subscriber": {**record, "pause_reason": pause_reason(subscriber)},
            "topics": topics.record_of(conn, subscriber_id),
            **reactions.record_of(conn, subscriber_id),
            "requests": [
                {
                    **asked,
                    "choices": without_terms(asked["choices"]),
                    "agreed_to": agreed_to(asked["wording"]),
                }
                for asked in requests.records_of(conn, subscriber_id)
            ],
            "news": events.records_of(conn, subscriber_id),
            "mails": [{**mail, "papers": papers[mail["id"]]} for mail in mails],
            "refused_editions": bounce_scores.records_of(conn, record["address_hash"]),
            "refused_mails": refusals.records_of(conn, record["address_hash"]),
            "days_without_mail": digests.skips_of(conn, subscriber_id),
            "unanswered_questions": transactional.pending_times(conn, record["address_hash"]),
            "suppression": suppression
            and {"reason": suppression.reason, "since": suppression.since},
        }
    exported: dict[str, Any] = _plain(held)
    return exported


def export_of(engine: Engine, email: str) -> dict[str, Any]:
    """Return `export` for the reader with this address; raise NotFoundError if there is none."""
    with read_only(engine) as conn:
        subscriber = _of(conn, email)
    return export(engine, subscriber.id)


@retry_transaction
def erase(engine: Engine, email: str) -> None:
    """Erase an address like `erase_by_id`, by the database's clock.

    If it has no subscriber, erase it from stored requests: a reader may have entered it as a new
    address. Raise NotFoundError if neither has the address.
    """
    with engine.begin() as conn:
        now = server_now(conn)
        subscriber = subscribers.by_email(conn, email, for_change=True)
        if subscriber:
            _erase(conn, subscriber, now)
        elif not _forget_address(conn, email, now):
            raise NotFoundError(UNKNOWN)
    truncate_wal(engine)
    log.info("address.erased", subscriber=subscriber.id if subscriber else None)


@retry_transaction
def erase_by_id(engine: Engine, subscriber_id: int, now: datetime) -> None:
    """Erase the personal data of a reader and cancel queued deliveries, in one transaction.

    The rows that stay identify no person: the suppression or erasure and the number of confirmation
    mails (under the keyed hash of the address), the number of mails sent, and the deduplication
    keys of deliveries. Afterwards truncate SQLite's WAL. Raise NotFoundError if there is no such
    subscriber.
    """
    with engine.begin() as conn:
        _erase(conn, existing_subscriber(conn, subscriber_id, for_change=True), now)
    truncate_wal(engine)
    log.info("address.erased", subscriber=subscriber_id)


def _erase(conn: Connection, subscriber: Subscriber, now: datetime) -> None:
    deliveries.cancel_unsent(conn, [subscriber.id], CancelReason.LEFT)
    suppressions.remember_erased(conn, subscribers.hash_of(conn, subscriber.id), now)
    deliveries.redact(conn, subscriber.id)
    events.redact_subscriber(conn, subscriber.id, subscribers.hash_of(conn, subscriber.id))
    requests.redact(conn, subscriber.id, now)
    _forget_address(conn, subscriber.email, now)
    followed = topics.followed_by(conn, [subscriber.id])[subscriber.id]
    subscribers.erase(conn, subscriber.id, now)
    topics.delete_unfollowed(conn, among=[s.topic.id for s in followed])


def _forget_address(conn: Connection, email: str, now: datetime) -> bool:
    """Erase an address from requests and their mails; return False if no request has it.

    This includes requests of other readers to change to this address.
    """
    named = requests.redact_address(conn, email, now)
    deliveries.redact_address(conn, named)
    return bool(named)


def _of(conn: Connection, email: str) -> Subscriber:
    subscriber = subscribers.by_email(conn, email)
    if subscriber is None:
        raise NotFoundError(UNKNOWN)
    return subscriber


def _plain(value: Any) -> Any:
    """Convert `value` to JSON types; times to ISO 8601, bytes to hexadecimal digits."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return value.hex() if isinstance(value, bytes) else value
