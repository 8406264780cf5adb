"""Find SMTP replies in diagnostic fields or free text, and classify them like live replies."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from pipeline.domain import Verdict
from pipeline.smtp.replies import Phase, Reply, Subject, classify, evidence, printable
from pipeline.smtp.reply_patterns import FOR_GOOD, GONE, GONE_ELSEWHERE, NULL_MX

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
# Sendmail prints the remote reply after "<<<" and its own interpretation below it: 5.1.1 "User
# unknown" for every 550 to RCPT, 5.0.0 "Service unavailable" for every refusal of the message.
_FAR_LINE: Final = re.compile(r"^[ \t]*<<<[ \t]*[45]\d\d", re.M)
_RELAY_LINE: Final = re.compile(r"^[ \t]*[45]\d\d(?: \d\.\d\.\d)? .{0,200}$\n?", re.M)
_AT_THE_DOT: Final = re.compile(r"in reply to end of DATA|after end of data", re.I)
# With pipelining the reply to RCPT is printed below DATA, too; Sendmail's 5.1.1 then follows it.
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
"""Verdicts for a failure without a known cause; other evidence may be more specific."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The result of classifying one diagnostic for one recipient."""

    verdict: Verdict
    status: str | None
    reason: str
    for_good: bool = False  # the address is gone, even if two editions must confirm it
    is_vague: bool = False  # the subject of the refusal is unclear


def diagnose(diagnostic: str, status: str | None = None, phase: Phase | None = None) -> Diagnosis:
    """Classify a diagnostic by its own text and codes; use `status` if these are inconclusive.

    The remote server's reply is better evidence than the Status field of the report: Sendmail
    writes 5.1.1 for any 550 that it does not recognise, other servers 5.0.0 for every failure.
    `phase` is the phase of the refusal, used if the diagnostic does not name one; the default is
    RCPT. Only the first 2,000 characters count, and the reason returned has at most 300.
    """
    text = printable(_UNTYPED.sub("", diagnostic[:LONGEST]), LONGEST)
    reply = _reply(text, status)
    phase = _phase(text) or phase or Phase.RCPT
    verdict, subject = classify(phase, reply)
    said = reply.enhanced
    if status and verdict in VAGUE and reply.enhanced != status:
        by_status = Reply(_basic(status, reply.code), status, reply.text)
        classified = classify(phase, by_status)
        if classified[0] not in VAGUE or not reply.enhanced:
            reply, said, (verdict, subject) = by_status, status, classified
    return Diagnosis(
        verdict,
        _specific_status(verdict, said or status, reply),
        text[:REASON].rstrip(),
        _is_for_good(verdict, text),
        subject is Subject.UNCLEAR,
    )


def _is_for_good(verdict: Verdict, text: str) -> bool:
    if verdict is Verdict.DISABLED:
        words = evidence(text)
        return any(said.search(words) for said in (FOR_GOOD, GONE, GONE_ELSEWHERE))
    return verdict in {Verdict.HARD, Verdict.NO_DOMAIN}


def plain(text: str) -> str:
    """Normalise a reason for storage and display: one line, no controls, at most 300 characters."""
    return printable(text, REASON)


def far_words(text: str) -> str:
    """Return a transcript without the lines that a relay added below the remote reply."""
    return _RELAY_LINE.sub("", text) if _FAR_LINE.search(text) else text


def has_relay_lines(text: str) -> bool:
    """Return whether the codes in a report may be a guess of the relay."""
    return bool(_FAR_LINE.search(text)) and bool(_RELAY_LINE.search(text))


def phase_of(text: str) -> Phase | None:
    """Return DOT if a report shows that the message was refused after its body, else None."""
    if _AT_THE_DOT.search(text):
        return Phase.DOT
    refusal, data = _FAR_LINE.search(text), _BELOW_DATA.search(text)
    is_at_the_dot = refusal and data and data.start() < refusal.start() < data.end()
    return Phase.DOT if is_at_the_dot else None


def first_status(text: str) -> str | None:
    found = _ENHANCED.search(text)
    return found[1] if found else None


def codes(text: str) -> list[int]:
    """Return the offsets at which SMTP replies begin in a text."""
    return [found.start() for found in _CODE.finditer(text)]


def has_code(text: str) -> bool:
    return bool(_CODE.search(text) or _ENHANCED.search(text))


def is_bare(line: str) -> bool:
    """Return whether a line has an enhanced code but no basic code: "(#5.1.1)"."""
    return bool(_ENHANCED.search(line) and not _CODE.search(line))


def _reply(text: str, status: str | None) -> Reply:
    code = _CODE.search(text)
    enhanced = _enhanced(text, code.start() if code else 0)
    # Ignore 4.0.0: Gmail sends it for domains that do not exist, so even its class is no evidence.
    status = None if status == "4.0.0" else status
    number = int(code[1]) if code else _basic(enhanced[1] if enhanced else status, 550)
    detail = enhanced[1] if enhanced and enhanced[1][0] == str(number)[0] else None
    words = text[code.end() :] if code else text
    if not re.search(r"\w{4}", words):
        words = text  # "User unknown: 550"
    words = _AGAIN.sub(" ", _ENHANCED.sub(" ", words))
    if number == 421:  # in a bounce it means that the mail was given up, not the connection
        number = 450
    return Reply(number, None if detail in _SAYS_NOTHING else detail, words)


def _enhanced(text: str, start: int) -> re.Match[str] | None:
    """Return the first specific enhanced code; relays put their own before the remote one.

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
    """Return `otherwise`, or 450 or 550 if `status` has another class than `otherwise`.

    Used if a report has an enhanced status code only.
    """
    if status is None or status[0] == str(otherwise)[0]:
        return otherwise
    return 450 if status[0] == "4" else 550


def _specific_status(verdict: Verdict, status: str | None, reply: Reply) -> str:
    """Return the enhanced code of a finding: the report's, or one derived from the verdict.

    The report's own code is kept unless it is missing or generic, such as 5.0.0.
    """
    if status and status not in _SAYS_NOTHING:
        return status
    if verdict is Verdict.HARD and (reply.code == 556 or NULL_MX.search(reply.text)):
        return "5.1.10"
    if verdict is Verdict.FULL and reply.code < 500:
        return "4.2.2"
    return _BY_VERDICT.get(verdict) or status or f"{str(reply.code)[0]}.0.0"
