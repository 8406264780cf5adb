"""A generic webhook for providers without their own parser: JSON signed with a shared secret.

docs/bounces-and-webhooks.md describes the format.
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
from pipeline.feedback.process import Event
from pipeline.feedback.webhooks import bounce_verdict, record, reply_text, status, text

TIMESTAMP: Final = "x-paperboy-timestamp"  # seconds since 1970
SIGNATURE: Final = "x-paperboy-signature"  # v1=<HMAC-SHA-256 in hex>, or several, comma-separated
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
    """A provider whose requests are signed with one of `secrets`."""

    secrets: Sequence[str] = field(repr=False)

    def receive(self, headers: Mapping[str, str], body: bytes, now: datetime) -> Sequence[Event]:
        self._verify(headers.get(TIMESTAMP, ""), headers.get(SIGNATURE, ""), body, now)
        try:
            said = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise EventError("the body is not JSON") from error
        found = said if isinstance(said, list) else [said]
        if len(found) > MOST_EVENTS:
            raise EventError(f"at most {MOST_EVENTS} events at once")
        return [parse(record(one)) for one in found]

    def _verify(self, timestamp: str, signatures: str, body: bytes, now: datetime) -> None:
        # Compute one HMAC per configured secret, not per signature: a stranger may list thousands.
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
    """Return the HMAC-SHA-256 of `timestamp.body`, in hex."""
    return hmac.digest(secret.encode(), timestamp.encode() + b"." + body, "sha256").hex()


def parse(said: dict[str, Any]) -> Event:
    """Parse one event; if its type is unknown, it has no notices.

    Raises EventError if its id is missing or longer than 256 characters.
    """
    id_, kind = said.get("id"), text(said.get("event"), 64)
    if not isinstance(id_, str) or not 0 < len(id_) <= 256:
        raise EventError("an event needs an `id` of at most 256 characters")
    code, words = status(said.get("status")), reply_text(said.get("reason"))
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
    """Return the verdict that the provider names, else classify its status code and reason."""
    named = text(said.get("verdict"))
    return Verdict(named) if named in set(Verdict) else bounce_verdict(code, words)
