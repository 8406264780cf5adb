"""Queries over deliveries: counts, lists, and the delivery that a bounce is about."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, exists, func, select

from pipeline.domain import DeliveryKind, DeliveryStatus, Precedence, RequestKind
from pipeline.storage import addresses, database, deliveries, send_controls
from pipeline.storage.database import Page, readable
from pipeline.storage.schema import (
    IS_QUEUED,
    DeliveryRow,
    PickRow,
    RequestRow,
    SubscriberRow,
    ThrottleRow,
)

MOST_UNREADABLE: Final = 500  # rows that `unreadable` returns

FEW: Final = 10_000
NEVER: Final = (1 << 63) - 1  # above every id

_ROW = DeliveryRow.__table__.c


@dataclass(frozen=True, slots=True)
class DeliveryView:
    """A delivery as listed for an operator."""

    id: int
    email: str
    kind: DeliveryKind
    edition_on: date | None
    status: DeliveryStatus
    attempts: int
    reason: str | None
    papers: int
    dedupe_key: str
    created_at: datetime
    queue_id: str | None
    reply: str | None


@dataclass(frozen=True, slots=True)
class InHand:
    """Counts of deliveries to one domain that are leased or sending, under unexpired leases."""

    ours: int
    others: int

    @property
    def total(self) -> int:
        return self.ours + self.others

    def __add__(self, other: InHand) -> InHand:
        return InHand(self.ours + other.ours, self.others + other.others)


@dataclass(frozen=True, slots=True)
class FoundDelivery:
    """A delivery that a bounce, complaint or event refers to, and its subscriber."""

    delivery_id: int
    dedupe_key: str
    subscriber_id: int
    address: str | None  # recipient, if not the subscriber's address; "" once redacted
    address_hash: str  # of the subscriber's current address
    edition_on: date | None
    is_current: bool  # the subscriber has not changed the address since
    is_erased: bool  # the subscriber was erased
    is_vouched: bool  # the subscriber has confirmed since: the address works despite a bounce


# --- Queue and counts ---------------------------------------------------------------------------


def next_due_at(conn: Connection) -> datetime | None:
    """Return when the first queued delivery becomes due; None if none is queued.

    Left out are held deliveries, those of suppressed or former subscribers, and those to a
    throttled domain (see `throttles.next_turn` for their time).
    """
    slowed = exists().where(ThrottleRow.domain == _ROW.domain)
    waiting = IS_QUEUED, deliveries.may_be_sent(), ~send_controls.is_paused(), ~slowed
    first = (
        conn.execute(
            select(_ROW.not_before)
            .where(*waiting, _ROW.precedence == precedence)
            .order_by(_ROW.not_before, _ROW.id)  # the order of the index
            .limit(1)
        ).scalar()
        for precedence in Precedence
    )
    return min((moment for moment in first if moment), default=None)


def counts(conn: Connection) -> dict[DeliveryStatus, int]:
    """Return the number of deliveries of every status, including 0."""
    found = conn.execute(select(_ROW.status, func.count()).group_by(_ROW.status))
    return dict.fromkeys(DeliveryStatus, 0) | {
        DeliveryStatus(status): count for status, count in found
    }


def edition_counts(conn: Connection) -> dict[date, dict[DeliveryStatus, int]]:
    """Return the number of deliveries by status for each edition, newest first."""
    found: dict[date, dict[DeliveryStatus, int]] = {}
    for edition_on, status, count in conn.execute(
        select(_ROW.edition_on, _ROW.status, func.count())
        .where(_ROW.edition_on.is_not(None))
        .group_by(_ROW.edition_on, _ROW.status)
        .order_by(_ROW.edition_on.desc())
    ):
        found.setdefault(edition_on, {})[DeliveryStatus(status)] = count
    return found


def in_hand(conn: Connection, domain: str, token: str, now: datetime) -> InHand:
    """Count the deliveries to `domain` in flight, split into those leased to `token` and others."""
    is_ours = _ROW.lease == token
    held = conn.execute(
        select(
            func.count().filter(is_ours).label("ours"),
            func.count().filter(~is_ours).label("others"),
        ).where(_ROW.status.in_(deliveries.IN_HAND), _ROW.lease_until > now, _ROW.domain == domain)
    ).one()
    return InHand(held.ours, held.others)


# --- Lists --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wanted:
    """Conditions of a list of deliveries; None does not filter."""

    status: DeliveryStatus | None = None
    subscriber_id: int | None = None
    edition_on: date | None = None
    since: datetime | None = None  # when it was created

    def of(self, conn: Connection, *conditions: ColumnElement[bool]) -> Any:
        query = select(_ROW.id).where(*conditions)
        if self.status is not None:
            query = query.where(_ROW.status == self.status)
        if self.subscriber_id is not None:
            query = query.where(_ROW.subscriber_id == self.subscriber_id)
        if self.edition_on is not None:
            query = query.where(_ROW.edition_on == self.edition_on)
        if self.since is not None:
            first = _first_since(conn, self.since)
            query = query.where(_ROW.id >= first, _ROW.created_at >= self.since)
        return query


def _first_since(conn: Connection, since: datetime) -> int:
    """Return the lowest id of the deliveries created since then, so that a search for them ends.

    If there are more than `FEW`, return 0: any search finds a page of them soon.
    """
    is_new = _ROW.redacted.in_([False, True]) & (_ROW.created_at >= since)  # as in the index
    few = select(_ROW.id).where(is_new).limit(FEW + 1).subquery()
    found, lowest = conn.execute(select(func.count(), func.min(few.c.id))).one()
    return 0 if found > FEW else lowest or NEVER


EVERY: Final = Wanted()


def list_ids(conn: Connection, page: Page, wanted: Wanted = EVERY) -> list[int]:
    """Return the ids of a page of deliveries, ascending.

    By status the lists with and without a lease are read one after the other: in the index, each
    of them is in the order of ids, and the one with a lease is short.
    """
    if wanted.status is None:
        return page.ids(conn, wanted.of(conn), _ROW.id)
    found: list[int] = []
    for part in (_ROW.lease_until.is_(None), _ROW.lease_until.is_not(None)):
        found += page.ids(conn, wanted.of(conn, part), _ROW.id)
    found.sort()
    is_newest = page.limit is not None and page.after is None
    return found[-page.limit :] if is_newest and page.limit else found[: page.limit]


def list_views(conn: Connection, ids: Iterable[int] | None = None) -> list[DeliveryView]:
    """Return the readable deliveries with these ids, or all, oldest first."""
    papers = (
        select(func.count())
        .where(PickRow.delivery_id == _ROW.id)
        .correlate(DeliveryRow)
        .scalar_subquery()
        .label("papers")
    )
    query = (
        select(
            _ROW.id,
            func.coalesce(_ROW.address, SubscriberRow.email).label("email"),
            _ROW.kind,
            _ROW.edition_on,
            _ROW.status,
            _ROW.attempts,
            _ROW.reason,
            papers,
            _ROW.dedupe_key,
            _ROW.created_at,
            _ROW.queue_id,
            _ROW.reply,
        )
        .join(SubscriberRow, SubscriberRow.id == _ROW.subscriber_id)
        .order_by(_ROW.id)
    )
    if ids is not None:
        query = query.where(_ROW.id.in_(list(ids)))
    return list(readable(conn, "delivery", query, _ROW.id, _view))


def unreadable(conn: Connection) -> list[tuple[object, str]]:
    """Return (id, error) of deliveries with an unknown kind or status, at most MOST_UNREADABLE."""
    is_known = _ROW.kind.in_(list(DeliveryKind)) & _ROW.status.in_(list(DeliveryStatus))
    query = select(_ROW.id, _ROW.kind, _ROW.status).where(~is_known).limit(MOST_UNREADABLE)
    return database.unreadable(
        conn, query, _ROW.id, lambda row: (DeliveryKind(row.kind), DeliveryStatus(row.status))
    )


def record_of(conn: Connection, subscriber_id: int) -> list[dict[str, Any]]:
    """Return all stored columns of a subscriber's deliveries, oldest first, without the lease."""
    columns = [column for column in _ROW if column.name not in {"lease", "lease_until"}]
    rows = conn.execute(
        select(*columns).where(_ROW.subscriber_id == subscriber_id).order_by(_ROW.id)
    )
    return [dict(row._mapping) for row in rows]


def _view(row: Any) -> DeliveryView:
    fields = dict(row._mapping)
    kind, status = DeliveryKind(fields.pop("kind")), DeliveryStatus(fields.pop("status"))
    return DeliveryView(kind=kind, status=status, **fields)


# --- The delivery that a bounce, complaint or event is about --------------------------------------


def by_id(conn: Connection, delivery_id: int) -> FoundDelivery | None:
    return _one(conn, _ROW.id == delivery_id)


def by_dedupe_key(conn: Connection, dedupe_key: str) -> FoundDelivery | None:
    return _one(conn, _ROW.dedupe_key == dedupe_key)


def by_queue_id(conn: Connection, queue_id: str) -> FoundDelivery | None:
    """Return the newest delivery with this queue id: mail servers reuse them."""
    return _one(conn, _ROW.queue_id == queue_id)


def _one(conn: Connection, condition: ColumnElement[bool]) -> FoundDelivery | None:
    row = conn.execute(
        select(
            _ROW.id,
            _ROW.dedupe_key,
            _ROW.subscriber_id,
            _ROW.address,
            _ROW.edition_on,
            SubscriberRow.address_hash,
            SubscriberRow.confirmed_at,
            (SubscriberRow.email == addresses.ERASED).label("is_erased"),
            func.coalesce(_ROW.marked_at, _ROW.created_at).label("left_us_at"),
        )
        .join(SubscriberRow, SubscriberRow.id == _ROW.subscriber_id)
        .where(condition)
        .order_by(_ROW.id.desc())
        .limit(1)
    ).one_or_none()
    if row is None:
        return None
    return FoundDelivery(
        row.id,
        row.dedupe_key,
        row.subscriber_id,
        row.address,
        row.address_hash,
        row.edition_on,
        is_current=not _moved_since(conn, row),
        is_erased=row.is_erased,
        is_vouched=row.confirmed_at is not None and row.confirmed_at > row.left_us_at,
    )


def _moved_since(conn: Connection, row: Any) -> bool:
    """Return whether the subscriber has changed the address since this delivery was sent."""
    moved_at = conn.execute(
        select(func.max(RequestRow.used_at)).where(
            RequestRow.subscriber_id == row.subscriber_id,
            RequestRow.kind == RequestKind.NEW_ADDRESS,
        )
    ).scalar_one()
    return moved_at is not None and moved_at > row.left_us_at
