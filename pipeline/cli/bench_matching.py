"""Benchmarks: paperboy bench match, paperboy bench quality."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.output import AsJson, show

if TYPE_CHECKING:
    from pipeline.bench.quality import Quality

# As in cli.bench, the benchmarks take long to import.

app = typer.Typer()

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
    told = [(title, name) for title, name in COMPARED if measured[name] is not None]
    rows = ({"measured": title, "CPU": measured[name]} for title, name in told)
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

    others = read_set(elsewhere).papers if elsewhere else ()
    embedder = from_settings(load().semantic_model)
    measured = (measure(read_set(folder), others, embedder) for folder in sets)
    if as_json:
        for one in measured:
            sys.stdout.write(json.dumps(one.as_json()) + "\n")
        return
    known = list(measured)
    show(
        (one.as_json() for one in known),
        ("set", "topics", "ndcg@10", "error"),
        as_json=False,
        empty="",
    )
    columns = ("set", "breadth", "precision", "recall", "papers", "quiet", "elsewhere")
    floors = (row for one in known for row in _floors(one))
    show(floors, columns, as_json=False, empty="")


def _floors(measured: Quality) -> list[dict[str, Any]]:
    told = measured.as_json()
    return [{"set": told["set"], "breadth": name, **told["floor"][name]} for name in BREADTHS]
