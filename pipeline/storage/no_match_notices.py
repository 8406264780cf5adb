"""No-match notices: data to decide if one is due, its content, and queueing it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from sqlalchemy import Connection, and_, case, exists, func, select

from pipeline.domain import (
    Breadth,
    DeliveryKind,
    Frequency,
    SkipReason,
    Subscription,
    Suggestion,
    TopicKind,
)
from pipeline.storage import deliveries, ingest_state, topics
from pipeline.storage.database import in_chunks
from pipeline.storage.deliveries import NewDelivery
from pipeline.storage.digests import DIGESTS, REACHED
from pipeline.storage.schema import (
    DeliveryRow,
    MatchRow,
    PaperRow,
    PickRow,
    SkipRow,
    SubscriberRow,
    SubscriptionRow,
)
from pipeline.storage.throttles import domain_of

CHUNK = 500
KEPT_QUIET = (SkipReason.PAUSED, SkipReason.SUPPRESSED)
NOTE = DeliveryKind.QUIET_NOTE


@dataclass(frozen=True, slots=True)
class LastContact:
    """Dates of a reader's last mails and pauses, from which it is decided if a notice is due."""

    joined_on: date
    followed_on: date | None  # when the followed topics last changed
    digest_on: date | None  # the edition of the last digest; of near misses only if not ended
    silent_on: date | None  # the last edition skipped by a pause or a suppression
    note_on: date | None  # the edition of the last notice that is sent or may still be
    unmatched: tuple[date, ...]  # editions with papers, but without a match


@dataclass(frozen=True, slots=True)
class NewNotice:
    """A notice to be queued for an edition in which the reader gets no digest."""

    subscriber_id: int
    email: str
    edition_on: date
    slot_at: datetime
    expires_at: datetime
    suggestions: tuple[Suggestion, ...] = ()
    delay: timedelta = timedelta(0)  # before it may be sent

    @property
    def dedupe_key(self) -> str:
        return f"{NOTE}:{self.edition_on}:{self.subscriber_id}"


@dataclass(frozen=True, slots=True)
class NoticeRecipient:
    """The recipient of a queued notice, with the current preferences and topics."""

    subscriber_id: int
    edition_on: date
    frequency: Frequency
    breadth: Breadth
    followed: tuple[Subscription, ...]
    suggestions: tuple[Suggestion, ...] = ()


def last_contact(
    conn: Connection, subscriber_ids: Sequence[int], *, since: date
) -> dict[int, LastContact]:
    """Return the last dates of each subscriber, by id; unknown ids are left out.

    Digests, notices and skipped editions count only if their edition is not before `since`.
    """
    joined: dict[int, date] = {}
    last: dict[tuple[int, str], date] = {}
    unmatched: defaultdict[int, list[date]] = defaultdict(list)
    what = case((DeliveryRow.kind == NOTE, "note"), else_="digest")
    for chunk in in_chunks(subscriber_ids, CHUNK):
        for id_, at in conn.execute(
            select(
                SubscriberRow.id,
                func.coalesce(SubscriberRow.confirmed_at, SubscriberRow.created_at),
            ).where(SubscriberRow.id.in_(chunk))
        ):
            joined[id_] = at.date()
        # A digest with a match counts, even if it was not sent: the topics found a paper.
        counts = and_(DeliveryRow.kind != NOTE, ~DeliveryRow.near_misses) | (
            DeliveryRow.status.in_(REACHED)
        )
        for id_, kind, on in conn.execute(
            select(DeliveryRow.subscriber_id, what, func.max(DeliveryRow.edition_on))
            .where(
                DeliveryRow.subscriber_id.in_(chunk),
                DeliveryRow.kind.in_((*DIGESTS, NOTE)),
                DeliveryRow.edition_on >= since,
                counts,
            )
            .group_by(DeliveryRow.subscriber_id, what)
        ):
            last[id_, kind] = on
        for id_, on in conn.execute(
            select(SkipRow.subscriber_id, func.max(SkipRow.edition_on))
            .where(
                SkipRow.subscriber_id.in_(chunk),
                SkipRow.edition_on >= since,
                SkipRow.reason.in_(KEPT_QUIET),
            )
            .group_by(SkipRow.subscriber_id)
        ):
            last[id_, "silent"] = on
        for id_, on in conn.execute(
            select(SkipRow.subscriber_id, SkipRow.edition_on).where(
                SkipRow.subscriber_id.in_(chunk),
                SkipRow.edition_on >= since,
                SkipRow.reason == SkipReason.NOTHING_MATCHED,
            )
        ):
            unmatched[id_].append(on)
        for id_, at in conn.execute(
            select(SubscriptionRow.subscriber_id, func.max(SubscriptionRow.created_at))
            .where(SubscriptionRow.subscriber_id.in_(chunk))
            .group_by(SubscriptionRow.subscriber_id)
        ):
            last[id_, "followed"] = at.date()
    return {
        id_: LastContact(
            joined_on=on,
            followed_on=last.get((id_, "followed")),
            digest_on=last.get((id_, "digest")),
            silent_on=last.get((id_, "silent")),
            note_on=last.get((id_, "note")),
            unmatched=tuple(unmatched[id_]),
        )
        for id_, on in joined.items()
    }


def enqueue(conn: Connection, notes: Sequence[NewNotice], now: datetime) -> None:
    """Queue notices. Their content except the suggestions is loaded when they are sent."""
    rows = [
        NewDelivery(
            NOTE,
            note.dedupe_key,
            note.subscriber_id,
            domain_of(note.email),
            not_before=now + note.delay,
            expires_at=note.expires_at,
            edition_on=note.edition_on,
            slot_at=note.slot_at,
            suggestions=note.suggestions,
        )
        for note in notes
    ]
    deliveries.add(conn, rows, now)


def recipients(conn: Connection, delivery_ids: Collection[int]) -> dict[int, NoticeRecipient]:
    """Return the recipients of those deliveries that are notices, by delivery id."""
    found: dict[int, NoticeRecipient] = {}
    for chunk in in_chunks(sorted(delivery_ids), CHUNK):
        rows = conn.execute(
            select(
                DeliveryRow.id,
                DeliveryRow.edition_on,
                DeliveryRow.subscriber_id,
                DeliveryRow.suggestions,
                SubscriberRow.frequency,
                SubscriberRow.breadth,
            )
            .join(SubscriberRow, SubscriberRow.id == DeliveryRow.subscriber_id)
            .where(DeliveryRow.id.in_(chunk), DeliveryRow.kind == NOTE)
        ).all()
        followed = topics.followed_by(conn, [row.subscriber_id for row in rows])
        for row in rows:
            found[row.id] = NoticeRecipient(
                row.subscriber_id,
                row.edition_on,
                Frequency(row.frequency),
                Breadth(row.breadth),
                tuple(followed.get(row.subscriber_id, ())),
                tuple(Suggestion(*one) for one in row.suggestions),
            )
    return found


def count_announced(conn: Connection, first: date, last: date) -> int:
    """Return the number of visible papers announced from `first` to `last`, both included."""
    query = select(func.count()).where(
        PaperRow.announced_on >= first,
        PaperRow.announced_on <= last,
        PaperRow.batch <= ingest_state.published_batch(conn),
    )
    return conn.execute(query).scalar_one()


def count_matched(conn: Connection, recipient: NoticeRecipient, first: date, last: date) -> int:
    """Return the number of papers from `first` to `last` that match the reader's topics.

    Matches of any breadth count; papers in one of the reader's digests do not.
    """
    ids = [one.topic.id for one in recipient.followed if one.topic.kind is TopicKind.QUERY]
    had = exists().where(
        PickRow.paper_id == MatchRow.paper_id,
        PickRow.delivery_id == DeliveryRow.id,
        DeliveryRow.subscriber_id == recipient.subscriber_id,
    )
    query = (
        select(func.count(MatchRow.paper_id.distinct()))
        .join(PaperRow, PaperRow.id == MatchRow.paper_id)
        .where(
            MatchRow.topic_id.in_(ids),
            MatchRow.breadth < Breadth.NEAR_MISS,
            ~had,
            MatchRow.batch <= ingest_state.published_batch(conn),
            PaperRow.announced_on >= first,
            PaperRow.announced_on <= last,
        )
    )
    return conn.execute(query).scalar_one()
