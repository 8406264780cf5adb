"""Compile editions: choose the due subscribers, build their digests and queue them in the outbox.

A slot is served in one transaction with all its effects: the superseded digest, the new digest or
the reason why there is none, and the subscriber's next slot and cursor. If a run crashes, each
subscriber has been served completely or not at all; a second run at the same time takes other
subscribers.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from functools import partial

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import IntegrityError

from pipeline import slots
from pipeline.domain import (
    UNTIL_ACTIVE,
    Breadth,
    DeliveryKind,
    Digest,
    Schedule,
    SkipReason,
    Subscriber,
    Subscription,
)
from pipeline.editions import inactivity, no_match_notice, saved_mail
from pipeline.editions.backfill import match_late_topics, unreadable
from pipeline.editions.candidates import Candidates, Draft, Edition
from pipeline.editions.no_match_notice import TriedQueries
from pipeline.errors import NotFoundError, PaperboyError
from pipeline.logs import set_aside
from pipeline.matching.semantic import Embedder
from pipeline.storage import (
    digests,
    ingest_state,
    no_match_notices,
    subscribers,
    suppressions,
    topics,
)
from pipeline.storage.database import read_only, retry_transaction
from pipeline.storage.digests import NewDigest
from pipeline.storage.no_match_notices import LastContact, NewNotice
from pipeline.storage.subscribers import Served

log = structlog.get_logger(__name__)

CHUNK = 200  # subscribers per transaction
MANY = 1_000  # due digests; from this number on, sending is spread
NEVER_TWICE = timedelta(days=90)
TRENDING_DAYS = 7  # a listed paper collects upvotes for about that long
SILENT = (SkipReason.PAUSED, SkipReason.SUPPRESSED)  # no mail, even if there are matches
MOST_FRESH_STARTS = 20  # reloads in one run, when loaded values are stale


class _TopicsBehindError(Exception):
    """Raised if a topic followed in this chunk is not matched through the edition's batch."""


class _UntriedError(Exception):
    """Raised if notices are due whose suggestions are not loaded."""

    def __init__(self, wanted: list[tuple[Sequence[Subscription], Breadth]]) -> None:
        super().__init__()
        self.wanted = wanted


@dataclass(frozen=True, slots=True)
class SlotResult:
    """Result of serving one slot: a queued digest, or the reason why there is none."""

    subscriber_id: int
    email: str
    kind: DeliveryKind
    edition_on: date
    papers: tuple[str, ...]  # their keys, in order
    skipped: SkipReason | None = None
    noted: bool = False  # a no-match notice was queued


def publish(
    engine: Engine,
    *,
    now: datetime,
    expiry: timedelta,
    template: str,
    everyone: bool = False,
    longest_spread: timedelta = timedelta(0),
    quiet_days: int = 0,
    inactivity_months: int = 0,
    embedder: Embedder | None = None,
) -> Iterator[SlotResult]:
    """Compile the digests that are due at `now`, chunk by chunk, and yield committed outcomes.

    `everyone` includes active subscribers before their slot. If many digests are due, and without
    `everyone`, sending is spread over at most `longest_spread`. A no-match notice is queued for
    subscribers without a match for `quiet_days`; never if that is 0. Readers who have done nothing
    for `inactivity_months` are asked to go on and then paused; never if that is 0.
    """
    edition = replace(
        _edition(engine, now, expiry, template),
        quiet_days=quiet_days,
        inactivity_months=inactivity_months,
    )
    if not everyone and longest_spread:
        with read_only(engine) as conn:
            due = subscribers.count_due(conn, now)
        edition = replace(edition, spread=delivery_spread(due, longest_spread))
    run = _Run(engine, edition, embedder)
    last_id = 0
    while compiled := run.compile(
        partial(subscribers.due, now=now, everyone=everyone, after_id=last_id, limit=CHUNK)
    ):
        last_id, outcomes = compiled
        yield from outcomes


def delivery_spread(due: int, longest: timedelta) -> timedelta:
    """Return the period over which `due` digests are sent: a minute per 6,000, 0 below `MANY`.

    One sender sends no more than a hundred per second anyway; several senders would all connect in
    the same second of the hour.
    """
    if due < MANY:
        return timedelta(0)
    return min(longest, timedelta(seconds=due / 100))


def spread_position(subscriber_id: int) -> float:
    """Return a subscriber's offset in the spread, in [0, 1): the same every day, evenly spread."""
    return subscriber_id * 2_654_435_769 % 2**32 / 2**32  # Fibonacci hashing


def preview(
    engine: Engine, email: str, *, now: datetime, embedder: Embedder | None = None
) -> Digest:
    """Return the next digest of this address; its slot and cursor do not move.

    Topics that are behind are matched, and the matches stored. Raise NotFoundError if no subscriber
    has the address.
    """
    subscriber = _existing(engine, email)
    edition = _edition(engine, now, timedelta(0), "")
    failed = match_late_topics(engine, edition.through, now, embedder)
    with read_only(engine) as conn:
        followed = _without(failed, topics.followed_by(conn, [subscriber.id]))[subscriber.id]
        return _next(conn, edition, subscriber, followed)


def outlook(engine: Engine, email: str, *, now: datetime) -> Digest | None:
    """Return the same as `preview` without matching, which takes a minute for a new topic.

    Return None if a topic of the subscriber is not matched yet. Raise NotFoundError if no
    subscriber has the address.
    """
    subscriber = _existing(engine, email)
    edition = _edition(engine, now, timedelta(0), "")
    with read_only(engine) as conn:
        failed = unreadable(topics.behind(conn, edition.through))
        followed = _without(failed, topics.followed_by(conn, [subscriber.id]))[subscriber.id]
        if topics.is_any_behind(conn, {s.topic.id for s in followed}, edition.through):
            return None
        return _next(conn, edition, subscriber, followed)


def _existing(engine: Engine, email: str) -> Subscriber:
    with read_only(engine) as conn:
        subscriber = subscribers.by_email(conn, email)
    if subscriber is None:
        raise NotFoundError("no subscriber has this address")
    return subscriber


def _next(
    conn: Connection,
    edition: Edition,
    subscriber: Subscriber,
    followed: Sequence[Subscription],
) -> Digest:
    slot = _slot_to_come(subscriber, edition.now)
    seen = digests.sent_before(conn, [subscriber.id], since=edition.now - NEVER_TWICE)
    draft = Draft(subscriber, slot, slots.local_date(slot, subscriber.schedule),
                  _range_from(subscriber, edition))  # fmt: skip
    candidates = Candidates(edition)
    candidates.load(conn, [draft], {subscriber.id: followed})
    read = seen.get(subscriber.id, set())
    digest, skipped = candidates.digest(draft, followed, read)
    if skipped is SkipReason.NOTHING_MATCHED:
        contact = _contacts(conn, edition, [draft])[subscriber.id]
        if _is_near_miss_due(draft, contact):
            return candidates.near_misses(draft, followed, read) or digest
    return digest


def _edition(engine: Engine, now: datetime, expiry: timedelta, template: str) -> Edition:
    with read_only(engine) as conn:
        return Edition(
            now=now,
            through=ingest_state.published_batch(conn),
            pause_floor={
                frequency: ingest_state.look_back(conn, now, days=days)
                for frequency, days in ingest_state.GAP_DAYS.items()
            },
            trending_floor=ingest_state.look_back(conn, now, days=TRENDING_DAYS),
            trending_oldest=ingest_state.look_back(conn, now, days=NEVER_TWICE.days),
            expiry=expiry,
            template=template,
        )


class _Run:
    """One run: the matches and papers it has loaded are used for all its chunks."""

    def __init__(self, engine: Engine, edition: Edition, embedder: Embedder | None) -> None:
        self._engine = engine
        self._embedder = embedder
        self._edition = edition
        self._tried = TriedQueries(engine, edition.through)
        self._stale = 0
        self._read_anew()

    def _read_anew(self) -> None:
        self._failed = match_late_topics(
            self._engine, self._edition.through, self._edition.now, self._embedder
        )
        self._candidates = Candidates(self._edition)

    def compile(
        self, choose: Callable[[Connection], list[Subscriber]]
    ) -> tuple[int, list[SlotResult]] | None:
        """Serve one chunk; return the last subscriber id and the outcomes, or None if it is empty.

        Subscribers are chosen, and locked, in the transaction that serves them. It is retried after
        a deadlock, and with reloaded values if they are stale, at most `MOST_FRESH_STARTS` times in
        a run; then the error is raised.
        """
        while True:
            try:
                return self._compile(choose)
            except _UntriedError as error:
                self._tried.load(error.wanted)
            except (_TopicsBehindError, IntegrityError):
                # Since loading, a reader followed a new topic or an ingest run merged two papers.
                self._stale += 1
                if self._stale > MOST_FRESH_STARTS:
                    raise
                self._read_anew()

    @retry_transaction
    def _compile(
        self, choose: Callable[[Connection], list[Subscriber]]
    ) -> tuple[int, list[SlotResult]] | None:
        with self._engine.begin() as conn:
            chosen = choose(conn)
            if not chosen:
                return None
            planned = list(_planned(chosen, self._edition))
            drafts = [draft for _, draft in planned if draft]
            subscribers.cancel_welcome(conn, _unwelcome([s for s, _ in planned], drafts))
            outcomes = _compile(
                conn, self._edition, self._candidates, drafts, self._failed, self._tried
            )
        return chosen[-1].id, outcomes


def _planned(
    chosen: Sequence[Subscriber], edition: Edition
) -> Iterator[tuple[Subscriber, Draft | None]]:
    """Yield each subscriber and the draft to serve; set aside if a slot cannot be computed."""
    for subscriber in chosen:
        try:
            draft = _draft(subscriber, edition)
            if draft:
                slots.next_slot(subscriber.schedule, draft.slot_at, draft.edition_on)
        except (PaperboyError, ValueError, OverflowError) as error:
            set_aside("subscriber", subscriber.id, error)
        else:
            yield subscriber, draft


def _without(
    failed: Container[int], followed: Mapping[int, Sequence[Subscription]]
) -> dict[int, list[Subscription]]:
    """Return the subscriptions without topics that fail to match: these must not block the rest."""
    return {
        reader: [one for one in subscriptions if one.topic.id not in failed]
        for reader, subscriptions in followed.items()
    }


def _unwelcome(chosen: Sequence[Subscriber], drafts: Sequence[Draft]) -> list[int]:
    """Return the ids of subscribers with a welcome due if they have had the edition of this day."""
    served = {draft.subscriber.id for draft in drafts}
    return [s.id for s in chosen if s.welcome_due and s.id not in served]


def _draft(subscriber: Subscriber, edition: Edition) -> Draft | None:
    """Return the draft to serve now; None if the subscriber has had an edition of this date."""
    schedule, now = subscriber.schedule, edition.now
    # A welcome is sent out of turn: it takes today's slot, so that tomorrow's digest is still sent.
    slot = _todays_slot(schedule, now) if subscriber.welcome_due else _slot(subscriber, now)
    edition_on = slots.local_date(slot, subscriber.schedule)
    last = subscriber.last_edition_on
    if last is not None and edition_on <= last:
        return None
    return Draft(subscriber, slot, edition_on, _range_from(subscriber, edition))


def _slot(subscriber: Subscriber, now: datetime) -> datetime:
    schedule, due_at = subscriber.schedule, subscriber.next_slot_at
    if due_at is not None and due_at <= now:
        return slots.newest_slot(
            schedule, now, due_at, subscriber.last_slot_at, subscriber.last_edition_on
        )
    # Published by hand, before the slot: today's edition, recorded at its regular slot.
    return _todays_slot(schedule, now)


def _todays_slot(schedule: Schedule, now: datetime) -> datetime:
    return slots.slot_on(slots.local_date(now, schedule), schedule)


def _slot_to_come(subscriber: Subscriber, now: datetime) -> datetime:
    due_at = subscriber.next_slot_at
    return due_at if due_at is not None and due_at > now else _slot(subscriber, now)


def _range_from(subscriber: Subscriber, edition: Edition) -> int:
    if subscriber.paused_until is None:
        return subscriber.cursor
    return max(subscriber.cursor, edition.pause_floor[subscriber.schedule.frequency])


def _is_paused(draft: Draft) -> bool:
    until = draft.subscriber.paused_until
    return until is not None and draft.edition_on < until


def _compile(
    conn: Connection,
    edition: Edition,
    candidates: Candidates,
    drafts: Sequence[Draft],
    failed: Container[int],
    tried: TriedQueries,
) -> list[SlotResult]:
    barred = suppressions.suppressed_among(conn, [draft.subscriber.id for draft in drafts])
    silent = [(draft, reason) for draft in drafts if (reason := _skip_reason(draft, barred))]
    quiet = {draft.subscriber.id for draft, _ in silent}
    awake = [draft for draft in drafts if draft.subscriber.id not in quiet]
    inactive = inactivity.decide(conn, edition, awake)
    paused = [_paused(draft) for draft in awake if draft.subscriber.id in inactive.paused]
    silent += [(draft, SkipReason.PAUSED) for draft in paused]
    awake = [draft for draft in awake if draft.subscriber.id not in inactive.paused]
    inactivity.enqueue_notes(conn, edition, paused)
    saved_mail.enqueue(conn, edition, awake, _delay)
    ids = [draft.subscriber.id for draft in awake]
    gone = digests.supersede(conn, ids, f"superseded by the edition compiled at {edition.now:%F}")
    awake = [
        replace(d, range_from=min(d.range_from, gone[d.subscriber.id].range_from))
        if d.subscriber.id in gone
        else d
        for d in awake
    ]
    followed = _without(failed, topics.followed_by(conn, ids))
    wanted = {one.topic.id for subscriptions in followed.values() for one in subscriptions}
    if topics.is_any_behind(conn, wanted, edition.through):
        raise _TopicsBehindError
    seen = digests.sent_before(conn, ids, since=edition.now - NEVER_TWICE)
    candidates.load(conn, awake, followed)
    made = [
        (draft, *candidates.digest(draft, followed[draft.subscriber.id],
                                   seen.get(draft.subscriber.id, set())))
        for draft in awake
    ]  # fmt: skip
    unmatched = [draft for draft, _, skipped in made if skipped is SkipReason.NOTHING_MATCHED]
    contacts = _contacts(conn, edition, unmatched)
    nearest: dict[int, Digest] = {}
    for draft in unmatched:
        id_ = draft.subscriber.id
        if _is_near_miss_due(draft, contacts[id_]):
            found = candidates.near_misses(draft, followed[id_], seen.get(id_, set()))
            nearest |= {id_: found} if found else {}
    made = [
        (draft, nearest[draft.subscriber.id], None)
        if draft.subscriber.id in nearest
        else (draft, digest, skipped)
        for draft, digest, skipped in made
    ]
    made = [
        (draft, replace(digest, pauses_on=inactive.asked.get(draft.subscriber.id)), skipped)
        for draft, digest, skipped in made
    ]
    still_unmatched = [d for d in unmatched if d.subscriber.id not in nearest]
    notices = _notices(edition, still_unmatched, contacts, followed, tried)
    unasked = [(draft, Digest(draft.edition_on, ()), reason) for draft, reason in silent]
    return _write(conn, edition, [*made, *unasked], notices)


def _paused(draft: Draft) -> Draft:
    return replace(draft, subscriber=replace(draft.subscriber, paused_until=UNTIL_ACTIVE))


def _contacts(
    conn: Connection, edition: Edition, unmatched: Sequence[Draft]
) -> dict[int, LastContact]:
    """Return the last contact of each subscriber without a match, this edition included, by id."""
    if not unmatched:
        return {}
    today = {draft.subscriber.id: draft.edition_on for draft in unmatched}
    since = min(today.values()) - no_match_notice.longest(edition.quiet_days)
    contacts = no_match_notices.last_contact(conn, list(today), since=since)
    return {
        id_: replace(contact, unmatched=(*contact.unmatched, today[id_]))
        for id_, contact in contacts.items()
    }


def _is_near_miss_due(draft: Draft, contact: LastContact) -> bool:
    subscriber = draft.subscriber
    return not subscriber.welcome_due and no_match_notice.is_near_miss_due(
        contact, subscriber.schedule.frequency, subscriber.near_misses_after
    )


def _skip_reason(draft: Draft, barred: Container[int]) -> SkipReason | None:
    """Return the reason if the subscriber gets no mail even with matches, else None."""
    if draft.subscriber.id in barred:
        return SkipReason.SUPPRESSED
    return SkipReason.PAUSED if _is_paused(draft) else None


def _write(
    conn: Connection,
    edition: Edition,
    made: Sequence[tuple[Draft, Digest, SkipReason | None]],
    notices: Sequence[NewNotice],
) -> list[SlotResult]:
    won = [m for m in made if subscribers.serve(conn, _served(m[0], m[2], edition))]
    if len(won) != len(made):
        # This transaction locked the rows when it read them, so this is a bug and not a race.
        raise AssertionError("a locked subscriber was moved by somebody else")
    digests.enqueue(
        conn, [_new_digest(d, digest, edition) for d, digest, skip in won if skip is None],
        edition.now,
    )  # fmt: skip
    digests.record_skips(
        conn,
        [
            (d.subscriber.id, d.edition_on, d.slot_at, skip, *_range(d, skip, edition))
            for d, _, skip in won
            if skip is not None
        ],
    )
    no_match_notices.enqueue(conn, notices, edition.now)
    noted = {notice.subscriber_id for notice in notices}
    return [_outcome(*m, noted=m[0].subscriber.id in noted) for m in won]


def _notices(
    edition: Edition,
    unmatched: Sequence[Draft],
    contacts: Mapping[int, LastContact],
    followed: Mapping[int, Sequence[Subscription]],
    tried: TriedQueries,
) -> list[NewNotice]:
    """Return the notices of subscribers without a match for too long."""
    due = [
        draft
        for draft in unmatched
        if no_match_notice.is_due(
            contacts[draft.subscriber.id],
            draft.edition_on,
            draft.subscriber.schedule.frequency,
            edition.quiet_days,
        )
    ]
    wanted = [(followed[draft.subscriber.id], draft.subscriber.breadth) for draft in due]
    if untried := [one for one in wanted if tried.of(*one) is None]:
        raise _UntriedError(untried)
    return [
        NewNotice(
            subscriber_id=draft.subscriber.id,
            email=draft.subscriber.email,
            edition_on=draft.edition_on,
            slot_at=draft.slot_at,
            expires_at=_expires_at(draft, edition),
            suggestions=tried.of(*its_topics) or (),
            delay=_delay(draft, edition),
        )
        for draft, its_topics in zip(due, wanted, strict=True)
    ]


def _range(draft: Draft, skipped: SkipReason | None, edition: Edition) -> tuple[int, int]:
    """Return the batches (from, to] that this slot covers: none if the skip is silent."""
    if skipped in SILENT:
        return draft.subscriber.cursor, draft.subscriber.cursor
    return draft.range_from, edition.through


def _served(draft: Draft, skipped: SkipReason | None, edition: Edition) -> Served:
    subscriber = draft.subscriber
    # When a suppression is lifted, the next digest looks back no further than after a pause.
    silent_until = (subscriber.paused_until or draft.edition_on) if skipped in SILENT else None
    return Served(
        subscriber_id=subscriber.id,
        old_cursor=subscriber.cursor,
        cursor=_range(draft, skipped, edition)[1],
        slot_at=draft.slot_at,
        edition_on=draft.edition_on,
        next_slot_at=slots.next_slot(subscriber.schedule, draft.slot_at, draft.edition_on),
        paused_until=silent_until,
        welcome=subscriber.welcome_due,
    )


def _new_digest(draft: Draft, digest: Digest, edition: Edition) -> NewDigest:
    return NewDigest(
        subscriber_id=draft.subscriber.id,
        kind=_kind(draft),
        digest=digest,
        slot_at=draft.slot_at,
        expires_at=_expires_at(draft, edition),
        range_from=draft.range_from,
        range_to=edition.through,
        template=edition.template,
        delay=timedelta(0) if draft.subscriber.welcome_due else _delay(draft, edition),
    )


def _expires_at(draft: Draft, edition: Edition) -> datetime:
    return max(draft.slot_at, edition.now) + edition.expiry


def _delay(draft: Draft, edition: Edition) -> timedelta:
    return edition.spread * spread_position(draft.subscriber.id)


def _outcome(
    draft: Draft, digest: Digest, skipped: SkipReason | None, *, noted: bool
) -> SlotResult:
    log.debug("slot.compiled", subscriber=draft.subscriber.id, edition=str(draft.edition_on),
             papers=len(digest.picks), skipped=skipped, noted=noted)  # fmt: skip
    return SlotResult(
        draft.subscriber.id,
        draft.subscriber.email,
        _kind(draft),
        draft.edition_on,
        tuple(pick.paper.key for pick in digest.picks),
        skipped,
        noted,
    )


def _kind(draft: Draft) -> DeliveryKind:
    return DeliveryKind.WELCOME if draft.subscriber.welcome_due else DeliveryKind.DIGEST
