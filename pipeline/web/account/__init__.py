"""Account pages, reached by the links in mails. GET only displays; changes need POST.

* common          shared lookups: subscriber by secret, summary of choices, next digest
* text            texts for dates, schedules, statuses and reasons
* confirm         confirm a subscription or a new address
* preferences     change topics and schedule, pause, see why no digest came
* personal_data   export, change of address, erasure
* unsubscribe     one-click unsubscribe, with undo within 30 days
* digest_view     a sent digest in the browser
* privacy         privacy page with the retention periods
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from fastapi import APIRouter
from starlette.responses import Response

from pipeline.bootstrap import Services
from pipeline.web.account import (
    confirm,
    digest_view,
    personal_data,
    preferences,
    privacy,
    unsubscribe,
)
from pipeline.web.account.common import LOOK
from pipeline.web.templating import Pages

STYLE: Final = Path(__file__).parents[1] / "static" / "preferences.css"
AN_HOUR: Final = {"Cache-Control": "public, max-age=3600"}


def router(services: Services, pages: Pages, wake_editions: Callable[[], None]) -> APIRouter:
    """Return all routes; confirming and saving preferences call `wake_editions` afterwards."""
    routes = APIRouter()
    for part in (personal_data, unsubscribe, digest_view, privacy):
        routes.include_router(part.router(services, pages))
    for asking in (confirm, preferences):
        routes.include_router(asking.router(services, pages, wake_editions))

    @routes.api_route("/preferences.css", methods=LOOK)
    def stylesheet() -> Response:
        return Response(STYLE.read_bytes(), media_type="text/css", headers=AN_HOUR)

    return routes
