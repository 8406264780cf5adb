"""Copy a whole database into a ZIP archive, and load it again.

SQLite is copied by its backup API, PostgreSQL by COPY in one snapshot; both while Paperboy runs. An
archive is complete or unreadable: ZIP has its table of contents at the end, and a checksum for each
member. PostgreSQL needs no pg_dump, which must not be older than the server.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Final

from sqlalchemy import Connection, Engine, Table, inspect, select, text, true

from pipeline.domain import SubscriberStatus
from pipeline.errors import PaperboyError
from pipeline.storage import migrate, sqlite_file
from pipeline.storage.database import read_only
from pipeline.storage.schema import SubscriberRow, SuppressionRow
from pipeline.storage.schema import Table as Schema

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
SQLITE: Final = "database.sqlite"
TABLES: Final = "tables/"
FILES: Final = "files/"
MOST_OF_A_FILE: Final = 1_000_000  # bytes of a settings file
TABLES_BY_NAME: Final = {table.name: table for table in Schema.metadata.sorted_tables}
"""Tables, each after those that its foreign keys name."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """Contents of an archive."""

    database: str  # "sqlite" or "postgresql"
    revision: str  # of the schema
    rows: Mapping[str, int]  # by table
    columns: Mapping[str, Sequence[str]]  # by table, in the order of the copied rows
    made_at: str  # ISO 8601, by the clock of the machine that made it
    paperboy: str  # version
    secret_key: str  # fingerprint of SECRET_KEY in the settings, if it is set there
    format: int = FORMAT


# --- Write --------------------------------------------------------------------------------------


def write(engine: Engine, target: IO[bytes], files: Mapping[str, bytes], **about: Any) -> Manifest:
    """Write the database and `files` to `target`, which need not be seekable.

    `about` are the fields of the manifest that the database does not know.
    SQLite needs room for a copy in the folder of temporary files. Raises SchemaError if the schema
    is not that of this code, and OSError if `target` cannot be written.
    """
    migrate.check(engine)
    name = engine.dialect.name
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        copy = _write_sqlite if name == "sqlite" else _write_tables
        rows = copy(engine, archive)
        for path, content in files.items():
            archive.writestr(f"{FILES}{path}", content)
        columns = {name: table.columns.keys() for name, table in TABLES_BY_NAME.items()}
        manifest = Manifest(name, migrate.revisions()[-1], rows, columns, **about)
        archive.writestr(MANIFEST, json.dumps(asdict(manifest), indent=1))
    return manifest


def _write_sqlite(engine: Engine, archive: zipfile.ZipFile) -> dict[str, int]:
    with tempfile.TemporaryDirectory(prefix="paperboy-") as folder:
        path = Path(folder, SQLITE)
        with read_only(engine) as conn, closing(sqlite3.connect(path)) as copy:
            source: Any = conn.connection.driver_connection
            source.backup(copy)  # in one step: several would start again at each write
            copy.execute("PRAGMA journal_mode=DELETE")
        with closing(sqlite3.connect(path)) as copy:
            rows = {name: copy.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]  # noqa: S608
                    for name in TABLES_BY_NAME}  # fmt: skip
        with path.open("rb") as source, archive.open(SQLITE, "w", force_zip64=True) as member:
            shutil.copyfileobj(source, member, 1 << 20)
    return rows


def _write_tables(engine: Engine, archive: zipfile.ZipFile) -> dict[str, int]:
    rows = {}
    with (
        engine.connect().execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        ) as conn,
        conn.begin(),
    ):
        for name, table in TABLES_BY_NAME.items():
            with archive.open(f"{TABLES}{name}", "w", force_zip64=True) as member:
                rows[name] = _copy_out(conn, table, member)
    return rows


def _copy_out(conn: Connection, table: Table, member: IO[bytes]) -> int:
    with _cursor(conn) as cursor:
        columns = _quoted(table.columns.keys())
        with cursor.copy(f'COPY "{table.name}" ({columns}) TO STDOUT') as copy:
            for data in copy:
                member.write(data)
        return int(cursor.rowcount)


def _cursor(conn: Connection) -> Any:
    """Return a cursor of the driver, which knows COPY."""
    return conn.connection.cursor()


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


# --- Read ---------------------------------------------------------------------------------------


class Archive:
    """An archive that is open for reading."""

    def __init__(self, archive: zipfile.ZipFile, manifest: Manifest) -> None:
        self._archive = archive
        self.manifest = manifest

    def files(self) -> dict[str, bytes]:
        """Return the settings files by name."""
        found = {}
        for info in self._archive.infolist():
            folder, _, name = info.filename.rpartition("/")
            if f"{folder}/" == FILES and info.file_size <= MOST_OF_A_FILE:
                found[name] = self._archive.read(info)
        return found

    def extract_sqlite(self, path: Path) -> None:
        """Write the database to a file of mode 0600. Raises PaperboyError if it is damaged."""
        sqlite_file.create_private(path)
        with self._member(SQLITE) as source, path.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        try:
            with closing(sqlite3.connect(path)) as copy:
                [found] = copy.execute("PRAGMA integrity_check(1)").fetchone()
        except sqlite3.DatabaseError as error:
            found = str(error)
        if found != "ok":
            raise PaperboyError(f"the database in the backup is damaged: {found}")

    def load_tables(self, conn: Connection) -> None:
        """Replace the tables of a PostgreSQL database by those of the archive, in `conn`.

        They have the schema of the archive afterwards. Raises PaperboyError if it is damaged.
        """
        _drop(conn)
        migrate.upgrade_in(conn, self.manifest.revision)
        columns = self._known_columns(conn)
        conn.execute(text(f"TRUNCATE {_quoted(columns)}"))
        for name, rows in self.manifest.rows.items():
            with self._member(f"{TABLES}{name}") as source, _cursor(conn) as cursor:
                listed = _quoted(columns[name])
                with cursor.copy(f'COPY "{name}" ({listed}) FROM STDIN') as copy:
                    while data := source.read(1 << 20):
                        copy.write(data)
                if cursor.rowcount != rows:
                    raise PaperboyError(
                        f"the backup is damaged: {name} has {cursor.rowcount} rows, not {rows}"
                    )
        _set_sequences(conn, columns)

    def _known_columns(self, conn: Connection) -> Mapping[str, Sequence[str]]:
        """Return the columns of each table. Raises PaperboyError if the schema has others."""
        found = inspect(conn)
        for name, columns in self.manifest.columns.items():
            known = found.get_columns(name) if found.has_table(name) else []
            names = sorted(one["name"] for one in known)
            if names != sorted(columns) or name not in self.manifest.rows:
                raise PaperboyError(f"the backup is damaged: {name} has other columns")
        return self.manifest.columns

    @contextmanager
    def _member(self, name: str) -> Iterator[IO[bytes]]:
        try:
            with self._archive.open(name) as member:
                yield member
        except (KeyError, zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise PaperboyError(f"the backup is damaged: {name}: {error}") from error


@contextmanager
def reading(source: IO[bytes]) -> Iterator[Archive]:
    """Open an archive, which must be seekable. Raises PaperboyError if this is none of ours."""
    try:
        archive = zipfile.ZipFile(source)
        manifest = Manifest(**json.loads(archive.read(MANIFEST)))
    except (zipfile.BadZipFile, zlib.error, KeyError, ValueError, TypeError) as error:
        raise PaperboyError(f"not a complete backup of Paperboy: {error}") from None
    with archive:
        if manifest.format != FORMAT or manifest.revision not in migrate.revisions():
            raise PaperboyError(
                f"the backup was made by a newer version: install Paperboy {manifest.paperboy}"
            )
        yield Archive(archive, manifest)


def check_replaceable(conn: Connection) -> None:
    """Raise PaperboyError unless the database is empty, or holds an unused installation.

    Unused: without confirmed subscribers and without suppressions. Tables of another program with
    the name of one of ours are never dropped. Raises SchemaError for another version's tables.
    """
    names = {*TABLES_BY_NAME, "alembic_version"}.intersection(inspect(conn).get_table_names())
    if not names:
        return
    if migrate.known_revision(conn) is None:
        raise PaperboyError(
            f"DATABASE_URL: this database has tables of another program: {', '.join(sorted(names))}"
        )
    confirmed = SubscriberRow.status != SubscriberStatus.PENDING
    for row, is_used in ((SubscriberRow, confirmed), (SuppressionRow, true())):
        if conn.execute(select(row).where(is_used).limit(1)).first():
            raise PaperboyError(
                f"DATABASE_URL: this database has {row.__tablename__}; create an empty one. After "
                "an interrupted restore, run `paperboy db settle`"
            )


def _drop(conn: Connection) -> None:
    Schema.metadata.drop_all(conn)
    conn.execute(text("DROP TABLE IF EXISTS alembic_version"))


def _set_sequences(conn: Connection, columns: Mapping[str, Sequence[str]]) -> None:
    """Continue each generated id after the highest one."""
    for name in (name for name, listed in columns.items() if "id" in listed):
        query = text("SELECT pg_get_serial_sequence(:name, 'id')")
        if sequence := conn.execute(query, {"name": name}).scalar_one():
            conn.execute(
                text(f'SELECT setval(:sequence, coalesce(max(id), 0) + 1, false) FROM "{name}"'),  # noqa: S608
                {"sequence": sequence},
            )
