"""Secrets are redacted: no command, log or library error prints a part of a password."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline import cli
from pipeline.bootstrap import services
from pipeline.storage import migrate
from pipeline.storage.database import open_engine

CANARY = "cAnArY/1#x@y?z:%w"  # has every character that breaks a URL
PARTS = ("cAnArY", "1#x", "y?z", "1%23x", "y%3Fz")
CLOSED = "127.0.0.1:1"
GIVEN = {
    "SMTP_URL": f"smtp://ada:{CANARY}@{CLOSED}",
    "REDIS_URL": f"redis://:{CANARY}@{CLOSED}/0",
    "BOUNCE_MAILBOX": f"imap://ada:{CANARY}@{CLOSED}/INBOX",
    "SECRET_KEY": "cAnArY-that-signs-links-of-all-mails",
    "SUPPRESSION_KEY": "cAnArY-that-hides-suppressed-people",
    "HOOK_SECRET": "cAnArY-that-proves-who-the-hook-is",
    "METRICS_TOKEN": "cAnArY-of-the-metrics",
    "HUGGINGFACE_TOKEN": "cAnArY-of-hugging-face",
    "LOG_LEVEL": "DEBUG",
}
POSTGRESQL = f"postgresql://ada:{CANARY}@{CLOSED}/papers"

pytestmark = [
    pytest.mark.parametrize("backend", ["sqlite"], indirect=True),
]


@pytest.fixture
def said(monkeypatch, tmp_path, database_url, capfd):
    """Return a function that runs a command through `main` and returns its stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    for name, value in {**GIVEN, "DATABASE_URL": database_url}.items():
        monkeypatch.setenv(name, value)

    def said(*arguments: str, **changes: str) -> str:
        for name, value in changes.items():
            monkeypatch.setenv(name, value)
        services.cache_clear()
        monkeypatch.setattr("sys.argv", ["paperboy", *arguments])
        with pytest.raises(SystemExit):
            cli.main()
        services.cache_clear()
        return "".join(capfd.readouterr())

    return said


@pytest.mark.parametrize("arguments", ["send --once", "bounces read", "keys list", "papers"])
def test_commands_print_no_password(said, arguments):
    written = said(*arguments.split())

    assert written
    assert not [part for part in PARTS if part in written]


@pytest.mark.parametrize("arguments", ["papers", "db upgrade", "subscribers list"])
def test_commands_print_no_password_of_an_unreachable_database(said, arguments):
    written = said(*arguments.split(), DATABASE_URL=POSTGRESQL)

    assert "the database cannot be used" in written
    assert not [part for part in PARTS if part in written]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SMTP_URL", "smtp://ada:{}@"),
        ("SMTP_URL", "smtp:/ada:{}@mail.example"),
        ("SMTP_URL", "smtp://ada:{}@mail.example:x"),
        ("SMTP_URL", "smtp//ada:{}"),
        ("DATABASE_URL", "postgresql://ada:{}@mail.example:x/db"),
        ("DATABASE_URL", "postgres:/ada:{}"),
        ("REDIS_URL", "redis://:{}@mail.example:x/0"),
        ("REDIS_URL", "amqp://ada:{}@mail.example"),
        ("BOUNCE_MAILBOX", "imap//ada:{}"),
        ("LOGO_URL", "https://ada:{}@mail.example/logo.png"),
        ("SITE_URL", "https://ada:{}@mail.example"),
        ("DKIM_KEYS", "news1:{}"),
    ],
)
def test_setting_errors_print_no_password(said, name, value):
    written = said("papers", **{name: value.format(CANARY)})

    assert name in written
    assert not [part for part in PARTS if part in written]


def test_env_file_errors_print_no_password(said, tmp_path: Path):
    (tmp_path / ".env").write_text(f'SMTP_URL="smtp://ada:{CANARY}@mail.example\n')

    written = said("papers")

    assert ".env, line 1: " in written
    assert not [part for part in PARTS if part in written]


def test_doctor_prints_no_password(monkeypatch, tmp_path, database_url):
    monkeypatch.chdir(tmp_path)
    engine = open_engine(database_url)
    migrate.check(engine)
    engine.dispose()

    looked = CliRunner().invoke(cli.app, ["doctor"], env={**GIVEN, "DATABASE_URL": database_url})

    assert "smtp" in looked.output
    assert not [part for part in PARTS if part in looked.output]
