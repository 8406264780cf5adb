"""Open and close a SQLite file from other processes; then check that no row is missing.

A site takes sign-ups, and senders and a Celery worker send mail; at the same time run commands,
plain SQLite clients, VACUUM and copies by the backup API. No process is killed here: see `killing`.
"""

from __future__ import annotations

import itertools
import multiprocessing
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import requests
from sqlalchemy import Engine, select

from pipeline import settings
from pipeline.local import processes
from pipeline.local.processes import Child, free_port
from pipeline.storage.database import with_retries
from pipeline.storage.schema import SubscriberRow
from pipeline.tasks import client
from tests.chaos.judging import Judgement, judge
from tests.chaos.stage import OPEN, Stage, open_stage
from tests.chaos.victims import run_command
from tests.support.visitors import visiting

OWED = 60  # deliveries that are queued at a time
PLAIN_CLIENTS = 2
VACUUM_EVERY = 10.0  # seconds; VACUUM blocks other writers
FINISH = 120.0  # seconds in which the remaining deliveries must be sent
START = 120.0  # seconds until the site must answer
COMMANDS = (["deliveries"], ["subscribers", "list"], ["send", "--once"])
NAMES = ("deliveries", "subscribers", "send")
MOST_SIGNUPS = 1_800  # an hour: the rate limit of the site over all visitors
COMMANDS_A_SIGNUP = 15
SLICE = 0.2  # seconds that a thread waits between two visits


@dataclass(frozen=True)
class Visited:
    """The result of one run; it holds if `lost` and `broken` are empty and `found` holds."""

    acknowledged: int  # sign-ups answered with 200, and `subscribers add` that exited with 0
    visits: dict[str, int]
    copies: int
    lost: tuple[str, ...]  # acknowledged, but not in the database
    broken: tuple[str, ...]  # a database or a copy that is corrupt or incomplete
    found: Judgement

    def holds(self, connections: int) -> bool:
        return not self.lost and not self.broken and self.found.holds(connections)


class Visiting:
    def __init__(self, stage: Stage) -> None:
        self.visits: Counter[str] = Counter()
        self.acknowledged: list[str] = []  # addresses, in the order of their answers
        self.broken: list[str] = []
        self._stage = stage
        self._path = Path(stage.engine.url.database or "")
        self._over = threading.Event()
        self._numbers = itertools.count()
        self._failures: list[BaseException] = []
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(["tests.chaos.victims"])

    def run(self, signups: int, *, workers: bool) -> None:
        with ExitStack() as stack:
            url = stack.enter_context(self._site())
            if workers:
                environment = self._stage.environment
                stack.enter_context(processes.worker(environment, queues=("dispatch",)))
            stack.enter_context(visiting(str(self._path), processes=PLAIN_CLIENTS))
            tasks: list[Callable[[], object]] = [self._add, self._copy, self._vacuum]
            tasks += [lambda command=command: self._command(command) for command in COMMANDS]
            if workers:
                tasks.append(self._wake)
            threads = [threading.Thread(target=self._repeat, args=(task,)) for task in tasks]
            for thread in threads:
                thread.start()
            try:
                self._sign_up(url, signups)
            finally:
                self._over.set()
                for thread in threads:
                    thread.join()
        if self._failures:
            raise self._failures[0]

    def finish(self) -> None:
        deadline = time.monotonic() + FINISH
        while self._stage.count(*OPEN):
            assert time.monotonic() < deadline, "what is owed is not sent"
            with_retries(self._stage.make_due)
            self._command(["send", "--once"])

    # --- Visits ---------------------------------------------------------------------------------

    def _sign_up(self, url: str, signups: int) -> None:
        with requests.Session() as browser:
            for number in range(MOST_SIGNUPS):
                if number >= signups and self._has_seen(signups // COMMANDS_A_SIGNUP):
                    return
                if self._stage.count(*OPEN) < OWED:
                    with_retries(partial(self._stage.owe, OWED))
                email = f"signed{number}@example.org"
                address = f"10.{number >> 8 & 255}.{number & 255}.1"  # one network per sign-up
                answer = browser.post(
                    f"{url}/subscribe",
                    data={"email": email, "queries": "tea leaves"},
                    headers={"X-Forwarded-For": address},
                    timeout=60,
                )
                if answer.status_code == 200:
                    self.acknowledged.append(email)
                self.visits[f"sign-ups answered {answer.status_code}"] += 1
                self._over.wait(0.02)

    def _has_seen(self, visits: int) -> bool:
        """Return whether each command has run at least `visits` times."""
        return all(self.visits[f"paperboy {name}"] >= visits for name in NAMES)

    def _add(self) -> None:
        email = f"added{next(self._numbers)}@example.org"
        if self._command(["subscribers", "add", email, "--topic", "tea leaves"]) == 0:
            self.acknowledged.append(email)

    def _command(self, arguments: Sequence[str]) -> int | None:
        process = self._processes.Process(
            target=run_command, args=(self._stage.environment, arguments), daemon=True
        )
        name = f"paperboy {arguments[0]}"
        self.visits[name] += 1  # counted at the start: a sender runs as long as mail is queued
        process.start()
        process.join()
        if process.exitcode:
            self.visits[f"{name}: exit code {process.exitcode}"] += 1
        return process.exitcode

    def _copy(self) -> None:
        """Copy the database in another process during writes; the copy must have all known rows."""
        known = set(self.acknowledged)
        copy = self._path.with_name("copy.db")
        copy.unlink(missing_ok=True)
        subprocess.run(_script(BACKUP, self._path, copy), check=True)
        wrong = trouble(copy, known)
        if wrong:
            self.broken.append(f"copy {self.visits['copies']}: {wrong}")
        self.visits["copies"] += 1

    def _vacuum(self) -> None:
        subprocess.run(_script(VACUUM, self._path), check=True)
        self.visits["VACUUM"] += 1
        self._over.wait(VACUUM_EVERY)

    def _wake(self) -> None:
        url = self._stage.redis_url
        with suppress(OSError), client(settings.load(None, redis_url=url)) as sender:
            sender.send_task("paperboy.dispatch", expires=60, retry=False)
        self._over.wait(1.0)

    def _repeat(self, task: Callable[[], object]) -> None:
        try:
            while not self._over.is_set():
                task()
                self._over.wait(SLICE)
        except Exception as error:  # noqa: BLE001  (a thread's error would be lost)
            self._failures.append(error)

    @contextmanager
    def _site(self) -> Iterator[str]:
        """Run `paperboy serve`, which trusts the X-Forwarded-For of this process; yield its URL."""
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        more = {"SITE_URL": url, "TRUSTED_PROXIES": "127.0.0.1"}
        command = [sys.executable, "-m", "pipeline", "serve", "--port", str(port)]
        site = Child(command, environment={**self._stage.environment, **more}, silent=True)
        try:
            deadline = time.monotonic() + START
            while True:
                with suppress(requests.ConnectionError):
                    requests.get(f"{url}/healthz", timeout=5)
                    break
                assert time.monotonic() < deadline, "the site does not answer"
                time.sleep(0.1)
            yield url
        finally:
            site.stop()


BACKUP = """
import sqlite3, sys
from contextlib import closing
with closing(sqlite3.connect(sys.argv[1], timeout=30)) as source:
    with closing(sqlite3.connect(sys.argv[2])) as target:
        source.backup(target, pages=64)
"""
VACUUM = """
import sqlite3, sys
from contextlib import closing, suppress
with closing(sqlite3.connect(sys.argv[1], timeout=30)) as conn, suppress(sqlite3.OperationalError):
    conn.execute("VACUUM")
"""


def _script(code: str, *arguments: Path) -> list[str]:
    return [sys.executable, "-c", code, *map(str, arguments)]


def trouble(path: Path, known: set[str]) -> str:
    """Return the fault of a closed database (corrupt, or rows missing), or "" if it is whole."""
    try:
        with closing(sqlite3.connect(path)) as conn:
            checked = conn.execute("PRAGMA integrity_check").fetchone()[0]
            emails = {email for (email,) in conn.execute("SELECT email FROM subscribers")}
    except sqlite3.DatabaseError as error:
        return str(error)
    missing = known - emails
    return checked if checked != "ok" else f"{len(missing)} missing" if missing else ""


def visit(backend: str, *, signups: int, workers: bool = True) -> Visited:
    """Run the visits and return the result; SQLite only, since PostgreSQL has no shared file."""
    with open_stage(backend) as stage:
        stage.paper()
        stage.owe(OWED)
        visiting = Visiting(stage)
        visiting.run(signups, workers=workers)
        visiting.finish()
        found = judge(stage.engine, stage.ledger, stage.message_id)
        known = _known(stage.engine)
        stage.engine.dispose()
        broken = list(visiting.broken)
        if wrong := trouble(Path(stage.engine.url.database or ""), set(visiting.acknowledged)):
            broken.append(f"the database: {wrong}")
        return Visited(
            acknowledged=len(visiting.acknowledged),
            visits=dict(visiting.visits),
            copies=visiting.visits["copies"],
            lost=tuple(email for email in visiting.acknowledged if email not in known),
            broken=tuple(broken),
            found=found,
        )


def _known(engine: Engine) -> set[str]:
    with engine.connect() as conn:
        return set(conn.execute(select(SubscriberRow.email)).scalars())
