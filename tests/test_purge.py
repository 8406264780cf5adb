"""Purging: what was promised to be forgotten is forgotten, and nothing else."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from sqlalchemy import Engine, update

from pipeline import editions, purge, signup
from pipeline.domain import DeliveryStatus, SubscriberStatus
from pipeline.errors import InvalidTokenError, NotFoundError
from pipeline.purge import purge as run
from pipeline.signup import Wishes
from pipeline.storage import digests
from pipeline.storage.database import reading
from pipeline.storage.schema import (
    AskedRow,
    DeliveryRow,
    LimitRow,
    PickRow,
    RequestRow,
    SkipRow,
    SubscriberRow,
)
from tests.dying import dying
from tests.factories import NOW, make_sighting
from tests.newsroom import SUPPRESSION_KEY, add_reader, count, ingest, rows

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
ADA = "ada@example.org"


def ask(engine: Engine, email: str = ADA, now=NOW) -> int:
    signup.ask(
        engine, email, Wishes(("cat:cs.IR",)), ip="203.0.113.7",
        suppression_key=SUPPRESSION_KEY, now=now,
    )  # fmt: skip
    return max(row.id for row in rows(engine, RequestRow))


def publish(engine: Engine, now=NOW) -> None:
    list(editions.publish(engine, now=now, expiry=18 * HOUR, template="1"))


def test_an_address_never_confirmed_is_forgotten_after_a_week(engine: Engine):
    ask(engine)

    run(engine, NOW + 7 * DAY)
    assert count(engine, SubscriberRow) == 1
    run(engine, NOW + 7 * DAY + HOUR)

    tables = (SubscriberRow, RequestRow, DeliveryRow)
    assert [count(engine, table) for table in tables] == [0, 0, 0]


def test_who_asks_again_is_kept(engine: Engine):
    ask(engine)
    again = ask(engine, now=NOW + 5 * DAY)

    run(engine, NOW + 8 * DAY)

    assert [row.id for row in rows(engine, RequestRow)] == [again]
    assert signup.confirm(engine, again, NOW + 8 * DAY - HOUR).first_time


def test_who_was_a_reader_is_not_forgotten_with_a_question(engine: Engine):
    """Asked again by the operator and silent, they have left as before."""
    reader = add_reader(engine)
    signup.leave(engine, reader.secret, NOW)
    signup.add(engine, ADA, Wishes(), confirmed=False, suppression_key=SUPPRESSION_KEY, now=NOW)

    run(engine, NOW + 8 * DAY)

    assert signup.find(engine, ADA)[0].status is SubscriberStatus.UNSUBSCRIBED


def test_the_place_somebody_asked_from_is_forgotten(engine: Engine):
    """After a week in the record of consent, which stays; after two days in the counters."""
    signup.confirm(engine, ask(engine), NOW)

    run(engine, NOW + 3 * DAY)
    assert not [row.name for row in rows(engine, LimitRow) if "203.0.113" in row.name]
    assert rows(engine, RequestRow)[0].ip == "203.0.113.7"
    run(engine, NOW + 8 * DAY)

    (consent,) = rows(engine, RequestRow)
    assert (consent.ip, consent.wishes, consent.used_at) == (None, {}, NOW)
    assert not signup.confirm(engine, consent.id, NOW + 8 * DAY).first_time


def test_questions_count_for_a_month(engine: Engine):
    ask(engine)

    run(engine, NOW + 29 * DAY)
    assert count(engine, AskedRow) == 1
    run(engine, NOW + 31 * DAY)

    assert count(engine, AskedRow) == 0


def test_what_was_in_a_digest_is_kept_for_ninety_days(engine: Engine):
    reader = add_reader(engine, "cat:cs.IR", now=NOW - HOUR)
    ingest(engine, make_sighting(), now=NOW - HOUR)
    publish(engine)
    with engine.begin() as conn:
        conn.execute(update(DeliveryRow).values(status=DeliveryStatus.SENT, reply=f"250 {ADA}"))
    publish(engine, NOW + DAY)

    run(engine, NOW + 89 * DAY)
    assert (count(engine, PickRow), count(engine, SkipRow)) == (1, 1)
    run(engine, NOW + 92 * DAY)

    assert (count(engine, PickRow), count(engine, SkipRow)) == (0, 0)
    (delivery,) = rows(engine, DeliveryRow)
    assert (delivery.status, delivery.topics, delivery.reply) == ("sent", [], None)
    with reading(engine) as conn:
        assert digests.load(conn, [delivery.id]) == {}
    assert signup.wishes_of(engine, reader.id).digests[0].papers == 0


def test_purging_twice_is_purging_once(engine: Engine):
    for number in range(3):
        ask(engine, f"r{number}@example.org")

    first = run(engine, NOW + 40 * DAY)
    second = run(engine, NOW + 40 * DAY)

    assert (first.pending, first.asked) == (3, 3)
    assert set(second.__getstate__()) == {0}


def test_more_than_a_chunk_is_forgotten_too(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(purge, "CHUNK", 2)
    for number in range(5):
        ask(engine, f"r{number}@example.org")

    assert run(engine, NOW + 40 * DAY).pending == 5


@pytest.mark.parametrize("after", [1, 3, 8])
def test_a_purge_that_dies_is_finished_by_the_next(engine: Engine, after: int):
    signup.confirm(engine, ask(engine), NOW)
    ask(engine, "bob@example.org")
    with dying(engine, after):
        run(engine, NOW + 40 * DAY)

    run(engine, NOW + 40 * DAY)

    assert [row.email for row in rows(engine, SubscriberRow)] == [ADA]
    assert count(engine, AskedRow) == 0


def test_a_question_asked_during_the_purge_is_answered(engine: Engine):
    """Whichever is first, the question and its subscriber stay together."""
    ask(engine, now=NOW - 8 * DAY)
    threads = [
        threading.Thread(target=run, args=[engine, NOW]),
        threading.Thread(target=ask, args=[engine]),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    newest = max(row.id for row in rows(engine, RequestRow))
    assert signup.confirm(engine, newest, NOW).first_time


def test_an_old_link_finds_no_new_request(engine: Engine):
    """On SQLite a deleted row gives its number to the next."""
    old = ask(engine, now=NOW - 8 * DAY)
    run(engine, NOW)

    assert ask(engine, "bob@example.org") != old
    with pytest.raises(InvalidTokenError):
        signup.confirm(engine, old, NOW)
    with pytest.raises(NotFoundError):
        signup.find(engine, ADA)


def test_an_address_that_was_asked_and_did_not_answer_is_forgotten(engine: Engine):
    """Also where a reader wanted to move to it: the mail that went there named it."""
    reader = add_reader(engine, "cat:cs.IR")
    signup.ask_new_address(
        engine, reader.id, "mistyped@example.org", ip=None,
        suppression_key=SUPPRESSION_KEY, now=NOW,
    )  # fmt: skip
    with engine.begin() as conn:
        conn.execute(update(DeliveryRow).values(status=DeliveryStatus.SENT))

    run(engine, NOW + 7 * DAY + HOUR)

    kept = str([rows(engine, table) for table in (SubscriberRow, RequestRow, DeliveryRow)])
    assert "mistyped" not in kept
    assert ADA in kept
