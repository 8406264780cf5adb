"""Suppressions by the operator's hand."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, datetime
from functools import partial

from sqlalchemy import Engine

from pipeline.domain import SuppressionReason
from pipeline.errors import NotFoundError
from pipeline.storage import deliveries, guard, strikes, subscribers
from pipeline.storage.database import reading, retried, with_retries
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


@dataclass(frozen=True, slots=True)
class Undoable:
    """A suppression that a refusal has led to, with what is known of the refusal."""

    address_hash: str
    reason: SuppressionReason
    since: datetime
    edition_on: date | None
    wording: str  # normalised, without addresses; "" where nothing of it is kept


def undoable(
    engine: Engine,
    since: datetime,
    until: datetime | None = None,
    reasons: Collection[SuppressionReason] = guard.OURS,
    reply: str = "",
) -> list[Undoable]:
    """The suppressions by refusals since then, before `until`, whose wording contains `reply`.

    Never a complaint, and never one by the operator's hand.
    """
    wanted = set(reasons) & set(guard.OURS)
    with reading(engine) as conn:
        known = [
            one
            for one in subscribers.suppressions(conn)
            if one.reason in wanted and one.since >= since and (until is None or one.since < until)
        ]
        found = [
            Undoable(one.hash, one.reason, one.since, *guard.cause(conn, one.hash)) for one in known
        ]
    return [one for one in found if reply.casefold() in one.wording.casefold()]


def undo(engine: Engine, suppressions: Collection[Undoable], now: datetime) -> int:
    """Lift these suppressions with their strikes; return how many were still there.

    Each in a transaction of its own: killed on the way, the next run lifts the rest. One that was
    replaced meanwhile, by a complaint or by hand, stays.
    """
    return sum(with_retries(partial(_undo, engine, one, now)) for one in suppressions)


def _undo(engine: Engine, one: Undoable, now: datetime) -> bool:
    with engine.begin() as conn:
        return guard.restore(conn, one.address_hash, one.since, now)
