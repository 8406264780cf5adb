"""Create the DKIM-Signature headers of a mail."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final

from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256

from pipeline.dkim import canonical
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
        body_hash = b64encode(hashlib.sha256(canonical.body(body)).digest())
        fields = dict(canonical.fields(head))
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
        whole = covered + b"dkim-signature:" + canonical.relaxed(unsigned)
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
