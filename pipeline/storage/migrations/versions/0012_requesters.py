"""Count unanswered questions for each inbox, and for each network that asked."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name, length in (("inbox", 64), ("requester", 16)):
        column = sa.Column(name, sa.String(length=length), nullable=False, server_default="")
        op.add_column("asked", column)
    # What was asked before counts for its own address, as it did.
    op.execute("UPDATE asked SET inbox = address_hash")
    op.create_index(op.f("ix_asked_inbox"), "asked", ["inbox"])
