"""Create and verify the DKIM-Signature headers of a mail (RFC 6376), with relaxed canonicalisation.

Signatures are verified only in the form that we sign (section 6).
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from pipeline.dkim.keys import Algorithm, Key

# The headers that a signature covers if a mail has them. RFC 8058, section 4, requires both
# List-Unsubscribe headers.
SIGNED: Final = (
    "from",
    "reply-to",
    "to",
    "subject",
    "date",
    "message-id",
    "mime-version",
    "content-type",
    "list-id",
    "list-unsubscribe",
    "list-unsubscribe-post",
    "feedback-id",
)
FOLD: Final = 76


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs with the first key of each algorithm: RSA, which every verifier supports, then Ed25519.

    Any further keys do not sign; `paperboy doctor` checks their DNS records.
    """

    keys: tuple[Key, ...]
    domain: str

    @property
    def signing(self) -> tuple[Key, ...]:
        firsts = {key.algorithm: key for key in reversed(self.keys)}
        return tuple(firsts[algorithm] for algorithm in Algorithm if algorithm in firsts)

    def sign(self, mail: bytes, now: datetime) -> bytes:
        """Return `mail` with its signatures prepended, ready for DATA.

        Leading dots are doubled in the argument, and in the result.
        """
        # Dots are doubled for the SMTP transfer only (RFC 5321, section 4.5.2); verifiers see them
        # single.
        head, _, body = mail.replace(b"\r\n.", b"\r\n").partition(b"\r\n\r\n")
        body_hash = b64encode(hashlib.sha256(relaxed_body(body)).digest())
        fields = dict(header_fields(head))
        present = tuple(name for name in SIGNED if name.encode() in fields)
        covered = b"".join(b"%b:%b\r\n" % (n, fields[n]) for n in map(str.encode, present))
        made = (
            self._signature(key, present, covered, body_hash, int(now.timestamp()))
            for key in self.signing
        )
        return b"".join((*made, mail))

    def _signature(
        self, key: Key, present: tuple[str, ...], covered: bytes, body_hash: bytes, at: int
    ) -> bytes:
        tags = (
            f"v=1; a={key.algorithm}-sha256; c=relaxed/relaxed;",
            f"d={self.domain}; s={key.selector};",
            f"t={at}; {_listed(present)};",
            f"bh={body_hash.decode()};",
            "b=",
        )
        unsigned = "\r\n ".join(tags).encode()
        # Section 3.7: the new header comes last, with an empty signature.
        whole = covered + b"dkim-signature:" + relaxed_header(unsigned)
        return b"DKIM-Signature: " + unsigned + _folded(_sign(key, whole)) + b"\r\n"


def aligned(one: str, other: str) -> bool:
    """Return whether two domains are aligned in DMARC's relaxed mode (RFC 7489, section 3.1.1).

    The mode requires the same organisational domain. Without a list of public suffixes that is
    assumed if the domains are equal or one is a subdomain of the other.
    """
    first, second = sorted((one.lower().rstrip("."), other.lower().rstrip(".")), key=len)
    return first == second or ("." in first and second.endswith(f".{first}"))


def _sign(key: Key, whole: bytes) -> str:
    if isinstance(key.private, RSAPrivateKey):
        made = key.private.sign(whole, PKCS1v15(), SHA256())
    else:
        made = key.private.sign(hashlib.sha256(whole).digest())  # RFC 8463, section 3
    return b64encode(made).decode()


@lru_cache(maxsize=64)
def _listed(present: Sequence[str]) -> str:
    """Return the `h=` tag with the names of the signed headers, folded. Cached.

    From is listed once more than it occurs, so that another one cannot be prepended (section 8.15).
    """
    return _joined(("h=from", *present))


def _joined(names: Iterable[str]) -> str:
    lines = [""]
    for name in names:
        separator = ":" if lines[-1] else ""
        if len(lines[-1]) + len(name) + 2 > FOLD - len("t=1234567890; "):
            lines[-1] += separator
            lines.append(name)
        else:
            lines[-1] += separator + name
    return "\r\n ".join(lines)


def _folded(signature: str) -> bytes:
    width = FOLD - len(" b=")
    lines = (signature[at : at + width] for at in range(0, len(signature), width))
    return "\r\n ".join(lines).encode()


_RUN = re.compile(rb"  +")
_TAB_AS_SPACE = bytes.maketrans(b"\t", b" ")


def header_fields(head: bytes) -> list[tuple[bytes, bytes]]:
    """Return the header fields in order, as (name in lower case, value in relaxed form)."""
    unfolded = head.replace(b"\r\n ", b" ").replace(b"\r\n\t", b" ")
    lines = (line.partition(b":") for line in unfolded.split(b"\r\n") if line)
    return [(name.strip().lower(), relaxed_header(value)) for name, _, value in lines]


def relaxed_header(value: bytes) -> bytes:
    """Unfold a header's value and collapse each run of white space into one space."""
    return b" ".join(value.split())


def relaxed_body(octets: bytes) -> bytes:
    """Return the body in relaxed form, ready to be hashed; b"" if it has only empty lines.

    It makes few passes over the whole body: for 40 KB they take as long as a signature.
    """
    if b"\t" in octets:
        octets = octets.translate(_TAB_AS_SPACE)
    octets = _RUN.sub(b" ", octets).replace(b" \r\n", b"\r\n")
    octets = octets.removesuffix(b" ").rstrip(b"\r\n")
    return octets + b"\r\n" if octets else b""


# --- Verify -------------------------------------------------------------------------------------

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
    fields = header_fields(head)
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
    if _octets(said.get("bh", "")) != hashlib.sha256(relaxed_body(body)).digest():
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
