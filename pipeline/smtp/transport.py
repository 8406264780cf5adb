"""Protocols between dispatch and the transport that delivers its messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pipeline.smtp.decision import Decision


def never_give_up() -> bool:
    """Return False: the default of `give_up`, for callers that wait until the deadline."""
    return False


class Connection(Protocol):
    """An SMTP session that carries one message at a time."""

    @property
    def is_exhausted(self) -> bool:
        """True if it must not carry another message: closed, too old, or at its message limit."""

    def begin(self, sender: str, recipient: str, body: bytes) -> Decision | None:
        """Send envelope and body, without the final dot; return the decision if it failed.

        Return None when the server waits for the dot. Until `finish` is called the message is
        certainly not accepted. `body` must be ready for the wire: every line, the last one
        included, ends in CRLF, and leading dots are doubled.
        """

    def finish(self) -> Decision:
        """Write the final dot and return the decision; never raises once the dot is sent."""

    def close(self) -> None:
        """Close the session. A message without its final dot is withdrawn by this."""


class Transport(Protocol):
    def open(self, give_up: Callable[[], bool] = ...) -> Connection:
        """Return a new connection; raise TransportError if connecting or logging in fails.

        Once `give_up` returns True, every wait for the server ends with a hang-up within a second
        or two: before the dot as a lost connection, after it with an unknown outcome.
        """
