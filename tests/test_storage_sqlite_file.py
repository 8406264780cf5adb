"""A SQLite file used by several processes at once keeps each committed row."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Engine, insert, text
from structlog.testing import capture_logs

from pipeline import settings
from pipeline.bootstrap import Services
from pipeline.doctor.database import database_file
from pipeline.doctor.finding import Installation
from pipeline.errors import DatabaseFileError
from pipeline.storage.database import open_engine, read_only
from pipeline.storage.schema import BatchRow
from pipeline.web.ops import why_not_ready
from tests.support.factories import NOW
from tests.support.newsroom import rows
from tests.support.running import Command
from tests.support.visitors import locks, visiting

pytestmark = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


@pytest.fixture
def logged() -> Iterator[list[MutableMapping[str, Any]]]:
    with capture_logs() as entries:
        yield entries


def path_of(engine: Engine) -> Path:
    return Path(engine.url.database or "")


def add_batch(engine: Engine, number: int) -> None:
    with engine.begin() as conn:
        conn.execute(insert(BatchRow).values(number=number, published_at=NOW, papers=0, matches=0))


# --- Locks --------------------------------------------------------------------------------------


def test_second_connection_keeps_the_locks_of_the_first(engine: Engine):
    """If any descriptor of a file is closed, the process drops all its POSIX locks on that file."""
    path = path_of(engine)
    shm = path.with_name(f"{path.name}-shm")

    with read_only(engine), read_only(engine):
        held_on_file, held_on_shm = locks(path), locks(shm)

    assert str(os.getpid()) in held_on_file
    assert str(os.getpid()) in held_on_shm


def test_second_engine_keeps_the_locks_of_the_first(engine: Engine, database_url: str):
    """The other engine opens the same file by another name: relative, or a symbolic link."""
    path = path_of(engine)
    link = path.with_name("link.db")
    link.symlink_to(path)
    relative = os.path.relpath(path)

    with read_only(engine):
        for name in (link, relative):
            other = open_engine(f"sqlite:///{name}")
            with read_only(other):
                pass
            other.dispose()
        held = locks(path)

    assert str(os.getpid()) in held


@pytest.mark.full
def test_rows_survive_other_processes_opening_and_closing_the_file(engine: Engine):
    """The last connection that closes deletes the WAL; SQLite must see that others are open."""
    path = path_of(engine)

    with visiting(str(path), processes=2):
        for number in range(1, 151):
            with read_only(engine):  # holds a connection, so that the pool opens a second one
                add_batch(engine, number)

    with closing(sqlite3.connect(path)) as conn:
        assert conn.execute("SELECT count(*) FROM batches").fetchone() == (150,)
        assert conn.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    with read_only(engine) as conn:
        assert conn.execute(text("SELECT count(*) FROM batches")).scalar_one() == 150


# --- Another file in its place ------------------------------------------------------------------


def delete(path: Path) -> None:
    path.unlink()


def replace(path: Path) -> None:
    copy = path.with_name("restored.db")
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    copy.rename(path)


def clean_up(path: Path) -> None:
    path.with_name(f"{path.name}-wal").unlink()


@pytest.mark.parametrize("happen", [delete, replace, clean_up])
def test_replaced_file_is_rejected_permanently(engine: Engine, happen, logged):
    """Rows written to an unlinked file would be confirmed with a 200 and lost."""
    add_batch(engine, 1)
    happen(path_of(engine))
    left = sorted(path_of(engine).parent.iterdir())

    for number in (2, 3):
        with pytest.raises(DatabaseFileError, match="nothing is written any more"):
            add_batch(engine, number)

    assert [path for path in left if path.name == "paperboy.db"] == [
        path for path in path_of(engine).parent.iterdir() if path.name == "paperboy.db"
    ], "no empty file takes its place"
    assert [entry["event"] for entry in logged].count("database_file.rejected") == 1


@pytest.mark.parametrize("happen", [delete, replace])
def test_open_connection_cannot_commit_to_an_unlinked_file(engine: Engine, happen):
    """A sender keeps one connection for many transactions, and sends mail between them."""
    insertion = insert(BatchRow).values(published_at=NOW, papers=0, matches=0)
    with engine.connect() as conn:
        with conn.begin():
            conn.execute(insertion.values(number=1))
        kept = conn.begin()
        conn.execute(insertion.values(number=2))
        happen(path_of(engine))
        with pytest.raises(DatabaseFileError):
            kept.commit()
        kept.rollback()
        with pytest.raises(DatabaseFileError):
            conn.begin()


def test_readiness_reports_a_replaced_file(engine: Engine):
    services = Services(settings.load(None), engine)
    assert "replaced" not in str(why_not_ready(services, NOW, NOW))

    replace(path_of(engine))

    (reason,) = why_not_ready(services, NOW, NOW)
    assert "another file took its place" in reason


def test_a_restored_file_is_read_after_a_restart(engine: Engine, database_url: str):
    add_batch(engine, 1)
    path = path_of(engine)
    engine.dispose()
    replace(path)

    restarted = open_engine(database_url)
    add_batch(restarted, 2)

    assert len(rows(restarted, BatchRow)) == 2
    restarted.dispose()


def test_other_processes_may_vacuum_and_checkpoint(engine: Engine):
    """The file and its WAL keep their inodes; nothing is refused."""
    path = path_of(engine)

    for number in range(1, 6):
        add_batch(engine, number)
        with closing(sqlite3.connect(path, timeout=30)) as conn:
            conn.execute("VACUUM")
            conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    assert len(rows(engine, BatchRow)) == 5


def test_dangling_link_creates_a_private_file(tmp_path: Path, backend: str):
    (tmp_path / "link.db").symlink_to(tmp_path / "real.db")
    engine = open_engine(f"sqlite:///{tmp_path}/link.db")
    with engine.begin() as conn:
        conn.execute(text("CREATE TABLE t (x)"))
    engine.dispose()

    assert stat.S_IMODE((tmp_path / "real.db").stat().st_mode) == 0o600


# --- Forks --------------------------------------------------------------------------------------


def in_a_fork(work: Callable[[], object]) -> str:
    """Return the name of the error that `work` raises in a forked child, "" if it returns."""
    reading_end, writing_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            work()
            name = ""
        except BaseException as error:  # noqa: BLE001  (it must reach the parent)
            name = type(error).__name__
        os.write(writing_end, name.encode())
        os._exit(0)  # exits without closing files that the parent has open
    os.close(writing_end)
    os.waitpid(pid, 0)
    with os.fdopen(reading_end) as pipe:
        return pipe.read()


def test_connection_is_rejected_after_a_fork(engine: Engine, database_url: str):
    """The child does not inherit the locks, but SQLite in the child assumes that it has them."""
    add_batch(engine, 1)

    assert in_a_fork(lambda: add_batch(engine, 2)) == "DatabaseFileError"
    assert in_a_fork(lambda: add_batch(open_engine(database_url), 3)) == "DatabaseFileError"
    assert len(rows(engine, BatchRow)) == 1


def test_child_process_can_open_a_file_closed_by_its_parent(engine: Engine, database_url: str):
    add_batch(engine, 1)
    engine.dispose()

    assert in_a_fork(lambda: add_batch(open_engine(database_url), 2)) == ""
    assert len(rows(engine, BatchRow)) == 2


# --- Error messages for the operator ------------------------------------------------------------


def test_corrupt_file_error_has_the_path_and_a_remedy(tmp_path: Path, backend: str):
    file = tmp_path / "broken.db"
    file.write_bytes(b"SQLite format 3\0" + b"\x10" * 8_000)
    engine = open_engine(f"sqlite:///{file}")

    with pytest.raises(DatabaseFileError, match="put a whole copy back") as raised:
        add_batch(engine, 1)

    assert str(file) in str(raised.value)


@pytest.mark.full
def test_a_command_names_the_file_that_cannot_be_opened(tmp_path: Path, backend: str):
    command = Command(tmp_path, {"DATABASE_URL": f"sqlite:///{tmp_path}/no/folder.db"})

    code, _, err = command.run("deliveries")

    assert code == 1
    assert f"{tmp_path}/no/folder.db: unable to open database file; the user that runs" in err


def test_a_full_disk_is_reported_before_it_is_full(engine: Engine, monkeypatch):
    left = SimpleNamespace(free=5 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: left)
    loaded = settings.load(None, database_url=f"sqlite:///{path_of(engine)}")
    path_of(engine).chmod(0o600)

    found = list(database_file(Installation(loaded, NOW)))
    reasons = why_not_ready(Services(loaded, engine), NOW, NOW)

    assert [(one.check, one.ok) for one in found] == [("database file", False)]
    assert "5 MB are free" in found[0].detail
    assert reasons == ["the disk of the database is full: 5 MB are left"]
