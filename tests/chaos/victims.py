"""Real senders that kill or stop themselves at a named step, or run until they are killed."""

from __future__ import annotations

import itertools
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial, wraps
from pathlib import Path
from typing import Any, Final

from celery.signals import worker_process_init

from pipeline import dispatch, ingest
from pipeline.bootstrap import Services
from pipeline.cli import main as command_line
from pipeline.dispatch import dispatcher
from pipeline.dispatch.group_commit import GroupCommit
from pipeline.smtp import session
from pipeline.smtp.session import SMTPConnection
from pipeline.storage import deliveries
from pipeline.tasks import app

__all__ = ["OUTSIDE", "STEPS", "app", "run_send"]

BEFORE, AFTER = True, False

# Where a process dies, before or after the call, and the most passes until then: the calls are made
# once per message or once per drain.
STEPS: Final[Mapping[str, tuple[Any, str, bool, int]]] = {
    "in the claim's transaction": (deliveries, "claim", AFTER, 1),
    "after the claim": (dispatcher._Drain, "_compose_all", BEFORE, 1),
    "after composing": (Services, "compose", AFTER, 12),
    "before the mark": (GroupCommit, "mark", BEFORE, 8),
    "in the mark's transaction": (deliveries, "mark", AFTER, 8),
    "between mark and dot": (SMTPConnection, "finish", BEFORE, 8),
    "between 250 and settling": (SMTPConnection, "finish", AFTER, 8),
    "while settling": (deliveries, "settle", AFTER, 6),
    "while recovering leases": (deliveries, "recover_leases", AFTER, 1),
    "while resending": (deliveries, "resend_uncertain", AFTER, 1),
    "before giving back": (deliveries, "give_back", BEFORE, 1),
    "while giving back": (deliveries, "give_back", AFTER, 1),
}


# Where a process may be stopped: the thread at the step is in no transaction.
OUTSIDE: Final = (
    "after the claim",
    "after composing",
    "before the mark",
    "between mark and dot",
    "between 250 and settling",
)


def run_send(
    environment: Mapping[str, str],
    step: str | None,
    passes: int,
    *,
    alarm: Path | None = None,
    in_a_hurry: bool = True,
) -> None:
    """Run `paperboy send --once` in this process and kill it at the given pass of `step`.

    If `alarm` is given, the process is stopped there instead, once. At SIGCONT it resumes for good
    if that file exists; otherwise it stops again.
    """
    if in_a_hurry:
        hurry()
    if step:
        blow_at(step, passes, partial(_sleep, alarm) if alarm else _die)
    run_command(environment, ["send", "--once"])


def run_command(environment: Mapping[str, str], arguments: Sequence[str]) -> None:
    """Run `paperboy ARGUMENTS` in this process without output; ingest leases last one second."""
    os.environ.update(environment)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    ingest.LEASE = timedelta(seconds=1)
    sys.argv = ["paperboy", *arguments]
    command_line()


def blow_at(step: str, passes: int, blow: Callable[[], None]) -> None:
    owner, name, before, _ = STEPS[step]
    setattr(owner, name, _struck(getattr(owner, name), before, passes, blow))


def _struck(
    step: Callable[..., Any], before: bool, passes: int, blow: Callable[[], None]
) -> Callable[..., Any]:
    passing = itertools.count(1)  # several threads call it

    @wraps(step)
    def run(*args: Any, **kwargs: Any) -> Any:
        its_turn = next(passing) == passes
        if its_turn and before:
            blow()
        done = step(*args, **kwargs)
        if its_turn and not before:
            blow()
        return done

    return run


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _sleep(alarm: Path) -> None:
    while True:
        os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(0.05)  # this thread may run on for a moment, and another may end its transaction
        if alarm.exists():
            return


def hurry() -> None:
    """Shorten leases to seconds, so that the next sender soon recovers those of a killed one."""
    short = timedelta(seconds=2)
    dispatcher.MARGIN = timedelta(seconds=1)
    dispatcher.TIDY_EVERY = 0.5
    dispatch.Dispatcher = partial(dispatch.Dispatcher, deadline=short, patience=short)
    session.SessionLimits = partial(session.SessionLimits, opening=2.0, deadline=2.0, patience=2.0)


# Celery imports this module as its app, so its prefork children kill themselves, too.
if os.environ.get("CHAOS_WORKER"):
    hurry()

    @worker_process_init.connect(weak=False)
    def _arm(**_: Any) -> None:
        step = random.choice([*STEPS, None, None, None])
        if step:
            blow_at(step, random.randint(1, STEPS[step][3]), _die)
