"""Parse events of Amazon SES from SNS: notifications, and the events of a configuration set.

https://docs.aws.amazon.com/ses/latest/dg/notification-contents.html
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from email.utils import parseaddr
from typing import Any, Final

from pipeline.domain import Notice, NoticeKind, Verdict
from pipeline.feedback.process import Event
from pipeline.feedback.webhooks.json_fields import bounce_verdict, record, records, status, text
from pipeline.feedback.webhooks.json_fields import said as words_of
from pipeline.feedback.webhooks.sns import SNS, Message

LARGEST_RAW: Final = 256 * 1024  # the size limit of an SNS message

_BY_SUBTYPE: Final = {
    "NoEmail": Verdict.HARD,
    # SES did not try: the address is on its own suppression list, or on the account's.
    "Suppressed": Verdict.HARD,
    "OnAccountSuppressionList": Verdict.HARD,
    "MailboxFull": Verdict.FULL,
    "MessageTooLarge": Verdict.TOO_LARGE,
    "ContentRejected": Verdict.BLOCKED,
    "AttachmentRejected": Verdict.BLOCKED,
}
_INFORMATION: Final = {
    "Delivery": NoticeKind.NONE,
    "Send": NoticeKind.NONE,
    "DeliveryDelay": NoticeKind.DELAYED,
}


@dataclass(frozen=True, slots=True)
class SES:
    sns: SNS

    def receive(self, headers: Mapping[str, str], body: bytes, now: datetime) -> Sequence[Event]:
        message = self.sns.open(body, now)
        return () if message is None else (parse(message),)


def parse(message: Message) -> Event:
    """Parse one message of SES; if its type is unknown, the event has no notices."""
    try:
        said = record(json.loads(message.text))
    except (ValueError, RecursionError):
        said = {}  # not JSON, such as the SNS greeting of a new subscription
    kind = text(said.get("eventType") or said.get("notificationType")) or "unknown"
    mail = record(said.get("mail"))
    about = Notice(
        NoticeKind.NONE,
        recipients=_texts(mail.get("destination")),
        message_id=_message_id(mail) or None,
        envelope=parseaddr(text(mail.get("source")))[1] or None,
    )
    return Event(
        text(message.id),
        kind,
        text(message.text, LARGEST_RAW),
        tuple(_notices(kind, said, about)),
        # The id in the reply of SES when it accepted the mail.
        queue_id=text(mail.get("messageId")) or None,
    )


def _notices(kind: str, said: dict[str, Any], about: Notice) -> Iterator[Notice]:
    if kind == "Bounce":
        yield from _bounces(record(said.get("bounce")), about)
    elif kind == "Complaint":
        yield _complaint(record(said.get("complaint")), about)
    elif kind in _INFORMATION:
        yield replace(about, kind=_INFORMATION[kind])


def _bounces(bounce: dict[str, Any], about: Notice) -> Iterator[Notice]:
    for recipient in records(bounce.get("bouncedRecipients")):
        code, words = status(recipient.get("status")), words_of(recipient.get("diagnosticCode"))
        verdict = _verdict(
            text(bounce.get("bounceType")), text(bounce.get("bounceSubType")), code, words
        )
        yield replace(
            about,
            kind=NoticeKind.HARD if verdict is Verdict.HARD else NoticeKind.SOFT,
            recipients=(text(recipient.get("emailAddress")),),
            status=code,
            reason=words,
            verdict=verdict,
        )


def _verdict(type_: str, subtype: str, code: str | None, words: str) -> Verdict:
    if subtype in _BY_SUBTYPE:
        return _BY_SUBTYPE[subtype]
    by_reply = bounce_verdict(code, words) if code or words else None
    if type_ == "Permanent":
        # The server's reply takes precedence if it is specific: the cause may be on our side.
        is_clear = by_reply not in {None, Verdict.SOFT, Verdict.DEFERRED}
        return by_reply if by_reply and is_clear else Verdict.HARD
    if type_ == "Transient":
        # Without a code it may be an out-of-office reply.
        return Verdict.DEFERRED if by_reply is None else _no_harder_than_soft(by_reply)
    return Verdict.SOFT if by_reply is None else _no_harder_than_soft(by_reply)


def _no_harder_than_soft(verdict: Verdict) -> Verdict:
    return Verdict.SOFT if verdict in {Verdict.HARD, Verdict.NO_DOMAIN} else verdict


def _complaint(complaint: dict[str, Any], about: Notice) -> Notice:
    # RFC 6430: not-spam means that a reader moved the mail out of the spam folder.
    is_praise = complaint.get("complaintFeedbackType") == "not-spam"
    named = records(complaint.get("complainedRecipients"))
    return replace(
        about,
        kind=NoticeKind.NONE if is_praise else NoticeKind.COMPLAINT,
        recipients=tuple(text(one.get("emailAddress")) for one in named) or about.recipients,
        reason=text(complaint.get("complaintFeedbackType")),
    )


def _message_id(mail: dict[str, Any]) -> str:
    """Return our Message-ID from the original headers; SES replaces it in the mail itself."""
    for header in records(mail.get("headers")):
        if text(header.get("name")).lower() == "message-id":
            return text(header.get("value"))
    return text(record(mail.get("commonHeaders")).get("messageId"))


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(map(text, value)) if isinstance(value, list) else ()
