"""Parse CSV lists of subscribers from spreadsheets and other newsletters. Pure: no storage.

Delimiter, encoding and column names are detected from the file. If a record is invalid, it is
returned with its line and the reason, and parsing continues with the next one.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
import unicodedata
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, BinaryIO, Final

from pipeline.errors import PaperboyError

DELIMITERS: Final = ",;\t|"
SAMPLE: Final = 50  # lines used to detect delimiter and columns
LONGEST_LINE: Final = 100_000  # characters; csv allows a field of 131,072
LONGEST_RECORD: Final = 1_000  # lines; a longer one has an unclosed quotation mark

OURS: Final = (
    "email", "status", "topics", "names", "hour", "timezone", "frequency", "weekday", "max_papers",
    "breadth", "near_misses_after", "paused_until", "joined_at", "confirmed_at", "active_on",
    "left_at", "left_reason", "consent_asked_at", "consent_at", "consent_origin", "consent_wording",
    "consent_ip", "secret", "last_slot_at", "last_edition_on", "covered_until", "welcome_due",
    "suppressed", "suppressed_since", "address_hash", "key", "profile", "reaction",
)  # fmt: skip
"""The columns of our own export, in order."""

_MAIN: Final = {"email", "status", "topics", "hour", "timezone", "frequency"}
_OURS_ONLY: Final = {"covered_until", "address_hash", "key"}  # in no list of another newsletter

EMAIL_NAMES: Final = frozenset(
    [
        "email", "emailaddress", "emailaddresses", "emails", "mail", "mailaddress", "primaryemail",
        "email1", "contactemail", "emailadresse", "emailaddr", "mailadresse", "emailid",
        "useremail", "memberemail", "subscriber", "subscriberemail", "adresseemail", "adressemail",
        "courriel", "adressedecourriel", "correo", "correoelectronico", "correoelectrónico",
        "endereçodeemail", "indirizzoemail", "emailadres", "recipient", "emailrecipient",
        "电子邮件", "电子邮箱", "邮箱", "メールアドレス", "eメール",
    ]
)  # fmt: skip
NAMES: Final = {
    "topic": "topics", "queries": "topics", "query": "topics", "interests": "topics",
    "tz": "timezone", "max": "max_papers", "maxpapers": "max_papers", "deliveryhour": "hour",
    # Consent and status in foreign lists; used only if the list is not our own export.
    "subscriptionstatus": "status", "subscriberstatus": "status", "subscribertype": "status",
    "memberstatus": "status", "emailstatus": "status", "contactstatus": "status",
    "emailmarketingstatus": "status", "emailsubscriptionstatus": "status", "type": "kind",
    "state": "kind",
    "optintime": "consent_asked_at", "confirmtime": "consent_at", "confirmationtime": "consent_at",
    "confirmip": "consent_ip", "optinip": "optin_ip", "created": "joined_at",
    "createdat": "joined_at", "creationdate": "joined_at", "subscribedat": "joined_at",
    "joined": "joined_at", "dateadded": "joined_at", "signupdate": "joined_at",
    "unsubtime": "left_on", "unsubscribedat": "left_on", "unsubscribetime": "left_on",
    "unsubscribedate": "left_on", "unsubscribedon": "left_on", "dateunsubscribed": "left_on",
    "optouttime": "left_on", "optoutdate": "left_on", "optedoutat": "left_on",
    "deletedat": "left_on", "churndate": "left_on",
    "cleantime": "bounced_on", "cleanedat": "bounced_on", "bouncedat": "bounced_on",
    "bouncedate": "bounced_on", "hardbouncedat": "bounced_on", "undeliverabilitydate": "bounced_on",
    "complainedat": "complained_on", "complaintdate": "complained_on", "spamat": "complained_on",
    "unsubscribed": "is_left", "isunsubscribed": "is_left", "optout": "is_left",
    "optedout": "is_left", "hasoptedoutofemail": "is_left", "emailoptout": "is_left",
    "emaildisabled": "is_left", "unsubscribedfromallemail": "is_left", "deleted": "is_left",
    "bounced": "is_bounced", "cleaned": "is_bounced", "hardbounced": "is_bounced",
    "complained": "is_complaint", "markedasspam": "is_complaint", "spam": "is_complaint",
    "blocked": "is_blocked", "blocklisted": "is_blocked", "blacklisted": "is_blocked",
    "blacklist": "is_blocked", "emailblacklisted": "is_blocked", "emailblacklist": "is_blocked",
    "emailblocklisted": "is_blocked", "donotcontact": "is_blocked", "donotemail": "is_blocked",
    "subscribed": "is_subscribed", "issubscribed": "is_subscribed", "optin": "is_subscribed",
    "subscribedtoemails": "is_subscribed", "acceptsmarketing": "is_subscribed",
    "acceptsemailmarketing": "is_subscribed", "emailoptin": "is_subscribed",
    "attributes": "attributes",
}  # fmt: skip
FROM_ATTRIBUTES: Final = ("topics", "hour", "timezone", "frequency", "weekday", "max_papers")

_ADDRESS: Final = re.compile(r"[^\s@<>()\[\],;:|\"]+@[^\s@<>()\[\],;:|\"]+\.[^\s@<>()\[\],;:|\"]+")
_IN_BRACKETS: Final = re.compile(r"<\s*(?:mailto:)?([^<>\s]+@[^<>\s]+)\s*>")
_SEP_LINE: Final = re.compile(r'\s*"?sep=(.)"?\s*', re.IGNORECASE | re.DOTALL)
_INVISIBLE: Final = "\ufeff\u200b\u200c\u200d\u2060\xa0"
_UNCLOSED: Final = "a quotation mark opened here is not closed"


# --- Formula injection and lists in cells -------------------------------------------------------

_FORMULA: Final = re.compile(r"'*[\s\0]*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")


def escape_cell(cell: str) -> str:
    """Escape a cell that a spreadsheet would run as a formula, with an apostrophe in front.

    See OWASP, CSV injection. If it begins with such apostrophes already, add another one:
    `unescape_cell` removes exactly one.
    """
    return f"'{cell}" if _FORMULA.match(cell) else cell


def unescape_cell(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def join_words(words: Sequence[str]) -> str:
    """Join words in one cell: `a; b`, or a JSON list if a word has other than plain characters.

    In the JSON list, punctuation except commas is written as Unicode escapes. So no cell begins
    with a formula when another program splits the line at another delimiter.
    """
    if all(map(_is_plain, words)):
        return "; ".join(words)
    return re.sub(
        r"[^\w\s\"\[\]\\]", lambda found: _json_escape(found.group()), json.dumps(list(words))
    )


def json_cell(values: Mapping[str, Any]) -> str:
    """Return a JSON object whose text has no punctuation, like the lists of `join_words`.

    Its values must not contain negative numbers or fractions.
    """
    return re.sub(
        r"[^\w\s\"\[\]\\{}:]",
        lambda found: _json_escape(found.group()),
        json.dumps(values, separators=(",", ":")),
    )


def split_words(cell: str) -> tuple[str, ...]:
    """Split the words of a cell: a JSON list of `join_words`, or words separated by `;` or lines.

    Semicolons inside quotation marks are kept.
    """
    if cell.lstrip().startswith("["):
        try:
            listed = json.loads(cell)
        except ValueError:
            listed = None
        if isinstance(listed, list) and all(isinstance(word, str) for word in listed):
            return tuple(listed)
    parts = re.findall(r'(?:[^;\r\n"]|"[^"]*"|")+', cell)
    return tuple(part.strip() for part in parts if part.strip())


def _is_plain(word: str) -> bool:
    return re.fullmatch(r"[\w][\w \-.:()/]*", word) is not None and word == word.strip()


def _json_escape(character: str) -> str:
    return character if character == "," else f"\\u{ord(character):04x}"


# --- Files --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a list: its first line, its cells by column, and its problem, if invalid."""

    line: int
    cells: Mapping[str, str]
    raw: tuple[str, ...]  # unparsed cells, for the report of rejected rows
    problem: str = ""  # the reason if it is invalid


@dataclass(frozen=True, slots=True)
class _Layout:
    """The detected format of a file: delimiter, first data line, columns."""

    delimiter: str
    first_line: int  # of the records, after the header
    columns: tuple[str, ...]  # by position, "" if unknown; () without header
    is_ours: bool = False


@dataclass(frozen=True)
class SubscriberList:
    """A list in a seekable file: a sample is read to detect the layout, then every record.

    Raise PaperboyError if the file is empty or no column holds email addresses.
    """

    binary: BinaryIO = field(repr=False)
    name: str
    layout: _Layout = field(init=False)

    def __post_init__(self) -> None:
        with _Text(self.binary) as text:
            sample = list(islice(text, SAMPLE))
        object.__setattr__(self, "layout", _layout(sample, self.name))

    @property
    def is_ours(self) -> bool:
        """Return whether our own export wrote it: it has the main columns, and no unknown ones.

        Unknown columns are ignored beside those that only an export has: another version, or a
        person, may have added them. A foreign list would be asked to confirm again.
        """
        return self.layout.is_ours

    def __iter__(self) -> Iterator[Record]:
        with _Text(self.binary) as text:
            for line, cells, problem in _records(_Lines(text), self.layout.delimiter):
                if line >= self.layout.first_line and any(cell.strip() for cell in cells):
                    yield from self._read(line, cells, problem)

    def _read(self, line: int, cells: list[str], problem: str) -> Iterator[Record]:
        raw = tuple(cells)
        if problem:
            yield Record(line, {}, raw, problem)
            return
        columns = self.layout.columns
        if not columns:
            addresses = _without_header(cells)
            yield from (Record(line, {"email": found}, raw) for found in addresses)
            return
        if any(cell.strip() for cell in cells[len(columns) :]):
            problem = f"{len(cells)} cells where the first line names {len(columns)}"
        named: dict[str, str] = {}
        for column, cell in zip(columns, cells, strict=False):
            text = unescape_cell(_trimmed(cell))
            if column and text:
                named.setdefault(column, text)
        if "attributes" in named:
            named = _with_attributes(named)
        named["email"] = address_in(named.get("email", ""))
        yield Record(line, named, raw, problem)


def address_in(cell: str) -> str:
    """Return the address of a cell such as `Ada <ada@example.org>`; else the stripped cell."""
    bracketed = _IN_BRACKETS.search(cell)
    if bracketed:
        return bracketed.group(1)
    return cell.strip(" \t\r\n,;'\"" + _INVISIBLE).removeprefix("mailto:")


def _without_header(cells: Sequence[str]) -> list[str]:
    """Return the addresses of a record without named columns.

    That is all cells if each is an address, else the first address; without any, the first cell.
    """
    filled = [cell for cell in map(_trimmed, cells) if cell]
    found = [address_in(cell) for cell in filled if _has_address(cell)]
    if not found:
        return filled[:1]
    return found if len(found) == len(filled) else found[:1]


def _has_address(cell: str) -> bool:
    return _ADDRESS.search(cell) is not None


def _trimmed(cell: str) -> str:
    return cell.strip(" \r\n\t" + _INVISIBLE)


def _with_attributes(cells: dict[str, str]) -> dict[str, str]:
    """Add listmonk's JSON attributes to `cells`, unless a column already has a value."""
    try:
        attributes = json.loads(cells["attributes"])
    except ValueError:
        return cells
    if not isinstance(attributes, dict):
        return cells
    for name in FROM_ATTRIBUTES:
        value = attributes.get(name)
        if isinstance(value, list) and all(isinstance(word, str) for word in value):
            cells.setdefault(name, join_words(value))
        elif isinstance(value, str | int) and not isinstance(value, bool):
            cells.setdefault(name, str(value))
    return cells


# --- Layout -------------------------------------------------------------------------------------


def _layout(sample: Sequence[str], name: str) -> _Layout:
    if not any(line.strip() for line in sample):
        raise PaperboyError(f"{name}: the file is empty")
    skipped = 0
    if declared := _SEP_LINE.fullmatch(sample[0].lstrip(_INVISIBLE)):
        sample, skipped = sample[1:], 1
    candidates = [declared.group(1)] if declared else list(DELIMITERS)
    tables = {d: list(_records(_Lines(iter(sample)), d)) for d in candidates}
    delimiter = max(tables, key=lambda d: _fit(tables[d]))
    rows = [(line, cells) for line, cells, _ in tables[delimiter] if any(c.strip() for c in cells)]
    for place, (line, cells) in enumerate(rows):
        columns = tuple(map(_column, cells))
        if "email" in columns:
            all_known = all(
                column in OURS for column, cell in zip(columns, cells, strict=True) if cell.strip()
            )
            is_ours = set(columns) >= _MAIN and (all_known or set(columns) >= _OURS_ONLY)
            return _Layout(delimiter, line + skipped + 1, columns, is_ours)
        if any(map(_has_address, cells)):
            if place == 0:
                return _Layout(delimiter, line + skipped, ())
            return _unnamed(delimiter, rows[place - 1], rows[place:], skipped)
    raise PaperboyError(f"{name}: no column has email addresses; name one `email` in line 1")


def _unnamed(
    delimiter: str,
    header: tuple[int, list[str]],
    rows: Sequence[tuple[int, list[str]]],
    skipped: int,
) -> _Layout:
    """Return the layout if the header names no email column: take the one with most addresses."""
    line, names = header
    width = max(len(cells) for _, cells in rows)
    counts = [
        sum(_has_address(cells[place]) for _, cells in rows if place < len(cells))
        for place in range(width)
    ]
    columns = [_column(name) for name in names] + [""] * (width - len(names))
    columns[counts.index(max(counts))] = "email"
    return _Layout(delimiter, line + skipped + 1, tuple(columns))


def _fit(rows: Sequence[tuple[int, list[str], str]]) -> tuple[int, int, int]:
    """Return the score of a delimiter: known columns, rows that it splits, cells at most."""
    filled = [cells for _, cells, _ in rows if any(cell.strip() for cell in cells)]
    recognised = max((sum(bool(_column(cell)) for cell in cells) for cells in filled), default=0)
    return recognised, sum(len(cells) > 1 for cells in filled), max(map(len, filled), default=0)


def _column(name: str) -> str:
    """Return our name for a column, ignoring case and punctuation; "" if it is unknown."""
    folded = unicodedata.normalize("NFKC", name.strip(_INVISIBLE)).casefold()
    letters = "".join(character for character in folded if character.isalnum())
    if letters in EMAIL_NAMES:
        return "email"
    return _BY_LETTERS.get(letters) or NAMES.get(letters, "")


_BY_LETTERS: Final = {name.replace("_", ""): name for name in OURS}


# --- Text and records ---------------------------------------------------------------------------


def _as_cp1252(error: UnicodeError) -> tuple[str, int]:
    """Decode octets that are not UTF-8 as Windows-1252, which Excel writes on Windows."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    octets = error.object[error.start : error.end]
    text = "".join(
        bytes([octet]).decode("cp1252" if octet not in _UNDEFINED else "latin-1")
        for octet in octets
    )
    return text, error.end


_UNDEFINED: Final = frozenset({0x81, 0x8D, 0x8F, 0x90, 0x9D})
codecs.register_error("paperboy-cp1252", _as_cp1252)


class _Text:
    """A binary file as text lines of bounded length, from its beginning; it stays open."""

    def __init__(self, binary: BinaryIO) -> None:
        binary.seek(0)
        encoding, errors = _encoding(binary.read(1_024))
        binary.seek(0)
        self._wrapper = io.TextIOWrapper(binary, encoding=encoding, errors=errors, newline="")

    def __enter__(self) -> Iterator[str]:
        return iter(lambda: self._wrapper.readline(LONGEST_LINE + 1), "")

    def __exit__(self, *_: object) -> None:
        self._wrapper.detach()


def _encoding(head: bytes) -> tuple[str, str]:
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32", "replace"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16", "replace"
    if head.startswith(codecs.BOM_UTF8):
        return "utf-8-sig", "paperboy-cp1252"
    if head[1::2].count(0) > len(head) / 4:
        return "utf-16-le", "replace"
    if head[::2].count(0) > len(head) / 4:
        return "utf-16-be", "replace"
    return "utf-8", "paperboy-cp1252"


class _RunawayError(Exception):
    """Raised when a record exceeds the limits, as with an unclosed quotation mark."""


class _Lines:
    """Lines with a counter, which can be returned to be read again."""

    def __init__(self, text: Iterator[str]) -> None:
        self._text = text
        self._again: deque[str] = deque()
        self.lines: list[str] = []  # since the last record
        self.number = 0  # of the last line returned
        self.is_over = False

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        if self._again:
            line = self._again.popleft()
        else:
            try:
                line = next(self._text)
            except StopIteration:
                self.is_over = True
                raise
        self.number += 1
        self.lines.append(line)
        if len(self.lines) > LONGEST_RECORD or len(line) > LONGEST_LINE:
            raise _RunawayError
        return line.replace("\0", "")

    def give_back(self, lines: Sequence[str]) -> None:
        self._again.extendleft(reversed(lines))
        self.number -= len(lines)
        self.is_over = False


def _records(lines: _Lines, delimiter: str) -> Iterator[tuple[int, list[str], str]]:
    """Yield (first line, cells, problem) of each record.

    If a record is too long or its quotation mark is not closed, yield only its first line, with the
    problem, and parse the lines after it again.
    """
    reader = csv.reader(lines, delimiter=delimiter)
    while True:
        first = lines.number + 1
        lines.lines = []
        try:
            cells = next(reader)
        except StopIteration:
            return
        except (_RunawayError, csv.Error):
            is_whole = False
        else:
            is_whole = not (
                len(lines.lines) > 1 and lines.is_over and _is_unclosed(lines.lines, delimiter)
            )
        if is_whole:
            yield first, cells, ""
            continue
        head, rest = lines.lines[0], lines.lines[1:]
        lines.give_back(rest)
        reader = csv.reader(lines, delimiter=delimiter)
        too_long = len(head) > LONGEST_LINE
        problem = "the line is too long" if too_long else _UNCLOSED
        yield first, [head[:200].rstrip("\r\n")], problem


def _is_unclosed(lines: Sequence[str], delimiter: str) -> bool:
    try:
        list(csv.reader(lines, delimiter=delimiter, strict=True))
    except csv.Error as error:
        return "end of data" in str(error)
    return False
