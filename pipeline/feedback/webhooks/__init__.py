"""Webhooks of email providers: parse a POST to /hooks/<name> into events, one file per provider.

PROVIDERS is their table. A request is untrusted until its signature is verified. Shared functions
normalise JSON values of unknown type and classify bounces.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol

from pipeline.domain import Verdict
from pipeline.feedback.bounces.diagnostics import diagnose
from pipeline.feedback.process import Event
from pipeline.smtp import printable

if TYPE_CHECKING:
    from pipeline.settings import Settings


class Provider(Protocol):
    """An email provider; its events about mails that it accepted count once they are verified."""

    def receive(self, headers: Mapping[str, str], body: bytes, now: datetime) -> Sequence[Event]:
        """Verify one POST and return its events; none if it is not about mail.

        The names in `headers` are in lower case. Raises ForgedError if the signature is invalid,
        before parsing anything that the verification does not need; EventError if a signed body is
        malformed; ProviderError if verification was not possible.
        """
        ...


# The factories import their modules when they are called.
def _ses(settings: Settings) -> Provider | None:
    from pipeline.feedback.webhooks.ses import SES, SNS, fetch

    return SES(SNS(settings.ses_topics, fetch)) if settings.ses_topics else None


def _generic(settings: Settings) -> Provider | None:
    from pipeline.feedback.webhooks.generic import Generic

    return Generic(settings.hook_secret) if settings.hook_secret else None


PROVIDERS: Mapping[str, Callable[[Settings], Provider | None]] = MappingProxyType(
    {"ses": _ses, "generic": _generic}
)
"""Factories by name; each returns None if the setting that enables its provider is not set."""


def configured(settings: Settings) -> dict[str, Provider]:
    """Return the enabled providers by name; their webhooks are accepted at /hooks/<name>."""
    made = ((name, factory(settings)) for name, factory in PROVIDERS.items())
    return {name: provider for name, provider in made if provider is not None}


# --- Fields of events ---------------------------------------------------------------------------

LONGEST: Final = 1_000  # characters of a value that are kept

_STATUS: Final = re.compile(r"[245]\.\d{1,3}\.\d{1,3}")


def text(value: Any, most: int = LONGEST) -> str:
    """Return a string that a database can store: no NUL, at most `most` characters; else ""."""
    if not isinstance(value, str):
        return ""
    return value.replace("\0", "").encode("utf-8", "replace").decode()[:most]


def record(value: Any) -> dict[str, Any]:
    """Return `value` if it is a JSON object, else {}."""
    return value if isinstance(value, dict) else {}


def records(value: Any) -> list[dict[str, Any]]:
    return [record(one) for one in value] if isinstance(value, list) else []


def status(value: Any) -> str | None:
    """Return the enhanced status code at the start of `value` (RFC 3463), such as 5.1.1; or None.

    The classes are 2, 4 and 5.
    """
    found = _STATUS.match(text(value).strip())
    return found[0] if found else None


def reply_text(value: Any) -> str:
    """Return a server's reply, normalised for storage and display."""
    return printable(text(value))


def bounce_verdict(status: str | None, words: str) -> Verdict:
    """Classify a bounce like a bounce mail; `words` are the server's reply, or "" if unknown.

    Without a code it counts as permanently refused (550), since the provider calls it a bounce.
    """
    return diagnose(words, status).verdict
