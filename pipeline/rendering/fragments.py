"""Fragments of a mail in quoted-printable, joined in any order, with personal placeholders."""

from __future__ import annotations

import re
from binascii import a2b_qp, b2a_qp
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from markupsafe import escape

LINE = 76  # RFC 2045, section 6.7, rule 5: with the "=" of a soft line break

# A mailbox file (mbox) quotes a line that begins with "From " with ">", which invalidates the DKIM
# signature of the body (RFC 4155, appendix A). Programs that can undo it also quote ">From ".
_FROM_LINE = re.compile(rb"^(>*)From ", re.MULTILINE)
_LONG_LINE = re.compile(rb"^.{77,}$", re.MULTILINE)
_GROWN = (b"=46rom ", b"=20\n", b"=09\n")  # `b2a_qp` does not count the escape of a trailing space


@dataclass(frozen=True, slots=True)
class Rendered:
    """A mail without headers; `b"".join(text)` is a quoted-printable body."""

    subject: str
    text: tuple[bytes, ...]
    html: tuple[bytes, ...]


def fragment(text: str) -> bytes:
    """Return `text` in 7-bit lines of at most 76 with CRLF, dot-stuffed (RFC 5321, 4.5.2).

    It ends in a line break, a soft one if `text` does not: the next fragment starts a line of its
    own, so that joined fragments decode to the joined texts. No line begins with "From ", at the
    start of `text` or after a soft line break. Return b"" if `text` is empty.
    """
    if not text:
        return b""
    encoded = b2a_qp(text.encode())
    if not encoded.endswith(b"\n"):
        encoded = _soft_break(encoded)
    if b"From " in encoded:
        encoded = _FROM_LINE.sub(rb"\1=46rom ", encoded)
    if any(grown in encoded for grown in _GROWN):
        encoded = _LONG_LINE.sub(_divide, encoded)
    encoded = encoded.replace(b"\n", b"\r\n").replace(b"\n.", b"\n..")
    return b"." + encoded if encoded.startswith(b".") else encoded


def escaped(text: str) -> bytes:
    """Return the `fragment` of `text`, escaped for HTML."""
    return fragment(str(escape(text)))


def plain(wire: tuple[bytes, ...]) -> str:
    """Return the text of joined fragments as a mail app decodes it."""
    body = b"".join(wire).replace(b"\r\n", b"\n")
    undotted = body.removeprefix(b".").replace(b"\n.", b"\n")
    return a2b_qp(undotted).decode()


def _divide(line: re.Match[bytes]) -> bytes:
    """Split a line if its escapes made it a few bytes too long."""
    cut = LINE - 1
    octet = line[0].rfind(b"=", cut - 2, cut)  # "=C3" is not split
    cut = octet if octet >= 0 else cut
    return line[0][:cut] + b"=\n" + line[0][cut:]


def _soft_break(encoded: bytes) -> bytes:
    last_line = len(encoded) - encoded.rfind(b"\n") - 1
    if last_line < LINE:
        return encoded + b"=\n"
    last = 3 if encoded[-3:-2] == b"=" else 1
    return encoded[:-last] + b"=\n" + encoded[-last:] + b"=\n"


# Private-use characters, which `words.clean` removes from all text except our own.
_GAP = re.compile("\ue000([a-z_0-9]+)\ue001")


@dataclass(frozen=True, slots=True)
class Part:
    """A fragment with placeholders.

    It is filled by % formatting: twice as fast as joining pieces, and the result is one object.
    """

    form: bytes  # with a "%b" for each placeholder; a literal "%" is doubled
    gaps: tuple[str, ...]
    _chosen: Callable[[Mapping[str, bytes]], Any] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_chosen", itemgetter(*self.gaps) if self.gaps else _nothing)

    def filled(self, wire: Mapping[str, bytes]) -> bytes:
        filled: bytes = self.form % self._chosen(wire)
        return filled


def placeholder(name: str) -> str:
    """Return the placeholder that a template gets if a value is not known yet."""
    return f"\ue000{name}\ue001"


def part(rendered: str) -> Part:
    split = _GAP.split(rendered)
    pieces = [fragment(piece).replace(b"%", b"%%") for piece in split[::2]]
    return Part(form=b"%b".join(pieces), gaps=tuple(split[1::2]))


def _nothing(_wire: Mapping[str, bytes]) -> tuple[()]:
    return ()
