"""The readers of the demo; its output: steps on stderr, digests with their reasons on stdout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from pipeline.domain import DeliveryStatus, Digest, Pick, Schedule
from pipeline.ingest import SourceReport
from pipeline.storage.delivery_queries import DeliveryView


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
