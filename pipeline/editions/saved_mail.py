"""Weekly mails of saved papers: when one is due, and queueing it beside the digest.

It is due in the first slot on or after the reader's weekday (Monday, unless the digest is weekly),
and not before the next one: a reader who is paused in that slot, or has saved nothing, gets none in
this week, and the next mail lists what was saved since the last one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, timedelta
from typing import Final

from sqlalchemy import Connection

from pipeline.domain import DeliveryKind, Frequency, Weekday
from pipeline.editions.candidates import Draft, Edition
from pipeline.storage import deliveries, saved_mails
from pipeline.storage.deliveries import NewDelivery
from pipeline.storage.throttles import domain_of

EXPIRY: Final = timedelta(days=6)  # before the next one is due


def due_on(draft: Draft) -> date | None:
    """Return the day for which a mail is due in this slot; None if this week's slot was served."""
    schedule = draft.subscriber.schedule
    weekly = schedule.frequency is Frequency.WEEKLY
    weekday = schedule.weekday if weekly else Weekday.MONDAY
    due = draft.edition_on - timedelta(days=(draft.edition_on.weekday() - weekday) % 7)
    last = draft.subscriber.last_edition_on or draft.edition_on - timedelta(days=1)
    return due if last < due else None


def enqueue(
    conn: Connection,
    edition: Edition,
    drafts: Sequence[Draft],
    delay: Callable[[Draft, Edition], timedelta],
) -> None:
    """Queue the mails that are due to these readers, who want them and have saved a paper."""
    due = {draft.subscriber.id: (draft, on) for draft in drafts if (on := due_on(draft))}
    wanted = saved_mails.wanted_by(conn, list(due))
    if not wanted:
        return
    mails = saved_mails.of_readers(conn, wanted)
    saved = saved_mails.last_saved(conn, wanted, edition.now)
    new = []
    for id_ in sorted(saved):
        draft, on = due[id_]
        key = f"{DeliveryKind.SAVED}:{on:%G-W%V}:{id_}"
        is_queued = any(mail.dedupe_key == key for mail in mails[id_])
        if is_queued or saved[id_] <= saved_mails.covered_from(mails[id_], edition.now):
            continue
        new.append(
            NewDelivery(
                DeliveryKind.SAVED,
                key,
                id_,
                domain_of(draft.subscriber.email),
                not_before=edition.now + delay(draft, edition),
                expires_at=edition.now + EXPIRY,
                edition_on=draft.edition_on,
                slot_at=draft.slot_at,
            )
        )
    deliveries.add(conn, new, edition.now)
