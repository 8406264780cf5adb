"""Rows for tests of the outbox: subscribers, and deliveries in any state."""

from __future__ import annotations

import itertools
from datetime import date, datetime, time, timedelta
from typing import Any

from sqlalchemy import Engine, Row, insert, select, update

from pipeline.domain import DeliveryKind, DeliveryStatus, SubscriberStatus
from pipeline.storage.schema import DeliveryRow, SubscriberRow, SuppressionRow
from tests.support.factories import NOW, TODAY

_numbers = itertools.count(1)


def add_subscriber(engine: Engine, email: str = "", **changes: Any) -> int:
    with engine.begin() as conn:
        values = subscriber_values(email, **changes)
        return conn.execute(insert(SubscriberRow).values(values)).inserted_primary_key[0]


def subscriber_values(email: str = "", **changes: Any) -> dict[str, Any]:
    number = next(_numbers)
    address = email or f"reader{number}@example.org"
    return {
        "email": address,
        "email_key": address,
        "address_hash": f"hash of {address}",
        "status": SubscriberStatus.ACTIVE,
        "at": time(8),
        "timezone": "UTC",
        "frequency": "daily",
        "weekday": 0,
        "max_papers": 10,
        "secret": f"secret-{number}",
        "cursor": 5,
        "created_at": NOW,
        **changes,
    }


def add_delivery(engine: Engine, email: str = "", **changes: Any) -> int:
    """Add a digest of batches (2, 5], due now, for a new subscriber unless one is given."""
    subscriber_id = changes.pop("subscriber_id", None) or add_subscriber(engine, email)
    with engine.begin() as conn:
        values = delivery_values(subscriber_id, **changes)
        return conn.execute(insert(DeliveryRow).values(values)).inserted_primary_key[0]


def delivery_values(subscriber_id: int, **changes: Any) -> dict[str, Any]:
    return {
        "dedupe_key": f"digest:{TODAY}:{next(_numbers)}",
        "kind": DeliveryKind.DIGEST,
        "subscriber_id": subscriber_id,
        "status": DeliveryStatus.QUEUED,
        "attempts": 0,
        "not_before": NOW,
        "expires_at": NOW + timedelta(hours=18),
        "created_at": NOW,
        "edition_on": TODAY,
        "range_from": 2,
        "range_to": 5,
        "more": 0,
        "topics": [],
        **changes,
    }


def accept_others(engine: Engine, edition_on: date | None = TODAY, count: int = 2) -> list[int]:
    """Add deliveries of the same edition to other subscribers, accepted by the server."""
    single = {"range_from": None, "range_to": None, "kind": DeliveryKind.LINK}
    changes = {} if edition_on else single
    return [
        add_delivery(
            engine, edition_on=edition_on, status=DeliveryStatus.SENT, sent_at=NOW, **changes
        )
        for _ in range(count)
    ]


def add_confirmation(engine: Engine, email: str = "", **changes: Any) -> int:
    subscriber_id = add_subscriber(engine, email, status=SubscriberStatus.PENDING)
    no_digest = {"edition_on": None, "range_from": None, "range_to": None}
    return add_delivery(
        engine,
        subscriber_id=subscriber_id,
        kind=DeliveryKind.CONFIRMATION,
        **{**no_digest, **changes},
    )


def row(engine: Engine, delivery_id: int) -> Row[Any]:
    with engine.connect() as conn:
        return conn.execute(
            select(DeliveryRow.__table__).where(DeliveryRow.id == delivery_id)
        ).one()


def alter(engine: Engine, delivery_id: int, **values: Any) -> None:
    """Change a row as the passage of time or another process would."""
    with engine.begin() as conn:
        conn.execute(update(DeliveryRow).where(DeliveryRow.id == delivery_id).values(**values))


def statuses(engine: Engine) -> list[str]:
    """Return the status of each delivery, in the order of their creation."""
    with engine.connect() as conn:
        return list(conn.execute(select(DeliveryRow.status).order_by(DeliveryRow.id)).scalars())


def set_status(engine: Engine, subscriber_id: int, status: SubscriberStatus) -> None:
    with engine.begin() as conn:
        conn.execute(
            update(SubscriberRow).where(SubscriberRow.id == subscriber_id).values(status=status)
        )


def suppress(
    engine: Engine, subscriber_id: int, reason: str = "manual", since: datetime = NOW
) -> None:
    """Suppress an address and leave its deliveries queued, as if queued a moment later."""
    with engine.begin() as conn:
        address_hash = select(SubscriberRow.address_hash).where(SubscriberRow.id == subscriber_id)
        conn.execute(
            insert(SuppressionRow).values(
                hash=address_hash.scalar_subquery(), reason=reason, since=since
            )
        )


def suppressions(engine: Engine) -> dict[str, str]:
    with engine.connect() as conn:
        found = conn.execute(select(SuppressionRow.hash, SuppressionRow.reason))
        return dict(list(found))


def cursor(engine: Engine, delivery_id: int) -> int:
    """Return the cursor of the subscriber of this delivery."""
    with engine.connect() as conn:
        return conn.execute(
            select(SubscriberRow.cursor)
            .join(DeliveryRow, DeliveryRow.subscriber_id == SubscriberRow.id)
            .where(DeliveryRow.id == delivery_id)
        ).scalar_one()
