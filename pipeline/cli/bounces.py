"""Commands about what comes back: bounces read."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli.output import AsJson, complain, show
from pipeline.domain import Notice
from pipeline.errors import PaperboyError
from pipeline.feedback.mailboxes import Found, Unreadable, mail_from, mails_at, mails_named
from pipeline.feedback.reading import read_mail

app = typer.Typer(no_args_is_help=True)

_COLUMNS = ("file", "kind", "recipients", "status", "reason")


@app.callback()
def bounces() -> None:
    """Bounces, complaints and other mails that come back."""


@app.command()
def read(
    path: Annotated[
        str, typer.Argument(metavar="PATH|-", help="A file, a folder, a Maildir; -: stdin.")
    ],
    names: Annotated[
        bool, typer.Option("--names", help="PATH (or stdin) is a list of file names, one a line.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what each mail is; needs no database.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Read mails that came back, and say of each what it is.

    A mail that cannot be read is named on stderr, the others go on, and the exit code is 1.
    """
    if not dry_run:
        raise PaperboyError("applying what came back is not built in yet; use --dry-run")
    unreadable: list[str] = []
    rows = (_row(name, notice) for name, notice in _notices(path, unreadable, names=names))
    show(rows, _COLUMNS, as_json=as_json, empty="No mails there.")
    if unreadable:
        raise typer.Exit(1)


def _notices(path: str, unreadable: list[str], *, names: bool) -> Iterator[tuple[str, Notice]]:
    """Name and notice of each mail; what could not be read is added to `unreadable`."""
    for mail in _mails(path, names=names):
        if isinstance(mail, Unreadable):
            complain(f"{mail.name}: {mail.why}")
            unreadable.append(mail.name)
        else:
            yield mail.name, read_mail(mail.octets)


def _mails(path: str, *, names: bool) -> Iterator[Found | Unreadable]:
    if not names:
        yield from mail_from(sys.stdin.buffer) if path == "-" else mails_at(Path(path))
        return
    if path == "-":
        yield from mails_named(sys.stdin.buffer)
        return
    try:
        with Path(path).open("rb") as listed:
            yield from mails_named(listed)
    except OSError as error:
        raise PaperboyError(f"{path}: {error.strerror}") from error


def _row(name: str, notice: Notice) -> dict[str, Any]:
    return {
        "file": name,
        "kind": notice.kind,
        "recipients": notice.recipients,
        "status": notice.status,
        "reason": notice.reason,
    }
