"""Forget what nobody needs any more: addresses never confirmed, and old traces of readers.

Runs beside everything else, and may run twice or be killed: each step deletes what is too old at
that moment, in transactions of a few rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Final

import structlog
from sqlalchemy import Engine

from pipeline.storage import expiry
from pipeline.storage.database import with_retries

log = structlog.get_logger(__name__)

PENDING: Final = timedelta(days=7)  # an address that was never confirmed, and what was asked for it
IP: Final = timedelta(days=7)  # of who asked
COUNTERS: Final = timedelta(days=2)  # of questions from one place: their names are IP addresses
ASKED: Final = timedelta(days=30)
DIGEST: Final = timedelta(days=90)  # what was in it, and why; that it was sent stays
CHUNK: Final = 500


@dataclass(frozen=True, slots=True)
class Purged:
    """How many rows of each kind were forgotten."""

    pending: int
    requests: int
    addresses: int
    ips: int
    counters: int
    asked: int
    digests: int
    skips: int


def purge(engine: Engine, now: datetime) -> Purged:
    """Forget everything that is too old at `now`."""
    purged = Purged(
        pending=_all(engine, partial(expiry.drop_pending, before=now - PENDING)),
        requests=_all(engine, partial(expiry.drop_requests, before=now - PENDING)),
        addresses=_all(engine, partial(expiry.forget_addresses, before=now - PENDING)),
        ips=_all(engine, partial(expiry.forget_ips, before=now - IP)),
        counters=_all(engine, partial(expiry.drop_counters, before=now - COUNTERS)),
        asked=_all(engine, partial(expiry.drop_asked, before=now - ASKED)),
        digests=_all(engine, partial(expiry.forget_digests, before=now - DIGEST)),
        skips=_all(engine, partial(expiry.drop_skips, before=now - DIGEST)),
    )
    log.info("purged", **asdict(purged))
    return purged


def _all(engine: Engine, step: Callable[..., int]) -> int:
    """Repeat a step of at most CHUNK rows until it finds none; how many there were."""
    total = 0
    while done := with_retries(partial(_once, engine, step)):
        total += done
    return total


def _once(engine: Engine, step: Callable[..., int]) -> int:
    with engine.begin() as conn:
        return step(conn, limit=CHUNK)
