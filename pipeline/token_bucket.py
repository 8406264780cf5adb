"""Token buckets that throttle all processes to a rate per second; losing one loses no mail."""

from __future__ import annotations

import time
from typing import Any, Final, Protocol

import structlog

log = structlog.get_logger(__name__)

BURST: Final = 0.25  # seconds of tokens that a bucket holds at most
LOOK_AGAIN: Final = 10.0  # seconds until an unavailable Redis is tried again
PATIENCE: Final = 0.5  # timeout in seconds

# A new or expired bucket starts empty and fills from now on.
_TAKE: Final = """
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
local rate, size, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local known = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens, at = tonumber(known[1]) or 0, tonumber(known[2]) or now
tokens = math.min(size, tokens + math.max(0, now - at) * rate)
local taken = math.min(wanted, math.floor(tokens))
redis.call('HSET', KEYS[1], 'tokens', tostring(tokens - taken), 'at', string.format('%.6f', now))
redis.call('EXPIRE', KEYS[1], 60)
return taken
"""


class Bucket(Protocol):
    """A token bucket that fills at a steady rate."""

    def take(self, wanted: int) -> int:
        """Return up to `wanted` tokens, as many as there are now; unused tokens are lost."""


class OwnBucket:
    """A bucket of this process only.

    It starts empty and holds at most `BURST` seconds of tokens, or one if that is more.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._size = _size(rate)
        self._tokens = 0.0
        self._at = time.monotonic()

    def take(self, wanted: int) -> int:
        now = time.monotonic()
        self._tokens = min(self._size, self._tokens + (now - self._at) * self._rate)
        self._at = now
        granted = min(wanted, int(self._tokens))
        self._tokens -= granted
        return granted


class SharedBucket:
    """A bucket in Redis, shared by all processes. Without Redis, each process takes its share."""

    def __init__(self, url: str, name: str, rate: float, processes: int) -> None:
        import redis  # import takes half a second, and few installations need it

        self._errors = redis.RedisError
        self._client = redis.Redis.from_url(
            url, socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE
        )
        self._script = self._client.register_script(_TAKE)
        self._key = f"paperboy:bucket:{name}"
        self._rate = rate
        self._share = OwnBucket(rate / processes)
        self._ask_at = 0.0

    def take(self, wanted: int) -> int:
        """Return tokens from Redis, or for LOOK_AGAIN s after an error from our own share."""
        if time.monotonic() >= self._ask_at:
            try:
                return self._ask(wanted)
            except self._errors as error:
                log.warning("redis.unavailable", error=type(error).__name__)
                self._ask_at = time.monotonic() + LOOK_AGAIN
        return self._share.take(wanted)

    def _ask(self, wanted: int) -> int:
        granted: Any = self._script(keys=[self._key], args=[self._rate, _size(self._rate), wanted])
        return int(granted)

    def close(self) -> None:
        self._client.close()


def _size(rate: float) -> float:
    return max(1.0, rate * BURST)
