"""Senders that are stopped and go on later, when others have taken over what they held."""

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

from tests.running import wait_until

IN_TRANSACTION = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND backend_type = 'client backend'
    AND pid <> pg_backend_pid() AND xact_start IS NOT NULL
"""


@dataclass
class Sleeper:
    """A sender that is stopped once, wakes up after its nap, and then ends in order.

    The bound on uncertain messages is for each death, so who has slept must not die as well.
    """

    process: ForkServerProcess
    nap: float  # seconds
    ends_at: float  # where it has not come to its step by then
    stops_at: float | None  # None: by itself, at its step
    wakes_at: float | None = None
    ending: bool = False

    def lives(self) -> bool:
        """Do what is due by now; False when the process has ended."""
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
        _signal(pid, signal.SIGTERM)  # it finishes what it has in hand
        _signal(pid, signal.SIGCONT)


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def is_asleep(pid: int) -> bool:
    """Whether all of the process is stopped; False too when it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] == "T"


def wait_until_asleep(pid: int, engine: Engine) -> None:
    """Until it sleeps at its step, and none of its other threads holds anybody up.

    A process that is stopped inside a write transaction locks everybody out of SQLite for as long
    as it sleeps; nobody could take anything over from it.
    """
    wait_until(lambda: is_asleep(pid))
    while not _is_free(engine):
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.05)
        wait_until(lambda: is_asleep(pid))


def wake(process: ForkServerProcess, alarm: Path) -> None:
    """For good, and wait until it has ended."""
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
