"""Progress of each pipeline step for monitoring: a few queries, each of them by an index."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, func, select

from pipeline.domain import TERMINAL, DeliveryStatus, SubscriberStatus
from pipeline.storage import delivery_queries, guard, ingest_state, send_controls
from pipeline.storage.ingest_state import SourceRecord
from pipeline.storage.schema import (
    BatchRow,
    DeliveryRow,
    PaperRow,
    SubscriberRow,
    SuppressionRow,
)
from pipeline.storage.send_controls import CircuitBreaker, Pause

UNSETTLED: Final = tuple(status for status in DeliveryStatus if status not in TERMINAL)
DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Stats:
    """State of each step; a time is None if nothing waits or nothing has happened yet."""

    batch: int  # the newest one that is visible to readers
    batch_at: datetime | None
    unpublished_since: datetime | None  # the oldest stored paper that is not published yet
    slot_since: datetime | None  # the oldest due slot of an active reader
    due_since: datetime | None  # the oldest due delivery that no sender has claimed
    sources: tuple[SourceRecord, ...]
    held: tuple[Pause, ...] = ()  # set by code: the operator must lift them
    breaker: CircuitBreaker | None = None  # None if it is closed
    refusals: int = 0  # not counted as strikes, because no other mail was accepted
    failing: str | None = None  # how much of the newest edition failed for a reason about us

    def asked_at(self, now: datetime) -> datetime | None:
        """Return when a source was last tried; a source in backoff counts as tried now."""
        tried = [
            now if source.next_try_at and source.next_try_at > now else source.checked_at
            for source in self.sources
        ]
        return max(tried, default=None)


def read_stats(conn: Connection, now: datetime) -> Stats:
    published = ingest_state.published_batch(conn)
    due_at = delivery_queries.next_due_at(conn)
    return Stats(
        batch=published,
        batch_at=conn.scalar(select(BatchRow.published_at).where(BatchRow.number == published)),
        unpublished_since=conn.scalar(
            select(func.min(PaperRow.created_at)).where(PaperRow.batch > published)
        ),
        slot_since=conn.scalar(
            select(SubscriberRow.next_slot_at)
            .where(
                SubscriberRow.status == SubscriberStatus.ACTIVE, SubscriberRow.next_slot_at <= now
            )
            .order_by(SubscriberRow.next_slot_at)
            .limit(1)
        ),
        due_since=due_at if due_at and due_at <= now else None,
        sources=tuple(ingest_state.list_source_states(conn)),
        held=tuple(hold for hold in send_controls.list_pauses(conn) if hold.automatic),
        breaker=send_controls.circuit_breaker(conn),
        refusals=guard.count_waiting(conn),
        failing=guard.failing(conn, now),
    )


def unsettled(conn: Connection) -> dict[DeliveryStatus, int]:
    """Return the number of deliveries by non-terminal status, including 0."""
    found = conn.execute(
        select(DeliveryRow.status, func.count())
        .where(DeliveryRow.status.in_(UNSETTLED))
        .group_by(DeliveryRow.status)
    )
    return dict.fromkeys(UNSETTLED, 0) | {DeliveryStatus(status): n for status, n in found}


def last_day(conn: Connection, now: datetime) -> Mapping[tuple[str, ...], float]:
    """Return the number of deliveries queued in the last 24 hours, by (kind, status)."""
    rows = conn.execute(
        select(DeliveryRow.kind, DeliveryRow.status, func.count())
        .where(~DeliveryRow.redacted, DeliveryRow.created_at > now - DAY)
        .group_by(DeliveryRow.kind, DeliveryRow.status)
    )
    return {(kind, status): count for kind, status, count in rows}


def suppressions(conn: Connection) -> Mapping[str, int]:
    """Return the number of suppressed addresses by reason."""
    rows = conn.execute(select(SuppressionRow.reason, func.count()).group_by(SuppressionRow.reason))
    return {row[0]: row[1] for row in rows}
