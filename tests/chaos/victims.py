"""Real senders that kill themselves at a named step, or live until somebody kills them."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial, wraps
from typing import Any, Final

from celery.signals import worker_process_init

from pipeline import bootstrap
from pipeline.bootstrap import Services
from pipeline.cli import main as command_line
from pipeline.dispatch import dispatcher
from pipeline.smtp.connection import SMTPConnection
from pipeline.storage import deliveries
from pipeline.tasks import app

__all__ = ["STEPS", "app", "run_send"]

BEFORE, AFTER = True, False

# Where it dies, and how often it may come by before that: a step of each message, or of a drain.
STEPS: Final[Mapping[str, tuple[Any, str, bool, int]]] = {
    "in the claim's transaction": (deliveries, "claim", AFTER, 1),
    "after the claim": (dispatcher._Drain, "_claim", AFTER, 1),
    "after composing": (Services, "compose", AFTER, 12),
    "before the mark": (deliveries, "mark", BEFORE, 8),
    "in the mark's transaction": (deliveries, "mark", AFTER, 8),
    "between mark and dot": (SMTPConnection, "finish", BEFORE, 8),
    "between 250 and settling": (SMTPConnection, "finish", AFTER, 8),
    "while settling": (deliveries, "settle", AFTER, 6),
    "while recovering leases": (deliveries, "recover_leases", AFTER, 1),
    "while resending": (deliveries, "resend_uncertain", AFTER, 1),
    "before giving back": (deliveries, "give_back", BEFORE, 1),
    "while giving back": (deliveries, "give_back", AFTER, 1),
}


def run_send(environment: Mapping[str, str], step: str | None, passes: int) -> None:
    """`paperboy send --once` in this process, which `step` ends at the given pass."""
    os.environ.update(environment)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    hurry()
    if step:
        die_at(step, passes)
    sys.argv = ["paperboy", "send", "--once"]
    command_line()


def die_at(step: str, passes: int) -> None:
    owner, name, before, _ = STEPS[step]
    setattr(owner, name, _deadly(getattr(owner, name), before, passes))


def _deadly(step: Callable[..., Any], before: bool, passes: int) -> Callable[..., Any]:
    seen: list[None] = []

    @wraps(step)
    def run(*args: Any, **kwargs: Any) -> Any:
        seen.append(None)
        last = len(seen) >= passes
        if last and before:
            os.kill(os.getpid(), signal.SIGKILL)
        done = step(*args, **kwargs)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    return run


def hurry() -> None:
    """Leases of seconds, so that the next sender finds what a dead one left while we look on."""
    short = timedelta(seconds=2)
    dispatcher.MARGIN = timedelta(seconds=1)
    dispatcher.TIDY_EVERY = 0.5
    bootstrap.Dispatcher = partial(bootstrap.Dispatcher, deadline=short, patience=short)
    bootstrap.Bounds = partial(bootstrap.Bounds, opening=2.0, deadline=2.0, patience=2.0)


# Celery imports this module as its app: its prefork children die by themselves, too.
if os.environ.get("CHAOS_WORKER"):
    hurry()

    @worker_process_init.connect(weak=False)
    def _arm(**_: Any) -> None:
        step = random.choice([*STEPS, None, None, None])
        if step:
            die_at(step, random.randint(1, STEPS[step][3]))
