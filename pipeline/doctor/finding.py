"""What the doctor finds, and whom it looks at."""

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
from sqlalchemy.exc import DBAPIError

from pipeline import bootstrap
from pipeline.bootstrap import Services
from pipeline.doctor.resolver import Resolver
from pipeline.errors import DatabaseFileError, TransportError
from pipeline.message import own_address
from pipeline.settings import Settings
from pipeline.smtp import Traits, transport_of
from pipeline.smtp.connection import Bounds
from pipeline.storage import sqlite_file
from pipeline.storage.database import reading
from pipeline.storage.keys import Keys

PATIENCE: Final = 4.0  # seconds for each answer from elsewhere


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of what the doctor says."""

    check: str
    ok: bool | None  # None: could not be checked, `detail` says why
    detail: str
    advice: str = ""  # what to do; beside a good finding, what would be better still


def good(check: str, detail: str, advice: str = "") -> Finding:
    return Finding(check, True, detail, advice)


def bad(check: str, detail: str, advice: str) -> Finding:
    return Finding(check, False, detail, advice)


def unknown(check: str, why: str, advice: str = "") -> Finding:
    return Finding(check, None, why, advice)


@dataclass(frozen=True)
class Patient:
    """One installation. What several checks ask of it is asked once."""

    settings: Settings
    now: datetime

    @cached_property
    def services(self) -> Services:
        """With keys of its own: making or changing those of the installation is not for us."""
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
        """Where bounces go, which is what SPF is asked about."""
        address = self.services.sender.envelope(0, "")
        return address.rpartition("@")[2]

    @property
    def is_public(self) -> bool:
        """Whether the sender's domain can have records at all: localhost has none."""
        return "." in self.sender_domain and not self.sender_domain.endswith(".localhost")

    @property
    def sends_itself(self) -> bool:
        """Whether the mail server is one of the sender's domain, and not a provider's."""
        host, domain = self.settings.smtp.host.lower(), self.sender_domain.lower()
        return not self.settings.smtp.is_loopback and f".{host}".endswith(f".{domain}")

    @cached_property
    def database_trouble(self) -> str | None:
        """Why the database cannot be asked; a server that is silent is waited for once."""
        engine = self.services.engine
        path = engine.url.database
        if engine.dialect.name == "sqlite" and path and not Path(path).exists():
            return f"there is no {path} yet"  # and opening it would make it
        try:
            with reading(engine):
                return None
        except DatabaseFileError as error:
            return str(error)
        except DBAPIError as error:
            return sqlite_file.explain(error, engine.url)

    @cached_property
    def mail_server(self) -> Traits | str:
        """What the mail server is like, or why it did not let us in."""
        try:
            return transport_of(self.settings, Bounds(opening=PATIENCE)).look()
        except TransportError as error:
            return str(error)

    @cached_property
    def way_out(self) -> requests.Response | None:
        """What the site answers to one click of nobody; None where it cannot be reached."""
        nobody = secrets.token_urlsafe(16)  # of the length of a reader's secret, and no reader's
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
        """In ASCII, of `Name <name@example.org>`."""
        return own_address(parseaddr(mailbox)[1]).rpartition("@")[2]


Check = Callable[[Patient], Iterator[Finding]]
