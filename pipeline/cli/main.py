"""The `paperboy` command: its groups, and how it ends."""

from __future__ import annotations

import sys

import typer
from sqlalchemy.exc import OperationalError

from pipeline import logs, settings
from pipeline.cli import bench, bench_matching, mail, operate, papers, subscribers
from pipeline.cli.output import complain
from pipeline.errors import PaperboyError
from pipeline.storage import migrate
from pipeline.storage.database import open_engine

app = typer.Typer(
    name="paperboy",
    help="A self-hosted daily newsletter of research papers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
database = typer.Typer(no_args_is_help=True)
app.add_typer(operate.app)
app.add_typer(papers.app)
app.add_typer(mail.app)
app.add_typer(mail.deliveries_app, name="deliveries")
app.add_typer(subscribers.app, name="subscribers", help="Add, show, import, export and erase.")
app.add_typer(subscribers.suppressions, name="suppressions", help="Addresses we do not write to.")
app.add_typer(bench.app, name="bench")
bench.app.add_typer(bench_matching.app)
app.add_typer(database, name="db", help="The database.")


@database.command()
def upgrade() -> None:
    """Bring the database to the tables this version needs."""
    migrate.upgrade(open_engine(settings.load().database_url))


def main() -> None:
    """Run the command line; a failure is one clear line on stderr and exit code 1."""
    try:
        logs.configure(settings.load())
        app(prog_name="paperboy")  # also where it is `python -m pipeline`
    except PaperboyError as error:
        complain(str(error))
    except OperationalError as error:
        complain(f"the database cannot be used: {_first_line(error)}")
    except BrokenPipeError:
        pass  # whoever read our output has seen enough
    sys.exit(1)


def _first_line(error: OperationalError) -> str:
    return str(error.orig).strip().splitlines()[0]
