"""Start and stop the processes of the demo."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline import bootstrap, logs, mailbox, settings, tasks
from pipeline.bootstrap import Services
from pipeline.errors import ServiceError
from pipeline.local import processes
from pipeline.local.processes import Child
from pipeline.mailbox import Mailbox
from pipeline.storage import migrate
from pipeline.storage.database import open_engine

SHOWN_AS = {  # a named site, so that the mails have realistic headers
    "SITE_URL": "https://paperboy.example.org",
    "MAIL_FROM": "Paperboy <papers@example.org>",
    "LOG_LEVEL": "ERROR",  # errors are reported at the end
}
WAKE_EVERY = 5.0  # seconds
PATIENCE = 60.0  # seconds for a step of the worker, even on a slow machine


@dataclass(frozen=True, slots=True)
class DemoProcesses:
    """Running services and processes of the demo."""

    services: Services
    worker: Child
    mailbox: Mailbox
    stop: Callable[[], bool]

    def work(
        self, task: str, count: Callable[[], int], goal: int, done: Callable[[int], None]
    ) -> None:
        """Wake the worker for `task` every WAKE_EVERY seconds, as beat would, until all is done.

        `count` returns the progress in the database; all is done when it reaches `goal`. Raise
        ServiceError if the worker ends or PATIENCE is over, and KeyboardInterrupt once `stop()` is
        true.
        """
        deadline = time.monotonic() + PATIENCE
        wake_at = time.monotonic()
        while (so_far := count()) < goal:
            done(so_far)
            if self.stop():
                raise KeyboardInterrupt
            if not self.worker.is_running():
                raise ServiceError("the Celery worker ended early")
            if time.monotonic() > deadline:
                raise ServiceError(f"the Celery worker did not finish in {PATIENCE:.0f} s")
            if time.monotonic() >= wake_at:
                self._wake(task)
                wake_at = time.monotonic() + WAKE_EVERY
            time.sleep(0.05)
        done(goal)

    def _wake(self, task: str) -> None:
        with tasks.client(self.services.settings) as client:
            client.send_task(task)


@contextmanager
def demo_processes(folder: Path, stop: Callable[[], bool]) -> Iterator[DemoProcesses]:
    box = Mailbox(folder / "mail")
    with processes.valkey() as redis, mailbox.serve("127.0.0.1", 0, box) as port:
        ours = {
            **_unless_set(SHOWN_AS),
            "DATABASE_URL": f"sqlite:///{folder / 'demo.db'}",
            "REDIS_URL": redis,
            "SMTP_URL": f"mailbox://127.0.0.1:{port}",
            "SMTP_TLS": "auto",
            # Celery warns if it runs as root; that is a decision of the caller.
            "PYTHONWARNINGS": "ignore::UserWarning",
        }
        loaded = settings.load(Path(".env"), **{name.lower(): ours[name] for name in ours})
        logs.configure(loaded)
        _migrate(loaded.database_url)
        services = bootstrap.build(loaded)
        try:
            environment = settings.child_environment(**ours)
            with processes.worker(environment, concurrency=1) as worker:
                yield DemoProcesses(services, worker, box, stop)
        finally:
            services.engine.dispose()


def _unless_set(defaults: dict[str, str]) -> dict[str, str]:
    wished = settings.load().model_fields_set
    return {name: defaults[name] for name in defaults if name.lower() not in wished}


def _migrate(url: str) -> None:
    engine = open_engine(url)
    migrate.upgrade(engine)
    engine.dispose()
