"""Both databases behave alike: times, locks, retries and limits."""

from __future__ import annotations

import sqlite3
import stat
import threading
import time
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise

import pytest
from sqlalchemy import Connection, Engine, insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from pipeline.domain import SourceState
from pipeline.errors import SettingsError
from pipeline.storage import database, ingest_state, rate_limits
from pipeline.storage.database import in_chunks, open_engine, read_only, server_now, with_retries
from pipeline.storage.ingest_state import SourceRecord
from pipeline.storage.schema import (
    BatchRow,
    IngestStateRow,
    PaperRow,
    PaperVersionRow,
    RateLimitRow,
    SubscriptionRow,
)
from tests.support.factories import NOW
from tests.support.newsroom import rows

SECOND = timedelta(seconds=1)


def test_stored_time_is_returned_in_utc(engine: Engine):
    berlin = timezone(timedelta(hours=2))
    moment = datetime(2030, 7, 1, 10, 30, 15, 123456, tzinfo=berlin)
    with engine.begin() as conn:
        conn.execute(insert(BatchRow).values(number=1, published_at=moment, papers=0, matches=0))

    (batch,) = rows(engine, BatchRow)

    assert batch.published_at == moment
    assert batch.published_at.tzinfo is UTC


def test_naive_datetime_is_rejected(engine: Engine):
    naive = datetime(2030, 7, 1)  # noqa: DTZ001

    with engine.begin() as conn, pytest.raises(Exception, match="without a zone"):
        conn.execute(insert(BatchRow).values(number=1, published_at=naive, papers=0, matches=0))


def test_foreign_key_violation_is_rejected(engine: Engine):
    with pytest.raises(IntegrityError), engine.begin() as conn:
        conn.execute(
            insert(SubscriptionRow).values(subscriber_id=9, topic_id=9, label="", created_at=NOW)
        )


def test_database_error_omits_the_parameters(engine: Engine):
    """The statement's parameters can be addresses, and errors are logged."""
    with pytest.raises(DBAPIError) as failed, engine.begin() as conn:
        conn.execute(text("SELECT 1 FROM nowhere WHERE x = :x"), {"x": "ada@example.org"})

    assert "ada" not in str(failed.value)


def test_sqlite_files_are_accessible_to_the_owner_only(tmp_path):
    """SQLite would create the file and its WAL readable for every user of the machine."""
    engine = open_engine(f"sqlite:///{tmp_path}/people.db")
    with engine.begin() as conn:
        conn.execute(text("CREATE TABLE people (name TEXT)"))

    modes = [stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()]
    engine.dispose()

    assert modes == [0o600] * 3


def test_commits_are_synchronous(engine: Engine):
    """The guarantees after a crash depend on it."""
    with engine.connect() as conn:
        if engine.dialect.name == "sqlite":
            assert conn.execute(text("PRAGMA synchronous")).scalar() == 2  # FULL
            assert conn.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        else:
            assert conn.execute(text("SHOW synchronous_commit")).scalar() == "on"


def test_reading_does_not_wait_for_a_writer(engine: Engine):
    with engine.begin() as writer:
        writer.execute(update(IngestStateRow).values(published_batch=7))

        with read_only(engine) as conn:
            seen = conn.execute(select(IngestStateRow.published_batch)).scalar_one()

    assert seen == 0


def test_concurrent_read_modify_writes_lose_no_update(engine: Engine):
    """Ten threads increment a counter; a lock upgraded late would fail or lose an update."""

    def count_one() -> None:
        with engine.begin() as conn:
            query = select(IngestStateRow.published_batch).with_for_update()
            seen = conn.execute(query).scalar_one()
            conn.execute(update(IngestStateRow).values(published_batch=seen + 1))

    threads = [threading.Thread(target=count_one) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    with read_only(engine) as conn:
        assert conn.execute(select(IngestStateRow.published_batch)).scalar_one() == 10


def test_server_now_returns_the_current_time_in_utc(engine: Engine):
    with engine.connect() as conn:
        first = server_now(conn)
        time.sleep(0.01)
        second = server_now(conn)

    assert first < second
    assert first.tzinfo is UTC
    assert abs(first - datetime.now(UTC)) < timedelta(minutes=1)


# --- Retries ------------------------------------------------------------------------------------


def locked() -> OperationalError:
    return OperationalError("UPDATE", {}, sqlite3.OperationalError("database is locked"))


def test_with_retries_repeats_a_locked_transaction():
    tries: list[int] = []

    def work() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise locked()
        return "done"

    assert with_retries(work) == "done"
    assert len(tries) == 3


def test_with_retries_raises_after_the_last_attempt_and_on_other_errors():
    tries: list[int] = []

    def never() -> None:
        tries.append(1)
        raise locked()

    def wrong() -> None:
        tries.append(1)
        raise OperationalError("SELEC", {}, sqlite3.OperationalError("syntax error"))

    with pytest.raises(DBAPIError):
        with_retries(never, attempts=3)
    assert len(tries) == 3
    with pytest.raises(DBAPIError):
        with_retries(wrong)
    assert len(tries) == 4


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_with_retries_survives_a_deadlock_on_postgresql(engine: Engine):
    """Two transactions lock two rows in opposite order: PostgreSQL aborts one, which is retried."""
    with engine.begin() as conn:
        for number in (1, 2):
            conn.execute(
                insert(BatchRow).values(number=number, published_at=NOW, papers=0, matches=0)
            )
    both_hold_one = threading.Barrier(2)
    errors: list[Exception] = []

    def take(first: int, second: int) -> None:
        waited: list[bool] = []

        def work() -> None:
            with engine.begin() as conn:
                for number in (first, second):
                    conn.execute(
                        update(BatchRow)
                        .where(BatchRow.number == number)
                        .values(papers=BatchRow.papers + 1)
                    )
                    if not waited:
                        waited.append(True)
                        both_hold_one.wait(30)

        try:
            with_retries(work)
        except Exception as error:  # noqa: BLE001  (a thread's error would be lost)
            errors.append(error)

    threads = [threading.Thread(target=take, args=order) for order in ((1, 2), (2, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert errors == []
    assert [batch.papers for batch in rows(engine, BatchRow)] == [2, 2]


# --- Database URLs ------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_postgresql_scheme_uses_psycopg(scheme: str):
    engine = open_engine(f"{scheme}://user:word@localhost/paperboy")

    assert engine.dialect.driver == "psycopg"


@pytest.mark.parametrize("url", ["mysql://ada:s3cret@db/papers", "nosuch://ada:s3cret@db/papers"])
def test_unsupported_database_is_rejected_without_its_password(url: str):
    with pytest.raises(SettingsError, match="DATABASE_URL: must begin") as failure:
        open_engine(url)

    assert "s3cret" not in str(failure.value)


def test_malformed_port_is_rejected_without_the_password():
    with pytest.raises(SettingsError, match="DATABASE_URL: must look like") as failure:
        open_engine("postgresql://ada:s3cret@db:many/papers")

    assert "s3cret" not in str(failure.value)


def test_malformed_database_url_is_rejected():
    with pytest.raises(SettingsError, match="DATABASE_URL"):
        open_engine("paperboy")


def test_in_chunks_returns_every_item_once():
    assert list(in_chunks(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert list(in_chunks([], 2)) == []


# --- Small tables -------------------------------------------------------------------------------


def test_concurrent_turns_keep_the_gap(engine: Engine):
    """arXiv's three seconds between requests hold over all processes."""
    turns: list[datetime] = []
    lock = threading.Lock()

    def take() -> None:
        with engine.begin() as conn:
            wait = rate_limits.take_turn(conn, "arxiv", gap=3 * SECOND)
            with lock:
                turns.append(server_now(conn) + wait)

    threads = [threading.Thread(target=take) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    turns.sort()
    gaps = [later - earlier for earlier, later in pairwise(turns)]
    assert len(turns) == 5
    assert all(gap > 2 * SECOND for gap in gaps)


def test_take_turn_bounds_the_wait_if_the_clock_was_set_back(engine: Engine):
    with engine.begin() as conn:
        rate_limits.take_turn(conn, "arxiv", gap=SECOND)
        conn.execute(update(RateLimitRow).values(free_at=server_now(conn) + timedelta(days=365)))

        wait = rate_limits.take_turn(conn, "arxiv", gap=SECOND)

    assert wait <= 101 * SECOND


def test_a_source_and_its_validators_are_overwritten(engine: Engine):
    first = SourceRecord("feed", SourceState.FAILED, NOW, NOW, error="503", failures=2)
    second = SourceRecord("feed", SourceState.FRESH, NOW, NOW, read_at=NOW, cursor="2")
    with engine.begin() as conn:
        for record in (first, second):
            ingest_state.put_source_state(conn, record)
        ingest_state.put_http_validator(conn, "https://example.org", '"1"', None, NOW)
        ingest_state.put_http_validator(conn, "https://example.org", None, "yesterday", NOW)

    with read_only(engine) as conn:
        assert ingest_state.list_source_states(conn) == [second]
        assert ingest_state.source_state(conn, "arxiv") is None
        assert ingest_state.http_validator(conn, "https://example.org") == (None, "yesterday")
        assert ingest_state.http_validator(conn, "https://example.com") is None


def test_busy_timeout_is_ten_seconds():
    assert database.BUSY_TIMEOUT == 10.0


@pytest.mark.parametrize("strange", ["a\0b", "a\ud800b", "\udfff", "a\U0001f9eab", "ﷺ"])
def test_any_text_can_be_stored(engine: Engine, strange: str):
    """PostgreSQL rejects a NUL, and both databases reject half a surrogate pair."""
    stored = strange.replace("\0", "\ufffd").replace("\ud800", "\ufffd").replace("\udfff", "\ufffd")
    with engine.begin() as conn:
        ingest_state.put_http_validator(conn, strange, strange, None, NOW)
        paper = add_paper(conn, {"title": strange, strange: [strange]})

    with read_only(engine) as conn:
        assert ingest_state.http_validator(conn, strange) == (stored, None)
        content = conn.execute(
            select(PaperVersionRow.content).where(PaperVersionRow.paper_id == paper)
        ).scalar_one()
    assert content == {"title": stored, stored: [stored]}


def add_paper(conn: Connection, content: dict[str, object]) -> int:
    days = {"announced_on": NOW.date(), "created_at": NOW}
    numbers = {"version": 1, "batch": 1, "touched_batch": 1}
    values = {"title_key": "t", "author_key": "", **numbers, **days}
    paper = conn.execute(insert(PaperRow).values(values).returning(PaperRow.id)).scalar_one()
    conn.execute(insert(PaperVersionRow).values(paper_id=paper, version=1, content=content))
    return paper
