"""A webhook of ours for any provider that has none here: JSON, signed by a secret that both know.

docs/feedback.md tells how to write one.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from pipeline.domain import Notice, NoticeKind, Verdict
from pipeline.errors import EventError, ForgedError
from pipeline.feedback.applying import Event
from pipeline.feedback.providers.wording import bounce_verdict, record, status, text
from pipeline.feedback.providers.wording import said as words_of

TIMESTAMP: Final = "x-paperboy-timestamp"  # seconds since 1970
SIGNATURE: Final = "x-paperboy-signature"  # v1=<hexadecimal HMAC-SHA-256>, or several with commas
WINDOW: Final = timedelta(minutes=5)  # before and after now
MOST_EVENTS: Final = 1_000

_KINDS: Final = {
    "complaint": NoticeKind.COMPLAINT,
    "delayed": NoticeKind.DELAYED,
    "delivered": NoticeKind.NONE,
    "unsubscribe": NoticeKind.UNSUBSCRIBE,
}


@dataclass(frozen=True, slots=True)
class Generic:
    """Believes who knows one of `secrets`."""

    secrets: Sequence[str] = field(repr=False)

    def receive(self, headers: Mapping[str, str], body: bytes, now: datetime) -> Sequence[Event]:
        self._verify(headers.get(TIMESTAMP, ""), headers.get(SIGNATURE, ""), body, now)
        try:
            said = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise EventError("the body is not JSON") from error
        told = said if isinstance(said, list) else [said]
        if len(told) > MOST_EVENTS:
            raise EventError(f"at most {MOST_EVENTS} events at once")
        return [read(record(one)) for one in told]

    def _verify(self, timestamp: str, signatures: str, body: bytes, now: datetime) -> None:
        # One HMAC for each secret of ours, however many signatures a stranger lists.
        expected = [sign(secret, timestamp, body).encode() for secret in self.secrets]
        given = [one.strip().removeprefix("v1=").encode() for one in signatures.split(",")]
        if not any(hmac.compare_digest(ours, one) for ours in expected for one in given):
            raise ForgedError("the signature does not fit")
        try:
            sent_at = datetime.fromtimestamp(int(timestamp), UTC)
        except (ValueError, OverflowError, OSError) as error:
            raise ForgedError("the time is not a number of seconds") from error
        if abs(now - sent_at) > WINDOW:
            raise ForgedError("signed more than five minutes ago, or by a wrong clock")


def sign(secret: str, timestamp: str, body: bytes) -> str:
    return hmac.digest(secret.encode(), timestamp.encode() + b"." + body, "sha256").hex()


def read(said: dict[str, Any]) -> Event:
    """One event; without a notice where its word is none we know. Raises EventError."""
    id_, kind = said.get("id"), text(said.get("event"), 64)
    if not isinstance(id_, str) or not 0 < len(id_) <= 256:
        raise EventError("an event needs an `id` of at most 256 characters")
    code, words = status(said.get("status")), words_of(said.get("reason"))
    verdict = _verdict(said, code, words) if kind == "bounce" else None
    bounce = NoticeKind.HARD if verdict is Verdict.HARD else NoticeKind.SOFT
    notice = Notice(
        _KINDS.get(kind, bounce),
        recipients=tuple(filter(None, (text(said.get("recipient")),))),
        status=code,
        reason=words,
        verdict=verdict,
        message_id=text(said.get("message_id")) or None,
        envelope=text(said.get("envelope")) or None,
    )
    is_known = kind in _KINDS or kind == "bounce"
    return Event(
        text(id_),
        kind or "unknown",
        text(json.dumps(said), 64 * 1024),
        (notice,) if is_known else (),
        queue_id=text(said.get("queue_id")) or None,
    )


def _verdict(said: dict[str, Any], code: str | None, words: str) -> Verdict:
    """The provider's own, where it names one; else by the table for replies."""
    named = text(said.get("verdict"))
    return Verdict(named) if named in set(Verdict) else bounce_verdict(code, words)
