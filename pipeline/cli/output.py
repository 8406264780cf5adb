"""Output of commands: tables for people, JSON lines for programs, one line for an error."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, date, datetime, time
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Annotated, Any, Final, Literal, TextIO, overload

import typer
from rich.console import Console
from rich.table import Table

from pipeline.errors import PaperboyError

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line on stdout.")]
Now = Annotated[
    str | None,
    typer.Option(
        "--now", metavar="ISO", help="Use this as the current time, e.g. 2030-01-02T08:00Z."
    ),
]
Since = Annotated[
    str | None, typer.Option("--since", metavar="DATE", help="From this day on, YYYY-MM-DD.")
]
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit", min=1, metavar="N", help="At most so many, the newest; 100, with --json all."
    ),
]
Before = Annotated[
    int | None, typer.Option("--before", metavar="ID", help="Only those with a lower id.")
]
After = Annotated[
    int | None,
    typer.Option("--after", metavar="ID", help="Only those with a higher id, the oldest first."),
]
ROWS: Final = 100  # of a table, unless --limit is given


class UsageError(typer.BadParameter):
    """Invalid use of the command line: exit code 2."""


def moment(now: str | None) -> datetime:
    """Return the time given by `--now`, or the current time; UTC if it has no time zone."""
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


def midnight(since: str | None) -> datetime | None:
    """Return the start of a day in UTC; None if no day is given."""
    first = day(since)
    return None if first is None else datetime.combine(first, time(), UTC)


def most(limit: int | None, *, as_json: bool) -> int | None:
    """Return the maximum number of rows to list; None for all."""
    return limit if limit or as_json else ROWS


def lines(rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per line, and flush after each."""
    for row in rows:
        sys.stdout.write(json.dumps(row, ensure_ascii=False, default=_plain) + "\n")
        sys.stdout.flush()


def table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], *, empty: str) -> None:
    """Print the rows as a table, or the text `empty` if there are none."""
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


@overload
def new_private_file(
    path: Path, *, force: bool = ..., binary: Literal[False] = ...
) -> AbstractContextManager[TextIO]: ...
@overload
def new_private_file(
    path: Path, *, force: bool = ..., binary: Literal[True]
) -> AbstractContextManager[IO[bytes]]: ...
@contextmanager
def new_private_file(path: Path, *, force: bool = False, binary: bool = False) -> Iterator[Any]:
    """Open a file with personal data for writing, readable by its owner only (mode 0600).

    It appears under its name when it is complete and synced to disk, or not at all. Raise
    PaperboyError if the file exists and not `force`, or if it cannot be written.
    """
    # Random, not the process id: in a container that was killed, the next process has the same.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    refusal = PaperboyError(f"{path}: the file exists; choose another name, or use --force")
    if path.exists() and not force:
        raise refusal
    try:
        raw = open(partial, "xb", opener=_private)  # noqa: SIM115  (closed by the next line)
        with raw if binary else TextIOWrapper(raw, encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if force:
            partial.replace(path)
        else:
            os.link(partial, path)  # unlike a rename, a link replaces no existing file
    except FileExistsError:
        raise refusal from None
    except OSError as error:
        raise PaperboyError(f"{path}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def complain(message: str) -> None:
    """Print a warning or an error on stderr; on an error the caller also exits with code 1."""
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
    # A title may contain text that rich would parse as markup.
    return str(value).replace("[", r"\[")
