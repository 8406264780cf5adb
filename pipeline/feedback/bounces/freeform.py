"""Parse bounces that follow no standard: recipients by layout, causes by wording."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Final

from pipeline.domain import Notice, NoticeKind, Verdict
from pipeline.feedback.bounces.diagnostics import (
    Diagnosis,
    codes,
    diagnose,
    far_words,
    has_code,
    is_bare,
    phase_of,
    plain,
)
from pipeline.feedback.bounces.heuristics import is_carrier, is_daemon, is_delayed, is_returned
from pipeline.feedback.bounces.mime import Headers, Mail
from pipeline.feedback.bounces.original import enclosed, evidence
from pipeline.feedback.bounces.recipients import MOST, addresses, others

_MOST_CODES: Final = 20
_AROUND: Final = 300  # characters after a code that belong to it

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
    Verdict.CONFIGURATION,
    Verdict.DISABLED,
    Verdict.NO_DOMAIN,
    Verdict.HARD,
    Verdict.SOFT,
    Verdict.CONNECTION,
)
"""Precedence of several findings about one address: those where it may still exist come first."""


def parse(mail: Mail) -> Notice | None:
    """Return a bounce or a delay written as free text; None for any other mail."""
    return read_words(mail.headers, evidence(mail.written), enclosed(mail))


def read_words(headers: Headers, text: str, returned: list[Headers]) -> Notice | None:
    """Return the notice in `text`, the evidence of a mail; `returned` are the enclosed headers.

    Return None if no mail system reports a failure; if the sender is neither daemon nor carrier and
    there is no code and no returned mail; or if there is neither a recipient nor a daemon's From.
    If one of several recipients is gone for good, only such recipients are named.
    """
    if not is_returned(headers, text):
        return None
    recipients = _failed_recipient(headers, text, returned)
    is_system = is_daemon(headers) or is_carrier(headers, text)
    if not (is_system or has_code(text) or returned) or not (recipients or is_daemon(headers)):
        return None  # about parcels that could not be delivered, or unknown users of a program
    if is_delayed(headers, text):
        return Notice(NoticeKind.DELAYED, recipients, reason=plain(text))
    found = [(name, _mildest(_in_section(words))) for name, words in _sections(headers, text)]
    gone = [(name, finding) for name, finding in found if finding.for_good]
    if gone:
        named = tuple(dict.fromkeys(name for name, _ in gone if name))
        return _failure(NoticeKind.HARD, named or recipients, gone[0][1], text)
    return _failure(NoticeKind.SOFT, recipients, _mildest([finding for _, finding in found]), text)


def _failure(
    kind: NoticeKind, recipients: tuple[str, ...], finding: Diagnosis, text: str
) -> Notice:
    return Notice(kind, recipients, finding.status, finding.reason or plain(text), finding.verdict)


def finding(mail: Mail) -> Diagnosis:
    """Return the finding in the human-readable part of a report, if its fields are inconclusive."""
    return _mildest(_in_section(evidence(mail.written)))


def _failed_recipient(headers: Headers, text: str, returned: list[Headers]) -> tuple[str, ...]:
    named = addresses(headers.get("x-failed-recipients"))
    named = named or [name for name, _, _ in _heads(headers, text)] or others(text, headers)
    if not named and returned:
        named = addresses(returned[0].get("to"))
    return tuple(dict.fromkeys(named))[:MOST]


def _heads(headers: Headers, text: str) -> list[tuple[str, int, int]]:
    """Return the addresses that begin a line, with the start and end offsets of these heads."""
    strangers = {name.lower() for name in others(text, headers)}
    found = [
        (addresses(head[1])[:1], head.start(), head.end())
        for head in islice(_OF.finditer(text), MOST)
    ]
    return [(name, a, b) for names, a, b in found for name in names if name.lower() in strangers]


def _sections(headers: Headers, text: str) -> Iterator[tuple[str | None, str]]:
    """Yield each address that begins a line, with the text up to the next one.

    Yield None with the whole text if fewer than two different addresses begin a line.
    """
    heads = _heads(headers, text)
    if len({name.lower() for name, _, _ in heads}) < 2:
        yield None, text
        return
    ends = [start for _, start, _ in heads[1:]]
    for (name, _, behind), end in zip(heads, [*ends, len(text)], strict=True):
        yield name, text[behind:end].lstrip(": ")


def _in_section(text: str) -> list[Diagnosis]:
    """Return a finding for each code and the text after it.

    If all are vague soft bounces, or there is no code, add a finding for each paragraph.
    """
    phase = phase_of(text)
    text = far_words(text)
    begins = codes(text)[:_MOST_CODES]
    ends = [*begins, len(text)][1:]
    said = [
        diagnose(_paragraph(text[b : min(e, b + _AROUND)]), phase=phase)
        for b, e in zip(begins, ends, strict=True)
    ]
    said += [diagnose(line, phase=phase) for line in text.split("\n") if is_bare(line)][
        :_MOST_CODES
    ]
    # A code of class 4 means that the failure may pass; free text must not make it permanent.
    if all(finding.verdict is Verdict.SOFT and finding.is_vague for finding in said):
        said += [
            diagnose(paragraph, phase=phase)
            for paragraph in re.split(r"\n[ \t]*\n", text)[:_MOST_CODES]
        ]
    return said


def _paragraph(text: str) -> str:
    return re.split(r"\n[ \t]*\n|\n(?=<<<|>>>|[ \t]*-{3})", text, maxsplit=1)[0]


def _mildest(found: list[Diagnosis]) -> Diagnosis:
    # Every undelivered mail "was rejected": such a vague finding is weaker than any clear cause.
    for vague in (False, True):
        for verdict in _TELLING:
            for finding in found:
                if finding.verdict is verdict and finding.is_vague is vague:
                    return finding
    return found[0] if found else Diagnosis(Verdict.SOFT, "5.0.0", "")
