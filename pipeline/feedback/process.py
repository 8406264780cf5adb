"""Apply feedback about deliveries: one transaction for each event, and each event only once.

Strangers can write such feedback, so it changes data only if it proves which delivery it is about:
by a bounce address or a Message-ID that we signed, by the secret in an unsubscribe request, or by
a provider's signature, since a provider may name a mail by its own queue id.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

import structlog
from sqlalchemy import Connection, Engine

from pipeline.domain import (
    CountedEvent,
    Notice,
    NoticeKind,
    StrikeKind,
    Subscriber,
    SuppressionReason,
    Verdict,
)
from pipeline.feedback.bounces.original import masked
from pipeline.message import Sender, named_by
from pipeline.smtp import strike_of
from pipeline.storage import (
    addresses,
    daily_counts,
    deliveries,
    delivery_queries,
    events,
    guard,
    refusals,
    subscribers,
    suppressions,
)
from pipeline.storage.database import retry_transaction
from pipeline.storage.delivery_queries import FoundDelivery
from pipeline.storage.events import StoredEvent

log = structlog.get_logger(__name__)


MAIL: Final = "mail"  # the provider's name of events that arrived as mail


class Effect(StrEnum):
    """The effect of a notice."""

    SUPPRESSED = "suppressed"
    COUNTED = "counted"  # a strike, but not the last one
    HELD = "held"  # not counted until others of the edition are accepted; see storage.guard
    LEFT = "left"
    NOTED = "noted"  # informational, or about an address that no subscriber has any more
    NOT_OURS = "not ours"  # no proof of the delivery it is about: stored, not applied
    KNOWN = "known"  # a duplicate, applied before
    FAILED = "failed"  # a bug, or a value that the database rejects: see the log


@dataclass(frozen=True, slots=True)
class Event:
    """A verified event, from a provider's webhook or a mailbox."""

    id: str  # the provider's own id, the same if the event is sent again
    kind: str  # the provider's name for it
    raw: str
    notices: tuple[Notice, ...] = ()
    queue_id: str | None = None  # of the mail, from the provider's reply when it accepted it


@dataclass(frozen=True, slots=True)
class _Applied:
    effect: Effect
    found: FoundDelivery | None = None
    subscriber_id: int | None = None


@dataclass(frozen=True, slots=True)
class Feedback:
    """Apply feedback to the database; each public method is a transaction with retries.

    `sender` verifies our Message-IDs and bounce addresses; `suppression_key` hashes addresses.
    """

    engine: Engine
    sender: Sender
    suppression_key: str = field(repr=False)

    def apply(self, notice: Notice, now: datetime) -> Effect:
        """Apply one notice that needs no provider's proof, and return its effect. Idempotent."""
        done = self._apply_alone(notice, now)
        _log(done, notice.kind)
        return done.effect

    def take(self, provider: str, event: Event, now: datetime) -> tuple[Effect, ...]:
        """Store an event, apply its notices in the same transaction, and return their effects.

        Return only KNOWN if the provider has sent this event before; it is not applied again, even
        if its effect was undone in between.
        """
        results = self._take(provider, event, now)
        if results is None:
            return (Effect.KNOWN,)
        for done in results:
            _log(done, event.kind, provider=provider)
        return tuple(done.effect for done in results)

    def take_mail(self, octets: bytes, notice: Notice, now: datetime) -> Effect:
        """Apply the notice of a mail like `take`; the event id is the SHA-256 hash of its octets.

        Only the result of parsing is stored, not the mail itself: the mailbox keeps that.
        """
        said = {"status": notice.status, "verdict": notice.verdict, "message": notice.message_id}
        event = Event(hashlib.sha256(octets).hexdigest(), notice.kind, json.dumps(said), (notice,))
        return self.take(MAIL, event, now)[0]

    @retry_transaction
    def _apply_alone(self, notice: Notice, now: datetime) -> _Applied:
        with self.engine.begin() as conn:
            return self._apply_notice(conn, notice, None, now)

    @retry_transaction
    def _take(self, provider: str, event: Event, now: datetime) -> list[_Applied] | None:
        stored = StoredEvent(provider, event.id, event.kind, event.raw)
        with self.engine.begin() as conn:
            event_id = events.add(conn, stored, now)
            if event_id is None:
                return None
            results = [self._apply_notice(conn, n, event.queue_id, now) for n in event.notices]
            self._complete_event(conn, event_id, event, results)
        return results

    def _complete_event(
        self, conn: Connection, event_id: int, event: Event, results: Sequence[_Applied]
    ) -> None:
        named = [address for notice in event.notices for address in notice.recipients]
        ours = next((done for done in results if done.subscriber_id), None)
        events.record_effect(
            conn,
            event_id,
            raw=event.raw if ours else masked(event.raw),
            effect=", ".join(sorted({done.effect for done in results})) or Effect.NOTED,
            delivery_id=ours.found.delivery_id if ours and ours.found else None,
            subscriber_id=ours.subscriber_id if ours else None,
            address_hash=self._hash(named[0]) if named else None,
        )
        if any(done.found and done.found.is_erased for done in results):
            events.redact(conn, event_id)

    def _hash(self, address: str) -> str:
        # An address in a mail or an event may have lone surrogates, which cannot be encoded.
        letters = address.encode("utf-8", "replace").decode()
        return addresses.address_hash(letters, self.suppression_key)

    # --- Delivery lookup ------------------------------------------------------------------------

    def _apply_notice(
        self, conn: Connection, notice: Notice, queue_id: str | None, now: datetime
    ) -> _Applied:
        found = self._find_delivery(conn, notice, queue_id)
        # Lock the subscriber before any delivery, as every transaction does: no deadlocks.
        subscriber = _locked(conn, found) if found else None
        if notice.kind is NoticeKind.UNSUBSCRIBE:
            return _unsubscribe(conn, _requester(conn, notice) or subscriber, found, now)
        if found is None:
            return _Applied(Effect.NOT_OURS)
        if deliveries.settle_uncertain(conn, found.delivery_id, now):
            log.info("delivery.settled", delivery=found.delivery_id)
        strike = strike_of_bounce(notice)
        if not (strike or notice.kind is NoticeKind.COMPLAINT):
            return _Applied(Effect.NOTED, found, found.subscriber_id)
        outcome = notice.verdict or notice.kind if strike else deliveries.COMPLAINT
        kind = deliveries.record_outcome(conn, found.delivery_id, outcome)
        effect = self._apply_to_address(conn, strike, notice, found, subscriber, now)
        if kind:
            event = CountedEvent.BOUNCED if strike else CountedEvent.COMPLAINED
            daily_counts.add(conn, {(kind, event): 1}, now)
        return _Applied(effect, found, found.subscriber_id)

    def _find_delivery(
        self, conn: Connection, notice: Notice, queue_id: str | None
    ) -> FoundDelivery | None:
        """Return the delivery that a notice is proven to be about; None without a proof.

        By Message-ID, then by bounce address, then by queue id.
        """
        dedupe_key = self.sender.dedupe_key_of(notice.message_id or "")
        found = delivery_queries.by_dedupe_key(conn, dedupe_key) if dedupe_key else None
        if found:
            return found
        found = self._find_by_envelope(conn, notice.envelope or "")
        if found or not queue_id:
            return found
        found = delivery_queries.by_queue_id(conn, queue_id)
        # A server may use a queue id again, so the recipient must match, too.
        return found if found and self._was_sent_to(found, notice.recipients) else None

    def _find_by_envelope(self, conn: Connection, envelope: str) -> FoundDelivery | None:
        delivery_id = named_by(envelope)
        found = delivery_queries.by_id(conn, delivery_id) if delivery_id else None
        if found and self.sender.is_envelope_of(envelope, found.delivery_id, found.dedupe_key):
            return found
        return None

    def _was_sent_to(self, found: FoundDelivery, recipients: Sequence[str]) -> bool:
        sent_to = self._hash(found.address) if found.address else found.address_hash
        return sent_to in map(self._hash, recipients)

    # --- Effects --------------------------------------------------------------------------------

    def _apply_to_address(
        self,
        conn: Connection,
        strike: StrikeKind | None,
        notice: Notice,
        found: FoundDelivery,
        subscriber: Subscriber | None,
        now: datetime,
    ) -> Effect:
        if found.address is not None:
            return self._apply_to_other_address(conn, strike, notice, found, now)
        if subscriber is None:
            return Effect.NOTED
        if strike is None:
            suppressions.suppress(conn, found.address_hash, SuppressionReason.COMPLAINT, now)
            subscribers.leave(conn, subscriber.id, now)
            return Effect.SUPPRESSED
        strike = refusals.countable(strike, found.edition_on)
        if strike is None or found.is_vouched:
            return Effect.NOTED
        return _count(conn, notice, found, found.address_hash, strike, now)

    def _apply_to_other_address(
        self,
        conn: Connection,
        strike: StrikeKind | None,
        notice: Notice,
        found: FoundDelivery,
        now: datetime,
    ) -> Effect:
        """Apply a notice to another address than its subscriber's, such as one not confirmed yet.

        It is no evidence about the subscriber's own address.
        """
        if not found.address:
            return Effect.NOTED
        address_hash = self._hash(found.address)
        if notice.kind is NoticeKind.COMPLAINT:
            suppressions.suppress(conn, address_hash, SuppressionReason.COMPLAINT, now)
            return Effect.SUPPRESSED
        if strike is not StrikeKind.HARD:
            return Effect.NOTED
        return _count(conn, notice, found, address_hash, strike, now)


def _locked(conn: Connection, found: FoundDelivery) -> Subscriber | None:
    """Return the subscriber of a delivery, with the row locked.

    Return None if the mail went to another address, or if the subscriber has been erased or has
    changed addresses since.
    """
    if found.address is not None or not found.is_current:
        return None
    return subscribers.by_id(conn, found.subscriber_id, for_change=True)


def _unsubscribe(
    conn: Connection, subscriber: Subscriber | None, found: FoundDelivery | None, now: datetime
) -> _Applied:
    if subscriber is None:
        return _Applied(Effect.NOT_OURS, found)
    subscribers.leave(conn, subscriber.id, now)
    return _Applied(Effect.LEFT, found, subscriber.id)


def _requester(conn: Connection, notice: Notice) -> Subscriber | None:
    """Return the subscriber with the secret of an unsubscribe request, locked; None if unknown.

    List-Unsubscribe puts the secret into such a mail.
    """
    if notice.secret is None or not notice.secret.isprintable():
        return None
    return subscribers.by_secret(conn, notice.secret, for_change=True)


def _count(
    conn: Connection,
    notice: Notice,
    found: FoundDelivery,
    address_hash: str,
    strike: StrikeKind,
    now: datetime,
) -> Effect:
    """Record a bounce and let the guard judge its edition, in the caller's transaction.

    Return HELD if the guard does not count the bounce yet; else SUPPRESSED if the address is now
    suppressed, or COUNTED. Return NOTED if the delivery's recipient is no longer known.
    """
    recipient = refusals.recipient_of(conn, found.delivery_id)
    if recipient is None:
        return Effect.NOTED
    said = notice.reason or " ".join(filter(None, (notice.status, notice.verdict)))
    bounce = refusals.Refusal(
        found.delivery_id,
        found.edition_on,
        address_hash,
        recipient.domain,
        strike,
        ends_as=None,
        wording=refusals.wording(said, recipient.email),
        server="",
        at=now,
    )
    refusals.record(conn, bounce)
    for trip in guard.judge(conn, now, editions=[found.edition_on]).trips:
        log.critical(
            "edition.held",
            edition=str(trip.edition_on),
            refused=trip.refused,
            reason=trip.reason,
        )
    if not refusals.is_counted(conn, found.delivery_id):
        return Effect.HELD
    barred = suppressions.by_hash(conn, address_hash)
    return Effect.SUPPRESSED if barred else Effect.COUNTED


def _log(done: _Applied, kind: str, provider: str = MAIL) -> None:
    log.info(
        "feedback.applied",
        provider=provider,
        kind=kind,
        effect=done.effect,
        delivery=done.found.delivery_id if done.found else None,
        subscriber=done.subscriber_id,
    )


def strike_of_bounce(notice: Notice) -> StrikeKind | None:
    """Return how a notice counts against its address; None if it does not, or is no bounce."""
    if notice.kind not in {NoticeKind.HARD, NoticeKind.SOFT}:
        return None
    # Every parser sets the verdict of a bounce; without one, the kind is the evidence.
    by_kind = Verdict.HARD if notice.kind is NoticeKind.HARD else Verdict.SOFT
    return strike_of(notice.verdict or by_kind, notice.status)
