"""Write to a mail server and parse its replies, with a deadline for every wait."""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from pipeline.smtp.replies import Reply, parse_reply

LONGEST_LINE: Final = 4096  # octets; the limit in RFC 5321, section 4.5.3.1.5, is 512
MOST_LINES: Final = 100  # of one reply
LOOK: Final = 1.0  # seconds at most between two calls of `give_up` while the server is silent


class ConnectionLost(Exception):  # noqa: N818  (an event of the conversation, caught by `smtp`)
    """The server hung up, timed out or sent a malformed reply."""


class TooSlow(ConnectionLost):
    """The deadline passed or the caller gave up; a late reply could match another command."""


def never_give_up() -> bool:
    """Return False: the default of `give_up`, for callers that wait until the deadline."""
    return False


class Stream:
    """A non-blocking socket that writes octets and reads replies until `deadline`.

    `deadline` is a time of `time.monotonic`; waiting also ends within `LOOK` seconds after
    `give_up` returns True. Every method that reads or writes raises ConnectionLost.
    """

    def __init__(
        self, sock: socket.socket, deadline: float, give_up: Callable[[], bool] = never_give_up
    ) -> None:
        # A socket with a timeout polls before each write although there is nearly always room.
        # A non-blocking one polls only if there was none.
        sock.setblocking(False)
        self._sock = sock
        self._decrypted: Callable[[], int] = _nothing
        self._buffer = b""
        self._give_up = give_up
        self.deadline = deadline
        self.quiet = True  # idle between commands, so that QUIT may be sent

    def start_tls(self, context: ssl.SSLContext, host: str) -> None:
        """Encrypt the connection by a TLS handshake. Raises ssl.SSLError if it fails."""
        if self._buffer:
            # CVE-2011-0411: octets after the reply to STARTTLS were injected by an attacker in
            # between, to be parsed as replies of the server after the handshake.
            raise ConnectionLost("it spoke on in the clear after STARTTLS")
        sock = context.wrap_socket(self._sock, server_hostname=host, do_handshake_on_connect=False)
        self._sock, self._decrypted = sock, sock.pending
        while True:
            try:
                return sock.do_handshake()
            except ssl.SSLWantReadError:
                self._wait_for(select.POLLIN)
            except ssl.SSLWantWriteError:
                self._wait_for(select.POLLOUT)

    @property
    def encrypted(self) -> ssl.SSLSocket | None:
        """The TLS socket; None if the connection is not encrypted."""
        return self._sock if isinstance(self._sock, ssl.SSLSocket) else None

    def write(self, octets: bytes) -> None:
        self.quiet = False
        self._time_left()
        unsent = memoryview(octets)
        while unsent:
            try:
                unsent = unsent[self._sock.send(unsent) :]
            except (BlockingIOError, ssl.SSLWantWriteError):
                self._wait_for(select.POLLOUT)
            except ssl.SSLWantReadError:
                self._wait_for(select.POLLIN)
            except OSError as error:
                raise ConnectionLost("the server hung up") from error

    def read_reply(self) -> Reply:
        return self.read_lines()[0]

    def read_lines(self) -> tuple[Reply, list[bytes]]:
        """Read a reply; return it with its raw lines, without their ends."""
        lines: list[bytes] = []
        while not lines or lines[-1][3:4] == b"-":
            lines.append(self._read_line())
            if len(lines) > MOST_LINES:
                raise ConnectionLost("a reply without end")
        try:
            reply = parse_reply(lines)
        except ValueError as error:
            raise ConnectionLost("it says what is no reply") from error
        self.quiet = reply.code != 354 and not self._buffer
        return reply, lines

    def stirs(self) -> bool:
        """Return True if the server has sent anything unexpected or closed the connection."""
        if self._buffer:
            return True
        try:
            self._buffer = self._sock.recv(LONGEST_LINE)
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError as error:
            raise ConnectionLost("the server hung up") from error
        return True

    def close(self) -> None:
        with suppress(OSError):
            self._sock.close()

    def _read_line(self) -> bytes:
        while True:
            end = self._buffer.find(b"\n")
            if end >= 0:
                line = self._buffer[:end].rstrip(b"\r")
                self._buffer = self._buffer[end + 1 :]
                return line
            if len(self._buffer) >= LONGEST_LINE:
                raise ConnectionLost("a line without end")
            self._buffer += self._receive()

    def _receive(self) -> bytes:
        octets = None
        while octets is None:
            if not self._decrypted():
                self._wait_for(select.POLLIN)
            try:
                octets = self._sock.recv(LONGEST_LINE)
            except (BlockingIOError, ssl.SSLWantReadError):
                continue  # only a part of a TLS record has arrived
            except ssl.SSLWantWriteError:
                self._wait_for(select.POLLOUT)  # TLS 1.2 may renegotiate at any time
            except OSError as error:
                raise ConnectionLost("the server hung up") from error
        if not octets:
            raise ConnectionLost("the server hung up")
        return octets

    def _wait_for(self, event: int) -> None:
        """Wait until the socket is ready, or broken: then the next call on it raises."""
        poll = select.poll()
        poll.register(self._sock, event)
        while not poll.poll(min(self._time_left(), LOOK) * 1_000):
            """No event yet."""

    def _time_left(self) -> float:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TooSlow("it is too slow")
        if self._give_up():
            raise TooSlow("we have to stop")
        return left


def _nothing() -> int:
    return 0
