"""The `paperboy` command: its groups, and how it ends."""

from __future__ import annotations

import sys

import structlog
import typer
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, OperationalError

from pipeline import logs, settings
from pipeline.cli import (
    bench,
    bench_matching,
    bounces,
    database,
    dkim,
    doctor,
    keys,
    mail,
    operate,
    pace,
    papers,
    subscribers,
)
from pipeline.cli.arguments import hide_passwords
from pipeline.cli.output import complain
from pipeline.errors import PaperboyError, SettingsError
from pipeline.settings import Settings
from pipeline.storage import sqlite_file

log = structlog.get_logger(__name__)

app = typer.Typer(
    name="paperboy",
    help="A self-hosted daily newsletter of research papers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(operate.app)
app.add_typer(papers.app)
app.add_typer(mail.app)
app.add_typer(mail.deliveries_app, name="deliveries")
app.add_typer(pace.editions, name="editions", help="List, pause, resume and cancel editions.")
app.add_typer(pace.sending, name="sending", help="Stop sending, start it, and how fast it goes.")
app.add_typer(subscribers.app, name="subscribers", help="Add, show, import, export and erase.")
app.add_typer(subscribers.suppressions, name="suppressions", help="Addresses we do not write to.")
app.add_typer(doctor.app)
app.add_typer(dkim.app, name="dkim", help="Keys that sign the mail.")
app.add_typer(keys.app, name="keys", help="Keys that sign links and hide addresses.")
app.add_typer(bounces.app, name="bounces", help="Mails that came back.")
app.add_typer(bench.app, name="bench")
bench.app.add_typer(bench_matching.app)
app.add_typer(database.app, name="db", help="The database.")


def main() -> None:
    """Run the command line; a failure is one clear line on stderr and exit code 1."""
    try:
        hide_passwords(sys.argv)
        _configure_logs()
        app(prog_name="paperboy")  # also where it is `python -m pipeline`
    except PaperboyError as error:
        complain(_told(error))
    except OperationalError as error:
        complain(f"the database cannot be used: {logs.without_secrets(_explained(error))}")
    except BrokenPipeError:
        pass  # whoever read our output has seen enough
    except Exception as error:
        # Python would print the traceback as it is, with whatever addresses its error quotes.
        log.critical("a mistake of ours", exc_info=True)
        complain(f"this should not have happened: {type(error).__name__}; please report it")
    sys.exit(1)


def _configure_logs() -> None:
    try:
        logs.configure(settings.load())
    except SettingsError:  # the command that needs them says so: `doctor` in its own way
        logs.configure(Settings.model_construct())


def _told(error: PaperboyError) -> str:
    """Our stderr ends in somebody's log. What we say of settings shows no value, but examples."""
    return str(error) if isinstance(error, SettingsError) else logs.without_secrets(str(error))


def _explained(error: OperationalError) -> str:
    try:
        url = make_url(settings.load().database_url)
    except (SettingsError, ArgumentError):
        return str(error.orig).strip().splitlines()[0]
    return sqlite_file.explain(error, url)
