"""Profile of a sender: CPU time of its threads, measured at the interfaces of the dispatcher.

CPU time and not wall time, since the threads of a sender wait for each other, for the disk and for
the mail server.
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
from pipeline.domain import Delivery, MailContent
from pipeline.smtp import Decision, Transport
from pipeline.smtp.session import Connection as Conversation
from pipeline.smtp.stream import never_give_up

T = TypeVar("T")


class Step(StrEnum):
    CLAIM = "claim"  # transactions that claim, tidy and give back
    LOAD = "load"  # digests from the database
    COMPOSE = "compose"  # a digest to the bytes on the wire
    SEND = "send"  # SMTP: open, offer, final dot, close
    COMMIT = "commit"  # marks and settlements: the whole committer thread
    REST = "rest"  # CPU of the process without the above: threads, and code between


class Meter:
    """Seconds of thread CPU by step, and octets composed. Safe in threads."""

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
        """Set the seconds of `step` to all CPU that the calling thread has used so far."""
        with self._lock:
            self.seconds[step] = time.thread_time()


def measured(dispatcher: Dispatcher, meter: Meter) -> Dispatcher:
    """Return a copy of the dispatcher with its parts measured."""
    load, compose, clock = dispatcher.load, dispatcher.compose, dispatcher.clock
    caller = threading.current_thread()

    def timed_load(conn: Connection, claimed: Sequence[Delivery]) -> Mapping[int, MailContent]:
        with meter.measure(Step.LOAD):
            return load(conn, claimed)

    def timed_compose(delivery: Delivery, digest: MailContent | None) -> bytes:
        started = time.thread_time()
        body = compose(delivery, digest)
        meter.add(Step.COMPOSE, time.thread_time() - started, len(body))
        return body

    def noting_clock(conn: Connection) -> datetime:
        # The committer reads the clock in each transaction. If no mail is refused, no other thread
        # reads it but the caller's. Only the committer's last commit is not counted.
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
    """An engine with `begin` measured until COMMIT has ended: the calling thread claims with it."""

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

    def open(self, give_up: Callable[[], bool] = never_give_up) -> Conversation:
        with self._meter.measure(Step.SEND):
            opened = self._transport.open(give_up)
            return cast(Conversation, TimedConversation(opened, self._meter))


class TimedConversation:
    def __init__(self, connection: Conversation, meter: Meter) -> None:
        self._connection = connection
        self._meter = meter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def begin(self, sender: str, recipient: str, body: bytes) -> Decision | None:
        return self._timed(lambda: self._connection.begin(sender, recipient, body))

    def finish(self) -> Decision:
        return self._timed(self._connection.finish)

    def close(self) -> None:
        self._timed(self._connection.close)

    def _timed(self, work: Callable[[], T]) -> T:
        started = time.thread_time()
        outcome = work()
        self._meter.add(Step.SEND, time.thread_time() - started)
        return outcome
