"""Engines, transactions and retries, with the same guarantees on SQLite and PostgreSQL."""

from __future__ import annotations

import json
import random
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial, wraps
from itertools import islice
from typing import Any, ParamSpec, TypeAlias, TypeVar

import structlog
from sqlalchemy import Connection, Engine, create_engine, event, literal, select, text
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
PAGE = 500  # rows of a long list in memory
LOOK_AGAIN = 0.5  # seconds between retries while the database is unavailable

_SQLITE_AWAY = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_IOERR,  # also if a disk quota is used up
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
    }
)


def open_engine(url: str, *, pool_size: int = 5, pool_timeout: float = POOL_TIMEOUT) -> Engine:
    """Return an engine for `sqlite:///...` or `postgresql://...`, without connecting.

    Raises SettingsError if the URL is malformed or names another database. `pool_size` applies to
    PostgreSQL only; `pool_timeout` is in seconds.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # its text contains the password: do not chain it
        raise SettingsError("DATABASE_URL: must look like postgresql://user:pass@host/db") from None
    if parsed.get_backend_name() == "sqlite":
        engine = create_engine(
            parsed,
            hide_parameters=True,  # errors and logs would contain them: addresses
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
        max_overflow=15,  # with the 5 pooled: one per request of the site (web.request_limits)
        pool_timeout=pool_timeout,
        pool_pre_ping=True,
        hide_parameters=True,
        json_serializer=_write_json,
        # "Nothing is lost" depends on a synchronous commit; the server's default may be another.
        connect_args={"options": "-c synchronous_commit=on -c timezone=UTC", "connect_timeout": 10},
    )


def _write_json(value: Any) -> str:
    """Return JSON that both databases accept: PostgreSQL rejects an escaped NUL or lone surrogate.

    These characters are replaced by U+FFFD, in keys, too.
    """
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
    """Parse JSON; return None if it is malformed, so that one bad row does not fail a whole query.

    Code that reads such a row finds None and sets the row aside (see `readable`).
    """
    try:
        return json.loads(text)
    except ValueError:
        return None


UNREADABLE = (ValueError, TypeError, KeyError, AttributeError)
"""Exceptions raised by stored values that this code cannot parse: a word, a shape, a time zone."""


def readable(
    conn: Connection, kind: str, query: Any, id_: Any, read: Callable[[Any], T]
) -> Iterator[T]:
    """Yield `read(row)` for each row of `query`; log and skip rows that raise UNREADABLE.

    `id_` is the column that identifies a row, `kind` its name in the log.
    """
    return _readable(conn, query, id_, read, partial(set_aside, kind))


def unreadable(
    conn: Connection, query: Any, id_: Any, read: Callable[[Any], object]
) -> list[tuple[object, str]]:
    """Return (id, error) for each row that `readable` would skip."""
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
    """Yield each readable row, and pass the id and error of the others to `aside`.

    A value that its column type cannot convert breaks the whole result. If that happens, each row
    is selected separately.
    """
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
def read_only(engine: Engine) -> Iterator[Connection]:
    """Open a connection for reads, which never commits; on SQLite it takes no write lock."""
    with engine.connect().execution_options(read_only=True) as conn:
        yield conn


def server_now(conn: Connection) -> datetime:
    """Return the time in UTC by the database's clock, which all processes share."""
    if conn.dialect.name == "sqlite":
        return datetime.now(UTC)  # a SQLite file is on this machine
    now: datetime = conn.execute(text("SELECT clock_timestamp()")).scalar_one()
    return now.astimezone(UTC)


def _prepare_sqlite(dbapi: sqlite3.Connection, _record: Any) -> None:
    # The driver must not open transactions of its own: see _begin_sqlite.
    dbapi.isolation_level = None
    dbapi.execute("PRAGMA journal_mode=WAL")
    dbapi.execute("PRAGMA synchronous=FULL")
    dbapi.execute("PRAGMA foreign_keys=ON")
    dbapi.execute("PRAGMA secure_delete=ON")  # overwrite deleted content with zeros, see `wipe`


def _begin_sqlite(conn: Connection) -> None:
    # A transaction that reads first and writes later may fail when it upgrades its lock, despite
    # the busy timeout. BEGIN IMMEDIATE takes the write lock at once, and waits for it.
    read_only = conn.get_execution_options().get("read_only", False)
    conn.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


def truncate_wal(engine: Engine) -> None:
    """Truncate SQLite's write-ahead log, in which erased text may still be readable.

    Waits one second for other connections; if one is still reading, the log is left for the next
    call. Does nothing on PostgreSQL: it keeps its log and dead rows until it reuses their space,
    and that cannot be forced from here.
    """
    if engine.dialect.name != "sqlite":
        return
    pooled = engine.raw_connection()
    try:
        cursor = pooled.cursor()
        cursor.execute("PRAGMA busy_timeout=1000")
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        pooled.invalidate()  # so that the next connection has the usual busy timeout
        pooled.close()


def upsert(conn: Connection, table: type[Table]) -> Any:
    """Return an INSERT that supports ON CONFLICT, in the dialect of this connection."""
    return upsert_in(conn.dialect.name, table)


def upsert_in(dialect: str, table: type[Table]) -> Any:
    """Return `upsert` for the dialect of this name, to keep the statement."""
    return (postgresql if dialect == "postgresql" else sqlite).insert(table)


def insert_if(
    conn: Connection, table: type[Table], values: dict[str, Any], *, condition: bool
) -> Any:
    """Return an INSERT of one row that inserts it only if `condition`, as in `upsert`.

    The condition is part of the statement, so that its text does not depend on it.
    """
    columns = table.__table__.c
    row = [literal(value, columns[name].type) for name, value in values.items()]
    return upsert(conn, table).from_select(list(values), select(*row).where(literal(condition)))


def with_retries(work: Callable[[], T], *, attempts: int = 5) -> T:
    """Retry a whole transaction after a serialization failure, a deadlock or a lock timeout.

    The database has rolled back such a transaction, so a retry is safe. At most `attempts` are
    made, with jitter and exponential backoff up to 0.1, 0.2, 0.4, 0.8 s; the error of the last one
    is raised, and any other error at once.
    """
    for attempt in range(1, attempts):
        try:
            return work()
        except DBAPIError as error:
            if not _is_passing(error):
                raise
            time.sleep(random.uniform(0, 0.05 * 2**attempt))  # noqa: S311  (jitter)
    return work()


def retry_transaction(transaction: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function that runs one transaction with `with_retries`."""

    @wraps(transaction)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return with_retries(lambda: transaction(*args, **kwargs))

    return run


def retry_until_available(work: Callable[[], T], gives_up: Callable[[float], bool]) -> T:
    """Retry a whole transaction while the database is unreachable, full or busy.

    `gives_up` is called with the seconds since the first failure; if it returns True, the error is
    raised. A commit may have succeeded although its reply was lost, so `work` must be idempotent.
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
                log.warning("database.unreachable", error=_first_line(error))
            if gives_up(now - away_since):
                raise
            time.sleep(LOOK_AGAIN)
        else:
            if away_since is not None:
                log.info("database.reachable", seconds=round(time.monotonic() - away_since, 1))
            return done


def _first_line(error: DBAPIError) -> str:
    return next(iter(str(error.orig).strip().splitlines()), type(error.orig).__name__)


def _is_away(error: DBAPIError) -> bool:
    """Return whether the database is unavailable, so that the same statement may work later."""
    if isinstance(error.orig, sqlite3.Error):
        return error.orig.sqlite_errorcode & 0xFF in _SQLITE_AWAY
    code = getattr(error.orig, "sqlstate", None)
    # PostgreSQL error classes: connection, resources (disk full), intervention, system error.
    return error.connection_invalidated or (
        isinstance(error, OperationalError)
        and (code is None or code[:2] in {"08", "53", "57", "58"})
    )


def _is_passing(error: DBAPIError) -> bool:
    # PostgreSQL: serialization_failure, deadlock_detected, lock_not_available. SQLite: busy.
    code = getattr(error.orig, "sqlstate", None)
    return code in {"40001", "40P01", "55P03"} or "database is locked" in str(error.orig)


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list in the order of ids: the rows between two ids, or `limit` of them.

    With `after` these are the oldest, else the newest. A page is found by its ids, never by an
    offset, so that the last one costs as much as the first.
    """

    after: int | None = None
    before: int | None = None
    limit: int | None = None  # None: all

    def ids(self, conn: Connection, query: Any, id_: Any) -> list[int]:
        """Return the ids of this page that `query` selects, ascending."""
        if self.after is not None:
            query = query.where(id_ > self.after)
        if self.before is not None:
            query = query.where(id_ < self.before)
        is_newest = self.limit is not None and self.after is None
        query = query.order_by(id_.desc() if is_newest else id_).limit(self.limit)
        return sorted(conn.scalars(query))


ALL = Page()


def in_pages(engine: Engine, page: Page, ids: Callable[[Connection, Page], list[int]],
             load: Callable[[Connection, list[int]], Iterable[T]]) -> Iterator[T]:  # fmt: skip
    """Yield the rows of a page; at most `PAGE` of them are in memory.

    `ids` returns the ids of a page, `load` the rows with some ids. No transaction is open while a
    row is used, so a reader may take any time for it.
    """
    if page.limit is not None:
        with read_only(engine) as conn:
            found = ids(conn, page)
        for some in in_chunks(found, PAGE):
            with read_only(engine) as conn:
                rows = list(load(conn, some))
            yield from rows
        return
    part = replace(page, after=page.after if page.after is not None else -1, limit=PAGE)
    while True:
        with read_only(engine) as conn:
            found = ids(conn, part)
            rows = list(load(conn, found)) if found else []
        if not found:
            return
        yield from rows
        part = replace(part, after=found[-1])


def in_chunks(values: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield `values` in lists of at most `size`.

    Use it for IN lists, since no statement may grow with the number of subscribers.
    """
    iterator = iter(values)
    while chunk := list(islice(iterator, size)):
        yield chunk
