"""Topic pages: papers of the last 30 days, a chart of papers a day, and feeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from sqlalchemy import Connection
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.responses import Response

from pipeline.errors import QueryError
from pipeline.matching.query import TopicQuery, parse_topic
from pipeline.rendering import formatting
from pipeline.storage import papers
from pipeline.storage.database import read_only
from pipeline.translations import gettext, ngettext
from pipeline.web.dependencies import (
    READ,
    CPUBudget,
    LiveIndex,
    Pages,
    RecentPapers,
    Services,
)
from pipeline.web.middleware import public
from pipeline.web.papers import feeds, listing, periods
from pipeline.web.papers.feeds import Entry, Feed
from pipeline.web.papers.listing import ListParams, SelectedPapers
from pipeline.web.papers.periods import Days
from pipeline.web.papers.search_index import Sort
from pipeline.web.subscribe import curated as curated_topics
from pipeline.web.subscribe import form_input

DAYS = 30  # length of the window of a topic's page
FEED = 50  # papers in a feed
CHART = 60  # height of the highest bar, in SVG units


@dataclass(frozen=True, slots=True)
class NamedTopic:
    """Topic with the URLs of its page and feeds: a slug if curated, else a query parameter."""

    name: str
    query: TopicQuery
    path: str
    parameters: str = ""  # "?q=..."

    @property
    def page(self) -> str:
        return self.path + self.parameters

    @property
    def atom(self) -> str:
        return f"{self.path}.atom{self.parameters}"

    @property
    def json(self) -> str:
        return f"{self.path}.json{self.parameters}"

    @property
    def slug_or_query(self) -> str:
        """Return the topic as a parameter of the sign-up form: the slug, or the query."""
        return self.query.text if self.parameters else self.path.removeprefix("/topics/")


router = APIRouter()


@router.api_route("/topics", methods=READ)
def list_topics(
    request: Request,
    services: Services,
    pages: Pages,
    live_index: LiveIndex,
    recent: RecentPapers,
    budget: CPUBudget,
    q: str = "",
    sort: str = "",
    page: str = "",
) -> Response:
    """List the named topics that have recent papers, or show the papers of a query `q`."""
    groups = form_input.offered(recent.silent_topics)
    if not q.strip():
        answer = public(request, pages.show("topics.html", groups=groups, mistake=None, q=""))
        if recent.is_ready:
            answer.background = BackgroundTask(recent.count_topics)
        return answer
    try:
        topic = queried(q)
    except QueryError as error:
        mistake = listing.mistake(error)
        return pages.show("topics.html", status=422, groups=groups, mistake=mistake, q=q)
    return _page(request, topic, sort, page, services, pages, live_index, budget)


@router.api_route("/topics.{form}", methods=READ)
def show_query_feed(
    request: Request,
    form: str,
    services: Services,
    pages: Pages,
    live_index: LiveIndex,
    budget: CPUBudget,
    q: str = "",
) -> Response:
    try:
        topic = queried(q)
    except QueryError as error:
        raise HTTPException(422) from error
    return _feed(request, topic, form, services, pages, live_index, budget)


@router.api_route("/topics/{slug}.{form}", methods=READ)
def show_feed(
    request: Request,
    slug: str,
    form: str,
    services: Services,
    pages: Pages,
    live_index: LiveIndex,
    budget: CPUBudget,
) -> Response:
    return _feed(request, curated(slug), form, services, pages, live_index, budget)


@router.api_route("/topics/{slug}", methods=READ)
def show_topic(
    request: Request,
    slug: str,
    services: Services,
    pages: Pages,
    live_index: LiveIndex,
    budget: CPUBudget,
    sort: str = "",
    page: str = "",
) -> Response:
    return _page(request, curated(slug), sort, page, services, pages, live_index, budget)


def _page(
    request: Request,
    topic: NamedTopic,
    sort: str,
    number: str,
    services: Services,
    pages: Pages,
    live_index: LiveIndex,
    budget: CPUBudget,
) -> Response:
    params = listing.parse_params(
        q="", topic=topic.query.text, date="", week="", month="", sort=sort, page=number
    )
    order = params.sort or (Sort.TRENDING if topic.query.is_trending else Sort.NEWEST)
    with budget.search(request), read_only(services.engine) as conn:
        selected, days = _selected(live_index, conn, topic, order)
        page = listing.page(selected, params.page, conn, pages.branding)
    return public(
        request,
        pages.show(
            "topic.html",
            topic=topic,
            page=page,
            counted=ngettext(
                "%(num)s paper in the last 30 days",
                "%(num)s papers in the last 30 days",
                page.total,
            ),
            chart=chart(selected, days) if days else None,
            sorts=_sorts(topic, order),
            steps=steps(topic, params.sort, page.number, page.last),
            subscribe=ListParams(topic=topic.slug_or_query).subscribe(),
            canonical=topic.page,
        ),
    )


def _feed(
    request: Request,
    topic: NamedTopic,
    form: str,
    services: Services,
    pages: Pages,
    live_index: LiveIndex,
    budget: CPUBudget,
) -> Response:
    if form not in feeds.FORMATS:
        raise HTTPException(404)
    order = Sort.TRENDING if topic.query.is_trending else Sort.NEWEST
    with budget.search(request), read_only(services.engine) as conn:
        selected, _ = _selected(live_index, conn, topic, order)
        feed = feed_of(conn, topic, selected, pages)
    return feed_response(request, feed, form)


def feed_response(request: Request, feed: Feed, form: str) -> Response:
    write, media_type = feeds.FORMATS[form]
    answer = Response(write(feed), media_type=media_type)
    return public(request, answer, seconds=600, modified=feed.updated)


def curated(slug: str) -> NamedTopic:
    """Return a curated topic. Raise HTTPException 404 if there is none with this slug."""
    known = curated_topics.in_use().by_slug.get(slug)
    if known is None:
        raise HTTPException(404)
    return NamedTopic(known.name, known.parsed, f"/topics/{slug}")


def queried(text: str) -> NamedTopic:
    """Return any query as a topic, in canonical form. Raise QueryError if it is invalid."""
    query = parse_topic(text)
    return NamedTopic(formatting.clean(text), query, "/topics", f"?{urlencode({'q': query.text})}")


def _selected(
    live_index: LiveIndex, conn: Connection, topic: NamedTopic, order: Sort
) -> tuple[SelectedPapers, Days | None]:
    """Return the topic's papers in the `DAYS` up to the newest day with papers, and these days.

    The days are None if there are no papers at all.
    """
    query = None if topic.query.is_trending else topic.query.tree
    known = listing.choose(live_index, conn, query, None, order)
    if not known.catalog.days:
        return known, None
    days = periods.until(known.catalog.days[-1], DAYS)
    inside = known.catalog.within(days)[known.places]
    return replace(known, places=known.places[inside]), days


def feed_of(conn: Connection, topic: NamedTopic, selected: SelectedPapers, pages: Pages) -> Feed:
    """Return the first `FEED` of the selected papers, newest first."""
    places = selected.catalog.sorted(selected.places[:FEED], Sort.NEWEST)
    ids = selected.catalog.ids[places].tolist()
    known = papers.by_ids(conn, ids)
    published = papers.published_at(conn, selected.catalog.batch)
    site_url = pages.branding.site_url
    return Feed(
        id=site_url + topic.atom,
        title=f"{topic.name} · {pages.branding.list_name}",
        description=gettext("New research papers: %(topic)s", topic=topic.name),
        site_url=site_url,
        page=topic.page,
        atom=topic.atom,
        json=topic.json,
        updated=(published or datetime(1970, 1, 1, tzinfo=UTC)).replace(microsecond=0),
        entries=[Entry.announced(known[id_], site_url) for id_ in ids if id_ in known],
    )


# --- Chart --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bar:
    """Bar of one day or month, in SVG units; y counts from the top."""

    x: int
    y: int
    height: int
    label: str  # "31 Jul: 12 papers"


@dataclass(frozen=True, slots=True)
class Chart:
    bars: tuple[Bar, ...]
    width: int
    height: int
    first: str
    last: str
    summary: str  # text alternative for screen readers


def chart(selected: SelectedPapers, days: Days) -> Chart:
    """Return a bar for each day, scaled so that the highest has `CHART` units."""
    counts = selected.catalog.per_day(selected.places, days)
    return bars([(formatting.day(day), n) for day, n in counts.items()], _summary(counts))


def bars(counts: Sequence[tuple[str, int]], summary: str) -> Chart:
    """Return a bar for each (name of the day or month, number of papers)."""
    most = max(n for _, n in counts)
    return Chart(
        bars=tuple(_bar(i, name, n, most) for i, (name, n) in enumerate(counts)),
        width=10 * len(counts),
        height=CHART,
        first=counts[0][0],
        last=counts[-1][0],
        summary=summary,
    )


def _bar(place: int, name: str, papers: int, most: int) -> Bar:
    height = max(1 if papers else 0, round(papers * CHART / max(most, 1)))
    label = ngettext("%(day)s: %(num)s paper", "%(day)s: %(num)s papers", papers, day=name)
    return Bar(place * 10, CHART - height, height, label)


def _summary(counts: dict[date, int]) -> str:
    busy = [n for n in counts.values() if n]
    if not busy:
        return gettext("No papers in the last 30 days.")
    mean = round(sum(busy) / len(busy))
    return ngettext(
        "Papers on %(busy)s of the last %(days)s days, about %(num)s on each.",
        "Papers on %(busy)s of the last %(days)s days, about %(num)s on each.",
        mean,
        busy=len(busy),
        days=len(counts),
    )


def _sorts(topic: NamedTopic, order: Sort) -> tuple[tuple[str, str, bool], ...]:
    names = {
        Sort.NEWEST: gettext("Newest"),
        Sort.TRENDING: gettext("Trending"),
        Sort.BEST: gettext("Best match"),
    }
    return tuple(
        (name, _address(topic, sort=sort), sort is order)
        for sort, name in names.items()
        if sort is not Sort.BEST or not topic.query.is_trending
    )


def steps(
    topic: NamedTopic, sort: Sort | None, number: int, last: int
) -> tuple[str | None, str | None]:
    """Return the URLs of the previous and the next page; None where there is none."""
    before = _address(topic, sort=sort, page=number - 1) if number > 1 else None
    return before, _address(topic, sort=sort, page=number + 1) if number < last else None


def _address(topic: NamedTopic, *, sort: Sort | None, page: int = 1) -> str:
    more = {"sort": sort or "", "page": str(page) if page > 1 else ""}
    given = urlencode({name: value for name, value in more.items() if value})
    mark = "&" if topic.parameters else "?"
    return f"{topic.page}{mark}{given}" if given else topic.page
