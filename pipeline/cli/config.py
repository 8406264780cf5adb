"""The command that lists the settings in force: config."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import typer
from pydantic import SecretStr

from pipeline import settings
from pipeline.cli.output import AsJson, complain, show
from pipeline.setting_files import anchored, is_secret
from pipeline.setting_values import parse_login_url
from pipeline.settings import Settings

app = typer.Typer()

URLS: Final = frozenset({"database_url", "redis_url", "smtp_url", "bounce_mailbox", "https_proxy"})
HIDDEN: Final = "***"


@app.command("config")
def config_command(as_json: AsJson = False) -> None:
    """List every setting with its value and source: environment, .env, a secret's file or default.

    Of a secret it prints only that it is set, and of a URL its server. Names in .env that are no
    settings are reported on stderr.
    """
    loaded = settings.load()
    for suspicion in settings.suspicions():
        complain(suspicion.text)
    show(_rows(loaded), ("name", "value", "source"), as_json=as_json, empty="")


def _rows(loaded: Settings) -> Iterator[dict[str, Any]]:
    for name, source in settings.origins().items():
        yield {"name": name, "value": shown(loaded, name.lower()), "source": source}


def shown(loaded: Settings, name: str) -> str:
    """Return a setting as text, without secrets: a URL without its login, another secret as `set`.

    The user of an SMTP URL is hidden, too: with some providers it is the password.
    """
    value: Any = getattr(loaded, name)
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if value in (None, "", ()):
        return ""
    if name in URLS:
        return _without_login(value)
    if is_secret(Settings.model_fields[name]):
        return "set"
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(value) if isinstance(value, tuple) else str(value)


def _without_login(url: str) -> str:
    if url.startswith("sqlite"):
        return anchored("database_url", url, Path.cwd())
    with suppress(ValueError):
        parsed = parse_login_url(url)
        user = parsed.username and HIDDEN
        password = None if parsed.password is None else HIDDEN
        return str(replace(parsed, username=user, password=password, query="")).replace(
            "%2A%2A%2A", HIDDEN
        )
    return "set"
