"""Subscribers and their wishes, and the addresses we do not write to."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from types import SimpleNamespace
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import idna
from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    delete,
    exists,
    false,
    func,
    or_,
    select,
    update,
)

from pipeline.domain import (
    Breadth,
    Frequency,
    Schedule,
    Subscriber,
    SubscriberStatus,
    SuppressionReason,
    Weekday,
)
from pipeline.logs import set_aside
from pipeline.storage import database
from pipeline.storage.database import UNREADABLE, in_chunks, readable, upsert
from pipeline.storage.schema import SkipRow, SubscriberRow, SubscriptionRow, SuppressionRow

ERASED: Final = ""  # in the place of an address
_IS_SOMEBODY: Final = SubscriberRow.email != ERASED


@dataclass(frozen=True, slots=True)
class Served:
    """A slot that was served: where its reader stands before and after."""

    subscriber_id: int
    old_cursor: int
    cursor: int
    slot_at: datetime
    edition_on: date
    next_slot_at: datetime
    paused_until: date | None
    welcome: bool = False  # it was their first, right after confirming


@dataclass(frozen=True, slots=True)
class Suppression:
    hash: str
    reason: SuppressionReason
    since: datetime
    folded: bool = False  # its hash was made before migration 0011: see `barred`


# --- Addresses: pure ----------------------------------------------------------------------------


def email_key(email: str) -> str:
    """Return the one form of an address: trimmed, NFC, lower case, its domain in punycode.

    The domain follows IDNA 2008 (RFC 5890): `straße.de` and `strasse.de` are two, like a final
    and a medial sigma, and a name with and without a joiner. The local part is put into lower
    case, not case folded, which would make one of "ß" and "ss". Dots and plus signs stay: they may
    be another mailbox.
    """
    local, _, domain = _nfc(email.strip()).rpartition("@")
    return f"{_nfc(local.lower())}@{_domain_key(domain)}"


def _domain_key(domain: str) -> str:
    domain = domain.rstrip(".").rstrip()  # an absolute name ends in a dot
    try:
        # Not transitional: deviations stay. UTS 46 knows other dots, which end a name too.
        return idna.encode(domain, uts46=True).decode().removesuffix(".")
    except idna.IDNAError:
        return _nfc(domain.lower())


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def folded_key(email: str) -> str:
    """Return the key of an address as it was before migration 0011, its domain case folded.

    A suppression is known by its hash alone. One from before counts for each address that it may
    have been made for.
    """
    local, _, domain = _nfc(email.strip()).rpartition("@")
    return email_key(f"{local}@{domain.casefold()}")


def address_hash(email: str, suppression_key: str) -> str:
    """What stands for an address in `suppressions`: keyed, so that it cannot be guessed back."""
    return _hash(email_key(email), suppression_key)


def folded_hash(email: str, suppression_key: str) -> str:
    """Return the hash of `folded_key`, as `suppressions` had it before migration 0011."""
    return _hash(folded_key(email), suppression_key)


def _hash(key: str, suppression_key: str) -> str:
    return hmac.new(suppression_key.encode(), key.encode(), hashlib.sha256).hexdigest()


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
) -> int | None:
    """The id of a new subscriber; None where the address is known already."""
    confirmed_at = now if status is SubscriberStatus.ACTIVE else None
    return conn.execute(
        upsert(conn, SubscriberRow)
        .values(
            email=email,
            email_key=email_key(email),
            address_hash=address_hash(email, suppression_key),
            status=status,
            max_papers=max_papers,
            breadth=breadth,
            secret=secrets.token_urlsafe(16),
            next_slot_at=next_slot_at,
            cursor=cursor,
            created_at=now,
            confirmed_at=confirmed_at,
            **columns_of(schedule),
        )
        .on_conflict_do_nothing(index_elements=["email_key"])
        .returning(SubscriberRow.id)
    ).scalar_one_or_none()


def change_wishes(
    conn: Connection,
    subscriber_id: int,
    *,
    schedule: Schedule,
    max_papers: int,
    breadth: Breadth,
    next_slot_at: datetime | None,
) -> None:
    conn.execute(
        update(SubscriberRow)
        .where(SubscriberRow.id == subscriber_id)
        .values(
            max_papers=max_papers,
            breadth=breadth,
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
    asked_at: datetime | None = None,
    welcome: bool = False,
) -> bool:
    """Pending becomes active, once; False when it was not pending. A pause of old is over.

    Unsubscribed becomes active too, where they asked to after they had left. `welcome` owes them
    their first digest.
    """
    may_begin: ColumnElement[bool] = SubscriberRow.status == SubscriberStatus.PENDING
    if asked_at is not None:
        may_begin |= and_(
            SubscriberRow.status == SubscriberStatus.UNSUBSCRIBED,
            SubscriberRow.left_at <= asked_at,
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
            left_at=None,
            left_reason=None,
            welcome_due=welcome,
        )
    )
    return won.rowcount == 1


def come_back(
    conn: Connection,
    subscriber_id: int,
    *,
    left_after: datetime,
    cursor: int,
    next_slot_at: datetime,
) -> bool:
    """Unsubscribed becomes active as if they had not left; False when it was not so, or long ago.

    Nobody gets in this way who never confirmed.
    """
    won = conn.execute(
        update(SubscriberRow)
        .where(
            SubscriberRow.id == subscriber_id,
            SubscriberRow.status == SubscriberStatus.UNSUBSCRIBED,
            SubscriberRow.left_at > left_after,
            SubscriberRow.confirmed_at.is_not(None),
        )
        .values(
            status=SubscriberStatus.ACTIVE,
            cursor=cursor,
            next_slot_at=next_slot_at,
            left_at=None,
            left_reason=None,
        )
    )
    return won.rowcount == 1


def reopen(conn: Connection, subscriber_id: int) -> bool:
    """Unsubscribed becomes pending: they are to be asked again. False when they had not left."""
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
    """Skip the editions before `until`; the first one after looks back a few days only."""
    conn.execute(
        update(SubscriberRow).where(SubscriberRow.id == subscriber_id).values(paused_until=until)
    )


def leave(conn: Connection, subscriber_id: int, now: datetime) -> bool:
    """Active or pending becomes unsubscribed; False when they had left before.

    The caller cancels what is owed in the same transaction.
    """
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
    return won.rowcount == 1


def say_why(conn: Connection, subscriber_id: int, reason: str) -> None:
    """Keep why they left, while they are gone."""
    conn.execute(
        update(SubscriberRow)
        .where(
            SubscriberRow.id == subscriber_id,
            SubscriberRow.status == SubscriberStatus.UNSUBSCRIBED,
        )
        .values(left_reason=reason)
    )


def move(conn: Connection, subscriber_id: int, *, email: str, hash_: str) -> bool:
    """Write to another address from now on; False unless active, or when somebody has it."""
    other = SubscriberRow.__table__.alias("other").c
    won = conn.execute(
        update(SubscriberRow)
        .where(
            SubscriberRow.id == subscriber_id,
            SubscriberRow.status == SubscriberStatus.ACTIVE,
            ~exists().where(other.email_key == email_key(email), other.id != SubscriberRow.id),
        )
        .values(email=email, email_key=email_key(email), address_hash=hash_)
    )
    return won.rowcount == 1


def hash_of(conn: Connection, subscriber_id: int) -> str:
    """What their address is known by in `suppressions` and `asked`; "" for nobody."""
    found = select(SubscriberRow.address_hash).where(SubscriberRow.id == subscriber_id)
    return conn.execute(found).scalar_one_or_none() or ""


def record_of(conn: Connection, subscriber_id: int) -> dict[str, Any]:
    """Everything that is kept about them in their own row."""
    row = conn.execute(_query().where(SubscriberRow.id == subscriber_id)).one()
    return dict(row._mapping)


def drop(conn: Connection, subscriber_id: int) -> None:
    """Delete a subscriber who never was one, with all that hangs on them."""
    conn.execute(
        delete(SubscriberRow).where(
            SubscriberRow.id == subscriber_id, SubscriberRow.status == SubscriberStatus.PENDING
        )
    )


def erase(conn: Connection, subscriber_id: int, now: datetime) -> None:
    """Forget who it was. What is left is a number, so that no old link opens somebody else's."""
    conn.execute(delete(SubscriptionRow).where(SubscriptionRow.subscriber_id == subscriber_id))
    conn.execute(delete(SkipRow).where(SkipRow.subscriber_id == subscriber_id))
    conn.execute(
        update(SubscriberRow)
        .where(SubscriberRow.id == subscriber_id)
        .values(
            email=ERASED,
            email_key=f"erased:{subscriber_id}",  # no address: it has no @
            address_hash=f"erased:{subscriber_id}",
            status=SubscriberStatus.UNSUBSCRIBED,
            secret=secrets.token_urlsafe(16),
            max_papers=1,
            breadth=Breadth.BALANCED,
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
            **columns_of(Schedule()),
        )
    )


def by_email(conn: Connection, email: str, *, for_change: bool = False) -> Subscriber | None:
    return _one(conn, SubscriberRow.email_key == email_key(email), for_change=for_change)


def by_secret(conn: Connection, secret: str, *, for_change: bool = False) -> Subscriber | None:
    return _one(conn, and_(SubscriberRow.secret == secret, _IS_SOMEBODY), for_change=for_change)


def by_id(conn: Connection, subscriber_id: int, *, for_change: bool = False) -> Subscriber | None:
    """`for_change` keeps everybody else from changing it before this transaction ends."""
    return _one(conn, and_(SubscriberRow.id == subscriber_id, _IS_SOMEBODY), for_change=for_change)


def listing(conn: Connection) -> list[Subscriber]:
    known = _query().where(_IS_SOMEBODY).order_by(SubscriberRow.id)
    return list(readable(conn, "subscriber", known, SubscriberRow.id, _mendable))


def due(
    conn: Connection, *, now: datetime, everyone: bool, after_id: int, limit: int
) -> list[Subscriber]:
    """Active subscribers whose slot has come, by id; locked, those another run holds left out.

    Who waits for the first digest is due at once; `everyone` takes all active ones, whatever the
    hour.
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
        # Rows that cannot be read must not look like the end to the caller.
        last_id = None if found else conn.scalars(query.with_only_columns(SubscriberRow.id)).all()
        if not last_id:
            return found
        query = query.where(SubscriberRow.id > last_id[-1])


def unreadable(conn: Connection) -> Iterator[tuple[object, str]]:
    """Active subscribers whose wishes cannot be read, and why."""
    is_active = SubscriberRow.status == SubscriberStatus.ACTIVE
    ids = conn.scalars(select(SubscriberRow.id).where(is_active).order_by(SubscriberRow.id)).all()
    for chunk in in_chunks(ids, 500):
        query = _query().where(SubscriberRow.id.in_(chunk))
        yield from database.unreadable(conn, query, SubscriberRow.id, subscriber_of)


def count_due(conn: Connection, now: datetime) -> int:
    """How many active subscribers have a slot that has come."""
    due = (SubscriberRow.status == SubscriberStatus.ACTIVE) & (SubscriberRow.next_slot_at <= now)
    return conn.execute(select(func.count()).select_from(SubscriberRow).where(due)).scalar_one()


def no_welcome(conn: Connection, subscriber_ids: Sequence[int]) -> None:
    """These have had the edition of their day: there is nothing to welcome them with."""
    conn.execute(
        update(SubscriberRow)
        .where(SubscriberRow.id.in_(subscriber_ids))
        .values(welcome_due=false())
    )


def serve(conn: Connection, served: Served) -> bool:
    """Move a reader past a slot; False when they left or another run moved them first.

    Whatever they were served, they have been welcomed.
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


# --- Suppressions -------------------------------------------------------------------------------


def suppress(
    conn: Connection,
    hash_: str,
    reason: SuppressionReason,
    now: datetime,
    *,
    folded: bool = False,
) -> None:
    """Stop writing to an address.

    A complaint replaces any other reason and is replaced by none; the operator's own word is
    replaced by a complaint only.
    """
    kept = {SuppressionReason.COMPLAINT}
    if reason is not SuppressionReason.COMPLAINT:
        kept.add(SuppressionReason.MANUAL)
    statement = upsert(conn, SuppressionRow).values(
        hash=hash_, reason=reason, since=now, folded=folded
    )
    conn.execute(
        statement.on_conflict_do_update(
            index_elements=["hash"],
            set_={"reason": reason, "since": now},
            where=SuppressionRow.reason.not_in(kept),
        )
    )


def remember_erased(conn: Connection, hash_: str, now: datetime) -> None:
    """Keep, under its hash, that an address was erased; a suppression it has already stays."""
    conn.execute(
        upsert(conn, SuppressionRow)
        .values(hash=hash_, reason=SuppressionReason.ERASED, since=now)
        .on_conflict_do_nothing(index_elements=["hash"])
    )


def forget_erased(conn: Connection, hash_: str) -> None:
    """Let an erased address be a subscriber again; other suppressions stay."""
    conn.execute(
        delete(SuppressionRow).where(
            SuppressionRow.hash == hash_, SuppressionRow.reason == SuppressionReason.ERASED
        )
    )


def forgive(conn: Connection, hash_: str) -> None:
    """Write to the address again, for its owner has answered; a complaint stays."""
    conn.execute(
        delete(SuppressionRow).where(
            SuppressionRow.hash == hash_, SuppressionRow.reason != SuppressionReason.COMPLAINT
        )
    )


def barred(conn: Connection, email: str, suppression_key: str) -> Suppression | None:
    """Return the suppression of an address, or one from before 0011 that may be of it."""
    found = suppressed(conn, address_hash(email, suppression_key))
    if found is not None or folded_key(email) == email_key(email):
        return found
    row = conn.execute(
        select(*SuppressionRow.__table__.c).where(
            SuppressionRow.hash == folded_hash(email, suppression_key), SuppressionRow.folded
        )
    ).one_or_none()
    return None if row is None else suppression_of(row)


def lift(conn: Connection, hash_: str) -> bool:
    """Write to the address again; False when it was not suppressed."""
    gone = conn.execute(delete(SuppressionRow).where(SuppressionRow.hash == hash_))
    return gone.rowcount == 1


def suppressed(conn: Connection, hash_: str) -> Suppression | None:
    row = conn.execute(
        select(*SuppressionRow.__table__.c).where(SuppressionRow.hash == hash_)
    ).one_or_none()
    return None if row is None else suppression_of(row)


def suppressed_among(conn: Connection, subscriber_ids: Sequence[int]) -> set[int]:
    """Those of these subscribers whose address is suppressed."""
    rows = conn.execute(
        select(SubscriberRow.id)
        .join(SuppressionRow, SuppressionRow.hash == SubscriberRow.address_hash)
        .where(SubscriberRow.id.in_(subscriber_ids))
    )
    return set(rows.scalars())


def suppressions(conn: Connection) -> list[Suppression]:
    query = select(*SuppressionRow.__table__.c).order_by(SuppressionRow.since)
    return [suppression_of(row) for row in conn.execute(query)]


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


def suppression_of(row: Any) -> Suppression:
    return Suppression(row.hash, SuppressionReason(row.reason), row.since, row.folded)


def _mendable(row: Any) -> Subscriber:
    """A subscriber whose wishes, where they cannot be read, are the defaults.

    They can so leave, and store wishes that can be read, by their own page.
    """
    try:
        return subscriber_of(row)
    except UNREADABLE as error:
        set_aside("subscriber", row.id, error)
        wishes = {**columns_of(Schedule()), "max_papers": 10, "breadth": Breadth.BALANCED}
        return subscriber_of(SimpleNamespace(**{**row._mapping, **wishes}))


def subscriber_of(row: Any) -> Subscriber:
    """Raises one of UNREADABLE for wishes that this code, or this time zone database, lacks."""
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
        papers_from=row.papers_from,
    )
