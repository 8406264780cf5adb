"""Handle Ctrl-C and SIGTERM: both raise KeyboardInterrupt, so that a command can clean up."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn


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
