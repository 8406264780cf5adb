"""One conversation with a mail server, from MAIL to the reply to the final dot (RFC 5321)."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from pipeline.domain import Verdict
from pipeline.smtp.replies import Phase, Reply, queue_id, verdict_of
from pipeline.smtp.transport import Outcome
from pipeline.smtp.wire import ConversationLost, TooSlow, Wire

QUIT_PATIENCE: Final = 2.0  # seconds

_UNSAFE = re.compile(r"[\x00-\x20<>\x7f]")


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long we wait, in seconds, and how much one connection may carry."""

    # RFC 5321, section 4.5.3.2: five minutes for MAIL and RCPT, ten for the reply to the dot,
    # since a server that is slow there has most likely taken the message.
    deadline: float = 300.0  # for one whole attempt, up to the dot; opening is a part of it
    opening: float = 60.0  # for getting in: connect, greeting, EHLO, TLS and login together
    patience: float = 600.0  # after the dot
    age: float = 300.0
    messages: int = 500


class SMTPConnection:
    """A logged-in conversation. Not safe for two threads at once."""

    def __init__(
        self, wire: Wire, features: Mapping[str, str], bounds: Bounds, opened_at: float
    ) -> None:
        self._wire = wire
        self._bounds = bounds
        self._opened_at = opened_at  # when we knocked, as `time.monotonic` tells it
        self._carried = 0
        self._closed = False
        self._pending = False  # a transaction is open that the next message must reset
        self._pipelines = "pipelining" in features
        self._takes_utf8 = "smtputf8" in features
        self._takes_8bit = "8bitmime" in features
        size = features.get("size", "").strip()
        self._size_limit = int(size) if size.isdecimal() else 0  # RFC 1870: 0 is no limit

    @property
    def spent(self) -> bool:
        return (
            self._closed
            or self._carried >= self._bounds.messages
            or time.monotonic() - self._opened_at >= self._bounds.age
        )

    def begin(self, sender: str, recipient: str, body: bytes) -> Outcome | None:
        refusal = self._refuse_here(sender, recipient, body)
        if refusal:
            return refusal
        # The first message is what the connection was opened for: one attempt, one deadline.
        begun_at = time.monotonic() if self._carried else self._opened_at
        self._wire.deadline = begun_at + self._bounds.deadline
        self._carried += 1
        commands = self._commands(sender, recipient, body)
        try:
            refusal = (self._offer_at_once if self._pipelines else self._offer)(commands)
        except ConversationLost:
            return self._lost(Phase.DATA)
        if refusal:
            return refusal
        try:
            self._wire.write(body)
        except ConversationLost:
            # A server that hangs up in the middle of a body has often said why.
            return self._interrupted()
        return None

    def finish(self) -> Outcome:
        wire = self._wire
        try:
            # A server that has spoken or hung up by now has not taken the message. Looking costs
            # a microsecond, and keeps the reply from being uncertain.
            if wire.stirs():
                return self._interrupted()
            wire.write(b".\r\n")  # failing here leaves the terminator incomplete
        except ConversationLost:
            return self._lost(Phase.DATA)
        self._pending = False
        wire.deadline = time.monotonic() + self._bounds.patience
        try:
            reply = wire.read_reply()
        except ConversationLost:
            self.abandon()
            return Outcome(Verdict.UNKNOWN, Phase.DOT)
        return self._outcome(Phase.DOT, reply)

    def close(self) -> None:
        if not self._closed and self._wire.quiet:
            with suppress(ConversationLost):  # whether they heard us leave changes nothing
                self._wire.deadline = time.monotonic() + QUIT_PATIENCE
                self._wire.write(b"QUIT\r\n")
                self._wire.read_reply()
        self.abandon()

    def abandon(self) -> None:
        """Hang up without a word; a body without its dot is thus withdrawn."""
        self._closed = True
        self._wire.close()

    # --- Offering -------------------------------------------------------------------------------

    def _refuse_here(self, sender: str, recipient: str, body: bytes) -> Outcome | None:
        """What no server needs to be asked about."""
        if not body.endswith(b"\r\n"):
            raise ValueError("a body must end in CRLF")
        if _UNSAFE.search(sender) or _UNSAFE.search(recipient):
            return _ours(Verdict.SOFT, Phase.RCPT, 553, "5.1.3", "not an address")
        if not (recipient.isascii() or self._takes_utf8):
            # RFC 6531, section 3.3: without SMTPUTF8 such an address cannot be given to it.
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

    def _offer(self, commands: list[tuple[Phase, bytes]]) -> Outcome | None:
        if self._pending:
            self._wire.write(b"RSET\r\n")
            self._expect_reset()
        self._pending = True
        for phase, command in commands:
            self._wire.write(command)
            reply = self._wire.read_reply()
            if not _goes_on(phase, reply):
                return self._outcome(phase, reply)
        return None

    def _offer_at_once(self, commands: list[tuple[Phase, bytes]]) -> Outcome | None:
        """All commands in one write, then all replies (RFC 2920)."""
        reset = b"RSET\r\n" if self._pending else b""
        self._wire.write(reset + b"".join(command for _, command in commands))
        if self._pending:
            self._expect_reset()
        self._pending = True
        replies = self._replies_to([phase for phase, _ in commands])
        refused = [(phase, reply) for phase, reply in replies if not _goes_on(phase, reply)]
        if len(replies) < len(commands):
            # The refusal counts, though the server hung up on it: who is unknown stays unknown.
            return self._outcome(*refused[0]) if refused else self._lost(Phase.DATA)
        if not refused:
            return None
        if replies[-1][1].code == 354:
            self._leave_data(recipient_taken=_goes_on(*replies[1]))
        return self._outcome(*refused[0])

    def _replies_to(self, phases: Sequence[Phase]) -> list[tuple[Phase, Reply]]:
        """As far as they come; when some are missing, the connection is gone."""
        replies: list[tuple[Phase, Reply]] = []
        for phase in phases:
            try:
                reply = self._wire.read_reply()
            except TooSlow:
                raise
            except ConversationLost:
                self.abandon()
                break
            replies.append((phase, reply))
            if reply.code == 421:  # RFC 5321, section 3.8: it hangs up, no more replies will come
                self.abandon()
                break
        return replies

    def _expect_reset(self) -> None:
        """Else the last transaction may be open still, and MAIL would be answered by a 503."""
        if not 200 <= self._wire.read_reply().code < 300:
            raise ConversationLost("it does not reset")

    def _leave_data(self, *, recipient_taken: bool) -> None:
        """The server waits for a body that we must not send.

        RFC 2920, section 3.1: with no recipient a lone dot ends it, answered by 554. With one it
        would deliver an empty message, so we hang up instead.
        """
        if recipient_taken:
            self.abandon()
            return
        try:
            self._wire.write(b".\r\n")
            self._wire.read_reply()
        except ConversationLost:
            self.abandon()

    # --- Outcomes -------------------------------------------------------------------------------

    def _outcome(self, phase: Phase, reply: Reply) -> Outcome:
        verdict = verdict_of(phase, reply)
        if reply.code == 421 or verdict is Verdict.CONNECTION:
            self.abandon()
        taken = verdict is Verdict.ACCEPTED
        return Outcome(verdict, phase, reply, queue_id(reply) if taken else None)

    def _interrupted(self) -> Outcome:
        """The server spoke before the dot; whatever it says, the message is not taken."""
        try:
            reply = self._wire.read_reply()
        except ConversationLost:
            return self._lost(Phase.DATA)
        self.abandon()
        verdict = verdict_of(Phase.DATA, reply) if reply.code >= 400 else Verdict.CONNECTION
        return Outcome(verdict, Phase.DATA, reply)

    def _lost(self, phase: Phase) -> Outcome:
        self.abandon()
        return Outcome(Verdict.CONNECTION, phase)


def _goes_on(phase: Phase, reply: Reply) -> bool:
    if phase is Phase.DATA:
        return reply.code == 354
    return 200 <= reply.code < 300


def _ours(verdict: Verdict, phase: Phase, code: int, enhanced: str, text: str) -> Outcome:
    return Outcome(verdict, phase, Reply(code, enhanced, text))
