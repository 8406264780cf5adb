"""The diagnostic command: doctor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.text import Text

from pipeline import settings
from pipeline.cli.output import AsJson, lines
from pipeline.errors import SettingsError

if TYPE_CHECKING:
    from pipeline.doctor import Finding

app = typer.Typer()

MARKS = {True: ("ok", "green"), False: ("FAIL", "bold red"), None: ("?", "yellow")}


@app.command("doctor")
def doctor_command(as_json: AsJson = False) -> None:
    """Check settings, services, DNS and mail; report problems and how to fix them."""
    findings = examined(datetime.now(UTC))
    seen: list[Finding] = []
    if as_json:
        lines(asdict(finding) for finding in collected(findings, seen))
    else:
        show_findings(collected(findings, seen))
        sum_up(seen)
    if any(finding.ok is False for finding in seen):
        raise typer.Exit(1)


def examined(now: datetime) -> Iterator[Finding]:
    from pipeline import (  # imports the clients of DNS, TLS and HTTP, which takes a moment
        doctor,
        tasks,
    )

    try:
        loaded = settings.load()
    except SettingsError as error:
        yield doctor.Finding("settings", False, str(error), "correct this first, in .env")
        return
    yield from doctor.examine(loaded, now, tasks.workers)


def collected(findings: Iterator[Finding], collected: list[Finding]) -> Iterator[Finding]:
    for finding in findings:
        collected.append(finding)
        yield finding


def show_findings(findings: Iterator[Finding]) -> None:
    """Print each finding as it comes. Never wrap lines: they may be copied into a zone file."""
    console = Console(highlight=False)
    for finding in findings:
        word, style = MARKS[finding.ok]
        line = Text.assemble((f"{word:<5}", style), (finding.check, "bold"), f": {finding.detail}")
        console.print(line, soft_wrap=True)
        if finding.advice:
            console.print(Text(f"      -> {finding.advice}", "cyan"), soft_wrap=True)


def sum_up(seen: list[Finding]) -> None:
    counts = {ok: sum(finding.ok is ok for finding in seen) for ok in MARKS}
    Console(highlight=False).print(
        f"\n{counts[True]} passed, {counts[False]} failed, {counts[None]} could not be checked"
    )
