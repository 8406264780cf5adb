"""Protocols between dispatch and the transport that delivers its messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pipeline.domain import Verdict
from pipeline.smtp.replies import Phase, Reply


def never() -> bool:
    """Return False: the default of `give_up`, for callers that wait until the deadline."""
    return False


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one message: the verdict, with the phase and the reply it is based on."""

    verdict: Verdict
    phase: Phase
    reply: Reply | None = None  # None if the server did not reply
    queue_id: str | None = None  # the server's id of an accepted message

    @property
    def permanent(self) -> bool:
        """Whether the reply is permanent, so a retry is useless (RFC 5321, section 4.2.1: 5yz)."""
        return self.reply is not None and self.reply.code >= 500


class Connection(Protocol):
    """An SMTP session that carries one message at a time."""

    @property
    def spent(self) -> bool:
        """True if it must not carry another message: closed, too old, or at its message limit."""

    def begin(self, sender: str, recipient: str, body: bytes) -> Outcome | None:
        """Send envelope and body, without the final dot; return the outcome if it failed.

        Return None when the server waits for the dot. Until `finish` is called the message is
        certainly not accepted. `body` must be ready for the wire: every line, the last one
        included, ends in CRLF, and leading dots are doubled.
        """

    def finish(self) -> Outcome:
        """Write the final dot and return the outcome; never raises once the dot is sent."""

    def close(self) -> None:
        """Close the session. A message without its final dot is withdrawn by this."""


class Transport(Protocol):
    def open(self, give_up: Callable[[], bool] = ...) -> Connection:
        """Return a new connection; raise TransportError if connecting or logging in fails.

        Once `give_up` returns True, every wait for the server ends with a hang-up within a second
        or two: before the dot as a lost connection, after it with an unknown outcome.
        """
