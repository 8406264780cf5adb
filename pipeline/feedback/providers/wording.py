"""What providers say in common: values of JSON that may be anything, and servers' words."""

from __future__ import annotations

import re
from typing import Any, Final

from pipeline.domain import Verdict
from pipeline.feedback.reading.diagnostics import judge
from pipeline.smtp import printable

LONGEST: Final = 1_000  # characters of a value that is kept

_STATUS: Final = re.compile(r"[245]\.\d{1,3}\.\d{1,3}")


def text(value: Any, most: int = LONGEST) -> str:
    """`value` where it is a text that a database can hold; "" for anything else."""
    if not isinstance(value, str):
        return ""
    return value.replace("\0", "").encode("utf-8", "replace").decode()[:most]


def record(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def records(value: Any) -> list[dict[str, Any]]:
    return [record(one) for one in value] if isinstance(value, list) else []


def status(value: Any) -> str | None:
    """An enhanced code such as 5.1.1 (RFC 3463), if it is one."""
    found = _STATUS.match(text(value).strip())
    return found[0] if found else None


def said(value: Any) -> str:
    """The words of a server, as they may be kept and shown."""
    return printable(text(value))


def bounce_verdict(status: str | None, words: str) -> Verdict:
    """Judge a bounce as a bounce mail is judged; `words` are those of the server, if known.

    Whatever says nothing else was refused for good, or nobody would call it a bounce.
    """
    return judge(words, status).verdict
