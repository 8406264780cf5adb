"""Signed links: they prove purpose and expiry, and contain no email address."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from urllib.parse import quote

from itsdangerous import BadSignature, Signer
from itsdangerous.signer import HMACAlgorithm

from pipeline.domain import LinkPurpose
from pipeline.errors import ExpiredTokenError, InvalidTokenError
from pipeline.translations import gettext

LIFETIME = {
    LinkPurpose.CONFIRM: timedelta(hours=72),
    LinkPurpose.PREFERENCES: timedelta(days=30),
    LinkPurpose.DIGEST: timedelta(days=90),  # longer if digests are retained for longer
    LinkPurpose.DATA: timedelta(hours=24),
    LinkPurpose.NEW_ADDRESS: timedelta(hours=72),
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
    view: timedelta = LIFETIME[LinkPurpose.DIGEST]  # as long as the content of a digest is retained
    _signers: dict[LinkPurpose, Signer] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        signers = {purpose: _signer(self.keys, purpose) for purpose in LinkPurpose}
        object.__setattr__(self, "_signers", signers)

    def signed(self, purpose: LinkPurpose, subject: int, now: datetime) -> str:
        """Return the URL for a row id, valid from `now` for `lifetime(purpose)`."""
        expiry = int((now + self.lifetime(purpose)).timestamp())
        token = self._signers[purpose].sign(f"{subject}.{expiry}").decode()
        return f"{self.site_url}/{purpose}/{token}"

    def lifetime(self, purpose: LinkPurpose) -> timedelta:
        return self.view if purpose is LinkPurpose.DIGEST else LIFETIME[purpose]

    def confirm(self, request_id: int, now: datetime) -> str:
        return self.signed(LinkPurpose.CONFIRM, request_id, now)

    def preferences(self, subscriber_id: int, now: datetime) -> str:
        return self.signed(LinkPurpose.PREFERENCES, subscriber_id, now)

    def digest(self, delivery_id: int, now: datetime) -> str:
        return self.signed(LinkPurpose.DIGEST, delivery_id, now)

    def data(self, subscriber_id: int, now: datetime) -> str:
        return self.signed(LinkPurpose.DATA, subscriber_id, now)

    def new_address(self, request_id: int, now: datetime) -> str:
        return self.signed(LinkPurpose.NEW_ADDRESS, request_id, now)

    def unsubscribe(self, secret: str) -> str:
        """Return the unsubscribe URL, which never expires.

        `secret` is stored with the subscriber, so no key rotation invalidates the URL.
        """
        return f"{self.site_url}/unsubscribe/{quote(secret, safe='')}"

    def read_confirm(self, token: str, now: datetime) -> int:
        """Return the request id. Raises InvalidTokenError, like every `read_` method."""
        return self._read(LinkPurpose.CONFIRM, token, now)

    def read_preferences(self, token: str, now: datetime) -> int:
        return self._read(LinkPurpose.PREFERENCES, token, now)

    def read_digest(self, token: str, now: datetime) -> int:
        return self._read(LinkPurpose.DIGEST, token, now)

    def read_data(self, token: str, now: datetime) -> int:
        return self._read(LinkPurpose.DATA, token, now)

    def read_new_address(self, token: str, now: datetime) -> int:
        """Return the request id."""
        return self._read(LinkPurpose.NEW_ADDRESS, token, now)

    def _read(self, purpose: LinkPurpose, token: str, now: datetime) -> int:
        try:
            subject, expiry = self._signers[purpose].unsign(token).split(b".")
        except (BadSignature, UnicodeError) as error:
            raise InvalidTokenError(gettext("This link is incomplete or not valid.")) from error
        if now.timestamp() >= int(expiry):
            raise ExpiredTokenError(gettext("This link has expired."))
        return int(subject)


def _signer(keys: Sequence[str], purpose: LinkPurpose) -> Signer:
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
