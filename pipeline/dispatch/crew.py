"""The connections of one drain: each takes ready messages to the mail server."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Final

import structlog

from pipeline.dispatch.committer import Committer
from pipeline.dispatch.decisions import settlement
from pipeline.dispatch.pace import Scope, scope
from pipeline.dispatch.pacing import Pacing
from pipeline.dispatch.ready import Message, Ready
from pipeline.domain import DeliveryStatus, Verdict
from pipeline.errors import RefusedError, TransportError
from pipeline.smtp import Connection, Outcome, Transport, without_addresses
from pipeline.storage.deliveries import Settlement

log = structlog.get_logger(__name__)

JOIN_POLL: Final = 0.2  # seconds between looks at the stop flag
REGROW_AFTER: Final = 30.0  # seconds that a crew stays small when the server has no more room
IDLE: Final = 10.0  # seconds that an idle connection is kept
LONGEST_PAUSE: Final = 8.0  # seconds between messages when the server finds us too fast
MOST_REFUSED: Final = 4  # messages in a row, before each further one has to wait
LONGEST_REFUSED_PAUSE: Final = 1.0  # seconds
GRACE: Final = 60.0  # seconds that a silent server has once we must stop; at 90 we are killed
REOPENINGS: Final = (0.5, 1.0, 2.0, 4.0)  # seconds between tries, before the server is given up


class Crew:
    """At most `size` carriers; `failure` is why they gave up, if they did."""

    def __init__(
        self, size: int, ready: Ready, committer: Committer, transport: Transport, pacing: Pacing
    ) -> None:
        self.failure: Exception | None = None
        self.ready = ready
        self.committer = committer
        self.pacing = pacing
        self.transport = transport
        self._size = size
        self._carriers: list[_Carrier] = []
        self._alive = 0
        self._grow_at = 0.0
        self._pause = 0.0
        self._refused = 0  # messages in a row, whoever they were for
        self._got_in = False  # a connection was opened in this drain
        self._give_up_at: float | None = None
        self._lock = threading.Lock()

    def grow(self) -> None:
        """One carrier more, unless all are here: messages are waiting."""
        if self._alive >= self._size or time.monotonic() < self._grow_at or self.failure:
            return
        carrier = _Carrier(self, name=f"carrier-{len(self._carriers) + 1}")
        self._carriers.append(carrier)
        self._count(1)
        carrier.start()

    def join(self, is_over: Callable[[], bool], must_stop: Callable[[], bool]) -> None:
        """Wait until everything ready is sent, or, once it is over, what is at hand.

        Where we must stop, a silent server is not waited for beyond GRACE: we would be killed in
        the middle of it. What has its dot is settled as uncertain, the rest given back.
        """
        self.ready.close()
        for carrier in self._carriers:
            while carrier.is_alive():
                if is_over():
                    self.ready.drop()
                if must_stop() and self._give_up_at is None:
                    self._give_up_at = time.monotonic() + GRACE
                carrier.join(JOIN_POLL)

    def gives_up(self) -> bool:
        """Whether carriers must not wait for the server any longer."""
        return self._give_up_at is not None and time.monotonic() >= self._give_up_at

    def halt(self, error: Exception) -> None:
        """Everybody finishes the message at hand, and takes no other."""
        with self._lock:
            self.failure = self.failure or error
        self.ready.drop()

    def open(self) -> Connection:
        """A connection; a lone carrier that was in before tries for a while."""
        for pause in REOPENINGS:
            try:
                connection = self.transport.open(self.gives_up)
            except TransportError:
                if self._alive > 1 or not self._got_in or self.failure or self._give_up_at:
                    raise
                time.sleep(pause)
            else:
                self._got_in = True
                return connection
        return self.transport.open(self.gives_up)

    @property
    def is_over(self) -> bool:
        return bool(self.failure or self.committer.error)

    def pace(self, outcome: Outcome) -> None:
        """Slow down when our own server says that we are too fast, whoever the recipient is."""
        if outcome.verdict is Verdict.THROTTLED and scope(outcome) is Scope.SERVER:
            self._pause = min(LONGEST_PAUSE, self._pause * 2 or 0.25)
        elif self._pause and outcome.verdict is Verdict.ACCEPTED:
            self._pause = self._pause / 2 if self._pause > 0.01 else 0.0

    def count_refusal(self, settled: Settlement) -> None:
        """Send slower while nothing is accepted: the guard needs a moment to see why."""
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

    def refused(self, error: RefusedError) -> None:
        """The server wants nothing from us: nobody tries again, here or elsewhere."""
        self.halt(error)
        self.pacing.refused(str(error))

    def leave(self, error: Exception | None = None) -> None:
        """A carrier goes; with the last one that found no server the drain is over.

        A server that allows fewer connections than we want thus only makes the crew smaller.
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


class _Carrier(threading.Thread):
    """One connection, one message at a time."""

    def __init__(self, crew: Crew, name: str) -> None:
        super().__init__(name=name)
        self._crew = crew
        self._connection: Connection | None = None
        self._unsettled: Settlement | None = None  # of the message before

    def run(self) -> None:
        reason: Exception | None = None
        try:
            while message := self._next():
                self._carry(message)
        except RefusedError as error:
            self._crew.refused(error)
        except TransportError as error:
            log.warning("no connection", error=str(error))
            reason = error
        except Exception as error:  # noqa: BLE001  (the thread's entry: the drain raises it)
            self._crew.halt(error)
        finally:
            self._settle_now()
            self._hang_up()
            self._crew.leave(reason)

    def _next(self) -> Message | None:
        """The next message; None when this carrier has nothing left to do."""
        ready = self._crew.ready
        message = None if self._crew.is_over else ready.take_now()
        if message:
            return message
        self._settle_now()  # nothing to join it with: do not sit on it
        while not (message or ready.is_over or self._crew.is_over):
            message = ready.take(IDLE)
            if message is None:
                self._hang_up()
        return message

    def _hang_up(self) -> None:
        if self._connection:
            self._connection.close()
            self._connection = None

    def _carry(self, message: Message) -> None:
        if self._crew.pacing.hands_back(message.delivery):
            self._crew.pacing.leave()
            return
        try:
            outcome = self._offer(message)
        except TransportError:
            self._crew.ready.put_back(message)
            raise
        if outcome is None:
            outcome = self._finish(message)
        if outcome:
            self._note(message, outcome)
        else:
            self._crew.pacing.leave()

    def _offer(self, message: Message) -> Outcome | None:
        """Everything but the dot, on a fresh connection if the one we had is gone."""
        outcome = self._begin(message)
        if outcome and outcome.verdict is Verdict.CONNECTION:
            return self._begin(message)
        return outcome

    def _begin(self, message: Message) -> Outcome | None:
        self._crew.wait_for_turn()
        if self._connection and self._connection.spent:
            self._hang_up()
        if self._connection is None:
            self._settle_now()  # a server may let us wait for a minute
            self._connection = self._crew.open()
        return self._connection.begin(message.sender, message.delivery.email, message.body)

    def _finish(self, message: Message) -> Outcome | None:
        """Mark, then the dot; None when the mark was lost and nothing was sent."""
        assert self._connection is not None  # noqa: S101  (it has just taken the body)
        previous, self._unsettled = self._unsettled, None
        if self._crew.committer.mark(message.delivery.id, previous):
            return self._connection.finish()
        self._connection.close()  # without its dot the message is withdrawn
        return None

    def _note(self, message: Message, outcome: Outcome) -> None:
        self._settle_now()
        self._crew.pace(outcome)
        delivery = message.delivery
        self._unsettled = settlement(delivery, outcome, spread=random.random())  # noqa: S311
        self._crew.count_refusal(self._unsettled)
        if outcome.verdict is not Verdict.ACCEPTED:
            log.warning(
                "not accepted", delivery=delivery.id, verdict=outcome.verdict, phase=outcome.phase
            )
        if outcome.verdict is Verdict.CONFIGURATION and outcome.reply:
            said = without_addresses(outcome.reply)
            self._crew.halt(RefusedError(f"the server refuses us: {said}"))
        self._crew.pacing.note(delivery, outcome)

    def _settle_now(self) -> None:
        if self._unsettled:
            self._crew.committer.settle(self._unsettled)
            self._unsettled = None
