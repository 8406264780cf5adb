"""View models of papers, for lists and for a paper's own page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from markupsafe import Markup
from sqlalchemy import Connection

from pipeline.domain import Paper
from pipeline.matching.mentions import Stems, stems_of
from pipeline.matching.query import Query
from pipeline.rendering import House, views, words
from pipeline.rendering.views import PaperLink
from pipeline.storage import catalog, papers
from pipeline.storage.catalog import Seen
from pipeline.web.marking import asked_for, marked

LEAD = 320  # columns of an abstract shown before "read on"
ROOM = views.Room(abstract=LEAD, phrases=0, links=5)
CATEGORIES = 3  # at most, for a paper in a list
NAMES = 60  # authors at most, on a paper's own page


@dataclass(frozen=True, slots=True)
class Shown:
    """Paper in a list. Any text except the title may be ""."""

    url: str  # path of its own page
    title: Markup
    authors: str
    byline: tuple[str, ...]  # "arXiv 30 Jul", "Hugging Face 31 Jul", "cs.CL", "3 comments"
    upvotes: int
    lead: Markup  # beginning of the abstract
    rest: Markup  # remainder of the abstract
    links: tuple[PaperLink, ...]
    withdrawn: bool


@dataclass(frozen=True, slots=True)
class FoundBy:
    """Query of a list, and the matched phrases of each paper, to be highlighted."""

    query: Query
    phrases: dict[int, tuple[str, ...]]  # by paper id

    def of(self, paper_id: int) -> frozenset[Stems]:
        """Return the stems to highlight in a paper."""
        return asked_for(self.query) | stems_of(self.phrases.get(paper_id, ()))


def shown(
    conn: Connection, ids: Sequence[int], house: House, found_by: FoundBy | None = None
) -> list[Shown]:
    """Load papers in the order of `ids`, with matches highlighted; skip ids that are gone."""
    known = papers.by_ids(conn, ids)
    sightings = catalog.sightings_of(conn, ids)
    return [
        show(known[id_], sightings.get(id_, ()), found_by.of(id_) if found_by else (), house)
        for id_ in ids
        if id_ in known
    ]


def show(paper: Paper, seen: Iterable[Seen], wanted: Iterable[Stems], house: House) -> Shown:
    card = views.card(paper, (), house, ROOM)
    rest = _rest(words.clean(paper.abstract), card.abstract)
    return Shown(
        url=path_of(paper.key),
        title=marked(card.title, wanted),
        authors=card.authors,
        byline=tuple(_byline(paper, seen)),
        upvotes=paper.upvotes or 0,
        lead=marked(card.abstract, wanted),
        rest=marked(rest, wanted),
        links=card.links,
        withdrawn=paper.withdrawn,
    )


def _byline(paper: Paper, seen: Iterable[Seen]) -> Iterator[str]:
    for one in seen:
        yield f"{source_name(one.source)} {words.day(one.announced_on or paper.announced_on)}"
    if paper.categories:
        yield ", ".join(map(words.clean, paper.categories[:CATEGORIES]))
    if paper.comments:
        yield words.count(paper.comments, "comment", "comments")


def source_name(source: str) -> str:
    return views.SOURCES.get(source, words.clean(source))


def path_of(key: str) -> str:
    """Return the URL path of a paper; slashes in old arXiv ids and DOIs are not escaped."""
    return f"/papers/{quote(key, safe='/:')}"


@dataclass(frozen=True, slots=True)
class Sighted:
    """Sighting of a paper by one source: a row of the table on its page."""

    source: str
    day: str
    upvotes: int | None
    comments: int | None


@dataclass(frozen=True, slots=True)
class Detailed:
    """Paper on its own page, with all details. Any text except the title may be ""."""

    title: str
    authors: tuple[str, ...]
    more_authors: int
    abstract: str
    summary: str  # for link previews on other sites
    note: str
    key: str
    categories: tuple[str, ...]
    keywords: tuple[str, ...]
    sightings: tuple[Sighted, ...]
    links: tuple[PaperLink, ...]
    withdrawn: bool
    day: str
    day_address: str


def detailed(paper: Paper, seen: tuple[Seen, ...], house: House) -> Detailed:
    card = views.card(paper, (), house, ROOM)
    names = tuple(words.clean(name) for name in paper.authors[:NAMES])
    return Detailed(
        title=card.title,
        authors=names,
        more_authors=max(paper.author_count, len(paper.authors)) - len(names),
        abstract=words.clean(paper.abstract),
        summary=words.cut_at_word(words.clean(paper.abstract), 200),
        note=words.clean(paper.note),
        key=paper.key,
        categories=tuple(map(words.clean, paper.categories)),
        keywords=tuple(map(words.clean, paper.keywords)),
        sightings=tuple(_sighted(one) for one in seen),
        links=card.links,
        withdrawn=paper.withdrawn,
        day=words.full_day(paper.announced_on),
        day_address=f"/papers?date={paper.announced_on}",
    )


def _sighted(seen: Seen) -> Sighted:
    day = words.full_day(seen.announced_on) if seen.announced_on else ""
    return Sighted(source_name(seen.source), day, seen.upvotes, seen.comments)


def _rest(abstract: str, lead: str) -> str:
    """Return the part of the abstract after `lead`; "" if `lead` is the whole."""
    if lead == abstract:
        return ""
    return abstract[len(lead.removesuffix(words.ELLIPSIS).rstrip()) :].strip()
