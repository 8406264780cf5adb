"""A small Amazon SNS: a certificate, messages signed with it, and the pages at its URLs."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from pipeline.errors import ProviderError
from tests.support.factories import NOW

ADDRESS = "ada@example.org"
TOPIC = "arn:aws:sns:eu-west-1:123456789012:bounces"
HOST = "https://sns.eu-west-1.amazonaws.com"
CERTIFICATE = f"{HOST}/SimpleNotificationService-{'0a' * 16}.pem"
SUBSCRIBE = f"{HOST}/?Action=ConfirmSubscription&TopicArn={TOPIC}&Token=abc"


@cache
def key(name: str = "sns") -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def certificate(name: str = "sns", *, begins: datetime = NOW - timedelta(days=3_650)) -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sns.amazonaws.com")])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key(name).public_key())
        .serial_number(1)
        .not_valid_before(begins)
        .not_valid_after(begins + timedelta(days=7_300))
        .sign(key(name), SHA256())
    )
    return made.public_bytes(Encoding.PEM)


@dataclass
class Amazon:
    """A fetcher that returns `pages` by URL; it records each URL in `requests`.

    It raises ProviderError if no page has the URL.
    """

    pages: dict[str, bytes] = field(
        default_factory=lambda: {CERTIFICATE: certificate(), SUBSCRIBE: b"<Confirmed/>"}
    )
    requests: list[str] = field(default_factory=list)

    def fetch(self, url: str) -> bytes:
        self.requests.append(url)
        if url not in self.pages:
            raise ProviderError("the provider answered 404")
        return self.pages[url]


def posted(
    message: Any = "",
    *,
    signed_by: str = "sns",
    sha1: bool = False,
    after: dict[str, Any] | None = None,
    **changes: Any,
) -> bytes:
    """Return the body of a POST as SNS makes it; `after` changes fields once they are signed."""
    text = message if isinstance(message, str) else json.dumps(message)
    fields: dict[str, Any] = {
        "Type": "Notification",
        "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
        "TopicArn": TOPIC,
        "Message": text,
        "Timestamp": NOW.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
        "SignatureVersion": "1" if sha1 else "2",
        "SigningCertURL": CERTIFICATE,
        **changes,
    }
    signed = ["Message", "MessageId", "Subject", "SubscribeURL", "Timestamp", "Token"]
    lines = [f"{n}\n{fields[n]}\n" for n in (*signed, "TopicArn", "Type") if n in fields]
    algorithm = SHA1() if sha1 else SHA256()
    signature = key(signed_by).sign("".join(lines).encode(), padding.PKCS1v15(), algorithm)
    fields["Signature"] = base64.b64encode(signature).decode()
    return json.dumps(fields | (after or {})).encode()


def about_subscription(type_: str = "SubscriptionConfirmation", **changes: Any) -> bytes:
    given = {"Type": type_, "Token": "abc", "SubscribeURL": SUBSCRIBE, **changes}
    return posted("You have chosen to subscribe", **given)


# --- Events of SES ------------------------------------------------------------------------------


def mail(**changes: Any) -> dict[str, Any]:
    return {
        "timestamp": "2030-01-02T08:00:00.000Z",
        "source": "Papers <papers@example.org>",
        "messageId": "0100-000000",
        "destination": [ADDRESS],
        **changes,
    }


def bounce(
    type_: str = "Permanent", subtype: str = "General", *, old: bool = False, **changes: Any
) -> dict[str, Any]:
    """Return a bounce: as a notification if `old`, else as an event of a configuration set."""
    about = changes.pop("mail", mail())
    recipient = {"emailAddress": ADDRESS, "action": "failed", **changes}
    return {
        "notificationType" if old else "eventType": "Bounce",
        "bounce": {
            "bounceType": type_,
            "bounceSubType": subtype,
            "bouncedRecipients": [recipient],
            "timestamp": "2030-01-02T08:00:01.000Z",
            "feedbackId": "0100-feedback",
        },
        "mail": about,
    }


def complaint(feedback: str | None = "abuse", *, old: bool = False) -> dict[str, Any]:
    said = {"complainedRecipients": [{"emailAddress": ADDRESS}]}
    if feedback:
        said["complaintFeedbackType"] = feedback
    return {
        "notificationType" if old else "eventType": "Complaint",
        "complaint": said,
        "mail": mail(),
    }
