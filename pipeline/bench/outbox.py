"""A temporary database with readers and any number of queued digests."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from sqlalchemy import Engine
from sqlalchemy.engine import make_url

from pipeline.domain import (
    Delivery,
    DeliveryKind,
    Digest,
    Paper,
    Pick,
    Reason,
    Schedule,
    SubscriberStatus,
)
from pipeline.errors import PaperboyError, SettingsError
from pipeline.ingest import ingest_recorded
from pipeline.sources import recorded_files
from pipeline.storage import digests, ingest_state, migrate, papers, subscribers
from pipeline.storage.database import in_chunks, open_engine, read_only
from pipeline.storage.digests import NewDigest

SAMPLES = Path(__file__).resolve().parent.parent / "samples"
SAMPLE = (SAMPLES / "huggingface.json", SAMPLES / "arxiv.jsonl")
FIRST_DAY = date(2030, 1, 1)
EXPIRY = timedelta(hours=18)
CHUNK = 500

TOPICS = 200  # that readers choose from
PAPERS_OF_A_TOPIC = 12
TOPICS_OF_A_READER = 4


@dataclass(frozen=True, slots=True)
class Interest:
    """A followed topic, and the words by which it matched each of its papers."""

    label: str
    phrases: dict[int, tuple[str, ...]]  # by paper id


@dataclass(frozen=True, slots=True)
class Reader:
    id: int
    email: str
    secret: str
    interests: tuple[Interest, ...]


@dataclass(frozen=True, slots=True)
class QueuedDigest:
    """A mail to compose: enough for a sender that has no database."""

    delivery: Delivery
    digest: Digest


# --- Database -----------------------------------------------------------------------------------


@contextmanager
def temporary_database(url: str | None) -> Iterator[str]:
    """Create and migrate a temporary database; yield its URL, and drop it afterwards.

    If `url` is None, it is a SQLite file in a temporary folder. On PostgreSQL a new database is
    created on the server of `url`, which needs the privilege; the database named in the URL is not
    touched. Raise SettingsError if `url` is not PostgreSQL.
    """
    if url is None:
        with TemporaryDirectory(prefix="paperboy-bench-") as folder:
            yield _migrated(f"sqlite:///{folder}/bench.db")
        return
    with closing(_Server(url)) as server:
        server.create()
        try:
            yield _migrated(server.database_url)
        finally:
            server.drop()


class _Server:
    """A PostgreSQL server on which a database is created and dropped."""

    def __init__(self, url: str) -> None:
        self._engine = open_engine(url)
        if self._engine.dialect.name != "postgresql":
            raise SettingsError("--database-url: must be PostgreSQL; SQLite needs no URL here")
        self._name = f"paperboy_bench_{uuid.uuid4().hex[:12]}"
        self.database_url = (
            make_url(url).set(database=self._name).render_as_string(hide_password=False)
        )

    def create(self) -> None:
        self._run(f"CREATE DATABASE {self._name}")

    def drop(self) -> None:
        self._run(f"DROP DATABASE {self._name} WITH (FORCE)")

    def close(self) -> None:
        self._engine.dispose()

    def _run(self, statement: str) -> None:
        with self._engine.connect() as conn:
            # Neither statement can run in a transaction.
            conn.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql(statement)


def _migrated(url: str) -> str:
    engine = open_engine(url)
    try:
        migrate.upgrade(engine)
    finally:
        engine.dispose()
    return url


# --- Papers and readers -------------------------------------------------------------------------


def ingest_samples(engine: Engine, now: datetime) -> list[Paper]:
    """Store the bundled papers as if a source had announced them, and return them."""
    found = [answer for path in SAMPLE for answer in recorded_files.read_file(path)]
    ingest_recorded(engine, found, now=now)
    with read_only(engine) as conn:
        return papers.announced(conn, through_batch=ingest_state.published_batch(conn))


def add_readers(
    engine: Engine, count: int, samples: Sequence[Paper], suppression_key: str, now: datetime
) -> list[Reader]:
    """Store and return `count` active readers; few readers share their set of topics."""
    chance = Random(count)  # noqa: S311  (the same readers in every run)
    topics = _topics(samples, chance)
    emails = [f"reader{number}@example.org" for number in range(count)]
    with engine.begin() as conn:
        for email in emails:
            subscribers.add(
                conn,
                email=email,
                suppression_key=suppression_key,
                schedule=Schedule(),
                max_papers=10,
                status=SubscriberStatus.ACTIVE,
                cursor=0,
                next_slot_at=None,
                now=now,
            )
        listed = {reader.email: reader for reader in subscribers.list_all(conn)}
    return [
        Reader(
            listed[email].id,
            email,
            listed[email].secret,
            tuple(chance.sample(topics, TOPICS_OF_A_READER)),
        )
        for email in emails
    ]


def _topics(samples: Sequence[Paper], chance: Random) -> list[Interest]:
    return [
        Interest(
            label=f"{_phrase(chance.choice(samples), chance)} {number}",
            phrases={
                paper.id: (_phrase(paper, chance),)
                for paper in chance.sample(samples, min(PAPERS_OF_A_TOPIC, len(samples)))
            },
        )
        for number in range(TOPICS)
    ]


def _phrase(paper: Paper, chance: Random) -> str:
    """Return two adjacent words of the title."""
    words = paper.title.split()
    start = chance.randrange(max(1, len(words) - 1))
    return " ".join(words[start : start + 2])


# --- Digests ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outbox:
    """Outbox of one database, filled edition after edition."""

    engine: Engine
    papers: Sequence[Paper]
    readers: Sequence[Reader]
    template: str

    def fill(
        self, edition: int, picks: int, now: datetime, count: int | None = None
    ) -> list[QueuedDigest]:
        """Queue a digest of `picks` papers for the first `count` readers; if None, for all."""
        edition_on = FIRST_DAY + timedelta(days=edition)
        readers = self.readers[:count]
        frozen = [self._digest(reader, edition, edition_on, picks) for reader in readers]
        new = [
            _new(reader, digest, self.template, now)
            for reader, digest in zip(readers, frozen, strict=True)
        ]
        for chunk in in_chunks(new, CHUNK):
            with self.engine.begin() as conn:
                digests.enqueue(conn, chunk, now)
        return [
            QueuedDigest(_delivery(number, reader, digest, now), digest)
            for number, (reader, digest) in enumerate(zip(readers, frozen, strict=True), start=1)
        ]

    def _digest(self, reader: Reader, edition: int, edition_on: date, picks: int) -> Digest:
        chance = Random(edition * 1_000_003 + reader.id)  # noqa: S311  (the same in every run)
        papers = list(self.papers)
        chance.shuffle(papers)
        papers.sort(key=lambda paper: not _matched(paper, reader))  # its own topics first
        return digests.digest_of(
            edition_on,
            [Pick(paper, _reasons(paper, reader), chance.random()) for paper in papers[:picks]],
            more=chance.randrange(40),
            topics=tuple(interest.label for interest in reader.interests),
        )


def require(samples: Sequence[Paper], picks: int) -> None:
    """Raise PaperboyError if the samples have fewer papers than a digest needs."""
    if len(samples) < picks:
        raise PaperboyError(f"the bundled samples have {len(samples)} papers, not {picks}")


def _matched(paper: Paper, reader: Reader) -> bool:
    return any(paper.id in interest.phrases for interest in reader.interests)


def _reasons(paper: Paper, reader: Reader) -> tuple[Reason, ...]:
    matched = tuple(
        Reason(interest.label, interest.phrases[paper.id])
        for interest in reader.interests
        if paper.id in interest.phrases
    )
    return matched or (Reason("Trending"),)


def _new(reader: Reader, digest: Digest, template: str, now: datetime) -> NewDigest:
    return NewDigest(
        subscriber_id=reader.id,
        kind=DeliveryKind.DIGEST,
        digest=digest,
        slot_at=now,
        expires_at=now + EXPIRY,
        range_from=0,
        range_to=1,
        template=template,
    )


def _delivery(number: int, reader: Reader, digest: Digest, now: datetime) -> Delivery:
    return Delivery(
        id=number,
        dedupe_key=f"plain:{digest.edition_on}:{reader.id}",
        kind=DeliveryKind.DIGEST,
        subscriber_id=reader.id,
        email=reader.email,
        attempts=0,
        edition_on=digest.edition_on,
        expires_at=now + EXPIRY,
        created_at=now,
        secret=reader.secret,
    )
