"""Readers and their mail before and after a restore."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Engine

from pipeline import editions, signup
from pipeline.domain import DeliveryStatus
from pipeline.storage import deliveries, digests, subscribers
from pipeline.storage.database import read_only
from pipeline.storage.deliveries import Settlement
from tests.support.factories import TODAY, make_sighting

ADA, BOB, EVE, DAN = "ada@example.org", "bob@example.org", "eve@example.org", "dan@example.org"
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
PAPERS = [
    make_sighting(f"3001.7000{n}", title=f"Paper {n}", announced_on=TODAY + n * DAY)
    for n in range(3)
]


def send(engine: Engine, now: datetime) -> list[tuple[str, tuple[str, ...]]]:
    """Send the due deliveries and return (address, titles) of each mail."""
    with engine.begin() as conn:
        claimed = deliveries.claim(conn, 100, "ours", HOUR, now)
        ids = deliveries.mark(conn, [one.id for one in claimed], "ours", HOUR, now)
        frozen = digests.load(conn, ids)
        sent = [Settlement(id_, DeliveryStatus.SENT, "accepted") for id_ in ids]
        deliveries.settle(conn, sent, "ours", now)
    return sorted(
        (one.email, tuple(pick.paper.title for pick in frozen[one.id].picks))
        for one in claimed
        if one.id in ids
    )


def publish(engine: Engine, now: datetime) -> None:
    expiry = timedelta(hours=18)
    list(editions.publish(engine, now=now, expiry=expiry, template="1"))


def leave(engine: Engine, email: str, now: datetime) -> None:
    with read_only(engine) as conn:
        found = subscribers.by_email(conn, email)
    signup.leave(engine, found.secret, now)


def statuses(engine: Engine) -> dict[str, str]:
    with read_only(engine) as conn:
        return {one.email: one.status for one in subscribers.list_all(conn)}
