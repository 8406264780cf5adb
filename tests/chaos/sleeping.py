"""Senders that are stopped and resume after other senders have taken over their deliveries."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from sqlalchemy import Engine, text

from tests.support.running import wait_until

IN_TRANSACTION = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND backend_type = 'client backend'
    AND pid <> pg_backend_pid() AND xact_start IS NOT NULL
"""


@dataclass
class Sleeper:
    """A sender that is stopped once, wakes up after its nap, and then exits normally.

    The bound on uncertain messages is per crash, so a sender that was stopped must not be killed
    too.
    """

    process: ForkServerProcess
    nap: float  # seconds
    ends_at: float  # when to end it if it has not reached its step
    stops_at: float | None  # None: it stops itself at its step
    wakes_at: float | None = None
    ending: bool = False

    def lives(self) -> bool:
        """Do the action that is due (stop, or wake and end); return False if it has ended."""
        pid = self.process.pid
        if pid is None or not self.process.is_alive():
            self.process.join()
            return False
        if self.ending:
            return True
        now = time.monotonic()
        if self.wakes_at is None and is_asleep(pid):
            self.wakes_at = now + self.nap
        elif now >= (self.wakes_at or self.ends_at):
            self._end(pid)
        elif self.stops_at and now >= self.stops_at and not self.wakes_at:
            _signal(pid, signal.SIGSTOP)
        return True

    def _end(self, pid: int) -> None:
        self.ending = True
        _signal(pid, signal.SIGTERM)  # it finishes the message in progress
        _signal(pid, signal.SIGCONT)


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def is_asleep(pid: int) -> bool:
    """Return whether the whole process is stopped; False, too, if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] == "T"


def wait_until_asleep(pid: int, engine: Engine) -> None:
    """Wait until the process is stopped at its step and no thread of it is in a transaction.

    A process that is stopped inside a write transaction locks SQLite for as long as it sleeps, so
    no other sender could take over its deliveries.
    """
    wait_until(lambda: is_asleep(pid))
    while not _is_free(engine):
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.05)
        wait_until(lambda: is_asleep(pid))


def wake(process: ForkServerProcess, alarm: Path) -> None:
    """Wake the process for good, and wait until it has ended."""
    alarm.touch()

    def ended() -> bool:
        if process.pid and is_asleep(process.pid):
            os.kill(process.pid, signal.SIGCONT)
        return not process.is_alive()

    wait_until(ended)


def _is_free(engine: Engine) -> bool:
    if engine.dialect.name == "postgresql":
        with engine.connect() as conn:
            return conn.execute(text(IN_TRANSACTION)).scalar_one() == 0
    conn = sqlite3.connect(engine.url.database or "", timeout=0)
    try:
        conn.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        return False
    finally:
        conn.close()
    return True
