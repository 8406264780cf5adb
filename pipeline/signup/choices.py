"""Choices of a subscriber (topics, schedule): validation, storage, and the JSON of requests."""

from __future__ import annotations

import hashlib
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time
from typing import Any, Final

from sqlalchemy import Connection

from pipeline import slots
from pipeline.domain import (
    NEAR_MISSES_AFTER,
    Breadth,
    Frequency,
    Liking,
    Schedule,
    Subscriber,
    SubscriberStatus,
    Topic,
    Weekday,
)
from pipeline.errors import NotFoundError, QueryError
from pipeline.matching.query import TopicQuery, parse_topic
from pipeline.message import normal_address
from pipeline.storage import subscribers, topics
from pipeline.storage.reactions import Reaction
from pipeline.translations import gettext

MOST_TOPICS = 100  # per reader; each topic is matched against all papers


@dataclass(frozen=True, slots=True)
class Choices:
    """The topics of a reader, parsed, and the schedule of the digest."""

    topics: tuple[TopicQuery, ...] = ()  # none means Trending
    schedule: Schedule = field(default_factory=Schedule)
    max_papers: int = 10
    names: Mapping[str, str] = field(default_factory=dict)  # custom labels, by typed query
    breadth: Breadth = Breadth.BALANCED
    near_misses_after: int = NEAR_MISSES_AFTER  # days without a match; 0: no near misses
    papers: tuple[Reaction, ...] = ()  # the reader's own, to start from

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(map(self.label, self.topics))

    def label(self, query: TopicQuery) -> str:
        """Return the reader's name for a topic; if it has none, the query as it was typed."""
        return self.names.get(query.typed) or " ".join(query.typed.split())


Queries = list[tuple[str, str]]
"""(canonical query, label) of each topic."""


def valid_address(email: str) -> str:
    """Validate and normalise an address for storage; raise AddressError with the reason."""
    return normal_address(email.strip())


def parse_queries(
    texts: Sequence[str], parse: Callable[[str], TopicQuery] = parse_topic
) -> tuple[TopicQuery, ...]:
    """Parse the topics of a reader; raise QueryError if one is invalid or there are over 100."""
    if len(texts) > MOST_TOPICS:
        raise QueryError(
            texts[MOST_TOPICS], gettext("at most %(most)s topics are allowed", most=MOST_TOPICS), 0
        )
    return tuple(map(parse, texts))


def checked(choices: Choices) -> Queries:
    """Return the topics to follow, "Trending" if there is none. Nothing is stored.

    Raise SettingsError if the time zone is unknown.
    """
    slots.zone(choices.schedule.timezone)
    return [(query.text, choices.label(query)) for query in choices.topics or _DEFAULT]


_DEFAULT: Final = parse_queries(("Trending",))


def follow(conn: Connection, subscriber_id: int, queries: Queries, now: datetime) -> None:
    # Insert topics in one order: two transactions that add the same two must not deadlock.
    found = {
        query: topics.find_or_add(conn, query, now) for query in sorted({q for q, _ in queries})
    }
    followed: list[tuple[Topic, str]] = [(found[query], label) for query, label in queries]
    topics.follow(conn, subscriber_id, followed, now)


def next_slot(subscriber: Subscriber, schedule: Schedule, now: datetime) -> datetime | None:
    """Return the next slot after a change of schedule; None if the reader has unsubscribed.

    The slot may lie in the past: then it is due now.
    """
    if subscriber.status is SubscriberStatus.UNSUBSCRIBED:
        return None
    if subscriber.last_slot_at is None or subscriber.last_edition_on is None:
        return slots.first_slot(schedule, now)
    return slots.next_slot(schedule, subscriber.last_slot_at, subscriber.last_edition_on)


def first_slot(subscriber: Subscriber, schedule: Schedule, now: datetime) -> datetime:
    """Return the first slot of a new or returning reader, never a second one on a day."""
    return slots.first_slot(schedule, now, subscriber.last_slot_at, subscriber.last_edition_on)


def version_of(subscriber: Subscriber, topics: Iterable[tuple[str, str]]) -> str:
    """Return a fingerprint of a reader's preferences; `topics` are (query, label) pairs."""
    chosen = (
        subscriber.schedule,
        subscriber.max_papers,
        subscriber.breadth,
        subscriber.near_misses_after,
        tuple(topics),
    )
    return hashlib.sha256(repr(chosen).encode()).hexdigest()[:16]


def existing_subscriber(
    conn: Connection, subscriber_id: int, *, for_change: bool = False
) -> Subscriber:
    subscriber = subscribers.by_id(conn, subscriber_id, for_change=for_change)
    if subscriber is None:
        raise NotFoundError("this subscription does not exist")
    return subscriber


# --- JSON in a request --------------------------------------------------------------------------


def as_json(choices: Choices) -> dict[str, Any]:
    schedule = choices.schedule
    return {
        "topics": [query.typed for query in choices.topics],
        "at": schedule.at.isoformat("minutes"),
        "timezone": schedule.timezone,
        "frequency": schedule.frequency.value,
        "weekday": int(schedule.weekday),
        "max_papers": choices.max_papers,
        "names": dict(choices.names),
        "breadth": int(choices.breadth),
        "near_misses_after": choices.near_misses_after,
        **({"papers": list(map(paper_as_json, choices.papers))} if choices.papers else {}),
    }


def from_json(stored: dict[str, Any]) -> Choices:
    """Parse the choices in a stored request; raise QueryError if a topic is not valid any more."""
    schedule = Schedule(
        time.fromisoformat(stored["at"]),
        stored["timezone"],
        Frequency(stored["frequency"]),
        Weekday(stored["weekday"]),
    )
    return Choices(
        parse_queries(stored["topics"]),
        schedule,
        stored["max_papers"],
        names=stored.get("names", {}),  # older requests have none of these
        breadth=Breadth(stored.get("breadth", Breadth.BALANCED)),
        near_misses_after=stored.get("near_misses_after", NEAR_MISSES_AFTER),
        papers=tuple(map(_paper_from_json, stored.get("papers", ()))),
    )


def without_terms(stored: dict[str, Any]) -> dict[str, Any]:
    """Return the choices in a stored request without the vectors of papers, for an export."""
    if "papers" not in stored:
        return stored
    shown = [{k: v for k, v in one.items() if k != "terms"} for one in stored["papers"]]
    return {**stored, "papers": shown}


def paper_as_json(one: Reaction) -> dict[str, Any]:
    return {
        "key": one.key,
        "title": one.title,
        "authors": list(one.authors),
        "year": one.year,
        "telling": [list(term) for term in one.telling],
        "terms": b64encode(one.terms).decode(),
    }


def _paper_from_json(stored: Mapping[str, Any]) -> Reaction:
    return Reaction(
        key=stored["key"],
        paper_id=None,  # found again by the key when it is stored
        title=stored["title"],
        authors=tuple(stored["authors"]),
        terms=b64decode(stored["terms"]),
        telling=tuple((stems, written) for stems, written in stored["telling"]),
        at=datetime.min.replace(tzinfo=UTC),
        liking=Liking.MORE,
        is_own=True,
        year=stored["year"],
    )
