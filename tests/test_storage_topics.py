"""Topics without followers are deleted, even when a subscriber starts to follow at that moment."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, text

from pipeline import editions, purge, signup
from pipeline.editions import match_late_topics
from pipeline.purge import Retention
from pipeline.signup import Choices, parse_queries, personal_data
from pipeline.storage import subscribers, topics
from pipeline.storage.database import read_only
from pipeline.storage.schema import MatchRow, PickRow, SubscriptionRow, TopicRow
from tests.support.factories import NOW, make_match, make_sighting
from tests.support.newsroom import add_reader, count, ingest, published, rows, stored

MINE, OURS = "my illness", "cat:cs.ir"


def queries(engine: Engine) -> set[str]:
    return {row.query for row in rows(engine, TopicRow)}


def until_waiting(engine: Engine) -> None:
    """Return when another transaction waits for a lock; SQLite cannot report it, so sleep."""
    if engine.dialect.name == "sqlite":
        time.sleep(0.3)
        return
    end = time.monotonic() + 20
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    while time.monotonic() < end:
        with engine.connect() as conn:
            if conn.execute(waiting).scalar_one():
                return
        time.sleep(0.05)
    raise AssertionError("nothing waits")


def matched(engine: Engine) -> None:
    ingest(engine, make_sighting(title="My illness, and yours"))
    match_late_topics(engine, published(engine), NOW)


def test_erasing_a_reader_deletes_topics_without_other_followers(engine: Engine):
    """The matches are deleted, too; topics of other subscribers and their digests stay."""
    ada = add_reader(engine, MINE, OURS, "Trending")
    add_reader(engine, OURS, email="bob@example.org")
    matched(engine)
    list(editions.publish(engine, now=NOW, expiry=Retention().ip, template="1", everyone=True))
    picks = count(engine, PickRow)

    signup.erase_by_id(engine, ada.id, NOW)

    assert queries(engine) == {OURS, "trending"}
    assert {row.topic_id for row in rows(engine, MatchRow)} == {
        row.topic_id for row in rows(engine, SubscriptionRow)
    }
    assert picks > count(engine, PickRow) > 0, "only the digests of who was erased are blank"


def test_purge_deletes_topics_without_followers(engine: Engine):
    ada = add_reader(engine, *(f"illness {n}" for n in range(purge.TOPICS + 5)), MINE)
    matched(engine)
    signup.change(engine, ada.id, Choices(parse_queries((OURS,))), NOW)

    purged = purge.purge(engine, NOW, Retention())

    assert purged.topics == purge.TOPICS + 6
    assert queries(engine) == {OURS}
    assert count(engine, MatchRow) == 0
    assert purge.purge(engine, NOW, Retention()).topics == 0


def test_purge_keeps_topics_of_an_unsubscribed_reader(engine: Engine):
    ada = add_reader(engine, MINE)
    signup.leave(engine, ada.secret, NOW)

    purge.purge(engine, NOW, Retention())

    assert queries(engine) == {MINE}


def test_topic_followed_again_is_matched_again(engine: Engine):
    ada = add_reader(engine, MINE)
    matched(engine)
    found = count(engine, MatchRow)
    signup.erase_by_id(engine, ada.id, NOW)

    add_reader(engine, MINE, email="bob@example.org")
    match_late_topics(engine, published(engine), NOW)

    assert count(engine, MatchRow) == found == 1


def test_following_a_topic_during_its_deletion_creates_a_new_one(engine: Engine):
    """Erasing comes first: the transaction that waits for its lock finds no row and adds one."""
    ada = add_reader(engine, MINE)
    with ThreadPoolExecutor(1) as other:
        with engine.begin() as conn:
            reader = subscribers.by_id(conn, ada.id, for_change=True)
            assert reader is not None
            personal_data._erase(conn, reader, NOW)
            following = other.submit(add_reader, engine, MINE, email="bob@example.org")
            until_waiting(engine)
        bob = following.result(timeout=30)

    with read_only(engine) as conn:
        [followed] = topics.followed_by(conn, [bob.id])[bob.id]
    assert followed.topic.query == MINE
    assert queries(engine) == {MINE}


def test_topic_followed_during_erasing_is_kept(engine: Engine):
    """Following comes first: erasing waits for its lock, and checks the followers again."""
    ada = add_reader(engine, MINE)
    bob = add_reader(engine, OURS, email="bob@example.org")
    with ThreadPoolExecutor(1) as other:
        with engine.begin() as conn:
            topic = topics.find_or_add(conn, MINE, NOW)
            topics.follow(conn, bob.id, [(topic, MINE)], NOW)
            erasing = other.submit(signup.erase_by_id, engine, ada.id, NOW)
            until_waiting(engine)
        erasing.result(timeout=30)

    assert [row.topic_id for row in rows(engine, SubscriptionRow)] == [topic.id]
    assert MINE in queries(engine)


@pytest.mark.full
def test_concurrent_erase_purge_and_subscribe_lose_no_topic(engine: Engine):
    """Erase, purge and subscribe concurrently, many times."""
    stop = threading.Event()

    def purge_all_the_time() -> None:
        while not stop.is_set():
            purge.purge(engine, NOW, Retention())

    def come_and_go(number: int) -> int:
        for turn in range(4):
            reader = add_reader(engine, MINE, OURS, email=f"r{number}.{turn}@example.org")
            signup.erase_by_id(engine, reader.id, NOW)
        last = add_reader(engine, MINE, OURS, email=f"r{number}.stays@example.org")
        return last.id

    with ThreadPoolExecutor(4) as others:
        purging = others.submit(purge_all_the_time)
        stayed = [job.result(timeout=120) for job in [others.submit(come_and_go, n) for n in "abc"]]
        stop.set()
        purging.result(timeout=120)

    with read_only(engine) as conn:
        followed = topics.followed_by(conn, stayed)
    assert all({s.topic.query for s in followed[id_]} == {MINE, OURS} for id_ in stayed)
    assert queries(engine) == {MINE, OURS}


def test_matches_of_a_deleted_topic_are_skipped(engine: Engine):
    """An ingest run that read the topic before its deletion goes on with the other topics."""
    add_reader(engine, MINE, OURS)
    matched(engine)
    mine, ours = (next(r for r in rows(engine, TopicRow) if r.query == q) for q in (MINE, OURS))
    [paper] = stored(engine)
    with engine.begin() as conn:
        conn.execute(text("DELETE FROM subscriptions"))
        topics.delete_unfollowed(conn, among=[mine.id])
        topics.add_matches(conn, [(make_match(t, paper), 1) for t in (mine, ours)])

    assert {row.topic_id for row in rows(engine, MatchRow)} == {ours.id}
