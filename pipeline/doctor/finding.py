"""Result of a check (`Finding`) and the installation that is checked (`Installation`)."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from email.utils import parseaddr
from functools import cached_property
from pathlib import Path
from typing import Final

import requests
from kombu.exceptions import OperationalError
from sqlalchemy.exc import DBAPIError

from pipeline import bootstrap
from pipeline.bootstrap import Services
from pipeline.broker import Worker
from pipeline.doctor.resolver import Resolver
from pipeline.errors import DatabaseFileError, TransportError
from pipeline.message import own_address
from pipeline.settings import Settings
from pipeline.smtp import ServerFeatures, transport_of
from pipeline.smtp.session import SessionLimits
from pipeline.storage import sqlite_file
from pipeline.storage.database import read_only
from pipeline.storage.keys import Keys

PATIENCE: Final = 4.0  # seconds for each reply from another host


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check: one line of the doctor's output."""

    check: str
    ok: bool | None  # None: could not be checked, `detail` has the reason
    detail: str
    advice: str = ""  # how to fix it; with a good finding, an optional improvement


def good(check: str, detail: str, advice: str = "") -> Finding:
    return Finding(check, True, detail, advice)


def bad(check: str, detail: str, advice: str) -> Finding:
    return Finding(check, False, detail, advice)


def unknown(check: str, why: str, advice: str = "") -> Finding:
    return Finding(check, None, why, advice)


@dataclass(frozen=True)
class Installation:
    """One installation. The results that several checks share are cached."""

    settings: Settings
    now: datetime
    find_workers: Callable[[Settings, float], list[Worker]] | None = None  # see tasks.workers

    @cached_property
    def services(self) -> Services:
        """Return services with random keys, since checks must not create or change stored keys."""
        built = bootstrap.build(self.settings, check=False)
        return replace(built, other_keys=Keys.random())

    @cached_property
    def resolver(self) -> Resolver:
        return Resolver(self.settings.dns, patience=PATIENCE / 2)

    @property
    def sender_domain(self) -> str:
        return self.services.sender.host

    @property
    def envelope_domain(self) -> str:
        """Return the domain that bounces go to; SPF is evaluated for it."""
        address = self.services.sender.envelope(0, "")
        return address.rpartition("@")[2]

    @property
    def is_public(self) -> bool:
        """Return whether the sender's domain can have DNS records; localhost has none."""
        return "." in self.sender_domain and not self.sender_domain.endswith(".localhost")

    @property
    def sends_itself(self) -> bool:
        """Return whether the mail server belongs to the sender's domain, and not to a provider."""
        host, domain = self.settings.smtp.host.lower(), self.sender_domain.lower()
        return not self.settings.smtp.is_loopback and f".{host}".endswith(f".{domain}")

    @cached_property
    def database_trouble(self) -> str | None:
        """Return the reason if the database is unavailable, else None.

        Cached, so that a silent server is waited for only once.
        """
        engine = self.services.engine
        path = engine.url.database
        if engine.dialect.name == "sqlite" and path and not Path(path).exists():
            return f"{path} does not exist yet"  # opening it would create it
        try:
            with read_only(engine):
                return None
        except DatabaseFileError as error:
            return str(error)
        except DBAPIError as error:
            return sqlite_file.explain(error, engine.url)

    @cached_property
    def mail_server(self) -> ServerFeatures | str:
        """Return the features of the mail server, or the error if connecting failed."""
        try:
            return transport_of(self.settings, SessionLimits(opening=PATIENCE)).look()
        except TransportError as error:
            return str(error)

    @cached_property
    def workers(self) -> list[Worker] | None:
        """Return the workers and beats that answer; None if Redis is not available."""
        if self.find_workers is None:
            return None
        try:
            return self.find_workers(self.settings, PATIENCE / 2)
        except OperationalError:
            return None

    @cached_property
    def way_out(self) -> requests.Response | None:
        """Return the site's reply to a one-click request with an unknown secret.

        None if the site is unreachable.
        """
        nobody = secrets.token_urlsafe(16)  # as long as a subscriber's secret, but matches none
        try:
            return requests.post(
                f"{self.settings.site_url}/unsubscribe/{nobody}",
                data={"List-Unsubscribe": "One-Click"},
                timeout=PATIENCE,
                allow_redirects=False,
            )
        except requests.RequestException:
            return None

    def domain_of(self, mailbox: str) -> str:
        """Return the domain, in ASCII, of `Name <name@example.org>`."""
        return own_address(parseaddr(mailbox)[1]).rpartition("@")[2]


Check = Callable[[Installation], Iterator[Finding]]
