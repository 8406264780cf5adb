"""Locate the returned mail within a bounce, its Message-ID, and the addresses that a bounce names.

The text of the returned mail is never evidence, nor is a line that quotes its subject: titles of
papers look like diagnostics ("User unknown: a study of mail").
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from pipeline.feedback.bounces.mime import RETURNED, Headers, Mail, read_headers

_EVIDENCE: Final = 20_000  # characters before the returned mail that are parsed

_RETURNED: Final = (
    r"(?:below this line is|(?:this|below|attachment|following|here) is) a?\s?(?:the )?copy\b",
    r"(?:the )?(?:header of the )?original (?:message|mail|email)(?: \(?headers?\)?)?"
    r"(?: (?:follows|is (?:following|included)|below)|:?\s?-|:?[ \t]*$| headers:| details)",
    r"original message as received|message (?:header|text|body)s? (?:follows?|suppressed)",
    r"(?:un(?:sent|delivered)|returned) (?:message|mail) (?:below|follows|attached|[ \t]*--)",
    r"message headers follow|(?:begin|start) of (?:returned|original)|included is a copy",
    r"a?\s?(?:summary|copy) of (?:the|your) (?:undelivered|original|returned) (?:message|mail)",
    r"your (?:original )?message (?:follows|reads|is included below)|the message (?:text )?follows",
    r"forwarded message|old message:|original mail",
    r"(?:mensaje|mensagem|messaggio) original[e]?|message (?:d'origine|original|initial)",
    r"urspr(?:ü|ue)ngliche (?:nachricht|e-?mail)|original-?nachricht|originele bericht",
    r"(?:kopie|inhalt) der (?:urspr|e-?mail|nachricht)|исходное (?:сообщение|письмо)",
    r"原(?:始)?邮件|元のメール|送信されたメール|원본",
)
_BEGINS: Final = re.compile(rf"^[ \t>*#=_+|.-]{{0,80}}(?:{'|'.join(_RETURNED)})", re.I | re.M)
_HEADERS: Final = re.compile(
    r"^>? ?(?:received: ?(?:from|by|\(|via)|return-path: ?<|dkim-signature: |delivered-to: "
    r"|x-received: |received-spf: |arc-seal: )", re.I | re.M
)  # fmt: skip
_SUBJECT: Final = re.compile(
    r"^[ \t>*-]{0,20}(?:the )?(?:message )?(?:subject|betreff|objet|sujet|asunto|oggetto|assunto"
    r"|onderwerp|temat|件名|題名|主题"
    r"|主旨|標題|标题|제목|тема|ämne|emne|aihe|konu|th[eè]me)(?: of the message is"
    r"| line)?[ \t]{0,4}[:\uff1a].*(?:\n[ \t]{1,40}\S.*)?",
    re.I | re.M,
)  # fmt: skip
_NAMED: Final = re.compile(
    r"(?:with|mit|about|regarding|entitled|titled)[ \t]{1,3}(?:the )?subject.{0,300}", re.I
)
_QUOTED: Final = re.compile(r"^[ \t]{0,8}>(?!>>).*$", re.M)  # Sendmail's ">>> DATA" is no quote
_MESSAGE_ID: Final = re.compile(
    r"^[ \t>|]{0,12}message-id:[ \t]{0,8}\n?[ \t]{0,8}(<[^<>\s]{3,250}>)", re.I | re.M
)
_ID: Final = re.compile(r"<[^<>\s@]{1,200}@[^<>\s@]{1,200}>")


def evidence(text: str) -> str:
    """Return the mail system's own part of a text: before the returned mail, without quotations.

    Lines that quote the subject are removed; at most 20,000 characters are returned.
    """
    text = text[: _begins(text)][:_EVIDENCE]
    return _QUOTED.sub("", _NAMED.sub("", _SUBJECT.sub("", text)))


def message_id(mail: Mail, text: str) -> str | None:
    """Return the Message-ID of the returned mail, from its enclosed headers or quoted in `text`."""
    for headers in enclosed(mail):
        found = _ID.search(headers.get("message-id"))
        if found:
            return found[0]
    found = _MESSAGE_ID.search(text, _begins(text)) or _MESSAGE_ID.search(text)
    return found[1] if found else None


def answered(headers: Headers) -> str | None:
    """Return the Message-ID that a reply answers (RFC 5322, section 3.6.4); None if it has none."""
    found = _ID.findall(headers.get("in-reply-to")) or _ID.findall(headers.get("references"))
    return found[-1] if found else None


def enclosed(mail: Mail) -> list[Headers]:
    """Return the headers of each mail enclosed in this one."""
    return [
        read_headers(part.octets.lstrip(b"\n").partition(b"\n\n")[0])
        for part in mail.parts
        if part.type in RETURNED
    ]


def _begins(text: str) -> int:
    """Return the offset at which the returned mail begins, or the length of the text if none."""
    found = [match.start() for match in (_BEGINS.search(text), _HEADERS.search(text)) if match]
    return min(found, default=len(text))


# --- Addresses ----------------------------------------------------------------------------------

MOST: Final = 100  # recipients of one notice

# In free text only ASCII counts as an address: Chinese and Japanese put no space around it.
_ADDRESS: Final = re.compile(
    r"(?<![A-Za-z0-9.!#$%&'*+/=?^_`{|}~-])[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,250}"
    r"@(?:[A-Za-z0-9_-]{1,63}\.){1,8}[A-Za-z0-9-]{2,63}(?![A-Za-z0-9_@-])"
)
_BARE: Final = re.compile(r"[^\s<>@;,]{1,250}@[^\s<>@;,]{1,255}")
_ANY: Final = re.compile(r"[^\s<>@:;,'\"\\]{1,250}@[^\s<>@:;,'\"\\]{1,255}")  # deliberately broad
_TYPE: Final = re.compile(r"^\s*[\w-]{1,20}\s*;\s*")
_STAFF: Final = re.compile(
    r"^(mailer-?daemon|postmaster|mail-?daemon|mdaemon|abuse|support|noreply|no-reply|hostmaster"
    r"|webmaster|helpdesk|system|root|ndr)$",
    re.I,
)
_TOKEN: Final = re.compile(r"\+[a-z2-7]{16}@", re.I)  # the format of `message.Sender.envelope`
_CAME_BACK_TO: Final = ("x-original-to", "delivered-to", "envelope-to", "x-envelope-to", "to")


def addresses(text: str) -> list[str]:
    """Return the addresses in a text, at most 100, each once, with the case kept."""
    found = (match[0].strip("'`=.").removeprefix("SMTP=") for match in _ADDRESS.finditer(text))
    return _once(address for address in found if not address.startswith("@"))[:MOST]


def masked(text: str) -> str:
    """Redact every address in a text, for storage when its subscriber is unknown."""
    return _ANY.sub("<address>", text)


def recipient(field: str) -> str | None:
    """Parse the address in a Final-Recipient or Original-Recipient (RFC 3464, section 2.3.1).

    Return None if there is none.
    """
    value = _TYPE.sub("", field[:1_000])
    bare = value.strip(" <>\"'")
    if _BARE.fullmatch(bare):
        return bare
    return next(iter(addresses(value)), None)


def other_addresses(text: str, headers: Headers) -> list[str]:
    """Return the addresses in a text except those of sender, recipient and role accounts."""
    ours = {address.lower() for name in ("from", "to", "return-path", "reply-to", *_CAME_BACK_TO)
            for value in headers.all(name) for address in addresses(value)}  # fmt: skip
    return [
        address
        for address in addresses(text)
        if address.lower() not in ours and not _STAFF.match(address.partition("@")[0])
    ]


def came_back_to(headers: Headers) -> str | None:
    """Return the address that a mail was returned to; if there are several, the one with a token.

    Return None if the headers name none.
    """
    found = [
        address
        for name in _CAME_BACK_TO
        for value in headers.all(name)
        for address in addresses(value)
    ]
    marked = (address for address in found if _TOKEN.search(address))
    return next(marked, found[0] if found else None)


def _once(found: Iterable[str]) -> list[str]:
    return list({address.lower(): address for address in reversed(list(found))}.values())[::-1]
