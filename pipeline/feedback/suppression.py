"""Suppress addresses and lift suppressions on behalf of the operator."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, datetime

from sqlalchemy import Engine

from pipeline.domain import SuppressionReason
from pipeline.errors import NotFoundError
from pipeline.storage import addresses, bounce_scores, guard, subscribers, suppressions
from pipeline.storage.database import read_only, retry_transaction


@retry_transaction
def suppress(engine: Engine, email: str, suppression_key: str, now: datetime) -> None:
    """Suppress an address, with or without a subscriber, and cancel its queued deliveries.

    One transaction. Idempotent.
    """
    hash_ = addresses.address_hash(email, suppression_key)
    with engine.begin() as conn:
        subscribers.by_email(conn, email, for_change=True)  # lock it before its deliveries
        suppressions.suppress(conn, hash_, SuppressionReason.MANUAL, now)


@retry_transaction
def lift(engine: Engine, email: str, suppression_key: str) -> None:
    """Lift the suppression of an address, even after a complaint, and reset its strikes.

    A subscriber that a complaint has unsubscribed stays unsubscribed until they subscribe again.
    Raises NotFoundError if the address is not suppressed.
    """
    hash_ = addresses.address_hash(email, suppression_key)
    with engine.begin() as conn:
        barred = suppressions.find(conn, email, suppression_key)
        if barred is None or not suppressions.lift(conn, barred.hash):
            raise NotFoundError("this address is not suppressed")
        bounce_scores.clear_strikes(conn, hash_)


@dataclass(frozen=True, slots=True)
class Undoable:
    """A suppression caused by a refusal, with the edition and wording of that refusal."""

    address_hash: str
    reason: SuppressionReason
    since: datetime
    edition_on: date | None
    wording: str  # normalised, without addresses; "" if it is not stored any more


def undoable(
    engine: Engine,
    since: datetime,
    until: datetime | None = None,
    reasons: Collection[SuppressionReason] = guard.OURS,
    reply: str = "",
) -> list[Undoable]:
    """Return the suppressions by refusals from `since` until `until` that match `reply`.

    `until` is exclusive. `reply` must be contained in the wording, without regard to case; "" is
    in every wording. Complaints and the operator's own suppressions are never returned.
    """
    wanted = set(reasons) & set(guard.OURS)
    with read_only(engine) as conn:
        candidates = [
            one
            for one in suppressions.list_all(conn)
            if one.reason in wanted and one.since >= since and (until is None or one.since < until)
        ]
        found = [
            Undoable(one.hash, one.reason, one.since, *guard.cause_of(conn, one.hash))
            for one in candidates
        ]
    return [one for one in found if reply.casefold() in one.wording.casefold()]


def undo(engine: Engine, chosen: Collection[Undoable], now: datetime) -> int:
    """Lift these suppressions, reset their strikes, and return how many still existed.

    Each is a separate transaction: if the process is killed, the next run lifts the rest. A
    suppression that a complaint or the operator has replaced meanwhile stays.
    """
    return sum(_undo(engine, suppression, now) for suppression in chosen)


@retry_transaction
def _undo(engine: Engine, suppression: Undoable, now: datetime) -> bool:
    with engine.begin() as conn:
        return guard.restore(conn, suppression.address_hash, suppression.since, now)
