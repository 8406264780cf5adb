"""The whole pipeline once, in a folder of its own: three readers, their mail, nothing left behind.

Everything is the real thing but the internet: migrations, a Valkey, a Celery worker, an SMTP
server. Only the papers are recorded ones, unless the live sources are asked for.
"""

from __future__ import annotations

import time as clock
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from pipeline import bootstrap, embedded, logs, mailbox, settings, signup, slots, tasks
from pipeline.bootstrap import Services
from pipeline.domain import DeliveryStatus, Digest, Pick, Schedule, SourceState
from pipeline.embedded import Child
from pipeline.errors import PaperboyError, ServiceError
from pipeline.ingest import SourceReport, ingest_recorded
from pipeline.mailbox import Mailbox
from pipeline.sources import Reading, recorded
from pipeline.storage import deliveries, digests, migrate, subscribers
from pipeline.storage.database import open_engine, reading
from pipeline.storage.deliveries import DeliveryView

SAMPLES = Path(__file__).parent / "samples"
SAMPLE = (SAMPLES / "huggingface.json", SAMPLES / "arxiv.jsonl")
SHOWN_AS = {  # a site with a name, so that the mails have the headers of real ones
    "SITE_URL": "https://paperboy.example.org",
    "MAIL_FROM": "Paperboy <papers@example.org>",
    "LOG_LEVEL": "ERROR",  # what went wrong is told at the end
}
PATIENCE = 60.0  # seconds for a step of the worker, on a slow machine too
ON_THE_WAY = frozenset({DeliveryStatus.QUEUED, DeliveryStatus.LEASED, DeliveryStatus.SENDING})


@dataclass(frozen=True, slots=True)
class Reader:
    email: str
    timezone: str
    topics: tuple[str, ...]
    max_papers: int


READERS = (
    Reader(
        "ada@example.org",
        "Europe/London",
        ("agents", "reinforcement learning", '"large language models" reasoning'),
        8,
    ),
    Reader(
        "grace@example.net",
        "America/New_York",
        ("video generation", "diffusion", "vision-language models"),
        6,
    ),
    Reader("rohini@example.com", "Asia/Kolkata", ("Trending", "retrieval", "robotics"), 10),
)


@dataclass(frozen=True, slots=True)
class Post:
    """What one reader got: `delivery` and `digest` are None where nothing was for them."""

    reader: Reader
    schedule: Schedule
    delivery: DeliveryView | None
    digest: Digest | None
    eml: bytes | None  # what came in at the mailbox
    html: str | None

    @property
    def has_arrived(self) -> bool:
        sent = self.delivery is not None and self.delivery.status is DeliveryStatus.SENT
        return sent and self.eml is not None


def run(
    *, files: tuple[Path, ...] = SAMPLE, live: bool = False, mail_dir: Path, now: datetime
) -> None:
    """Send three digests to `mail_dir`, and tell why each paper is in them.

    Raises PaperboyError unless everything that was owed arrived.
    """
    started, story = clock.monotonic(), Story()
    found = [] if live else [answer for path in files for answer in recorded.read_file(path)]
    with TemporaryDirectory(prefix="paperboy-demo-") as folder, ExitStack() as stack:
        with story.step("Starting Valkey, a Celery worker and a mailbox"):
            stage = stack.enter_context(_stage(Path(folder)))
        with story.step("Subscribing three readers", len(READERS)) as done:
            schedules = _subscribe(stage.services, now, done)
        with story.step("Reading today's papers" if live else "Reading recorded papers"):
            reports = _ingest(stage.services, found, now)
        _publish(stage, story)
        _dispatch(stage, story)
        posts = _collect(stage, schedules)
    _write(posts, mail_dir)
    _tell(posts, reports, mail_dir, seconds=clock.monotonic() - started)
    _complain(posts)


# --- The stage ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stage:
    """Everything that runs while the demo does."""

    services: Services
    worker: Child
    mailbox: Mailbox

    def wake(self, task: str) -> None:
        """Put a task in the queue, as beat would."""
        with tasks.client(self.services.settings) as client:
            client.send_task(task)

    def wait(self, count: Callable[[], int], goal: int, done: Callable[[int], None]) -> None:
        """Until `count` tells `goal`; the truth is in the database. Raises ServiceError."""
        deadline = clock.monotonic() + PATIENCE
        while (so_far := count()) < goal:
            done(so_far)
            if not self.worker.is_running():
                raise ServiceError("the Celery worker ended early")
            if clock.monotonic() > deadline:
                raise ServiceError(f"the Celery worker did not finish in {PATIENCE:.0f} s")
            clock.sleep(0.05)
        done(goal)


@contextmanager
def _stage(folder: Path) -> Iterator[Stage]:
    box = Mailbox(folder / "mail")
    with embedded.valkey() as redis, mailbox.serve("127.0.0.1", 0, box) as port:
        ours = {
            **_unless_set(SHOWN_AS),
            "DATABASE_URL": f"sqlite:///{folder / 'demo.db'}",
            "REDIS_URL": redis,
            "SMTP_URL": f"smtp://127.0.0.1:{port}",
            "SMTP_TLS": "auto",
            # Celery warns of being run by root, which is for whoever runs us to decide.
            "PYTHONWARNINGS": "ignore::UserWarning",
        }
        loaded = settings.load(Path(".env"), **{name.lower(): ours[name] for name in ours})
        logs.configure(loaded)
        _migrate(loaded.database_url)
        services = bootstrap.build(loaded)
        try:
            environment = settings.child_environment(**ours)
            with embedded.worker(environment, concurrency=1) as worker:
                yield Stage(services, worker, box)
        finally:
            services.engine.dispose()


def _unless_set(defaults: dict[str, str]) -> dict[str, str]:
    wished = settings.load().model_fields_set
    return {name: defaults[name] for name in defaults if name.lower() not in wished}


def _migrate(url: str) -> None:
    engine = open_engine(url)
    migrate.upgrade(engine)
    engine.dispose()


# --- The steps ----------------------------------------------------------------------------------


def _subscribe(
    services: Services, now: datetime, done: Callable[[int], None]
) -> dict[str, Schedule]:
    """Everybody's hour has just struck, wherever they live."""
    schedules = {}
    for number, reader in enumerate(READERS, start=1):
        hour = now.astimezone(slots.zone(reader.timezone)).hour
        schedule = Schedule(time(hour), reader.timezone)
        signup.add(
            services.engine,
            reader.email,
            signup.Wishes(reader.topics, schedule, reader.max_papers),
            confirmed=True,
            suppression_key=services.suppression_key,
            now=now - timedelta(hours=3),  # or their first slot would be tomorrow's
        )
        schedules[reader.email] = schedule
        done(number)
    return schedules


def _ingest(
    services: Services, found: list[tuple[str, Reading]], now: datetime
) -> list[SourceReport]:
    """Store what was `found` in files; where that is nothing, ask the real sources."""
    if found:
        return ingest_recorded(services.engine, found, now=now)
    reports = services.ingest(now)
    failed = [report for report in reports if report.state is SourceState.FAILED]
    if len(failed) == len(reports):
        why = "; ".join(f"{report.source}: {report.error}" for report in failed)
        raise PaperboyError(f"no source could be read ({why}); without internet leave out --live")
    return reports


def _publish(stage: Stage, story: Story) -> None:
    def served() -> int:
        with reading(stage.services.engine) as conn:
            return sum(s.last_edition_on is not None for s in subscribers.listing(conn))

    with story.step("Compiling their digests", len(READERS)) as done:
        stage.wake("paperboy.publish")
        stage.wait(served, len(READERS), done)


def _dispatch(stage: Stage, story: Story) -> None:
    def counts() -> tuple[int, int]:
        with reading(stage.services.engine) as conn:
            known = deliveries.counts(conn)
        return sum(known.values()), sum(known.get(status, 0) for status in ON_THE_WAY)

    total, _ = counts()
    with story.step("Sending them by SMTP", total) as done:
        stage.wake("paperboy.dispatch")
        stage.wait(lambda: total - counts()[1], total, done)


def _collect(stage: Stage, schedules: dict[str, Schedule]) -> list[Post]:
    with reading(stage.services.engine) as conn:
        owed = {view.email: view for view in deliveries.listing(conn)}
        frozen = digests.load(conn, [view.id for view in owed.values()])
    letters = {letter.to: stage.mailbox.read(letter.id) for letter in stage.mailbox.messages()}
    posts = []
    for reader in READERS:
        view, letter = owed.get(reader.email), letters.get(reader.email)
        posts.append(
            Post(
                reader=reader,
                schedule=schedules[reader.email],
                delivery=view,
                digest=frozen.get(view.id) if view else None,
                eml=letter.raw if letter else None,
                html=letter.html if letter else None,
            )
        )
    return posts


def _write(posts: list[Post], mail_dir: Path) -> None:
    try:
        mail_dir.mkdir(parents=True, exist_ok=True)
        for post in posts:
            _write_or_remove(mail_dir / f"{post.reader.email}.eml", post.eml)
            html = post.html.encode() if post.html is not None else None
            _write_or_remove(mail_dir / f"{post.reader.email}.html", html)
    except OSError as error:
        raise PaperboyError(f"the mail cannot be written: {error}") from error


def _write_or_remove(path: Path, content: bytes | None) -> None:
    """Nothing of an earlier demo may pass for the mail of this one."""
    if content is None:
        path.unlink(missing_ok=True)
        return
    path.write_bytes(content)


def _complain(posts: list[Post]) -> None:
    owed = [post for post in posts if post.delivery is not None]
    if not owed:
        raise PaperboyError("no digest was sent: no paper is about what the three readers follow")
    lost = [
        f"{post.reader.email} ({post.delivery.status}: {post.delivery.reason})"
        for post in owed
        if post.delivery is not None and not post.has_arrived
    ]
    if lost:
        raise PaperboyError(f"{len(lost)} of {len(owed)} digests did not arrive: {', '.join(lost)}")


# --- What people see ----------------------------------------------------------------------------


class Story:
    """The steps as they happen, on stderr: bars for people, plain lines for a file."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        """Yields what is to be called with how much of `total` is done."""
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


def _tell(
    posts: list[Post], reports: list[SourceReport], mail_dir: Path, *, seconds: float
) -> None:
    console = Console(highlight=False)
    for report in reports:
        console.print(_source_line(report))
    for post in posts:
        console.print()
        console.print(_heading(post))
        console.print(_papers(post.digest) if post.digest else "  No paper for these topics.")
    arrived = sum(post.has_arrived for post in posts)
    console.print()
    console.print(f"{arrived} digests arrived, in {seconds:.0f} s.{_troubles(posts)}")
    console.print(
        Text(f"The mail is in {mail_dir}/: NAME.eml as it was sent, NAME.html to look at.")
    )
    console.print("The demo has no site for its links to lead to; `paperboy up` has one.")


def _source_line(report: SourceReport) -> Text:
    trouble = f" ({report.error})" if report.error else ""
    return Text(f"{report.source}: {report.state}, {report.new} papers{trouble}")


def _heading(post: Post) -> Text:
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
        table.add_row("", "", f"and {digest.more} more that found no place", "")
    return table


def _why(pick: Pick) -> Text:
    """Each topic with the words that matched it; Trending has none but the upvotes."""
    lines = []
    for reason in pick.reasons:
        words = ", ".join(reason.phrases) or f"{pick.paper.upvotes or 0} upvotes"
        lines.append(f"{reason.label}: {words}")
    return Text("\n".join(lines))


def _troubles(posts: list[Post]) -> str:
    statuses = [post.delivery.status for post in posts if post.delivery is not None]
    counts = {
        status: statuses.count(status)
        for status in DeliveryStatus
        if status is not DeliveryStatus.SENT and status in statuses
    }
    return "".join(f" {count} {status}." for status, count in counts.items())
