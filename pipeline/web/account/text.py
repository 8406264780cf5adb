"""Display texts of the account pages: choices, dates, delivery statuses and reasons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final

from pipeline import slots
from pipeline.domain import (
    Breadth,
    DeliveryStatus,
    Frequency,
    Schedule,
    SkipReason,
    Subscriber,
    SubscriberStatus,
)
from pipeline.rendering import formatting
from pipeline.signup import Preferences, UnsubscribeReason
from pipeline.web.subscribe.form_input import BREADTHS, breadth_value

SKIPS: Final = {
    SkipReason.NOTHING_NEW: "No new papers had come in since your last digest.",
    SkipReason.NOTHING_MATCHED: "New papers came in, but none on your topics.",
    SkipReason.ALL_SENT_BEFORE: "Every paper on your topics had been sent to you before.",
    SkipReason.PAUSED: "Your digest was paused.",
    SkipReason.SUPPRESSED: "Mail to your address had come back, so we did not write.",
}
FATES: Final = {
    DeliveryStatus.QUEUED: "On its way",
    DeliveryStatus.LEASED: "On its way",
    DeliveryStatus.SENDING: "On its way",
    DeliveryStatus.SENT: "Sent",
    DeliveryStatus.UNCERTAIN: "Probably sent: the mail server did not answer",
    DeliveryStatus.FAILED: "Not sent: the mail server refused it",
    DeliveryStatus.SUPPRESSED: "Not sent: the mail server knows no such address",
    DeliveryStatus.CANCELLED: "Not sent: a newer digest took its place, or you had left",
    DeliveryStatus.EXPIRED: "Not sent in time: its papers came with the next one",
}
WHYS: Final = {
    UnsubscribeReason.TOO_MANY: "Too many mails, or too many papers in them",
    UnsubscribeReason.NOT_RELEVANT: "The papers were not what I hoped for",
    UnsubscribeReason.NO_LONGER: "I do not need it any more",
    UnsubscribeReason.NEVER_ASKED: "I never asked for it",
    UnsubscribeReason.OTHER: "Something else",
}


def now() -> datetime:
    return datetime.now(UTC)


def masked(email: str) -> str:
    """Mask an address so that only its owner recognises it: "a•••@e•••.org"."""
    name, _, domain = email.rpartition("@")
    host, dot, top = domain.rpartition(".")
    return f"{name[:1]}•••@{host[:1]}•••{dot}{top}" if dot else f"{name[:1]}•••@{top[:1]}•••"


@dataclass(frozen=True, slots=True)
class CurrentChoices:
    """Choices of a subscriber, as display texts."""

    address: str  # masked
    topics: tuple[str, ...]
    rhythm: str  # "Every day at 08:00, Europe/Paris time"
    max_papers: int
    breadth: str  # "Fewer, surer"


def current_choices(
    email: str, topics: Sequence[str], schedule: Schedule, max_papers: int, breadth: Breadth
) -> CurrentChoices:
    return CurrentChoices(
        masked(email),
        tuple(topics),
        schedule_text(schedule),
        max_papers,
        dict(BREADTHS)[breadth_value(breadth)],
    )


def choices_of(known: Preferences) -> CurrentChoices:
    subscriber = known.subscriber
    labels = [label for _, label in known.topics]
    return current_choices(
        subscriber.email, labels, subscriber.schedule, subscriber.max_papers, subscriber.breadth
    )


def schedule_text(schedule: Schedule) -> str:
    """Describe a schedule: "Every Monday at 08:00, Europe/Paris time"."""
    days = {
        Frequency.DAILY: "Every day",
        Frequency.WEEKDAYS: "Monday to Friday",
        Frequency.WEEKLY: f"Every {schedule.weekday.name.capitalize()}",
    }
    return f"{days[schedule.frequency]} at {schedule.at:%H:%M}, {schedule.timezone} time"


def delivery_time(slot: datetime, schedule: Schedule, now: datetime) -> str:
    """Format a slot in its own time zone: "Tomorrow, Wednesday 25 November, at 08:00 Europe/Paris".

    A slot that is not after `now` is "Within the next minutes".
    """
    if slot <= now:
        return "Within the next minutes"
    tz = slots.zone(schedule.timezone)
    local, today = slot.astimezone(tz), now.astimezone(tz).date()
    return f"{_day(local.date(), today)}, at {local:%H:%M} {schedule.timezone}"


def next_digest(subscriber: Subscriber, now: datetime) -> str:
    """Return the time of the next digest, as text in the reader's time zone; "" if none is due.

    A digest is due only for an active subscriber; a pause postpones it.
    """
    due_at = subscriber.next_slot_at
    if subscriber.status is not SubscriberStatus.ACTIVE or due_at is None:
        return ""
    if subscriber.paused_until is not None:
        due_at = max(due_at, first_after(subscriber.paused_until, subscriber.schedule))
    return delivery_time(due_at, subscriber.schedule, now)


def first_after(until: date, schedule: Schedule) -> datetime:
    """Return the first slot after a pause: on the local day `until` or later."""
    before = slots.slot_on(until, schedule) - timedelta(seconds=1)
    return slots.first_slot(schedule, before)


def _day(day: date, today: date) -> str:
    spoken = formatting.days(day, day)
    if day.year != today.year:
        spoken += f" {day.year}"
    if day == today:
        return f"Today, {spoken}"
    return f"Tomorrow, {spoken}" if day == today + timedelta(days=1) else spoken
