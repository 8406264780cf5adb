"""Public pages: papers by day, week or month, search results, and a page for each paper."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass

from fastapi import APIRouter, Request
from sqlalchemy import Connection
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from pipeline import references
from pipeline.domain import Paper
from pipeline.errors import QueryError
from pipeline.matching import suggestions
from pipeline.matching.query import parse, plain_words
from pipeline.rendering import Branding, formatting
from pipeline.sources import identifiers
from pipeline.storage import ingest_state, papers
from pipeline.storage.database import read_only
from pipeline.storage.dedup import title_key
from pipeline.translations import ngettext
from pipeline.web.dependencies import READ, CPUBudget, LiveIndex, Pages, Services
from pipeline.web.middleware import AN_HOUR, public
from pipeline.web.papers import listing, views
from pipeline.web.papers.listing import ListParams, SelectedPapers
from pipeline.web.papers.search_index import Sort
from pipeline.web.papers.views import PaperInList

SIMILAR = 5


@dataclass(frozen=True, slots=True)
class CitationFormat:
    """File format of a citation: its name on pages, and how it is written and served."""

    name: str
    extension: str
    media_type: str
    write: Callable[[Iterable[Paper], references.Notes | None], str]


CITATIONS = {
    "bibtex": CitationFormat(
        "BibTeX", "bib", "application/x-bibtex; charset=utf-8", references.bibtex
    ),
    "ris": CitationFormat(
        "RIS", "ris", "application/x-research-info-systems; charset=utf-8", references.ris
    ),
    "csl": CitationFormat(
        "CSL-JSON", "json", "application/vnd.citationstyles.csl+json", references.csl_json
    ),
}

router = APIRouter()


@router.api_route("/", methods=READ)
@router.api_route("/papers", methods=READ)
def list_papers(
    request: Request,
    services: Services,
    pages: Pages,
    live_index: LiveIndex,
    budget: CPUBudget,
    q: str = "",
    topic: str = "",
    date: str = "",
    week: str = "",
    month: str = "",
    sort: str = "",
    page: str = "",
) -> Response:
    """Show papers; only searches count against the visitor's rate limit."""
    try:
        params = listing.parse_params(
            q=q, topic=topic, date=date, week=week, month=month, sort=sort, page=page
        )
    except ValueError as error:
        raise HTTPException(422) from error
    if name := _identifier(params.q):
        return _redirect_to_paper(services, pages, name)
    counted = budget.search(request) if params.is_search else nullcontext()
    with counted, read_only(services.engine) as conn:
        return public(request, _list(conn, params, pages, live_index))


@router.api_route("/papers/{key:path}", methods=READ)
def show_paper(
    request: Request, key: str, services: Services, pages: Pages, live_index: LiveIndex
) -> Response:
    with read_only(services.engine) as conn:
        paper = papers.by_key(conn, key)
        if paper is None:
            return pages.show("no_paper.html", status=404, key=formatting.clean(key))
        seen = papers.sightings_of(conn, [paper.id]).get(paper.id, ())
        answer = pages.show(
            "paper.html",
            paper=views.details(paper, seen, pages.branding),
            similar=_similar(conn, paper, live_index, pages.branding),
            bibtex=references.bibtex([paper]),
            citations=_citations(paper),
            canonical=views.path_of(paper.key),
        )
    return public(request, answer)


@router.api_route("/cite/{form}/{key:path}", methods=READ)
def cite_paper(request: Request, form: str, key: str, services: Services, pages: Pages) -> Response:
    """Return the citation of a paper as a file."""
    citation = CITATIONS.get(form)
    if citation is None:
        raise HTTPException(404)
    with read_only(services.engine) as conn:
        paper = papers.by_key(conn, key)
    if paper is None:
        return pages.show("no_paper.html", status=404, key=formatting.clean(key))
    name = f"{references.citation_key(paper)}.{citation.extension}"
    answer = Response(
        citation.write([paper], None),
        media_type=citation.media_type,
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )
    return public(request, answer, seconds=AN_HOUR)


# --- Lists --------------------------------------------------------------------------------------


def _list(conn: Connection, params: ListParams, pages: Pages, live_index: LiveIndex) -> Response:
    days = live_index.catalog(ingest_state.published_batch(conn)).days
    is_front = params == ListParams()
    params = listing.with_period(params, days)
    try:
        query = params.parsed()
    except QueryError as error:
        return _query_error(params, error, pages)
    selected = listing.choose(live_index, conn, query, params.period, params.order, typed=params.q)
    if older := _older_paper(conn, params, selected):
        return RedirectResponse(views.path_of(older.key), status_code=303)
    page = listing.page(selected, params.page, conn, pages.branding)
    return pages.show(
        "papers.html",
        asked=params,
        followed=params.but(q=selected.author) if selected.author else params,
        by_author=bool(selected.author),
        page=page,
        calendar=listing.calendar(params, days),
        sorts=listing.sorts(params),
        mistake=None,
        is_front=is_front,
        newest=days[-1] if days else None,
        counted=ngettext("%(num)s paper", "%(num)s papers", page.total - page.partial),
        correction=_correction(params, selected),
        steps=listing.steps(params, page.number, page.last),
        canonical=params.but(page=page.number).address(),
    )


def _identifier(text: str) -> str | None:
    """Return the key of a paper, if `text` is an arXiv id, a DOI, or a link to one."""
    if name := identifiers.arxiv_name(text):
        return name.id
    doi = identifiers.doi(text)
    return f"doi:{doi}" if doi else None


def _redirect_to_paper(services: Services, pages: Pages, key: str) -> Response:
    with read_only(services.engine) as conn:
        paper = papers.by_key(conn, key)
    if paper is None:
        return pages.show("no_paper.html", status=404, key=key)
    return RedirectResponse(views.path_of(paper.key), status_code=303)


def _older_paper(conn: Connection, params: ListParams, selected: SelectedPapers) -> Paper | None:
    """Return the paper with this title, if it is older than the searched ones and none matches."""
    if selected.since is None or not params.q or selected.total > selected.partial:
        return None
    key = title_key(params.q)
    return papers.identified(conn, title_keys=[key]).get(key)


def _correction(params: ListParams, selected: SelectedPapers) -> ListParams | None:
    """Return the search with its typos corrected, if nothing matches it well."""
    if selected.total > selected.partial or selected.search_index is None or not params.q:
        return None
    other = suggestions.corrected(parse(params.q), selected.search_index.corpus)
    return params.but(q=other.text) if other else None


def _query_error(params: ListParams, error: QueryError, pages: Pages) -> Response:
    return pages.show(
        "papers.html",
        status=422,
        asked=params,
        page=None,
        calendar=None,
        mistake=listing.mistake(error),
        is_front=False,
        canonical="/papers",
    )


# --- One paper ----------------------------------------------------------------------------------


def _citations(paper: Paper) -> list[tuple[str, str]]:
    """Return the name and the path of each citation file."""
    return [
        (citation.name, views.path_of(paper.key, f"/cite/{form}"))
        for form, citation in CITATIONS.items()
    ]


def _similar(
    conn: Connection, paper: Paper, live_index: LiveIndex, branding: Branding
) -> list[PaperInList]:
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
