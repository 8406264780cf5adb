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
    Subscription,
    Suggestion,
)
from pipeline.errors import QueryError
from pipeline.matching import suggestions
from pipeline.matching.corpus import statistics
from pipeline.matching.index import PaperIndex
from pipeline.matching.match import AT_ONCE
from pipeline.matching.query import TopicQuery, parse_topic
from pipeline.storage import digests, no_match_notices, papers
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
    """Return the content of list mail by delivery id: frozen digests, and notices as of now.

    Transactional mail and digests whose papers are no longer kept are not in it.
    """
    notices = [one.id for one in claimed if one.kind is DeliveryKind.QUIET_NOTE]
    return {
        **digests.load(conn, [delivery.id for delivery in claimed]),
        **(load(conn, notices, quiet_days) if notices else {}),
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


class TriedQueries:
    """Broader queries, tried on the newest papers: these are indexed once for a run.

    The index of 2,000 papers takes 100 MB and some seconds, so it is built without a transaction,
    and only for the first notice.
    """

    def __init__(self, engine: Engine, through_batch: int) -> None:
        self._engine = engine
        self._through = through_batch
        self._indexes: list[PaperIndex] = []
        self._weeks = 0.0  # covered by the papers
        self._found: dict[tuple[str, Breadth], int] = {}

    @property
    def is_loaded(self) -> bool:
        return self._weeks > 0

    def load(self) -> None:
        with read_only(self._engine) as conn:
            newest = papers.recent(conn, through_batch=self._through)
        corpus = statistics(newest)
        self._indexes = [PaperIndex(some, corpus) for some in in_chunks(newest, AT_ONCE)]
        days = [paper.announced_on for paper in newest]
        self._weeks = max(1.0, ((max(days) - min(days)).days + 1) / 7) if days else 1.0

    def broader(self, followed: Iterable[Subscription], breadth: Breadth) -> tuple[Suggestion, ...]:
        """Return a broader query for at most `WIDER` topics; those without one are left out."""
        return tuple(islice(self._broader(followed, breadth), WIDER))

    def _broader(self, followed: Iterable[Subscription], breadth: Breadth) -> Iterator[Suggestion]:
        most = suggestions.FLOOD * 7 * self._weeks
        for one in followed:
            try:
                query = parse_topic(one.topic.query)
            except QueryError:
                continue  # stored when the topic language was different
            if query.is_trending:
                continue
            counts = {q.text: self._count(q, breadth) for q in suggestions.broader(query.tree)}
            calm = {text: found for text, found in counts.items() if found <= most}
            if best := suggestions.least_broader(self._count(query, breadth), calm):
                text = suggestions.as_typed(best, one.label)
                yield Suggestion(one.label, text, round(calm[best] / self._weeks, 1))

    def _count(self, query: TopicQuery, breadth: Breadth) -> int:
        key = (query.text, breadth)
        if key not in self._found:
            found = (index.find(query.tree, breadth=breadth) for index in self._indexes)
            self._found[key] = sum(one.papers.size for one in found)
        return self._found[key]
