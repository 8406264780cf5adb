"""Every setting, read once from the environment and `.env`; nothing else reads os.environ."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from datetime import timedelta
from email.utils import parseaddr
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

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
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from pipeline.errors import SettingsError
from pipeline.secret_files import SecretFiles

DEVELOPMENT_KEY = "development-only"
SHORTEST_SECRET = 32
SNS_TOPIC = re.compile(r"arn:aws[a-z-]*:sns:[a-z0-9-]+:\d{12}:[\w-]{1,256}")


@dataclass(frozen=True, slots=True)
class SMTPServer:
    """A mail server as `smtp(s)://user:pass@host:port` names it.

    `smtps` speaks TLS from the first byte (port 465), `smtp` turns it on by STARTTLS (port 587).
    """

    host: str
    port: int
    username: str | None
    password: str | None = field(repr=False)
    implicit_tls: bool

    @property
    def is_loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False


RATE_UNITS = {
    "second": timedelta(seconds=1),
    "minute": timedelta(minutes=1),
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
}


@dataclass(frozen=True, slots=True)
class SendRate:
    """How many mails the provider takes in any stretch of one unit of time: `50000/day`."""

    most: int
    unit: str  # of RATE_UNITS

    @property
    def window(self) -> timedelta:
        return RATE_UNITS[self.unit]


def _split(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(word for word in value.replace(",", " ").split() if word)
    return value


Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
HasPassword = Annotated[str, Field(repr=False)]


class Settings(BaseSettings):
    """What an operator decides; `.env.example` explains each. Names there are upper case."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, env_ignore_empty=True)

    # Where things are
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

    # Who writes
    mail_from: str = "Paperboy <paperboy@localhost>"
    reply_to: str | None = None
    bounce_address: str | None = None
    unsubscribe_mailbox: str | None = None
    list_name: str = "Paperboy"
    operator_name: str = "Paperboy"
    operator_address: str = ""
    accent_color: Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")] = "#b45309"
    logo_url: str | None = None
    note: str = ""

    # Secrets
    secret_key: Annotated[Words, Field(repr=False)] = (DEVELOPMENT_KEY,)  # newest first
    suppression_key: SecretStr = SecretStr(DEVELOPMENT_KEY)

    # Authenticity
    dkim_keys: SecretStr | None = None  # read by `dkim.read_keys`
    dkim_domain: str | None = None
    dns_server: str | None = None

    # Sources
    contact: str | None = None
    sources: Words = ("huggingface", "arxiv")
    arxiv_categories: Words = ("cs.AI", "cs.CL", "cs.CV", "cs.LG", "stat.ML")
    huggingface_token: SecretStr | None = None

    # Matching
    semantic_model: Words = ()  # places, read by `embedding.Model`

    # Digests
    max_papers: Annotated[int, Field(ge=1, le=50)] = 10
    digest_expiry_hours: Annotated[int, Field(ge=1, le=72)] = 18
    digest_spread_minutes: Annotated[int, Field(ge=0, le=30)] = 10
    quiet_note_days: Annotated[int, Field(ge=0, le=60)] = 7

    # Sending
    smtp_tls: Annotated[str, Field(pattern="^(auto|required|off)$")] = "auto"
    smtp_ca_file: Path | None = None
    smtp_oauth_command: SecretStr | None = None
    smtp_oauth_token_url: str | None = None
    smtp_oauth_client_id: str | None = None
    smtp_oauth_client_secret: SecretStr | None = None
    smtp_oauth_refresh_token: SecretStr | None = None
    smtp_connections: Annotated[int, Field(ge=1, le=200)] = 10
    smtp_messages_per_connection: Annotated[int, Field(ge=1)] = 500
    smtp_rates: Words = ()
    smtp_senders: Annotated[int, Field(ge=1, le=100)] = 4
    resend_uncertain_digests: bool = False

    # What is kept about people, in days. No less than what a link that was mailed rests on: 72
    # hours for a confirmation, 90 days for "never the same paper twice".
    pending_days: Annotated[int, Field(ge=3, le=365)] = 7
    ip_days: Annotated[int, Field(ge=3, le=365)] = 7
    digest_days: Annotated[int, Field(ge=90, le=3650)] = 90
    delivery_days: Annotated[int, Field(ge=90, le=3650)] = 396
    event_days: Annotated[int, Field(ge=1, le=365)] = 30

    # Feedback
    ses_topics: Words = ()
    hook_secret: Annotated[Words, Field(repr=False)] = ()  # newest first
    bounce_mailbox: SecretStr | None = None

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
        return (
            init_settings,
            env_settings,
            SecretFiles(settings_cls, env_settings),
            dotenv_settings,
            SecretFiles(settings_cls, dotenv_settings),
        )

    @field_validator("site_url")
    @classmethod
    def _http_address(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("must look like https://papers.example.org")
        return value.rstrip("/")

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
        parts = urlsplit(value.get_secret_value()) if value else None
        if parts and (parts.scheme not in {"imap", "imaps"} or not parts.hostname):
            raise ValueError("must look like imaps://user:password@mail.example.org/INBOX")
        return value

    @field_validator("logo_url")
    @classmethod
    def _https_address(cls, value: str | None) -> str | None:
        # It stands in every mail, where other schemes are blocked or dangerous.
        if value is not None and not (value.startswith("https://") and urlsplit(value).hostname):
            raise ValueError("must look like https://papers.example.org/logo.png")
        return value

    @field_validator("smtp_ca_file")
    @classmethod
    def _readable_file(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_file():
            raise ValueError("must be a file that is there")
        return value

    @field_validator("mail_from", "reply_to", "bounce_address", "unsubscribe_mailbox")
    @classmethod
    def _mail_address(cls, value: str | None) -> str | None:
        if value is not None and ("@" not in parseaddr(value)[1] or not value.isprintable()):
            raise ValueError("must look like Name <name@example.org>")
        return value

    @field_validator("dkim_domain")
    @classmethod
    def _domain(cls, value: str | None) -> str | None:
        # It stands in a header as it is.
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
        return " ".join(value.split())

    @field_validator("smtp_rates")
    @classmethod
    def _known_rates(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        units = [_parse_rate(word).unit for word in value]
        if len(units) != len(set(units)):
            raise ValueError("must name each of second, minute, hour and day once at most")
        return value

    @field_validator("smtp_url")
    @classmethod
    def _smtp_address(cls, value: SecretStr) -> SecretStr:
        _parse_smtp(value.get_secret_value())
        return value

    @model_validator(mode="after")
    def _what_was_in_it_goes_first(self) -> Settings:
        if self.delivery_days < self.digest_days:
            raise ValueError("DELIVERY_DAYS: must not be less than DIGEST_DAYS")
        return self

    @field_validator("smtp_oauth_token_url")
    @classmethod
    def _token_address(cls, value: str | None) -> str | None:
        # The refresh token goes there.
        parts = urlsplit(value or "")
        is_here = parts.scheme == "http" and parts.hostname in {"127.0.0.1", "localhost", "::1"}
        if value is not None and not (is_here or (parts.scheme == "https" and parts.hostname)):
            raise ValueError("must look like https://oauth2.googleapis.com/token")
        return value

    @model_validator(mode="after")
    def _one_source_of_tokens(self) -> Settings:
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

    @property
    def smtp(self) -> SMTPServer:
        return _parse_smtp(self.smtp_url.get_secret_value())

    @property
    def dns(self) -> tuple[str, int] | None:
        """The address and port of `dns_server`; None for the system's own."""
        return _parse_dns_server(self.dns_server) if self.dns_server else None

    @property
    def rates(self) -> tuple[SendRate, ...]:
        return tuple(map(_parse_rate, self.smtp_rates))

    @property
    def sender(self) -> str:
        """The bare address of `mail_from`."""
        return parseaddr(self.mail_from)[1]

    @property
    def site_host(self) -> str:
        return urlsplit(self.site_url).hostname or "localhost"

    def check_real_mail(self) -> None:
        """Raise SettingsError unless everything is set that mail to real people needs.

        A server on loopback is a mailbox of ours and needs nothing.
        """
        if self.smtp.is_loopback:
            return
        given = {
            "SECRET_KEY": DEVELOPMENT_KEY not in self.secret_key,
            "SUPPRESSION_KEY": self.suppression_key.get_secret_value() != DEVELOPMENT_KEY,
            "MAIL_FROM": not self.sender.endswith("@localhost"),
            "OPERATOR_ADDRESS": bool(self.operator_address),
            "SITE_URL (an https address)": self.site_url.startswith("https://"),
        }
        missing = [name for name, is_set in given.items() if not is_set]
        if missing:
            raise SettingsError(
                f"real mail to {self.smtp.host} needs these settings: {', '.join(missing)}"
            )


def load(env_file: Path | None = Path(".env"), **overrides: Any) -> Settings:
    """The settings of this process: `overrides`, then the environment, then `env_file`.

    Raises SettingsError that names every wrong setting, without its value.
    """
    try:
        return Settings(_env_file=env_file, **overrides)
    except ValidationError as error:
        parts = error.errors(include_input=False, include_url=False)
        raise SettingsError("; ".join(map(_explain, parts))) from None


def child_environment(**changes: str) -> dict[str, str]:
    """The environment of a child process that is to read the settings we read, but for `changes`.

    Names are upper case, as in `.env.example`. A change stands in place of a file of ours, too.
    """
    files = {f"{name}_FILE" for name in changes}
    ours = {name: value for name, value in os.environ.items() if name.upper() not in files}
    return {**ours, **changes}


def _explain(part: Any) -> str:
    name = ".".join(map(str, part["loc"])).upper()
    said: str = part["msg"].removeprefix("Value error, ")
    return f"{name}: {said}" if name else said  # what concerns two of them names them itself


def _parse_rate(word: str) -> SendRate:
    most, _, unit = word.partition("/")
    if not (most.isascii() and most.isdecimal() and int(most) >= 1 and unit in RATE_UNITS):
        raise ValueError("must look like 14/second 50000/day; there are second, minute, hour, day")
    return SendRate(int(most), unit)


def _parse_smtp(url: str) -> SMTPServer:
    parts = urlsplit(url)
    if parts.scheme not in {"smtp", "smtps"} or not parts.hostname:
        raise ValueError("must look like smtp://user:password@mail.example.org:587")
    implicit_tls = parts.scheme == "smtps"
    return SMTPServer(
        host=parts.hostname,
        port=parts.port or (465 if implicit_tls else 587),
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        implicit_tls=implicit_tls,
    )


def _parse_dns_server(server: str) -> tuple[str, int]:
    parts = urlsplit(f"//{server}")
    try:
        return str(ip_address(parts.hostname or "")), parts.port or 53
    except ValueError:
        raise ValueError(
            "must be an address such as 192.0.2.53, [2001:db8::53] or 192.0.2.53:53"
        ) from None
