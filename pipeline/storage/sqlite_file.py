"""Guard the file of a SQLite database: permissions, replacement of the file, and forks.

SQLite uses POSIX locks, which belong to a process: closing any descriptor of the file releases all
of them (https://sqlite.org/howtocorrupt.html, section 2.2). Other processes then delete the WAL
while this one still writes to it. So only SQLite itself may open a live database, its `-wal` or its
`-shm`; no code of Paperboy does.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NoReturn, TypeAlias

import structlog
from sqlalchemy import URL, Connection, Engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError

from pipeline.errors import DatabaseFileError

Identity: TypeAlias = tuple[int, int]
"""Device and inode of a file. Locks belong to these, not to the path."""

log = structlog.get_logger(__name__)

LEAST_SPACE: Final = 16 * 1024 * 1024  # bytes: a WAL grows to 4 MB before a checkpoint

LOW_SPACE: Final = 512 * 1024 * 1024  # bytes: months of digests to a thousand readers

_MAY_NOT: Final = (
    "; the user that runs Paperboy must be able to write the file and its folder, and the disk must"
    " not be mounted read-only"
)
_PUT_BACK: Final = (
    "; stop every Paperboy process, put a whole copy back, without the -wal and -shm of this file,"
    " and start again"
)
_ADVICE: Final = {
    sqlite3.SQLITE_FULL: "; make room on this disk: nothing more is stored until then",
    sqlite3.SQLITE_IOERR: "; look at the disk, its quota and its log",
    sqlite3.SQLITE_READONLY: _MAY_NOT,
    sqlite3.SQLITE_CANTOPEN: _MAY_NOT,
    sqlite3.SQLITE_CORRUPT: _PUT_BACK,
    sqlite3.SQLITE_NOTADB: _PUT_BACK,
}
_BROKEN: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

_creating = threading.Lock()
_open: Counter[Identity] = Counter()  # connections of this process
_inherited: set[Identity] = set()  # files that the parent process had open at the fork


def path_of(url: URL) -> Path | None:
    """Return the path of a database file; None if it is in memory or named by a `file:` URI."""
    name = url.database
    if not name or name.startswith((":memory:", "file:")):
        return None
    return Path(os.path.abspath(name))  # symbolic links are not resolved: SQLite does that


def guard(engine: Engine) -> None:
    """Install hooks that create the file with mode 0600 and check it during use.

    They raise DatabaseFileError if the file is replaced or deleted, or was open during a fork.
    """
    path = path_of(engine.url)
    if path is None:
        return
    guarded = _Guard(path)
    event.listen(engine, "do_connect", guarded.before_connect)
    event.listen(engine, "connect", guarded.on_connect)
    event.listen(engine, "checkout", guarded.on_checkout)
    # Check each transaction, too: a connection is reused for many, with mails sent in between.
    event.listen(engine, "begin", guarded.on_transaction)
    event.listen(engine, "commit", guarded.on_transaction)
    event.listen(engine, "close", guarded.on_close)
    event.listen(engine, "handle_error", _name_file)


def _name_file(context: ExceptionContext) -> None:
    """Raise DatabaseFileError if the error says that the file is corrupt or not a database."""
    error = context.sqlalchemy_exception
    if context.engine and isinstance(error, DBAPIError) and is_broken(error):
        raise DatabaseFileError(explain(error, context.engine.url)) from error


class _Guard:
    """Checks of one engine's file. Once the file is refused, all later checks fail as well."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._identity: Identity | None = None  # of the file that this engine opened first
        self._refused: str | None = None

    def before_connect(self, *_: Any) -> None:
        """Create a missing file; raise DatabaseFileError if it was replaced or open at a fork."""
        found = self._check_file()
        if found is None:
            create_private(self._path)
        else:
            self._check_fork(found)

    def on_connect(self, _dbapi: Any, record: Any) -> None:
        found = identity(self._path)
        if found is None:
            return
        self._identity = self._identity or found
        real = os.path.realpath(self._path)
        paths = (f"{real}-wal", f"{real}-shm")
        record.info.update(file=found, paths=paths, beside=tuple(map(identity, paths)))
        _open[found] += 1

    def on_checkout(self, _dbapi: Any, record: Any, _proxy: Any) -> None:
        self._check_fork(record.info.get("file"))

    def on_transaction(self, conn: Connection) -> None:
        self._check(conn.info)

    def _check(self, info: dict[Any, Any]) -> None:
        """Raise DatabaseFileError if this connection would write to deleted or replaced files."""
        self._check_fork(info.get("file"))
        self._check_file()
        # Both files are stable while a connection is open.
        known, found = info.get("beside", ()), tuple(map(identity, info.get("paths", ())))
        if any(old and old != new for old, new in zip(known, found, strict=False)):
            self._refuse("its -wal or -shm was deleted")
        info["beside"] = found  # created by the first transaction

    def on_close(self, _dbapi: Any, record: Any) -> None:
        known = record.info.pop("file", None)
        if known is not None:
            _open[known] -= 1

    def _check_file(self) -> Identity | None:
        found = identity(self._path)
        if self._refused or (self._identity is not None and found != self._identity):
            self._refuse("it was deleted" if found is None else "another file took its place")
        return found

    def _check_fork(self, found: Identity | None) -> None:
        if found in _inherited:
            raise DatabaseFileError(
                f"{self._path} was open when this process was forked, and SQLite's locks do not "
                "survive a fork: open the database in the child only"
            )

    def _refuse(self, happened: str) -> NoReturn:
        if self._refused is None:
            self._refused = happened
            log.critical("database_file.rejected", path=str(self._path), happened=happened)
        raise DatabaseFileError(
            f"{self._path}: {self._refused} while Paperboy was running, so nothing is written any "
            "more; stop every Paperboy process, put a whole copy back if rows are missing (no "
            "-wal or -shm of another file beside it), and start again"
        )


def explain(error: DBAPIError, url: URL) -> str:
    """Return the first line of the database's error; for SQLite, with the path and advice."""
    said = next(iter(str(error.orig).strip().splitlines()), type(error.orig).__name__)
    path = path_of(url)
    if path is None or not isinstance(error.orig, sqlite3.Error):
        return said
    code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
    return f"{path}: {said}{_ADVICE.get(code, '')}"


def is_broken(error: DBAPIError) -> bool:
    """Return whether SQLite reports a corrupt file, or one that is not a database."""
    code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
    return isinstance(error.orig, sqlite3.Error) and code in _BROKEN


def free_space(url: URL) -> int | None:
    """Return the free bytes on the disk of a SQLite file and its WAL; None if unknown."""
    path = path_of(url) if url.get_backend_name() == "sqlite" else None
    try:
        return shutil.disk_usage(os.path.realpath(path.parent)).free if path else None
    except OSError:
        return None


def identity(path: str | Path) -> Identity | None:
    """Return the identity of the file at `path` without opening it; None if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def create_private(path: Path) -> None:
    """Create a file with mode 0600; SQLite gives its WAL the same permissions.

    An existing file is never opened. A mutex serialises threads: if another thread connected to the
    new file before its descriptor is closed here, closing it would release that thread's locks.
    """
    with _creating, suppress(OSError):  # if the folder is missing, SQLite reports it better
        os.close(os.open(os.path.realpath(path), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def _after_fork() -> None:
    _inherited.update(file for file, connections in _open.items() if connections > 0)
    _open.clear()


os.register_at_fork(after_in_child=_after_fork)
