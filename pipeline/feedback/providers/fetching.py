"""Fetch a URL of a provider, with limits on size and time and without redirects."""

from __future__ import annotations

import time
from typing import Final

import requests

from pipeline.errors import ProviderError

LARGEST: Final = 64 * 1024  # octets; a certificate has about 2,000
LONGEST: Final = 15.0  # seconds for the whole request
TIMEOUTS: Final = (5.0, 5.0)  # seconds to connect, and between two chunks


def fetch(url: str) -> bytes:
    """Return the body of a 200 response.

    Raises ProviderError for any other status, for a network error, and if the response exceeds
    64 KB or 15 seconds. Redirects are not followed: the caller has validated this host only.
    """
    until = time.monotonic() + LONGEST
    body = bytearray()
    try:
        with requests.get(url, timeout=TIMEOUTS, allow_redirects=False, stream=True) as answer:
            if answer.status_code != requests.codes.ok:
                raise ProviderError(f"the provider answered {answer.status_code}")
            for piece in answer.iter_content(8 * 1024):
                body += piece
                if len(body) > LARGEST or time.monotonic() > until:
                    raise ProviderError("the provider's answer was too large or too slow")
    except requests.RequestException as error:
        raise ProviderError(f"the provider does not answer: {type(error).__name__}") from error
    return bytes(body)
