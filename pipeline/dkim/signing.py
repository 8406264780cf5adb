"""The signatures in front of a mail."""

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

# What a signature covers, as far as a mail has it. RFC 8058, section 4: both List-Unsubscribe
# headers must be among them.
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
    """Signs with the first key of each algorithm, the one that all mailboxes know before the other.

    The others are there for what `paperboy doctor` asks the DNS about them.
    """

    keys: tuple[Key, ...]
    domain: str

    @property
    def signing(self) -> tuple[Key, ...]:
        firsts = {key.algorithm: key for key in reversed(self.keys)}
        return tuple(firsts[algorithm] for algorithm in Algorithm if algorithm in firsts)

    def sign(self, mail: bytes, now: datetime) -> bytes:
        """`mail` with its signatures in front; both are ready for DATA, leading dots doubled."""
        # Dots are doubled for the way to the next server only (RFC 5321, section 4.5.2). Whoever
        # checks the signature sees them single.
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
        # Section 3.7: the header that is being made comes last, its own signature left out.
        whole = covered + b"dkim-signature:" + canonical.relaxed(unsigned)
        return b"DKIM-Signature: " + unsigned + _folded(_sign(key, whole)) + b"\r\n"


def aligned(one: str, other: str) -> bool:
    """Whether DMARC's relaxed alignment counts two domains as one sender (RFC 7489, 3.1.1).

    It asks for the same organisation; without a list of all registries, that is taken for granted
    where one of them is the other or lies under it.
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
    """The tag that names what is covered, folded.

    From is named once more than it is there: nobody can put another in front (section 8.15).
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
