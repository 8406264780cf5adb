"""Messages ready for the wire, between the one who composes and those who send."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

from pipeline.domain import Delivery


@dataclass(frozen=True, slots=True)
class Message:
    """A delivery with its envelope sender and its body as `smtp` wants it."""

    delivery: Delivery
    sender: str
    body: bytes


class Ready:
    """A bounded line of messages; memory stays flat however long the outbox is."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._messages: deque[Message] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, message: Message, timeout: float) -> bool:
        """True when it found a place within `timeout` seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._has_room, timeout):
                return False
            self._messages.append(message)
            self._changed.notify()
            return True

    def put_back(self, message: Message) -> None:
        """It is next again, whatever the room."""
        with self._changed:
            self._messages.appendleft(message)
            self._changed.notify_all()

    def take_now(self) -> Message | None:
        """The next message, or None when none is ready at this moment."""
        with self._changed:
            return self._take()

    def take(self, timeout: float) -> Message | None:
        """The next message; None when none came in time, or the line is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._messages or self._closed, timeout)
            return self._take()

    @property
    def is_over(self) -> bool:
        """Closed and empty: there is nothing to wait for."""
        with self._changed:
            return self._closed and not self._messages

    def clear(self) -> list[Message]:
        """Take out whatever waits, and go on."""
        with self._changed:
            waiting = list(self._messages)
            self._messages.clear()
            self._changed.notify_all()
            return waiting

    def close(self) -> None:
        """Nothing more will be put; takers end when it is empty."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def drop(self) -> None:
        """Close it, and forget what waits."""
        with self._changed:
            self._messages.clear()
            self._closed = True
            self._changed.notify_all()

    @property
    def _has_room(self) -> bool:
        return len(self._messages) < self._capacity

    def _take(self) -> Message | None:
        if not self._messages:
            return None
        message = self._messages.popleft()
        if len(self._messages) == self._capacity // 2:
            self._changed.notify_all()  # the composer sleeps until half of it is gone
        return message
