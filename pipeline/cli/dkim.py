"""Commands about DKIM keys: dkim new, records."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline import bootstrap, settings
from pipeline.bootstrap import Services
from pipeline.cli.output import AsJson, lines
from pipeline.dkim import Algorithm, Key, new_key
from pipeline.dkim.keys import ENOUGH, check_selector, read_key
from pipeline.errors import PaperboyError
from pipeline.storage.keys import Keys

app = typer.Typer(no_args_is_help=True)


@app.command()
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
    _keep(path, pem)
    row = {"file": str(path), **_row(read_key(selector, pem), domain)}
    if as_json:
        lines([row])
        return
    typer.echo(
        f"The key is in {path}, readable by you only. Publish this record:\n\n{row['line']}\n"
    )
    typer.echo("When `paperboy doctor` finds the record, sign with the key by this setting:\n")
    typer.echo(f"DKIM_KEYS={selector}:{path.resolve()}")


@app.command()
def records(as_json: AsJson = False) -> None:
    """Print the DNS records to publish for the configured DKIM keys."""
    rows = list(_rows(_services()))
    if as_json:
        lines(rows)
        return
    for row in rows:
        typer.echo(row["line"])


def _services() -> Services:
    built = bootstrap.build(settings.load(), check=False)  # a DKIM key needs no database
    return replace(built, other_keys=Keys.random())


def _rows(built: Services) -> Iterator[dict[str, Any]]:
    if built.signer is None:
        raise PaperboyError("no DKIM key is set; see `paperboy dkim new --help`")
    for key in built.signer.keys:
        yield {"signs": key in built.signer.signing, **_row(key, built.signing_domain)}


def _row(key: Key, domain: str) -> dict[str, Any]:
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


def _keep(path: Path, pem: str) -> None:
    """Write a new key file with mode 0600. Raise PaperboyError if it exists or on failure."""
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(pem)
    except FileExistsError:
        raise PaperboyError(f"{path} exists already; a new key needs a new selector") from None
    except OSError as error:
        raise PaperboyError(f"{path}: {error.strerror}") from error
