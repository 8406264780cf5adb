"""SMTP transactions of one connection, from MAIL to the reply to the final dot (RFC 5321)."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

from pipeline.domain import Verdict
from pipeline.smtp.decision import Decision, decide, decide_locally
from pipeline.smtp.replies import Phase, Reply
from pipeline.smtp.stream import ConnectionLost, Stream, TooSlow

QUIT_PATIENCE: Final = 2.0  # seconds

_UNSAFE = re.compile(r"[\x00-\x20<>\x7f]")


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """Timeouts in seconds, and the limits of one connection."""

    # RFC 5321, section 4.5.3.2: five minutes for MAIL and RCPT, ten for the reply to the dot,
    # since a server that is slow there has most likely accepted the message.
    deadline: float = 300.0  # for one attempt up to the dot; the first one includes `opening`
    opening: float = 60.0  # for connect, greeting, EHLO, TLS and login together
    patience: float = 600.0  # for the reply to the dot
    age: float = 300.0  # of a connection that takes another message
    messages: int = 500  # per connection


class SMTPConnection:
    """A logged-in SMTP session. Not thread-safe."""

    def __init__(
        self, wire: Stream, features: Mapping[str, str], bounds: SessionLimits, opened_at: float
    ) -> None:
        self._wire = wire
        self._bounds = bounds
        self._opened_at = opened_at  # `time.monotonic` before connecting
        self._carried = 0
        self._closed = False
        self._pending = False  # an open transaction, which needs RSET before the next message
        self._pipelines = "pipelining" in features
        self._takes_utf8 = "smtputf8" in features
        self._takes_8bit = "8bitmime" in features
        size = features.get("size", "").strip()
        self._size_limit = int(size) if size.isdecimal() else 0  # RFC 1870: 0 is no limit

    @property
    def is_exhausted(self) -> bool:
        return (
            self._closed
            or self._carried >= self._bounds.messages
            or time.monotonic() - self._opened_at >= self._bounds.age
        )

    def begin(self, sender: str, recipient: str, body: bytes) -> Decision | None:
        refusal = self._refuse_here(sender, recipient, body)
        if refusal:
            return refusal
        # The connection was opened for its first message: both share one deadline.
        begun_at = time.monotonic() if self._carried else self._opened_at
        self._wire.deadline = begun_at + self._bounds.deadline
        self._carried += 1
        commands = self._commands(sender, recipient, body)
        try:
            refusal = (self._offer_at_once if self._pipelines else self._offer)(commands)
        except ConnectionLost:
            return self._lost(Phase.DATA)
        if refusal:
            return refusal
        try:
            self._wire.write(body)
        except ConnectionLost:
            # A server that hangs up during a body has often sent a reply with the reason.
            return self._interrupted()
        return None

    def finish(self) -> Decision:
        wire = self._wire
        try:
            # If the server has replied or hung up by now, it has not accepted the message. This
            # check costs a microsecond and avoids an uncertain outcome.
            if wire.stirs():
                return self._interrupted()
            wire.write(b".\r\n")  # if this fails, the terminator is incomplete
        except ConnectionLost:
            return self._lost(Phase.DATA)
        self._pending = False
        wire.deadline = time.monotonic() + self._bounds.patience
        try:
            reply = wire.read_reply()
        except ConnectionLost:
            self.abandon()
            return decide_locally(Verdict.UNKNOWN, Phase.DOT)
        return self._decide(Phase.DOT, reply)

    def close(self) -> None:
        if not self._closed and self._wire.quiet:
            with suppress(ConnectionLost):  # a lost QUIT has no consequence
                self._wire.deadline = time.monotonic() + QUIT_PATIENCE
                self._wire.write(b"QUIT\r\n")
                self._wire.read_reply()
        self.abandon()

    def abandon(self) -> None:
        """Hang up without QUIT; a body without its dot is withdrawn by this."""
        self._closed = True
        self._wire.close()

    # --- Commands -------------------------------------------------------------------------------

    def _refuse_here(self, sender: str, recipient: str, body: bytes) -> Decision | None:
        """Return a refusal that needs no server: bad address, no SMTPUTF8, body over SIZE; or None.

        Raises ValueError if the body does not end in CRLF.
        """
        if not body.endswith(b"\r\n"):
            raise ValueError("a body must end in CRLF")
        if _UNSAFE.search(sender) or _UNSAFE.search(recipient):
            return _ours(Verdict.SOFT, Phase.RCPT, 553, "5.1.3", "not an address")
        if not (recipient.isascii() or self._takes_utf8):
            # RFC 6531, section 3.3: such an address must not be sent to a server without SMTPUTF8.
            return _ours(Verdict.BLOCKED, Phase.RCPT, 553, "5.6.7", "the server lacks SMTPUTF8")
        if 0 < self._size_limit < len(body):
            text = f"{len(body)} octets; the server takes {self._size_limit}"
            return _ours(Verdict.TOO_LARGE, Phase.MAIL, 552, "5.3.4", text)
        return None

    def _commands(self, sender: str, recipient: str, body: bytes) -> list[tuple[Phase, bytes]]:
        options = ""
        if self._takes_8bit and not body.isascii():
            options += " BODY=8BITMIME"
        if not (recipient.isascii() and sender.isascii()):
            options += " SMTPUTF8"
        return [
            (Phase.MAIL, f"MAIL FROM:<{sender}>{options}\r\n".encode()),
            (Phase.RCPT, f"RCPT TO:<{recipient}>\r\n".encode()),
            (Phase.DATA, b"DATA\r\n"),
        ]

    def _offer(self, commands: list[tuple[Phase, bytes]]) -> Decision | None:
        if self._pending:
            self._wire.write(b"RSET\r\n")
            self._expect_reset()
        self._pending = True
        for phase, command in commands:
            self._wire.write(command)
            reply = self._wire.read_reply()
            if not _goes_on(phase, reply):
                return self._decide(phase, reply)
        return None

    def _offer_at_once(self, commands: list[tuple[Phase, bytes]]) -> Decision | None:
        """Pipeline the commands: write all at once, then read all replies (RFC 2920).

        Return the first refusal; None if the server waits for the body.
        """
        reset = b"RSET\r\n" if self._pending else b""
        self._wire.write(reset + b"".join(command for _, command in commands))
        if self._pending:
            self._expect_reset()
        self._pending = True
        replies = self._replies_to([phase for phase, _ in commands])
        refused = [(phase, reply) for phase, reply in replies if not _goes_on(phase, reply)]
        if len(replies) < len(commands):
            # A refusal counts even if the server hung up after it: an unknown user stays unknown.
            return self._decide(*refused[0]) if refused else self._lost(Phase.DATA)
        if not refused:
            return None
        if replies[-1][1].code == 354:
            self._leave_data(recipient_taken=_goes_on(*replies[1]))
        return self._decide(*refused[0])

    def _replies_to(self, phases: Sequence[Phase]) -> list[tuple[Phase, Reply]]:
        """Return the replies to `phases`, fewer if the connection was lost in between.

        Raises TooSlow if the deadline passes or the caller gives up.
        """
        replies: list[tuple[Phase, Reply]] = []
        for phase in phases:
            try:
                reply = self._wire.read_reply()
            except TooSlow:
                raise
            except ConnectionLost:
                self.abandon()
                break
            replies.append((phase, reply))
            if reply.code == 421:  # RFC 5321, section 3.8: the server hangs up, no more replies
                self.abandon()
                break
        return replies

    def _expect_reset(self) -> None:
        """Read the reply to RSET; raise ConnectionLost if it failed.

        Otherwise the last transaction may still be open, and the reply to MAIL would be 503.
        """
        if not 200 <= self._wire.read_reply().code < 300:
            raise ConnectionLost("it does not reset")

    def _leave_data(self, *, recipient_taken: bool) -> None:
        """End the DATA phase when the server waits for a body that must not be sent.

        RFC 2920, section 3.1: without a recipient, a lone dot ends it and the reply is 554. With a
        recipient it would deliver an empty message, so hang up instead.
        """
        if recipient_taken:
            self.abandon()
            return
        try:
            self._wire.write(b".\r\n")
            self._wire.read_reply()
        except ConnectionLost:
            self.abandon()

    # --- Decisions ------------------------------------------------------------------------------

    def _decide(self, phase: Phase, reply: Reply) -> Decision:
        decision = decide(phase, reply)
        if reply.code == 421 or decision.verdict is Verdict.CONNECTION:
            self.abandon()
        return decision

    def _interrupted(self) -> Decision:
        """Return the decision if the server replied before the dot: the message is not accepted."""
        try:
            reply = self._wire.read_reply()
        except ConnectionLost:
            return self._lost(Phase.DATA)
        self.abandon()
        return decide(Phase.DATA, reply)

    def _lost(self, phase: Phase) -> Decision:
        self.abandon()
        return decide_locally(Verdict.CONNECTION, phase)


def _goes_on(phase: Phase, reply: Reply) -> bool:
    if phase is Phase.DATA:
        return reply.code == 354
    return 200 <= reply.code < 300


def _ours(verdict: Verdict, phase: Phase, code: int, enhanced: str, text: str) -> Decision:
    return decide_locally(verdict, phase, Reply(code, enhanced, text))


# --- Protocols for dispatch ---------------------------------------------------------------------


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
