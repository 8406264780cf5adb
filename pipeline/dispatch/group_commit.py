"""Group commit: write the marks and settlements of many connections in few transactions.

One commit per message would cost more than the message, since a disk flush takes milliseconds. A
single thread writes all pending requests, at once or after a few milliseconds in which others join.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count
from typing import Final

import structlog
from sqlalchemy import Connection, Engine

from pipeline.domain import DeliveryStatus
from pipeline.storage import deliveries, guard, refusals
from pipeline.storage.database import retry_until_available
from pipeline.storage.deliveries import Settlement
from pipeline.storage.guard import TripReason

log = structlog.get_logger(__name__)

BURST_GAP: Final = 1.0  # idle seconds after which the connection returns to the pool
JOIN_TIME: Final = 0.005  # maximum seconds that a request waits for others to join


@dataclass(frozen=True, slots=True)
class Lease:
    """Name under which a drain holds deliveries, and its durations."""

    token: str
    length: timedelta  # of a claim; renewed while it waits, and longer than one attempt
    patience: timedelta  # of a mark: the time allowed for the reply to the final dot
    server: str = "smtp"  # name of the server that the deliveries are sent through


@dataclass(slots=True)
class _Request:
    """Request of a sender thread to mark a delivery before its final dot."""

    delivery_id: int
    answered: threading.Lock = field(default_factory=threading.Lock)
    granted: bool = False


class GroupCommit:
    """The only thread of a drain that writes settlements and marks.

    `error` is the exception that stopped it, or None.
    """

    def __init__(
        self,
        engine: Engine,
        lease: Lease,
        clock: Callable[[Connection], datetime],
        give_up: Callable[[float], bool] = lambda _away: False,
    ) -> None:
        self.error: Exception | None = None
        self.written: Counter[DeliveryStatus] = Counter()
        self.is_outdated = threading.Event()  # some claimed deliveries must wait: claim again
        self.on_trip: Callable[[TripReason], None] = lambda _trip: (
            None
        )  # called when an edition is held
        self._engine = engine
        self._lease = lease
        self._clock = clock
        self._give_up = give_up  # called with the seconds of database outage so far
        self._wake = threading.Condition()
        self._requests: list[_Request] = []
        self._settlements: list[Settlement] = []
        self._stopping = False
        self._idle = False
        self._connections = 1
        self._renew_at = time.monotonic() + self._renewal_gap
        self._refused: set[int] = set()  # delivery ids since the last check of the guard
        self._check_at = 0.0
        self._thread = threading.Thread(target=self._run, name="committer")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Write all pending requests, then stop the thread. Do not submit anything afterwards."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()

    def expect(self, connections: int) -> None:
        """Set the number of connections; when all of them wait, no further request can join."""
        self._connections = max(1, connections)

    def settle(self, settlement: Settlement) -> None:
        """Queue a settlement; return before it is written."""
        with self._wake:
            self._settlements.append(settlement)
            self._notify_if_needed()

    def mark(self, delivery_id: int, previous: Settlement | None) -> bool:
        """Write `previous` and mark the delivery in one commit; return True if its dot may be sent.

        Block until the commit is done. Return False if the mark is not granted (the lease was lost,
        the delivery was cancelled, suppressed, expired or held) or the committer has stopped.
        """
        request = _Request(delivery_id)
        request.answered.acquire()  # released by the committer
        with self._wake:
            if self.error or self._stopping:
                return False
            if previous:
                self._settlements.append(previous)
            self._requests.append(request)
            self._notify_if_needed()
        request.answered.acquire()
        return request.granted

    def _notify_if_needed(self) -> None:
        """Wake the thread if it is idle, or if all connections wait for it."""
        if self._idle or len(self._requests) >= self._connections:
            self._wake.notify()

    # --- The thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._is_done():
                if self._wait_for_work(self._renewal_gap):
                    self._write_burst()
        except Exception as error:  # noqa: BLE001  (the thread's entry: the drain raises it)
            # Pending writes are lost; their deliveries are recovered when the lease expires.
            self.error = error
        finally:
            self._deny_pending()

    def _is_done(self) -> bool:
        with self._wake:
            return self._stopping and not (self._requests or self._settlements)

    def _wait_for_work(self, within: float) -> bool:
        """Wait for work; return False if none came within `within` seconds or the thread must stop.

        Also return True when the lease has to be renewed.
        """
        until = min(time.monotonic() + within, self._renew_at)
        with self._wake:
            while not (self._requests or self._settlements):
                left = until - time.monotonic()
                if left <= 0 or self._stopping:
                    return not self._stopping and time.monotonic() >= self._renew_at
                self._idle = True
                self._wake.wait(left)
                self._idle = False
            self._wait_for_others()
            return True

    def _write_burst(self) -> None:
        """Write on one connection for as long as work keeps coming.

        Taking a connection from the pool costs a round trip; a connection idle for longer than
        BURST_GAP is returned, since it may be dead when it is needed.
        """
        with retry_until_available(self._engine.connect, self._give_up) as conn:
            self._write(conn)
            while self._wait_for_work(BURST_GAP):
                self._write(conn)

    def _wait_for_others(self) -> None:
        until = time.monotonic() + JOIN_TIME
        while len(self._requests) < self._connections and not self._stopping:
            left = until - time.monotonic()
            if left <= 0 or not self._wake.wait(left):
                return

    def _write(self, conn: Connection) -> None:
        with self._wake:
            requests, self._requests = self._requests, []
            settlements, self._settlements = self._settlements, []
        ids = [request.delivery_id for request in requests]
        tries = count()

        def commit() -> set[int]:
            return self._commit(conn, ids, settlements, again=next(tries) > 0)

        try:
            granted = retry_until_available(commit, self._give_up)
            for request in requests:
                request.granted = request.delivery_id in granted
        finally:
            for request in requests:
                request.answered.release()
        self._check_refusals(conn, settlements)

    def _check_refusals(self, conn: Connection, settlements: list[Settlement]) -> None:
        """Have the guard check the editions of new refusals.

        Uses at most a fifth of the thread's time.
        """
        self._refused |= {one.delivery_id for one in settlements if one.is_refusal}
        begun_at = time.monotonic()
        if not self._refused or begun_at < self._check_at:
            return

        def check() -> list[TripReason]:
            with conn.begin():
                editions = refusals.editions_of(conn, self._refused)
                return guard.watch(conn, editions, self._clock(conn))

        trips = retry_until_available(check, self._give_up)
        self._refused.clear()
        self._check_at = time.monotonic() + 4 * (time.monotonic() - begun_at)
        for trip in trips:
            self.is_outdated.set()
            self.on_trip(trip)

    def _commit(
        self, conn: Connection, ids: list[int], settlements: list[Settlement], *, again: bool
    ) -> set[int]:
        """Write settlements and marks in one transaction; return the ids of the granted marks.

        If `again`, an earlier attempt may have been committed although its answer was lost, so
        marks that this lease holds already are granted, too. Deliveries that are not granted are
        withdrawn or queued again. Renews the lease when due.
        """
        written: Counter[DeliveryStatus] = Counter()
        granted: set[int] = set()
        handed_back = 0
        token = self._lease.token
        with conn.begin():
            now = self._clock(conn)
            if settlements:
                written = deliveries.settle(conn, settlements, token, now, self._lease.server)
            if ids:
                granted = deliveries.marked(conn, ids, token) if again else set()
                granted |= deliveries.mark(conn, ids, token, self._lease.patience, now)
            lost = [id_ for id_ in ids if id_ not in granted]
            if lost:
                written[DeliveryStatus.CANCELLED] += deliveries.withdraw(conn, lost, token)
                handed_back = deliveries.hand_back(conn, lost, token)
            if time.monotonic() >= self._renew_at:
                deliveries.renew(conn, token, self._lease.length, now)
                self._renew_at = time.monotonic() + self._renewal_gap
        self._count(written, len(settlements), lost)
        if handed_back:
            self.is_outdated.set()
        return granted

    def _count(self, written: Counter[DeliveryStatus], settlements: int, lost: list[int]) -> None:
        settled = written.total() - written[DeliveryStatus.CANCELLED]
        if settled < settlements:
            log.warning("settlements.late", count=settlements - settled)
        for id_ in lost:
            log.info("mark.lost", delivery=id_)
        self.written += written

    @property
    def _renewal_gap(self) -> float:
        return self._lease.length.total_seconds() / 3

    def _deny_pending(self) -> None:
        with self._wake:
            self._stopping = True
            requests, self._requests = self._requests, []
        for request in requests:
            request.answered.release()
