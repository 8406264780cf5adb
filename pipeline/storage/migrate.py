"""Migrate the database to the schema of this code, and refuse to run with any other schema."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, inspect, text

from pipeline.errors import SchemaError
from pipeline.storage.database import read_only

if TYPE_CHECKING:
    from alembic.config import Config

MIGRATIONS = Path(__file__).parent / "migrations"
UPGRADE_LOCK = 7_461_283_905  # arbitrary, but the same in every version of Paperboy
TABLE_SINCE_RELEASE = "pending_confirmations"  # named otherwise in drafts before the first release


def upgrade(engine: Engine) -> None:
    """Run all missing migrations in one transaction, under a lock.

    Processes that start meanwhile wait for the lock and then find nothing to do. Raises SchemaError
    if the database was upgraded by a newer version, or made before the first release.
    """
    with engine.begin() as conn:  # on SQLite this is BEGIN IMMEDIATE: one writer at a time
        upgrade_in(conn)


def upgrade_in(conn: Connection, revision: str = "head") -> None:
    """Run the migrations up to `revision` in this transaction; see `upgrade`."""
    from alembic import command  # not needed by `check`, which every command runs

    config = _config()
    if conn.dialect.name == "postgresql":
        conn.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": UPGRADE_LOCK})
    known_revision(conn)
    config.attributes["connection"] = conn
    command.upgrade(config, revision)


def check(engine: Engine) -> None:
    """Raise SchemaError unless the database is at the newest revision of this code."""
    with read_only(engine) as conn:
        current = known_revision(conn)
    if current != revisions()[-1]:
        behind = "behind" if current else "empty"
        raise SchemaError(f"the database is {behind}: run `paperboy db upgrade`")


def revisions() -> list[str]:
    """Return the revisions of this code, oldest first: the numeric prefixes of its files."""
    files = (MIGRATIONS / "versions").glob("[0-9]*_*.py")
    return sorted(path.name.partition("_")[0] for path in files)


def known_revision(conn: Connection) -> str | None:
    """Return the revision of the database; None before its first migration.

    Raises SchemaError for a revision of a newer version, or of a draft before the first release.
    """
    tables = inspect(conn)
    if not tables.has_table("alembic_version"):
        return None
    current: str | None = conn.execute(text("SELECT version_num FROM alembic_version")).scalar()
    if current and not tables.has_table(TABLE_SINCE_RELEASE):
        raise SchemaError(
            "the database was made before the first release and cannot be upgraded: export its "
            "subscribers with the version that made it, and import them into a new database"
        )
    if current and current not in revisions():
        raise SchemaError(
            f"the database is ahead of this version of Paperboy (it is at {current}): "
            "install the newer version again"
        )
    return current


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    # Escape percent signs in the path: ConfigParser would interpolate them.
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config
