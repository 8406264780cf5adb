"""Delete or redact expired rows: unconfirmed addresses, old data about readers, unused matches.

Runs concurrently with everything else. It is idempotent and may be killed: each step takes the rows
that are too old at that moment, in transactions of a few rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from functools import partial
from itertools import count
from typing import Final

import structlog
from sqlalchemy import Engine

from pipeline.storage import (
    bounce_scores,
    embeddings,
    events,
    papers,
    refusals,
    retention,
    topics,
)
from pipeline.storage.database import retry_transaction, truncate_wal

log = structlog.get_logger(__name__)

# No settings, because both protect addresses from confirmation floods: with a shorter period, the
# limits of signup.abuse_limits would lose rows that they count; a longer one has no benefit.
COUNTERS: Final = timedelta(days=2)  # rate limit counters; their names contain IP addresses
ASKED: Final = timedelta(days=30)  # confirmations to one address, by its hash
CHUNK: Final = 500
TOPICS: Final = 5  # per transaction, because each has thousands of matches
MOST_CHUNKS: Final = 1_000  # of a night, of rows about papers; the next night continues
# Digests are drawn from the matches since the last one, notices from those of 120 days at most, and
# `ingest` does not match older papers again. A day more, because a run may be going on.
MATCHES: Final = timedelta(days=topics.MATCHED_FOR + 1)
# Since the last use: the index of a site that runs for months uses its vectors only at the start.
EMBEDDINGS: Final = timedelta(days=400)


@dataclass(frozen=True, slots=True)
class Retention:
    """Retention periods chosen by the operator; older data is deleted or redacted."""

    pending: timedelta = timedelta(days=7)  # unconfirmed addresses and unanswered requests
    ip: timedelta = timedelta(days=7)  # IP address and form values of a request
    digest: timedelta = timedelta(days=90)  # picks and reasons of a digest; its delivery stays
    delivery: timedelta = timedelta(days=396)  # delivery rows; the counts per day stay
    event: timedelta = timedelta(days=30)  # raw feedback events; their effects stay
    paper: timedelta | None = None  # papers that no digest and no reaction refers to; None: forever


@dataclass(frozen=True, slots=True)
class Purged:
    """Numbers of rows deleted or redacted, by kind."""

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
    matches: int
    papers: int
    embeddings: int


def purge(engine: Engine, now: datetime, limits: Retention) -> Purged:
    """Delete or redact all rows that are too old at `now`; return the counts.

    Repeats each step until no row is left, then truncates SQLite's WAL, which may still contain the
    deleted data. Of rows about papers alone, at most `MOST_CHUNKS` times `CHUNK` are deleted.
    """

    def older(step: Callable[..., int], than: timedelta) -> int:
        return _all(engine, partial(step, before=now - than))

    def some(step: Callable[..., int], than: timedelta) -> int:
        return _all(engine, partial(step, before=now - than), chunks=MOST_CHUNKS)

    # Before the topics, so that each has few matches left.
    matches = some(topics.delete_old_matches, MATCHES)
    purged = Purged(
        pending=older(retention.delete_pending, limits.pending),
        requests=older(retention.delete_requests, limits.pending),
        addresses=older(retention.redact_addresses, limits.pending),
        ips=older(retention.redact_requests, limits.ip),
        counters=older(retention.delete_counters, COUNTERS),
        asked=older(retention.delete_pending_confirmations, ASKED),
        digests=older(retention.redact_deliveries, limits.digest),
        skips=older(retention.delete_skips, limits.digest),
        deliveries=older(retention.delete_deliveries, limits.delivery),
        events=older(events.delete_old, limits.event),
        strikes=older(bounce_scores.delete_old, bounce_scores.MEMORY),
        topics=_all(engine, topics.delete_unfollowed, TOPICS),
        refusals=older(refusals.delete_old, bounce_scores.MEMORY),
        matches=matches,
        papers=some(papers.delete_old, limits.paper) if limits.paper else 0,
        embeddings=some(embeddings.delete_unused, EMBEDDINGS),
    )
    truncate_wal(engine)
    log.info("purge.finished", **asdict(purged))
    return purged


def _all(
    engine: Engine,
    step: Callable[..., int],
    limit: int | None = None,
    *,
    chunks: int | None = None,
) -> int:
    """Repeat a step of at most `limit` rows, else `CHUNK`, until it finds none; return the total.

    With `chunks`, repeat it at most so many times.
    """
    total = 0
    for _ in count() if chunks is None else range(chunks):
        done = _once(engine, step, limit or CHUNK)
        total += done
        if not done:
            break
    return total


@retry_transaction
def _once(engine: Engine, step: Callable[..., int], limit: int) -> int:
    with engine.begin() as conn:
        return step(conn, limit=limit)
