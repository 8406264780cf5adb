"""Health checks: liveness of this process (/healthz), readiness of the whole system (/readyz)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from fastapi import APIRouter
from sqlalchemy.exc import DBAPIError
from starlette.responses import JSONResponse, PlainTextResponse

from pipeline.bootstrap import Services
from pipeline.errors import DatabaseFileError, SchemaError
from pipeline.storage import migrate, progress, sqlite_file
from pipeline.storage.database import reading
from pipeline.storage.progress import Progress

# Sources are fetched every hour, by a task that may be lost: two lost in a row are no outage yet.
ASKED_WITHIN: Final = timedelta(hours=3)
# Fetched papers are matched at once; if a run crashes, the next one resumes it an hour later.
PUBLISHED_WITHIN: Final = timedelta(hours=3)
# Digests are compiled every minute, and mails claimed every few seconds. A million readers with the
# same hour keep both busy for a while; if the oldest is half an hour late, no worker is running.
COMPILED_WITHIN: Final = timedelta(minutes=30)
TAKEN_WITHIN: Final = timedelta(minutes=30)
# A restart of the mail server opens the circuit breaker for a minute.
REFUSED_WITHIN: Final = timedelta(minutes=10)
NOT_STORED: Final = {"Cache-Control": "no-store"}


def router(services: Services) -> APIRouter:
    routes = APIRouter()
    started_at = datetime.now(UTC)

    @routes.api_route("/healthz", methods=["GET", "HEAD"])
    async def alive() -> PlainTextResponse:
        """Return 200 from the event loop, so that a full thread pool does not matter."""
        return PlainTextResponse("alive\n")

    @routes.api_route("/readyz", methods=["GET", "HEAD"])
    def ready() -> JSONResponse:
        """Return 200 if the database shows progress of any process, 503 with reasons otherwise."""
        reasons = why_not_ready(services, datetime.now(UTC), started_at)
        answer = {"ready": not reasons, "reasons": reasons}
        return JSONResponse(answer, 503 if reasons else 200, headers=NOT_STORED)

    return routes


def why_not_ready(services: Services, now: datetime, started_at: datetime) -> list[str]:
    """Return the problems as text for the operator; empty if the system is ready."""
    try:
        migrate.check(services.engine)
        free = sqlite_file.free_space(services.engine.url)
        if free is not None and free < sqlite_file.LEAST_SPACE:
            return [f"the disk of the database is full: {free >> 20} MB are left"]
        with reading(services.engine) as conn:
            return stuck(progress.read(conn, now), now, started_at)
    except (DatabaseFileError, SchemaError) as error:
        return [str(error)]
    except DBAPIError:
        return ["the database does not answer"]


def stuck(made: Progress, now: datetime, started_at: datetime) -> list[str]:
    """Return the steps that are overdue, and automatic holds of sending. Pure.

    If no source was fetched yet, as in a new installation, the time counts from `started_at`.
    """
    steps = (
        ("no source was asked", made.asked_at(now) or started_at, ASKED_WITHIN),
        ("papers were read and are not published", made.unpublished_since, PUBLISHED_WITHIN),
        ("the hour of a reader has come and no digest", made.slot_since, COMPILED_WITHIN),
        ("a mail is due and nobody sends it", made.due_since, TAKEN_WITHIN),
        (
            "the mail server refuses us",
            made.breaker.since if made.breaker else None,
            REFUSED_WITHIN,
        ),
    )
    held = [
        f"sending of {hold.edition_on or 'everything'} is held: {hold.reason}" for hold in made.held
    ]
    failing = [made.failing] if made.failing else []
    return (
        held
        + failing
        + [
            f"{what}, for {(now - since) // timedelta(minutes=1)} minutes"
            for what, since, patience in steps
            if since is not None and now - since > patience
        ]
    )
