"""Processes that are killed: at a chosen statement, or by a real SIGKILL.

python -m tests.support.dying URL    ingest 260 papers; killed at the second chunk of matches
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, event, text

from pipeline.storage.database import open_engine


class DiedError(BaseException):
    """Simulated death of a process: no Exception, so that no handler catches it and cleans up."""


@contextmanager
def dying(engine: Engine, after: int) -> Iterator[list[str]]:
    """Execute `after` statements, then raise DiedError at the next; yield the statements seen."""
    seen: list[str] = []

    def count(_conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)
        if len(seen) > after:
            raise DiedError

    event.listen(engine, "before_cursor_execute", count)
    try:
        yield seen
    except DiedError:
        pass
    finally:
        event.remove(engine, "before_cursor_execute", count)


def end_lease(engine: Engine) -> None:
    """Expire the lease of a dead run, as if a quarter of an hour had passed."""
    with engine.begin() as conn:
        conn.execute(
            text("UPDATE ingest_state SET lease_until = '2000-01-01' WHERE lease_until IS NOT NULL")
        )


def main(url: str) -> None:
    from tests.support.factories import make_sighting
    from tests.support.newsroom import ingest

    engine = open_engine(url)
    seen: list[str] = []

    def kill(_conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "INSERT INTO matches" in statement:
            seen.append(statement)
        if len(seen) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(engine, "before_cursor_execute", kill)
    ingest(engine, *(make_sighting(f"3001.{n:05}") for n in range(260)))


if __name__ == "__main__":
    main(*sys.argv[1:])
