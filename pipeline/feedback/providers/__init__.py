"""Where providers tell of deliveries: a POST to /hooks/<name> becomes events. One file for each.

Whatever a request says is the claim of a stranger until it is verified.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from pipeline.feedback.applying import Event


class Provider(Protocol):
    """A service that is believed about the mail it took, once it has proved who it is."""

    def receive(self, headers: Mapping[str, str], body: bytes, now: datetime) -> Sequence[Event]:
        """The events of one POST; none where it was not about mail. `headers` in lower case.

        Raises ForgedError before it looks at anything that verifying does not need, EventError
        for what is signed and makes no sense, and ProviderError where verifying was not possible.
        """
