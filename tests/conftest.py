"""Fixtures for both databases, Valkey, a mail server and a fixed time."""

from __future__ import annotations

import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import psycopg
import pytest
import structlog
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from sqlalchemy import Engine

from pipeline import settings
from pipeline.local import processes
from pipeline.storage import migrate
from pipeline.storage.database import open_engine
from tests.support import CHROMIUM, SHARED, dovecot, servers
from tests.support.factories import NOW
from tests.support.servers import Inbox, PostgreSQLDatabase

run_folder = pytest.StashKey[Path]()

# The run time of an example depends on the load of the machine, so no deadline is set. In CI
# Hypothesis loads its own profile.
if "CI" not in os.environ:
    hypothesis_settings.register_profile(
        "steady", deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    hypothesis_settings.load_profile("steady")


# --- A test run, in one process or several ------------------------------------------------------

MEMORY = Path("/dev/shm")
ENOUGH = 2_000_000_000  # bytes; a run takes a few hundred MB


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    is_worker = hasattr(config, "workerinput")
    if not is_worker:
        _keep_files_in_memory()
    folder = config.workerinput["run_folder"] if is_worker else servers.open_run_folder()
    config.stash[run_folder] = Path(folder)


def _keep_files_in_memory() -> None:
    """Use a file system in memory for `tmp_path`, if there is one.

    SQLite waits for the disk at each commit, about 4 ms; no test cuts the power.
    """
    if "PYTEST_DEBUG_TEMPROOT" in os.environ or not os.access(MEMORY, os.W_OK):
        return
    if shutil.disk_usage(MEMORY).free > ENOUGH:
        os.environ["PYTEST_DEBUG_TEMPROOT"] = str(MEMORY)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node) -> None:
    node.workerinput["run_folder"] = str(node.config.stash[run_folder])


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput") and run_folder in config.stash:
        servers.close_run_folder(config.stash[run_folder])


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests on PostgreSQL as `full`: the server takes seconds to start."""
    for item in items:
        params = (
            item.callspec.params
            if isinstance(item, pytest.Function) and hasattr(item, "callspec")
            else {}
        )
        if params.get("backend") == "postgresql" or "postgresql_url" in item.fixturenames:
            item.add_marker("full")


# --- Requirements that a machine may lack -------------------------------------------------------


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("shared") and not SHARED.is_dir():
        _lacks("../shared/data is not here", "PAPERBOY_REQUIRE_SHARED")
    if item.get_closest_marker("browser") and not any(map(shutil.which, CHROMIUM)):
        _lacks("no Chromium is installed", "PAPERBOY_REQUIRE_BROWSER")
    if item.get_closest_marker("dovecot") and not dovecot.program():
        _lacks("no Dovecot is installed", "PAPERBOY_REQUIRE_DOVECOT")


def _lacks(what: str, requirement: str) -> None:
    if os.environ.get(requirement) == "1":
        pytest.fail(f"{what}, and {requirement}=1", pytrace=False)
    pytest.skip(what)


# --- Settings -----------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_settings_of_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read no `.env` beside this checkout from another directory, and use no proxy."""
    for name in ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(settings, "INSTALLATION", None)


# --- Databases ----------------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "postgresql"])
def backend(request: pytest.FixtureRequest) -> str:
    """Return the name of the database: both in turn, unless a test parametrises this indirectly."""
    return request.param


@pytest.fixture
def database_url(backend: str, request: pytest.FixtureRequest) -> str:
    """Return the URL of a database for this test only, with the tables of the migrations."""
    return request.getfixturevalue(f"{backend}_url")


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = open_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def sqlite_url(tmp_path: Path, sqlite_template: Path) -> str:
    path = tmp_path / "paperboy.db"
    shutil.copy(sqlite_template, path)  # keeps the file mode: readable by its owner only
    return f"sqlite:///{path}"


@pytest.fixture
def postgresql_url(postgresql_database: PostgreSQLDatabase) -> str:
    return postgresql_database.cleared()


@pytest.fixture
def empty_database_url(backend: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """Return the URL of a database without tables."""
    if backend == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.db'}"
    url: str = request.getfixturevalue("postgresql_url")
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("DROP SCHEMA public CASCADE")
        conn.execute("CREATE SCHEMA public")
    return url


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "template.db"
    _migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def postgresql_database(pytestconfig: pytest.Config) -> Iterator[PostgreSQLDatabase]:
    """A database that the tests of this process use in turn, on the server of the whole run."""
    folder = pytestconfig.stash[run_folder]
    with servers.alone(folder):
        server = servers.start_postgresql(folder)
        template = PostgreSQLDatabase(server, "template_paperboy")
        if not template.exists():
            template.create()
            _migrate(template.url)
    database = PostgreSQLDatabase(server, f"t{uuid.uuid4().hex}", template.name)
    database.create()
    yield database
    database.drop()


def _migrate(url: str) -> None:
    engine = open_engine(url)
    try:
        migrate.upgrade(engine)
    finally:
        engine.dispose()


# --- Valkey -------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def valkey() -> Iterator[str]:
    """The URL of a Valkey server for all tests of this process; a test empties it if it must."""
    with processes.valkey() as url:
        yield url


# --- Mail ---------------------------------------------------------------------------------------


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    with servers.open_inbox() as inbox:
        yield inbox


# --- Logging ------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Undo what a command run in this process did to the logging of all."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    logging.captureWarnings(capture=False)
    root.handlers, root.level = handlers, level


# --- Time ---------------------------------------------------------------------------------------


@pytest.fixture
def now() -> datetime:
    return NOW
