"""Parse entries into sightings one at a time; an invalid entry is skipped and reported."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime
from typing import Any, TypeVar

from pipeline.domain import Sighting
from pipeline.sources.documents import DocumentError
from pipeline.sources.latex import formulas_within

Entry = TypeVar("Entry")
_LARGEST_COUNT = 2**31 - 1
_MOST_SKIPPED = 20
_SECONDS_FOR_FORMULAS = 2.5


class Skipped:
    """Report lines for skipped entries: the first 20, and the number of further ones."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._count = 0

    def add(self, where: str, why: object) -> None:
        self._count += 1
        if len(self._lines) < _MOST_SKIPPED:
            self._lines.append(f"{where}: {why}"[:300])

    @property
    def lines(self) -> tuple[str, ...]:
        more = self._count - len(self._lines)
        return (*self._lines, f"and {more:,} more") if more else tuple(self._lines)


def collect(
    entries: Iterable[Entry],
    read: Callable[[Entry], Sighting],
    skipped: Skipped,
    *,
    called: str = "entry",
) -> tuple[Sighting, ...]:
    """Return the sightings that `read` parses from `entries`.

    If it raises DocumentError, add a line to `skipped` and continue with the next entry. Formulas
    get 2.5 seconds in all; the rest stay as TeX.
    """
    sightings: list[Sighting] = []
    with formulas_within(_SECONDS_FOR_FORMULAS):
        for number, entry in enumerate(entries, start=1):
            try:
                sightings.append(read(entry))
            except DocumentError as error:
                skipped.add(f"{called} {number}", error)
    return tuple(sightings)


def text_in(record: dict[str, Any], *names: str) -> str:
    """Return the first of these fields that holds text; "" if none does."""
    for name in names:
        value = record.get(name)
        if isinstance(value, str) and value.strip():
            return value
    return ""


def strings_in(value: object) -> list[str]:
    return [part for part in value if isinstance(part, str)] if isinstance(value, list) else []


def count_in(value: object) -> int | None:
    """Return a count of upvotes or comments, capped at 2**31 - 1; None if it is invalid."""
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return min(value, _LARGEST_COUNT) if value >= 0 else None


def day_in(value: object) -> date | None:
    """Parse the date of an ISO date or time, without time zone conversion; None if invalid."""
    if not isinstance(value, str):
        return None
    try:
        return date.fromisoformat(value.strip()[:10])
    except ValueError:
        return None


def moment_in(value: object) -> datetime | None:
    """Parse an ISO time and return it in UTC; None if it is invalid.

    A time without a zone is taken as UTC, a date without a time as its midnight.
    """
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value.strip())
        if moment.tzinfo is None:
            return moment.replace(tzinfo=UTC)
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
