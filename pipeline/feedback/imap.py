"""Fetch bounces from a mailbox over IMAP (RFC 3501).

No mail is ever deleted. A mail that was understood is marked as read and moved to another folder;
any other mail stays in place, unread and flagged, so that an operator looks at it and it is not
fetched again.
"""

from __future__ import annotations

import imaplib
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import structlog

from pipeline.errors import MailboxError, SettingsError
from pipeline.feedback.mailboxes import LARGEST, Take
from pipeline.setting_values import is_loopback, parse_login_url

log = structlog.get_logger(__name__)

TIMEOUT: Final = 30.0  # seconds of silence, for each read
MOST: Final = 1_000  # mails per run; the next run continues
SLICE: Final = 20_000  # messages that one SEARCH covers
PUT_AWAY: Final = "Paperboy"  # the folder for mails that were understood
NEW: Final = "UNSEEN UNFLAGGED UNDELETED"

_QUOTED_BODY: Final = re.compile(rb'BODY\[\](?:<0>)? "((?:[^"\\]|\\.)*)"', re.I | re.S)


@dataclass(frozen=True, slots=True)
class Address:
    """A mailbox, parsed from `imap(s)://user:password@host:port/FOLDER`.

    `imaps` is implicit TLS, `imap` requires STARTTLS unless the host is a loopback address.
    """

    host: str
    port: int
    user: str
    password: str
    folder: str
    implicit_tls: bool

    @property
    def is_loopback(self) -> bool:
        return is_loopback(self.host)


def is_imap(where: str) -> bool:
    return where.lower().startswith(("imap://", "imaps://"))


def parse(url: str) -> Address:
    """Parse the URL of a mailbox; the folder defaults to INBOX, the port to 143 or 993.

    Raises SettingsError without the URL in its text, since it may contain a password.
    """
    try:
        parts = parse_login_url(url)
    except ValueError:
        raise SettingsError("a mailbox must look like imaps://user:password@host/FOLDER") from None
    if parts.scheme not in {"imap", "imaps"} or not (parts.host and parts.username):
        raise SettingsError("a mailbox must look like imaps://user:password@host/FOLDER")
    implicit_tls = parts.scheme == "imaps"
    return Address(
        host=parts.host,
        port=parts.port or (993 if implicit_tls else 143),
        user=parts.username,
        password=parts.password or "",
        folder=unquote(parts.path.strip("/")) or "INBOX",
        implicit_tls=implicit_tls,
    )


def read_imap(url: str, take: Take, *, ca_file: Path | None = None) -> int:
    """Pass each new mail to `take`, then file it; return how many were passed.

    If the process is killed in between, the same mail is passed again at the next run, so `take`
    must be idempotent. Raises MailboxError if the server fails, and SettingsError.
    """
    address = parse(url)
    with _failures_of(address), _logged_in(address, ca_file) as imap:
        exists = _ask(imap.select(_quoted(address.folder)))[0]
        uids = _new_uids(imap, int(exists or 0))
        abilities = _capabilities(imap)  # again: servers offer more after the login
        away = _folder_for(imap, abilities) if uids and b"MOVE" in abilities else None
        count = 0
        for uid in uids:
            octets = _octets(imap, uid)
            if octets is None:
                continue  # another client has removed it
            _put_away(imap, uid, away, understood=take(f"{address.folder}/{uid.decode()}", octets))
            count += 1
    log.info("mailbox.read", mails=count)
    return count


def _new_uids(imap: imaplib.IMAP4, exists: int) -> list[bytes]:
    """Return the UIDs of at most `MOST` new mails, of `exists` in the folder.

    Search in slices of message numbers: `imaplib` rejects a line of more than 1 MB, which 125,000
    UIDs fill. An empty result may come without any SEARCH line (RFC 3501, 7.2.5).
    """
    uids: dict[bytes, None] = {}
    for first in range(1, exists + 1, SLICE):
        found = f"{first}:{min(exists, first + SLICE - 1)}"
        for line in _ask(imap.uid("SEARCH", found, NEW)):
            uids |= dict.fromkeys((line or b"").split())
        if len(uids) >= MOST:
            break
    return list(uids)[:MOST]


def _octets(imap: imaplib.IMAP4, uid: bytes) -> bytes | None:
    """Return the first octets of a mail without marking it as read; None if it is gone.

    A server may send them as a literal or as a quoted string (RFC 3501, 4.3).
    """
    for part in _ask(imap.uid("FETCH", uid.decode(), f"(BODY.PEEK[]<0.{LARGEST}>)")):
        if isinstance(part, tuple):
            return bytes(part[1])
        quoted = _QUOTED_BODY.search(part or b"")
        if quoted:
            return re.sub(rb"\\(.)", rb"\1", quoted[1], flags=re.S)
    return None


def _put_away(imap: imaplib.IMAP4, uid: bytes, away: str | None, *, understood: bool) -> None:
    flag = r"(\Seen)" if understood else r"(\Flagged)"
    _ask(imap.uid("STORE", uid.decode(), "+FLAGS.SILENT", flag))
    if understood and away:  # without MOVE (RFC 6851) the mail stays in its folder
        _ask(imap.uid("MOVE", uid.decode(), _quoted(away)))


def _folder_for(imap: imaplib.IMAP4, abilities: list[bytes]) -> str:
    """Create the folder for understood mails and return its name, with the prefix of RFC 2342."""
    prefix = ""
    if b"NAMESPACE" in abilities:
        found = re.match(rb'\(\("([^"]*)"', _ask(imap.namespace())[0] or b"")
        prefix = found[1].decode("ascii", "replace") if found else ""
    name = f"{prefix}{PUT_AWAY}"
    imap.create(_quoted(name))  # ignore the result: NO if the folder exists
    return name


@contextmanager
def _logged_in(address: Address, ca_file: Path | None) -> Iterator[imaplib.IMAP4]:
    context = ssl.create_default_context(cafile=ca_file)
    where: dict[str, Any] = {"host": address.host, "port": address.port, "timeout": TIMEOUT}
    if address.implicit_tls:
        imap: imaplib.IMAP4 = imaplib.IMAP4_SSL(ssl_context=context, **where)
    else:
        imap = imaplib.IMAP4(**where)
    try:
        if not address.implicit_tls and not address.is_loopback:
            imap.starttls(context)  # raises if not offered: no password is sent unencrypted
        _log_in(imap, address)
        yield imap
    finally:
        with suppress(imaplib.IMAP4.error, OSError):
            imap.logout()


def _log_in(imap: imaplib.IMAP4, address: Address) -> None:
    """Log in with any characters in name and password, then identify this client.

    `imaplib` sends the name unquoted and rejects characters outside ASCII. RFC 4616 requires UTF-8
    for AUTHENTICATE PLAIN; if only LOGIN is offered, servers that have such names take UTF-8, too.
    Raises SettingsError if the name or password contains NUL or, for LOGIN, a line break.
    """
    abilities = _capabilities(imap)
    user, password = address.user.encode(), address.password.encode()
    if b"\0" in user + password:
        raise SettingsError("a mailbox's name and password must not contain NUL")
    if b"AUTH=PLAIN" in abilities:
        imap.authenticate("PLAIN", lambda _: b"\0%b\0%b" % (user, password))
    else:
        given: list[Any] = [_string(user), _string(password)]  # `imaplib` accepts bytes, too
        _ask(imap.xatom("LOGIN", *given))
        imap.state = "AUTH"
    if b"ID" in _capabilities(imap):
        # RFC 2971. Netease (163.com, 126.com, yeah.net) refuses SELECT to clients without it.
        imap.xatom("ID", '("name" "Paperboy")')


def _capabilities(imap: imaplib.IMAP4) -> list[bytes]:
    return b" ".join(line or b"" for line in _ask(imap.capability())).upper().split()


def _string(octets: bytes) -> bytes:
    """Quote a string for a command (RFC 3501, 4.3). Raises SettingsError for line breaks."""
    if b"\r" in octets or b"\n" in octets:
        raise SettingsError("a mailbox's name and password must not contain line breaks")
    return b'"' + octets.replace(b"\\", rb"\\").replace(b'"', rb"\"") + b'"'


@contextmanager
def _failures_of(address: Address) -> Iterator[None]:
    try:
        yield
    except (imaplib.IMAP4.error, OSError, ValueError) as error:  # ValueError: a broken response
        raise MailboxError(f"the mailbox at {address.host} cannot be read: {error}") from error


def _ask(answer: tuple[str, list[Any]]) -> list[Any]:
    """Return the lines of a response; raise `imaplib.IMAP4.error` for NO, as imaplib for BAD."""
    state, lines = answer
    if state != "OK":
        raise imaplib.IMAP4.error(str(lines[0]))
    return lines or [None]


def _quoted(name: str) -> str:
    """Quote a folder's name; raise SettingsError unless it is printable ASCII.

    The operator must encode other characters (RFC 3501, 5.1.3).
    """
    if not (name.isascii() and name.isprintable()):
        raise SettingsError("a folder's name must be in ASCII, as IMAP writes it (RFC 3501, 5.1.3)")
    return '"' + name.replace("\\", r"\\").replace('"', r"\"") + '"'
