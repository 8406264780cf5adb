"""Open the database so that SQLite and PostgreSQL keep the same promises."""

from __future__ import annotations

import json
import random
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial, wraps
from itertools import islice
from typing import Any, ParamSpec, TypeAlias, TypeVar

import structlog
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError

from pipeline.errors import SettingsError
from pipeline.logs import set_aside
from pipeline.storage import sqlite_file
from pipeline.storage.schema import Table, storable

T = TypeVar("T")
P = ParamSpec("P")

log = structlog.get_logger(__name__)

BUSY_TIMEOUT = 10.0  # seconds a SQLite writer waits for another
POOL_TIMEOUT = 30.0  # seconds to wait for a free connection
LOOK_AGAIN = 0.5  # seconds between tries while the database is away

_SQLITE_AWAY = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_IOERR,  # also where a quota is used up
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
    }
)


def open_engine(url: str, *, pool_size: int = 5, pool_timeout: float = POOL_TIMEOUT) -> Engine:
    """An engine for `sqlite:///...` or `postgresql://...`; connects to nothing yet."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # with the password in its words
        raise SettingsError("DATABASE_URL: must look like postgresql://user:pass@host/db") from None
    if parsed.get_backend_name() == "sqlite":
        engine = create_engine(
            parsed,
            hide_parameters=True,  # an error would repeat them: addresses, into whatever shows it
            pool_timeout=pool_timeout,
            json_serializer=_write_json,
            json_deserializer=_read_json,
            connect_args={"timeout": BUSY_TIMEOUT, "check_same_thread": False},
        )
        event.listen(engine, "connect", _prepare_sqlite)
        sqlite_file.guard(engine)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    if parsed.get_backend_name() not in {"postgres", "postgresql"}:
        raise SettingsError("DATABASE_URL: must begin with sqlite:// or postgresql://")
    parsed = parsed.set(drivername="postgresql+psycopg")
    return create_engine(
        parsed,
        pool_size=pool_size,
        max_overflow=15,  # with the five kept, one for each place in a lane of the site
        pool_timeout=pool_timeout,
        pool_pre_ping=True,
        hide_parameters=True,
        json_serializer=_write_json,
        # A synchronous commit is what "nothing is lost" rests on, whatever the server's default.
        connect_args={"options": "-c synchronous_commit=on -c timezone=UTC", "connect_timeout": 10},
    )


def _write_json(value: Any) -> str:
    """JSON that both databases take: PostgreSQL refuses an escaped NUL or lone surrogate."""
    text = json.dumps(value)
    if "\\u0000" in text or "\\ud" in text:
        return json.dumps(_storable(json.loads(text)))
    return text


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, list):
        return [_storable(one) for one in value]
    if isinstance(value, dict):
        return {storable(name): _storable(one) for name, one in value.items()}
    return value


def _read_json(text: str) -> Any:
    """The value, or None for a broken one: one such row must not end a whole query.

    Whoever reads a row of it then finds that nothing is there, and sets that row aside.
    """
    try:
        return json.loads(text)
    except ValueError:
        return None


UNREADABLE = (ValueError, TypeError, KeyError, AttributeError)
"""What a row raises whose values are not what this code knows: a word, a shape, a time zone."""


def readable(
    conn: Connection, kind: str, query: Any, id_: Any, read: Callable[[Any], T]
) -> Iterator[T]:
    """What `read` makes of each row of `query`; a row that it cannot read is set aside.

    `id_` is the column that names a row.
    """
    return _readable(conn, query, id_, read, partial(set_aside, kind))


def unreadable(
    conn: Connection, query: Any, id_: Any, read: Callable[[Any], object]
) -> list[tuple[object, str]]:
    """The rows that `readable` sets aside: the id and what is wrong with each."""
    wrong: list[tuple[object, str]] = []

    def note(key: object, error: Exception) -> None:
        wrong.append((key, f"{type(error).__name__}: {error}"))

    for _ in _readable(conn, query, id_, read, note):
        pass
    return wrong


Aside: TypeAlias = Callable[[object, Exception], None]


def _readable(
    conn: Connection, query: Any, id_: Any, read: Callable[[Any], T], aside: Aside
) -> Iterator[T]:
    """A value that its own column cannot convert breaks the result: then rows are read singly."""
    try:
        rows: Iterable[Any] = conn.execute(query).all()
    except UNREADABLE:
        rows = _one_by_one(conn, query, id_, aside)
    for row in rows:
        try:
            value = read(row)
        except UNREADABLE as error:
            aside(getattr(row, id_.key), error)
            continue
        yield value


def _one_by_one(conn: Connection, query: Any, id_: Any, aside: Aside) -> Iterator[Any]:
    for (key,) in conn.execute(query.with_only_columns(id_)).all():
        try:
            yield from conn.execute(query.where(id_ == key)).all()
        except UNREADABLE as error:
            aside(key, error)


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A connection that only reads; on SQLite it takes no write lock."""
    with engine.connect().execution_options(read_only=True) as conn:
        yield conn


def server_now(conn: Connection) -> datetime:
    """The database's own clock, which every process shares."""
    if conn.dialect.name == "sqlite":
        return datetime.now(UTC)  # SQLite is a file on this machine: its clock is ours
    now: datetime = conn.execute(text("SELECT clock_timestamp()")).scalar_one()
    return now.astimezone(UTC)


def _prepare_sqlite(dbapi: sqlite3.Connection, _record: Any) -> None:
    # The driver must not open transactions of its own: see _begin_sqlite.
    dbapi.isolation_level = None
    dbapi.execute("PRAGMA journal_mode=WAL")
    dbapi.execute("PRAGMA synchronous=FULL")
    dbapi.execute("PRAGMA foreign_keys=ON")
    dbapi.execute("PRAGMA secure_delete=ON")  # what was erased is overwritten, see `wipe`


def _begin_sqlite(conn: Connection) -> None:
    # A transaction that reads first and writes later may fail at the upgrade of its lock,
    # whatever the busy timeout; taking the write lock at once waits instead.
    read_only = conn.get_execution_options().get("read_only", False)
    conn.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


def wipe(engine: Engine) -> None:
    """Leave no old pages in SQLite's log, where what was erased can still be read by eye.

    Waits a second for others; while somebody reads, it is left for the next time. PostgreSQL
    keeps its log and its dead rows until it needs their place, and nobody can hurry it.
    """
    if engine.dialect.name != "sqlite":
        return
    pooled = engine.raw_connection()
    try:
        cursor = pooled.cursor()
        cursor.execute("PRAGMA busy_timeout=1000")
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        pooled.invalidate()  # it is to be opened again with its own patience
        pooled.close()


def upsert(conn: Connection, table: type[Table]) -> Any:
    """An INSERT that knows ON CONFLICT, in the dialect of this connection."""
    dialect = postgresql if conn.dialect.name == "postgresql" else sqlite
    return dialect.insert(table)


def with_retries(work: Callable[[], T], *, attempts: int = 5) -> T:
    """Run a whole transaction again when the database chose it to end a deadlock or a wait.

    Such a transaction has left nothing behind, so running it again is safe.
    """
    for attempt in range(1, attempts):
        try:
            return work()
        except DBAPIError as error:
            if not _is_passing(error):
                raise
            time.sleep(random.uniform(0, 0.05 * 2**attempt))  # noqa: S311  (jitter)
    return work()


def retried(transaction: Callable[P, T]) -> Callable[P, T]:
    """`with_retries` around a function that is one transaction and what leads to it."""

    @wraps(transaction)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return with_retries(lambda: transaction(*args, **kwargs))

    return run


def outlast(work: Callable[[], T], gives_up: Callable[[float], bool]) -> T:
    """Run a whole transaction until the database does it: while it is away, full or busy, we wait.

    `gives_up` is asked with the seconds that this has lasted. The transaction may have been
    committed though its answer was lost, so `work` must be one that may run twice.
    """
    away_since: float | None = None
    while True:
        try:
            done = with_retries(work)
        except DBAPIError as error:
            if not _is_away(error):
                raise
            now = time.monotonic()
            if away_since is None:
                away_since = now
                log.warning("database away, waiting for it", error=_first_line(error))
            if gives_up(now - away_since):
                raise
            time.sleep(LOOK_AGAIN)
        else:
            if away_since is not None:
                log.info("database back", seconds=round(time.monotonic() - away_since, 1))
            return done


def _first_line(error: DBAPIError) -> str:
    return next(iter(str(error.orig).strip().splitlines()), type(error.orig).__name__)


def _is_away(error: DBAPIError) -> bool:
    """It is not our statement that is wrong: the same one may work in a minute."""
    if isinstance(error.orig, sqlite3.Error):
        return error.orig.sqlite_errorcode & 0xFF in _SQLITE_AWAY
    code = getattr(error.orig, "sqlstate", None)
    # PostgreSQL, classes of codes: connection, resources (disk full), intervention, system error.
    return error.connection_invalidated or (
        isinstance(error, OperationalError)
        and (code is None or code[:2] in {"08", "53", "57", "58"})
    )


def _is_passing(error: DBAPIError) -> bool:
    # PostgreSQL: serialization_failure, deadlock_detected, lock_not_available. SQLite: busy.
    code = getattr(error.orig, "sqlstate", None)
    return code in {"40001", "40P01", "55P03"} or "database is locked" in str(error.orig)


def in_chunks(values: Iterable[T], size: int) -> Iterator[list[T]]:
    """`values` in lists of at most `size`: no statement may grow with the number of readers."""
    iterator = iter(values)
    while chunk := list(islice(iterator, size)):
        yield chunk
