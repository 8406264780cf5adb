"""Compose a rendered mail into wire bytes: headers and MIME. `dkim` signs them.

Written by hand because `email.message` folds long addresses into encoded words that no mail app
reads, and takes a hundred times as long. The tests parse every message back with it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass, field, fields
from datetime import date, datetime
from email.header import Header
from email.utils import format_datetime, formataddr, parseaddr
from functools import lru_cache
from typing import Protocol
from urllib.parse import quote

import idna
from email_validator import EmailNotValidError, ValidatedEmail, validate_email

from pipeline.errors import AddressError, RenderError, SettingsError

LINE = 998  # RFC 5322, section 2.1.1: maximum octets of a line, without CRLF
FOLD = 76

# RFC 5322, section 3.2.3: dot-atom, in the form real mailboxes use. Quoted local parts are
# rejected.
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LOCAL = re.compile(rf"{_ATOM}(\.{_ATOM})*")
_DOMAIN = re.compile(
    r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*"
)
# Fast path: nearly every address matches and needs no validator, which keeps composing fast.
_ORDINARY = re.compile(
    rf"(?=[^@]{{1,64}}@)(?=.{{1,254}}\Z){_LOCAL.pattern}"
    r"@((?!..--)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+"
    r"(?!(?:arpa|invalid|local|localhost|onion|test)\Z)[a-z]{2,63}"
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_BOUNCE_TOKEN = 16  # characters of base32: 40 bits of the id, 40 bits of MAC


class Content(Protocol):
    """Rendered mail: a decoded subject, and quoted-printable bodies ready for the wire."""

    @property
    def subject(self) -> str: ...
    @property
    def text(self) -> tuple[bytes, ...]: ...
    @property
    def html(self) -> tuple[bytes, ...]: ...


@dataclass(frozen=True, slots=True)
class Sender:
    """Sender identity in headers. Raises SettingsError for values that a header cannot have."""

    mail_from: str  # "Paperboy <papers@example.org>"
    list_name: str
    site_url: str
    key: str = field(repr=False)  # MAC key; makes Message-IDs and bounce addresses unguessable
    contact: str | None = None  # address for List-Owner and List-Help; else `mail_from`
    reply_to: str | None = None
    bounce_address: str | None = None
    unsubscribe_mailbox: str | None = None
    constant: _Constant = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Compute the constant headers; raise SettingsError if a value is not valid in them."""
        for given in fields(self):
            value = getattr(self, given.name) if given.init else None
            if value is not None and _CONTROL.search(value):
                raise SettingsError(f"{given.name.upper()}: must be one line")
        try:
            object.__setattr__(self, "constant", _constant(self))
        except AddressError as error:
            raise SettingsError(f"the sender's addresses: {error}") from error

    @property
    def address(self) -> str:
        return self.constant.address

    @property
    def host(self) -> str:
        return self.constant.host

    @property
    def one_click(self) -> bool:
        """Return whether one-click unsubscribe is possible: RFC 8058, section 3.1, needs https."""
        return self.site_url.startswith("https://")

    def message_id(self, dedupe_key: str) -> str:
        """Return the Message-ID, the same for every attempt, so that mailboxes detect duplicates.

        It identifies the delivery, provably only for us: see `dedupe_key_of`.
        """
        return f"<{dedupe_key.replace(':', '.')}.{self._proof(dedupe_key)}@{self.host}>"

    def dedupe_key_of(self, message_id: str) -> str | None:
        """Return the dedupe key in a Message-ID; None if its MAC is not ours.

        Needs no column or index for Message-IDs: the dedupe key is indexed already.
        """
        if not message_id.isascii():
            return None
        name, _, proof = message_id.strip("<> ").rpartition("@")[0].rpartition(".")
        dedupe_key = name.replace(".", ":")
        made = self._proof(dedupe_key)
        return dedupe_key if hmac.compare_digest(made.encode(), proof.encode()) else None

    def _proof(self, dedupe_key: str) -> str:
        mac = hmac.digest(self.key.encode(), f"message-id:{dedupe_key}".encode(), "sha256")
        return mac[:16].hex()

    def envelope(self, delivery_id: int, dedupe_key: str) -> str:
        """Return the envelope sender, which bounces of this delivery are sent to.

        The token is in lower-case base32, because many relays change the case of an address.
        Without `bounce_address` it is the bare `mail_from`.
        """
        if self.bounce_address is None:
            return self.address
        local, _, domain = own_address(parseaddr(self.bounce_address)[1]).rpartition("@")
        return f"{local}+{self._bounce_token(delivery_id, dedupe_key)}@{domain}"

    def is_envelope_of(self, envelope: str, delivery_id: int, dedupe_key: str) -> bool:
        """Return whether we made this bounce address for this delivery.

        The id alone is no proof: after a restore from a backup, another delivery may have it.
        """
        made = self._bounce_token(delivery_id, dedupe_key)
        return hmac.compare_digest(made.encode(), _token(envelope).encode())

    def _bounce_token(self, delivery_id: int, dedupe_key: str) -> str:
        number = delivery_id.to_bytes(5)
        proved = b"bounce:" + number + dedupe_key.encode()
        mac = hmac.digest(self.key.encode(), proved, "sha256")
        return base64.b32encode(number + mac[:5]).decode().lower()


def named_by(envelope: str) -> int | None:
    """Return the delivery id in a bounce address, not verified; None if it has no token."""
    try:
        octets = base64.b32decode(_token(envelope).upper())
    except ValueError:
        return None
    return int.from_bytes(octets[:5]) if len(octets) == 10 else None


def _token(envelope: str) -> str:
    return envelope.rpartition("@")[0].rpartition("+")[2].lower()


def compose_list_mail(
    sender: Sender,
    content: Content,
    *,
    to: str,
    dedupe_key: str,
    unsubscribe_url: str,
    secret: str,
    edition_on: date,
    now: datetime,
    feedback_name: str = "digest",
) -> bytes:
    """Return list mail ready for DATA: CRLF line ends, leading dots doubled, no final dot.

    `secret` is the subscriber's, for the unsubscribe mailbox. Raises AddressError if `to` cannot be
    written to, and RenderError if a header would be invalid.
    """
    headers = (
        *_personal_headers(sender, content, to, dedupe_key, now),
        *_leave_headers(sender, unsubscribe_url, secret),
        f"Feedback-ID: {edition_on}:{feedback_name}:list:{sender.constant.id}\r\n".encode(),
        sender.constant.of_list,
    )
    return _message(headers, content, dedupe_key)


def compose_transactional(
    sender: Sender,
    content: Content,
    *,
    to: str,
    dedupe_key: str,
    now: datetime,
    feedback_name: str = "confirmation",
) -> bytes:
    """Return a transactional mail ready for DATA, in the form of `compose_list_mail`.

    It has no list or unsubscribe headers: each is a single mail on request and belongs to no list.
    """
    headers = (
        *_personal_headers(sender, content, to, dedupe_key, now),
        f"Feedback-ID: {now.date()}:{feedback_name}:list:{sender.constant.id}\r\n".encode(),
        sender.constant.of_all,
    )
    return _message(headers, content, dedupe_key)


def normal_address(address: str) -> str:
    """Return `address` as it is stored and shown: trimmed, its domain in lower case and in Unicode.

    The only validator of recipients: `wire_address` accepts each address that this returns, and
    rejects each that this rejects. Raises AddressError with the reason.
    """
    return address if _ORDINARY.fullmatch(address) else _validated(address).normalized


def wire_address(address: str) -> str:
    """Return a recipient in ASCII, its domain in punycode (RFC 5890). Raises AddressError."""
    if _ORDINARY.fullmatch(address):
        return address
    return _validated(address).ascii_email or ""  # never None without SMTPUTF8


def _validated(address: str) -> ValidatedEmail:
    try:
        # No DNS lookup: the confirmation mail shows whether the domain exists. `strict` counts the
        # 64 octets of a local part (RFC 5321, section 4.5.3.1.1).
        return validate_email(
            address.strip(), check_deliverability=False, globally_deliverable=False,
            allow_smtputf8=False, strict=True,
        )  # fmt: skip
    except EmailNotValidError as error:
        raise AddressError(
            f"{_shown(address)} is an address we cannot write to: {error}"
        ) from error


def own_address(address: str) -> str:
    """Return one of the operator's addresses in ASCII; its domain may be local to this machine.

    Raises AddressError.
    """
    local, at, domain = address.rpartition("@")
    if not at or len(local) > 64 or not _LOCAL.fullmatch(local):
        raise AddressError(f"{_shown(address)} has a local part we cannot write to (RFC 5321)")
    if not domain.isascii():
        domain = _punycode(domain)
    if len(domain) > 253 - len(local) or not _DOMAIN.fullmatch(domain):
        raise AddressError(f"{_shown(address)} has a domain we cannot write to")
    return f"{local}@{domain}"


def _shown(address: str) -> str:
    """Return at most 80 characters of an address, escaped to ASCII for error messages."""
    return ascii(address[:80])


def _punycode(domain: str) -> str:
    """Return the domain in punycode, normalised by UTS #46. Raises AddressError."""
    try:
        return idna.encode(domain, uts46=True).decode()
    except idna.IDNAError as error:
        raise AddressError(f"{_shown(domain)} is not a domain: {error}") from error


# --- Headers ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Constant:
    """Parts that are the same in every mail of a sender, computed once."""

    address: str  # bare address of the sender
    host: str  # its domain
    id: str  # sender id in Feedback-ID
    first: bytes
    of_all: bytes
    of_list: bytes


def _constant(sender: Sender) -> _Constant:
    """Return the constant headers of a sender. Raises AddressError or RenderError."""
    address = own_address(parseaddr(sender.mail_from)[1])
    host = address.rpartition("@")[2]
    contact = own_address(parseaddr(sender.contact)[1]) if sender.contact else address
    first = _header("From", _mailbox(sender.mail_from))
    first += _header("Reply-To", _mailbox(sender.reply_to or sender.mail_from))
    of_all = b"".join(
        (
            b"MIME-Version: 1.0\r\n",
            b"Auto-Submitted: auto-generated\r\n",  # RFC 3834, section 5
            b"X-Auto-Response-Suppress: All\r\n",  # equivalent for Exchange
        )
    )
    of_list = b"".join(
        (
            _header("List-Id", f"{_phrase(sender.list_name)} <papers.{host}>"),  # RFC 2919
            _header("List-Help", f"<mailto:{contact}?subject=help>"),  # RFC 2369, as the next
            _header("List-Owner", f"<mailto:{contact}>"),
            _header("List-Archive", f"<{sender.site_url}/papers>"),
            b"List-Post: NO\r\n",
            b"Precedence: bulk\r\n",
        )
    )
    return _Constant(address, host, _sender_id(host), first, of_all, of_list + of_all)


def _personal_headers(
    sender: Sender, content: Content, to: str, dedupe_key: str, now: datetime
) -> tuple[bytes, ...]:
    return (
        sender.constant.first,
        f"To: {wire_address(to)}\r\n".encode(),
        _subject(content.subject),
        _date(now.replace(microsecond=0)),
        f"Message-ID: {sender.message_id(dedupe_key)}\r\n".encode(),
    )


def _leave_headers(sender: Sender, unsubscribe_url: str, secret: str) -> tuple[bytes, ...]:
    """Return List-Unsubscribe, with a mailto: if there is a mailbox, and its one-click header."""
    ways = [f"<{unsubscribe_url}>"]
    if sender.unsubscribe_mailbox:
        mailbox = own_address(parseaddr(sender.unsubscribe_mailbox)[1])
        ways.append(f"<mailto:{mailbox}?subject=unsubscribe%20{quote(secret, safe='')}>")
    # Never fold inside a URL: mail apps truncate it at the fold. Each has a line of its own.
    leave = _header("List-Unsubscribe", ",\r\n ".join(ways))
    if not sender.one_click:
        return (leave,)
    return (leave, b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n")  # RFC 8058


def _header(name: str, value: str) -> bytes:
    """Return one header, which may be folded. Raises RenderError to prevent header injection."""
    line = f"{name}: {value}"
    for part in line.split("\r\n "):
        if _CONTROL.search(part) or not part.isascii() or len(part) > LINE:
            raise RenderError(f"{name}: not a line that a header can have")
    return f"{line}\r\n".encode()


@lru_cache(maxsize=8)
def _date(now: datetime) -> bytes:
    """Return the Date header, cached: all mails of one second share it."""
    return f"Date: {format_datetime(now)}\r\n".encode()


@lru_cache(maxsize=1_024)
def _subject(subject: str) -> bytes:
    """Return the folded Subject header.

    Encoded per RFC 2047 if it is not ASCII, has a word too long for a line, or contains "=?".
    Raises RenderError for control characters.
    """
    if _CONTROL.search(subject):
        raise RenderError("Subject: must be one line")
    # RFC 2047, section 2: encoded words can be folded anywhere, plain words only between them.
    foldable = all(len(word) <= FOLD - len("Subject: ") for word in subject.split())
    plain = subject.isascii() and foldable and "=?" not in subject
    header = Header(subject, "us-ascii" if plain else "utf-8", FOLD, "Subject")
    folded = header.encode(linesep="\r\n")
    return f"Subject: {folded}\r\n".encode()


def _mailbox(mailbox: str) -> str:
    name, address = parseaddr(mailbox)
    return f"{_phrase(name)} <{own_address(address)}>" if name else own_address(address)


def _phrase(name: str) -> str:
    """Return `name` as a display name, quoted or encoded where necessary."""
    if name.isascii():
        return formataddr((name, "a@b")).removesuffix(" <a@b>")
    return Header(name, "utf-8", FOLD, "Reply-To").encode(linesep="\r\n")


def _sender_id(host: str) -> str:
    """Return a stable id of 5 to 15 characters, as required by Gmail's feedback loop."""
    return "pb" + hashlib.sha256(host.encode()).hexdigest()[:10]


# --- Body ---------------------------------------------------------------------------------------

_TEXT_PART = (
    b"Content-Type: text/plain; charset=utf-8\r\n"
    b"Content-Transfer-Encoding: quoted-printable\r\n\r\n"
)
_HTML_PART = (
    b"Content-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
)


def _message(headers: tuple[bytes, ...], content: Content, dedupe_key: str) -> bytes:
    """Return the whole message without the final dot."""
    boundary = _boundary(dedupe_key)
    return b"".join(
        (
            *headers,
            b'Content-Type: multipart/alternative; boundary="%b"\r\n\r\n' % boundary,
            b"--%b\r\n" % boundary,
            _TEXT_PART,
            *content.text,
            b"\r\n--%b\r\n" % boundary,
            _HTML_PART,
            *content.html,
            b"\r\n--%b--\r\n" % boundary,
        )
    )


def _boundary(dedupe_key: str) -> bytes:
    """Return a MIME boundary that no body contains: "=_" never occurs in quoted-printable.

    RFC 2045, section 6.7.
    """
    return b"=_" + hashlib.sha256(dedupe_key.encode()).hexdigest()[:24].encode()
