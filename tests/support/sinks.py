"""A scripted mail server on loopback: it sends any reply, stays silent or hangs up."""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

HANG_UP = "<hang up>"
STAY_SILENT = "<stay silent>"
DRIP = "<drip>"  # send the rest of the reply one octet every 50 ms
ENDLESS = "<endless>"  # send the rest of the reply again and again

PLAIN_FEATURES = ("ENHANCEDSTATUSCODES", "8BITMIME", "SIZE 1000000")
FEATURES = (*PLAIN_FEATURES, "PIPELINING")

_DEFAULTS = {
    "CONNECT": "220 sink.test ESMTP",
    "HELO": "250 sink.test",
    "MAIL": "250 2.1.0 Ok",
    "RCPT": "250 2.1.5 Ok",
    "DATA": "354 End with a dot",
    "DOT": "250 2.0.0 Ok: queued as Q{number}",
    "RSET": "250 2.0.0 Ok",
    "NOOP": "250 2.0.0 Ok",
    "QUIT": "221 2.0.0 Bye",
    "STARTTLS": "220 2.0.0 Go ahead",
}


@dataclass(frozen=True, slots=True)
class AcceptedMail:
    """A message that was accepted with 250, still dot-stuffed."""

    sender: str
    recipient: str
    body: bytes
    connection: int


@dataclass
class Sink:
    """A server with scripted replies.

    `answers` maps a moment to one reply or a list. Moments are commands ("RCPT ada@example.org"
    comes before "RCPT"), CONNECT, EHLO, BODY (the first line of a body) and DOT. A list is consumed
    from the front; when it is empty, the default applies.
    """

    features: tuple[str, ...] = FEATURES
    answers: dict[str, str | list[str]] = field(default_factory=dict)
    logins: dict[str, str] = field(default_factory=dict)
    tls: ssl.SSLContext | None = None
    implicit_tls: bool = False
    bytewise: bool = False  # send each octet of a reply in its own segment
    on_dot: Callable[[], None] | None = None  # called when a dot has come, before the reply
    on_moment: Callable[[str], None] | None = None  # called before each reply, with its moment
    accepted: list[AcceptedMail] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    connections: int = 0
    port: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _open: set[socket.socket] = field(default_factory=set)

    @property
    def recipients(self) -> list[str]:
        return [message.recipient for message in self.accepted]

    def answer(self, moment: str, address: str = "") -> str:
        if self.on_moment:
            self.on_moment(moment)
        with self._lock:
            for key in (f"{moment} {address}", moment):
                scripted = self.answers.get(key)
                if isinstance(scripted, str):
                    return scripted
                if scripted:
                    return scripted.pop(0)
            return _DEFAULTS.get(moment, "502 5.5.2 What?")

    def serve(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                number = self.connections
                self._open.add(sock)
            threading.Thread(target=self._talk, args=(sock, number), daemon=True).start()

    def hang_up_everywhere(self) -> None:
        with self._lock:
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def _talk(self, sock: socket.socket, number: int) -> None:
        conversation = _Conversation(self, sock, number)
        try:
            conversation.run()
        except (OSError, ssl.SSLError, _HungUpError):
            pass
        finally:
            conversation.close()
            with self._lock:
                self._open.discard(sock)


class _HungUpError(Exception):
    pass


class _Conversation:
    def __init__(self, sink: Sink, sock: socket.socket, number: int) -> None:
        self.sink = sink
        self.sock = sock
        self.number = number
        self.sender = ""
        self.has_sender = False
        self.recipients: list[str] = []
        self.file = sock.makefile("rb")

    def run(self) -> None:
        if self.sink.implicit_tls:
            self._start_tls()
        self._say(self.sink.answer("CONNECT"))
        while line := self.file.readline():
            self._obey(line.decode("utf-8", "replace").rstrip("\r\n"))

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.file.close()
            self.sock.close()

    def _obey(self, command: str) -> None:
        self.sink.commands.append(command)
        verb = command.split(" ")[0].upper()
        if verb == "EHLO":
            self._greet()
        elif verb == "AUTH":
            self._log_in(command.split(" ")[1:])
        elif verb == "MAIL":
            self.recipients = []
            self.sender = _address(command)
            reply = self.sink.answer("MAIL", self.sender)
            self.has_sender = reply.startswith("2")
            self._say(reply)
        elif verb == "RCPT":
            self._take_recipient(_address(command))
        elif verb == "DATA":
            self._take_data()
        else:
            self._say(self.sink.answer(verb))
            if verb == "STARTTLS":
                self._start_tls()
            if verb == "QUIT":
                raise _HungUpError

    def _greet(self) -> None:
        features = list(self.sink.features)
        if self.sink.on_moment:
            self.sink.on_moment("EHLO")
        if self.sink.tls and not isinstance(self.sock, ssl.SSLSocket):
            features.append("STARTTLS")
        if "EHLO" in self.sink.answers:
            self._say(self.sink.answer("EHLO"))
            return
        lines = ["sink.test", *features]
        text = "".join(f"250-{line}\r\n" for line in lines[:-1]) + f"250 {lines[-1]}"
        self._say(text)

    def _log_in(self, words: list[str]) -> None:
        if "AUTH" in self.sink.answers:
            self._say(self.sink.answer("AUTH"))
            return
        mechanism, *initial = words
        if mechanism == "PLAIN":
            _, name, password = base64.b64decode(initial[0]).decode().split("\0")
        else:
            name = base64.b64decode(initial[0] if initial else self._ask("VXNlcm5hbWU6")).decode()
            password = base64.b64decode(self._ask("UGFzc3dvcmQ6")).decode()
        is_valid = self.sink.logins.get(name) == password
        self._say("235 2.7.0 Welcome" if is_valid else "535 5.7.8 Wrong login")

    def _ask(self, challenge: str) -> bytes:
        self._say(f"334 {challenge}")
        return self.file.readline().strip()

    def _take_recipient(self, address: str) -> None:
        reply = self.sink.answer("RCPT", address)
        if not self.has_sender and "RCPT" not in self.sink.answers:
            reply = "503 5.5.1 No sender"
        if reply.startswith("2"):
            self.recipients.append(address)
        self._say(reply)

    def _take_data(self) -> None:
        if not self.recipients and "DATA" not in self.sink.answers:
            self._say("503 5.5.1 No recipient")
            return
        reply = self.sink.answer("DATA")
        self._say(reply)
        if not reply.startswith("354"):
            return
        body = b""
        while (line := self.file.readline()) != b".\r\n":
            if not line:
                raise _HungUpError
            if not body and "BODY" in self.sink.answers:
                self._say(self.sink.answer("BODY"))
            body += line
        self._take(body)

    def _take(self, body: bytes) -> None:
        if self.sink.on_dot:
            self.sink.on_dot()
        if not self.recipients:
            self._say("554 5.5.1 No valid recipients")
            return
        reply = self.sink.answer("DOT", self.recipients[0])
        if reply.startswith("250"):
            with self.sink._lock:
                self.sink.accepted.append(
                    AcceptedMail(self.sender, self.recipients[0], body, self.number)
                )
            reply = reply.format(number=len(self.sink.accepted))
        self._say(reply)

    def _say(self, reply: str) -> None:
        if reply == HANG_UP:
            # Close the connection without a reply; the client notices when it writes or reads
            # again.
            raise _HungUpError
        if reply == STAY_SILENT:
            return
        while reply.startswith(ENDLESS):
            self.sock.sendall(reply.removeprefix(ENDLESS).encode())
        if reply.startswith(DRIP):
            self._drip(reply.removeprefix(DRIP).encode() + b"\r\n", gap=0.05)
            return
        if self.sink.bytewise:
            self._drip(reply.encode() + b"\r\n", gap=0)
            return
        self.sock.sendall(reply.encode() + b"\r\n")
        if reply.startswith("421"):
            raise _HungUpError

    def _drip(self, octets: bytes, gap: float) -> None:
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for octet in octets:
            self.sock.sendall(bytes([octet]))
            time.sleep(gap)

    def _start_tls(self) -> None:
        assert self.sink.tls is not None
        self.sock = self.sink.tls.wrap_socket(self.sock, server_side=True)
        self.file = self.sock.makefile("rb")


def _address(command: str) -> str:
    return command[command.index("<") + 1 : command.index(">")]


@contextlib.contextmanager
def open_sink(**script: object) -> Iterator[Sink]:
    sink = Sink(**script)  # type: ignore[arg-type]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sink.port = listener.getsockname()[1]
        serving = threading.Thread(target=sink.serve, args=(listener,))
        serving.start()
        try:
            yield sink
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            serving.join()
            sink.hang_up_everywhere()
