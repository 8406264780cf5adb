"""What a server said, found in a diagnostic or between other words, and judged like a reply."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from pipeline.domain import Verdict
from pipeline.smtp.replies import Phase, Reply, Subject, evidence, printable, subject_of, verdict_of
from pipeline.smtp.wordings import FOR_GOOD, GONE, GONE_ELSEWHERE, NULL_MX

LONGEST: Final = 2_000  # characters of one diagnostic that are judged
REASON: Final = 300  # characters of it that are kept

_CODE: Final = re.compile(
    r"(?<![\w./@=-])(?<!\d:)([45]\d\d)(?=[\s:;,#<()\[\]-]|$)(?!-\d|\) ?\d{3})"
)
_ENHANCED: Final = re.compile(r"(?<![\w.-])([245]\.[0-7]\.\d{1,3})(?![\w-]|\.\d)")
_AGAIN: Final = re.compile(r"(?<!\S)[45]\d\d[ -](?=[#(<]?[245]\.\d\.\d|\D)")  # "550-...  550 ..."
_IN_REPLY_TO: Final = re.compile(
    r"\(in reply to (end of )?([A-Z]{4})[^)]{0,30}\)|after (end of data|mail from)", re.I
)
_UNTYPED: Final = re.compile(r"^\s*(?:smtp|x-[\w-]{1,30}|x400|dns|unknown|unix)\s*;\s*", re.I)
# Sendmail shows what the far server said behind "<<<", and below it what it makes of that: 5.1.1
# "User unknown" of every 550 to RCPT, 5.0.0 "Service unavailable" of every refusal of the message.
_FAR_LINE: Final = re.compile(r"^[ \t]*<<<[ \t]*[45]\d\d", re.M)
_RELAY_LINE: Final = re.compile(r"^[ \t]*[45]\d\d(?: \d\.\d\.\d)? .{0,200}$\n?", re.M)
_AT_THE_DOT: Final = re.compile(r"in reply to end of DATA|after end of data", re.I)
# With pipelining the reply to RCPT stands below DATA too; then Sendmail's 5.1.1 follows.
_BELOW_DATA: Final = re.compile(
    r"^[ \t]*>>> (?:DATA|\.)[ \t]*\n(?:[ \t]*<<<[^\n]*(?:\n|\Z)){1,20}"
    r"(?![ \t]*5\d\d[ -]5\.1\.\d )",
    re.M,
)
_SAYS_NOTHING: Final = {"5.0.0", "4.0.0", "2.0.0", "5.3.0", "5.5.0", "5.7.0", "5.4.0", "5.2.0"}
_BY_VERDICT: Final = {
    Verdict.HARD: "5.1.1",
    Verdict.NO_DOMAIN: "5.1.2",
    Verdict.DISABLED: "5.2.1",
    Verdict.FULL: "5.2.2",
    Verdict.TOO_LARGE: "5.3.4",
    Verdict.BLOCKED: "5.7.1",
    Verdict.AUTHENTICATION: "5.7.1",
    Verdict.CONFIGURATION: "5.7.1",
}

VAGUE: Final = frozenset({Verdict.SOFT, Verdict.DEFERRED})
"""Verdicts that say no more than that it failed; other evidence may know why."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one diagnostic says of one recipient."""

    verdict: Verdict
    status: str | None
    reason: str
    for_good: bool = False  # the address is gone, though it may take two editions to believe it
    is_vague: bool = False  # it does not say about whom it speaks


def judge(diagnostic: str, status: str | None = None, phase: Phase | None = None) -> Finding:
    """Judge the words first, by their own codes; `status` decides where they leave it open.

    Sendmail writes 5.1.1 for any 550 it does not know, and others 5.0.0 for everything: what the
    far server said is better evidence than the report's own field. `phase` is that of the refusal
    where the diagnostic itself does not tell.
    """
    text = printable(_UNTYPED.sub("", diagnostic[:LONGEST]), LONGEST)
    reply = _reply(text, status)
    phase = _phase(text) or phase or Phase.RCPT
    verdict = verdict_of(phase, reply)
    if status and verdict in VAGUE and reply.enhanced != status:
        by_status = Reply(_basic(status, reply.code), status, reply.text)
        decided = verdict_of(phase, by_status)
        if decided not in VAGUE or not reply.enhanced:
            return _found(phase, by_status, status, text)
    return _found(phase, reply, reply.enhanced or status, text)


def _found(phase: Phase, reply: Reply, status: str | None, text: str) -> Finding:
    verdict = verdict_of(phase, reply)
    return Finding(
        verdict,
        _telling(verdict, status, reply),
        text[:REASON].rstrip(),
        _is_for_good(verdict, text),
        subject_of(phase, reply) is Subject.UNCLEAR,
    )


def _is_for_good(verdict: Verdict, text: str) -> bool:
    if verdict is Verdict.DISABLED:
        words = evidence(text)
        return any(said.search(words) for said in (FOR_GOOD, GONE, GONE_ELSEWHERE))
    return verdict in {Verdict.HARD, Verdict.NO_DOMAIN}


def plain(text: str) -> str:
    """Return a reason as it may be kept and shown: one line, cut, no control characters."""
    return printable(text, REASON)


def far_words(text: str) -> str:
    """Return a transcript without the lines that a relay added to what the far server said."""
    return _RELAY_LINE.sub("", text) if _FAR_LINE.search(text) else text


def has_relay_lines(text: str) -> bool:
    """Whether codes in a report may be a relay's own guess."""
    return bool(_FAR_LINE.search(text)) and bool(_RELAY_LINE.search(text))


def phase_of(text: str) -> Phase | None:
    """Return the phase of the refusal that a report shows: DOT where the message was refused."""
    if _AT_THE_DOT.search(text):
        return Phase.DOT
    refusal, data = _FAR_LINE.search(text), _BELOW_DATA.search(text)
    is_at_the_dot = refusal and data and data.start() < refusal.start() < data.end()
    return Phase.DOT if is_at_the_dot else None


def first_status(text: str) -> str | None:
    found = _ENHANCED.search(text)
    return found[1] if found else None


def codes(text: str) -> list[int]:
    """Where replies begin in a text."""
    return [found.start() for found in _CODE.finditer(text)]


def has_code(text: str) -> bool:
    return bool(_CODE.search(text) or _ENHANCED.search(text))


def is_bare(line: str) -> bool:
    """Whether a line has an enhanced code without a basic one before it: "(#5.1.1)"."""
    return bool(_ENHANCED.search(line) and not _CODE.search(line))


def _reply(text: str, status: str | None) -> Reply:
    code = _CODE.search(text)
    enhanced = _enhanced(text, code.start() if code else 0)
    # Gmail says 4.0.0 of domains that do not exist: it is no class, it is no code at all.
    status = None if status == "4.0.0" else status
    number = int(code[1]) if code else _basic(enhanced[1] if enhanced else status, 550)
    detail = enhanced[1] if enhanced and enhanced[1][0] == str(number)[0] else None
    words = text[code.end() :] if code else text
    if not re.search(r"\w{4}", words):
        words = text  # "User unknown: 550"
    words = _AGAIN.sub(" ", _ENHANCED.sub(" ", words))
    if number == 421:  # in a bounce: the mail was given up, not the connection
        number = 450
    return Reply(number, None if detail in _SAYS_NOTHING else detail, words)


def _enhanced(text: str, start: int) -> re.Match[str] | None:
    """The first code that tells: relays put one of their own before the far server's.

    "550 5.0.350 Remote server returned an error -> 550 5.1.1 ..."
    """
    found = [*_ENHANCED.finditer(text, start)] or [*_ENHANCED.finditer(text)]
    telling = (match for match in found if match[1] not in _SAYS_NOTHING and match[1][2] != "0")
    return next(telling, found[0] if found else None)


def _phase(text: str) -> Phase | None:
    found = _IN_REPLY_TO.search(text)
    if found is None:
        return None
    where = f"{found[1] or ''}{found[2] or ''}{found[3] or ''}".lower()
    if "mail" in where:
        return Phase.MAIL
    return Phase.DOT if "data" in where else Phase.RCPT


def _basic(status: str | None, otherwise: int) -> int:
    """The basic code that goes with a class, where a report has only the enhanced one."""
    if status is None or status[0] == str(otherwise)[0]:
        return otherwise
    return 450 if status[0] == "4" else 550


def _telling(verdict: Verdict, status: str | None, reply: Reply) -> str:
    """The enhanced code of a finding; where the report's own says nothing, the one that does."""
    if status and status not in _SAYS_NOTHING:
        return status
    if verdict is Verdict.HARD and (reply.code == 556 or NULL_MX.search(reply.text)):
        return "5.1.10"
    if verdict is Verdict.FULL and reply.code < 500:
        return "4.2.2"
    return _BY_VERDICT.get(verdict) or status or f"{str(reply.code)[0]}.0.0"
