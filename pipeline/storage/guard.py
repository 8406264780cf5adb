"""Decide from the number of refusals in an edition whether they are about addresses or about us.

No list of phrases is complete, so the text of a reply is not enough evidence. A refusal counts
against its address only if other mails of the same edition were accepted. If an edition meets too
many refusals, none of them counts: the edition is held, the circuit breaker opens, and its
deliveries are queued again.

All decisions are computed from rows in the caller's transaction: any process may judge at any time,
and judging is idempotent.
"""

from __future__ import annotations

import math
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
from pipeline.storage import (
    bounce_scores,
    deliveries,
    refusals,
    send_controls,
    suppressions,
    throttles,
)
from pipeline.storage.database import in_chunks
from pipeline.storage.schema import (
    DeliveryRow,
    RefusalRow,
    StrikeRow,
    SubscriberRow,
)

CHUNK: Final = 500
LEAST_IN_A_ROW: Final = 5
MOST_IN_A_ROW: Final = 20
DOMAINS_IN_A_ROW: Final = 3
LEAST_IN_ALL: Final = 20
LARGE_SHARE: Final = 0.2  # of an edition's attempts, for one wording
LARGEST_SHARE: Final = 0.5  # for all wordings together
EDITIONS_ALONE: Final = 3  # refused by one address, with no other mail of them accepted
RECENT: Final = timedelta(days=1)  # single mails of this time are judged together
LIVES: Final = timedelta(days=4)  # longer than any single mail is retried
OPEN_FOR: Final = timedelta(minutes=15)
A_MOMENT: Final = timedelta(minutes=1)  # at most, from throttling a domain to writing the refusal
OURS: Final = (SuppressionReason.HARD, SuppressionReason.SOFT, SuppressionReason.FULL)
"""Reasons that come from refusals; suppressions by complaint or by hand are never lifted here."""

_ROW: Final = DeliveryRow.__table__.c
_REFUSAL: Final = RefusalRow.__table__.c
_TRIED: Final = (DeliveryStatus.SENT, DeliveryStatus.SENDING, DeliveryStatus.UNCERTAIN)
_IN_HAND: Final = (DeliveryStatus.LEASED, DeliveryStatus.SENDING)


@dataclass(frozen=True, slots=True)
class TripReason:
    """The reason to hold an edition (None: the single mails of a day, or everything)."""

    edition_on: date | None
    refused: int
    reason: str


@dataclass(slots=True)
class Judgement:
    counted: set[int] = field(default_factory=set)  # deliveries with a refusal that counts now
    ended: int = 0  # of them, the deliveries that were queued and have ended
    trips: list[TripReason] = field(default_factory=list)


# --- Decisions: pure ----------------------------------------------------------------------------


def too_many_in_a_row(refused: int, domains: int, size: int) -> bool:
    """Return whether consecutive refusals, with no acceptance in between, can only be about us.

    `size` is the number of deliveries of the edition: a large list may begin with a few dead
    addresses, so the limit is a twentieth of it, between LEAST_IN_A_ROW and MOST_IN_A_ROW. The
    refusals must come from at least DOMAINS_IN_A_ROW recipient domains.
    """
    most = min(MOST_IN_A_ROW, max(LEAST_IN_A_ROW, size // 20))
    return refused >= most and domains >= DOMAINS_IN_A_ROW


def too_large_a_share(wordings: Counter[str], tried: int, size: int) -> str | None:
    """Return the wording of too large a share of an edition's refusals.

    Returns "" if only all wordings together exceed their share, None if neither does. Fewer than
    LEAST_IN_ALL refusals must be half of all `size` deliveries of the edition, attempted or not: a
    large list may begin with a few dead addresses.
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


def watch(conn: Connection, editions: Iterable[date | None], now: datetime) -> list[TripReason]:
    """Hold those of these editions that meet too many refusals; return the new holds.

    All effects of the refusals are undone, see `_void`.
    """
    return [trip for one in editions if (trip := _watch(conn, one, now))]


def _watch(conn: Connection, edition_on: date | None, now: datetime) -> TripReason | None:
    if edition_on in _held(conn):
        return None
    # Count first, since it is cheap: most editions meet few refusals.
    standing = _standing(edition_on, now)
    found = conn.scalar(select(func.count()).select_from(_joined()).where(standing)) or 0
    if found < LEAST_IN_A_ROW:
        return None
    if edition_on is None and _accepts_digests(conn, now):
        return None
    reason = _in_a_row(conn, edition_on, now) or _share(conn, edition_on, now)
    if reason is None:
        return None
    trip = TripReason(edition_on, found, reason)
    # Late bounces of an edition that was held for its bounces are no new evidence.
    is_known = _has_void_bounces(conn, edition_on)
    _void_all(conn, edition_on, now)
    if is_known:
        return None
    _hold(conn, trip, now)
    return trip


def _accepts_digests(conn: Connection, now: datetime) -> bool:
    """Return whether a digest was accepted since the first of the refused single mails.

    If so, these refusals are not about us: any visitor may request mails to addresses that do not
    exist, and must not be able to open the circuit breaker with them.
    """
    since = conn.scalar(
        select(func.min(_REFUSAL.at)).select_from(_joined()).where(_standing(None, now))
    )
    found = conn.execute(
        select(_ROW.id)
        .where(
            ~_ROW.redacted,
            _ROW.created_at > now - LIVES,
            _ROW.edition_on.is_not(None),
            _ROW.status == DeliveryStatus.SENT,
            _ROW.sent_at > since,
        )
        .limit(1)
    )
    return found.first() is not None


def hold(conn: Connection, edition_on: date, reason: str, now: datetime) -> bool:
    """Hold an edition for the caller's reason, and undo the effects of its refusals.

    Returns False, and changes nothing, if the edition is held already.
    """
    if not send_controls.pause(conn, edition_on, reason, now, automatic=True):
        return False
    _void_all(conn, edition_on, now)
    return True


def _held(conn: Connection) -> set[date | None]:
    """Return the editions with an automatic hold; None among them: everything is held."""
    return {hold.edition_on for hold in send_controls.list_pauses(conn) if hold.automatic}


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
    """Remove the throttle of these domains: they did not cause the refusals."""
    found = [row for row in rows if row.server]
    if found:
        # A domain is throttled a moment before its refusal is written.
        since = min(row.at for row in found) - A_MOMENT
        throttles.free_slowed_since(conn, {row.domain for row in found}, since)


def _in_a_row(conn: Connection, edition_on: date | None, now: datetime) -> str | None:
    mine = _deliveries_of(edition_on, now)
    size = _size(conn, edition_on, now, most=20 * MOST_IN_A_ROW)
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


def _size(conn: Connection, edition_on: date | None, now: datetime, *, most: int) -> int:
    return _count_up_to(conn, most, _deliveries_of(edition_on, now))


def _tried(conn: Connection, edition_on: date | None, now: datetime, *, most: int) -> int:
    refused = exists().where(_REFUSAL.delivery_id == _ROW.id)
    was_tried = or_(_ROW.status.in_(_TRIED), refused)
    return _count_up_to(conn, most, _deliveries_of(edition_on, now), was_tried)


def _count_up_to(conn: Connection, most: int, *conditions: ColumnElement[bool]) -> int:
    """Count deliveries, at most `most`: an edition may have a million."""
    some = select(_ROW.id).where(*conditions).limit(most).subquery()
    return conn.scalar(select(func.count()).select_from(some)) or 0


def _share(conn: Connection, edition_on: date | None, now: datetime) -> str | None:
    found = _large_share(conn, edition_on, now, _wordings(conn, edition_on, now))
    if found is None:
        return None
    refused, tried, worst = found
    if not worst:
        return f"{refused} of {tried} mails were refused, in various words"
    return f"{refused} of {tried} mails were refused alike: {worst}"


def _large_share(
    conn: Connection, edition_on: date | None, now: datetime, wordings: Counter[str]
) -> tuple[int, int, str] | None:
    """Return the mails refused and tried, and their wording ("" for several), if it is too large.

    Nothing is counted beyond the edition of which so many refusals are a large share.
    """
    total = wordings.total()
    if total < LEAST_IN_A_ROW:
        return None
    tried = _tried(conn, edition_on, now, most=math.ceil(total / LARGE_SHARE) + 1)
    # Single mails have no size: visitors may have requested a few to invented addresses.
    size = sys.maxsize
    if edition_on:
        size = _size(conn, edition_on, now, most=math.ceil(total / LARGEST_SHARE) + 1)
    worst = too_large_a_share(wordings, tried, size)
    if worst is None:
        return None
    return wordings[worst] if worst else total, tried, worst


def _wordings(conn: Connection, edition_on: date | None, now: datetime) -> Counter[str]:
    rows = conn.execute(
        select(_REFUSAL.wording, func.count())
        .select_from(_joined())
        .where(_standing(edition_on, now), or_(_REFUSAL.kind.is_not(None), _is_void_bounce()))
        .group_by(_REFUSAL.wording)
    )
    return Counter({row[0]: row[1] for row in rows})


def _hold(conn: Connection, trip: TripReason, now: datetime) -> None:
    editions = {trip.edition_on} - {None}
    if trip.edition_on and _has_void_bounces(conn, trip.edition_on):
        # Bounces arrive later than their edition: the newest edition would bounce, too.
        editions.add(conn.scalar(select(func.max(_ROW.edition_on))))
    for edition_on in editions:
        send_controls.pause(conn, edition_on, trip.reason, now, automatic=True)
    _open_breaker(conn, trip.reason, now)


def _open_breaker(conn: Connection, reason: str, now: datetime) -> None:
    breaker = send_controls.circuit_breaker(conn)
    if breaker is None:
        send_controls.open_breaker(conn, reason, now, OPEN_FOR)
    else:
        send_controls.reopen_breaker(conn, breaker, reason, now, OPEN_FOR)


def _void(conn: Connection, rows: Sequence[Row[Any]], now: datetime) -> None:
    """Undo the effects of these refusals: strikes, suppressions and ended deliveries.

    Refused deliveries, and those that a lifted suppression had ended, are queued again; bounced
    ones fail, and the cursors of their subscribers are set back. SMTP refusals are deleted. Bounces
    are kept as evidence, without a kind: more of them may arrive for days.
    """
    requeued = {row.delivery_id for row in rows if row.server}
    for row in rows:
        if not row.counted:
            continue
        conn.execute(
            delete(StrikeRow).where(
                StrikeRow.address_hash == row.address_hash, StrikeRow.edition_on == row.edition_on
            )
        )
        if suppressions.lift_recent(conn, row.address_hash, OURS, since=row.at):
            requeued |= _ended_by_suppression(conn, row.address_hash, row.at)
    refusals.discard(conn, [row.delivery_id for row in rows if row.server])
    deliveries.requeue_refused(conn, requeued, now)
    returned = [row.delivery_id for row in rows if not row.server]
    for some in in_chunks(returned, CHUNK):
        conn.execute(
            update(RefusalRow)
            .where(RefusalRow.delivery_id.in_(some))
            .values(kind=None, counted=False)
        )
    deliveries.take_back(conn, returned, "returned with many others; its papers are owed again")


def _ended_by_suppression(conn: Connection, address_hash: str, since: datetime) -> set[int]:
    """Return the ids of suppressed deliveries to an address that had not expired at `since`."""
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
    """Lift a suppression and its strikes; queue the deliveries it ended again.

    Returns False, and changes nothing, if there is no such suppression any more.
    """
    if not suppressions.lift_recent(conn, address_hash, OURS, since=since):
        return False
    bounce_scores.clear_strikes(conn, address_hash)
    deliveries.requeue_refused(conn, _ended_by_suppression(conn, address_hash, since), now)
    return True


def cause_of(conn: Connection, address_hash: str) -> tuple[date | None, str]:
    """Return the edition and the normalised wording of the last refusal counted for an address.

    If no refusal is stored, they come from the last delivery to it that was refused or bounced;
    without such a delivery, (None, "") is returned.
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
                _ROW.reason.startswith(deliveries.ACCEPTED_THEN),
            ),
        )
        .order_by(_ROW.id.desc())
        .limit(1)
    ).one_or_none()
    if ended is None:
        return None, ""
    is_bounce = ended.reason and ended.reason.startswith(deliveries.ACCEPTED_THEN)
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
    """Count the refusals that are certainly about their addresses, at most CHUNK of each edition.

    `editions` defaults to all with uncounted refusals, and those held. If `server` is given,
    refusals by another server count against no address: the operator has changed the setting.
    """
    judgement = Judgement()
    for edition_on in _open_editions(conn) if editions is None else editions:
        _judge(conn, edition_on, server, now, judgement)
    return judgement


def _open_editions(conn: Connection) -> list[date | None]:
    """Return the editions with refusals to judge, and the held ones, which may have late ones."""
    rows = conn.execute(select(_REFUSAL.edition_on).where(_is_open()).distinct())
    found = set(rows.scalars()) | _held(conn)
    return sorted(found, key=lambda one: one or date.min)


def _judge(
    conn: Connection, edition_on: date | None, server: str | None, now: datetime, into: Judgement
) -> None:
    into.trips += watch(conn, [edition_on], now)
    is_held = edition_on in _held(conn)
    # In a held edition, deliveries that failed because of us are queued again, too.
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
            continue  # a retry is in flight
        elif row.server and row.wording in suspicious:
            continue
        elif others - {row.subscriber_id} or _has_waited(conn, row, now, into):
            into.ended += _count(conn, row, now)
            into.counted.add(row.delivery_id)


def _is_over(row: Row[Any], server: str | None) -> bool:
    """Return whether a retry was accepted, or we no longer send through the refusing server."""
    return row.status == DeliveryStatus.SENT or (server is not None and row.server != server)


def _was_accepted_since(conn: Connection, row: Row[Any]) -> bool:
    """Return whether another mail to the subscriber's address was accepted after this refusal."""
    return bool(row.address_hash == row.own and _last_accepted(conn, row, None) > row.at)


def _last_accepted(conn: Connection, row: Row[Any], before: datetime | None) -> datetime:
    """Return when a subscriber's mail was last accepted and did not bounce.

    Returns the smallest datetime if there was none, or none `before` the given time.
    """
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
    """Return at most two subscribers with a mail of this edition accepted and not bounced."""
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
    """Return wordings with a large share of the attempts, while the edition is still being sent.

    More refusals with these wordings may follow, so they are not judged yet.
    """
    if not _is_under_way(conn, edition_on, now):
        return set()
    counts = _wordings(conn, edition_on, now)
    tried = _tried(conn, edition_on, now, most=math.ceil(counts.total() / LARGE_SHARE) + 1)
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
    """Return whether a refusal counts although no other mail of its edition was accepted.

    It does if the address refused EDITIONS_ALONE editions in a row, and mail to another subscriber
    was accepted meanwhile. If none was, either the only subscriber is gone or no server accepts our
    mail: hold everything until the operator finds out which, and delete the address's refusals.
    """
    # A mail accepted within RECENT may still bounce.
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
            ~_ROW.redacted,
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
    if send_controls.pause(conn, None, reason, now, automatic=True):
        into.trips.append(TripReason(None, editions, reason))
    # Start counting again when the operator resumes sending.
    refused = select(_REFUSAL.delivery_id).where(_REFUSAL.address_hash == row.address_hash)
    refusals.discard(conn, list(conn.execute(refused.where(_is_open())).scalars()))
    return False


def _count(conn: Connection, row: Row[Any], now: datetime) -> int:
    """Count one refusal against its address, and suppress the address if that is one too many.

    Returns 1 if the refused delivery was queued and has ended, else 0.
    """
    is_own = row.address_hash == row.own
    reason: SuppressionReason | None = None
    if row.kind == StrikeKind.HARD:
        reason = SuppressionReason.HARD
    elif is_own:
        reason = bounce_scores.record_strike(conn, row.delivery_id, StrikeKind(row.kind), row.at)
    ended = 0
    if row.ends_as:
        ended = int(deliveries.end_refused(conn, row.delivery_id, row.ends_as, now))
    if reason:
        suppressions.suppress(conn, row.address_hash, reason, now)
    conn.execute(
        update(RefusalRow).where(RefusalRow.delivery_id == row.delivery_id).values(counted=True)
    )
    return ended


def count_waiting(conn: Connection) -> int:
    """Return the number of refusals that may count against an address, but do not yet.

    They wait until another mail of their edition is accepted.
    """
    return conn.scalar(select(func.count()).select_from(RefusalRow).where(_is_open())) or 0


def failing(conn: Connection, now: datetime) -> str | None:
    """Return how much of the newest edition failed alike for a reason about us, if it is much.

    Such refusals are charged to no address and hold nothing, since one mailbox provider may refuse
    mail that all others accept; the papers come with the next digest.
    """
    about_us = and_(_REFUSAL.kind.is_(None), _REFUSAL.server != "", _REFUSAL.at > now - RECENT)
    edition_on = conn.scalar(select(func.max(_REFUSAL.edition_on)).where(about_us))
    if edition_on is None:
        return None
    rows = conn.execute(
        select(_REFUSAL.wording, func.count())
        .select_from(_joined())
        .where(_standing(edition_on, now), about_us)
        .group_by(_REFUSAL.wording)
    )
    found = _large_share(conn, edition_on, now, Counter({row[0]: row[1] for row in rows}))
    if found is None:
        return None
    refused, tried, worst = found
    how = f"alike: {worst}" if worst else "in various words"
    return f"{refused} of {tried} mails of the edition of {edition_on} failed {how}"


# --- Statement fragments ------------------------------------------------------------------------


def _joined() -> Any:
    return RefusalRow.__table__.join(DeliveryRow.__table__, _ROW.id == _REFUSAL.delivery_id)


def _is_open() -> ColumnElement[bool]:
    """Match refusals that may count against an address and do not yet."""
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
    """Match refusals of an edition, unless a retry of the same delivery was accepted."""
    overtaken = and_(_REFUSAL.server != "", _ROW.status == DeliveryStatus.SENT)
    return and_(_refusals_of(edition_on, now), ~overtaken)


def _deliveries_of(edition_on: date | None, now: datetime) -> ColumnElement[bool]:
    if edition_on is not None:
        return _ROW.edition_on == edition_on
    return and_(
        _ROW.edition_on.is_(None),
        ~_ROW.redacted,
        _ROW.created_at > now - LIVES,
        or_(_ROW.sent_at.is_(None), _ROW.sent_at > now - RECENT),
    )
