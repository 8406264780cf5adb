"""Webhooks for bounces and complaints of mail providers; responses are plain text."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Final

import structlog
from fastapi import APIRouter, Depends, HTTPException, Request
from starlette.responses import PlainTextResponse

from pipeline.bootstrap import Services
from pipeline.errors import (
    EventError,
    ForgedError,
    NotFoundError,
    PaperboyError,
    ProviderError,
)

log = structlog.get_logger(__name__)

LARGEST: Final = 1024 * 1024  # SNS allows 256 KB, which JSON escaping may double
REFUSALS: Final[dict[type[PaperboyError], int]] = {
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


def router(services: Services) -> APIRouter:
    routes = APIRouter(prefix="/hooks")

    @routes.post("/{provider}")
    def take(
        provider: str, request: Request, body: Annotated[bytes, Depends(body_of)]
    ) -> PlainTextResponse:
        try:
            services.receive_news(provider, request.headers, body, datetime.now(UTC))
        except tuple(REFUSALS) as error:
            log.warning("news refused", provider=provider[:32], why=str(error))
            return PlainTextResponse(f"{error}\n", REFUSALS[type(error)])
        return PlainTextResponse("taken\n")

    return routes
