"""Where a sender's time goes: thread CPU, measured at the seams of the dispatcher.

CPU of the thread and not time on the clock, since the threads of a sender wait for each other,
for the disk and for the mail server.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeVar, cast

from sqlalchemy import Connection, Engine

from pipeline.dispatch import Dispatcher
from pipeline.domain import Delivery, Told
from pipeline.smtp import Outcome, Transport
from pipeline.smtp.transport import Connection as Conversation
from pipeline.smtp.transport import never

T = TypeVar("T")


class Step(StrEnum):
    CLAIM = "claim"  # the transactions that take deliveries, tidy and give back
    LOAD = "load"  # frozen digests from the database
    COMPOSE = "compose"  # a digest to the bytes on the wire
    SEND = "send"  # SMTP: open, offer, final dot, close
    COMMIT = "commit"  # marks and settlements: all that the committer's thread does
    REST = "rest"  # the process's CPU but for the above: threads and lines between them


class Meter:
    """Seconds of thread CPU by step, and what was composed. Safe in threads."""

    def __init__(self) -> None:
        self.seconds: dict[Step, float] = dict.fromkeys(Step, 0.0)
        self.octets = 0
        self._lock = threading.Lock()

    @contextmanager
    def measure(self, step: Step) -> Iterator[None]:
        started = time.thread_time()
        try:
            yield
        finally:
            self.add(step, time.thread_time() - started)

    def add(self, step: Step, seconds: float, octets: int = 0) -> None:
        with self._lock:
            self.seconds[step] += seconds
            self.octets += octets

    def note_total(self, step: Step) -> None:
        """All CPU of the calling thread so far belongs to `step`."""
        with self._lock:
            self.seconds[step] = time.thread_time()


def measured(dispatcher: Dispatcher, meter: Meter) -> Dispatcher:
    """The same dispatcher, its parts put under a meter."""
    load, compose, clock = dispatcher.load, dispatcher.compose, dispatcher.clock
    caller = threading.current_thread()

    def timed_load(conn: Connection, claimed: Sequence[Delivery]) -> Mapping[int, Told]:
        with meter.measure(Step.LOAD):
            return load(conn, claimed)

    def timed_compose(delivery: Delivery, digest: Told | None) -> bytes:
        started = time.thread_time()
        body = compose(delivery, digest)
        meter.add(Step.COMPOSE, time.thread_time() - started, len(body))
        return body

    def noting_clock(conn: Connection) -> datetime:
        # The committer asks for the time in each of its transactions, and in no other thread of a
        # drain does anybody ask but in the caller's. Only its last commit goes unnoted.
        if threading.current_thread() is not caller:
            meter.note_total(Step.COMMIT)
        return clock(conn)

    return replace(
        dispatcher,
        engine=cast(Engine, TimedEngine(dispatcher.engine, meter)),
        transport=TimedTransport(dispatcher.transport, meter),
        load=timed_load,
        compose=timed_compose,
        clock=noting_clock,
    )


class TimedEngine:
    """An engine whose `begin` is measured to the end of COMMIT: so the caller of a drain claims."""

    def __init__(self, engine: Engine, meter: Meter) -> None:
        self._engine = engine
        self._meter = meter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        with self._meter.measure(Step.CLAIM), self._engine.begin() as conn:
            yield conn


class TimedTransport:
    def __init__(self, transport: Transport, meter: Meter) -> None:
        self._transport = transport
        self._meter = meter

    def open(self, give_up: Callable[[], bool] = never) -> Conversation:
        with self._meter.measure(Step.SEND):
            opened = self._transport.open(give_up)
            return cast(Conversation, TimedConversation(opened, self._meter))


class TimedConversation:
    def __init__(self, connection: Conversation, meter: Meter) -> None:
        self._connection = connection
        self._meter = meter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def begin(self, sender: str, recipient: str, body: bytes) -> Outcome | None:
        return self._timed(lambda: self._connection.begin(sender, recipient, body))

    def finish(self) -> Outcome:
        return self._timed(self._connection.finish)

    def close(self) -> None:
        self._timed(self._connection.close)

    def _timed(self, work: Callable[[], T]) -> T:
        started = time.thread_time()
        outcome = work()
        self._meter.add(Step.SEND, time.thread_time() - started)
        return outcome
