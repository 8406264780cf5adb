"""Inactive readers: ask in their digests whether to go on, then pause the digests.

An action is a POST of a page, such as saving preferences: opened mails and followed links are not
tracked. After `inactivity_months` without one, the digests of at least `ASKED_FOR` ask. The reader
is paused only if that day has come and `LEAST_SENT` of these digests were sent, so that neither
failed mail nor stopped sending counts as silence. A wrong clock or an old copy of the database
makes all readers inactive at once; so at most `MOST` percent are paused in a day.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Final

import structlog
from sqlalchemy import Connection

from pipeline.domain import DeliveryKind
from pipeline.editions.candidates import Draft, Edition
from pipeline.storage import bounce_scores, deliveries, digests, rate_limits, subscribers
from pipeline.storage.deliveries import NewDelivery
from pipeline.storage.digests import Question
from pipeline.storage.throttles import domain_of

log = structlog.get_logger(__name__)

ASKED_FOR: Final = timedelta(days=30)
ASKED_AGAIN: Final = timedelta(days=7)  # if the day has come and the reader cannot be paused yet
LEAST_SENT: Final = 3
MOST: Final = 2  # percent of active subscribers paused in a day, but at least
LEAST_MOST: Final = 5
NOTE_EXPIRY: Final = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Inactive:
    """The inactive readers of a chunk, by subscriber id."""

    asked: Mapping[int, date] = field(default_factory=dict)  # the day on which they are paused
    paused: frozenset[int] = frozenset()


def decide(conn: Connection, edition: Edition, drafts: Sequence[Draft]) -> Inactive:
    """Return which readers of these drafts are asked and which are paused in this edition."""
    inactive = [draft for draft in drafts if _is_inactive(draft, edition.inactivity_months)]
    if not inactive:
        return Inactive()
    asked = digests.questions(conn, [draft.subscriber.id for draft in inactive])
    due = [draft for draft in inactive if is_pause_due(draft, asked[draft.subscriber.id])]
    paused = _paused(conn, edition, due)
    return Inactive(
        {
            draft.subscriber.id: pauses_on(draft, asked[draft.subscriber.id])
            for draft in inactive
            if draft.subscriber.id not in paused
        },
        paused,
    )


def _is_inactive(draft: Draft, months: int) -> bool:
    active_on = draft.subscriber.active_on
    if months == 0 or active_on is None:
        return False
    return active_on <= months_before(draft.edition_on, months)


def months_before(day: date, months: int) -> date:
    """Return the same day `months` earlier, at most the 28th."""
    year, month = divmod(day.year * 12 + day.month - 1 - months, 12)
    return date(year, month + 1, min(day.day, 28))


def is_pause_due(draft: Draft, asked: Sequence[Question]) -> bool:
    """Return whether the announced day has come and enough digests with the question were sent."""
    current = _current(draft, asked)
    is_over = bool(current) and draft.edition_on >= max(one.pauses_on for one in current)
    return is_over and sum(one.is_sent for one in current) >= LEAST_SENT


def pauses_on(draft: Draft, asked: Sequence[Question]) -> date:
    """Return the day to announce: always the same, until it has come."""
    current = _current(draft, asked)
    if not current:
        return draft.edition_on + ASKED_FOR
    announced = max(one.pauses_on for one in current)
    return announced if draft.edition_on < announced else draft.edition_on + ASKED_AGAIN


def _current(draft: Draft, asked: Sequence[Question]) -> list[Question]:
    """Return the questions since the last action; a day is left for time zones."""
    since = (draft.subscriber.active_on or draft.edition_on) + timedelta(days=1)
    return [one for one in asked if one.edition_on > since]


def _paused(conn: Connection, edition: Edition, due: Sequence[Draft]) -> frozenset[int]:
    """Return the readers to be paused: none whose mail bounced, and not too many in a day."""
    if not due:
        return frozenset()
    since = min(draft.edition_on for draft in due) - ASKED_FOR
    struck = bounce_scores.struck_since(conn, [draft.subscriber.id for draft in due], since)
    most = max(LEAST_MOST, subscribers.count_active(conn) * MOST // 100)
    paused: set[int] = set()
    for draft in due:
        if draft.subscriber.id in struck:
            continue
        if not rate_limits.count(
            conn, "inactivity-pauses", most=most, window=timedelta(days=1), now=edition.now
        ):
            log.warning("inactivity.pauses_limited", most=most)
            break
        paused.add(draft.subscriber.id)
    return frozenset(paused)


def enqueue_notes(conn: Connection, edition: Edition, paused: Sequence[Draft]) -> None:
    """Queue the mail that says that the digests are paused, for each of these readers."""
    notes = [
        NewDelivery(
            DeliveryKind.PAUSE_NOTE,
            f"{DeliveryKind.PAUSE_NOTE}:{draft.edition_on}:{draft.subscriber.id}",
            draft.subscriber.id,
            domain_of(draft.subscriber.email),
            not_before=edition.now,
            expires_at=edition.now + NOTE_EXPIRY,
            edition_on=draft.edition_on,
            slot_at=draft.slot_at,
        )
        for draft in paused
    ]
    deliveries.add(conn, notes, edition.now)
    for draft in paused:
        log.info("subscriber.paused", subscriber=draft.subscriber.id, because="inactivity")
