"""Logs and error output contain no address, no link and no password, even at DEBUG.

A subscriber uses each page of the real site, with a real mail server that repeats refused
recipients, real errors and a real worker; then the whole output is searched.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import urlsplit

import pytest
import requests
import structlog
from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError

from pipeline import ingest, logs, settings, signup
from pipeline.bootstrap import Services
from pipeline.errors import TransportError
from pipeline.local import processes
from pipeline.signup import Choices
from pipeline.sources import FetchResult
from pipeline.storage.database import open_engine
from pipeline.storage.schema import ProfileRow, SubscriberRow
from pipeline.tasks import client
from pipeline.web import create_app
from pipeline.web.server import listen, server
from tests.support.factories import make_sighting
from tests.support.newsroom import rows
from tests.support.outbox import add_subscriber
from tests.support.sinks import Sink, open_sink

ADA, BOB, NEW = "ada.private@example.org", "bob.private@example.org", "new.private@example.org"
SECRETS = {
    "secret_key": "the-key-that-signs-links-of-mails",
    "suppression_key": "the-key-that-hides-suppressions..",
}
SMTP_PASSWORD, DATABASE_PASSWORD = "pw-of-the-mail", "pw-of-the-database"
FORM = {"email": ADA, "queries": "tea", "frequency": "daily", "hour": "7", "timezone": "UTC",
        "max_papers": "5", "homepage": "", "do": "subscribe"}  # fmt: skip

pytestmark = pytest.mark.timeout(180)


@dataclass
class Way:
    """A reader's path through the site; `secret` collects the tokens that no log may contain."""

    services: Services
    sink: Sink
    site: str
    secret: set[str] = field(default_factory=set)

    def get(self, url: str) -> requests.Response:
        return requests.get(self.site + urlsplit(url).path, timeout=30)

    def post(self, url: str, **form: str) -> requests.Response:
        return requests.post(self.site + urlsplit(url).path, data=form, timeout=30)

    def send(self) -> None:
        self.services.dispatch(once=True, clock=datetime.now(UTC))

    def link(self, purpose: str) -> str:
        """Return the newest link of this kind that was mailed."""
        mails = [mail.body.replace(b"=\r\n", b"").decode() for mail in self.sink.accepted]
        found = [m for mail in mails for m in re.findall(rf"https?://\S+?/{purpose}/[\w.-]+", mail)]
        self.secret.add(found[-1].rsplit("/", 1)[1])
        return found[-1]


@contextmanager
def serving(services: Services) -> Iterator[str]:
    with listen("127.0.0.1", 0) as socket:
        running = server(create_app(services))
        running.config.access_log = True  # off in production, but an operator may turn it on
        logs.configure(services.settings)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [socket]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{socket.getsockname()[1]}"
        finally:
            running.should_exit = True
            thread.join(30)


def with_password(database_url: str) -> str:
    return database_url.replace("//postgres@", f"//postgres:{DATABASE_PASSWORD}@")


@pytest.fixture
def way(database_url: str, valkey: str, log_format: str) -> Iterator[Way]:
    with open_sink(logins={"paperboy": SMTP_PASSWORD}, features=("AUTH PLAIN",)) as sink:
        loaded = settings.load(
            None,
            database_url=with_password(database_url),
            redis_url=valkey,
            smtp_url=f"smtp://paperboy:{SMTP_PASSWORD}@127.0.0.1:{sink.port}",
            log_level="DEBUG",
            log_format=log_format,
            smtp_connections=1,
            **SECRETS,
        )
        services = Services(loaded, open_engine(loaded.database_url))
        with serving(services) as site:
            yield Way(services, sink, site)
        services.engine.dispose()


@pytest.mark.full
@pytest.mark.parametrize(
    ("backend", "log_format"), [("sqlite", "text"), ("postgresql", "json")], indirect=["backend"]
)
def test_output_contains_no_addresses_passwords_or_tokens(
    way: Way, valkey: str, log_format: str, capfd: pytest.CaptureFixture[str]
):
    join(way)
    read(way)
    be_refused(way)
    leave(way)
    fail(way)
    written = "".join(capfd.readouterr())
    if log_format == "json":  # for one format only: a worker takes seconds to start
        written += work(way, capfd)

    for event in (
        *("subscription.confirmed", "delivery.not_accepted", "address.erased", "IntegrityError"),
        *("UNIQUE", "/subscribe HTTP", "unsubscribe/[token]", "/feeds/[token]/digests.atom"),
    ):
        assert event.casefold() in written.casefold(), "what is searched must be there"
    passwords = {
        SMTP_PASSWORD,
        DATABASE_PASSWORD,
        urlsplit(valkey).password or "",
        *SECRETS.values(),
    }
    for word in {ADA, BOB, NEW, "private", *passwords, *way.secret}:
        assert word not in written, word


def join(way: Way) -> None:
    way.sink.answers[f"RCPT {ADA}"] = [f"450 4.2.0 <{ADA}>: greylisted"]
    assert way.post("/subscribe", **FORM).ok
    way.send()
    with way.services.engine.begin() as conn:
        conn.execute(text("UPDATE deliveries SET not_before = created_at"))
    way.send()
    link = way.link("confirm")
    assert way.get(link).ok
    found = FetchResult((make_sighting(title="Tea leaves"),))
    ingest.ingest_recorded(way.services.engine, [("arxiv", found)], now=datetime.now(UTC))
    assert way.post(link).ok
    way.secret |= {row.secret for row in rows(way.services.engine, SubscriberRow)}


def read(way: Way) -> None:
    way.sink.answers["DOT"] = f"250 2.0.0 Ok {ADA}"
    list(way.services.publish(datetime.now(UTC)))
    way.send()
    assert way.get(way.link("digests")).ok
    preferences = way.link("preferences")
    assert way.get(preferences).ok
    assert way.post(preferences + "/saved", do="create").ok
    [profile] = rows(way.services.engine, ProfileRow)
    way.secret.add(profile.feed_secret)
    assert way.get(f"/feeds/{profile.feed_secret}/digests.atom").ok
    assert way.get(f"/feeds/{profile.feed_secret}/digests.rss").status_code == 404
    way.post(preferences + "/data")
    subscriber = rows(way.services.engine, SubscriberRow)[0]
    signup.ask_data_link(way.services.engine, subscriber.id, datetime.now(UTC))
    way.send()
    data = way.link("data")
    assert way.post(data + "/export").json()["subscriber"]["email"] == ADA
    assert way.post(data + "/address", email=NEW).ok
    way.send()
    assert way.get(way.link("new-address")).ok
    assert way.get(data + "x").status_code == 410


def be_refused(way: Way) -> None:
    """Let one server reply with the recipient's address, and another reject our login."""
    for reply in (f"550 5.1.1 <{BOB}>: no such user", f"550 5.7.1 {BOB} blocked"):
        way.sink.answers[f"RCPT {BOB}"] = [reply]
        signup.add(
            way.services.engine, BOB, Choices(), confirmed=False,
            suppression_key=way.services.suppression_key, now=datetime.now(UTC),
        )  # fmt: skip
        way.send()
    way.sink.logins.clear()
    signup.add(
        way.services.engine, f"x{BOB}", Choices(), confirmed=False,
        suppression_key=way.services.suppression_key, now=datetime.now(UTC),
    )  # fmt: skip
    with pytest.raises(TransportError) as stopped:
        way.send()
    structlog.get_logger().error("stopped", error=str(stopped.value), settings=repr(way.services))
    way.sink.logins["paperboy"] = SMTP_PASSWORD


def leave(way: Way) -> None:
    assert way.post(way.link("unsubscribe")).ok
    assert way.post(way.link("data") + "/erase", sure="yes").ok


def fail(way: Way) -> None:
    """Error messages quote data: SQLAlchemy the values, PostgreSQL the row."""
    engine: Engine = way.services.engine
    add_subscriber(engine, ADA)
    try:
        add_subscriber(engine, ADA)
    except IntegrityError:
        structlog.get_logger().exception("failed")
    with engine.begin() as conn:
        conn.execute(text("DROP TABLE pending_confirmations"))
    # SQLite raises OperationalError for a missing table, as if the database were away: the site
    # returns 503, "try again later".
    assert way.post("/subscribe", **FORM).status_code in {500, 503}


def work(way: Way, capfd: pytest.CaptureFixture[str]) -> str:
    """Return the output of a worker that fails on a missing table and also does regular work."""
    loaded = way.services.settings
    with way.services.engine.begin() as conn:
        conn.execute(text("DROP TABLE skips"))
        conn.execute(text("UPDATE subscribers SET status = 'pending', created_at = '2020-01-01'"))
    environment = settings.child_environment(
        DATABASE_URL=loaded.database_url,
        REDIS_URL=loaded.redis_url,
        SMTP_URL=loaded.smtp_url.get_secret_value(),
        LOG_LEVEL="DEBUG",
        LOG_FORMAT=loaded.log_format,
        **{name.upper(): value for name, value in SECRETS.items()},
    )
    written = ""
    with processes.worker(environment, concurrency=2), client(loaded) as sender:
        for name in ("dispatch", "purge"):
            sender.send_task(f"paperboy.{name}", expires=60)
        deadline = time.monotonic() + 60  # the dispatcher alone may take that long
        while "raised unexpected" not in written:
            assert time.monotonic() < deadline, written
            time.sleep(0.1)
            written += "".join(capfd.readouterr())
    return written + "".join(capfd.readouterr())
