"""How much a reader wants to see: what was matched and who reads so far is balanced."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("matches", "subscribers"):
        op.add_column(
            table, sa.Column("breadth", sa.SmallInteger(), nullable=False, server_default="2")
        )
