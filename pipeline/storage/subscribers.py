"""Subscribers: their rows, preferences and slots."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from types import SimpleNamespace
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    case,
    delete,
    exists,
    false,
    func,
    or_,
    select,
    update,
)

from pipeline.domain import (
    NEAR_MISSES_AFTER,
    UNTIL_ACTIVE,
    Breadth,
    CountedEvent,
    Frequency,
    Schedule,
    Subscriber,
    SubscriberStatus,
    Weekday,
)
from pipeline.logs import set_aside
from pipeline.storage import addresses, daily_counts, database, deliveries, reactions
from pipeline.storage.database import UNREADABLE, Page, in_chunks, readable, upsert
from pipeline.storage.deliveries import CancelReason
from pipeline.storage.schema import SkipRow, SubscriberRow, SubscriptionRow

UNDO: Final = timedelta(days=30)  # for so long unsubscribing can be undone
_IS_SOMEBODY: Final = SubscriberRow.email != addresses.ERASED


@dataclass(frozen=True, slots=True)
class Served:
    """A served slot: the reader's position in the batches before and after it."""

    subscriber_id: int
    old_cursor: int
    cursor: int
    slot_at: datetime
    edition_on: date
    next_slot_at: datetime
    paused_until: date | None
    welcome: bool = False  # the first digest, sent right after confirmation


# --- Subscribers --------------------------------------------------------------------------------


def add(
    conn: Connection,
    *,
    email: str,
    suppression_key: str,
    schedule: Schedule,
    max_papers: int,
    status: SubscriberStatus,
    cursor: int,
    next_slot_at: datetime | None,
    now: datetime,
    breadth: Breadth = Breadth.BALANCED,
    near_misses_after: int = NEAR_MISSES_AFTER,
) -> int | None:
    """Insert a subscriber and return the id; return None if the address is stored already."""
    confirmed_at = now if status is SubscriberStatus.ACTIVE else None
    added = conn.execute(
        upsert(conn, SubscriberRow)
        .values(
            email=email,
            email_key=addresses.email_key(email),
            address_hash=addresses.address_hash(email, suppression_key),
            status=status,
            max_papers=max_papers,
            breadth=breadth,
            near_misses_after=near_misses_after,
            secret=secrets.token_urlsafe(16),
            next_slot_at=next_slot_at,
            cursor=cursor,
            created_at=now,
            confirmed_at=confirmed_at,
            active_on=confirmed_at and confirmed_at.date(),
            **columns_of(schedule),
        )
        .on_conflict_do_nothing(index_elements=["email_key"])
        .returning(SubscriberRow.id)
    ).scalar_one_or_none()
    _count(conn, CountedEvent.JOINED, now, bool(added and confirmed_at))
    return added


def _count(conn: Connection, event: CountedEvent, now: datetime, happened: bool) -> bool:
    """Add to the daily count of `event` if it happened; return whether it did."""
    if happened:
        daily_counts.add(conn, {("", event): 1}, now)
    return happened


def change_choices(
    conn: Connection,
    subscriber_id: int,
    *,
    schedule: Schedule,
    max_papers: int,
    breadth: Breadth,
    near_misses_after: int,
    next_slot_at: datetime | None,
) -> None:
    conn.execute(
        update(SubscriberRow)
        .where(SubscriberRow.id == subscriber_id)
        .values(
            max_papers=max_papers,
            breadth=breadth,
            near_misses_after=near_misses_after,
            next_slot_at=next_slot_at,
            **columns_of(schedule),
        )
    )


def activate(
    conn: Connection,
    subscriber_id: int,
    *,
    cursor: int,
    next_slot_at: datetime,
    now: datetime,
    requested_at: datetime | None = None,
    welcome: bool = False,
) -> bool:
    """Make a pending subscriber active and end any pause; return False if not pending.

    An unsubscribed one becomes active, too, if `requested_at` is not before `left_at`: the request
    was made after unsubscribing. `welcome` makes the first digest due at once.
    """
    may_begin: ColumnElement[bool] = SubscriberRow.status == SubscriberStatus.PENDING
    if requested_at is not None:
        may_begin |= and_(
            SubscriberRow.status == SubscriberStatus.UNSUBSCRIBED,
            SubscriberRow.left_at <= requested_at,
        )
    won = conn.execute(
        update(SubscriberRow)
        .where(SubscriberRow.id == subscriber_id, may_begin)
        .values(
            status=SubscriberStatus.ACTIVE,
            cursor=cursor,
            next_slot_at=next_slot_at,
            paused_until=None,
            confirmed_at=now,
            active_on=now.date(),
            left_at=None,
            left_reason=None,
            welcome_due=welcome,
        )
    )
    return _count(conn, CountedEvent.JOINED, now, won.rowcount == 1)


def restore(
    conn: Connection,
    subscriber_id: int,
    *,
    now: datetime,
    cursor: int,
    next_slot_at: datetime,
) -> bool:
    """Undo unsubscribing; return False if that is too late, or the address was never confirmed."""
    won = conn.execute(
        update(SubscriberRow)
        .where(SubscriberRow.id == subscriber_id, _is_restorable(now))
        .values(
            status=SubscriberStatus.ACTIVE,
            cursor=cursor,
            next_slot_at=next_slot_at,
            left_at=None,
            left_reason=None,
        )
    )
    return _count(conn, CountedEvent.JOINED, now, won.rowcount == 1)


def may_be_restored(conn: Connection, subscriber_id: int, now: datetime) -> bool:
    """Return whether `restore` would succeed now."""
    one = select(SubscriberRow.id).where(SubscriberRow.id == subscriber_id, _is_restorable(now))
    return conn.execute(one).first() is not None


def _is_restorable(now: datetime) -> ColumnElement[bool]:
    return and_(
        SubscriberRow.status == SubscriberStatus.UNSUBSCRIBED,
        SubscriberRow.left_at > now - UNDO,
        SubscriberRow.confirmed_at.is_not(None),
    )


def reopen(conn: Connection, subscriber_id: int) -> bool:
    """Make an unsubscribed reader pending, to confirm again; return False if not unsubscribed."""
    won = conn.execute(
        update(SubscriberRow)
        .where(
            SubscriberRow.id == subscriber_id,
            SubscriberRow.status == SubscriberStatus.UNSUBSCRIBED,
        )
        .values(status=SubscriberStatus.PENDING, left_at=None, left_reason=None)
    )
    return won.rowcount == 1


def pause(conn: Connection, subscriber_id: int, until: date) -> None:
    """Skip editions before `until`; the first one after the pause covers a few days only."""
    conn.execute(
        update(SubscriberRow).where(SubscriberRow.id == subscriber_id).values(paused_until=until)
    )


def note_activity(conn: Connection, subscriber_id: int, on: date) -> None:
    """Store that the reader acted on this day, and end a pause because of inactivity.

    To be called by every POST of a reader, with the row locked; it writes at most once a day. A
    GET must not call it, because link scanners open every link.
    """
    is_paused = SubscriberRow.paused_until == UNTIL_ACTIVE
    is_older = or_(SubscriberRow.active_on.is_(None), SubscriberRow.active_on < on)
    conn.execute(
        update(SubscriberRow)
        .where(SubscriberRow.id == subscriber_id, or_(is_older, is_paused))
        .values(active_on=on, paused_until=case((is_paused, on), else_=SubscriberRow.paused_until))
    )


def leave(conn: Connection, subscriber_id: int, now: datetime) -> bool:
    """Unsubscribe an active or pending subscriber; return False if already unsubscribed.

    Queued deliveries are cancelled in both cases.
    """
    was_active = _is_active(conn, subscriber_id)
    won = conn.execute(
        update(SubscriberRow)
        .where(
            SubscriberRow.id == subscriber_id,
            SubscriberRow.status != SubscriberStatus.UNSUBSCRIBED,
        )
        .values(
            status=SubscriberStatus.UNSUBSCRIBED,
            left_at=now,
            next_slot_at=None,
            welcome_due=False,
        )
    )
    deliveries.cancel_unsent(conn, [subscriber_id], CancelReason.LEFT)
    _count(conn, CountedEvent.LEFT, now, was_active and won.rowcount == 1)
    return won.rowcount == 1


def _is_active(conn: Connection, subscriber_id: int) -> bool:
    """Return whether a subscriber is active, with the row locked."""
    one = select(SubscriberRow.id).where(
        SubscriberRow.id == subscriber_id, SubscriberRow.status == SubscriberStatus.ACTIVE
    )
    return conn.execute(one.with_for_update()).first() is not None


def set_leaving_reason(conn: Connection, subscriber_id: int, reason: str) -> None:
    """Store the reason for unsubscribing; ignored if the reader is subscribed again."""
    conn.execute(
        update(SubscriberRow)
        .where(
            SubscriberRow.id == subscriber_id,
            SubscriberRow.status == SubscriberStatus.UNSUBSCRIBED,
        )
        .values(left_reason=reason)
    )


def move(conn: Connection, subscriber_id: int, *, email: str, hash_: str) -> bool:
    """Change the address; return False if not active, or if another subscriber has it."""
    other = SubscriberRow.__table__.alias("other").c
    won = conn.execute(
        update(SubscriberRow)
        .where(
            SubscriberRow.id == subscriber_id,
            SubscriberRow.status == SubscriberStatus.ACTIVE,
            ~exists().where(
                other.email_key == addresses.email_key(email), other.id != SubscriberRow.id
            ),
        )
        .values(email=email, email_key=addresses.email_key(email), address_hash=hash_)
    )
    return won.rowcount == 1


def hash_of(conn: Connection, subscriber_id: int) -> str:
    """Return the address hash, as in `suppressions`; "" if the id is unknown."""
    found = select(SubscriberRow.address_hash).where(SubscriberRow.id == subscriber_id)
    return conn.execute(found).scalar_one_or_none() or ""


def record_of(conn: Connection, subscriber_id: int) -> dict[str, Any]:
    """Return all columns of the subscriber's row, for a data export."""
    row = conn.execute(_query().where(SubscriberRow.id == subscriber_id)).one()
    return dict(row._mapping)


def delete_pending(conn: Connection, subscriber_id: int) -> None:
    """Delete a pending subscriber and, by cascade, all dependent rows."""
    conn.execute(
        delete(SubscriberRow).where(
            SubscriberRow.id == subscriber_id, SubscriberRow.status == SubscriberStatus.PENDING
        )
    )


def erase(conn: Connection, subscriber_id: int, now: datetime) -> None:
    """Redact the row, make a new secret, and delete subscriptions, skips and reactions.

    The row and its id are kept, so that the id is not reused and no old link opens another account.
    """
    conn.execute(delete(SubscriptionRow).where(SubscriptionRow.subscriber_id == subscriber_id))
    conn.execute(delete(SkipRow).where(SkipRow.subscriber_id == subscriber_id))
    reactions.delete_all(conn, subscriber_id)
    was_active = _is_active(conn, subscriber_id)
    conn.execute(
        update(SubscriberRow)
        .where(SubscriberRow.id == subscriber_id)
        .values(
            email=addresses.ERASED,
            email_key=f"erased:{subscriber_id}",  # without "@", so it equals no address
            address_hash=f"erased:{subscriber_id}",
            status=SubscriberStatus.UNSUBSCRIBED,
            secret=secrets.token_urlsafe(16),
            max_papers=1,
            breadth=Breadth.BALANCED,
            near_misses_after=NEAR_MISSES_AFTER,
            paused_until=None,
            next_slot_at=None,
            last_slot_at=None,
            last_edition_on=None,
            cursor=0,
            confirmed_at=None,
            left_at=now,
            left_reason=None,
            welcome_due=False,
            papers_from=None,
            active_on=None,
            **columns_of(Schedule()),
        )
    )
    _count(conn, CountedEvent.LEFT, now, was_active)


def by_email(conn: Connection, email: str, *, for_change: bool = False) -> Subscriber | None:
    return _one(conn, SubscriberRow.email_key == addresses.email_key(email), for_change=for_change)


def by_secret(conn: Connection, secret: str, *, for_change: bool = False) -> Subscriber | None:
    return _one(conn, and_(SubscriberRow.secret == secret, _IS_SOMEBODY), for_change=for_change)


def by_id(conn: Connection, subscriber_id: int, *, for_change: bool = False) -> Subscriber | None:
    """Return a subscriber; `for_change` locks the row until this transaction ends."""
    return _one(conn, and_(SubscriberRow.id == subscriber_id, _IS_SOMEBODY), for_change=for_change)


def list_ids(conn: Connection, page: Page) -> list[int]:
    """Return the ids of a page of subscribers, ascending."""
    return page.ids(conn, select(SubscriberRow.id).where(_IS_SOMEBODY), SubscriberRow.id)


def list_all(conn: Connection, ids: Sequence[int] | None = None) -> list[Subscriber]:
    """Return all subscribers, or those with these ids, in the order of ids."""
    query = _query().where(_IS_SOMEBODY).order_by(SubscriberRow.id)
    if ids is not None:
        query = query.where(SubscriberRow.id.in_(ids))
    return list(readable(conn, "subscriber", query, SubscriberRow.id, _mendable))


def due(
    conn: Connection, *, now: datetime, everyone: bool, after_id: int, limit: int
) -> list[Subscriber]:
    """Lock and return active subscribers with a due slot, ordered by id.

    Rows locked by another run are skipped. A subscriber with a due welcome digest is returned at
    any time; `everyone` returns all active subscribers. Unreadable rows are logged and left out.
    """
    query = _query().where(
        SubscriberRow.status == SubscriberStatus.ACTIVE,
        SubscriberRow.id > after_id,
    )
    if not everyone:
        query = query.where(or_(SubscriberRow.next_slot_at <= now, SubscriberRow.welcome_due))
    query = query.order_by(SubscriberRow.id).limit(limit).with_for_update(skip_locked=True)
    while True:
        found = list(readable(conn, "subscriber", query, SubscriberRow.id, subscriber_of))
        # If all rows of this page are unreadable, go on: an empty list would end the caller's loop.
        last_id = None if found else conn.scalars(query.with_only_columns(SubscriberRow.id)).all()
        if not last_id:
            return found
        query = query.where(SubscriberRow.id > last_id[-1])


def unreadable(conn: Connection) -> Iterator[tuple[object, str]]:
    """Yield the id and the error of each active subscriber with unreadable preferences."""
    is_active = SubscriberRow.status == SubscriberStatus.ACTIVE
    ids = conn.scalars(select(SubscriberRow.id).where(is_active).order_by(SubscriberRow.id)).all()
    for chunk in in_chunks(ids, 500):
        query = _query().where(SubscriberRow.id.in_(chunk))
        yield from database.unreadable(conn, query, SubscriberRow.id, subscriber_of)


def count_active(conn: Connection) -> int:
    is_active = SubscriberRow.status == SubscriberStatus.ACTIVE
    return conn.execute(
        select(func.count()).select_from(SubscriberRow).where(is_active)
    ).scalar_one()


def count_due(conn: Connection, now: datetime) -> int:
    """Return the number of active subscribers with a due slot."""
    due = (SubscriberRow.status == SubscriberStatus.ACTIVE) & (SubscriberRow.next_slot_at <= now)
    return conn.execute(select(func.count()).select_from(SubscriberRow).where(due)).scalar_one()


def cancel_welcome(conn: Connection, subscriber_ids: Sequence[int]) -> None:
    """Cancel the welcome digest of readers that already had the edition of this day."""
    conn.execute(
        update(SubscriberRow)
        .where(SubscriberRow.id.in_(subscriber_ids))
        .values(welcome_due=false())
    )


def serve(conn: Connection, served: Served) -> bool:
    """Advance a reader past a slot; return False if they left or another run was first.

    This also clears `welcome_due`, for a digest of any kind.
    """
    won = conn.execute(
        update(SubscriberRow)
        .where(
            SubscriberRow.id == served.subscriber_id,
            SubscriberRow.status == SubscriberStatus.ACTIVE,
            SubscriberRow.cursor == served.old_cursor,
            SubscriberRow.welcome_due == served.welcome,
        )
        .values(
            welcome_due=false(),
            cursor=served.cursor,
            last_slot_at=served.slot_at,
            last_edition_on=served.edition_on,
            next_slot_at=served.next_slot_at,
            paused_until=served.paused_until,
        )
    )
    return won.rowcount == 1


# --- Rows ---------------------------------------------------------------------------------------


def columns_of(schedule: Schedule) -> dict[str, Any]:
    return {
        "at": schedule.at,
        "timezone": schedule.timezone,
        "frequency": schedule.frequency,
        "weekday": int(schedule.weekday),
    }


def _query() -> Any:
    return select(*SubscriberRow.__table__.c)


def _one(
    conn: Connection, condition: ColumnElement[bool], *, for_change: bool = False
) -> Subscriber | None:
    query = _query().where(condition)
    row = conn.execute(query.with_for_update() if for_change else query).one_or_none()
    return None if row is None else _mendable(row)


def _mendable(row: Any) -> Subscriber:
    """Return a subscriber, with default preferences if the stored ones are unreadable.

    The reader can then still open the account page, unsubscribe, or store valid preferences. The
    error is logged.
    """
    try:
        return subscriber_of(row)
    except UNREADABLE as error:
        set_aside("subscriber", row.id, error)
        choices = {**columns_of(Schedule()), "max_papers": 10, "breadth": Breadth.BALANCED}
        return subscriber_of(SimpleNamespace(**{**row._mapping, **choices}))


def subscriber_of(row: Any) -> Subscriber:
    """Convert a row; raise one of UNREADABLE for a value or time zone that is unknown here."""
    if row.max_papers < 1:
        raise ValueError(f"max_papers is {row.max_papers}")
    try:
        ZoneInfo(row.timezone)
    except (ZoneInfoNotFoundError, OSError) as error:
        raise ValueError(f"unknown time zone {row.timezone!r}") from error
    return Subscriber(
        id=row.id,
        email=row.email,
        status=SubscriberStatus(row.status),
        schedule=Schedule(row.at, row.timezone, Frequency(row.frequency), Weekday(row.weekday)),
        max_papers=row.max_papers,
        secret=row.secret,
        paused_until=row.paused_until,
        next_slot_at=row.next_slot_at,
        last_slot_at=row.last_slot_at,
        last_edition_on=row.last_edition_on,
        cursor=row.cursor,
        welcome_due=row.welcome_due,
        breadth=Breadth(row.breadth),
        near_misses_after=row.near_misses_after,
        papers_from=row.papers_from,
        active_on=row.active_on,
    )
