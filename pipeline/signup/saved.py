"""A reader's list of saved papers: search, the papers for files and feeds, and feed addresses.

The secret in a feed address is stored and does not expire, because feed readers fetch it for years;
it opens nothing but the feeds, and creating it again or ending the feeds replaces it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from secrets import token_urlsafe

from sqlalchemy import Connection, Engine

from pipeline.domain import Digest, Links, Paper
from pipeline.errors import NotFoundError
from pipeline.matching.tokens import folded
from pipeline.signup.choices import existing_subscriber
from pipeline.signup.reactions import active_subscriber
from pipeline.sources.text import https_link
from pipeline.storage import digests, papers, reactions, saved_mails
from pipeline.storage.database import read_only, retry_transaction
from pipeline.storage.reactions import Reaction

FEED_DIGESTS = 30  # in a feed
FEED_PAPERS = 50  # of a list, in a feed


@dataclass(frozen=True, slots=True)
class SavedPaper:
    """A paper of a reader's list; one that is not stored has only what the reader brought."""

    paper: Paper
    saved_at: datetime
    note: str
    is_stored: bool


@dataclass(frozen=True, slots=True)
class SavedPage:
    """A page of a reader's list, or of the papers that a search found in it."""

    papers: tuple[SavedPaper, ...]
    number: int  # of the page, from 1
    last: int
    found: int
    total: int
    feed_secret: str | None
    is_weekly: bool  # whether new papers of the list are mailed once a week


def saved_page(engine: Engine, subscriber_id: int, words: str, number: int, size: int) -> SavedPage:
    """Return a page of the list, the last saved first, clamped to the existing pages.

    `words` must all occur in title, authors or note, in any case, with or without accents. Raise
    NotFoundError if there is no such subscriber.
    """
    with read_only(engine) as conn:
        existing_subscriber(conn, subscriber_id)
        total = count = reactions.count_saved(conn, subscriber_id)
        keys = None
        if words:
            keys = with_words(reactions.saved_texts(conn, subscriber_id), words)
            count = len(keys)
        last = max(1, -(-count // size))
        number = min(max(number, 1), last)
        skip = (number - 1) * size
        if keys is None:
            shown = reactions.saved_by(conn, subscriber_id, most=size, skip=skip)
        else:
            shown = reactions.saved_by(conn, subscriber_id, keys=keys[skip : skip + size])
        return SavedPage(
            _with_papers(conn, shown),
            number,
            last,
            count,
            total,
            reactions.feed_secret_of(conn, subscriber_id),
            reactions.profile_of(conn, subscriber_id).saved_weekly,
        )


def saved_papers(engine: Engine, subscriber_id: int) -> tuple[SavedPaper, ...]:
    """Return the whole list, the last saved first; raise NotFoundError."""
    with read_only(engine) as conn:
        existing_subscriber(conn, subscriber_id)
        return _with_papers(conn, reactions.saved_by(conn, subscriber_id))


def with_words(texts: Mapping[str, str], words: str) -> list[str]:
    """Return the keys of texts in which every word occurs, also as a part of another word."""
    wanted = folded(words).split()
    found = []
    for key, text in texts.items():
        plain = folded(text)
        if all(word in plain for word in wanted):
            found.append(key)
    return found


@retry_transaction
def mail_weekly(engine: Engine, subscriber_id: int, now: datetime, *, wanted: bool) -> None:
    """Switch the weekly mail of saved papers on or off; raise NotFoundError if not active.

    Off cancels a mail that is not sent yet.
    """
    with engine.begin() as conn:
        active_subscriber(conn, subscriber_id, now)
        stored = reactions.profile_of(conn, subscriber_id)
        reactions.put_profile(conn, subscriber_id, replace(stored, saved_weekly=wanted), now)
        if not wanted:
            saved_mails.cancel(conn, subscriber_id, "switched off by the reader")


# --- Feeds --------------------------------------------------------------------------------------


@retry_transaction
def create_feeds(engine: Engine, subscriber_id: int, now: datetime) -> None:
    """Give a reader feeds; raise NotFoundError if not active. Existing ones keep their address."""
    with engine.begin() as conn:
        active_subscriber(conn, subscriber_id, now)
        if reactions.feed_secret_of(conn, subscriber_id) is None:
            reactions.put_feed_secret(conn, subscriber_id, token_urlsafe(16), now)


@retry_transaction
def revoke_feeds(engine: Engine, subscriber_id: int, now: datetime) -> None:
    """End a reader's feeds: their address is unknown at once."""
    with engine.begin() as conn:
        active_subscriber(conn, subscriber_id, now)
        if reactions.feed_secret_of(conn, subscriber_id) is not None:
            reactions.put_feed_secret(conn, subscriber_id, None, now)


def feed_digests(engine: Engine, secret: str) -> list[tuple[int, datetime]]:
    """Return id and time of the digests in a reader's feed, newest first; raise NotFoundError."""
    with read_only(engine) as conn:
        return digests.reached(conn, _reader_of_feed(conn, secret), FEED_DIGESTS)


def digests_of(engine: Engine, delivery_ids: Sequence[int]) -> dict[int, Digest]:
    """Return digests as they were sent, by delivery id."""
    with read_only(engine) as conn:
        return digests.load(conn, delivery_ids)


def feed_papers(engine: Engine, secret: str) -> tuple[SavedPaper, ...]:
    """Return the papers in the feed of a reader's list; raise NotFoundError."""
    with read_only(engine) as conn:
        reader = _reader_of_feed(conn, secret)
        return _with_papers(conn, reactions.saved_by(conn, reader, most=FEED_PAPERS))


def _reader_of_feed(conn: Connection, secret: str) -> int:
    reader = reactions.reader_of_feed(conn, secret)
    if reader is None:
        raise NotFoundError("no active subscriber has this feed")
    return reader


# --- Papers -------------------------------------------------------------------------------------


def _with_papers(conn: Connection, saved: Sequence[Reaction]) -> tuple[SavedPaper, ...]:
    known = papers.by_ids(conn, [one.paper_id for one in saved if one.paper_id])
    shown = []
    for one in saved:
        paper = known.get(one.paper_id or 0)
        if one.saved_at:
            shown.append(
                SavedPaper(paper or _brought(one), one.saved_at, one.note, paper is not None)
            )
    return tuple(shown)


def _brought(one: Reaction) -> Paper:
    """Return a paper that is not stored; without a year, its day is `date.min`."""
    return Paper(
        id=0,
        key=one.key,
        version=0,
        title=one.title,
        abstract="",
        authors=one.authors,
        author_count=len(one.authors),
        categories=(),
        keywords=(),
        sources=(),
        announced_on=date(one.year, 1, 1) if one.year and 0 < one.year < 10_000 else date.min,
        upvotes=None,
        comments=None,
        links=Links(abstract=https_link(one.url)),
        batch=0,
    )
