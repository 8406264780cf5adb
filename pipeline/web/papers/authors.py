"""Pages and feeds of authors: their papers, co-authors and categories, and namesakes apart."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

import numpy as np
from fastapi import APIRouter, Request
from sqlalchemy import Connection
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from pipeline.domain import Paper
from pipeline.matching import people
from pipeline.matching.author_names import author_forms
from pipeline.matching.people import Person, SignedPaper
from pipeline.matching.query import Fielded, TopicQuery, author_topic, parse_topic
from pipeline.rendering import formatting, views
from pipeline.storage import ingest_state, papers
from pipeline.storage.database import read_only
from pipeline.translations import gettext, ngettext
from pipeline.web.dependencies import READ, CPUBudget, LiveIndex, Pages, Services
from pipeline.web.middleware import public
from pipeline.web.papers import listing, search_index, topics
from pipeline.web.papers.listing import ListParams, SelectedPapers
from pipeline.web.papers.periods import Days, Span, around
from pipeline.web.papers.search_index import Catalog, Places, SearchIndex, Sort
from pipeline.web.papers.topics import Chart, NamedTopic
from pipeline.web.papers.views import author_path, path_of

A_YEAR: Final = 365  # days
A_MONTH: Final = A_YEAR / 12
LEAST_MONTHS: Final = 3  # with a chart
FORMS: Final = 8  # of the name, that are shown
COAUTHORS: Final = 8
CATEGORIES: Final = 4
PERSONS: Final = 8
TELLING: Final = 3  # co-authors that tell one of several persons from the others

_CATEGORY: Final = re.compile(r"[A-Za-z][\w-]*(?:\.[\w-]+)?")

router = APIRouter()


@dataclass(frozen=True, slots=True)
class Author:
    """Papers by an author of this name, newest first."""

    name: str  # as given, without control characters
    topic: TopicQuery
    search_index: SearchIndex
    places: Places  # in the catalog of the index
    names: dict[int, str]  # as printed, by place

    @property
    def named(self) -> NamedTopic:
        return NamedTopic(self.name, self.topic, author_path(self.name))

    @property
    def selected(self) -> SelectedPapers:
        return SelectedPapers(self.search_index.catalog, self.places)


@router.api_route("/authors/{name:path}.atom", methods=READ)
@router.api_route("/authors/{name:path}.json", methods=READ)
def show_author_feed(
    request: Request,
    name: str,
    services: Services,
    pages: Pages,
    live_index: LiveIndex,
    budget: CPUBudget,
) -> Response:
    """Return the newest papers of an author; redirect to the fullest form of the name."""
    form = request.url.path.rpartition(".")[2]
    with budget.search(request), read_only(services.engine) as conn:
        author = _look_up(live_index, conn, name)
        if elsewhere := _elsewhere(author, pages, f".{form}"):
            return elsewhere
        feed = topics.feed_of(conn, author.named, author.selected, pages)
    return topics.feed_response(request, feed, form)


@router.api_route("/authors/{name:path}", methods=READ)
def show_author(
    request: Request,
    name: str,
    services: Services,
    pages: Pages,
    live_index: LiveIndex,
    budget: CPUBudget,
    page: str = "",
) -> Response:
    """Show an author; redirect to the fullest form of the name that finds the same papers."""
    number = listing.parse_params(
        q="", topic="", date="", week="", month="", sort="", page=page
    ).page
    with budget.search(request), read_only(services.engine) as conn:
        author = _look_up(live_index, conn, name)
        if elsewhere := _elsewhere(author, pages):
            return elsewhere
        shown = listing.page(author.selected, number, conn, pages.branding)
        known = _known(conn, author)
    topic = author.named
    return public(
        request,
        pages.show(
            "author.html",
            topic=topic,
            page=shown,
            is_partial=not author.search_index.complete,
            since=_since(author.search_index),
            counted=ngettext("%(num)s paper", "%(num)s papers", shown.total),
            pace=pace(author.search_index.catalog, author.places),
            follow=_follow(author.topic),
            chart=_chart(author),
            known=known,
            steps=topics.steps(topic, None, shown.number, shown.last),
            canonical=topic.page,
        ),
    )


def _since(index: SearchIndex) -> str:
    """Return the day of the oldest indexed paper; "" if all papers are indexed."""
    return formatting.full_day(index.since) if index.since else ""


def _look_up(live_index: search_index.LiveIndex, conn: Connection, name: str) -> Author:
    """Return the papers of an author. Raise HTTPException 404 if it is no name."""
    shown = formatting.clean(name)
    if not author_path(shown):
        raise HTTPException(404)
    topic = author_topic(shown)
    live_index.catalog(ingest_state.published_batch(conn))  # triggers a refresh
    index = live_index.current()
    names = _written_by(index, topic)
    places = index.catalog.sorted(_array(names), Sort.NEWEST)
    return Author(shown, topic, index, places, names)


def _elsewhere(author: Author, pages: Pages, ending: str = "") -> Response | None:
    """Return a redirect to the fullest form of the name that finds the same papers, if another.

    Without papers raise HTTPException 404, or return 503 while they are still being loaded.
    """
    if not author.places.size:
        if author.search_index.complete:
            raise HTTPException(404)
        title = gettext("Older papers are still being loaded")
        answer = pages.message(title, gettext("Try again in a moment."), status=503)
        answer.headers["Retry-After"] = "10"
        return answer
    name = formatting.clean(people.fullest(author.names.values()))
    path = author_path(name) if name != author.name else ""
    return RedirectResponse(f"{path}{ending}", 303) if path else None


def _written_by(index: SearchIndex, topic: TopicQuery) -> dict[int, str]:
    return index.written_by(topic.tree.forms) if isinstance(topic.tree, Fielded) else {}


def _array(places: Iterable[int]) -> Places:
    return np.array(list(places), dtype=np.int64)


def _follow(topic: TopicQuery) -> str:
    return ListParams(q=topic.typed).subscribe()


# --- Volume -------------------------------------------------------------------------------------


def a_month(index: SearchIndex, topic: TopicQuery) -> float:
    """Return the papers a month of an author: the mean of the newest `A_YEAR` days with papers."""
    return _in_last_year(index.catalog, _array(_written_by(index, topic)))[0]


def pace_of(index: SearchIndex, topic: TopicQuery) -> str:
    """Return the papers a month of an author in words."""
    return pace(index.catalog, _array(_written_by(index, topic)))


def pace(catalog: Catalog, places: Places) -> str:
    """Return the papers a month; below one, the papers in the last months."""
    mean, months = _in_last_year(catalog, places)
    if mean >= 1:
        return ngettext("about %(num)s paper a month", "about %(num)s papers a month", round(mean))
    return ngettext(
        "%(count)s in the last month", "%(count)s in the last %(num)s months",
        round(months), count=round(mean * months),
    )  # fmt: skip


def _in_last_year(catalog: Catalog, places: Places) -> tuple[float, float]:
    """Return the mean papers a month, and of how many months: those with papers, at most 12."""
    if not catalog.days:
        return 0.0, 1.0
    last = catalog.days[-1].toordinal()
    days = min(A_YEAR, last - catalog.days[0].toordinal() + 1)
    months = max(1.0, days / A_MONTH)
    recent = np.count_nonzero(catalog.newest[places] > last - days)
    return float(recent) / months, months


def _chart(author: Author) -> Chart | None:
    """Return the papers of each of the last 12 months; None if the archive has too few months."""
    catalog = author.search_index.catalog
    last = catalog.days[-1]
    eleven_months_ago = (last.replace(day=1) - timedelta(days=330)).replace(day=1)
    first = max(eleven_months_ago, catalog.days[0])
    counts: Counter[date] = Counter()
    for day, n in catalog.per_day(author.places, Days(first, last)).items():
        counts[day.replace(day=1)] += n
    if len(counts) < LEAST_MONTHS:
        return None
    names = [(around(month, Span.MONTH).short, n) for month, n in counts.items()]
    summary = ngettext(
        "%(num)s paper in these months.", "%(num)s papers in these months.", counts.total()
    )
    return topics.bars(names, summary)


# --- Persons ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NamedLink:
    """Link with the number of papers that it stands for."""

    name: str
    path: str  # "" if there is no page
    papers: int


@dataclass(frozen=True, slots=True)
class PersonView:
    """One of several persons of a name."""

    name: str
    address: str  # of all their papers
    others: str  # "Ada Moth and Bo Fern"
    field: str
    counted: str
    newest: str  # title of a paper
    path: str  # of this paper
    follow: str


@dataclass(frozen=True, slots=True)
class KnownAuthor:
    """What the newest papers, at most `people.MOST_GROUPED`, say about an author."""

    forms: tuple[str, ...]  # other forms of the name, the most frequent first
    more_forms: int
    coauthors: tuple[NamedLink, ...]
    categories: tuple[NamedLink, ...]
    persons: tuple[PersonView, ...]  # several, or none
    more_persons: int
    unclear: int  # papers of none of them


def _known(conn: Connection, author: Author) -> KnownAuthor:
    places = author.places[: people.MOST_GROUPED].tolist()
    ids = author.search_index.catalog.ids[places].tolist()
    found = papers.by_ids(conn, ids)
    signed = [
        _signed(found[id_], author.names[place])
        for id_, place in zip(ids, places, strict=True)
        if id_ in found
    ]
    several, unclear = people.persons(signed, author.search_index.is_common)
    forms = _other_forms(author, several)
    return KnownAuthor(
        forms=tuple(forms[:FORMS]),
        more_forms=len(forms[FORMS:]),
        coauthors=_coauthors(signed),
        categories=_categories(author.topic, signed),
        persons=_persons(several, author.name, found) if len(several) > 1 else (),
        more_persons=len(several[PERSONS:]),
        unclear=len(unclear),
    )


def _signed(paper: Paper, name: str) -> SignedPaper:
    others = tuple(other for other in paper.authors if other != name)
    categories = tuple(one for one in paper.categories if _CATEGORY.fullmatch(one))
    return SignedPaper(paper.id, name, others, categories)


def _other_forms(author: Author, several: Sequence[Person]) -> list[str]:
    """Return the other forms of the name, most frequent first; of several people no fuller ones."""
    counted = Counter(map(formatting.clean, author.names.values()))
    del counted[author.name]
    most = people.letters(author_forms(author.name)) if len(several) > 1 else math.inf
    forms = [form for form in counted if people.letters(author_forms(form)) <= most]
    return sorted(forms, key=lambda form: (-counted[form], form))


def _coauthors(signed: Sequence[SignedPaper]) -> tuple[NamedLink, ...]:
    """Return the frequent co-authors; those of one paper only if there are few papers."""
    least = 1 if len(signed) < people.FEW_LIKED else 2
    return tuple(
        NamedLink(formatting.clean(name), author_path(name), n)
        for name, n in Person("", tuple(signed)).coauthors[:COAUTHORS]
        if n >= least
    )


def _categories(topic: TopicQuery, signed: Sequence[SignedPaper]) -> tuple[NamedLink, ...]:
    return tuple(
        NamedLink(name, ListParams(q=f"{topic.typed} AND cat:{name}").address(), n)
        for name, n in Person("", tuple(signed)).categories[:CATEGORIES]
    )


def _persons(
    several: Sequence[Person], name: str, found: dict[int, Paper]
) -> tuple[PersonView, ...]:
    counted = Counter([name, *(formatting.clean(one.name) for one in several)])
    return tuple(
        _shown(one, found, is_alone=counted[formatting.clean(one.name)] == 1)
        for one in several[:PERSONS]
    )


def _shown(person: Person, found: dict[int, Paper], *, is_alone: bool) -> PersonView:
    """Return a person; one whose name is not unique is found by co-authors and the field."""
    name = formatting.clean(person.name)
    with_ = [other for other, _ in person.coauthors[:TELLING]]
    paper = found[person.papers[0].paper]
    topic = author_topic(name) if is_alone else _told_apart(name, with_, person.field)
    return PersonView(
        name=name,
        address=author_path(name) if is_alone else ListParams(q=topic.typed).address(),
        others=formatting.listed(list(map(formatting.clean, with_))),
        field=person.field,
        counted=ngettext("%(num)s paper", "%(num)s papers", len(person.papers)),
        newest=views.title(paper),
        path=path_of(paper.key),
        follow=_follow(topic),
    )


def _told_apart(name: str, others: Sequence[str], field: str) -> TopicQuery:
    by = [author_topic(other).typed for other in others if author_path(other)]
    either = " OR ".join([*by, *([f"cat:{field}"] if field else [])])
    topic = author_topic(name)
    return parse_topic(f"{topic.typed} AND ({either})") if either else topic
