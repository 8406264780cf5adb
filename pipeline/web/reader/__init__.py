"""A reader's own pages, reached by the links in their mail. GET shows, POST does.

* looking       whose link it is, and what they have chosen
* wording       days, hours and reasons as a reader says them
* confirming    yes, that was me
* preferences   topics, hour, pauses, and why nothing came
* holding       what we hold about a reader: take it along, move it, erase it
* leaving       out with one click, and back within a month
* viewing       a digest in the browser, as it was sent
* privacy       what is kept about readers, and for how long
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from fastapi import APIRouter
from starlette.responses import Response

from pipeline.bootstrap import Services
from pipeline.web.pages import Pages
from pipeline.web.reader import confirming, holding, leaving, preferences, privacy, viewing
from pipeline.web.reader.looking import LOOK

STYLE: Final = Path(__file__).parents[1] / "static" / "preferences.css"
AN_HOUR: Final = {"Cache-Control": "public, max-age=3600"}


def router(services: Services, pages: Pages, wake_editions: Callable[[], None]) -> APIRouter:
    routes = APIRouter()
    for part in (holding, leaving, viewing, privacy):
        routes.include_router(part.router(services, pages))
    for asking in (confirming, preferences):
        routes.include_router(asking.router(services, pages, wake_editions))

    @routes.api_route("/preferences.css", methods=LOOK)
    def stylesheet() -> Response:
        return Response(STYLE.read_bytes(), media_type="text/css", headers=AN_HOUR)

    return routes
