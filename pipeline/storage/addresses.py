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


def address_hash(email: str, suppression_key: str) -> str:
    """Return the HMAC of an address, as in `suppressions`; it cannot be guessed without the key."""
    key = suppression_key.encode()
    return hmac.new(key, email_key(email).encode(), hashlib.sha256).hexdigest()
