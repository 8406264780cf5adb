"""A Maildir of mails that came back: what nobody has read is read, and marked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from pipeline.errors import MailboxError

log = structlog.get_logger(__name__)

LARGEST: Final = 1024 * 1024  # octets of a mail that are read
INFO: Final = ":2,"  # between a file's name and its flags, as all who read a Maildir know them
SEEN, FLAGGED, TRASHED = "S", "F", "T"
DONE: Final = {SEEN, FLAGGED, TRASHED}

Take = Callable[[str, bytes], bool]
"""Apply one mail, given its name and octets; whether it was understood."""


def is_maildir(folder: Path) -> bool:
    return all((folder / name).is_dir() for name in ("cur", "new", "tmp"))


def read_maildir(folder: Path, take: Take) -> int:
    """Take every mail that nobody has read, and mark each in `cur` once it is taken; how many.

    Killed in between, the same mail is taken again the next time. Nothing is deleted: what was not
    understood is flagged for an operator to look at. A file that cannot be opened is logged and
    left, and the others are read. Raises MailboxError.
    """
    count = 0
    for file in _unread(folder):
        try:
            with file.open("rb") as opened:
                octets = opened.read(LARGEST)
        except FileNotFoundError:
            continue  # somebody else has taken it
        except OSError as error:
            log.warning("maildir.unreadable", mail=file.name[:200], error=error.strerror)
            continue
        _put_away(file, understood=take(file.name, octets))
        count += 1
    return count


def _unread(folder: Path) -> list[Path]:
    """Oldest first: names begin with the time of delivery.

    An IMAP server that shows the folder to somebody moves what is new to `cur`, read or not.
    """
    if not is_maildir(folder):
        raise MailboxError(f"{folder} is not a Maildir")
    found = (*(folder / "new").iterdir(), *(folder / "cur").iterdir())
    mails = (file for file in found if file.is_file() and not file.name.startswith("."))
    unread = (file for file in mails if not DONE & set(_flags(file)))
    return sorted(unread, key=lambda file: file.name)


def _put_away(file: Path, *, understood: bool) -> None:
    """Move a mail to `cur` with a flag more; done by somebody else, it is done."""
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
