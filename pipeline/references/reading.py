"""Read lists of papers in BibTeX, RIS, CSL-JSON and plain lines, from untrusted input."""

from __future__ import annotations

import json
import logging
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, Final

from bibtexparser.middlewares.names import parse_single_name_into_parts
from bibtexparser.model import Block, Entry, ImplicitComment, ParsingFailedBlock, String
from bibtexparser.splitter import Splitter

from pipeline.references import tex
from pipeline.sources.identifiers import AuthorId, arxiv_name, author_id, doi
from pipeline.sources.latex import formulas_within
from pipeline.sources.text import (
    ABSTRACT_LIMIT,
    MOST_AUTHORS,
    NAME_LIMIT,
    TITLE_LIMIT,
    clean,
    clean_keywords,
    clean_names,
    clean_title,
)
from pipeline.storage.dedup import author_key, paper_key, title_key

MOST_OCTETS: Final = 512 * 1024
MOST_ENTRIES: Final = 500
_MOST_BLOCKS: Final = 2 * MOST_ENTRIES  # of BibTeX, with strings and comments
_MOST_RECORDS: Final = 2 * MOST_ENTRIES + 1  # of a format: so many unreadable and one beyond
_START: Final = 80  # characters that name what could not be read
_NAMED: Final = 4 * _START  # of which they are taken
_FORMULA_SECONDS: Final = 0.2

# It logs each broken block, with its text; what is broken is returned instead.
logging.getLogger("bibtexparser").setLevel(logging.CRITICAL)


@dataclass(frozen=True, slots=True)
class Reference:
    """One paper of a list, as plain text. It has a title, an arXiv id or a DOI."""

    title: str = ""
    authors: tuple[str, ...] = ()  # "Given Family"
    abstract: str = ""
    year: int | None = None
    arxiv_id: str | None = None  # without a version
    doi: str | None = None  # lower case; None if arXiv issued it: then there is an `arxiv_id`
    keywords: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Return the key of `domain.Paper` that a paper with these ids and this title has."""
        return paper_key(self.arxiv_id, self.doi, title_key(self.title))


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Part of the input without a title or an id: its line, from 1, and its first characters."""

    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Parsed:
    """Papers of a list without duplicates, in their order, and the parts that were not read."""

    entries: tuple[Reference, ...]
    unreadable: tuple[Unreadable, ...]
    author_ids: Mapping[AuthorId, int]  # named in the list, with their first line; not fetched
    is_cut: bool  # there was more than MOST_OCTETS or MOST_ENTRIES; the rest was not read


@dataclass(frozen=True, slots=True)
class _Record:
    """Part of the input that should be one paper, read only if it is among the first."""

    line: int
    text: str
    read: Callable[[], Reference | AuthorId | None]


def parse(text: str | bytes) -> Parsed:
    """Read BibTeX, RIS, CSL-JSON, and lines with arXiv ids, DOIs, links or titles, also mixed.

    A line that is an ORCID iD or the URL of an arXiv author page is returned in `author_ids`.

    Raise nothing: every part that gives no paper is in `unreadable`. Entries with an equal arXiv
    id, DOI or title are merged. At most MOST_OCTETS of UTF-8 and MOST_ENTRIES are read; hostile
    input takes about a second. Octets that are not UTF-8 are read as Windows-1252.
    """
    decoded, is_cut = _decoded(text)
    source = _Source(decoded)
    records = [*_json_records(source), *_ris_records(source)]
    bibtex_records, has_more = _bibtex_records(source)
    records = sorted(records + bibtex_records, key=lambda record: record.line)
    entries: list[Reference] = []
    unreadable: list[Unreadable] = []
    authors: dict[AuthorId, int] = {}
    read = 0
    with formulas_within(_FORMULA_SECONDS):
        for record in records:
            if max(len(entries), len(unreadable), len(authors)) >= MOST_ENTRIES:
                break
            read += 1
            match record.read():
                case None:
                    unreadable.append(Unreadable(record.line, _start(record.text)))
                case AuthorId() as author:
                    authors.setdefault(author, record.line)
                case reference:
                    entries.append(reference)
    is_cut = is_cut or has_more or read < len(records)
    return Parsed(merged(entries), tuple(unreadable), authors, is_cut)


def _start(text: str) -> str:
    return clean(text[:_NAMED], _START) or repr(text[:_START])


# --- Encoding -----------------------------------------------------------------------------------

MOJIBAKE = re.compile("[\u00c2-\u00f4][\u0080-\u00bf\u0152-\u02dc\u2013-\u2122]")  # UTF-8 as 1252


def _decoded(text: str | bytes) -> tuple[str, bool]:
    """Return the input as text with `\\n`, and whether it was cut at a line end."""
    octets = text.encode(errors="replace") if isinstance(text, str) else text
    is_cut = len(octets) > MOST_OCTETS
    if is_cut:
        whole, end, _ = octets[:MOST_OCTETS].rpartition(b"\n")
        octets = whole if end else octets[:MOST_OCTETS]
    if octets.startswith((b"\xff\xfe", b"\xfe\xff")):
        decoded = octets.decode("utf-16", errors="replace")
    else:
        try:
            decoded = octets.decode("utf-8-sig", errors="ignore" if is_cut else "strict")
        except UnicodeDecodeError:
            decoded = octets.decode("cp1252", errors="replace")
    decoded = decoded.replace("\r\n", "\n").replace("\r", "\n")
    return "\n".join(map(_repaired, decoded.split("\n"))), is_cut


def _repaired(line: str) -> str:
    """Return a line that was decoded as Windows-1252 although it is UTF-8 as it was meant."""
    if not MOJIBAKE.search(line):
        return line
    try:
        return line.encode("cp1252").decode()
    except UnicodeError:
        return line


class _Source:
    """Text of which each reader takes its part; what it takes is blanked, lines stay the same."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._ends = [found.start() for found in re.finditer("\n", text)]

    def line(self, place: int) -> int:
        """Return the number of the line at an offset, from 1."""
        return bisect_left(self._ends, place) + 1

    def take(self, start: int, end: int) -> None:
        blank = "\n" * self.text.count("\n", start, end)
        self.text = self.text[:start] + blank.rjust(end - start) + self.text[end:]


# --- CSL-JSON -----------------------------------------------------------------------------------

_JSON = re.compile(r"\s*(?=\{\s*\"|\[\s*\{)")
_BETWEEN_OBJECTS = re.compile(r"[\s,\[]*")
_AFTER_OBJECTS = re.compile(r"(?:\s*\])?")
_CSL_LISTS = ("items", "references")


def _json_records(source: _Source) -> Iterator[_Record]:
    """Yield the objects of a JSON text at the start of the input, also of one that breaks off."""
    if not _JSON.match(source.text):
        return
    decoder = json.JSONDecoder()
    place = end = count = 0
    while count < _MOST_RECORDS:
        place = _end_of(_BETWEEN_OBJECTS, source.text, end)
        if not source.text.startswith("{", place):
            break
        try:
            csl, end = decoder.raw_decode(source.text, place)
        except (ValueError, RecursionError):
            end = len(source.text)
            yield _Record(source.line(place), source.text[place : place + _NAMED], _nothing)
            break
        start = source.text[place : min(end, place + _NAMED)]
        for one in _csl_objects(csl):
            yield _Record(source.line(place), start, partial(_from_csl, one))
            count += 1
    if count >= _MOST_RECORDS:
        end = len(source.text)
    source.take(0, _end_of(_AFTER_OBJECTS, source.text, end))


def _end_of(pattern: re.Pattern[str], text: str, place: int) -> int:
    found = pattern.match(text, place)
    return found.end() if found else place


def _csl_objects(csl: dict[str, Any]) -> list[Any]:
    for name in _CSL_LISTS:
        if isinstance(csl.get(name), list):
            return list(csl[name])
    return [csl]


def _from_csl(csl: object) -> Reference | None:
    if not isinstance(csl, dict):
        return None
    given = {name: value for name, value in csl.items() if isinstance(value, str)}
    authors = csl.get("author")
    return reference_of(
        title=clean_title(given.get("title", "")),
        authors=clean_names(map(_csl_name, authors if isinstance(authors, list) else [])),
        abstract=clean(given.get("abstract", "")),
        year=_csl_date(csl.get("issued")),
        ids=[given.get("DOI", "")],
        mentions=[given.get(name, "") for name in ("URL", "number", "archive_location", "note",
                                                  "container-title", "id")],
        keywords=_words(given.get("keyword", "")),
    )  # fmt: skip


def _csl_name(author: object) -> str:
    if not isinstance(author, dict):
        return ""
    part = {name: value for name, value in author.items() if isinstance(value, str)}
    names = ("given", "dropping-particle", "non-dropping-particle", "family")
    name = " ".join(filter(None, (part.get(name) for name in names))) or part.get("literal", "")
    return f"{name}, {part['suffix']}" if part.get("suffix") else name


def _csl_date(issued: object) -> str:
    """Return a CSL date as text: its parts, or what was typed."""
    return json.dumps(issued)[:200] if isinstance(issued, (dict, str)) else ""


# --- RIS ----------------------------------------------------------------------------------------

_RIS_LINE = re.compile(r"[ \t]*(?P<tag>[A-Z][A-Z0-9]) {1,2}-(?: |$)[ \t]*(?P<value>.*)")
_RIS_IDS = ("DO",)
_RIS_MENTIONS = ("UR", "L1", "L2", "LK", "AN", "M1", "M3", "N1", "T2", "JO", "JF", "SP", "C7")


def _ris_records(source: _Source) -> list[_Record]:
    """Take the records out of the text: from TY to ER; without ER, to an empty line or the next TY.

    A BibTeX entry ends a record, too.
    """
    records: list[_Record] = []
    others: list[str] = []
    fields: dict[str, list[str]] | None = None
    last: list[str] = []
    lines = source.text.split("\n")
    closed = _closed(lines)
    is_closed = False
    for number, line in enumerate(lines, 1):
        found = _RIS_LINE.match(line)
        tag = found["tag"] if found else ""
        if tag == "TY":
            fields = {}
            is_closed = number in closed
            records.append(_Record(number, line, partial(_from_ris, fields)))
        elif _BLOCK.match(line) or not (is_closed or line.strip()):
            fields = None
        others.append("" if fields is not None else line)
        if fields is None:
            continue
        if tag == "ER":
            fields = None
        elif found:
            last = fields.setdefault(tag, [])
            last.append(found["value"])
        else:
            last.append(line)
    source.text = "\n".join(others)
    return records


def _closed(lines: list[str]) -> set[int]:
    """Return the numbers of the lines with TY that an ER follows before the next TY."""
    closed: set[int] = set()
    has_end = False
    for number in range(len(lines), 0, -1):
        found = _RIS_LINE.match(lines[number - 1])
        if found and found["tag"] == "TY":
            if has_end:
                closed.add(number)
            has_end = False
        has_end = has_end or bool(found and found["tag"] == "ER")
    return closed


def _from_ris(fields: Mapping[str, list[str]]) -> Reference | None:
    def first(*tags: str) -> str:
        return next((" ".join(fields[tag]) for tag in tags if tag in fields), "")

    return reference_of(
        title=clean_title(first("TI", "T1", "CT", "BT")),
        authors=clean_names(map(_given_first, fields.get("AU") or fields.get("A1") or ())),
        abstract=clean(first("AB", "N2")),
        year=first("PY", "Y1", "DA"),
        ids=[first(tag) for tag in _RIS_IDS],
        mentions=[value for tag in _RIS_MENTIONS for value in fields.get(tag, ())],
        keywords=clean_keywords(fields.get("KW", ())),
    )


_SUFFIX = re.compile(r"(?:Jr|Sr|II|III|IV)\.?", re.I)


def _given_first(name: str) -> str:
    """Return "Lovelace, Ada" as "Ada Lovelace"; a suffix stays behind: "Sammy Davis, Jr."."""
    family, *others = [part.strip() for part in name.split(",")]
    if not others or _SUFFIX.fullmatch(others[0]):
        return ", ".join([family, *others])
    return ", ".join([f"{others[0]} {family}".strip(), *filter(None, others[1:])])


# --- BibTeX -------------------------------------------------------------------------------------

_BLOCK = re.compile(r"[ \t]*@[A-Za-z]+[ \t]*[{(]")
_BLOCKS = re.compile(r"@\w*[ \t]*[{(]")
_MARKS = re.compile(r"[{}\",=]")
_MOST_MARKS: Final = 100_000  # each takes the splitter microseconds; a list of 500 has 30,000
_WITHOUT_KEY = re.compile(r"(?m)^([ \t]*@(?!string\b)[A-Za-z]+[ \t]*\{\s*)(?=[A-Za-z]+\s*=)", re.I)
_FRAGMENT = re.compile(r"\s*(?:[\w-]+\s*=\s*(?:[{\"].*|\d+[\s,]*)|[@}].*)", re.S)
_FIELD = re.compile(r"[\s,]*([A-Za-z][\w-]*)\s*=\s*")
_NAME = re.compile(r"[^\s\"#%'(),={}]+")
_BETWEEN = re.compile(r"\s*#\s*")
_MOST_UNPARTED = 50  # fields without a comma between them
_MOST_EXPANDED = 100_000  # characters of @string values, in one input
_TEX_MENTIONS = ("url", "journal", "journaltitle", "booktitle", "note", "howpublished", "number",
                 "pages", "volume", "addendum", "annote", "archiveprefix")  # fmt: skip


def _bibtex_records(source: _Source) -> tuple[list[_Record], bool]:
    """Return the entries and the plain lines between them, and whether there are more blocks."""
    text = _WITHOUT_KEY.sub(r"\1-,", source.text)
    text, has_more_blocks = _cut_before(_BLOCKS, _MOST_BLOCKS, text)
    text, has_more_marks = _cut_before(_MARKS, _MOST_MARKS, text)
    strings = _Strings()
    records: list[_Record] = []
    is_rest = False  # of a broken entry
    for block in Splitter(text).split().blocks:
        found = _block_records(block, strings, is_rest=is_rest)
        records += islice(found, _MOST_RECORDS - len(records))
        is_rest = isinstance(block, ParsingFailedBlock) and not block.ignore_error_block
    return records, has_more_blocks or has_more_marks


def _cut_before(pattern: re.Pattern[str], most: int, text: str) -> tuple[str, bool]:
    """Return the text up to the first match after `most` matches, and whether there is one."""
    found = next(islice(pattern.finditer(text), most, None), None)
    return (text[: found.start()], True) if found else (text, False)


def _block_records(block: Block, strings: _Strings, *, is_rest: bool) -> Iterator[_Record]:
    line = (block.start_line or 0) + 1
    raw = block.raw or ""
    if isinstance(block, ParsingFailedBlock) and block.ignore_error_block:
        block = block.ignore_error_block  # a key twice
    match block:
        case String():
            strings.define(block.key, block.value)
        case ImplicitComment():
            yield from _line_records(block.comment, line, is_rest=is_rest)
        case Entry():
            pairs = [(field.key, field.value) for field in block.fields]
            yield _Record(line, raw[:_NAMED], partial(_from_bibtex, pairs, strings))
        case ParsingFailedBlock():
            # An entry that is not closed contains all that follows: it ends at an empty line.
            entry, gap, rest = raw.partition("\n\n")
            yield _Record(line, entry[:_NAMED], _nothing)
            yield from _line_records(rest, line + (entry + gap).count("\n"), is_rest=True)


class _Strings:
    """Values of @string, which fields name; at most _MOST_EXPANDED characters are inserted."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}
        self._left = _MOST_EXPANDED

    def define(self, name: str, value: str) -> None:
        self._values[name.lower()] = self.value_of(value)[0]

    def value_of(self, written: str, place: int = 0) -> tuple[str, int]:
        """Return the value of `{...}`, `"..."`, a number or a name, joined by #, and its end."""
        parts: list[str] = []
        while True:
            part, end = self._part(written, place)
            parts.append(part)
            joined = _BETWEEN.match(written, end)
            if joined is None or end == place:
                return "".join(parts), end
            place = joined.end()

    def _part(self, written: str, place: int) -> tuple[str, int]:
        if written[place : place + 1] in ("{", '"'):
            end = _closing(written, place)
            return written[place + 1 : end - 1], end
        end = _end_of(_NAME, written, place)
        name = written[place:end]
        value = self._values.get(name.lower(), name)
        if value != name:
            value = value if len(value) <= self._left else name
            self._left -= len(value)
        return value, end


def _closing(written: str, place: int) -> int:
    """Return the offset after the brace or quotation mark that closes the one at `place`."""
    is_quoted = written[place] == '"'
    depth = 0
    for found in re.compile(r"\\.|[{}\"]", re.S).finditer(written, place + is_quoted):
        sign = found[0]
        depth += (sign == "{") - (sign == "}")
        if depth <= 0 and (sign == '"' if is_quoted else sign == "}"):
            return found.end()
    return len(written) + 1


def _fields(pairs: Iterable[tuple[str, str]], strings: _Strings) -> dict[str, str]:
    """Return the first value of each field, also if the comma before a field is missing."""
    fields: dict[str, str] = {}
    for key, written in pairs:
        value, end = strings.value_of(written)
        fields.setdefault(key.lower(), value)
        for _ in range(_MOST_UNPARTED):
            following = _FIELD.match(written, end)
            if following is None:
                break
            value, end = strings.value_of(written, following.end())
            fields.setdefault(following[1].lower(), value)
    return fields


def _from_bibtex(pairs: Iterable[tuple[str, str]], strings: _Strings) -> Reference | None:
    fields = _fields(pairs, strings)
    title = tex.to_text(fields.get("title", ""), TITLE_LIMIT)
    if subtitle := tex.to_text(fields.get("subtitle", ""), TITLE_LIMIT):
        title = clean_title(f"{title}: {subtitle}")
    mentions = [tex.to_text(fields.get(name, ""), _LONGEST_ID) for name in _TEX_MENTIONS]
    kind = (fields.get("archiveprefix") or fields.get("eprinttype") or "arxiv").strip("{} ").lower()
    eprint = fields.get("eprint", "") if kind == "arxiv" else ""
    ids = [eprint, fields.get("arxivid", ""), tex.to_text(fields.get("doi", ""), _LONGEST_ID)]
    return reference_of(
        title=title,
        authors=_tex_names(fields.get("author", "")),
        abstract=tex.to_text(fields.get("abstract", ""), ABSTRACT_LIMIT),
        year=fields.get("year") or fields.get("date", ""),
        ids=ids,
        mentions=mentions,
        keywords=_words(tex.to_text(fields.get("keywords", ""), ABSTRACT_LIMIT)),
    )


_NAME_SIGNS = re.compile(r"\\.|[{}]|\s(?P<and>and)(?=\s)", re.I | re.S)
_BRACED = re.compile(r"[\\{}]")


def _tex_names(author: str) -> tuple[str, ...]:
    names = _split_names(author[: NAME_LIMIT * MOST_AUTHORS])[:MOST_AUTHORS]
    read = (tex.to_text(_name_first(name), NAME_LIMIT) for name in names if name != "others")
    return tuple(name for name in read if name)


def _split_names(author: str) -> list[str]:
    """Split names at each "and" outside braces, also before a name that starts with an accent."""
    names: list[str] = []
    depth = start = 0
    for found in _NAME_SIGNS.finditer(author):
        depth += (found[0] == "{") - (found[0] == "}")
        if depth <= 0 and found["and"]:
            names.append(author[start : found.start()])
            start = found.end()
    return [name.strip() for name in [*names, author[start:]] if name.strip()]


def _name_first(name: str) -> str:
    if not _BRACED.search(name) and name.count(",") <= 1:
        return _given_first(name)
    parts = parse_single_name_into_parts(name, strict=False)
    plain = " ".join([*parts.first, *parts.von, *parts.last])
    return ", ".join([plain, *parts.jr])


# --- Lines --------------------------------------------------------------------------------------

_MARKER = re.compile(r"\s*(?:[-*+•·\u2013]\s+|\[\d{1,4}\]\s*|\(?\d{1,3}[.)]\s+)?")
_IGNORED = re.compile(r"\s*(?:%|#\s|//)")
_LINKED = re.compile(r"\[((?:[^\[\]\\]|\\.){1,1000})\]\(<?(https?://[^\s<>()]{1,500})>?\)")
_PREFIX = re.compile(r"\b(arxiv|doi)\s*:\s+(?=\S)", re.I)
_MIRROR = re.compile(
    r"https?://(?:www\.)?(?:alphaxiv\.org/(?:abs|pdf|overview)"
    r"|ar5iv(?:\.labs\.arxiv)?\.org/(?:abs|html)|hf\.co/papers)/",
    re.I,
)
_AT_PUBLISHER = re.compile(
    r"https?://[^\s/]+/(?:doi|content)/(?:[a-z]+/)?(10\.\d{4,9}/[^\s?#]+?)(?:v\d+)?"
    r"(?:\.(?:full|abstract|pdf)){0,3}",
    re.I,
)
_LINK = re.compile(r"https?://\S+", re.I)
_LONGEST_ID = 400  # with what stands before it in a link
_DIGITS = re.compile(r"\d{4}")  # in a row: arXiv ids and DOIs have at least four
_ABOUT_ARXIV = re.compile(r"arxiv|/", re.I)
_CLASS = re.compile(r"\[[a-z-]+(?:\.[A-Za-z-]+)?\]")
_LABELLED = re.compile(r"\[{1,2}[^\[\]]{0,100}\]\([^\s()]*\)\]*")  # [[code](https://...)]
_LABELS = ("abs", "abstract", "arxiv", "html", "link", "paper", "pdf", "preprint")
_IN_TOKEN = re.compile(r"https?://[^\s<>\"'\])]+")
_PREFIX_ALONE = re.compile(r"(?:arxiv|doi)\b:", re.I)
_ESCAPED_MARKDOWN = re.compile(r"\\([!-/:-@\[-`{-~])")
_QUOTED = re.compile(r"[\"'“]([^\"“”]*)[\"'”][.,]?")
_FEWEST_LETTERS = 4
_FEWEST_WORDS = 3  # in a title that follows an id


@dataclass(frozen=True, slots=True)
class _Ids:
    arxiv: tuple[str, ...]
    dois: tuple[str, ...]
    rest: str = ""  # of the text

    def each(self) -> Iterator[_Ids]:
        yield from (_Ids((name,), ()) for name in self.arxiv)
        yield from (_Ids((), (name,)) for name in self.dois)


def _line_records(text: str, first: int, *, is_rest: bool) -> Iterator[_Record]:
    """Yield a record for each line, or for each of its ids if there are several.

    If `is_rest`, skip the first lines that look like the end of a broken BibTeX entry.
    """
    for number, line in enumerate(text.split("\n"), first):
        if not any(map(str.isalnum, line)) or _IGNORED.match(line):
            continue
        is_fragment = bool(_FRAGMENT.fullmatch(line))
        is_rest = is_rest and (is_fragment or line.rstrip(" ,").endswith(("}", '"')))
        if is_rest:
            continue
        if is_fragment:
            yield _Record(number, line, _nothing)
        else:
            yield from _one_line(line, number)


def _one_line(line: str, number: int) -> Iterator[_Record]:
    text = line[_end_of(_MARKER, line, 0) :]
    if author := author_id(text):
        yield _Record(number, line, lambda: author)
        return
    linked = _LINKED.match(text)
    if linked and linked[1].lower() in _LABELS:
        linked = None
    ids = _ids_in(linked[2] if linked else text)
    if len(ids.arxiv) <= 1 and len(ids.dois) <= 1:
        title = _ESCAPED_MARKDOWN.sub(r"\1", linked[1]) if linked else _title_in(ids)
        yield _Record(number, line, partial(_from_line, title, ids))
        return
    for one in ids.each():
        yield _Record(number, line, partial(_from_line, "", one))


def _ids_in(text: str, *, is_bare: bool = True) -> _Ids:
    """Return the arXiv ids and DOIs in a text; only ids with "arxiv" unless `is_bare`."""
    names: list[str] = []
    dois: list[str] = []
    rest: list[str] = []
    for token in _PREFIX.sub(r"\1:", text).split():
        if (len(token) > _LONGEST_ID and "," not in token) or not _DIGITS.search(token):
            rest.append(token)
            continue
        shorn = _shorn(token)
        # A DOI may contain a comma, a list of ids has nothing else.
        whole = _identified(shorn) or _linked(token)
        found = [whole] if whole else list(map(_identified, shorn.split(",")))
        pairs = [pair for pair in found if pair]
        if len(pairs) < len(found) or not (is_bare or pairs[0][1] or _ABOUT_ARXIV.search(shorn)):
            rest.append(token)
            continue
        names += [name for name, _ in pairs if name]
        dois += [name for _, name in pairs if name]
    return _Ids(tuple(dict.fromkeys(names)), tuple(dict.fromkeys(dois)), " ".join(rest))


def _shorn(token: str) -> str:
    """Return a word without the punctuation around it; a DOI may end with its own bracket."""
    word = token.strip("<>[]{}\"'`,;.|*")
    if word.startswith("(") and "(" not in word.lstrip("("):
        word = word.strip("()")
    surplus = word.count(")") - word.count("(")
    kept = word.rstrip(")")
    return word[: max(len(kept), len(word) - max(surplus, 0))].rstrip("/.,;")


def _linked(token: str) -> tuple[str, str] | None:
    """Return what the link inside a word identifies, as in Markdown and HTML."""
    found = _IN_TOKEN.search(token, 1)
    return _identified(found[0].rstrip(".,;")) if found else None


def _identified(token: str) -> tuple[str, str] | None:
    """Return the arXiv id or the DOI that a word is, as (id, "") or ("", DOI)."""
    token = _MIRROR.sub("arXiv:", token)
    if _LINK.match(token):
        token = re.split(r"[?#]", token, maxsplit=1)[0].rstrip("/")
    if found := _AT_PUBLISHER.fullmatch(token):
        token = found[1]
    if name := arxiv_name(token):
        return name.id, ""
    named = doi(token)
    if named is None:
        return None
    issued = named.removeprefix("10.48550/")
    if issued != named and (name := arxiv_name(issued.replace("arxiv.", "arxiv:", 1))):
        return name.id, ""
    return "", named


def _title_in(ids: _Ids) -> str:
    """Return the title in a line without its ids and links; "" if it is something else."""
    title = _LINK.sub("", _LABELLED.sub("", ids.rest))
    title = _CLASS.sub("", title).strip(" ,;:|*-\u2013\u2014")
    title = found[1] if (found := _QUOTED.fullmatch(title)) else title
    if ids.arxiv or ids.dois:
        return title if len(title.split()) >= _FEWEST_WORDS else ""
    is_title = sum(map(str.isalpha, title)) >= _FEWEST_LETTERS
    return title if is_title and not _PREFIX_ALONE.match(title) else ""


def _from_line(title: str, ids: _Ids) -> Reference | None:
    title = title if len(title) <= TITLE_LIMIT else ""
    names = (next(iter(found), "") for found in (ids.arxiv, ids.dois))
    return reference_of(title=clean_title(title), ids=tuple(names))


# --- References ---------------------------------------------------------------------------------

_YEAR = re.compile(r"(?<!\d)(?:1[5-9]|20)\d\d(?!\d)")


def _nothing() -> None:
    return None


def _words(text: str) -> tuple[str, ...]:
    """Split keywords at semicolons, or at commas if there are none."""
    return clean_keywords(text.split(";" if ";" in text else ","))


def reference_of(
    *,
    title: str = "",
    authors: tuple[str, ...] = (),
    abstract: str = "",
    year: str = "",
    ids: Iterable[str] = (),
    mentions: Iterable[str] = (),
    keywords: tuple[str, ...] = (),
) -> Reference | None:
    """Return a reference; None if it has neither a title nor an id.

    `mentions` are fields that may hold other numbers: an arXiv id counts only as "arXiv:..." or in
    a link, a DOI only alone, since a sentence may name that of another paper.
    """
    named = [_ids_in(text[:_LONGEST_ID]) for text in ids if text]
    named += [_ids_in(text[:_LONGEST_ID], is_bare=False) for text in mentions if text]
    arxiv_id = next((name for found in named for name in found.arxiv), None)
    issued = next((name for found in named if not found.rest for name in found.dois), None)
    if not (title or arxiv_id or issued):
        return None
    found = _YEAR.search(year)
    number = int(found[0]) if found else None
    return Reference(title, authors, abstract, number, arxiv_id, issued, keywords)


def merged(entries: Iterable[Reference]) -> tuple[Reference, ...]:
    """Merge entries of one paper; the first gives what both have, but the longer abstract stays."""
    kept: dict[int, Reference] = {}
    places: dict[str, int] = {}
    for place, entry in enumerate(entries):
        same = {places[key]: None for key in _keys(entry) if key in places}
        for other in [p for p in same if p in kept and _may_be_same(kept[p], entry)]:
            entry = _with(kept.pop(other), entry)
            place = min(place, other)
        kept[place] = entry
        places |= dict.fromkeys(_keys(entry), place)
    return tuple(kept[place] for place in sorted(kept))


def _keys(entry: Reference) -> list[str]:
    keys = [entry.arxiv_id or "", entry.doi or "", entry.title and title_key(entry.title)]
    return [key for key in keys if key]


def _may_be_same(one: Reference, other: Reference) -> bool:
    if one.arxiv_id and other.arxiv_id:
        return one.arxiv_id == other.arxiv_id
    if one.doi and one.doi == other.doi:
        return True
    authors = {author_key(one.authors), author_key(other.authors)} - {""}
    return len(authors) < 2


def _with(first: Reference, second: Reference) -> Reference:
    return replace(
        first,
        title=first.title or second.title,
        authors=first.authors or second.authors,
        abstract=max(first.abstract, second.abstract, key=len),
        year=first.year or second.year,
        arxiv_id=first.arxiv_id or second.arxiv_id,
        doi=first.doi or second.doi,
        keywords=first.keywords or second.keywords,
    )
