"""Prometheus metrics, read from the database at each scrape; without names or addresses.

Access is restricted: they reveal the number of readers and the state of mail delivery.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Final

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest
from starlette.responses import PlainTextResponse, Response

from pipeline.bootstrap import Services
from pipeline.domain import SourceState
from pipeline.storage import progress, topics
from pipeline.storage.database import reading
from pipeline.web.health import NOT_STORED, stuck

FORWARDED: Final = ("forwarded", "x-forwarded-for", "x-real-ip", "via")
REFUSED: Final = "Set METRICS_TOKEN and send it as a bearer token, or ask from this machine.\n"


def router(services: Services) -> APIRouter:
    routes = APIRouter()
    given = services.settings.metrics_token
    token = given.get_secret_value() if given else None
    started_at = datetime.now(UTC)

    @routes.api_route("/metrics", methods=["GET", "HEAD"])
    def metrics(request: Request) -> Response:
        if not may_look(request, token):
            return PlainTextResponse(REFUSED, 403, headers=NOT_STORED)
        figures = read(services, datetime.now(UTC), started_at)
        return Response(
            generate_latest(figures), media_type=CONTENT_TYPE_LATEST, headers=NOT_STORED
        )

    return routes


def may_look(request: Request, token: str | None) -> bool:
    """Return whether a request has the bearer token or, if none is set, comes from loopback.

    A request with forwarding headers is rejected without a token: a proxy on this machine passes
    on requests from other machines. Tokens are compared in constant time.
    """
    if token is not None:
        said = request.headers.get("authorization", "")
        return hmac.compare_digest(said.encode(), f"Bearer {token}".encode())
    if any(name in request.headers for name in FORWARDED):
        return False
    try:
        return ip_address(request.client.host if request.client else "").is_loopback
    except ValueError:  # a socket without an address
        return False


def read(services: Services, now: datetime, started_at: datetime) -> CollectorRegistry:
    """Return a new registry with all metrics. Raise DBAPIError if the database does not answer."""
    with reading(services.engine) as conn:
        made = progress.read(conn, now)
        unsettled = progress.unsettled(conn)
        last_day = progress.last_day(conn, now)
        suppressions = progress.suppressions(conn)
        behind = topics.count_behind(conn, made.batch)
    figures = _Figures(now)
    figures.one("ready", "1 where /readyz says so", float(not stuck(made, now, started_at)))
    figures.many(
        "deliveries_unsettled", "Deliveries that have not come to an end", ("status",),
        {(status,): n for status, n in unsettled.items()},
    )  # fmt: skip
    figures.many(
        "deliveries_last_day", "Deliveries owed in the last 24 hours", ("kind", "status"), last_day
    )
    figures.many(
        "suppressions", "Addresses that are not written to", ("reason",),
        {(reason,): n for reason, n in suppressions.items()},
    )  # fmt: skip
    figures.one("held", "Editions that the program holds until you act", len(made.held))
    figures.one("breaker_open", "1 while the mail server refuses us", float(bool(made.breaker)))
    figures.one("refusals_waiting", "Refusals that count against nobody so far", made.refusals)
    # A new topic is matched within a minute; one that cannot be matched stays behind.
    figures.one("topics_behind", "Followed topics that wait to be matched", behind)
    figures.one("published_batch", "The newest batch that readers may see", made.batch)
    figures.age("due_seconds", "How long the oldest mail that is due has waited", made.due_since)
    figures.age("slot_seconds", "How long the oldest digest is overdue", made.slot_since)
    figures.age("batch_age_seconds", "Since the newest batch was published", made.batch_at)
    figures.age("asked_age_seconds", "Since a source was last asked", made.asked_at(now))
    figures.many(
        "source_state", "1 for the state that a source is in", ("source", "state"),
        {(s.source, state): float(s.state is state) for s in made.sources for state in SourceState},
    )  # fmt: skip
    figures.many(
        "source_failures", "Failures of a source in a row", ("source",),
        {(s.source,): s.failures for s in made.sources},
    )  # fmt: skip
    return figures.registry


class _Figures:
    """Gauges of one scrape, in a registry of their own."""

    def __init__(self, now: datetime) -> None:
        self.registry = CollectorRegistry()
        self._now = now

    def one(self, name: str, what: str, value: float) -> None:
        Gauge(f"paperboy_{name}", what, registry=self.registry).set(value)

    def age(self, name: str, what: str, since: datetime | None) -> None:
        """Set the seconds since `since`; 0 if it is None or in the future."""
        seconds = (self._now - since).total_seconds() if since else 0.0
        self.one(name, what, max(0.0, seconds))

    def many(
        self,
        name: str,
        what: str,
        labels: tuple[str, ...],
        values: Mapping[tuple[str, ...], float],
    ) -> None:
        gauge = Gauge(f"paperboy_{name}", what, labels, registry=self.registry)
        for label, value in values.items():
            gauge.labels(*label).set(value)
