"""Commands about the keys of this installation: keys list, show, renew."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import typer

from pipeline import settings
from pipeline.cli.output import AsJson, show
from pipeline.errors import NotFoundError
from pipeline.storage import keys, migrate
from pipeline.storage.database import open_engine, read_only, retry_transaction
from pipeline.storage.keys import KeyName, fingerprint

app = typer.Typer(no_args_is_help=True)


@app.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """List the keys with their source and fingerprint."""
    show(_rows(), ("name", "source", "fingerprint", "since"), as_json=as_json, empty="No keys yet.")


@app.command("show")
def show_keys() -> None:
    """Print the keys that Paperboy generated, as lines for .env: keep them secret."""
    loaded = settings.load()
    engine = open_engine(loaded.database_url)
    migrate.check(engine)
    with read_only(engine) as conn:
        made = [row for row in keys.kept(conn).values() if row.value]
    if not made:
        raise NotFoundError("Paperboy has generated no keys: they are in the settings")
    for row in made:
        typer.echo(f"{row.name}={row.value}")


@app.command()
def renew() -> None:
    """Replace the SECRET_KEY that Paperboy generated, if a copy of the database was stolen.

    Links in sent mails stop working, except those to unsubscribe. Restart the site and the workers
    afterwards.
    """
    engine = open_engine(settings.load().database_url)
    migrate.check(engine)

    @retry_transaction
    def once() -> bool:
        with engine.begin() as conn:
            return keys.renew_secret(conn, datetime.now(UTC))

    if not once():
        raise NotFoundError("Paperboy has generated no SECRET_KEY: change it in the settings")
    typer.echo("SECRET_KEY was replaced. Restart the site and the workers now.")


def _rows() -> Iterator[dict[str, Any]]:
    loaded = settings.load()
    engine = open_engine(loaded.database_url)
    migrate.check(engine)
    with read_only(engine) as conn:
        known = keys.kept(conn)
    for key in loaded.secret_key:
        yield _row(KeyName.SECRET, "settings", fingerprint(key), None)
    for row in known.values():
        if row.value is not None:
            source = "database, retired" if row.retired_at else "database"
            yield _row(row.name, source, row.fingerprint, row.retired_at or row.made_at)
        else:
            yield _row(row.name, "settings", row.fingerprint, row.made_at)


def _row(name: KeyName, source: str, mark: str, since: datetime | None) -> dict[str, Any]:
    return {"name": name, "source": source, "fingerprint": mark, "since": since}
