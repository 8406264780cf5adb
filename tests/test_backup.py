"""Back up and restore an installation, by the command line and on both databases."""

from __future__ import annotations

import io
import json
import stat
import threading
import uuid
import zipfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select, text
from sqlalchemy.engine import make_url
from typer.testing import CliRunner, Result

from pipeline import bootstrap
from pipeline.cli import app
from pipeline.dkim import Algorithm, new_key
from pipeline.restore import Settling
from pipeline.storage import archive, migrate, send_controls, subscribers
from pipeline.storage.database import open_engine, read_only
from pipeline.storage.schema import DeliveryRow, PickRow, SubscriberRow, Table
from tests.support.factories import NOW
from tests.support.newsroom import SUPPRESSION_KEY, add_reader, ingest
from tests.support.restoring import ADA, BOB, DAN, EVE, PAPERS, leave, publish, send, statuses

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
DIED = NOW + DAY + HOUR
RESTORED = DIED + HOUR

Command = Callable[..., Result]


@pytest.fixture
def paperboy(engine: Engine, tmp_path: Path, monkeypatch) -> Command:
    """Return a function that runs a command in an empty folder, with `engine` as the database."""
    folder = tmp_path / "installation"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DATABASE_URL", engine.url.render_as_string(hide_password=False))
    monkeypatch.setenv("SUPPRESSION_KEY", SUPPRESSION_KEY)

    def run(*arguments: object, stdin: bytes | None = None) -> Result:
        try:
            return CliRunner().invoke(app, [*map(str, arguments)], input=stdin)
        finally:
            if bootstrap.services.cache_info().currsize:
                bootstrap.services().engine.dispose()
                bootstrap.services.cache_clear()

    return run


@pytest.fixture
def target(engine: Engine, tmp_path: Path, monkeypatch) -> Iterator[Callable[[], Engine]]:
    """Return a function that sets DATABASE_URL to a new empty database; it returns its engine."""
    made: list[tuple[Engine, str]] = []
    url = engine.url

    def create() -> Engine:
        name = f"restored{uuid.uuid4().hex[:8]}"
        if engine.dialect.name == "sqlite":
            new = url.set(database=str(tmp_path / f"{name}.db"))
        else:
            _admin(engine, f'CREATE DATABASE "{name}"')
            new = url.set(database=name)
        made.append((open_engine(new.render_as_string(hide_password=False)), name))
        monkeypatch.setenv("DATABASE_URL", new.render_as_string(hide_password=False))
        return made[-1][0]

    yield create
    for restored, name in made:
        restored.dispose()
        if engine.dialect.name == "postgresql":
            _admin(engine, f'DROP DATABASE "{name}" WITH (FORCE)')


def _admin(engine: Engine, statement: str) -> None:
    admin = open_engine(engine.url.set(database="postgres").render_as_string(hide_password=False))
    with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.execute(text(statement))
    admin.dispose()


def contents(engine: Engine) -> dict[str, list[str]]:
    """Return all rows of all tables, as text that both engines of a backend agree on."""
    with read_only(engine) as conn:
        return {
            table.name: sorted(repr(tuple(row)) for row in conn.execute(select(*table.columns)))
            for table in Table.metadata.sorted_tables
        }


def fill(engine: Engine) -> None:
    """Add three readers with a queued digest each."""
    for email in (ADA, BOB, EVE):
        add_reader(engine, "cat:cs.IR", email=email, now=NOW - HOUR)
    ingest(engine, PAPERS[0], now=NOW - HOUR)
    publish(engine, NOW)


def go_on_sending(engine: Engine) -> list[tuple[str, tuple[str, ...]]]:
    """Send the mail of the day after the restore; return it."""
    assert send(engine, RESTORED) == [], "sending is held"
    with engine.begin() as conn:
        assert send_controls.list_pauses(conn)
        send_controls.resume(conn, None)
    ingest(engine, *PAPERS[:2], now=RESTORED)
    publish(engine, RESTORED)
    assert send(engine, RESTORED) == []
    ingest(engine, PAPERS[2], now=NOW + 2 * DAY - HOUR)
    publish(engine, NOW + 2 * DAY)
    return send(engine, NOW + 2 * DAY)


@pytest.mark.full
@pytest.mark.parametrize("is_lost", [True, False])
def test_restore_repeats_no_mail_and_sends_none_to_leavers(engine, paperboy, target, is_lost):
    """Mail was sent, readers left and joined after the backup; the old database may be lost."""
    fill(engine)
    assert paperboy("backup", "b.zip", "--now", NOW.isoformat()).exit_code == 0
    send(engine, NOW)
    leave(engine, BOB, NOW + HOUR)
    Path("gone.csv").write_text(f"email\n{BOB}\n{EVE}\n")
    assert paperboy("subscribers", "erase", EVE).exit_code == 0
    add_reader(engine, "cat:cs.IR", email=DAN, now=NOW + HOUR)
    ingest(engine, PAPERS[1], now=NOW + DAY - HOUR)
    publish(engine, NOW + DAY)
    send(engine, NOW + DAY)
    old = engine.url.render_as_string(hide_password=False)
    restored = target()

    options = ["--leavers", "gone.csv"] if is_lost else ["--old-database", "-"]
    done = paperboy(
        "restore", "b.zip", "--sent-until", DIED.isoformat(), "--now", RESTORED.isoformat(),
        *options, stdin=old.encode(),
    )  # fmt: skip

    assert done.exit_code == 0, done.output
    expected = [(ADA, ("Paper 2",))] if is_lost else [(ADA, ("Paper 2",)), (DAN, ("Paper 2",))]
    assert go_on_sending(restored) == expected
    assert statuses(restored)[BOB] == "unsubscribed"


@pytest.mark.full
def test_restored_rows_are_the_same(engine, paperboy, target):
    fill(engine)
    send(engine, NOW)
    before = contents(engine)
    assert paperboy("backup", "b.zip").exit_code == 0
    restored = target()

    done = paperboy("restore", "b.zip", "--assume", "unsent", "--now", RESTORED.isoformat())

    assert done.exit_code == 0, done.output
    after = contents(restored)
    changed = {name for name in before if not set(before[name]) <= set(after[name])}
    assert changed <= {"database_copy"}
    added = {name for name in before if not set(after[name]) <= set(before[name])}
    assert added <= {"database_copy", "pauses", "keys", "subscribers", "deliveries", "requests"}


def test_backup_can_be_read_by_its_owner_only_and_replaces_no_file(engine, paperboy):
    done = paperboy("backup", "b.zip", "--json")

    row = json.loads(done.stdout)
    assert row == {"file": "b.zip", "bytes": Path("b.zip").stat().st_size, "rows": row["rows"]}
    assert stat.S_IMODE(Path("b.zip").stat().st_mode) == 0o600
    again = paperboy("backup", "b.zip")
    assert again.exit_code == 1
    assert "the file exists" in str(again.exception)
    assert paperboy("backup", "b.zip", "--force").exit_code == 0
    assert [path.name for path in Path().iterdir()] == ["b.zip"]


@pytest.mark.full
def test_backup_is_a_snapshot_while_other_processes_write(engine, paperboy, target):
    """A delivery and its picks are written together, so the copy has both or neither."""
    fill(engine)
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            email = f"reader{number}@example.org"
            add_reader(engine, "cat:cs.IR", email=email, now=NOW - HOUR)
            publish(engine, NOW)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(5):
            assert paperboy("backup", f"{number}.zip").exit_code == 0
    finally:
        stop.set()
        writer.join()
    restored = target()
    assert paperboy("restore", "4.zip", "--assume", "unsent").exit_code == 0
    with read_only(restored) as conn:
        picked = select(PickRow.delivery_id).distinct().subquery()
        picks = conn.execute(select(func.count()).select_from(picked)).scalar_one()
        compiled = conn.execute(
            select(func.count(DeliveryRow.id)).where(DeliveryRow.dedupe_key.not_like("reserved%"))
        ).scalar_one()
        assert picks == compiled
    with read_only(engine) as conn:
        assert compiled < conn.execute(select(func.count(DeliveryRow.id))).scalar_one() + 1


def test_restore_from_stdin_and_backup_to_stdout(engine, paperboy, target):
    fill(engine)
    made = paperboy("backup", "-")
    restored = target()

    done = paperboy("restore", "-", stdin=made.stdout_bytes)

    assert done.exit_code == 0, done.output
    assert set(statuses(restored)) >= {ADA, BOB, EVE}


# --- Refusals: nothing is changed ----------------------------------------------------------------


def test_restore_refuses_a_database_with_subscribers(engine, paperboy):
    fill(engine)
    paperboy("backup", "b.zip")
    before = contents(engine)

    done = paperboy("restore", "b.zip")

    assert done.exit_code == 1
    expected = "move away first" if engine.dialect.name == "sqlite" else "has subscribers"
    assert expected in str(done.exception)
    assert contents(engine) == before


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_restore_replaces_tables_of_an_installation_without_subscribers(engine, paperboy, target):
    """Docker Compose has created and filled the tables of a new installation before."""
    fill(engine)
    paperboy("backup", "b.zip")
    restored = target()
    migrate.upgrade(restored)
    ingest(restored, *PAPERS, now=NOW)

    done = paperboy("restore", "b.zip", "--assume", "unsent")

    assert done.exit_code == 0, done.output
    with restored.begin() as conn:
        send_controls.resume(conn, None)
    assert [email for email, _ in send(restored, NOW + HOUR)] == [ADA, BOB, EVE]


def spoil_middle(made: bytes) -> bytes:
    """Change bytes of the largest member."""
    with zipfile.ZipFile(io.BytesIO(made)) as opened:
        largest = max(opened.infolist(), key=lambda info: info.compress_size)
    at = largest.header_offset + 30 + len(largest.filename) + 40 + largest.compress_size // 2
    return made[:at] + bytes(255 - byte for byte in made[at : at + 40]) + made[at + 40 :]


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda made: made[: len(made) // 2], id="truncated"),
        pytest.param(lambda made: b"", id="empty"),
        pytest.param(lambda made: b"PK\x05\x06" + bytes(18), id="another zip"),
        pytest.param(spoil_middle, id="changed"),
    ],
)
def test_damaged_backups_restore_nothing(engine, paperboy, target, spoil):
    fill(engine)
    paperboy("backup", "b.zip")
    Path("b.zip").write_bytes(spoil(Path("b.zip").read_bytes()))
    restored = target()

    done = paperboy("restore", "b.zip")

    assert done.exit_code == 1
    assert "damaged" in str(done.exception) or "not a complete backup" in str(done.exception)
    path = restored.url.database or ""
    if engine.dialect.name == "sqlite":
        assert list(Path(path).parent.glob(f"*{Path(path).name}*")) == []
    else:
        with read_only(restored) as conn:
            archive.check_replaceable(conn)


def test_a_backup_of_a_newer_version_is_refused(engine, paperboy, target):
    fill(engine)
    paperboy("backup", "b.zip")
    target()
    made = io.BytesIO()
    with zipfile.ZipFile("b.zip") as old, zipfile.ZipFile(made, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == archive.MANIFEST:
                content = json.dumps(json.loads(content) | {"revision": "9999"}).encode()
            new.writestr(name, content)

    done = paperboy("restore", "-", stdin=made.getvalue())

    assert "made by a newer version" in str(done.exception)


def test_an_interrupted_restore_sends_nothing(engine, paperboy, target, monkeypatch):
    """Loaded, but not settled: SQLite has no file yet, PostgreSQL holds all sending."""
    fill(engine)
    paperboy("backup", "b.zip", "--now", NOW.isoformat())
    restored = target()
    Path("gone.csv").write_text(f"email\n{BOB}\n")
    options = ("--leavers", "gone.csv", "--now", RESTORED.isoformat())

    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Settling, "run", crash)
        assert paperboy("restore", "b.zip", *options).exit_code != 0

    if engine.dialect.name == "sqlite":
        assert not Path(restored.url.database or "").exists()
        again = paperboy("restore", "b.zip", *options)
    else:
        assert send(restored, NOW + HOUR) == []
        again = paperboy("db", "settle", "--sent-until", NOW.isoformat(), *options)
    assert again.exit_code == 0, again.output
    assert statuses(restored)[BOB] == "unsubscribed"


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_settings_and_keys_are_restored(engine, paperboy, target, tmp_path, monkeypatch):
    """A restore without the keys of the settings would break the links in sent mails."""
    fill(engine)
    Path("dkim.pem").write_text(pem := new_key(Algorithm.ED25519))
    Path(".env").write_text(f"SECRET_KEY={'s' * 40}\nDKIM_KEYS=a:dkim.pem\nLIST_NAME='Ours'\n")
    paperboy("backup", "b.zip")
    Path(".env").unlink()
    restored = target()

    refused = paperboy("restore", "b.zip")
    assert "SECRET_KEY: is not the key of this backup" in str(refused.exception)
    assert not Path(restored.url.database or "").exists()
    done = paperboy("restore", "b.zip", "--settings", tmp_path / "old")
    assert done.exit_code == 0
    found = {path.name: path for path in (tmp_path / "old").iterdir()}
    assert set(found) == {".env", "keys.env", "dkim-a.pem"}
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in found.values())
    assert found["dkim-a.pem"].read_text() == pem
    assert f"SUPPRESSION_KEY='{SUPPRESSION_KEY}'" in found["keys.env"].read_text()
    again = paperboy("restore", "b.zip", "--settings", tmp_path / "old")
    assert "exist and are not replaced" in str(again.exception)

    monkeypatch.setenv("SECRET_KEY", "s" * 40)
    assert paperboy("restore", "b.zip").exit_code == 0
    with read_only(restored) as conn:
        assert subscribers.by_email(conn, ADA)


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_a_backup_of_another_kind_of_database_is_refused(engine, paperboy, monkeypatch):
    paperboy("backup", "b.zip")
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")

    done = paperboy("restore", "b.zip")

    assert "the backup is of a database of sqlite, DATABASE_URL is postgresql" in str(
        done.exception
    )


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_a_restored_file_is_private_and_leaves_nothing_beside_it(engine, paperboy, target):
    fill(engine)
    paperboy("backup", "b.zip")
    restored = target()

    assert paperboy("restore", "b.zip").exit_code == 0

    path = Path(make_url(restored.url).database or "")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in path.parent.glob(f"*{path.name}*")] == [path.name]
    with read_only(restored) as conn:
        assert conn.execute(select(func.count(SubscriberRow.id))).scalar_one() >= 3


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_restore_drops_no_table_of_another_program(engine, paperboy, target):
    """DATABASE_URL may name the database of another program with tables of the same names."""
    fill(engine)
    paperboy("backup", "b.zip")
    other = target()
    with other.begin() as conn:
        conn.execute(text("CREATE TABLE keys (id integer)"))
        conn.execute(text("INSERT INTO keys VALUES (7)"))

    done = paperboy("restore", "b.zip")

    assert "has tables of another program: keys" in str(done.exception)
    with read_only(other) as conn:
        assert conn.execute(text("SELECT id FROM keys")).scalar_one() == 7


def test_wrong_options_are_refused_before_anything_is_restored(engine, paperboy, target):
    fill(engine)
    paperboy("backup", "b.zip", "--now", NOW.isoformat())
    restored = target()
    before = (NOW - HOUR).isoformat()

    for options, message in (
        (["--sent-until", "2030-01-02T10:00"], "needs a zone"),
        (["--sent-until", before, "--now", RESTORED.isoformat()], "before this backup was made"),
        (["--now", before], "the clock of this machine is wrong"),
        (["--leavers", "missing.csv"], "No such file"),
        (["--old-database", "sqlite:///missing.db"], "no such file"),
    ):
        done = paperboy("restore", "b.zip", *options)
        assert done.exit_code != 0
        assert message in done.output + str(done.exception), options
    assert paperboy("restore", "-", "--old-database", "-").exit_code == 2
    if engine.dialect.name == "postgresql":
        with read_only(restored) as conn:
            assert conn.execute(text("SELECT count(*) FROM pg_tables "
                                     "WHERE schemaname = 'public'")).scalar_one() == 0  # fmt: skip
    else:
        assert not Path(restored.url.database or "").exists()
