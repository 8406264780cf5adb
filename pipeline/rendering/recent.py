"""Keeps what was made lately, so that it is not made again for the next reader."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """At most `limit` values, among them the half of it asked for last. Safe in threads.

    Two halves: when the young one is full it becomes the old one, and what nobody asks for there
    goes with it. So a value that is kept costs one look, and no lock.
    """

    def __init__(self, limit: int) -> None:
        self._half = limit // 2
        self._young: dict[Key, Value] = {}
        self._old: dict[Key, Value] = {}
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._young.keys() | self._old.keys())

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """The value kept for `key`, else what `make` returns; an error of `make` keeps nothing."""
        try:
            return self._young[key]
        except KeyError:
            pass  # not made here: an error of `make` would say it came of this one
        try:
            value = self._old[key]
        except KeyError:
            value = make()  # outside the lock: two threads may make one value, neither waits
        self._keep(key, value)
        return value

    def _keep(self, key: Key, value: Value) -> None:
        with self._lock:
            if len(self._young) >= self._half:
                self._young, self._old = {}, self._young
            self._young[key] = value
