"""Find the addresses in a bounce: the failed recipients, and the address it was returned to."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from pipeline.feedback.bounces.mime import Headers

MOST: Final = 100  # recipients of one notice

# In free text only ASCII counts as an address: Chinese and Japanese put no space around it.
_ADDRESS: Final = re.compile(
    r"(?<![A-Za-z0-9.!#$%&'*+/=?^_`{|}~-])[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,250}"
    r"@(?:[A-Za-z0-9_-]{1,63}\.){1,8}[A-Za-z0-9-]{2,63}(?![A-Za-z0-9_@-])"
)
_BARE: Final = re.compile(r"[^\s<>@;,]{1,250}@[^\s<>@;,]{1,255}")
_ANY: Final = re.compile(r"[^\s<>@:;,'\"\\]{1,250}@[^\s<>@:;,'\"\\]{1,255}")  # deliberately broad
_TYPE: Final = re.compile(r"^\s*[\w-]{1,20}\s*;\s*")
_STAFF: Final = re.compile(
    r"^(mailer-?daemon|postmaster|mail-?daemon|mdaemon|abuse|support|noreply|no-reply|hostmaster"
    r"|webmaster|helpdesk|system|root|ndr)$",
    re.I,
)
_TOKEN: Final = re.compile(r"\+[a-z2-7]{16}@", re.I)  # the format of `message.Sender.envelope`
_CAME_BACK_TO: Final = ("x-original-to", "delivered-to", "envelope-to", "x-envelope-to", "to")


def addresses(text: str) -> list[str]:
    """Return the addresses in a text, at most 100, each once, with the case kept."""
    found = (match[0].strip("'`=.").removeprefix("SMTP=") for match in _ADDRESS.finditer(text))
    return _once(address for address in found if not address.startswith("@"))[:MOST]


def masked(text: str) -> str:
    """Redact every address in a text, for storage when its subscriber is unknown."""
    return _ANY.sub("<address>", text)


def recipient(field: str) -> str | None:
    """Parse the address in a Final-Recipient or Original-Recipient (RFC 3464, section 2.3.1).

    Return None if there is none.
    """
    value = _TYPE.sub("", field[:1_000])
    bare = value.strip(" <>\"'")
    if _BARE.fullmatch(bare):
        return bare
    return next(iter(addresses(value)), None)


def others(text: str, headers: Headers) -> list[str]:
    """Return the addresses in a text except those of sender, recipient and role accounts."""
    ours = {address.lower() for name in ("from", "to", "return-path", "reply-to", *_CAME_BACK_TO)
            for value in headers.all(name) for address in addresses(value)}  # fmt: skip
    return [
        address
        for address in addresses(text)
        if address.lower() not in ours and not _STAFF.match(address.partition("@")[0])
    ]


def came_back_to(headers: Headers) -> str | None:
    """Return the address that a mail was returned to; if there are several, the one with a token.

    Return None if the headers name none.
    """
    found = [
        address
        for name in _CAME_BACK_TO
        for value in headers.all(name)
        for address in addresses(value)
    ]
    marked = (address for address in found if _TOKEN.search(address))
    return next(marked, found[0] if found else None)


def _once(found: Iterable[str]) -> list[str]:
    return list({address.lower(): address for address in reversed(list(found))}.values())[::-1]
