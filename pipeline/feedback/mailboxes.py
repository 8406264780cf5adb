"""Read bounce mails from a file, an mbox, a folder, a Maildir, a list of files or a stream."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from pipeline.feedback.reading.mime import LONGEST

_SINGLE: Final = (".eml", ".msg")  # one mail, even if it begins like an mbox
_BETWEEN: Final = re.compile(
    rb"From \S{1,320} {1,4}(?:mon|tue|wed|thu|fri|sat|sun),? .{0,40}\d\d:\d\d.{0,20}\d{4}", re.I
)


@dataclass(frozen=True, slots=True)
class Found:
    """A mail, truncated to at most `mime.LONGEST` octets."""

    name: str
    octets: bytes


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file that could not be read; the others are read nevertheless."""

    name: str
    why: str


def mails_at(path: Path) -> Iterator[Found | Unreadable]:
    """Yield the mails of a file, of a Maildir, or of every file in a folder, sorted by name."""
    if not path.is_dir():
        yield from _in_file(path)
        return
    for file in _files(path):
        yield from _in_file(file)


def mails_named(names: Iterable[bytes]) -> Iterator[Found | Unreadable]:
    """Yield the mails of the files named in `names`, one name per line."""
    for line in names:
        name = line.rstrip(b"\r\n")
        if name:
            yield from _in_file(Path(os.fsdecode(name)))


def mail_from(stream: BinaryIO) -> Iterator[Found]:
    yield Found("-", stream.read(LONGEST))


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


def _in_file(path: Path) -> Iterator[Found | Unreadable]:
    name = _shown(path)
    try:
        with path.open("rb") as file:
            if path.suffix.lower() in _SINGLE or not _BETWEEN.match(file.peek(400)):
                yield Found(name, file.read(LONGEST))
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


def _named(name: str, mails: Iterator[bytes]) -> Iterator[Found]:
    """Yield the mails of an mbox; if there are several, "#1", "#2" and so on follow the name."""
    first = next(mails, b"")
    second = next(mails, None)
    if second is None:
        yield Found(name, first)
        return
    yield Found(f"{name}#1", first)
    yield Found(f"{name}#2", second)
    for number, octets in enumerate(mails, 3):
        yield Found(f"{name}#{number}", octets)


def _shown(path: Path) -> str:
    """Return a file name that any output can encode; invalid UTF-8 becomes U+FFFD."""
    return os.fsencode(path).decode("utf-8", "replace")
