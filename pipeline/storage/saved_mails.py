"""Weekly mails of saved papers: the readers who want them, and the papers that each one lists.

A mail lists the papers saved from the last mail that reached the reader until it was queued. The
list is read when the mail is sent, so that a paper that was removed in between is not in it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, func, select

from pipeline.domain import UNSENT, DeliveryKind, DeliveryStatus, SavedPaper, SavedWeek
from pipeline.storage import deliveries, reactions
from pipeline.storage.database import in_chunks
from pipeline.storage.digests import REACHED
from pipeline.storage.schema import DeliveryRow, ProfileRow, ReactionRow

CHUNK: Final = 500
MOST: Final = 30  # papers in a mail
FIRST: Final = timedelta(days=7)  # covered by the first mail


@dataclass(frozen=True, slots=True)
class SavedMail:
    """A weekly mail of a reader, whatever its status."""

    id: int
    dedupe_key: str
    status: DeliveryStatus
    created_at: datetime


def wanted_by(conn: Connection, subscriber_ids: Sequence[int]) -> set[int]:
    """Return which of these subscribers want weekly mails."""
    found: set[int] = set()
    for chunk in in_chunks(subscriber_ids, CHUNK):
        query = select(ProfileRow.subscriber_id)
        query = query.where(ProfileRow.subscriber_id.in_(chunk), ProfileRow.saved_weekly)
        found.update(conn.execute(query).scalars())
    return found


def of_readers(
    conn: Connection, subscriber_ids: Collection[int]
) -> defaultdict[int, list[SavedMail]]:
    """Return the weekly mails of subscribers by subscriber id."""
    found: defaultdict[int, list[SavedMail]] = defaultdict(list)
    for chunk in in_chunks(sorted(subscriber_ids), CHUNK):
        for row in conn.execute(
            select(
                DeliveryRow.id,
                DeliveryRow.subscriber_id,
                DeliveryRow.dedupe_key,
                DeliveryRow.status,
                DeliveryRow.created_at,
            ).where(DeliveryRow.subscriber_id.in_(chunk), DeliveryRow.kind == DeliveryKind.SAVED)
        ):
            found[row.subscriber_id].append(
                SavedMail(row.id, row.dedupe_key, DeliveryStatus(row.status), row.created_at)
            )
    return found


def covered_from(mails: Sequence[SavedMail], until: datetime) -> datetime:
    """Return the time after which papers are in the mail that is queued at `until`.

    Earlier mails that did not reach the reader are covered again.
    """
    earlier = [mail for mail in mails if mail.created_at < until]
    reached = [mail.created_at for mail in earlier if mail.status in REACHED]
    if reached:
        return max(reached)
    return min((mail.created_at for mail in earlier), default=until) - FIRST


def last_saved(
    conn: Connection, subscriber_ids: Collection[int], until: datetime
) -> dict[int, datetime]:
    """Return when each subscriber saved a paper that is still saved, the last time by `until`."""
    found: dict[int, datetime] = {}
    for chunk in in_chunks(sorted(subscriber_ids), CHUNK):
        rows = conn.execute(
            select(ReactionRow.subscriber_id, func.max(ReactionRow.saved_at).label("at"))
            .where(ReactionRow.subscriber_id.in_(chunk), ReactionRow.saved_at <= until)
            .group_by(ReactionRow.subscriber_id)
        )
        found |= {row.subscriber_id: row.at for row in rows}
    return found


def load(conn: Connection, delivery_ids: Collection[int]) -> dict[int, SavedWeek]:
    """Return the content, as of now, of the weekly mails among these deliveries, by delivery id."""
    found: dict[int, SavedWeek] = {}
    for chunk in in_chunks(sorted(delivery_ids), CHUNK):
        rows = conn.execute(
            select(
                DeliveryRow.id,
                DeliveryRow.subscriber_id,
                DeliveryRow.edition_on,
                DeliveryRow.created_at,
            ).where(DeliveryRow.id.in_(chunk), DeliveryRow.kind == DeliveryKind.SAVED)
        ).all()
        mails = of_readers(conn, {row.subscriber_id for row in rows})
        for row in rows:
            reader, until = row.subscriber_id, row.created_at
            after = covered_from(mails[reader], until)
            shown = reactions.saved_by(conn, reader, most=MOST, after=after, until=until)
            count = reactions.count_saved(conn, reader, after=after, until=until)
            found[row.id] = SavedWeek(
                row.edition_on,
                tuple(
                    SavedPaper(
                        one.key, one.title, one.authors, one.note, bool(one.paper_id), one.url
                    )
                    for one in shown
                ),
                count - len(shown),
            )
    return found


def cancel(conn: Connection, subscriber_id: int, reason: str) -> None:
    """Cancel the queued and leased weekly mails of a subscriber."""
    deliveries.cancel_unsent(conn, [subscriber_id], reason, [DeliveryKind.SAVED])


def cancel_if_empty(conn: Connection, subscriber_id: int) -> None:
    """Cancel the unsent weekly mail of a subscriber if all its papers were removed."""
    mails = of_readers(conn, [subscriber_id])[subscriber_id]
    unsent = [mail.id for mail in mails if mail.status in UNSENT]
    if any(not week.papers for week in load(conn, unsent).values()):
        cancel(conn, subscriber_id, "its papers were removed from the list")
