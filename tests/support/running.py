"""The `paperboy` command as an operator runs it, and the processes and files it leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 60.0  # for events that should happen soon, on a busy machine
INHERITED = ("PATH", "HOME", "LANG", "SYSTEMROOT")


@dataclass
class Command:
    """`paperboy ARGUMENTS` in its own folder and environment."""

    folder: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def temporary(self) -> Path:
        """The folder of its temporary files, which must be empty when it has ended."""
        path = self.folder.parent / f"{self.folder.name}-tmp"
        path.mkdir(exist_ok=True)
        return path

    def start(self, *arguments: str, stdin: int | None = None) -> subprocess.Popen[str]:
        """Start it; it reads no `.env` of this checkout."""
        if (ROOT / ".env").exists():
            (self.folder / ".env").touch()
        return subprocess.Popen(
            [sys.executable, "-m", "pipeline", *arguments],
            cwd=self.folder,
            env=self._environment(),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Return the exit code, stdout and stderr."""
        with self.start(*arguments) as process:
            out, err = process.communicate(timeout=2 * SECONDS)
        return process.returncode, out, err

    def processes(self) -> set[int]:
        """Return the ids of its running processes: each child inherits the mark."""
        return {int(path.parent.name) for path in Path("/proc").glob("[0-9]*/environ")
                if self.mark.encode() in _read(path)}  # fmt: skip

    def _environment(self) -> dict[str, str]:
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        return {
            **inherited,
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "TMPDIR": str(self.temporary),
            "MARK": self.mark,
            **self.settings,
        }


def read_until(process: subprocess.Popen[str], words: str) -> str:
    """Return the first line with `words` that it writes to stderr; raise AssertionError if none."""
    assert process.stderr is not None
    lines = ""
    for line in process.stderr:
        lines += line
        if words in line:
            return line
    raise AssertionError(f"it ended without saying {words!r}:\n{lines}")


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""  # the process has ended, or belongs to another user
