"""Whether the database keeps what it is given, and fits this code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from pipeline.doctor.finding import Check, Finding, Patient, bad, good, unknown
from pipeline.errors import SchemaError
from pipeline.storage import migrate
from pipeline.storage.database import reading

MOUNTS: Final = Path("/proc/mounts")
# Where locks of a file are kept by convention, or not at all: SQLite warns of each.
REMOTE: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "9p", "glusterfs", "lustre", "vboxsf"}
)


def database(patient: Patient) -> Iterator[Finding]:
    engine = patient.services.engine
    name = "database"
    if _is_missing(engine):
        yield bad(name, f"there is no {engine.url.database} yet", "run: paperboy db upgrade")
        return
    try:
        with reading(engine) as conn:
            yield good(name, f"{engine.dialect.name} {_version(conn)} answers")
    except DBAPIError as error:
        yield bad(name, _first_line(error), "start it, or correct DATABASE_URL")


def migrations(patient: Patient) -> Iterator[Finding]:
    engine = patient.services.engine
    if _is_missing(engine):
        yield unknown("migrations", "there is no database yet")
        return
    try:
        migrate.check(engine)
        yield good("migrations", "the tables are those that this version needs")
    except SchemaError as error:
        yield bad("migrations", str(error), "run: paperboy db upgrade, or install what made it")
    except DBAPIError:
        yield unknown("migrations", "the database does not answer")


def durability(patient: Patient) -> Iterator[Finding]:
    """That what was committed outlives a power cut; "nothing is lost" rests on it."""
    engine = patient.services.engine
    if _is_missing(engine):
        yield unknown("durability", "there is no database yet")
        return
    try:
        with reading(engine) as conn:
            found = _sqlite(conn) if engine.dialect.name == "sqlite" else _postgresql(conn)
    except DBAPIError:
        yield unknown("durability", "the database does not answer")
        return
    wrong = [f"{name} is {is_} and not {wanted}" for name, is_, wanted in found if is_ != wanted]
    if wrong:
        advice = "switch it back in the configuration of the database, else a crash loses mail"
        yield bad("durability", "; ".join(wrong), advice)
    else:
        yield good("durability", ", ".join(f"{name} is {is_}" for name, is_, _ in found))


def local_disk(patient: Patient) -> Iterator[Finding]:
    engine = patient.services.engine
    if engine.dialect.name != "sqlite":
        yield good("local disk", "a database server looks after its own disk")
        return
    try:
        mounts = MOUNTS.read_text()
    except OSError:
        yield unknown("local disk", "this system does not say where its disks are")
        return
    path = Path(engine.url.database or ".").resolve()
    kind = filesystem(path, mounts)
    if kind in REMOTE or kind.startswith("fuse."):
        advice = "move the file to a disk of this machine, or use PostgreSQL"
        yield bad("local disk", f"{path} lies on {kind}, which does not keep locks", advice)
    else:
        yield good("local disk", f"the file lies on {kind}")


def filesystem(path: Path, mounts: str) -> str:
    """The kind of file system that holds `path`, by the words of /proc/mounts."""
    kinds = {Path(where): kind for _, where, kind, *_ in map(str.split, mounts.splitlines())}
    inside = [where for where in kinds if path.is_relative_to(where)]
    return kinds[max(inside, key=lambda where: len(where.parts))] if inside else "unknown"


def _is_missing(engine: Engine) -> bool:
    """A SQLite file that opening it would make."""
    path = engine.url.database
    return engine.dialect.name == "sqlite" and bool(path) and not Path(str(path)).exists()


def _version(conn: Connection) -> str:
    return ".".join(map(str, conn.dialect.server_version_info or ()))


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


def _first_line(error: DBAPIError) -> str:
    return str(error.orig).strip().splitlines()[0]


CHECKS: tuple[Check, ...] = (database, migrations, durability, local_disk)
