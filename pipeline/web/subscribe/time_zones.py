"""Time zones by region and city, for a select element."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from zoneinfo import available_timezones

REGIONS = (
    "Africa",
    "America",
    "Antarctica",
    "Arctic",
    "Asia",
    "Atlantic",
    "Australia",
    "Europe",
    "Indian",
    "Pacific",
)


@cache
def by_region() -> tuple[tuple[str, tuple[tuple[str, str], ...]], ...]:
    """Return (region, ((IANA name, city), ...)) for all zones in zone.tab, sorted; cached."""
    names = sorted(_inhabited())
    return tuple(
        (region, tuple((name, city(name)) for name in names if name.startswith(f"{region}/")))
        for region in REGIONS
        if any(name.startswith(f"{region}/") for name in names)
    )


def is_known(name: str) -> bool:
    """Return whether `zoneinfo` has the zone, including old names that browsers still send."""
    return name in _known()


def is_listed(name: str) -> bool:
    """Return whether the form lists the zone: a zone of zone.tab, UTC, or "" (none chosen)."""
    return name in {"", "UTC"} or name in _inhabited()


def city(name: str) -> str:
    """Return "Buenos Aires, Argentina" for "America/Argentina/Buenos_Aires"."""
    _, *parts = name.split("/")
    return ", ".join(part.replace("_", " ") for part in reversed(parts)) or name


@cache
def _known() -> frozenset[str]:
    return frozenset(available_timezones())


@cache
def _inhabited() -> frozenset[str]:
    table = files("tzdata.zoneinfo").joinpath("zone.tab").read_text("utf-8")
    rows = (line.split("\t") for line in table.splitlines() if not line.startswith("#"))
    return frozenset(row[2] for row in rows) & _known()
