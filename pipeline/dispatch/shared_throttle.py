"""Limit the claims of a drain, and share its refusals with all other senders.

Tokens are taken before the claim, so a sender with N tokens claims at most N deliveries. Quotas and
throttles are rows that are read and written in the transaction of the claim, so a sender that
crashes in it has used nothing. Refusals are written at once, in short transactions of their own.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import partial
from typing import Final, Protocol, TypeVar

import structlog
from sqlalchemy import Connection

from pipeline.dispatch import throttle
from pipeline.dispatch.group_commit import Lease
from pipeline.domain import Delivery, Verdict
from pipeline.smtp import Decision, Scope, without_addresses
from pipeline.storage import (
    deliveries,
    delivery_queries,
    guard,
    rate_limits,
    refusals,
    send_controls,
    throttles,
)
from pipeline.storage.delivery_queries import InHand
from pipeline.storage.send_controls import CircuitBreaker
from pipeline.storage.throttles import Throttle, ThrottleState
from pipeline.token_bucket import Bucket

log = structlog.get_logger(__name__)

T = TypeVar("T")

LONGEST_REPLY: Final = 300  # characters of a server's reply that are kept
A_MOMENT: Final = timedelta(seconds=1)  # in which some mail in flight is likely to be settled


class Transact(Protocol):
    """Run `work` in a transaction of its own; retry it while the database is unreachable."""

    def __call__(self, work: Callable[[Connection], T]) -> T: ...


@dataclass(frozen=True, slots=True)
class Quota:
    """Quota of our own mail server: at most `most` mails in any window of this length."""

    name: str  # of its row: "smtp:day"
    most: int
    window: timedelta

    @property
    def chunk(self) -> int:
        """Return the maximum size of a claim; deliveries claimed but not sent use up quota, too."""
        return max(1, self.most // 50)


@dataclass(frozen=True, slots=True)
class Claim:
    """Result of a claim; if it is empty, the time before which a retry is useless."""

    deliveries: Sequence[Delivery]
    at: datetime
    until: datetime | None = None  # None: nothing is due
    breaker: CircuitBreaker | None = None  # set if the circuit breaker prevents the claim
    is_ours: bool = False  # prevented by deliveries in flight of this drain, which end soon

    @property
    def wait(self) -> timedelta | None:
        return self.until - self.at if self.until else None


class SharedThrottle:
    """Throttles, quotas and circuit breaker as one drain uses them; their rows are shared."""

    def __init__(
        self,
        transact: Transact,
        clock: Callable[[Connection], datetime],
        lease: Lease,
        chunk: int,
        rates: Sequence[Quota] = (),
        bucket: Bucket | None = None,
    ) -> None:
        self._transact = transact
        self._clock = clock
        self._lease = lease
        self._rates = tuple(rates)
        self._bucket = bucket
        self.chunk = min([chunk, *(rate.chunk for rate in self._rates)])
        self._throttled: frozenset[str] | None = None  # throttled domains at the last claim
        self._in_flight = InHand(0, 0)  # deliveries in flight that left no room, at the last claim
        self._accepted: Counter[str] = Counter()  # by throttled domain, since the last claim
        self._probe_passed = False  # during a probe: the server accepted or judged our mail
        self._lock = threading.Lock()
        self._probe_reason = ""  # the reply that opened the probed breaker
        self.is_probing = False  # this drain holds the one probe of a half-open breaker
        self._paused: set[date] = set()  # editions that this drain has paused
        self.stale = threading.Event()  # some claimed deliveries may have to wait now

    # --- Before a claim -------------------------------------------------------------------------

    def tokens(self) -> int:
        """Return how many mails may be sent in this second.

        May ask Redis, so do not call it inside a transaction.
        """
        return self._bucket.take(self.chunk) if self._bucket else self.chunk

    def claim(self, conn: Connection, tokens: int, now: datetime) -> Claim:
        """Claim deliveries that may be sent now, at most `tokens`.

        If the breaker is open, return an empty claim with the time to retry; if it is half open,
        try to become the probe and claim a single delivery.
        """
        breaker = send_controls.circuit_breaker(conn)
        if breaker and self._probe_passed and send_controls.close_breaker(conn, self._lease.token):
            breaker = None
        if breaker and not send_controls.probe_breaker(
            conn, self._lease.token, now, self._lease.length
        ):
            return Claim((), now, max(breaker.open_until, now), breaker)
        limit, free_at = self._quota_left(conn, 1 if breaker else tokens, now)
        claimed = self._claim(conn, limit, now) if limit else []
        for rate in self._rates if claimed else ():
            rate_limits.take_quota(conn, rate.name, len(claimed), rate.window, now)
        if breaker and not claimed:
            send_controls.abandon_probe(conn, self._lease.token)
        self.is_probing = bool(breaker and claimed)
        self._probe_reason = breaker.reply if breaker else ""
        self._probe_passed = False
        if claimed:
            self._paused.difference_update(one.edition_on for one in claimed if one.edition_on)
            return Claim(claimed, now)
        if not limit:
            return Claim((), now, free_at)
        until = throttles.next_turn(conn, now)
        if self._in_flight.total:
            until = min(until or now + A_MOMENT, now + A_MOMENT)
        return Claim((), now, until, is_ours=self._in_flight.ours > 0)

    def _quota_left(
        self, conn: Connection, tokens: int, now: datetime
    ) -> tuple[int, datetime | None]:
        """Return the room that all quotas have left, and if none, when there will be some."""
        limit = min(tokens, self.chunk)
        until: datetime | None = now if limit == 0 else None
        for rate in self._rates:
            left = rate_limits.remaining_quota(conn, rate.name, rate.most, rate.window, now)
            limit = min(limit, left)
            if left == 0:
                free_at = rate_limits.quota_free_at(conn, rate.name, rate.window, now)
                until = max(until or now, free_at)
        return limit, until

    def _claim(self, conn: Connection, limit: int, now: datetime) -> list[Delivery]:
        throttled = throttles.list_all(conn)
        besides = frozenset(one.domain for one in throttled)
        self._set_throttled(besides)
        self._in_flight = InHand(0, 0)
        claimed: list[Delivery] = []
        # Throttled domains first: behind a long outbox their few turns would never come.
        for known in throttled:
            if len(claimed) < limit:
                claimed += self._claim_throttled(conn, known.domain, limit - len(claimed), now)
        if len(claimed) < limit:
            claimed += self._take(conn, limit - len(claimed), now, besides=besides)
        return claimed

    def _set_throttled(self, throttled: frozenset[str]) -> None:
        """Set `stale` if a domain was throttled since the last claim; our mail may be for it."""
        before, self._throttled = self._throttled, throttled
        if before is not None and throttled - before:
            self.stale.set()

    def _claim_throttled(
        self, conn: Connection, domain: str, limit: int, now: datetime
    ) -> list[Delivery]:
        """Claim deliveries to a throttled domain, within its rate and its mails in flight."""
        grown = self._after_accepted(conn, domain, now)
        if grown is None:
            return []  # no longer throttled: the next claim takes its mail
        turns = min(limit, throttle.allowance(grown, now))
        if turns:
            turns = min(turns, self._room(conn, grown, now))
        claimed = self._take(conn, turns, now, domain=domain) if turns else []
        if claimed:
            throttles.replace(conn, grown, throttle.after_claim(grown, len(claimed), now))
        return claimed

    def _room(self, conn: Connection, known: Throttle, now: datetime) -> int:
        """Return how many more mails to a throttled domain may be in flight."""
        held = delivery_queries.in_hand(conn, known.domain, self._lease.token, now)
        room = max(0, throttle.most_in_flight(known) - held.total)
        if room == 0:
            self._in_flight += held
        return room

    def _record_accepted(self, domain: str, conn: Connection) -> None:
        self._after_accepted(conn, domain, self._clock(conn))

    def _after_accepted(self, conn: Connection, domain: str, now: datetime) -> Throttle | None:
        """Return the throttle of a domain after its newly accepted mails; None if it is free.

        Locks its row until the end of the transaction. The throttle is also deleted a day after the
        last refusal.
        """
        known = throttles.by_domain(conn, domain)
        with self._lock:
            accepted = self._accepted.pop(domain, 0)
        if known is None:
            return None
        grown = throttle.accepted(known, accepted, now) if accepted else known
        if grown is None or throttle.is_outdated(known, now):
            throttles.free(conn, known)
            log.info("domain.unthrottled", domain=domain)
            return None
        if grown != known:
            throttles.replace(conn, known, grown)
        return grown

    def _take(
        self,
        conn: Connection,
        limit: int,
        now: datetime,
        *,
        domain: str | None = None,
        besides: frozenset[str] = frozenset(),
    ) -> list[Delivery]:
        lease = self._lease
        return deliveries.claim(
            conn, limit, lease.token, lease.length, now, domain=domain, besides=besides
        )

    # --- After a reply --------------------------------------------------------------------------

    def record(self, delivery: Delivery, decision: Decision) -> None:
        """Apply the consequences of a reply that go beyond its delivery (throttle, breaker)."""
        if decision.verdict is Verdict.CONNECTION:
            self.end_probe()
        elif decision.scope is not Scope.SERVER:
            if self.is_probing and self._is_probe_reason(decision):
                self.open_breaker(self._probe_reason)
                return
            self._probe_passed = self.is_probing
        if decision.verdict is Verdict.ACCEPTED:
            if self._throttled and delivery.domain in self._throttled:
                with self._lock:
                    self._accepted[delivery.domain] += 1
            return
        said = without_addresses(decision.reply)[:LONGEST_REPLY] if decision.reply else ""
        match decision.scope:
            case Scope.DOMAIN if delivery.domain:
                self._throttle_domain(delivery.domain, decision.verdict, said)
            case Scope.EDITION:
                self._record_auth_failure(delivery, said)
            case Scope.SERVER:
                self.open_breaker(said)

    def _is_probe_reason(self, decision: Decision) -> bool:
        """Return whether the probe of a half-open breaker met the same reply that had opened it."""
        if decision.reply is None or not decision.permanent:
            return False
        said = refusals.wording(str(decision.reply))
        return bool(said) and self._probe_reason.endswith(said)

    def hand_back_if_paused(self, delivery: Delivery) -> bool:
        """Return a delivery to the outbox if its edition was paused since the claim."""
        if delivery.edition_on not in self._paused:
            return False
        self._transact(lambda conn: deliveries.hand_back(conn, [delivery.id], self._lease.token))
        return True

    def open_breaker(self, said: str) -> None:
        """Open the circuit breaker: the server was reached and refuses us as a whole."""
        until = self._transact(lambda conn: self._write_breaker(conn, said))
        self.is_probing = self._probe_passed = False
        if until:
            log.critical("breaker.opened", said=said, until=until.isoformat())

    def finish(self) -> None:
        """End the probe and write the acceptances counted since the last claim.

        They are known to this drain only.
        """
        self.end_probe()
        for domain in list(self._accepted):
            self._transact(partial(self._record_accepted, domain))

    def end_probe(self) -> None:
        """End the probe of a half-open breaker; close the breaker if the server let us in."""
        if self.is_probing:
            end = send_controls.close_breaker if self._probe_passed else send_controls.abandon_probe
            self._transact(lambda conn: end(conn, self._lease.token))
            self.is_probing = self._probe_passed = False

    def _write_breaker(self, conn: Connection, said: str) -> datetime | None:
        """Open the breaker and return until when; None if another sender opened it meanwhile."""
        now = self._clock(conn)
        known = send_controls.circuit_breaker(conn)
        length = throttle.open_for(known.refusals + 1 if known else 1)
        if known is None:
            opened = send_controls.open_breaker(conn, said, now, length)
        else:
            opened = send_controls.reopen_breaker(conn, known, said, now, length)
        return now + length if opened else None

    def _throttle_domain(self, domain: str, verdict: Verdict, said: str) -> None:
        state = ThrottleState.BLOCKED if verdict is Verdict.BLOCKED else ThrottleState.SLOWED
        throttled = self._transact(lambda conn: self._write_throttle(conn, domain, state, said))
        if throttled is None:
            return
        self._set_throttled((self._throttled or frozenset()) | {domain})
        log_at = log.error if state is ThrottleState.BLOCKED else log.warning
        log_at(
            "domain.throttled",
            domain=domain,
            state=state,
            said=said,
            mails_a_minute=round(throttled.allowance, 1),
            until=throttled.not_before.isoformat(),
        )

    def _write_throttle(
        self, conn: Connection, domain: str, state: ThrottleState, said: str
    ) -> Throttle | None:
        now = self._clock(conn)
        known = throttles.by_domain(conn, domain)
        throttled = throttle.refused(known, domain, state, said, now)
        if known is None:
            return throttled if throttles.insert(conn, throttled) else None
        is_new = throttled != known and throttles.replace(conn, known, throttled)
        return throttled if is_new else None

    def _record_auth_failure(self, delivery: Delivery, said: str) -> None:
        log.critical("authentication.failed", delivery=delivery.id, said=said)
        edition_on = delivery.edition_on
        self._transact(
            lambda conn: send_controls.record_auth_failure(
                conn,
                edition_on,
                delivery.subscriber_id,
                self._clock(conn),
                keep=throttle.DISTRUST_WINDOW,
            )
        )
        # Counted after the record is committed: of two concurrent senders, at least one sees both.
        if edition_on and self._transact(lambda conn: self._pause(conn, edition_on)):
            log.critical("edition.paused", edition=str(edition_on))
            self._paused.add(edition_on)
            self.stale.set()

    def _pause(self, conn: Connection, edition_on: date) -> bool:
        now = self._clock(conn)
        found = send_controls.count_auth_failures(
            conn, edition_on, since=now - throttle.DISTRUST_WINDOW
        )
        if not throttle.is_authentication_failing(*found):
            return False
        why = "recipients' servers do not believe that our mail is ours: check SPF, DKIM and DMARC"
        return guard.hold(conn, edition_on, why, now)
