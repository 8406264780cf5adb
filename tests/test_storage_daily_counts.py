"""Daily counts: each event is counted once, in the transaction that it happens in."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from sqlalchemy import Engine, text, update

from pipeline import signup
from pipeline.domain import CountedEvent, DeliveryStatus, Notice, NoticeKind, StrikeKind, Verdict
from pipeline.feedback.process import Feedback
from pipeline.storage import daily_counts, deliveries, guard, subscribers
from pipeline.storage.database import read_only
from pipeline.storage.deliveries import Settlement
from pipeline.storage.schema import DeliveryRow
from tests.support.factories import NOW, SENDER, TODAY
from tests.support.newsroom import add_reader
from tests.support.outbox import accept_others, add_confirmation, add_delivery, row

MINUTE = timedelta(minutes=1)


def totals(engine: Engine) -> dict[tuple[str, str], int]:
    with read_only(engine) as conn:
        return dict(daily_counts.totals(conn))


def test_accepted_mails_are_counted_by_kind(engine: Engine):
    ids = [add_delivery(engine), add_delivery(engine), add_confirmation(engine)]
    with engine.begin() as conn:
        deliveries.claim(conn, 9, "mine", MINUTE, NOW)
        deliveries.mark(conn, ids, "mine", MINUTE, NOW)
    accepted = [Settlement(id_, DeliveryStatus.SENT, "accepted") for id_ in ids]

    for _ in range(2):  # a repeated result is no second mail
        with engine.begin() as conn:
            deliveries.settle(conn, accepted, "mine", NOW)

    assert totals(engine) == {("digest", "sent"): 2, ("confirmation", "sent"): 1}


def test_refused_and_expired_mails_are_counted(engine: Engine):
    refused, _waiting = add_delivery(engine), add_delivery(engine)
    with engine.begin() as conn:
        deliveries.claim(conn, 1, "mine", MINUTE, NOW)
        deliveries.mark(conn, [refused], "mine", MINUTE, NOW)
        said = Settlement(refused, DeliveryStatus.FAILED, "policy", reply="550 5.7.1 No")
        deliveries.settle(conn, [said], "mine", NOW)
        deliveries.expire_due(conn, NOW + timedelta(days=1))

    assert totals(engine) == {("digest", "refused"): 1, ("digest", "expired"): 1}


def test_bounces_and_complaints_are_counted_once(engine: Engine):
    ids = [add_delivery(engine, status=DeliveryStatus.SENT, reason="accepted") for _ in range(2)]
    feedback = Feedback(engine, SENDER, "k" * 32)
    for id_, kind in zip(ids, (NoticeKind.HARD, NoticeKind.COMPLAINT), strict=True):
        verdict = Verdict.HARD if kind is NoticeKind.HARD else None
        about = SENDER.message_id(row(engine, id_).dedupe_key)
        for _ in range(2):
            feedback.apply(Notice(kind, verdict=verdict, message_id=about), NOW)

    assert totals(engine) == {
        ("digest", "bounced"): 1, ("digest", "complained"): 1, ("", "left"): 1
    }  # fmt: skip


def test_refused_mail_is_counted_when_it_ends(engine: Engine):
    """It stays queued, and may be refused again, until others of its edition are accepted."""
    refused = add_delivery(engine, "ada@example.org")
    said = Settlement(
        refused, DeliveryStatus.SUPPRESSED, "hard", reply="550 5.1.1 No", strike=StrikeKind.HARD
    )
    for hours in range(2):
        at = NOW + timedelta(hours=hours)
        with engine.begin() as conn:
            conn.execute(update(DeliveryRow).values(not_before=at))
            deliveries.claim(conn, 1, "mine", MINUTE, at)
            deliveries.mark(conn, [refused], "mine", MINUTE, at)
            assert deliveries.settle(conn, [said], "mine", at) == {DeliveryStatus.QUEUED: 1}
    assert totals(engine) == {}
    accept_others(engine)

    for _ in range(2):
        with engine.begin() as conn:
            guard.judge(conn, NOW + timedelta(hours=2))

    assert row(engine, refused).status == DeliveryStatus.SUPPRESSED
    assert totals(engine) == {("digest", "refused"): 1}


@pytest.mark.parametrize(
    ("notices", "bounced", "complained", "reason"),
    [
        ("complaint hard complaint hard", 0, 1, "accepted, then complaint"),
        ("hard complaint hard complaint", 1, 1, "accepted, then complaint"),
        ("soft hard soft", 1, 0, "accepted, then soft"),
        ("soft hard", 1, 0, "accepted, then hard"),
        ("delayed hard", 1, 0, "accepted, then hard"),
    ],
)
@pytest.mark.parametrize("status", [DeliveryStatus.SENT, DeliveryStatus.UNCERTAIN])
def test_events_of_one_delivery_are_counted_once(
    engine: Engine, notices: str, bounced: int, complained: int, reason: str, status
):
    id_ = add_delivery(engine, status=status, reason=None)
    feedback = Feedback(engine, SENDER, "k" * 32)
    about = SENDER.message_id(row(engine, id_).dedupe_key)
    for name in notices.split():
        kind = NoticeKind(name)
        verdict = Verdict(name) if name in {"hard", "soft"} else None
        feedback.apply(Notice(kind, verdict=verdict, message_id=about), NOW)

    counted = totals(engine)
    assert counted.get(("digest", "bounced"), 0) == bounced
    assert counted.get(("digest", "complained"), 0) == complained
    assert row(engine, id_).reason == reason


def test_readers_who_join_and_leave_are_counted(engine: Engine):
    reader = add_reader(engine, "cat:cs.IR")
    for _ in range(2):
        signup.leave(engine, reader.secret, NOW)
    signup.undo(engine, reader.secret, NOW)
    with engine.begin() as conn:
        subscribers.erase(conn, reader.id, NOW)

    assert totals(engine) == {("", "joined"): 2, ("", "left"): 2}


def test_totals_of_days_are_inclusive(engine: Engine):
    with engine.begin() as conn:
        for days in range(4):
            daily_counts.add(conn, {("digest", CountedEvent.SENT): 1}, NOW - timedelta(days=days))

        days = daily_counts.between(conn, TODAY - timedelta(days=2), TODAY - timedelta(days=1))

    assert days == {("digest", "sent"): 2}


@pytest.mark.full
def test_concurrent_transactions_lose_no_count(engine: Engine):
    def add() -> None:
        for _ in range(10):
            with engine.begin() as conn:
                daily_counts.add(conn, {("digest", CountedEvent.SENT): 3}, NOW)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert totals(engine) == {("digest", "sent"): 120}


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_a_transaction_that_does_not_go_on_stops_no_other(engine: Engine):
    """Its process may sleep between the count and the commit."""
    sent = {("digest", CountedEvent.SENT): 1}
    with engine.begin() as conn:
        daily_counts.add(conn, sent, NOW)
    with engine.begin() as sleeping:
        daily_counts.add(sleeping, sent, NOW)
        for _ in range(2):
            with engine.begin() as conn:
                conn.execute(text("SET LOCAL lock_timeout = '2s'"))
                daily_counts.add(conn, sent, NOW)
        assert totals(engine) == {("digest", "sent"): 3}

    assert totals(engine) == {("digest", "sent"): 4}
