"""Paper sources: the `Source` protocol, implemented in one module per source, and their table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from pipeline.domain import Sighting
from pipeline.errors import SettingsError

if TYPE_CHECKING:
    from pipeline.settings import Settings
    from pipeline.sources.client import Client


_GAP = timedelta(seconds=1)


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


@dataclass(frozen=True, slots=True)
class SourceEntry:
    """A source by its name, with its factory and the rate limit of its server."""

    title: str  # name on pages and in mails
    build: Callable[[Client, Settings], Source] | None = None  # None: from recorded files only
    gap: timedelta = _GAP  # between two requests, for all machines together


# The factories import their modules when they are called: most commands need none of them.
def _arxiv(client: Client, settings: Settings) -> Source:
    from pipeline.sources.arxiv import Arxiv

    return Arxiv(client, settings.arxiv_categories)


def _huggingface(client: Client, settings: Settings) -> Source:
    from pipeline.sources.huggingface import HuggingFace

    token = settings.huggingface_token
    return HuggingFace(client, token.get_secret_value() if token else None)


SOURCES: Mapping[str, SourceEntry] = MappingProxyType(
    {
        # Its terms of use: one request per 3 s, for all machines and interfaces together.
        "arxiv": SourceEntry("arXiv", _arxiv, timedelta(seconds=3)),
        "biorxiv": SourceEntry("bioRxiv"),
        "medrxiv": SourceEntry("medRxiv"),
        # It allows 500 requests in 5 minutes; half of that is enough.
        "huggingface": SourceEntry("Hugging Face", _huggingface, timedelta(seconds=1.2)),
    }
)
"""All sources, in order of authority: if texts of one paper differ, that of the first is kept."""

LIVE = tuple(name for name, entry in SOURCES.items() if entry.build)
"""Sources that can be fetched; each is the module of this name."""


def build(names: Iterable[str], client: Client, settings: Settings) -> list[Source]:
    """Return the live sources with these names. Raises SettingsError for an unknown name."""
    names = list(names)
    if unknown := [name for name in names if name not in LIVE]:
        raise SettingsError(f"unknown source: {', '.join(unknown)}; there are {', '.join(LIVE)}")
    factories = [factory for name in names if (factory := SOURCES[name].build)]
    return [factory(client, settings) for factory in factories]


def request_gap(limit: str) -> timedelta:
    """Return the smallest time between two requests under a rate limit, named as its source."""
    entry = SOURCES.get(limit)
    return entry.gap if entry else _GAP
