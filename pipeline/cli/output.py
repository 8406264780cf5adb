"""How commands answer: tables for people, JSON lines for programs, one line for a failure."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console
from rich.table import Table

from pipeline.errors import PaperboyError

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line on stdout.")]
Now = Annotated[
    str | None,
    typer.Option("--now", metavar="ISO", help="Take this for the time, e.g. 2030-01-02T08:00Z."),
]
Since = Annotated[
    str | None, typer.Option("--since", metavar="DATE", help="From this day on, YYYY-MM-DD.")
]


class UsageError(typer.BadParameter):
    """A wrong use of the command line: exit code 2."""


def moment(now: str | None) -> datetime:
    """The clock of this command: `--now` where it is given; without a zone it is UTC."""
    if now is None:
        return datetime.now(UTC)
    try:
        parsed = datetime.fromisoformat(now)
    except ValueError:
        raise UsageError(f"--now: {now!r} is not a time like 2030-01-02T08:00Z") from None
    return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)


def day(text: str | None, option: str = "--since") -> date | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{option}: {text!r} is not a day like 2030-01-02") from None


def lines(rows: Iterable[Mapping[str, Any]]) -> None:
    """One JSON object a line, written as they come."""
    for row in rows:
        sys.stdout.write(json.dumps(row, ensure_ascii=False, default=_plain) + "\n")
        sys.stdout.flush()


def table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], *, empty: str) -> None:
    """The same rows for people; `empty` is what to say when there are none."""
    rows = list(rows)
    console = Console(soft_wrap=False)
    if not rows:
        console.print(empty)
        return
    drawn = Table(box=None, header_style="bold", pad_edge=False, show_edge=False)
    for column in columns:
        drawn.add_column(column, overflow="fold")
    for row in rows:
        drawn.add_row(*(_shown(row[column]) for column in columns))
    console.print(drawn)


def show(
    rows: Iterable[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool, empty: str
) -> None:
    if as_json:
        lines(rows)
    else:
        table(rows, columns, empty=empty)


@contextmanager
def new_private_file(path: Path, *, force: bool = False) -> Iterator[TextIO]:
    """A file about people, which only its owner can read: there when it is whole, else not at all.

    Raises PaperboyError where there is a file of this name, unless `force` replaces it.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    refusal = PaperboyError(f"{path}: there is a file already; choose another name, or use --force")
    if path.exists() and not force:
        raise refusal
    try:
        with open(partial, "x", encoding="utf-8", newline="", opener=_private) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if force:
            partial.replace(path)
        else:
            os.link(partial, path)  # which, unlike a rename, replaces nothing
    except FileExistsError:
        raise refusal from None
    except OSError as error:
        raise PaperboyError(f"{path}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def complain(message: str) -> None:
    """Say what is or may be wrong on stderr; who fails ends with exit code 1."""
    sys.stderr.write(f"paperboy: {message}\n")


def _plain(value: object) -> object:
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, frozenset | set | tuple):
        return list(value)
    raise TypeError(type(value))


def _shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:.2f}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    # A title may hold what rich would take for markup.
    return str(value).replace("[", r"\[")
