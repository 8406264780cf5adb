"""Routes for operators and providers: /healthz, /readyz, /metrics and the webhooks."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from ipaddress import ip_address
from typing import Annotated, Final

import structlog
from fastapi import APIRouter, Depends, HTTPException, Request
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily
from sqlalchemy.exc import DBAPIError
from starlette.responses import JSONResponse, PlainTextResponse, Response

from pipeline.domain import CountedEvent, DeliveryKind, SourceState
from pipeline.errors import (
    DatabaseFileError,
    EventError,
    ForgedError,
    NotFoundError,
    PaperboyError,
    ProviderError,
    SchemaError,
)
from pipeline.storage import daily_counts, migrate, sqlite_file, stats, topics
from pipeline.storage.database import read_only
from pipeline.web.dependencies import READ, Services, StartedAt

NOT_STORED: Final = {"Cache-Control": "no-store"}


router = APIRouter()


@router.api_route("/healthz", methods=READ)
async def show_health() -> PlainTextResponse:
    """Return 200 from the event loop, so that a full thread pool does not matter."""
    return PlainTextResponse("alive\n")


@router.api_route("/readyz", methods=READ)
def show_readiness(services: Services, started_at: StartedAt) -> JSONResponse:
    """Return 200 if the database shows progress of any process, 503 with reasons otherwise."""
    reasons = why_not_ready(services, datetime.now(UTC), started_at)
    answer = {"ready": not reasons, "reasons": reasons}
    return JSONResponse(answer, 503 if reasons else 200, headers=NOT_STORED)


def why_not_ready(services: Services, now: datetime, started_at: datetime) -> list[str]:
    """Return the problems as text for the operator; empty if the system is ready."""
    try:
        migrate.check(services.engine)
        free = sqlite_file.free_space(services.engine.url)
        if free is not None and free < sqlite_file.LEAST_SPACE:
            return [f"the disk of the database is full: {free >> 20} MB are left"]
        with read_only(services.engine) as conn:
            return stats.problems(stats.read_stats(conn, now), now, started_at)
    except (DatabaseFileError, SchemaError) as error:
        return [str(error)]
    except DBAPIError:
        return ["the database does not answer"]


log = structlog.get_logger(__name__)

LARGEST: Final = 1024 * 1024  # SNS allows 256 KB, which JSON escaping may double
WEBHOOK_ERRORS: Final[dict[type[PaperboyError], int]] = {
    ForgedError: 403,
    NotFoundError: 404,
    EventError: 400,
    ProviderError: 503,  # the provider should retry
}


async def body_of(request: Request) -> bytes:
    """Return the request body. Raise HTTPException 413 if it is over `LARGEST`."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST:
            raise HTTPException(413, "That is more than an event can hold.")
    return bytes(body)


@router.post("/hooks/{provider}")
def receive_webhook(
    provider: str,
    request: Request,
    body: Annotated[bytes, Depends(body_of)],
    services: Services,
) -> PlainTextResponse:
    try:
        services.receive_news(provider, request.headers, body, datetime.now(UTC))
    except tuple(WEBHOOK_ERRORS) as error:
        log.warning("webhook.rejected", provider=provider[:32], why=str(error))
        return PlainTextResponse(f"{error}\n", WEBHOOK_ERRORS[type(error)])
    return PlainTextResponse("taken\n")


FORWARDED: Final = ("forwarded", "x-forwarded-for", "x-real-ip", "via")
REFUSED: Final = "Set METRICS_TOKEN and send it as a bearer token, or ask from this machine.\n"


@router.api_route("/metrics", methods=READ)
def show_metrics(request: Request, services: Services, started_at: StartedAt) -> Response:
    token = services.settings.metrics_token
    if not is_authorized(request, token.get_secret_value() if token else None):
        return PlainTextResponse(REFUSED, 403, headers=NOT_STORED)
    metrics = collect(services, datetime.now(UTC), started_at)
    return Response(generate_latest(metrics), media_type=CONTENT_TYPE_LATEST, headers=NOT_STORED)


def is_authorized(request: Request, token: str | None) -> bool:
    """Return whether a request has the bearer token or, if none is set, comes from loopback.

    A request with forwarding headers is rejected without a token: a proxy on this machine passes
    on requests from other machines. Tokens are compared in constant time.
    """
    if token is not None:
        given = request.headers.get("authorization", "")
        return hmac.compare_digest(given.encode(), f"Bearer {token}".encode())
    if any(name in request.headers for name in FORWARDED):
        return False
    try:
        return ip_address(request.client.host if request.client else "").is_loopback
    except ValueError:  # a socket without an address
        return False


def collect(services: Services, now: datetime, started_at: datetime) -> CollectorRegistry:
    """Return a new registry with all metrics. Raise DBAPIError if the database does not answer."""
    with read_only(services.engine) as conn:
        made = stats.read_stats(conn, now)
        unsettled = stats.unsettled(conn)
        last_day = stats.last_day(conn, now)
        suppressions = stats.suppressions(conn)
        behind = topics.count_behind(conn, made.batch)
        totals = daily_counts.totals(conn)
        subscribers = stats.subscribers(conn)
        edition_at = stats.last_edition_at(conn)
    figures = _Collector(now)
    is_ready = not stats.problems(made, now, started_at)
    figures.one("ready", "1 where /readyz says so", float(is_ready))
    figures.many(
        "build_info", "The version that answers", ("version",), {(version("paperboy"),): 1.0}
    )
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
    figures.many(
        "subscribers", "Subscribers by status", ("status",),
        {(status,): n for status, n in subscribers.items()},
    )  # fmt: skip
    for event, (name, what) in MAIL_TOTALS.items():
        figures.total(name, what, {kind: totals.get((kind, event), 0) for kind in DeliveryKind})
    for event, (name, what) in SUBSCRIBER_TOTALS.items():
        figures.total(name, what, {None: totals.get(("", event), 0)})
    figures.one("complaint_ratio", "Complaints per mail, 7 whole days", made.week.complaint_rate)
    figures.one("bounce_ratio", "Bounces per mail, 7 whole days", made.week.bounce_rate)
    figures.one("held", "Editions that the program holds until you act", len(made.held))
    figures.one("paused", "1 while you have stopped all sending", float(bool(made.paused_since)))
    figures.one("breaker_open", "1 while the mail server refuses us", float(bool(made.breaker)))
    figures.one("refusals_waiting", "Refusals that count against nobody so far", made.refusals)
    # A new topic is matched within a minute; one that cannot be matched stays behind.
    figures.one("topics_behind", "Followed topics that wait to be matched", behind)
    figures.one("published_batch", "The newest batch that readers may see", made.batch)
    figures.age("due_seconds", "How long the oldest mail that is due has waited", made.due_since)
    figures.age("slot_seconds", "How long the oldest digest is overdue", made.slot_since)
    figures.age("batch_age_seconds", "Since the newest batch was published", made.batch_at)
    figures.age("asked_age_seconds", "Since a source was last asked", made.asked_at(now))
    figures.one(
        "last_edition_timestamp_seconds", "When the newest digest was compiled",
        edition_at.timestamp() if edition_at else 0.0,
    )  # fmt: skip
    free = sqlite_file.free_space(services.engine.url)
    if free is not None:
        figures.one("disk_free_bytes", "Free bytes on the disk of the SQLite file", free)
    sources = [source for source in made.sources if stats.is_asked(source, now)]
    figures.many(
        "source_state", "1 for the state that a source is in", ("source", "state"),
        {(s.source, state): float(s.state is state) for s in sources for state in SourceState},
    )  # fmt: skip
    figures.many(
        "source_failures", "Failures of a source in a row", ("source",),
        {(s.source,): s.failures for s in sources},
    )  # fmt: skip
    return figures.registry


MAIL_TOTALS: Final = {
    CountedEvent.SENT: ("mails_sent", "Mails that the mail server accepted"),
    CountedEvent.REFUSED: ("mails_refused", "Permanent refusals by the mail server"),
    CountedEvent.EXPIRED: ("mails_expired", "Mails that no server accepted in time"),
    CountedEvent.BOUNCED: ("mails_bounced", "Accepted mails that were returned"),
    CountedEvent.COMPLAINED: ("mails_complained", "Mails that were reported as spam"),
}
SUBSCRIBER_TOTALS: Final = {
    CountedEvent.JOINED: ("subscribers_joined", "Subscribers that became active"),
    CountedEvent.LEFT: ("subscribers_left", "Active subscribers that left"),
}


class _Totals:
    """Counters with totals from the database, which the classes for counting cannot hold."""

    def __init__(self) -> None:
        self.families: list[CounterMetricFamily] = []

    def collect(self) -> list[CounterMetricFamily]:
        return self.families


class _Collector:
    """Metrics of one scrape, in a registry of their own."""

    def __init__(self, now: datetime) -> None:
        self.registry = CollectorRegistry()
        self._now = now
        self._totals = _Totals()
        self.registry.register(self._totals)

    def one(self, name: str, what: str, value: float) -> None:
        Gauge(f"paperboy_{name}", what, registry=self.registry).set(value)

    def total(self, name: str, what: str, values: Mapping[DeliveryKind | None, int]) -> None:
        """Add a counter by kind of mail, or one without labels; its name gets `_total`."""
        labels = [] if None in values else ["kind"]
        family = CounterMetricFamily(f"paperboy_{name}", what, labels=labels)
        for kind, value in values.items():
            family.add_metric([kind] if kind else [], value)
        self._totals.families.append(family)

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
