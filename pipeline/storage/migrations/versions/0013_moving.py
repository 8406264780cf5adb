"""Which papers another database has sent, and whether this one is a restored copy."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("subscribers", sa.Column("papers_from", sa.Date(), nullable=True))
    op.create_table(
        "database_copy",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("identity", sa.Text(), nullable=False),
        sa.Column("noted_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_database_copy_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_database_copy")),
    )
