"""Celery tasks and their schedule; no logic of their own.

A task is a wake-up: all state is in the database, so a lost, late or repeated task costs only time.
No task takes arguments, returns a result or schedules another task.
"""

from __future__ import annotations

import mmap
import os
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from importlib import import_module
from typing import Any

import structlog
from celery import Celery
from celery.schedules import crontab
from celery.signals import setup_logging, worker_init, worker_shutting_down
from celery.worker.control import inspect_command
from kombu.entity import Queue
from kombu.exceptions import OperationalError

from pipeline import bootstrap, broker, logs, scheduler, settings
from pipeline.bootstrap import Services
from pipeline.broker import QUEUES, Worker
from pipeline.sources import LIVE

log = structlog.get_logger(__name__)

DRAIN = timedelta(seconds=60)  # longest run of one dispatch task; it ends when nothing is due
DISPATCH_EVERY = 5.0  # seconds
PUBLISH_EVERY = 60.0
BOUNCES_EVERY = 600.0
INGEST_AT = crontab(minute="7")  # arXiv and Hugging Face publish on the hour

WATCH_AT = crontab(minute="37")
PURGE_AT = crontab(hour="3", minute="40")

# SIGTERM reaches the worker but not a task in one of its prefork child processes, so the worker
# sets a byte of shared memory that all of them read.
_stopping = mmap.mmap(-1, 1)

app = Celery("paperboy")


@app.on_configure.connect
def _configure(sender: Celery, **_: Any) -> None:
    sender.conf.update(celery_settings(settings.load()))


def workers(loaded: settings.Settings, patience: float) -> list[Worker]:
    """Return the workers and beats that answer within `patience` seconds (waited twice).

    Raises OperationalError if the broker does not answer.
    """
    with client(loaded) as asking, asking.connection_for_write() as connection:
        try:
            connection.connect()
        except connection.connection_errors as error:
            raise OperationalError(str(error)) from error
        control, found = asking.control, []
        began = datetime.now(UTC)
        asked = {"connection": connection, "timeout": patience}
        for reply in control.broadcast(paperboy_worker.__name__, reply=True, **asked) or ():
            for name, answer in reply.items():
                skew = datetime.fromisoformat(answer["time"]) - began
                found.append(Worker(name, tuple(answer["queues"]), skew))
        names = [name for reply in control.ping(**asked) or () for name in reply]
        return found + [one for one in map(Worker, names) if one.is_beat]


def client(loaded: settings.Settings) -> Celery:
    """Return a Celery app to send tasks by name to the workers of these settings."""
    sender = Celery("paperboy", set_as_current=False)
    sender.conf.update(celery_settings(loaded))
    return sender


def wake_editions(loaded: settings.Settings) -> None:
    """Wake the edition worker to compile due digests now; without a broker, log a warning.

    Compilation then starts with the next scheduled task, within a minute. If no broker answers,
    this call takes seconds, so no request should wait for it.
    """
    try:
        with client(loaded) as sender:
            scheduler.wake_up(sender, "paperboy.publish")
    except OperationalError as error:
        log.warning("wake_up.lost", task="paperboy.publish", error=str(error))


def celery_settings(loaded: settings.Settings) -> dict[str, Any]:
    """Return Celery's configuration; for the reasons see docs/decisions/celery-wakes-only.md."""
    return {
        "broker_url": loaded.redis_url,
        "broker_transport": broker.TRANSPORT,
        "broker_connection_retry_on_startup": True,
        "broker_transport_options": {
            "visibility_timeout": 3600,  # longer than any task runs
            # Redeliver the task of a killed worker within seconds instead of minutes.
            "unacked_restore_interval": 2,
            "unacked_restore_throttle": 1,
            "socket_timeout": 10,
            "socket_connect_timeout": 5,
            "retry_on_timeout": True,
        },
        "result_backend": None,
        "task_ignore_result": True,
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_default_queue": "dispatch",
        "task_queues": [Queue(name) for name in QUEUES],  # type: ignore[no-untyped-call]
        "task_routes": {
            "paperboy.ingest": {"queue": "ingest"},
            "paperboy.publish": {"queue": "edition"},
            "paperboy.purge": {"queue": "ingest"},
            "paperboy.watch": {"queue": "ingest"},
            "paperboy.bounces": {"queue": "ingest"},
            "paperboy.dispatch": {"queue": "dispatch"},
        },
        "worker_prefetch_multiplier": 1,
        "worker_hijack_root_logger": False,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "timezone": "UTC",
        "beat_scheduler": scheduler.SCHEDULER,
        "beat_enable_remote_control": True,  # for `celery inspect ping`, a health check
        "beat_schedule": {
            "ingest": {"task": "paperboy.ingest", "schedule": INGEST_AT},
            "publish": {"task": "paperboy.publish", "schedule": PUBLISH_EVERY},
            "purge": {"task": "paperboy.purge", "schedule": PURGE_AT},
            "watch": {"task": "paperboy.watch", "schedule": WATCH_AT},
            "bounces": {"task": "paperboy.bounces", "schedule": BOUNCES_EVERY},
            "dispatch": {"task": "paperboy.dispatch", "schedule": DISPATCH_EVERY},
        },
    }


@app.task(name="paperboy.ingest")
def ingest() -> None:
    _services().ingest(datetime.now(UTC))


@app.task(name="paperboy.publish")
def publish() -> None:
    for _ in _services().publish(datetime.now(UTC)):
        """The generator compiles each chunk when it is consumed."""


@app.task(name="paperboy.purge")
def purge() -> None:
    _services().purge(datetime.now(UTC))


@app.task(name="paperboy.watch")
def watch() -> None:
    from pipeline import doctor  # imports the clients of DNS, TLS and HTTP, which takes a moment

    services, now = _services(), datetime.now(UTC)
    services.watch(now, lambda: doctor.failures(services.settings, now))


@app.task(name="paperboy.bounces")
def bounces() -> None:
    _services().read_own_mailbox(datetime.now(UTC))


@app.task(name="paperboy.dispatch")
def dispatch() -> None:
    _services().dispatch(limit=DRAIN, stop=_is_stopping)


def _services() -> Services:
    """Return the services of this process; engines, sockets and threads are made after the fork."""
    return _services_of(os.getpid())


@lru_cache(maxsize=1)
def _services_of(_pid: int) -> Services:
    return bootstrap.build(settings.load())


PARTS = (
    *("dispatch.compose", "editions", "feedback.bounces", "feedback.intake", "feedback.process"),
    *("ingest", "matching.highlights", "purge", "restore", "storage.keys", "storage.migrate"),
    "watch",
    *(f"sources.{name}" for name in LIVE),
)
"""The modules that tasks run, which `bootstrap` imports only when they are needed."""


@worker_init.connect
def _import_parts(**_: Any) -> None:
    """Import the parts before the pool forks, so that its child processes share their memory."""
    for part in PARTS:
        import_module(f"pipeline.{part}")


@worker_shutting_down.connect
def _stop(**_: Any) -> None:
    """Set the shared stop flag, which running dispatch tasks poll."""
    _stopping[0] = 1


@inspect_command()
def paperboy_worker(state: Any) -> dict[str, Any]:
    """Return the queues and the clock of a worker, for `paperboy doctor`."""
    queues = state.consumer.task_consumer.queues
    return {"queues": [queue.name for queue in queues], "time": datetime.now(UTC).isoformat()}


def _is_stopping() -> bool:
    return _stopping[0] == 1


@setup_logging.connect
def _set_up_logs(**_: Any) -> None:
    logs.configure(settings.load())
    settings.log_suspicions()
