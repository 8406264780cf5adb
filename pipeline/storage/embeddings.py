"""Cache the embeddings of texts by model and by a hash of the text."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Final, Protocol

from sqlalchemy import Connection, Engine, bindparam, delete, func, select, update

from pipeline.storage.database import (
    in_chunks,
    read_only,
    retry_transaction,
    server_now,
    upsert,
)
from pipeline.storage.schema import EmbeddingRow

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

CHUNK = 500
NOTED_EVERY: Final = timedelta(days=30)  # so that reading a vector seldom writes
EMBEDDED_AT_ONCE = 50  # papers per transaction that stores vectors: some seconds of work
TOPICS_KEPT = 4_000  # cached in memory: 1.5 KB each, and at most 8 KB of text


class EmbeddingModel(Protocol):
    """A model that returns vectors of length 1 for texts; see `pipeline.embedding`."""

    name: str  # of the model's files; unique for each model
    size: int  # of a vector

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]: ...


@dataclass(frozen=True)
class CachedEmbeddings:
    """Embed each paper once, and cache its vector; see `matching.meaning.Embedder`.

    Idempotent and safe to run concurrently: two processes store the same vector. No transaction is
    open while the model runs. With `makes=False`, papers that are not cached get rows of NaN.
    """

    engine: Engine
    model: EmbeddingModel
    makes: bool = True

    def papers(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        import numpy as np

        by_key = {key(text): text for text in texts}
        with read_only(self.engine) as conn:
            cached = load_vectors(conn, self.model.name, by_key)
            aged = aged_keys(conn, self.model.name, cached)
        if aged:
            self._note_use(aged)
        missing = [text_key for text_key in by_key if text_key not in cached] if self.makes else []
        for chunk in in_chunks(missing, EMBEDDED_AT_ONCE):
            made = self.model.embed([by_key[text_key] for text_key in chunk]).astype("<f2")
            new = {text_key: row.tobytes() for text_key, row in zip(chunk, made, strict=True)}
            self._add(new)
            cached |= new
        unknown = np.full(self.model.size, np.nan, dtype="<f2").tobytes()
        rows = [cached.get(key(text), unknown) for text in texts]
        rows = [row if len(row) == len(unknown) else unknown for row in rows]  # NaN if damaged
        vectors = np.frombuffer(b"".join(rows), dtype="<f2").reshape(len(rows), -1)
        return vectors.astype(np.float32)

    def topic(self, text: str) -> npt.NDArray[np.float32]:
        return self._topic(text)

    @cached_property
    def _topic(self) -> Callable[[str], npt.NDArray[np.float32]]:
        """Return a function that caches topics in memory only.

        Topics of visitors are private, and all are short.
        """
        return lru_cache(maxsize=TOPICS_KEPT)(lambda text: self.model.embed([text])[0])

    @retry_transaction
    def _add(self, vectors: Mapping[str, bytes]) -> None:
        with self.engine.begin() as conn:
            store_vectors(conn, self.model.name, vectors)

    @retry_transaction
    def _note_use(self, keys: Sequence[str]) -> None:
        with self.engine.begin() as conn:
            note_use(conn, self.model.name, keys)


def key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def load_vectors(conn: Connection, model: str, keys: Iterable[str]) -> dict[str, bytes]:
    """Return the cached vectors (little-endian float16) by key; missing keys are left out."""
    cached: dict[str, bytes] = {}
    for chunk in in_chunks(keys, CHUNK):
        rows = conn.execute(
            select(EmbeddingRow.text_key, EmbeddingRow.vector).where(
                EmbeddingRow.model == model, EmbeddingRow.text_key.in_(chunk)
            )
        )
        cached |= {row.text_key: row.vector for row in rows}
    return cached


def aged_keys(conn: Connection, model: str, keys: Iterable[str]) -> list[str]:
    """Return the keys of vectors whose last use was not noted for `NOTED_EVERY`."""
    is_aged = (EmbeddingRow.model == model) & (EmbeddingRow.used_on <= _today(conn) - NOTED_EVERY)
    query = select(EmbeddingRow.text_key).where(is_aged)
    return [
        found
        for chunk in in_chunks(keys, CHUNK)
        for found in conn.scalars(query.where(EmbeddingRow.text_key.in_(chunk)))
    ]


def note_use(conn: Connection, model: str, keys: Sequence[str]) -> None:
    """Store that these vectors were used today."""
    for chunk in in_chunks(sorted(keys), CHUNK):
        conn.execute(
            update(EmbeddingRow)
            .where(EmbeddingRow.model == model, EmbeddingRow.text_key.in_(chunk))
            .values(used_on=_today(conn))
        )


def delete_unused(conn: Connection, *, before: datetime, limit: int) -> int:
    """Delete at most `limit` vectors whose last use was noted before `before`; return how many.

    A vector that is needed again is computed again.
    """
    is_old = EmbeddingRow.used_on < before.date()
    query = select(EmbeddingRow.model, EmbeddingRow.text_key).where(is_old).limit(limit)
    rows = conn.execute(query.with_for_update(skip_locked=True)).all()
    if rows:
        wanted = (EmbeddingRow.model == bindparam("of")) & (
            EmbeddingRow.text_key == bindparam("by")
        )
        conn.execute(delete(EmbeddingRow).where(wanted), [{"of": of, "by": by} for of, by in rows])
    return len(rows)


def _today(conn: Connection) -> date:
    return server_now(conn).date()


def models(conn: Connection) -> list[str]:
    """Return the models that have cached vectors."""
    found: list[str] = []
    after: str | None = ""  # one look into the index for each model: DISTINCT would read all rows
    while after is not None:
        query = select(func.min(EmbeddingRow.model)).where(EmbeddingRow.model > after)
        after = conn.execute(query).scalar()
        found += [after] if after is not None else []
    return found


def random_vectors(conn: Connection, model: str, most: int) -> dict[str, bytes]:
    """Return some vectors of a model by key: the first ones, which are random, for it is a hash."""
    query = select(EmbeddingRow.text_key, EmbeddingRow.vector).where(EmbeddingRow.model == model)
    rows = conn.execute(query.order_by(EmbeddingRow.text_key).limit(most))
    return {row.text_key: row.vector for row in rows}


def store_vectors(conn: Connection, model: str, vectors: Mapping[str, bytes]) -> None:
    """Store vectors by key; existing ones stay, since every process computes the same vector."""
    rows = [
        {"model": model, "text_key": text_key, "vector": vector, "used_on": _today(conn)}
        for text_key, vector in sorted(vectors.items())  # in one order, to avoid deadlocks
    ]
    if rows:
        conn.execute(upsert(conn, EmbeddingRow).values(rows).on_conflict_do_nothing())
