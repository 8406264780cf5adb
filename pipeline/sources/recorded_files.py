"""Parse recorded source responses from files; the format is detected from the content."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, time
from pathlib import Path
from typing import IO, Any, cast

from pipeline.domain import Sighting
from pipeline.errors import SourceError
from pipeline.sources import FetchResult, arxiv_formats, biorxiv_formats, huggingface
from pipeline.sources.documents import (
    LARGEST_DOCUMENT,
    LARGEST_JSON,
    DocumentError,
    Skipped,
    collect,
    count_in,
    day_in,
    decode,
    parse_json,
    text_in,
)
from pipeline.sources.identifiers import arxiv_name, doi
from pipeline.sources.text import clean, clean_title

_LARGEST_FILE = 200 * 1024 * 1024  # after decompression
_LONGEST_LINE = 2 * 1024 * 1024
_MOST_LINES = 1_000_000
_MOST_BAD_LINES = 10_000
_MOST_PAPERS = 10_000  # storing them takes ten seconds
_MOST_TEXT = 100_000_000  # characters of abstracts kept in memory
_HEAD = 64 * 1024
_GZIP = b"\x1f\x8b"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_DAY_IN_NAME = re.compile(r"(?<!\d)20\d\d-\d\d-\d\d(?!\d)")


def read_file(path: Path, source: str | None = None) -> list[tuple[str, FetchResult]]:
    """Parse a file, gzipped or not, and return (source, reading) pairs in order of appearance.

    `source` is used if the content does not name its source. An invalid entry is skipped and
    reported in `skipped` of the first reading. Raise SourceError (not retryable) if nothing can be
    parsed, or if the file is missing, empty, binary or too large.
    """
    try:
        return _Recording(path, source).read()
    except DocumentError as error:
        why = f"{path.name} {error}"
    except FileNotFoundError:
        why = f"{path.name} does not exist"
    except (gzip.BadGzipFile, EOFError, zlib.error):
        why = f"{path.name} is a broken gzip file"
    except OSError as error:
        why = f"{path.name} cannot be read: {error.strerror or error}"
    raise SourceError(source or "file", _one_line(why), retryable=False)


class _Recording:
    def __init__(self, path: Path, source: str | None) -> None:
        self._path = path
        self._source = source
        days = _DAY_IN_NAME.findall(path.name)
        self._day = day_in(days[0]) if len(days) == 1 else None
        self._skipped = Skipped()
        self._answered_by: str | None = None  # detected from a response, even one without papers

    def read(self) -> list[tuple[str, FetchResult]]:
        with _open(self._path) as file:
            head = file.read(_HEAD)
            _check_text(head)
            start = head.lstrip(b"\xef\xbb\xbf\xff\xfe\xfe\xff\x00 \t\r\n")[:1]
            if start == b"<":
                return self._by_source(self._markup(decode(head + _rest(file, head))))
            if start in {b"[", b"{"}:
                return self._by_source(self._json(head, file))
        raise DocumentError("is of no kind that is known")

    def _by_source(self, sightings: tuple[Sighting, ...]) -> list[tuple[str, FetchResult]]:
        """Group sightings by source; a response without papers returns one empty reading.

        Raise DocumentError if every entry was skipped, or if the source is unknown.
        """
        groups: dict[str, list[Sighting]] = {}
        for sighting in sightings:
            groups.setdefault(sighting.source, []).append(sighting)
        lines = self._skipped.lines
        if not groups and lines:
            raise DocumentError(f"has no paper that can be read; {lines[0]}")
        if not groups:
            groups[self._known_source()] = []
        readings = [(name, FetchResult(tuple(group))) for name, group in groups.items()]
        first, reading = readings[0]
        return [(first, replace(reading, skipped=lines)), *readings[1:]]

    def _known_source(self) -> str:
        source = self._answered_by or self._source
        if source is None:
            raise DocumentError("has no papers and no source; use --source")
        return source

    # --- Markup ---------------------------------------------------------------------------------

    def _markup(self, text: str) -> tuple[Sighting, ...]:
        self._answered_by = arxiv_formats.SOURCE
        if arxiv_formats.is_listing(text):
            answer = arxiv_formats.read_listing(text, self._skipped)
        elif re.match(r"\s*(?:<!doctype\s+html|<html)\b", text, re.I):
            raise DocumentError("is a web page of no kind that is known")
        else:
            answer = arxiv_formats.read_xml(text, skipped=self._skipped)
        return answer.sightings

    # --- JSON -----------------------------------------------------------------------------------

    def _json(self, head: bytes, file: IO[bytes]) -> tuple[Sighting, ...]:
        """Parse the file as one JSON value; if that fails, as JSON lines."""
        try:
            document = parse_json(head + _rest(file, head, LARGEST_JSON))
        except DocumentError as error:
            file.seek(0)
            sightings = self._records(_rows(file, self._skipped))
            if not sightings:
                raise DocumentError(str(error)) from None
            return sightings
        return self._document(document)

    def _document(self, document: Any) -> tuple[Sighting, ...]:
        if isinstance(document, list):
            if document and all(isinstance(d, dict) and "paper" in d for d in document[:1]):
                self._answered_by = huggingface.NAME
            return self._records(document)
        if biorxiv_formats.is_answer(document):
            self._answered_by = _server_named(document) or self._source
            return biorxiv_formats.read_answer(document, self._source, self._skipped)
        if "status_code" in document and isinstance(document.get("body"), str):
            return self._wrapped(document)
        if "error" in document and "title" not in document:
            raise DocumentError(f"is an error: {clean(str(document['error']), 200)}")
        return self._records([document])

    def _wrapped(self, record: dict[str, Any]) -> tuple[Sighting, ...]:
        """Parse a response that was recorded as JSON with its URL, status code and body."""
        body = record["body"].strip()
        if not body:
            raise DocumentError(f"is an empty answer with status {record['status_code']}")
        try:
            if body.startswith("<"):
                return self._markup(body)
            return self._document(parse_json(body))
        except DocumentError as error:
            raise DocumentError(f"(status {record['status_code']}) {error}") from None

    def _records(self, rows: Iterable[Any]) -> tuple[Sighting, ...]:
        return collect(_bounded(rows), self._sighting, self._skipped)

    def _sighting(self, row: Any) -> Sighting:
        if not isinstance(row, dict):
            raise DocumentError("is not a paper")
        if "paper" in row:
            return huggingface.entry_sighting(row, self._day)
        if "server" in row or "preprint_doi" in row:
            return biorxiv_formats.entry_sighting(row, self._source)
        if arxiv_name(row.get("id")):
            return arxiv_formats.record_sighting(row, self._day)
        return self._plain_sighting(row)

    def _plain_sighting(self, row: dict[str, Any]) -> Sighting:
        """Parse a paper without an arXiv id, such as one copied from the Daily Papers page.

        Raise DocumentError if the source is unknown or the title is missing.
        """
        from_page = "author_count" in row and "id" not in row
        source = self._source or (huggingface.NAME if from_page else None)
        if source is None:
            raise DocumentError("has no source; use --source")
        title = clean_title(text_in(row, "title"))
        if not title:
            raise DocumentError("has no title")
        published_on = day_in(row.get("published_on"))
        return Sighting(
            source=source,
            source_id=clean(text_in(row, "id", "doi"), 200),
            title=title,
            abstract=clean(text_in(row, "abstract", "summary")),
            author_count=count_in(row.get("author_count")),
            doi=doi(row.get("doi")),
            announced_on=day_in(row.get("announced_on")),
            published_at=datetime.combine(published_on, time.min, UTC) if published_on else None,
            upvotes=count_in(row.get("upvotes")),
            comments=count_in(row.get("comments")),
        )


def _one_line(text: str) -> str:
    """Replace control characters for display in a terminal: file names may contain any."""
    return "".join(c if c.isprintable() else " " for c in text)[:500]


def _server_named(answer: dict[str, Any]) -> str | None:
    """Return the server (bioRxiv or medRxiv) named in the messages of a response, if any."""
    said = str(answer.get("messages"))[:1000].lower()
    return next((name for name in sorted(biorxiv_formats.SOURCES) if name in said), None)


def _open(path: Path) -> IO[bytes]:
    """Open the file for reading, with decompression if it is gzip."""
    if path.is_dir():
        raise DocumentError("is a folder")
    with path.open("rb") as file:
        mark = file.read(2)
    if not mark:
        raise DocumentError("is empty")
    return cast("IO[bytes]", gzip.open(path) if mark == _GZIP else path.open("rb"))


def _check_text(head: bytes) -> None:
    if not head.strip():
        raise DocumentError("is empty")
    if b"\x00" in head and not head.startswith(_UTF16_MARKS):
        raise DocumentError("is binary")


def _rest(file: IO[bytes], head: bytes, largest: int = LARGEST_DOCUMENT) -> bytes:
    rest = file.read(largest - len(head) + 1)
    if len(head) + len(rest) > largest:
        raise DocumentError(f"is larger than {largest >> 20} MB")
    return rest


def _rows(file: IO[bytes], skipped: Skipped) -> Iterator[Any]:
    """Yield the JSON value of each line; skip and report invalid lines.

    Raise DocumentError if a line is over 2 MB, the file over 200 MB, or too many lines are invalid.
    """
    size = bad = 0
    for number, line in enumerate(iter(lambda: file.readline(_LONGEST_LINE + 1), b""), start=1):
        size += len(line)
        if size > _LARGEST_FILE:
            raise DocumentError(f"is larger than {_LARGEST_FILE >> 20} MB")
        if len(line) > _LONGEST_LINE:
            raise DocumentError(f"has a line of more than {_LONGEST_LINE >> 20} MB")
        if number > _MOST_LINES or bad > _MOST_BAD_LINES:
            raise DocumentError("has too many lines that hold no paper")
        if not line.strip():
            continue
        try:
            yield parse_json(line)
        except DocumentError as error:
            skipped.add(f"line {number}", error)
            bad += 1


def _bounded(rows: Iterable[Any]) -> Iterator[Any]:
    size = 0
    for number, row in enumerate(rows):
        abstract = row.get("abstract") or row.get("summary") if isinstance(row, dict) else None
        size += len(abstract) if isinstance(abstract, str) else 0
        if number >= _MOST_PAPERS or size > _MOST_TEXT:
            raise DocumentError(f"holds more than {number:,} papers; split it")
        yield row
