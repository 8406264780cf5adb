"""How Alembic reaches the database: over the caller's connection, else by the settings."""

from __future__ import annotations

from typing import Any, Literal

from alembic import context
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql

from pipeline import settings
from pipeline.storage import migrate
from pipeline.storage.database import open_engine
from pipeline.storage.schema import AnyText, BoundedText, Table, UTCDateTime


def render_type(kind: str, column_type: Any, _autogen: Any) -> str | Literal[False]:
    """Write our own types into a migration as what they are today, so that it never changes."""
    if kind == "type" and isinstance(column_type, UTCDateTime):
        return "sa.DateTime(timezone=True)"
    if kind == "type" and isinstance(column_type, postgresql.JSONB):
        return "postgresql.JSONB()"
    if kind == "type" and isinstance(column_type, AnyText):
        return "sa.Text()"
    if kind == "type" and isinstance(column_type, BoundedText):
        return f"sa.String(length={column_type.length})"
    return False


def number(_context: Any, _revision: Any, directives: list[Any]) -> None:
    """Name a drafted migration by the next number: `migrate.revisions` sorts by it."""
    for script in directives:
        script.rev_id = f"{int(migrate.revisions()[-1]) + 1:04}"


def run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Table.metadata,
        render_item=render_type,
        process_revision_directives=number,
        compare_type=True,
        render_as_batch=True,  # SQLite changes a column by copying its table
    )
    with context.begin_transaction():
        context.run_migrations()


given: Connection | None = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    with open_engine(settings.load().database_url).begin() as opened:
        run(opened)
