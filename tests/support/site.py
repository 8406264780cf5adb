"""The site in a test: its pages, the subscribers behind them, and their mail."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Engine, update
from starlette.testclient import TestClient

from pipeline import ingest, settings, signup
from pipeline.bootstrap import Services
from pipeline.domain import Sighting, Subscriber, SuppressionReason
from pipeline.signup import Choices, parse_queries
from pipeline.sources import FetchResult
from pipeline.storage import addresses, subscribers, suppressions
from pipeline.storage.database import read_only
from pipeline.storage.schema import DeliveryRow, RequestRow, SubscriberRow
from pipeline.web import create_app
from tests.support.factories import make_schedule, make_sighting
from tests.support.newsroom import rows

URL = "https://papers.example.org"
ADA = "ada.lovelace@example.org"
ELSEWHERE = {"Origin": "https://elsewhere.example", "Sec-Fetch-Site": "cross-site"}


@dataclass(frozen=True, slots=True)
class Site:
    """The pages of the site and the rows behind them. The clock is the real one."""

    services: Services
    browser: TestClient

    @property
    def engine(self) -> Engine:
        return self.services.engine

    def get(self, url: str, **more: Any) -> Any:
        return self.browser.get(path(url), **more)

    def post(self, url: str, **more: Any) -> Any:
        return self.browser.post(path(url), **more)

    def ask(self, email: str = ADA, *topics: str, ip: str | None = None, **schedule: Any) -> str:
        """Request a subscription as the form does; return the confirmation link of its mail."""
        choices = Choices(parse_queries(topics or ("retrieval",)), make_schedule(**schedule), 5)
        signup.request_subscription(
            self.engine, email, choices, ip=ip, suppression_key=self.key, now=now()
        )
        request = rows(self.engine, RequestRow, RequestRow.id)[-1]
        return self.services.links.confirm(request.id, now())

    def reader(self, email: str = ADA, *topics: str, **schedule: Any) -> Subscriber:
        choices = Choices(parse_queries(topics or ("retrieval",)), make_schedule(**schedule), 5)
        return signup.add(
            self.engine, email, choices, confirmed=True, suppression_key=self.key, now=now()
        )

    def again(self, subscriber: Subscriber) -> Subscriber:
        """Return the subscriber as stored now."""
        with read_only(self.engine) as conn:
            stored = subscribers.by_id(conn, subscriber.id)
        assert stored is not None
        return stored

    def announce(self, *sightings: Sighting) -> None:
        found = list(sightings) or [make_sighting(announced_on=now().date())]
        ingest.ingest_recorded(self.engine, [("arxiv", FetchResult(sightings=found))], now=now())

    def publish(self, *, everyone: bool = True) -> None:
        list(self.services.publish(now(), everyone=everyone))

    def deliveries(self) -> list[Any]:
        """Return all deliveries, oldest first, in any status."""
        return rows(self.engine, DeliveryRow, DeliveryRow.id)

    def suppress(self, subscriber: Subscriber) -> None:
        hash_ = addresses.address_hash(subscriber.email, self.key)
        with self.engine.begin() as conn:
            suppressions.suppress(conn, hash_, SuppressionReason.MANUAL, now())

    def alter(self, subscriber: Subscriber, **values: Any) -> None:
        """Change the row of a subscriber as the passage of time would."""
        with self.engine.begin() as conn:
            conn.execute(
                update(SubscriberRow).where(SubscriberRow.id == subscriber.id).values(**values)
            )

    def preferences(self, subscriber: Subscriber) -> str:
        return path(self.services.links.preferences(subscriber.id, now()))

    def data(self, subscriber: Subscriber) -> str:
        return path(self.services.links.data(subscriber.id, now()))

    @property
    def key(self) -> str:
        return self.services.suppression_key


def open_site(
    engine: Engine, *, wake_editions: Callable[[], None] = lambda: None, **changes: Any
) -> Site:
    services = Services(settings.load(None, **{"site_url": URL, **changes}), engine)
    browser = TestClient(
        create_app(services, wake_editions=wake_editions),
        base_url=services.settings.site_url,
        follow_redirects=False,
    )
    return Site(services, browser)


def path(url: str) -> str:
    """Return the path and query of a URL."""
    return re.sub(r"^https?://[^/]+", "", url)


def links_in(html: str) -> list[str]:
    return [link.replace("&amp;", "&") for link in re.findall(r'href="([^"]+)"', html)]


def now() -> datetime:
    return datetime.now(UTC)


def titles(page: str) -> list[str]:
    found = re.findall(r'<h2 class="title"[^>]*><a [^>]*>(.*?)</a>', page)
    return [re.sub("<[^>]+>", "", title) for title in found]
