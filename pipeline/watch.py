"""Look at what became of each edition, once it is over: one line of log for each."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Final

import structlog
from sqlalchemy import Engine

from pipeline.domain import UNSENT, CountedEvent, DeliveryKind, DeliveryStatus
from pipeline.storage import daily_counts, stats
from pipeline.storage.database import retry_transaction

log = structlog.get_logger(__name__)

OVER_AFTER: Final = timedelta(hours=36)  # from midnight UTC to the end of a date in every time zone
DAYS: Final = 7  # a digest expires after at most 72 hours


def watch(engine: Engine, now: datetime) -> None:
    """Log each edition that is over, once in all processes. Idempotent."""
    for days in range(DAYS, 0, -1):
        edition_on = now.date() - timedelta(days=days)
        if datetime.combine(edition_on, time(), UTC) + OVER_AFTER <= now:
            _finish(engine, edition_on)


@retry_transaction
def _finish(engine: Engine, edition_on: date) -> None:
    """Log the counts of an edition, unless they are logged or a delivery has no result yet."""
    with engine.begin() as conn:
        if daily_counts.is_counted(conn, edition_on, CountedEvent.FINISHED):
            return
        found = stats.edition(conn, edition_on)
        if not found.statuses or any(found.statuses[status] for status in _OPEN):
            return
        won = daily_counts.add_once(conn, edition_on, DeliveryKind.DIGEST, CountedEvent.FINISHED)
    if won:
        log.info(
            "edition.finished",
            edition=str(edition_on),
            compiled=found.statuses.total(),
            **{status: found.statuses[status] for status in _ENDS},
            seconds=round(found.length.total_seconds()),
        )


_OPEN: Final = (*UNSENT, DeliveryStatus.SENDING)
_ENDS: Final = (
    DeliveryStatus.SENT,
    DeliveryStatus.UNCERTAIN,
    DeliveryStatus.FAILED,
    DeliveryStatus.SUPPRESSED,
    DeliveryStatus.CANCELLED,
    DeliveryStatus.EXPIRED,
)
