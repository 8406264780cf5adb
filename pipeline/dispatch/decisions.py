"""What a verdict means for the delivery it was given on. Pure."""

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
"""Between tries; the last repeats until the delivery expires."""

RECONNECT_GAP: Final = timedelta(minutes=1)
"""After a lost connection: charged to nobody, but not a busy loop either."""

# What says that nobody was asked: the message was not judged, the connection or we were.
_UNCHARGED: Final = {Verdict.CONNECTION, Verdict.CONFIGURATION}

# Refusals that may end by themselves, whatever their code says.
_PASSING: Final = {Verdict.THROTTLED, Verdict.GREYLISTED, Verdict.DEFERRED}

# Refusals that are about us. The reader did nothing wrong and is still owed the papers.
_OUR_FAULT: Final = {Verdict.TOO_LARGE, Verdict.AUTHENTICATION, Verdict.BLOCKED}


def settlement(delivery: Delivery, outcome: Outcome, *, spread: float) -> Settlement:
    """What to write after `outcome`.

    `spread` in [0, 1) lengthens the gap by up to a quarter, so that what failed together does not
    come back together; it never shortens one, since greylisting counts the minutes.
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
    """No mail can be made of it, now or later."""
    return Settlement(
        delivery.id, DeliveryStatus.FAILED, f"not composed: {explanation}", unread=True
    )


def not_composed_yet(delivery: Delivery, explanation: str, *, spread: float) -> Settlement:
    """A mistake of ours stopped it; until it expires there is time to mend that."""
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
