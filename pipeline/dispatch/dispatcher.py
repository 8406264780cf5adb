"""Take deliveries from the outbox to the mail server.

One thread claims and composes, several threads send, one thread commits. A claim is committed
before the network is used, a mark before the final dot, and the reply as soon as it arrives. If the
process is killed at any point, the table shows which deliveries are certain and lists the uncertain
ones.
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

from pipeline.dispatch.group_commit import GroupCommit, Lease
from pipeline.dispatch.retry_policy import not_composed, not_composed_yet
from pipeline.dispatch.senders import ReadyMessage, SenderPool, SendQueue
from pipeline.dispatch.shared_throttle import Claim, Quota, SharedThrottle
from pipeline.domain import Delivery, DeliveryKind, DeliveryStatus, MailContent
from pipeline.errors import RefusedError, RenderError, TransportError
from pipeline.logs import set_aside
from pipeline.smtp import Transport
from pipeline.storage import deliveries, guard, send_controls
from pipeline.storage.database import UNREADABLE, read_only, retry_until_available, server_now
from pipeline.storage.guard import TripReason
from pipeline.storage.send_controls import CircuitBreaker
from pipeline.token_bucket import Bucket

log = structlog.get_logger(__name__)

T = TypeVar("T")

POLL: Final = 0.2  # seconds between checks of the stop flag
IDLE: Final = 2.0  # seconds between polls of an empty outbox
LEAST_SLEEP: Final = 0.02  # seconds; used when the next mail may be sent at any moment
SOON: Final = timedelta(minutes=1)  # a `once` drain waits for mail due within this time
NEXT_WAKE_UP: Final = timedelta(seconds=5)  # `tasks.DISPATCH_EVERY`
TIDY_EVERY: Final = 30.0  # seconds between runs of `_tidy`
OUTAGE: Final = 300.0  # seconds of database outage after which a drain ends
OUTAGE_AT_THE_END: Final = 15.0  # the same, once a stop was requested
MARGIN: Final = timedelta(minutes=1)  # by which a lease exceeds the deadline that it covers


@dataclass(frozen=True, slots=True)
class Tally:
    """Number of deliveries per outcome of one drain."""

    sent: int = 0
    deferred: int = 0  # queued again for a retry
    failed: int = 0  # includes suppressed deliveries
    uncertain: int = 0
    cancelled: int = 0  # its subscriber left or was suppressed after the claim
    expired: int = 0


class DispatchStoppedError(TransportError):
    """A drain ended early: no server was reachable, or the server refuses us (`refused`).

    `tally` counts the deliveries settled until then; unsent deliveries are back in the outbox.
    """

    def __init__(self, message: str, tally: Tally, *, refused: bool = False) -> None:
        super().__init__(message)
        self.tally = tally
        self.refused = refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatcher:
    """Send the due deliveries of the outbox. Create it after the fork, since it starts threads."""

    engine: Engine
    transport: Transport
    compose: Callable[
        [Delivery, MailContent | None], bytes
    ]  # encoded for the wire, without the final dot
    load: Callable[[Connection, Sequence[Delivery]], Mapping[int, MailContent]]  # by delivery id
    sender: Callable[[Delivery], str]  # returns the envelope sender, where bounces arrive
    connections: int = 10
    chunk: int = 200  # deliveries per claim
    clock: Callable[[Connection], datetime] = server_now
    resend: frozenset[DeliveryKind] = frozenset({DeliveryKind.CONFIRMATION})
    # Maximum duration of one attempt before and after the final dot; the transport enforces both.
    deadline: timedelta = timedelta(minutes=5)
    patience: timedelta = timedelta(minutes=10)
    rates: Sequence[Quota] = ()
    bucket: Bucket | None = None  # limits mails per second; None: no limit
    server: str = "smtp"  # name of the server behind `transport`; recorded with each refusal

    def drain(
        self,
        *,
        once: bool = False,
        limit: timedelta | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Tally:
        """Send until `stop()` is true or, if `once`, nothing is due within a minute.

        With a `limit`, end as soon as nothing is due, and after that time, which is measured by
        this process alone: its clock may differ from that of the database.

        Return the tally. However the drain ends, the messages being sent are finished, their
        settlements are written and all other leases are given back. Raise DispatchStoppedError if
        no server is reachable or the server refuses us as a whole; any other error of a thread is
        raised as it is.
        """
        return _Drain(self, once=once, limit=limit, stop=stop).run()


class _Drain:
    """One run of a dispatcher, with its threads."""

    def __init__(
        self,
        plan: Dispatcher,
        *,
        once: bool,
        limit: timedelta | None,
        stop: Callable[[], bool],
    ) -> None:
        self._plan = plan
        self._once = once
        self._ends_at = None if limit is None else time.monotonic() + limit.total_seconds()
        self._stop = stop
        self._lease = Lease(
            uuid.uuid4().hex, plan.deadline + MARGIN, plan.patience + MARGIN, plan.server
        )
        self._committer = GroupCommit(plan.engine, self._lease, plan.clock, self._give_up)
        self._throttle = SharedThrottle(
            self._transact, plan.clock, self._lease, plan.chunk, plan.rates, plan.bucket
        )
        self._ready = SendQueue(self._throttle.chunk)
        self._pool = SenderPool(
            plan.connections, self._ready, self._committer, plan.transport, self._throttle
        )
        self._committer.on_trip = self._hold
        self._refusal: RefusedError | None = None
        self._counted = 0  # refusals counted by the guard that ended a delivery queued again before
        self._waited_since: datetime | None = None
        self._expired = 0
        self._recovered_uncertain = 0
        self._tidy_at = 0.0
        self._claiming = False
        self._gave_up = False

    def run(self) -> Tally:
        self._committer.start()
        try:
            self._claim_until_over()
        except BaseException:
            self._ready.close_now()  # also on Ctrl-C: only messages being sent are finished
            raise
        finally:
            self._finish()
        error = self._pool.failure or self._committer.error or self._refusal
        if isinstance(error, TransportError):
            refused = isinstance(error, RefusedError)
            raise DispatchStoppedError(str(error), self._tally(), refused=refused) from error
        if error:
            raise error
        return self._tally()

    # --- Claim and compose ----------------------------------------------------------------------

    def _claim_until_over(self) -> None:
        unsent: list[int] = []
        while not (self._is_over() or self._has_reached_limit()):
            self._hand_back_outdated(unsent)
            self._tidy()
            tokens = self._throttle.tokens()
            claim = self._transact(partial(self._claim, tokens))
            self._claiming = False
            if claim.deliveries:
                unsent = self._compose_all(claim.deliveries)
            elif self._is_idle(claim):
                return
            else:
                self._sleep(claim)

    def _has_reached_limit(self) -> bool:
        return self._ends_at is not None and time.monotonic() >= self._ends_at

    def _is_idle(self, claim: Claim) -> bool:
        """Return whether the drain ends because this claim is empty.

        One with a limit continues only if mail is due before the next wake-up.
        """
        if self._ends_at is not None:
            return not claim.is_ours and (claim.wait is None or claim.wait > NEXT_WAKE_UP)
        return self._once and not self._should_wait(claim)

    def _is_over(self) -> bool:
        return bool(self._pool.failure or self._committer.error or self._stop())

    def _claim(self, tokens: int, conn: Connection) -> Claim:
        if self._claiming:
            # The previous attempt may have been committed although its answer was lost. Without
            # this statement its deliveries would be renewed under our lease and never sent.
            # Messages that are ready are given back, too, and claimed and composed again.
            deliveries.give_back(conn, self._lease.token)
        self._claiming = True
        return self._throttle.claim(conn, tokens, self._now(conn))

    def _compose_all(self, claimed: Sequence[Delivery]) -> list[int]:
        """Compose each claimed delivery and queue it for the sender threads.

        Return the ids of the deliveries that were not queued because the drain is over or the claim
        is outdated; [] if all were queued.
        """
        digests = retry_until_available(partial(self._load, claimed), self._give_up)
        for number, delivery in enumerate(claimed):
            body = self._compose(delivery, digests.get(delivery.id))
            if body is None:
                self._throttle.end_probe()
                continue
            message = ReadyMessage(delivery, self._plan.sender(delivery), body)
            self._pool.grow()
            while not self._ready.put(message, POLL):
                if self._is_over() or self._is_outdated():
                    return [one.id for one in claimed[number:]]
            if self._is_over():
                return [one.id for one in claimed[number + 1 :]]
        return []

    def _load(self, claimed: Sequence[Delivery]) -> Mapping[int, MailContent]:
        with read_only(self._plan.engine) as conn:
            try:
                return self._plan.load(conn, claimed)
            except UNREADABLE:
                log.exception("deliveries.load_failed")
            found: dict[int, MailContent] = {}
            for delivery in claimed:  # an unreadable row must not block the others
                try:
                    found |= self._plan.load(conn, [delivery])
                except UNREADABLE as error:
                    set_aside("delivery", delivery.id, error)
            return found

    def _is_outdated(self) -> bool:
        """Return whether claimed deliveries may have to wait now (a hold or a new throttle)."""
        return self._committer.is_outdated.is_set() or self._throttle.stale.is_set()

    def _hand_back_outdated(self, unsent: list[int]) -> None:
        """Return unsent deliveries to the outbox if some of them must wait.

        Those that need not wait are claimed again.
        """
        if not self._is_outdated():
            return
        self._committer.is_outdated.clear()
        self._throttle.stale.clear()
        unsent += [message.delivery.id for message in self._ready.clear()]
        token = self._lease.token
        self._transact(lambda conn: deliveries.hand_back(conn, unsent, token))

    def _compose(self, delivery: Delivery, content: MailContent | None) -> bytes | None:
        try:
            return self._plan.compose(delivery, content)
        except RenderError as error:
            log.critical("delivery.not_composed", delivery=delivery.id, error=str(error))
            self._committer.settle(not_composed(delivery, str(error)))
        except Exception as error:
            # A delivery that fails because of a bug of ours would otherwise come first in every
            # claim, and no delivery behind it would ever be sent. Its retry is delayed.
            log.exception("delivery.not_composed", delivery=delivery.id)
            self._committer.settle(
                not_composed_yet(delivery, type(error).__name__, spread=_spread())
            )
        return None

    def _should_wait(self, claim: Claim) -> bool:
        """Return whether a `once` drain continues although this claim is empty.

        It does while this drain probes the breaker, holds deliveries of a throttled domain, or
        has mail that is due within SOON. If the breaker is open, set the refusal that `run` raises.
        """
        if claim.breaker:
            if self._throttle.is_probing:
                return True
            self._refusal = RefusedError(_breaker_reason(claim.breaker))
            return False
        if claim.is_ours:
            return True
        return claim.wait is not None and claim.wait <= SOON and not self._is_clock_fixed(claim)

    def _is_clock_fixed(self, claim: Claim) -> bool:
        """Return whether the clock is fixed, as in tests: then waiting never makes anything due."""
        before, self._waited_since = self._waited_since, claim.at
        return bool(claim.wait) and before == claim.at

    def _sleep(self, claim: Claim) -> None:
        length = IDLE if claim.wait is None else min(IDLE, claim.wait.total_seconds())
        woken_at = time.monotonic() + max(length, LEAST_SLEEP)
        while (left := woken_at - time.monotonic()) > 0 and not self._is_over():
            time.sleep(min(POLL, left))

    def _tidy(self) -> None:
        """Recover expired leases, judge refusals and expire overdue deliveries.

        Runs at most every TIDY_EVERY seconds.
        """
        if time.monotonic() < self._tidy_at:
            return
        self._tidy_at = time.monotonic() + TIDY_EVERY
        found, resent = self._transact(self._recover)
        self._recovered_uncertain += found.uncertain
        if found.queued or found.uncertain or resent:
            log.warning(
                "leases.recovered", queued=found.queued, uncertain=found.uncertain, resent=resent
            )
        self._judge()
        expired = deliveries.CHUNK
        while expired == deliveries.CHUNK:
            expired = self._transact(lambda conn: deliveries.expire_due(conn, self._now(conn)))
            self._expired += expired

    def _judge(self) -> None:
        """Have the guard count refusals that concern the recipient; hold editions with too many."""
        counted = guard.CHUNK
        while counted >= guard.CHUNK:
            judged = self._transact(
                lambda conn: guard.judge(conn, self._now(conn), server=self._lease.server)
            )
            counted = len(judged.counted)
            self._counted += judged.ended
            for trip in judged.trips:
                self._hold(trip)

    def _hold(self, trip: TripReason) -> None:
        """Stop the drain at once, as if the login was refused: too many refusals."""
        log.critical(
            "edition.held",
            edition=str(trip.edition_on or send_controls.EVERYTHING),
            refused=trip.refused,
            reason=trip.reason,
        )
        self._pool.halt(RefusedError(f"sending is held: {trip.reason}"))

    def _recover(self, conn: Connection) -> tuple[deliveries.Recovery, int]:
        now = self._now(conn)
        found = deliveries.recover_leases(conn, now)
        return found, deliveries.resend_uncertain(conn, self._plan.resend, now)

    def _now(self, conn: Connection) -> datetime:
        return self._plan.clock(conn)

    def _transact(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction, and retry it until the database is reachable again."""

        def attempt() -> T:
            with self._plan.engine.begin() as conn:
                return work(conn)

        return retry_until_available(attempt, self._give_up)

    def _give_up(self, away: float) -> bool:
        """Return whether to stop waiting for a database that has been away for `away` seconds.

        During an outage, received replies wait in memory; a process that must stop cannot keep them
        for long. Once True, it stays True for all remaining writes.
        """
        if away > (OUTAGE_AT_THE_END if self._stop() else OUTAGE):
            self._gave_up = True  # do not wait again for each remaining write
        return self._gave_up

    # --- End ------------------------------------------------------------------------------------

    def _finish(self) -> None:
        self._pool.join(self._is_over, self._stop)
        self._committer.stop()
        self._throttle.finish()
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
            uncertain=written[DeliveryStatus.UNCERTAIN] + self._recovered_uncertain,
            cancelled=written[DeliveryStatus.CANCELLED],
            expired=self._expired,
        )


def _breaker_reason(breaker: CircuitBreaker) -> str:
    until = f"{breaker.open_until:%Y-%m-%d %H:%M} UTC"
    return f"the server refuses us and is left alone until {until}: {breaker.reply}"


def _spread() -> float:
    return random.random()  # noqa: S311  (spreads retries, guards nothing)


@cache
def freeze_gc_once() -> None:
    """Exclude all objects that exist so far from garbage collection, once per process.

    Loading digests allocates so much that a collection starts every few claims; walking through all
    imported modules then takes more CPU than the loading itself. Frozen objects are never freed.
    """
    gc.collect()
    gc.freeze()
