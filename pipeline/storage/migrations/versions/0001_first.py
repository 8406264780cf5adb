"""The first tables.

The tables are still moving: this creates them from `storage.schema` as it stands, and is written
out before the first release.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from pipeline.storage.schema import Table

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    Table.metadata.create_all(op.get_bind())
    state = sa.table(
        "ingest_state", sa.column("id"), sa.column("published_batch"), sa.column("token")
    )
    op.execute(sa.insert(state).values(id=1, published_batch=0, token=0))
