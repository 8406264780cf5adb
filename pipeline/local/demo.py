"""Run the demo: start its processes, send three digests, print them with their reasons.

Progress is shown on stderr, the digests on stdout.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from datetime import time as time_of_day
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from pipeline import bootstrap, logs, mailbox, settings, signup, slots, tasks
from pipeline.bootstrap import Services
from pipeline.domain import DeliveryStatus, Digest, Pick, Schedule, SourceState
from pipeline.errors import PaperboyError, ServiceError
from pipeline.ingest import SourceReport, ingest_recorded
from pipeline.local import processes
from pipeline.local.processes import Child
from pipeline.mailbox import Mailbox
from pipeline.sources import FetchResult, recorded_files
from pipeline.storage import delivery_queries, digests, migrate, subscribers
from pipeline.storage.database import open_engine, read_only
from pipeline.storage.delivery_queries import DeliveryView

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
    started, story = time.monotonic(), DemoOutput()
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
    print_digests(posts, reports, mail_dir, seconds=time.monotonic() - started)
    _complain(posts)


def _subscribe(
    services: Services, now: datetime, done: Callable[[int], None]
) -> dict[str, Schedule]:
    """Subscribe each reader with the current local hour as delivery hour; return the schedules."""
    schedules = {}
    for number, reader in enumerate(READERS, start=1):
        hour = now.astimezone(slots.zone(reader.timezone)).hour
        schedule = Schedule(time_of_day(hour), reader.timezone)
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
            by_status = delivery_queries.counts(conn)
        return sum(by_status.values()), sum(by_status.get(status, 0) for status in ON_THE_WAY)

    total, _ = counts()
    with story.step("Sending them by SMTP", total) as done:
        ours.work("paperboy.dispatch", lambda: total - counts()[1], total, done)


def _collect(ours: DemoProcesses, schedules: dict[str, Schedule]) -> list[ReceivedMail]:
    with read_only(ours.services.engine) as conn:
        views = {view.email: view for view in delivery_queries.list_views(conn)}
        frozen = digests.load(conn, [view.id for view in views.values()])
    letters = {letter.to: ours.mailbox.read(letter.id) for letter in ours.mailbox.messages()}
    posts = []
    for reader in READERS:
        view, letter = views.get(reader.email), letters.get(reader.email)
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
    expected = [post for post in posts if post.delivery is not None]
    if not expected:
        raise PaperboyError("no digest was sent: no paper matches the topics of the three readers")
    lost = [
        f"{post.reader.email} ({post.delivery.status}: {post.delivery.reason})"
        for post in expected
        if post.delivery is not None and not post.has_arrived
    ]
    if lost:
        raise PaperboyError(
            f"{len(lost)} of {len(expected)} digests did not arrive: {', '.join(lost)}"
        )


# --- Output -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DemoReader:
    email: str
    timezone: str
    topics: tuple[str, ...]
    max_papers: int


READERS = (
    DemoReader(
        "ada@example.org",
        "Europe/London",
        ("agents", "reinforcement learning", '"large language models" reasoning'),
        8,
    ),
    DemoReader(
        "grace@example.net",
        "America/New_York",
        ("video generation", "diffusion", "vision-language models"),
        6,
    ),
    DemoReader("rohini@example.com", "Asia/Kolkata", ("Trending", "retrieval", "robotics"), 10),
)


@dataclass(frozen=True, slots=True)
class ReceivedMail:
    """Result for one reader; `delivery` and `digest` are None if there was nothing to send."""

    reader: DemoReader
    schedule: Schedule
    delivery: DeliveryView | None
    digest: Digest | None
    eml: bytes | None  # as received by the mailbox
    html: str | None

    @property
    def has_arrived(self) -> bool:
        sent = self.delivery is not None and self.delivery.status is DeliveryStatus.SENT
        return sent and self.eml is not None


class DemoOutput:
    """Progress on stderr: bars if it is a terminal, else plain lines."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        """Show a step; yield a function to call with the part of `total` that is done."""
        if not self._console.is_terminal:
            self._console.print(f"{title} ...", highlight=False)
            yield lambda _done: None
            return
        columns = [TextColumn("{task.description:<48}"), BarColumn(bar_width=20)]
        counted = [MofNCompleteColumn()] if total else []
        with Progress(*columns, *counted, TimeElapsedColumn(), console=self._console) as bar:
            task = bar.add_task(title, total=total)
            yield lambda done: bar.update(task, completed=done)
            bar.update(task, total=total or 1, completed=total or 1)


def print_digests(
    posts: list[ReceivedMail], reports: list[SourceReport], mail_dir: Path, *, seconds: float
) -> None:
    console = Console(highlight=False)
    for report in reports:
        console.print(_source_line(report))
    for post in posts:
        console.print()
        console.print(_heading(post))
        console.print(_papers(post.digest) if post.digest else "  No papers for these topics.")
    arrived = sum(post.has_arrived for post in posts)
    count = f"{arrived} {'digest' if arrived == 1 else 'digests'}"
    console.print()
    console.print(f"{count} arrived, in {seconds:.0f} s.{_troubles(posts)}")
    if arrived:
        console.print(Text(f"They are in {mail_dir}/, as sent (.eml) and to view (.html)."))
        console.print("The links need a site, which the demo does not run; `paperboy up` does.")


def _source_line(report: SourceReport) -> Text:
    trouble = f" ({report.error})" if report.error else ""
    return Text(f"{report.source}: {report.state}, {report.new} papers{trouble}")


def _heading(post: ReceivedMail) -> Text:
    when = f"{post.schedule.at:%H:%M} in {post.reader.timezone}"
    line = Text(post.reader.email, style="bold")
    return line.append(f"  {when}, follows {', '.join(post.reader.topics)}", style="not bold")


def _papers(digest: Digest) -> Table:
    table = Table(box=None, pad_edge=True, header_style="dim")
    table.add_column("", justify="right")
    table.add_column("Score", justify="right")
    table.add_column("Paper", ratio=3, overflow="fold")
    table.add_column("Why", ratio=2, overflow="fold")
    for position, pick in enumerate(digest.picks, start=1):
        table.add_row(str(position), f"{pick.score:.2f}", Text(pick.paper.title), _why(pick))
    if digest.more:
        table.add_row("", "", f"and {digest.more} more that did not fit", "")
    return table


def _why(pick: Pick) -> Text:
    """Return each topic with the words that matched; Trending has the upvotes instead."""
    lines = []
    for reason in pick.reasons:
        why = ", ".join(reason.phrases) or f"{pick.paper.upvotes or 0} upvotes"
        lines.append(f"{reason.label}: {why}")
    return Text("\n".join(lines))


def _troubles(posts: list[ReceivedMail]) -> str:
    statuses = [post.delivery.status for post in posts if post.delivery is not None]
    counts = {
        status: statuses.count(status)
        for status in DeliveryStatus
        if status is not DeliveryStatus.SENT and status in statuses
    }
    return "".join(f" {count} {status}." for status, count in counts.items())


# --- Processes ----------------------------------------------------------------------------------

SHOWN_AS = {  # a named site, so that the mails have realistic headers
    "SITE_URL": "https://paperboy.example.org",
    "MAIL_FROM": "Paperboy <papers@example.org>",
    "LOG_LEVEL": "ERROR",  # errors are reported at the end
}
WAKE_EVERY = 5.0  # seconds
PATIENCE = 60.0  # seconds for a step of the worker, even on a slow machine


@dataclass(frozen=True, slots=True)
class DemoProcesses:
    """Running services and processes of the demo."""

    services: Services
    worker: Child
    mailbox: Mailbox
    stop: Callable[[], bool]

    def work(
        self, task: str, count: Callable[[], int], goal: int, done: Callable[[int], None]
    ) -> None:
        """Wake the worker for `task` every WAKE_EVERY seconds, as beat would, until all is done.

        `count` returns the progress in the database; all is done when it reaches `goal`. Raise
        ServiceError if the worker ends or PATIENCE is over, and KeyboardInterrupt once `stop()` is
        true.
        """
        deadline = time.monotonic() + PATIENCE
        wake_at = time.monotonic()
        while (so_far := count()) < goal:
            done(so_far)
            if self.stop():
                raise KeyboardInterrupt
            if not self.worker.is_running():
                raise ServiceError("the Celery worker ended early")
            if time.monotonic() > deadline:
                raise ServiceError(f"the Celery worker did not finish in {PATIENCE:.0f} s")
            if time.monotonic() >= wake_at:
                self._wake(task)
                wake_at = time.monotonic() + WAKE_EVERY
            time.sleep(0.05)
        done(goal)

    def _wake(self, task: str) -> None:
        with tasks.client(self.services.settings) as client:
            client.send_task(task)


@contextmanager
def demo_processes(folder: Path, stop: Callable[[], bool]) -> Iterator[DemoProcesses]:
    box = Mailbox(folder / "mail")
    with processes.valkey() as redis, mailbox.serve("127.0.0.1", 0, box) as port:
        ours = {
            **_unless_set(SHOWN_AS),
            "DATABASE_URL": f"sqlite:///{folder / 'demo.db'}",
            "REDIS_URL": redis,
            "SMTP_URL": f"mailbox://127.0.0.1:{port}",
            "SMTP_TLS": "auto",
            # Celery warns if it runs as root; that is a decision of the caller.
            "PYTHONWARNINGS": "ignore::UserWarning",
        }
        loaded = settings.load(Path(".env"), **{name.lower(): ours[name] for name in ours})
        logs.configure(loaded)
        _migrate(loaded.database_url)
        services = bootstrap.build(loaded)
        try:
            environment = settings.child_environment(**ours)
            with processes.worker(environment, concurrency=1) as worker:
                yield DemoProcesses(services, worker, box, stop)
        finally:
            services.engine.dispose()


def _unless_set(defaults: dict[str, str]) -> dict[str, str]:
    wished = settings.load().model_fields_set
    return {name: defaults[name] for name in defaults if name.lower() not in wished}


def _migrate(url: str) -> None:
    engine = open_engine(url)
    migrate.upgrade(engine)
    engine.dispose()
