"""Build sightings from the fields of a paper; shared by all of arXiv's formats."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from pipeline.domain import Links, Sighting
from pipeline.sources.collect import day_in, strings_in, text_in
from pipeline.sources.documents import DocumentError
from pipeline.sources.identifiers import ArxivName, arxiv_categories, arxiv_name, doi
from pipeline.sources.text import clean, clean_names, clean_title, is_withdrawn, split_authors

SOURCE = "arxiv"
_NOTE_LIMIT = 1_000


@dataclass(frozen=True, slots=True)
class Answer:
    """The parsed content of one document; `total` is the API's count over all pages."""

    sightings: tuple[Sighting, ...]
    skipped: tuple[str, ...] = ()
    total: int | None = None
    resumption: str | None = None  # OAI-PMH resumption token; None on the last page
    entries: int = 0


def name_in(text: str) -> ArxivName:
    name = arxiv_name(text)
    if name is None:
        raise DocumentError(f"has no arXiv id ({clean(text, 60) or 'empty'})")
    return name


def sighting_of(
    name: ArxivName,
    *,
    title: str,
    abstract: str,
    authors: tuple[str, ...],
    categories: list[str],
    note: str = "",
    journal_doi: str = "",
    announced_on: date | None = None,
    published_at: datetime | None = None,
    update_only: bool = False,
) -> Sighting:
    title, note = clean_title(title), clean(note, _NOTE_LIMIT)
    if not title:
        raise DocumentError(f"{name.id} has no title")
    return Sighting(
        source=SOURCE,
        source_id=name.id,
        title=title,
        abstract=clean(abstract),
        authors=authors,
        author_count=len(authors),
        categories=arxiv_categories(categories),
        arxiv_id=name.id,
        doi=doi(journal_doi.split()[0]) if journal_doi.split() else None,
        version=name.version,
        announced_on=announced_on,
        published_at=published_at,
        links=Links(abstract=name.abstract_page, pdf=name.pdf),
        note=note,
        withdrawn=is_withdrawn(note),
        update_only=update_only,
    )


def record_sighting(record: dict[str, Any], announced_on: date | None) -> Sighting:
    """Parse a JSON record with the field names that scrapers use; raise DocumentError."""
    authors, categories = record.get("authors"), record.get("categories")
    return sighting_of(
        name_in(text_in(record, "id")),
        title=text_in(record, "title"),
        abstract=text_in(record, "abstract", "summary"),
        authors=split_authors(authors)
        if isinstance(authors, str)
        else clean_names(strings_in(authors)),
        categories=categories.split() if isinstance(categories, str) else strings_in(categories),
        note=text_in(record, "comment", "comments"),
        journal_doi=text_in(record, "doi"),
        announced_on=day_in(record.get("first_seen")) or announced_on,
    )
