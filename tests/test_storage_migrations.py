"""Migrations: the database has the schema that the code expects, or the code refuses it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from pipeline.errors import SchemaError
from pipeline.storage import migrate
from pipeline.storage.database import open_engine
from pipeline.storage.schema import Table


@pytest.fixture
def empty(empty_database_url):
    engine = open_engine(empty_database_url)
    yield engine
    engine.dispose()


def test_migrations_create_the_tables_of_the_schema(engine):
    """Fails if a table or column was added to the schema without a migration."""
    with engine.connect() as conn:
        context = MigrationContext.configure(conn, opts={"compare_type": True})

        assert compare_metadata(context, Table.metadata) == []


def test_new_database_has_no_published_batch(engine):
    with engine.connect() as conn:
        state = conn.execute(text("SELECT id, published_batch, token FROM ingest_state")).all()

    assert state == [(1, 0, 0)]


def test_upgraded_database_is_accepted(engine):
    migrate.check(engine)


def test_empty_database_is_rejected_with_the_upgrade_command(empty):
    with pytest.raises(SchemaError, match="empty: run `paperboy db upgrade`"):
        migrate.check(empty)


def test_database_ahead_of_the_code_is_rejected(engine):
    """Old code never changes tables it does not know, not even to upgrade them."""
    with engine.begin() as conn:
        conn.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    with pytest.raises(SchemaError, match="ahead of this version"):
        migrate.check(engine)
    with pytest.raises(SchemaError, match="ahead of this version"):
        migrate.upgrade(engine)


@pytest.mark.parametrize("revision", ["0001", "0013"])
def test_database_of_a_draft_before_the_release_is_rejected(empty, revision):
    """Its tables have other names, even if its revision is the number of one of today's."""
    with empty.begin() as conn:
        conn.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)"))
        conn.execute(text("INSERT INTO alembic_version VALUES (:now)"), {"now": revision})
        conn.execute(text("CREATE TABLE subscribers (id INTEGER)"))

    for refuses in (migrate.check, migrate.upgrade):
        with pytest.raises(SchemaError, match="before the first release and cannot be upgraded"):
            refuses(empty)
    assert "pauses" not in inspect(empty).get_table_names()


def test_revisions_from_file_names_match_the_migration_order():
    scripts = ScriptDirectory.from_config(migrate._config())

    assert migrate.revisions() == [one.revision for one in scripts.walk_revisions()][::-1]


def test_upgrade_is_idempotent(engine):
    migrate.upgrade(engine)

    migrate.check(engine)


def test_concurrent_upgrades_all_succeed(empty_database_url):
    """One process does the upgrade; the others wait and return when it is done."""
    together = threading.Barrier(4)

    def upgrade() -> None:
        engine = open_engine(empty_database_url)
        together.wait()
        migrate.upgrade(engine)
        migrate.check(engine)
        engine.dispose()

    with ThreadPoolExecutor(4) as processes:
        starts = [processes.submit(upgrade) for _ in range(4)]

    assert [start.result() for start in starts] == [None] * 4


def test_failed_upgrade_is_rolled_back(empty, monkeypatch):
    """Partly created tables would make the next attempt fail."""
    monkeypatch.setattr(command, "upgrade", _fail_half_way)

    with pytest.raises(RuntimeError):
        migrate.upgrade(empty)

    assert inspect(empty).get_table_names() == []


def _fail_half_way(config, _revision) -> None:
    config.attributes["connection"].execute(text("CREATE TABLE half (id INTEGER)"))
    raise RuntimeError("the power went out")
