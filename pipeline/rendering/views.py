"""View models of a pick and of a digest: text for the templates, selected, cleaned and cut."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from types import MappingProxyType
from typing import TypeGuard
from urllib.parse import quote, urlencode, urlsplit

from pipeline import key_sentence
from pipeline.domain import (
    Breadth,
    NoMatchNotice,
    Paper,
    Pick,
    Reason,
    ReasonKind,
    Recap,
    SavedPaper,
    Suggestion,
)
from pipeline.rendering import formatting
from pipeline.rendering.branding import Branding
from pipeline.sources import SOURCES
from pipeline.sources.text import https_link
from pipeline.translations import gettext, gettext_noop, ngettext

TITLE = 300
SHORT_TITLE = 30
ENTRY = 40  # characters of a title in the contents: one line on a phone
LABEL = 60
AUTHORS = 150  # columns, in a weekly mail of saved papers
NOTES = 9_000  # columns of all notes in such a mail
ORGANIZATION = 40
EXCERPT = 80  # columns; a shorter excerpt says nothing
CONTENTS = 4  # with fewer papers, the contents would only repeat the cards
REASONS = 4  # topics shown per paper
TOPICS = 12  # shown in the footer
WEEK = 7  # days

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

    `phrases` is "" if the topic has no words.
    """

    label: str
    phrases: str  # "“dense retrieval”, “reranker”"


@dataclass(frozen=True, slots=True)
class Room:
    """Limits for the content of a paper in a mail."""

    abstract: int  # columns
    phrases: int  # per topic
    links: int
    detailed: bool = False  # with organization and comments, which take a second line on a phone


# Gmail clips a mail at 102 KB; with these limits, for up to so many papers, a mail stays under
# 90 KB. Ten papers take about four screens of a phone.
ROOMS = {5: Room(220, 4, 4, True), 20: Room(90, 4, 2), 30: Room(80, 2, 2)}
THUMBNAIL = re.compile(r"[0-9]{4}\.[0-9]{4,5}")  # arXiv ids of papers with a thumbnail
LEAST_ROOM = Room(0, 0, 1)
LEAD_ROOM = Room(200, 4, 3, True)  # of the first paper, in a mail of at most `LED` papers
LED = 20


@dataclass(frozen=True, slots=True)
class Place:
    """Position of a paper in the mail of one reader, and what only this reader's topics say."""

    number: str = ""  # "1" for the first paper
    heading: str = ""  # topic of the group that begins here
    counts: str = ""  # in the heading of a recap: "4 of 23"
    also: str = ""  # other topics that matched
    matched: str = ""  # "“dense retrieval”, “reranker”", of all topics
    liked: str = ""  # "You liked “Dense retrieval at scale”", if that put it here
    lines: str = ""  # these three in words, wrapped, for the text part
    reactions: str = ""  # URL, to which "/" and the key of the paper are added; "" for no links
    lead: bool = False


@dataclass(frozen=True, slots=True)
class Card:
    """One paper as a reader sees it. Any text except the title may be ""."""

    title: str
    url: str
    authors: str
    byline: str  # "arXiv · cs.IR · 30 Jul"
    counts: str  # "145 upvotes · 3 comments"
    key_sentence: str  # of the abstract, verbatim; see `pipeline.key_sentence`
    excerpt: str  # of the rest of the abstract
    why: tuple[MatchReason, ...]
    links: tuple[PaperLink, ...]
    withdrawn: bool
    key: str = ""  # of the paper, quoted for a URL
    is_brief: bool = False  # one link for all reactions
    thumbnail: str = ""  # URL of a picture, on this site
    facts: str = ""  # "Ada Lovelace +5 · Analytical Society · 145 upvotes"
    key_sentence_marked: str = ""  # both as HTML with highlights; see `marking`
    excerpt_marked: str = ""
    is_marked: bool = False  # whether a matched word is visible
    place: Place = Place()

    @property
    def topics(self) -> tuple[str, ...]:
        return tuple(why.label for why in self.why)

    @property
    def matched(self) -> tuple[MatchReason, ...]:
        return tuple(why for why in self.why if why.phrases)


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the contents at the top of a mail."""

    number: str
    title: str  # one line
    heading: str  # topic of the group that begins here, or ""


@dataclass(frozen=True, slots=True)
class Edition:
    """Values that many readers of one day share: all of a mail but cards and personal values."""

    date: str
    papers: str  # "10 papers"
    covers: str  # "" if unknown or the same day
    has_contents: bool
    welcome: bool
    has_more: bool
    has_topics: bool
    near_misses: bool
    has_recap: bool
    pauses_on: str  # "31 December"; "" unless the mail asks an inactive reader to go on


@dataclass(frozen=True, slots=True)
class Personal:
    """Values of one mail. They are inserted unchanged: a template must not test them."""

    preheader: str
    contents: str  # the lines of the contents, as HTML
    contents_text: str
    recap: str  # the days and papers that the mail covers, wrapped for the text part
    topics: str  # wrapped, for the text part
    more: str  # "27 more papers matched."
    more_url: str
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
    wider: tuple[Wider, ...]
    may_trend: bool


@dataclass(frozen=True, slots=True)
class Wider:
    """A suggestion in a no-match notice."""

    label: str  # of the topic
    query: str
    pace: str  # "about 3 papers a week"
    url: str  # of the page that replaces the topic


@dataclass(frozen=True, slots=True)
class SavedLine:
    """A paper in a weekly mail of saved papers. Any text except the title may be ""."""

    title: str
    authors: str
    note: str
    url: str


def saved_lines(papers: Sequence[SavedPaper], papers_url: str) -> list[SavedLine]:
    room = NOTES // max(1, len(papers))
    return [_saved_line(paper, papers_url, room) for paper in papers]


def _saved_line(paper: SavedPaper, papers_url: str, room: int) -> SavedLine:
    title = formatting.cut(formatting.clean(paper.title), TITLE) or gettext("Untitled")
    here = f"{papers_url}/{quote(paper.key, safe='')}"
    return SavedLine(
        title,
        formatting.cut(formatting.authors(paper.authors, len(paper.authors)), AUTHORS),
        formatting.cut(formatting.clean(paper.note), room),
        here if paper.is_stored else https_link(paper.url) or "",
    )


def quiet_note(note: NoMatchNotice, preferences_url: str) -> Note:
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
        wider=tuple(_wider(one, preferences_url) for one in note.wider),
        may_trend=not note.follows_trending,
    )


def _wider(suggestion: Suggestion, preferences_url: str) -> Wider:
    adoption = urlencode({"topic": suggestion.label, "query": suggestion.query})
    return Wider(
        _label(suggestion.label),
        _label(suggestion.query),
        ngettext(
            "about %(num)s paper a week",
            "about %(num)s papers a week",
            max(1, round(suggestion.papers_a_week)),
        ),
        f"{preferences_url}/adopt?{adoption}",
    )


def _label(text: str) -> str:
    return formatting.cut_at_word(formatting.clean(text), LABEL)


def room(papers: int) -> Room:
    return next((room for most, room in ROOMS.items() if papers <= most), LEAST_ROOM)


def card(paper: Paper, why: tuple[MatchReason, ...], branding: Branding, room: Room) -> Card:
    sentence, excerpt = opening(paper, room.abstract)
    return Card(
        title=title(paper),
        url=_best_link(paper, branding),
        authors=formatting.authors(paper.authors, paper.author_count),
        byline=" · ".join(_byline(paper)),
        counts=" · ".join(_counts(paper)),
        key_sentence=sentence,
        excerpt=excerpt,
        why=why,
        links=_chosen(_links(paper), room.links),
        thumbnail=_thumbnail(paper, branding) if sentence else "",
        withdrawn=paper.withdrawn,
        key=quote(paper.key, safe=""),
        is_brief=room.links == 1,
        facts=" · ".join(_facts(paper, detailed=room.detailed)),
    )


def _thumbnail(paper: Paper, branding: Branding) -> str:
    is_known = "huggingface" in paper.sources and THUMBNAIL.fullmatch(paper.key)
    return f"{branding.site_url}/thumbnails/{paper.key}" if branding.thumbnails and is_known else ""


def opening(paper: Paper, limit: int) -> tuple[str, str]:
    """Return the key sentence of a paper and an excerpt, together about `limit` columns.

    The excerpt is the rest of the abstract if all of it fits, else the text after the sentence, or
    the text before it if it is the last. It is "" if there is little room left.
    """
    if not limit:
        return "", ""
    abstract = formatting.clean(paper.abstract)
    start, end = key_sentence.find(paper.title, abstract)
    sentence = abstract[start:end]
    if formatting.columns(sentence) > limit:
        sentence = formatting.cut_at_column(key_sentence.without_lead_in(sentence), limit)
    left = limit - formatting.columns(sentence)
    before, after = abstract[:start].strip(), abstract[end:].strip()
    rest = " ".join(filter(None, (before, after)))
    if formatting.columns(rest) > left:
        rest = after or before
    return sentence, formatting.cut(rest, left) if left >= EXCERPT else ""


def arranged(picks: Iterable[Pick]) -> list[Pick]:
    """Return the picks in groups of the same first topic, beginning with the group of the best."""
    groups: dict[str, list[Pick]] = {}
    for pick in picks:
        groups.setdefault(_first_topic(pick), []).append(pick)
    return [pick for group in groups.values() for pick in group]


def places(
    picks: Sequence[Pick],
    phrases: int,
    *,
    near_misses: bool = False,
    reactions: str = "",
    matched: Mapping[str, int | None] = MappingProxyType({}),
) -> list[Place]:
    """Return the place of each arranged pick, with at most `phrases` of each topic.

    Near misses have no matches: only the topic that they are nearest to. `matched` has the number
    of papers that matched a topic, for the headings of a recap.
    """
    found, before = [], ""
    shown = Counter(map(_first_topic, picks))
    for number, pick in enumerate(picks, 1):
        why = reasons(pick.topics, phrases)
        liked = _liked(pick.reasons)
        heading = why[0].label if why else gettext("Outside your topics") if liked else ""
        is_first = heading != before
        topic = _first_topic(pick)
        matches = () if near_misses else why
        found.append(
            Place(
                number=str(number),
                heading=heading if is_first else "",
                counts=_counts_of(shown[topic], matched.get(topic)) if is_first else "",
                also=_also(matches),
                matched=_matched(matches),
                liked=liked,
                lines=_lines(matches, liked),
                reactions=reactions,
                lead=number == 1 and len(picks) <= LED,
            )
        )
        before = heading
    return found


def _liked(given: tuple[Reason, ...]) -> str:
    """Return what the reader liked that put a paper into its place; "" for most papers."""
    for reason in given:
        label = formatting.cut_at_word(formatting.clean(reason.label), LABEL)
        if reason.kind is ReasonKind.LIKED:
            return gettext("You liked “%(title)s”", title=label)
        if reason.kind is ReasonKind.LIKED_AUTHOR:
            return gettext("You liked a paper by %(name)s", name=label)
    return ""


def _counts_of(shown: int, matched: int | None) -> str:
    """Return "4 of 23"; "" if `matched` is unknown."""
    if not matched:
        return ""
    every = f"{matched:,}"
    return gettext("%(shown)s of %(all)s", shown=shown, all=every)


def recap_line(recap: Recap, edition_on: date, shown: int, more: int) -> str:
    """Return the line at the top of a digest that covers several days, wrapped.

    "Your week: 10 of 47 papers on 3 topics, 24 to 30 November."
    """
    days = (edition_on - recap.since).days + 1
    every = shown + more
    papers = (
        ngettext("%(shown)s of %(num)s paper", "%(shown)s of %(num)s papers", every, shown=shown)
        if more
        else ngettext("%(num)s paper", "%(num)s papers", every)
    )
    topics = sum(number != 0 for _, number in recap.matched)
    counts = {
        "papers": papers,
        "topics": ngettext("%(num)s topic", "%(num)s topics", topics),
        "days": formatting.days(recap.since, edition_on),
    }
    if recap.after_pause:
        line = ngettext(
            "Welcome back: the best of the last %(num)s day, %(papers)s on %(topics)s.",
            "Welcome back: the best of the last %(num)s days, %(papers)s on %(topics)s.",
            days,
            **counts,
        )
    elif days == WEEK:
        line = gettext("Your week: %(papers)s on %(topics)s, %(days)s.", **counts)
    else:
        line = gettext("Since your last digest: %(papers)s on %(topics)s, %(days)s.", **counts)
    return formatting.wrap(line)


def _also(why: tuple[MatchReason, ...]) -> str:
    """Return the other topics, except those without words, such as Trending."""
    return formatting.listed([other.label for other in why[1:] if other.phrases])


def _matched(why: tuple[MatchReason, ...]) -> str:
    return ", ".join(dict.fromkeys(reason.phrases for reason in why if reason.phrases))


@lru_cache(maxsize=16_384)
def _lines(why: tuple[MatchReason, ...], liked: str) -> str:
    lines = []
    if matched := _matched(why):
        lines.append(gettext("Matched %(phrases)s", phrases=matched))
    if also := _also(why):
        lines.append(gettext("Also for %(topics)s", topics=also))
    if liked:
        lines.append(liked)
    return "\n".join(map(formatting.wrap, lines))


def entry(place: Place, title: str) -> Entry:
    """Return the line of a paper in the contents; a long title ends before its colon."""
    name = title.partition(": ")[0]
    short = name if len(name) <= ENTRY else formatting.cut_at_word(title, ENTRY)
    return Entry(place.number, short, place.heading)


def subject(title: str, list_name: str, *, near_misses: bool = False) -> str:
    """Return the title, cut; after a short one, the name of the list.

    A digest of near misses says so.

    A paper may be called "Unsubscribe", and a reply with this subject must not be read as a request
    (see `feedback.bounces.reply_mails`).
    """
    if near_misses:
        marked = gettext("Near your topics: %(title)s", title=title)
        return formatting.cut_at_word(marked, formatting.HEADLINE)
    if len(title) < SHORT_TITLE:
        return f"{title} · {formatting.clean(list_name)}"
    return formatting.cut_at_word(title, formatting.HEADLINE)


def _first_topic(pick: Pick) -> str:
    return pick.topics[0].label if pick.topics else ""


@lru_cache(maxsize=8_192)
def reasons(given: tuple[Reason, ...], phrases: int) -> tuple[MatchReason, ...]:
    return tuple(why(reason, phrases) for reason in given[:REASONS])


def title(paper: Paper) -> str:
    return formatting.cut(formatting.clean(paper.title), TITLE) or gettext("Untitled")


@lru_cache(maxsize=1_024)
def edition(
    edition_on: date,
    announced: tuple[date, date] | None,
    papers: int,
    *,
    has_contents: bool,
    welcome: bool,
    has_more: bool,
    has_topics: bool,
    near_misses: bool,
    has_recap: bool,
    pauses_on: date | None,
) -> Edition:
    today = (edition_on, edition_on)
    return Edition(
        date=formatting.day_of_month(edition_on),
        papers=ngettext("%(num)s paper", "%(num)s papers", papers),
        covers=formatting.days(*announced)
        if announced not in (None, today) and not has_recap
        else "",
        has_contents=has_contents,
        welcome=welcome,
        has_more=has_more,
        has_topics=has_topics,
        near_misses=near_misses,
        has_recap=has_recap,
        pauses_on=formatting.day_of_month(pauses_on) if pauses_on else "",
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
    return MatchReason(label, phrases)


def source_title(name: str) -> str:
    """Return the name of a source as it is displayed."""
    return SOURCES[name].title if name in SOURCES else formatting.clean(name)


def _byline(paper: Paper) -> list[str]:
    return [
        *map(source_title, paper.sources),
        *map(formatting.clean, paper.categories[:1]),
        formatting.day(paper.announced_on),
    ]


def _facts(paper: Paper, *, detailed: bool) -> list[str]:
    """Return author, organization or else category, and counts.

    If that is only one of them, add the source.
    """
    names = formatting.authors(paper.authors, paper.author_count, 1)
    category = formatting.clean(next(iter(paper.categories), ""))
    organization = formatting.cut_at_word(formatting.clean(paper.organization), ORGANIZATION)
    counts = _counts(paper)
    if detailed:
        shown = [names, organization or category, *counts, stars(paper)]
    else:
        shown = [names, category, *counts[:1], stars(paper)]
    facts = [fact for fact in shown if fact]
    return facts if len(facts) > 1 else [*facts, *map(source_title, paper.sources[:1])]


def _counts(paper: Paper) -> list[str]:
    counts = []
    if paper.upvotes:
        counts.append(ngettext("%(num)s upvote", "%(num)s upvotes", paper.upvotes))
    if paper.comments:
        counts.append(ngettext("%(num)s comment", "%(num)s comments", paper.comments))
    return counts


def stars(paper: Paper) -> str:
    """Return "1.2k stars"; "" if they are unknown or none."""
    if not paper.stars:
        return ""
    short = formatting.short_number(paper.stars)
    return ngettext("%(short)s star", "%(short)s stars", paper.stars, short=short)


def _chosen(links: Sequence[PaperLink], most: int) -> tuple[PaperLink, ...]:
    """Return the first links; if there is room for two only, the second is code, if there is any.

    The PDF is one step from the first link, the abstract.
    """
    if most == 2:
        code = [link for link in links[1:] if link.label == gettext("Code")]
        return (*links[:1], *(code or links[1:])[:1])
    return tuple(links[:most])


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
