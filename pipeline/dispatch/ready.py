"""Queue of composed messages between the composing thread and the sender threads."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

from pipeline.domain import Delivery


@dataclass(frozen=True, slots=True)
class Message:
    """A delivery with its envelope sender and its body as `smtp` expects it."""

    delivery: Delivery
    sender: str
    body: bytes


class Ready:
    """Bounded queue of messages; limits memory for an outbox of any length."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._messages: deque[Message] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, message: Message, timeout: float) -> bool:
        """Append a message; return False if the queue is still full after `timeout` seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._has_room, timeout):
                return False
            self._messages.append(message)
            self._changed.notify()
            return True

    def put_back(self, message: Message) -> None:
        """Put a message back at the front, even if the queue is full."""
        with self._changed:
            self._messages.appendleft(message)
            self._changed.notify_all()

    def take_now(self) -> Message | None:
        """Return the next message, or None if the queue is empty."""
        with self._changed:
            return self._take()

    def take(self, timeout: float) -> Message | None:
        """Return the next message; None if none came in time, or the queue is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._messages or self._closed, timeout)
            return self._take()

    @property
    def is_over(self) -> bool:
        """Return whether the queue is closed and empty."""
        with self._changed:
            return self._closed and not self._messages

    def clear(self) -> list[Message]:
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

    def drop(self) -> None:
        """Close the queue and discard the waiting messages."""
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
            self._changed.notify_all()  # the composer sleeps until half of the queue is free
        return message
