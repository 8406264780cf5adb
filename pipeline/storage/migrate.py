"""Bring the database to the tables this code was written for, and refuse any other."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from pipeline.errors import SchemaError
from pipeline.storage.database import reading

MIGRATIONS = Path(__file__).parent / "migrations"
UPGRADE_LOCK = 7_461_283_905  # any number, as long as every version of Paperboy takes the same


def upgrade(engine: Engine, *, suppression_key: str | None = None) -> None:
    """Run what is missing, all or nothing. Others that start meanwhile wait, then find it done.

    `suppression_key` lets migration 0011 move hashes of addresses; without it they stay. Raises
    SchemaError when the database was upgraded by newer code.
    """
    config = _config()
    with engine.begin() as conn:  # on SQLite this is BEGIN IMMEDIATE: one writer at a time
        if conn.dialect.name == "postgresql":
            conn.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": UPGRADE_LOCK})
        _refuse_newer(_current(conn))
        config.attributes["connection"] = conn
        config.attributes["suppression_key"] = suppression_key
        command.upgrade(config, "head")


def check(engine: Engine) -> None:
    """Raise SchemaError unless the database is exactly where this code is."""
    with reading(engine) as conn:
        current = _current(conn)
    _refuse_newer(current)
    if current != _scripts().get_current_head():
        behind = "behind" if current else "empty"
        raise SchemaError(f"the database is {behind}: run `paperboy db upgrade`")


def _refuse_newer(current: str | None) -> None:
    known = {script.revision for script in _scripts().walk_revisions()}
    if current is not None and current not in known:
        raise SchemaError(
            f"the database is ahead of this version of Paperboy (it is at {current}): "
            "install the newer version again"
        )


def _current(conn: Connection) -> str | None:
    return MigrationContext.configure(conn).get_current_revision()


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _config() -> Config:
    config = Config()
    # A percent sign in the path would be read as an interpolation.
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config
