"""Paper sources: the `Source` protocol, implemented in one module per source."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Protocol

from pipeline.domain import Sighting


@dataclass(frozen=True, slots=True)
class Validator:
    """HTTP validators of a response, for conditional requests (RFC 9110, section 8.8)."""

    etag: str | None = None
    last_modified: str | None = None


@dataclass(frozen=True, slots=True)
class FetchResult:
    """The result of one fetch from a source."""

    sightings: tuple[Sighting, ...]
    cursor: str | None = None  # where the next fetch continues; None keeps the stored one
    unchanged: bool = False  # True if the server returned 304 or repeated yesterday's feed
    skipped: tuple[str, ...] = ()  # one line for each entry that could not be parsed
    gaps: tuple[str, ...] = ()  # one line for each announcement that is missing entirely
    # (URL, validator) pairs. Store them only in the transaction that stores the sightings: once
    # a validator is sent, the server answers 304 and never returns that content again.
    validators: tuple[tuple[str, Validator], ...] = ()


class Source(Protocol):
    @property
    def name(self) -> str: ...

    def read(self, *, since: date, cursor: str | None, now: datetime) -> FetchResult:
        """Return announcements since `cursor`, or since the day `since` if there is no cursor.

        Sources with upvotes also return entries of the last 14 days again, to update the counts.
        Raise SourceError if the fetch fails; the caller then stores nothing from it.
        """
        ...

    def news_due(self, on: date) -> bool:
        """Return whether the source's calendar schedules new papers on the UTC day `on`."""
        ...
