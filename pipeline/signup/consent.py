"""Versions of the consent text, which a subscriber accepts with the confirmation button.

A used request stores the version of the text. So never edit a version that was published; if the
text changes, add a version.
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
    """Return the consent text of a version; None if there is no version, or it is unknown here.

    An unknown version comes from a newer Paperboy.
    """
    return WORDINGS.get(version) if version else None
