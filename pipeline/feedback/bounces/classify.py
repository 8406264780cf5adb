"""Parse the octets of a mail into a `Notice`: try each parser in order, then add common fields."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

import structlog

from pipeline.domain import Notice, NoticeKind
from pipeline.feedback.bounces import freeform, reply_mails, reports
from pipeline.feedback.bounces.diagnostics import VAGUE
from pipeline.feedback.bounces.freeform import is_daemon
from pipeline.feedback.bounces.mime import Headers, Mail, parse_mail, read_headers
from pipeline.feedback.bounces.original import answered, came_back_to, evidence, message_id

log = structlog.get_logger(__name__)

_READERS: Final = (
    reports.parse_arf,
    reports.parse_dsn,
    reports.parse_mdn,
    reply_mails.parse_unsubscribe,
    freeform.parse,
    reply_mails.parse_auto_reply,
)
_FORWARDED: Final = re.compile(
    r"^[ \t>]*-{2,}.{0,40}(?:forwarded|original|weitergeleitete|transféré|reenviado).{0,40}$"
    r"|^[ \t>]*begin forwarded message:.*$",
    re.I | re.M,
)
_BOUNCES: Final = frozenset(
    {NoticeKind.HARD, NoticeKind.SOFT, NoticeKind.DELAYED, NoticeKind.COMPLAINT}
)


def read_mail(octets: bytes) -> Notice:
    """Return the notice in a mail; NONE for any other mail, and for octets that are no mail.

    Never raises. If a parser fails, the error is logged and the notice is NONE; otherwise one
    malformed mail from a stranger would come first, and fail, at every run forever.
    """
    try:
        return _read_mail(octets)
    except Exception as error:
        log.exception("bounce.unreadable", octets=len(octets))
        return Notice(NoticeKind.NONE, reason=f"cannot be read: {type(error).__name__}")


def _read_mail(octets: bytes) -> Notice:
    mail = parse_mail(octets)
    notice = _read(mail)
    if notice is None or _is_vague(notice):
        # A gateway may have wrapped the bounce again, or a person may have forwarded it.
        notice = _enclosed(mail) or notice or _forwarded(mail) or Notice(NoticeKind.NONE)
    return replace(notice, envelope=came_back_to(mail.headers))


def _read(mail: Mail) -> Notice | None:
    for reader in _READERS:
        notice = reader(mail)
        if notice is not None:
            return replace(notice, message_id=_about(mail, notice))
    return None


def _is_vague(notice: Notice) -> bool:
    return notice.kind is NoticeKind.SOFT and notice.verdict in VAGUE


def _about(mail: Mail, notice: Notice) -> str | None:
    if notice.kind is NoticeKind.UNSUBSCRIBE:
        return answered(mail.headers)
    if notice.kind is NoticeKind.AUTO_REPLY:
        return answered(mail.headers) or message_id(mail, "")
    return message_id(mail, mail.written) or answered(mail.headers)


def _enclosed(mail: Mail) -> Notice | None:
    """Return a bounce that was forwarded as an attachment or wrapped again by a gateway."""
    for part in mail.parts:
        if part.type != "message/rfc822":
            continue
        inner = parse_mail(part.octets)
        # Never parse a returned digest as a bounce: titles of papers may contain any text.
        if is_daemon(inner.headers) or any(part.type in reports.DSN_TYPES for part in inner.parts):
            notice = _read(inner)
            if notice and notice.kind in _BOUNCES:
                return notice
    return None


def _forwarded(mail: Mail) -> Notice | None:
    """Return a bounce that was forwarded inline, with its headers quoted in the text."""
    text = mail.written[:50_000]
    begins = _FORWARDED.search(text)
    if begins is None:
        return None
    quoted = re.sub(r"^[ \t]*(?:>[ \t]?)+", "", text[begins.end() :], flags=re.M).strip("\n")
    head, _, words = quoted.partition("\n\n")
    headers = read_headers(head.replace("*", "").encode())
    if "from" not in headers or not is_daemon(headers):
        return None
    notice = freeform.read_words(Headers(headers.fields), evidence(words), [])
    if notice is None or notice.kind not in _BOUNCES:
        return None
    return replace(notice, message_id=message_id(mail, words))
