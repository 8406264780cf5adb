"""Pages for everybody: the latest papers, and what this site is."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import Response

from pipeline.bootstrap import Services
from pipeline.domain import Paper
from pipeline.rendering import House, views, words
from pipeline.rendering.views import Card
from pipeline.storage import batches, papers
from pipeline.storage.database import reading
from pipeline.web.pages import Pages

LATEST = 40  # papers on the front page
ROOM = views.Room(abstract=280, phrases=0, links=1)
STATIC = Path(__file__).parent / "static"
AN_HOUR = {"Cache-Control": "public, max-age=3600"}


def router(services: Services, pages: Pages) -> APIRouter:
    routes = APIRouter()
    style = _style(pages.house)

    @routes.api_route("/", methods=["GET", "HEAD"])
    @routes.api_route("/papers", methods=["GET", "HEAD"])
    def latest() -> Response:
        with reading(services.engine) as conn:
            through = batches.published(conn)
            newest = papers.announced(conn, through_batch=through, limit=LATEST)
        return pages.show("papers.html", days=by_day(newest, pages.house))

    @routes.api_route("/subscribe", methods=["GET", "HEAD"])
    def subscribe() -> Response:
        return pages.show("subscribe.html")

    @routes.api_route("/privacy", methods=["GET", "HEAD"])
    def privacy() -> Response:
        return pages.show("privacy.html")

    @routes.api_route("/style.css", methods=["GET", "HEAD"])
    def stylesheet() -> Response:
        return Response(style, media_type="text/css", headers=AN_HOUR)

    @routes.api_route("/icon.svg", methods=["GET", "HEAD"])
    def icon() -> Response:
        return Response(
            (STATIC / "icon.svg").read_bytes(), media_type="image/svg+xml", headers=AN_HOUR
        )

    return routes


def by_day(newest: list[Paper], house: House) -> list[tuple[str, list[Card]]]:
    """Papers as cards under the day that announced them, most upvotes first."""
    return [
        (words.full_day(day), [_card(paper, house) for paper in sorted(group, key=_upvotes)])
        for day, group in groupby(newest, key=lambda paper: paper.announced_on)
    ]


def _upvotes(paper: Paper) -> int:
    return -(paper.upvotes or 0)


def _card(paper: Paper, house: House) -> Card:
    return views.card(paper, (), house, ROOM)


def _style(house: House) -> str:
    accents = f":root {{ --light: {house.accent}; --dark: {house.accent_on_dark}; }}\n"
    return accents + (STATIC / "style.css").read_text("utf-8")
