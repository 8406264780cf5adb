"""What news about a delivery leaves behind: events, and strikes against an address."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
HAS_QUEUE_ID = sa.text("queue_id IS NOT NULL")


def upgrade() -> None:
    op.create_table(
        "strikes",
        sa.Column("address_hash", sa.String(length=64), nullable=False),
        sa.Column("edition_on", sa.Date(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("noted_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("address_hash", "edition_on", name=op.f("pk_strikes")),
    )
    op.create_index(op.f("ix_strikes_noted_at"), "strikes", ["noted_at"])
    op.create_table(
        "events",
        sa.Column("id", ID, nullable=False),
        sa.Column("provider", sa.String(length=32), nullable=False),
        sa.Column("event_id", sa.String(length=256), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("effect", sa.Text(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("delivery_id", ID, nullable=True),
        sa.Column("subscriber_id", ID, nullable=True),
        sa.Column("address_hash", sa.String(length=64), nullable=True),
        sa.Column("raw", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
        sa.UniqueConstraint("provider", "event_id", name=op.f("uq_events_provider_event_id")),
    )
    for column in ("received_at", "delivery_id", "subscriber_id", "address_hash"):
        op.create_index(op.f(f"ix_events_{column}"), "events", [column])
    op.create_index(
        op.f("ix_deliveries_queue_id"),
        "deliveries",
        ["queue_id"],
        sqlite_where=HAS_QUEUE_ID,
        postgresql_where=HAS_QUEUE_ID,
    )
