"""Kill senders, workers, the broker and the database, and stop senders, while mail is queued."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from contextlib import ExitStack, suppress
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import redis

from pipeline import settings
from pipeline.local import processes
from pipeline.local.processes import Child
from pipeline.tasks import client
from tests.chaos.judging import Judgement, judge
from tests.chaos.sleeping import Sleeper
from tests.chaos.stage import OPEN, Stage, open_stage
from tests.chaos.victims import OUTSIDE, STEPS, run_send

SENDERS = 3  # concurrent senders, in addition to the workers
AT_RANDOM = "at a random moment"
ASLEEP = "senders put to sleep"
AT_ONCE = Path("/")  # an alarm file that exists already: the sleeper wakes at its first SIGCONT
NAP = 4.0  # seconds: longer than a lease, shorter than the timeout for a locked SQLite file
LONGEST = 12.0  # seconds that a sender lives if it does not reach its step
BROKER_EVERY, DATABASE_EVERY, WORKER_EVERY, BEAT_EVERY, FLUSH_EVERY = 41, 29, 61, 35, 25  # kills
NAP_EVERY = 15  # kills
FINISH = 300.0  # seconds in which the remaining senders must settle the deliveries of killed ones


class Killing:
    """One run; `kills` counts the killed processes by step."""

    def __init__(self, stage: Stage, seed: int) -> None:
        self.kills: Counter[str] = Counter()
        self.happened: Counter[str] = Counter()
        self._stage = stage
        self._random = random.Random(seed)
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(["tests.chaos.victims"])
        self._senders: list[tuple[ForkServerProcess, str, float]] = []
        self._steps = [*STEPS]
        self._sleepers: list[Sleeper] = []

    def run(self, kills: int, *, workers: bool) -> None:
        with ExitStack() as stack:
            worker = stack.enter_context(_Workers(self._stage)) if workers else None
            while self.kills.total() < kills:
                if self._stage.count(*OPEN) < 150:
                    self._stage.owe(150)
                self._keep_senders()
                time.sleep(self._random.uniform(0.01, 0.15))
                self._kill_the_old()
                self._put_to_sleep()
                self._watch_sleepers()
                if worker:
                    self._disturb(worker)
            for process, _, _ in self._senders:
                process.kill()
                process.join()
            while self._sleepers:
                self._watch_sleepers()
                time.sleep(0.1)

    def finish(self) -> None:
        """Run senders without kills until no delivery is open; fail after `FINISH` seconds."""
        deadline = time.monotonic() + FINISH
        while self._stage.count(*OPEN):
            assert time.monotonic() < deadline, "what is owed is not sent"
            self._stage.make_due()
            process = self._start(None, 1)
            process.join()
            time.sleep(0.5)

    # --- Senders --------------------------------------------------------------------------------

    def _keep_senders(self) -> None:
        while len(self._senders) < SENDERS:
            step = self._next_step()
            passes = self._random.randint(1, STEPS[step][3]) if step != AT_RANDOM else 1
            life = LONGEST if step != AT_RANDOM else self._random.uniform(0.5, 3.0)
            process = self._start(step if step != AT_RANDOM else None, passes)
            self._senders.append((process, step, time.monotonic() + life))

    def _next_step(self) -> str:
        """Return each named step in turn, or AT_RANDOM in a quarter of the cases."""
        if self._random.random() < 0.25:
            return AT_RANDOM
        self._steps.append(self._steps.pop(0))
        return self._steps[-1]

    def _start(self, step: str | None, passes: int, alarm: Path | None = None) -> ForkServerProcess:
        process = self._processes.Process(
            target=run_send,
            args=(self._stage.environment, step, passes),
            kwargs={"alarm": alarm},
            daemon=True,
        )
        process.start()
        return process

    def _kill_the_old(self) -> None:
        living = []
        for process, step, ends_at in self._senders:
            if process.is_alive() and time.monotonic() < ends_at:
                living.append((process, step, ends_at))
                continue
            if process.is_alive():
                process.kill()
                step = AT_RANDOM
            process.join()
            if process.exitcode == -signal.SIGKILL:
                self.kills[step] += 1
        self._senders = living

    def _put_to_sleep(self) -> None:
        """Start an extra sender every NAP_EVERY kills, to be stopped at a step or at random."""
        if not self._is_time_for(ASLEEP, NAP_EVERY, deadly=False):
            return
        step = self._random.choice([*OUTSIDE, None, None])
        passes = self._random.randint(1, STEPS[step][3]) if step else 1
        process = self._start(step, passes, AT_ONCE)
        stops_at = None if step else time.monotonic() + self._random.uniform(0.5, 3.0)
        self._sleepers.append(Sleeper(process, NAP, time.monotonic() + LONGEST, stops_at))

    def _watch_sleepers(self) -> None:
        self._sleepers = [sleeper for sleeper in self._sleepers if sleeper.lives()]

    # --- The other processes --------------------------------------------------------------------

    def _disturb(self, worker: _Workers) -> None:
        worker.wake()
        if self._random.random() < 0.04 and worker.kill_a_child(self._random):
            self.kills["a child of a Celery worker"] += 1
        if self._is_time_for("a whole Celery worker", WORKER_EVERY):
            worker.restart()
        if self._is_time_for("beat", BEAT_EVERY):
            worker.restart_a_beat()
        if self._is_time_for("Valkey", BROKER_EVERY):
            self._stage.kill_valkey()
            self._stage.start_valkey()
        if self._is_time_for("FLUSHALL", FLUSH_EVERY, deadly=False):
            with suppress(redis.ConnectionError):  # the broker may be starting
                self._stage.flush_valkey()
        is_server = self._stage.database_url.startswith("postgresql")
        if is_server and self._is_time_for("PostgreSQL", DATABASE_EVERY):
            self._stage.crash_postgresql()

    def _is_time_for(self, what: str, every: int, *, deadly: bool = True) -> bool:
        if self.kills.total() < every * (self.happened[what] + 1):
            return False
        self.happened[what] += 1
        if deadly:
            self.kills[what] += 1
        return True


class _Workers:
    """A Celery worker with prefork children, two beats, and manual wake-up tasks."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._environment = {**stage.environment, "CHAOS_WORKER": "1"}
        self._stack = ExitStack()
        self._beats: list[Child] = []
        self._woken_at = 0.0
        self._child: Child | None = None

    def __enter__(self) -> _Workers:
        self._start()
        for _ in range(2):
            self._start_beat()
        return self

    def __exit__(self, *_: object) -> None:
        if self._child:
            self._child.kill()
        self._stack.close()

    def _start(self) -> None:
        options = ["--pool=prefork", "--concurrency=2", "--queues=dispatch", "--loglevel=CRITICAL"]
        command = processes._celery("tests.chaos.victims", "worker", *options)
        self._child = Child(command, environment=self._environment, silent=True)

    def _start_beat(self) -> None:
        beat = self._stack.enter_context(processes.beat(self._stage.environment))
        self._beats.append(beat)

    def restart_a_beat(self) -> None:
        self._beats.pop(0).kill()
        self._start_beat()

    def restart(self) -> None:
        if self._child:
            self._child.kill()
        self._start()

    def wake(self) -> None:
        if time.monotonic() - self._woken_at > 1:
            self._woken_at = time.monotonic()
            url = self._stage.redis_url
            with suppress(OSError, Exception), client(settings.load(None, redis_url=url)) as sender:
                sender.send_task("paperboy.dispatch", expires=60, retry=False)

    def kill_a_child(self, chance: random.Random) -> bool:
        found = children(self._child.pid) if self._child else []
        if not found:
            return False
        with suppress(ProcessLookupError):
            os.kill(chance.choice(found), signal.SIGKILL)
            return True
        return False


def children(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(word) for word in
                Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]  # fmt: skip
    return []


def kill(
    backend: str, *, kills: int, seed: int, workers: bool = True
) -> tuple[Counter[str], Counter[str], Judgement]:
    """Return the kills by step, the other disturbances, and the judgement after one run."""
    with open_stage(backend) as stage:
        stage.paper()
        killing = Killing(stage, seed)
        killing.run(kills, workers=workers)
        killing.finish()
        return killing.kills, killing.happened, judge(stage.engine, stage.ledger, stage.message_id)
