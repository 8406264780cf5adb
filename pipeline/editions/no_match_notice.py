"""No-match notices: when a subscriber is due one after a quiet week, and its content.

A week without matches is fine, but a reader cannot distinguish it from a failure of ours. So if the
topics of a reader match nothing for a week, one notice explains why, and no other for a month.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import date, timedelta
from typing import Final

from sqlalchemy import Connection

from pipeline.domain import (
    TRENDING,
    Delivery,
    DeliveryKind,
    Frequency,
    ListContent,
    NoMatchNotice,
    Subscription,
)
from pipeline.errors import QueryError
from pipeline.matching import suggestions
from pipeline.matching.query import parse
from pipeline.storage import digests, no_match_notices
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
    return NoMatchNotice(
        edition_on=recipient.edition_on,
        since=span[0],
        announced=announced,
        topics=tuple(one.label for one in recipient.followed),
        breadth=recipient.breadth,
        in_passing=no_match_notices.count_matched(conn, recipient, *span),
        wider=tuple(_wider(recipient.followed))[:WIDER],
        follows_trending=any(one.topic.query == TRENDING for one in recipient.followed),
    )


def _wider(followed: Iterable[Subscription]) -> Iterator[tuple[str, str]]:
    for one in followed:
        try:
            broader = suggestions.broader(parse(one.topic.query))
        except QueryError:
            continue  # stored when the topic language was different
        if broader:
            yield one.label, broader[0].text
