"""Preview of a sign-up form: today's digest, and the volume of each topic."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Final

import numpy as np
from sqlalchemy import Connection
from starlette.requests import Request

from pipeline.bootstrap import Services
from pipeline.domain import Breadth, Frequency, Paper
from pipeline.matching import suggestions
from pipeline.matching.index import Found
from pipeline.matching.query import And, Field, Fielded, Or, Query, TopicQuery
from pipeline.matching.ranking import Candidate, Picked, Selection, TopicCandidates, pick
from pipeline.matching.suggestions import Count
from pipeline.rendering import Branding, formatting, views
from pipeline.rendering.views import Card
from pipeline.storage.database import read_only
from pipeline.translations import gettext, ngettext
from pipeline.web.client_address import CPUBudget
from pipeline.web.papers.recent import RecentPapers, RecentWindow
from pipeline.web.papers.search_index import Places
from pipeline.web.subscribe import form_input, volume
from pipeline.web.subscribe import start as starting
from pipeline.web.subscribe.form_input import FormInput, TopicEntry
from pipeline.web.subscribe.start import PaperList, Start
from pipeline.web.subscribe.volume import Instead, Volume
from pipeline.web.templating import Pages, abridged

WEEK: Final = timedelta(days=7)
HELPED: Final = 5  # topics that get a suggested query; each costs some searches
SPARE: Final = 20  # candidates of a topic beyond the size of a digest
ENOUGH_DAYS: Final = 5  # days with papers, below which the text says "only"
ROOM: Final = views.Room(abstract=0, phrases=4, links=1)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Settings of the digest in a form, apart from its topics."""

    papers: int  # at most
    breadth: Breadth = Breadth.BALANCED
    weekly: bool = False


@dataclass(frozen=True, slots=True)
class SignupPreview:
    rates: tuple[Volume, ...]
    together: Volume | None  # if there is more than one topic to count
    heading: str  # "Your digest of Friday, 31 July 2026"
    cards: tuple[Card, ...]
    more: int
    counted: str  # "Counted over 21 days with new papers, 2 to 31 July."
    start: Start | None = None  # if the form has a list of papers


def charged_preview(
    request: Request,
    values: FormInput,
    services: Services,
    pages: Pages,
    recent: RecentPapers,
    budget: CPUBudget,
    listed: Callable[[], PaperList] | None = None,
) -> SignupPreview | None:
    """Return the preview of a form, and charge its CPU time to the visitor.

    `listed` reads the list of papers in the form, if there is one.
    """
    wanted = Wanted(
        form_input.size(values.max_papers) or services.settings.max_papers,
        form_input.breadth(values.breadth) or Breadth.BALANCED,
        weekly=values.rhythm.startswith(Frequency.WEEKLY),
    )
    with budget.charged(request):
        topics = form_input.topic_entries(values)
        window = recent.get()
        papers = listed() if listed and window.days else None
        with read_only(services.engine) as conn:
            preview = signup_preview(window, conn, topics, wanted, pages)
            if preview and papers:
                followed = frozenset(one.query.text for one in topics if one.query)
                start = starting.start(papers, window, conn, followed)
                preview = replace(preview, start=start)
            return preview


def signup_preview(
    recent: RecentWindow,
    conn: Connection,
    topics: Sequence[TopicEntry],
    wanted: Wanted,
    pages: Pages,
) -> SignupPreview | None:
    """Return the preview; None if there are no recent papers."""
    if not recent.days:
        return None
    valid = [(topic.label, topic.query) for topic in topics if topic.query]
    heading, selection, papers = _digest(recent, conn, valid, wanted)
    return SignupPreview(
        rates=tuple(_rates(recent, topics, wanted.breadth, pages.arxiv_categories)),
        together=_together(recent, topics, wanted.breadth),
        heading=heading,
        cards=tuple(_card(papers[one.paper], one, pages.branding) for one in selection.picks),
        more=selection.more,
        counted=_counted(recent) if any(_counted_queries(topics)) else "",
    )


# --- Digest -------------------------------------------------------------------------------------

NamedQuery = tuple[str, TopicQuery]
"""The label of a topic and its query."""

Papers = dict[int, Paper]
"""Papers by place in the catalog."""


def _digest(
    recent: RecentWindow, conn: Connection, topics: Sequence[NamedQuery], wanted: Wanted
) -> tuple[str, Selection, Papers]:
    """Return the heading, selection and papers of a digest of the newest day.

    It covers the seven days up to the newest if it is weekly, or if the newest day has no match.
    """
    newest = recent.days[-1]
    if not wanted.weekly:
        today, papers = _selected(recent, conn, topics, wanted, newest, newest)
        if today.picks:
            heading = gettext("Your digest of %(day)s", day=formatting.full_day(newest))
            return heading, today, papers
    first = newest - WEEK + timedelta(days=1)
    form = (
        gettext("Your digest of the seven days up to %(day)s")
        if wanted.weekly
        else gettext("No papers today. In the seven days up to %(day)s:")
    )
    heading = form % {"day": formatting.full_day(newest)}
    return heading, *_selected(recent, conn, topics, wanted, first, newest)


def _selected(
    recent: RecentWindow,
    conn: Connection,
    topics: Sequence[NamedQuery],
    wanted: Wanted,
    first: date,
    last: date,
) -> tuple[Selection, Papers]:
    most = wanted.papers
    matched = {topic: _between(recent, topic[1], wanted, first, last) for topic in topics}
    best = {topic: _best(found, most) for topic, found in matched.items()}
    papers = recent.read(conn, {int(place) for found in best.values() for place in found.papers})
    offers = [
        TopicCandidates(label, list(_candidates(recent, query, found, papers)))
        for (label, query), found in best.items()
    ]
    selection = pick(offers, most)
    everything = set[int]().union(*(found.papers.tolist() for found in matched.values()))
    return replace(selection, more=len(everything) - len(selection.picks)), papers


def _between(
    recent: RecentWindow, query: TopicQuery, wanted: Wanted, first: date, last: date
) -> Found:
    if query.is_trending:  # the most upvoted of the week up to `last`
        return recent.most_upvoted(last - WEEK + timedelta(days=1), last, wanted.papers)
    found = recent.found(query, wanted.breadth)
    return found.take(recent.announced(found.papers, first, last))


def _best(found: Found, most: int) -> Found:
    """Return the best `most + SPARE`: ranking also weighs upvotes and drops near-duplicates."""
    return found.take(np.argsort(-found.scores, kind="stable")[: most + SPARE])


def _candidates(
    recent: RecentWindow, query: TopicQuery, found: Found, papers: Papers
) -> Iterator[Candidate]:
    phrases = {} if query.is_trending else recent.phrases(query.tree, found.papers)
    for place, score in zip(found.papers.tolist(), found.scores.tolist(), strict=True):
        if paper := papers.get(place):
            words = phrases.get(place, ())
            day = paper.announced_on.toordinal()
            yield Candidate(place, score, words, paper.title, paper.upvotes, day)


def _card(paper: Paper, picked: Picked, branding: Branding) -> Card:
    return views.card(paper, views.reasons(picked.reasons, ROOM.phrases), branding, ROOM)


# --- Volume -------------------------------------------------------------------------------------


def _rates(
    recent: RecentWindow, topics: Sequence[TopicEntry], breadth: Breadth, read: tuple[str, ...]
) -> Iterator[Volume]:
    papers = {label: _papers(recent, query, breadth) for label, query in _counted_queries(topics)}
    known = {topic.query.text for topic in topics if topic.query}
    helped = 0
    for topic in topics:
        if topic.query is None:
            yield Volume(topic.label, mistake=topic.mistake)
        elif topic.query.is_trending:
            yield Volume(topic.label, pace=gettext("the most upvoted papers of the week"))
        else:
            others = {label: found for label, found in papers.items() if label != topic.label}
            counted = _count(recent, recent.found(topic.query, breadth).papers)
            needs_help = helped < HELPED and (counted.is_flood or counted.is_trickle)
            helped += needs_help
            yield volume.volume(
                topic.label,
                counted,
                more=_remarks(topic, papers[topic.label], others, read),
                instead=tuple(
                    _instead(recent, topic, counted, breadth, known, needs_help=needs_help)
                ),
            )


def _remarks(
    topic: TopicEntry, papers: set[int], others: Mapping[str, set[int]], read: tuple[str, ...]
) -> tuple[str, ...]:
    unread = _unread(topic.query, read) if topic.query else ""
    return (*topic.hints, unread, volume.overlap(papers, others))


def _unread(query: TopicQuery, read: tuple[str, ...]) -> str:
    """Return a sentence about the categories of a query that the site does not read, or ""."""
    if not (unread := tuple(dict.fromkeys(unread_categories(query.tree, read)))):
        return ""
    return gettext(
        "This site does not read %(unread)s, only %(read)s. Papers in %(unread)s are found if they "
        "are also in one of these.",
        unread=abridged(unread),
        read=abridged(read),
    )


def unread_categories(query: Query, read: Sequence[str]) -> Iterator[str]:
    """Yield the arXiv categories in a query of which a site that reads `read` has no feed.

    None if `read` is empty: papers with categories may then come from another source. Negated
    categories are left out, and misspelt ones, which `suggestions.hints` corrects.
    """
    if isinstance(query, And | Or):
        for operand in query.operands:
            yield from unread_categories(operand, read)
    elif read and isinstance(query, Fielded) and query.field is Field.CATEGORY:
        name = query.forms[0]
        if not _is_read(name, read) and not suggestions.nearest_category(name):
            yield suggestions.CATEGORIES.get(name, name)


def _is_read(name: str, read: Sequence[str]) -> bool:
    """Return whether any category in `read` is part of `name` (`math`, `cs.c*`), or contains it."""
    folded = [one.lower() for one in read]
    if name.endswith("*"):
        return any(one.startswith(name[:-1]) for one in folded)
    return any(f"{one}.".startswith(f"{name}.") or name.startswith(f"{one}.") for one in folded)


def _instead(
    recent: RecentWindow,
    topic: TopicEntry,
    counted: Count,
    breadth: Breadth,
    known: Collection[str],
    *,
    needs_help: bool,
) -> Iterator[Instead]:
    """Yield queries that were tried, find papers and are not in the form, with their volume.

    These are corrections of likely mistakes; if the topic has too many papers, a narrower query;
    if too few, the words without typos or an author of that name, else a broader query.
    """
    query = topic.query
    if query is None:
        return

    def tried(others: Iterable[TopicQuery | None]) -> dict[str, Count]:
        counts = {
            suggestions.as_typed(one.text, query.typed): _count(
                recent, recent.found(one, breadth).papers
            )
            for one in others
            if one and one.text not in known
        }
        return {text: one for text, one in counts.items() if one.papers}

    def named(word: str, others: Iterable[TopicQuery | None]) -> Iterator[Instead]:
        for text, one in tried(others).items():
            yield Instead(word, text, volume.pace(one))

    yield from named(gettext("Did you mean"), map(suggestions.parsed, topic.corrections))
    if not needs_help:
        return
    best = None
    if counted.is_flood:
        best = volume.narrower(counted, tried(suggestions.narrower(query.tree)))
    else:
        corpus = recent.search_index.corpus
        meant = None if topic.corrections else suggestions.corrected(query.tree, corpus)
        likely = [
            *named(gettext("Did you mean"), [meant]),
            *named(gettext("Author"), [suggestions.author(query.tree)]),
        ]
        yield from likely
        if not likely:
            best = volume.broader(counted, tried(suggestions.broader(query.tree, corpus)))
    if best:
        yield best


def _together(
    recent: RecentWindow, topics: Iterable[TopicEntry], breadth: Breadth
) -> Volume | None:
    found = {query: recent.found(query, breadth) for _, query in _counted_queries(topics)}
    if len(found) < 2:
        return None
    places = np.unique(np.concatenate([one.papers for one in found.values()]))
    return volume.volume(gettext("Together"), _count(recent, places))


def _papers(recent: RecentWindow, query: TopicQuery, breadth: Breadth) -> set[int]:
    return set(recent.found(query, breadth).papers.tolist())


def _count(recent: RecentWindow, places: Places) -> Count:
    return volume.count(recent.per_day(places), recent.days)


def _counted_queries(asked: Iterable[TopicEntry]) -> Iterator[NamedQuery]:
    """Yield the topics whose volume is counted: those that are valid, and not Trending."""
    for topic in asked:
        if topic.query and not topic.query.is_trending:
            yield topic.label, topic.query


def _counted(recent: RecentWindow) -> str:
    days = recent.days
    span = formatting.days(days[0], days[-1])
    if not recent.is_complete:
        return gettext(
            "Counted over the newest papers only, %(days)s. Older ones are still being loaded.",
            days=span,
        )
    if len(days) < ENOUGH_DAYS:
        return ngettext(
            "Counted over %(num)s day only: %(days)s.",
            "Counted over %(num)s days only: %(days)s.",
            len(days),
            days=span,
        )
    return ngettext(
        "Counted over %(num)s day with new papers, %(days)s.",
        "Counted over %(num)s days with new papers, %(days)s.",
        len(days),
        days=span,
    )
