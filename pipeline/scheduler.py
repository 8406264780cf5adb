"""The scheduler of Celery beat: wake-ups that survive a clock that is set, and do not pile up.

Celery's own scheduler compares stored times. Once the clock was ahead and is corrected, it sends
nothing until the clock has caught up. See https://github.com/celery/celery/issues/6742
"""

from __future__ import annotations

import json
import time
from datetime import timedelta
from typing import Any, Final

import structlog
from celery import Celery, beat
from kombu.connection import Connection
from kombu.exceptions import OperationalError

log = structlog.get_logger(__name__)

SCHEDULER: Final = f"{__name__}:Scheduler"
"""Value of Celery's setting `beat_scheduler`."""

LONGEST_SLEEP: Final = 5.0  # seconds; within that time a change of the clock is noticed
STEP: Final = 1.0  # seconds of difference between two clocks that count as a change
RARELY: Final = 3600.0  # seconds; a run that is further away is done at the start, too
LONG_AGO: Final = timedelta(days=2)  # longer than the interval of any entry
MOST_READ: Final = 1_000  # waiting messages of a queue


class Scheduler(beat.Scheduler):  # type: ignore[misc]  # untyped
    """Send each wake-up when it is due, unless one of its kind is still waiting for a worker.

    So they pile up nowhere and need no expiry, which would be compared with the clock of another
    machine. Nothing is stored: the wake-up of a night is also sent at each start, because a machine
    may restart every night at that time.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.max_interval: float = LONGEST_SLEEP
        self._offset = _offset()
        for entry in self.schedule.values():
            if entry.is_due().next > RARELY:
                entry.last_run_at -= LONG_AGO

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Send the next due wake-up; return the seconds until the next call."""
        offset = _offset()
        if abs(offset - self._offset) > STEP:
            log.warning("clock.set", seconds=round(offset - self._offset, 1))
            self._start_again()
        self._offset = offset
        return float(super().tick(*args, **kwargs))

    def _start_again(self) -> None:
        """Forget runs in what is the future now, and all planned times."""
        for entry in self.schedule.values():
            entry.last_run_at = min(entry.last_run_at, entry.default_now())
        self._heap = None

    def apply_async(self, entry: Any, producer: Any = None, advance: bool = True, **_: Any) -> Any:
        if is_waiting(self.app, self.connection, entry.task):
            return None
        return super().apply_async(entry, producer, advance)


def wake_up(app: Celery, task: str) -> None:
    """Send a task to its queue unless it is waiting there. Raises OperationalError."""
    with app.connection_for_write() as connection:
        if not is_waiting(app, connection, task):
            app.send_task(task, connection=connection, retry=False)


def is_waiting(app: Celery, connection: Connection, task: str) -> bool:
    """Return whether a message of this task is in its queue, not yet taken by a worker.

    Raises OperationalError if the broker does not answer.
    """
    queue = app.conf.task_routes[task]["queue"]
    try:
        with connection.channel() as channel:  # type: ignore[no-untyped-call]
            waiting = channel.client.lrange(queue, 0, MOST_READ - 1)
    except connection.connection_errors + connection.channel_errors as error:
        raise OperationalError(str(error)) from error
    return any(_task_of(message) == task for message in waiting)


def _task_of(message: bytes) -> Any:
    try:
        return json.loads(message)["headers"]["task"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None  # not a message; the worker drops it


def _offset() -> float:
    """Return a number that changes only if the clock is set."""
    return time.time() - time.monotonic()
