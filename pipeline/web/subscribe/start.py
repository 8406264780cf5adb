"""Start from papers: what a pasted list says, with topics and authors to follow. Stores nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Final

from sqlalchemy import Connection

from pipeline import references, signup
from pipeline.bootstrap import Services
from pipeline.matching.people import suggested_people
from pipeline.matching.proposals import Tried, proposed_topics
from pipeline.matching.query import TopicQuery
from pipeline.references import Parsed, Reference
from pipeline.rendering import formatting
from pipeline.signup import OwnPapers
from pipeline.storage.database import read_only
from pipeline.translations import gettext, gettext_noop, ngettext
from pipeline.web.papers import authors
from pipeline.web.papers.recent import RecentPapers, RecentWindow
from pipeline.web.subscribe import volume
from pipeline.web.subscribe.author_lookup import MOST_AUTHORS, SITES, AuthorLookup, Problem

SHOWN_UNREADABLE: Final = 5
SHOWN_PEOPLE: Final = 6


@dataclass(frozen=True, slots=True)
class Proposal:
    """A topic or an author to follow, with its volume."""

    query: str
    name: str
    pace: str
    because: str  # "in 3 of your papers"
    is_followed: bool


@dataclass(frozen=True, slots=True)
class Start:
    """Papers read from a list, with the topics and authors that are proposed."""

    counted: str  # "Read 34 papers, 20 of them in the archive of this site."
    notes: tuple[str, ...]  # about papers that were not read, or will not be stored
    unreadable: tuple[tuple[int, str], ...]  # line and first characters
    more_unreadable: int
    topics: tuple[Proposal, ...]
    people: tuple[Proposal, ...]
    more_of: tuple[str, ...]
    own: OwnPapers
    can_look_up: bool  # some authors wait for the button


@dataclass(frozen=True, slots=True)
class PaperList:
    """A pasted list, with the papers of the authors that it names."""

    parsed: Parsed
    problems: tuple[str, ...] = ()  # one sentence for each author without papers
    can_look_up: bool = False


PROBLEMS: Final = {
    Problem.MISTYPED: gettext_noop("Line %(line)s: this ORCID iD is mistyped. Compare its digits."),
    Problem.OFF: gettext_noop(
        "Line %(line)s: this site does not look up authors at %(site)s. Paste your papers instead."
    ),
    Problem.WAITING: gettext_noop("Line %(line)s: an author at %(site)s, not looked up yet."),
    Problem.BUSY: gettext_noop(
        "Line %(line)s: too many authors are looked up at the moment. Try again in a minute, or "
        "paste your papers instead."
    ),
    Problem.FAILED: gettext_noop(
        "Line %(line)s: %(site)s did not answer. Paste your papers instead, or try again later."
    ),
    Problem.UNKNOWN: gettext_noop("Line %(line)s: %(site)s has no list of papers under this id."),
    Problem.EMPTY: gettext_noop("Line %(line)s: the list of this author at %(site)s is empty."),
    Problem.TOO_MANY: gettext_noop(
        "Line %(line)s: only %(most)s authors are looked up. Paste the papers of others."
    ),
}


def read_list(
    text: str, authors: AuthorLookup, visitor: str | None, *, is_wanted: bool
) -> PaperList:
    """Read a pasted list, and look up its authors if `is_wanted`; else use kept results.

    Takes up to two seconds of CPU for 512 KB, and waits up to five for answers: do not call it in
    a transaction.
    """
    parsed = references.parse(text)
    if not parsed.author_ids:
        return PaperList(parsed)
    entries: list[Reference] = []
    problems: list[str] = []
    can_look_up = False
    results = authors.results(parsed.author_ids, visitor, is_wanted=is_wanted)
    for author, line in parsed.author_ids.items():
        found = results[author]
        if isinstance(found, Problem):
            site = SITES[author.site].title
            problems.append(gettext(PROBLEMS[found], line=line, site=site, most=MOST_AUTHORS))
            can_look_up = can_look_up or found is Problem.WAITING
        else:
            entries += found
    together = references.merged([*parsed.entries, *entries])
    most = references.MOST_ENTRIES
    is_cut = parsed.is_cut or len(together) > most
    parsed = replace(parsed, entries=together[:most], is_cut=is_cut)
    return PaperList(parsed, tuple(problems), can_look_up)


def read_papers(listed: PaperList, services: Services, recent: RecentPapers) -> OwnPapers:
    """Return the papers of a pasted list that a request stores."""
    window = recent.get()
    with read_only(services.engine) as conn:
        return _read(listed, window, conn, signup.MOST_REQUESTED)


def _read(listed: PaperList, window: RecentWindow, conn: Connection, most: int) -> OwnPapers:
    corpus, now = window.search_index.corpus, datetime.now(UTC)
    return signup.read_papers(conn, listed.parsed.entries, corpus, now, most=most)


def start(
    listed: PaperList,
    window: RecentWindow,
    conn: Connection,
    followed: Collection[str],
    *,
    room: int | None = None,
) -> Start:
    """Return what a list of papers says; `room` is how many can be stored, None for a request.

    `followed` are the canonical queries of the topics that need not be proposed.
    """
    own = _read(listed, window, conn, signup.MOST_REQUESTED if room is None else room)
    parsed = listed.parsed
    shown = [(one.line, formatting.clean(one.text)) for one in parsed.unreadable]
    kept = own.requested if room is None else own.reactions
    return Start(
        counted=_counted(own),
        notes=(*listed.problems, *_notes(parsed, own, len(kept))),
        unreadable=tuple(shown[:SHOWN_UNREADABLE]),
        more_unreadable=len(shown[SHOWN_UNREADABLE:]),
        topics=tuple(_topics(own, window, followed)),
        people=tuple(_people(own, window, followed)),
        more_of=tuple(formatting.clean(one.name) for one in signup.more_of(kept)),
        own=own,
        can_look_up=listed.can_look_up,
    )


def _counted(own: OwnPapers) -> str:
    read_ = ngettext("Read %(num)s paper.", "Read %(num)s papers.", own.total)
    if not own.known:
        return read_
    text = ngettext(
        "%(num)s is in the archive of this site.",
        "%(num)s are in the archive of this site.",
        own.known,
    )
    return f"{read_} {text}"


def _notes(parsed: Parsed, own: OwnPapers, kept: int) -> Iterator[str]:
    if own.unknown:
        yield ngettext(
            "%(num)s paper has only an id, and the archive of this site does not have it: "
            "add its title.",
            "%(num)s papers have only an id, and the archive of this site does not have them: "
            "add their titles.",
            own.unknown,
        )
    if parsed.is_cut:
        yield gettext(
            "The list is longer than %(entries)s papers or %(size)s KB. The rest was not read.",
            entries=references.MOST_ENTRIES,
            size=references.MOST_OCTETS // 1024,
        )
    if own.total > kept:
        yield ngettext(
            "Only the newest %(num)s paper of them is used.",
            "Only the newest %(num)s papers of them are used.",
            kept,
        )


def _topics(own: OwnPapers, window: RecentWindow, followed: Collection[str]) -> Iterator[Proposal]:
    if not window.days:
        return
    archive = partial(_tried, window)
    for one in proposed_topics(own.texts, window.search_index.corpus, archive, window.size):
        because = ngettext("in %(num)s of your papers", "in %(num)s of your papers", one.shared)
        typed, is_followed = one.query.typed, one.query.text in followed
        yield Proposal(typed, typed, volume.pace(one.count), because, is_followed)


def _tried(window: RecentWindow, query: TopicQuery) -> Tried:
    found = window.found(query).papers
    return Tried(
        volume.count(window.per_day(found), window.days), frozenset(map(int, found.tolist()))
    )


def _people(own: OwnPapers, window: RecentWindow, followed: Collection[str]) -> Iterator[Proposal]:
    index = window.search_index
    for one in suggested_people(own.texts, partial(authors.a_month, index))[:SHOWN_PEOPLE]:
        because = ngettext("author of %(num)s paper", "author of %(num)s papers", one.liked)
        yield Proposal(
            one.topic.typed,
            formatting.clean(one.name),
            authors.pace_of(index, one.topic),
            because,
            one.topic.text in followed,
        )
