"""Throttling after a refusal: the new rate of a domain and the time of the next try. Pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from pipeline.storage.throttles import Throttle, ThrottleState

MINUTE: Final = timedelta(minutes=1)

# --- Rate of a domain: halved by a refusal, increased by accepted mail --------------------------

FIRST: Final = 60.0  # mails per minute after the first refusal
LEAST: Final = 1.0
FREE: Final = 600.0  # mails per minute; a domain that accepts so many is no longer throttled
STEP: Final = 10.0  # mails per minute, added for a minute's worth of accepted mails
AT_ONCE: Final = timedelta(seconds=4)  # mails in flight: those of this time at the allowed rate
BURST: Final = timedelta(seconds=5)  # of unused rate that may be saved up
GRACE: Final = timedelta(seconds=30)  # refusals of mails in flight count as one
FORGOTTEN: Final = timedelta(days=1)

PAUSES: Final = {
    ThrottleState.SLOWED: tuple(timedelta(minutes=minutes) for minutes in (1, 2, 4, 8, 16, 30)),
    ThrottleState.BLOCKED: tuple(timedelta(minutes=minutes) for minutes in (30, 60, 120, 240)),
}
"""Pause after the first, second... refusal in a row; the last value repeats."""


def refused(
    known: Throttle | None, domain: str, state: ThrottleState, reply: str, now: datetime
) -> Throttle:
    """Return the throttle after a refusal; `known` itself if the refusal adds nothing.

    A refusal within GRACE of the last one is ignored unless it is the first block. Each other
    refusal halves the allowance (a block sets it to LEAST) and lengthens the pause.
    """
    pause = PAUSES[state]
    if known is None:
        allowance = FIRST if state is ThrottleState.SLOWED else LEAST
        return Throttle(domain, state, allowance, now + pause[0], 1, now, now, reply)
    is_worse = state is ThrottleState.BLOCKED and known.state is not state
    if now < known.refused_at + GRACE and not is_worse:
        return known
    refusals = 1 if is_worse else known.refusals + 1
    return replace(
        known,
        state=ThrottleState.BLOCKED if ThrottleState.BLOCKED in (state, known.state) else state,
        allowance=LEAST if state is ThrottleState.BLOCKED else max(LEAST, known.allowance / 2),
        not_before=max(known.not_before, now + pause[min(refusals, len(pause)) - 1]),
        refusals=refusals,
        refused_at=now,
        reply=reply,
    )


def accepted(known: Throttle, count: int, now: datetime) -> Throttle | None:
    """Return the throttle after `count` accepted mails; None if the domain is free again.

    Mails accepted within GRACE of a refusal were in flight already, and change nothing.
    """
    if now < known.refused_at + GRACE:
        return known
    allowance = known.allowance + STEP * count / max(known.allowance, STEP)
    if allowance >= FREE:
        return None
    return replace(known, allowance=allowance, state=ThrottleState.SLOWED)


def is_outdated(known: Throttle, now: datetime) -> bool:
    """Return whether the last refusal or pause is a day old, too old to matter."""
    return now >= max(known.refused_at, known.not_before) + FORGOTTEN


def allowance(known: Throttle, now: datetime) -> int:
    """Return how many mails this domain may get now; 0 if it pauses or its share is used up."""
    if now < known.not_before:
        return 0
    saved = min(now - known.not_before, BURST)
    return 1 + int(saved / _gap(known))


def most_in_flight(known: Throttle) -> int:
    """Return how many mails to this domain may be in flight at once, over all senders.

    This follows the allowance: 4 after the first refusal, then 2, then 1. A slow server
    therefore gets fewer mails than its allowance, because servers limit connections, too.
    """
    return max(1, int(known.allowance * (AT_ONCE / MINUTE)))


def after_claim(known: Throttle, count: int, now: datetime) -> Throttle:
    """Return the throttle after `count` mails were claimed: `not_before` moves by their gaps."""
    first = max(known.not_before, now - BURST)
    return replace(known, not_before=first + count * _gap(known))


def _gap(known: Throttle) -> timedelta:
    return MINUTE / known.allowance


# --- Circuit breaker ----------------------------------------------------------------------------

OPEN_FOR: Final = tuple(timedelta(minutes=minutes) for minutes in (1, 5, 15, 30, 60))
"""Open time after the first, second... refusal of us as a whole; the last value repeats."""


def open_for(refusals: int) -> timedelta:
    """Return how long the breaker stays open after `refusals` in a row, 1 or more."""
    return OPEN_FOR[min(refusals, len(OPEN_FOR)) - 1]


# --- Authentication failures --------------------------------------------------------------------

DISTRUST_WINDOW: Final = timedelta(minutes=10)
DISTRUSTS: Final = 3
DISTRUSTFUL: Final = 2  # recipients; a single one may have a misconfigured server


def is_authentication_failing(refusals: int, recipients: int) -> bool:
    """Return whether to pause an edition for authentication failures within DISTRUST_WINDOW."""
    return refusals >= DISTRUSTS and recipients >= DISTRUSTFUL
