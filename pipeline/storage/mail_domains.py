"""Recipient domains, grouped by mail provider, for throttling."""

from __future__ import annotations

from typing import Final

from pipeline.storage.subscribers import email_key

_ONE_PROVIDER: Final = (
    ("gmail.com", "googlemail.com"),
    ("outlook.com", "hotmail.com", "live.com", "msn.com"),
    ("yahoo.com", "ymail.com", "rocketmail.com", "aol.com"),
    ("icloud.com", "me.com", "mac.com"),
)
"""Domains of one provider, which limits their mail together; the first one names the group."""

_NATIONAL: Final = {"yahoo": "yahoo.com", "hotmail": "outlook.com", "outlook": "outlook.com"}
"""Providers with a domain in many countries, such as yahoo.co.uk and hotmail.fr."""

_GROUPS: Final = {domain: group[0] for group in _ONE_PROVIDER for domain in group}


def domain_of(email: str) -> str:
    """Return `gmail.com` for an address at googlemail.com; "" if it is not an address.

    The result is stored with a delivery when it is queued, so changes of these tables affect only
    deliveries that are queued later.
    """
    if "@" not in email:
        return ""
    domain = email_key(email).rpartition("@")[2]
    return _GROUPS.get(domain) or _national(domain) or domain


def _national(domain: str) -> str | None:
    name, _, country = domain.partition(".")
    if domain == "yahoo.co.jp":
        return None  # a different company
    is_country = len(country) == 2 or country.startswith(("co.", "com."))
    return _NATIONAL.get(name) if is_country else None
