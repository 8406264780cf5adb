"""DKIM keys: parse private keys and build the DNS records of their public halves."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from pipeline.errors import SettingsError

SHORTEST: Final = 1024  # bits; RFC 8301, section 3.2: verifiers ignore shorter keys
ENOUGH: Final = 2048  # bits; recommended by the same section

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_SELECTOR = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_KEY = re.compile(
    r"(?P<selector>[^\s:,]+):"
    r"(?P<key>-----BEGIN [A-Z ]+-----.+?-----END [A-Z ]+-----|[^\s,]+)[\s,]*",
    re.DOTALL,
)
_PEM = re.compile(r"(-----BEGIN [A-Z ]+-----)(.+)(-----END [A-Z ]+-----)", re.DOTALL)


class Algorithm(StrEnum):
    RSA = "rsa"  # every mailbox provider can verify it
    ED25519 = "ed25519"  # short and fast, but many cannot verify it yet: only in second place


@dataclass(frozen=True, slots=True)
class Record:
    """A DNS record to publish."""

    name: str
    value: str
    type: str = "TXT"

    @property
    def line(self) -> str:
        """The record as a line of a zone file, with a long value split into strings of 255."""
        parts = [self.value[at : at + 255] for at in range(0, len(self.value), 255)]
        quoted = " ".join(f'"{part}"' for part in parts)
        return f"{self.name}. {self.type} {quoted}"


@dataclass(frozen=True, slots=True)
class Key:
    """A private key, and the selector under which its public key is published."""

    selector: str
    private: RSAPrivateKey | Ed25519PrivateKey = field(repr=False)

    @property
    def algorithm(self) -> Algorithm:
        is_rsa = isinstance(self.private, RSAPrivateKey)
        return Algorithm.RSA if is_rsa else Algorithm.ED25519

    @property
    def bits(self) -> int:
        return self.private.key_size if isinstance(self.private, RSAPrivateKey) else 256

    def pem(self) -> str:
        """Return the private key as unencrypted PEM."""
        return _to_pem(self.private)

    @property
    def is_short(self) -> bool:
        return self.algorithm is Algorithm.RSA and self.bits < ENOUGH

    def record(self, domain: str) -> Record:
        """Return the TXT record with the public key, which verifiers look up."""
        public = self.private.public_key()
        if self.algorithm is Algorithm.RSA:
            octets = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        else:
            octets = public.public_bytes(Encoding.Raw, PublicFormat.Raw)  # RFC 8463, section 4.2
        value = f"v=DKIM1; k={self.algorithm}; p={b64encode(octets).decode()}"
        return Record(f"{self.selector}._domainkey.{domain}", value)


def check_selector(selector: str) -> None:
    """Raise SettingsError if the selector is not a valid DNS name of at most 63 characters."""
    if len(selector) > 63 or not _SELECTOR.fullmatch(selector):
        raise SettingsError(f"{selector!r} is no selector: letters, digits and hyphens make one")


def new_key(algorithm: Algorithm, bits: int = ENOUGH) -> str:
    """Generate a private key and return it as unencrypted PEM."""
    private = (
        generate_private_key(public_exponent=65_537, key_size=bits)
        if algorithm is Algorithm.RSA
        else Ed25519PrivateKey.generate()
    )
    return _to_pem(private)


def _to_pem(private: RSAPrivateKey | Ed25519PrivateKey) -> str:
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def read_keys(setting: str) -> tuple[Key, ...]:
    """Parse DKIM_KEYS: `selector:path` or `selector:PEM`, separated by white space or commas.

    Raises SettingsError if a key is invalid or a selector is repeated; its text never contains a
    key.
    """
    keys = tuple(_keys(setting.replace("\\n", "\n").strip()))
    selectors = [key.selector for key in keys]
    if twice := {name for name in selectors if selectors.count(name) > 1}:
        raise SettingsError(f"DKIM_KEYS: two keys of one selector: {', '.join(sorted(twice))}")
    return keys


def read_key(selector: str, pem: str) -> Key:
    """Parse a private key in PEM.

    Raises SettingsError if it is encrypted, malformed, neither RSA nor Ed25519, or shorter than
    1024 bits, since verifiers would ignore it.
    """
    check_selector(selector)
    try:
        private = load_pem_private_key(_on_lines(pem), password=None)
    except TypeError:
        raise SettingsError(f"the key of {selector} is encrypted; give it without") from None
    except (ValueError, UnsupportedAlgorithm):
        raise SettingsError(f"the key of {selector} is no private key in PEM") from None
    if not isinstance(private, RSAPrivateKey | Ed25519PrivateKey):
        raise SettingsError(f"the key of {selector} is neither RSA nor Ed25519")
    key = Key(selector, private)
    if key.algorithm is Algorithm.RSA and key.bits < SHORTEST:
        raise SettingsError(
            f"the key of {selector} has {key.bits} bits, and mailboxes ignore fewer than {SHORTEST}"
        )
    return key


def _keys(setting: str) -> Iterator[Key]:
    at = 0
    while at < len(setting):
        given = _KEY.match(setting, at)
        if given is None:
            raise SettingsError("DKIM_KEYS: must look like selector:/path/to/key.pem")
        try:
            yield read_key(given["selector"], _pem(given["selector"], given["key"]))
        except SettingsError as error:
            raise SettingsError(f"DKIM_KEYS: {error}") from None
        at = given.end()


def _pem(selector: str, key: str) -> str:
    """Return `key` if it is PEM, else the content of the file with that name."""
    if key.startswith("-----"):
        return key
    try:
        return Path(key).read_text("ascii")
    except (OSError, ValueError) as error:
        # Redact the path: it may be a mistyped key.
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise SettingsError(f"the file of {selector} cannot be read: {why}") from None


def _on_lines(pem: str) -> bytes:
    """Restore the line breaks of PEM, which some ways to set an environment variable remove."""
    found = _PEM.search(pem)
    if found is None:
        return pem.encode()
    first, content, last = found.groups()
    return f"{first}\n{''.join(content.split())}\n{last}\n".encode()
