"""Tell the operator: a line of log for each edition, a mail when something is wrong, a report.

Runs every hour, in any number of processes. A row of `operator_reports` is the gate of each mail:
the process that inserts it also queues the mail, in one transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Final, Protocol

import structlog
from sqlalchemy import Connection, Engine

from pipeline.domain import (
    LIST_MAIL,
    UNSENT,
    CountedEvent,
    DeliveryKind,
    DeliveryStatus,
    OperatorReport,
    Schedule,
    SubscriberStatus,
)
from pipeline.logs import without_secrets
from pipeline.storage import (
    daily_counts,
    operator_reports,
    sightings,
    stats,
    subscribers,
    suppressions,
    topics,
    transactional,
)
from pipeline.storage.database import read_only, retry_transaction
from pipeline.storage.operator_reports import ReportName
from pipeline.translations import gettext

log = structlog.get_logger(__name__)

OVER_AFTER: Final = timedelta(hours=36)  # from midnight UTC to the end of a date in every time zone
DAYS: Final = 7  # a digest expires after at most 72 hours


EXPIRY: Final = timedelta(days=1)  # of an alert; the next one says what is wrong then
REPORT_EXPIRY: Final = timedelta(days=3)
REPORT_UNTIL: Final = 3  # day of the month; later, a new installation would get a report
TOPICS: Final = 10
LEAST_FOLLOWERS: Final = 3  # a topic of one reader, such as an author, may name that reader
KEPT: Final = timedelta(days=396)


class Failure(Protocol):
    """A failed check, see `doctor.Finding`."""

    @property
    def check(self) -> str: ...
    @property
    def detail(self) -> str: ...
    @property
    def advice(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Operator:
    """The recipient of alerts and reports."""

    email: str
    suppression_key: str


def finish_editions(engine: Engine, now: datetime) -> None:
    """Log each edition that is over, once in all processes. Idempotent."""
    for days in range(DAYS, 0, -1):
        edition_on = now.date() - timedelta(days=days)
        if datetime.combine(edition_on, time(), UTC) + OVER_AFTER <= now:
            _finish(engine, edition_on)


@retry_transaction
def _finish(engine: Engine, edition_on: date) -> None:
    """Log the counts of an edition, unless they are logged or a delivery has no result yet."""
    with engine.begin() as conn:
        if daily_counts.is_counted(conn, edition_on, CountedEvent.FINISHED):
            return
        found = stats.edition(conn, edition_on)
        if not found.statuses or any(found.statuses[status] for status in _OPEN):
            return
        won = daily_counts.add_once(conn, edition_on, DeliveryKind.DIGEST, CountedEvent.FINISHED)
    if won:
        log.info(
            "edition.finished",
            edition=str(edition_on),
            compiled=found.statuses.total(),
            **{status: found.statuses[status] for status in _ENDS},
            seconds=round(found.length.total_seconds()),
        )


_OPEN: Final = (*UNSENT, DeliveryStatus.SENDING)
_ENDS: Final = (
    DeliveryStatus.SENT,
    DeliveryStatus.UNCERTAIN,
    DeliveryStatus.FAILED,
    DeliveryStatus.SUPPRESSED,
    DeliveryStatus.CANCELLED,
    DeliveryStatus.EXPIRED,
)


# --- Mail to the operator -----------------------------------------------------------------------


def alert(
    engine: Engine, operator: Operator, now: datetime, check: Callable[[], Iterable[Failure]]
) -> None:
    """Queue a mail if checks fail, or if none does after an alert; at most one a day.

    `check` runs outside of any transaction, and not at all if today has a mail already.
    """
    today = now.date()
    with read_only(engine) as conn:
        latest = operator_reports.latest(conn, ReportName.DAILY, today)
    if latest and latest[0] == today:
        return
    report = OperatorReport(
        tuple(
            (without_secrets(f"{one.check}: {one.detail}"), without_secrets(one.advice))
            for one in check()
        )
    )
    kind = kind_of_mail(report, latest[1] if latest else None)
    if kind:
        _queue(engine, operator, ReportName.DAILY, today, kind, report, now)


def kind_of_mail(report: OperatorReport, before: DeliveryKind | None) -> DeliveryKind | None:
    """Return the kind of mail to send after the mail `before`; None if there is no news. Pure."""
    if report.lines:
        return DeliveryKind.ALERT
    return DeliveryKind.ALL_WELL if before is DeliveryKind.ALERT else None


def report_month(engine: Engine, operator: Operator, now: datetime) -> None:
    """Queue the report of the last month, in the first days of a month; once."""
    first = now.date().replace(day=1)
    if now.day > REPORT_UNTIL:
        return
    with read_only(engine) as conn:
        latest = operator_reports.latest(conn, ReportName.MONTHLY, first)
        if (latest and latest[0] == first) or not daily_counts.has_before(conn, first):
            return
        report = monthly_report(conn, first)
    _queue(engine, operator, ReportName.MONTHLY, first, DeliveryKind.REPORT, report, now)


def monthly_report(conn: Connection, first: date) -> OperatorReport:
    """Return the figures of the month before the day `first`. None is about a single reader."""
    last = first - timedelta(days=1)
    start = last.replace(day=1)
    counts = daily_counts.between(conn, start, last)

    def mails(event: CountedEvent) -> int:
        return sum(count for (kind, of), count in counts.items() if kind and of is event)

    figures = {
        gettext("Month"): f"{start:%Y-%m}",
        gettext("Readers now"): stats.subscribers(conn)[SubscriberStatus.ACTIVE],
        gettext("Readers who joined"): counts.get(("", CountedEvent.JOINED), 0),
        gettext("Readers who left"): counts.get(("", CountedEvent.LEFT), 0),
        gettext("Mails sent"): mails(CountedEvent.SENT),
        gettext("Mails refused"): mails(CountedEvent.REFUSED),
        gettext("Mails expired"): mails(CountedEvent.EXPIRED),
        gettext("Mails bounced"): mails(CountedEvent.BOUNCED),
        gettext("Mails reported as spam"): mails(CountedEvent.COMPLAINED),
        gettext("Days without an edition"): last.day - _days_with_mail(conn, start, last),
    }
    begin, end = (datetime.combine(day, time(), UTC) for day in (start, first))
    for source, papers in sightings.count_by_source(conn, begin, end).items():
        figures[gettext("Papers of %(source)s", source=source)] = papers
    for query, followers in topics.most_followed(conn, TOPICS, at_least=LEAST_FOLLOWERS):
        figures[gettext("Followers of %(topic)s", topic=query)] = followers
    return OperatorReport(tuple((name, f"{value}") for name, value in figures.items()))


def _days_with_mail(conn: Connection, first: date, last: date) -> int:
    return daily_counts.days_with(conn, first, last, LIST_MAIL, CountedEvent.SENT)


@retry_transaction
def _queue(
    engine: Engine,
    operator: Operator,
    name: ReportName,
    day: date,
    kind: DeliveryKind,
    report: OperatorReport,
    now: datetime,
) -> None:
    """Queue a report, once in all processes; nothing is stored if the address is suppressed."""
    with engine.begin() as conn:
        if suppressions.find(conn, operator.email, operator.suppression_key):
            _log_suppressed(name, day)
            return
        if not operator_reports.add(conn, name, day, kind, report):
            return  # another process was first
        operator_reports.delete_old(conn, day - KEPT)
        expiry = EXPIRY if name is ReportName.DAILY else REPORT_EXPIRY
        transactional.enqueue(
            conn,
            kind,
            _subscriber_of(conn, operator, now),
            about=operator_reports.about(name, day),
            expires_at=now + expiry,
            now=now,
        )
    log.info("operator_mail.queued", kind=kind, day=str(day), lines=len(report.lines))


@lru_cache(maxsize=16)  # one line per process and report, however often the task runs
def _log_suppressed(name: ReportName, day: date) -> None:
    log.error("operator_mail.suppressed", report=name, day=str(day))


def _subscriber_of(conn: Connection, operator: Operator, now: datetime) -> int:
    """Return the id of the operator's row; add a pending subscriber without topics if none.

    It gets no digests, and is purged when no recent mail to it is left, see storage.retention.
    """
    known = subscribers.by_email(conn, operator.email)
    if known is None:
        subscribers.add(
            conn,
            email=operator.email,
            suppression_key=operator.suppression_key,
            schedule=Schedule(),
            max_papers=1,
            status=SubscriberStatus.PENDING,
            cursor=0,
            next_slot_at=None,
            now=now,
        )
        known = subscribers.by_email(conn, operator.email)
    assert known is not None  # noqa: S101  (it was added)
    return known.id
