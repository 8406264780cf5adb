"""Public pages: papers by day, week or month, search results, and a page for each paper."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Annotated

from fastapi import APIRouter, Query, Request
from sqlalchemy import Connection
from starlette.exceptions import HTTPException
from starlette.responses import Response

from pipeline.bootstrap import Services
from pipeline.domain import Paper
from pipeline.errors import QueryError
from pipeline.matching.query import plain_words
from pipeline.rendering import Branding, formatting
from pipeline.storage import ingest_state, papers
from pipeline.storage.database import read_only
from pipeline.translations import ngettext
from pipeline.web.client_address import CPUBudget
from pipeline.web.middleware import public
from pipeline.web.papers import listing, navigation, params, views
from pipeline.web.papers.catalog import Sort
from pipeline.web.papers.params import ListParams
from pipeline.web.papers.search_index import LiveIndex
from pipeline.web.papers.views import Shown
from pipeline.web.templating import Pages

LOOK = ["GET", "HEAD"]
SIMILAR = 5
Text = Annotated[str, Query()]


def router(services: Services, pages: Pages, live_index: LiveIndex, meter: CPUBudget) -> APIRouter:
    """Return the routes; only searches count against the visitor's rate limit."""
    routes = APIRouter()

    @routes.api_route("/", methods=LOOK)
    @routes.api_route("/papers", methods=LOOK)
    def list_papers(
        request: Request,
        q: Text = "",
        topic: Text = "",
        date: Text = "",
        week: Text = "",
        month: Text = "",
        sort: Text = "",
        page: Text = "",
    ) -> Response:
        try:
            asked = params.parse_params(
                q=q, topic=topic, date=date, week=week, month=month, sort=sort, page=page
            )
        except ValueError as error:
            raise HTTPException(422) from error
        counted = meter.search(request) if asked.is_search else nullcontext()
        with counted, read_only(services.engine) as conn:
            return public(request, _list(conn, asked, pages, live_index))

    @routes.api_route("/papers/{key:path}", methods=LOOK)
    def one_paper(request: Request, key: str) -> Response:
        with read_only(services.engine) as conn:
            paper = papers.by_key(conn, key)
            if paper is None:
                return pages.show("no_paper.html", status=404, key=formatting.clean(key))
            seen = papers.sightings_of(conn, [paper.id]).get(paper.id, ())
            answer = pages.show(
                "paper.html",
                paper=views.detailed(paper, seen, pages.branding),
                similar=_similar(conn, paper, live_index, pages.branding),
                canonical=views.path_of(paper.key),
            )
        return public(request, answer)

    return routes


# --- Lists --------------------------------------------------------------------------------------


def _list(conn: Connection, asked: ListParams, pages: Pages, live_index: LiveIndex) -> Response:
    known = live_index.catalog(ingest_state.published_batch(conn))
    asked = listing.with_period(asked, known.days)
    try:
        query = asked.parsed()
    except QueryError as error:
        return _mistaken(asked, error, pages)
    chosen = listing.choose(live_index, conn, query, asked.period, asked.order)
    page = listing.page(chosen, asked.page, conn, pages.branding)
    return pages.show(
        "papers.html",
        asked=asked,
        page=page,
        calendar=navigation.calendar(asked, known.days),
        sorts=navigation.sorts(asked),
        mistake=None,
        newest=known.days[-1] if known.days else None,
        counted=ngettext("%(num)s paper", "%(num)s papers", page.total),
        steps=navigation.steps(asked, page.number, page.last),
        canonical=asked.but(page=page.number).address(),
    )


def _mistaken(asked: ListParams, error: QueryError, pages: Pages) -> Response:
    return pages.show(
        "papers.html",
        status=422,
        asked=asked,
        page=None,
        calendar=None,
        mistake=params.mistake(error),
        canonical="/papers",
    )


# --- One paper ----------------------------------------------------------------------------------


def _similar(
    conn: Connection, paper: Paper, live_index: LiveIndex, branding: Branding
) -> list[Shown]:
    """Return up to `SIMILAR` other papers, best match first, for the title and five keywords.

    Empty until the search index is built.
    """
    search_index = live_index.ready()
    if search_index is None:
        return []
    found = search_index.find(
        plain_words(" ".join((paper.title, *paper.keywords[:5]))), floor=False
    )
    order = search_index.catalog.sorted(found.papers, Sort.BEST, found.scores)
    ids = [
        id_ for id_ in search_index.catalog.ids[order[: SIMILAR + 1]].tolist() if id_ != paper.id
    ]
    return views.views_of(conn, ids[:SIMILAR], branding)
