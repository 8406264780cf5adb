"""Privacy page: the data kept about readers; its retention periods are those of the purge."""

from __future__ import annotations

from datetime import timedelta

from fastapi import APIRouter
from starlette.responses import Response

from pipeline import purge
from pipeline.bootstrap import Services
from pipeline.storage import bounce_scores
from pipeline.translations import ngettext
from pipeline.web.account.common import LOOK
from pipeline.web.templating import Pages


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
            strike=spoken(bounce_scores.MEMORY),
            mail_server=services.settings.smtp.host,
        )

    return routes


def spoken(span: timedelta) -> str:
    return ngettext("%(num)s day", "%(num)s days", span.days)
