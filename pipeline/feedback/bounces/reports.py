"""Parse spam complaints (ARF, RFC 5965) and disposition notifications (MDN, RFC 8098)."""

from __future__ import annotations

import re
from typing import Final

from pipeline.domain import Notice, NoticeKind, Verdict
from pipeline.feedback.bounces.diagnostics import diagnose, plain
from pipeline.feedback.bounces.mime import Headers, Mail, read_headers
from pipeline.feedback.bounces.original import enclosed, evidence
from pipeline.feedback.bounces.recipients import addresses, recipient

ARF_TYPE: Final = "message/feedback-report"
_NO_COMPLAINT: Final = ("not-spam", "auth-failure", "dmarc")  # RFC 6430, RFC 6591
_MICROSOFT: Final = "x-hmxmroriginalrecipient"


def parse_arf(mail: Mail) -> Notice | None:
    """Return a complaint, a NONE notice for other reports ("not-spam"), or None for other mail."""
    returned = enclosed(mail)
    for part in mail.parts:
        if part.type == ARF_TYPE:
            report = read_headers(part.octets.replace(b"\n\n", b"\n"))
            return _notice(report, returned)
    for headers in returned:
        if _MICROSOFT in headers:
            recipients = tuple(addresses(headers.get(_MICROSOFT)))
            return Notice(
                NoticeKind.COMPLAINT, recipients, reason=plain(mail.headers.get("subject"))
            )
    return None


def _notice(report: Headers, returned: list[Headers]) -> Notice:
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
