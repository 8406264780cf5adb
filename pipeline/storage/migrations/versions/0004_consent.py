"""What somebody agreed to, and who said so; and every request that names an address."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Plain ADD COLUMN needs a default, which what is written from now on never uses.
    for name, value in (("email_key", ""), ("origin", "form")):
        op.add_column("requests", sa.Column(name, sa.Text(), nullable=False, server_default=value))
    op.add_column("requests", sa.Column("wording", sa.Text(), nullable=True))
    op.execute("UPDATE requests SET email_key = lower(trim(email))")
    op.create_index(op.f("ix_requests_email_key"), "requests", ["email_key"])
