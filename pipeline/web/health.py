"""Whether this process lives, and whether it can do its work."""

from __future__ import annotations

from fastapi import APIRouter
from sqlalchemy.exc import DBAPIError
from starlette.responses import PlainTextResponse

from pipeline.bootstrap import Services
from pipeline.errors import SchemaError
from pipeline.storage import migrate


def router(services: Services) -> APIRouter:
    routes = APIRouter()

    @routes.api_route("/healthz", methods=["GET", "HEAD"])
    def alive() -> PlainTextResponse:
        return PlainTextResponse("alive\n")

    @routes.api_route("/readyz", methods=["GET", "HEAD"])
    def ready() -> PlainTextResponse:
        """Ready means that the database answers, and has the tables of this version."""
        try:
            migrate.check(services.engine)
        except SchemaError as error:
            return PlainTextResponse(f"{error}\n", 503)
        except DBAPIError:
            return PlainTextResponse("the database does not answer\n", 503)
        return PlainTextResponse("ready\n")

    return routes
