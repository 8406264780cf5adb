"""Kill ingest and publish repeatedly while papers arrive; then check that no paper is missing."""

from __future__ import annotations

import json
import multiprocessing
import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from sqlalchemy import Engine, func, select, update

from pipeline.domain import DeliveryStatus, Schedule
from pipeline.storage.digests import REACHED
from pipeline.storage.schema import (
    BatchRow,
    DeliveryRow,
    IngestStateRow,
    MatchRow,
    PaperRow,
    PickRow,
    SkipRow,
    SubscriberRow,
)
from tests.chaos.stage import Stage
from tests.chaos.victims import run_command
from tests.support import newsroom

TOPICS = ("tea leaves", "flow matching", "sea shells", "quantum gravity", "slow trains")
READERS = 60
FILES, PAPERS = 4, 5  # files a day at most, papers a file; the papers of two days fit one digest
START = datetime(2030, 1, 1, 8, tzinfo=UTC)
DAY = timedelta(days=1)
LONGEST = 0.5  # seconds that a victim lives, about as long as its command runs
KILLS_A_DAY = 8
FINISH = 60.0  # seconds in which a command that is not killed must end


@dataclass(frozen=True)
class Story:
    """The result of one run; it holds if `lost` and `twice`, lists of faults, are empty."""

    kills: dict[str, int]
    ended: dict[str, int]  # runs that ended before they were killed
    days: int
    papers: int
    batches: int
    digests: int
    picks: int
    lost: tuple[str, ...]
    twice: tuple[str, ...]

    @property
    def holds(self) -> bool:
        return not self.lost and not self.twice


class Compiling:
    def __init__(self, stage: Stage, seed: int) -> None:
        self.kills: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.days = 0
        self.papers = 0
        self._stage = stage
        self._random = random.Random(seed)
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(["tests.chaos.victims"])

    def run(self, kills: int) -> None:
        _add_readers(self._stage.engine)
        while self.kills.total() < kills:
            self._live_a_day(self.kills.total() + min(KILLS_A_DAY, kills - self.kills.total()))
        self.days += 1  # has the papers that arrived after the last edition
        self._let_be(self._publish())
        _arrive(self._stage.engine)

    def _live_a_day(self, until: int) -> None:
        """Kill ingest and publish while the day's papers arrive; then let a run of each end."""
        self.days += 1
        files: list[Path] = []
        while not files or self.kills.total() < until:
            if len(files) < FILES:
                files.append(self._announce(len(files)))
            if self.kills.total() < until:
                self._kill_both(files)
        self._let_be(self._ingest(files))
        self._let_be(self._publish())
        _arrive(self._stage.engine)

    def _let_be(self, command: Sequence[str]) -> None:
        """Retry a command until it exits with 0; a killed run's lease expires after a second."""
        deadline = time.monotonic() + FINISH
        while True:
            process = self._start(command)
            process.join()
            if process.exitcode == 0:
                return
            assert time.monotonic() < deadline, f"{command[0]} ends with {process.exitcode}"
            time.sleep(0.2)

    def _announce(self, number: int) -> Path:
        path = self._stage.folder / f"day{self.days}-{number}.json"
        path.write_text(json.dumps(list(_papers(self.days, number))))
        self.papers += PAPERS
        return path

    def _kill_both(self, files: Sequence[Path]) -> None:
        victims = [(c[0], self._start(c)) for c in (self._ingest(files), self._publish())]
        started = time.monotonic()
        lives = sorted(
            ((self._random.uniform(0.05, LONGEST), *victim) for victim in victims),
            key=lambda one: one[0],
        )
        for life, name, process in lives:
            process.join(max(0.0, started + life - time.monotonic()))
            process.kill()
            process.join()
            killed = process.exitcode == -signal.SIGKILL
            (self.kills if killed else self.ended)[name] += 1

    def _start(self, command: Sequence[str]) -> ForkServerProcess:
        process = self._processes.Process(
            target=run_command, args=(self._stage.environment, command), daemon=True
        )
        process.start()
        return process

    def _ingest(self, files: Sequence[Path]) -> list[str]:
        named = [word for path in files for word in ("--file", str(path))]
        return ["ingest", *named, "--now", (self._now - timedelta(hours=1)).isoformat()]

    def _publish(self) -> list[str]:
        return ["publish", "--now", self._now.isoformat()]

    @property
    def _now(self) -> datetime:
        return START + self.days * DAY


def compile_in_chaos(stage: Stage, *, kills: int, seed: int) -> Story:
    compiling = Compiling(stage, seed)
    compiling.run(kills)
    return _judge(stage.engine, compiling)


# --- Papers and readers -------------------------------------------------------------------------


def _papers(day: int, number: int) -> Iterator[dict[str, object]]:
    """Yield papers in the format of Hugging Face: one per topic, with the topic in its title."""
    on = (START + day * DAY).date()
    for topic_number, topic in enumerate(TOPICS):
        month = f"{30 + day // 12}{day % 12 + 1:02}"
        arxiv_id = f"{month}.{number:04}{topic_number}"
        title = f"{topic.title()} of House {arxiv_id}"  # papers with equal titles would be merged
        yield {
            "paper": {
                "id": arxiv_id,
                "title": title,
                "summary": "We describe what we did, and what came of it.",
                "authors": [{"name": f"Ada Lovelace {arxiv_id}"}],
                "upvotes": number,
                "submittedOnDailyAt": f"{on}T00:00:00.000Z",
            },
            "publishedAt": f"{on}T00:00:00.000Z",
            "title": title,
        }


def _add_readers(engine: Engine) -> None:
    for number in range(READERS):
        newsroom.add_reader(
            engine,
            *(f'"{topic}"' for topic in _topics_of(number)),
            email=f"reader{number}@example.org",
            schedule=Schedule(),
            max_papers=50,
            now=START,
        )


def _topics_of(reader: int) -> list[str]:
    """Return the topics of a reader; no two of the first 31 readers have the same set."""
    return [topic for i, topic in enumerate(TOPICS) if (reader % 31 + 1) >> i & 1]


def _topic_of(arxiv_id: str) -> str:
    return TOPICS[int(arxiv_id[-1])]


def _arrive(engine: Engine) -> None:
    """Mark every queued delivery as sent."""
    with engine.begin() as conn:
        conn.execute(
            update(DeliveryRow)
            .where(DeliveryRow.status == DeliveryStatus.QUEUED)
            .values(status=DeliveryStatus.SENT, reason="accepted")
        )


# --- Judging ------------------------------------------------------------------------------------


def _judge(engine: Engine, compiling: Compiling) -> Story:
    with engine.connect() as conn:
        keys = {
            row.id: row.arxiv_id for row in conn.execute(select(PaperRow.id, PaperRow.arxiv_id))
        }
        through = conn.execute(select(IngestStateRow.published_batch)).scalar_one()
        numbers = list(conn.execute(select(BatchRow.number).order_by(BatchRow.number)).scalars())
        hidden = sum(
            conn.execute(select(func.count()).where(row.batch > through)).scalar_one()
            for row in (PaperRow, MatchRow)
        )
        readers = conn.execute(select(SubscriberRow.id, SubscriberRow.email, SubscriberRow.cursor))
        known = readers.all()
        digests = conn.execute(
            select(
                DeliveryRow.id,
                DeliveryRow.subscriber_id,
                DeliveryRow.range_from,
                DeliveryRow.range_to,
            ).where(DeliveryRow.status.in_(REACHED))
        ).all()
        skips = conn.execute(
            select(SkipRow.subscriber_id, SkipRow.range_from, SkipRow.range_to)
        ).all()
        picks = conn.execute(
            select(DeliveryRow.subscriber_id, PickRow.paper_id)
            .join(DeliveryRow, DeliveryRow.id == PickRow.delivery_id)
            .where(DeliveryRow.status.in_(REACHED))
        ).all()
    ranges: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    for one in (*digests, *skips):
        ranges[one.subscriber_id].append((one.range_from, one.range_to))
    had: defaultdict[int, Counter[int]] = defaultdict(Counter)
    for subscriber_id, paper_id in picks:
        had[subscriber_id][paper_id] += 1
    lost = list(_batches_wrong(numbers, through, hidden))
    if len(keys) != compiling.papers:
        lost.append(f"{len(keys)} papers of {compiling.papers}")
    twice = []
    for id_, email, cursor in known:
        number = int(email.removeprefix("reader").partition("@")[0])
        wanted = {paper for paper, key in keys.items() if _topic_of(key) in _topics_of(number)}
        missing, strange = wanted - had[id_].keys(), had[id_].keys() - wanted
        if missing or strange or cursor != through:
            lost.append(f"{email}: {len(missing)} missing, {len(strange)} strange, at {cursor}")
        if gap := _gap(ranges[id_]):
            lost.append(f"{email}: {gap}")
        twice += [f"{email}: paper {paper}" for paper, times in had[id_].items() if times > 1]
    return Story(
        kills=dict(compiling.kills),
        ended=dict(compiling.ended),
        days=compiling.days,
        papers=len(keys),
        batches=len(numbers),
        digests=len(digests),
        picks=len(picks),
        lost=tuple(lost),
        twice=tuple(twice),
    )


def _batches_wrong(numbers: Sequence[int], through: int, hidden: int) -> Iterator[str]:
    if list(numbers) != list(range(1, through + 1)):
        yield f"batches {numbers}, published {through}"
    if hidden:
        yield f"{hidden} rows of a dead run are left"


def _gap(ranges: Sequence[tuple[int, int]]) -> str | None:
    """Return the first gap between a reader's digests and skips, or None if there is none."""
    inner = sorted(ranges)
    for (_, end), (start, _) in pairwise(inner):
        if start != end:
            return f"from batch {end} to {start} nothing looked"
    return None
