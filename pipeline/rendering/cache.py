"""Cache of recently rendered values, so that they are not rendered again for the next reader."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class RenderCache(Generic[Key, Value]):
    """Cache of at most `limit` values; it keeps the `limit` / 2 used last. Thread-safe.

    It has two halves: when the young one is full, it replaces the old one, and values that were not
    used since are dropped. A hit in the young half costs one lookup, and no lock; a hit in the old
    half takes the lock to copy the value to the young one.
    """

    def __init__(self, limit: int) -> None:
        self._half = limit // 2
        self._young: dict[Key, Value] = {}
        self._old: dict[Key, Value] = {}
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._young.keys() | self._old.keys())

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """Return the cached value, or call `make` and cache the result; if that raises, nothing."""
        try:
            return self._young[key]
        except KeyError:
            pass  # not called here: an error of `make` would be chained to this one
        try:
            value = self._old[key]
        except KeyError:
            value = make()  # outside the lock: two threads may make a value twice, and none waits
        self._keep(key, value)
        return value

    def _keep(self, key: Key, value: Value) -> None:
        with self._lock:
            if len(self._young) >= self._half:
                self._young, self._old = {}, self._young
            self._young[key] = value
