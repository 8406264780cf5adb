"""Decide whether refusals speak about readers or about us, by how many of an edition there are.

No list of words is complete, so what a reply seems to say is not enough. A refusal counts against
its address only where others of the same edition were accepted; where an edition meets too many,
nothing of it counts: the edition is held, the circuit breaker opens, and the papers stay owed.

Everything is worked out from rows, in the caller's transaction: any process may judge, at any time,
and again.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    and_,
    delete,
    exists,
    func,
    or_,
    select,
    update,
)

from pipeline.domain import DeliveryStatus, StrikeKind, SuppressionReason
from pipeline.storage import breakers, deliveries, holds, paces, refusals, strikes, subscribers
from pipeline.storage.database import in_chunks
from pipeline.storage.deliveries import CancelReason
from pipeline.storage.schema import (
    DeliveryRow,
    RefusalRow,
    StrikeRow,
    SubscriberRow,
    SuppressionRow,
)

CHUNK: Final = 500
LEAST_IN_A_ROW: Final = 5
MOST_IN_A_ROW: Final = 20
DOMAINS_IN_A_ROW: Final = 3
LEAST_IN_ALL: Final = 20
LARGE_SHARE: Final = 0.2  # of what an edition tried, for one wording
LARGEST_SHARE: Final = 0.5  # for all wordings together
EDITIONS_ALONE: Final = 3  # that refuse a reader while nobody else is accepted
RECENT: Final = timedelta(days=1)  # single mails are judged together with those of one day
LIVES: Final = timedelta(days=4)  # longer than any single mail is tried
OPEN_FOR: Final = timedelta(minutes=15)
A_MOMENT: Final = timedelta(minutes=1)  # in which a refusal is written
OURS: Final = (SuppressionReason.HARD, SuppressionReason.SOFT, SuppressionReason.FULL)
"""What a refusal may lead to; complaints and suppressions by hand are never taken back here."""

_ROW: Final = DeliveryRow.__table__.c
_REFUSAL: Final = RefusalRow.__table__.c
_TRIED: Final = (DeliveryStatus.SENT, DeliveryStatus.SENDING, DeliveryStatus.UNCERTAIN)
_IN_HAND: Final = (DeliveryStatus.LEASED, DeliveryStatus.SENDING)


@dataclass(frozen=True, slots=True)
class Trip:
    """Why an edition (None: the single mails of a day, or everything) is held."""

    edition_on: date | None
    refused: int
    reason: str


@dataclass(slots=True)
class Judgement:
    counted: set[int] = field(default_factory=set)  # deliveries whose refusal counts from now on
    ended: int = 0  # of them, those that were still queued
    trips: list[Trip] = field(default_factory=list)


# --- Decisions: pure ----------------------------------------------------------------------------


def too_many_in_a_row(refused: int, domains: int, size: int) -> bool:
    """Whether so many refusals, with no acceptance between, can only be about us.

    `size` is how many deliveries the edition has: a large list may begin with a few dead addresses.
    """
    most = min(MOST_IN_A_ROW, max(LEAST_IN_A_ROW, size // 20))
    return refused >= most and domains >= DOMAINS_IN_A_ROW


def too_large_a_share(wordings: Counter[str], tried: int, size: int) -> str | None:
    """The wording that too much of an edition met; "" where only all of them together are.

    A few count where they are half of all `size` deliveries of the edition, tried or not: a large
    list may begin with a few dead addresses.
    """
    if not wordings:
        return None
    worst, count = wordings.most_common(1)[0]
    if _is_large(count, LARGE_SHARE * tried, size):
        return worst
    return "" if _is_large(wordings.total(), LARGEST_SHARE * tried, size) else None


def _is_large(count: int, share: float, size: int) -> bool:
    if count >= LEAST_IN_ALL:
        return count >= share
    return count >= LEAST_IN_A_ROW and count >= LARGEST_SHARE * size


# --- Watch: hold an edition ---------------------------------------------------------------------


def watch(conn: Connection, editions: Iterable[date | None], now: datetime) -> list[Trip]:
    """Hold those of these editions that meet too many refusals, and take back what counted."""
    return [trip for one in editions if (trip := _watch(conn, one, now))]


def _watch(conn: Connection, edition_on: date | None, now: datetime) -> Trip | None:
    if edition_on in _held(conn):
        return None
    # Counted first, since it is cheap: most editions meet a few refusals.
    standing = _standing(edition_on, now)
    found = conn.scalar(select(func.count()).select_from(_joined()).where(standing)) or 0
    if found < LEAST_IN_A_ROW:
        return None
    if edition_on is None and _accepts_digests(conn, now):
        return None
    reason = _in_a_row(conn, edition_on, now) or _share(conn, edition_on, now)
    if reason is None:
        return None
    trip = Trip(edition_on, found, reason)
    # What bounces late, of an edition that was held for it, tells nothing new.
    is_known = _has_void_bounces(conn, edition_on)
    _void_all(conn, edition_on, now)
    if is_known:
        return None
    _hold(conn, trip, now)
    return trip


def _accepts_digests(conn: Connection, now: datetime) -> bool:
    """Return whether a digest was accepted since the first of the refused single mails.

    Then they say nothing about us: anybody may ask for mails to addresses that do not exist, and
    must not be able to open the circuit breaker with it.
    """
    since = conn.scalar(
        select(func.min(_REFUSAL.at)).select_from(_joined()).where(_standing(None, now))
    )
    found = conn.execute(
        select(_ROW.id)
        .where(
            ~_ROW.blanked,
            _ROW.created_at > now - LIVES,
            _ROW.edition_on.is_not(None),
            _ROW.status == DeliveryStatus.SENT,
            _ROW.sent_at > since,
        )
        .limit(1)
    )
    return found.first() is not None


def hold(conn: Connection, edition_on: date, reason: str, now: datetime) -> bool:
    """Hold an edition for a reason its caller knows, and owe what it was refused again.

    False where it is held already.
    """
    if not holds.put(conn, edition_on, reason, now, automatic=True):
        return False
    _void_all(conn, edition_on, now)
    return True


def _held(conn: Connection) -> set[date | None]:
    """The editions that were held by the program; None: everything."""
    return {hold.edition_on for hold in holds.listing(conn) if hold.automatic}


def _has_void_bounces(conn: Connection, edition_on: date | None) -> bool:
    found = conn.execute(
        select(_REFUSAL.delivery_id).where(_refusals_of(edition_on, None), _is_void_bounce())
    )
    return found.first() is not None


def _void_all(conn: Connection, edition_on: date | None, now: datetime) -> None:
    rows = conn.execute(
        select(*_REFUSAL).where(_refusals_of(edition_on, now)).with_for_update()
    ).all()
    _void(conn, rows, now)
    _free_domains(conn, rows)


def _free_domains(conn: Connection, rows: Sequence[Row[Any]]) -> None:
    """Write to these domains at full speed once sending goes on: it was not they who refused."""
    found = [row for row in rows if row.server]
    if found:
        # A domain is slowed a moment before its refusal is written.
        since = min(row.at for row in found) - A_MOMENT
        paces.free_slowed_since(conn, {row.domain for row in found}, since)


def _in_a_row(conn: Connection, edition_on: date | None, now: datetime) -> str | None:
    mine = _deliveries_of(edition_on, now)
    size = _size(conn, edition_on, now)
    accepted_at = conn.scalar(
        select(func.max(_ROW.sent_at)).where(mine, _ROW.status == DeliveryStatus.SENT)
    )
    since_then = _REFUSAL.at > accepted_at if accepted_at else _REFUSAL.server != ""
    refused, domains, sample = conn.execute(
        select(func.count(), func.count(_REFUSAL.domain.distinct()), func.max(_REFUSAL.wording))
        .select_from(_joined())
        .where(_standing(edition_on, now), _REFUSAL.server != "", since_then)
    ).one()
    if not too_many_in_a_row(refused, domains, size):
        return None
    return f"{refused} refusals in a row at {domains} domains: {sample}"


def _size(conn: Connection, edition_on: date | None, now: datetime) -> int:
    mine = _deliveries_of(edition_on, now)
    return conn.scalar(select(func.count()).select_from(DeliveryRow).where(mine)) or 0


def _share(conn: Connection, edition_on: date | None, now: datetime) -> str | None:
    wordings = _wordings(conn, edition_on, now)
    tried = _tried(conn, edition_on, now)
    # Single mails have no size: strangers may have asked for a few to addresses of their invention.
    size = _size(conn, edition_on, now) if edition_on else sys.maxsize
    worst = too_large_a_share(wordings, tried, size)
    if worst is None:
        return None
    if not worst:
        return f"{wordings.total()} of {tried} mails were refused, in various words"
    return f"{wordings[worst]} of {tried} mails were refused alike: {worst}"


def _wordings(conn: Connection, edition_on: date | None, now: datetime) -> Counter[str]:
    rows = conn.execute(
        select(_REFUSAL.wording, func.count())
        .select_from(_joined())
        .where(_standing(edition_on, now), or_(_REFUSAL.kind.is_not(None), _is_void_bounce()))
        .group_by(_REFUSAL.wording)
    )
    return Counter({row[0]: row[1] for row in rows})


def _tried(conn: Connection, edition_on: date | None, now: datetime) -> int:
    refused = exists().where(_REFUSAL.delivery_id == _ROW.id)
    return conn.scalar(
        select(func.count())
        .select_from(DeliveryRow)
        .where(_deliveries_of(edition_on, now), or_(_ROW.status.in_(_TRIED), refused))
    ) or 0  # fmt: skip


def _hold(conn: Connection, trip: Trip, now: datetime) -> None:
    editions = {trip.edition_on} - {None}
    if trip.edition_on and _has_void_bounces(conn, trip.edition_on):
        # Bounces come later than their edition: the newest one goes the same way.
        editions.add(conn.scalar(select(func.max(_ROW.edition_on))))
    for edition_on in editions:
        holds.put(conn, edition_on, trip.reason, now, automatic=True)
    _open_breaker(conn, trip.reason, now)


def _open_breaker(conn: Connection, reason: str, now: datetime) -> None:
    known = breakers.get(conn)
    if known is None:
        breakers.open_first(conn, reason, now, OPEN_FOR)
    else:
        breakers.open_again(conn, known, reason, now, OPEN_FOR)


def _void(conn: Connection, rows: Sequence[Row[Any]], now: datetime) -> None:
    """Take back all that these refusals led to, and owe the papers again.

    Bounces are kept as evidence without a kind: more of them may come for days.
    """
    owed = {row.delivery_id for row in rows if row.server}
    for row in rows:
        if not row.counted:
            continue
        conn.execute(
            delete(StrikeRow).where(
                StrikeRow.address_hash == row.address_hash, StrikeRow.edition_on == row.edition_on
            )
        )
        if lift(conn, row.address_hash, since=row.at):
            owed |= _ended_by_suppression(conn, row.address_hash, row.at)
    refusals.discard(conn, [row.delivery_id for row in rows if row.server])
    deliveries.requeue_refused(conn, owed, now)
    returned = [row.delivery_id for row in rows if not row.server]
    for some in in_chunks(returned, CHUNK):
        conn.execute(
            update(RefusalRow)
            .where(RefusalRow.delivery_id.in_(some))
            .values(kind=None, counted=False)
        )
    deliveries.take_back(conn, returned, "returned with many others; its papers are owed again")


def lift(conn: Connection, address_hash: str, *, since: datetime) -> bool:
    """Take a suppression by refusals back that was made since then; False where there is none."""
    gone = conn.execute(
        delete(SuppressionRow).where(
            SuppressionRow.hash == address_hash,
            SuppressionRow.reason.in_(OURS),
            SuppressionRow.since >= since,
        )
    )
    return gone.rowcount == 1


def _ended_by_suppression(conn: Connection, address_hash: str, since: datetime) -> set[int]:
    """The deliveries that a suppression made since then has ended."""
    return set(
        conn.execute(
            select(_ROW.id)
            .join(SubscriberRow, SubscriberRow.id == _ROW.subscriber_id)
            .where(
                SubscriberRow.address_hash == address_hash,
                _ROW.status == DeliveryStatus.SUPPRESSED,
                _ROW.expires_at >= since,
            )
        ).scalars()
    )


def restore(conn: Connection, address_hash: str, since: datetime, now: datetime) -> bool:
    """Lift one suppression with its strikes; what it ended is owed again. False: it is gone."""
    if not lift(conn, address_hash, since=since):
        return False
    strikes.clear(conn, address_hash)
    deliveries.requeue_refused(conn, _ended_by_suppression(conn, address_hash, since), now)
    return True


def cause(conn: Connection, address_hash: str) -> tuple[date | None, str]:
    """The edition and the wording of the refusal that an address was last charged for.

    Where no refusal is kept, the last refused delivery to it tells.
    """
    refused = conn.execute(
        select(_REFUSAL.edition_on, _REFUSAL.wording)
        .where(_REFUSAL.address_hash == address_hash, _REFUSAL.counted)
        .order_by(_REFUSAL.at.desc())
        .limit(1)
    ).one_or_none()
    if refused:
        return refused.edition_on, refused.wording
    ended = conn.execute(
        select(_ROW.edition_on, _ROW.reply, _ROW.reason, SubscriberRow.email)
        .join(SubscriberRow, SubscriberRow.id == _ROW.subscriber_id)
        .where(
            SubscriberRow.address_hash == address_hash,
            _ROW.address.is_(None),
            or_(
                _ROW.status.in_((DeliveryStatus.SUPPRESSED, DeliveryStatus.FAILED))
                & _ROW.reply.is_not(None),
                _ROW.reason.startswith("accepted, then "),
            ),
        )
        .order_by(_ROW.id.desc())
        .limit(1)
    ).one_or_none()
    if ended is None:
        return None, ""
    is_bounce = ended.reason and ended.reason.startswith("accepted, then ")
    said = ended.reason if is_bounce else ended.reply
    return ended.edition_on, refusals.wording(said or "", ended.email)


# --- Judge: count against addresses -------------------------------------------------------------


def judge(
    conn: Connection,
    now: datetime,
    *,
    editions: Collection[date | None] | None = None,
    server: str | None = None,
) -> Judgement:
    """Count the refusals that are certainly about their readers, at most CHUNK of each edition.

    Those of `editions`, else of all that have some. Refusals by another server than `server`, where
    one is given, count against nobody: the operator has changed it.
    """
    judgement = Judgement()
    for edition_on in _open_editions(conn) if editions is None else editions:
        _judge(conn, edition_on, server, now, judgement)
    return judgement


def _open_editions(conn: Connection) -> list[date | None]:
    """Editions with refusals to judge; held ones too, whose last refusals may have come late."""
    rows = conn.execute(select(_REFUSAL.edition_on).where(_is_open()).distinct())
    found = set(rows.scalars()) | _held(conn)
    return sorted(found, key=lambda one: one or date.min)


def _judge(
    conn: Connection, edition_on: date | None, server: str | None, now: datetime, into: Judgement
) -> None:
    into.trips += watch(conn, [edition_on], now)
    is_held = edition_on in _held(conn)
    # Where an edition is held, also what failed through us is owed again.
    judged = or_(_is_open(), _is_by_a_server()) if is_held else _is_open()
    rows: Sequence[Any] = conn.execute(
        select(*_REFUSAL, _ROW.status, _ROW.subscriber_id, SubscriberRow.address_hash.label("own"))
        .select_from(_joined())
        .join(SubscriberRow, SubscriberRow.id == _ROW.subscriber_id)
        .where(_refusals_of(edition_on, None), judged)
        .order_by(_REFUSAL.delivery_id)
        .limit(CHUNK)
        .with_for_update(of=RefusalRow.__table__)
    ).all()
    if not rows:
        return
    if is_held:
        _void(conn, rows, now)
        _free_domains(conn, rows)
        return
    others = _accepted(conn, edition_on, now)
    suspicious = _suspicious(conn, edition_on, now) if any(row.server for row in rows) else set()
    for row in rows:
        if row.server and (_is_over(row, server) or _was_accepted_since(conn, row)):
            _void(conn, [row], now)
        elif row.server and row.status in _IN_HAND:
            continue  # it is being tried again at this moment
        elif row.server and row.wording in suspicious:
            continue
        elif others - {row.subscriber_id} or _has_waited(conn, row, now, into):
            into.ended += _count(conn, row, now)
            into.counted.add(row.delivery_id)


def _is_over(row: Row[Any], server: str | None) -> bool:
    """The server took it later, or is no longer the one we send through."""
    return row.status == DeliveryStatus.SENT or (server is not None and row.server != server)


def _was_accepted_since(conn: Connection, row: Row[Any]) -> bool:
    """Whether another mail to the same reader was accepted after this refusal."""
    return bool(row.address_hash == row.own and _last_accepted(conn, row, None) > row.at)


def _last_accepted(conn: Connection, row: Row[Any], before: datetime | None) -> datetime:
    """When a reader's mail was last accepted, and did not come back; the dawn of time for never."""
    came_back = exists().where(_REFUSAL.delivery_id == _ROW.id)
    query = select(func.max(_ROW.sent_at)).where(
        _ROW.subscriber_id == row.subscriber_id,
        _ROW.address.is_(None),
        _ROW.status == DeliveryStatus.SENT,
        ~came_back,
    )
    found = conn.scalar(query.where(_ROW.sent_at < before) if before else query)
    return found or datetime.min.replace(tzinfo=UTC)


def _accepted(conn: Connection, edition_on: date | None, now: datetime) -> set[int]:
    """At most two subscribers whose mail of this edition was accepted and did not come back."""
    came_back = exists().where(_REFUSAL.delivery_id == _ROW.id, _REFUSAL.server == "")
    return set(
        conn.execute(
            select(_ROW.subscriber_id)
            .where(_deliveries_of(edition_on, now), _ROW.status == DeliveryStatus.SENT, ~came_back)
            .distinct()
            .limit(2)
        ).scalars()
    )


def _suspicious(conn: Connection, edition_on: date | None, now: datetime) -> set[str]:
    """Wordings with a large share of an edition that is not through: more may come."""
    if not _is_under_way(conn, edition_on, now):
        return set()
    tried = _tried(conn, edition_on, now)
    counts = _wordings(conn, edition_on, now)
    return {wording for wording, count in counts.items() if count >= LARGE_SHARE * tried}


def _is_under_way(conn: Connection, edition_on: date | None, now: datetime) -> bool:
    due = and_(_ROW.status == DeliveryStatus.QUEUED, _ROW.not_before <= now, _ROW.expires_at > now)
    untried = ~exists().where(_REFUSAL.delivery_id == _ROW.id)
    found = conn.execute(
        select(_ROW.id)
        .where(_deliveries_of(edition_on, now), untried, or_(_ROW.status.in_(_IN_HAND), due))
        .limit(1)
    )
    return found.first() is not None


def _has_waited(conn: Connection, row: Row[Any], now: datetime, into: Judgement) -> bool:
    """Whether a reader was refused in so many editions that waiting for others tells no more.

    It counts where any other mail was accepted meanwhile. Where none was, either the only reader
    is gone or nothing we send is accepted: everything is held until the operator knows which.
    """
    # A bounce may still come for what was accepted a moment ago.
    worked_at = _last_accepted(conn, row, now - RECENT)
    editions, since = conn.execute(
        select(func.count(_REFUSAL.edition_on.distinct()), func.min(_REFUSAL.at)).where(
            _REFUSAL.address_hash == row.address_hash, _is_open(), _REFUSAL.at > worked_at
        )
    ).one()
    if editions < EDITIONS_ALONE:
        return False
    came_back = exists().where(_REFUSAL.delivery_id == _ROW.id)
    accepted = conn.execute(
        select(_ROW.id)
        .where(
            ~_ROW.blanked,
            _ROW.created_at > since - LIVES,
            _ROW.sent_at >= since,
            _ROW.status == DeliveryStatus.SENT,
            _ROW.subscriber_id != row.subscriber_id,
            ~came_back,
        )
        .limit(1)
    ).first()
    if accepted:
        return True
    reason = f"no mail was accepted in {editions} editions: {row.wording}"
    if holds.put(conn, None, reason, now, automatic=True):
        into.trips.append(Trip(None, editions, reason))
    # The operator's word begins anew.
    refused = select(_REFUSAL.delivery_id).where(_REFUSAL.address_hash == row.address_hash)
    refusals.discard(conn, list(conn.execute(refused.where(_is_open())).scalars()))
    return False


def _count(conn: Connection, row: Row[Any], now: datetime) -> int:
    """Count one refusal against its address; return how many deliveries that ended, 0 or 1."""
    is_own = row.address_hash == row.own
    reason: SuppressionReason | None = None
    if row.kind == refusals.HARD:
        reason = SuppressionReason.HARD
    elif is_own:
        reason = strikes.count(conn, row.delivery_id, StrikeKind(row.kind), row.at)
    ended = 0
    if row.ends_as:
        ended = conn.execute(
            update(DeliveryRow)
            .where(_ROW.id == row.delivery_id, _ROW.status == DeliveryStatus.QUEUED)
            .values(status=row.ends_as)
        ).rowcount
    if reason:
        subscribers.suppress(conn, row.address_hash, reason, now)
        if is_own:
            deliveries.cancel_owed(conn, [row.subscriber_id], CancelReason.SUPPRESSED)
    conn.execute(
        update(RefusalRow).where(RefusalRow.delivery_id == row.delivery_id).values(counted=True)
    )
    return ended


def waiting(conn: Connection) -> int:
    """How many refusals count against nobody so far, for want of anybody else who was accepted."""
    return conn.scalar(select(func.count()).select_from(RefusalRow).where(_is_open())) or 0


# --- Pieces of statements -----------------------------------------------------------------------


def _joined() -> Any:
    return RefusalRow.__table__.join(DeliveryRow.__table__, _ROW.id == _REFUSAL.delivery_id)


def _is_open() -> ColumnElement[bool]:
    """May count against an address, and does not yet."""
    return and_(~_REFUSAL.counted, _REFUSAL.kind.is_not(None))


def _is_by_a_server() -> ColumnElement[bool]:
    return and_(~_REFUSAL.counted, _REFUSAL.server != "")


def _is_void_bounce() -> ColumnElement[bool]:
    return and_(_REFUSAL.kind.is_(None), _REFUSAL.server == "")


def _refusals_of(edition_on: date | None, now: datetime | None) -> ColumnElement[bool]:
    if edition_on is not None:
        return _REFUSAL.edition_on == edition_on
    single = _REFUSAL.edition_on.is_(None)
    return single if now is None else and_(single, _REFUSAL.at > now - RECENT)


def _standing(edition_on: date | None, now: datetime) -> ColumnElement[bool]:
    """Refusals of an edition that no later acceptance of the same delivery has overtaken."""
    overtaken = and_(_REFUSAL.server != "", _ROW.status == DeliveryStatus.SENT)
    return and_(_refusals_of(edition_on, now), ~overtaken)


def _deliveries_of(edition_on: date | None, now: datetime) -> ColumnElement[bool]:
    if edition_on is not None:
        return _ROW.edition_on == edition_on
    return and_(
        _ROW.edition_on.is_(None),
        ~_ROW.blanked,
        _ROW.created_at > now - LIVES,
        or_(_ROW.sent_at.is_(None), _ROW.sent_at > now - RECENT),
    )
