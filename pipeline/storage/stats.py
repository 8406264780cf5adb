"""Progress of each pipeline step for monitoring: a few queries, each of them by an index.

A problem must not come and go while its cause stays. So a step counts as overdue after a time that
is longer than its retries, and rates are those of whole days: they change once a day, at midnight.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Final

from sqlalchemy import Connection, func, select

from pipeline.domain import (
    LIST_MAIL,
    TERMINAL,
    CountedEvent,
    DeliveryStatus,
    SourceState,
    SubscriberStatus,
)
from pipeline.storage import daily_counts, delivery_queries, guard, ingest_state, send_controls
from pipeline.storage.ingest_state import SourceRecord
from pipeline.storage.schema import (
    BatchRow,
    DeliveryRow,
    PaperRow,
    SubscriberRow,
    SuppressionRow,
)
from pipeline.storage.send_controls import CircuitBreaker, Pause

UNSETTLED: Final = tuple(status for status in DeliveryStatus if status not in TERMINAL)
DAY: Final = timedelta(days=1)

# Sources are fetched every hour, by a task that may be lost: two lost in a row are no outage yet.
ASKED_WITHIN: Final = timedelta(hours=3)
# Fetched papers are matched at once; if a run crashes, the next one resumes it an hour later.
PUBLISHED_WITHIN: Final = timedelta(hours=3)
# Digests are compiled every minute, and mails claimed every few seconds. A million readers with the
# same hour keep both busy for a while; if the oldest is half an hour late, no worker is running.
COMPILED_WITHIN: Final = timedelta(minutes=30)
TAKEN_WITHIN: Final = timedelta(minutes=30)
# A restart of the mail server opens the circuit breaker for a minute.
REFUSED_WITHIN: Final = timedelta(minutes=10)
FAILED_WITHIN: Final = DAY  # a source; shorter failures are common
# The longest pause of arXiv, at the end of the year, has four days.
NEWS_WITHIN: Final = timedelta(days=7)
PAUSED_WITHIN: Final = DAY  # by the operator; mails that wait for longer expire

# The rules of Gmail and Yahoo for senders: https://support.google.com/a/answer/81126
COMPLAINTS_TOLERATED: Final = 0.001
COMPLAINTS_LIMIT: Final = 0.003
# Amazon SES: https://docs.aws.amazon.com/ses/latest/dg/reputationdashboardmessages.html
BOUNCES_TOLERATED: Final = 0.05
BOUNCES_LIMIT: Final = 0.1
# One complaint in a group of twenty readers is no sign of anything.
LEAST_COMPLAINTS: Final = 3
LEAST_BOUNCES: Final = 10
LEAST_EXPIRED: Final = 5
LEAST_SENT: Final = 1_000  # fewer mails in a week count as this many
LEAST_SENT_FOR_BOUNCES: Final = 100


@dataclass(frozen=True, slots=True)
class Week:
    """Numbers of list mails of the last seven whole days, and of the last of them."""

    sent: int = 0
    complained: int = 0
    bounced: int = 0
    sent_in_two_days: int = 0  # yesterday and the day before
    expired_yesterday: int = 0

    @property
    def complaint_rate(self) -> float:
        """Return complaints per mail; 0 for fewer than LEAST_COMPLAINTS."""
        return _rate(self.complained, self.sent, LEAST_COMPLAINTS, LEAST_SENT)

    @property
    def bounce_rate(self) -> float:
        """Return bounces per mail; 0 for fewer than LEAST_BOUNCES."""
        return _rate(self.bounced, self.sent, LEAST_BOUNCES, LEAST_SENT_FOR_BOUNCES)

    @property
    def has_lost_edition(self) -> bool:
        """Return whether more digests expired yesterday than were sent then or the day before.

        A digest expires on the day after it was due, on which a weekly list sends nothing. Fewer
        than LEAST_EXPIRED, such as those to one throttled domain, are no outage.
        """
        is_large = self.expired_yesterday >= LEAST_EXPIRED
        return is_large and self.expired_yesterday > self.sent_in_two_days


def _rate(events: int, sent: int, least: int, least_sent: int) -> float:
    return events / max(sent, least_sent) if events >= least else 0.0


@dataclass(frozen=True, slots=True)
class Stats:
    """State of each step; a time is None if nothing waits or nothing has happened yet."""

    batch: int  # the newest one that is visible to readers
    batch_at: datetime | None
    unpublished_since: datetime | None  # the oldest stored paper that is not published yet
    slot_since: datetime | None  # the oldest due slot of an active reader
    due_since: datetime | None  # the oldest due delivery that no sender has claimed
    sources: tuple[SourceRecord, ...]
    held: tuple[Pause, ...] = ()  # set by code: the operator must lift them
    breaker: CircuitBreaker | None = None  # None if it is closed
    refusals: int = 0  # not counted as strikes, because no other mail was accepted
    failing: str | None = None  # how much of the newest edition failed for a reason about us
    paused_since: datetime | None = None  # all mail, by the operator
    week: Week = field(default_factory=Week)

    def asked_at(self, now: datetime) -> datetime | None:
        """Return when a source was last tried; a source in backoff counts as tried now."""
        tried = [
            now if source.next_try_at and source.next_try_at > now else source.checked_at
            for source in self.sources
        ]
        return max(tried, default=None)


def read_stats(conn: Connection, now: datetime) -> Stats:
    published = ingest_state.published_batch(conn)
    pauses = send_controls.list_pauses(conn)
    due_at = delivery_queries.next_due_at(conn)
    return Stats(
        batch=published,
        batch_at=conn.scalar(select(BatchRow.published_at).where(BatchRow.number == published)),
        unpublished_since=conn.scalar(
            select(func.min(PaperRow.created_at)).where(PaperRow.batch > published)
        ),
        slot_since=conn.scalar(
            select(SubscriberRow.next_slot_at)
            .where(
                SubscriberRow.status == SubscriberStatus.ACTIVE, SubscriberRow.next_slot_at <= now
            )
            .order_by(SubscriberRow.next_slot_at)
            .limit(1)
        ),
        due_since=due_at if due_at and due_at <= now else None,
        sources=tuple(ingest_state.list_source_states(conn)),
        held=tuple(hold for hold in pauses if hold.automatic),
        breaker=send_controls.circuit_breaker(conn),
        refusals=guard.count_waiting(conn),
        failing=guard.failing(conn, now),
        paused_since=next(
            (p.since for p in pauses if p.edition_on is None and not p.automatic), None
        ),
        week=_week(conn, now),
    )


def _week(conn: Connection, now: datetime) -> Week:
    yesterday = now.date() - DAY
    days = daily_counts.between(conn, now.date() - 7 * DAY, yesterday)
    last = daily_counts.between(conn, yesterday, yesterday)
    last_two = daily_counts.between(conn, yesterday - DAY, yesterday)

    def count(counts: daily_counts.Counts, event: CountedEvent) -> int:
        return sum(counts.get((kind, event), 0) for kind in LIST_MAIL)

    return Week(
        sent=count(days, CountedEvent.SENT),
        complained=count(days, CountedEvent.COMPLAINED),
        bounced=count(days, CountedEvent.BOUNCED),
        sent_in_two_days=count(last_two, CountedEvent.SENT),
        expired_yesterday=count(last, CountedEvent.EXPIRED),
    )


# --- Problems: pure -----------------------------------------------------------------------------


def problems(made: Stats, now: datetime, started_at: datetime) -> list[str]:
    """Return all reasons for /readyz, as text for the operator. Pure."""
    return steps_and_holds(made, now, started_at) + list(bad_rates(made.week))


def steps_and_holds(made: Stats, now: datetime, started_at: datetime) -> list[str]:
    """Return the holds of sending and the overdue steps. Pure."""
    held = [
        f"sending of {hold.edition_on or 'everything'} is held: {hold.reason}" for hold in made.held
    ]
    failing = [made.failing] if made.failing else []
    return held + failing + overdue(made, now, started_at)


def overdue(made: Stats, now: datetime, started_at: datetime) -> list[str]:
    """Return the steps that are overdue. Pure.

    If no source was fetched yet, as in a new installation, the time counts from `started_at`.
    """
    steps = (
        ("no source was asked", made.asked_at(now) or started_at, ASKED_WITHIN),
        ("papers were read and are not published", made.unpublished_since, PUBLISHED_WITHIN),
        ("no source has new papers", made.batch_at, NEWS_WITHIN),
        ("the hour of a reader has come and no digest", made.slot_since, COMPILED_WITHIN),
        ("a mail is due and nobody sends it", made.due_since, TAKEN_WITHIN),
        (
            "the mail server refuses us",
            made.breaker.since if made.breaker else None,
            REFUSED_WITHIN,
        ),
        ("sending is stopped by the operator", made.paused_since, PAUSED_WITHIN),
        *((f"the source {one.source} fails", one.since, FAILED_WITHIN)
          for one in made.sources if _fails(one, now)),
    )  # fmt: skip
    return [
        f"{what}, for {(now - since) // timedelta(minutes=1)} minutes"
        for what, since, patience in steps
        if since is not None and now - since > patience
    ]


def _fails(source: SourceRecord, now: datetime) -> bool:
    """Return whether a source still failed when it was asked after FAILED_WITHIN."""
    has_lasted = source.checked_at - source.since >= FAILED_WITHIN
    return source.state is SourceState.FAILED and has_lasted and is_asked(source, now)


def is_asked(source: SourceRecord, now: datetime) -> bool:
    """Return whether a source was asked within a day, or is in backoff; else it was removed.

    Its row stays after it is removed from the settings. Pure.
    """
    return max(source.checked_at, source.next_try_at or source.checked_at) > now - DAY


def bad_rates(week: Week) -> Iterator[str]:
    """Yield the rates that endanger the delivery of all mails. Pure."""
    if week.has_lost_edition:
        yield (
            f"{week.expired_yesterday} digests expired yesterday and {week.sent_in_two_days} were"
            " sent in two days"
        )
    if week.complaint_rate >= COMPLAINTS_LIMIT:
        yield f"{week.complaint_rate:.2%} of the mails of a week were reported as spam"
    if week.bounce_rate >= BOUNCES_LIMIT:
        yield f"{week.bounce_rate:.0%} of the mails of a week bounced"


# --- Figures for /metrics -----------------------------------------------------------------------


def subscribers(conn: Connection) -> dict[SubscriberStatus, int]:
    """Return the number of subscribers by status, from an index; erased ones are unsubscribed."""
    count = select(func.count()).select_from(SubscriberRow)
    return {
        status: conn.scalar(count.where(SubscriberRow.status == status)) or 0
        for status in SubscriberStatus
    }


def last_edition_at(conn: Connection) -> datetime | None:
    """Return when the newest digest or notice was compiled; None if none is stored."""
    return conn.scalar(
        select(DeliveryRow.created_at)
        .where(~DeliveryRow.redacted, DeliveryRow.edition_on.is_not(None))
        .order_by(DeliveryRow.created_at.desc())
        .limit(1)
    )


@dataclass(frozen=True, slots=True)
class EditionCounts:
    """What became of the mails of an edition so far."""

    statuses: Counter[DeliveryStatus]
    length: timedelta  # from the first mail that was queued to the last that was sent


def edition(conn: Connection, edition_on: date) -> EditionCounts:
    """Return the counts of one edition; reads its rows by the index of their edition."""
    rows = conn.execute(
        select(
            DeliveryRow.status,
            func.count().label("mails"),
            func.min(DeliveryRow.created_at).label("first"),
            func.max(DeliveryRow.sent_at).label("last"),
        )
        .where(DeliveryRow.edition_on == edition_on)
        .group_by(DeliveryRow.status)
    ).all()
    ended = [row.last for row in rows if row.last]
    length = max(ended) - min(row.first for row in rows) if ended else timedelta(0)
    return EditionCounts(Counter({DeliveryStatus(r.status): r.mails for r in rows}), length)


def unsettled(conn: Connection) -> dict[DeliveryStatus, int]:
    """Return the number of deliveries by non-terminal status, including 0."""
    found = conn.execute(
        select(DeliveryRow.status, func.count())
        .where(DeliveryRow.status.in_(UNSETTLED))
        .group_by(DeliveryRow.status)
    )
    return dict.fromkeys(UNSETTLED, 0) | {DeliveryStatus(status): n for status, n in found}


def last_day(conn: Connection, now: datetime) -> Mapping[tuple[str, ...], float]:
    """Return the number of deliveries queued in the last 24 hours, by (kind, status)."""
    rows = conn.execute(
        select(DeliveryRow.kind, DeliveryRow.status, func.count())
        .where(~DeliveryRow.redacted, DeliveryRow.created_at > now - DAY)
        .group_by(DeliveryRow.kind, DeliveryRow.status)
    )
    return {(kind, status): count for kind, status, count in rows}


def suppressions(conn: Connection) -> Mapping[str, int]:
    """Return the number of suppressed addresses by reason."""
    rows = conn.execute(select(SuppressionRow.reason, func.count()).group_by(SuppressionRow.reason))
    return {row[0]: row[1] for row in rows}
