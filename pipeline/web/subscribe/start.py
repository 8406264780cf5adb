"""Start from papers: what a pasted list says, with topics and authors to follow. Stores nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Final

from sqlalchemy import Connection

from pipeline import references, signup
from pipeline.bootstrap import Services
from pipeline.matching.people import suggested_people
from pipeline.matching.proposals import Tried, proposed_topics
from pipeline.matching.query import TopicQuery
from pipeline.references import Parsed
from pipeline.rendering import formatting
from pipeline.signup import OwnPapers
from pipeline.storage.database import read_only
from pipeline.translations import gettext, ngettext
from pipeline.web.papers import authors
from pipeline.web.papers.recent import RecentPapers, RecentWindow
from pipeline.web.subscribe import volume

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


def read_papers(text: str, services: Services, recent: RecentPapers) -> OwnPapers:
    """Return the papers of a pasted list that a request stores; see `_read`."""
    window = recent.get()
    with read_only(services.engine) as conn:
        return _read(text, window, conn, signup.MOST_REQUESTED)[1]


def _read(text: str, window: RecentWindow, conn: Connection, most: int) -> tuple[Parsed, OwnPapers]:
    """Return the papers of a pasted list. Takes up to two seconds for 512 KB."""
    parsed = references.parse(text)
    corpus, now = window.search_index.corpus, datetime.now(UTC)
    return parsed, signup.read_papers(conn, parsed.entries, corpus, now, most=most)


def start(
    text: str,
    window: RecentWindow,
    conn: Connection,
    followed: Collection[str],
    *,
    room: int | None = None,
) -> Start:
    """Return what a list of papers says; `room` is how many can be stored, None for a request.

    `followed` are the canonical queries of the topics that need not be proposed.
    """
    parsed, own = _read(text, window, conn, signup.MOST_REQUESTED if room is None else room)
    shown = [(one.line, formatting.clean(one.text)) for one in parsed.unreadable]
    kept = own.requested if room is None else own.reactions
    return Start(
        counted=_counted(own),
        notes=tuple(_notes(parsed, own, len(kept))),
        unreadable=tuple(shown[:SHOWN_UNREADABLE]),
        more_unreadable=len(shown[SHOWN_UNREADABLE:]),
        topics=tuple(_topics(own, window, followed)),
        people=tuple(_people(own, window, followed)),
        more_of=tuple(formatting.clean(one.name) for one in signup.more_of(kept)),
        own=own,
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
