"""Webhooks of email providers: parse a POST to /hooks/<name> into events, one file per provider.

A request is untrusted until its signature is verified.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from pipeline.feedback.process import Event


class Provider(Protocol):
    """An email provider; its events about mails that it accepted count once they are verified."""

    def receive(self, headers: Mapping[str, str], body: bytes, now: datetime) -> Sequence[Event]:
        """Verify one POST and return its events; none if it is not about mail.

        The names in `headers` are in lower case. Raises ForgedError if the signature is invalid,
        before parsing anything that the verification does not need; EventError if a signed body is
        malformed; ProviderError if verification was not possible.
        """
