"""Forget what nobody needs any more: addresses never confirmed, and old traces of readers.

Runs beside everything else, and may run twice or be killed: each step deletes what is too old at
that moment, in transactions of a few rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Final

import structlog
from sqlalchemy import Engine

from pipeline.storage import events, expiry, refusals, strikes, topics
from pipeline.storage.database import wipe, with_retries

log = structlog.get_logger(__name__)

# These two protect people from being flooded: shorter, and the limits of signup.asking forget what
# they count; longer would serve nobody. So they are no settings.
COUNTERS: Final = timedelta(days=2)  # of questions from one place: their names are IP addresses
ASKED: Final = timedelta(days=30)  # questions to one address, under its hash
CHUNK: Final = 500
TOPICS: Final = 20  # in one transaction, for each has thousands of matches


@dataclass(frozen=True, slots=True)
class Retention:
    """How long the operator lets us keep things; what is older is forgotten."""

    pending: timedelta = timedelta(days=7)  # an address never confirmed, and what was asked for it
    ip: timedelta = timedelta(days=7)  # of who asked, and what they typed
    digest: timedelta = timedelta(days=90)  # what was in it, and why; that it was sent stays
    delivery: timedelta = timedelta(days=396)  # that somebody was sent a mail; how many stays
    event: timedelta = timedelta(days=30)  # news about mails as it came; what it led to stays


@dataclass(frozen=True, slots=True)
class Purged:
    """How many rows of each kind were forgotten."""

    pending: int
    requests: int
    addresses: int
    ips: int
    counters: int
    asked: int
    digests: int
    skips: int
    deliveries: int
    events: int
    strikes: int
    topics: int
    refusals: int


def purge(engine: Engine, now: datetime, kept: Retention) -> Purged:
    """Forget everything that is too old at `now`."""

    def older(step: Callable[..., int], than: timedelta) -> int:
        return _all(engine, partial(step, before=now - than))

    purged = Purged(
        pending=older(expiry.drop_pending, kept.pending),
        requests=older(expiry.drop_requests, kept.pending),
        addresses=older(expiry.forget_addresses, kept.pending),
        ips=older(expiry.blank_requests, kept.ip),
        counters=older(expiry.drop_counters, COUNTERS),
        asked=older(expiry.drop_asked, ASKED),
        digests=older(expiry.blank_deliveries, kept.digest),
        skips=older(expiry.drop_skips, kept.digest),
        deliveries=older(expiry.drop_deliveries, kept.delivery),
        events=older(events.drop_events, kept.event),
        strikes=older(strikes.drop_strikes, strikes.MEMORY),
        topics=_all(engine, topics.delete_unfollowed, TOPICS),
        refusals=older(refusals.drop_refusals, strikes.MEMORY),
    )
    wipe(engine)
    log.info("purged", **asdict(purged))
    return purged


def _all(engine: Engine, step: Callable[..., int], limit: int = CHUNK) -> int:
    """Repeat a step of at most `limit` rows until it finds none; how many there were."""
    total = 0
    while done := with_retries(partial(_once, engine, step, limit)):
        total += done
    return total


def _once(engine: Engine, step: Callable[..., int], limit: int) -> int:
    with engine.begin() as conn:
        return step(conn, limit=limit)
