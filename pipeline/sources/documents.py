"""Parse untrusted bytes to JSON values or small XML trees, and their entries to sightings.

Parsing has time and memory limits. An invalid entry is skipped and reported.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any, TypeVar
from xml.etree.ElementTree import ParseError
from xml.parsers.expat.errors import XML_ERROR_NO_ELEMENTS, codes

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from pipeline.domain import Sighting
from pipeline.sources.latex import formulas_within

LARGEST_DOCUMENT = 24 * 1024 * 1024  # 2,000 entries of arXiv's API are about 8 MB
LARGEST_JSON = 16 * 1024 * 1024
_MOST_CONTAINERS = 500_000  # lists and objects in one JSON text: 64 bytes each before any content

_SLICE = 1024 * 1024
_DEEPEST = 60
_MOST_ELEMENTS = 20_000  # in one entry: 5,000 authors with a name and an affiliation each
_MOST_ELEMENTS_IN_ALL = 400_000  # about 250 bytes each
_LONGEST_TEXT = 200_000  # characters kept of one element


class DocumentError(ValueError):
    """Raised when a document is invalid; the message is one readable line."""


def decode(raw: bytes) -> str:
    """Detect the encoding and return the text; undecodable bytes become U+FFFD.

    In order of precedence: a byte order mark, valid UTF-8, the XML declaration. If it declares
    nothing, UTF-8 or US-ASCII: UTF-8 if only a few bytes are broken, else Windows-1252. Raise
    DocumentError if the declared encoding is unknown or unsafe.
    """
    for mark, encoding in _MARKS:
        if raw.startswith(mark):
            return raw.decode(encoding, errors="replace").removeprefix("\ufeff")
    if _is_utf8(raw):
        return raw.decode("utf-8")
    named = re.match(rb"\s*<\?xml[^>]{0,100}?encoding\s*=\s*[\"']([A-Za-z0-9._-]{1,40})", raw)
    encoding = named[1].decode("ascii").lower() if named else "utf-8"
    if encoding in {"utf-8", "utf8", "us-ascii"}:
        encoding = "utf-8" if _is_mostly_utf8(raw) else "windows-1252"
    if not _SAFE_ENCODING.fullmatch(encoding):
        raise DocumentError(f"is written in an unknown encoding, {encoding}")
    try:
        return raw.decode(encoding, errors="replace")
    except LookupError:
        raise DocumentError(f"is written in an unknown encoding, {encoding}") from None


_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Allow-list: some Python codecs are slow or no text encodings (punycode, idna, zlib).
_SAFE_ENCODING = re.compile(
    r"utf-8|iso-?8859-\d{1,2}|latin-?1|windows-12\d\d|cp12\d\d|koi8-[ru]|gb2312|gbk|gb18030|big5"
    r"|shift[_-]jis|euc-(?:jp|kr)|utf-16(?:[bl]e)?"
)


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _is_mostly_utf8(raw: bytes) -> bool:
    """Return whether at most a quarter of the non-ASCII characters of the first MB are broken.

    If more are, the text is probably in an 8-bit encoding.
    """
    head = raw[:_SLICE].decode("utf-8", errors="replace")
    broken = head.count("\ufffd")
    return broken * 4 <= sum(character > "\x7f" for character in head)


def parse_json(raw: bytes | str) -> Any:
    """Parse JSON; return fractions as strings, so that an id such as 2503.02130 keeps its zero.

    Integers of more than 18 digits are strings, too; NaN and Infinity are None. Raise DocumentError
    if the text is empty, invalid, over 16 MB or nested too deep, or has over 500,000 containers.
    """
    if len(raw) > LARGEST_JSON:
        raise DocumentError(f"is JSON of more than {LARGEST_JSON >> 20} MB")
    text = raw if isinstance(raw, str) else decode(raw)
    if not text.strip():
        raise DocumentError("is empty")
    if text.count("{") + text.count("[") > _MOST_CONTAINERS:
        raise DocumentError(f"is JSON of more than {_MOST_CONTAINERS:,} lists and objects")
    try:
        return json.loads(text, parse_float=str, parse_int=_parse_int, parse_constant=_no_constant)
    except RecursionError:
        raise DocumentError("is JSON nested too deep") from None
    except ValueError as error:
        raise DocumentError(f"is not JSON: {error}") from None


def _parse_int(digits: str) -> int | str:
    return int(digits) if len(digits) <= 18 else digits


def _no_constant(name: str) -> None:
    return None


@dataclass(slots=True)
class Element:
    """One XML element; names are without namespace: `arxiv:comment` is "comment"."""

    name: str
    attributes: dict[str, str]
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def find_all(self, name: str) -> list[Element]:
        return [child for child in self.children if child.name == name]

    def find(self, *path: str) -> Element | None:
        found: Element | None = self
        for name in path:
            found = next((c for c in found.children if c.name == name), None) if found else None
        return found

    def text_of(self, *path: str) -> str:
        """Return the stripped text of the first element at this path; "" if there is none."""
        found = self.find(*path)
        return found.text.strip() if found else ""


_ATTRIBUTES = ("term", "href", "rel", "title", "type", "version", "code")


_GOOD_IN_PART = frozenset({"description", "summary", "abstract"})
_ENDS_TOO_EARLY = codes[XML_ERROR_NO_ELEMENTS]


class _Builder:
    """Parser target that collects the elements named in `entries` and the header around them.

    Entries are detached from the tree, to be returned separately. Attributes are dropped unless a
    source needs them.
    """

    def __init__(self, entries: frozenset[str], most: int) -> None:
        self._entries, self._most = entries, most
        self.root: Element | None = None
        self.complete: list[Element] = []
        self._open: list[Element] = []
        self._texts: list[list[str]] = []
        self._length = 0
        self._elements = 0
        self._all = 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._elements += 1
        self._all += 1
        if len(self._open) >= _DEEPEST:
            raise DocumentError(f"is XML nested deeper than {_DEEPEST}")
        if self._elements > _MOST_ELEMENTS:
            raise DocumentError(f"has an entry of more than {_MOST_ELEMENTS:,} elements")
        if self._all > _MOST_ELEMENTS_IN_ALL:
            raise DocumentError(f"has more than {_MOST_ELEMENTS_IN_ALL:,} elements")
        retained = {name: attributes[name][:2000] for name in _ATTRIBUTES if name in attributes}
        element = Element(tag.rpartition("}")[2][:100], retained)
        if self._open:
            self._open[-1].children.append(element)
        self.root = self.root or element
        self._open.append(element)
        self._texts.append([])
        self._length = 0

    def data(self, text: str) -> None:
        if self._texts and self._length < _LONGEST_TEXT:
            self._texts[-1].append(text)
            self._length += len(text)

    def end(self, tag: str) -> None:
        element, texts = self._open.pop(), self._texts.pop()
        element.text = "".join(texts)[:_LONGEST_TEXT]
        if element.name not in self._entries:
            return
        if len(self.complete) >= self._most:
            raise DocumentError(f"has more than {self._most:,} entries")
        self.complete.append(element)
        self._elements = 0
        if self._open:
            self._open[-1].children.pop()

    def close(self) -> None:
        return None

    def break_off(self) -> None:
        """Keep the entry in which the text ends, without the truncated element.

        If that element is an abstract, keep it as well: half an abstract is still useful, but half
        an id would be another id.
        """
        names = [element.name for element in self._open]
        if not self._entries.intersection(names):
            return
        while self._open and self._open[-1].name not in self._entries:
            cut = self._open[-1]
            self.end(cut.name)
            if cut.name not in _GOOD_IN_PART and self._open:
                self._open[-1].children.pop()
        self.end(self._open[-1].name)


@dataclass(frozen=True, slots=True)
class XMLDocument:
    root: Element  # without the entries
    entries: list[Element]
    broken: str | None = None  # the reason if parsing stopped early; `entries` are still valid


def parse_xml(raw: bytes | str, entries: frozenset[str], most: int = 10_000) -> XMLDocument:
    """Parse XML and return the elements named in `entries`, at any depth, and the root around them.

    If the XML is malformed after the root began, `broken` is the reason. Raise DocumentError if
    there is no root, if the document has a DTD or entities, or if it exceeds a limit (24 MB, `most`
    entries, elements, depth).
    """
    if len(raw) > LARGEST_DOCUMENT:
        raise DocumentError(f"is XML of more than {LARGEST_DOCUMENT >> 20} MB")
    text = raw if isinstance(raw, str) else decode(raw)
    if not text.strip():
        raise DocumentError("is empty")
    builder = _Builder(entries, most)
    parser = DefusedXMLParser(target=builder, forbid_dtd=True)
    broken = None
    try:
        for piece in _pieces(_NOT_XML.sub("", text).lstrip()):
            parser.feed(piece)
        parser.close()
    except DefusedXmlException:
        raise DocumentError("is XML with a DTD or entities, which is not read") from None
    except ParseError as error:
        broken = f"is not well-formed XML: {error}"
        if error.code == _ENDS_TOO_EARLY:
            builder.break_off()
    if builder.root is None:
        raise DocumentError(broken or "is no XML")
    return XMLDocument(builder.root, builder.complete, broken)


# Not allowed in XML 1.0. Removed, because one of them in an abstract would fail the whole feed.
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def _pieces(text: str) -> Iterator[str]:
    for start in range(0, len(text), _SLICE):
        yield text[start : start + _SLICE]


# --- Entries ------------------------------------------------------------------------------------

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
    """Return a count of upvotes, comments or stars, capped at 2**31 - 1; None if it is invalid."""
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
