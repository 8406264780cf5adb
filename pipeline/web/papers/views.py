"""View models of papers, for lists and for the page of one paper, with highlighted words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from markupsafe import Markup, escape
from sqlalchemy import Connection

from pipeline.domain import Paper
from pipeline.matching.author_names import author_forms
from pipeline.matching.highlights import Stems, highlights, stems_of
from pipeline.matching.query import And, Field, Fielded, Or, Phrase, Query, Words
from pipeline.matching.tokens import STOP_WORDS, stem
from pipeline.rendering import Branding, formatting, views
from pipeline.rendering.views import PaperLink
from pipeline.storage import papers
from pipeline.storage.papers import Seen
from pipeline.translations import ngettext

LEAD = 320  # columns of an abstract shown before "read on"
ROOM = views.Room(abstract=0, phrases=0, links=5)
CATEGORIES = 3  # at most, for a paper in a list
LONGEST_AUTHOR = 120  # characters of a name that has a page
NAMES = 60  # authors at most, on a paper's own page


@dataclass(frozen=True, slots=True)
class PaperInList:
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
        return phrases_in(self.query) | stems_of(self.phrases.get(paper_id, ()))


def views_of(
    conn: Connection, ids: Sequence[int], branding: Branding, found_by: FoundBy | None = None
) -> list[PaperInList]:
    """Load papers in the order of `ids`, with matches highlighted; skip ids that are gone."""
    known = papers.by_ids(conn, ids)
    sightings = papers.sightings_of(conn, ids)
    return [
        show(known[id_], sightings.get(id_, ()), found_by.of(id_) if found_by else (), branding)
        for id_ in ids
        if id_ in known
    ]


def show(
    paper: Paper, seen: Iterable[Seen], wanted: Iterable[Stems], branding: Branding
) -> PaperInList:
    card = views.card(paper, (), branding, ROOM)
    abstract = formatting.clean(paper.abstract)
    lead = formatting.cut(abstract, LEAD)
    return PaperInList(
        url=path_of(paper.key),
        title=marked(card.title, wanted),
        authors=card.authors,
        byline=tuple(_byline(paper, seen)),
        upvotes=paper.upvotes or 0,
        lead=marked(lead, wanted),
        rest=marked(_rest(abstract, lead), wanted),
        links=card.links,
        withdrawn=paper.withdrawn,
    )


def _byline(paper: Paper, seen: Iterable[Seen]) -> Iterator[str]:
    for one in seen:
        day = formatting.day(one.announced_on or paper.announced_on)
        yield f"{views.source_title(one.source)} {day}"
    if paper.categories:
        yield ", ".join(map(formatting.clean, paper.categories[:CATEGORIES]))
    if paper.comments:
        yield ngettext("%(num)s comment", "%(num)s comments", paper.comments)
    if paper.stars:
        yield views.stars(paper)


def path_of(key: str, folder: str = "/papers") -> str:
    """Return the URL path of a paper; slashes in old arXiv ids and DOIs are not escaped."""
    return f"{folder}/{quote(key, safe='/:')}"


def author_path(name: str) -> str:
    """Return the URL path of an author's page; "" if the name cannot be searched for.

    A slash is quoted, too, so that no name changes the meaning of the path.
    """
    shown = formatting.clean(name)
    if len(shown) > LONGEST_AUTHOR or "\\" in shown or shown.endswith((".atom", ".json")):
        return ""
    letters = sum(map(len, author_forms(shown)))  # U+FDFA becomes 15
    return f"/authors/{quote(shown, safe='')}" if 0 < letters <= 2 * LONGEST_AUTHOR else ""


def linked_author(name: str) -> Markup:
    """Return a name as a link to its author's page, or as escaped text if it has none."""
    shown = formatting.clean(name)
    if not (path := author_path(name)):
        return escape(shown)
    return Markup('<a href="{}" dir="auto">{}</a>').format(path, shown)


@dataclass(frozen=True, slots=True)
class SightingRow:
    """Sighting of a paper by one source: a row of the table on its page."""

    source: str
    day: str
    upvotes: int | None
    comments: int | None


@dataclass(frozen=True, slots=True)
class PaperDetails:
    """Paper on its own page, with all details. Any text except the title may be ""."""

    title: str
    authors: tuple[Markup, ...]  # links to their pages
    more_authors: int
    organization: str
    stars: str  # "1.2k stars"
    abstract: str
    summary: str  # for link previews on other sites
    note: str
    key: str
    categories: tuple[str, ...]
    keywords: tuple[str, ...]
    sightings: tuple[SightingRow, ...]
    links: tuple[PaperLink, ...]
    withdrawn: bool
    day: str
    day_address: str


def details(paper: Paper, seen: tuple[Seen, ...], branding: Branding) -> PaperDetails:
    card = views.card(paper, (), branding, ROOM)
    names = tuple(map(linked_author, paper.authors[:NAMES]))
    return PaperDetails(
        title=card.title,
        authors=names,
        more_authors=max(paper.author_count, len(paper.authors)) - len(names),
        organization=formatting.clean(paper.organization),
        stars=views.stars(paper),
        abstract=formatting.clean(paper.abstract),
        summary=formatting.cut_at_word(formatting.clean(paper.abstract), 200),
        note=formatting.clean(paper.note),
        key=paper.key,
        categories=tuple(map(formatting.clean, paper.categories)),
        keywords=tuple(map(formatting.clean, paper.keywords)),
        sightings=tuple(_row(one) for one in seen),
        links=card.links,
        withdrawn=paper.withdrawn,
        day=formatting.full_day(paper.announced_on),
        day_address=f"/papers?date={paper.announced_on}",
    )


def _row(seen: Seen) -> SightingRow:
    day = formatting.full_day(seen.announced_on) if seen.announced_on else ""
    return SightingRow(views.source_title(seen.source), day, seen.upvotes, seen.comments)


def _rest(abstract: str, lead: str) -> str:
    """Return the part of the abstract after `lead`; "" if `lead` is the whole."""
    if lead == abstract:
        return ""
    return abstract[len(lead.removesuffix(formatting.ELLIPSIS).rstrip()) :].strip()


TEXTS = {Field.TITLE, Field.ABSTRACT}


def marked(text: str, phrases: Iterable[Stems]) -> Markup:
    """Return `text` as escaped HTML, each mention of a phrase wrapped in <mark>."""
    pieces, at = [], 0
    for start, end in highlights(text, phrases):
        pieces += [escape(text[at:start]), Markup("<mark>{}</mark>").format(text[start:end])]
        at = end
    return Markup("").join([*pieces, escape(text[at:])])


def phrases_in(query: Query) -> frozenset[Stems]:
    """Return the stems to highlight: words of ranked groups without stop words, whole phrases.

    Of fielded terms only phrases in the title or the abstract count; negated terms do not.
    """
    ranked = {
        (stem(form),) for group in _groups(query, Words) for form in group if form not in STOP_WORDS
    }
    return frozenset(ranked | {tuple(map(stem, group)) for group in _groups(query, Phrase)})


def _groups(query: Query, kind: type[Words | Phrase]) -> Iterator[tuple[str, ...]]:
    if isinstance(query, kind):
        yield query.forms
    elif isinstance(query, And | Or):
        for operand in query.operands:
            yield from _groups(operand, kind)
    elif isinstance(query, Fielded) and query.field in TEXTS and kind is Phrase:
        yield query.forms
