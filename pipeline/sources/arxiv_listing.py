"""Parse arXiv's /list page of one day to sightings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime

from pipeline.domain import Sighting
from pipeline.sources.arxiv_sightings import Answer, name_in, sighting_of
from pipeline.sources.collect import Skipped, collect
from pipeline.sources.documents import DocumentError
from pipeline.sources.identifiers import arxiv_name
from pipeline.sources.text import MOST_AUTHORS, clean_names

_SHOWN_FOR = re.compile(r"listings for \w+, (\d{1,2} \w{3,9} \d{4})")
_SECTION = re.compile(r"<h3[^<>]*>\s*(New|Cross|Replacement)\b", re.I)
_LISTED_NAME = re.compile(r"href\s{0,3}=\s{0,3}[\"']/abs/([^\"'\s]{1,60})[\"']")
_LISTED_VERSION = re.compile(r"/html/([^\"'\s]{1,60}v\d{1,4})[\"']")
_LISTED = {
    "title": (re.compile(r"class=['\"]list-title[^<>]{0,200}>"), "</div>"),
    "authors": (re.compile(r"class=['\"]list-authors[^<>]{0,200}>"), "</div>"),
    "comments": (re.compile(r"class=['\"]list-comments[^<>]{0,200}>"), "</div>"),
    "subjects": (re.compile(r"class=['\"]list-subjects[^<>]{0,200}>"), "</div>"),
    "abstract": (re.compile(r"<p class=['\"]mathjax['\"]>"), "</p>"),
}
_DESCRIPTOR = re.compile(r"<span class=['\"]descriptor['\"]>[^<]*</span>")
_ANCHOR = re.compile(r"<a\b[^<>]*>([^<]*)</a>")
_LONGEST_LISTED = 500_000


def is_listing(page: str) -> bool:
    return "listings for" in page[:200_000] and "<dt>" in page


def read_listing(page: str, skipped: Skipped | None = None) -> Answer:
    """Parse arXiv's /list page of one day; replacements are returned as updates.

    Raise DocumentError if the page has entries and none can be parsed.
    """
    shown = _SHOWN_FOR.search(page[:200_000])
    announced_on = _long_day(shown[1]) if shown else None
    skipped = skipped or Skipped()

    def read(listed: tuple[str, bool]) -> Sighting:
        sighting = _listed_sighting(listed[0])
        return replace(sighting, announced_on=announced_on, update_only=listed[1])

    sightings = collect(_listed(page), read, skipped)
    if not sightings and skipped.lines:
        raise DocumentError(f"is a listing without a readable entry: {skipped.lines[0]}")
    return Answer(sightings, skipped.lines, entries=len(sightings))


def _listed(page: str) -> Iterator[tuple[str, bool]]:
    """Return the HTML of each entry, and whether it is in the section of replacements."""
    is_update = False
    for number, part in enumerate(page.split("<dt>")):
        if number:
            yield part[:_LONGEST_LISTED], is_update
        for section in _SECTION.finditer(part):
            is_update = section[1].lower() == "replacement"


def _listed_sighting(part: str) -> Sighting:
    found = {key: _between(part, *marks) for key, marks in _LISTED.items()}
    name = name_in(_first(_LISTED_NAME, part))
    versioned = arxiv_name(_first(_LISTED_VERSION, part))
    if versioned and versioned.id == name.id:
        name = versioned
    return sighting_of(
        name,
        title=found["title"],
        abstract=found["abstract"],
        authors=clean_names(_ANCHOR.findall(found["authors"])[:MOST_AUTHORS]),
        categories=re.findall(r"\(([A-Za-z.-]{2,30})\)", found["subjects"]),
        note=found["comments"],
    )


def _between(part: str, start: re.Pattern[str], end: str) -> str:
    opening = start.search(part)
    if opening is None:
        return ""
    closing = part.find(end, opening.end())
    return _DESCRIPTOR.sub("", part[opening.end() : closing]) if closing > 0 else ""


def _first(pattern: re.Pattern[str], part: str) -> str:
    match = pattern.search(part)
    return match[1] if match else ""


def _long_day(text: str) -> date | None:
    for form in ("%d %B %Y", "%d %b %Y"):
        try:
            return datetime.strptime(text, form).replace(tzinfo=UTC).date()
        except ValueError:
            continue
    return None
