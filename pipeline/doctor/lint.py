"""Find problems in the bytes of a mail that mailboxes would hold against it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import SMTP
from typing import Final
from urllib.parse import urlsplit

LARGEST: Final = 90_000  # octets: Gmail clips mails longer than 102 KB, including its additions
LONGEST_LINE: Final = 998  # RFC 5322, section 2.1.1
LONGEST_SUBJECT: Final = 150  # characters; every mailbox truncates longer ones
ONCE: Final = ("From", "To", "Subject", "Date", "Message-ID", "MIME-Version")  # RFC 5322, 3.6

_LINK = re.compile(r'\bhref="([^"]+)"')
_ADDRESS = re.compile(rb"<(?:https?|mailto):[^>]*>")
_LEFTOVERS = ("<mj-", "{{", "{%")


@dataclass(frozen=True, slots=True)
class Expected:
    """Properties that a mail must have."""

    is_list: bool  # a digest: has one-click unsubscribing
    is_https: bool
    operator_address: str = ""


def problems(mail: bytes, expected: Expected) -> Iterator[str]:
    """Yield each problem of a received mail (dot-unstuffed); nothing if there is none."""
    head, _, body = mail.partition(b"\r\n\r\n")
    message = message_from_bytes(mail, policy=SMTP)
    assert isinstance(message, EmailMessage)  # noqa: S101  (the policy makes them)
    yield from _of_bytes(mail)
    yield from _of_headers(head, message)
    yield from _of_parts(message, expected)
    if expected.is_list:
        yield from _of_the_way_out(head, expected)
    if not body:
        yield "the body is empty"


def links(mail: bytes) -> set[str]:
    """Return the hosts of the links in the HTML part."""
    message = message_from_bytes(mail, policy=SMTP)
    assert isinstance(message, EmailMessage)  # noqa: S101  (the policy makes them)
    addresses = _LINK.findall(_text_of(message, "html"))
    return {urlsplit(address).hostname or address for address in addresses}


def _of_bytes(mail: bytes) -> Iterator[str]:
    if len(mail) > LARGEST:
        yield f"it has {len(mail)} octets, and Gmail clips it"
    lines = mail.split(b"\r\n")
    if max(map(len, lines)) > LONGEST_LINE:
        yield f"a line is longer than {LONGEST_LINE} octets"
    if any(b"\r" in line or b"\n" in line for line in lines):
        yield "a line does not end in CRLF"


def _of_headers(head: bytes, message: EmailMessage) -> Iterator[str]:
    for name in ONCE:
        count = len(message.get_all(name, []))
        if count != 1:
            yield f"it has {count or 'no'} {name}"
    if len(str(message.get("Subject", ""))) > LONGEST_SUBJECT:
        yield f"its subject is longer than {LONGEST_SUBJECT} characters"
    if any(re.search(rb"\s", address) for address in _ADDRESS.findall(head)):
        yield "a URL in a header is folded, and mail apps truncate it"


def _of_parts(message: EmailMessage, expected: Expected) -> Iterator[str]:
    kinds = [part.get_content_type() for part in message.walk() if not part.is_multipart()]
    if kinds != ["text/plain", "text/html"]:
        yield f"its parts are {' and '.join(kinds)}, not text/plain and then text/html"
        return
    plain, html = _text_of(message, "plain"), _text_of(message, "html")
    if not plain.strip():
        yield "its text part is empty"
    yield from (
        f"it contains {left} from a template" for left in _LEFTOVERS if left in plain + html
    )
    for form, text in (("text", plain), ("HTML", html)):
        if expected.is_list and "/unsubscribe/" not in text:
            yield f"its {form} part has no unsubscribe link"
    if expected.operator_address and expected.operator_address not in " ".join(plain.split()):
        yield "it lacks the postal address of the operator"


def _of_the_way_out(head: bytes, expected: Expected) -> Iterator[str]:
    unfolded = re.sub(rb"\r\n[ \t]", b" ", head)
    leave = re.search(rb"(?m)^List-Unsubscribe: (.*)", unfolded)
    if leave is None:
        yield "it has no List-Unsubscribe header"
    elif expected.is_https and b"<https://" not in leave[1]:
        yield "its List-Unsubscribe has no https URL"
    post = b"List-Unsubscribe-Post: List-Unsubscribe=One-Click"
    if expected.is_https and post not in unfolded.split(b"\r\n"):
        yield "it has no List-Unsubscribe-Post header"


def _text_of(message: EmailMessage, kind: str) -> str:
    part = message.get_body((kind,))
    return str(part.get_content()) if part else ""
