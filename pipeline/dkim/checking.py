"""Verify DKIM signatures, but only in the form that we sign (RFC 6376, section 6)."""

from __future__ import annotations

import hashlib
import re
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from pipeline.dkim import signing
from pipeline.dkim.keys import Algorithm

_OWN = re.compile(rb"((?:^|;)\s*b\s*=)[^;]*")


@dataclass(frozen=True, slots=True)
class Checked:
    """The result for one signature; `problem` is None if it is valid."""

    name: str  # the DNS name of its public key
    problem: str | None = None


def check(mail: bytes, published: Callable[[str], str | None]) -> list[Checked]:
    """Verify every signature of a mail and return the results, in the order of the headers.

    `mail` is as received, so that leading dots are not doubled; `published` returns the TXT record
    of a DNS name, or None. A signature in another form than ours (another canonicalisation or hash,
    `l=`) counts as invalid.
    """
    head, _, body = mail.partition(b"\r\n\r\n")
    fields = signing.header_fields(head)
    signatures = [value for name, value in fields if name == b"dkim-signature"]
    return [_checked(value, fields, body, published) for value in signatures]


def tags(record: str) -> dict[str, str]:
    """Parse a tag list such as `v=DKIM1; k=rsa; p=...`, without white space (RFC 6376, 3.2)."""
    pairs = (part.partition("=") for part in record.split(";") if part.strip())
    return {name.strip(): "".join(value.split()) for name, _, value in pairs}


def _checked(
    value: bytes,
    fields: list[tuple[bytes, bytes]],
    body: bytes,
    published: Callable[[str], str | None],
) -> Checked:
    said = tags(value.decode("ascii", "replace"))
    name = f"{said.get('s')}._domainkey.{said.get('d')}"
    if said.get("c") != "relaxed/relaxed" or "l" in said:
        return Checked(name, "it is not in the form that we sign in")
    if _octets(said.get("bh", "")) != hashlib.sha256(signing.relaxed_body(body)).digest():
        return Checked(name, "the body was changed")
    record = published(name)
    if record is None:
        return Checked(name, "its key is not published")
    whole = _covered(said.get("h", ""), fields) + b"dkim-signature:" + _OWN.sub(rb"\1", value)
    return Checked(name, _verify(said, tags(record), whole))


def _covered(names: str, fields: list[tuple[bytes, bytes]]) -> bytes:
    """Return the signed headers in relaxed form; if a name repeats, from the last field upwards.

    A name without a field left adds nothing.
    """
    left: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        left.setdefault(name, []).append(value)
    lines = []
    for name in names.lower().encode().split(b":"):
        if left.get(name):
            lines.append(b"%b:%b\r\n" % (name, left[name].pop()))
    return b"".join(lines)


def _verify(said: Mapping[str, str], record: Mapping[str, str], whole: bytes) -> str | None:
    signature = _octets(said.get("b", ""))
    algorithm = record.get("k", Algorithm.RSA)
    if said.get("a") != f"{algorithm}-sha256":
        return f"it is by {said.get('a')}, and the published key is {algorithm}"
    try:
        if algorithm == Algorithm.ED25519:
            short = Ed25519PublicKey.from_public_bytes(_octets(record.get("p", "")))
            short.verify(signature, hashlib.sha256(whole).digest())
            return None
        public = load_der_public_key(_octets(record.get("p", "")))
        if not isinstance(public, RSAPublicKey):
            return "the published key is not what it says"
        public.verify(signature, whole, PKCS1v15(), SHA256())
    except ValueError:
        return "the published key cannot be read"
    except InvalidSignature:
        return "a header was changed, or another key is published"
    return None


def _octets(text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except ValueError:
        return b""
