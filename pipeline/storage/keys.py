"""The keys of an installation: those that Paperboy made, and fingerprints of those in the settings.

Every process of an installation shares the database, so a key made here is made once and is the
same for all. See docs/decisions/keys-in-the-database.md.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

import structlog
from sqlalchemy import Connection, Engine, exists, select, update

from pipeline.errors import SettingsError
from pipeline.storage import subscribers
from pipeline.storage.database import reading, upsert, with_retries
from pipeline.storage.schema import (
    AskedRow,
    EventRow,
    KeyRow,
    RefusalRow,
    StrikeRow,
    SubscriberRow,
    SuppressionRow,
)

log = structlog.get_logger(__name__)


class KeyName(StrEnum):
    """The settings that Paperboy can do without."""

    SECRET = "SECRET_KEY"  # signs links  # noqa: S105
    SUPPRESSION = "SUPPRESSION_KEY"  # hides addresses, and makes Message-IDs


HASHES: Final = (
    SubscriberRow.address_hash,
    SuppressionRow.hash,
    StrikeRow.address_hash,
    RefusalRow.address_hash,
    AskedRow.address_hash,
    EventRow.address_hash,
)
"""The columns with hashes of addresses, which change with SUPPRESSION_KEY."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys in use."""

    secret: tuple[str, ...] = field(repr=False)  # newest first
    suppression: str = field(repr=False)

    @classmethod
    def random(cls) -> Keys:
        """Return keys that nobody else has, for what is shown and never sent."""
        return cls((_new(),), _new())


@dataclass(frozen=True, slots=True)
class KeptKey:
    """A row of `keys`."""

    name: KeyName
    value: str | None = field(repr=False)  # None: it is in the settings only
    fingerprint: str
    made_at: datetime
    retired_at: datetime | None  # since when SECRET_KEY stands in its place


def in_use(
    engine: Engine,
    given_secret: Sequence[str],
    given_suppression: str | None,
    *,
    now: datetime,
    link_life: timedelta,
) -> Keys:
    """Return the keys in use, and make those that are missing. Raises what `settled` does.

    Transactions of its own, like `migrate`: a use case that needs a key may not wait in the middle
    of one for another process that makes it.
    """

    def once() -> list[KeyName]:
        with engine.begin() as conn:
            return settle(conn, given_secret, given_suppression, now)

    while True:
        with reading(engine) as conn:
            known = kept(conn)
        found = settled(known, given_secret, given_suppression, now=now, link_life=link_life)
        if found is not None:
            return found
        for name in with_retries(once):
            log.debug("key made and kept in the database", setting=name)


def kept(conn: Connection) -> dict[KeyName, KeptKey]:
    """Return what the database knows of the keys."""
    columns = (
        KeyRow.name,
        KeyRow.value,
        KeyRow.fingerprint,
        KeyRow.made_at,
        KeyRow.retired_at,
    )
    rows = conn.execute(select(*columns)).all()
    return {KeyName(row.name): KeptKey(KeyName(row.name), *row[1:]) for row in rows}


def settled(
    known: dict[KeyName, KeptKey],
    given_secret: Sequence[str],
    given_suppression: str | None,
    *,
    now: datetime,
    link_life: timedelta,
) -> Keys | None:
    """Return the keys in use; None where `settle` has to write something first.

    A key that Paperboy made signs nothing once SECRET_KEY is set, and is accepted for as long as a
    link signed with it lives. Raises SettingsError where SUPPRESSION_KEY is not the key that the
    suppressions were made with: all of them would be void.
    """
    secret, suppression = known.get(KeyName.SECRET), known.get(KeyName.SUPPRESSION)
    if suppression is None or (secret is None and not given_secret):
        return None
    if secret is not None and (secret.retired_at is None) == bool(given_secret):
        return None
    hides = _suppression(suppression, given_suppression)
    signs = list(given_secret)
    if secret is not None and secret.value is not None:
        is_retired = secret.retired_at is not None and now >= secret.retired_at + link_life
        if not is_retired and secret.value not in signs:
            signs.append(secret.value)
    return Keys(tuple(signs), hides)


def settle(
    conn: Connection, given_secret: Sequence[str], given_suppression: str | None, now: datetime
) -> list[KeyName]:
    """Make what is missing and record what is in use; return the names of the keys made here.

    Safe to run twice and by several processes at once: the first insert wins, the others read it.
    """
    made = []
    if given_secret:
        _alter_secret(conn, retired_at=now)
    elif _insert(conn, KeyName.SECRET, _new(), now, keep=True):
        made.append(KeyName.SECRET)
    else:
        _alter_secret(conn, retired_at=None)
    if KeyName.SUPPRESSION in kept(conn):
        return made
    if given_suppression is not None:
        _check_sample(conn, given_suppression)
        _insert(conn, KeyName.SUPPRESSION, given_suppression, now, keep=False)
    else:
        key = _new()
        if _insert(conn, KeyName.SUPPRESSION, key, now, keep=True):
            _hash_anew(conn, key)
            made.append(KeyName.SUPPRESSION)
    return made


def renew_secret(conn: Connection, now: datetime) -> bool:
    """Replace the key that Paperboy made; links signed with it are void. False if there is none."""
    value = _new()
    values = {"value": value, "fingerprint": fingerprint(value), "made_at": now}
    return (
        conn.execute(update(KeyRow).where(KeyRow.name == KeyName.SECRET).values(**values)).rowcount
        == 1
    )


def fingerprint(key: str) -> str:
    """Return what names a key without telling it."""
    return hmac.digest(key.encode(), b"paperboy.fingerprint", "sha256")[:8].hex()


def _suppression(row: KeptKey, given: str | None) -> str:
    if given is not None:
        if fingerprint(given) != row.fingerprint:
            former = "the key that Paperboy made (`paperboy keys show`)" if row.value else "it back"
            raise SettingsError(
                "SUPPRESSION_KEY: is not the key that this database was made with, of fingerprint "
                f"{row.fingerprint}: every suppressed address would be written to again. Set "
                f"{former}; it can never be changed"
            )
        return given
    if row.value is None:
        raise SettingsError(
            f"SUPPRESSION_KEY: is missing; this database was made with one of fingerprint "
            f"{row.fingerprint}, and without it suppressed addresses would be written to again"
        )
    return row.value


def _new() -> str:
    return secrets.token_urlsafe(32)


def _insert(conn: Connection, name: KeyName, key: str, now: datetime, *, keep: bool) -> bool:
    row = {
        "name": name,
        "value": key if keep else None,
        "fingerprint": fingerprint(key),
        "made_at": now,
    }
    absent = upsert(conn, KeyRow).values(row).on_conflict_do_nothing(index_elements=["name"])
    return conn.execute(absent.returning(KeyRow.name)).first() is not None


def _alter_secret(conn: Connection, *, retired_at: datetime | None) -> None:
    is_other = KeyRow.retired_at.is_(None) if retired_at else KeyRow.retired_at.is_not(None)
    conn.execute(
        update(KeyRow).where(KeyRow.name == KeyName.SECRET, is_other).values(retired_at=retired_at)
    )


# --- Databases from before keys were kept -------------------------------------------------------


def _check_sample(conn: Connection, given: str) -> None:
    """Refuse a key that the addresses in the database were not hashed with."""
    sample = conn.execute(
        select(SubscriberRow.email, SubscriberRow.address_hash)
        .where(SubscriberRow.address_hash.not_like("erased:%"))
        .limit(1)
    ).one_or_none()
    if sample and subscribers.address_hash(sample.email, given) != sample.address_hash:
        raise SettingsError(
            "SUPPRESSION_KEY: is not the key that the addresses in this database were made with; "
            "set it back"
        )


def _hash_anew(conn: Connection, key: str) -> None:
    """Move the hashes of known addresses to a new key.

    Raises SettingsError where a suppressed address is not known any more (it was erased): its hash
    cannot be moved, and must not be lost.
    """
    known = conn.execute(
        select(SubscriberRow.email, SubscriberRow.address_hash).where(
            SubscriberRow.address_hash.not_like("erased:%")
        )
    ).all()
    moved = {row.address_hash: subscribers.address_hash(row.email, key) for row in known}
    for old, new in moved.items():
        for column in HASHES:
            conn.execute(update(column.class_).where(column == old).values({column.key: new}))
    lost = select(SuppressionRow.hash).where(
        ~exists().where(SubscriberRow.address_hash == SuppressionRow.hash)
    )
    if conn.execute(lost.limit(1)).first():
        raise SettingsError(
            "SUPPRESSION_KEY: is missing, and this database has suppressed addresses that were "
            "made with one; set it to the value it had"
        )
