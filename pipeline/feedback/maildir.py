"""A Maildir of mails that came back: what is new is read, and then is not new any more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from pipeline.errors import MailboxError

LARGEST: Final = 1024 * 1024  # octets of a mail that are read
SEEN: Final = ":2,S"  # the flags in a file's name, as every program that reads a Maildir knows them
NOT_SEEN: Final = ":2,F"  # not read, but marked for somebody to look at

Take = Callable[[str, bytes], bool]
"""Apply one mail, given its name and octets; whether it was understood."""


def is_maildir(folder: Path) -> bool:
    return all((folder / name).is_dir() for name in ("cur", "new", "tmp"))


def read_maildir(folder: Path, take: Take) -> int:
    """Take every mail in `new`, and move each to `cur` once it is taken; how many.

    Killed in between, the same mail is taken again the next time. Nothing is deleted: what was not
    understood is marked for somebody to look at. Raises MailboxError.
    """
    count = 0
    for file in _new(folder):
        try:
            with file.open("rb") as opened:
                octets = opened.read(LARGEST)
        except FileNotFoundError:
            continue  # somebody else has taken it
        except OSError as error:
            raise MailboxError(f"{folder}: {error.strerror}") from error
        put_away(file, understood=take(file.name, octets))
        count += 1
    return count


def put_away(file: Path, *, understood: bool) -> None:
    """Move a mail from `new` to `cur`; done by somebody else, it is done."""
    target = file.parent.parent / "cur" / (file.name + (SEEN if understood else NOT_SEEN))
    try:
        file.rename(target)
    except FileNotFoundError:
        return
    except OSError as error:
        raise MailboxError(f"{file}: {error.strerror}") from error


def _new(folder: Path) -> list[Path]:
    """Oldest first: names begin with the time of delivery."""
    if not is_maildir(folder):
        raise MailboxError(f"{folder} is not a Maildir")
    found = (folder / "new").iterdir()
    return sorted(file for file in found if file.is_file() and not file.name.startswith("."))
