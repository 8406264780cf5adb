"""Bounces that follow no standard: read by layout (whom) and by wording (why)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from pipeline.domain import Notice, NoticeKind, Verdict
from pipeline.feedback.reading.addresses import MOST, addresses, others
from pipeline.feedback.reading.diagnostics import Finding, codes, has_code, is_bare, judge, plain
from pipeline.feedback.reading.looks import is_daemon, is_delayed, is_returned
from pipeline.feedback.reading.mime import Headers, Mail
from pipeline.feedback.reading.returned import enclosed, evidence

_MOST_CODES: Final = 20
_AROUND: Final = 300  # characters behind a code that belong to it

# "<ada@example.org>:", "  ada@example.org", " * ada@example.org", "Recipient: <ada@...>"
_OF: Final = re.compile(
    r"^[ \t>*•-]{0,20}(?:recipient(?: address)?:|address:|user:)?[ \t]{0,8}[<\"'\[(]{0,2}"
    r"([^\s<>\"'\[\]()@:;,]{1,64}@[^\s<>\"'\[\]()@:;,]{3,255})[>\"'\])]{0,2}[ \t]{0,8}:?(?=[ \t]*$"
    r"|:? )",
    re.I | re.M,
)
_TELLING: Final = (
    Verdict.TOO_LARGE,
    Verdict.FULL,
    Verdict.AUTHENTICATION,
    Verdict.GREYLISTED,
    Verdict.THROTTLED,
    Verdict.BLOCKED,
    Verdict.HARD,
    Verdict.CONFIGURATION,
    Verdict.CONNECTION,
)
"""Which of several findings about one address counts: whoever may be alive is."""


def read(mail: Mail) -> Notice | None:
    """A bounce or a delay in a mail system's own words; None for any other mail."""
    return read_words(mail.headers, evidence(mail.written), enclosed(mail))


def read_words(headers: Headers, text: str, returned: list[Headers]) -> Notice | None:
    if not is_returned(headers, text):
        return None
    whom = _whom(headers, text, returned)
    if not (is_daemon(headers) or has_code(text) or returned) or not (whom or is_daemon(headers)):
        return None  # a parcel could not be delivered, a programme names an unknown user
    if is_delayed(headers, text):
        return Notice(NoticeKind.DELAYED, whom, reason=_first_words(text))
    sections = list(_sections(text))
    found = [(_worst(_in_section(section)), name) for name, section in sections]
    hard = tuple(name for finding, name in found if finding.verdict is Verdict.HARD and name)
    worst = next((f for f, name in found if f.verdict is Verdict.HARD and name), None)
    worst = worst or _worst([finding for finding, _ in found])
    return Notice(
        NoticeKind.HARD if worst.verdict is Verdict.HARD else NoticeKind.SOFT,
        tuple(dict.fromkeys(hard)) or whom,
        worst.status,
        worst.reason or _first_words(text),
        worst.verdict,
    )


def finding(mail: Mail) -> Finding:
    """What the human part of a report says, for what its fields leave open."""
    return _worst(_in_section(evidence(mail.written)))


def _whom(headers: Headers, text: str, returned: list[Headers]) -> tuple[str, ...]:
    named = addresses(headers.get("x-failed-recipients"))
    named = named or _once_each(match[1] for match in _OF.finditer(text)) or others(text, headers)
    if not named and returned:
        named = addresses(returned[0].get("to"))
    return tuple(named[:MOST])


def _once_each(found: Iterator[str]) -> list[str]:
    return [name for address in dict.fromkeys(found) for name in addresses(address)]


def _sections(text: str) -> Iterator[tuple[str | None, str]]:
    """The text of each address that stands at the head of its own lines, else the whole."""
    heads = list(_OF.finditer(text))[:MOST]
    names = {head[1].lower() for head in heads}
    if len(names) < 2:
        yield None, text
        return
    for number, head in enumerate(heads):
        end = heads[number + 1].start() if number + 1 < len(heads) else len(text)
        yield next(iter(addresses(head[1])), None), text[head.end() : end].lstrip(": ")


def _in_section(text: str) -> list[Finding]:
    """One finding for each code with the words behind it; without codes, the words alone."""
    begins = codes(text)[:_MOST_CODES]
    ends = [*begins, len(text)][1:]
    said = [
        judge(_paragraph(text[b : min(e, b + _AROUND)])) for b, e in zip(begins, ends, strict=True)
    ]
    said += [judge(line) for line in text.split("\n") if is_bare(line)][:_MOST_CODES]
    # A code of class 4 has said that it may pass: then words may not say that it does not.
    if all(finding.verdict is Verdict.SOFT for finding in said):
        said += [judge(paragraph) for paragraph in re.split(r"\n[ \t]*\n", text)[:_MOST_CODES]]
    return said


def _paragraph(text: str) -> str:
    return re.split(r"\n[ \t]*\n|\n(?=<<<|>>>|[ \t]*-{3})", text, maxsplit=1)[0]


def _worst(found: list[Finding]) -> Finding:
    for verdict in _TELLING:
        for finding in found:
            if finding.verdict is verdict:
                return finding
    return found[0] if found else Finding(Verdict.SOFT, "5.0.0", "")


def _first_words(text: str) -> str:
    return plain(text.strip())
