"""Command that reads bounce mail: bounces read."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline import settings
from pipeline.cli.output import AsJson, UsageError, complain, show
from pipeline.domain import Notice
from pipeline.errors import PaperboyError
from pipeline.feedback.bounces import read_mail
from pipeline.feedback.imap import is_imap
from pipeline.feedback.mailboxes import (
    FoundMail,
    Unreadable,
    is_maildir,
    mail_from,
    mails_at,
    mails_named,
)
from pipeline.feedback.process import Effect
from pipeline.setting_values import parse_login_url

app = typer.Typer(no_args_is_help=True)

_COLUMNS = ("file", "kind", "recipients", "status", "reason")


@app.callback()
def bounces() -> None:
    """Read bounces, complaints and other feedback mail."""


@app.command()
def read(
    path: Annotated[
        str | None,
        typer.Argument(
            metavar="[PATH|-|imap://...]",
            help="A file, a folder, a Maildir, a mailbox (imaps://user@host/FOLDER); -: stdin; "
            "nothing: BOUNCE_MAILBOX.",
        ),
    ] = None,
    names: Annotated[
        bool, typer.Option("--names", help="PATH (or stdin) is a list of file names, one a line.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only classify each mail; needs no database.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Read bounce mails and apply them: suppress, add strikes, unsubscribe.

    If a mail cannot be read, it is named on stderr, the others are still read, and the exit code is
    1. In an IMAP mailbox or a Maildir only new mails are read, and filed once they are applied.

    The password of a mailbox comes from BOUNCE_MAILBOX_PASSWORD or BOUNCE_MAILBOX; otherwise it is
    prompted for. On the command line, other users of this machine would see it.
    """
    if path is None or not dry_run:
        path = _with_password(path)
    unreadable: list[str] = []
    if dry_run:
        mails = _readable(path, unreadable, names=names)
        rows = (_row(name, read_mail(octets)) for name, octets in mails)
        show(rows, _COLUMNS, as_json=as_json, empty="No mails found.")
    else:
        applied = _applied(path, unreadable, names=names)  # also adds mails that failed to apply
        show(applied, (*_COLUMNS, "effect"), as_json=as_json, empty="No new mails found.")
    if unreadable:
        raise typer.Exit(1)


def _with_password(path: str | None) -> str:
    """Return the path to read, or the mailbox URL with its password.

    Prompt for a missing password if stdin is a terminal.
    """
    if path is not None and not is_imap(path):
        return path
    if path is not None and _password_in(path):
        complain(
            "a password on the command line is visible to other users and stored by the shell: "
            "omit it, and set BOUNCE_MAILBOX_PASSWORD or enter it at the prompt"
        )
    url = settings.load().mailbox_url(path)
    if _password_in(url) or not sys.stdin.isatty():
        return url
    address = parse_login_url(url)
    secret = typer.prompt(f"Password of {address.username} at {address.host}", hide_input=True)
    return str(replace(address, password=secret))


def _password_in(url: str) -> str | None:
    try:
        return parse_login_url(url).password
    except ValueError:
        return None  # `mailbox_url` reports the error


def _applied(path: str, unreadable: list[str], *, names: bool) -> Iterator[dict[str, Any]]:
    from pipeline.bootstrap import services  # not needed by a dry run

    built, now = services(), datetime.now(UTC)
    if not names and (is_imap(path) or is_maildir(Path(path))):
        mails = iter(built.read_mailbox(path, read_mail, now))
    else:
        mails = built.read_bounces(_readable(path, unreadable, names=names), read_mail, now)
    for mail in mails:
        if mail.effect is Effect.FAILED:
            complain(f"{mail.name}: could not be applied; see the log")
            unreadable.append(mail.name)
        yield {**_row(mail.name, mail.notice), "effect": mail.effect}


def _readable(path: str, unreadable: list[str], *, names: bool) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the octets of each mail; add unreadable ones to `unreadable`.

    Raise UsageError for an IMAP mailbox, since reading would mark its mails as read.
    """
    if is_imap(path):
        raise UsageError("a mailbox is not read for a dry run: it would be marked as read")
    for mail in _mails(path, names=names):
        if isinstance(mail, Unreadable):
            complain(f"{mail.name}: {mail.why}")
            unreadable.append(mail.name)
        else:
            yield mail.name, mail.octets


def _mails(path: str, *, names: bool) -> Iterator[FoundMail | Unreadable]:
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
