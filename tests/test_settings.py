"""Settings are read from the environment or `.env`; if one is wrong, the error names it."""

from __future__ import annotations

from datetime import timedelta

import pytest
from pydantic import SecretStr

from pipeline import settings
from pipeline.errors import SettingsError
from pipeline.setting_files import is_secret

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
        monkeypatch.delenv(f"{name.upper()}_FILE", raising=False)


@pytest.fixture
def load(monkeypatch, tmp_path):
    """Return a function that loads settings from variables and the lines of a `.env` file."""

    def load(env_file: str = "", **environment: str) -> settings.Settings:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        path = tmp_path / ".env"
        path.write_text(env_file)
        return settings.load(path)

    return load


def test_all_settings_are_optional(load, tmp_path):
    loaded = load()

    assert loaded.database_url == f"sqlite:///{tmp_path}/paperboy.db"
    loaded.check_real_mail()


def test_environment_overrides_the_env_file(load):
    loaded = load("LIST_NAME=From the file\nNOTE=Hello", LIST_NAME="From the environment")

    assert loaded.list_name == "From the environment"
    assert loaded.note == "Hello"


def test_empty_values_mean_the_default(load):
    """An .env file with empty values is valid."""
    assert load("MAX_PAPERS=\nREPLY_TO=").max_papers == 10


def test_missing_env_file_is_accepted(tmp_path):
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
        ("SMTP_RATES", "1,000/day"),
        ("SMTP_RATES", "99999999999999999999/day"),
        ("SMTP_RATES", "-1/day"),
        ("SMTP_MESSAGES_PER_CONNECTION", "99999999999999999999"),
        ("MAX_PAPERS", "-1"),
        ("MAX_PAPERS", "NaN"),
        ("MAX_PAPERS", "1e1"),
        ("DIGEST_DAYS", "1,000"),
        ("PENDING_DAYS", "7 days"),
        ("DNS_SERVER", "192.0.2.53:0"),
        ("SMTP_URL", "smtp://mail.example.org:0"),
        ("SMTP_URL", "smtp://mail.example.org/path"),
        ("SMTP_URL", "smtp://:password@mail.example.org"),
        ("SMTP_URL", "mailbox://mail.example.org:25"),
        ("REDIS_URL", "rabbit://h"),
        ("REDIS_URL", "x"),
        ("DATABASE_URL", "mysql://h/x"),
        ("DATABASE_URL", "paperboy.db"),
        ("CONTACT", "https://example.org/contact"),
        ("BOUNCE_ADDRESS", "a@example.org, b@example.org"),
        ("BOUNCE_ADDRESS", f"{'x' * 50}@example.org"),
        ("LIST_NAME", "Papers \x07"),
        ("NOTE", "x" * 501),
        ("NOTE", "caf\udce9"),
        ("LOGO_URL", "https://user:pw@example.org/logo.png"),
        ("SMTP_RATES", "14/fortnight"),
        ("SMTP_RATES", "14/second 20/second"),
        ("SMTP_CA_FILE", "/nowhere/ca.pem"),
        ("CURATED_TOPICS", "/nowhere/topics.toml"),
        ("DKIM_DOMAIN", "example.org; s=x"),
        ("DNS_SERVER", "dns.example.org"),
        ("DNS_SERVER", "192.0.2.53:dns"),
        ("PENDING_DAYS", "2"),
        ("IP_DAYS", "0"),
        ("DIGEST_DAYS", "89"),
        ("PAPER_DAYS", "179"),
        ("DELIVERY_DAYS", "for ever"),
        ("LOGO_URL", "javascript:alert(1)"),
        ("LOGO_URL", "http://example.org/logo.png"),
        ("SES_TOPICS", "bounces"),
        ("HOOK_SECRET", "hunter2"),
        ("BOUNCE_MAILBOX", "https://mail.example.org"),
    ],
)
def test_invalid_values_are_reported_by_name(load, name, value):
    with pytest.raises(SettingsError, match=f"^{name}: "):
        load(**{name: value})


def test_delivery_days_below_digest_days_are_rejected(load):
    with pytest.raises(SettingsError, match=r"^DELIVERY_DAYS: must not be less than DIGEST_DAYS$"):
        load(DIGEST_DAYS="200", DELIVERY_DAYS="100")


def test_all_invalid_values_are_reported_at_once(load):
    with pytest.raises(SettingsError) as raised:
        load(MAX_PAPERS="0", SITE_URL="nowhere")

    assert "MAX_PAPERS" in str(raised.value)
    assert "SITE_URL" in str(raised.value)


def test_invalid_values_are_not_shown_in_errors(load):
    """If the URL of a mail server is mistyped, it still contains the password."""
    with pytest.raises(SettingsError) as raised:
        load(SMTP_URL="smpt://paperboy:hunter2@mail.example.org")

    assert "hunter2" not in str(raised.value)


def test_secrets_are_not_in_the_repr(load):
    urls = {"DATABASE_URL": "postgresql://u:pw-1@db/x", "REDIS_URL": "redis://:pw-2@redis/0"}
    loaded = load(**REAL, **urls)
    shown = repr(loaded) + repr(loaded.smtp)

    for secret in ("hunter2", "pw-1", "pw-2", REAL["SECRET_KEY"], REAL["SUPPRESSION_KEY"]):
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


def test_line_breaks_in_a_value_are_collapsed(load):
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
def test_smtp_url_sets_host_port_and_tls(load, url, host, port, implicit_tls):
    smtp = load(SMTP_URL=url).smtp

    assert (smtp.host, smtp.port, smtp.implicit_tls) == (host, port, implicit_tls)


def test_smtp_login_is_percent_decoded(load):
    smtp = load(SMTP_URL="smtp://user%40example.org:p%3A%2Fw@mail.example.org").smtp

    assert (smtp.username, smtp.password) == ("user@example.org", "p:/w")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "[::1]"])
def test_loopback_hosts_are_recognized(load, host):
    assert load(SMTP_URL=f"smtp://{host}:25").smtp.is_loopback


@pytest.mark.parametrize("host", ["mail.example.org", "10.0.0.1", "localhost.example.org"])
def test_other_hosts_are_not_loopback(load, host):
    assert not load(SMTP_URL=f"smtp://{host}:25").smtp.is_loopback


@pytest.mark.parametrize(
    ("server", "address"),
    [
        ("192.0.2.53", ("192.0.2.53", 53)),
        ("192.0.2.53:5353", ("192.0.2.53", 5353)),
        ("[2001:db8::53]", ("2001:db8::53", 53)),
    ],
)
def test_dns_server_is_parsed_as_an_address(load, server, address):
    assert load(DNS_SERVER=server).dns == address
    assert load(DNS_SERVER="").dns is None


# --- Mail to real recipients --------------------------------------------------------------------


def test_real_mail_is_allowed_when_everything_is_set(load):
    load(**REAL).check_real_mail()


@pytest.mark.parametrize("server", ["smtp://mail.example.org", "smtp://127.0.0.1:25"])
@pytest.mark.parametrize("missing", ["MAIL_FROM", "OPERATOR_ADDRESS", "SITE_URL"])
def test_real_mail_requires_each_mandatory_setting(load, missing, server):
    """CAN-SPAM requires a postal address; a relay on this machine sends to the world, too."""
    environment = {name: value for name, value in REAL.items() if name != missing}
    environment["SMTP_URL"] = server

    with pytest.raises(SettingsError, match=missing):
        load(**environment).check_real_mail()


def test_real_mail_is_rejected_if_an_old_key_is_guessable(load):
    """If a key can be guessed, links signed with it can be forged."""
    given = {**REAL, "SECRET_KEY": f"{REAL['SECRET_KEY']} changeme"}

    with pytest.raises(SettingsError, match="SECRET_KEY"):
        load(**given).check_real_mail()


@pytest.mark.parametrize(
    ("server", "site", "is_real"),
    [
        ("smtp://mail.example.org", "http://127.0.0.1:8000", True),
        ("smtp://127.0.0.1:25", "http://127.0.0.1:8000", True),
        ("smtp://localhost", "http://localhost:8000", True),  # port 587
        ("smtp://[::1]:465", "https://papers.example.org", True),
        ("smtp://127.0.0.1:2525", "https://papers.of-a-lab.org", True),
        ("smtp://127.0.0.1:2525", "http://192.168.1.7:8000", True),
        ("smtp://127.0.0.1:2525", "http://papers", True),
        ("smtp://127.0.0.1:2525", "https://papers.example.org", False),
        ("smtp://127.0.0.1:2525", "https://papers.test", False),
        ("smtp://127.0.0.1:2525", "http://[::1]:8000", False),
        ("mailbox://127.0.0.1:2525", "https://papers.of-a-lab.org", False),
    ],
)
def test_real_mail_depends_on_server_and_site(load, server, site, is_real):
    assert load(SMTP_URL=server, SITE_URL=site).sends_real_mail is is_real


@pytest.mark.parametrize(
    ("host", "site"),
    [("0.0.0.0", "http://127.0.0.1:8000"), ("::", "http://localhost"), ("", "http://localhost"),
     ("127.0.0.1", "https://papers.of-a-lab.org")],
)  # fmt: skip
def test_public_site_requires_a_long_secret_key_or_none(load, host, site):
    load(SITE_URL=site).check_site(host)
    load(SITE_URL="http://localhost", SECRET_KEY="short").check_site("127.0.0.1")

    with pytest.raises(SettingsError, match=r"^SECRET_KEY: "):
        load(SITE_URL=site, SECRET_KEY="short").check_site(host)


def test_settings_are_immutable_once_loaded(load):
    loaded = load()

    with pytest.raises(ValueError, match="frozen"):
        loaded.suppression_key = SecretStr("another")


def test_child_environment_has_the_same_settings_and_the_overrides(load, monkeypatch):
    monkeypatch.setenv("LIST_NAME", "Papers")

    child = settings.child_environment(REDIS_URL="redis://elsewhere")

    assert child["LIST_NAME"] == "Papers"
    assert child["REDIS_URL"] == "redis://elsewhere"


# --- Secrets in files ---------------------------------------------------------------------------

SECRETS = {
    "SECRET_KEY": "new-key old-key",
    "SUPPRESSION_KEY": "never changed",
    "SMTP_URL": "smtp://paperboy:hunter2@mail.example.org",
    "DATABASE_URL": "postgresql://paperboy:hunter2@localhost/paperboy",
    "REDIS_URL": "redis://:hunter2@localhost/1",
    "HUGGINGFACE_TOKEN": "hf_token",
    "DKIM_KEYS": "news1:/etc/paperboy/news1.pem\nnews2:/etc/paperboy/news2.pem",
}


@pytest.fixture
def mounted(tmp_path):
    """Return a function that writes a secret to a file and returns the path."""

    def mounted(content: str | bytes) -> str:
        path = tmp_path / "secret"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return mounted


def plain(value: object) -> object:
    return value.get_secret_value() if isinstance(value, SecretStr) else value


@pytest.mark.parametrize("name", SECRETS)
def test_secrets_can_be_read_from_files(load, mounted, monkeypatch, name):
    """It equals a value given directly; the line break that editors append is removed."""
    in_file = load(**{f"{name}_FILE": mounted(SECRETS[name] + "\n")})
    monkeypatch.delenv(f"{name}_FILE")
    given = load(**{name: SECRETS[name]})

    assert plain(getattr(in_file, name.lower())) == plain(getattr(given, name.lower()))
    assert getattr(in_file, name.lower()) != getattr(load("", **{name: ""}), name.lower())


def test_every_tested_secret_setting_has_a_secret_type():
    """Secrets are found by their type; other settings are not included."""
    found = {n.upper() for n, f in settings.Settings.model_fields.items() if is_secret(f)}

    assert found >= set(SECRETS)
    assert not found & {"SITE_URL", "MAIL_FROM", "REPLY_TO", "SMTP_CA_FILE"}


def test_trailing_spaces_of_a_secret_file_are_kept(load, mounted):
    assert load(SUPPRESSION_KEY_FILE=mounted("a key \r\n")).suppression_key == SecretStr("a key ")


def test_env_file_can_name_the_file_of_a_secret(load, mounted):
    path = mounted("from the mounted file")

    assert load(f"SUPPRESSION_KEY_FILE={path}").suppression_key == SecretStr(
        "from the mounted file"
    )


def test_secret_set_directly_and_by_file_is_rejected(load, mounted):
    """The intended one is ambiguous, so the error names both."""
    with pytest.raises(SettingsError, match="SECRET_KEY and SECRET_KEY_FILE are both set"):
        load(SECRET_KEY="one", SECRET_KEY_FILE=mounted("two"))
    with pytest.raises(SettingsError, match="REDIS_URL and REDIS_URL_FILE are both set"):
        load(f"REDIS_URL=redis://a\nREDIS_URL_FILE={mounted('redis://b')}", SECRET_KEY="")


def test_environment_overrides_a_secret_file_named_in_the_env_file(load, mounted):
    """The environment has precedence over everything in `.env`."""
    loaded = load(f"SUPPRESSION_KEY_FILE={mounted('old')}", SUPPRESSION_KEY="new")

    assert loaded.suppression_key == SecretStr("new")


@pytest.mark.parametrize("content", ["", "\n", "  \r\n"])
def test_empty_secret_files_are_reported_by_name(load, mounted, content):
    with pytest.raises(SettingsError, match=r"^SECRET_KEY_FILE: .* is empty$"):
        load(SECRET_KEY_FILE=mounted(content))


def test_unreadable_secret_files_are_reported_by_name(load, tmp_path):
    with pytest.raises(SettingsError, match=r"^SMTP_URL_FILE: .* cannot be read") as raised:
        load(SMTP_URL_FILE=str(tmp_path / "missing"), SECRET_KEY_FILE=str(tmp_path))

    assert "SECRET_KEY_FILE" in str(raised.value), "every wrong one is named at once"


@pytest.mark.parametrize("content", ["smpt://paperboy:hunter2@example.org", b"hunter2\xff"])
def test_errors_do_not_reveal_the_content_of_a_secret_file(load, mounted, content):
    with pytest.raises(SettingsError, match="SMTP_URL") as raised:
        load(SMTP_URL_FILE=mounted(content))

    assert "hunter2" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_repr_of_settings_reveals_no_password_or_key(load):
    loaded = load(**SECRETS)

    assert "hunter2" not in repr(loaded)
    assert "-key" not in repr(loaded)


def test_child_environment_override_replaces_a_secret_file(load, mounted, monkeypatch):
    """If a command starts its own Valkey, a REDIS_URL_FILE for another must not conflict."""
    monkeypatch.setenv("REDIS_URL_FILE", mounted("redis://ours"))

    child = settings.child_environment(REDIS_URL="redis://own")
    for name in ("REDIS_URL", "REDIS_URL_FILE"):
        monkeypatch.delenv(name, raising=False)

    assert load(**{n: child[n] for n in child if n.startswith("REDIS")}).redis_url == "redis://own"


# --- The bounce mailbox -------------------------------------------------------------------------


def test_bounce_mailbox_password_has_its_own_setting(load):
    """So that it is neither in a URL nor on a command line."""
    loaded = load(
        BOUNCE_MAILBOX="imaps://ada@mail.example.org/Back", BOUNCE_MAILBOX_PASSWORD="p/w#@"
    )

    assert loaded.mailbox_url() == "imaps://ada:p%2Fw%23%40@mail.example.org/Back"
    assert loaded.mailbox_url("imaps://eva:own@x.example") == "imaps://eva:own@x.example"
    assert load(BOUNCE_MAILBOX="").mailbox_url("imap://eva@x.example").endswith("%40@x.example")


@pytest.mark.parametrize(
    "given",
    [
        {"BOUNCE_MAILBOX": "imaps://ada:pw@mail.example.org/Back"},
        {"BOUNCE_MAILBOX": "imaps://ada@mail.example.org", "BOUNCE_MAILBOX_PASSWORD": "pw"},
    ],
)
def test_mailbox_password_is_not_used_for_another_host(load, given):
    loaded = load(**given)

    assert loaded.mailbox_url("imaps://ada@mail.example.org") == "imaps://ada:pw@mail.example.org"
    assert loaded.mailbox_url("imaps://ada@evil.example") == "imaps://ada@evil.example"


def test_unset_mailbox_or_second_password_is_reported(load):
    with pytest.raises(SettingsError, match=r"^BOUNCE_MAILBOX: is not set"):
        load().mailbox_url()
    with pytest.raises(SettingsError, match=r"^BOUNCE_MAILBOX_PASSWORD: "):
        load(BOUNCE_MAILBOX="imaps://ada:pw@h.example", BOUNCE_MAILBOX_PASSWORD="pw")
