"""Inactive readers are asked for a month whether to go on, and paused only after that."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, insert, update

from pipeline import editions, signup
from pipeline.domain import (
    UNTIL_ACTIVE,
    DeliveryKind,
    DeliveryStatus,
    PauseNotice,
    SkipReason,
    Subscriber,
    SubscriberStatus,
)
from pipeline.editions import SlotResult, inactivity
from pipeline.editions.candidates import Draft
from pipeline.signup import Choices, parse_queries
from pipeline.storage import deliveries, digests, subscribers
from pipeline.storage.database import read_only
from pipeline.storage.digests import Question
from pipeline.storage.schema import DeliveryRow, StrikeRow, SubscriberRow
from tests.support.dying import dying
from tests.support.factories import NOW, TODAY, make_sighting, make_subscriber
from tests.support.newsroom import SUPPRESSION_KEY, add_reader, ingest, rows

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
LONG_AGO = date(2029, 7, 2)  # six months before the first edition
PAUSE_NOTE = DeliveryKind.PAUSE_NOTE


def add_inactive(engine: Engine, number: int = 0, active_on: date = LONG_AGO) -> Subscriber:
    reader = add_reader(engine, "cat:cs.IR", email=f"ada{number}@example.org", now=NOW - HOUR)
    with engine.begin() as conn:
        conn.execute(
            update(SubscriberRow).where(SubscriberRow.id == reader.id).values(active_on=active_on)
        )
    return reader


def publish(engine: Engine, day: int, *, months: int = 6) -> list[SlotResult]:
    return list(
        editions.publish(
            engine,
            now=NOW + day * DAY,
            expiry=18 * HOUR,
            template="1",
            inactivity_months=months,
        )
    )


def set_status(engine: Engine, status: DeliveryStatus = DeliveryStatus.SENT) -> None:
    with engine.begin() as conn:
        conn.execute(
            update(DeliveryRow)
            .where(DeliveryRow.status == DeliveryStatus.QUEUED)
            .values(status=status, reason="test")
        )


def news(engine: Engine, day: int) -> None:
    sighting = make_sighting(announced_on=TODAY + day * DAY)
    ingest(engine, sighting, now=NOW + day * DAY - HOUR / 2)


def day(engine: Engine, number: int, *, months: int = 6) -> date | None:
    """Ingest a paper, publish, send; return the day that the last digest announces for a pause."""
    news(engine, number)
    publish(engine, number, months=months)
    with read_only(engine) as conn:
        last = rows(engine, DeliveryRow, DeliveryRow.id)[-1]
        digest = digests.load(conn, [last.id]).get(last.id)
    set_status(engine)
    return digest.pauses_on if digest else None


def ask_three_times(engine: Engine) -> None:
    assert [day(engine, number) for number in range(3)] == [TODAY + 30 * DAY] * 3


def notes(engine: Engine) -> list[Any]:
    return [row for row in rows(engine, DeliveryRow, DeliveryRow.id) if row.kind == PAUSE_NOTE]


def stored(engine: Engine, reader: Subscriber) -> Subscriber:
    with read_only(engine) as conn:
        found = subscribers.by_id(conn, reader.id)
    assert found is not None
    return found


# --- Decisions (pure) ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("day", "months", "before"),
    [
        (date(2030, 1, 2), 6, date(2029, 7, 2)),
        (date(2030, 8, 31), 6, date(2030, 2, 28)),
        (date(2030, 12, 5), 12, date(2029, 12, 5)),
        (date(2030, 1, 5), 1, date(2029, 12, 5)),
    ],
)
def test_months_are_counted_in_the_calendar(day, months, before):
    assert inactivity.months_before(day, months) == before


def draft(days: int) -> Draft:
    reader = make_subscriber(active_on=LONG_AGO)
    return Draft(reader, NOW + days * DAY, TODAY + days * DAY, 0)


def asked(*days: int, until: int = 30, sent: int = 99) -> list[Question]:
    return [
        Question(TODAY + day * DAY, TODAY + until * DAY, is_sent=number < sent)
        for number, day in enumerate(days)
    ]


@pytest.mark.parametrize(
    ("days", "questions", "announced", "is_due"),
    [
        (0, [], 30, False),
        (1, asked(0), 30, False),
        (29, asked(0, 7, 14), 30, False),
        (30, asked(0, 7, 14), None, True),
        (30, asked(0, 7), 37, False),
        (30, asked(0, 7, 14, sent=2), 37, False),
        (36, [*asked(0, 7, 14), *asked(30, until=37)], 37, False),
        (37, [*asked(0, 7, 14), *asked(30, until=37)], None, True),
        # Questions before the last action do not count.
        (0, asked(-400, -393, -386, until=-370), 30, False),
    ],
)
def test_pause_waits_for_the_announced_day_and_three_sent_digests(
    days, questions, announced, is_due
):
    assert inactivity.is_pause_due(draft(days), questions) is is_due
    if announced is not None:
        assert inactivity.pauses_on(draft(days), questions) == TODAY + announced * DAY


# --- Asking and pausing -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("active_on", "months", "is_asked"),
    [(LONG_AGO, 6, True), (LONG_AGO + DAY, 6, False), (LONG_AGO, 7, False), (LONG_AGO, 0, False)],
)
def test_only_readers_inactive_for_the_configured_months_are_asked(
    engine: Engine, active_on, months, is_asked
):
    add_inactive(engine, active_on=active_on)

    announced = day(engine, 0, months=months)

    assert announced == (TODAY + 30 * DAY if is_asked else None)


def test_silent_reader_is_paused_with_one_mail_and_can_resume(engine: Engine):
    reader = add_inactive(engine)
    ask_three_times(engine)
    news(engine, 29)
    news(engine, 30)

    (outcome,) = publish(engine, 30)

    assert outcome.skipped is SkipReason.PAUSED
    assert stored(engine, reader).paused_until == UNTIL_ACTIVE
    (note,) = notes(engine)
    assert note.dedupe_key == f"pause-note:{TODAY + 30 * DAY}:{reader.id}"
    with engine.begin() as conn:
        (claimed,) = deliveries.claim(conn, 9, "token", HOUR, NOW + 30 * DAY)
        content = editions.load_content(conn, [claimed], 7)
    assert content == {note.id: PauseNotice(TODAY + 30 * DAY)}
    set_status(engine)
    assert [one.skipped for one in publish(engine, 31)] == [SkipReason.PAUSED]
    assert len(notes(engine)) == 1

    signup.keep(engine, reader.id, NOW + 31 * DAY + HOUR)

    assert stored(engine, reader).paused_until == TODAY + 31 * DAY
    news(engine, 32)
    publish(engine, 32)
    last = rows(engine, DeliveryRow, DeliveryRow.id)[-1]
    with read_only(engine) as conn:
        digest = digests.load(conn, [last.id])[last.id]
    assert digest.recap
    assert digest.recap.after_pause
    assert digest.pauses_on is None
    assert len(digest.picks) == 3


def test_failed_digests_do_not_count_as_asked(engine: Engine):
    reader = add_inactive(engine)
    for number in range(3):
        news(engine, number)
        publish(engine, number)
        set_status(engine, DeliveryStatus.EXPIRED if number else DeliveryStatus.SENT)

    announced = day(engine, 30)

    assert announced == TODAY + 37 * DAY
    assert stored(engine, reader).paused_until is None


def test_reader_whose_mail_bounced_is_not_paused(engine: Engine):
    reader = add_inactive(engine)
    ask_three_times(engine)
    with read_only(engine) as conn:
        hash_ = subscribers.hash_of(conn, reader.id)
    with engine.begin() as conn:
        conn.execute(
            insert(StrikeRow).values(
                address_hash=hash_, edition_on=TODAY + 2 * DAY, kind="soft", noted_at=NOW
            )
        )

    assert day(engine, 30) == TODAY + 37 * DAY
    assert notes(engine) == []


@pytest.mark.full
def test_few_readers_are_paused_in_a_day(engine: Engine, capsys):
    readers = [add_inactive(engine, number) for number in range(7)]
    ask_three_times(engine)
    news(engine, 30)

    publish(engine, 30)
    again = publish(engine, 30)

    paused = [stored(engine, one).paused_until == UNTIL_ACTIVE for one in readers]
    assert paused.count(True) == len(notes(engine)) == inactivity.LEAST_MOST == 5
    assert again == []
    assert "inactivity.pauses_limited" in capsys.readouterr().out
    set_status(engine)
    day(engine, 31)  # the others were told of a later day
    assert len(notes(engine)) == 5
    day(engine, 37)
    assert len(notes(engine)) == 7


def test_wrong_clock_asks_all_and_pauses_none(engine: Engine):
    readers = [add_inactive(engine, number, active_on=TODAY) for number in range(3)]

    assert day(engine, 400) == TODAY + 430 * DAY
    assert notes(engine) == []
    assert {stored(engine, one).paused_until for one in readers} == {None}


# --- Activity -----------------------------------------------------------------------------------


def change(engine: Engine, reader: Subscriber, now: datetime) -> None:
    signup.change(engine, reader.id, Choices(parse_queries(("cat:cs.IR",))), now)


def adopt(engine: Engine, reader: Subscriber, now: datetime) -> None:
    (other,) = parse_queries(("cat:cs.CL",))
    signup.replace_topic(engine, reader.id, "cat:cs.ir", other, "cat:cs.CL", now)


def confirm(engine: Engine, reader: Subscriber, now: datetime) -> None:
    choices = Choices(parse_queries(("cat:cs.IR",)))
    signup.request_subscription(
        engine, reader.email, choices, ip=None, suppression_key=SUPPRESSION_KEY, now=now
    )
    signup.confirm(engine, 2, now)


def return_after_leaving(engine: Engine, reader: Subscriber, now: datetime) -> None:
    signup.leave(engine, reader.secret, now)
    signup.undo(engine, reader.secret, now)


ACTIONS: list[Callable[[Engine, Subscriber, datetime], object]] = [
    change,
    adopt,
    confirm,
    return_after_leaving,
    lambda engine, reader, now: signup.pause(engine, reader.id, None, now),
    lambda engine, reader, now: signup.keep(engine, reader.id, now),
]


@pytest.mark.parametrize("act", ACTIONS)
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_each_action_is_noted_and_ends_a_pause_because_of_inactivity(engine: Engine, act):
    reader = add_inactive(engine)
    with engine.begin() as conn:
        subscribers.pause(conn, reader.id, UNTIL_ACTIVE)

    act(engine, reader, NOW + DAY)

    after = stored(engine, reader)
    assert (after.status, after.active_on) == (SubscriberStatus.ACTIVE, TODAY + DAY)
    assert after.paused_until == TODAY + DAY


def test_pause_of_the_reader_is_no_inactivity(engine: Engine):
    reader = add_inactive(engine)

    signup.pause(engine, reader.id, TODAY + 300 * DAY, NOW)

    after = stored(engine, reader)
    assert after.active_on == after.paused_until == TODAY + 300 * DAY


def test_activity_is_written_once_a_day_and_never_set_back(engine: Engine):
    reader = add_inactive(engine, active_on=TODAY)

    with engine.begin() as conn, dying(engine, 99) as seen:
        for on in (TODAY, TODAY - DAY):
            subscribers.note_activity(conn, reader.id, on)

    assert stored(engine, reader) == replace(reader, active_on=TODAY)
    assert all("active_on <" in statement for statement in seen)


def test_answer_of_an_unsubscribed_reader_changes_nothing(engine: Engine):
    reader = add_inactive(engine)
    signup.leave(engine, reader.secret, NOW)
    before = stored(engine, reader)

    signup.keep(engine, reader.id, NOW + DAY)

    assert stored(engine, reader) == before


# --- Concurrency and crashes --------------------------------------------------------------------


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


@pytest.mark.full
@pytest.mark.parametrize("_", range(3))
def test_saving_while_the_pause_is_compiled_leaves_the_reader_active(engine: Engine, _):
    reader = add_inactive(engine)
    ask_three_times(engine)
    news(engine, 30)

    together(
        lambda: publish(engine, 30),
        lambda: change(engine, reader, NOW + 30 * DAY),
    )

    assert stored(engine, reader).paused_until in {None, TODAY + 30 * DAY}
    assert stored(engine, reader).active_on == TODAY + 30 * DAY
    assert len(notes(engine)) <= 1


@pytest.mark.full
@pytest.mark.parametrize("_", range(3))
def test_unsubscribing_while_the_pause_is_compiled_sends_no_mail(engine: Engine, _):
    reader = add_inactive(engine)
    ask_three_times(engine)
    news(engine, 30)

    together(
        lambda: publish(engine, 30),
        lambda: signup.leave(engine, reader.secret, NOW + 30 * DAY),
    )

    assert stored(engine, reader).status is SubscriberStatus.UNSUBSCRIBED
    assert {note.status for note in notes(engine)} <= {"cancelled"}


@pytest.mark.full
def test_concurrent_runs_keep_the_limit_and_send_one_mail_each(engine: Engine):
    readers = [add_inactive(engine, number) for number in range(12)]
    ask_three_times(engine)
    news(engine, 30)

    together(*[lambda: publish(engine, 30)] * 3)

    paused = {one.id for one in readers if stored(engine, one).paused_until == UNTIL_ACTIVE}
    assert len(paused) == 5
    assert sorted(note.subscriber_id for note in notes(engine)) == sorted(paused)


@pytest.mark.full
def test_crash_leaves_the_pause_and_its_mail_both_or_none(engine: Engine):
    reader = add_inactive(engine)
    ask_three_times(engine)
    news(engine, 30)
    publish(engine, 29)
    set_status(engine)
    found = set()

    for after in range(60):
        with dying(engine, after):
            publish(engine, 30)
        is_paused = stored(engine, reader).paused_until == UNTIL_ACTIVE
        assert is_paused == (len(notes(engine)) == 1)
        found.add(is_paused)

    assert found == {False, True}
    assert len(notes(engine)) == 1
