"""Read bounce mails from a file, an mbox, a folder, a Maildir, a list of files or a stream."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import structlog

from pipeline.errors import MailboxError
from pipeline.feedback.bounces.mime import LONGEST

_SINGLE: Final = (".eml", ".msg")  # one mail, even if it begins like an mbox
_BETWEEN: Final = re.compile(
    rb"From \S{1,320} {1,4}(?:mon|tue|wed|thu|fri|sat|sun),? .{0,40}\d\d:\d\d.{0,20}\d{4}", re.I
)


@dataclass(frozen=True, slots=True)
class FoundMail:
    """A mail, truncated to at most `mime.LONGEST` octets."""

    name: str
    octets: bytes


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file that could not be read; the others are read nevertheless."""

    name: str
    why: str


def mails_at(path: Path) -> Iterator[FoundMail | Unreadable]:
    """Yield the mails of a file, of a Maildir, or of every file in a folder, sorted by name."""
    if not path.is_dir():
        yield from _in_file(path)
        return
    for file in _files(path):
        yield from _in_file(file)


def mails_named(names: Iterable[bytes]) -> Iterator[FoundMail | Unreadable]:
    """Yield the mails of the files named in `names`, one name per line."""
    for line in names:
        name = line.rstrip(b"\r\n")
        if name:
            yield from _in_file(Path(os.fsdecode(name)))


def mail_from(stream: BinaryIO) -> Iterator[FoundMail]:
    yield FoundMail("-", stream.read(LONGEST))


def _files(folder: Path) -> Iterator[Path]:
    """Yield the regular, visible files below a folder; opening a pipe would block forever."""
    for where, folders, names in os.walk(folder):
        if {"cur", "new"} <= set(folders) and "tmp" in folders:
            folders.remove("tmp")  # a Maildir: files in tmp are not delivered yet
        folders.sort()
        for name in sorted(names):
            file = Path(where, name)
            if not name.startswith(".") and file.is_file():
                yield file


def _in_file(path: Path) -> Iterator[FoundMail | Unreadable]:
    name = _shown(path)
    try:
        with path.open("rb") as file:
            if path.suffix.lower() in _SINGLE or not _BETWEEN.match(file.peek(400)):
                yield FoundMail(name, file.read(LONGEST))
                return
            yield from _named(name, _in_mbox(file))
    except OSError as error:
        yield Unreadable(name, error.strerror or str(error))


def _in_mbox(file: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the mails between the "From " lines of an mbox; only one is in memory at a time.

    Each is truncated after the line in which it reaches `mime.LONGEST`.
    """
    lines: list[bytes] = []
    size, empty_before = 0, True
    for line in file:
        if empty_before and _BETWEEN.match(line):
            if lines:
                yield b"".join(lines)
            lines, size = [], 0
        elif size < LONGEST:
            # RFC 4155: writers quote such lines of a mail with ">".
            lines.append(line[1:] if line.startswith(b">From ") else line)
            size += len(line)
        empty_before = not line.strip()
    if lines:
        yield b"".join(lines)


def _named(name: str, mails: Iterator[bytes]) -> Iterator[FoundMail]:
    """Yield the mails of an mbox; if there are several, "#1", "#2" and so on follow the name."""
    first = next(mails, b"")
    second = next(mails, None)
    if second is None:
        yield FoundMail(name, first)
        return
    yield FoundMail(f"{name}#1", first)
    yield FoundMail(f"{name}#2", second)
    for number, octets in enumerate(mails, 3):
        yield FoundMail(f"{name}#{number}", octets)


def _shown(path: Path) -> str:
    """Return a file name that any output can encode; invalid UTF-8 becomes U+FFFD."""
    return os.fsencode(path).decode("utf-8", "replace")


log = structlog.get_logger(__name__)

LARGEST: Final = 1024 * 1024  # octets of a mail that are read
INFO: Final = ":2,"  # separates a file's name from its flags, the convention of Maildir
SEEN, FLAGGED, TRASHED = "S", "F", "T"
DONE: Final = {SEEN, FLAGGED, TRASHED}

Take = Callable[[str, bytes], bool]
"""A callback that applies one mail, by name and octets; returns whether it was understood."""


def is_maildir(folder: Path) -> bool:
    return all((folder / name).is_dir() for name in ("cur", "new", "tmp"))


def read_maildir(folder: Path, take: Take) -> int:
    """Pass each unread mail to `take`, then mark it in `cur`; return how many were passed.

    If the process is killed in between, the same mail is passed again at the next run, so `take`
    must be idempotent. No mail is deleted: one that was not understood is flagged for an operator.
    A file that cannot be opened is logged and skipped. Raises MailboxError if the folder is no
    Maildir, or if a mail cannot be marked.
    """
    count = 0
    for file in _unread(folder):
        try:
            with file.open("rb") as opened:
                octets = opened.read(LARGEST)
        except FileNotFoundError:
            continue  # another process has moved it
        except OSError as error:
            log.warning("maildir.unreadable", mail=file.name[:200], error=error.strerror)
            continue
        _put_away(file, understood=take(file.name, octets))
        count += 1
    return count


def _unread(folder: Path) -> list[Path]:
    """Return the unread mails, oldest first, since names begin with the time of delivery.

    `cur` is searched, too: an IMAP server moves new mails there when a client opens the folder.
    """
    if not is_maildir(folder):
        raise MailboxError(f"{folder} is not a Maildir")
    found = (*(folder / "new").iterdir(), *(folder / "cur").iterdir())
    mails = (file for file in found if file.is_file() and not file.name.startswith("."))
    unread = (file for file in mails if not DONE & set(_flags(file)))
    return sorted(unread, key=lambda file: file.name)


def _put_away(file: Path, *, understood: bool) -> None:
    """Add a flag to a mail and move it to `cur`; do nothing if another process has moved it."""
    flags = "".join(sorted({*_flags(file), SEEN if understood else FLAGGED}))
    name = file.name.partition(INFO)[0]
    try:
        file.rename(file.parent.parent / "cur" / f"{name}{INFO}{flags}")
    except FileNotFoundError:
        return
    except OSError as error:
        raise MailboxError(f"{file}: {error.strerror}") from error


def _flags(file: Path) -> str:
    return file.name.partition(INFO)[2]
