"""Mails that ask to leave: what `List-Unsubscribe: <mailto:...>` makes a mail program send."""

from __future__ import annotations

import re
from typing import Final

from pipeline.domain import Notice, NoticeKind
from pipeline.feedback.reading.addresses import addresses, came_back_to
from pipeline.feedback.reading.mime import Mail

# `message._leave_headers` writes "unsubscribe SECRET" as the subject.
_WITH_SECRET: Final = re.compile(r"^\s*unsubscribe[\s:_+]{1,10}([\w-]{16,128})\s*$", re.I)
_IN_ADDRESS: Final = re.compile(r"(?:^|[+-])unsubscribe[+=-]([\w-]{16,64})@", re.I)
_BY_HAND: Final = re.compile(
    r"^\s*(?:re:\s*)?(?:please\s+)?(?:unsubscribe|remove me|opt[ -]?out|abmelden|désinscription"
    r"|désabonner|cancelar suscripci[oó]n|disiscri\w+|afmelden|退订|配信停止|отписаться)"
    r"(?:\s+(?:me|please))*[\s.!]*$",
    re.I,
)


def read(mail: Mail) -> Notice | None:
    """The wish with its secret; without one where somebody wrote it by hand."""
    subject = mail.headers.get("subject")[:500]
    found = _WITH_SECRET.match(subject) or _IN_ADDRESS.search(came_back_to(mail.headers) or "")
    if found is None and not _BY_HAND.match(subject):
        return None
    writer = tuple(addresses(mail.headers.get("from"))[:1])
    return Notice(NoticeKind.UNSUBSCRIBE, writer, secret=found[1] if found else None)
