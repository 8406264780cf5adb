"""The relaxed form of a mail, whose white space may change on the way (RFC 6376, section 3.4)."""

from __future__ import annotations

import re

_RUN = re.compile(rb"  +")
_TAB_AS_SPACE = bytes.maketrans(b"\t", b" ")


def fields(head: bytes) -> list[tuple[bytes, bytes]]:
    """The headers as (name in lower case, value in relaxed form), in their order."""
    unfolded = head.replace(b"\r\n ", b" ").replace(b"\r\n\t", b" ")
    lines = (line.partition(b":") for line in unfolded.split(b"\r\n") if line)
    return [(name.strip().lower(), relaxed(value)) for name, _, value in lines]


def relaxed(value: bytes) -> bytes:
    """The value of a header on one line, each run of white space in it one space."""
    return b" ".join(value.split())


def body(octets: bytes) -> bytes:
    """The body as its hash is made of it; empty where it has nothing but empty lines.

    In few passes over the whole: there may be 40 KB of it, and they take as long as a signature.
    """
    if b"\t" in octets:
        octets = octets.translate(_TAB_AS_SPACE)
    octets = _RUN.sub(b" ", octets).replace(b" \r\n", b"\r\n")
    octets = octets.removesuffix(b" ").rstrip(b"\r\n")
    return octets + b"\r\n" if octets else b""
