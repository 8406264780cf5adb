"""Deliveries: queue, claim, mark, settle and cancel them; `delivery_queries` reads them.

Every transition is one UPDATE that names the status it leaves and the lease it is made under. It
may therefore run twice, late or concurrently with another process, and the row stays correct.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    ScalarResult,
    Select,
    Text,
    Update,
    and_,
    bindparam,
    case,
    cast,
    column,
    delete,
    exists,
    func,
    insert,
    literal,
    null,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.sql.dml import ReturningUpdate

from pipeline.domain import (
    MAIL_KINDS,
    UNSENT,
    CountedEvent,
    Delivery,
    DeliveryKind,
    DeliveryStatus,
    Precedence,
    Recap,
    StrikeKind,
    SubscriberStatus,
    Suggestion,
    SuppressionReason,
)
from pipeline.errors import NotFoundError
from pipeline.storage import addresses, daily_counts, refusals, send_controls
from pipeline.storage.database import in_chunks, insert_if, readable
from pipeline.storage.schema import (
    IS_QUEUED,
    DeliveryRow,
    PickRow,
    RefusalRow,
    SubscriberRow,
    SuppressionRow,
)
from pipeline.storage.throttles import domain_of

UNREADABLE_REST: Final = timedelta(hours=1)  # delay before an unreadable delivery is retried
CHUNK: Final = 500  # rows per statement, well under SQLite's limit of parameters
LONGEST_REPLY: Final = 500  # characters kept of a server's reply
LONGEST_LEASE: Final = timedelta(hours=1)  # a lease that ends later was written by a wrong clock
ACCEPTED_THEN: Final = "accepted, then "  # start of the reason of a mail that came back
COMPLAINT: Final = "complaint"
SECOND_CHANCE: Final = timedelta(hours=18)  # least remaining lifetime after the operator resends

_ROW = DeliveryRow.__table__.c
_UNSENT: Final = tuple(UNSENT)
IN_HAND: Final = (DeliveryStatus.LEASED, DeliveryStatus.SENDING)
_REFUSED: Final = (DeliveryStatus.FAILED, DeliveryStatus.SUPPRESSED)
_STILL_COUNTS: Final = (DeliveryStatus.SENDING, DeliveryStatus.SENT, DeliveryStatus.UNCERTAIN)


class CancelReason(StrEnum):
    """Reasons to cancel a delivery that was not sent yet."""

    LEFT = "left"  # its subscriber unsubscribed
    SUPERSEDED = "superseded"  # a newer digest covers its range
    OPERATOR = "cancelled by the operator"
    ERASED = "its address was erased"
    SUPPRESSED = "suppressed"  # its address was suppressed: the status is `suppressed`


class Resolution(StrEnum):
    """Decisions of an operator about an uncertain delivery."""

    RESEND = "resend"
    DROP = "drop"  # assume that the server accepted it


@dataclass(frozen=True, slots=True)
class NewDelivery:
    """A delivery to be queued."""

    kind: DeliveryKind
    dedupe_key: str  # made of facts that do not change, so that a repeated task queues it once
    subscriber_id: int
    domain: str  # of the recipient's address
    not_before: datetime
    expires_at: datetime
    address: str | None = None  # recipient, if not the subscriber's address
    request_id: int | None = None  # the request that its link confirms
    edition_on: date | None = None
    slot_at: datetime | None = None
    range_from: int | None = None  # batches (from, to]
    range_to: int | None = None
    more: int = 0
    unpicked: Sequence[int] = ()
    near_misses: bool = False
    suggestions: Sequence[Suggestion] = ()
    topics: Sequence[str] = ()
    recap: Recap | None = None
    pauses_on: date | None = None
    template: str | None = None


@dataclass(frozen=True, slots=True)
class Settlement:
    """The result of an attempt to send one delivery, to be written under its lease."""

    delivery_id: int
    status: DeliveryStatus  # sent, queued, failed, suppressed or uncertain
    reason: str
    reply: str | None = None
    queue_id: str | None = None
    charged: bool = False  # the attempt counts
    delay: timedelta = timedelta(0)  # backoff before the next attempt, if it is queued again
    strike: StrikeKind | None = None  # against its address; `guard` decides if it counts
    unread: bool = False  # failed because of an error on our side: a later digest gets its papers

    @property
    def is_refusal(self) -> bool:
        """Return whether a server refused it for good, or may have given its address a strike."""
        return self.strike is not None or self.is_final_refusal

    @property
    def is_final_refusal(self) -> bool:
        has_ended = self.status in {DeliveryStatus.FAILED, DeliveryStatus.SUPPRESSED}
        return has_ended and self.reply is not None


@dataclass(frozen=True, slots=True)
class Recovery:
    """Counts of deliveries recovered from expired leases."""

    queued: int  # never reached the server
    uncertain: int  # may have been accepted by the server


# --- Queue --------------------------------------------------------------------------------------


def add(conn: Connection, new: Collection[NewDelivery], now: datetime) -> None:
    """Queue deliveries; raise IntegrityError if one with the same `dedupe_key` exists."""
    if new:
        conn.execute(insert(DeliveryRow), [row_of(one, now) for one in new])


def add_if(conn: Connection, new: NewDelivery, now: datetime, *, wanted: bool) -> None:
    """Queue a delivery if `wanted`, unless one with the same `dedupe_key` exists.

    The statement is the same in both cases, so that its time reveals nothing.
    """
    conn.execute(
        insert_if(conn, DeliveryRow, row_of(new, now), condition=wanted).on_conflict_do_nothing(
            index_elements=["dedupe_key"]
        )
    )


def row_of(new: NewDelivery, now: datetime) -> dict[str, Any]:
    """Return the column values of a delivery queued at `now`."""
    given = {field.name: getattr(new, field.name) for field in fields(new)}
    return given | {
        "unpicked": list(new.unpicked),
        "suggestions": [[one.label, one.query, one.papers_a_week] for one in new.suggestions],
        "topics": list(new.topics),
        "recap": _recap_values(new.recap),
        "precedence": new.kind.precedence,
        "status": DeliveryStatus.QUEUED,
        "reason": None,
        "attempts": 0,
        "created_at": now,
    }


def _recap_values(recap: Recap | None) -> list[Any]:
    """Return [first day, after a pause, [[topic label, number of matches], ...]]; [] if None."""
    if recap is None:
        return []
    return [f"{recap.since}", recap.after_pause, [list(one) for one in recap.matched]]


# --- Claim, renew, mark, hand back --------------------------------------------------------------


def claim(
    conn: Connection,
    limit: int,
    token: str,
    lease: timedelta,
    now: datetime,
    *,
    domain: str | None = None,
    besides: Collection[str] = (),
) -> list[Delivery]:
    """Lease at most `limit` due deliveries to `token`, and return them.

    The list is empty if none is due, or other senders have leased or locked all of them. Mail that
    a person is waiting for comes first (see `Precedence`), then the oldest. If `domain` is given,
    only its deliveries are claimed; deliveries to the domains `besides` are not. Held deliveries
    stay queued. Rows that cannot be read are postponed by UNREADABLE_REST, and the claim repeated.
    """
    place = _ROW.domain == domain if domain is not None else true()
    if besides:
        place &= _ROW.domain.not_in(sorted(besides))
    while True:
        claimed: list[int] = []
        for precedence in Precedence:
            if len(claimed) < limit:
                due = _due(precedence, now).where(place).limit(limit - len(claimed))
                claimed += _take(conn, due, token, now + lease)
        found = _read(conn, claimed)
        _postpone(conn, set(claimed) - {delivery.id for delivery in found}, now + UNREADABLE_REST)
        if found or not claimed:
            return found


def _postpone(conn: Connection, ids: Collection[int], until: datetime) -> None:
    """Queue unreadable deliveries again, due at `until`, behind the readable ones."""
    for chunk in in_chunks(sorted(ids), CHUNK):
        conn.execute(
            update(DeliveryRow)
            .where(_ROW.id.in_(chunk))
            .values(status=DeliveryStatus.QUEUED, lease=None, lease_until=None, not_before=until)
        )


def _due(precedence: Precedence, now: datetime) -> Select[tuple[int]]:
    return (
        select(_ROW.id)
        .where(
            IS_QUEUED,
            _ROW.precedence == precedence,
            _ROW.not_before <= now,
            _ROW.expires_at > now,
            may_be_sent(),
            ~send_controls.is_paused(),
        )
        .order_by(_ROW.not_before, _ROW.id)
    )


def _take(
    conn: Connection, due: Select[tuple[int]], token: str, until: datetime
) -> ScalarResult[int]:
    locked = due.with_for_update(skip_locked=True, of=DeliveryRow.__table__)
    # A CTE runs once; PostgreSQL may run a plain subquery twice and claim more than the limit.
    chosen = locked.cte("due")
    return conn.execute(
        update(DeliveryRow)
        .where(_ROW.id.in_(select(chosen.c.id)))
        .values(status=DeliveryStatus.LEASED, lease=token, lease_until=until)
        .returning(_ROW.id)
    ).scalars()


def renew(conn: Connection, token: str, lease: timedelta, now: datetime) -> int:
    """Extend the lease of the deliveries claimed under `token`; return their number.

    Marked deliveries keep the end of lease that `mark` gave them.
    """
    return conn.execute(
        update(DeliveryRow)
        .where(_ROW.lease == token, _ROW.status == DeliveryStatus.LEASED)
        .values(lease_until=now + lease)
    ).rowcount


def give_back(conn: Connection, token: str) -> int:
    """Queue all deliveries claimed under `token` and not marked again; return their number."""
    return conn.execute(
        update(DeliveryRow)
        .where(_ROW.lease == token, _ROW.status == DeliveryStatus.LEASED)
        .values(status=DeliveryStatus.QUEUED, lease=None, lease_until=None)
    ).rowcount


def mark(
    conn: Connection, ids: Sequence[int], token: str, patience: timedelta, now: datetime
) -> set[int]:
    """Mark deliveries as sending; return the ids that may be sent once this is committed.

    After the commit the sender may write the final dot of these messages. A delivery that is not
    returned must not be sent: it was taken over, has expired, is held, or its subscriber has left
    or is suppressed. The lease of the marked ones ends after `patience`.
    """
    until = now + patience
    given = {"ids": list(ids), "token": token, "now": now, "until": until}
    return set(conn.execute(_MARK, given).scalars())


def marked(conn: Connection, ids: Sequence[int], token: str) -> set[int]:
    """Return those of `ids` already marked under this lease, for when a commit's reply was lost."""
    return set(
        conn.execute(
            select(_ROW.id).where(
                _ROW.id.in_(ids), _ROW.lease == token, _ROW.status == DeliveryStatus.SENDING
            )
        ).scalars()
    )


def withdraw(conn: Connection, ids: Sequence[int], token: str) -> int:
    """Cancel those of `ids` leased to `token` that are no longer wanted; return their number.

    Deliveries to suppressed addresses become suppressed, those of subscribers that left become
    cancelled. Call it for ids that could not be marked; see `hand_back` for the remaining ones.
    """
    ours = _claimed_under(token, ids)
    suppressed = conn.execute(
        update(DeliveryRow)
        .where(ours, _is_suppressed())
        .values(**_released(DeliveryStatus.SUPPRESSED, CancelReason.SUPPRESSED))
    ).rowcount
    left = conn.execute(
        update(DeliveryRow)
        .where(ours, ~_is_welcome())
        .values(**_released(DeliveryStatus.CANCELLED, CancelReason.LEFT))
    ).rowcount
    return suppressed + left


def hand_back(conn: Connection, ids: Sequence[int], token: str) -> int:
    """Queue those of `ids` that are claimed and not marked again; return their number.

    No attempt is counted. After a failed mark and `withdraw` these are held or expired deliveries.
    """
    return conn.execute(
        update(DeliveryRow)
        .where(_claimed_under(token, ids))
        .values(status=DeliveryStatus.QUEUED, lease=None, lease_until=None)
    ).rowcount


# --- Settle -------------------------------------------------------------------------------------


def settle(
    conn: Connection,
    settlements: Iterable[Settlement],
    token: str,
    now: datetime,
    server: str = "smtp",
) -> Counter[DeliveryStatus]:
    """Write the results of deliveries leased to `token`; return counts by the status written.

    Deliveries that another sender has taken over are neither changed nor counted. A late
    acceptance turns an uncertain delivery into a sent one. A refusal by `server` that may count
    against an address is only recorded: its delivery stays queued until `guard` decides. Accepted
    mails, and refused ones that have ended, are added to the daily counts.
    """
    groups: dict[DeliveryStatus, list[Settlement]] = {}
    for settlement in settlements:
        groups.setdefault(settlement.status, []).append(settlement)
    written: Counter[DeliveryStatus] = Counter()
    events: Counter[tuple[str, CountedEvent]] = Counter()
    for status, group in groups.items():
        if status is DeliveryStatus.SENT:
            kinds = _settle_sent(conn, group, token, now)
            written[status] = kinds.total()
            events.update({(kind, CountedEvent.SENT): count for kind, count in kinds.items()})
            continue
        for one in group:
            settled = _settle_one(conn, one, token, now, server)
            if settled is None:
                continue
            written[settled[0]] += 1
            if one.is_final_refusal and settled[0] in _REFUSED:
                events[settled[1], CountedEvent.REFUSED] += 1
    daily_counts.add(conn, events, now)
    return written


def _settle_sent(
    conn: Connection, settlements: Sequence[Settlement], token: str, now: datetime
) -> Counter[str]:
    """Write acceptances; return the number of changed deliveries by kind."""
    lease = {"token": token, "now": now}
    accepted: list[dict[str, Any]] = [
        {"id_": one.delivery_id, "queue_id": one.queue_id, "reply": _cut(one.reply)}
        for one in settlements
    ]
    if conn.dialect.name == "postgresql":
        given = {"accepted": json.dumps(accepted), **lease}
        return Counter(conn.execute(_SENT_TOGETHER, given).scalars())
    # SQLite returns no rows from a statement for many.
    ours = conn.execute(
        select(_ROW.kind, func.count())
        .where(_ROW.id.in_([one["id_"] for one in accepted]), _is_acceptable(), _ROW.lease == token)
        .group_by(_ROW.kind)
    ).all()
    conn.execute(_SENT, [one | lease for one in accepted])
    return Counter({row[0]: row[1] for row in ours})


def _settle_one(
    conn: Connection, settlement: Settlement, token: str, now: datetime, server: str
) -> tuple[DeliveryStatus, str] | None:
    """Write one settlement; return the status written, and the kind of mail.

    Returns None, and changes nothing, if the delivery is not ours.
    """
    refusal, attempts = _refusal(conn, settlement, now, server)
    status, delay = settlement.status, settlement.delay
    if refusal and refusal.ends_as:
        status, delay = DeliveryStatus.QUEUED, refusals.next_try(attempts)
    left: tuple[DeliveryStatus, ...] = IN_HAND
    values: dict[str, Any] = _released(status, settlement.reason)
    if status is DeliveryStatus.UNCERTAIN:
        left = (DeliveryStatus.SENDING,)
        del values["lease"]  # a late 250 may still arrive under the same token
    if status is DeliveryStatus.QUEUED:
        values |= {"not_before": now + delay, "marked_at": None}
    kind = conn.execute(
        update(DeliveryRow)
        .where(_ROW.id == settlement.delivery_id, _ROW.lease == token, _ROW.status.in_(left))
        .values(
            reply=_unless_redacted(literal(_cut(settlement.reply), Text)),
            attempts=_ROW.attempts + (1 if settlement.charged else 0),
            **values,
        )
        .returning(_ROW.kind)
    ).scalar_one_or_none()
    if kind is None:
        return None
    if refusal:
        refusals.record(conn, refusal)
    if settlement.unread:
        set_cursors_back(conn, [settlement.delivery_id])
    return status, kind


def _refusal(
    conn: Connection, settlement: Settlement, now: datetime, server: str
) -> tuple[refusals.Refusal | None, int]:
    """Return the refusal to record for a settlement, or None, and the attempts made before it.

    The reply was judged before; this adds what only the delivery's row says: a refusal counts
    against no address if the mail went to another address than the subscriber's own.
    """
    if not settlement.is_refusal:
        return None, 0
    has_ended = settlement.status in _REFUSED
    recipient = refusals.recipient_of(conn, settlement.delivery_id)
    if recipient is None or recipient.email == addresses.ERASED:
        return None, 0
    kind = None
    if not recipient.is_elsewhere:
        kind = refusals.countable(settlement.strike, recipient.edition_on)
    refusal = refusals.Refusal(
        settlement.delivery_id,
        recipient.edition_on,
        recipient.address_hash,
        recipient.domain,
        kind,
        settlement.status if has_ended and kind else None,
        refusals.wording(settlement.reply or settlement.reason, recipient.email),
        server,
        now,
    )
    return refusal, recipient.attempts


# --- Transitions without a sender ---------------------------------------------------------------


def expire_due(conn: Connection, now: datetime, limit: int = CHUNK) -> int:
    """Expire at most `limit` queued or leased deliveries; return how many were expired.

    Cursors are set back, so that the next digest includes their papers. If one is leased, its
    sender can no longer mark it. Rows locked by another transaction are skipped.
    """
    over = (
        select(_ROW.id)
        .where(_ROW.status.in_(_UNSENT), _ROW.expires_at <= now)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("over")
    )
    ended = conn.execute(
        update(DeliveryRow)
        .where(_ROW.id.in_(select(over.c.id)), _ROW.status.in_(_UNSENT))
        .values(**_released(DeliveryStatus.EXPIRED, "no server took it in time"))
        .returning(_ROW.id, _ROW.kind)
    ).all()
    set_cursors_back(conn, [row.id for row in ended])
    daily_counts.add(conn, Counter((row.kind, CountedEvent.EXPIRED) for row in ended), now)
    return len(ended)


def recover_leases(conn: Connection, now: datetime) -> Recovery:
    """Return expired leases to the queue; mark in-flight deliveries uncertain.

    Uncertain deliveries keep their lease token, so that a slow sender can still settle them. A
    lease that ends more than LONGEST_LEASE from now counts as expired: a wrong clock wrote it.
    """
    over = or_(_ROW.lease_until <= now, _ROW.lease_until > now + LONGEST_LEASE)
    queued = conn.execute(
        update(DeliveryRow)
        .where(_ROW.status == DeliveryStatus.LEASED, over)
        .values(**_released(DeliveryStatus.QUEUED, "its lease was over"))
    ).rowcount
    uncertain = conn.execute(
        update(DeliveryRow)
        .where(_ROW.status == DeliveryStatus.SENDING, over)
        .values(
            status=DeliveryStatus.UNCERTAIN,
            reason="its sender stopped before the reply",
            attempts=_ROW.attempts + 1,
            lease_until=None,
        )
    ).rowcount
    return Recovery(queued=queued, uncertain=uncertain)


def end_refused(conn: Connection, delivery_id: int, status: str, now: datetime) -> bool:
    """End a queued delivery whose refusal now counts; return False if it is not queued.

    The mail is added to the daily counts of refused ones.
    """
    kind = conn.execute(
        update(DeliveryRow)
        .where(_ROW.id == delivery_id, _ROW.status == DeliveryStatus.QUEUED)
        .values(status=status)
        .returning(_ROW.kind)
    ).scalar_one_or_none()
    if kind is None:
        return False
    daily_counts.add(conn, {(kind, CountedEvent.REFUSED): 1}, now)
    return True


def requeue_refused(conn: Connection, delivery_ids: Collection[int], now: datetime) -> None:
    """Queue refused deliveries again, due at once, without counting their last attempt.

    If a failed one has expired or a newer digest covers its range, it stays as it is, and only its
    subscriber's cursor is set back, so that the next digest includes its papers.
    """
    newer = DeliveryRow.__table__.alias("newer").c
    superseded = exists().where(
        newer.subscriber_id == _ROW.subscriber_id,
        newer.id != _ROW.id,
        newer.range_to >= _ROW.range_to,
        newer.status.in_([*_UNSENT, *_STILL_COUNTS]),
    )
    for some in in_chunks(sorted(delivery_ids), CHUNK):
        refused = _ROW.id.in_(some), _ROW.status.in_(_REFUSED)
        conn.execute(
            update(DeliveryRow)
            .where(
                _ROW.id.in_(some),
                _ROW.status.in_((DeliveryStatus.QUEUED, *_REFUSED)),
                _ROW.expires_at > now,
                ~superseded,
            )
            .values(
                **_released(DeliveryStatus.QUEUED, "refused with many others, and owed again"),
                not_before=now,
                marked_at=None,
                attempts=case((_ROW.attempts > 0, _ROW.attempts - 1), else_=0),
            )
        )
        over = list(conn.execute(select(_ROW.id).where(*refused)).scalars())
        set_cursors_back(conn, over)


def take_back(conn: Connection, delivery_ids: Collection[int], reason: str) -> None:
    """Fail accepted deliveries that bounced, and set back the cursors of their subscribers."""
    for some in in_chunks(sorted(delivery_ids), CHUNK):
        ended = conn.execute(
            update(DeliveryRow)
            .where(_ROW.id.in_(some), _ROW.status == DeliveryStatus.SENT)
            .values(**_released(DeliveryStatus.FAILED, reason))
            .returning(_ROW.id)
        ).scalars()
        set_cursors_back(conn, list(ended))


def resend_uncertain(conn: Connection, kinds: Collection[DeliveryKind], now: datetime) -> int:
    """Queue unexpired uncertain deliveries of these kinds again; return their number.

    Each delivery is resent at most once.
    """
    return conn.execute(
        update(DeliveryRow)
        .where(
            _ROW.status == DeliveryStatus.UNCERTAIN,
            _ROW.kind.in_(kinds),
            _ROW.resent_at.is_(None),
            _ROW.expires_at > now,
        )
        .values(
            **_released(DeliveryStatus.QUEUED, "resent: its reply was lost"),
            not_before=now,
            resent_at=now,
        )
    ).rowcount


def cancel_unsent(
    conn: Connection,
    subscriber_ids: Collection[int],
    reason: str,
    kinds: Collection[DeliveryKind] | None = None,
) -> list[int]:
    """Cancel the queued and leased deliveries of these subscribers; return their ids.

    `kinds` restricts it to deliveries of these kinds.

    Cursors are set back only if an operator cancels: a subscriber that left wants no papers, and a
    newer digest covers the range of the one it supersedes. Use `subscribers.leave` and
    `suppressions.suppress` for subscribers that leave or are suppressed.
    """
    is_meant = true() if kinds is None else _ROW.kind.in_(kinds)
    ended: list[int] = []
    for some in in_chunks(sorted(subscriber_ids), CHUNK):
        ended += conn.execute(
            update(DeliveryRow)
            .where(_ROW.subscriber_id.in_(some), _ROW.status.in_(_UNSENT), is_meant)
            .values(**_released(DeliveryStatus.CANCELLED, reason))
            .returning(_ROW.id)
        ).scalars()
    if reason is CancelReason.OPERATOR:
        set_cursors_back(conn, ended)
    return ended


def cancel_suppressed(
    conn: Connection, address_hash: str, reason: SuppressionReason, since: datetime
) -> None:
    """Suppress the queued and leased deliveries of the subscriber with this address.

    A confirmation queued after `since` stays queued, unless the reason is a complaint (see
    `_is_suppressed`).
    """
    theirs = select(SubscriberRow.id).where(SubscriberRow.address_hash == address_hash)
    ended = _ROW.subscriber_id.in_(theirs) & _ROW.status.in_(_UNSENT)
    if reason is not SuppressionReason.COMPLAINT:
        ended &= (_ROW.kind != DeliveryKind.CONFIRMATION) | (_ROW.created_at <= since)
    conn.execute(
        update(DeliveryRow)
        .where(ended)
        .values(**_released(DeliveryStatus.SUPPRESSED, CancelReason.SUPPRESSED))
    )


def resolve(conn: Connection, delivery_id: int, resolution: Resolution, now: datetime) -> None:
    """Apply an operator's decision about an uncertain delivery.

    A resent delivery, except a confirmation, does not expire for another SECOND_CHANCE. Raises
    NotFoundError if the delivery is not uncertain, or does not exist.
    """
    values: dict[str, Any]
    if resolution is Resolution.DROP:
        values = _released(DeliveryStatus.SENT, "taken as accepted by the operator")
    else:
        values = _released(DeliveryStatus.QUEUED, "resent by the operator")
        # A digest is as useful a day later; a confirmation expires with its token.
        later = (_ROW.kind != DeliveryKind.CONFIRMATION) & (_ROW.expires_at < now + SECOND_CHANCE)
        conn.execute(
            update(DeliveryRow)
            .where(_ROW.id == delivery_id, _ROW.status == DeliveryStatus.UNCERTAIN, later)
            .values(expires_at=now + SECOND_CHANCE)
        )
        values |= {"not_before": now, "resent_at": now}
    won = conn.execute(
        update(DeliveryRow)
        .where(_ROW.id == delivery_id, _ROW.status == DeliveryStatus.UNCERTAIN)
        .values(**values)
    ).rowcount
    if not won:
        raise NotFoundError(f"delivery {delivery_id} is not uncertain")


def settle_uncertain(conn: Connection, delivery_id: int, now: datetime) -> bool:
    """Mark an uncertain delivery sent, when an event proves it; return False if not uncertain."""
    won = conn.execute(
        update(DeliveryRow)
        .where(_ROW.id == delivery_id, _ROW.status == DeliveryStatus.UNCERTAIN)
        .values(
            status=DeliveryStatus.SENT,
            reason="accepted, as a later event shows",
            sent_at=func.coalesce(_ROW.marked_at, now),
            lease=None,
            lease_until=None,
        )
    )
    return won.rowcount == 1


def record_outcome(conn: Connection, delivery_id: int, outcome: str) -> str | None:
    """Store a bounce or COMPLAINT as the reason of a sent delivery.

    Return its kind of mail if the event counts, else None. A complaint counts once; a bounce only
    if none, and no complaint, was stored before. A later bounce replaces an earlier one, and never
    a complaint.
    """
    reason = f"{ACCEPTED_THEN}{outcome}"
    complained = f"{ACCEPTED_THEN}{COMPLAINT}"
    is_sent = and_(
        _ROW.id == delivery_id,
        _ROW.status == DeliveryStatus.SENT,
        _ROW.reason.is_distinct_from(complained),
    )
    is_first = ~func.coalesce(_ROW.reason, "").startswith(ACCEPTED_THEN)
    kind = conn.execute(
        update(DeliveryRow)
        .where(is_sent, true() if outcome == COMPLAINT else is_first)
        .values(reason=reason)
        .returning(_ROW.kind)
    ).scalar_one_or_none()
    if kind is None:
        conn.execute(update(DeliveryRow).where(is_sent).values(reason=reason))
    return kind


def set_cursors_back(conn: Connection, delivery_ids: Collection[int]) -> None:
    """Set cursors back to the ranges of these deliveries, which certainly reached no reader.

    The next digest then includes their papers. A cursor never moves forward, and it stays if
    another delivery that may have reached the reader, or still will, covers the range. Going back
    too far repeats nothing: papers of sent digests are left out when the range is compiled again.
    """
    other = DeliveryRow.__table__.alias("other").c
    covered = exists().where(
        other.subscriber_id == _ROW.subscriber_id,
        other.id != _ROW.id,
        other.range_from <= _ROW.range_from,
        other.range_to >= _ROW.range_to,
        other.status.in_([*_UNSENT, *_STILL_COUNTS]),
    )
    for some in in_chunks(delivery_ids, CHUNK):
        back_to = (
            select(func.min(_ROW.range_from))
            .where(_ROW.id.in_(some), _ROW.subscriber_id == SubscriberRow.id, ~covered)
            .correlate(SubscriberRow)
            .scalar_subquery()
        )
        conn.execute(
            update(SubscriberRow)
            .where(
                SubscriberRow.id.in_(select(_ROW.subscriber_id).where(_ROW.id.in_(some))),
                SubscriberRow.cursor > back_to,
            )
            .values(cursor=back_to)
        )


def readdress(conn: Connection, subscriber_id: int, email: str) -> None:
    """Store the new domain in a subscriber's open deliveries after a change of address.

    The rate limits of the new domain then apply to them. Deliveries with an address of their own
    are not changed.
    """
    conn.execute(
        update(DeliveryRow)
        .where(
            _ROW.subscriber_id == subscriber_id,
            _ROW.address.is_(None),
            _ROW.status.in_([*_UNSENT, DeliveryStatus.UNCERTAIN]),
        )
        .values(domain=domain_of(email))
    )


def cancel_edition(conn: Connection, edition_on: date, limit: int = CHUNK) -> int:
    """Cancel at most `limit` queued or leased deliveries of an edition; return their number.

    Cursors are set back, so that the next digest includes the papers. Rows locked by another
    transaction are skipped.
    """
    unsent = (
        select(_ROW.id)
        .where(_ROW.edition_on == edition_on, _ROW.status.in_(_UNSENT))
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("owed")
    )
    ended = conn.execute(
        update(DeliveryRow)
        .where(_ROW.id.in_(select(unsent.c.id)), _ROW.status.in_(_UNSENT))
        .values(**_released(DeliveryStatus.CANCELLED, CancelReason.OPERATOR))
        .returning(_ROW.id)
    ).scalars()
    ids = list(ended)
    set_cursors_back(conn, ids)
    return len(ids)


def redact(conn: Connection, subscriber_id: int) -> None:
    """Redact a subscriber's deliveries: delete picks, refusals, addresses and replies.

    The rows stay, so that counts of deliveries stay correct.
    """
    mine = select(_ROW.id).where(_ROW.subscriber_id == subscriber_id)
    conn.execute(delete(PickRow).where(PickRow.delivery_id.in_(mine)))
    conn.execute(delete(RefusalRow).where(RefusalRow.delivery_id.in_(mine)))
    conn.execute(
        update(DeliveryRow)
        .where(_ROW.subscriber_id == subscriber_id)
        # A reply may contain the address; the labels of topics are the subscriber's own text.
        .values(
            address=None,
            domain="",
            topics=[],
            recap=[],
            pauses_on=None,
            more=0,
            unpicked=[],
            suggestions=[],
            reply=None,
            queue_id=None,
            redacted=True,
        )
    )


def redact_address(conn: Connection, request_ids: Collection[int]) -> None:
    """Cancel the mails about these requests to a separate address, and redact that address."""
    for some in in_chunks(sorted(request_ids), CHUNK):
        elsewhere = and_(_ROW.request_id.in_(some), _ROW.address.is_not(None))
        conn.execute(
            update(DeliveryRow)
            .where(elsewhere, _ROW.status.in_(_UNSENT))
            .values(**_released(DeliveryStatus.CANCELLED, CancelReason.ERASED))
        )
        conn.execute(
            update(DeliveryRow)
            .where(elsewhere)
            .values(address="", reply=None, queue_id=None, redacted=True)
        )


def _read(conn: Connection, ids: Sequence[int]) -> list[Delivery]:
    """Return the readable deliveries with these ids by precedence, oldest first."""
    if not ids:
        return []
    query = (
        select(
            _ROW.id,
            _ROW.dedupe_key,
            _ROW.kind,
            _ROW.subscriber_id,
            func.coalesce(_ROW.address, SubscriberRow.email),
            _ROW.attempts,
            _ROW.edition_on,
            _ROW.expires_at,
            _ROW.created_at,
            SubscriberRow.secret,
            _ROW.request_id,
            _ROW.domain,
        )
        .join(SubscriberRow, SubscriberRow.id == _ROW.subscriber_id)
        .where(_ROW.id.in_(ids))
        .order_by(_ROW.precedence, _ROW.not_before, _ROW.id)
    )
    return list(readable(conn, "delivery", query, _ROW.id, _delivery))


def _delivery(row: Any) -> Delivery:
    id_, key, kind, *rest = row
    return Delivery(id_, key, DeliveryKind(kind), *rest)


# --- Statement fragments ------------------------------------------------------------------------


def _claimed_under(token: str, ids: Sequence[int]) -> ColumnElement[bool]:
    return and_(_ROW.id.in_(ids), _ROW.lease == token, _ROW.status == DeliveryStatus.LEASED)


def _is_welcome() -> ColumnElement[bool]:
    """Match deliveries that the subscriber still wants.

    An active subscriber gets any mail, others the kinds that `MAIL_KINDS` also sends to them.
    After unsubscribing, only mail that was requested since then is wanted.
    """
    return exists().where(
        SubscriberRow.id == _ROW.subscriber_id,
        SubscriberRow.email != addresses.ERASED,
        or_(
            SubscriberRow.status == SubscriberStatus.ACTIVE,
            and_(
                SubscriberRow.status == SubscriberStatus.PENDING,
                _ROW.kind.in_(_also_to(SubscriberStatus.PENDING)),
            ),
            and_(
                SubscriberRow.status == SubscriberStatus.UNSUBSCRIBED,
                _ROW.kind.in_(_also_to(SubscriberStatus.UNSUBSCRIBED)),
                _ROW.created_at >= SubscriberRow.left_at,
            ),
        ),
    )


def _also_to(status: SubscriberStatus) -> list[DeliveryKind]:
    return [kind for kind, mail in MAIL_KINDS.items() if status in mail.also_to]


def _is_suppressed() -> ColumnElement[bool]:
    """Match deliveries to a subscriber's own address if it is suppressed.

    Any other address was checked when it was entered. A kind that overrides suppressions is allowed
    if it was requested after it, unless the reason is a complaint: see signup.abuse_limits.
    """
    overriding = [kind for kind, mail in MAIL_KINDS.items() if mail.overrides_suppression]
    is_exempt = and_(
        _ROW.kind.in_(overriding),
        SuppressionRow.reason != SuppressionReason.COMPLAINT,
        SuppressionRow.since <= _ROW.created_at,
    )
    return and_(
        _ROW.address.is_(None),
        exists().where(
            SubscriberRow.id == _ROW.subscriber_id,
            SuppressionRow.hash == SubscriberRow.address_hash,
            ~is_exempt,
        ),
    )


def may_be_sent() -> ColumnElement[bool]:
    """Match deliveries that their subscriber wants, to addresses that are not suppressed."""
    return and_(_is_welcome(), ~_is_suppressed())


def _released(status: DeliveryStatus, reason: str) -> dict[str, Any]:
    """Return the column values of a delivery that is no longer leased."""
    return {"status": status, "reason": reason, "lease": None, "lease_until": None}


def _unless_redacted(words: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return NULL instead of the server's reply if the delivery was redacted in the meantime.

    A subscriber may be erased while the mail is in flight, and the reply may contain the address.
    An UPDATE that waited for the erasing transaction sees the columns it wrote.
    """
    return case((_ROW.redacted, null()), else_=words)


def _cut(reply: str | None) -> str | None:
    # PostgreSQL rejects NUL in a text.
    return reply.replace("\0", "")[:LONGEST_REPLY] if reply else None


# Built once, since they run for every message.
_MARK: Final = (
    update(DeliveryRow)
    .where(
        _ROW.id.in_(bindparam("ids", expanding=True)),
        _ROW.lease == bindparam("token"),
        _ROW.status == DeliveryStatus.LEASED,
        _ROW.expires_at > bindparam("now"),
        may_be_sent(),
        ~send_controls.is_paused(),
    )
    .values(
        status=DeliveryStatus.SENDING, marked_at=bindparam("now"), lease_until=bindparam("until")
    )
    .returning(_ROW.id)
)


def _sent(id_: ColumnElement[int], queue_id: Any, reply: Any) -> Update:
    return (
        update(DeliveryRow)
        .where(
            _ROW.id == id_,
            _ROW.lease == bindparam("token"),
            _is_acceptable(),
        )
        .values(
            **_released(DeliveryStatus.SENT, "accepted"),
            # The attempt of an uncertain delivery was counted when it became uncertain.
            attempts=_ROW.attempts + case((_ROW.status == DeliveryStatus.UNCERTAIN, 0), else_=1),
            sent_at=bindparam("now"),
            queue_id=_unless_redacted(queue_id),
            reply=_unless_redacted(reply),
        )
    )


def _sent_together() -> ReturningUpdate[str]:
    """Return `_sent` for all rows of the JSON array `accepted`: half the work on PostgreSQL."""
    rows = func.json_to_recordset(cast(bindparam("accepted", type_=Text), postgresql.JSON))
    columns = column("id_", BigInteger), column("queue_id", Text), column("reply", Text)
    accepted = rows.table_valued(*columns).render_derived("accepted", with_types=True).c
    return _sent(accepted.id_, accepted.queue_id, accepted.reply).returning(_ROW.kind)


def _is_acceptable() -> ColumnElement[bool]:
    """Match deliveries that an acceptance turns into sent ones.

    No IN: an expanding parameter does not work with executemany.
    """
    return or_(_ROW.status == DeliveryStatus.SENDING, _ROW.status == DeliveryStatus.UNCERTAIN)


_SENT: Final = _sent(
    bindparam("id_"), bindparam("queue_id", type_=Text), bindparam("reply", type_=Text)
)
_SENT_TOGETHER: Final = _sent_together()
