"""Read the unread bounces of a Maildir, and mark each as read or flagged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from pipeline.errors import MailboxError

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
