"""Ctrl-C and SIGTERM: both end a command by an exception, which lets everything be put away."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn


@dataclass(slots=True)
class Interrupt:
    """Whether somebody wants us to stop.

    Python raises the exception wherever the main thread is at that moment. In a finalizer it is
    printed and lost, so whoever waits for something asks here as well.
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
