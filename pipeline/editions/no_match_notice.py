"""No-match notices: when a subscriber is due one after a quiet week, and its content.

A week without matches is fine, but a reader cannot distinguish it from a failure of ours. So if the
topics of a reader match nothing for a week, one notice explains why, and no other for a month.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import date, timedelta
from itertools import islice
from typing import Final

from sqlalchemy import Connection, Engine

from pipeline.domain import (
    TRENDING,
    Breadth,
    Delivery,
    DeliveryKind,
    Frequency,
    ListContent,
    NoMatchNotice,
    Paper,
    PauseNotice,
    Subscription,
    Suggestion,
)
from pipeline.errors import QueryError
from pipeline.matching import suggestions
from pipeline.matching.corpus import statistics
from pipeline.matching.index import PaperIndex
from pipeline.matching.match import AT_ONCE
from pipeline.matching.query import TopicQuery, parse_topic
from pipeline.matching.suggestions import Count
from pipeline.storage import digests, no_match_notices, papers, saved_mails
from pipeline.storage.database import in_chunks, read_only
from pipeline.storage.no_match_notices import LastContact, NoticeRecipient

AGAIN: Final = timedelta(days=30)
WIDER: Final = 3  # topics with a suggestion of a broader query
# Editions that had papers: if none were fetched or announced, the topics are not the cause.
LEAST: Final = {Frequency.DAILY: 3, Frequency.WEEKDAYS: 3, Frequency.WEEKLY: 2}


def window(frequency: Frequency, days: int) -> timedelta:
    """Return the minimum time without a match; double if weekly: one missing digest is no worry."""
    return timedelta(days=2 * days if frequency is Frequency.WEEKLY else days)


def longest(days: int) -> timedelta:
    """Return how far back `is_due` looks."""
    return max(AGAIN, window(Frequency.WEEKLY, days))


def is_due(contact: LastContact, edition_on: date, frequency: Frequency, days: int) -> bool:
    """Return whether a notice is due instead of a digest without matches; False if `days` is 0."""
    if days == 0:
        return False
    quiet = window(frequency, days)
    if sum(on > edition_on - quiet for on in contact.unmatched) < LEAST[frequency]:
        return False
    if contact.note_on is not None and edition_on < contact.note_on + AGAIN:
        return False
    return edition_on >= _last_change(contact) + quiet


def is_near_miss_due(contact: LastContact, frequency: Frequency, after: int) -> bool:
    """Return whether the nearest papers are sent in an edition without a match.

    It is the edition that makes `after` of them in a row; never if that is 0. One is enough if the
    digest is weekly.
    """
    if after == 0:
        return False
    since = _last_change(contact)
    unmatched = sum(on >= since for on in contact.unmatched)
    return unmatched >= (1 if frequency is Frequency.WEEKLY else after)


def _last_change(contact: LastContact) -> date:
    """Return the day of the last digest or pause, or on which the topics last changed."""
    known = (contact.joined_on, contact.followed_on, contact.digest_on, contact.silent_on)
    return max(on for on in known if on)


def load_content(
    conn: Connection, claimed: Sequence[Delivery], quiet_days: int
) -> dict[int, ListContent]:
    """Return the content of list mail by delivery id: frozen digests, other mail as of now.

    Transactional mail and digests whose papers are no longer kept are not in it.
    """
    notices = [one.id for one in claimed if one.kind is DeliveryKind.QUIET_NOTE]
    saved = [one.id for one in claimed if one.kind is DeliveryKind.SAVED]
    return {
        **digests.load(conn, [delivery.id for delivery in claimed]),
        **(load(conn, notices, quiet_days) if notices else {}),
        **(saved_mails.load(conn, saved) if saved else {}),
        **{
            one.id: PauseNotice(one.edition_on)
            for one in claimed
            if one.kind is DeliveryKind.PAUSE_NOTE and one.edition_on
        },
    }


def load(conn: Connection, delivery_ids: Collection[int], days: int) -> dict[int, NoMatchNotice]:
    """Return the content, as of now, of the notices among these deliveries, by delivery id."""
    found = no_match_notices.recipients(conn, delivery_ids)
    spans = {id_: _span(one, days) for id_, one in found.items()}
    announced = {
        span: no_match_notices.count_announced(conn, *span) for span in set(spans.values())
    }
    return {id_: _note(conn, one, spans[id_], announced[spans[id_]]) for id_, one in found.items()}


def _span(recipient: NoticeRecipient, days: int) -> tuple[date, date]:
    """Return the first and the last of the quiet days."""
    first = recipient.edition_on - window(recipient.frequency, max(days, 1)) + timedelta(days=1)
    return first, recipient.edition_on


def _note(
    conn: Connection, recipient: NoticeRecipient, span: tuple[date, date], announced: int
) -> NoMatchNotice:
    labels = tuple(one.label for one in recipient.followed)
    return NoMatchNotice(
        edition_on=recipient.edition_on,
        since=span[0],
        announced=announced,
        topics=labels,
        breadth=recipient.breadth,
        in_passing=no_match_notices.count_matched(conn, recipient, *span),
        wider=tuple(one for one in recipient.suggestions if one.label in labels),
        follows_trending=any(one.topic.query == TRENDING for one in recipient.followed),
    )


Followed = Sequence[Subscription]


class TriedQueries:
    """Suggestions for notices: broader queries, tried on the newest papers, for a whole run.

    Trying takes some seconds and 100 MB, so it is done by `load`, without a transaction.
    """

    def __init__(self, engine: Engine, through_batch: int) -> None:
        self._engine = engine
        self._through = through_batch
        self._suggested: dict[tuple[tuple[Subscription, ...], Breadth], tuple[Suggestion, ...]] = {}

    def of(self, followed: Followed, breadth: Breadth) -> tuple[Suggestion, ...] | None:
        """Return broader queries for at most `WIDER` topics; None if they are not loaded."""
        return self._suggested.get((tuple(followed), breadth))

    def load(self, wanted: Iterable[tuple[Followed, Breadth]]) -> None:
        with read_only(self._engine) as conn:
            newest = papers.recent(conn, through_batch=self._through)
        tried = _Tried(newest)
        for followed, breadth in wanted:
            found = islice(tried.broader(followed, breadth), WIDER)
            self._suggested[tuple(followed), breadth] = tuple(found)


class _Tried:
    """An index of the newest papers, and the number of those that each query finds."""

    def __init__(self, newest: Sequence[Paper]) -> None:
        last = max((paper.announced_on for paper in newest), default=date.min)
        recent = [p for p in newest if (last - p.announced_on).days < suggestions.DAYS]
        self._days = sorted({paper.announced_on for paper in recent})
        self._corpus = statistics(newest)
        self._indexes = [PaperIndex(some, self._corpus) for some in in_chunks(recent, AT_ONCE)]
        self._counts: dict[tuple[str, Breadth], Count] = {}

    def broader(self, followed: Followed, breadth: Breadth) -> Iterator[Suggestion]:
        """Yield a broader query for each topic that has one which the reader does not follow."""
        known = {one.topic.query for one in followed}
        for one in followed if self._days else ():
            try:
                query = parse_topic(one.topic.query)
            except QueryError:
                continue  # stored when the topic language was different
            if query.is_trending or self._is_author(query, breadth):
                continue
            others = suggestions.broader(query.tree, self._corpus)
            counts = {q.text: self._count(q, breadth) for q in others if q.text not in known}
            if best := suggestions.least_broader(self._count(query, breadth), counts):
                text = suggestions.as_typed(best, one.label)
                yield Suggestion(one.label, text, round(counts[best].a_week, 1))

    def _is_author(self, query: TopicQuery, breadth: Breadth) -> bool:
        """Return whether the words are the name of an author: a part of it is another name."""
        author = suggestions.author(query.tree)
        return author is not None and self._count(author, breadth).papers > 0

    def _count(self, query: TopicQuery, breadth: Breadth) -> Count:
        key = (query.text, breadth)
        if key not in self._counts:
            found = (index.find(query.tree, breadth=breadth) for index in self._indexes)
            number = sum(one.papers.size for one in found)
            span = (self._days[-1] - self._days[0]).days + 1
            self._counts[key] = Count(number, 0, len(self._days), span)
        return self._counts[key]
