"""Joining: the form stores a request, and its token, POSTed, makes a subscriber.

Nobody can subscribe or retune somebody else, nor learn whether an address is known: every address
takes the same statements and gets the same answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import partial

import structlog
from sqlalchemy import Connection, Engine

from pipeline import slots
from pipeline.domain import (
    DeliveryKind,
    Origin,
    RequestKind,
    Schedule,
    Subscriber,
    SubscriberStatus,
)
from pipeline.errors import AddressError, InvalidTokenError
from pipeline.signup import asking, consent
from pipeline.signup import wishes as wishing
from pipeline.signup.asking import Limits, Recipient
from pipeline.signup.wishes import Wishes, checked, first_slot, follow, known, valid_address
from pipeline.storage import batches, confirmations, deliveries, requests, strikes, subscribers
from pipeline.storage.database import reading, retried, with_retries
from pipeline.storage.deliveries import CancelReason
from pipeline.storage.requests import StoredRequest

log = structlog.get_logger(__name__)

WELCOME_DAYS = 7  # how far back the first digest looks
REQUEST_EXPIRY = asking.LINK_LIFE  # like the token in its mail
MOST_TRIES = 3
NOBODY_ASKED = "this link is not one of ours any more"


@dataclass(frozen=True, slots=True)
class Request:
    """A request as the page of its link shows it."""

    id: int
    kind: RequestKind
    subscriber_id: int
    email: str
    wishes: Wishes | None  # of a request to join
    is_used: bool
    status: SubscriberStatus  # of its subscriber, now


@dataclass(frozen=True, slots=True)
class Confirmed:
    """What became of a confirmation."""

    subscriber: Subscriber
    first_time: bool  # False where the button was pressed again


@retried
def add(
    engine: Engine,
    email: str,
    wishes: Wishes,
    *,
    confirmed: bool,
    suppression_key: str,
    now: datetime,
    origin: Origin = Origin.OPERATOR,
) -> Subscriber:
    """A subscriber put in by the operator; without `confirmed` they are asked by mail first.

    Adding an active address again changes nothing and raises AddressError; adding one that is
    pending or has left starts anew. Raises QueryError for a topic that cannot be read and
    SettingsError for an unknown time zone, before anything is stored.
    """
    address = valid_address(email)
    queries = checked(wishes)
    slot = slots.first_slot(wishes.schedule, now)
    with engine.begin() as conn:
        # The operator vouches for the address, also where it was erased once.
        hash_ = subscribers.address_hash(address, suppression_key)
        subscribers.forget_erased(conn, hash_)
        cursor = batches.look_back(conn, now, days=WELCOME_DAYS)
        status = SubscriberStatus.ACTIVE if confirmed else SubscriberStatus.PENDING
        subscriber_id = subscribers.add(
            conn, email=address, suppression_key=suppression_key, schedule=wishes.schedule,
            max_papers=wishes.max_papers, breadth=wishes.breadth, status=status, cursor=cursor,
            next_slot_at=slot, now=now,
        ) or _return_of(conn, address, wishes, now)  # fmt: skip
        follow(conn, subscriber_id, queries, now)
        if confirmed:
            _activate(conn, known(conn, subscriber_id), wishes.schedule, now)
            # Where and when they agreed is for the operator to know; that it was said stays here.
            requests.add(
                conn, RequestKind.JOIN, subscriber_id, email=address, wishes={}, ip=None,
                origin=origin, expires_at=now, now=now, used_at=now,
            )  # fmt: skip
        else:
            to = asking.recipient(address, None, suppression_key)
            suppressed = subscribers.barred(conn, address, suppression_key)
            wanted = not suppressed or asking.may_mail(conn, to, now, suppressed.reason)
            ask_to_confirm(conn, subscriber_id, address, wishes, to, origin, now, wanted=wanted)
        subscriber = known(conn, subscriber_id)
    log.info("subscriber added", subscriber=subscriber_id, status=subscriber.status)
    return subscriber


def ask(
    engine: Engine,
    email: str,
    wishes: Wishes,
    *,
    ip: str | None,
    suppression_key: str,
    now: datetime,
    limits: Limits | None = None,
) -> None:
    """Store a request for mail to `email`, and ask its owner unless limits forbid it.

    Raises what is wrong in the form (AddressError, QueryError, SettingsError), and LimitError,
    before it looks at who that is.
    """
    address = valid_address(email)
    checked(wishes)
    with_retries(partial(_ask, engine, address, wishes, ip, suppression_key, now, limits))


def _ask(
    engine: Engine,
    address: str,
    wishes: Wishes,
    ip: str | None,
    suppression_key: str,
    now: datetime,
    limits: Limits | None,
) -> None:
    to = asking.recipient(address, ip, suppression_key)
    with engine.begin() as conn:
        asking.count(conn, ip, now, limits)
        subscriber = _known_or_new(conn, address, suppression_key, now)
        suppressed = subscribers.barred(conn, address, suppression_key)
        may_mail = asking.may_mail(conn, to, now, suppressed.reason if suppressed else None)
        request_id = _request(conn, subscriber.id, address, wishes, ip, Origin.FORM, now)
        # An active reader whose address is suppressed hears nothing: they are asked as well.
        is_in = subscriber.status is SubscriberStatus.ACTIVE and not suppressed
        _mail(
            conn,
            DeliveryKind.ALREADY_IN if is_in else DeliveryKind.CONFIRMATION,
            subscriber.id,
            request_id,
            to,
            now,
            wanted=may_mail,
        )
    log.info("asked", request=request_id)


def read_request(engine: Engine, request_id: int, now: datetime) -> Request:
    """A request that was answered, or still can be. Raises InvalidTokenError."""
    with reading(engine) as conn:
        request = requests.by_id(conn, request_id)
        subscriber = subscribers.by_id(conn, request.subscriber_id) if request else None
    if request is None or subscriber is None:
        raise InvalidTokenError(NOBODY_ASKED)
    if request.used_at is None and request.expires_at <= now:
        raise InvalidTokenError("this link has expired")
    is_join = request.kind is RequestKind.JOIN and bool(request.wishes)
    return Request(
        request.id,
        request.kind,
        request.subscriber_id,
        request.email,
        wishing.from_json(request.wishes) if is_join else None,
        request.used_at is not None,
        subscriber.status,
    )


def confirm(engine: Engine, request_id: int, now: datetime) -> Confirmed:
    """Do what was asked for: its mail has reached the owner of the address.

    Pressed twice it is done once. Raises InvalidTokenError for a request that is over, and for
    one from before its subscriber left: an old mail brings nobody back.
    """
    return with_retries(partial(_confirm, engine, request_id, now))


def _confirm(engine: Engine, request_id: int, now: datetime) -> Confirmed:
    with engine.begin() as conn:
        request, subscriber, first_time = take(conn, request_id, RequestKind.JOIN, now)
        if not first_time:
            return Confirmed(subscriber, first_time=False)
        wishes = wishing.from_json(request.wishes)
        began = _activate(
            conn, subscriber, wishes.schedule, now, asked_at=request.created_at, welcome=True
        )
        if not began and subscriber.status is not SubscriberStatus.ACTIVE:
            raise InvalidTokenError(NOBODY_ASKED)
        _retune(conn, subscriber.id, wishes, now)
        hash_ = subscribers.hash_of(conn, subscriber.id)
        subscribers.forgive(conn, hash_)
        strikes.clear(conn, hash_)
        confirmations.answered(conn, hash_)
        subscriber = known(conn, subscriber.id)
    log.info("confirmed", subscriber=subscriber.id, request=request_id, began=began)
    return Confirmed(subscriber, first_time=True)


def take(
    conn: Connection, request_id: int, kind: RequestKind, now: datetime
) -> tuple[StoredRequest, Subscriber, bool]:
    """A request, its subscriber, locked, and whether it was open until now. InvalidTokenError."""
    request = requests.by_id(conn, request_id)
    if request is None or request.kind is not kind:
        raise InvalidTokenError(NOBODY_ASKED)
    # The subscriber first, as everybody does: who waits here reads the request again below.
    subscriber = subscribers.by_id(conn, request.subscriber_id, for_change=True)
    if subscriber is None:
        raise InvalidTokenError(NOBODY_ASKED)
    if requests.use(conn, request_id, now, wording=consent.CURRENT):
        requests.end_open(conn, subscriber.id, kind, now)
        return request, subscriber, True
    seen = requests.by_id(conn, request_id)
    if seen is None or seen.used_at is None:
        raise InvalidTokenError("this link has expired")
    return seen, subscriber, False


def _known_or_new(
    conn: Connection, address: str, suppression_key: str, now: datetime
) -> Subscriber:
    """Return the subscriber of this address, locked; a new one has no wishes before they confirm.

    PostgreSQL does not wait for a row that another transaction is deleting (a purge), neither at ON
    CONFLICT DO NOTHING nor to find it: the row is then inserted at the second try.
    """
    for _ in range(MOST_TRIES):
        subscribers.add(
            conn, email=address, suppression_key=suppression_key, schedule=Schedule(), max_papers=1,
            status=SubscriberStatus.PENDING, cursor=0, next_slot_at=None, now=now,
        )  # fmt: skip
        subscriber = subscribers.by_email(conn, address, for_change=True)
        if subscriber:
            return subscriber
    raise AssertionError(f"a subscriber was deleted {MOST_TRIES} times while it was added")


def ask_to_confirm(
    conn: Connection,
    subscriber_id: int,
    address: str,
    wishes: Wishes,
    to: Recipient,
    origin: Origin,
    now: datetime,
    *,
    wanted: bool,
) -> None:
    """Store a request that the operator or a list makes, and owe its mail where it is wanted."""
    request_id = _request(conn, subscriber_id, address, wishes, None, origin, now)
    kind = DeliveryKind.CONFIRMATION
    _mail(conn, kind, subscriber_id, request_id, to, now, wanted=wanted)


def _request(
    conn: Connection,
    subscriber_id: int,
    address: str,
    wishes: Wishes,
    ip: str | None,
    origin: Origin,
    now: datetime,
) -> int:
    return requests.add(
        conn, RequestKind.JOIN, subscriber_id, email=address, wishes=wishing.as_json(wishes),
        ip=ip, origin=origin, expires_at=now + REQUEST_EXPIRY, now=now,
    )  # fmt: skip


def _mail(
    conn: Connection,
    kind: DeliveryKind,
    subscriber_id: int,
    request_id: int,
    to: Recipient,
    now: datetime,
    *,
    wanted: bool,
) -> None:
    confirmations.enqueue(
        conn, kind, subscriber_id, about=request_id, request_id=request_id,
        expires_at=now + REQUEST_EXPIRY, now=now, wanted=wanted,
    )  # fmt: skip
    confirmations.record(conn, to.hash, now, inbox=to.inbox, requester=to.requester, wanted=wanted)


def _return_of(conn: Connection, address: str, wishes: Wishes, now: datetime) -> int:
    """The id of a subscriber who is known, and not active: pending, with their new wishes."""
    found = subscribers.by_email(conn, address, for_change=True)
    if found is None or found.status is SubscriberStatus.ACTIVE:
        raise AddressError("this address is subscribed already")
    subscribers.reopen(conn, found.id)
    subscribers.change_wishes(
        conn,
        found.id,
        schedule=wishes.schedule,
        max_papers=wishes.max_papers,
        breadth=wishes.breadth,
        next_slot_at=first_slot(found, wishes.schedule, now),
    )
    return found.id


def _activate(
    conn: Connection,
    subscriber: Subscriber,
    schedule: Schedule,
    now: datetime,
    *,
    asked_at: datetime | None = None,
    welcome: bool = False,
) -> bool:
    """Begin with the papers of the last days; a question still on its way is answered."""
    won = subscribers.activate(
        conn,
        subscriber.id,
        cursor=batches.look_back(conn, now, days=WELCOME_DAYS),
        next_slot_at=first_slot(subscriber, schedule, now),
        now=now,
        asked_at=asked_at,
        welcome=welcome,
    )
    if won:
        deliveries.cancel_owed(conn, [subscriber.id], CancelReason.SUPERSEDED)
    return won


def _retune(conn: Connection, subscriber_id: int, wishes: Wishes, now: datetime) -> None:
    subscriber = known(conn, subscriber_id)
    subscribers.change_wishes(
        conn,
        subscriber_id,
        schedule=wishes.schedule,
        max_papers=wishes.max_papers,
        breadth=wishes.breadth,
        next_slot_at=wishing.next_slot(subscriber, wishes.schedule, now),
    )
    follow(conn, subscriber_id, checked(wishes), now)
