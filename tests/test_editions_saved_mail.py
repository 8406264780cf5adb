"""Readers who want it get a mail once a week with the papers that they saved since the last one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, update

from pipeline import editions, signup
from pipeline.domain import (
    LIST_MAIL,
    DeliveryKind,
    DeliveryStatus,
    Frequency,
    SavedPaper,
    SavedWeek,
    Schedule,
    Subscriber,
    SuppressionReason,
    Weekday,
)
from pipeline.editions import saved_mail
from pipeline.editions.candidates import Draft
from pipeline.signup import Choices, parse_queries
from pipeline.storage import deliveries, digests, saved_mails, subscribers, suppressions
from pipeline.storage.database import read_only
from pipeline.storage.saved_mails import SavedMail
from pipeline.storage.schema import DeliveryRow, SubscriberRow
from tests.support.dying import dying
from tests.support.factories import NOW, TODAY, make_sighting, make_subscriber
from tests.support.newsroom import add_reader, ingest, rows, stored

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
MONDAY = NOW + 5 * DAY
FRIDAY = Schedule(frequency=Frequency.WEEKLY, weekday=Weekday.FRIDAY)
PAPERS = 3


@pytest.fixture
def reader(engine: Engine) -> Subscriber:
    """A daily reader with a digest of Wednesday, who wants the weekly mail."""
    return add_weekly(engine)


def add_weekly(engine: Engine, schedule: Schedule | None = None) -> Subscriber:
    reader = add_reader(engine, "cat:cs.IR", schedule=schedule, now=NOW - HOUR)
    found = [make_sighting(title=f"Moss {n}", authors=("Ada",)) for n in range(PAPERS)]
    ingest(engine, *found, now=NOW - HOUR / 2)
    publish(engine, NOW)
    set_status(engine)
    signup.mail_weekly(engine, reader.id, NOW, wanted=True)
    return reader


def publish(engine: Engine, at: datetime) -> None:
    list(editions.publish(engine, now=at, expiry=18 * HOUR, template="1"))


def set_status(engine: Engine, status: DeliveryStatus = DeliveryStatus.SENT) -> None:
    with engine.begin() as conn:
        conn.execute(
            update(DeliveryRow)
            .where(DeliveryRow.status == DeliveryStatus.QUEUED)
            .values(status=status, reason="test")
        )


def save(engine: Engine, reader: Subscriber, number: int, at: datetime, note: str = "") -> None:
    signup.annotate(engine, reader.id, stored(engine)[number].key, note, at)


def remove(engine: Engine, reader: Subscriber, number: int, at: datetime) -> None:
    signup.save(engine, reader.id, stored(engine)[number].key, at, saved=False)


def mails(engine: Engine) -> list[Any]:
    return [m for m in rows(engine, DeliveryRow, DeliveryRow.id) if m.kind == DeliveryKind.SAVED]


def titles(engine: Engine) -> list[str]:
    """Return the titles in the last mail, as of now."""
    last = mails(engine)[-1].id
    with read_only(engine) as conn:
        return [paper.title for paper in saved_mails.load(conn, [last])[last].papers]


# --- Decisions (pure) ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "last", "on", "due"),
    [
        (Schedule(), date(2030, 1, 6), date(2030, 1, 7), date(2030, 1, 7)),
        (Schedule(), date(2030, 1, 7), date(2030, 1, 8), None),
        (Schedule(), date(2030, 1, 5), date(2030, 1, 9), date(2030, 1, 7)),
        (Schedule(weekday=Weekday.FRIDAY), date(2030, 1, 3), date(2030, 1, 4), None),
        (FRIDAY, date(2029, 12, 28), date(2030, 1, 4), date(2030, 1, 4)),
        (FRIDAY, date(2030, 1, 4), date(2030, 1, 7), None),
        (FRIDAY, date(2029, 12, 28), date(2030, 1, 7), date(2030, 1, 4)),
        (Schedule(), None, date(2030, 1, 7), date(2030, 1, 7)),
        (Schedule(), None, date(2030, 1, 8), None),
    ],
)
def test_mail_is_due_in_the_first_slot_on_or_after_the_weekday(schedule, last, on, due):
    reader = make_subscriber(schedule=schedule, last_edition_on=last)

    assert saved_mail.due_on(Draft(reader, NOW, on, 0)) == due


@pytest.mark.parametrize(
    ("statuses", "start"),
    [
        ("", 28 - 7),
        ("sent", 0),
        ("sent sent", 7),
        ("sent uncertain", 7),
        ("sent queued", 7),
        ("sent expired failed", 0),
        ("cancelled", 0 - 7),
        ("expired suppressed", 0 - 7),
    ],
)
def test_mails_that_did_not_reach_the_reader_are_covered_again(statuses, start):
    past = [
        SavedMail(n, f"saved:{n}", DeliveryStatus(status), NOW + 7 * n * DAY)
        for n, status in enumerate(statuses.split())
    ]
    queued = SavedMail(9, "saved:9", DeliveryStatus.QUEUED, NOW + 28 * DAY)

    assert saved_mails.covered_from([*past, queued], queued.created_at) == NOW + start * DAY


# --- Queueing -----------------------------------------------------------------------------------


def test_saved_papers_are_mailed_once_with_the_next_slot_of_the_weekday(engine: Engine, reader):
    save(engine, reader, 0, NOW + HOUR, "read first")
    save(engine, reader, 1, NOW + DAY)
    publish(engine, MONDAY - DAY)
    assert mails(engine) == []

    publish(engine, MONDAY)
    publish(engine, MONDAY)
    publish(engine, MONDAY + DAY)

    (mail,) = mails(engine)
    assert mail.dedupe_key == f"saved:2030-W02:{reader.id}"
    assert (mail.status, mail.edition_on) == ("queued", TODAY + 5 * DAY)
    with engine.begin() as conn:
        (claimed,) = deliveries.claim(conn, 9, "token", HOUR, MONDAY + DAY)
        content = editions.load_content(conn, [claimed], 7)
    keys = [paper.key for paper in stored(engine)]
    assert content == {
        mail.id: SavedWeek(
            TODAY + 5 * DAY,
            (
                SavedPaper(keys[1], "Moss 1", ("Ada",), "", True, ""),
                SavedPaper(keys[0], "Moss 0", ("Ada",), "read first", True, ""),
            ),
            more=0,
        )
    }


def test_each_mail_lists_the_papers_since_the_last_one_and_a_week_without_brings_none(
    engine: Engine, reader
):
    save(engine, reader, 0, NOW + HOUR)
    publish(engine, MONDAY)
    assert titles(engine) == ["Moss 0"]
    set_status(engine)
    publish(engine, MONDAY + 7 * DAY)
    assert len(mails(engine)) == 1
    save(engine, reader, 1, MONDAY + HOUR)

    publish(engine, MONDAY + 14 * DAY)

    assert len(mails(engine)) == 2
    assert titles(engine) == ["Moss 1"]


def test_more_papers_than_the_limit_are_counted(engine: Engine, reader, monkeypatch):
    monkeypatch.setattr(saved_mails, "MOST", 2)
    for number in range(PAPERS):
        save(engine, reader, number, NOW + number * HOUR)

    publish(engine, MONDAY)

    (mail,) = mails(engine)
    with read_only(engine) as conn:
        week = saved_mails.load(conn, [mail.id])[mail.id]
    assert [paper.title for paper in week.papers] == ["Moss 2", "Moss 1"]
    assert week.more == 1


def test_weekly_reader_gets_it_on_the_day_of_the_digest(engine: Engine):
    reader = add_weekly(engine, FRIDAY)
    save(engine, reader, 0, NOW + HOUR)

    publish(engine, NOW + 2 * DAY)

    assert [mail.dedupe_key for mail in mails(engine)] == [f"saved:2030-W01:{reader.id}"]


def test_another_weekday_in_the_same_week_brings_no_second_mail(engine: Engine, reader):
    save(engine, reader, 0, NOW + HOUR)
    publish(engine, MONDAY)
    set_status(engine)
    save(engine, reader, 1, MONDAY + HOUR)
    choices = Choices(parse_queries(("cat:cs.IR",)), FRIDAY)
    signup.change(engine, reader.id, choices, MONDAY + HOUR)

    publish(engine, MONDAY + 4 * DAY)
    assert len(mails(engine)) == 1
    publish(engine, MONDAY + 11 * DAY)

    assert [mail.dedupe_key for mail in mails(engine)[1:]] == [f"saved:2030-W03:{reader.id}"]
    assert titles(engine) == ["Moss 1"]


def test_only_readers_who_chose_it_get_it(engine: Engine, reader):
    save(engine, reader, 0, NOW + HOUR)
    signup.mail_weekly(engine, reader.id, NOW + HOUR, wanted=False)

    publish(engine, MONDAY)

    assert mails(engine) == []


def test_new_digest_supersedes_the_last_one_but_not_the_weekly_mail(engine: Engine, reader):
    save(engine, reader, 0, NOW + HOUR)
    publish(engine, MONDAY)
    ingest(engine, make_sighting(announced_on=TODAY + 6 * DAY), now=MONDAY + DAY - HOUR)

    publish(engine, MONDAY + DAY)

    assert [mail.status for mail in mails(engine)] == ["queued"]


def test_weekly_mail_is_no_digest(engine: Engine, reader):
    """Cursor, never-twice, feeds and inactivity see the same reader with and without it."""

    def seen() -> list[Any]:
        with read_only(engine) as conn:
            current = subscribers.by_id(conn, reader.id)
            assert current is not None
            return [
                replace(current, last_slot_at=None, next_slot_at=None, last_edition_on=None),
                digests.sent_before(conn, [reader.id], since=NOW - DAY),
                digests.reached(conn, reader.id, 9),
                digests.questions(conn, [reader.id]),
            ]

    save(engine, reader, 0, NOW + HOUR)
    before = seen()

    publish(engine, MONDAY)

    assert len(mails(engine)) == 1
    assert seen() == before


# --- Between queueing and sending ---------------------------------------------------------------


def test_removed_paper_is_not_in_a_queued_mail(engine: Engine, reader):
    save(engine, reader, 0, NOW + HOUR)
    save(engine, reader, 1, NOW + HOUR)
    publish(engine, MONDAY)

    remove(engine, reader, 0, MONDAY)

    assert titles(engine) == ["Moss 1"]
    assert [mail.status for mail in mails(engine)] == ["queued"]


def suppress(engine: Engine, reader: Subscriber) -> None:
    with engine.begin() as conn:
        hash_ = subscribers.hash_of(conn, reader.id)
        assert hash_ is not None
        suppressions.suppress(conn, hash_, SuppressionReason.MANUAL, MONDAY)


STOPS: dict[str, Callable[[Engine, Subscriber], object]] = {
    "all removed": lambda engine, reader: remove(engine, reader, 0, MONDAY),
    "switched off": lambda engine, reader: signup.mail_weekly(
        engine, reader.id, MONDAY, wanted=False
    ),
    "paused": lambda engine, reader: signup.pause(
        engine, reader.id, TODAY + 30 * DAY, MONDAY + HOUR
    ),
    "left": lambda engine, reader: signup.leave(engine, reader.secret, MONDAY),
    "suppressed": suppress,
}


@pytest.mark.parametrize("stop", STOPS.values(), ids=STOPS)
def test_queued_mail_is_not_sent_if_the_reader_no_longer_wants_it(engine: Engine, reader, stop):
    save(engine, reader, 0, NOW + HOUR)
    publish(engine, MONDAY)

    stop(engine, reader)

    assert DeliveryKind.SAVED in LIST_MAIL
    (mail,) = mails(engine)
    assert mail.status in {DeliveryStatus.CANCELLED, DeliveryStatus.SUPPRESSED}
    with engine.begin() as conn:
        assert deliveries.claim(conn, 9, "token", HOUR, MONDAY + HOUR) == []


def test_paused_reader_gets_none_and_after_the_pause_all_papers_since(engine: Engine, reader):
    save(engine, reader, 0, NOW + HOUR)
    publish(engine, MONDAY)
    signup.pause(engine, reader.id, TODAY + 14 * DAY, MONDAY + HOUR)  # cancels the mail
    save(engine, reader, 1, MONDAY + 2 * HOUR)
    publish(engine, MONDAY + 7 * DAY)
    assert len(mails(engine)) == 1

    publish(engine, MONDAY + 14 * DAY)

    assert len(mails(engine)) == 2
    assert titles(engine) == ["Moss 1", "Moss 0"]


def test_papers_of_a_mail_that_was_not_sent_are_in_the_next_one(engine: Engine, reader):
    save(engine, reader, 0, NOW + HOUR)
    publish(engine, MONDAY)
    set_status(engine, DeliveryStatus.EXPIRED)

    publish(engine, MONDAY + 7 * DAY)

    assert len(mails(engine)) == 2
    assert titles(engine) == ["Moss 0"]


# --- Concurrency and crashes --------------------------------------------------------------------


@pytest.mark.full
def test_row_held_by_another_change_delays_the_mail_to_the_next_run(engine: Engine, reader):
    """PostgreSQL skips the locked reader; SQLite waits. Neither loses or repeats the mail."""
    save(engine, reader, 0, NOW + HOUR)
    run = threading.Thread(target=publish, args=[engine, MONDAY])
    with engine.begin() as conn:
        conn.execute(update(SubscriberRow).values(max_papers=SubscriberRow.max_papers))
        run.start()
        run.join(1)
        during = mails(engine) if conn.dialect.name == "postgresql" else []
    run.join(60)

    publish(engine, MONDAY + HOUR)

    assert during == []
    assert [mail.dedupe_key for mail in mails(engine)] == [f"saved:2030-W02:{reader.id}"]


@pytest.mark.full
def test_papers_removed_while_the_mail_is_queued_leave_no_empty_mail(engine: Engine, reader):
    save(engine, reader, 0, NOW + HOUR)
    together(
        lambda: publish(engine, MONDAY),
        lambda: remove(engine, reader, 0, MONDAY),
    )

    assert {mail.status for mail in mails(engine)} <= {"cancelled"}


@pytest.mark.full
def test_concurrent_runs_queue_one_mail(engine: Engine, reader):
    save(engine, reader, 0, NOW + HOUR)

    together(*[lambda: publish(engine, MONDAY)] * 3)

    assert len(mails(engine)) == 1


@pytest.mark.full
def test_killed_run_leaves_the_slot_and_its_mail_both_or_none(engine: Engine, reader):
    save(engine, reader, 0, NOW + HOUR)
    found = set()

    for after in range(40):
        with dying(engine, after):
            publish(engine, MONDAY)
        (row,) = rows(engine, SubscriberRow)
        is_served = row.last_edition_on == TODAY + 5 * DAY
        assert is_served == (len(mails(engine)) == 1)
        found.add(is_served)

    assert found == {False, True}


@pytest.mark.full
@pytest.mark.parametrize("stop", ["all removed", "switched off", "paused"])
def test_killed_change_leaves_the_change_and_the_cancelled_mail_both_or_none(
    engine: Engine, reader, stop
):
    save(engine, reader, 0, NOW + HOUR)
    publish(engine, MONDAY)
    found = set()

    for after in range(40):
        with dying(engine, after):
            STOPS[stop](engine, reader)
        found.add((is_wanted(engine, reader), mails(engine)[0].status))

    assert found == {(True, "queued"), (False, "cancelled")}


def is_wanted(engine: Engine, reader: Subscriber) -> bool:
    with read_only(engine) as conn:
        current = subscribers.by_id(conn, reader.id)
        assert current is not None
        is_on = saved_mails.wanted_by(conn, [reader.id])
        return bool(
            is_on and saved_mails.last_saved(conn, is_on, MONDAY) and not current.paused_until
        )


def together(*acts: Callable[[], object]) -> None:
    start = threading.Barrier(len(acts))

    def run(act: Callable[[], object]) -> None:
        start.wait(30)
        act()

    threads = [threading.Thread(target=run, args=[act]) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
