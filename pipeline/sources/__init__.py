"""Where papers come from: the Source protocol that each source's file fills in."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Protocol

from pipeline.domain import Sighting


@dataclass(frozen=True, slots=True)
class Validator:
    """What a server gave us to ask "has it changed?" with (RFC 9110, section 8.8)."""

    etag: str | None = None
    last_modified: str | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """What one look at a source brought."""

    sightings: tuple[Sighting, ...]
    cursor: str | None = None  # where the source wants to go on; None keeps the old one
    unchanged: bool = False  # the server said so (304), or it is yesterday's answer again
    skipped: tuple[str, ...] = ()  # one clear line for each entry that could not be read
    gaps: tuple[str, ...] = ()  # the same for each announcement that is missing as a whole
    # By URL; to be remembered only in the transaction that keeps the sightings, for a server
    # that is told "I have it" never gives it again.
    validators: tuple[tuple[str, Validator], ...] = ()


class Source(Protocol):
    @property
    def name(self) -> str: ...

    def read(self, *, since: date, cursor: str | None, now: datetime) -> Reading:
        """Announcements since `cursor`, or since the day `since` when there is none, and again
        the entries of the last 14 days where counts may have moved.

        Raises SourceError, and then nothing of this look is kept.
        """
        ...

    def news_due(self, on: date) -> bool:
        """Whether the source's calendar promises something new on the UTC day `on`."""
        ...
