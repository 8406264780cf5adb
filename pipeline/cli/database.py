"""Commands about the database: db upgrade, db settle."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy import Engine
from sqlalchemy.engine import make_url

from pipeline import settings
from pipeline.bootstrap import Services, services
from pipeline.cli.output import AsJson, Now, UsageError, complain, lines, moment, show
from pipeline.errors import PaperboyError
from pipeline.restore import Assume, Settling
from pipeline.signup.csv_lists import SubscriberList
from pipeline.storage import migrate
from pipeline.storage.database import open_engine, retry_until_available
from pipeline.storage.keys import in_use as keys_in_use

app = typer.Typer(no_args_is_help=True)


@app.command()
def upgrade(
    wait: Annotated[
        float,
        typer.Option(
            "--wait",
            metavar="SECONDS",
            min=0,
            max=3600,
            help="Retry for so long while the server does not answer.",
        ),
    ] = 0,
) -> None:
    """Migrate the database to this version; create keys if none are set."""
    loaded = settings.load()
    engine = open_engine(loaded.database_url)
    if wait:
        retry_until_available(engine.connect, lambda seconds: seconds >= wait).close()
    key = loaded.suppression_key.get_secret_value() if loaded.suppression_key else None
    migrate.upgrade(engine)
    keys_in_use(engine, loaded.secret_key, key, now=datetime.now(UTC), link_life=timedelta())


AssumeOption = Annotated[
    Assume,
    typer.Option(
        "--assume", help="sent: what was due until then is not sent again; unsent: it is."
    ),
]
OldDatabase = Annotated[
    str | None,
    typer.Option(
        "--old-database",
        metavar="URL|-",
        help="The old database, if it can be read; -: its URL comes on stdin.",
    ),
]
Leavers = Annotated[
    Path | None,
    typer.Option("--leavers", metavar="CSV", help="Addresses that have left since the dump."),
]


@app.command()
def settle(
    sent_until: Annotated[
        str,
        typer.Option("--sent-until", metavar="ISO", help="When the old database last sent mail."),
    ],
    assume: AssumeOption = Assume.SENT,
    old_database: OldDatabase = None,
    leavers: Leavers = None,
    now: Now = None,
    as_json: AsJson = False,
) -> None:
    """Settle a restored database: no mail is sent twice, none to addresses that left since.

    All sending is held; `paperboy sending start` resumes it. docs/backup.md has the whole
    procedure.
    """
    clock = moment(now)
    with settle_options(clock, sent_until, assume, old_database, leavers) as options:
        settle_copy(services(), clock, options, as_json=as_json)


@dataclass(frozen=True, slots=True)
class SettleOptions:
    """The options of `settle`, checked and opened."""

    until: datetime
    assume: Assume
    old: Engine | None
    leavers: SubscriberList | None


@contextmanager
def settle_options(
    clock: datetime,
    sent_until: str | None,
    assume: Assume,
    old_database: str | None,
    leavers: Path | None,
) -> Iterator[SettleOptions]:
    """Check and open the options of `settle`; without `sent_until`, until now.

    Raises UsageError and PaperboyError, before anything is restored.
    """
    until = _moment(sent_until) if sent_until else clock
    if until > clock:
        raise UsageError("--sent-until: is in the future")
    with ExitStack() as opened:
        old = opened.enter_context(_old(old_database)) if old_database else None
        try:
            binary = opened.enter_context(open(leavers, "rb")) if leavers else None
        except OSError as error:
            raise PaperboyError(f"{leavers}: {error.strerror}") from error
        listed = SubscriberList(binary, str(leavers)) if binary else None
        yield SettleOptions(until, assume, old, listed)


def settle_copy(built: Services, clock: datetime, options: SettleOptions, *, as_json: bool) -> None:
    """Settle the restored database of `built` and print the report; see `settle`."""
    settling = Settling(
        built.engine, built.suppression_key, options.until, clock, built.settings.max_papers,
        options.assume, options.old,
    )  # fmt: skip
    row = asdict(settling.run(options.leavers))
    if as_json:
        lines([row])
    else:
        fields = ({"": name.replace("_", " "), "value": value} for name, value in row.items())
        show(fields, ("", "value"), as_json=False, empty="")
    complain("all sending is paused: check this report, then run `paperboy sending start`")


def _moment(text: str) -> datetime:
    """Return the time of `--sent-until`. It needs a zone: mail servers log local times."""
    with suppress(ValueError):
        if datetime.fromisoformat(text).tzinfo is None:
            raise UsageError(f"--sent-until: {text!r} needs a zone, as in 2030-01-02T08:00+01:00")
    try:
        return moment(text)
    except UsageError:
        raise UsageError(f"--sent-until: {text!r} is not a time like 2030-01-02T08:00Z") from None


@contextmanager
def _old(url: str) -> Iterator[Engine]:
    """Open the replaced database, for reading only; raise PaperboyError if there is no such file.

    A URL with a password belongs on stdin, since `ps` shows arguments.
    """
    given = sys.stdin.readline().strip() if url == "-" else url
    engine = open_engine(given)
    path = make_url(given).database
    if engine.dialect.name == "sqlite" and not (path and Path(path).is_file()):
        raise PaperboyError("--old-database: no such file")
    try:
        migrate.check(engine)
        yield engine
    finally:
        engine.dispose()
