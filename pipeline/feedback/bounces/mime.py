"""Parse a mail into headers and text parts: bounded, lenient, in one pass.

`email.parser` is not used: its modern policy raises on malformed headers (`To: "`) and takes ten
times as long. Here malformed input is returned undecoded.
"""

from __future__ import annotations

import base64
import binascii
import html
import quopri
import re
from collections.abc import Iterator
from dataclasses import dataclass
from encodings.aliases import aliases
from functools import cached_property
from itertools import takewhile
from typing import Final

LONGEST: Final = 1 << 20  # octets of a mail that are parsed; the rest is the returned mail
_DEEPEST: Final = 6  # multiparts within multiparts
_MOST_PARTS: Final = 60
_LONGEST_HEAD: Final = 1 << 16
_LONGEST_HTML: Final = 200_000  # octets of a page, and characters of a text
_LONGEST_TEXT: Final = 100_000

RETURNED: Final = (
    "message/rfc822",
    "message/global",
    "message/global-headers",
    "text/rfc822-headers",
    "message/rfc822-headers",
    "message/partial",
)
"""Content types of parts that hold the returned mail, or its headers."""

_WORD: Final = re.compile(r"=\?([\w.:-]{1,40})(?:\*[\w-]{0,20})?\?([bqBQ])\?([^?\s]{0,2000})\?=")
_BETWEEN_WORDS: Final = re.compile(r"(\?=)[ \t\n]{1,40}(=\?)")
_PARAMETER: Final = re.compile(r';\s*([\w*-]{1,40})\s*=\s*(?:"([^"]{0,1000})"|([^\s;]{1,1000}))')
_TAGS: Final = re.compile(r"<(?:!--|/?[a-zA-Z!])[^<>]{0,4000}>")
_UNSEEN: Final = re.compile(r"<(style|script|head)\b", re.I)
_BREAKS: Final = re.compile(
    r"<(?:br|/p|/div|/tr|/h\d|/li|/td|/title|p|tr|li|h\d|div)\b[^<>]{0,1000}>", re.I
)
_CODECS: Final = (
    *("ascii", "utf_8", "utf_16", "utf_16_be", "utf_16_le", "utf_32", "utf_32_be", "utf_32_le"),
    *("utf_7", "latin_1", *(f"iso8859_{part}" for part in range(2, 17) if part != 12)),
    *(f"cp125{page}" for page in range(9)),
    *("cp437", "cp720", "cp737", "cp775", "cp850", "cp852", "cp855", "cp857", "cp858", "cp860"),
    *("cp861", "cp862", "cp863", "cp864", "cp865", "cp866", "cp869", "cp874", "cp1006", "cp1125"),
    *("koi8_r", "koi8_u", "koi8_t", "kz1048", "ptcp154", "tis_620"),
    *("mac_roman", "mac_cyrillic", "mac_greek", "mac_latin2", "mac_iceland", "mac_turkish"),
    *("gb18030", "hz", "big5", "big5hkscs", "cp949", "cp950", "johab", "iso2022_kr"),
    *("cp932", "euc_jp", "euc_jis_2004", "shift_jis_2004", "iso2022_jp_ext", "iso2022_jp_2004"),
)
"""The only codecs that a mail may select: text codecs, in C or table-driven, linear in time.

Python's `codecs` would also open compressors, `idna` and `punycode` (quadratic), or import a module
by a name that a stranger wrote.
"""

_WIDER: Final = {
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "cp936": "gb18030",
    "euc_kr": "cp949",
    "ks_c_5601_1987": "cp949",
    "shift_jis": "cp932",
    "iso2022_jp": "iso2022_jp_ext",
    "iso2022_jp_1": "iso2022_jp_ext",
    "iso2022_jp_2": "iso2022_jp_2004",
    "utf_8_sig": "utf_8",
}
"""Codecs replaced by a superset, since mails under their name often contain more characters."""

_MISNAMED: Final = {
    "unicode11utf7": "utf_7",
    "utf8mb3": "utf_8",
    "utf8mb4": "utf_8",
    "unicode": "utf_16",
    "xunknown": "utf_8",
    "unknown8bit": "utf_8",
    "unknown": "utf_8",
    "default": "utf_8",
    "ansi": "cp1252",
    "xgbk": "gb18030",
    "xsjis": "cp932",
    "xeucjp": "euc_jp",
    "iso88598i": "iso8859_8",
    "iso88598e": "iso8859_8",
    "macintosh": "mac_roman",
    "xmacroman": "mac_roman",
    "xmaccyrillic": "mac_cyrillic",
}
"""Charset labels seen in mails that are missing from Python's aliases; see `_label`."""


def _label(charset: str) -> str:
    """Normalise a charset name to lower-case letters and digits: "UTF-8", "utf_8" -> "utf8"."""
    return re.sub(r"[^a-z0-9]", "", charset[:40].lower())


_CHARSETS: Final = (
    {_label(name): name for name in _CODECS}
    | {
        _label(alias): _WIDER.get(codec, codec)
        for alias, codec in aliases.items()
        if codec in _CODECS or codec in _WIDER
    }
    | {_label(name): codec for name, codec in _WIDER.items()}
    | _MISNAMED
)
"""Codecs by normalised label."""


@dataclass(frozen=True, slots=True)
class Headers:
    """Header fields in order: names in lower case, values unfolded, encoded words decoded."""

    fields: tuple[tuple[str, str], ...] = ()

    def get(self, name: str) -> str:
        """Return the first value of that name; "" if there is none."""
        return next((value for field, value in self.fields if field == name), "")

    def all(self, name: str) -> list[str]:
        """Return every value of that name, in order."""
        return [value for field, value in self.fields if field == name]

    def __contains__(self, name: str) -> bool:
        return any(field == name for field, _ in self.fields)


@dataclass(frozen=True, slots=True)
class Part:
    """A leaf part of a mail, or an enclosed mail, which is not parsed further."""

    type: str  # "text/plain", in lower case
    octets: bytes  # with the transfer encoding decoded
    charset: str = ""
    cut: bool = False  # truncated: the next boundary is missing

    @property
    def text(self) -> str:
        return _text(self.octets, self.charset)

    @property
    def words(self) -> str:
        """Return the text as displayed; tags and invisible content are removed from HTML."""
        if self.type != "text/html":
            return self.text
        seen = _BREAKS.sub("\n", _seen(self.text[:_LONGEST_HTML]))
        lines = html.unescape(_TAGS.sub(" ", seen)).replace("\xa0", " ").split("\n")
        return "\n".join(re.sub(r"[ \t]{2,}", " ", line).strip() for line in lines)


@dataclass(frozen=True)
class Mail:
    headers: Headers
    parts: tuple[Part, ...]

    @cached_property
    def written(self) -> str:
        """Return the readable text before the first enclosed mail, at most 100,000 characters.

        The HTML parts are added only if the plain text has no more than 20 characters.
        """
        before = list(takewhile(lambda part: part.type not in RETURNED, self.parts))
        plain = "\n".join(part.text for part in before if part.type == "text/plain")
        if len(plain.strip()) <= 20:
            plain += "\n".join(part.words for part in before if part.type == "text/html")
        return plain[:_LONGEST_TEXT]


def parse_mail(octets: bytes) -> Mail:
    """Parse any octets into a mail; malformed input gives a mail without headers or text."""
    head, body = _split(_in_lines(octets[:LONGEST]).lstrip(b"\n"))
    headers = read_headers(head)
    parts: list[Part] = []
    _collect(headers, body, parts, depth=0, cut=False)
    return Mail(headers, tuple(parts))


def read_headers(head: bytes) -> Headers:
    """Parse the fields of a header, a delivery status or a feedback report; the syntax is one."""
    fields: list[tuple[str, str]] = []
    for line in _text(head[:_LONGEST_HEAD], "").split("\n"):
        if line[:1] in (" ", "\t") and fields:
            name, value = fields.pop()
            fields.append((name, f"{value} {line.strip()}"))
            continue
        name, colon, value = line.partition(":")
        if colon and name and " " not in name.strip():
            fields.append((name.strip().lower(), value.strip()))
    return Headers(tuple((name, _decoded(value)) for name, value in fields))


# --- Parts --------------------------------------------------------------------------------------


def _in_lines(octets: bytes) -> bytes:
    """Normalise CRLF, CR and CR CR LF to LF, and remove NUL."""
    for end in (b"\r\r\n", b"\r\n", b"\r"):
        octets = octets.replace(end, b"\n")
    return octets.replace(b"\0", b"")


def _split(octets: bytes) -> tuple[bytes, bytes]:
    if octets.startswith(b"\n"):
        return b"", octets[1:]
    head, _, body = octets.partition(b"\n\n")
    return head, body


def _collect(headers: Headers, body: bytes, parts: list[Part], *, depth: int, cut: bool) -> None:
    if len(parts) >= _MOST_PARTS:
        return
    type_, parameters = _content_type(headers)
    boundary = parameters.get("boundary", "")
    if type_.startswith("multipart/") and boundary and depth < _DEEPEST:
        pieces = list(_pieces(body, boundary.encode("utf-8", "replace")))
        for piece, unfinished in pieces:
            inner = _split(piece)
            _collect(read_headers(inner[0]), inner[1], parts, depth=depth + 1, cut=unfinished)
        if pieces:
            return
    if type_.startswith("multipart/"):
        type_ = "text/plain"
    octets = _transferred(body, headers.get("content-transfer-encoding").lower())
    parts.append(Part(type_, octets, parameters.get("charset", ""), cut))


def _pieces(body: bytes, boundary: bytes) -> Iterator[tuple[bytes, bool]]:
    """Yield each part between the boundaries, and whether the boundary after it is missing."""
    marks = list(re.finditer(rb"^--" + re.escape(boundary) + rb"(--)?[ \t]*$", body, re.M))
    for number, mark in enumerate(marks[: _MOST_PARTS + 1]):
        if mark[1]:
            return
        end = marks[number + 1].start() if number + 1 < len(marks) else len(body)
        yield body[mark.end() + 1 : end], number + 1 == len(marks)


def _content_type(headers: Headers) -> tuple[str, dict[str, str]]:
    value = headers.get("content-type")[:4000]
    type_ = value.partition(";")[0].strip().lower()
    parameters = {
        found[1].lower().rstrip("*"): found[2] if found[2] is not None else found[3]
        for found in _PARAMETER.finditer(value)
    }
    return type_ if "/" in type_ else "text/plain", parameters


def _transferred(body: bytes, encoding: str) -> bytes:
    if "base64" in encoding:
        return _base64(body)
    if "quoted-printable" in encoding:
        return quopri.decodestring(body)
    return body


def _base64(octets: bytes) -> bytes:
    """Decode as much base64 as possible; ignore text after its end, such as a list's footer."""
    letters = re.sub(rb"[^A-Za-z0-9+/]", b"", octets.partition(b"=\n\n")[0])
    letters = letters[: len(letters) // 4 * 4] + _padded(letters[len(letters) // 4 * 4 :])
    try:
        return base64.b64decode(letters)
    except (binascii.Error, ValueError):
        return octets


def _padded(rest: bytes) -> bytes:
    return b"" if len(rest) < 2 else rest.ljust(4, b"=")


def _seen(page: str) -> str:
    """Return HTML without style, script and head elements; an unclosed element is kept."""
    visible, behind, lower = [], 0, page.lower()
    for opening in _UNSEEN.finditer(page):
        if opening.start() < behind:
            continue
        end = lower.find(f"</{opening[1].lower()}", opening.end())
        if end < 0:
            break
        visible.append(page[behind : opening.start()])
        behind = end
    return " ".join((*visible, page[behind:]))


# --- Characters ---------------------------------------------------------------------------------


def _text(octets: bytes, charset: str) -> str:
    """Decode by `charset` if it is allowed, else as UTF-8, else as ISO 2022 or Latin-1.

    Never raises; undecodable octets become U+FFFD or one character each.
    """
    declared = _CHARSETS.get(_label(charset))
    for name in (declared, "utf_8"):
        try:
            # UTF-7 can decode to lone surrogates, which no codec could encode again.
            return octets.decode(name or "ascii").encode("utf-8", "replace").decode()
        except ValueError:
            continue
    if b"\x1b$" in octets:
        return octets.decode("iso2022_jp_ext", "replace")
    if declared and declared != "ascii":
        return octets.decode(declared, "replace").encode("utf-8", "replace").decode()
    return octets.decode("latin-1")


def _decoded(value: str) -> str:
    if "=?" not in value:
        return value
    return _WORD.sub(_word, _BETWEEN_WORDS.sub(r"\1\2", value))


def _word(found: re.Match[str]) -> str:
    letters = found[3].encode("ascii", "replace")
    octets = (
        _base64(letters) if found[2] in "bB" else quopri.decodestring(letters.replace(b"_", b" "))
    )
    return _text(octets, found[1])
