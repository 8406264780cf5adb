"""Join, confirm, change, leave, erase: what a reader does to their own subscription."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import partial

import structlog
from email_validator import EmailNotValidError, validate_email
from sqlalchemy import Connection, Engine

from pipeline import slots
from pipeline.domain import (
    Schedule,
    Subscriber,
    SubscriberStatus,
    Topic,
)
from pipeline.errors import AddressError, NotFoundError
from pipeline.matching.query import canonical
from pipeline.storage import batches, confirmations, deliveries, subscribers, topics
from pipeline.storage.database import reading, with_retries
from pipeline.storage.deliveries import CancelReason

log = structlog.get_logger(__name__)

WELCOME_DAYS = 7  # how far back the first digest looks
CONFIRMATION_EXPIRY = timedelta(hours=72)  # like the token in it


@dataclass(frozen=True, slots=True)
class Wishes:
    """What somebody asks for: topics in their own words, and when to write."""

    topics: tuple[str, ...] = ()  # queries; none means Trending
    schedule: Schedule = field(default_factory=Schedule)
    max_papers: int = 10


def valid_address(email: str) -> str:
    """`email` as we write it on an envelope. Raises AddressError that says what is wrong."""
    try:
        # Whether the domain exists is for the confirmation to find out.
        return validate_email(
            email.strip(), check_deliverability=False, globally_deliverable=False,
            allow_smtputf8=False,
        ).normalized  # fmt: skip
    except EmailNotValidError as error:
        raise AddressError(f"{email!r} is not an address we can write to: {error}") from error


def add(
    engine: Engine,
    email: str,
    wishes: Wishes,
    *,
    confirmed: bool,
    suppression_key: str,
    now: datetime,
) -> Subscriber:
    """A subscriber put in by the operator; without `confirmed` they are asked by mail first.

    Adding an active address again changes nothing and raises AddressError; adding one that is
    pending or has left starts anew. Raises QueryError for a topic that cannot be read and
    SettingsError for an unknown time zone, before anything is stored.
    """
    address = valid_address(email)
    queries = _queries(wishes.topics)
    slot = slots.first_slot(wishes.schedule, now)
    with engine.begin() as conn:
        cursor = batches.look_back(conn, now, days=WELCOME_DAYS)
        status = SubscriberStatus.ACTIVE if confirmed else SubscriberStatus.PENDING
        subscriber_id = subscribers.add(
            conn, email=address, suppression_key=suppression_key, schedule=wishes.schedule,
            max_papers=wishes.max_papers, status=status, cursor=cursor, next_slot_at=slot, now=now,
        ) or _return_of(conn, address, wishes, now)  # fmt: skip
        _follow(conn, subscriber_id, queries, now)
        if confirmed:
            _activate(conn, _known(conn, subscriber_id), now)
        else:
            confirmations.enqueue(
                conn, subscriber_id, expires_at=now + CONFIRMATION_EXPIRY, now=now
            )
        subscriber = _known(conn, subscriber_id)
    log.info("subscriber added", subscriber=subscriber_id, status=subscriber.status)
    return subscriber


def confirm(engine: Engine, subscriber_id: int, now: datetime) -> Subscriber:
    """Pending becomes active; confirming twice changes nothing. Raises NotFoundError."""
    with engine.begin() as conn:
        _activate(conn, _known(conn, subscriber_id, for_change=True), now)
        return _known(conn, subscriber_id)


def change(engine: Engine, subscriber_id: int, wishes: Wishes, now: datetime) -> Subscriber:
    """Follow other topics, or be written to at another hour, from the next digest on.

    Raises QueryError, SettingsError and NotFoundError before anything is stored.
    """
    queries = _queries(wishes.topics)
    slots.zone(wishes.schedule.timezone)
    with engine.begin() as conn:
        subscriber = _known(conn, subscriber_id, for_change=True)
        subscribers.change_wishes(
            conn,
            subscriber_id,
            schedule=wishes.schedule,
            max_papers=wishes.max_papers,
            next_slot_at=_next_slot(subscriber, wishes.schedule, now),
        )
        _follow(conn, subscriber_id, queries, now)
        return _known(conn, subscriber_id)


def pause(engine: Engine, subscriber_id: int, until: date, now: datetime) -> Subscriber:
    """No digest for an edition before `until`; a day that has come resumes. Raises NotFoundError.

    The digest after a pause looks back a few days, however long the pause was.
    """
    with engine.begin() as conn:
        subscriber = _known(conn, subscriber_id, for_change=True)
        today = slots.local_date(now, subscriber.schedule)
        if until > today or subscriber.paused_until is not None:
            subscribers.pause(conn, subscriber_id, max(until, today))
        return _known(conn, subscriber_id)


def leave(engine: Engine, secret: str, now: datetime) -> Subscriber:
    """Unsubscribe, and cancel what is owed, at once. Leaving twice changes nothing.

    Raises NotFoundError for a secret that is nobody's.
    """
    # A sender may hold what we cancel, and wait for the subscriber whom we hold.
    subscriber = with_retries(partial(_leave, engine, secret, now))
    log.info("subscriber left", subscriber=subscriber.id)
    return subscriber


def _leave(engine: Engine, secret: str, now: datetime) -> Subscriber:
    with engine.begin() as conn:
        subscriber = subscribers.by_secret(conn, secret)
        if subscriber is None:
            raise NotFoundError("this link belongs to nobody any more")
        subscribers.leave(conn, subscriber.id, now)
        deliveries.cancel_owed(conn, [subscriber.id], CancelReason.LEFT)
        return _known(conn, subscriber.id)


def erase(engine: Engine, email: str) -> None:
    """Remove a subscriber and everything about them; a suppression stays. Raises NotFoundError."""
    with engine.begin() as conn:
        subscriber = subscribers.by_email(conn, email)
        if subscriber is None:
            raise NotFoundError(f"no subscriber has the address {email}")
        subscribers.erase(conn, subscriber.id)
    log.info("subscriber erased", subscriber=subscriber.id)


def everyone(engine: Engine) -> Iterator[tuple[Subscriber, tuple[str, ...]]]:
    """Every subscriber with the queries they follow."""
    with reading(engine) as conn:
        known = subscribers.listing(conn)
        followed = topics.followed_by(conn, [s.id for s in known])
    for subscriber in known:
        yield subscriber, tuple(s.topic.query for s in followed[subscriber.id])


def find(engine: Engine, email: str) -> tuple[Subscriber, tuple[str, ...]]:
    """A subscriber and the queries they follow. Raises NotFoundError."""
    with reading(engine) as conn:
        subscriber = subscribers.by_email(conn, email)
        if subscriber is None:
            raise NotFoundError(f"no subscriber has the address {email}")
        followed = topics.followed_by(conn, [subscriber.id])[subscriber.id]
    return subscriber, tuple(s.topic.query for s in followed)


def _queries(wished: Sequence[str]) -> list[tuple[str, str]]:
    """(canonical query, label) of each wish, read before anything is stored."""
    return [(canonical(query), " ".join(query.split())) for query in wished or ("Trending",)]


def _follow(
    conn: Connection, subscriber_id: int, queries: Iterable[tuple[str, str]], now: datetime
) -> None:
    followed: list[tuple[Topic, str]] = [
        (topics.find_or_add(conn, query, now), label) for query, label in queries
    ]
    topics.follow(conn, subscriber_id, followed, now)


def _return_of(conn: Connection, address: str, wishes: Wishes, now: datetime) -> int:
    """The id of a subscriber who is known, and not active: pending, with their new wishes."""
    known = subscribers.by_email(conn, address, for_change=True)
    if known is None or known.status is SubscriberStatus.ACTIVE:
        raise AddressError(f"{address} is subscribed already")
    subscribers.reopen(conn, known.id)
    subscribers.change_wishes(
        conn,
        known.id,
        schedule=wishes.schedule,
        max_papers=wishes.max_papers,
        next_slot_at=_first_slot(known, wishes.schedule, now),
    )
    return known.id


def _activate(conn: Connection, subscriber: Subscriber, now: datetime) -> None:
    """Begin with the papers of the last days; a question still on its way is answered."""
    won = subscribers.activate(
        conn,
        subscriber.id,
        cursor=batches.look_back(conn, now, days=WELCOME_DAYS),
        next_slot_at=_first_slot(subscriber, subscriber.schedule, now),
        now=now,
    )
    if won:
        deliveries.cancel_owed(conn, [subscriber.id], CancelReason.SUPERSEDED)


def _first_slot(subscriber: Subscriber, schedule: Schedule, now: datetime) -> datetime:
    """The first slot of a reader who begins, perhaps again: never twice a day."""
    return slots.first_slot(schedule, now, subscriber.last_slot_at, subscriber.last_edition_on)


def _next_slot(subscriber: Subscriber, schedule: Schedule, now: datetime) -> datetime | None:
    """Where the change of an hour moves the next slot: it may have come already today."""
    if subscriber.status is SubscriberStatus.UNSUBSCRIBED:
        return None
    if subscriber.last_slot_at is None or subscriber.last_edition_on is None:
        return slots.first_slot(schedule, now)
    return slots.next_slot(schedule, subscriber.last_slot_at, subscriber.last_edition_on)


def _known(conn: Connection, subscriber_id: int, *, for_change: bool = False) -> Subscriber:
    subscriber = subscribers.by_id(conn, subscriber_id, for_change=for_change)
    if subscriber is None:
        raise NotFoundError("this subscription does not exist any more")
    return subscriber
