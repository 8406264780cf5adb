"""What somebody asks for: read, checked and kept, before and after it is theirs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, time
from typing import Any

from sqlalchemy import Connection

from pipeline import slots
from pipeline.domain import (
    Breadth,
    Frequency,
    Schedule,
    Subscriber,
    SubscriberStatus,
    Topic,
    Weekday,
)
from pipeline.errors import NotFoundError, QueryError
from pipeline.matching.query import canonical
from pipeline.message import normal_address
from pipeline.storage import subscribers, topics

MOST_TOPICS = 100  # of one reader; each is matched for everybody


@dataclass(frozen=True, slots=True)
class Wishes:
    """What somebody asks for: topics in their own words, and when to write."""

    topics: tuple[str, ...] = ()  # queries; none means Trending
    schedule: Schedule = field(default_factory=Schedule)
    max_papers: int = 10
    names: Mapping[str, str] = field(default_factory=dict)  # what some of the queries are called
    breadth: Breadth = Breadth.BALANCED

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(map(self.label, self.topics))

    def label(self, query: str) -> str:
        """What the reader knows a topic by: its name, else the query as it was written."""
        return self.names.get(query) or " ".join(query.split())


Queries = list[tuple[str, str]]
"""(canonical query, label) of each wish."""


def valid_address(email: str) -> str:
    """`email` as it is kept and shown. Raises AddressError that says what is wrong."""
    return normal_address(email.strip())


def checked(wishes: Wishes) -> Queries:
    """The queries, before anything is stored. Raises QueryError and SettingsError (time zone)."""
    slots.zone(wishes.schedule.timezone)
    if len(wishes.topics) > MOST_TOPICS:
        raise QueryError(wishes.topics[MOST_TOPICS], f"at most {MOST_TOPICS} topics, please", 0)
    return [(canonical(query), wishes.label(query)) for query in wishes.topics or ("Trending",)]


def follow(conn: Connection, subscriber_id: int, queries: Queries, now: datetime) -> None:
    # New topics in one order for everybody: two who add the same two must not wait in a circle.
    found = {
        query: topics.find_or_add(conn, query, now) for query in sorted({q for q, _ in queries})
    }
    followed: list[tuple[Topic, str]] = [(found[query], label) for query, label in queries]
    topics.follow(conn, subscriber_id, followed, now)


def next_slot(subscriber: Subscriber, schedule: Schedule, now: datetime) -> datetime | None:
    """Where the change of an hour moves the next slot: it may have come already today."""
    if subscriber.status is SubscriberStatus.UNSUBSCRIBED:
        return None
    if subscriber.last_slot_at is None or subscriber.last_edition_on is None:
        return slots.first_slot(schedule, now)
    return slots.next_slot(schedule, subscriber.last_slot_at, subscriber.last_edition_on)


def first_slot(subscriber: Subscriber, schedule: Schedule, now: datetime) -> datetime:
    """The first slot of a reader who begins, perhaps again: never twice a day."""
    return slots.first_slot(schedule, now, subscriber.last_slot_at, subscriber.last_edition_on)


def version_of(subscriber: Subscriber, topics: Iterable[tuple[str, str]]) -> str:
    """Return a fingerprint of what a reader has chosen; `topics` are (query, label)."""
    chosen = (subscriber.schedule, subscriber.max_papers, subscriber.breadth, tuple(topics))
    return hashlib.sha256(repr(chosen).encode()).hexdigest()[:16]


def known(conn: Connection, subscriber_id: int, *, for_change: bool = False) -> Subscriber:
    subscriber = subscribers.by_id(conn, subscriber_id, for_change=for_change)
    if subscriber is None:
        raise NotFoundError("this subscription does not exist any more")
    return subscriber


# --- As a request keeps them --------------------------------------------------------------------


def as_json(wishes: Wishes) -> dict[str, Any]:
    schedule = wishes.schedule
    return {
        "topics": list(wishes.topics),
        "at": schedule.at.isoformat("minutes"),
        "timezone": schedule.timezone,
        "frequency": schedule.frequency.value,
        "weekday": int(schedule.weekday),
        "max_papers": wishes.max_papers,
        "names": dict(wishes.names),
        "breadth": int(wishes.breadth),
    }


def from_json(kept: dict[str, Any]) -> Wishes:
    schedule = Schedule(
        time.fromisoformat(kept["at"]),
        kept["timezone"],
        Frequency(kept["frequency"]),
        Weekday(kept["weekday"]),
    )
    names = kept.get("names", {})  # a request from before there were names has none
    breadth = Breadth(kept.get("breadth", Breadth.BALANCED))  # the same
    return Wishes(tuple(kept["topics"]), schedule, kept["max_papers"], names, breadth)
