"""Parse bioRxiv and medRxiv responses (`details` and `pubs` of api.biorxiv.org) to sightings."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from pipeline.domain import Links, Sighting
from pipeline.sources.documents import DocumentError, Skipped, collect, day_in, text_in
from pipeline.sources.identifiers import doi
from pipeline.sources.text import clean, clean_keywords, clean_names, clean_title

SOURCES = frozenset({"biorxiv", "medrxiv"})

# Markers of the publisher's typesetting, not separated from the words around them.
_MARKS = re.compile(r"[OC]_(?:SCPCAP|SCPLOW|ST_ABS|LI|UL|OL|FIG|TBL|EQ|QUOTE|BR|IN_TEXT|MATH)")
# Greek letters, if present at all, are written as names in braces.
_GREEK = re.compile(
    r"\{(alpha|beta|gamma|delta|epsilon|zeta|eta|theta|iota|kappa|lambda|mu|nu|xi|pi|rho|sigma"
    r"|tau|phi|chi|psi|omega)\}",
    re.I,
)


def is_answer(answer: Any) -> bool:
    return isinstance(answer, dict) and "messages" in answer


def read_answer(
    answer: dict[str, Any], fallback: str | None, skipped: Skipped
) -> tuple[Sighting, ...]:
    """Parse one response of `details` or `pubs`; return () if it reports "no posts".

    `fallback` is the source of entries that do not name theirs. Raise DocumentError if the response
    reports an error.
    """
    collection = answer.get("collection")
    if isinstance(collection, list):
        return collect(collection, lambda entry: entry_sighting(entry, fallback), skipped)
    said = answer.get("messages")
    message = said[0] if isinstance(said, list) and said and isinstance(said[0], dict) else {}
    status = text_in(message, "status")
    if "no posts" in status.lower():
        return ()
    raise DocumentError(f"is an answer without papers: {clean(status, 100) or 'no status'}")


def entry_sighting(entry: Any, fallback: str | None) -> Sighting:
    """Parse one preprint; in `pubs` the same fields have the prefix "preprint_".

    Raise DocumentError if the server is unknown, or the DOI or the title is missing.
    """
    if not isinstance(entry, dict):
        raise DocumentError("is not a paper")
    source = (_field(entry, "server", "preprint_platform") or fallback or "").lower()
    if source not in SOURCES:
        raise DocumentError(f"names an unknown server ({clean(source, 40) or 'none'})")
    name = doi(_field(entry, "doi", "preprint_doi"))
    if name is None:
        raise DocumentError("has no DOI")
    title = clean_title(_words(_field(entry, "title", "preprint_title")))
    if not title:
        raise DocumentError(f"{name} has no title")
    authors = clean_names(_field(entry, "authors", "preprint_authors").split(";"))
    version = _field(entry, "version")
    return Sighting(
        source=source,
        source_id=name,
        title=title,
        abstract=clean(_words(_field(entry, "abstract", "preprint_abstract"))),
        authors=authors,
        author_count=len(authors),
        keywords=clean_keywords([_field(entry, "category", "preprint_category")]),
        doi=name,
        version=int(version) if version.isdecimal() and len(version) < 5 else None,
        announced_on=day_in(_field(entry, "date", "preprint_date")),
        links=Links(abstract=f"https://doi.org/{name}"),
        withdrawn=title.upper().startswith("WITHDRAWN"),
    )


def _field(entry: dict[str, Any], *names: str) -> str:
    """Return the text of the first field that is not empty; the API writes "NA" for no value."""
    text = text_in(entry, *names).strip()
    return "" if text == "NA" else text


def _words(text: str) -> str:
    return _GREEK.sub(_greek, _MARKS.sub(" ", text))


def _greek(match: re.Match[str]) -> str:
    name = match[1].upper().replace("LAMBDA", "LAMDA")
    case = "SMALL" if match[1].islower() else "CAPITAL"
    return unicodedata.lookup(f"GREEK {case} LETTER {name}")
