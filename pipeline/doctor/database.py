"""Check that the database is durable and migrated, and that its rows can be read."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from pipeline.doctor.finding import Check, Finding, Installation, bad, good, unknown
from pipeline.domain import SourceState
from pipeline.errors import QueryError, SchemaError
from pipeline.matching.query import parse
from pipeline.storage import (
    delivery_queries,
    ingest_state,
    migrate,
    papers,
    sqlite_file,
    subscribers,
    topics,
)
from pipeline.storage.database import read_only
from pipeline.storage.sqlite_file import LEAST_SPACE, LOW_SPACE

UNASKED: Final = "the database is not available"
MOUNTS: Final = Path("/proc/mounts")
# File systems with unreliable or missing file locks: SQLite warns of each.
REMOTE: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "ceph", "9p", "virtiofs", "glusterfs",
     "lustre", "ocfs2", "gfs2", "vboxsf", "vmhgfs", "prl_fs", "drvfs"}
)  # fmt: skip
FLEETING: Final = frozenset({"overlay", "aufs", "tmpfs", "ramfs"})
ESCAPED: Final = re.compile(r"\\([0-7]{3})")
OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def database(installation: Installation) -> Iterator[Finding]:
    dialect = installation.services.engine.dialect
    if trouble := installation.database_trouble:
        advice = "run: paperboy db upgrade" if dialect.name == "sqlite" else "start the server"
        yield bad("database", trouble, f"{advice}, or correct DATABASE_URL")
        return
    version = ".".join(map(str, dialect.server_version_info or ()))
    yield good("database", f"connected to {dialect.name} {version}")


def migrations(installation: Installation) -> Iterator[Finding]:
    if installation.database_trouble:
        yield unknown("migrations", UNASKED)
        return
    try:
        migrate.check(installation.services.engine)
    except SchemaError as error:
        yield bad(
            "migrations",
            str(error),
            "run: paperboy db upgrade, or install the version that created the tables",
        )
    else:
        yield good("migrations", "up to date")


def durability(installation: Installation) -> Iterator[Finding]:
    """Check that commits survive a power failure, on which "nothing is lost" depends."""
    if installation.database_trouble:
        yield unknown("durability", UNASKED)
        return
    engine = installation.services.engine
    with read_only(engine) as conn:
        found = _sqlite(conn) if engine.dialect.name == "sqlite" else _postgresql(conn)
    wrong = [f"{name} is {is_}, not {wanted}" for name, is_, wanted in found if is_ != wanted]
    if wrong:
        advice = "correct the configuration of the database; otherwise a crash loses mail"
        yield bad("durability", "; ".join(wrong), advice)
    else:
        yield good("durability", ", ".join(f"{name} is {is_}" for name, is_, _ in found))


def local_disk(installation: Installation) -> Iterator[Finding]:
    engine = installation.services.engine
    if engine.dialect.name != "sqlite":
        yield good("local disk", "not applicable to a database server")
        return
    try:
        mounts = MOUNTS.read_text()
    except OSError:
        yield unknown("local disk", "this system does not list its file systems")
        return
    path = Path(engine.url.database or ".").resolve()
    kind = filesystem(path, mounts)
    if kind in REMOTE or kind.startswith("fuse."):
        advice = "move the file to a local disk, or use PostgreSQL"
        yield bad("local disk", f"{path} is on {kind}, which has no reliable locks", advice)
    elif path in mounted(mounts):
        # Each side has its own WAL next to its name of the file, and does not see the other's.
        advice = "mount its folder, so that the -wal and -shm files are shared, too"
        yield bad("local disk", f"{path} is mounted as a single file", advice)
    elif kind in FLEETING:
        advice = f"{kind} is lost with its container or machine: put the file on a volume"
        yield good("local disk", f"the file is on {kind}", advice)
    else:
        yield good("local disk", f"the file is on {kind}")


def database_file(installation: Installation) -> Iterator[Finding]:
    """Check permissions, hard links and free space of a SQLite file, without opening it."""
    path = sqlite_file.path_of(installation.services.engine.url)
    if installation.services.engine.dialect.name != "sqlite" or path is None or not path.exists():
        return
    real = path.resolve()
    files = [real, *(Path(f"{real}{end}") for end in ("-wal", "-shm"))]
    found = [(file, file.stat().st_mode) for file in files if file.exists()]
    wide = [str(file) for file, mode in found if mode & OTHERS]
    if wide:
        # The operator must change permissions: a group may be meant to read the file.
        advice = f"run: chmod 600 {shlex.join(wide)}"
        yield bad("database file", f"other users can read {', '.join(wide)}", advice)
    elif real.stat().st_nlink > 1:
        advice = "remove the other hard links, because each name has its own WAL"
        yield bad("database file", f"{real} has {real.stat().st_nlink} hard links", advice)
    elif not all(os.access(place, os.W_OK) for place in (real, real.parent)):
        advice = f"allow the user that runs Paperboy to write {real} and its folder"
        yield bad("database file", f"{real} or its folder is not writable", advice)
    elif (free := sqlite_file.free_space(installation.services.engine.url) or 0) < LEAST_SPACE:
        advice = "free space on this disk"
        yield bad("database file", f"only {free >> 20} MB are free for {real}", advice)
    else:
        yield good("database file", f"{real} is readable by its owner only")


def disk(installation: Installation) -> Iterator[Finding]:
    """Check the free space of the disk that grows: with the SQLite file, else the folder we run in.

    A database server has its own disk, which is not visible from here: its size is reported.
    """
    url = installation.services.engine.url
    free = sqlite_file.free_space(url)
    if free is None:
        free = shutil.disk_usage(Path.cwd()).free
    if free < LOW_SPACE:
        yield bad("disk", f"only {free >> 20} MB are free", f"keep {LOW_SPACE >> 20} MB free")
    else:
        yield good("disk", f"{free >> 20:,} MB are free")
    if url.get_backend_name() == "postgresql" and not installation.database_trouble:
        with read_only(installation.services.engine) as conn:
            size = conn.execute(text("SELECT pg_database_size(current_database())")).scalar_one()
        yield good("database size", f"{size >> 20:,} MB")


def filesystem(path: Path, mounts: str) -> str:
    """Return the type of the file system that holds `path`, as in /proc/mounts."""
    kinds = mounted(mounts)
    inside = [where for where in kinds if path.is_relative_to(where)]
    return kinds[max(inside, key=lambda where: len(where.parts))] if inside else "unknown"


def mounted(mounts: str) -> dict[Path, str]:
    """Return the file system type of each mount point; decodes octal escapes of /proc/mounts."""
    return {
        Path(ESCAPED.sub(lambda found: chr(int(found[1], 8)), where)): kind
        for _, where, kind, *_ in map(str.split, mounts.splitlines())
    }


def _sqlite(conn: Connection) -> list[tuple[str, str, str]]:
    journal = conn.exec_driver_sql("PRAGMA journal_mode").scalar_one()
    synchronous = conn.exec_driver_sql("PRAGMA synchronous").scalar_one()
    levels = {0: "off", 1: "normal", 2: "full", 3: "extra"}
    return [
        ("journal_mode", str(journal), "wal"),
        ("synchronous", levels.get(synchronous, str(synchronous)), "full"),
    ]


def _postgresql(conn: Connection) -> list[tuple[str, str, str]]:
    names = ("synchronous_commit", "fsync", "full_page_writes")
    found = {name: conn.execute(text(f"SHOW {name}")).scalar_one() for name in names}
    return [(name, str(value), "on") for name, value in found.items()]


def sources(installation: Installation) -> Iterator[Finding]:
    """Check that the last fetch of each source succeeded, and no announcement is missing."""
    if installation.database_trouble:
        yield unknown("sources", UNASKED)
        return
    try:
        with read_only(installation.services.engine) as conn:
            records = ingest_state.list_source_states(conn)
    except DBAPIError:  # the database is not migrated; `migrations` reports it
        yield unknown("sources", UNASKED)
        return
    for record in records:
        check, read = f"source {record.source}", record.read_at
        if record.error is None:
            yield good(check, f"read on {read:%Y-%m-%d at %H:%M} UTC" if read else "not read yet")
        elif record.state is SourceState.FAILED:
            yield bad(check, f"{record.error}, {record.failures} times", "see the log")
        else:
            advice = "wait, or read that day yourself: paperboy ingest --file, --since"
            yield bad(check, record.error, advice)


NAMED: Final = 5  # rows named in one finding; the others are only counted

Trial = Callable[[Connection], Iterable[tuple[object, str]]]
"""Try all rows of one kind; return the id of each unreadable row, and the error."""


def stored_rows(installation: Installation) -> Iterator[Finding]:
    """Try to read every row as ingest, compiling and sending would."""
    if installation.database_trouble:
        yield unknown("stored rows", "the database is not available")
        return
    all_good = True
    with read_only(installation.services.engine) as conn:
        for kind, (trial, advice) in TRIALS.items():
            wrong = [f"{kind} {id_} ({why[:80]})" for id_, why in trial(conn)]
            if wrong:
                all_good = False
                more = f" and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
                named = "; ".join(wrong[:NAMED])
                yield bad("stored rows", f"{len(wrong)} unreadable: {named}{more}", advice)
    if all_good:
        yield good("stored rows", "every topic, subscriber, paper, source and delivery is readable")


def _topics(conn: Connection) -> Iterator[tuple[object, str]]:
    for topic in topics.followed(conn):
        try:
            parse(topic.query)
        except QueryError as error:
            yield topic.id, error.message


TRIALS: Final[dict[str, tuple[Trial, str]]] = {
    "topic": (
        _topics,
        "its subscribers still get their other topics: ask them to enter it again, or correct its "
        "query in the table topics",
    ),
    "subscriber": (
        subscribers.unreadable,
        "no digest is sent until they save their preferences again, or you correct the row in the "
        "table subscribers",
    ),
    "paper": (papers.unreadable, "it is not sent: delete it, and its source adds it again"),
    "source": (
        ingest_state.unreadable_source_states,
        "delete its row in the table source_states; it is then read from the start",
    ),
    "delivery": (
        delivery_queries.unreadable,
        "a newer version of Paperboy may have created it: install that, or let it expire",
    ),
}

CHECKS: tuple[Check, ...] = (
    *(database, migrations, durability, local_disk, database_file, disk, sources),
    stored_rows,
)
