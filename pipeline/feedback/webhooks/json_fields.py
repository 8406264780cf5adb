"""Normalise JSON values of unknown type in provider events, and classify their bounces."""

from __future__ import annotations

import re
from typing import Any, Final

from pipeline.domain import Verdict
from pipeline.feedback.bounces.diagnostics import diagnose
from pipeline.smtp import printable

LONGEST: Final = 1_000  # characters of a value that are kept

_STATUS: Final = re.compile(r"[245]\.\d{1,3}\.\d{1,3}")


def text(value: Any, most: int = LONGEST) -> str:
    """Return a string that a database can store: no NUL, at most `most` characters; else ""."""
    if not isinstance(value, str):
        return ""
    return value.replace("\0", "").encode("utf-8", "replace").decode()[:most]


def record(value: Any) -> dict[str, Any]:
    """Return `value` if it is a JSON object, else {}."""
    return value if isinstance(value, dict) else {}


def records(value: Any) -> list[dict[str, Any]]:
    return [record(one) for one in value] if isinstance(value, list) else []


def status(value: Any) -> str | None:
    """Return the enhanced status code at the start of `value` (RFC 3463), such as 5.1.1; or None.

    The classes are 2, 4 and 5.
    """
    found = _STATUS.match(text(value).strip())
    return found[0] if found else None


def said(value: Any) -> str:
    """Return a server's reply, normalised for storage and display."""
    return printable(text(value))


def bounce_verdict(status: str | None, words: str) -> Verdict:
    """Classify a bounce like a bounce mail; `words` are the server's reply, or "" if unknown.

    Without a code it counts as permanently refused (550), since the provider calls it a bounce.
    """
    return diagnose(words, status).verdict
