"""Query plans of the databases."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, event

Selected = list[tuple[str, Any]]


@contextmanager
def selecting(engine: Engine) -> Iterator[Selected]:
    """Collect each SELECT of the block with its parameters."""
    seen: Selected = []

    def note(_conn: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("SELECT"):
            seen.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", note)


def _forget_statistics(conn: Connection) -> None:
    """Delete the planner's statistics until the end of this transaction (PostgreSQL).

    It is a matter of chance if autovacuum has analysed the few rows of a test: a table it found
    small is scanned as a whole, by any index; a table it never saw is assumed to be big.
    """
    ours = "relnamespace = 'public'::regnamespace"
    conn.exec_driver_sql(
        f"DELETE FROM pg_statistic WHERE starelid IN (SELECT oid FROM pg_class WHERE {ours})"
    )
    conn.exec_driver_sql(f"UPDATE pg_class SET reltuples = -1, relpages = 0 WHERE {ours}")


def is_indexed(engine: Engine, statement: str, parameters: Any) -> bool:
    """Return if the plan searches the statement's first table by an index, not only sorts by it."""
    with engine.connect() as conn:
        if engine.dialect.name == "sqlite":
            plan = conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            steps = [row[3] for row in plan if not row[3].startswith("CO-ROUTINE")]
            by_key = "INDEX" in steps[0] or "INTEGER PRIMARY KEY" in steps[0]
            return steps[0].startswith("SEARCH") and by_key
        _forget_statistics(conn)
        conn.exec_driver_sql("SET LOCAL enable_seqscan = off")  # a small table is scanned otherwise
        plan = conn.exec_driver_sql(f"EXPLAIN {statement}", parameters)
        steps = [row[0] for row in plan]
        table = statement.split("FROM ", 1)[1].split()[0]
        return not any(f"Seq Scan on {table}" in step for step in steps) and any(
            "Index Cond" in step for step in steps
        )
