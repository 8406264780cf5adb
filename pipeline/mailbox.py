"""The built-in mailbox: accepts mail on loopback and stores every message as a file."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from email import message_from_bytes
from email.header import decode_header, make_header
from email.message import Message
from email.parser import BytesHeaderParser
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller

from pipeline.errors import NotFoundError

ID = re.compile(r"\d{20}-\d+-\d+")  # nanoseconds, process id, counter: sorts by arrival


@dataclass(frozen=True, slots=True)
class StoredMail:
    """Decoded headers and size of one message, for a list of mail."""

    id: str
    mail_from: str  # envelope sender, which a bounce would be sent to
    sender: str
    to: str
    subject: str
    date: datetime | None  # None if the header is missing or malformed
    size: int  # octets


@dataclass(frozen=True, slots=True)
class OpenMail:
    """One message with its parts. A part is None if the message has none."""

    letter: StoredMail
    headers: tuple[tuple[str, str], ...]  # as received, unfolded
    text: str | None
    html: str | None
    raw: bytes


class Mailbox:
    """A folder of messages. One process may write while others read: each file appears complete."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._counter = itertools.count()
        (folder / "tmp").mkdir(parents=True, exist_ok=True)
        (folder / "new").mkdir(exist_ok=True)

    def keep(self, mail_from: str, raw: bytes) -> str:
        """Store a message as received and return its id.

        It survives this process but possibly not a power failure (no fsync): this mailbox is for
        trials.
        """
        id_ = f"{time.time_ns():020}-{os.getpid()}-{next(self._counter)}"
        # RFC 5321, section 4.4: the delivering server records the envelope sender.
        return_path = f"Return-Path: <{mail_from}>\r\n".encode("utf-8", "replace")
        unfinished = self.folder / "tmp" / id_
        unfinished.write_bytes(return_path + raw)
        unfinished.rename(self._path(id_))
        return id_

    def messages(self, limit: int = 200) -> list[StoredMail]:
        """Return the newest messages, newest first."""
        ids = sorted((path.stem for path in (self.folder / "new").glob("*.eml")), reverse=True)
        letters = []
        for id_ in ids[:limit]:
            with suppress(FileNotFoundError):  # deleted since the folder was listed
                letters.append(self._summary(id_))
        return letters

    def read(self, id_: str) -> OpenMail:
        """Return a message with its parts. Raises NotFoundError if the id is unknown."""
        path = self._path(id_)
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            raise NotFoundError(f"there is no message {id_} in the mailbox") from None
        message = message_from_bytes(raw)
        return OpenMail(
            letter=_stored_mail(id_, message, len(raw)),
            headers=tuple((name, _unfolded(value)) for name, value in message.items()),
            text=_part(message, "text/plain"),
            html=_part(message, "text/html"),
            raw=raw.partition(b"\r\n")[2],  # without the Return-Path that `keep` added
        )

    def _summary(self, id_: str) -> StoredMail:
        with self._path(id_).open("rb") as file:
            message = BytesHeaderParser().parse(file)
            return _stored_mail(id_, message, os.fstat(file.fileno()).st_size)

    def _path(self, id_: str) -> Path:
        if not ID.fullmatch(id_):  # it may come from the URL of a request
            raise NotFoundError(f"{id_!r} is not the id of a message")
        return self.folder / "new" / f"{id_}.eml"


@contextmanager
def serve(host: str, port: int, mailbox: Mailbox) -> Iterator[int]:
    """Accept mail for `mailbox` until the block ends; yield the bound port (`port` may be 0)."""
    with listen(_Keeper(mailbox), host, port) as bound:
        yield bound


@contextmanager
def listen(handler: Any, host: str, port: int) -> Iterator[int]:
    """Run an SMTP server in a thread, with the hooks of an aiosmtpd `handler`; yield its port."""
    # Without a name, aiosmtpd queries DNS for ours, which takes seconds if there is no DNS server.
    server = _Server(handler, hostname=host, port=port, server_hostname="localhost")
    server.start()
    try:
        yield server.port
    finally:
        server.stop()


async def greet(_server: Any, session: Any, _envelope: Any, name: str, lines: list[str]) -> Any:
    """Add the extensions to EHLO that aiosmtpd supports but does not announce.

    It reads commands one by one, so PIPELINING is safe.
    """
    session.host_name = name
    return [lines[0], "250-PIPELINING", "250-ENHANCEDSTATUSCODES", *lines[1:]]


class _Keeper:
    """aiosmtpd hooks, named as aiosmtpd expects."""

    handle_EHLO = staticmethod(greet)  # noqa: N815

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
        id_ = self._mailbox.keep(envelope.mail_from or "", envelope.content)
        return f"250 2.0.0 Ok: queued as {id_}"


class _Server(Controller):
    """A controller that supports port 0, which lets the system choose."""

    def _trigger_server(self) -> None:
        assert isinstance(self.server, asyncio.Server)  # noqa: S101  (start() has just made it)
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()  # type: ignore[no-untyped-call]


def _stored_mail(id_: str, message: Message, size: int) -> StoredMail:
    return StoredMail(
        id=id_,
        mail_from=_shown(message, "Return-Path").strip("<>"),
        sender=_shown(message, "From"),
        to=_shown(message, "To"),
        subject=_shown(message, "Subject"),
        date=_date(message),
        size=size,
    )


def _shown(message: Message, header: str) -> str:
    value = _unfolded(message.get(header, ""))
    try:
        return str(make_header(decode_header(value)))
    except (LookupError, ValueError):
        return value  # unknown character set: return it undecoded


def _unfolded(value: object) -> str:
    return re.sub(r"\r?\n(?=[ \t])", "", str(value))


def _date(message: Message) -> datetime | None:
    try:
        return parsedate_to_datetime(message["Date"])
    except (TypeError, ValueError):
        return None


def _part(message: Message, content_type: str) -> str | None:
    """Return the first part of that type, decoded; None if there is none."""
    for part in message.walk():
        if part.get_content_type() == content_type:
            payload = part.get_payload(decode=True)
            if isinstance(payload, bytes):
                return _decoded(payload, part.get_content_charset("utf-8"))
    return None


def _decoded(payload: bytes, charset: str) -> str:
    try:
        return payload.decode(charset, "replace")
    except LookupError:
        return payload.decode("utf-8", "replace")
