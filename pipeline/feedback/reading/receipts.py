"""Parse disposition notifications (RFC 8098): mail displayed, deleted or refused by a filter."""

from __future__ import annotations

import re
from typing import Final

from pipeline.domain import Notice, NoticeKind, Verdict
from pipeline.feedback.reading.addresses import recipient
from pipeline.feedback.reading.diagnostics import judge, plain
from pipeline.feedback.reading.mime import Headers, Mail, read_headers
from pipeline.feedback.reading.returned import evidence

TYPE: Final = "message/disposition-notification"
_REPORT: Final = "report-type=disposition-notification"  # such a report may lack the part
_REFUSED: Final = re.compile(r"\brejected\b|\brefused\b", re.I)


def read(mail: Mail) -> Notice | None:
    """Return an automatic reply, or a soft bounce if Sieve refused the mail (RFC 5429).

    Return None if the mail is no disposition notification.
    """
    parts = [part for part in mail.parts if part.type == TYPE]
    if not parts and _REPORT not in mail.headers.get("content-type").lower():
        return None
    fields = read_headers(parts[0].octets.replace(b"\n\n", b"\n")) if parts else Headers()
    whom = tuple(filter(None, [recipient(fields.get("final-recipient"))]))
    if _REFUSED.search(mail.headers.get("subject")):
        return _refusal(whom, evidence(mail.written))
    return Notice(NoticeKind.AUTO_REPLY, whom, reason=plain(fields.get("disposition")))


def _refusal(whom: tuple[str, ...], words: str) -> Notice:
    """Return a soft bounce, never a hard one: a mailbox with a filter rule exists."""
    finding = judge(words)
    verdict = Verdict.SOFT if finding.verdict is Verdict.HARD else finding.verdict
    status = None if verdict is Verdict.SOFT else finding.status
    return Notice(NoticeKind.SOFT, whom, status, plain(words), verdict)
