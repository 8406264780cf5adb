"""Reactions of readers to papers, their saved papers, and the profiles learned from them.

All functions that change a reader's rows expect the caller to hold the lock on the subscriber's
row, so that a profile is always computed from all reactions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache, reduce
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Integer,
    Select,
    and_,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    true,
    update,
)

from pipeline.domain import DeliveryStatus, Liking, SubscriberStatus
from pipeline.storage.database import in_chunks, upsert_in
from pipeline.storage.schema import (
    DeliveryRow,
    Id,
    PaperVersionRow,
    PickRow,
    ProfileRow,
    ReactionRow,
    SubscriberRow,
)

CHUNK = 500
MOST_AUTHORS = 100  # stored of a paper


@dataclass(frozen=True, slots=True)
class Reaction:
    """What a reader said about a paper: liked or not, saved or not, and with which note."""

    key: str  # of the paper, when the reader reacted
    paper_id: int | None  # None: a paper of the reader's own list that is not stored
    title: str
    authors: tuple[str, ...]
    terms: bytes = field(repr=False)  # see matching.profile.Terms
    telling: tuple[tuple[str, str], ...]  # its heaviest terms: (stems, as written)
    at: datetime  # of the latest change of `liking`
    liking: Liking = Liking.NEITHER
    is_own: bool = False  # from the reader's own list of papers
    saved_at: datetime | None = None
    note: str = ""
    year: int | None = None
    url: str = ""

    @property
    def is_empty(self) -> bool:
        return self.liking is Liking.NEITHER and self.saved_at is None and not self.is_own


@dataclass(frozen=True, slots=True)
class StoredProfile:
    """What was learned from a reader's reactions, and the reader's limits of its use."""

    terms: bytes = field(default=b"", repr=False)  # see matching.profile.Profile
    authors: Mapping[str, str] = field(default_factory=dict)  # key -> name
    liked: Sequence[tuple[str, Sequence[int]]] = ()  # newest: title, places of heavy terms
    likes: int = 0  # papers that the reader liked, or brought
    is_on: bool = True  # whether it changes digests
    outside: bool = True  # whether digests may contain papers outside the topics
    removed: tuple[str, ...] = ()  # terms (stems) and author keys
    saved_weekly: bool = False  # whether saved papers are mailed once a week
    vector: bytes = field(default=b"", repr=False)  # see matching.semantic.ProfileVector
    vector_model: str = ""  # "" if there is no vector


def of_reader(conn: Connection, subscriber_id: int) -> list[Reaction]:
    """Return the reactions of a reader, newest first."""
    return [_reaction(row) for row in conn.execute(_newest_first(subscriber_id))]


def judged_by(conn: Connection, subscriber_id: int, most: int) -> list[Reaction]:
    """Return the papers that a reader liked or disliked, the last one first."""
    rows = conn.execute(_judged_by(), {"reader": subscriber_id, "most": most})
    return [_reaction(row) for row in rows]


@cache  # to build it takes longer than to execute it
def _judged_by() -> Select[Any]:
    query = _newest_first(bindparam("reader", type_=Id))
    judged = query.where(ReactionRow.liking != Liking.NEITHER)
    return judged.limit(bindparam("most", type_=Integer))


def of_readers(conn: Connection, subscriber_ids: Sequence[int]) -> defaultdict[int, list[Reaction]]:
    """Return the reactions of several readers by subscriber id, oldest first."""
    found: defaultdict[int, list[Reaction]] = defaultdict(list)
    for chunk in in_chunks(subscriber_ids, CHUNK):
        rows = conn.execute(
            select(*ReactionRow.__table__.c)
            .where(ReactionRow.subscriber_id.in_(chunk))
            .order_by(ReactionRow.subscriber_id, ReactionRow.at, ReactionRow.paper_key)
        )
        for row in rows:
            found[row.subscriber_id].append(_reaction(row))
    return found


def saved_by(
    conn: Connection,
    subscriber_id: int,
    *,
    keys: Collection[str] | None = None,
    most: int | None = None,
    skip: int = 0,
    after: datetime | None = None,
    until: datetime | None = None,
) -> list[Reaction]:
    """Return the papers of a reader's list, or those with these keys, the last saved first.

    The first `skip` are left out, those after `most`, and those not saved in (after, until].
    """
    rows = conn.execute(
        select(*ReactionRow.__table__.c)
        .where(
            _is_saved_by(subscriber_id, after, until),
            true() if keys is None else ReactionRow.paper_key.in_(keys),
        )
        .order_by(ReactionRow.saved_at.desc(), ReactionRow.paper_key)
        .limit(most)
        .offset(skip or None)
    )
    return [_reaction(row) for row in rows]


def saved_texts(conn: Connection, subscriber_id: int) -> dict[str, str]:
    """Return title, authors and note of each saved paper by its key, the last saved first."""
    rows = conn.execute(
        select(ReactionRow.paper_key, ReactionRow.content, ReactionRow.note)
        .where(_is_saved_by(subscriber_id))
        .order_by(ReactionRow.saved_at.desc(), ReactionRow.paper_key)
    )
    return {
        key: " ".join((content["title"], *content["authors"], note)) for key, content, note in rows
    }


def count_saved(
    conn: Connection,
    subscriber_id: int,
    *,
    after: datetime | None = None,
    until: datetime | None = None,
) -> int:
    """Return the number of papers in a reader's list, or of those saved in (after, until]."""
    is_counted = _is_saved_by(subscriber_id, after, until)
    return conn.execute(select(func.count()).where(is_counted)).scalar_one()


def to_paper(
    conn: Connection, subscriber_id: int, key: str, paper_id: int | None
) -> Reaction | None:
    """Return a reader's reaction to a paper, also if its key has changed since; None if none.

    There may be several if papers were merged: then the newest, with what only others have.
    """
    rows = conn.execute(_newest_first(subscriber_id).where(_about(key, paper_id)))
    found = [_reaction(row) for row in rows]
    return reduce(_combined, found) if found else None


def put(conn: Connection, subscriber_id: int, reaction: Reaction) -> None:
    """Store a reaction in place of an earlier one to the same paper; delete it if it is empty."""
    conn.execute(
        delete(ReactionRow).where(
            ReactionRow.subscriber_id == subscriber_id, _about(reaction.key, reaction.paper_id)
        )
    )
    if not reaction.is_empty:
        conn.execute(insert(ReactionRow).values(_row(subscriber_id, reaction)))


def delete_likes(conn: Connection, subscriber_id: int) -> None:
    """Delete the likes and the own papers of a reader; saved papers stay in the list."""
    mine = ReactionRow.subscriber_id == subscriber_id
    conn.execute(delete(ReactionRow).where(mine, ReactionRow.saved_at.is_(None)))
    conn.execute(update(ReactionRow).where(mine).values(liking=Liking.NEITHER, is_own=False))


def delete_all(conn: Connection, subscriber_id: int) -> None:
    """Delete the reactions, saved papers and profile of a reader."""
    conn.execute(delete(ReactionRow).where(ReactionRow.subscriber_id == subscriber_id))
    conn.execute(delete(ProfileRow).where(ProfileRow.subscriber_id == subscriber_id))


def profile_of(conn: Connection, subscriber_id: int) -> StoredProfile:
    """Return the profile of a reader; an empty one that is on if nothing was learned yet."""
    row = conn.execute(
        select(*ProfileRow.__table__.c).where(ProfileRow.subscriber_id == subscriber_id)
    ).one_or_none()
    if row is None:
        return StoredProfile()
    return StoredProfile(
        terms=row.terms,
        authors=row.authors,
        liked=row.liked,
        likes=row.likes,
        is_on=row.is_on,
        outside=row.outside,
        removed=tuple(row.removed),
        saved_weekly=row.saved_weekly,
        vector=row.vector,
        vector_model=row.vector_model,
    )


def is_any_profile(conn: Connection) -> bool:
    """Return whether a reader has a profile, also if it is switched off."""
    return conn.execute(select(ProfileRow.subscriber_id).limit(1)).first() is not None


def profiles_in_use(conn: Connection, subscriber_ids: Sequence[int]) -> dict[int, StoredProfile]:
    """Return the profiles that change digests, by subscriber id; without `removed`."""
    needed = (
        ProfileRow.subscriber_id,
        ProfileRow.terms,
        ProfileRow.authors,
        ProfileRow.liked,
        ProfileRow.likes,
        ProfileRow.outside,
        ProfileRow.vector,
        ProfileRow.vector_model,
    )
    found = {}
    for chunk in in_chunks(subscriber_ids, CHUNK):
        rows = conn.execute(
            select(*needed).where(
                ProfileRow.subscriber_id.in_(chunk), ProfileRow.is_on, ProfileRow.terms != b""
            )
        )
        for id_, terms, authors, liked, likes, outside, vector, model in rows:
            found[id_] = StoredProfile(
                terms, authors, liked, likes, outside=outside, vector=vector, vector_model=model
            )
    return found


def put_profile(
    conn: Connection, subscriber_id: int, profile: StoredProfile, now: datetime
) -> None:
    values = {
        "is_on": profile.is_on,
        "outside": profile.outside,
        "removed": list(profile.removed),
        "saved_weekly": profile.saved_weekly,
        "likes": profile.likes,
        "terms": profile.terms,
        "authors": dict(profile.authors),
        "liked": [[title, list(places)] for title, places in profile.liked],
        "vector": profile.vector,
        "vector_model": profile.vector_model,
        "changed_at": now,
    }
    put = _put_profile(conn.dialect.name, tuple(values))
    conn.execute(put, {"subscriber_id": subscriber_id, **values})


@cache  # as for `_judged_by`
def _put_profile(dialect: str, names: Sequence[str]) -> Any:
    new = upsert_in(dialect, ProfileRow)
    return new.on_conflict_do_update(
        index_elements=["subscriber_id"], set_={name: new.excluded[name] for name in names}
    )


def feed_secret_of(conn: Connection, subscriber_id: int) -> str | None:
    """Return the secret in the URLs of a reader's feeds; None if the reader has no feeds."""
    query = select(ProfileRow.feed_secret).where(ProfileRow.subscriber_id == subscriber_id)
    return conn.execute(query).scalar()


def put_feed_secret(
    conn: Connection, subscriber_id: int, secret: str | None, now: datetime
) -> None:
    """Store the secret of a reader's feeds in place of an earlier one; None ends the feeds."""
    if feed_secret_of(conn, subscriber_id) is None:
        put_profile(conn, subscriber_id, profile_of(conn, subscriber_id), now)
    conn.execute(
        update(ProfileRow)
        .where(ProfileRow.subscriber_id == subscriber_id)
        .values(feed_secret=secret)
    )


def is_feed_secret_in_use(conn: Connection, secret: str) -> bool:
    query = select(ProfileRow.subscriber_id).where(ProfileRow.feed_secret == secret)
    return conn.execute(query).first() is not None


def reader_of_feed(conn: Connection, secret: str) -> int | None:
    """Return the id of the active subscriber whose feeds have this secret."""
    return conn.execute(
        select(SubscriberRow.id)
        .join(ProfileRow, ProfileRow.subscriber_id == SubscriberRow.id)
        .where(ProfileRow.feed_secret == secret, SubscriberRow.status == SubscriberStatus.ACTIVE)
    ).scalar()


def shown_beside(
    conn: Connection, subscriber_id: int, liked: Collection[int], most: int
) -> list[tuple[int, bytes]]:
    """Return id and terms of papers that were sent in the same digests as the `liked` papers.

    Without those that the reader reacted to, at most `most`, newest first.
    """
    if not liked:
        return []
    values = {"reader": subscriber_id, "liked": list(liked), "most": most}
    rows = conn.execute(_shown_beside(), values)
    return [(id_, terms) for id_, terms in rows if terms is not None]


@cache  # to build it takes longer than to execute it
def _shown_beside() -> Select[int, bytes | None]:
    reader = bindparam("reader", type_=Id)
    mine = (
        select(PickRow.delivery_id)
        .join(DeliveryRow, DeliveryRow.id == PickRow.delivery_id)
        .where(
            DeliveryRow.subscriber_id == reader,
            DeliveryRow.status == DeliveryStatus.SENT,
            PickRow.paper_id.in_(bindparam("liked", expanding=True)),
        )
    )
    reacted = select(ReactionRow.paper_id).where(
        ReactionRow.subscriber_id == reader, ReactionRow.paper_id.is_not(None)
    )
    return (
        select(PickRow.paper_id, PaperVersionRow.terms)
        .select_from(PickRow)
        .join(
            PaperVersionRow,
            (PaperVersionRow.paper_id == PickRow.paper_id)
            & (PaperVersionRow.version == PickRow.paper_version),
        )
        .where(
            PickRow.delivery_id.in_(mine),
            PickRow.paper_id.not_in(reacted),
            PaperVersionRow.terms.is_not(None),
        )
        .order_by(PickRow.delivery_id.desc(), PickRow.position)
        .limit(bindparam("most", type_=Integer))
    )


def record_of(conn: Connection, subscriber_id: int) -> dict[str, Any]:
    """Return the reactions and the profile of a reader for an export, without vectors of terms."""
    left_out = {"subscriber_id", "paper_id", "terms"}
    found = [
        conn.execute(
            select(*(column for column in table.__table__.c if column.name not in left_out)).where(
                table.subscriber_id == subscriber_id
            )
        )
        .mappings()
        .all()
        for table in (ReactionRow, ProfileRow)
    ]
    rows, profiles = ([dict(row) for row in rows] for rows in found)
    return {"reactions": rows, "profile": profiles[0] if profiles else None}


def _is_saved_by(
    subscriber_id: int, after: datetime | None = None, until: datetime | None = None
) -> ColumnElement[bool]:
    return and_(
        ReactionRow.subscriber_id == subscriber_id,
        ReactionRow.saved_at.is_not(None),
        true() if after is None else ReactionRow.saved_at > after,
        true() if until is None else ReactionRow.saved_at <= until,
    )


def _newest_first(subscriber_id: int | BindParameter[int]) -> Select[Any]:
    return (
        select(*ReactionRow.__table__.c)
        .where(ReactionRow.subscriber_id == subscriber_id)
        .order_by(ReactionRow.at.desc(), ReactionRow.paper_key)
    )


def _combined(newer: Reaction, older: Reaction) -> Reaction:
    return replace(
        newer,
        liking=newer.liking or older.liking,
        is_own=newer.is_own or older.is_own,
        saved_at=newer.saved_at or older.saved_at,
        note=newer.note or older.note,
    )


def _about(key: str, paper_id: int | None) -> Any:
    is_key = ReactionRow.paper_key == key
    return is_key if paper_id is None else or_(is_key, ReactionRow.paper_id == paper_id)


def _row(subscriber_id: int, reaction: Reaction) -> dict[str, Any]:
    return {
        "subscriber_id": subscriber_id,
        "paper_key": reaction.key,
        "paper_id": reaction.paper_id,
        "liking": int(reaction.liking),
        "is_own": reaction.is_own,
        "saved_at": reaction.saved_at,
        "note": reaction.note,
        "content": {
            "title": reaction.title,
            "authors": list(reaction.authors[:MOST_AUTHORS]),
            "telling": [list(term) for term in reaction.telling],
            "year": reaction.year,
            "url": reaction.url,
        },
        "terms": reaction.terms,
        "at": reaction.at,
    }


def _reaction(row: Any) -> Reaction:
    content = row.content
    return Reaction(
        key=row.paper_key,
        paper_id=row.paper_id,
        title=content["title"],
        authors=tuple(content["authors"]),
        terms=row.terms,
        telling=tuple((stems, written) for stems, written in content["telling"]),
        at=row.at,
        liking=Liking(row.liking),
        is_own=row.is_own,
        saved_at=row.saved_at,
        note=row.note,
        year=content.get("year"),
        url=content.get("url", ""),
    )
