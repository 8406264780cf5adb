"""The steps of the demo, in order."""

from __future__ import annotations

import time as clock
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime, time, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline import signup, slots
from pipeline.bootstrap import Services
from pipeline.domain import DeliveryStatus, Schedule, SourceState
from pipeline.errors import PaperboyError
from pipeline.ingest import SourceReport, ingest_recorded
from pipeline.local.demo_output import READERS, DemoOutput, ReceivedMail, print_digests
from pipeline.local.demo_processes import DemoProcesses, demo_processes
from pipeline.sources import FetchResult, recorded_files
from pipeline.storage import delivery_queries, digests, subscribers
from pipeline.storage.database import read_only

SAMPLES = Path(__file__).parents[1] / "samples"
SAMPLE = (SAMPLES / "huggingface.json", SAMPLES / "arxiv.jsonl")
ON_THE_WAY = frozenset({DeliveryStatus.QUEUED, DeliveryStatus.LEASED, DeliveryStatus.SENDING})


def run(
    *,
    files: tuple[Path, ...] = SAMPLE,
    live: bool = False,
    mail_dir: Path,
    now: datetime,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Send three digests to `mail_dir`, and print why each paper is in them.

    Raise KeyboardInterrupt once `stop()` is true, and PaperboyError if no digest was sent or one of
    them did not arrive.
    """
    started, story = clock.monotonic(), DemoOutput()
    if mail_dir.exists() and not mail_dir.is_dir():
        raise PaperboyError(f"{mail_dir} is not a folder")
    found = (
        None if live else [answer for path in files for answer in recorded_files.read_file(path)]
    )
    with TemporaryDirectory(prefix="paperboy-demo-") as folder, ExitStack() as stack:
        with story.step("Starting Valkey, a Celery worker and a mailbox"):
            ours = stack.enter_context(demo_processes(Path(folder), stop))
        with story.step("Subscribing three readers", len(READERS)) as done:
            schedules = _subscribe(ours.services, now, done)
        with story.step("Reading today's papers" if live else "Reading recorded papers"):
            reports = _ingest(ours.services, found, now)
        _publish(ours, story)
        _dispatch(ours, story)
        posts = _collect(ours, schedules)
    _write(posts, mail_dir)
    print_digests(posts, reports, mail_dir, seconds=clock.monotonic() - started)
    _complain(posts)


def _subscribe(
    services: Services, now: datetime, done: Callable[[int], None]
) -> dict[str, Schedule]:
    """Subscribe each reader with the current local hour as delivery hour; return the schedules."""
    schedules = {}
    for number, reader in enumerate(READERS, start=1):
        hour = now.astimezone(slots.zone(reader.timezone)).hour
        schedule = Schedule(time(hour), reader.timezone)
        signup.add(
            services.engine,
            reader.email,
            signup.Choices(signup.parse_queries(reader.topics), schedule, reader.max_papers),
            confirmed=True,
            suppression_key=services.suppression_key,
            now=now - timedelta(hours=3),  # otherwise their first slot would be tomorrow
        )
        schedules[reader.email] = schedule
        done(number)
    return schedules


def _ingest(
    services: Services, found: list[tuple[str, FetchResult]] | None, now: datetime
) -> list[SourceReport]:
    """Store the papers `found` in files; if None, fetch from the live sources.

    Raise PaperboyError if all live sources fail.
    """
    if found is not None:
        return ingest_recorded(services.engine, found, now=now, embedder=services.embeddings)
    reports = services.ingest(now)
    failed = [report for report in reports if report.state is SourceState.FAILED]
    if len(failed) == len(reports):
        why = "; ".join(f"{report.source}: {report.error}" for report in failed)
        raise PaperboyError(f"no source could be read ({why}); omit --live to work offline")
    return reports


def _publish(ours: DemoProcesses, story: DemoOutput) -> None:
    def served() -> int:
        with read_only(ours.services.engine) as conn:
            return sum(s.last_edition_on is not None for s in subscribers.list_all(conn))

    with story.step("Compiling their digests", len(READERS)) as done:
        ours.work("paperboy.publish", served, len(READERS), done)


def _dispatch(ours: DemoProcesses, story: DemoOutput) -> None:
    def counts() -> tuple[int, int]:
        with read_only(ours.services.engine) as conn:
            known = delivery_queries.counts(conn)
        return sum(known.values()), sum(known.get(status, 0) for status in ON_THE_WAY)

    total, _ = counts()
    with story.step("Sending them by SMTP", total) as done:
        ours.work("paperboy.dispatch", lambda: total - counts()[1], total, done)


def _collect(ours: DemoProcesses, schedules: dict[str, Schedule]) -> list[ReceivedMail]:
    with read_only(ours.services.engine) as conn:
        owed = {view.email: view for view in delivery_queries.list_views(conn)}
        frozen = digests.load(conn, [view.id for view in owed.values()])
    letters = {letter.to: ours.mailbox.read(letter.id) for letter in ours.mailbox.messages()}
    posts = []
    for reader in READERS:
        view, letter = owed.get(reader.email), letters.get(reader.email)
        posts.append(
            ReceivedMail(
                reader=reader,
                schedule=schedules[reader.email],
                delivery=view,
                digest=frozen.get(view.id) if view else None,
                eml=letter.raw if letter else None,
                html=letter.html if letter else None,
            )
        )
    return posts


def _write(posts: list[ReceivedMail], mail_dir: Path) -> None:
    try:
        mail_dir.mkdir(parents=True, exist_ok=True)
        for post in posts:
            _write_or_remove(mail_dir / f"{post.reader.email}.eml", post.eml)
            html = post.html.encode() if post.html is not None else None
            _write_or_remove(mail_dir / f"{post.reader.email}.html", html)
    except OSError as error:
        raise PaperboyError(f"the mail cannot be written: {error}") from error


def _write_or_remove(path: Path, content: bytes | None) -> None:
    """Write a file, or remove that of an earlier demo, so that it is not taken for a new mail."""
    if content is None:
        path.unlink(missing_ok=True)
        return
    path.write_bytes(content)


def _complain(posts: list[ReceivedMail]) -> None:
    owed = [post for post in posts if post.delivery is not None]
    if not owed:
        raise PaperboyError("no digest was sent: no paper matches the topics of the three readers")
    lost = [
        f"{post.reader.email} ({post.delivery.status}: {post.delivery.reason})"
        for post in owed
        if post.delivery is not None and not post.has_arrived
    ]
    if lost:
        raise PaperboyError(f"{len(lost)} of {len(owed)} digests did not arrive: {', '.join(lost)}")
