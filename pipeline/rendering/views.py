"""View models of a pick and of a digest: text for the templates, selected, cleaned and cut."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import TypeGuard
from urllib.parse import quote, urlsplit

from pipeline.domain import Breadth, Digest, NoMatchNotice, Paper, Reason
from pipeline.rendering import formatting
from pipeline.rendering.branding import Branding
from pipeline.sources import SOURCES
from pipeline.translations import gettext, gettext_noop, ngettext

TITLE = 300
LABEL = 60
REASONS = 4  # topics shown per paper
TOPICS = 12  # shown in the footer

BREADTHS = {
    Breadth.FEWER: gettext_noop("Strict"),
    Breadth.BALANCED: gettext_noop("Balanced"),
    Breadth.MORE: gettext_noop("Broad"),
}


@dataclass(frozen=True, slots=True)
class PaperLink:
    label: str
    url: str


@dataclass(frozen=True, slots=True)
class MatchReason:
    """A topic of the reader, and the words of the paper that matched it.

    Like the values of `Personal`, they are inserted unchanged; a template must test only `phrases`,
    which is "" if the topic has no words.
    """

    label: str
    phrases: str  # "“dense retrieval”, “reranker”"
    line: str  # both, wrapped, for the text part


@dataclass(frozen=True, slots=True)
class Room:
    """Limits for the content of a paper in a mail."""

    abstract: int  # columns
    phrases: int  # per topic
    links: int


# Gmail clips a mail at 102 KB. With these limits, for up to so many papers, a mail stays under
# 90 KB; if a mail has fifty papers, its reader prefers a list of titles anyway.
ROOMS = {20: Room(380, 4, 5), 30: Room(120, 2, 3)}
LEAST_ROOM = Room(0, 0, 1)


@dataclass(frozen=True, slots=True)
class Card:
    """One paper as a reader sees it. Any text except the title may be ""."""

    title: str
    url: str
    authors: str
    byline: str  # "arXiv · cs.IR · 30 Jul"
    counts: str  # "145 upvotes · 3 comments"
    abstract: str
    why: tuple[MatchReason, ...]
    links: tuple[PaperLink, ...]
    withdrawn: bool
    title_marked: str = ""  # both as HTML with highlights; see `marks`
    abstract_marked: str = ""

    @property
    def topics(self) -> tuple[str, ...]:
        return tuple(why.label for why in self.why)

    @property
    def matched(self) -> tuple[MatchReason, ...]:
        return tuple(why for why in self.why if why.phrases)


@dataclass(frozen=True, slots=True)
class Edition:
    """Values that many readers of one day share: all of a mail but cards and personal values."""

    date: str
    papers: str  # "10 papers for you"
    covers: str  # "" when unknown
    welcome: bool
    has_more: bool
    has_topics: bool


@dataclass(frozen=True, slots=True)
class Personal:
    """Values of one mail. They are inserted unchanged: a template must not test them."""

    preheader: str
    topics: str
    topics_wrapped: str
    more: str  # "27 more papers matched your topics."
    unsubscribe: str
    preferences: str
    view: str


@dataclass(frozen=True, slots=True)
class Note:
    """Content of a no-match notice. Any text except `days` and `announced` may be ""."""

    days: str  # "19 to 25 November"
    announced: str  # "1,412 papers were announced, but none matched ... closely enough."
    topics: str
    breadth: str  # name of the reader's setting, if a broader one would find papers
    in_passing: str  # "That would have found 3 papers in these days."
    wider: tuple[tuple[str, str], ...]  # label, and a broader query
    may_trend: bool


def quiet_note(note: NoMatchNotice) -> Note:
    brings = note.in_passing > 0 and note.breadth is not Breadth.MORE
    return Note(
        days=formatting.days(note.since, note.edition_on),
        announced=ngettext(
            "%(num)s paper was announced, but it did not match your topics closely enough.",
            "%(num)s papers were announced, but none matched your topics closely enough.",
            note.announced,
        ),
        topics=topics(note.topics),
        breadth=gettext(BREADTHS[note.breadth]) if brings else "",
        in_passing=ngettext(
            "That would have found %(num)s paper in these days.",
            "That would have found %(num)s papers in these days.",
            note.in_passing,
        )
        if brings
        else "",
        wider=tuple((_label(label), _label(query)) for label, query in note.wider),
        may_trend=not note.follows_trending,
    )


def _label(text: str) -> str:
    return formatting.cut_at_word(formatting.clean(text), LABEL)


def room(papers: int) -> Room:
    return next((room for most, room in ROOMS.items() if papers <= most), LEAST_ROOM)


def card(paper: Paper, why: tuple[MatchReason, ...], branding: Branding, room: Room) -> Card:
    return Card(
        title=title(paper),
        url=_best_link(paper, branding),
        authors=formatting.authors(paper.authors, paper.author_count),
        byline=" · ".join(_byline(paper)),
        counts=" · ".join(_counts(paper)),
        abstract=formatting.cut(formatting.clean(paper.abstract), room.abstract),
        why=why,
        links=tuple(_links(paper)[: room.links]),
        withdrawn=paper.withdrawn,
    )


@lru_cache(maxsize=8_192)
def reasons(given: tuple[Reason, ...], room: Room) -> tuple[MatchReason, ...]:
    return tuple(why(reason, room.phrases) for reason in given[:REASONS])


def title(paper: Paper) -> str:
    return formatting.cut(formatting.clean(paper.title), TITLE) or gettext("Untitled")


@lru_cache(maxsize=1_024)
def edition(
    edition_on: date,
    announced: tuple[date, date] | None,
    papers: int,
    *,
    welcome: bool,
    has_more: bool,
    has_topics: bool,
) -> Edition:
    return Edition(
        date=formatting.full_day(edition_on),
        papers=ngettext("%(num)s paper for you", "%(num)s papers for you", papers),
        covers=formatting.days(*announced) if announced else "",
        welcome=welcome,
        has_more=has_more,
        has_topics=has_topics,
    )


def subject(digest: Digest, first_title: str, papers: int) -> str:
    """Return "Papers for 31 Jul: A Title of at Most Sixty Characters +7"."""
    headline = formatting.cut_at_word(first_title, formatting.HEADLINE)
    day = formatting.day(digest.edition_on)
    if papers == 1:
        return gettext("Papers for %(day)s: %(title)s", day=day, title=headline)
    return gettext(
        "Papers for %(day)s: %(title)s +%(more)s", day=day, title=headline, more=papers - 1
    )


def topics(labels: tuple[str, ...]) -> str:
    """Return the first labels as a list in words, with the number of others."""
    shown = [formatting.cut_at_word(formatting.clean(label), LABEL) for label in labels[:TOPICS]]
    if len(labels) > TOPICS:
        shown.append(ngettext("%(num)s more", "%(num)s more", len(labels) - TOPICS))
    return formatting.listed(shown)


def why(reason: Reason, most: int) -> MatchReason:
    """Return a reason with at most `most` of its phrases."""
    label = formatting.cut_at_word(formatting.clean(reason.label), LABEL)
    shown = (formatting.cut_at_word(formatting.clean(p), LABEL) for p in reason.phrases[:most])
    phrases = ", ".join(f"“{phrase}”" for phrase in shown if phrase)
    line = (
        gettext("For %(topic)s: matched %(phrases)s", topic=label, phrases=phrases)
        if phrases
        else gettext("For %(topic)s", topic=label)
    )
    return MatchReason(label, phrases, formatting.wrap(line))


def source_title(name: str) -> str:
    """Return the name of a source as it is displayed."""
    return SOURCES[name].title if name in SOURCES else formatting.clean(name)


def _byline(paper: Paper) -> list[str]:
    return [
        *map(source_title, paper.sources),
        *map(formatting.clean, paper.categories[:1]),
        formatting.day(paper.announced_on),
    ]


def _counts(paper: Paper) -> list[str]:
    counts = []
    if paper.upvotes:
        counts.append(ngettext("%(num)s upvote", "%(num)s upvotes", paper.upvotes))
    if paper.comments:
        counts.append(ngettext("%(num)s comment", "%(num)s comments", paper.comments))
    return counts


def _links(paper: Paper) -> list[PaperLink]:
    links = paper.links
    named = {
        gettext("Abstract"): links.abstract,
        gettext("PDF"): links.pdf,
        gettext("Code"): links.code,
        gettext("Project"): links.project,
        gettext("Discussion"): links.discussion,
    }
    return [PaperLink(label, url) for label, url in named.items() if _is_web(url)]


def _best_link(paper: Paper, branding: Branding) -> str:
    links = _links(paper)
    if links:
        return links[0].url
    return f"{branding.site_url}/papers/{quote(paper.key, safe='')}"


def _is_web(url: str | None) -> TypeGuard[str]:
    """Return whether `url` is http(s), on one line; `javascript:` is not a link to a paper."""
    if not url or url != formatting.clean(url) or " " in url:
        return False
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname)
