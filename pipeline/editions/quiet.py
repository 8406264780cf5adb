"""A quiet week: for whom a note is due that says why nothing came, and what it says.

Nothing is a good answer, but only if it is told from a mistake of ours. So a reader whose topics
brought nothing for a week hears once why, and then not again for a month.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from datetime import date, timedelta
from typing import Final

from sqlalchemy import Connection

from pipeline.domain import TRENDING, Frequency, QuietNote, Subscription
from pipeline.errors import QueryError
from pipeline.matching import neighbours
from pipeline.matching.query import parse
from pipeline.storage import notes
from pipeline.storage.notes import Asked, Heard

AGAIN: Final = timedelta(days=30)
WIDER: Final = 3  # topics that are told a broader form
# Editions that had papers: where none were read, or none announced, it is no matter of topics.
LEAST: Final = {Frequency.DAILY: 3, Frequency.WEEKDAYS: 3, Frequency.WEEKLY: 2}


def window(frequency: Frequency, days: int) -> timedelta:
    """How long nothing must have come; a weekly reader misses two digests before they wonder."""
    return timedelta(days=2 * days if frequency is Frequency.WEEKLY else days)


def longest(days: int) -> timedelta:
    """How far back `is_due` looks."""
    return max(AGAIN, window(Frequency.WEEKLY, days))


def is_due(heard: Heard, edition_on: date, frequency: Frequency, days: int) -> bool:
    """Whether somebody who gets nothing today is to be told why; never where `days` is 0."""
    if days == 0:
        return False
    quiet = window(frequency, days)
    if sum(on > edition_on - quiet for on in heard.unmatched) < LEAST[frequency]:
        return False
    if heard.note_on is not None and edition_on < heard.note_on + AGAIN:
        return False
    known = (heard.joined_on, heard.followed_on, heard.digest_on, heard.silent_on)
    last = max(on for on in known if on)
    return edition_on >= last + quiet


def load(conn: Connection, delivery_ids: Collection[int], days: int) -> dict[int, QuietNote]:
    """What the notes among these deliveries say today, by delivery."""
    asked = notes.asked(conn, delivery_ids)
    spans = {id_: _span(one, days) for id_, one in asked.items()}
    announced = {span: notes.announced(conn, *span) for span in set(spans.values())}
    return {id_: _note(conn, one, spans[id_], announced[spans[id_]]) for id_, one in asked.items()}


def _span(asked: Asked, days: int) -> tuple[date, date]:
    """First and last of the quiet days."""
    first = asked.edition_on - window(asked.frequency, max(days, 1)) + timedelta(days=1)
    return first, asked.edition_on


def _note(conn: Connection, asked: Asked, span: tuple[date, date], announced: int) -> QuietNote:
    return QuietNote(
        edition_on=asked.edition_on,
        since=span[0],
        announced=announced,
        topics=tuple(one.label for one in asked.followed),
        breadth=asked.breadth,
        in_passing=notes.matched(conn, asked, *span),
        wider=tuple(_wider(asked.followed))[:WIDER],
        follows_trending=any(one.topic.query == TRENDING for one in asked.followed),
    )


def _wider(followed: Iterable[Subscription]) -> Iterator[tuple[str, str]]:
    for one in followed:
        try:
            broader = neighbours.broader(parse(one.topic.query))
        except QueryError:
            continue  # of a language that once was
        if broader:
            yield one.label, broader[0]
