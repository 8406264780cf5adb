"""Commands to back up and restore an installation: backup, restore."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Annotated

import typer

from pipeline import backup, settings
from pipeline.bootstrap import Services
from pipeline.cli.database import (
    AssumeOption,
    Leavers,
    OldDatabase,
    settle_copy,
    settle_options,
)
from pipeline.cli.output import AsJson, Now, UsageError, complain, lines, moment, new_private_file
from pipeline.errors import PaperboyError
from pipeline.restore import Assume
from pipeline.storage import archive
from pipeline.storage.database import open_engine

app = typer.Typer()


@app.command("backup")
def back_up(
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="-: write to stdout.")],
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    now: Now = None,
    as_json: AsJson = False,
) -> None:
    """Write the database, .env and keys into one file, while Paperboy runs.

    The file contains addresses and passwords and is not encrypted; its mode is 0600.
    """
    loaded, env_file = settings.load(), settings.find_env_file()
    engine = open_engine(loaded.database_url)
    try:
        if file == "-":
            if sys.stdout.isatty():
                raise UsageError("-: stdout is a terminal; redirect it to a file")
            backup.back_up(engine, loaded, env_file, sys.stdout.buffer, moment(now))
            return
        with new_private_file(Path(file), force=force, binary=True) as target:
            manifest = backup.back_up(engine, loaded, env_file, target, moment(now))
    finally:
        engine.dispose()
    row = {"file": file, "bytes": Path(file).stat().st_size, "rows": sum(manifest.rows.values())}
    if as_json:
        lines([row])
    else:
        typer.echo(f"{row['rows']} rows in {row['bytes']:,} bytes: keep {file} like a password")


@app.command("restore")
def restore(
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="-: read from stdin.")],
    settings_to: Annotated[
        Path | None,
        typer.Option(
            "--settings",
            metavar="FOLDER",
            help="Only write the .env and keys of the backup to this folder.",
        ),
    ] = None,
    sent_until: Annotated[
        str | None,
        typer.Option(
            "--sent-until", metavar="ISO", help="When the old one last sent mail. Default: now."
        ),
    ] = None,
    assume: AssumeOption = Assume.SENT,
    old_database: OldDatabase = None,
    leavers: Leavers = None,
    now: Now = None,
    as_json: AsJson = False,
) -> None:
    """Restore a backup into an empty database and settle it as `db settle` does.

    No mail is sent twice, none to readers who left since. Sending stays paused until `paperboy
    sending start`. docs/backup.md has the whole procedure.
    """
    if file == old_database == "-":
        raise UsageError("the backup and --old-database cannot both come on stdin")
    clock = moment(now)
    with _opened(file) as source, archive.reading(source) as opened:
        if settings_to:
            for path in backup.write_settings(opened.files(), settings_to):
                typer.echo(path)
            return
        loaded, made_at = settings.load(), opened.manifest.made_at
        with settle_options(clock, sent_until, assume, old_database, leavers) as options:
            if options.until < datetime.fromisoformat(made_at):
                raise UsageError(
                    f"--sent-until: {options.until.isoformat()} is before this backup was made, "
                    f"{made_at}; without the option, the clock of this machine is wrong"
                )
            complain(f"restoring the backup of {made_at}")
            with backup.restored(opened, loaded, clock) as engine:
                settle_copy(Services(loaded, engine), clock, options, as_json=as_json)


@contextmanager
def _opened(file: str) -> Iterator[IO[bytes]]:
    """Open a backup; one from stdin is copied to a temporary file, as it is read in two places."""
    try:
        if file != "-":
            with open(file, "rb") as source:
                yield source
            return
    except OSError as error:
        raise PaperboyError(f"{file}: {error.strerror}") from error
    with tempfile.TemporaryFile(prefix="paperboy-") as copy:
        try:
            shutil.copyfileobj(sys.stdin.buffer, copy, 1 << 20)
        except OSError as error:
            raise PaperboyError(f"{tempfile.gettempdir()}: {error.strerror}") from error
        copy.seek(0)
        yield copy
