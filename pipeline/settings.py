"""Settings, read once from the environment and `.env`. No other module reads os.environ.

`setting_values` parses URLs and mailboxes, `setting_files` parses `.env` and reads secrets
from files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from email.utils import parseaddr
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import structlog
from pydantic import (
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings.sources.utils import parse_env_vars

from pipeline import setting_files
from pipeline.errors import SettingsError
from pipeline.setting_files import SecretFiles, is_secret
from pipeline.setting_values import (
    LoginURL,
    format_mailbox,
    is_loopback,
    is_reserved,
    parse_login_url,
    parse_mailbox,
    parse_place,
    parse_site_url,
)

log = structlog.get_logger(__name__)

ENV_FILE: Final = Path(".env")
SHORTEST_SECRET = 32  # characters: 128 bits even if each is a hexadecimal digit
LEAST_PAPER_DAYS: Final = 180
LONGEST_LINE = 500  # characters in a text setting
MOST_A_WINDOW = 1_000_000_000  # mails; the limit of the database column
RELAY_PORTS: Final = frozenset({25, 465, 587})  # on loopback: a server that relays to the internet
SNS_TOPIC = re.compile(r"arn:aws[a-z-]*:sns:[a-z0-9-]+:\d{12}:[\w-]{1,256}")


def _installation() -> Path | None:
    """Return the folder of an installation from its repository; None for an installed wheel."""
    folder = Path(__file__).resolve().parents[1]
    return folder if (folder / "pyproject.toml").is_file() else None


INSTALLATION = _installation()


@dataclass(frozen=True, slots=True)
class SMTPServer:
    """A mail server, parsed from `smtp(s)://user:pass@host:port`.

    `smtps` uses TLS from the first byte (port 465), `smtp` uses STARTTLS (port 587). `is_mailbox`
    is true for the built-in mailbox of `up` and the demo, which delivers no mail.
    """

    host: str
    port: int
    username: str | None
    password: str | None = field(repr=False)
    implicit_tls: bool
    is_mailbox: bool = False

    @property
    def is_loopback(self) -> bool:
        return is_loopback(self.host)


RATE_UNITS = {
    "second": timedelta(seconds=1),
    "minute": timedelta(minutes=1),
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
}


@dataclass(frozen=True, slots=True)
class SendRate:
    """A rate limit of the provider: `most` mails in any window of one unit, as in `50000/day`."""

    most: int
    unit: str  # a key of RATE_UNITS

    @property
    def window(self) -> timedelta:
        return RATE_UNITS[self.unit]


def _split(value: Any) -> Any:
    """Return the words of a list setting, separated by commas or whitespace."""
    if isinstance(value, str):
        return tuple(word for word in value.replace(",", " ").split() if word)
    return value


Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
HasPassword = Annotated[str, Field(repr=False)]


class Settings(BaseSettings):
    """Validated settings of a process, immutable; `.env.example` documents each in upper case."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, env_ignore_empty=True)

    # Services and URLs
    database_url: HasPassword = "sqlite:///paperboy.db"
    redis_url: HasPassword = "redis://127.0.0.1:6379/0"
    smtp_url: SecretStr = SecretStr("smtp://127.0.0.1:1025")
    site_url: str = "http://127.0.0.1:8000"
    trusted_proxies: Words = ()
    metrics_token: Annotated[SecretStr | None, Field(min_length=16)] = None

    # Limits
    signups_per_hour: Annotated[int, Field(ge=1, le=100_000)] = 50
    signups_per_day: Annotated[int, Field(ge=1, le=100_000)] = 100
    site_signups_per_hour: Annotated[int, Field(ge=1, le=1_000_000)] = 1_000
    previews_per_minute: Annotated[int, Field(ge=1, le=10_000)] = 120

    # Sender and branding
    mail_from: str = "Paperboy <paperboy@localhost>"
    reply_to: str | None = None
    bounce_address: str | None = None
    unsubscribe_mailbox: str | None = None
    list_name: str = "Paperboy"
    operator_name: str = "Paperboy"
    operator_address: str = ""
    operator_email: str | None = None
    accent_color: Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")] = "#b45309"
    logo_url: str | None = None
    note: str = ""
    thumbnails: bool = False
    curated_topics: Path | None = None  # parsed by `web.subscribe.curated`

    # Secrets
    # If unset, `storage.keys` generates one and stores it in the database.
    secret_key: Annotated[Words, Field(repr=False)] = ()  # newest first
    suppression_key: SecretStr | None = None

    # DKIM and DNS
    dkim_keys: SecretStr | None = None  # parsed by `dkim.read_keys`
    dkim_domain: str | None = None
    dns_server: str | None = None

    # Sources
    contact: str | None = None
    sources: Words = ("huggingface", "arxiv")
    arxiv_categories: Words = ("cs.AI", "cs.CL", "cs.CV", "cs.LG", "stat.ML")
    huggingface_token: SecretStr | None = None
    author_lookup: bool = True
    https_proxy: SecretStr | None = None  # parsed by `sources.public_addresses.Proxy`
    no_proxy: Words = ()

    # Matching
    semantic_model: Words = ()  # folders, packages or hub names; see `embedding.Model`

    # Digests
    max_papers: Annotated[int, Field(ge=1, le=50)] = 10
    digest_expiry_hours: Annotated[int, Field(ge=1, le=72)] = 18
    digest_spread_minutes: Annotated[int, Field(ge=0, le=30)] = 10
    quiet_note_days: Annotated[int, Field(ge=0, le=60)] = 7
    inactivity_months: Annotated[int, Field(ge=0, le=60)] = 6

    # Sending
    smtp_tls: Annotated[str, Field(pattern="^(auto|required|off)$")] = "auto"
    smtp_ca_file: Path | None = None
    smtp_oauth_command: SecretStr | None = None
    smtp_oauth_token_url: str | None = None
    smtp_oauth_client_id: str | None = None
    smtp_oauth_client_secret: SecretStr | None = None
    smtp_oauth_refresh_token: SecretStr | None = None
    smtp_connections: Annotated[int, Field(ge=1, le=200)] = 10
    smtp_messages_per_connection: Annotated[int, Field(ge=1, le=1_000_000)] = 500
    smtp_rates: Words = ()
    smtp_senders: Annotated[int, Field(ge=1, le=100)] = 4
    resend_uncertain_digests: bool = False

    # Retention of personal data, in days. Minimums are set by the links that were mailed: 72
    # hours for a confirmation, 90 days for "never the same paper twice".
    pending_days: Annotated[int, Field(ge=3, le=365)] = 7
    ip_days: Annotated[int, Field(ge=3, le=365)] = 7
    digest_days: Annotated[int, Field(ge=90, le=3650)] = 90
    delivery_days: Annotated[int, Field(ge=90, le=3650)] = 396
    event_days: Annotated[int, Field(ge=1, le=365)] = 30

    # Papers are the archive of the site. The minimum exceeds the age at which matches are deleted.
    search_papers: Annotated[int, Field(ge=1_000, le=100_000)] = 20_000
    paper_days: Annotated[int, Field(ge=0, le=36500)] = 0

    # Feedback
    ses_topics: Words = ()
    hook_secret: Annotated[Words, Field(repr=False)] = ()  # newest first
    bounce_mailbox: SecretStr | None = None
    bounce_mailbox_password: SecretStr | None = None

    # Logs
    log_level: Annotated[str, Field(pattern="^(DEBUG|INFO|WARNING|ERROR)$")] = "INFO"
    log_format: Annotated[str, Field(pattern="^(auto|json|text)$")] = "auto"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources, highest priority first.

        Init arguments, environment, secret files named by the environment, `.env`, secret files
        named by `.env`.
        """
        assert isinstance(dotenv_settings, DotEnvSettingsSource)  # noqa: S101
        from_file = _EnvFile(settings_cls, env_file=dotenv_settings.env_file)
        return (
            init_settings,
            env_settings,
            SecretFiles(settings_cls, env_settings),
            from_file,
            SecretFiles(settings_cls, from_file, from_file.folder),
        )

    @field_validator("*", mode="before")
    @classmethod
    def _is_text(cls, value: Any) -> Any:
        """Reject values that are not UTF-8, before other validators put them into messages."""
        if isinstance(value, str) and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:  # a byte in the environment that is not UTF-8
                raise ValueError("must be UTF-8 text") from None
        return value

    @field_validator("site_url")
    @classmethod
    def _http_address(cls, value: str) -> str:
        return parse_site_url(value)

    @field_validator("database_url")
    @classmethod
    def _database_address(cls, value: str) -> str:
        """Return the URL with its login percent-encoded; a SQLite path stays as it is."""
        if value.strip().startswith("sqlite"):
            return value.strip()  # a path, which may have any characters
        example = "must look like sqlite:///paperboy.db or postgresql://user:password@host/name"
        url = _login_url(value, example)
        if url.scheme.partition("+")[0] not in {"postgres", "postgresql"}:
            raise ValueError(example)
        return str(url)

    @field_validator("redis_url")
    @classmethod
    def _redis_address(cls, value: str) -> str:
        example = "must look like redis://:password@127.0.0.1:6379/0, or rediss:// with TLS"
        url = _login_url(value, example)
        if url.scheme not in {"redis", "rediss"} or not url.host:
            raise ValueError(example)
        return str(url)

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for proxy in value:
            try:
                ip_network(proxy)
            except ValueError as error:
                raise ValueError("must be addresses or networks such as 10.0.0.0/8") from error
        return value

    @field_validator("ses_topics")
    @classmethod
    def _topics(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(map(SNS_TOPIC.fullmatch, value)):
            raise ValueError("must look like arn:aws:sns:eu-west-1:123456789012:bounces")
        return value

    @field_validator("hook_secret")
    @classmethod
    def _long_enough(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any(len(secret) < SHORTEST_SECRET for secret in value):
            raise ValueError(f"must have at least {SHORTEST_SECRET} characters")
        return value

    @field_validator("bounce_mailbox")
    @classmethod
    def _imap_address(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        example = "must look like imaps://user:password@mail.example.org/INBOX"
        url = _login_url(value.get_secret_value(), example)
        if url.scheme not in {"imap", "imaps"} or not url.host or url.query:
            raise ValueError(example)
        return SecretStr(str(url))

    @field_validator("logo_url")
    @classmethod
    def _https_address(cls, value: str | None) -> str | None:
        # It is part of every mail, where other schemes are blocked or dangerous.
        if value is None:
            return None
        example = "must look like https://papers.example.org/logo.png"
        url = _login_url(value, example)
        if url.scheme != "https" or not url.host or url.username or url.password:
            raise ValueError(example)
        return str(url)

    @field_validator("smtp_ca_file", "curated_topics")
    @classmethod
    def _readable_file(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_file():
            raise ValueError("must be an existing file")
        return value

    @field_validator(
        *("mail_from", "reply_to", "bounce_address", "unsubscribe_mailbox", "contact"),
        "operator_email",
    )
    @classmethod
    def _mail_address(cls, value: str | None) -> str | None:
        return None if value is None else format_mailbox(*parse_mailbox(value))

    @field_validator("bounce_address")
    @classmethod
    def _room_for_a_token(cls, value: str | None) -> str | None:
        """Leave room in the 64 octets of the local part for a plus sign and a token of 16."""
        if value is not None and len(parseaddr(value)[1].rpartition("@")[0]) > 64 - 17:
            raise ValueError("must have at most 47 characters before the @: a token is added")
        return value

    @field_validator("dkim_domain")
    @classmethod
    def _domain(cls, value: str | None) -> str | None:
        # It is written to a header unescaped.
        if value is not None and not re.fullmatch(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*", value):
            raise ValueError("must look like example.org (in punycode, if it has other letters)")
        return value and value.lower()

    @field_validator("dns_server")
    @classmethod
    def _dns_address(cls, value: str | None) -> str | None:
        if value is not None:
            _parse_dns_server(value)
        return value

    @field_validator("list_name", "operator_name", "operator_address", "note")
    @classmethod
    def _one_line(cls, value: str) -> str:
        """Return the text with runs of whitespace collapsed.

        Raises ValueError for control characters, bidirectional overrides, or more than LONGEST_LINE
        characters.
        """
        line = " ".join(value.split())
        if re.search(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", line):
            raise ValueError("must have no control characters")
        if len(line) > LONGEST_LINE:
            raise ValueError(f"must have at most {LONGEST_LINE} characters")
        return line

    @field_validator("https_proxy")
    @classmethod
    def _proxy_address(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        example = "must look like http://user:password@proxy.example.org:3128"
        url = _login_url(value.get_secret_value(), example)
        if url.scheme != "http" or not url.host or not url.port or url.path.strip("/") or url.query:
            raise ValueError(example)
        return SecretStr(str(url).rstrip("/"))

    @field_validator("smtp_rates")
    @classmethod
    def _known_rates(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """Raise ValueError if a rate is malformed or a unit is repeated."""
        units = [_parse_rate(word).unit for word in value]
        if len(units) != len(set(units)):
            raise ValueError("must name each of second, minute, hour and day once at most")
        return value

    @field_validator("smtp_url")
    @classmethod
    def _smtp_address(cls, value: SecretStr) -> SecretStr:
        _parse_smtp(value.get_secret_value())
        return value

    @field_validator("paper_days")
    @classmethod
    def _paper_outlives_matches(cls, value: int) -> int:
        if 0 < value < LEAST_PAPER_DAYS:
            raise ValueError(f"must be 0, for ever, or {LEAST_PAPER_DAYS} and more")
        return value

    @model_validator(mode="after")
    def _delivery_outlives_digest(self) -> Settings:
        """Require that a delivery row outlives the content of its digest."""
        if self.delivery_days < self.digest_days:
            raise ValueError("DELIVERY_DAYS: must not be less than DIGEST_DAYS")
        return self

    @field_validator("smtp_oauth_token_url")
    @classmethod
    def _token_address(cls, value: str | None) -> str | None:
        # The refresh token is sent there, so only https or loopback is accepted.
        parts = urlsplit(value or "")
        is_here = parts.scheme == "http" and parts.hostname in {"127.0.0.1", "localhost", "::1"}
        if value is not None and not (is_here or (parts.scheme == "https" and parts.hostname)):
            raise ValueError("must look like https://oauth2.googleapis.com/token")
        return value

    @model_validator(mode="after")
    def _one_source_of_tokens(self) -> Settings:
        """Require one complete source of OAuth tokens, if any, and a user to log in."""
        if self.smtp_oauth_command and self.smtp_oauth_refresh_token:
            raise ValueError("SMTP_OAUTH_COMMAND and SMTP_OAUTH_REFRESH_TOKEN: set only one")
        if self.smtp_oauth_refresh_token:
            for name in ("smtp_oauth_token_url", "smtp_oauth_client_id"):
                if not getattr(self, name):
                    raise ValueError(f"{name.upper()}: needed beside SMTP_OAUTH_REFRESH_TOKEN")
        is_used = self.smtp_oauth_command or self.smtp_oauth_refresh_token
        if is_used and not self.smtp.username:
            raise ValueError("SMTP_URL: must name the user that SMTP_OAUTH_... logs in")
        return self

    @model_validator(mode="after")
    def _one_password(self) -> Settings:
        """Raise ValueError if BOUNCE_MAILBOX_PASSWORD is set and BOUNCE_MAILBOX has a password."""
        if self.bounce_mailbox_password is None:
            return self
        if self.bounce_mailbox is None:
            return self  # used by `bounces read imaps://user@host`
        if parse_login_url(self.bounce_mailbox.get_secret_value()).password is not None:
            raise ValueError("BOUNCE_MAILBOX_PASSWORD: BOUNCE_MAILBOX has a password already")
        return self

    @property
    def smtp(self) -> SMTPServer:
        """Return the parsed `smtp_url`."""
        return _parse_smtp(self.smtp_url.get_secret_value())

    @property
    def dns(self) -> tuple[str, int] | None:
        """Return the address and port of `dns_server`; None for the system resolver."""
        return _parse_dns_server(self.dns_server) if self.dns_server else None

    @property
    def rates(self) -> tuple[SendRate, ...]:
        return tuple(map(_parse_rate, self.smtp_rates))

    @property
    def sender(self) -> str:
        """Return the bare address of `mail_from`."""
        return parseaddr(self.mail_from)[1]

    @property
    def site_host(self) -> str:
        return urlsplit(self.site_url).hostname or "localhost"

    def mailbox_url(self, url: str | None = None) -> str:
        """Return the URL of an IMAP mailbox with its password, by default BOUNCE_MAILBOX.

        A `url` without a password gets that of BOUNCE_MAILBOX if user and host are the same, or
        BOUNCE_MAILBOX_PASSWORD if BOUNCE_MAILBOX is not set: no password needs to be on a command
        line, and none is sent to another server. Raises SettingsError if no mailbox is set or
        the URL is malformed.
        """
        example = "a mailbox must look like imaps://user@host/FOLDER"
        own, found = None, None
        try:
            if self.bounce_mailbox is not None:
                own = parse_login_url(self.bounce_mailbox.get_secret_value())
            found = _login_url(url, example) if url else own
        except ValueError as error:
            raise SettingsError(str(error)) from None
        if found is None:
            raise SettingsError("BOUNCE_MAILBOX: is not set")
        if found.password is not None:
            return str(found)
        if own and (own.username, own.host) != (found.username, found.host):
            return str(found)
        password = own.password if own else None
        if self.bounce_mailbox_password is not None:
            password = self.bounce_mailbox_password.get_secret_value()
        return str(replace(found, password=password))

    @property
    def is_public(self) -> bool:
        """Return whether others can reach the site by SITE_URL.

        False on loopback, and under a domain that is reserved for examples and tests.
        """
        return not (is_loopback(self.site_host) or is_reserved(self.site_host))

    @property
    def sends_real_mail(self) -> bool:
        """Return whether mail may reach people: False for the built-in mailbox and for trials.

        A relay on loopback can send to the internet, too: it counts as a trial only if the site is
        not public and the port is not in RELAY_PORTS.
        """
        server = self.smtp
        if server.is_mailbox:
            return False
        return self.is_public or not server.is_loopback or server.port in RELAY_PORTS

    @property
    def weak_keys(self) -> list[str]:
        """Return the names of key settings with a key short enough to be guessed."""
        given = {"SECRET_KEY": self.secret_key}
        if self.suppression_key is not None:
            given["SUPPRESSION_KEY"] = (self.suppression_key.get_secret_value(),)
        return [name for name, keys in given.items() if any(len(k) < SHORTEST_SECRET for k in keys)]

    def check_real_mail(self) -> None:
        """Raise SettingsError if mail to real people lacks a required setting, naming each."""
        if not self.sends_real_mail:
            return
        given = {
            "MAIL_FROM": not is_loopback(self.sender.rpartition("@")[2]),
            "OPERATOR_ADDRESS": bool(self.operator_address),
            "SITE_URL (an https address)": self.site_url.startswith("https://")
            and not is_loopback(self.site_host),
            f"SECRET_KEY ({SHORTEST_SECRET} characters or more)": "SECRET_KEY"
            not in self.weak_keys,
        }
        missing = [name for name, is_set in given.items() if not is_set]
        if missing:
            raise SettingsError(
                f"real mail to {self.smtp.host} needs these settings: {', '.join(missing)}"
            )

    def check_site(self, host: str) -> None:
        """Raise SettingsError if a site that others can reach has a weak SECRET_KEY.

        `host` is the address it binds.
        """
        if (self.is_public or not is_loopback(host)) and "SECRET_KEY" in self.weak_keys:
            raise SettingsError(
                f"SECRET_KEY: others reach this site, so each key must have {SHORTEST_SECRET} "
                "characters or more; without SECRET_KEY Paperboy makes one itself"
            )


def find_env_file(path: Path = ENV_FILE) -> Path:
    """Return `.env` of the working directory; if it has none, `.env` of the installation, if any.

    So a command works from every directory, also from one that its user may not enter, where
    `Path.is_file` raises PermissionError. Another path is returned as it is.
    """
    if path != ENV_FILE or os.path.isfile(path) or INSTALLATION is None:
        return path
    installed = INSTALLATION / ENV_FILE
    return installed if os.path.isfile(installed) else path


def load(env_file: Path | None = ENV_FILE, **overrides: Any) -> Settings:
    """Return the settings of this process: `overrides`, then the environment, then `env_file`.

    See `find_env_file`. If the file is in another directory, relative paths in it, and that of the
    default database, are relative to the file. Raises SettingsError that names every invalid
    setting, without its value.
    """
    env_file = env_file and find_env_file(env_file)
    setting_files.read(env_file, _NAMES)  # raises our own messages before pydantic parses the file
    try:
        loaded = Settings(_env_file=env_file, **overrides)
    except ValidationError as error:
        parts = error.errors(include_input=False, include_url=False)
        raise SettingsError("; ".join(map(_explain, parts))) from None
    default = Settings.model_fields["database_url"].default
    is_default = "database_url" not in loaded.model_fields_set
    if is_default and env_file and env_file.is_absolute() and env_file.is_file():
        anchored = setting_files.anchored("database_url", default, env_file.parent)
        return loaded.model_copy(update={"database_url": anchored})
    return loaded


def suspicions(env_file: Path | None = ENV_FILE) -> list[setting_files.Suspicion]:
    """Return names that are probably mistyped settings, and settings that are given twice."""
    entries = setting_files.read(env_file and find_env_file(env_file), _NAMES)
    found = setting_files.misnomers(entries, os.environ, _NAMES)
    return [*found, *setting_files.duplicates(entries, _NAMES)]


def origins(env_file: Path = ENV_FILE) -> dict[str, str]:
    """Return the place that each setting in force comes from, by its name in upper case.

    The place is `environment`, the path of `.env`, the path of a secret's file with the place that
    names it, or `default`.
    """
    path = find_env_file(env_file)
    entries = setting_files.values(setting_files.read(path, _NAMES))
    places = (("environment", _lower(os.environ)), (str(path.absolute()), entries))
    return {name.upper(): _origin(name, places) for name in Settings.model_fields}


def _origin(name: str, places: Iterable[tuple[str, Mapping[str, str | None]]]) -> str:
    for place, given in places:
        if given.get(name):
            return place
        if is_secret(Settings.model_fields[name]) and (file := given.get(f"{name}_file")):
            return f"{file} ({name.upper()}_FILE of {place})"
    return "default"


def _lower(environment: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in environment.items()}


def log_suspicions() -> None:
    """Log a warning for each doubtful setting, once at the start of a service."""
    for suspicion in suspicions():
        log.warning("setting.doubtful", detail=suspicion.text)


class _EnvFile(DotEnvSettingsSource):
    """`.env` as parsed by `env_file`: values are literal, `${...}` is not expanded."""

    @property
    def folder(self) -> Path | None:
        """Return the directory that its relative paths belong to; None: the working directory."""
        path = self._path
        return path.parent if path is not None and path.is_absolute() else None

    @property
    def _path(self) -> Path | None:
        return Path(self.env_file) if isinstance(self.env_file, str | os.PathLike) else None

    def _load_env_vars(self) -> Mapping[str, str | None]:
        given = setting_files.values(setting_files.read(self._path, _NAMES))
        if folder := self.folder:
            given = {
                name: value and setting_files.anchored(name, value, folder)
                for name, value in given.items()
            }
        return parse_env_vars(given, False, bool(self.env_ignore_empty), None)


_NAMES: Final = frozenset(
    name.upper() + ending
    for name, field_ in Settings.model_fields.items()
    for ending in (("", "_FILE") if is_secret(field_) else ("",))
)


def child_environment(**changes: str) -> dict[str, str]:
    """Return the environment of a child process that must read our settings, except for `changes`.

    Names are upper case, as in `.env.example`. A change also replaces a `NAME_FILE` of ours.
    """
    files = {f"{name}_FILE" for name in changes}
    ours = {name: value for name, value in os.environ.items() if name.upper() not in files}
    return {**ours, **changes}


def _explain(part: Any) -> str:
    """Return a validation error as text, with the name of the setting and without its value."""
    name = ".".join(map(str, part["loc"])).upper()
    said: str = part["msg"].removeprefix("Value error, ")
    return f"{name}: {said}" if name else said  # a message about two settings names both


def _parse_rate(word: str) -> SendRate:
    most, _, unit = word.partition("/")
    if not (most.isascii() and most.isdecimal() and len(most) <= 10 and unit in RATE_UNITS):
        raise ValueError("must look like 14/second 50000/day; there are second, minute, hour, day")
    if not 1 <= int(most) <= MOST_A_WINDOW:
        raise ValueError(f"must be between 1 and {MOST_A_WINDOW} mails")
    return SendRate(int(most), unit)


def _login_url(value: str, example: str) -> LoginURL:
    """Parse a URL. Raises ValueError that shows `example` and the reason."""
    try:
        return parse_login_url(value)
    except ValueError as error:
        raise ValueError(f"{example} (it {error})") from None


def _parse_smtp(value: str) -> SMTPServer:
    """Parse an SMTP URL; the default port is 465 for `smtps`, else 587. Raises ValueError."""
    example = "must look like smtp://user:password@mail.example.org:587"
    url = _login_url(value, example)
    if url.scheme not in {"smtp", "smtps", "mailbox"} or not url.host:
        raise ValueError(example)
    if url.path.strip("/") or url.query:
        raise ValueError(f"{example} (it has a path behind the host)")
    if url.password and not url.username:
        raise ValueError(f"{example} (it has a password and no user)")
    if url.scheme == "mailbox" and not (is_loopback(url.host) and url.port):
        raise ValueError("mailbox:// is the built-in mailbox, on a port of this machine")
    implicit_tls = url.scheme == "smtps"
    return SMTPServer(
        host=url.host,
        port=url.port or (465 if implicit_tls else 587),
        username=url.username,
        password=url.password or None,
        implicit_tls=implicit_tls,
        is_mailbox=url.scheme == "mailbox",
    )


def _parse_dns_server(server: str) -> tuple[str, int]:
    """Return the address and port, by default 53. Raises ValueError for a host name."""
    try:
        host, port = parse_place(server)
        return str(ip_address(host)), port or 53
    except ValueError:
        raise ValueError(
            "must be an address such as 192.0.2.53, [2001:db8::53] or 192.0.2.53:53"
        ) from None
