"""Confirmations owed: a delivery like any other, one for each time somebody was asked."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, func, insert, select

from pipeline.domain import DeliveryKind, DeliveryStatus
from pipeline.storage.schema import DeliveryRow


def enqueue(
    conn: Connection, subscriber_id: int, *, expires_at: datetime, now: datetime
) -> None:
    """Owe this subscriber the question whether they want our mail."""
    asked = conn.execute(
        select(func.count()).where(
            DeliveryRow.subscriber_id == subscriber_id,
            DeliveryRow.kind == DeliveryKind.CONFIRMATION,
        )
    ).scalar_one()
    conn.execute(
        insert(DeliveryRow).values(
            dedupe_key=f"{DeliveryKind.CONFIRMATION}:{subscriber_id}:{asked + 1}",
            kind=DeliveryKind.CONFIRMATION,
            subscriber_id=subscriber_id,
            status=DeliveryStatus.QUEUED,
            attempts=0,
            not_before=now,
            expires_at=expires_at,
            created_at=now,
            more=0,
            topics=[],
        )
    )
