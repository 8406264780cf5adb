"""Purging: personal data is deleted after the promised time, and all other data is kept."""

from __future__ import annotations

import threading
from dataclasses import fields
from datetime import UTC, datetime, time, timedelta

import pytest
from sqlalchemy import Engine, insert, update

from pipeline import bootstrap, editions, purge, settings, signup
from pipeline.domain import DeliveryKind, DeliveryStatus, SubscriberStatus
from pipeline.editions.backfill import match_late_topics
from pipeline.editions.compiler import NEVER_TWICE
from pipeline.errors import InvalidTokenError, NotFoundError
from pipeline.purge import Purged, Retention
from pipeline.signup import Choices, parse_queries
from pipeline.storage import digests, embeddings
from pipeline.storage.database import read_only
from pipeline.storage.schema import (
    DeliveryRow,
    EmbeddingRow,
    MatchRow,
    PaperRow,
    PaperVersionRow,
    PendingConfirmationRow,
    PickRow,
    RateLimitRow,
    ReactionRow,
    RequestRow,
    SightingRow,
    SkipRow,
    SubscriberRow,
)
from tests.support.dying import dying
from tests.support.factories import NOW, make_sighting
from tests.support.newsroom import SUPPRESSION_KEY, add_reader, count, ingest, rows, stored
from tests.support.outbox import add_delivery, add_subscriber
from tests.support.plans import is_indexed, selecting

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
ADA = "ada@example.org"


def ask(engine: Engine, email: str = ADA, now=NOW) -> int:
    signup.request_subscription(
        engine, email, Choices(parse_queries(("cat:cs.IR",))), ip="203.0.113.7",
        suppression_key=SUPPRESSION_KEY, now=now,
    )  # fmt: skip
    return max(row.id for row in rows(engine, RequestRow))


def run(engine: Engine, now, **kept: timedelta) -> Purged:
    return purge.purge(engine, now, Retention(**kept))


def publish(engine: Engine, now=NOW) -> None:
    list(editions.publish(engine, now=now, expiry=18 * HOUR, template="1"))


def test_unconfirmed_address_is_deleted_after_a_week(engine: Engine):
    ask(engine)

    run(engine, NOW + 7 * DAY)
    assert count(engine, SubscriberRow) == 1
    run(engine, NOW + 7 * DAY + HOUR)

    tables = (SubscriberRow, RequestRow, DeliveryRow)
    assert [count(engine, table) for table in tables] == [0, 0, 0]


def test_repeated_request_keeps_the_subscriber(engine: Engine):
    ask(engine)
    again = ask(engine, now=NOW + 5 * DAY)

    run(engine, NOW + 8 * DAY)

    assert [row.id for row in rows(engine, RequestRow)] == [again]
    assert signup.confirm(engine, again, NOW + 8 * DAY - HOUR).first_time


def test_unsubscribed_reader_is_kept_if_a_new_request_expires(engine: Engine):
    """If the operator adds them again and they do not confirm, they stay unsubscribed."""
    reader = add_reader(engine)
    signup.leave(engine, reader.secret, NOW)
    signup.add(engine, ADA, Choices(), confirmed=False, suppression_key=SUPPRESSION_KEY, now=NOW)

    run(engine, NOW + 8 * DAY)

    assert signup.find(engine, ADA)[0].status is SubscriberStatus.UNSUBSCRIBED


def test_ip_address_is_deleted_after_a_week(engine: Engine):
    """The IP address leaves the consent record after a week and the counters after two days."""
    signup.confirm(engine, ask(engine), NOW)

    run(engine, NOW + 3 * DAY)
    assert not [row.name for row in rows(engine, RateLimitRow) if "203.0.113" in row.name]
    assert rows(engine, RequestRow)[0].ip == "203.0.113.7"
    run(engine, NOW + 8 * DAY)

    (consent,) = rows(engine, RequestRow)
    assert (consent.ip, consent.choices, consent.used_at) == (None, {}, NOW)
    assert not signup.confirm(engine, consent.id, NOW + 8 * DAY).first_time


def test_request_counters_are_deleted_after_a_month(engine: Engine):
    ask(engine)

    run(engine, NOW + 29 * DAY)
    assert count(engine, PendingConfirmationRow) == 1
    run(engine, NOW + 31 * DAY)

    assert count(engine, PendingConfirmationRow) == 0


def test_digest_contents_are_deleted_after_ninety_days(engine: Engine):
    reader = add_reader(engine, "cat:cs.IR", now=NOW - HOUR)
    ingest(engine, make_sighting(), now=NOW - HOUR)
    publish(engine)
    with engine.begin() as conn:
        conn.execute(
            update(DeliveryRow).values(
                status=DeliveryStatus.SENT, reply=f"250 {ADA}", queue_id="4XyZ"
            )
        )
    publish(engine, NOW + DAY)

    run(engine, NOW + 89 * DAY)
    assert (count(engine, PickRow), count(engine, SkipRow)) == (1, 1)
    run(engine, NOW + 92 * DAY)

    assert (count(engine, PickRow), count(engine, SkipRow)) == (0, 0)
    (delivery,) = rows(engine, DeliveryRow)
    assert (delivery.status, delivery.topics) == ("sent", [])
    assert (delivery.reply, delivery.queue_id) == (None, None)
    with read_only(engine) as conn:
        assert digests.load(conn, [delivery.id]) == {}
    assert signup.choices_of(engine, reader.id).digests[0].papers == 0


@pytest.mark.parametrize(
    ("status", "days", "is_kept"),
    [
        (DeliveryStatus.SENT, 6, True),
        (DeliveryStatus.SENT, 8, False),
        (DeliveryStatus.EXPIRED, 8, False),
        (DeliveryStatus.QUEUED, 8, True),
        (DeliveryStatus.LEASED, 8, True),
        (DeliveryStatus.SENDING, 8, True),
        (DeliveryStatus.UNCERTAIN, 8, True),
    ],
)
def test_operator_is_kept_with_mail_that_is_new_or_not_settled(
    engine: Engine, status: DeliveryStatus, days: int, is_kept: bool
):
    """`operator_reports` says that the mail was sent."""
    operator = add_subscriber(
        engine, status=SubscriberStatus.PENDING, created_at=NOW - 30 * DAY, next_slot_at=None
    )
    created = {"created_at": NOW - days * DAY, "edition_on": None}
    add_delivery(engine, subscriber_id=operator, kind=DeliveryKind.ALERT, status=status, **created)

    run(engine, NOW)

    assert count(engine, SubscriberRow) == count(engine, DeliveryRow) == int(is_kept)


def test_visitor_is_deleted_with_a_confirmation_that_is_not_settled(engine: Engine):
    ask(engine)
    with engine.begin() as conn:
        conn.execute(update(DeliveryRow).values(status=DeliveryStatus.UNCERTAIN))

    run(engine, NOW + 8 * DAY)

    assert count(engine, SubscriberRow) == 0


def test_purge_is_idempotent(engine: Engine):
    for number in range(3):
        ask(engine, f"r{number}@example.org")

    first = run(engine, NOW + 40 * DAY)
    second = run(engine, NOW + 40 * DAY)

    assert (first.pending, first.asked) == (3, 3)
    assert set(second.__getstate__()) == {0}


def test_rows_beyond_one_chunk_are_deleted(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(purge, "CHUNK", 2)
    for number in range(5):
        ask(engine, f"r{number}@example.org")

    assert run(engine, NOW + 40 * DAY).pending == 5


@pytest.mark.parametrize("after", [1, 3, 8])
def test_next_purge_completes_after_a_crash(engine: Engine, after: int):
    signup.confirm(engine, ask(engine), NOW)
    ask(engine, "bob@example.org")
    with dying(engine, after):
        run(engine, NOW + 40 * DAY)

    run(engine, NOW + 40 * DAY)

    assert [row.email for row in rows(engine, SubscriberRow)] == [ADA]
    assert count(engine, PendingConfirmationRow) == 0


def test_request_made_during_a_purge_can_be_confirmed(engine: Engine):
    """Whichever runs first, the request and its subscriber are both kept."""
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


def test_ids_of_deleted_requests_are_not_reused(engine: Engine):
    """By default SQLite assigns the id of a deleted row again."""
    old = ask(engine, now=NOW - 8 * DAY)
    run(engine, NOW)

    assert ask(engine, "bob@example.org") != old
    with pytest.raises(InvalidTokenError):
        signup.confirm(engine, old, NOW)
    with pytest.raises(NotFoundError):
        signup.find(engine, ADA)


def test_unconfirmed_new_address_is_deleted_after_a_week(engine: Engine):
    """Also if a reader wanted to move to it: the confirmation mail contained the address."""
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


# --- Old deliveries -----------------------------------------------------------------------------


def sent(engine: Engine) -> None:
    """Settle every queued delivery as sent."""
    with engine.begin() as conn:
        owed = DeliveryRow.status == DeliveryStatus.QUEUED
        conn.execute(update(DeliveryRow).where(owed).values(status=DeliveryStatus.SENT))


def test_deliveries_are_deleted_after_thirteen_months(engine: Engine):
    for name in ("ada", "bob"):
        add_reader(engine, "cat:cs.IR", email=f"{name}@example.org", now=NOW - HOUR)
    ingest(engine, make_sighting(), now=NOW - HOUR)
    publish(engine)
    sent(engine)

    run(engine, NOW + 396 * DAY)
    assert count(engine, DeliveryRow) == 2
    purged = run(engine, NOW + 396 * DAY + HOUR)

    assert (purged.deliveries, count(engine, DeliveryRow)) == (2, 0)


def test_edition_with_deleted_deliveries_is_not_compiled_again(engine: Engine):
    """Their dedupe keys are deleted, too, but each reader's calendar has moved on, at any clock."""
    add_reader(engine, "cat:cs.IR", now=NOW - HOUR)
    ingest(engine, make_sighting(), now=NOW - HOUR)
    publish(engine)
    sent(engine)
    late = NOW + 400 * DAY
    run(engine, late)
    assert count(engine, DeliveryRow) == 0

    for now in (NOW, NOW + HOUR, late):
        for everyone in (False, True):
            edition = {"now": now, "expiry": 18 * HOUR, "template": "1", "everyone": everyone}
            list(editions.publish(engine, **edition))

    assert count(engine, DeliveryRow) == 0  # no new papers were ingested
    assert [row.edition_on for row in rows(engine, SkipRow)] == [late.date()]


def test_dedupe_key_of_a_deleted_confirmation_is_not_reused(engine: Engine):
    """Its dedupe key contains the id of its request, which is never assigned again."""
    first = ask(engine)
    signup.confirm(engine, first, NOW)
    keys = {row.dedupe_key for row in rows(engine, DeliveryRow)}
    run(engine, NOW + 400 * DAY)

    ask(engine, now=NOW + 400 * DAY)
    assert not signup.confirm(engine, first, NOW + 400 * DAY).first_time

    assert not keys & {row.dedupe_key for row in rows(engine, DeliveryRow)}


def test_purge_keeps_picks_that_prevent_repeated_papers(engine: Engine):
    """Picks record the papers that a reader has received, and they are kept for as long."""
    add_reader(engine, "trending", now=NOW - HOUR)
    ingest(engine, make_sighting("3001.00001", upvotes=9), now=NOW - HOUR)
    publish(engine)
    sent(engine)
    run(engine, NOW + 3 * DAY)

    ingest(engine, make_sighting("3001.00001", upvotes=99), now=NOW + 4 * DAY - HOUR)
    ingest(engine, make_sighting("3001.00002", upvotes=1), now=NOW + 4 * DAY - HOUR)
    publish(engine, NOW + 4 * DAY)

    picked = [row.paper_id for row in rows(engine, PickRow)]
    assert sorted(picked) == sorted(set(picked))
    assert timedelta(days=settings.load(None).digest_days) >= NEVER_TWICE


def test_unfinished_deliveries_are_kept_at_any_age(engine: Engine):
    """At any age: the sender with the lease still has to record the outcome."""
    old = NOW - 500 * DAY
    for status in DeliveryStatus:
        add_delivery(engine, status=status, created_at=old)

    run(engine, NOW)

    left = {row.status for row in rows(engine, DeliveryRow)}
    assert left == {"queued", "leased", "sending"}


# --- Papers, matches and vectors ----------------------------------------------------------------


def papers_of_three_ages(engine: Engine) -> None:
    """Store a paper of today and papers of 100 and of 200 days ago, with a match each."""
    add_reader(engine, "cat:cs.IR", now=NOW - 300 * DAY)
    for number, age in enumerate((200, 100, 0)):
        one = make_sighting(f"3001.0000{number}", title=f"Paper {number}")
        ingest(engine, one, now=NOW - age * DAY)
        match_late_topics(engine, number + 1, NOW - age * DAY)


def titles(engine: Engine) -> list[str]:
    return sorted(paper.title for paper in stored(engine))


def test_matches_are_deleted_after_four_months_and_papers_are_kept(engine: Engine):
    papers_of_three_ages(engine)

    assert run(engine, NOW).matches == 1

    assert (count(engine, MatchRow), count(engine, PaperRow)) == (2, 3)
    assert run(engine, NOW).matches == 0


def test_old_paper_is_not_sent_again_after_its_match_was_deleted(engine: Engine):
    """A source may change a paper at any time, and a changed paper is matched again."""
    papers_of_three_ages(engine)
    run(engine, NOW)

    again = make_sighting(
        "3001.00000", title="Paper 0", source="huggingface", keywords=("ranking",)
    )
    ingest(engine, again, now=NOW + HOUR)

    assert count(engine, MatchRow) == 2
    publish(engine, NOW + 2 * HOUR)
    picked = {row.paper_id for row in rows(engine, PickRow)}
    assert rows(engine, PaperRow, PaperRow.id)[0].id not in picked


def test_papers_are_deleted_if_the_operator_set_a_limit(engine: Engine):
    papers_of_three_ages(engine)

    assert run(engine, NOW, paper=180 * DAY).papers == 1
    assert titles(engine) == ["Paper 1", "Paper 2"]
    assert (count(engine, SightingRow), count(engine, PaperVersionRow)) == (2, 2)
    # The newest paper stays at any age: SQLite would use its id again.
    assert run(engine, NOW + 900 * DAY, paper=180 * DAY).papers == 1
    assert titles(engine) == ["Paper 2"]


def test_papers_in_a_digest_or_with_a_reaction_are_kept(engine: Engine):
    papers_of_three_ages(engine)
    reader = add_reader(engine, "cat:cs.IR", email="bob@example.org", now=NOW)
    old, older, _ = (row.id for row in rows(engine, PaperRow, PaperRow.id))
    delivery = add_delivery(engine, created_at=NOW + 900 * DAY)
    with engine.begin() as conn:
        conn.execute(
            insert(PickRow).values(
                delivery_id=delivery, position=0, paper_id=old, paper_version=1, score=1.0,
                reasons=[],
            )
        )  # fmt: skip
        conn.execute(
            insert(ReactionRow).values(
                subscriber_id=reader.id, paper_key="3001.00001", paper_id=older, liking=0,
                is_own=False, saved_at=NOW, note="", content={}, terms=b"", at=NOW,
            )
        )  # fmt: skip

    assert run(engine, NOW + 900 * DAY, paper=180 * DAY).papers == 0


@pytest.mark.parametrize("after", range(0, 16, 3))
def test_deletion_of_papers_continues_after_a_crash(engine: Engine, after: int, monkeypatch):
    monkeypatch.setattr(purge, "CHUNK", 1)
    papers_of_three_ages(engine)
    with dying(engine, after):
        run(engine, NOW, paper=180 * DAY)

    run(engine, NOW, paper=180 * DAY)

    assert (titles(engine), count(engine, MatchRow)) == (["Paper 1", "Paper 2"], 2)


def test_a_night_deletes_a_limited_number_of_matches(engine: Engine, monkeypatch):
    monkeypatch.setattr(purge, "CHUNK", 1)
    monkeypatch.setattr(purge, "MOST_CHUNKS", 1)
    papers_of_three_ages(engine)

    assert [run(engine, NOW + 900 * DAY).matches for _ in range(4)] == [1, 1, 1, 0]


def test_vectors_are_deleted_a_year_after_their_last_use(engine: Engine):
    with engine.begin() as conn:
        embeddings.store_vectors(conn, "model", {"a": b"1", "b": b"2"})
    (today,) = {row.used_on for row in rows(engine, EmbeddingRow)}
    with engine.begin() as conn:
        conn.execute(update(EmbeddingRow).values(used_on=today - 500 * DAY))
        assert embeddings.aged_keys(conn, "model", ["a", "c"]) == ["a"]
        embeddings.note_use(conn, "model", ["a"])
        assert embeddings.aged_keys(conn, "model", ["a", "b"]) == ["b"]

    now = datetime.combine(today, time(), UTC)
    assert run(engine, now).embeddings == 1
    assert [row.text_key for row in rows(engine, EmbeddingRow)] == ["a"]


# --- Settings and cost --------------------------------------------------------------------------


def test_retention_periods_follow_the_settings(engine: Engine):
    loaded = settings.load(None, pending_days=3, ip_days=4, digest_days=100, delivery_days=200)
    services = bootstrap.Services(loaded, engine)
    signup.confirm(engine, ask(engine), NOW)
    ask(engine, "bob@example.org")

    services.purge(NOW + 3 * DAY + HOUR)
    assert [row.email for row in rows(engine, SubscriberRow)] == [ADA]
    assert rows(engine, RequestRow)[0].ip == "203.0.113.7"
    services.purge(NOW + 4 * DAY + HOUR)
    assert rows(engine, RequestRow)[0].ip is None
    services.purge(NOW + 200 * DAY)
    assert count(engine, DeliveryRow) == 1
    services.purge(NOW + 200 * DAY + HOUR)

    assert count(engine, DeliveryRow) == 0


def test_every_purge_query_uses_an_index(engine: Engine):
    """So that a nightly purge costs as much as one day added, not as much as a year did."""
    with selecting(engine) as seen:
        run(engine, NOW, paper=180 * DAY)

    # The steps about matches and papers look up the newest batch that is old enough.
    assert len(seen) == len(fields(Purged)) + 2
    for statement, parameters in seen:
        # Topics have no date: the followers of each are looked up by an index. Batches are few.
        if "FROM topics" not in statement and "FROM batches" not in statement:
            assert is_indexed(engine, statement, parameters), statement
