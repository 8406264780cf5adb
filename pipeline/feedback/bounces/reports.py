"""Parse standard reports: delivery status (DSN), complaints (ARF), disposition (MDN).

DSN is RFC 3464 and RFC 6533 with the deviations seen in practice, ARF is RFC 5965, MDN is RFC 8098.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from pipeline.domain import Notice, NoticeKind, Verdict
from pipeline.feedback.bounces import freeform
from pipeline.feedback.bounces.diagnostics import (
    VAGUE,
    Diagnosis,
    diagnose,
    first_status,
    has_relay_lines,
    phase_of,
    plain,
)
from pipeline.feedback.bounces.mime import Headers, Mail, Part, read_headers
from pipeline.feedback.bounces.original import MOST, addresses, enclosed, evidence, recipient

DSN_TYPES: Final = ("message/delivery-status", "message/global-delivery-status")
_LONGEST: Final = 100_000
_NOT_FAILED: Final = ("delivered", "relayed", "expanded")
_OF_A_RECIPIENT: Final = ("final-recipient", "original-recipient", "action", "status")
_DIAGNOSTICS: Final = ("diagnostic-code", "x-supplementary-info", "x-notes")
_APPROVAL: Final = re.compile(r"pre-?approved|guest list|challenge", re.I)


@dataclass(frozen=True, slots=True)
class _Fate:
    """The reported result for one recipient."""

    kind: NoticeKind
    recipient: str | None
    finding: Diagnosis


def parse_dsn(mail: Mail) -> Notice | None:
    """Return the worst result of the report and its recipients; None if the mail has no report.

    A notice has one kind: if a report calls one address unknown and another one full, only the
    unknown address is named.
    """
    reports = [part for part in mail.parts if part.type in DSN_TYPES]
    fates = [fate for part in reports for fate in _fates(mail, part)][:MOST]
    for kind in (NoticeKind.HARD, NoticeKind.SOFT, NoticeKind.DELAYED, NoticeKind.AUTO_REPLY):
        these = [fate for fate in fates if fate.kind is kind]
        if these:
            return _report_notice(kind, these)
    return Notice(NoticeKind.NONE) if fates else None


def _report_notice(kind: NoticeKind, fates: list[_Fate]) -> Notice:
    finding = fates[0].finding
    failed = kind in (NoticeKind.HARD, NoticeKind.SOFT)
    status = finding.status
    if kind is NoticeKind.DELAYED and status:
        status = f"4{status[1:]}"  # delayed is not failed yet, so the class is 4
    return Notice(
        kind,
        recipients=tuple(dict.fromkeys(fate.recipient for fate in fates if fate.recipient)),
        status=status,
        reason=finding.reason,
        verdict=finding.verdict if failed else None,
    )


def _fates(mail: Mail, part: Part) -> Iterator[_Fate]:
    groups = list(_recipients(part))
    for group in groups:
        finding = _finding(group, mail, cut=part.cut, alone=len(groups) == 1)
        yield _Fate(_kind(group, finding), _name(group), finding)


def _recipients(part: Part) -> Iterator[Headers]:
    """Yield the fields of each recipient, followed by the fields common to all recipients.

    Some reports omit the empty line between two recipients, so a repeated field starts the next
    one; some write Action only once, at the top.
    """
    octets = part.octets[:_LONGEST].rstrip(b" \t")
    if part.cut:  # drop the last field, which may be truncated: "Diagnostic-Code: smtp; 55"
        octets = octets[: octets.rfind(b"\n", 0, len(octets.rstrip(b"\n"))) + 1]
    common: tuple[tuple[str, str], ...] = ()
    for block in re.split(rb"\n[ \t]*\n", octets):
        for group in _split(read_headers(block)):
            if _name(group) is None:
                common += tuple(field for field in group.fields if field[0] in _OF_A_RECIPIENT)
            else:
                yield Headers(group.fields + common)


def _split(block: Headers) -> Iterator[Headers]:
    fields: list[tuple[str, str]] = []
    seen: set[str] = set()
    for field in block.fields:
        if field[0] in _OF_A_RECIPIENT and field[0] in seen:
            yield Headers(tuple(fields))
            fields, seen = [], set()
        fields.append(field)
        seen.add(field[0])
    yield Headers(tuple(fields))


def _name(group: Headers) -> str | None:
    """Return the recipient's address; Final-Recipient comes first because that address failed."""
    for field in ("final-recipient", "original-recipient", "x-actual-recipient"):
        for value in group.all(field):
            found = recipient(value)
            if found:
                return found
    return None


def _finding(group: Headers, mail: Mail, *, cut: bool, alone: bool) -> Diagnosis:
    status = first_status(group.get("status"))
    diagnostics = " ".join(value for name in _DIAGNOSTICS for value in group.all(name))
    comment = group.get("action").partition("(")[2] + group.get("status").partition("(")[2]
    text = evidence(mail.written) if alone else ""
    trusted = status
    if diagnostics and status == "5.1.1" and has_relay_lines(text):
        trusted = None  # Sendmail's guess for a 550 that it did not recognise
    finding = diagnose(diagnostics or comment, trusted, phase_of(text))
    if finding.verdict is Verdict.HARD and status == "5.2.0" and not first_status(diagnostics):
        # Sendmail's status for "unknown user" at the dot; mobile carriers send that reply if the
        # reader's own filter refused the mail.
        return Diagnosis(Verdict.SOFT, status, finding.reason)
    if cut and not diagnostics:
        # The missing diagnostic would have decided: Orange sends "552 5.1.1" for a full mailbox.
        return Diagnosis(Verdict.SOFT, finding.status, finding.reason)
    if finding.verdict not in VAGUE and finding.reason:
        return finding
    if not alone:
        return finding
    # The fields are inconclusive: classify the human-readable part of the report.
    words = freeform.finding(mail)
    open_ = finding.verdict in VAGUE and not (status or "").startswith("4")
    if open_ and words.verdict not in VAGUE:
        return replace(words, reason=finding.reason or words.reason)
    return replace(finding, reason=finding.reason or words.reason)


def _kind(group: Headers, finding: Diagnosis) -> NoticeKind:
    action = group.get("action").lower()
    if action.startswith(_NOT_FAILED) or (finding.status or "").startswith("2"):
        return NoticeKind.NONE
    if action.startswith("delayed") or ("will-retry-until" in group and not action):
        return NoticeKind.DELAYED
    if _APPROVAL.search(plain(group.get("diagnostic-code"))):
        return NoticeKind.AUTO_REPLY  # a challenge: the sender must be approved first
    return NoticeKind.HARD if finding.for_good else NoticeKind.SOFT


# --- Complaints and disposition notifications ---------------------------------------------------

ARF_TYPE: Final = "message/feedback-report"
_NO_COMPLAINT: Final = ("not-spam", "auth-failure", "dmarc")  # RFC 6430, RFC 6591
_MICROSOFT: Final = "x-hmxmroriginalrecipient"


def parse_arf(mail: Mail) -> Notice | None:
    """Return a complaint, a NONE notice for other reports ("not-spam"), or None for other mail."""
    returned = enclosed(mail)
    for part in mail.parts:
        if part.type == ARF_TYPE:
            report = read_headers(part.octets.replace(b"\n\n", b"\n"))
            return _complaint(report, returned)
    for headers in returned:
        if _MICROSOFT in headers:
            recipients = tuple(addresses(headers.get(_MICROSOFT)))
            return Notice(
                NoticeKind.COMPLAINT, recipients, reason=plain(mail.headers.get("subject"))
            )
    return None


def _complaint(report: Headers, returned: list[Headers]) -> Notice:
    kind = report.get("feedback-type").strip().lower()
    if kind in _NO_COMPLAINT:
        return Notice(NoticeKind.NONE, reason=kind)
    return Notice(
        NoticeKind.COMPLAINT, _complainant(report, returned), reason=plain(kind or "abuse")
    )


def _complainant(report: Headers, returned: list[Headers]) -> tuple[str, ...]:
    """Return the addresses of a report, or the To of the returned mail if the report hides them.

    Many providers redact the address in the report.
    """
    fields = [*report.all("original-rcpt-to"), *report.all("removal-recipient")]
    named = [found for field in fields if (found := recipient(field))]
    if not named and returned:
        named = addresses(returned[0].get("to"))
    return tuple(dict.fromkeys(named))


MDN_TYPE: Final = "message/disposition-notification"
_REPORT: Final = "report-type=disposition-notification"  # such a report may lack the part
_REFUSED: Final = re.compile(r"\brejected\b|\brefused\b", re.I)


def parse_mdn(mail: Mail) -> Notice | None:
    """Return an automatic reply, or a soft bounce if Sieve refused the mail (RFC 5429).

    Return None if the mail is no disposition notification.
    """
    parts = [part for part in mail.parts if part.type == MDN_TYPE]
    if not parts and _REPORT not in mail.headers.get("content-type").lower():
        return None
    fields = read_headers(parts[0].octets.replace(b"\n\n", b"\n")) if parts else Headers()
    recipients = tuple(filter(None, [recipient(fields.get("final-recipient"))]))
    if _REFUSED.search(mail.headers.get("subject")):
        return _refusal(recipients, evidence(mail.written))
    return Notice(NoticeKind.AUTO_REPLY, recipients, reason=plain(fields.get("disposition")))


def _refusal(recipients: tuple[str, ...], words: str) -> Notice:
    """Return a soft bounce, never a hard one: a mailbox with a filter rule exists."""
    finding = diagnose(words)
    verdict = Verdict.SOFT if finding.verdict is Verdict.HARD else finding.verdict
    status = None if verdict is Verdict.SOFT else finding.status
    return Notice(NoticeKind.SOFT, recipients, status, plain(words), verdict)
