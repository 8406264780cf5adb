"""Frozen digests: the papers picked for each subscriber, stored exactly as compiled."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Text, cast, func, insert, select

from pipeline.domain import (
    LIST_MAIL,
    MAIL_KINDS,
    DeliveryKind,
    DeliveryStatus,
    Digest,
    Paper,
    Pick,
    Reason,
    ReasonKind,
    Recap,
    SkipReason,
)
from pipeline.logs import set_aside
from pipeline.storage import addresses, deliveries
from pipeline.storage.database import UNREADABLE, in_chunks
from pipeline.storage.dedup import paper_key
from pipeline.storage.deliveries import NewDelivery
from pipeline.storage.papers import paper_from
from pipeline.storage.schema import (
    DeliveryRow,
    PaperRow,
    PaperVersionRow,
    PickRow,
    SkipRow,
    SubscriberRow,
)
from pipeline.storage.throttles import domain_of

CHUNK = 500

REACHED = (
    DeliveryStatus.QUEUED,
    DeliveryStatus.LEASED,
    DeliveryStatus.SENDING,
    DeliveryStatus.SENT,
    DeliveryStatus.UNCERTAIN,
)
"""Statuses of digests that have reached the reader, or still may."""

DIGESTS = tuple(kind for kind in LIST_MAIL if MAIL_KINDS[kind].template == "digest")
SUPERSEDED = tuple(kind for kind in LIST_MAIL if kind is not DeliveryKind.SAVED)  # by a new digest


@dataclass(frozen=True, slots=True)
class NewDigest:
    """A digest to be queued, with its slot in the subscriber's calendar and its batch range."""

    subscriber_id: int
    kind: DeliveryKind
    digest: Digest
    slot_at: datetime
    expires_at: datetime
    range_from: int
    range_to: int
    template: str
    delay: timedelta = timedelta(0)  # from now until it is due

    @property
    def dedupe_key(self) -> str:
        return f"{self.kind}:{self.digest.edition_on}:{self.subscriber_id}"


@dataclass(frozen=True, slots=True)
class Compilation:
    """The time a digest was compiled, and its template."""

    created_at: datetime
    template: str | None


@dataclass(frozen=True, slots=True)
class Question:
    """A digest that asked an inactive reader to go on, and has reached them or still may."""

    edition_on: date
    pauses_on: date
    is_sent: bool


@dataclass(frozen=True, slots=True)
class Superseded:
    """A queued or leased digest that a newer one replaces."""

    delivery_id: int
    subscriber_id: int
    range_from: int


def supersede(
    conn: Connection, subscriber_ids: Sequence[int], reason: str
) -> dict[int, Superseded]:
    """Cancel the queued and leased digests of these subscribers; return them by subscriber id.

    Digests marked as sending cannot be recalled. Quiet notes (mails that say why no digest came)
    are cancelled, too, but not returned. If a subscriber has several digests, the one with the
    earliest start of its range is returned.
    """
    oldest: dict[int, Superseded] = {}
    for chunk in in_chunks(subscriber_ids, CHUNK):
        ended = deliveries.cancel_unsent(conn, chunk, reason, SUPERSEDED)
        for row in conn.execute(
            select(DeliveryRow.id, DeliveryRow.subscriber_id, DeliveryRow.range_from).where(
                DeliveryRow.id.in_(ended), DeliveryRow.kind.in_(DIGESTS)
            )
        ):
            gone = Superseded(row.id, row.subscriber_id, row.range_from or 0)
            known = oldest.get(row.subscriber_id, gone)
            oldest[row.subscriber_id] = min(known, gone, key=lambda s: s.range_from)
    return oldest


def sent_before(
    conn: Connection, subscriber_ids: Sequence[int], *, since: datetime
) -> dict[int, set[int]]:
    """Return the ids of papers in each subscriber's digests compiled since then.

    Only digests that have reached the reader, or still may, count (see REACHED).
    """
    papers: defaultdict[int, set[int]] = defaultdict(set)
    for chunk in in_chunks(subscriber_ids, CHUNK):
        for subscriber_id, paper_id in conn.execute(
            select(DeliveryRow.subscriber_id, PickRow.paper_id)
            .join(PickRow, PickRow.delivery_id == DeliveryRow.id)
            .where(
                DeliveryRow.subscriber_id.in_(chunk),
                DeliveryRow.status.in_(REACHED),
                DeliveryRow.created_at >= since,
            )
        ):
            papers[subscriber_id].add(paper_id)
    return papers


def questions(conn: Connection, subscriber_ids: Sequence[int]) -> dict[int, list[Question]]:
    """Return the digests that asked each of these subscribers to go on, at any time."""
    found: dict[int, list[Question]] = {id_: [] for id_ in subscriber_ids}
    for row in conn.execute(
        select(
            DeliveryRow.subscriber_id,
            DeliveryRow.edition_on,
            DeliveryRow.pauses_on,
            DeliveryRow.status,
        ).where(
            DeliveryRow.subscriber_id.in_(subscriber_ids),
            DeliveryRow.pauses_on.is_not(None),
            DeliveryRow.status.in_(REACHED),
        )
    ):
        is_sent = row.status == DeliveryStatus.SENT
        found[row.subscriber_id].append(Question(row.edition_on, row.pauses_on, is_sent))
    return found


def enqueue(conn: Connection, digests: Sequence[NewDigest], now: datetime) -> None:
    """Queue new digests: insert a delivery and its picks for each.

    Raises IntegrityError if a digest with the same `dedupe_key` exists.
    """
    if not digests:
        return
    domains = _domains(conn, [new.subscriber_id for new in digests])
    queued = [_new_delivery(new, domains.get(new.subscriber_id, ""), now) for new in digests]
    deliveries.add(conn, queued, now)
    ids = _ids_of(conn, [new.dedupe_key for new in digests])
    picks = [row for new in digests for row in _pick_rows(ids[new.dedupe_key], new.digest)]
    for chunk in in_chunks(picks, CHUNK):
        conn.execute(insert(PickRow), chunk)


def record_skips(
    conn: Connection,
    rows: Iterable[tuple[int, date, datetime, SkipReason, int, int]],
) -> None:
    """Record slots without a mail: (subscriber, edition, slot, reason, range from, range to)."""
    names = ("subscriber_id", "edition_on", "slot_at", "reason", "range_from", "range_to")
    values = [dict(zip(names, row, strict=True)) for row in rows]
    if values:
        conn.execute(insert(SkipRow), values)


def load(conn: Connection, delivery_ids: Iterable[int]) -> dict[int, Digest]:
    """Return digests as they were frozen, by delivery id.

    Ids of other deliveries are left out, and digests with no papers stored any more.
    """
    digests: dict[int, Digest] = {}
    for chunk in in_chunks(delivery_ids, CHUNK):
        picks = _picks(conn, chunk)
        rows = conn.execute(_digests_of(chunk)).all()
        topics = {text: tuple(labels) for text, labels in _decoded(row.topics for row in rows)}
        recaps = {text: _recap(stored) for text, stored in _decoded(row.recap for row in rows)}
        for row in rows:
            if not picks[row.id]:
                continue
            digests[row.id] = digest_of(
                row.edition_on,
                picks[row.id],
                more=row.more,
                topics=topics[row.topics],
                welcome=row.kind == DeliveryKind.WELCOME,
                near_misses=row.near_misses,
                recap=recaps[row.recap],
                pauses_on=row.pauses_on,
            )
    return digests


def _picks(conn: Connection, delivery_ids: Sequence[int]) -> defaultdict[int, list[Pick]]:
    """Return the picks of each delivery in order; readers of the same paper share one object.

    A paper that is missing or unreadable is left out.
    """
    rows = conn.execute(_picks_of(delivery_ids)).all()
    reasons = _reasons(row[2] for row in rows)
    papers = _counted(conn, {row[3:] for row in rows})
    picks: defaultdict[int, list[Pick]] = defaultdict(list)
    for delivery_id, score, why, *frozen in rows:
        paper = papers.get(tuple(frozen))
        if paper:  # a digest without one paper is better than no mail
            picks[delivery_id].append(Pick(paper, reasons[why], score))
    return picks


def _reasons(texts: Iterable[str]) -> dict[str, tuple[Reason, ...]]:
    """Parse the reasons of picks; return them by their JSON text."""
    return {
        text: tuple(one for one in map(_reason, reasons) if one)
        for text, reasons in _decoded(texts)
    }


def _reason(stored: Any) -> Reason | None:
    """Validate a reason stored as [label, [phrase, ...]], with its kind unless that is a topic.

    Return None if it has another shape.
    """
    match stored:
        case [str(label), [*phrases]]:
            return Reason(label, tuple(map(str, phrases)))
        case [str(label), [*phrases], ("liked" | "author") as kind]:
            return Reason(label, tuple(map(str, phrases)), ReasonKind(kind))
        case _:
            return None


def _stored_reason(reason: Reason) -> list[Any]:
    kind = [] if reason.kind is ReasonKind.TOPIC else [reason.kind.value]
    return [reason.label, list(reason.phrases), *kind]


def _recap(stored: Any) -> Recap | None:
    """Parse a stored recap; return None if there is none, or if it has another shape."""
    match stored:
        case [str(since), bool(after_pause), [*matched]]:
            try:
                return Recap(
                    date.fromisoformat(since),
                    after_pause,
                    tuple((str(label), number) for label, number in matched),
                )
            except (ValueError, TypeError):
                return None
        case _:
            return None


def _decoded(texts: Iterable[str]) -> Iterable[tuple[str, Any]]:
    """Return each distinct text with its parsed JSON; one parse for all takes a fifth of the time.

    A malformed text gives an empty list.
    """
    distinct = list(dict.fromkeys(texts))
    try:
        return zip(distinct, json.loads(f"[{','.join(distinct)}]"), strict=True)
    except ValueError:  # a malformed text or NULL fails all: parse each separately
        return [(text, _decoded_alone(text)) for text in distinct]


def _decoded_alone(text: str | None) -> Any:
    """Parse one text; return [] if malformed: a digest without some reasons is better than none."""
    try:
        return json.loads(text or "[]")
    except ValueError:
        return []


Frozen = tuple[int, int, int | None, int | None, int | None]
"""The id and version of a paper in a digest, and its upvotes, comments and stars."""


def _counted(conn: Connection, frozen: Collection[Frozen]) -> dict[Frozen, Paper]:
    """Return papers with their frozen counts."""
    papers = _papers_of(conn, {(id_, version) for id_, version, *_ in frozen})
    return {
        (id_, version, upvotes, comments, stars): replace(
            papers[id_, version], upvotes=upvotes, comments=comments, stars=stars
        )
        for id_, version, upvotes, comments, stars in frozen
        if (id_, version) in papers
    }


def _papers_of(
    conn: Connection, wanted: Collection[tuple[int, int]]
) -> dict[tuple[int, int], Paper]:
    """Return papers with the content of the wanted version, by (id, version).

    Each version is parsed once: that costs more than all other work, and thousands of digests share
    a few hundred papers. Unreadable papers are logged and left out.
    """
    papers: dict[tuple[int, int], Paper] = {}
    for ids in in_chunks(sorted({id_ for id_, _ in wanted}), CHUNK):
        versions = _versions_of(ids)
        rows = (row for row in conn.execute(versions) if (row.id, row.version) in wanted)
        for row in rows:
            try:
                papers[row.id, row.version] = paper_from(row, row.content)
            except UNREADABLE as error:
                set_aside("paper", row.id, error)
    return papers


def reader_of(conn: Connection, delivery_id: int) -> int | None:
    """Return the subscriber id of a delivery, or None if the delivery does not exist."""
    return conn.scalar(select(DeliveryRow.subscriber_id).where(DeliveryRow.id == delivery_id))


def unpicked(conn: Connection, delivery_id: int) -> list[int]:
    """Return the ids of the papers that matched a digest but did not fit, best first."""
    found = conn.scalar(
        select(DeliveryRow.unpicked).where(
            DeliveryRow.id == delivery_id, DeliveryRow.kind.in_(DIGESTS)
        )
    )
    return list(found or ())


def compilation(conn: Connection, delivery_id: int) -> Compilation | None:
    """Return when and for which template a digest was compiled.

    Returns None if the delivery is not a digest, or its subscriber was erased.
    """
    row = conn.execute(
        select(DeliveryRow.created_at, DeliveryRow.template)
        .join(SubscriberRow, SubscriberRow.id == DeliveryRow.subscriber_id)
        .where(
            DeliveryRow.id == delivery_id,
            DeliveryRow.kind.in_(DIGESTS),
            SubscriberRow.email != addresses.ERASED,
        )
    ).one_or_none()
    return None if row is None else Compilation(*row)


def papers_of(conn: Connection, delivery_ids: Iterable[int]) -> defaultdict[int, list[str]]:
    """Return the keys of the papers in each digest, in their order."""
    keys: defaultdict[int, list[str]] = defaultdict(list)
    for chunk in in_chunks(delivery_ids, CHUNK):
        for row in conn.execute(
            select(PickRow.delivery_id, PaperRow.arxiv_id, PaperRow.doi, PaperRow.title_key)
            .join(PaperRow, PaperRow.id == PickRow.paper_id)
            .where(PickRow.delivery_id.in_(chunk))
            .order_by(PickRow.delivery_id, PickRow.position)
        ):
            keys[row.delivery_id].append(paper_key(row.arxiv_id, row.doi, row.title_key))
    return keys


def record_of(conn: Connection, subscriber_id: int) -> defaultdict[int, list[dict[str, Any]]]:
    """Return all stored picks of a subscriber by delivery id, in order, with their reasons."""
    picks: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    columns = [c for c in PickRow.__table__.c if c.name not in {"delivery_id", "paper_id"}]
    for row in conn.execute(
        select(PickRow.delivery_id, PaperRow.arxiv_id, PaperRow.doi, PaperRow.title_key, *columns)
        .join(DeliveryRow, DeliveryRow.id == PickRow.delivery_id)
        .join(PaperRow, PaperRow.id == PickRow.paper_id)
        .where(DeliveryRow.subscriber_id == subscriber_id)
        .order_by(PickRow.delivery_id, PickRow.position)
    ):
        delivery_id, *identifiers = row[:4]
        frozen = dict(zip([c.name for c in columns], row[4:], strict=True))
        picks[delivery_id].append({"paper": paper_key(*identifiers), **frozen})
    return picks


def latest_digests(
    conn: Connection, subscriber_id: int, most: int
) -> list[tuple[int, date, DeliveryStatus, int]]:
    """Return a reader's last digests, newest first: (delivery, edition, status, paper count)."""
    papers = (
        select(func.count())
        .where(PickRow.delivery_id == DeliveryRow.id)
        .correlate(DeliveryRow)
        .scalar_subquery()
    )
    rows = conn.execute(
        select(DeliveryRow.id, DeliveryRow.edition_on, DeliveryRow.status, papers)
        .where(DeliveryRow.subscriber_id == subscriber_id, DeliveryRow.kind.in_(DIGESTS))
        .order_by(DeliveryRow.id.desc())
        .limit(most)
    )
    return [(id_, edition_on, DeliveryStatus(status), n) for id_, edition_on, status, n in rows]


def reached(conn: Connection, subscriber_id: int, most: int) -> list[tuple[int, datetime]]:
    """Return id and time of a reader's last digests that were sent (see REACHED), newest first."""
    rows = conn.execute(
        select(DeliveryRow.id, DeliveryRow.created_at)
        .where(
            DeliveryRow.subscriber_id == subscriber_id,
            DeliveryRow.kind.in_(DIGESTS),
            DeliveryRow.status.in_(REACHED),
        )
        .order_by(DeliveryRow.id.desc())
        .limit(most)
    )
    return [(row.id, row.created_at) for row in rows]


def latest_skips(conn: Connection, subscriber_id: int, most: int) -> list[tuple[date, SkipReason]]:
    """Return a reader's last slots without a mail, newest first."""
    rows = conn.execute(
        select(SkipRow.edition_on, SkipRow.reason)
        .where(SkipRow.subscriber_id == subscriber_id)
        .order_by(SkipRow.edition_on.desc())
        .limit(most)
    )
    return [(edition_on, SkipReason(reason)) for edition_on, reason in rows]


def skips_of(conn: Connection, subscriber_id: int) -> list[dict[str, Any]]:
    """Return all columns of a reader's slots without a mail, oldest first."""
    rows = conn.execute(
        select(*SkipRow.__table__.c)
        .where(SkipRow.subscriber_id == subscriber_id)
        .order_by(SkipRow.edition_on)
    )
    return [dict(row._mapping) for row in rows]


def digest_of(
    edition_on: date,
    picks: Sequence[Pick],
    *,
    more: int,
    topics: tuple[str, ...],
    welcome: bool = False,
    unpicked: tuple[int, ...] = (),
    near_misses: bool = False,
    recap: Recap | None = None,
    pauses_on: date | None = None,
) -> Digest:
    """Return a digest with the first and last announcement day of its papers."""
    days = [pick.paper.announced_on for pick in picks]
    announced = (min(days), max(days)) if days else None
    return Digest(
        edition_on, tuple(picks), more, unpicked, topics, announced, welcome, near_misses, recap,
        pauses_on,
    )  # fmt: skip


def _picks_of(delivery_ids: Sequence[int]) -> Any:
    return (
        select(
            PickRow.delivery_id,
            PickRow.score,
            cast(PickRow.reasons, Text),
            PickRow.paper_id,
            PickRow.paper_version,
            PickRow.upvotes,
            PickRow.comments,
            PickRow.stars,
        )
        .where(PickRow.delivery_id.in_(delivery_ids))
        .order_by(PickRow.delivery_id, PickRow.position)
    )


def _versions_of(paper_ids: Sequence[int]) -> Any:
    return (
        select(
            PaperRow.id,
            PaperRow.arxiv_id,
            PaperRow.doi,
            PaperRow.title_key,
            PaperRow.announced_on,
            PaperRow.upvotes,
            PaperRow.comments,
            PaperRow.stars,
            PaperRow.batch,
            PaperVersionRow.version,
            PaperVersionRow.content,
        )
        .join(PaperVersionRow, PaperVersionRow.paper_id == PaperRow.id)
        .where(PaperRow.id.in_(paper_ids))
    )


def _digests_of(delivery_ids: Sequence[int]) -> Any:
    return select(
        DeliveryRow.id,
        DeliveryRow.kind,
        DeliveryRow.edition_on,
        DeliveryRow.more,
        DeliveryRow.near_misses,
        DeliveryRow.pauses_on,
        cast(DeliveryRow.topics, Text).label("topics"),
        cast(DeliveryRow.recap, Text).label("recap"),
    ).where(DeliveryRow.id.in_(delivery_ids), DeliveryRow.kind.in_(DIGESTS))


def _ids_of(conn: Connection, keys: Sequence[str]) -> dict[str, int]:
    return {
        row.dedupe_key: row.id
        for row in conn.execute(
            select(DeliveryRow.id, DeliveryRow.dedupe_key).where(DeliveryRow.dedupe_key.in_(keys))
        )
    }


def _domains(conn: Connection, subscriber_ids: Sequence[int]) -> dict[int, str]:
    """Return the recipient domain of each subscriber's address."""
    return {
        id_: domain_of(email)
        for some in in_chunks(subscriber_ids, CHUNK)
        for id_, email in conn.execute(
            select(SubscriberRow.id, SubscriberRow.email).where(SubscriberRow.id.in_(some))
        )
    }


def _new_delivery(new: NewDigest, domain: str, now: datetime) -> NewDelivery:
    return NewDelivery(
        new.kind,
        new.dedupe_key,
        new.subscriber_id,
        domain,
        not_before=now + new.delay,
        expires_at=new.expires_at,
        edition_on=new.digest.edition_on,
        slot_at=new.slot_at,
        range_from=new.range_from,
        range_to=new.range_to,
        more=new.digest.more,
        unpicked=new.digest.unpicked,
        near_misses=new.digest.near_misses,
        topics=new.digest.topics,
        recap=new.digest.recap,
        pauses_on=new.digest.pauses_on,
        template=new.template,
    )


def _pick_rows(delivery_id: int, digest: Digest) -> list[dict[str, Any]]:
    return [
        {
            "delivery_id": delivery_id,
            "position": position,
            "paper_id": pick.paper.id,
            "paper_version": pick.paper.version,
            "score": pick.score,
            "upvotes": pick.paper.upvotes,
            "comments": pick.paper.comments,
            "stars": pick.paper.stars,
            "reasons": [_stored_reason(reason) for reason in pick.reasons],
        }
        for position, pick in enumerate(digest.picks)
    ]
