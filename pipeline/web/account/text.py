"""Display texts of the account pages: choices, dates, delivery statuses and reasons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final

from pipeline import slots
from pipeline.domain import (
    UNTIL_ACTIVE,
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
from pipeline.translations import gettext, gettext_noop
from pipeline.web.subscribe.form_input import BREADTHS, breadth_value

SKIPS: Final = {
    SkipReason.NOTHING_NEW: gettext_noop("There were no new papers since your last digest."),
    SkipReason.NOTHING_MATCHED: gettext_noop("There were new papers, but none on your topics."),
    SkipReason.ALL_SENT_BEFORE: gettext_noop("Every paper on your topics was already sent to you."),
    SkipReason.PAUSED: gettext_noop("Your digest was paused."),
    SkipReason.SUPPRESSED: gettext_noop("Email to your address bounced, so none was sent."),
}
FATES: Final = {
    DeliveryStatus.QUEUED: gettext_noop("Being sent"),
    DeliveryStatus.LEASED: gettext_noop("Being sent"),
    DeliveryStatus.SENDING: gettext_noop("Being sent"),
    DeliveryStatus.SENT: gettext_noop("Sent"),
    DeliveryStatus.UNCERTAIN: gettext_noop("Probably sent: the mail server did not reply"),
    DeliveryStatus.FAILED: gettext_noop("Not sent: rejected by the mail server"),
    DeliveryStatus.SUPPRESSED: gettext_noop("Not sent: the mail server does not know the address"),
    DeliveryStatus.CANCELLED: gettext_noop(
        "Not sent: replaced by a newer digest, or you had unsubscribed"
    ),
    DeliveryStatus.EXPIRED: gettext_noop("Not sent in time: its papers are in the next digest"),
}
WHYS: Final = {
    UnsubscribeReason.TOO_MANY: gettext_noop("Too many emails, or too many papers in them"),
    UnsubscribeReason.NOT_RELEVANT: gettext_noop("The papers were not relevant to me"),
    UnsubscribeReason.NO_LONGER: gettext_noop("I no longer need it"),
    UnsubscribeReason.NEVER_ASKED: gettext_noop("I never signed up"),
    UnsubscribeReason.OTHER: gettext_noop("Another reason"),
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
    breadth: str  # "Strict"
    papers: str = ""  # "34 papers, such as “Moss walls”": a request's own ones


def current_choices(
    email: str, topics: Sequence[str], schedule: Schedule, max_papers: int, breadth: Breadth
) -> CurrentChoices:
    return CurrentChoices(
        masked(email),
        tuple(topics),
        schedule_text(schedule),
        max_papers,
        gettext(dict(BREADTHS)[breadth_value(breadth)]),
    )


def choices_of(known: Preferences) -> CurrentChoices:
    subscriber = known.subscriber
    labels = [label for _, label in known.topics]
    return current_choices(
        subscriber.email, labels, subscriber.schedule, subscriber.max_papers, subscriber.breadth
    )


def schedule_text(schedule: Schedule) -> str:
    """Describe a schedule: "Every Monday at 08:00, Europe/Paris time"."""
    form = {
        Frequency.DAILY: gettext("Every day at %(time)s, %(timezone)s time"),
        Frequency.WEEKDAYS: gettext("Monday to Friday at %(time)s, %(timezone)s time"),
        Frequency.WEEKLY: gettext("Every %(weekday)s at %(time)s, %(timezone)s time"),
    }[schedule.frequency]
    return form % {
        "weekday": formatting.weekday(schedule.weekday),
        "time": f"{schedule.at:%H:%M}",
        "timezone": schedule.timezone,
    }


def delivery_time(slot: datetime, schedule: Schedule, now: datetime) -> str:
    """Format a slot in its own time zone: "Tomorrow, Wednesday 25 November, at 08:00 Europe/Paris".

    A slot that is not after `now` is "In the next few minutes".
    """
    if slot <= now:
        return gettext("In the next few minutes")
    tz = slots.zone(schedule.timezone)
    local, today = slot.astimezone(tz), now.astimezone(tz).date()
    if local.date() == today:
        form = gettext("Today, %(day)s, at %(time)s %(timezone)s")
    elif local.date() == today + timedelta(days=1):
        form = gettext("Tomorrow, %(day)s, at %(time)s %(timezone)s")
    else:
        form = gettext("%(day)s, at %(time)s %(timezone)s")
    return form % {
        "day": _day(local.date(), today),
        "time": f"{local:%H:%M}",
        "timezone": schedule.timezone,
    }


def next_digest(subscriber: Subscriber, now: datetime) -> str:
    """Return the time of the next digest, as text in the reader's time zone; "" if none is due.

    A digest is due only for an active subscriber; a pause postpones it. A welcome that is due is
    the digest of today, also if it comes before the slot of today.
    """
    schedule, due_at = subscriber.schedule, subscriber.next_slot_at
    is_active = subscriber.status is SubscriberStatus.ACTIVE
    if not is_active or due_at is None or subscriber.paused_until == UNTIL_ACTIVE:
        return ""
    if subscriber.welcome_due and not had_today(subscriber, now):
        today = slots.local_date(now, schedule)
        due_at = max(due_at, slots.next_slot(schedule, slots.slot_on(today, schedule), today))
    if subscriber.paused_until is not None:
        due_at = max(due_at, first_after(subscriber.paused_until, subscriber.schedule))
    return delivery_time(due_at, subscriber.schedule, now)


def had_today(subscriber: Subscriber, now: datetime) -> bool:
    """Return whether today's edition is compiled already: there is one for each local day."""
    last = subscriber.last_edition_on
    return last is not None and last >= slots.local_date(now, subscriber.schedule)


def first_after(until: date, schedule: Schedule) -> datetime:
    """Return the first slot after a pause: on the local day `until` or later."""
    before = slots.slot_on(until, schedule) - timedelta(seconds=1)
    return slots.first_slot(schedule, before)


def _day(day: date, today: date) -> str:
    """Return "Wednesday 25 November", with the year unless it is this one."""
    return formatting.days(day, day) if day.year == today.year else formatting.full_day(day)
