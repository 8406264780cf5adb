"""Double opt-in: the form stores a request; a POST of its token activates the subscriber.

A visitor can neither subscribe another address nor change its preferences, nor learn whether it is
known: every address runs the same statements and returns the same response.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

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
from pipeline.signup import abuse_limits, own_papers
from pipeline.signup import choices as wishing
from pipeline.signup.abuse_limits import LimitKeys, Limits
from pipeline.signup.choices import (
    Choices,
    checked,
    existing_subscriber,
    first_slot,
    follow,
    valid_address,
)
from pipeline.storage import (
    addresses,
    bounce_scores,
    deliveries,
    ingest_state,
    requests,
    subscribers,
    suppressions,
    transactional,
)
from pipeline.storage.database import read_only, retry_transaction
from pipeline.storage.deliveries import CancelReason
from pipeline.storage.requests import StoredRequest
from pipeline.translations import gettext, gettext_noop

log = structlog.get_logger(__name__)

WELCOME_DAYS = 7  # look-back of the first digest
REQUEST_EXPIRY = abuse_limits.LINK_LIFE  # equal to the life of the token in the mail
MOST_TRIES = 3
NO_REQUEST = gettext_noop("This link is not valid.")


@dataclass(frozen=True, slots=True)
class Request:
    """A request, as shown on the confirmation page."""

    id: int
    kind: RequestKind
    subscriber_id: int
    email: str
    choices: Choices | None  # only of a request to subscribe
    is_used: bool
    status: SubscriberStatus  # current status of the subscriber


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The result of a confirmation."""

    subscriber: Subscriber
    first_time: bool  # False if the request was used before


@retry_transaction
def add(
    engine: Engine,
    email: str,
    choices: Choices,
    *,
    confirmed: bool,
    suppression_key: str,
    now: datetime,
    origin: Origin = Origin.OPERATOR,
) -> Subscriber:
    """Add a subscriber for the operator; unless `confirmed`, queue a confirmation mail.

    If the address is pending or unsubscribed, replace its choices and start again. Raise
    AddressError if the address is invalid or already active, SettingsError if the time zone is
    unknown; then nothing is stored.
    """
    address = valid_address(email)
    queries = checked(choices)
    slot = slots.first_slot(choices.schedule, now)
    with engine.begin() as conn:
        # The operator vouches for the address, even if it was erased before.
        hash_ = addresses.address_hash(address, suppression_key)
        suppressions.delete_erased(conn, hash_)
        cursor = ingest_state.look_back(conn, now, days=WELCOME_DAYS)
        status = SubscriberStatus.ACTIVE if confirmed else SubscriberStatus.PENDING
        subscriber_id = subscribers.add(
            conn, email=address, suppression_key=suppression_key, schedule=choices.schedule,
            max_papers=choices.max_papers, breadth=choices.breadth,
            near_misses_after=choices.near_misses_after, status=status, cursor=cursor,
            next_slot_at=slot, now=now,
        ) or _return_of(conn, address, choices, now)  # fmt: skip
        follow(conn, subscriber_id, queries, now)
        if confirmed:
            _activate(conn, existing_subscriber(conn, subscriber_id), choices.schedule, now)
            # Record that consent was given; its time and place are the operator's to document.
            requests.add(
                conn, RequestKind.JOIN, subscriber_id, email=address, choices={}, ip=None,
                origin=origin, expires_at=now, now=now, used_at=now,
            )  # fmt: skip
        else:
            to = abuse_limits.limit_keys(address, None, suppression_key)
            suppressed = suppressions.find(conn, address, suppression_key)
            wanted = not suppressed or abuse_limits.may_send_mail(conn, to, now, suppressed.reason)
            ask_to_confirm(conn, subscriber_id, address, choices, to, origin, now, wanted=wanted)
        subscriber = existing_subscriber(conn, subscriber_id)
    log.info("subscriber.added", subscriber=subscriber_id, status=subscriber.status)
    return subscriber


@retry_transaction
def request_subscription(
    engine: Engine,
    email: str,
    choices: Choices,
    *,
    ip: str | None,
    suppression_key: str,
    now: datetime,
    limits: Limits | None = None,
) -> None:
    """Store a request to subscribe, and queue its mail if the limit per inbox allows it.

    The mail asks to confirm; an active reader gets a notice instead. Raise AddressError or
    SettingsError if the form is invalid, LimitError if the client exceeds a rate limit; all
    before the address is looked up, so that errors reveal no subscriber.
    """
    address = valid_address(email)
    checked(choices)
    to = abuse_limits.limit_keys(address, ip, suppression_key)
    with engine.begin() as conn:
        abuse_limits.count_request(conn, ip, now, limits)
        subscriber = _known_or_new(conn, address, suppression_key, now)
        suppressed = suppressions.find(conn, address, suppression_key)
        may_mail = abuse_limits.may_send_mail(
            conn, to, now, suppressed.reason if suppressed else None
        )
        request_id = _request(conn, subscriber.id, address, choices, ip, Origin.FORM, now)
        # An active reader with a suppressed address gets no digests: send a confirmation as well.
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
    log.info("confirmation.requested", request=request_id)


def read_request(engine: Engine, request_id: int, now: datetime) -> Request:
    """Return a request that is used or still open; raise InvalidTokenError if it has expired.

    InvalidTokenError is raised, too, if the request or its subscriber does not exist.
    """
    with read_only(engine) as conn:
        request = requests.by_id(conn, request_id)
        subscriber = subscribers.by_id(conn, request.subscriber_id) if request else None
    if request is None or subscriber is None:
        raise InvalidTokenError(gettext(NO_REQUEST))
    if request.used_at is None and request.expires_at <= now:
        raise InvalidTokenError(gettext("This link has expired."))
    is_join = request.kind is RequestKind.JOIN and bool(request.choices)
    return Request(
        request.id,
        request.kind,
        request.subscriber_id,
        request.email,
        wishing.from_json(request.choices) if is_join else None,
        request.used_at is not None,
        subscriber.status,
    )


@retry_transaction
def confirm(engine: Engine, request_id: int, now: datetime) -> Confirmed:
    """Confirm a request: activate the subscriber and store the requested choices. Idempotent.

    Papers to start from are added to the reader's own ones, and the profile learns from them.

    The token proves that the mail reached the owner of the address, so the suppression (except for
    a complaint) and the strikes of the address are removed. Raise InvalidTokenError if the request
    has expired, or if the subscriber has unsubscribed since: an old mail must not resubscribe.
    """
    with engine.begin() as conn:
        request, subscriber, first_time = take(conn, request_id, RequestKind.JOIN, now)
        if not first_time:
            return Confirmed(subscriber, first_time=False)
        choices = wishing.from_json(request.choices)
        began = _activate(
            conn, subscriber, choices.schedule, now, requested_at=request.created_at, welcome=True
        )
        if not began and subscriber.status is not SubscriberStatus.ACTIVE:
            raise InvalidTokenError(gettext(NO_REQUEST))
        _retune(conn, subscriber.id, choices, now)
        own_papers.add(conn, subscriber.id, choices.papers, now)
        today = slots.local_date(now, choices.schedule)
        subscribers.note_activity(conn, subscriber.id, today)
        hash_ = subscribers.hash_of(conn, subscriber.id)
        suppressions.lift_after_confirmation(conn, hash_)
        bounce_scores.clear_strikes(conn, hash_)
        transactional.delete_pending(conn, hash_)
        subscriber = existing_subscriber(conn, subscriber.id)
    log.info("subscription.confirmed", subscriber=subscriber.id, request=request_id, began=began)
    return Confirmed(subscriber, first_time=True)


def take(
    conn: Connection, request_id: int, kind: RequestKind, now: datetime
) -> tuple[StoredRequest, Subscriber, bool]:
    """Use a request; return it, its locked subscriber, and whether this call was the first.

    The first call also ends all other open requests of this kind. Raise InvalidTokenError if the
    request is unknown or expired.
    """
    request = requests.by_id(conn, request_id)
    if request is None or request.kind is not kind:
        raise InvalidTokenError(gettext(NO_REQUEST))
    # Lock the subscriber first, as all use cases do; a call that waits rereads the request below.
    subscriber = subscribers.by_id(conn, request.subscriber_id, for_change=True)
    if subscriber is None:
        raise InvalidTokenError(gettext(NO_REQUEST))
    if requests.use(conn, request_id, now, wording=CURRENT):
        requests.end_open(conn, subscriber.id, kind, now)
        return request, subscriber, True
    seen = requests.by_id(conn, request_id)
    if seen is None or seen.used_at is None:
        raise InvalidTokenError(gettext("This link has expired."))
    return seen, subscriber, False


def _known_or_new(
    conn: Connection, address: str, suppression_key: str, now: datetime
) -> Subscriber:
    """Return the subscriber of this address, locked; add a pending one, without topics, if none.

    PostgreSQL does not wait for a row that another transaction is deleting (a purge), neither in ON
    CONFLICT DO NOTHING nor in the SELECT: then the second of 3 attempts inserts the row.
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
    choices: Choices,
    to: LimitKeys,
    origin: Origin,
    now: datetime,
    *,
    wanted: bool,
) -> None:
    """Store a request made by the operator or an import; queue its mail if it is `wanted`."""
    request_id = _request(conn, subscriber_id, address, choices, None, origin, now)
    kind = DeliveryKind.CONFIRMATION
    _mail(conn, kind, subscriber_id, request_id, to, now, wanted=wanted)


def _request(
    conn: Connection,
    subscriber_id: int,
    address: str,
    choices: Choices,
    ip: str | None,
    origin: Origin,
    now: datetime,
) -> int:
    return requests.add(
        conn, RequestKind.JOIN, subscriber_id, email=address, choices=wishing.as_json(choices),
        ip=ip, origin=origin, expires_at=now + REQUEST_EXPIRY, now=now,
    )  # fmt: skip


def _mail(
    conn: Connection,
    kind: DeliveryKind,
    subscriber_id: int,
    request_id: int,
    to: LimitKeys,
    now: datetime,
    *,
    wanted: bool,
) -> None:
    transactional.enqueue(
        conn, kind, subscriber_id, about=request_id, request_id=request_id,
        expires_at=now + REQUEST_EXPIRY, now=now, wanted=wanted,
    )  # fmt: skip
    transactional.record_pending(
        conn, to.hash, now, inbox=to.inbox, requester=to.requester, wanted=wanted
    )


def _return_of(conn: Connection, address: str, choices: Choices, now: datetime) -> int:
    """Set a pending or unsubscribed subscriber to pending, with new choices; return the id.

    Raise AddressError if the subscriber is active.
    """
    found = subscribers.by_email(conn, address, for_change=True)
    if found is None or found.status is SubscriberStatus.ACTIVE:
        raise AddressError("this address is already subscribed")
    subscribers.reopen(conn, found.id)
    subscribers.change_choices(
        conn,
        found.id,
        schedule=choices.schedule,
        max_papers=choices.max_papers,
        breadth=choices.breadth,
        near_misses_after=choices.near_misses_after,
        next_slot_at=first_slot(found, choices.schedule, now),
    )
    return found.id


def _activate(
    conn: Connection,
    subscriber: Subscriber,
    schedule: Schedule,
    now: datetime,
    *,
    requested_at: datetime | None = None,
    welcome: bool = False,
) -> bool:
    """Activate a subscriber, with a first digest of the last 7 days; return whether it was done.

    Cancel its queued deliveries: a confirmation mail is not needed any more.
    """
    won = subscribers.activate(
        conn,
        subscriber.id,
        cursor=ingest_state.look_back(conn, now, days=WELCOME_DAYS),
        next_slot_at=first_slot(subscriber, schedule, now),
        now=now,
        requested_at=requested_at,
        welcome=welcome,
    )
    if won:
        deliveries.cancel_unsent(conn, [subscriber.id], CancelReason.SUPERSEDED)
    return won


def _retune(conn: Connection, subscriber_id: int, choices: Choices, now: datetime) -> None:
    subscriber = existing_subscriber(conn, subscriber_id)
    subscribers.change_choices(
        conn,
        subscriber_id,
        schedule=choices.schedule,
        max_papers=choices.max_papers,
        breadth=choices.breadth,
        near_misses_after=choices.near_misses_after,
        next_slot_at=wishing.next_slot(subscriber, choices.schedule, now),
    )
    follow(conn, subscriber_id, checked(choices), now)


WORDINGS: Final = {
    "1": (
        "With this button you say: send me the digest of new papers, as often as I chose, until I "
        "leave. Every mail has a link that leaves with one click."
    ),
    "2": gettext_noop(
        "With this button you agree to get the digest of new papers, as often as you chose, until "
        "you unsubscribe. Every email has a link to unsubscribe with one click."
    ),
}
CURRENT: Final = "2"
WORDING: Final = WORDINGS[CURRENT]


def agreed_to(version: str | None) -> str | None:
    """Return the consent text of a version; None if there is no version, or it is unknown here.

    An unknown version comes from a newer Paperboy.
    """
    return WORDINGS.get(version) if version else None
