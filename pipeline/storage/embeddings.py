"""What a model made of texts, by what they say: a paper whose words change gets another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from sqlalchemy import Connection, select

from pipeline.storage.database import in_chunks, upsert
from pipeline.storage.schema import EmbeddingRow

CHUNK = 500


def key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def get(conn: Connection, model: str, keys: Iterable[str]) -> dict[str, bytes]:
    """Those of these that are kept, by key."""
    known: dict[str, bytes] = {}
    for chunk in in_chunks(keys, CHUNK):
        rows = conn.execute(
            select(EmbeddingRow.text_key, EmbeddingRow.vector).where(
                EmbeddingRow.model == model, EmbeddingRow.text_key.in_(chunk)
            )
        )
        known |= {row.text_key: row.vector for row in rows}
    return known


def add(conn: Connection, model: str, vectors: Mapping[str, bytes]) -> None:
    """Keep these, by key. Whoever came first stays: both made the same."""
    rows = [
        {"model": model, "text_key": text_key, "vector": vector}
        for text_key, vector in sorted(vectors.items())  # in one order, so that nobody deadlocks
    ]
    if rows:
        conn.execute(upsert(conn, EmbeddingRow).values(rows).on_conflict_do_nothing())
