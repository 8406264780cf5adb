"""Turn the decision on a delivery into its settlement: when to retry it. Pure."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from pipeline.domain import Delivery, DeliveryStatus, Verdict
from pipeline.smtp import Decision
from pipeline.storage.deliveries import Settlement

GAPS: Final = tuple(timedelta(minutes=minutes) for minutes in (5, 15, 45, 120))
"""Delays before a retry, by number of attempts; the last repeats until the delivery expires."""

RECONNECT_GAP: Final = timedelta(minutes=1)
"""Delay after a lost connection: the attempt is not charged, but a busy loop is prevented."""


def settlement_of(delivery: Delivery, decision: Decision, *, spread: float) -> Settlement:
    """Return the settlement of `delivery` after `decision`, with the delay before a retry.

    `spread` in [0, 1) lengthens the retry delay by up to a quarter, so that deliveries which failed
    together are not retried together (after a lost connection: by up to its double). It never
    shortens a delay, since greylisting counts the minutes.
    """
    return Settlement(
        delivery.id,
        decision.status,
        reason=decision.reason,
        reply=str(decision.reply) if decision.reply else None,
        queue_id=decision.queue_id,
        charged=decision.charged,
        delay=_delay(delivery, decision, spread),
        strike=decision.strike,
        unread=decision.unread,
    )


def _delay(delivery: Delivery, decision: Decision, spread: float) -> timedelta:
    if decision.status is not DeliveryStatus.QUEUED:
        return timedelta(0)
    if decision.charged:
        return _gap(delivery, spread)
    is_lost = decision.verdict is Verdict.CONNECTION
    return RECONNECT_GAP * (1 + spread) if is_lost else timedelta(0)  # the breaker delays it


def not_composed(delivery: Delivery, explanation: str) -> Settlement:
    """Return the settlement of a delivery that can never be composed.

    Its papers stay unread, so they come with a later digest.
    """
    return Settlement(
        delivery.id, DeliveryStatus.FAILED, f"not composed: {explanation}", unread=True
    )


def not_composed_yet(delivery: Delivery, explanation: str, *, spread: float) -> Settlement:
    """Return the settlement after a bug in composing: retried until the delivery expires.

    Until then there is time to fix the bug.
    """
    return Settlement(
        delivery.id,
        DeliveryStatus.QUEUED,
        f"not composed: {explanation}",
        charged=True,
        delay=_gap(delivery, spread),
    )


def _gap(delivery: Delivery, spread: float) -> timedelta:
    return GAPS[min(delivery.attempts, len(GAPS) - 1)] * (1 + spread / 4)
