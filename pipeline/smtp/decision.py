"""Decide what follows from the result of one message: the only place where a reply is judged.

`session` makes one Decision per message and passes it on. Senders, throttle, retry policy, outbox
and guard read its fields; none of them looks at the reply again. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pipeline.domain import DeliveryStatus, StrikeKind, Verdict
from pipeline.smtp.replies import Phase, Reply, Subject, classify, queue_id
from pipeline.smtp.reply_patterns import OUR_PLAN


class Scope(StrEnum):
    """The mail that a refusal slows down or stops, apart from its own delivery."""

    MESSAGE = "message"  # no other: it is about this message or its recipient
    DOMAIN = "domain"  # all recipients of the same provider: throttle it (see storage.throttles)
    ACCOUNT = "account"  # all mail of this drain: a quota of our account, pause between messages
    SERVER = "server"  # all mail: the server refuses us as a whole, open the circuit breaker
    EDITION = "edition"  # its edition: our domain fails SPF, DKIM or DMARC


@dataclass(frozen=True, slots=True)
class Decision:
    """The result of one message, and everything that follows from it."""

    verdict: Verdict
    phase: Phase
    reply: Reply | None  # None if the server did not reply
    queue_id: str | None  # the server's id of an accepted message
    status: DeliveryStatus  # of the delivery after this attempt
    charged: bool  # the attempt counts; False if the message itself was not judged
    strike: StrikeKind | None  # how it counts against the address; None: it does not
    unread: bool  # failed because of an error on our side: a later digest gets its papers
    scope: Scope

    @property
    def reason(self) -> str:
        """Return the reason stored with the delivery, such as "hard at rcpt"."""
        return f"{self.verdict} at {self.phase}"

    @property
    def permanent(self) -> bool:
        """Whether the reply is permanent, so a retry is useless (RFC 5321, section 4.2.1: 5yz)."""
        return self.reply is not None and self.reply.code >= 500


def decide(phase: Phase, reply: Reply) -> Decision:
    """Judge the reply to a message that was in `phase`."""
    verdict, subject = classify(phase, reply)
    return _decision(verdict, phase, reply, is_about_us=subject is not Subject.UNCLEAR)


def decide_locally(verdict: Verdict, phase: Phase, reply: Reply | None = None) -> Decision:
    """Return the decision for a verdict of our own, without a reply of the server.

    It is used for a lost connection, and for a message that the server cannot take.
    """
    return _decision(verdict, phase, reply, is_about_us=False)


def strike_of(verdict: Verdict, status: str | None) -> StrikeKind | None:
    """Return how a refusal or bounce counts against its address; None if it does not.

    `status` is the enhanced code. All other verdicts are about us, or temporary. A mailbox with
    5.2.1 is disabled, perhaps temporarily, even if the text says less (SOFT) or more (HARD).
    """
    strike = _STRIKES.get(verdict)
    is_disabled = status == "5.2.1" and strike in {StrikeKind.SOFT, StrikeKind.HARD}
    return StrikeKind.DISABLED if is_disabled else strike


_STRIKES: Final = {
    Verdict.HARD: StrikeKind.HARD,
    Verdict.NO_DOMAIN: StrikeKind.DISABLED,
    Verdict.DISABLED: StrikeKind.DISABLED,
    Verdict.FULL: StrikeKind.FULL,
    Verdict.SOFT: StrikeKind.SOFT,
}

# The message was not judged: the connection failed, or the server refused us. Not charged.
_UNCHARGED: Final = {Verdict.CONNECTION, Verdict.CONFIGURATION}

# Refusals that may be temporary, even if the reply code is permanent.
_TEMPORARY: Final = {Verdict.THROTTLED, Verdict.GREYLISTED, Verdict.DEFERRED}

# Refusals that are our fault: the papers go into the reader's next digest.
_OUR_FAULT: Final = {Verdict.TOO_LARGE, Verdict.AUTHENTICATION, Verdict.BLOCKED}


def _decision(
    verdict: Verdict, phase: Phase, reply: Reply | None, *, is_about_us: bool
) -> Decision:
    strike = strike_of(verdict, reply.enhanced if reply else None)
    status = _status(verdict, reply, strike)
    return Decision(
        verdict,
        phase,
        reply,
        queue_id(reply) if reply and verdict is Verdict.ACCEPTED else None,
        status,
        charged=verdict not in _UNCHARGED,
        strike=strike,
        unread=status is DeliveryStatus.FAILED and verdict in _OUR_FAULT,
        scope=_scope(verdict, phase, reply, is_about_us=is_about_us),
    )


def _status(verdict: Verdict, reply: Reply | None, strike: StrikeKind | None) -> DeliveryStatus:
    if verdict is Verdict.ACCEPTED:
        return DeliveryStatus.SENT
    if verdict is Verdict.UNKNOWN:
        return DeliveryStatus.UNCERTAIN
    if verdict in _UNCHARGED | _TEMPORARY or reply is None or reply.code < 500:
        return DeliveryStatus.QUEUED
    is_hard = strike is StrikeKind.HARD
    return DeliveryStatus.SUPPRESSED if is_hard else DeliveryStatus.FAILED


def _scope(verdict: Verdict, phase: Phase, reply: Reply | None, *, is_about_us: bool) -> Scope:
    """Return the scope; a block that names neither us nor the domain is about this message."""
    match verdict:
        case Verdict.CONFIGURATION:
            return Scope.SERVER
        case Verdict.AUTHENTICATION:
            return Scope.EDITION
        case Verdict.THROTTLED:
            return Scope.ACCOUNT if _is_about_our_quota(phase, reply) else Scope.DOMAIN
        case Verdict.BLOCKED if is_about_us and not _is_about_the_format(reply):
            return Scope.DOMAIN
        case _:
            return Scope.MESSAGE


def _is_about_our_quota(phase: Phase, reply: Reply | None) -> bool:
    """Return whether a refusal is about a quota of our own account.

    It is if the server said so before it knew the recipient, or if the text names our plan. Amazon
    SES says "454 Throttling failure: Maximum sending rate exceeded" after DATA.
    """
    if phase is Phase.MAIL or reply is None:
        return phase is Phase.MAIL
    is_failure = reply.code == 454 and "throttling failure" in reply.text.lower()
    return is_failure or bool(OUR_PLAN.search(reply.text))


def _is_about_the_format(reply: Reply | None) -> bool:
    """Return whether the enhanced code is x.6.z: the format or content of this message."""
    return reply is not None and (reply.enhanced or "")[2:].startswith("6.")
