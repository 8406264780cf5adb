"""How fast to go on after a refusal: what to slow, by how much, and when to try again. Pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from pipeline.domain import Verdict
from pipeline.smtp import OUR_PLAN, Outcome, Phase, Subject, subject_of
from pipeline.storage.paces import Pace, PaceState

MINUTE: Final = timedelta(minutes=1)

# --- Whom a refusal is about --------------------------------------------------------------------


class Scope(StrEnum):
    NOBODY = "nobody"  # the message or its reader; their row says what follows
    DOMAIN = "domain"  # everybody whose mail the same servers take
    SERVER = "server"  # our own mail server, whoever the reader is
    SENDER = "sender"  # us: our domain is not believed to be ours


def scope(outcome: Outcome) -> Scope:
    match outcome.verdict:
        case Verdict.CONFIGURATION:
            return Scope.SERVER
        case Verdict.THROTTLED:
            return Scope.SERVER if _is_about_our_quota(outcome) else Scope.DOMAIN
        case Verdict.BLOCKED if _is_about_this_message(outcome):
            return Scope.NOBODY
        case Verdict.BLOCKED:
            return Scope.DOMAIN
        case Verdict.AUTHENTICATION:
            return Scope.SENDER
        case _:
            return Scope.NOBODY


def _is_about_our_quota(outcome: Outcome) -> bool:
    """Said before the recipient was known, or by a provider about what it sells us.

    Amazon SES says "454 Throttling failure: Maximum sending rate exceeded" after DATA.
    """
    if outcome.phase is Phase.MAIL:
        return True
    reply = outcome.reply
    if reply is None:
        return False
    is_failure = reply.code == 454 and "throttling failure" in reply.text.lower()
    return is_failure or bool(OUR_PLAN.search(reply.text))


def _is_about_this_message(outcome: Outcome) -> bool:
    """A refusal that names nobody, or the format of this one mail (x.6.z)."""
    reply = outcome.reply
    if reply is None:
        return True
    is_format = reply.enhanced is not None and reply.enhanced[2:].startswith("6.")
    return is_format or subject_of(outcome.phase, reply) is Subject.UNCLEAR


# --- A domain's pace: halved by a refusal, grown by what is taken -------------------------------

FIRST: Final = 60.0  # mails a minute, after the first refusal
LEAST: Final = 1.0
FREE: Final = 600.0  # who takes that many a minute needs no pace of its own
STEP: Final = 10.0  # what a minute's worth of taken mails adds
AT_ONCE: Final = timedelta(seconds=4)  # a minute's mails are so many at a time if each takes that
BURST: Final = timedelta(seconds=5)  # that may be saved up
GRACE: Final = timedelta(seconds=30)  # refusals of what was under way count as one
FORGOTTEN: Final = timedelta(days=1)

PAUSES: Final = {
    PaceState.SLOWED: tuple(timedelta(minutes=minutes) for minutes in (1, 2, 4, 8, 16, 30)),
    PaceState.BLOCKED: tuple(timedelta(minutes=minutes) for minutes in (30, 60, 120, 240)),
}
"""After the first, second... refusal in a row; the last repeats."""


def refused(known: Pace | None, domain: str, state: PaceState, reply: str, now: datetime) -> Pace:
    """The pace after a refusal; as it was where this one tells nothing new."""
    pause = PAUSES[state]
    if known is None:
        allowance = FIRST if state is PaceState.SLOWED else LEAST
        return Pace(domain, state, allowance, now + pause[0], 1, now, now, reply)
    is_worse = state is PaceState.BLOCKED and known.state is not state
    if now < known.refused_at + GRACE and not is_worse:
        return known
    refusals = 1 if is_worse else known.refusals + 1
    return replace(
        known,
        state=PaceState.BLOCKED if PaceState.BLOCKED in (state, known.state) else state,
        allowance=LEAST if state is PaceState.BLOCKED else max(LEAST, known.allowance / 2),
        not_before=max(known.not_before, now + pause[min(refusals, len(pause)) - 1]),
        refusals=refusals,
        refused_at=now,
        reply=reply,
    )


def accepted(known: Pace, count: int, now: datetime) -> Pace | None:
    """The pace after so many mails were taken; None: the domain is free.

    As it was right after a refusal: those were under way.
    """
    if now < known.refused_at + GRACE:
        return known
    allowance = known.allowance + STEP * count / max(known.allowance, STEP)
    if allowance >= FREE:
        return None
    return replace(known, allowance=allowance, state=PaceState.SLOWED)


def is_forgotten(known: Pace, now: datetime) -> bool:
    """Nobody has refused for so long that it says nothing about today."""
    return now >= max(known.refused_at, known.not_before) + FORGOTTEN


def turns(known: Pace, now: datetime) -> int:
    """How many mails may leave for this domain now; 0 while it pauses or has had its share."""
    if now < known.not_before:
        return 0
    saved = min(now - known.not_before, BURST)
    return 1 + int(saved / _gap(known))


def at_once(known: Pace) -> int:
    """How many mails for this domain may be under way at the same time, in all senders' hands.

    It shrinks and grows with the allowance: 4 after the first refusal, then 2, then 1. A server
    that takes its time gets less than its allowance by that, for it counts connections, too.
    """
    return max(1, int(known.allowance * (AT_ONCE / MINUTE)))


def spent(known: Pace, count: int, now: datetime) -> Pace:
    """The pace after `count` of the turns were used."""
    first = max(known.not_before, now - BURST)
    return replace(known, not_before=first + count * _gap(known))


def _gap(known: Pace) -> timedelta:
    return MINUTE / known.allowance


# --- The breaker --------------------------------------------------------------------------------

OPEN_FOR: Final = tuple(timedelta(minutes=minutes) for minutes in (1, 5, 15, 30, 60))
"""After the first, second... refusal of us as a whole; the last repeats."""


def open_for(refusals: int) -> timedelta:
    """How long to leave the server alone after so many refusals in a row, 1 or more."""
    return OPEN_FOR[min(refusals, len(OPEN_FOR)) - 1]


# --- Distrust -----------------------------------------------------------------------------------

DISTRUST_WINDOW: Final = timedelta(minutes=10)
DISTRUSTS: Final = 3
DISTRUSTFUL: Final = 2  # recipients: one alone may have a server with ideas of its own


def is_distrusted(refusals: int, recipients: int) -> bool:
    """Whether an edition is to be paused for what it met within DISTRUST_WINDOW."""
    return refusals >= DISTRUSTS and recipients >= DISTRUSTFUL
