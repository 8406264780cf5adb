"""Rate limits per second: one token bucket in a real Valkey, or a share per process without it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from pipeline.token_bucket import OwnBucket, SharedBucket


@pytest.fixture
def client(valkey):
    with redis.Redis.from_url(valkey) as client:
        client.flushall()
        yield client


def take_for(bucket, seconds):
    """Return the number of tokens that a greedy sender takes in this many seconds."""
    end, taken = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        taken += bucket.take(1000)
        time.sleep(0.005)
    return taken


def test_concurrent_senders_share_one_rate(client, valkey):
    buckets = [SharedBucket(valkey, "test", 100, processes=2) for _ in range(2)]

    with ThreadPoolExecutor(2) as senders:
        taken = list(senders.map(lambda bucket: take_for(bucket, 0.6), buckets))

    for bucket in buckets:
        bucket.close()
    assert 30 <= sum(taken) <= 100 * 0.6 + 25 + 5, "the rate, and at most a burst"


def test_shared_bucket_starts_empty_and_is_empty_after_a_flush(client, valkey):
    bucket = SharedBucket(valkey, "test", 100, processes=1)

    assert bucket.take(1000) == 0
    time.sleep(0.1)
    before = bucket.take(1000)
    time.sleep(0.1)
    client.flushall()

    assert before >= 5
    assert bucket.take(1000) == 0
    time.sleep(0.1)
    assert bucket.take(1000) >= 5, "it goes on, a little later"
    bucket.close()


def test_rate_is_divided_between_processes_without_redis():
    bucket = SharedBucket("redis://127.0.0.1:1/0", "test", 200, processes=4)

    taken = take_for(bucket, 0.5)

    bucket.close()
    assert 5 <= taken <= 50 * 0.5 + 12.5 + 2


def test_local_bucket_holds_tokens_for_a_quarter_of_a_second():
    bucket = OwnBucket(100)
    time.sleep(0.5)

    assert bucket.take(1000) == 25
    assert bucket.take(1000) <= 1
