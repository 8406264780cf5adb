"""The pace of sending: what leaves first, which domain takes it, and what holds it up."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True)
IS_QUEUED = sa.text("status = 'queued'")
CHUNK = 1000

# One provider, several domains; as `storage.mail_domains` had them when this was written.
GROUPS = {
    "googlemail.com": "gmail.com",
    **dict.fromkeys(["hotmail.com", "live.com", "msn.com"], "outlook.com"),
    **dict.fromkeys(["ymail.com", "rocketmail.com", "aol.com"], "yahoo.com"),
    **dict.fromkeys(["me.com", "mac.com"], "icloud.com"),
}


def upgrade() -> None:
    op.add_column(
        "deliveries", sa.Column("precedence", sa.Integer(), nullable=False, server_default="0")
    )
    op.add_column("deliveries", sa.Column("domain", sa.Text(), nullable=False, server_default=""))
    _fill()
    op.drop_index("ix_deliveries_status_not_before_id", "deliveries")
    for name, columns in {
        "ix_deliveries_outbox": ["precedence", "not_before", "id", "domain"],
        "ix_deliveries_outbox_domain": ["domain", "precedence", "not_before", "id"],
    }.items():
        op.create_index(
            name, "deliveries", columns, postgresql_where=IS_QUEUED, sqlite_where=IS_QUEUED
        )
    op.create_table(
        "holds",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("edition_on", sa.Date(), nullable=True),
        sa.Column("since", TIME, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_holds")),
    )
    op.create_table(
        "breakers",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("refusals", sa.Integer(), nullable=False),
        sa.Column("open_until", TIME, nullable=False),
        sa.Column("probed_by", sa.String(length=40), nullable=True),
        sa.Column("probe_until", TIME, nullable=True),
        sa.Column("since", TIME, nullable=False),
        sa.Column("reply", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_breakers")),
    )
    op.create_table(
        "domain_paces",
        sa.Column("domain", sa.String(length=255), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("allowance", sa.Double(), nullable=False),
        sa.Column("not_before", TIME, nullable=False),
        sa.Column("refusals", sa.Integer(), nullable=False),
        sa.Column("since", TIME, nullable=False),
        sa.Column("refused_at", TIME, nullable=False),
        sa.Column("reply", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("domain", name=op.f("pk_domain_paces")),
    )
    op.create_table(
        "distrusts",
        sa.Column("id", ID, nullable=False),
        sa.Column("edition_on", sa.Date(), nullable=True),
        sa.Column("subscriber_id", ID, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_distrusts")),
    )
    op.create_index(op.f("ix_distrusts_at"), "distrusts", ["at"])


def _fill() -> None:
    """For what may still be sent; the others only tell what was."""
    conn = op.get_bind()
    conn.execute(
        sa.text(
            "UPDATE deliveries SET precedence = 1 WHERE kind = 'digest'"
            " AND status IN ('queued', 'leased', 'sending', 'uncertain')"
        )
    )
    last = 0
    while rows := conn.execute(_OWED, {"last": last, "chunk": CHUNK}).all():
        last = rows[-1].id
        given: list[dict[str, Any]] = [
            {"id": row.id, "domain": _domain(row.address or row.email_key)} for row in rows
        ]
        conn.execute(sa.text("UPDATE deliveries SET domain = :domain WHERE id = :id"), given)


_OWED = sa.text(
    "SELECT deliveries.id, deliveries.address, subscribers.email_key FROM deliveries"
    " JOIN subscribers ON subscribers.id = deliveries.subscriber_id"
    " WHERE deliveries.status IN ('queued', 'leased', 'sending', 'uncertain')"
    " AND deliveries.id > :last ORDER BY deliveries.id LIMIT :chunk"
)


def _domain(address: str) -> str:
    domain = address.rpartition("@")[2].casefold() if "@" in address else ""
    return GROUPS.get(domain, domain)
