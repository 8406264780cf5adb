"""Open a conversation with a mail server: connect, EHLO, TLS, login.

Not by smtplib: its patience is for each read, so that a server which sends an octet now and then
keeps us for hours, and it knows no one deadline for all steps.
"""

from __future__ import annotations

import re
import socket
import ssl
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from pipeline.errors import RefusedError, TransportError
from pipeline.settings import SMTPServer
from pipeline.smtp.connection import Bounds, SMTPConnection
from pipeline.smtp.replies import Reply
from pipeline.smtp.transport import never
from pipeline.smtp.wire import ConversationLost, Wire


class Security(StrEnum):
    """What `smtp://` asks for by STARTTLS; `smtps://` is encrypted from the first byte."""

    AUTO = "auto"  # required unless the server is on this machine
    REQUIRED = "required"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Traits:
    """What a server showed of itself when it let us in."""

    features: Mapping[str, str]  # by their names in lower case: {"size": "35882577"}
    tls: str | None  # "TLSv1.3"; None where nothing is encrypted
    certificate_ends_at: datetime | None


@dataclass(frozen=True, slots=True)
class SMTPTransport:
    """Opens connections to one server. Certificates are verified against `ca_file`, else the
    system's authorities, and the server's name."""

    server: SMTPServer
    security: Security = Security.AUTO
    ca_file: Path | None = None
    greet_as: str = "localhost"  # our name in EHLO
    bounds: Bounds = field(default_factory=Bounds)

    def open(self, give_up: Callable[[], bool] = never) -> SMTPConnection:
        opened_at = time.monotonic()
        wire, features = self._enter(opened_at + self.bounds.opening, give_up)
        return SMTPConnection(wire, features, self.bounds, opened_at)

    def look(self) -> Traits:
        """Come in as if there were mail, look around and leave. Raises TransportError."""
        opened_at = time.monotonic()
        wire, features = self._enter(opened_at + self.bounds.opening, never)
        tls = wire.encrypted
        found = Traits(
            features, tls.version() if tls else None, certificate_end(tls) if tls else None
        )
        SMTPConnection(wire, features, self.bounds, opened_at).close()
        return found

    def _enter(
        self, deadline: float, give_up: Callable[[], bool]
    ) -> tuple[Wire, Mapping[str, str]]:
        try:
            wire = self._connect(deadline, give_up)
            try:
                return wire, self._get_in(wire)
            except BaseException:
                wire.close()
                raise
        except ssl.SSLError as error:
            raise TransportError(f"{self._name}: TLS failed: {error}") from error
        except (OSError, ConversationLost) as error:
            raise TransportError(f"{self._name}: {error}") from error

    @property
    def _name(self) -> str:
        return f"{self.server.host}:{self.server.port}"

    def _connect(self, deadline: float, give_up: Callable[[], bool]) -> Wire:
        address = (self.server.host, self.server.port)
        sock = socket.create_connection(address, timeout=deadline - time.monotonic())
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Wire(sock, deadline, give_up)

    def _get_in(self, wire: Wire) -> Mapping[str, str]:
        """From the greeting to the login; what the server then says it can do."""
        if self.server.implicit_tls:
            wire.start_tls(self._trust(), self.server.host)
        self._expect(220, wire.read_reply())
        features = self._greet(wire)
        if self._wants_starttls:
            self._start_tls(wire, features)
            features = self._greet(wire)  # RFC 3207, section 4.2: forget what was said before
        if self.server.username:
            self._log_in(wire, features, self.server.username, self.server.password or "")
        return features

    def _greet(self, wire: Wire) -> Mapping[str, str]:
        wire.write(f"EHLO {self.greet_as}\r\n".encode())
        reply, lines = wire.read_lines()
        if reply.code == 250:
            return _features(lines[1:])
        if reply.code != 421:  # RFC 5321, section 3.2: an old server may know HELO only
            wire.write(f"HELO {self.greet_as}\r\n".encode())
            reply = wire.read_reply()
        self._expect(250, reply)
        return {}

    @property
    def _wants_starttls(self) -> bool:
        if self.server.implicit_tls or self.security is Security.OFF:
            return False
        return self.security is Security.REQUIRED or not self.server.is_loopback

    def _start_tls(self, wire: Wire, features: Mapping[str, str]) -> None:
        if "starttls" not in features:
            raise TransportError(
                f"{self._name}: offers no STARTTLS, and mail must not leave unencrypted"
                " (SMTP_TLS=off allows it)"
            )
        wire.write(b"STARTTLS\r\n")
        self._expect(220, wire.read_reply())
        wire.start_tls(self._trust(), self.server.host)

    def _log_in(
        self, wire: Wire, features: Mapping[str, str], username: str, password: str
    ) -> None:
        offered = features.get("auth", "").upper().split()
        if "PLAIN" in offered:
            steps = ["AUTH PLAIN " + _base64(f"\0{username}\0{password}")]  # RFC 4616
        elif "LOGIN" in offered:
            steps = ["AUTH LOGIN", _base64(username), _base64(password)]
        else:
            raise TransportError(f"{self._name}: offers no login by PLAIN or LOGIN")
        for step in steps:
            wire.write(f"{step}\r\n".encode())
            reply = wire.read_reply()
            if reply.code != 334:
                break
        self._expect(235, reply)

    def _expect(self, code: int, reply: Reply) -> None:
        if reply.code != code:
            refused = RefusedError if reply.code >= 500 else TransportError
            raise refused(f"{self._name}: {str(reply)[:300]}")

    def _trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.ca_file)


def certificate_end(sock: ssl.SSLSocket) -> datetime | None:
    """Until when the other side's certificate holds."""
    shown = sock.getpeercert() or {}
    not_after = shown.get("notAfter")
    if not isinstance(not_after, str):
        return None
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(not_after), UTC)


def _features(lines: list[bytes]) -> dict[str, str]:
    """What the lines of an EHLO offer: {"size": "1000000", "pipelining": ""}."""
    features: dict[str, str] = {}
    for line in lines:
        # Old servers write "AUTH=LOGIN" beside or instead of "AUTH LOGIN".
        name, _, words = re.sub("^AUTH=", "AUTH ", _text(line), flags=re.I).partition(" ")
        known = features.get(name.lower(), "")
        features[name.lower()] = f"{known} {words}".strip()
    return features


def _text(line: bytes) -> str:
    return line[4:].decode("ascii", "replace").strip()


def _base64(text: str) -> str:
    return b64encode(text.encode()).decode()
