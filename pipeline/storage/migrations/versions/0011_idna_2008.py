"""Tell apart domains that case folding made one: `straße.de` is not `strasse.de` (IDNA 2008).

Readers of such a domain get their own key and hash, and what was known of them under the old hash
comes along. A suppression without a reader is a hash and no more; each one from before is marked,
and counts for every address that it may have been made for.
"""

from __future__ import annotations

import hashlib
import hmac
import unicodedata

import idna
import sqlalchemy as sa
from alembic import context, op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "suppressions",
        sa.Column("folded", sa.Boolean(), nullable=False, server_default=sa.false()),
    )
    op.execute("UPDATE suppressions SET folded = true")
    _new_hashes(context.config.attributes.get("suppression_key"))
    _new_keys()


def _new_hashes(suppression_key: str | None) -> None:
    """Without the key the hashes stay: a reader is then suppressed together with the other."""
    if suppression_key is None:
        return
    conn = op.get_bind()
    for row in conn.execute(_READERS).all():
        new = hmac.new(suppression_key.encode(), _key(row.email).encode(), hashlib.sha256)
        hashes = {"id": row.id, "old": row.address_hash, "new": new.hexdigest()}
        for statement in _MOVES:
            conn.execute(sa.text(statement), hashes)


def _new_keys() -> None:
    conn = op.get_bind()
    for found, changed in ((_READERS, _NEW_KEY), (_REQUESTS, _NEW_REQUEST_KEY)):
        for row in conn.execute(found).all():
            conn.execute(changed, {"id": row.id, "key": _key(row.email)})


# Addresses are kept in lower case and in Unicode, so nothing else can be affected.
_READERS = sa.text(
    "SELECT id, email, address_hash FROM subscribers WHERE email LIKE '%ß%' OR email LIKE '%ς%'"
)
_REQUESTS = sa.text("SELECT id, email FROM requests WHERE email LIKE '%ß%' OR email LIKE '%ς%'")
_NEW_KEY = sa.text("UPDATE subscribers SET email_key = :key WHERE id = :id")
_NEW_REQUEST_KEY = sa.text("UPDATE requests SET email_key = :key WHERE id = :id")
_MOVES = (
    "UPDATE asked SET address_hash = :new WHERE address_hash = :old",
    "UPDATE events SET address_hash = :new WHERE address_hash = :old",
    "INSERT INTO strikes (address_hash, edition_on, kind, noted_at)"
    " SELECT :new, edition_on, kind, noted_at FROM strikes WHERE address_hash = :old",
    "INSERT INTO suppressions (hash, reason, since, folded)"
    " SELECT :new, reason, since, false FROM suppressions WHERE hash = :old",
    "UPDATE subscribers SET address_hash = :new WHERE id = :id",
)


def _key(email: str) -> str:
    local, _, domain = unicodedata.normalize("NFC", email.strip()).rpartition("@")
    try:
        domain = idna.encode(domain, uts46=True).decode()
    except idna.IDNAError:
        domain = domain.lower()
    return f"{local.lower()}@{domain}"
