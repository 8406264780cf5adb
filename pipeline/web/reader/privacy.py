"""Privacy page: the data kept about readers; its retention periods are those of the purge."""

from __future__ import annotations

from datetime import timedelta

from fastapi import APIRouter
from starlette.responses import Response

from pipeline import purge
from pipeline.bootstrap import Services
from pipeline.rendering import words
from pipeline.storage import strikes
from pipeline.web.pages import Pages
from pipeline.web.reader.looking import LOOK


def router(services: Services, pages: Pages) -> APIRouter:
    routes = APIRouter()
    kept = services.retention

    @routes.api_route("/privacy", methods=LOOK)
    def privacy() -> Response:
        return pages.show(
            "privacy.html",
            pending=spoken(kept.pending),
            ip=spoken(kept.ip),
            counters=spoken(purge.COUNTERS),
            asked=spoken(purge.ASKED),
            digest=spoken(kept.digest),
            delivery=spoken(kept.delivery),
            event=spoken(kept.event),
            strike=spoken(strikes.MEMORY),
            mail_server=services.settings.smtp.host,
        )

    return routes


def spoken(span: timedelta) -> str:
    return words.count(span.days, "day", "days")
