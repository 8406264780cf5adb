"""Benchmarks: paperboy bench send, web, match, quality, sentences, readers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from pipeline.cli.output import AsJson, show
from pipeline.cli.run import interruptible

if TYPE_CHECKING:
    from pipeline.bench import web as site
    from pipeline.bench.quality import Quality
    from pipeline.bench.send import Plan, Report, Round

# The benchmarks take a second to import, so each command imports its own: others must not wait.

app = typer.Typer(no_args_is_help=True)

DatabaseURL = Annotated[
    str | None,
    typer.Option(
        "--database-url",
        metavar="URL",
        help="A PostgreSQL server, for a database that is dropped afterwards; else SQLite.",
    ),
]

COMPARED = (
    ("papers read, s", "index_s"),
    ("topics matched, s", "match_s"),
    ("a topic, µs", "us_per_topic"),
    ("matches", "matches"),
    ("memory, MB", "memory_mb"),
    ("SQLite's FTS5 takes so much of that", "ratio_fts5"),
    ("plain Python takes so much of that", "ratio_plain"),
    ("a digest chosen, µs", "pick_us"),
    ("the model reads 1,000 papers, s", "embed_s"),
    ("memory of the model, MB", "embed_mb"),
    ("all readers at once as arrays, s", "arrays_s"),
)
BREADTHS = ("fewer", "balanced", "more")


@app.callback()
def bench() -> None:
    """Run benchmarks against alternatives, side by side; see docs/bench.md."""


@app.command()
def send(
    mails: Annotated[int, typer.Option("--mails", min=1, help="Of a round.")] = 2_000,
    papers: Annotated[int, typer.Option("--papers", min=1, max=50, help="Of a digest.")] = 10,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="How often.")] = 5,
    sessions: Annotated[
        int, typer.Option("--sessions", min=1, max=200, help="Connections at a time.")
    ] = 20,
    database_url: DatabaseURL = None,
    as_json: AsJson = False,
) -> None:
    """Send digests to a sink; compare with smtp-source (C) and plain Python."""
    from pipeline.bench.send import Plan, run

    plan = Plan(mails, papers, rounds, sessions, database_url)
    with interruptible(), _progress(plan) as progress:
        report = run(plan, progress)
    if as_json:
        sys.stdout.write(json.dumps(report.as_json()) + "\n")
    else:
        _show(report)


@app.command()
def web(
    papers: Annotated[int, typer.Option("--papers", min=100, help="On the site.")] = 30_000,
    searches: Annotated[int, typer.Option("--searches", min=10, help="How many.")] = 500,
    database_url: DatabaseURL = None,
    as_json: AsJson = False,
) -> None:
    """Request searches and pages from a site; compare with SQLite's full-text index."""
    from pipeline.bench.web import Plan, run

    console = Console(stderr=True)
    plan = Plan(papers, searches, database_url)
    with interruptible(), console.status("") as status:
        report = run(plan, lambda step: status.update(f"{step} ..."))
    if as_json:
        sys.stdout.write(json.dumps(report.as_json()) + "\n")
    else:
        _show_site(report)


@app.command()
def match(
    papers: Annotated[int, typer.Option("--papers", min=1)] = 1_000,
    topics: Annotated[int, typer.Option("--topics", min=1)] = 10_000,
    readers: Annotated[int, typer.Option("--readers", min=1)] = 100_000,
    as_json: AsJson = False,
) -> None:
    """Match synthetic topics with synthetic papers; compare with SQLite's FTS5 and plain Python."""
    from pipeline.bench.match import Plan, run
    from pipeline.settings import load

    measured = run(Plan(papers, topics, readers), load().semantic_model).as_json()
    if as_json:
        sys.stdout.write(json.dumps(measured) + "\n")
        return
    available = [(title, name) for title, name in COMPARED if measured[name] is not None]
    rows = ({"measured": title, "CPU": measured[name]} for title, name in available)
    show(rows, ("measured", "CPU"), as_json=False, empty="")


@app.command()
def quality(
    sets: Annotated[list[Path], typer.Argument(metavar="SET...", help="Folders of labelled sets.")],
    elsewhere: Annotated[
        Path | None,
        typer.Option(metavar="SET", help="A set of other fields: days of it should bring nothing."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score the ranking and the threshold on labelled sets; see docs/matching.md."""
    from pipeline.bench.quality import measure, read_set
    from pipeline.embedding import from_settings
    from pipeline.settings import load

    unrelated = read_set(elsewhere).papers if elsewhere else ()
    embedder = from_settings(load().semantic_model)
    measured = (measure(read_set(folder), unrelated, embedder) for folder in sets)
    if as_json:
        for result in measured:
            sys.stdout.write(json.dumps(result.as_json()) + "\n")
        return
    results = list(measured)
    show(
        (result.as_json() for result in results),
        ("set", "topics", "ndcg@10", "error"),
        as_json=False,
        empty="",
    )
    columns = ("set", "breadth", "precision", "recall", "papers", "quiet", "elsewhere")
    floors = (row for result in results for row in _floors(result))
    show(floors, columns, as_json=False, empty="")


@app.command()
def sentences(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Papers with summaries, .jsonl or .jsonl.gz.")
    ],
    train: Annotated[
        Path | None,
        typer.Option(metavar="WEIGHTS", help="Train on FILE instead, and write the weights here."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score the key sentences of abstracts against summaries; see docs/mail.md."""
    from pipeline.bench import sentences as bench

    papers = bench.read(file)
    if train:
        trained = bench.train(papers)
        bench.write(trained.weights, train)
        row = trained.as_json()
    else:
        row = bench.measure(papers).as_json()
    if as_json:
        sys.stdout.write(json.dumps(row) + "\n")
    else:
        show([row], tuple(row), as_json=False, empty="")


@app.command()
def readers(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="people.jsonl, and papers.jsonl or papers.jsonl.gz; or a labelled set.",
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Score an order learned from likes, for people or for topics; see docs/matching.md."""
    from pipeline.bench import quality
    from pipeline.bench import readers as bench
    from pipeline.embedding import from_settings
    from pipeline.settings import load

    if (folder / "qrels.jsonl").exists():
        found = [one.as_json() for one in bench.measure_topics(quality.read_set(folder))]
        shown = ("liked", "topics", "ndcg@10_static", "ndcg@10_learned", "error")
        show(found, shown, as_json=as_json, empty="No topic has three relevant papers.")
        return
    rows = [one.as_json() for one in bench.measure(folder, from_settings(load().semantic_model))]
    columns = ("liked", "order", "people", "episodes", "auc", "mrr", "hit3")
    show(rows, columns, as_json=as_json, empty="Nobody submitted papers on two days.")


def _show_site(report: site.Report) -> None:
    console = Console(highlight=False)
    console.print(
        f"{report.plan.papers:,} papers, {report.plan.searches} searches, {report.database};"
        f" all could be searched after {report.ready_s:g} s,"
        f" memory {report.memory_mb or '?'} MB"
    )
    table = _table("", "half within, ms", "99 of 100 within, ms")
    answers = {"a search": report.search, "in SQLite's FTS5, no page": report.fts5}
    for what, spread in {**answers, **report.pages, "/healthz": report.floor}.items():
        if spread:
            table.add_row(what, f"{spread.p50:,.1f}", f"{spread.p99:,.1f}")
    console.print(table)


@contextmanager
def _progress(plan: Plan) -> Iterator[Callable[[Round], None]]:
    """Show a progress bar on stderr, if that is a terminal; yield its callback."""
    console = Console(stderr=True)
    columns = (TextColumn("Rounds"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=plan.rounds)
        yield lambda _round: bar.advance(task)


def _show(report: Report) -> None:
    console, measured, plan = Console(highlight=False), report.as_json(), report.plan
    console.print(
        f"{plan.mails:,} digests of {plan.papers} papers, {plan.rounds} rounds,"
        f" {plan.sessions} connections, {report.database}, {report.sink},"
        f" {measured['bytes_per_mail']:,} bytes a mail"
    )
    console.print(_rates(measured))
    console.print(_steps(measured))
    if measured["ratio_smtp_source"] is None:
        console.print("Postfix is not installed: the sink is our own in Python, which is slower,")
        console.print("and there is nothing in C to compare with (Debian: apt install postfix).")


def _rates(measured: dict[str, Any]) -> Table:
    table = _table("sent by", "mails a second", "paperboy is")
    lowest, highest = measured["emails_per_s_range"]
    table.add_row("paperboy", f"{measured['emails_per_s']:,.0f} ({lowest:,.0f}-{highest:,.0f})", "")
    rivals = {
        "smtp-source, a connection a mail": "smtp_source",
        "smtp-source -d, connections kept": "smtp_source_reusing",
        "Jinja2, EmailMessage, smtplib": "plain",
    }
    for title, name in rivals.items():
        if (ratio := measured[f"ratio_{name}"]) is not None:
            table.add_row(title, f"{measured[f'{name}_per_s']:,.0f}", f"{ratio:.2f} of it")
    return table


def _steps(measured: dict[str, Any]) -> Table:
    table = _table("step", "CPU a mail, µs", "")
    for step, microseconds in measured["us_per_mail"].items():
        table.add_row(step, f"{microseconds:,.0f}", "")
    table.add_row("all of the sender", f"{measured['sender_cpu_us']:,.0f}", "")
    table.add_row("the sink", f"{measured['sink_cpu_us']:,.0f}", "")
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column(first)
    for other in others:
        table.add_column(other, justify="right")
    return table


def _floors(measured: Quality) -> list[dict[str, Any]]:
    scores = measured.as_json()
    return [{"set": scores["set"], "breadth": name, **scores["floor"][name]} for name in BREADTHS]
