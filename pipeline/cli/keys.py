"""Commands about keys: keys list, show, renew; dkim new, records."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline import bootstrap, settings
from pipeline.bootstrap import Services
from pipeline.cli.output import AsJson, lines, show
from pipeline.dkim import Algorithm, Key, new_key
from pipeline.dkim.keys import ENOUGH, check_selector, read_key
from pipeline.errors import NotFoundError, PaperboyError
from pipeline.storage import keys, migrate
from pipeline.storage.database import open_engine, read_only, retry_transaction
from pipeline.storage.keys import KeyName, Keys, fingerprint

app = typer.Typer(no_args_is_help=True)
dkim_app = typer.Typer(no_args_is_help=True)


@app.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """List the keys with their source and fingerprint."""
    show(
        _key_rows(),
        ("name", "source", "fingerprint", "since"),
        as_json=as_json,
        empty="No keys yet.",
    )


@app.command("show")
def show_keys() -> None:
    """Print the keys that Paperboy generated, as lines for .env: keep them secret."""
    loaded = settings.load()
    engine = open_engine(loaded.database_url)
    migrate.check(engine)
    with read_only(engine) as conn:
        made = [row for row in keys.stored_keys(conn).values() if row.value]
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


def _key_rows() -> Iterator[dict[str, Any]]:
    loaded = settings.load()
    engine = open_engine(loaded.database_url)
    migrate.check(engine)
    with read_only(engine) as conn:
        stored = keys.stored_keys(conn)
    for key in loaded.secret_key:
        yield _key_row(KeyName.SECRET, "settings", fingerprint(key), None)
    for row in stored.values():
        if row.value is not None:
            source = "database, retired" if row.retired_at else "database"
            yield _key_row(row.name, source, row.fingerprint, row.retired_at or row.made_at)
        else:
            yield _key_row(row.name, "settings", row.fingerprint, row.made_at)


def _key_row(name: KeyName, source: str, mark: str, since: datetime | None) -> dict[str, Any]:
    return {"name": name, "source": source, "fingerprint": mark, "since": since}


# --- DKIM keys ----------------------------------------------------------------------------------


@dkim_app.command()
def new(
    selector: Annotated[str, typer.Argument(help="A name that was not used before: news2030a.")],
    algorithm: Annotated[
        Algorithm, typer.Option("--type", help="Use Ed25519 in addition to RSA, not instead.")
    ] = Algorithm.RSA,
    bits: Annotated[int, typer.Option("--bits", min=ENOUGH, max=4_096, help="Of RSA.")] = ENOUGH,
    file: Annotated[
        Path | None, typer.Option("--file", help="File for the key. Default: dkim-SELECTOR.pem.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Generate a DKIM key, and print the DNS record to publish before it is used."""
    check_selector(selector)
    domain = _services().signing_domain
    path = file or Path(f"dkim-{selector}.pem")
    pem = new_key(algorithm, bits)
    write_key(path, pem)
    row = {"file": str(path), **_record_row(read_key(selector, pem), domain)}
    if as_json:
        lines([row])
        return
    typer.echo(
        f"The key is in {path}, readable by you only. Publish this record:\n\n{row['line']}\n"
    )
    typer.echo("When `paperboy doctor` finds the record, sign with the key by this setting:\n")
    typer.echo(f"DKIM_KEYS={selector}:{path.resolve()}")


@dkim_app.command()
def records(as_json: AsJson = False) -> None:
    """Print the DNS records to publish for the configured DKIM keys."""
    rows = list(_record_rows(_services()))
    if as_json:
        lines(rows)
        return
    for row in rows:
        typer.echo(row["line"])


def _services() -> Services:
    built = bootstrap.build(settings.load(), check=False)  # a DKIM key needs no database
    return replace(built, other_keys=Keys.random())


def _record_rows(built: Services) -> Iterator[dict[str, Any]]:
    if built.signer is None:
        raise PaperboyError("no DKIM key is set; see `paperboy dkim new --help`")
    for key in built.signer.keys:
        yield {"signs": key in built.signer.signing, **_record_row(key, built.signing_domain)}


def _record_row(key: Key, domain: str) -> dict[str, Any]:
    record = key.record(domain)
    return {
        "selector": key.selector,
        "algorithm": key.algorithm,
        "bits": key.bits,
        "name": record.name,
        "type": record.type,
        "value": record.value,
        "line": record.line,
    }


def write_key(path: Path, pem: str) -> None:
    """Write a new key file with mode 0600. Raise PaperboyError if it exists or on failure."""
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(pem)
    except FileExistsError:
        raise PaperboyError(f"{path} exists already; a new key needs a new selector") from None
    except OSError as error:
        raise PaperboyError(f"{path}: {error.strerror}") from error
