"""Turn the verdict on a delivery into its settlement. Pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Final

from pipeline.domain import (
    STRIKES,
    Delivery,
    DeliveryStatus,
    SuppressionReason,
    Verdict,
)
from pipeline.smtp import Outcome
from pipeline.storage.deliveries import Settlement

GAPS: Final = tuple(timedelta(minutes=minutes) for minutes in (5, 15, 45, 120))
"""Delays before a retry, by number of attempts; the last repeats until the delivery expires."""

RECONNECT_GAP: Final = timedelta(minutes=1)
"""Delay after a lost connection: the attempt is not charged, but a busy loop is prevented."""

# The message was not judged: the connection failed, or the server refused us. Not charged.
_UNCHARGED: Final = {Verdict.CONNECTION, Verdict.CONFIGURATION}

# Refusals that may be temporary, even if the reply code is permanent.
_PASSING: Final = {Verdict.THROTTLED, Verdict.GREYLISTED, Verdict.DEFERRED}

# Refusals that are our fault: the papers go into the reader's next digest.
_OUR_FAULT: Final = {Verdict.TOO_LARGE, Verdict.AUTHENTICATION, Verdict.BLOCKED}


def settlement(delivery: Delivery, outcome: Outcome, *, spread: float) -> Settlement:
    """Return the settlement of `delivery` after `outcome`.

    `spread` in [0, 1) lengthens the retry delay by up to a quarter, so that deliveries which failed
    together are not retried together (after a lost connection: by up to its double). It never
    shortens a delay, since greylisting counts the minutes.
    """
    verdict = outcome.verdict
    settled = Settlement(
        delivery.id,
        DeliveryStatus.FAILED,
        reason=_reason(outcome),
        reply=str(outcome.reply) if outcome.reply else None,
        queue_id=outcome.queue_id,
        charged=verdict not in _UNCHARGED,
        strike=STRIKES.get(verdict),
    )
    if verdict is Verdict.ACCEPTED:
        return replace(settled, status=DeliveryStatus.SENT)
    if verdict is Verdict.UNKNOWN:
        return replace(settled, status=DeliveryStatus.UNCERTAIN)
    if verdict in _UNCHARGED:
        delay = RECONNECT_GAP if verdict is Verdict.CONNECTION else timedelta(0)
        return replace(settled, status=DeliveryStatus.QUEUED, delay=delay * (1 + spread))
    if verdict in _PASSING or not outcome.permanent:
        return replace(settled, status=DeliveryStatus.QUEUED, delay=_gap(delivery, spread))
    if verdict is Verdict.HARD:
        return replace(
            settled, status=DeliveryStatus.SUPPRESSED, suppression=SuppressionReason.HARD
        )
    return replace(settled, unread=verdict in _OUR_FAULT)


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


def _reason(outcome: Outcome) -> str:
    return f"{outcome.verdict} at {outcome.phase}"
