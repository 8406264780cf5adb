"""Lookups shared by the account pages: subscriber, summary of choices, next digest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Depends
from sqlalchemy import Engine

from pipeline.domain import Breadth, Schedule, Subscriber, SubscriberStatus
from pipeline.errors import NotFoundError
from pipeline.storage import subscribers
from pipeline.storage.database import read_only
from pipeline.web.account.text import delivery_time, first_after, masked, schedule_text
from pipeline.web.forms import Fields, fields
from pipeline.web.subscribe.form_input import BREADTHS, breadth_value

LOOK = ["GET", "HEAD"]
Sent = Annotated[Fields, Depends(fields)]
"""Fields of a submitted form."""


@dataclass(frozen=True, slots=True)
class CurrentChoices:
    """Choices of a subscriber, as display texts."""

    address: str  # masked
    topics: tuple[str, ...]
    rhythm: str  # "Every day at 08:00, Europe/Paris time"
    max_papers: int
    breadth: str  # "Fewer, surer"


def current_choices(
    email: str, topics: Sequence[str], schedule: Schedule, max_papers: int, breadth: Breadth
) -> CurrentChoices:
    return CurrentChoices(
        masked(email),
        tuple(topics),
        schedule_text(schedule),
        max_papers,
        dict(BREADTHS)[breadth_value(breadth)],
    )


def next_digest(subscriber: Subscriber, now: datetime) -> str:
    """Return the time of the next digest, as text in the reader's time zone; "" if none is due.

    A digest is due only for an active subscriber; a pause postpones it.
    """
    due_at = subscriber.next_slot_at
    if subscriber.status is not SubscriberStatus.ACTIVE or due_at is None:
        return ""
    if subscriber.paused_until is not None:
        due_at = max(due_at, first_after(subscriber.paused_until, subscriber.schedule))
    return delivery_time(due_at, subscriber.schedule, now)


def by_secret(engine: Engine, secret: str) -> Subscriber:
    """Return the subscriber with this secret. Raise NotFoundError if there is none."""
    with read_only(engine) as conn:
        subscriber = subscribers.by_secret(conn, secret)
    if subscriber is None:
        raise NotFoundError("this link belongs to nobody any more")
    return subscriber


def can_undo(engine: Engine, subscriber_id: int, now: datetime) -> bool:
    """Return whether unsubscribing can be undone."""
    with read_only(engine) as conn:
        return subscribers.may_be_restored(conn, subscriber_id, now)


def now() -> datetime:
    return datetime.now(UTC)
