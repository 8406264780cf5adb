"""Verify messages of Amazon SNS, and parse the events of Amazon SES in them.

A message is signed with a certificate from the service's own host. Events are notifications and the
events of a configuration set.

https://docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html
https://docs.aws.amazon.com/ses/latest/dg/notification-contents.html
"""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from email.utils import parseaddr
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import requests
import structlog
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from pipeline.domain import Notice, NoticeKind, Verdict
from pipeline.errors import ForgedError, ProviderError
from pipeline.feedback.process import Event
from pipeline.feedback.webhooks import bounce_verdict, record, records, reply_text, status, text

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
        code, words = status(recipient.get("status")), reply_text(recipient.get("diagnosticCode"))
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


# --- Signatures of Amazon SNS -------------------------------------------------------------------

log = structlog.get_logger(__name__)

TOPIC: Final = re.compile(r"arn:(aws(?:-[a-z]+)*):sns:([a-z0-9-]+):\d{12}:[\w-]{1,256}")
OLDEST: Final = timedelta(days=1)  # see docs/decisions/feedback-replays.md
AHEAD: Final = timedelta(minutes=5)  # tolerance for a clock that is ahead of ours
VERSION: Final = "2"  # SHA-256; 1 is SHA-1

_CERTIFICATE: Final = re.compile(r"/SimpleNotificationService-[0-9a-f]{32}\.pem")
_MOST_KEYS: Final = 8
_SIGNED: Final = {
    "Notification": ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    "SubscriptionConfirmation": (
        "Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type",
    ),
    "UnsubscribeConfirmation": (
        "Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type",
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Message:
    """A verified message of one of the configured topics."""

    id: str  # the same if the message is sent again
    text: str


@dataclass(frozen=True, slots=True)
class SNS:
    """Verifies messages of these topics; `fetch` returns the body of a URL at Amazon's host."""

    topics: Sequence[str]
    fetch: Callable[[str], bytes]
    _keys: dict[str, x509.Certificate] = field(default_factory=dict, repr=False)
    _asking: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def open(self, body: bytes, now: datetime) -> Message | None:
        """Verify a request and return its message.

        Return None for a message about the subscription itself; a SubscriptionConfirmation is
        confirmed first. Raises ForgedError if the message is not signed, not recent or not of
        these topics, and ProviderError if the certificate or the confirmation URL cannot be
        fetched.
        """
        fields = _fields(body)
        kind, topic = fields.get("Type", ""), fields.get("TopicArn", "")
        if kind not in _SIGNED or topic not in self.topics:
            raise ForgedError("not a message of a topic in SES_TOPICS")
        self._verify(fields, now)
        _check_age(fields.get("Timestamp", ""), now)
        if kind == "Notification":
            return Message(fields["MessageId"], fields["Message"])
        if kind == "SubscriptionConfirmation":
            self._confirm(fields["SubscribeURL"], topic)
        log.warning("sns.subscription_received", kind=kind, topic=topic)
        return None

    def _verify(self, fields: dict[str, str], now: datetime) -> None:
        if fields.get("SignatureVersion") != VERSION:
            raise ForgedError("the topic signs by SHA-1: set its SignatureVersion to 2")
        url = fields.get("SigningCertURL", "")
        _check_address(url, fields["TopicArn"], path=_CERTIFICATE)
        certificate = self._certificate(url)
        key = certificate.public_key()
        valid = certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc
        if not valid or not isinstance(key, rsa.RSAPublicKey):
            raise ForgedError("the certificate is not valid")
        try:
            signature = base64.b64decode(fields.get("Signature", ""), validate=True)
            key.verify(signature, _canonical(fields), padding.PKCS1v15(), SHA256())
        except (ValueError, InvalidSignature) as error:
            raise ForgedError("the signature does not fit") from error

    def _certificate(self, url: str) -> x509.Certificate:
        """Return a certificate, cached by its URL, which names its content; at most 8 are cached.

        Only one fetch runs at a time, so that forged URLs cannot block every thread of the site;
        meanwhile others raise ProviderError. Raises ForgedError if the body is no certificate.
        """
        if url in self._keys:
            return self._keys[url]
        if not self._asking.acquire(blocking=False):
            raise ProviderError("a certificate is being fetched")
        try:
            certificate = x509.load_pem_x509_certificate(self.fetch(url))
        except ValueError as error:
            raise ForgedError("what lies at the address is no certificate") from error
        finally:
            self._asking.release()
        if len(self._keys) >= _MOST_KEYS:
            self._keys.clear()
        self._keys[url] = certificate
        return certificate

    def _confirm(self, url: str, topic: str) -> None:
        """Confirm the subscription to a topic that the operator configured, by a GET.

        Raises ForgedError if the URL is not the confirmation of this topic.
        """
        query = _check_address(url, topic)
        if query.get("Action") != ["ConfirmSubscription"] or query.get("TopicArn") != [topic]:
            raise ForgedError("this address does something else")
        self.fetch(url)


def _fields(body: bytes) -> dict[str, str]:
    """Return the string fields of a JSON object; raise ForgedError if the body is no object."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ForgedError("not a message of SNS") from error
    if not isinstance(found, dict):
        raise ForgedError("not a message of SNS")
    return {name: value for name, value in found.items() if isinstance(value, str)}


def _canonical(fields: dict[str, str]) -> bytes:
    """Return the signed octets: each name and value on its own line; only Subject is optional.

    Raises ForgedError if another field is missing, or if the text has lone surrogates.
    """
    names = [n for n in _SIGNED[fields["Type"]] if n in fields or n != "Subject"]
    try:
        return "".join(f"{name}\n{fields[name]}\n" for name in names).encode()
    except (KeyError, UnicodeEncodeError) as error:
        raise ForgedError("the message is not complete") from error


def _check_age(timestamp: str, now: datetime) -> None:
    try:
        sent_at = datetime.fromisoformat(timestamp)
    except ValueError as error:
        raise ForgedError("the message has no time") from error
    if sent_at.tzinfo is None or not now - OLDEST <= sent_at <= now + AHEAD:
        raise ForgedError("the message is not of these days")


def _check_address(
    url: str, topic: str, path: re.Pattern[str] = re.compile("/")
) -> dict[str, list[str]]:
    """Return the query of a URL; raise ForgedError unless its host is that of the topic's region.

    The scheme must be https, and the whole path must match `path`.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ForgedError("not an address") from error
    if parts.scheme != "https" or parts.netloc != host_of(topic) or not path.fullmatch(parts.path):
        raise ForgedError("this address is not one of SNS")
    return parse_qs(parts.query)


def host_of(topic: str) -> str:
    """Return the host of SNS in a topic's region; raise ValueError if `topic` is no ARN."""
    found = TOPIC.fullmatch(topic)
    if not found:
        raise ValueError(f"{topic!r} is not the ARN of a topic")
    partition, region = found.groups()
    return f"sns.{region}.amazonaws.com" + (".cn" if partition == "aws-cn" else "")


LARGEST: Final = 64 * 1024  # octets; a certificate has about 2,000
LONGEST: Final = 15.0  # seconds for the whole request
TIMEOUTS: Final = (5.0, 5.0)  # seconds to connect, and between two chunks


def fetch(url: str) -> bytes:
    """Return the body of a 200 response.

    Raises ProviderError for any other status, for a network error, and if the response exceeds
    64 KB or 15 seconds. Redirects are not followed: the caller has validated this host only.
    """
    until = time.monotonic() + LONGEST
    body = bytearray()
    try:
        with requests.get(url, timeout=TIMEOUTS, allow_redirects=False, stream=True) as answer:
            if answer.status_code != requests.codes.ok:
                raise ProviderError(f"the provider answered {answer.status_code}")
            for piece in answer.iter_content(8 * 1024):
                body += piece
                if len(body) > LARGEST or time.monotonic() > until:
                    raise ProviderError("the provider's answer was too large or too slow")
    except requests.RequestException as error:
        raise ProviderError(f"the provider does not answer: {type(error).__name__}") from error
    return bytes(body)
