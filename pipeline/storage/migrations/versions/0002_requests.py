"""What people ask for before it is theirs: requests, and the questions they have not answered."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "requests",
        sa.Column("id", ID, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("subscriber_id", ID, nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("wishes", JSON, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ip", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["subscriber_id"],
            ["subscribers.id"],
            name=op.f("fk_requests_subscriber_id_subscribers"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_requests")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_requests_created_at"), "requests", ["created_at"])
    op.create_index(op.f("ix_requests_subscriber_id"), "requests", ["subscriber_id"])
    op.create_table(
        "asked",
        sa.Column("id", ID, nullable=False),
        sa.Column("address_hash", sa.String(length=64), nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_asked")),
    )
    op.create_index(op.f("ix_asked_address_hash"), "asked", ["address_hash"])
    # Plain ADD COLUMN: on SQLite anything else would copy the table, and dropping the old one
    # would take with it every row that hangs on it.
    op.add_column("deliveries", sa.Column("address", sa.Text(), nullable=True))
    op.add_column("deliveries", sa.Column("request_id", ID, nullable=True))
    op.add_column("subscribers", sa.Column("left_reason", sa.Text(), nullable=True))
    op.add_column(
        "subscribers",
        sa.Column("welcome_due", sa.Boolean(), nullable=False, server_default=sa.false()),
    )
