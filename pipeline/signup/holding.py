"""What we hold about a reader: to look at, to take along, to erase."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any

import structlog
from sqlalchemy import Connection, Engine

from pipeline.domain import DeliveryKind, DeliveryStatus, SkipReason, Subscriber, SubscriberStatus
from pipeline.errors import NotFoundError
from pipeline.signup.consent import agreed_to
from pipeline.signup.wishes import known, version_of
from pipeline.storage import (
    confirmations,
    deliveries,
    digests,
    events,
    refusals,
    requests,
    strikes,
    subscribers,
    topics,
)
from pipeline.storage.database import reading, retried, server_now, wipe
from pipeline.storage.deliveries import CancelReason

log = structlog.get_logger(__name__)

LATELY = 10  # digests and skipped slots that a reader is shown
DATA_LINK_EXPIRY = timedelta(hours=24)  # like the link in it
UNKNOWN = "no subscriber has this address"


@dataclass(frozen=True, slots=True)
class PastDigest:
    delivery_id: int
    edition_on: date
    status: DeliveryStatus
    papers: int  # 0 when they are no longer kept


@dataclass(frozen=True, slots=True)
class PastSkip:
    edition_on: date
    reason: SkipReason


@dataclass(frozen=True, slots=True)
class Preferences:
    """Everything the preferences page shows."""

    subscriber: Subscriber
    topics: tuple[tuple[str, str], ...]  # (query, label)
    digests: tuple[PastDigest, ...]  # newest first
    skips: tuple[PastSkip, ...]  # newest first

    @property
    def version(self) -> str:
        """What `signup.change` compares with, so that no form replaces what it did not show."""
        return version_of(self.subscriber, self.topics)


def everyone(engine: Engine) -> Iterator[tuple[Subscriber, tuple[str, ...]]]:
    """Every subscriber with the queries they follow."""
    with reading(engine) as conn:
        found = subscribers.listing(conn)
        followed = topics.followed_by(conn, [s.id for s in found])
    for subscriber in found:
        yield subscriber, tuple(s.topic.query for s in followed[subscriber.id])


def find(engine: Engine, email: str) -> tuple[Subscriber, tuple[str, ...]]:
    """A subscriber and the queries they follow. Raises NotFoundError."""
    with reading(engine) as conn:
        subscriber = _of(conn, email)
        followed = topics.followed_by(conn, [subscriber.id])[subscriber.id]
    return subscriber, tuple(s.topic.query for s in followed)


def wishes_of(engine: Engine, subscriber_id: int) -> Preferences:
    """Raises NotFoundError."""
    with reading(engine) as conn:
        subscriber = known(conn, subscriber_id)
        followed = topics.followed_by(conn, [subscriber_id])[subscriber_id]
        past = digests.latest(conn, subscriber_id, LATELY)
        skipped = digests.latest_skips(conn, subscriber_id, LATELY)
    return Preferences(
        subscriber,
        tuple((s.topic.query, s.label) for s in followed),
        tuple(PastDigest(*row) for row in past),
        tuple(PastSkip(*row) for row in skipped),
    )


@retried
def ask_data_link(engine: Engine, subscriber_id: int, now: datetime) -> None:
    """Mail the link to export and erase, at most one an hour. Raises NotFoundError.

    Whoever holds a digest that was passed on gets so far and no further.
    """
    with engine.begin() as conn:
        subscriber = known(conn, subscriber_id, for_change=True)
        confirmations.enqueue(
            conn, DeliveryKind.DATA_LINK, subscriber_id, about=f"{now:%Y%m%dT%H}",
            expires_at=now + DATA_LINK_EXPIRY, now=now,
            wanted=subscriber.status is not SubscriberStatus.PENDING,
        )  # fmt: skip


def export(engine: Engine, subscriber_id: int) -> dict[str, Any]:
    """Everything we hold about a reader, for json.dumps. Raises NotFoundError."""
    with reading(engine) as conn:
        known(conn, subscriber_id)
        record = subscribers.record_of(conn, subscriber_id)
        mails = deliveries.record_of(conn, subscriber_id)
        papers = digests.record_of(conn, subscriber_id)
        suppression = subscribers.suppressed(conn, record["address_hash"])
        held = {
            "subscriber": record,
            "topics": topics.record_of(conn, subscriber_id),
            "requests": [
                {**asked, "agreed_to": agreed_to(asked["wording"])}
                for asked in requests.of(conn, subscriber_id)
            ],
            "news": events.of(conn, subscriber_id),
            "mails": [{**mail, "papers": papers[mail["id"]]} for mail in mails],
            "refused_editions": strikes.of(conn, record["address_hash"]),
            "refused_mails": refusals.of(conn, record["address_hash"]),
            "days_without_mail": digests.skips_of(conn, subscriber_id),
            "unanswered_questions": confirmations.times(conn, record["address_hash"]),
            "suppression": suppression
            and {"reason": suppression.reason, "since": suppression.since},
        }
    exported: dict[str, Any] = _plain(held)
    return exported


def export_of(engine: Engine, email: str) -> dict[str, Any]:
    """`export` for the reader of this address. Raises NotFoundError."""
    with reading(engine) as conn:
        subscriber = _of(conn, email)
    return export(engine, subscriber.id)


@retried
def erase(engine: Engine, email: str) -> None:
    """`erase_by_id` for this address, by the database's clock; also where it is nobody's.

    Somebody may have typed it into a form. Raises NotFoundError where we do not know it at all.
    """
    with engine.begin() as conn:
        now = server_now(conn)
        subscriber = subscribers.by_email(conn, email, for_change=True)
        if subscriber:
            _erase(conn, subscriber, now)
        elif not _forget_address(conn, email, now):
            raise NotFoundError(UNKNOWN)
    wipe(engine)
    log.info("address erased", subscriber=subscriber.id if subscriber else None)


@retried
def erase_by_id(engine: Engine, subscriber_id: int, now: datetime) -> None:
    """Forget who this reader is, everywhere, and cancel what they are owed. NotFoundError.

    What stays names nobody: that the address was erased or is suppressed and how often it was asked
    (under its keyed hash), how many mails were sent, and the keys that keep one from being sent
    twice.
    """
    with engine.begin() as conn:
        _erase(conn, known(conn, subscriber_id, for_change=True), now)
    wipe(engine)
    log.info("address erased", subscriber=subscriber_id)


def _erase(conn: Connection, subscriber: Subscriber, now: datetime) -> None:
    deliveries.cancel_owed(conn, [subscriber.id], CancelReason.LEFT)
    subscribers.remember_erased(conn, subscribers.hash_of(conn, subscriber.id), now)
    deliveries.blank(conn, subscriber.id)
    events.forget(conn, subscriber.id, subscribers.hash_of(conn, subscriber.id))
    requests.blank(conn, subscriber.id, now)
    _forget_address(conn, subscriber.email, now)
    followed = topics.followed_by(conn, [subscriber.id])[subscriber.id]
    subscribers.erase(conn, subscriber.id, now)
    topics.delete_unfollowed(conn, among=[s.topic.id for s in followed])


def _forget_address(conn: Connection, email: str, now: datetime) -> bool:
    """Also where another reader wanted to move there; False when nobody ever named it."""
    named = requests.forget_address(conn, email, now)
    deliveries.forget_address(conn, named)
    return bool(named)


def _of(conn: Connection, email: str) -> Subscriber:
    subscriber = subscribers.by_email(conn, email)
    if subscriber is None:
        raise NotFoundError(UNKNOWN)
    return subscriber


def _plain(value: Any) -> Any:
    """`value` in the types that JSON has; times in ISO 8601."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return value
