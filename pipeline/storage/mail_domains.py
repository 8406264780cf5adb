"""Whose servers take a mail in the end: the domain that its pace is kept for."""

from __future__ import annotations

from typing import Final

from pipeline.storage.subscribers import email_key

_ONE_PROVIDER: Final = (
    ("gmail.com", "googlemail.com"),
    ("outlook.com", "hotmail.com", "live.com", "msn.com"),
    ("yahoo.com", "ymail.com", "rocketmail.com", "aol.com"),
    ("icloud.com", "me.com", "mac.com"),
)
"""Domains of one provider, which counts their mail together; each goes by the first name."""

_NATIONAL: Final = {"yahoo": "yahoo.com", "hotmail": "outlook.com", "outlook": "outlook.com"}
"""Names under which a provider has a domain in many countries: yahoo.co.uk, hotmail.fr."""

_GROUPS: Final = {domain: group[0] for group in _ONE_PROVIDER for domain in group}


def domain_of(email: str) -> str:
    """`gmail.com` for an address at googlemail.com; "" for what is no address.

    Kept with a delivery when it is owed, so a change of the table touches later ones only.
    """
    if "@" not in email:
        return ""
    domain = email_key(email).rpartition("@")[2]
    return _GROUPS.get(domain) or _national(domain) or domain


def _national(domain: str) -> str | None:
    name, _, country = domain.partition(".")
    if domain == "yahoo.co.jp":
        return None  # another company
    is_country = len(country) == 2 or country.startswith(("co.", "com."))
    return _NATIONAL.get(name) if is_country else None
