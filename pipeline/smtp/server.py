"""Open a conversation with a mail server: connect, EHLO, TLS, login."""

from __future__ import annotations

import smtplib
import socket
import ssl
from base64 import b64encode
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from pipeline.errors import RefusedError, TransportError
from pipeline.settings import SMTPServer
from pipeline.smtp.connection import Bounds, SMTPConnection

CONNECT_PATIENCE = 30.0  # seconds, for each step of opening


class Security(StrEnum):
    """What `smtp://` asks for by STARTTLS; `smtps://` is encrypted from the first byte."""

    AUTO = "auto"  # required unless the server is on this machine
    REQUIRED = "required"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class SMTPTransport:
    """Opens connections to one server. Certificates are verified against `ca_file`, else the
    system's authorities, and the server's name."""

    server: SMTPServer
    security: Security = Security.AUTO
    ca_file: Path | None = None
    greet_as: str = "localhost"  # our name in EHLO
    bounds: Bounds = field(default_factory=Bounds)

    def open(self) -> SMTPConnection:
        try:
            smtp = self._connect()
        except ssl.SSLError as error:
            raise TransportError(f"{self._name}: TLS failed: {_brief(error)}") from error
        except (OSError, smtplib.SMTPException) as error:
            raise self._failure(error) from error
        try:
            return self._prepare(smtp)
        except TransportError:
            smtp.close()
            raise
        except ssl.SSLError as error:
            smtp.close()
            raise TransportError(f"{self._name}: TLS failed: {_brief(error)}") from error
        except (OSError, smtplib.SMTPException) as error:
            smtp.close()
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> TransportError:
        refused = isinstance(error, smtplib.SMTPResponseException) and error.smtp_code >= 500
        return (RefusedError if refused else TransportError)(f"{self._name}: {_brief(error)}")

    @property
    def _name(self) -> str:
        return f"{self.server.host}:{self.server.port}"

    def _connect(self) -> smtplib.SMTP:
        if not self.server.implicit_tls:
            return smtplib.SMTP(
                self.server.host, self.server.port, self.greet_as, timeout=CONNECT_PATIENCE
            )
        return smtplib.SMTP_SSL(
            self.server.host,
            self.server.port,
            self.greet_as,
            timeout=CONNECT_PATIENCE,
            context=self._trust(),
        )

    def _prepare(self, smtp: smtplib.SMTP) -> SMTPConnection:
        smtp.ehlo_or_helo_if_needed()
        if self._wants_starttls:
            self._start_tls(smtp)
        if self.server.username:
            self._log_in(smtp, self.server.username, self.server.password or "")
        sock = smtp.sock
        assert sock is not None  # noqa: S101  (smtplib has just talked over it)
        if smtp.file:
            smtp.file.close()  # else the socket stays open for as long as its reader lives
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return SMTPConnection(sock, dict(smtp.esmtp_features), self.bounds)

    @property
    def _wants_starttls(self) -> bool:
        if self.server.implicit_tls or self.security is Security.OFF:
            return False
        return self.security is Security.REQUIRED or not self.server.is_loopback

    def _start_tls(self, smtp: smtplib.SMTP) -> None:
        if not smtp.has_extn("starttls"):
            raise TransportError(
                f"{self._name}: offers no STARTTLS, and mail must not leave unencrypted"
                " (SMTP_TLS=off allows it)"
            )
        smtp.starttls(context=self._trust())
        smtp.ehlo()

    def _log_in(self, smtp: smtplib.SMTP, username: str, password: str) -> None:
        # Not by smtplib's own login: it takes nothing but ASCII, and prefers CRAM-MD5.
        offered = smtp.esmtp_features.get("auth", "").upper().split()
        if "PLAIN" in offered:
            steps = ["AUTH PLAIN " + _base64(f"\0{username}\0{password}")]  # RFC 4616
        elif "LOGIN" in offered:
            steps = ["AUTH LOGIN", _base64(username), _base64(password)]
        else:
            raise TransportError(f"{self._name}: offers no login by PLAIN or LOGIN")
        code, said = 334, b""
        for step in steps:
            if code == 334:
                code, said = smtp.docmd(step)
        if code != 235:
            raise smtplib.SMTPAuthenticationError(code, said)

    def _trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.ca_file)


def _base64(text: str) -> str:
    return b64encode(text.encode()).decode()


def _brief(error: Exception) -> str:
    if isinstance(error, smtplib.SMTPResponseException):
        said = error.smtp_error
        text = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
        return f"{error.smtp_code} {' '.join(text.split())}"[:300]
    return str(error) or type(error).__name__
