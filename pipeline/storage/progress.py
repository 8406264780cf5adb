"""How far the machine has come, told by what it has written: a few reads, each by an index."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, func, select

from pipeline.domain import TERMINAL, DeliveryStatus, SubscriberStatus
from pipeline.storage import batches, breakers, deliveries, guard, holds, source_states
from pipeline.storage.breakers import Breaker
from pipeline.storage.holds import Hold
from pipeline.storage.schema import (
    BatchRow,
    DeliveryRow,
    PaperRow,
    SubscriberRow,
    SuppressionRow,
)
from pipeline.storage.source_states import SourceRecord

UNSETTLED: Final = tuple(status for status in DeliveryStatus if status not in TERMINAL)
DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Progress:
    """Where each step stands; the times are None where nothing waits, or nothing happened yet."""

    batch: int  # the newest one that readers may see
    batch_at: datetime | None
    unpublished_since: datetime | None  # papers were read, and readers may not see them yet
    slot_since: datetime | None  # a reader's hour has come, and nothing was compiled
    due_since: datetime | None  # a mail could be tried, and nobody has taken it
    sources: tuple[SourceRecord, ...]
    held: tuple[Hold, ...] = ()  # by the program: nothing of it leaves before the operator acts
    breaker: Breaker | None = None  # of the mail server, which refuses us
    refusals: int = 0  # that count against nobody, since nobody else was accepted

    def asked_at(self, now: datetime) -> datetime | None:
        """When a source was last tried; one that is not to be asked yet is as good as tried."""
        tried = [
            now if source.next_try_at and source.next_try_at > now else source.checked_at
            for source in self.sources
        ]
        return max(tried, default=None)


def read(conn: Connection, now: datetime) -> Progress:
    published = batches.published(conn)
    due_at = deliveries.next_due_at(conn)
    return Progress(
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
        sources=tuple(source_states.listing(conn)),
        held=tuple(hold for hold in holds.listing(conn) if hold.automatic),
        breaker=breakers.get(conn),
        refusals=guard.waiting(conn),
    )


def unsettled(conn: Connection) -> dict[DeliveryStatus, int]:
    """How many deliveries have not come to an end, by status, 0 included."""
    found = conn.execute(
        select(DeliveryRow.status, func.count())
        .where(DeliveryRow.status.in_(UNSETTLED))
        .group_by(DeliveryRow.status)
    )
    return dict.fromkeys(UNSETTLED, 0) | {DeliveryStatus(status): n for status, n in found}


def last_day(conn: Connection, now: datetime) -> Mapping[tuple[str, ...], float]:
    """How many deliveries were owed since this time yesterday, by (kind, status)."""
    rows = conn.execute(
        select(DeliveryRow.kind, DeliveryRow.status, func.count())
        .where(~DeliveryRow.blanked, DeliveryRow.created_at > now - DAY)
        .group_by(DeliveryRow.kind, DeliveryRow.status)
    )
    return {(kind, status): count for kind, status, count in rows}


def suppressions(conn: Connection) -> Mapping[str, int]:
    """How many addresses we do not write to, by reason."""
    rows = conn.execute(select(SuppressionRow.reason, func.count()).group_by(SuppressionRow.reason))
    return {row[0]: row[1] for row in rows}
