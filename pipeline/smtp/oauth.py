"""Fetch OAuth 2.0 access tokens from a command or with a refresh token (RFC 6749, section 6)."""

from __future__ import annotations

import json
import shlex
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from pipeline.errors import RefusedError, TransportError
from pipeline.settings import Settings

PATIENCE: Final = 20.0  # seconds for a command or an endpoint
LONGEST_TOKEN: Final = 16_384  # characters
LONGEST_ANSWER: Final = 65_536  # octets
MARGIN: Final = 60.0  # seconds before expiry from which a cached token is not used any more
KEPT: Final = 1_800.0  # seconds; the default lifetime if the expiry of a token is unknown


@dataclass(frozen=True, slots=True)
class Token:
    text: str = field(repr=False)
    expires_in: float = KEPT  # seconds after it was issued


@dataclass
class Tokens:
    """A thread-safe cache of one token, shared by the connections of a process."""

    fetch: Callable[[], Token]
    _token: str | None = field(default=None, repr=False)
    _ends_at: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def get(self, refused: str | None = None) -> str:
        """Return the cached token if it is valid and not `refused`; else fetch and cache a new one.

        Raises RefusedError if the token is denied or malformed, TransportError if the command or
        the endpoint fails.
        """
        with self._lock:
            is_good = self._token is not None and time.monotonic() < self._ends_at
            if self._token is None or not is_good or self._token == refused:
                token = self.fetch()
                if not token.text or not token.text.isascii() or not token.text.isprintable():
                    raise RefusedError("what was given as an access token is none")
                self._token = token.text
                self._ends_at = time.monotonic() + max(0.0, token.expires_in - MARGIN)
            return self._token


def tokens_of(loaded: Settings) -> Tokens | None:
    """Return a token cache for the OAuth settings; None if a password is used instead."""
    if loaded.smtp_oauth_command:
        command = loaded.smtp_oauth_command.get_secret_value()
        return Tokens(lambda: run(command))
    if loaded.smtp_oauth_refresh_token:
        secret = loaded.smtp_oauth_client_secret
        endpoint = Endpoint(
            loaded.smtp_oauth_token_url or "",
            loaded.smtp_oauth_client_id or "",
            secret.get_secret_value() if secret else None,
            loaded.smtp_oauth_refresh_token.get_secret_value(),
        )
        return Tokens(endpoint.refresh)
    return None


def run(command: str) -> Token:
    """Run a command without a shell, and parse its output: a token, or a JSON object with one.

    Raises TransportError if the command fails or takes more than 20 seconds, RefusedError if it
    cannot be run or prints no token.
    """
    try:
        done = subprocess.run(  # noqa: S603  (the operator's own command)
            shlex.split(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TransportError(f"SMTP_OAUTH_COMMAND took more than {PATIENCE:.0f} s") from None
    except (OSError, ValueError) as error:
        raise RefusedError(f"SMTP_OAUTH_COMMAND cannot be run: {_why(error)}") from None
    if done.returncode:
        raise TransportError(f"SMTP_OAUTH_COMMAND failed with status {done.returncode}")
    output = done.stdout.decode("ascii", "replace").strip()
    if output.startswith("{"):
        return _token(_parsed(output, "SMTP_OAUTH_COMMAND"), "SMTP_OAUTH_COMMAND")
    if not output or len(output.split()) != 1 or len(output) > LONGEST_TOKEN:
        raise RefusedError("SMTP_OAUTH_COMMAND did not print one access token")
    return Token(output)


def _why(error: OSError | ValueError) -> str:
    """Return the reason of an error without the command itself, which may contain a secret."""
    return (error.strerror if isinstance(error, OSError) else None) or "it is malformed"


@dataclass
class Endpoint:
    """A token endpoint with its credentials.

    If a response contains a new refresh token, that replaces the old one, in memory only.
    """

    url: str
    client_id: str
    client_secret: str | None = field(repr=False)
    refresh_token: str = field(repr=False)

    def refresh(self) -> Token:
        """Request an access token, without following redirects.

        Raises RefusedError for the statuses 400, 401 and 403 and for a response without a token;
        TransportError for other statuses and network errors.
        """
        import requests  # imported late: few installations use OAuth

        form = {
            "grant_type": "refresh_token",
            "client_id": self.client_id,
            "refresh_token": self.refresh_token,
        }
        if self.client_secret:
            form["client_secret"] = self.client_secret
        try:
            with requests.post(
                self.url, data=form, timeout=PATIENCE, allow_redirects=False, stream=True
            ) as response:
                text = response.raw.read(LONGEST_ANSWER, decode_content=True)
        except (requests.RequestException, OSError) as error:
            raise TransportError(
                f"the token endpoint cannot be reached: {type(error).__name__}"
            ) from None
        where = "the token endpoint"
        if response.status_code != 200:
            raise _refusal(response.status_code, text)
        given = _parsed(text.decode("utf-8", "replace"), where)
        newer = given.get("refresh_token")
        if isinstance(newer, str) and newer:
            self.refresh_token = newer
        return _token(given, where)


def _refusal(status: int, text: bytes) -> TransportError:
    """Return the error for a status other than 200, with the fields of RFC 6749, section 5.2.

    `error` is a code; `error_description` is optional.
    """
    try:
        said = json.loads(text)
    except ValueError:
        said = None
    parts = [said.get("error"), said.get("error_description")] if isinstance(said, dict) else []
    words = ": ".join(part for part in parts if isinstance(part, str))[:200]
    message = f"the token endpoint answers {status}" + (f": {words}" if words else "")
    is_final = status in {400, 401, 403}
    return RefusedError(message) if is_final else TransportError(message)


def _parsed(text: str, where: str) -> dict[str, Any]:
    try:
        given = json.loads(text)
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise TransportError(f"{where} did not answer with a JSON object")
    return given


def _token(given: dict[str, Any], where: str) -> Token:
    text, seconds = given.get("access_token"), given.get("expires_in")
    if not isinstance(text, str) or not text or len(text) > LONGEST_TOKEN:
        raise RefusedError(f"{where} gave no access_token")
    try:
        return Token(text, float(seconds)) if seconds is not None else Token(text)
    except (TypeError, ValueError):
        return Token(text)
