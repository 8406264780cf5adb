"""Webhooks of email providers: parse a POST to /hooks/<name> into events, one file per provider.

PROVIDERS is their table.
A request is untrusted until its signature is verified.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from pipeline.feedback.process import Event

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
    from pipeline.feedback.webhooks.ses import SES
    from pipeline.feedback.webhooks.sns import SNS, fetch

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
