"""Back up an installation into one file, and restore it so that no mail is sent twice."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.engine import make_url

from pipeline.dkim import read_keys
from pipeline.errors import PaperboyError, SettingsError
from pipeline.storage import archive, keys, migrate, send_controls, sqlite_file
from pipeline.storage.archive import Archive, Manifest
from pipeline.storage.database import open_engine
from pipeline.storage.keys import KeyName, fingerprint

if TYPE_CHECKING:
    from pipeline.settings import Settings

log = structlog.get_logger(__name__)

REASON: Final = "this database is being restored: run `paperboy db settle`"
ENV, KEYS = ".env", "keys.env"  # names in the archive


# --- Back up ------------------------------------------------------------------------------------


def back_up(
    engine: Engine, loaded: Settings, env_file: Path, target: IO[bytes], now: datetime
) -> Manifest:
    """Write the database, `env_file` and all keys to `target`.

    Raises SchemaError, SettingsError, and OSError if `target` cannot be written.
    """
    files = dict(_settings_files(loaded, env_file))
    manifest = archive.write(
        engine,
        target,
        files,
        made_at=now.isoformat(),
        paperboy=version("paperboy"),
        secret_key=fingerprint(loaded.secret_key[0]) if loaded.secret_key else "",
    )
    log.info("backup.written", rows=sum(manifest.rows.values()))
    return manifest


def _settings_files(loaded: Settings, env_file: Path) -> Iterator[tuple[str, bytes]]:
    """Yield `.env` if there is one, and the keys of the settings, which may be in other files."""
    if env_file.is_file():
        yield ENV, env_file.read_bytes()
    lines = [f"{KeyName.SECRET}='{' '.join(loaded.secret_key)}'"] if loaded.secret_key else []
    if loaded.suppression_key:
        lines.append(f"{KeyName.SUPPRESSION}='{loaded.suppression_key.get_secret_value()}'")
    if lines:
        yield KEYS, "\n".join((*lines, "")).encode()
    if loaded.dkim_keys:
        for key in read_keys(loaded.dkim_keys.get_secret_value()):
            yield f"dkim-{key.selector}.pem", key.pem().encode()


# --- Restore ------------------------------------------------------------------------------------


def write_settings(files: dict[str, bytes], folder: Path) -> list[Path]:
    """Write the settings files of a backup, readable by their owner only.

    Raises PaperboyError, before anything is written, if one of them exists.
    """
    paths = {folder / name: content for name, content in files.items()}
    if existing := [str(path) for path in paths if path.exists()]:
        raise PaperboyError(f"these files exist and are not replaced: {', '.join(existing)}")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path, content in paths.items():
            with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
                file.write(content)
    except OSError as error:
        raise PaperboyError(f"{folder}: {error.strerror}") from error
    return list(paths)


@contextmanager
def restored(backup: Archive, loaded: Settings, now: datetime) -> Iterator[Engine]:
    """Load a backup into the database of DATABASE_URL; yield it to be settled, with sending held.

    PostgreSQL: loaded in one transaction, so a process that starts meanwhile sends nothing.
    SQLite: the file gets its name after the caller is done; until then it is beside it. Raises
    PaperboyError if the database is not empty, of another kind, or needs keys that are not set.
    """
    url = make_url(loaded.database_url)
    kind = "sqlite" if url.get_backend_name() == "sqlite" else "postgresql"
    if kind != backup.manifest.database:
        raise PaperboyError(
            f"the backup is of a database of {backup.manifest.database}, DATABASE_URL is {kind}"
        )
    path = sqlite_file.path_of(url)
    if kind == "postgresql":
        with _postgresql(backup, loaded, now) as engine:
            yield engine
    elif path is None:
        raise PaperboyError("DATABASE_URL: is in memory")
    else:
        with _sqlite(backup, loaded, path, now) as engine:
            yield engine


@contextmanager
def _postgresql(backup: Archive, loaded: Settings, now: datetime) -> Iterator[Engine]:
    engine = open_engine(loaded.database_url)
    try:
        with engine.begin() as conn:
            archive.check_replaceable(conn)
            backup.load_tables(conn)
            _prepare(conn, backup, loaded, now)
        yield engine
    finally:
        engine.dispose()


@contextmanager
def _sqlite(backup: Archive, loaded: Settings, path: Path, now: datetime) -> Iterator[Engine]:
    others = [path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))]
    if existing := [str(one) for one in others if one.exists()]:
        raise PaperboyError(f"move away first, with all processes stopped: {' '.join(existing)}")
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    engine = open_engine(f"sqlite:///{draft}")
    try:
        backup.extract_sqlite(draft)
        with engine.begin() as conn:
            _prepare(conn, backup, loaded, now)
        yield engine
        engine.dispose()  # closing the last connection writes the WAL into the file
        os.link(draft, path)  # unlike a rename, it replaces no file that was created meanwhile
    except OSError as error:
        raise PaperboyError(f"{path}: {error.strerror or error}") from error
    finally:
        engine.dispose()
        for one in (draft, *(draft.with_name(draft.name + end) for end in ("-wal", "-shm"))):
            one.unlink(missing_ok=True)


def _prepare(conn: Connection, backup: Archive, loaded: Settings, now: datetime) -> None:
    """Migrate the copy, check that its keys are known, and hold all sending."""
    migrate.upgrade_in(conn)
    _check_keys(conn, backup, loaded)
    send_controls.pause(conn, None, REASON, now)


def _check_keys(conn: Connection, backup: Archive, loaded: Settings) -> None:
    """Raise SettingsError if a key that was in the settings is missing or another one now.

    Links in sent mails are signed with SECRET_KEY, and suppressed addresses are hashed with
    SUPPRESSION_KEY. Keys that Paperboy generated are in the database.
    """
    hidden = loaded.suppression_key
    wanted = {KeyName.SECRET: backup.manifest.secret_key}
    given = {
        KeyName.SECRET: loaded.secret_key,
        KeyName.SUPPRESSION: (hidden.get_secret_value(),) if hidden else (),
    }
    row = keys.stored_keys(conn).get(KeyName.SUPPRESSION)
    if row and (row.value is None or hidden):
        wanted[KeyName.SUPPRESSION] = row.fingerprint
    for name, mark in wanted.items():
        if mark and mark not in map(fingerprint, given[name]):
            raise SettingsError(
                f"{name}: is not the key of this backup; --settings FOLDER writes its settings"
            )
