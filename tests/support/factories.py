"""Factories for the objects of the domain; a test names only the values that matter to it."""

from __future__ import annotations

import itertools
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from pipeline.domain import (
    Delivery,
    DeliveryKind,
    Digest,
    Frequency,
    Links,
    Match,
    Paper,
    Pick,
    Reason,
    Schedule,
    Sighting,
    Subscriber,
    SubscriberStatus,
    Topic,
    Weekday,
)
from pipeline.message import Sender

NOW = datetime(2030, 1, 2, 8, 0, tzinfo=UTC)  # a Wednesday
TODAY = NOW.date()

TITLE = "Retrieval for Patient Readers"
ABSTRACT = (
    "Readers follow more topics than they can read about. We rank new papers by the words a "
    "reader chose, show which of them matched, and leave a day without news empty."
)

_numbers = itertools.count(1)


def make_sighting(arxiv_id: str | None = "", **changes: Any) -> Sighting:
    """Return a sighting at arXiv of a new paper; `arxiv_id=None` for one without an arXiv id."""
    if arxiv_id == "":
        arxiv_id = f"3001.{next(_numbers):05}"
    defaults = {
        "source": "arxiv",
        "source_id": arxiv_id or f"paper-{next(_numbers)}",
        "title": f"{TITLE}, part {next(_numbers)}",
        "abstract": ABSTRACT,
        "authors": ("Ada Lovelace", "Charles Babbage"),
        "categories": ("cs.IR",),
        "arxiv_id": arxiv_id,
        "announced_on": TODAY,
        "links": Links(abstract=f"https://arxiv.org/abs/{arxiv_id}") if arxiv_id else Links(),
    }
    return Sighting(**{**defaults, **changes})


def make_paper(title: str = "", **changes: Any) -> Paper:
    """Return a paper as the database returns it, with an id and a key of its own."""
    number = changes.pop("id", None) or next(_numbers)
    key = changes.pop("key", f"3001.{number:05}")
    authors = changes.pop("authors", ("Ada Lovelace", "Charles Babbage"))
    defaults = {
        "version": 1,
        "title": title or f"{TITLE}, part {number}",
        "abstract": ABSTRACT,
        "author_count": len(authors),
        "categories": ("cs.IR",),
        "keywords": (),
        "sources": ("arxiv",),
        "announced_on": TODAY,
        "upvotes": None,
        "comments": None,
        "stars": None,
        "links": Links(abstract=f"https://arxiv.org/abs/{key}", pdf=f"https://arxiv.org/pdf/{key}"),
        "batch": 1,
    }
    return Paper(id=number, key=key, authors=authors, **{**defaults, **changes})


def make_topic(query: str = "retrieval", **changes: Any) -> Topic:
    return Topic(**{"id": next(_numbers), "query": query, **changes})


def make_match(topic: Topic, paper: Paper, score: float = 1.0, *phrases: str) -> Match:
    return Match(topic.id, paper.id, score, phrases)


def make_pick(paper: Paper | None = None, **changes: Any) -> Pick:
    defaults = {"reasons": (Reason("retrieval", ("retrieval",)),), "score": 1.0}
    return Pick(paper=paper or make_paper(), **{**defaults, **changes})


def make_digest(*picks: Pick, **changes: Any) -> Digest:
    """Return a digest of the given picks, or of one default pick if none are given."""
    defaults = {
        "edition_on": TODAY,
        "picks": picks or (make_pick(),),
        "topics": ("retrieval",),
        "announced": (TODAY, TODAY),
    }
    return Digest(**{**defaults, **changes})


def make_schedule(hour: int = 8, timezone: str = "UTC", **changes: Any) -> Schedule:
    defaults = {"frequency": Frequency.DAILY, "weekday": Weekday.MONDAY}
    return Schedule(at=time(hour), timezone=timezone, **{**defaults, **changes})


def make_subscriber(email: str = "", **changes: Any) -> Subscriber:
    """Return an active daily subscriber, due at eight o'clock UTC."""
    number = changes.pop("id", None) or next(_numbers)
    defaults = {
        "status": SubscriberStatus.ACTIVE,
        "schedule": make_schedule(),
        "max_papers": 10,
        "secret": f"secret-{number}",
        "next_slot_at": NOW,
    }
    address = email or f"reader{number}@example.org"
    return Subscriber(id=number, email=address, **{**defaults, **changes})


def make_delivery(email: str = "ada@example.org", **changes: Any) -> Delivery:
    """Return a digest delivery created now and claimed for its first attempt."""
    number = changes.pop("id", None) or next(_numbers)
    edition_on: date | None = changes.pop("edition_on", TODAY)
    defaults = {
        "dedupe_key": f"digest:{edition_on}:{number}",
        "kind": DeliveryKind.DIGEST,
        "subscriber_id": number,
        "attempts": 0,
        "expires_at": NOW + timedelta(hours=18),
        "created_at": NOW,
        "secret": f"secret-{number}",
    }
    return Delivery(id=number, email=email, edition_on=edition_on, **{**defaults, **changes})


KEY = "a key of the tests"

SENDER = Sender(
    mail_from="papers@example.org",
    list_name="Papers",
    site_url="https://papers.example.org",
    key=KEY,
    bounce_address="bounces@example.org",
)
