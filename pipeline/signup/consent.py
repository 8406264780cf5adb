"""The words that somebody agrees to with the button of a confirmation.

A request that is used keeps the version of its words. So a version that was once shown stays here
as it was; other words are another version.
"""

from __future__ import annotations

from typing import Final

WORDINGS: Final = {
    "1": (
        "With this button you say: send me the digest of new papers, as often as I chose, until I "
        "leave. Every mail has a link that leaves with one click."
    ),
}
CURRENT: Final = "1"
WORDING: Final = WORDINGS[CURRENT]


def agreed_to(version: str | None) -> str | None:
    """The words of a version; None for no version, and for one of a newer Paperboy's."""
    return WORDINGS.get(version) if version else None
