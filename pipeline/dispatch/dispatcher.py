"""The way of a delivery from the outbox to the mail server.

One thread claims and composes, a few send, one commits. The order of the promises: a claim is
committed before the network is touched, a mark before the final dot, and the reply as soon as it
is there. Killed anywhere, the table tells what is sure and lists what is not.
"""

from __future__ import annotations

import gc
import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache, partial
from typing import Final, TypeVar

import structlog
from sqlalchemy import Connection, Engine

from pipeline.dispatch.committer import Committer, Lease
from pipeline.dispatch.crew import Crew
from pipeline.dispatch.decisions import not_composed, not_composed_yet
from pipeline.dispatch.pacing import Claim, Pacing, Rate
from pipeline.dispatch.ready import Message, Ready
from pipeline.domain import Delivery, DeliveryKind, DeliveryStatus, Told
from pipeline.errors import RefusedError, RenderError, TransportError
from pipeline.limits import Bucket
from pipeline.logs import set_aside
from pipeline.smtp import Transport
from pipeline.storage import deliveries, guard, holds
from pipeline.storage.breakers import Breaker
from pipeline.storage.database import UNREADABLE, outlast, reading, server_now
from pipeline.storage.guard import Trip

log = structlog.get_logger(__name__)

T = TypeVar("T")

POLL: Final = 0.2  # seconds between looks at the stop flag
IDLE: Final = 2.0  # seconds between looks at an empty outbox
LEAST_SLEEP: Final = 0.02  # seconds, where the next mail may leave at any moment
SOON: Final = timedelta(minutes=1)  # what is due within it is waited for
TIDY_EVERY: Final = 30.0  # seconds
OUTAGE: Final = 300.0  # seconds that the database may be away before a drain ends
OUTAGE_AT_THE_END: Final = 15.0  # the same once we must stop
MARGIN: Final = timedelta(minutes=1)  # by which a lease outlasts what it covers


@dataclass(frozen=True, slots=True)
class Tally:
    """What one drain did, in deliveries."""

    sent: int = 0
    deferred: int = 0  # queued again for a later try
    failed: int = 0  # suppressed ones too
    uncertain: int = 0
    cancelled: int = 0  # its reader left between claim and dot
    expired: int = 0


class DispatchStoppedError(TransportError):
    """The drain ended early: no server could be reached, or it refuses us as a whole (`refused`).

    `tally` has what was done until then; what was not sent is back in the outbox.
    """

    def __init__(self, message: str, tally: Tally, *, refused: bool = False) -> None:
        super().__init__(message)
        self.tally = tally
        self.refused = refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatcher:
    """Sends what is owed. Make one after the fork: it starts threads."""

    engine: Engine
    transport: Transport
    compose: Callable[[Delivery, Told | None], bytes]  # ready for the wire, without the dot
    load: Callable[[Connection, Sequence[Delivery]], Mapping[int, Told]]  # by delivery id
    sender: Callable[[Delivery], str]  # the envelope's, for bounces
    connections: int = 10
    chunk: int = 200  # deliveries a claim
    clock: Callable[[Connection], datetime] = server_now
    resend: frozenset[DeliveryKind] = frozenset({DeliveryKind.CONFIRMATION})
    # How long one attempt may last before and after the dot: what the transport keeps to.
    deadline: timedelta = timedelta(minutes=5)
    patience: timedelta = timedelta(minutes=10)
    rates: Sequence[Rate] = ()
    bucket: Bucket | None = None  # smooths what leaves in a second; None: as fast as it goes
    server: str = "smtp"  # the name of what `transport` opens, by which refusals are told apart

    def drain(
        self,
        *,
        once: bool = False,
        until: datetime | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Tally:
        """Send until `stop`, until `until` by `clock`, or with `once` until nothing is due.

        Whatever ends it, the message at hand is finished, its settlement written and every other
        lease given back. Raises DispatchStoppedError.
        """
        return _Drain(self, once=once, until=until, stop=stop).run()


class _Drain:
    """One run of a dispatcher, with its threads."""

    def __init__(
        self,
        plan: Dispatcher,
        *,
        once: bool,
        until: datetime | None,
        stop: Callable[[], bool],
    ) -> None:
        self._plan = plan
        self._once = once
        self._until = until
        self._stop = stop
        self._lease = Lease(
            uuid.uuid4().hex, plan.deadline + MARGIN, plan.patience + MARGIN, plan.server
        )
        self._committer = Committer(plan.engine, self._lease, plan.clock, self._gives_up)
        self._pacing = Pacing(
            self._transact, plan.clock, self._lease, plan.chunk, plan.rates, plan.bucket
        )
        self._ready = Ready(self._pacing.chunk)
        self._crew = Crew(
            plan.connections, self._ready, self._committer, plan.transport, self._pacing
        )
        self._committer.on_trip = self._hold
        self._refusal: RefusedError | None = None
        self._counted = 0  # refusals that ended a delivery which we had queued again
        self._waited_since: datetime | None = None
        self._expired = 0
        self._found_uncertain = 0
        self._tidy_at = 0.0
        self._claiming = False
        self._gave_up = False

    def run(self) -> Tally:
        self._committer.start()
        try:
            self._produce()
        except BaseException:
            self._ready.drop()  # also when somebody presses Ctrl-C: only the message at hand
            raise
        finally:
            self._finish()
        error = self._crew.failure or self._committer.error or self._refusal
        if isinstance(error, TransportError):
            refused = isinstance(error, RefusedError)
            raise DispatchStoppedError(str(error), self._tally(), refused=refused) from error
        if error:
            raise error
        return self._tally()

    # --- Claim and compose ----------------------------------------------------------------------

    def _produce(self) -> None:
        unsent: list[int] = []
        while not self._is_over():
            self._claim_anew(unsent)
            self._tidy()
            tokens = self._pacing.tokens()
            claim = self._transact(partial(self._claim, tokens))
            self._claiming = False
            if claim.deliveries:
                unsent = self._compose_all(claim.deliveries)
            elif self._once and not self._is_worth_waiting(claim):
                return
            else:
                self._sleep(claim)

    def _is_over(self) -> bool:
        return bool(self._crew.failure or self._committer.error or self._stop())

    def _claim(self, tokens: int, conn: Connection) -> Claim:
        now = self._now(conn)
        if self._claiming:
            # The try before may have been committed though we did not hear of it. Nobody would
            # send what it took, and we would renew it; what is ready is claimed and made anew.
            deliveries.give_back(conn, self._lease.token)
        self._claiming = True
        if self._until and now >= self._until:
            self._once = True  # nothing more is claimed, and the drain ends
            return Claim((), now)
        return self._pacing.claim(conn, tokens, now)

    def _compose_all(self, claimed: Sequence[Delivery]) -> list[int]:
        """Hand them to the crew; the ids of those that found no place before it was over."""
        digests = outlast(partial(self._load, claimed), self._gives_up)
        for number, delivery in enumerate(claimed):
            body = self._compose(delivery, digests.get(delivery.id))
            if body is None:
                self._pacing.leave()
                continue
            message = Message(delivery, self._plan.sender(delivery), body)
            self._crew.grow()
            while not self._ready.put(message, POLL):
                if self._is_over() or self._is_outdated():
                    return [one.id for one in claimed[number:]]
            if self._is_over():
                return [one.id for one in claimed[number + 1 :]]
        return []

    def _load(self, claimed: Sequence[Delivery]) -> Mapping[int, Told]:
        with reading(self._plan.engine) as conn:
            try:
                return self._plan.load(conn, claimed)
            except UNREADABLE:
                log.exception("deliveries loaded one by one")
            found: dict[int, Told] = {}
            for delivery in claimed:  # one that cannot be read must not hold up the others
                try:
                    found |= self._plan.load(conn, [delivery])
                except UNREADABLE as error:
                    set_aside("delivery", delivery.id, error)
            return found

    def _is_outdated(self) -> bool:
        """Something we have claimed must wait by now."""
        return self._committer.held_up.is_set() or self._pacing.stale.is_set()

    def _claim_anew(self, unsent: list[int]) -> None:
        """Give back what nobody has in hand, where some of it must wait; the rest comes again."""
        if not self._is_outdated():
            return
        self._committer.held_up.clear()
        self._pacing.stale.clear()
        unsent += [message.delivery.id for message in self._ready.clear()]
        token = self._lease.token
        self._transact(lambda conn: deliveries.hand_back(conn, unsent, token))

    def _compose(self, delivery: Delivery, digest: Told | None) -> bytes | None:
        try:
            return self._plan.compose(delivery, digest)
        except RenderError as error:
            log.critical("delivery not composed", delivery=delivery.id, error=str(error))
            self._committer.settle(not_composed(delivery, str(error)))
        except Exception as error:
            # One delivery that trips over a mistake of ours would else come first in every claim,
            # and nobody behind it would ever get mail.
            log.exception("delivery not composed", delivery=delivery.id)
            self._committer.settle(
                not_composed_yet(delivery, type(error).__name__, spread=_spread())
            )
        return None

    def _is_worth_waiting(self, claim: Claim) -> bool:
        """Whether a drain that ends when nothing is due goes on: what is due leaves soon."""
        if claim.breaker:
            if self._pacing.trying:
                return True
            self._refusal = RefusedError(_why_not(claim.breaker))
            return False
        if claim.is_ours:
            return True
        return claim.wait is not None and claim.wait <= SOON and not self._time_stands_still(claim)

    def _time_stands_still(self, claim: Claim) -> bool:
        """By a clock that somebody has set, nothing will ever leave later."""
        before, self._waited_since = self._waited_since, claim.at
        return bool(claim.wait) and before == claim.at

    def _sleep(self, claim: Claim) -> None:
        length = IDLE if claim.wait is None else min(IDLE, claim.wait.total_seconds())
        woken_at = time.monotonic() + max(length, LEAST_SLEEP)
        while (left := woken_at - time.monotonic()) > 0 and not self._is_over():
            time.sleep(min(POLL, left))

    def _tidy(self) -> None:
        """What nobody else does: leases of the dead, and deliveries whose time is over."""
        if time.monotonic() < self._tidy_at:
            return
        self._tidy_at = time.monotonic() + TIDY_EVERY
        found, resent = self._transact(self._recover)
        self._found_uncertain += found.uncertain
        if found.queued or found.uncertain or resent:
            log.warning(
                "leases recovered", queued=found.queued, uncertain=found.uncertain, resent=resent
            )
        self._judge()
        expired = deliveries.CHUNK
        while expired == deliveries.CHUNK:
            expired = self._transact(lambda conn: deliveries.expire_due(conn, self._now(conn)))
            self._expired += expired

    def _judge(self) -> None:
        """Have the guard count what is certainly about its reader, and hold what is not."""
        counted = guard.CHUNK
        while counted >= guard.CHUNK:
            judged = self._transact(
                lambda conn: guard.judge(conn, self._now(conn), server=self._lease.server)
            )
            counted = len(judged.counted)
            self._counted += judged.ended
            for trip in judged.trips:
                self._hold(trip)

    def _hold(self, trip: Trip) -> None:
        """The server refuses too many: stop at once, as where it refuses our login."""
        log.critical(
            "edition held: too many refusals",
            edition=str(trip.edition_on or holds.EVERYTHING),
            refused=trip.refused,
            reason=trip.reason,
        )
        self._crew.halt(RefusedError(f"sending is held: {trip.reason}"))

    def _recover(self, conn: Connection) -> tuple[deliveries.Recovery, int]:
        now = self._now(conn)
        found = deliveries.recover_leases(conn, now)
        return found, deliveries.resend_uncertain(conn, self._plan.resend, now)

    def _now(self, conn: Connection) -> datetime:
        return self._plan.clock(conn)

    def _transact(self, work: Callable[[Connection], T]) -> T:
        """In a transaction of its own, run again until the database does it."""

        def attempt() -> T:
            with self._plan.engine.begin() as conn:
                return work(conn)

        return outlast(attempt, self._gives_up)

    def _gives_up(self, away: float) -> bool:
        """Whether a database that has been away for so many seconds is not waited for any more.

        Meanwhile replies that have come wait in memory. Whoever must stop cannot keep them long.
        """
        if away > (OUTAGE_AT_THE_END if self._stop() else OUTAGE):
            self._gave_up = True  # once is enough for all that is still to be written
        return self._gave_up

    # --- End ------------------------------------------------------------------------------------

    def _finish(self) -> None:
        self._crew.join(self._is_over, self._stop)
        self._committer.stop()
        self._pacing.finish()
        if not self._committer.error:
            self._judge()
        self._transact(lambda conn: deliveries.give_back(conn, self._lease.token))

    def _tally(self) -> Tally:
        written = self._committer.written
        return Tally(
            sent=written[DeliveryStatus.SENT],
            deferred=max(0, written[DeliveryStatus.QUEUED] - self._counted),
            failed=written[DeliveryStatus.FAILED]
            + written[DeliveryStatus.SUPPRESSED]
            + self._counted,
            uncertain=written[DeliveryStatus.UNCERTAIN] + self._found_uncertain,
            cancelled=written[DeliveryStatus.CANCELLED],
            expired=self._expired,
        )


def _why_not(breaker: Breaker) -> str:
    until = f"{breaker.open_until:%Y-%m-%d %H:%M} UTC"
    return f"the server refuses us and is left alone until {until}: {breaker.reply}"


def _spread() -> float:
    return random.random()  # noqa: S311  (spreads retries, guards nothing)


@cache
def freeze_gc_once() -> None:
    """Exclude the objects that exist so far from garbage collection, once a process.

    Loading digests allocates so much that collections start every few claims; walking through all
    imported modules then takes more CPU than the loading itself. Frozen objects are never freed.
    """
    gc.collect()
    gc.freeze()
