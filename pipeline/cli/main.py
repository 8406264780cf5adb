"""The `paperboy` command: its groups, errors and exit codes; passwords are hidden from `ps`."""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from typer.core import TyperGroup

from pipeline.errors import PaperboyError, SettingsError
from pipeline.setting_values import parse_login_url

if TYPE_CHECKING:
    from sqlalchemy.exc import OperationalError


@dataclass(frozen=True, slots=True)
class Entry:
    """A command or group of commands, imported when it is run."""

    module: str  # in pipeline/cli
    help: str
    group: str = ""  # the module's Typer that is the whole group; "": one command of its `app`

    def load(self, name: str) -> Any:
        """Import the command and return it. Its type is private to Typer."""
        app: typer.Typer = getattr(
            import_module(f"pipeline.cli.{self.module}"), self.group or "app"
        )
        app.rich_markup_mode = None
        group = typer.main.get_group(app)
        return group if self.group else group.commands[name]


COMMANDS: Final = {
    "demo": Entry("run", "Send three digests to a folder; needs no settings."),
    "up": Entry("run", "Run the site, workers and schedule in this terminal."),
    "serve": Entry("run", "Run the site."),
    "ingest": Entry("papers", "Fetch new papers from the sources and publish a batch."),
    "papers": Entry("papers", "List papers, newest first."),
    "sources": Entry("papers", "List the sources and the result of their last fetch."),
    "match": Entry("papers", "List the papers that match a topic, and how many a week."),
    "rank": Entry("papers", "Rank papers for topics, without a database or a threshold."),
    "publish": Entry("mail", "Compile the digests that are due into the outbox."),
    "preview": Entry("mail", "Render a subscriber's next digest; changes nothing."),
    "send": Entry("mail", "Send what is due in the outbox, from this process."),
    "deliveries": Entry("mail", "List deliveries and their status.", "deliveries_app"),
    "editions": Entry("sending", "List, pause, resume and cancel editions.", "editions"),
    "sending": Entry("sending", "Show, pause and resume sending, and its limits.", "sending"),
    "subscribers": Entry("subscribers", "Add, show, import, export and erase subscribers.", "app"),
    "suppressions": Entry(
        "subscribers", "List, add and remove blocked addresses.", "suppressions_app"
    ),
    "init": Entry("init", "Ask for the settings, test them, and write .env."),
    "config": Entry("config", "List the settings in force and where each comes from."),
    "doctor": Entry("doctor", "Check settings, services, DNS and mail, and suggest repairs."),
    "dkim": Entry("keys", "Manage the keys that sign mail.", "dkim_app"),
    "keys": Entry("keys", "Manage the keys that sign links and hash addresses.", "app"),
    "bounces": Entry("bounces", "Read bounce mails and provider events.", "app"),
    "backup": Entry("backup", "Write database, settings and keys into one file."),
    "restore": Entry("backup", "Restore a backup; no mail is sent twice."),
    "bench": Entry("bench", "Measure sending, matching and the site.", "app"),
    "db": Entry("database", "Create, upgrade and settle the database.", "app"),
}
"""Commands in the order of `paperboy --help`."""


class _Commands(TyperGroup):
    """Import a command when it is run; help and completion need only its entry."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, COMMANDS[name].load(name) if name else command, rest


app = typer.Typer(
    cls=_Commands,
    help="A self-hosted daily newsletter of research papers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _name, _entry in COMMANDS.items():
    app.command(_name, help=_entry.help)(lambda: None)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"paperboy {version('paperboy')}")
        raise typer.Exit


@app.callback()
def _configure(
    _: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    from pipeline import logs, settings

    try:
        logs.configure(settings.load())
    except SettingsError:  # reported by the command that needs the settings
        logs.configure(settings.Settings.model_construct())


START_AND_END = (48, 49)  # fields of /proc/self/stat with the addresses of the arguments, proc(5)
FIRST_FIELD = 3  # after the name in parentheses, which may contain spaces


def hide_passwords(arguments: Sequence[str]) -> None:
    """Overwrite the passwords of URLs among `arguments` in the memory that `ps` reads.

    Works on Linux, and does nothing elsewhere. The passwords are visible until this is called, and
    the shell keeps them in its history: the commands that take one warn about it.
    """
    found = [secret for argument in arguments if (secret := _password_of(argument))]
    if not found or sys.platform != "linux":
        return
    with suppress(OSError, ValueError, IndexError):
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        start, end = (int(fields[at - FIRST_FIELD]) for at in START_AND_END)
        memory = (ctypes.c_char * (end - start)).from_address(start)
        octets = memory.raw
        for secret in found:
            octets = octets.replace(secret.encode(), b"*" * len(secret.encode()))
        memory.raw = octets


def _password_of(argument: str) -> str | None:
    """Return the password of a URL as it is written in the argument, still encoded."""
    url = re.search(r"[A-Za-z][A-Za-z0-9+.]*://(.*)", argument, re.DOTALL)
    if url is None:
        return None
    with suppress(ValueError):
        if parse_login_url(url[0]).password:
            return url[1].rpartition("@")[0].partition(":")[2]
    return None


def main() -> None:
    """Run the command line; report an error as one line on stderr and exit with code 1."""
    try:
        hide_passwords(sys.argv)
        app(prog_name="paperboy")  # also as `python -m pipeline`
    except BrokenPipeError:
        pass  # the program that reads our output has stopped
    except Exception as error:  # noqa: BLE001  it is logged there
        _report(error)
    sys.exit(1)


def _report(error: Exception) -> None:
    """Print the reason without addresses and passwords, since stderr ends up in logs."""
    import structlog
    from sqlalchemy.exc import OperationalError

    from pipeline import logs
    from pipeline.cli.output import complain

    match error:
        case SettingsError():  # names the setting and shows no value
            complain(str(error))
        case PaperboyError():
            complain(logs.without_secrets(str(error)))
        case OperationalError():
            complain(f"the database cannot be used: {logs.without_secrets(_explained(error))}")
        case _:
            # Python would print the traceback with the addresses that the error quotes.
            structlog.get_logger(__name__).critical("unexpected error", exc_info=error)
            complain(f"unexpected error: {type(error).__name__}; please report it")


def _explained(error: OperationalError) -> str:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    from pipeline import settings
    from pipeline.storage import sqlite_file

    try:
        url = make_url(settings.load().database_url)
    except (SettingsError, ArgumentError):
        return str(error.orig).strip().splitlines()[0]
    return sqlite_file.explain(error, url)
