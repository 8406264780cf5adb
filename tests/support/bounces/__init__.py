"""Bounce mails in the shapes of real ones, each with the classification that is expected.

Each mail returns the same digest. Its title is full of words that would mean something in a bounce:
a parser that searches the returned mail would classify it wrongly.
"""

from __future__ import annotations

import base64
import quopri
from dataclasses import dataclass
from textwrap import dedent

from pipeline.domain import NoticeKind

ADA = "ada@example.org"
GRACE = "grace@example.net"
MESSAGE_ID = "<4f2a77@papers.example.com>"
TITLE = "550 5.1.1 User unknown: mailbox full, blocked as spam, delivery delayed, out of office"
ORIGINAL = f"""\
Received: from papers.example.com (papers.example.com [192.0.2.1]) by mx.example.org; 2 Jan 2030
Return-Path: <bounces@papers.example.com>
Message-ID: {MESSAGE_ID}
From: Papers <papers@papers.example.com>
To: {ADA}
Subject: {TITLE}

{TITLE}
550 5.1.1 <{GRACE}>... User unknown
"""


@dataclass(frozen=True)
class Case:
    """A mail and the notice that the parser must return for it."""

    name: str
    octets: bytes
    kind: NoticeKind
    status: str | None = None
    recipients: tuple[str, ...] = (ADA,)
    message_id: str | None = MESSAGE_ID


def lines(text: str) -> str:
    return dedent(text).strip("\n") + "\n"


def mail(text: str, charset: str = "utf-8") -> bytes:
    """Return the octets of a mail as a server would deliver it: with CRLF line ends."""
    return lines(text).replace("\n", "\r\n").encode(charset)


def encoded(head: str, body: str, *, charset: str, transfer: str = "base64") -> bytes:
    """Return a mail whose text is encoded by a charset and a transfer encoding."""
    pack = {"base64": base64.encodebytes, "quoted-printable": quopri.encodestring}.get(
        transfer, bytes
    )
    fields = lines(head) + f"Content-Transfer-Encoding: {transfer}\n\n"
    return fields.encode() + pack(lines(body).encode(charset))


def report(
    fields: str,
    text: str = "This is an automatically generated report.",
    *,
    sender: str = "Mail Delivery System <MAILER-DAEMON@mx.example.com>",
    subject: str = "Delivery Status Notification (Failure)",
    type: str = "message/delivery-status",
    returned: str = "message/rfc822",
) -> bytes:
    """Return a multipart/report: text for people, fields for programs, the returned mail."""
    head = f"""\
Return-Path: <>
From: {sender}
To: bounces@papers.example.com
Subject: {subject}
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type={type.partition("/")[2]}; boundary="=_b/1"

This is a MIME-encapsulated message.

--=_b/1
Content-Type: text/plain; charset=utf-8

"""
    parts = (lines(text), f"--=_b/1\nContent-Type: {type}\n", lines(fields))
    end = f"--=_b/1\nContent-Type: {returned}\n\n{ORIGINAL}\n--=_b/1--\n"
    return (head + "\n".join((*parts, end))).replace("\n", "\r\n").encode()


def recipient(status: str | None, diagnostic: str | None, action: str = "failed") -> str:
    """Return the fields of a delivery report about `ADA`."""
    rows = ["Reporting-MTA: dns; mx.example.com", "", f"Final-Recipient: rfc822; {ADA}"]
    rows.append(f"Action: {action}")
    rows += [f"Status: {status}"] if status else []
    rows += [f"Diagnostic-Code: {diagnostic}"] if diagnostic else []
    return "\n".join(rows)


def bounce(
    text: str,
    *,
    sender: str = "MAILER-DAEMON@mx.example.com",
    subject: str = "failure notice",
    more: str = "",
    after: str = "--- Below this line is a copy of the message.",
) -> bytes:
    """Return a bounce in a single text part, with the returned mail at its end."""
    head = f"Return-Path: <>\nFrom: {sender}\nTo: bounces@papers.example.com\nSubject: {subject}\n"
    body = f"{lines(text)}\n{after}\n\n{ORIGINAL}" if after else lines(text)
    return (head + lines(more).lstrip("\n") + "\n" + body).encode()
