"""The `paperboy` command: its groups, errors and exit codes."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from typer.core import TyperGroup

from pipeline.cli.process import hide_passwords
from pipeline.errors import PaperboyError, SettingsError

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
    "doctor": Entry("doctor", "Check settings, services, DNS and mail, and suggest repairs."),
    "dkim": Entry("dkim", "Manage the keys that sign mail.", "app"),
    "keys": Entry("keys", "Manage the keys that sign links and hash addresses.", "app"),
    "bounces": Entry("bounces", "Read bounce mails and provider events.", "app"),
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
