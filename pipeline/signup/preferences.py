"""Change preferences, pause, change the address, and mail the link to the preferences page."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import IntegrityError

from pipeline import slots
from pipeline.domain import (
    UNTIL_ACTIVE,
    DeliveryKind,
    Origin,
    Paper,
    RequestKind,
    Subscriber,
    SubscriberStatus,
)
from pipeline.errors import ConflictError, InvalidTokenError
from pipeline.matching.query import TopicQuery
from pipeline.signup import abuse_limits, own_papers
from pipeline.signup.abuse_limits import Limits
from pipeline.signup.choices import (
    Choices,
    checked,
    existing_subscriber,
    follow,
    next_slot,
    valid_address,
    version_of,
)
from pipeline.signup.reactions import active_subscriber
from pipeline.signup.subscribe import REQUEST_EXPIRY, Confirmed, take
from pipeline.storage import (
    bounce_scores,
    deliveries,
    papers,
    requests,
    saved_mails,
    subscribers,
    suppressions,
    topics,
    transactional,
)
from pipeline.storage.database import retry_transaction
from pipeline.storage.reactions import Reaction
from pipeline.translations import gettext, gettext_noop

log = structlog.get_logger(__name__)

LINK_EXPIRY = timedelta(hours=24)  # of the delivery; the link in it lives longer
TAKEN = gettext_noop("This address already has a subscription.")


@retry_transaction
def change(
    engine: Engine,
    subscriber_id: int,
    choices: Choices,
    now: datetime,
    *,
    seen: str | None = None,
) -> Subscriber:
    """Store new topics and a new schedule, in force from the next digest; return the subscriber.

    `seen` is the `Preferences.version` that the form was rendered with; raise ConflictError if the
    preferences have changed since. Raise SettingsError if the time zone is unknown,
    NotFoundError if there is no such subscriber, LimitError if there are over 100 new topics a day.
    If an error is raised, nothing is stored.
    """
    queries = checked(choices)
    with engine.begin() as conn:
        subscriber = existing_subscriber(conn, subscriber_id, for_change=True)
        followed = topics.followed_by(conn, [subscriber_id])[subscriber_id]
        if seen is not None and seen != version_of(
            subscriber, [(s.topic.query, s.label) for s in followed]
        ):
            raise ConflictError("the preferences have changed since the form was shown")
        added = {query for query, _ in queries} - {one.topic.query for one in followed}
        abuse_limits.count_new_topics(conn, subscriber_id, len(added), now)
        subscribers.change_choices(
            conn,
            subscriber_id,
            schedule=choices.schedule,
            max_papers=choices.max_papers,
            breadth=choices.breadth,
            near_misses_after=choices.near_misses_after,
            next_slot_at=next_slot(subscriber, choices.schedule, now),
        )
        subscribers.note_activity(conn, subscriber_id, slots.local_date(now, choices.schedule))
        follow(conn, subscriber_id, queries, now)
        return existing_subscriber(conn, subscriber_id)


@retry_transaction
def replace_topic(
    engine: Engine, subscriber_id: int, old: str, new: TopicQuery, label: str, now: datetime
) -> None:
    """Replace a followed topic, given by its canonical query; the others stay as they are.

    Raise ConflictError if `old` is not followed any more or `new` already is, NotFoundError if
    there is no such subscriber, LimitError if there are over 100 new topics a day.
    """
    with engine.begin() as conn:
        subscriber = existing_subscriber(conn, subscriber_id, for_change=True)
        followed = topics.followed_by(conn, [subscriber_id])[subscriber_id]
        queries = [(one.topic.query, one.label) for one in followed]
        known = dict(queries)
        if old not in known or new.text in known:
            raise ConflictError("the topics have changed since the suggestion was made")
        abuse_limits.count_new_topics(conn, subscriber_id, 1, now)
        changed = [(new.text, label) if query == old else (query, name) for query, name in queries]
        follow(conn, subscriber_id, changed, now)
        today = slots.local_date(now, subscriber.schedule)
        subscribers.note_activity(conn, subscriber_id, today)


@retry_transaction
def add_topic(engine: Engine, subscriber_id: int, new: TopicQuery, now: datetime) -> None:
    """Follow one more topic, labelled as typed; idempotent. Everything else stays as it is.

    Raise NotFoundError if there is no such subscriber, LimitError if there are over 100 new topics
    a day.
    """
    with engine.begin() as conn:
        existing_subscriber(conn, subscriber_id, for_change=True)
        _follow_also(conn, subscriber_id, [new], now)


@retry_transaction
def start_from(
    engine: Engine,
    subscriber_id: int,
    papers: Sequence[Reaction],
    new: Sequence[TopicQuery],
    now: datetime,
) -> int:
    """Add papers to a reader's own ones, and topics; idempotent. Return how many papers are new.

    Raise NotFoundError if the reader is not active, LimitError if there are over 100 new topics a
    day; then nothing is stored.
    """
    with engine.begin() as conn:
        active_subscriber(conn, subscriber_id, now)
        _follow_also(conn, subscriber_id, new, now)
        return own_papers.add(conn, subscriber_id, papers, now)


def _follow_also(
    conn: Connection, subscriber_id: int, new: Sequence[TopicQuery], now: datetime
) -> None:
    """Follow more topics, labelled as typed; those that are followed stay as they are."""
    followed = topics.followed_by(conn, [subscriber_id])[subscriber_id]
    queries = {one.topic.query: one.label for one in followed}
    added = {one.text: one.typed for one in new if one.text not in queries}
    if added:
        abuse_limits.count_new_topics(conn, subscriber_id, len(added), now)
        follow(conn, subscriber_id, [*(queries | added).items()], now)


def pause_of(subscriber: Subscriber, now: datetime) -> date | None:
    """Return the first day with digests after a pause; None if the subscription is not paused."""
    until = subscriber.paused_until
    is_over = until is None or until <= slots.local_date(now, subscriber.schedule)
    return None if is_over else until


def pause_reason(subscriber: Subscriber) -> str | None:
    """Return "inactivity" if the digests are paused until the next action of the reader."""
    return "inactivity" if subscriber.paused_until == UNTIL_ACTIVE else None


@retry_transaction
def pause(
    engine: Engine,
    subscriber_id: int,
    until: date | None,
    now: datetime,
    *,
    seen: str | None = None,
) -> Subscriber:
    """Skip all editions before the day `until`; resume if it is None or not in the future.

    The digest after a pause looks back a few days only, independent of its length. `seen` is the
    pause that the form was rendered with, "" for none; raise ConflictError if it has changed since,
    NotFoundError if there is no such subscriber.
    """
    with engine.begin() as conn:
        subscriber = existing_subscriber(conn, subscriber_id, for_change=True)
        if seen is not None and seen != str(pause_of(subscriber, now) or ""):
            raise ConflictError("the pause has changed since the form was shown")
        today = slots.local_date(now, subscriber.schedule)
        until = until or today
        # The time of the pause is no inactivity.
        subscribers.note_activity(conn, subscriber_id, max(until, today))
        if until > today or subscriber.paused_until is not None:
            subscribers.pause(conn, subscriber_id, max(until, today))
        if until > today:
            saved_mails.cancel(conn, subscriber_id, "paused")
        return existing_subscriber(conn, subscriber_id)


@retry_transaction
def keep(engine: Engine, subscriber_id: int, now: datetime) -> None:
    """Answer the question whether to go on: note the activity, which ends a pause because of it.

    Does nothing if the reader has unsubscribed. Raise NotFoundError if there is no such subscriber.
    """
    with engine.begin() as conn:
        subscriber = existing_subscriber(conn, subscriber_id, for_change=True)
        if subscriber.status is SubscriberStatus.ACTIVE:
            today = slots.local_date(now, subscriber.schedule)
            subscribers.note_activity(conn, subscriber_id, today)


# --- Change of address --------------------------------------------------------------------------


@retry_transaction
def ask_new_address(
    engine: Engine,
    subscriber_id: int,
    email: str,
    *,
    ip: str | None,
    suppression_key: str,
    now: datetime,
    limits: Limits | None = None,
) -> None:
    """Store a request to change the address, and queue a confirmation mail to the new one.

    The response does not reveal whether the new address is known. No mail is queued if it has its
    own subscription, if it is suppressed, if the limit per inbox forbids it, or if this reader is
    not active. Raise AddressError if the address is invalid, LimitError if the client exceeds a
    rate limit, NotFoundError if there is no such subscriber.
    """
    address = valid_address(email)
    to = abuse_limits.limit_keys(address, ip, suppression_key)
    with engine.begin() as conn:
        abuse_limits.count_request(conn, ip, now, limits)
        subscriber = existing_subscriber(conn, subscriber_id, for_change=True)
        holder = subscribers.by_email(conn, address)
        is_free = holder is None or holder.status is SubscriberStatus.PENDING
        is_barred = suppressions.find(conn, address, suppression_key) is not None
        may_mail = abuse_limits.may_send_mail(conn, to, now)
        request_id = requests.add(
            conn, RequestKind.NEW_ADDRESS, subscriber_id, email=address,
            choices={"address_hash": to.hash}, ip=ip, origin=Origin.FORM,
            expires_at=now + REQUEST_EXPIRY, now=now,
        )  # fmt: skip
        is_active = subscriber.status is SubscriberStatus.ACTIVE
        wanted = is_active and is_free and may_mail and not is_barred
        transactional.enqueue(
            conn, DeliveryKind.NEW_ADDRESS, subscriber_id, about=request_id, request_id=request_id,
            address=address, expires_at=now + REQUEST_EXPIRY, now=now, wanted=wanted,
        )  # fmt: skip
        transactional.record_pending(
            conn, to.hash, now, inbox=to.inbox, requester=to.requester, wanted=wanted
        )
    log.info("new_address.requested", subscriber=subscriber_id, request=request_id)


def confirm_new_address(engine: Engine, request_id: int, now: datetime) -> Confirmed:
    """Change the subscriber's address to the confirmed one; idempotent.

    Queued deliveries go to the new address, too; its suppression (except for a complaint) and its
    strikes are removed. Raise InvalidTokenError if the request has expired, if the address has
    been taken since, or if the subscriber is not active any more.
    """
    try:
        return _confirm_new_address(engine, request_id, now)
    except IntegrityError as error:  # the address got its own subscription concurrently
        raise InvalidTokenError(gettext(TAKEN)) from error


@retry_transaction
def _confirm_new_address(engine: Engine, request_id: int, now: datetime) -> Confirmed:
    with engine.begin() as conn:
        request, subscriber, first_time = take(conn, request_id, RequestKind.NEW_ADDRESS, now)
        if not first_time:
            return Confirmed(subscriber, first_time=False)
        # A pending row, from an unconfirmed entry in the form; `drop` deletes pending rows only.
        holder = subscribers.by_email(conn, request.email)
        if holder and holder.id != subscriber.id:
            subscribers.delete_pending(conn, holder.id)
        hash_ = request.choices["address_hash"]
        if not subscribers.move(conn, subscriber.id, email=request.email, hash_=hash_):
            raise InvalidTokenError(gettext(TAKEN))
        deliveries.readdress(conn, subscriber.id, request.email)
        today = slots.local_date(now, subscriber.schedule)
        subscribers.note_activity(conn, subscriber.id, today)
        suppressions.lift_after_confirmation(conn, hash_)
        bounce_scores.clear_strikes(conn, hash_)
        transactional.delete_pending(conn, hash_)
        subscriber = existing_subscriber(conn, subscriber.id)
    log.info("address.changed", subscriber=subscriber.id, request=request_id)
    return Confirmed(subscriber, first_time=True)


# --- Preferences link ---------------------------------------------------------------------------


@retry_transaction
def ask_link(
    engine: Engine,
    email: str,
    *,
    ip: str | None,
    suppression_key: str,
    now: datetime,
    limits: Limits | None = None,
    paper: str = "",
) -> None:
    """Queue a mail with the preferences link if the address is an active reader's.

    With the key of a `paper`, the link leads to the reader's page of that paper.

    The rate limits of the forms apply. The response and the statements are the same for any
    address, so that it does not reveal subscribers. Raise AddressError if the address is invalid,
    LimitError if the client exceeds a rate limit.
    """
    address = valid_address(email)
    to = abuse_limits.limit_keys(address, ip, suppression_key)
    with engine.begin() as conn:
        abuse_limits.count_request(conn, ip, now, limits)
        subscriber = subscribers.by_email(conn, address, for_change=True)
        subscriber_id = subscriber.id if subscriber else 0
        is_barred = suppressions.find(conn, address, suppression_key) is not None
        may_mail = abuse_limits.may_send_mail(conn, to, now)
        chosen = _about_paper(papers.by_key(conn, paper) if paper else None)
        is_active = subscriber is not None and subscriber.status is SubscriberStatus.ACTIVE
        wanted = is_active and may_mail and not is_barred
        transactional.enqueue(
            conn, DeliveryKind.LINK, subscriber_id, about=f"{now:%Y%m%dT%H%M%S}{chosen}",
            expires_at=now + LINK_EXPIRY, now=now, wanted=wanted,
        )  # fmt: skip
        transactional.record_pending(
            conn, to.hash, now, inbox=to.inbox, requester=to.requester, wanted=wanted
        )


def _about_paper(paper: Paper | None) -> str:
    """Return the end of a dedupe key that `Delivery.about_paper` reads."""
    return f"-paper{paper.id}" if paper else ""
