"""Run the site, the workers, the scheduler and a mailbox in one terminal."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from uvicorn import Server

from pipeline import bootstrap, mailbox, settings, tasks
from pipeline.bootstrap import Services
from pipeline.errors import ServiceError, SettingsError
from pipeline.local import processes
from pipeline.local.processes import Child
from pipeline.mailbox import Mailbox
from pipeline.settings import Settings
from pipeline.storage import ingest_state, keys, migrate
from pipeline.storage.database import open_engine, read_only
from pipeline.web import create_app
from pipeline.web import server as web

HOST = "127.0.0.1"
MAILBOX = Path("paperboy-mail")  # next to paperboy.db, the default of DATABASE_URL
LOOK_EVERY = 1.0  # seconds between checks of the child processes


def run(port: int) -> None:
    """Serve until SIGTERM or Ctrl-C. Raises ServiceError if a child process ends by itself.

    A stop arrives as KeyboardInterrupt: the caller must convert SIGTERM.
    """
    with (
        web.listen(HOST, port) as socket,
        _services(socket.getsockname()[1]) as branding,
    ):
        settings.log_suspicions()
        keys.log_origin(branding.services.settings, branding.services.keys)
        _wake_if_new(branding.services)
        wake_editions = partial(tasks.wake_editions, branding.services.settings)
        app = create_app(branding.services, branding.mailbox, wake_editions=wake_editions)
        server = web.server(app)
        _announce(branding)
        with _watching(branding.children, server):
            server.run(sockets=[socket])


@dataclass(frozen=True, slots=True)
class LocalServices:
    """The running services and child processes."""

    services: Services
    mailbox: Mailbox | None  # None if SMTP_URL is set
    children: tuple[Child, ...]


@contextmanager
def _services(port: int) -> Iterator[LocalServices]:
    """Start the services that the settings do not name; stop them in reverse order.

    Upgrades the database. Raises SettingsError if the built-in mailbox would be public, or if the
    settings do not suffice for real mail or for the site.
    """
    wished = settings.load()
    with ExitStack() as stack:
        ours: dict[str, str] = {"database_url": wished.database_url}
        if not _is_set(wished, "site_url"):
            ours["site_url"] = f"http://{HOST}:{port}"
        if not _is_set(wished, "redis_url"):
            ours["redis_url"] = stack.enter_context(processes.valkey())
        box = None
        if not _is_set(wished, "smtp_url"):
            if wished.is_public:  # the mailbox page would show all mails to every visitor
                raise SettingsError(
                    f"SMTP_URL: is not set, and {wished.site_url} is a public site; the built-in "
                    "mailbox is for trials on this machine"
                )
            box = Mailbox(MAILBOX)
            smtp_port = stack.enter_context(mailbox.serve(HOST, 0, box))
            ours["smtp_url"] = f"mailbox://{HOST}:{smtp_port}"
        loaded = settings.load(Path(".env"), **ours)
        loaded.check_real_mail()
        loaded.check_site(HOST)
        _upgrade(loaded)
        services = bootstrap.build(loaded, pool_timeout=web.POOL_TIMEOUT)
        stack.callback(services.engine.dispose)
        # Celery warns if root runs it; that is the operator's decision.
        ours["pythonwarnings"] = "ignore::UserWarning"
        environment = settings.child_environment(**{k.upper(): v for k, v in ours.items()})
        children = stack.enter_context(_workers(environment))
        yield LocalServices(services, box, children)


@contextmanager
def _workers(environment: dict[str, str]) -> Iterator[tuple[Child, ...]]:
    # Dispatch occupies its process for up to a minute, and ingest for longer. Two workers keep the
    # first digest after a confirmation from waiting for either.
    with (
        processes.worker(environment, queues=("ingest", "edition"), concurrency=2) as compiling,
        processes.worker(environment, queues=("dispatch",), concurrency=1) as sending,
        processes.beat(environment) as ticking,
    ):
        try:
            yield compiling, sending, ticking
        finally:
            # Stop beat first, so that it wakes no worker any more; then both workers in parallel.
            ticking.stop()
            with ThreadPoolExecutor() as pool:
                pool.map(Child.stop, (compiling, sending))


def _is_set(wished: Settings, name: str) -> bool:
    return name in wished.model_fields_set


def _upgrade(loaded: Settings) -> None:
    engine = open_engine(loaded.database_url)
    migrate.upgrade(engine)
    engine.dispose()


def _wake_if_new(services: Services) -> None:
    """Start ingest if no batch is published: a site that is empty for an hour looks broken."""
    with read_only(services.engine) as conn:
        if ingest_state.published_batch(conn):
            return
    with tasks.client(services.settings) as client:
        client.send_task("paperboy.ingest")


def _announce(branding: LocalServices) -> None:
    loaded = branding.services.settings
    lines = [f"Site      {loaded.site_url}"]
    if branding.mailbox is not None:
        lines.append(f"Mailbox   {loaded.site_url}/mailbox   (no mail leaves this machine)")
    else:
        lines.append(f"Mail      goes out through {loaded.smtp.host}")
    lines.append("Stop      Ctrl-C")
    sys.stderr.write("\n".join(["", *lines, "", ""]))
    sys.stderr.flush()


@contextmanager
def _watching(children: tuple[Child, ...], server: Server) -> Iterator[None]:
    """Stop the server if a child process ends, so that the site never runs without its workers.

    Raises ServiceError then.
    """
    leaving = threading.Event()
    fallen = threading.Event()

    def watch() -> None:
        while not leaving.wait(LOOK_EVERY):
            if not all(child.is_running() for child in children):
                fallen.set()
                server.should_exit = True
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        leaving.set()
        watcher.join()
    if fallen.is_set():
        raise ServiceError("a Celery process ended by itself; its last words are above")
