"""Email addresses as keys: canonical forms and keyed hashes. Pure."""

from __future__ import annotations

import hashlib
import hmac
import unicodedata
from typing import Final

import idna

ERASED: Final = ""  # the email of an erased subscriber


def email_key(email: str) -> str:
    """Return the canonical form of an address: trimmed, NFC, lower case, the domain in punycode.

    The domain follows IDNA 2008 (RFC 5890): `straße.de` and `strasse.de` are different, and so are
    names with a final or a medial sigma, and with or without a joiner. The local part is lowercased
    and not case folded, because that would merge "ß" and "ss". Dots and plus signs are kept: the
    address without them may be a different mailbox.
    """
    local, _, domain = _nfc(email.strip()).rpartition("@")
    return f"{_nfc(local.lower())}@{_domain_key(domain)}"


def _domain_key(domain: str) -> str:
    domain = domain.rstrip(".").rstrip()  # a fully qualified name ends in a dot
    try:
        # Nontransitional: deviation characters are kept. UTS 46 maps other full stops to ".",
        # so a trailing one is removed after encoding, too.
        return idna.encode(domain, uts46=True).decode().removesuffix(".")
    except idna.IDNAError:
        return _nfc(domain.lower())


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def folded_key(email: str) -> str:
    """Return the key of an address as before migration 0011, with its domain case folded.

    A suppression stores only a hash. If it was stored before 0011, it applies to every address with
    the same folded key.
    """
    local, _, domain = _nfc(email.strip()).rpartition("@")
    return email_key(f"{local}@{domain.casefold()}")


def address_hash(email: str, suppression_key: str) -> str:
    """Return the HMAC of an address, as in `suppressions`; it cannot be guessed without the key."""
    return _hash(email_key(email), suppression_key)


def folded_hash(email: str, suppression_key: str) -> str:
    """Return the HMAC of `folded_key`, as stored in `suppressions` before migration 0011."""
    return _hash(folded_key(email), suppression_key)


def _hash(key: str, suppression_key: str) -> str:
    return hmac.new(suppression_key.encode(), key.encode(), hashlib.sha256).hexdigest()
