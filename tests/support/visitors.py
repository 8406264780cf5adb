"""Other processes that open and close a SQLite file, as commands, shells and backups do.

python -m tests.support.visitors PATH    opens and closes it until stdin ends; prints how often
"""

from __future__ import annotations

import select
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path


def main(path: str) -> None:
    """Open, read and close in a loop; SQLite deletes the WAL when the last connection closes."""
    sys.stdout.write("open\n")
    sys.stdout.flush()
    visits = 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        visit(path)
        visits += 1
    sys.stdout.write(f"{visits}\n")


def visit(path: str) -> None:
    with closing(sqlite3.connect(path, timeout=30)) as conn:
        conn.execute("SELECT count(*) FROM sqlite_schema").fetchone()


@contextmanager
def visiting(path: str, *, processes: int = 1) -> Iterator[None]:
    """Open and close the file in other processes while the block runs."""
    command = [sys.executable, "-m", "tests.support.visitors", path]
    root = Path(__file__).resolve().parents[2]
    running = [
        subprocess.Popen(
            command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(processes)
    ]
    try:
        for process in running:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
        yield
    finally:
        counts = [process.communicate(timeout=60)[0] for process in running]
    assert all(process.returncode == 0 for process in running)
    assert all(int(count) > 0 for count in counts)


def locks(path: Path) -> set[str]:
    """Return the ids of the processes that hold a lock on this file, from /proc/locks."""
    inode = path.stat().st_ino
    lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return {line[-4] for line in lines if line[-3].rpartition(":")[2] == str(inode)}


if __name__ == "__main__":
    main(sys.argv[1])
