"""Open an SMTP session: connect, EHLO, TLS, login.

`smtplib` is not used: its timeout applies to each read, so a server that sends an octet now and
then blocks for hours; it has no single deadline for all steps.
"""

from __future__ import annotations

import re
import socket
import ssl
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Final

from pipeline.errors import RefusedError, TransportError
from pipeline.settings import Settings, SMTPServer
from pipeline.smtp.oauth import Tokens, tokens_of
from pipeline.smtp.replies import Reply
from pipeline.smtp.session import SessionLimits, SMTPConnection
from pipeline.smtp.stream import ConnectionLost, Stream, TooSlow, never_give_up

MOST_CONNECTIONS: Final = 3  # per login: one mechanism, another mechanism, a new token
PASSWORD_WAYS: Final = ("PLAIN", "LOGIN")


class Security(StrEnum):
    """The STARTTLS policy of `smtp://`; `smtps://` is encrypted from the first byte."""

    AUTO = "auto"  # required unless the server is a loopback address
    REQUIRED = "required"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class ServerFeatures:
    """The features and TLS state of a server, as seen during a login."""

    features: Mapping[str, str]  # by their names in lower case: {"size": "35882577"}
    tls: str | None  # "TLSv1.3"; None if the connection is not encrypted
    certificate_ends_at: datetime | None


class _LoginRefused(Exception):  # noqa: N818  (an event of the login, caught by `_enter`)
    """The server refused a mechanism or a token; the login is retried on a new connection.

    `mechanism` is the refused mechanism's name, or the refused access token.
    """

    def __init__(self, mechanism: str, said: str) -> None:
        super().__init__(said or f"hung up at AUTH {mechanism}")
        self.mechanism = mechanism
        self.said = said  # the reply; "" if the server hung up without one


@dataclass(slots=True)
class _Logins:
    """A cache of the mechanisms that a server refused, shared by the connections of a transport."""

    refused: set[str] = field(default_factory=set)  # mechanisms that are tried last


@dataclass(frozen=True, slots=True)
class SMTPTransport:
    """Opens connections to one server.

    The certificate must be signed by an authority in `ca_file`, or else by one of the system's, and
    match the server's name.
    """

    server: SMTPServer
    security: Security = Security.AUTO
    ca_file: Path | None = None
    greet_as: str = "localhost"  # our name in EHLO
    bounds: SessionLimits = field(default_factory=SessionLimits)
    tokens: Tokens | None = None  # in place of a password
    _logins: _Logins = field(default_factory=_Logins, repr=False)

    def open(self, give_up: Callable[[], bool] = never_give_up) -> SMTPConnection:
        opened_at = time.monotonic()
        wire, features = self._enter(opened_at + self.bounds.opening, give_up)
        return SMTPConnection(wire, features, self.bounds, opened_at)

    def look(self) -> ServerFeatures:
        """Log in as for a delivery, return the server's features and TLS state, and quit.

        Raises TransportError.
        """
        opened_at = time.monotonic()
        wire, features = self._enter(opened_at + self.bounds.opening, never_give_up)
        tls = wire.encrypted
        found = ServerFeatures(
            features, tls.version() if tls else None, certificate_end(tls) if tls else None
        )
        SMTPConnection(wire, features, self.bounds, opened_at).close()
        return found

    def _enter(
        self, deadline: float, give_up: Callable[[], bool]
    ) -> tuple[Stream, Mapping[str, str]]:
        last: _LoginRefused | None = None
        for _ in range(MOST_CONNECTIONS):
            try:
                return self._enter_once(deadline, give_up, last)
            except _LoginRefused as refused:
                if last and refused.mechanism == last.mechanism:
                    break
                last = refused
        raise RefusedError(f"{self._name}: {last}")

    def _enter_once(
        self, deadline: float, give_up: Callable[[], bool], last: _LoginRefused | None
    ) -> tuple[Stream, Mapping[str, str]]:
        try:
            wire = self._connect(deadline, give_up)
            try:
                return wire, self._get_in(wire, last)
            except BaseException:
                wire.close()
                raise
        except ssl.SSLError as error:
            raise TransportError(f"{self._name}: TLS failed: {error}") from error
        except (OSError, ConnectionLost) as error:
            raise TransportError(f"{self._name}: {error}") from error

    @property
    def _name(self) -> str:
        return f"{self.server.host}:{self.server.port}"

    def _connect(self, deadline: float, give_up: Callable[[], bool]) -> Stream:
        address = (self.server.host, self.server.port)
        sock = socket.create_connection(address, timeout=deadline - time.monotonic())
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Stream(sock, deadline, give_up)

    def _get_in(self, wire: Stream, last: _LoginRefused | None = None) -> Mapping[str, str]:
        """Read the greeting, negotiate TLS and log in; return the features of the last EHLO."""
        if self.server.implicit_tls:
            wire.start_tls(self._trust(), self.server.host)
        self._expect(220, wire.read_reply())
        features = self._greet(wire)
        if self._wants_starttls:
            self._start_tls(wire, features)
            features = self._greet(wire)  # RFC 3207, section 4.2: discard the earlier features
        if self.server.username:
            self._log_in(wire, features, self.server.username, last)
        return features

    def _greet(self, wire: Stream) -> Mapping[str, str]:
        wire.write(f"EHLO {self.greet_as}\r\n".encode())
        reply, lines = wire.read_lines()
        if reply.code == 250:
            return _features(lines[1:])
        if reply.code != 421:  # RFC 5321, section 3.2: an old server may support HELO only
            wire.write(f"HELO {self.greet_as}\r\n".encode())
            reply = wire.read_reply()
        self._expect(250, reply)
        return {}

    @property
    def _wants_starttls(self) -> bool:
        if self.server.implicit_tls or self.security is Security.OFF:
            return False
        return self.security is Security.REQUIRED or not self.server.is_loopback

    def _start_tls(self, wire: Stream, features: Mapping[str, str]) -> None:
        if "starttls" not in features:
            raise TransportError(
                f"{self._name}: offers no STARTTLS, and mail must not leave unencrypted"
                " (SMTP_TLS=off allows it)"
            )
        wire.write(b"STARTTLS\r\n")
        self._expect(220, wire.read_reply())
        wire.start_tls(self._trust(), self.server.host)

    def _log_in(
        self,
        wire: Stream,
        features: Mapping[str, str],
        username: str,
        last: _LoginRefused | None,
    ) -> None:
        """Log in by the first mechanism that the server accepts; `last` is the previous refusal.

        Raises _LoginRefused if a retry on a new connection may succeed, RefusedError if every
        mechanism is refused, and TransportError if the server offers none or fails temporarily.
        """
        offered = features.get("auth", "").upper().split()
        if self.tokens:
            self._log_in_by_token(wire, offered, username, self.tokens, last)
            return
        ways = self._ways(offered)
        if last:
            ways = [way for way in ways if way not in self._logins.refused] or ways
        said = last.said if last else ""
        for mechanism in ways:
            reply = self._try(wire, mechanism, username, said, is_only=len(ways) == 1)
            if reply.code == 235:
                self._logins.refused = set(PASSWORD_WAYS[: PASSWORD_WAYS.index(mechanism)])
                return
            if reply.code == 421 and said:
                raise _LoginRefused(mechanism, said)
            if reply.code < 500:
                self._expect(235, reply)
            said = str(reply)[:300]
            self._logins.refused.add(mechanism)
        self._logins.refused.clear()
        raise RefusedError(f"{self._name}: {said}")

    def _ways(self, offered: Sequence[str]) -> list[str]:
        """Return the offered mechanisms in order, those that were refused before last.

        Raises TransportError, with the fix, if neither PLAIN nor LOGIN is offered.
        """
        ways = [mechanism for mechanism in PASSWORD_WAYS if mechanism in offered]
        if ways:
            return sorted(ways, key=lambda mechanism: mechanism in self._logins.refused)
        if {"XOAUTH2", "OAUTHBEARER"} & set(offered):
            raise TransportError(
                f"{self._name}: accepts OAuth logins only ({' '.join(offered)}): set"
                " SMTP_OAUTH_COMMAND or SMTP_OAUTH_REFRESH_TOKEN"
            )
        if offered:
            raise TransportError(
                f"{self._name}: offers no login by PLAIN, LOGIN or XOAUTH2, but"
                f" {' '.join(offered)[:100]}"
            )
        raise TransportError(
            f"{self._name}: offers no login by PLAIN or LOGIN; some servers offer one only where"
            " the connection is encrypted, or on port 587"
        )

    def _try(
        self, wire: Stream, mechanism: str, username: str, said: str, *, is_only: bool
    ) -> Reply:
        """Return the reply to one login by password; `said` is the previous refusal or "".

        Some servers hang up on a login that they refuse, with a reply or without one. Then
        _LoginRefused is raised and the next connection starts with another mechanism; if there is
        no other one, ConnectionLost is raised.
        """
        password = self.server.password or ""
        plain = _base64(f"\0{username}\0{password}")  # RFC 4616
        steps = {
            "PLAIN": [f"AUTH PLAIN {plain}", plain],  # some servers ask again after AUTH
            "LOGIN": ["AUTH LOGIN", _base64(username), _base64(password)],
        }[mechanism]
        try:
            return self._answer(wire, steps)
        except TooSlow:
            raise
        except ConnectionLost as error:
            if said:
                raise _LoginRefused(mechanism, said) from error
            if is_only or self._logins.refused:
                raise
            self._logins.refused.add(mechanism)
            raise _LoginRefused(mechanism, "") from error

    def _answer(self, wire: Stream, steps: Sequence[str]) -> Reply:
        """Write the steps in order while the server replies 334, and return the last reply."""
        for step in steps:
            wire.write(f"{step}\r\n".encode())
            reply = wire.read_reply()
            if reply.code != 334:
                break
        return reply

    def _log_in_by_token(
        self,
        wire: Stream,
        offered: Sequence[str],
        username: str,
        tokens: Tokens,
        last: _LoginRefused | None,
    ) -> None:
        """Log in with an access token.

        Raises _LoginRefused if the token is refused for the first time, so that a new token is
        tried on a new connection, and RefusedError after that.
        """
        mechanism = next((way for way in ("XOAUTH2", "OAUTHBEARER") if way in offered), None)
        if mechanism is None:
            raise TransportError(
                f"{self._name}: offers no login by XOAUTH2 or OAUTHBEARER, but"
                f" {' '.join(offered)[:100] or 'none'}"
            )
        token = tokens.get(refused=last.mechanism if last else None)
        if mechanism == "XOAUTH2":
            first = f"user={username}\1auth=Bearer {token}\1\1"
        else:  # RFC 7628, section 3.1
            name = username.replace("=", "=3D").replace(",", "=2C")
            first = (
                f"n,a={name},\1host={self.server.host}\1port={self.server.port}"
                f"\1auth=Bearer {token}\1\1"
            )
        wire.write(f"AUTH {mechanism} {_base64(first)}\r\n".encode())
        reply, why = wire.read_reply(), ""
        if reply.code == 334:
            # RFC 7628, section 3.2.3: the challenge has the error; the refusal follows our answer.
            why = f" ({_challenge(reply.text)})"
            wire.write(b"\r\n" if mechanism == "XOAUTH2" else b"AQ==\r\n")
            reply = wire.read_reply()
        if reply.code == 235:
            return
        if reply.code < 500:
            self._expect(235, reply)
        said = f"{str(reply)[:300]}{why}"
        if last is None:
            raise _LoginRefused(token, said)
        raise RefusedError(f"{self._name}: {said}")

    def _expect(self, code: int, reply: Reply) -> None:
        if reply.code != code:
            refused = RefusedError if reply.code >= 500 else TransportError
            raise refused(f"{self._name}: {str(reply)[:300]}")

    def _trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.ca_file)


def certificate_end(sock: ssl.SSLSocket) -> datetime | None:
    """Return the expiry of the server's certificate; None if it has no readable date."""
    shown = sock.getpeercert() or {}
    not_after = shown.get("notAfter")
    if not isinstance(not_after, str):
        return None
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(not_after), UTC)


def _features(lines: list[bytes]) -> dict[str, str]:
    """Parse the features in the reply to EHLO: {"size": "1000000", "pipelining": ""}."""
    features: dict[str, str] = {}
    for line in lines:
        # Old servers send "AUTH=LOGIN" in addition to "AUTH LOGIN", or instead of it.
        name, _, words = re.sub("^AUTH=", "AUTH ", _text(line), flags=re.I).partition(" ")
        known = features.get(name.lower(), "")
        features[name.lower()] = f"{known} {words}".strip()
    return features


def _text(line: bytes) -> str:
    return line[4:].decode("ascii", "replace").strip()


def _challenge(text: str) -> str:
    """Decode the error in a challenge: `{"status":"401","scope":"..."}`; at most 200 characters."""
    try:
        said = b64decode(text.split(" ")[-1], validate=False).decode("utf-8", "replace")
    except ValueError:
        said = text
    return "".join(letter if letter.isprintable() else " " for letter in said)[:200]


def transport_of(loaded: Settings, bounds: SessionLimits) -> SMTPTransport:
    """Return the SMTP transport for the settings."""
    return SMTPTransport(
        loaded.smtp,
        security=Security(loaded.smtp_tls),
        ca_file=loaded.smtp_ca_file,
        greet_as=loaded.site_host,
        bounds=bounds,
        tokens=tokens_of(loaded),
    )


def _base64(text: str) -> str:
    return b64encode(text.encode()).decode()
