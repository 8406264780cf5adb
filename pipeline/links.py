"""Signed links: they prove purpose and expiry, and contain no email address."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from urllib.parse import quote

from itsdangerous import BadSignature, Signer
from itsdangerous.signer import HMACAlgorithm

from pipeline.errors import ExpiredTokenError, InvalidTokenError
from pipeline.translations import gettext


class Purpose(StrEnum):
    """Purpose of a link, as in its URL. A token is valid for one purpose only."""

    CONFIRM = "confirm"  # confirms a request to subscribe or to change preferences
    PREFERENCES = "preferences"  # changes preferences; no export, no erasure
    DIGEST = "digests"  # view in browser
    DATA = "data"  # exports and erases; only ever mailed on request
    NEW_ADDRESS = "new-address"  # confirms a change of address


LIFETIME = {
    Purpose.CONFIRM: timedelta(hours=72),
    Purpose.PREFERENCES: timedelta(days=30),
    Purpose.DIGEST: timedelta(days=90),  # longer if digests are retained for longer
    Purpose.DATA: timedelta(hours=24),
    Purpose.NEW_ADDRESS: timedelta(hours=72),
}


class _ShortHMAC(HMACAlgorithm):
    """First 128 bits of HMAC-SHA-256, 22 characters (RFC 2104, section 5, allows half)."""

    def __init__(self) -> None:
        super().__init__(hashlib.sha256)

    def get_signature(self, key: bytes, value: bytes) -> bytes:
        return hmac.digest(key, value, "sha256")[:16]


@dataclass(frozen=True, slots=True)
class SignedLinks:
    """Sign and verify the links in mails. The newest key signs; every key in `keys` verifies.

    A token is `subject.expiry.signature`, in characters that need no escape in a URL. The subject
    is a row id.
    """

    site_url: str
    keys: Sequence[str] = field(repr=False)  # newest first
    view: timedelta = LIFETIME[Purpose.DIGEST]  # as long as the content of a digest is retained
    _signers: dict[Purpose, Signer] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        signers = {purpose: _signer(self.keys, purpose) for purpose in Purpose}
        object.__setattr__(self, "_signers", signers)

    def confirm(self, request_id: int, now: datetime) -> str:
        return self._signed(Purpose.CONFIRM, request_id, now)

    def preferences(self, subscriber_id: int, now: datetime) -> str:
        return self._signed(Purpose.PREFERENCES, subscriber_id, now)

    def digest(self, delivery_id: int, now: datetime) -> str:
        return self._signed(Purpose.DIGEST, delivery_id, now, self.view)

    def data(self, subscriber_id: int, now: datetime) -> str:
        return self._signed(Purpose.DATA, subscriber_id, now)

    def new_address(self, request_id: int, now: datetime) -> str:
        return self._signed(Purpose.NEW_ADDRESS, request_id, now)

    def unsubscribe(self, secret: str) -> str:
        """Return the unsubscribe URL, which never expires.

        `secret` is stored with the subscriber, so no key rotation invalidates the URL.
        """
        return f"{self.site_url}/unsubscribe/{quote(secret, safe='')}"

    def read_confirm(self, token: str, now: datetime) -> int:
        """Return the request id. Raises InvalidTokenError, like every `read_` method."""
        return self._read(Purpose.CONFIRM, token, now)

    def read_preferences(self, token: str, now: datetime) -> int:
        return self._read(Purpose.PREFERENCES, token, now)

    def read_digest(self, token: str, now: datetime) -> int:
        return self._read(Purpose.DIGEST, token, now)

    def read_data(self, token: str, now: datetime) -> int:
        return self._read(Purpose.DATA, token, now)

    def read_new_address(self, token: str, now: datetime) -> int:
        """Return the request id."""
        return self._read(Purpose.NEW_ADDRESS, token, now)

    def _signed(
        self, purpose: Purpose, subject: int, now: datetime, lifetime: timedelta | None = None
    ) -> str:
        expiry = int((now + (lifetime or LIFETIME[purpose])).timestamp())
        token = self._signers[purpose].sign(f"{subject}.{expiry}").decode()
        return f"{self.site_url}/{purpose}/{token}"

    def _read(self, purpose: Purpose, token: str, now: datetime) -> int:
        try:
            subject, expiry = self._signers[purpose].unsign(token).split(b".")
        except (BadSignature, UnicodeError) as error:
            raise InvalidTokenError(gettext("This link is incomplete or not valid.")) from error
        if now.timestamp() >= int(expiry):
            raise ExpiredTokenError(gettext("This link has expired."))
        return int(subject)


def _signer(keys: Sequence[str], purpose: Purpose) -> Signer:
    if not keys or not all(keys):
        raise ValueError("signed links need at least one key, and none of them empty")
    # Derive the keys of each purpose once, here, and not for every link.
    derived = [hmac.digest(key.encode(), f"paperboy.{purpose}".encode(), "sha256") for key in keys]
    return Signer(
        derived[::-1],  # itsdangerous signs with the last key
        key_derivation="none",
        digest_method=hashlib.sha256,
        algorithm=_ShortHMAC(),
    )
