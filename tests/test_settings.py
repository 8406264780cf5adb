"""Settings come from the environment or `.env`, and a wrong one stops the start by its name."""

from __future__ import annotations

from datetime import timedelta

import pytest
from pydantic import SecretStr

from pipeline import settings
from pipeline.errors import SettingsError

REAL = {
    "SMTP_URL": "smtp://paperboy:hunter2@mail.example.org:587",
    "SITE_URL": "https://papers.example.org",
    "MAIL_FROM": "Papers <papers@example.org>",
    "OPERATOR_ADDRESS": "1 Example Street, Exampletown",
    "SECRET_KEY": "a-key-of-thirty-two-characters...",
    "SUPPRESSION_KEY": "another-key-of-that-many-chars...",
}


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch):
    for name in settings.Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def load(monkeypatch, tmp_path):
    """Settings of an environment, with the lines of a `.env` file."""

    def load(env_file: str = "", **environment: str) -> settings.Settings:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        path = tmp_path / ".env"
        path.write_text(env_file)
        return settings.load(path)

    return load


def test_nothing_has_to_be_set(load):
    loaded = load()

    assert loaded.database_url == "sqlite:///paperboy.db"
    loaded.check_real_mail()


def test_the_environment_wins_over_the_file(load):
    loaded = load("LIST_NAME=From the file\nNOTE=Hello", LIST_NAME="From the environment")

    assert loaded.list_name == "From the environment"
    assert loaded.note == "Hello"


def test_an_empty_value_means_the_default(load):
    """An .env file with its lines left open works."""
    assert load("MAX_PAPERS=\nREPLY_TO=").max_papers == 10


def test_a_file_that_is_not_there_is_no_mistake(tmp_path):
    assert settings.load(tmp_path / "missing").list_name == "Paperboy"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MAX_PAPERS", "0"),
        ("MAX_PAPERS", "many"),
        ("SITE_URL", "papers.example.org"),
        ("SMTP_URL", "mail.example.org:587"),
        ("MAIL_FROM", "nobody"),
        ("MAIL_FROM", "A <a@example.org>\r\nBcc: b@example.org"),
        ("ACCENT_COLOR", "red"),
        ("LOG_FORMAT", "xml"),
        ("LOG_LEVEL", "LOUD"),
        ("SMTP_TLS", "sometimes"),
        ("SMTP_CONNECTIONS", "0"),
        ("SMTP_RATES", "14"),
        ("SMTP_RATES", "0/day"),
        ("SMTP_RATES", "14/fortnight"),
        ("SMTP_RATES", "14/second 20/second"),
        ("SMTP_CA_FILE", "/nowhere/ca.pem"),
        ("LOGO_URL", "javascript:alert(1)"),
        ("LOGO_URL", "http://example.org/logo.png"),
    ],
)
def test_a_wrong_value_is_named(load, name, value):
    with pytest.raises(SettingsError, match=f"^{name}: "):
        load(**{name: value})


def test_every_wrong_value_is_named_at_once(load):
    with pytest.raises(SettingsError) as raised:
        load(MAX_PAPERS="0", SITE_URL="nowhere")

    assert "MAX_PAPERS" in str(raised.value)
    assert "SITE_URL" in str(raised.value)


def test_a_wrong_value_is_never_shown(load):
    """A mistyped address of a mail server has its password in it."""
    with pytest.raises(SettingsError) as raised:
        load(SMTP_URL="smpt://paperboy:hunter2@mail.example.org")

    assert "hunter2" not in str(raised.value)


def test_secrets_are_never_printed(load):
    shown = repr(load(**REAL))

    for secret in ("hunter2", REAL["SECRET_KEY"], REAL["SUPPRESSION_KEY"]):
        assert secret not in shown


def test_lists_are_split_at_spaces_and_commas(load):
    loaded = load(SOURCES="arxiv, huggingface", SECRET_KEY="new old", ARXIV_CATEGORIES="cs.CL,cs.*")

    assert loaded.sources == ("arxiv", "huggingface")
    assert loaded.secret_key == ("new", "old")
    assert loaded.arxiv_categories == ("cs.CL", "cs.*")


def test_rates_are_numbers_of_mails_in_a_unit_of_time(load):
    rates = load(SMTP_RATES="14/second, 50000/day").rates

    assert [(rate.most, rate.window) for rate in rates] == [
        (14, timedelta(seconds=1)),
        (50_000, timedelta(days=1)),
    ]


def test_one_line_stays_one_line(load):
    assert load(NOTE="two\r\n\tlines").note == "two lines"


# --- The mail server ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "host", "port", "implicit_tls"),
    [
        ("smtp://mail.example.org", "mail.example.org", 587, False),
        ("smtps://mail.example.org", "mail.example.org", 465, True),
        ("smtp://127.0.0.1:1025", "127.0.0.1", 1025, False),
        ("smtp://[::1]:25", "::1", 25, False),
    ],
)
def test_a_mail_server_is_found_by_its_url(load, url, host, port, implicit_tls):
    smtp = load(SMTP_URL=url).smtp

    assert (smtp.host, smtp.port, smtp.implicit_tls) == (host, port, implicit_tls)


def test_a_login_may_hold_any_character(load):
    smtp = load(SMTP_URL="smtp://user%40example.org:p%3A%2Fw@mail.example.org").smtp

    assert (smtp.username, smtp.password) == ("user@example.org", "p:/w")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "[::1]"])
def test_loopback_is_known_by_every_name(load, host):
    assert load(SMTP_URL=f"smtp://{host}:25").smtp.is_loopback


@pytest.mark.parametrize("host", ["mail.example.org", "10.0.0.1", "localhost.example.org"])
def test_others_are_not_taken_for_loopback(load, host):
    assert not load(SMTP_URL=f"smtp://{host}:25").smtp.is_loopback


# --- Mail to real people ------------------------------------------------------------------------


def test_real_mail_is_allowed_when_everything_is_set(load):
    load(**REAL).check_real_mail()


@pytest.mark.parametrize("missing", sorted(set(REAL) - {"SMTP_URL"}))
def test_real_mail_needs_each_of_these(load, missing):
    """CAN-SPAM wants a postal address; keys that everybody knows sign nothing."""
    environment = {name: value for name, value in REAL.items() if name != missing}

    with pytest.raises(SettingsError, match=missing):
        load(**environment).check_real_mail()


def test_real_mail_is_refused_while_an_old_key_is_the_public_one(load):
    """A link signed with it could be made by anybody."""
    given = {**REAL, "SECRET_KEY": f"{REAL['SECRET_KEY']} development-only"}

    with pytest.raises(SettingsError, match="SECRET_KEY"):
        load(**given).check_real_mail()


def test_settings_do_not_change_once_loaded(load):
    loaded = load()

    with pytest.raises(ValueError, match="frozen"):
        loaded.suppression_key = SecretStr("another")


def test_a_child_process_reads_the_same_settings(load, monkeypatch):
    monkeypatch.setenv("LIST_NAME", "Papers")

    child = settings.child_environment(REDIS_URL="redis://elsewhere")

    assert child["LIST_NAME"] == "Papers"
    assert child["REDIS_URL"] == "redis://elsewhere"
