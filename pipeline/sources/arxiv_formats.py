"""Parse arXiv's responses (API, daily feeds, OAI-PMH, /list pages) to sightings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from pipeline.domain import Links, Sighting
from pipeline.sources.documents import (
    DocumentError,
    Element,
    Skipped,
    XMLDocument,
    collect,
    day_in,
    moment_in,
    parse_xml,
    strings_in,
    text_in,
)
from pipeline.sources.identifiers import ArxivName, arxiv_categories, arxiv_name, doi
from pipeline.sources.text import (
    MOST_AUTHORS,
    clean,
    clean_names,
    clean_title,
    is_withdrawn,
    split_authors,
)

_ENTRIES = frozenset({"entry", "item", "record"})

# If a record's first version is older than this when it changes, the record is an update.
_NEW_FOR = timedelta(days=7)


class RefusedError(DocumentError):
    """Raised when the arXiv API rejects the query itself; a retry would not help."""


def read_xml(
    raw: bytes | str, *, whole: bool = False, skipped: Skipped | None = None
) -> ParsedDocument:
    """Parse any of arXiv's XML responses, recognised by the root element.

    If the document is truncated after an entry, return the entries before and add a line to
    `skipped`. Raise DocumentError if the format is unknown, if the response reports an error, if it
    is truncated before the first entry, or if `whole` is set and it is truncated at all.
    """
    document = parse_xml(raw, _ENTRIES)
    if document.broken and whole:
        raise DocumentError(document.broken)
    skipped = skipped or Skipped()
    match document.root.name:
        case "feed" if _is_api(document.root):
            return _read_api(document, skipped)
        case "feed" | "rss":
            return _read_feed(document, skipped)
        case "OAI-PMH":
            return _read_oai(document, skipped)
    raise DocumentError(f"is XML of an unknown kind, <{document.root.name}>")


def _is_api(root: Element) -> bool:
    return root.find("totalResults") is not None


def _finish(
    document: XMLDocument, sightings: tuple[Sighting, ...], skipped: Skipped
) -> tuple[Sighting, ...]:
    if document.broken:
        if not sightings:
            raise DocumentError(f"{document.broken}; no whole entry before that")
        skipped.add("the end", document.broken)
    return sightings


# --- API ----------------------------------------------------------------------------------------


def _read_api(document: XMLDocument, skipped: Skipped) -> ParsedDocument:
    for entry in document.entries:
        # HTTP 400 and an https id today; HTTP 200 and an http id in older responses.
        if "/api/errors" in entry.text_of("id"):
            why = clean(entry.text_of("summary"), 200) or "no reason given"
            raise RefusedError(f"is an error of the API: {why}")
    sightings = _finish(document, collect(document.entries, _api_sighting, skipped), skipped)
    total = document.root.text_of("totalResults")
    return ParsedDocument(
        sightings,
        skipped.lines,
        total=int(total) if total.isdecimal() and len(total) < 10 else None,
        entries=len(document.entries),
    )


def _api_sighting(entry: Element) -> Sighting:
    name = name_in(entry.text_of("id"))
    primary = entry.find("primary_category")
    terms = [primary.attributes.get("term", "")] if primary else []
    terms += [c.attributes.get("term", "") for c in entry.find_all("category")]
    authors = entry.find_all("author")
    return sighting_of(
        name,
        title=entry.text_of("title"),
        abstract=entry.text_of("summary"),
        authors=clean_names(author.text_of("name") for author in authors),
        categories=terms,
        note=entry.text_of("comment"),
        journal_doi=entry.text_of("doi"),
        published_at=moment_in(entry.text_of("published")),
    )


# --- Daily feeds --------------------------------------------------------------------------------


def _read_feed(document: XMLDocument, skipped: Skipped) -> ParsedDocument:
    channel = document.root.find("channel") or document.root
    title = clean_title(channel.text_of("title"))
    if title.lower().startswith(("feed error", "error")):
        why = clean(channel.text_of("subtitle") or channel.text_of("description"), 200)
        raise DocumentError(f"is an error of the feed: {title} {why}".rstrip())
    read = _finish(document, collect(document.entries, _feed_sighting, skipped), skipped)
    return ParsedDocument(each_once(read), skipped.lines, entries=len(document.entries))


_LEAD = re.compile(r"\s*arXiv:\S+\s+Announce Type:\s*(?P<kind>[a-z-]+)\s*(?:Abstract:)?\s*", re.I)


def _feed_sighting(entry: Element) -> Sighting:
    """Parse one RSS or Atom entry: "new" and "cross" are new papers, "replace*" are updates.

    Feeds of a category name the authors in `dc:creator`, those of an author in `author`.
    """
    name = name_in(entry.text_of("id") or entry.text_of("guid") or _link(entry))
    summary = entry.text_of("summary") or entry.text_of("description")
    lead = _LEAD.match(summary)
    kind = entry.text_of("announce_type") or (lead["kind"] if lead else "")
    terms = [c.attributes.get("term") or c.text.strip() for c in entry.find_all("category")]
    return sighting_of(
        name,
        title=entry.text_of("title"),
        abstract=summary[lead.end() :] if lead else summary,
        authors=split_authors(entry.text_of("creator"))
        or clean_names(author.text_of("name") for author in entry.find_all("author")),
        categories=terms,
        journal_doi=entry.text_of("DOI"),
        announced_on=day_in(entry.text_of("published")) or _mail_day(entry.text_of("pubDate")),
        update_only=kind.lower().startswith("replace"),
    )


def _link(entry: Element) -> str:
    link = entry.find("link")
    return (link.attributes.get("href") or link.text.strip()) if link else ""


def _mail_day(text: str) -> date | None:
    """Parse the date of an RFC 5322 time without conversion: the feed's day is New York's."""
    try:
        return parsedate_to_datetime(text).date()
    except (ValueError, TypeError, OverflowError):
        return None


def each_once(sightings: Iterable[Sighting]) -> tuple[Sighting, ...]:
    """Deduplicate papers and merge their categories, as when a feed lists one per category.

    If any sighting of a paper is new, return that one rather than the update.
    """
    merged: dict[str, Sighting] = {}
    for sighting in sightings:
        before = merged.get(sighting.source_id)
        if before is None:
            merged[sighting.source_id] = sighting
            continue
        first = before if before.update_only <= sighting.update_only else sighting
        both = tuple(dict.fromkeys((*first.categories, *before.categories, *sighting.categories)))
        merged[sighting.source_id] = replace(first, categories=both)
    return tuple(merged.values())


# --- OAI-PMH ------------------------------------------------------------------------------------


def _read_oai(document: XMLDocument, skipped: Skipped) -> ParsedDocument:
    error = document.root.find("error")
    if error is not None and error.attributes.get("code") != "noRecordsMatch":
        code = error.attributes.get("code", "unknown")
        raise DocumentError(f"is an error of OAI-PMH: {clean(f'{code} {error.text}', 200)}")
    sightings = _finish(document, collect(document.entries, _oai_sighting, skipped), skipped)
    return ParsedDocument(
        sightings,
        skipped.lines,
        resumption=document.root.text_of("ListRecords", "resumptionToken") or None,
        entries=len(document.entries),
    )


def _oai_sighting(record: Element) -> Sighting:
    """Parse one arXivRaw record.

    The record's datestamp is its last change; if v1 is over 7 days older, the record is an update.
    """
    raw = record.find("metadata", "arXivRaw")
    if raw is None:
        raise DocumentError("has no arXivRaw metadata")
    versions = raw.find_all("version")
    published_at = _mail_moment(versions[0].text_of("date")) if versions else None
    changed_on = day_in(record.text_of("header", "datestamp"))
    return sighting_of(
        replace(name_in(raw.text_of("id")), version=_last_version(versions)),
        title=raw.text_of("title"),
        abstract=raw.text_of("abstract"),
        authors=split_authors(raw.text_of("authors")),
        categories=raw.text_of("categories").split(),
        note=raw.text_of("comments"),
        journal_doi=raw.text_of("doi"),
        published_at=published_at,
        update_only=bool(
            published_at and changed_on and changed_on - published_at.date() > _NEW_FOR
        ),
    )


def _last_version(versions: list[Element]) -> int | None:
    number = versions[-1].attributes.get("version", "").removeprefix("v") if versions else ""
    return int(number) if number.isdecimal() and len(number) < 5 else None


def _mail_moment(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        return None


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


def read_listing(page: str, skipped: Skipped | None = None) -> ParsedDocument:
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
    return ParsedDocument(sightings, skipped.lines, entries=len(sightings))


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


SOURCE = "arxiv"
_NOTE_LIMIT = 1_000


@dataclass(frozen=True, slots=True)
class ParsedDocument:
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
