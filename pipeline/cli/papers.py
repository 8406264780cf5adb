"""Commands about papers: ingest, papers, sources, match, rank."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline import embedding, settings
from pipeline import ingest as ingesting
from pipeline.bench import quality
from pipeline.bootstrap import Services, services
from pipeline.cli.output import (
    AsJson,
    Limit,
    Now,
    Since,
    UsageError,
    complain,
    day,
    moment,
    most,
    show,
)
from pipeline.cli.subscribers import breadth_of
from pipeline.domain import TRENDING, Breadth, Paper, SourceState
from pipeline.errors import PaperboyError, SourceError
from pipeline.ingest import SourceReport
from pipeline.matching import suggestions
from pipeline.matching.corpus import statistics
from pipeline.matching.match import found_by, search
from pipeline.matching.match import rank as rank_papers
from pipeline.matching.query import TopicQuery, parse_topic
from pipeline.matching.suggestions import hints
from pipeline.sources import LIVE, recorded_files
from pipeline.storage import ingest_state, papers
from pipeline.storage.database import PAGE, read_only

app = typer.Typer()


@app.command()
def ingest(
    source: Annotated[
        list[str] | None, typer.Option("--source", help=f"{' or '.join(LIVE)}; may repeat.")
    ] = None,
    file: Annotated[
        list[Path] | None,
        typer.Option("--file", help="A recorded answer instead of the live source; may repeat."),
    ] = None,
    since: Since = None,
    now: Now = None,
    as_json: AsJson = False,
) -> None:
    """Fetch new papers from the sources and publish them as a batch."""
    clock, first_day = moment(now), day(since)
    built = services()
    if file:
        fallback = _only(source)
        reports, failed = _ingest_files(built, file, fallback, clock)
    else:
        sources = built.sources(source or built.settings.sources)
        reports = ingesting.ingest(
            built.engine,
            sources,
            now=clock,
            since=first_day,
            embedder=built.embeddings,
            arxiv=built.arxiv,
        )
        failed = bool(reports) and all(r.state is SourceState.FAILED for r in reports)
        if not reports:
            raise PaperboyError("another ingest is running; try again later")
    columns = ("source", "state", "sightings", "new", "batch", "error")
    show(map(_source_row, reports), columns, as_json=as_json, empty="No source was read.")
    if failed:
        raise typer.Exit(1)


def _only(source: list[str] | None) -> str | None:
    if source and len(source) > 1:
        raise UsageError("--file allows at most one --source")
    return source[0] if source else None


def _ingest_files(
    built: Services, files: list[Path], fallback: str | None, clock: Any
) -> tuple[list[SourceReport], bool]:
    found, failures = [], []
    for path in files:
        try:
            found += recorded_files.read_file(path, fallback)
        except SourceError as error:
            complain(error.message)
            failures.append(SourceReport(error.source, SourceState.FAILED, error=error.message))
    reports = (
        ingesting.ingest_recorded(built.engine, found, now=clock, embedder=built.embeddings)
        if found
        else []
    )
    if found and not reports:
        raise PaperboyError("another ingest is running; try again later")
    return [*reports, *failures], bool(failures)


def _source_row(report: SourceReport) -> dict[str, Any]:
    return {
        "source": report.source,
        "state": report.state,
        "sightings": report.sightings,
        "new": report.new,
        "batch": report.batch,
        "error": report.error,
    }


@app.command("papers")
def list_papers(
    since: Since = None,
    limit: Limit = None,
    before: Annotated[
        str | None, typer.Option("--before", metavar="ID", help="Only those listed after this one.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the published papers, newest announcement first."""
    listed = _listed(services(), day(since), before, most(limit, as_json=as_json))
    rows = (
        {
            "id": paper.key,
            "title": paper.title,
            "sources": paper.sources,
            "batch": paper.batch,
            "announced_on": paper.announced_on,
        }
        for paper in listed
    )
    columns = ("id", "announced_on", "batch", "sources", "title")
    show(rows, columns, as_json=as_json, empty="No papers yet: run `paperboy ingest`.")


def _listed(
    built: Services, since: date | None, before: str | None, limit: int | None
) -> Iterator[Paper]:
    """Yield papers in the order of the list; at most `PAGE` of them are in memory."""
    with read_only(built.engine) as conn:
        through = ingest_state.published_batch(conn)
        last = papers.by_key(conn, before) if before else None
    if before and last is None:
        raise UsageError(f"--before: no paper is known as {before!r}")
    while limit is None or limit > 0:
        most_now = PAGE if limit is None else min(PAGE, limit)
        with read_only(built.engine) as conn:
            some = papers.announced(
                conn, since=since, through_batch=through, before=last, limit=most_now
            )
        if not some:
            return
        yield from some
        last, limit = some[-1], limit and limit - len(some)


@app.command()
def sources(as_json: AsJson = False) -> None:
    """List the result of each source's last fetch: fresh, quiet, stale or failed."""
    with read_only(services().engine) as conn:
        records = ingest_state.list_source_states(conn)
    columns = ("source", "state", "since", "checked_at", "news_at", "error", "next_try_at")
    rows = ({column: getattr(record, column) for column in columns} for record in records)
    show(rows, columns, as_json=as_json, empty="No source was read yet.")


@app.command()
def match(
    query: str,
    since: Since = None,
    breadth: Annotated[
        str, typer.Option(help="fewer (strict), balanced or more (broad).")
    ] = "balanced",
    as_json: AsJson = False,
) -> None:
    """List papers that match a topic, best first, with their weekly number and similar queries."""
    wanted = breadth_of(breadth)
    topic = parse_topic(query)
    for hint in hints(query):
        complain(f"{hint.text}\n  {query}\n  {' ' * hint.position}^")
    built = services()
    with read_only(built.engine) as conn:
        through = ingest_state.published_batch(conn)
        announced = papers.announced(conn, since=day(since), through_batch=through)
        corpus = papers.recent(conn, through_batch=through)
    by_id = {paper.id: paper for paper in announced}
    rows = (
        {
            "paper": by_id[found.paper_id].key,
            "title": by_id[found.paper_id].title,
            "score": round(found.score, 4),
            "phrases": found.phrases,
        }
        for found in search(
            topic.tree, announced, corpus=corpus, breadth=wanted, embedder=built.embeddings
        )
    )
    columns = ("score", "paper", "title", "phrases")
    show(rows, columns, as_json=as_json, empty="No papers match this topic.")
    if not as_json and announced:
        for line in _rate(topic, announced, corpus, wanted, built.settings.curated_topics):
            typer.echo(line)


def _rate(
    query: TopicQuery,
    announced: Sequence[Paper],
    corpus: Iterable[Paper],
    breadth: Breadth,
    curated_file: Path | None,
) -> Iterator[str]:
    """Yield lines: how many papers the topic matched lately, and narrower or broader queries."""
    # Imports the whole site, which no other command here needs.
    from pipeline.web.subscribe import curated, volume

    newest = max(paper.announced_on for paper in announced)
    lately = [p for p in announced if p.announced_on > newest - timedelta(days=suggestions.DAYS)]
    days = sorted({paper.announced_on for paper in lately})
    frequencies = statistics(corpus)
    less, more = suggestions.narrower(query.tree), suggestions.broader(query.tree, frequencies)
    topics = curated.read(curated_file or curated.DEFAULT).topics
    named = {topic.name: topic.parsed for topic in topics if topic.query != TRENDING}
    found = found_by(
        {query, *less, *more, *named.values()}, lately, corpus=frequencies, breadth=breadth
    )
    counts = {near: volume.count(_per_day(listed), days) for near, listed in found.items()}
    counted = counts[query]
    keys = {near: {paper.id for paper in listed} for near, listed in found.items()}
    others = {name: keys[near] for name, near in named.items() if near != query}
    rate = volume.volume(query.text, counted, more=(volume.overlap(keys[query], others),))
    yield ", ".join(filter(None, (rate.pace, rate.silence)))
    if rate.hint:
        yield rate.hint
    narrower = volume.narrower(counted, {near.text: counts[near] for near in less})
    broader = volume.broader(counted, {near.text: counts[near] for near in more})
    for suggestion in filter(None, (narrower, broader)):
        yield f"{suggestion.word}: {suggestion.query} ({suggestion.pace})"


def _per_day(found: Iterable[Paper]) -> Counter[date]:
    return Counter(paper.announced_on for paper in found)


@app.command()
def rank(
    papers_file: Annotated[Path, typer.Option("--papers", help="JSON lines: id, title, abstract.")],
    topics_file: Annotated[Path, typer.Option("--topics", help="JSON lines: id, query.")],
    top: Annotated[int, typer.Option(min=1)] = 1000,
    language: Annotated[
        bool, typer.Option("--language", help="Read queries as the topic language.")
    ] = False,
    breadth: Annotated[
        str | None,
        typer.Option(help="Only papers that pass this threshold: fewer, balanced or more."),
    ] = None,
) -> None:
    """Rank papers for topics, without a database; by default without a threshold."""
    threshold = breadth_of(breadth) if breadth else None
    documents, topics = quality.papers_in(papers_file), quality.topics_in(topics_file)
    embedder = embedding.from_settings(settings.load().semantic_model)
    rows = rank_papers(
        documents, topics, top=top, language=language, breadth=threshold, embedder=embedder
    )
    show(
        ({"topic": r.topic, "paper": r.paper, "score": r.score} for r in rows),
        ("topic", "paper", "score"),
        as_json=True,
        empty="",
    )
