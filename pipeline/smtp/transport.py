"""The seam between dispatch and whatever carries its messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pipeline.domain import Verdict
from pipeline.smtp.replies import Phase, Reply


def never() -> bool:
    """What `give_up` is for whoever has all the time there is."""
    return False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one message: the verdict, and the words it was drawn from."""

    verdict: Verdict
    phase: Phase
    reply: Reply | None = None  # None where the server said nothing
    queue_id: str | None = None  # the server's name for a message it took

    @property
    def permanent(self) -> bool:
        """The server will never take this message (RFC 5321, section 4.2.1: 5yz)."""
        return self.reply is not None and self.reply.code >= 500


class Connection(Protocol):
    """One conversation with a server, one message at a time."""

    @property
    def spent(self) -> bool:
        """True when it must not carry another message: closed, too old, or used enough."""

    def begin(self, sender: str, recipient: str, body: bytes) -> Outcome | None:
        """Offer everything but the final dot; None when the server waits for just that.

        Until `finish` is called the message is certainly not accepted. `body` is ready for the
        wire: lines end in CRLF, the last one too, and leading dots are doubled.
        """

    def finish(self) -> Outcome:
        """Write the final dot and wait for the reply; never raises once the dot is out."""

    def close(self) -> None:
        """End the conversation. A message without its dot is thus withdrawn."""


class Transport(Protocol):
    def open(self, give_up: Callable[[], bool] = ...) -> Connection:
        """A fresh connection; raises TransportError when no server lets us in.

        Once `give_up` is true, whatever waits for the server hangs up within a second or two:
        before the dot that is a lost connection, after it nobody can tell.
        """
