"""Suppressions by the operator's hand."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Engine

from pipeline.domain import SuppressionReason
from pipeline.errors import NotFoundError
from pipeline.storage import deliveries, strikes, subscribers
from pipeline.storage.database import retried
from pipeline.storage.deliveries import CancelReason


@retried
def suppress(engine: Engine, email: str, suppression_key: str, now: datetime) -> None:
    """Write to this address no more, whoever has it, and cancel what is owed, at once."""
    hash_ = subscribers.address_hash(email, suppression_key)
    with engine.begin() as conn:
        subscriber = subscribers.by_email(conn, email, for_change=True)
        subscribers.suppress(conn, hash_, SuppressionReason.MANUAL, now)
        if subscriber:
            deliveries.cancel_owed(conn, [subscriber.id], CancelReason.SUPPRESSED)


@retried
def lift(engine: Engine, email: str, suppression_key: str) -> None:
    """Write to this address again, also after a complaint, and begin to count strikes anew.

    Who left by complaining stays out until they join again. Raises NotFoundError.
    """
    hash_ = subscribers.address_hash(email, suppression_key)
    with engine.begin() as conn:
        barred = subscribers.barred(conn, email, suppression_key)
        if barred is None or not subscribers.lift(conn, barred.hash):
            raise NotFoundError("this address is not suppressed")
        strikes.clear(conn, hash_)
