"""Handle signals in a command, and hide the passwords on its command line."""

from __future__ import annotations

import ctypes
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pipeline.setting_values import parse_login_url


@dataclass(slots=True)
class Interrupt:
    """Signal handler that raises KeyboardInterrupt and sets `came`.

    Python raises the exception at any point of the main thread. If that is in a finalizer, the
    exception is printed and lost; therefore loops that wait also check `came`.
    """

    came: bool = False

    def __call__(self, _number: int, _frame: Any) -> NoReturn:
        self.came = True
        raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[Interrupt]:
    interrupt = Interrupt()
    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


START_AND_END = (48, 49)  # fields of /proc/self/stat with the addresses of the arguments, proc(5)
FIRST_FIELD = 3  # after the name in parentheses, which may contain spaces


def hide_passwords(arguments: Sequence[str]) -> None:
    """Overwrite the passwords of URLs among `arguments` in the memory that `ps` reads.

    Works on Linux, and does nothing elsewhere. The passwords are visible until this is called, and
    the shell keeps them in its history: the commands that take one warn about it.
    """
    found = [secret for argument in arguments if (secret := _password_of(argument))]
    if not found or sys.platform != "linux":
        return
    with suppress(OSError, ValueError, IndexError):
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        start, end = (int(fields[at - FIRST_FIELD]) for at in START_AND_END)
        memory = (ctypes.c_char * (end - start)).from_address(start)
        octets = memory.raw
        for secret in found:
            octets = octets.replace(secret.encode(), b"*" * len(secret.encode()))
        memory.raw = octets


def _password_of(argument: str) -> str | None:
    """Return the password of a URL as it is written in the argument, still encoded."""
    url = re.search(r"[A-Za-z][A-Za-z0-9+.]*://(.*)", argument, re.DOTALL)
    if url is None:
        return None
    with suppress(ValueError):
        if parse_login_url(url[0]).password:
            return url[1].rpartition("@")[0].partition(":")[2]
    return None
