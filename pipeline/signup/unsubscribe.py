"""Unsubscribe at once, store the reason, and undo within a month."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import structlog
from sqlalchemy import Connection, Engine

from pipeline import slots
from pipeline.domain import Subscriber, SubscriberStatus
from pipeline.errors import InvalidTokenError, NotFoundError
from pipeline.signup.choices import existing_subscriber, first_slot
from pipeline.storage import ingest_state, subscribers
from pipeline.storage.database import retry_transaction
from pipeline.translations import gettext

log = structlog.get_logger(__name__)


class UnsubscribeReason(StrEnum):
    """Reasons for unsubscribing: the answers to the only question on that page."""

    TOO_MANY = "too many"  # mails, or papers in them
    NOT_RELEVANT = "not relevant"  # the papers do not match the reader's interests
    NO_LONGER = "no longer needed"
    NEVER_ASKED = "never asked for"
    OTHER = "other"


@retry_transaction
def leave(engine: Engine, secret: str, now: datetime) -> Subscriber:
    """Unsubscribe and cancel queued deliveries in one transaction; return the subscriber.

    Idempotent. Raise NotFoundError if no subscriber has this secret.
    """
    with engine.begin() as conn:
        subscriber = _holder(conn, secret)
        subscribers.leave(conn, subscriber.id, now)
        subscriber = existing_subscriber(conn, subscriber.id)
    log.info("subscriber.unsubscribed", subscriber=subscriber.id)
    return subscriber


@retry_transaction
def set_reason(engine: Engine, secret: str, reason: UnsubscribeReason) -> None:
    """Store the reason for unsubscribing; ignored if the subscriber has not unsubscribed.

    Raise NotFoundError if no subscriber has this secret.
    """
    with engine.begin() as conn:
        subscribers.set_leaving_reason(conn, _holder(conn, secret).id, reason)


@retry_transaction
def undo(engine: Engine, secret: str, now: datetime) -> Subscriber:
    """Undo unsubscribing with all preferences kept; the next digest looks back a few days.

    Idempotent: an active subscriber is returned unchanged. Raise InvalidTokenError after 30 days or
    if the subscription was never confirmed, NotFoundError if no subscriber has this secret.
    """
    with engine.begin() as conn:
        subscriber = _holder(conn, secret, for_change=True)
        days = ingest_state.GAP_DAYS[subscriber.schedule.frequency]
        floor = ingest_state.look_back(conn, now, days=days)
        won = subscribers.restore(
            conn,
            subscriber.id,
            now=now,
            cursor=max(subscriber.cursor, floor),
            next_slot_at=first_slot(subscriber, subscriber.schedule, now),
        )
        if won:
            today = slots.local_date(now, subscriber.schedule)
            subscribers.note_activity(conn, subscriber.id, today)
        subscriber = existing_subscriber(conn, subscriber.id)
    if subscriber.status is not SubscriberStatus.ACTIVE:
        raise InvalidTokenError(gettext("It is too late to undo this. Subscribe again."))
    if won:
        log.info("subscriber.returned", subscriber=subscriber.id)
    return subscriber


def _holder(conn: Connection, secret: str, *, for_change: bool = False) -> Subscriber:
    subscriber = subscribers.by_secret(conn, secret, for_change=for_change)
    if subscriber is None:
        raise NotFoundError("this link belongs to no subscription")
    return subscriber
