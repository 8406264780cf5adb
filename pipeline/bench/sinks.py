"""Mail servers that accept and discard every mail, as child processes."""

from __future__ import annotations

import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Final

from pipeline.errors import ServiceError
from pipeline.local.processes import free_port

BACKLOG: Final = 512
LONGEST_LEG: Final = 900  # seconds after which `timeout`, if installed, ends a child
START_TIMEOUT: Final = 30.0  # seconds
LAST_WORDS: Final = 5.0  # seconds by which a counter may lag behind the replies
POSTFIX_FOLDERS: Final = ("/usr/sbin", "/usr/libexec/postfix", "/usr/local/sbin")


def postfix(program: str) -> str | None:
    """Return the path of a Postfix program; None if Postfix is not installed."""
    return shutil.which(program) or shutil.which(program, path=os.pathsep.join(POSTFIX_FOLDERS))


def bounded(command: Sequence[str]) -> list[str]:
    """Wrap `command` in `timeout`, if installed, so that it ends even if we are killed."""
    timeout = shutil.which("timeout")
    return [timeout, str(LONGEST_LEG), *command] if timeout else list(command)


def children_cpu() -> float:
    """Return CPU seconds of all children that have ended and were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Sink:
    """One running server. `cpu` is known when it has stopped."""

    def __init__(self, program: str | None) -> None:
        """Start `program`, the path of smtp-sink; if None, our own sink. Raise ServiceError."""
        self.cpu = 0.0  # seconds
        for _ in range(5):  # the free port may be taken before the server binds it
            self.port = free_port()
            self._said: IO[bytes] = TemporaryFile()  # noqa: SIM115  (open as long as the server)
            self._process = subprocess.Popen(  # noqa: S603  (our own command, and no shell)
                bounded(_command(program, self.port)),
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=subprocess.DEVNULL,
            )
            if self._listens():
                return
            self.stop()
        raise ServiceError("the sink for mail does not start")

    def wait_for(self, messages: int) -> int:
        """Wait until `messages` have been received, at most LAST_WORDS; return how many were."""
        deadline = time.monotonic() + LAST_WORDS
        while self.count() < messages and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.count()

    def count(self) -> int:
        size = os.fstat(self._said.fileno()).st_size
        tail = os.pread(self._said.fileno(), 200, max(0, size - 200))
        counted = re.findall(rb"mesg=(\d+)\r", tail)
        return int(counted[-1]) if counted else 0

    def stop(self) -> None:
        before = children_cpu()
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.cpu = children_cpu() - before
        self._said.close()

    def _listens(self) -> bool:
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline and self._process.poll() is None:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return True
            time.sleep(0.01)
        return False


@contextmanager
def running(program: str | None) -> Iterator[Sink]:
    sink = Sink(program)
    try:
        yield sink
    finally:
        sink.stop()


def _command(program: str | None, port: int) -> list[str]:
    if program is None:
        own = Path(__file__).with_name("python_sink.py")
        return [sys.executable, "-I", str(own), str(port)]
    # If started by root, smtp-sink requires another user.
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    return [program, *user, "-c", f"127.0.0.1:{port}", str(BACKLOG)]
