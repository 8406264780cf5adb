"""What is kept for a time only: how to find it when that is over, and the counts that stay."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

OPEN = sa.text("used_at IS NULL")
ELSEWHERE = sa.text("address <> ''")


def upgrade() -> None:
    op.create_table(
        "daily_counts",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("status", sa.String(length=32), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("day", "kind", "status", name=op.f("pk_daily_counts")),
    )
    # Rows that were forgotten before are found once more, and lose nothing.
    for table in ("deliveries", "requests"):
        op.add_column(
            table, sa.Column("blanked", sa.Boolean(), nullable=False, server_default=sa.false())
        )
        name = op.f(f"ix_{table}_blanked_created_at")
        op.create_index(name, table, ["blanked", "created_at"])
    op.drop_index(op.f("ix_requests_created_at"), "requests")
    op.create_index(
        "ix_requests_open", "requests", ["created_at"], sqlite_where=OPEN, postgresql_where=OPEN
    )
    op.create_index(
        "ix_deliveries_elsewhere",
        "deliveries",
        ["created_at"],
        sqlite_where=ELSEWHERE,
        postgresql_where=ELSEWHERE,
    )
    op.create_index(op.f("ix_asked_asked_at"), "asked", ["asked_at"])
    op.create_index(op.f("ix_limits_window_start"), "limits", ["window_start"])
    op.create_index(op.f("ix_skips_slot_at"), "skips", ["slot_at"])
