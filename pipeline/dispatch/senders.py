"""Sender threads of one drain, and the queue of composed messages before them."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from pipeline.dispatch.group_commit import GroupCommit
from pipeline.dispatch.retry_policy import settlement_of
from pipeline.dispatch.shared_throttle import SharedThrottle
from pipeline.domain import Delivery, DeliveryStatus, Verdict
from pipeline.errors import RefusedError, TransportError
from pipeline.smtp import Connection, Decision, Scope, Transport, without_addresses
from pipeline.storage.deliveries import Settlement

log = structlog.get_logger(__name__)

JOIN_POLL: Final = 0.2  # seconds between checks of the stop flag
REGROW_AFTER: Final = 30.0  # seconds before a thread is added again after a connection failed
IDLE: Final = 10.0  # seconds that an idle connection is kept open
LONGEST_PAUSE: Final = 8.0  # seconds between messages while the server throttles us
MOST_REFUSED: Final = 4  # refused messages in a row before each further message is delayed
LONGEST_REFUSED_PAUSE: Final = 1.0  # seconds
GRACE: Final = 60.0  # seconds to wait for a silent server once we must stop; SIGKILL follows at 90
REOPENINGS: Final = (0.5, 1.0, 2.0, 4.0)  # seconds between attempts to reconnect, before giving up


class SenderPool:
    """Pool of at most `size` sender threads; `failure` is the error that stopped it, if any."""

    def __init__(
        self,
        size: int,
        ready: SendQueue,
        committer: GroupCommit,
        transport: Transport,
        throttle: SharedThrottle,
    ) -> None:
        self.failure: Exception | None = None
        self.ready = ready
        self.committer = committer
        self.throttle = throttle
        self.transport = transport
        self._size = size
        self._threads: list[_SenderThread] = []
        self._alive = 0
        self._grow_at = 0.0
        self._pause = 0.0
        self._refused = 0  # messages in a row, to any recipient
        self._was_connected = False  # a connection was opened in this drain
        self._give_up_at: float | None = None
        self._lock = threading.Lock()

    def grow(self) -> None:
        """Start another thread unless all are running or a connection failed recently."""
        if self._alive >= self._size or time.monotonic() < self._grow_at or self.failure:
            return
        thread = _SenderThread(self, name=f"sender-{len(self._threads) + 1}")
        self._threads.append(thread)
        self._count(1)
        thread.start()

    def join(self, is_over: Callable[[], bool], must_stop: Callable[[], bool]) -> None:
        """Close the queue and wait for the threads.

        Every ready message is sent; once `is_over()`, only the messages being sent are finished.
        Once `must_stop()`, do not wait for a silent server longer than GRACE, since the process
        would be killed during the wait. After that, a message with its final dot is settled as
        uncertain, the others are given back.
        """
        self.ready.close()
        for thread in self._threads:
            while thread.is_alive():
                if is_over():
                    self.ready.close_now()
                if must_stop() and self._give_up_at is None:
                    self._give_up_at = time.monotonic() + GRACE
                thread.join(JOIN_POLL)

    def give_up(self) -> bool:
        """Return whether threads must stop waiting for the server."""
        return self._give_up_at is not None and time.monotonic() >= self._give_up_at

    def halt(self, error: Exception) -> None:
        """Stop the pool: each thread finishes its message and takes no other."""
        with self._lock:
            self.failure = self.failure or error
        self.ready.close_now()

    def open(self) -> Connection:
        """Open a connection. Raise TransportError, RefusedError.

        If this is the only thread and the drain had a connection before, retry for the 7.5 seconds
        of REOPENINGS; otherwise raise at once.
        """
        for pause in REOPENINGS:
            try:
                connection = self.transport.open(self.give_up)
            except TransportError:
                if self._alive > 1 or not self._was_connected or self.failure or self._give_up_at:
                    raise
                time.sleep(pause)
            else:
                self._was_connected = True
                return connection
        return self.transport.open(self.give_up)

    @property
    def is_over(self) -> bool:
        return bool(self.failure or self.committer.error)

    def adapt_pause(self, decision: Decision) -> None:
        """Adapt the pause between messages to replies in which our own server throttles us.

        The pause doubles from 0.25 seconds to LONGEST_PAUSE, and is halved by each accepted
        message.
        """
        if decision.scope is Scope.ACCOUNT:
            self._pause = min(LONGEST_PAUSE, self._pause * 2 or 0.25)
        elif self._pause and decision.verdict is Verdict.ACCEPTED:
            self._pause = self._pause / 2 if self._pause > 0.01 else 0.0

    def count_refusal(self, settled: Settlement) -> None:
        """Count refusals in a row; `wait_for_turn` slows down so that the guard can see them."""
        if settled.is_refusal:
            self._refused += 1
        elif settled.status is DeliveryStatus.SENT:
            self._refused = 0

    def wait_for_turn(self) -> None:
        too_many = self._refused - MOST_REFUSED
        pause = self._pause
        if too_many > 0:
            pause = max(pause, min(LONGEST_REFUSED_PAUSE, 0.02 * 1.5 ** min(too_many, 20)))
        if pause:
            time.sleep(pause)

    def stop_all(self, error: RefusedError) -> None:
        """Stop the pool and, by the circuit breaker, all other senders: the server refuses us."""
        self.halt(error)
        self.throttle.open_breaker(str(error))

    def thread_ended(self, error: Exception | None = None) -> None:
        """Remove a thread; stop the drain if it was the last one and found no server.

        If a server allows fewer connections than configured, the pool only becomes smaller.
        """
        if error:
            self._grow_at = time.monotonic() + REGROW_AFTER
        if self._count(-1) == 0 and error:
            self.halt(error)

    def _count(self, change: int) -> int:
        with self._lock:
            self._alive += change
            self.committer.expect(self._alive)
            return self._alive


class _SenderThread(threading.Thread):
    """Sender thread with one connection; sends one message at a time."""

    def __init__(self, pool: SenderPool, name: str) -> None:
        super().__init__(name=name)
        self._pool = pool
        self._connection: Connection | None = None
        self._unsettled: Settlement | None = None  # of the previous message

    def run(self) -> None:
        reason: Exception | None = None
        try:
            while message := self._next():
                self._send(message)
        except RefusedError as error:
            self._pool.stop_all(error)
        except TransportError as error:
            log.warning("connection.failed", error=str(error))
            reason = error
        except Exception as error:  # noqa: BLE001  (the thread's entry: the drain raises it)
            self._pool.halt(error)
        finally:
            self._settle_now()
            self._close_connection()
            self._pool.thread_ended(reason)

    def _next(self) -> ReadyMessage | None:
        """Return the next message, or None if there is no message left or the pool has stopped."""
        ready = self._pool.ready
        message = None if self._pool.is_over else ready.take_now()
        if message:
            return message
        self._settle_now()  # no next mark to commit it with: write it now
        while not (message or ready.is_over or self._pool.is_over):
            message = ready.take(IDLE)
            if message is None:
                self._close_connection()
        return message

    def _close_connection(self) -> None:
        if self._connection:
            self._connection.close()
            self._connection = None

    def _send(self, message: ReadyMessage) -> None:
        if self._pool.throttle.hand_back_if_paused(message.delivery):
            self._pool.throttle.end_probe()
            return
        try:
            decision = self._begin_with_retry(message)
        except TransportError:
            self._pool.ready.put_back(message)
            raise
        if decision is None:
            decision = self._finish(message)
        if decision:
            self._record(message, decision)
        else:
            self._pool.throttle.end_probe()

    def _begin_with_retry(self, message: ReadyMessage) -> Decision | None:
        """Send everything but the final dot; retry once if the connection was lost.

        Return None if the server waits for the dot.
        """
        decision = self._begin(message)
        if decision and decision.verdict is Verdict.CONNECTION:
            return self._begin(message)
        return decision

    def _begin(self, message: ReadyMessage) -> Decision | None:
        self._pool.wait_for_turn()
        if self._connection and self._connection.is_exhausted:
            self._close_connection()
        if self._connection is None:
            self._settle_now()  # connecting may take a minute
            self._connection = self._pool.open()
        return self._connection.begin(message.sender, message.delivery.email, message.body)

    def _finish(self, message: ReadyMessage) -> Decision | None:
        """Mark the delivery, then send the final dot.

        Return the decision, or None if the mark was not granted and nothing was sent.
        """
        assert self._connection is not None  # noqa: S101  (it has just taken the body)
        previous, self._unsettled = self._unsettled, None
        if self._pool.committer.mark(message.delivery.id, previous):
            return self._connection.finish()
        self._connection.close()  # without its final dot the server discards the message
        return None

    def _record(self, message: ReadyMessage, decision: Decision) -> None:
        self._settle_now()
        self._pool.adapt_pause(decision)
        delivery = message.delivery
        self._unsettled = settlement_of(delivery, decision, spread=random.random())  # noqa: S311
        self._pool.count_refusal(self._unsettled)
        if decision.verdict is not Verdict.ACCEPTED:
            log.warning(
                "delivery.not_accepted",
                delivery=delivery.id,
                verdict=decision.verdict,
                phase=decision.phase,
            )
        if decision.scope is Scope.SERVER and decision.reply:
            said = without_addresses(decision.reply)
            self._pool.halt(RefusedError(f"the server refuses us: {said}"))
        self._pool.throttle.record(delivery, decision)

    def _settle_now(self) -> None:
        if self._unsettled:
            self._pool.committer.settle(self._unsettled)
            self._unsettled = None


@dataclass(frozen=True, slots=True)
class ReadyMessage:
    """A delivery with its envelope sender and its body as `smtp` expects it."""

    delivery: Delivery
    sender: str
    body: bytes


class SendQueue:
    """Bounded queue of messages; limits memory for an outbox of any length."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._messages: deque[ReadyMessage] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, message: ReadyMessage, timeout: float) -> bool:
        """Append a message; return False if the queue is still full after `timeout` seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._has_room, timeout):
                return False
            self._messages.append(message)
            self._changed.notify()
            return True

    def put_back(self, message: ReadyMessage) -> None:
        """Put a message back at the front, even if the queue is full."""
        with self._changed:
            self._messages.appendleft(message)
            self._changed.notify_all()

    def take_now(self) -> ReadyMessage | None:
        """Return the next message, or None if the queue is empty."""
        with self._changed:
            return self._take()

    def take(self, timeout: float) -> ReadyMessage | None:
        """Return the next message; None if none came in time, or the queue is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._messages or self._closed, timeout)
            return self._take()

    @property
    def is_over(self) -> bool:
        """Return whether the queue is closed and empty."""
        with self._changed:
            return self._closed and not self._messages

    def clear(self) -> list[ReadyMessage]:
        """Remove and return all waiting messages; the queue stays open."""
        with self._changed:
            waiting = list(self._messages)
            self._messages.clear()
            self._changed.notify_all()
            return waiting

    def close(self) -> None:
        """Close the queue: no message will be added, and takers stop when it is empty."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def close_now(self) -> None:
        """Close the queue and discard the waiting messages."""
        with self._changed:
            self._messages.clear()
            self._closed = True
            self._changed.notify_all()

    @property
    def _has_room(self) -> bool:
        return len(self._messages) < self._capacity

    def _take(self) -> ReadyMessage | None:
        if not self._messages:
            return None
        message = self._messages.popleft()
        if len(self._messages) == self._capacity // 2:
            self._changed.notify_all()  # the composer sleeps until half of the queue is free
        return message
