"""Parse spam complaints from feedback loops (RFC 5965, and Microsoft's older format)."""

from __future__ import annotations

from typing import Final

from pipeline.domain import Notice, NoticeKind
from pipeline.feedback.reading.addresses import addresses, recipient
from pipeline.feedback.reading.diagnostics import plain
from pipeline.feedback.reading.mime import Headers, Mail, read_headers
from pipeline.feedback.reading.returned import enclosed

TYPE: Final = "message/feedback-report"
_NO_COMPLAINT: Final = ("not-spam", "auth-failure", "dmarc")  # RFC 6430, RFC 6591
_MICROSOFT: Final = "x-hmxmroriginalrecipient"


def read(mail: Mail) -> Notice | None:
    """Return a complaint, a NONE notice for other reports ("not-spam"), or None for other mail."""
    returned = enclosed(mail)
    for part in mail.parts:
        if part.type == TYPE:
            report = read_headers(part.octets.replace(b"\n\n", b"\n"))
            return _notice(report, returned)
    for headers in returned:
        if _MICROSOFT in headers:
            whom = tuple(addresses(headers.get(_MICROSOFT)))
            return Notice(NoticeKind.COMPLAINT, whom, reason=plain(mail.headers.get("subject")))
    return None


def _notice(report: Headers, returned: list[Headers]) -> Notice:
    kind = report.get("feedback-type").strip().lower()
    if kind in _NO_COMPLAINT:
        return Notice(NoticeKind.NONE, reason=kind)
    return Notice(NoticeKind.COMPLAINT, _whom(report, returned), reason=plain(kind or "abuse"))


def _whom(report: Headers, returned: list[Headers]) -> tuple[str, ...]:
    """Return the addresses of a report, or the To of the returned mail if the report hides them.

    Many providers redact the address in the report.
    """
    fields = [*report.all("original-rcpt-to"), *report.all("removal-recipient")]
    named = [found for field in fields if (found := recipient(field))]
    if not named and returned:
        named = addresses(returned[0].get("to"))
    return tuple(dict.fromkeys(named))
