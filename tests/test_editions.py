"""Editions: each due reader gets every matching paper, once."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, time, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, update

from pipeline import editions, signup
from pipeline.domain import (
    Breadth,
    DeliveryKind,
    DeliveryStatus,
    Digest,
    Frequency,
    Match,
    Schedule,
    SkipReason,
    Subscriber,
    SubscriberStatus,
    SuppressionReason,
    Weekday,
)
from pipeline.editions import SlotResult, compiler
from pipeline.errors import NotFoundError
from pipeline.signup import Choices, parse_queries
from pipeline.storage import addresses, deliveries, digests, subscribers, suppressions, topics
from pipeline.storage.database import read_only
from pipeline.storage.deliveries import Settlement
from pipeline.storage.schema import DeliveryRow, PickRow, SkipRow, SubscriberRow
from tests.support.dying import dying
from tests.support.factories import NOW, TODAY, make_schedule, make_sighting
from tests.support.newsroom import (
    SUPPRESSION_KEY,
    add_reader,
    ingest,
    matches,
    published,
    rows,
    store,
    stored,
)

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
SOON = NOW - HOUR  # readers join an hour before their slot
EXPIRY = timedelta(hours=18)


def publish(engine: Engine, now: datetime = NOW, *, everyone: bool = False) -> list[SlotResult]:
    return list(editions.publish(engine, now=now, expiry=EXPIRY, template="1", everyone=everyone))


def join(engine: Engine, *queries: str, **changes: Any) -> Subscriber:
    return add_reader(engine, *(queries or ("cat:cs.IR",)), **{"now": SOON, **changes})


def as_stored(engine: Engine, reader: Subscriber) -> Subscriber:
    with read_only(engine) as conn:
        found = subscribers.by_id(conn, reader.id)
    assert found is not None
    return found


def owed(engine: Engine) -> list[Any]:
    return rows(engine, DeliveryRow, DeliveryRow.id)


def loaded(engine: Engine, delivery_id: int) -> Digest:
    with read_only(engine) as conn:
        return digests.load(conn, [delivery_id])[delivery_id]


def settle(engine: Engine, status: DeliveryStatus, now: datetime = NOW) -> None:
    """Claim and mark every queued delivery, and settle it with `status`."""
    with engine.begin() as conn:
        ids = [d.id for d in deliveries.claim(conn, 1_000, "token", HOUR, now)]
        deliveries.mark(conn, ids, "token", HOUR, now)
        deliveries.settle(
            conn,
            [Settlement(i, status, "test", unread=status is DeliveryStatus.FAILED) for i in ids],
            "token",
            now,
        )


def papers(outcomes: Sequence[SlotResult]) -> list[tuple[str, ...]]:
    return [outcome.papers for outcome in outcomes]


# --- One digest ---------------------------------------------------------------------------------


def test_publish_queues_a_digest_for_a_due_slot(engine: Engine):
    reader = join(engine)
    ingest(engine, make_sighting("3001.00001"))

    (outcome,) = publish(engine)

    assert outcome == SlotResult(
        reader.id, reader.email, DeliveryKind.DIGEST, TODAY, ("3001.00001",), None
    )
    (delivery,) = owed(engine)
    assert delivery.dedupe_key == f"digest:2030-01-02:{reader.id}"
    assert (delivery.status, delivery.range_from, delivery.range_to) == ("queued", 0, 1)
    assert (delivery.slot_at, delivery.expires_at) == (NOW, NOW + EXPIRY)
    after = as_stored(engine, reader)
    assert (after.cursor, after.last_slot_at, after.last_edition_on) == (1, NOW, TODAY)
    assert after.next_slot_at == NOW + DAY
    digest = loaded(engine, delivery.id)
    assert digest.topics == ("cat:cs.IR",)
    assert [reason.label for reason in digest.picks[0].reasons] == ["cat:cs.IR"]


def test_publish_queues_nothing_before_the_slot_or_twice(engine: Engine):
    join(engine)
    ingest(engine, make_sighting())

    assert publish(engine, NOW - timedelta(microseconds=1)) == []
    assert len(publish(engine)) == 1
    assert publish(engine) == publish(engine, NOW + 23 * HOUR) == []
    assert publish(engine, everyone=True) == []


def test_publish_everyone_uses_todays_slot(engine: Engine):
    """A digest published two hours early uses today's slot, so no digest is due at the hour."""
    reader = join(engine, now=NOW - 3 * HOUR)
    ingest(engine, make_sighting())

    (early,) = publish(engine, NOW - 2 * HOUR, everyone=True)

    assert early.edition_on == TODAY
    assert as_stored(engine, reader).last_slot_at == NOW
    assert owed(engine)[0].expires_at == NOW + EXPIRY
    assert publish(engine, NOW + HOUR) == []
    assert as_stored(engine, reader).next_slot_at == NOW + DAY


def test_after_an_outage_only_the_newest_slot_is_served(engine: Engine):
    reader = join(engine)
    ingest(engine, make_sighting())

    (outcome,) = publish(engine, NOW + 3 * DAY + 2 * HOUR)

    assert outcome.edition_on == TODAY + 3 * DAY
    assert owed(engine)[0].expires_at == NOW + 3 * DAY + 2 * HOUR + EXPIRY
    assert as_stored(engine, reader).next_slot_at == NOW + 4 * DAY


def test_skipped_slot_is_stored_with_its_reason(engine: Engine):
    reader = join(engine, "cat:cs.IR", "source:huggingface")
    ingest(engine, make_sighting("3001.00001", categories=("math.CO",)))
    publish(engine)
    publish(engine, NOW + DAY)
    ingest(engine, make_sighting("3001.00002"))
    publish(engine, NOW + 2 * DAY)
    settle(engine, DeliveryStatus.SENT, NOW + 2 * DAY)
    ingest(engine, make_sighting("3001.00002", source="huggingface"))
    publish(engine, NOW + 3 * DAY)

    skips = rows(engine, SkipRow, SkipRow.edition_on)

    assert [(s.edition_on, s.reason, s.range_from, s.range_to) for s in skips] == [
        (TODAY, SkipReason.NOTHING_MATCHED, 0, 1),
        (TODAY + DAY, SkipReason.NOTHING_NEW, 1, 1),
        (TODAY + 3 * DAY, SkipReason.ALL_SENT_BEFORE, 2, 3),
    ]
    assert as_stored(engine, reader).cursor == 3


def test_digest_has_at_most_max_papers(engine: Engine):
    join(engine, max_papers=3)
    ingest(engine, *(make_sighting(title=title) for title in ["Ant", "Bee", "Cow", "Dog", "Eel"]))

    (outcome,) = publish(engine)

    assert len(outcome.papers) == 3
    assert owed(engine)[0].more == 2


# Papers without the words of a topic, which are rare only among many papers.
OTHERS = [
    make_sighting(f"3001.1{n:04}", title=f"{n}", abstract="On water that flows to the sea.")
    for n in range(20)
]


@pytest.mark.parametrize(
    ("breadth", "expected"),
    [
        (Breadth.FEWER, {"3001.00001"}),
        (Breadth.BALANCED, {"3001.00001", "3001.00002"}),
        (Breadth.MORE, {"3001.00001", "3001.00002", "3001.00003"}),
    ],
)
def test_breadth_selects_papers_by_match_strength(engine: Engine, breadth, expected):
    choices = Choices(parse_queries(("gentle rivers",)), breadth=breadth)
    signup.add(engine, "ada@example.org", choices, confirmed=True,
               suppression_key=SUPPRESSION_KEY, now=SOON)  # fmt: skip
    ingest(
        engine,
        make_sighting("3001.00001", title="Gentle Rivers", abstract="On water."),
        make_sighting("3001.00002", title="One", abstract="It tells of gentle rivers once."),
        make_sighting("3001.00003", title="Two", abstract="Rivers are gentle, gentle are rivers."),
        *OTHERS,
    )

    (outcome,) = publish(engine)

    assert set(outcome.papers) == expected


def test_stronger_match_is_sent_only_to_readers_without_the_paper(engine: Engine):
    """A reader with a lower threshold has had the paper already, and does not get it again."""
    for name, breadth in (("ada", Breadth.BALANCED), ("bob", Breadth.MORE)):
        choices = Choices(parse_queries(("gentle rivers",)), breadth=breadth)
        signup.add(engine, f"{name}@example.org", choices, confirmed=True,
                   suppression_key=SUPPRESSION_KEY, now=SOON)  # fmt: skip
    text = "Rivers are gentle, gentle are rivers."
    passing = make_sighting("3001.00001", title="Two", abstract=text)
    ingest(engine, passing, *OTHERS)
    first = {one.email: one.papers for one in publish(engine)}
    settle(engine, DeliveryStatus.SENT)

    ingest(engine, replace(passing, source="huggingface", keywords=("gentle rivers",)))
    second = {one.email: one.papers for one in publish(engine, NOW + DAY)}

    assert first == {"ada@example.org": (), "bob@example.org": ("3001.00001",)}
    assert second == {"ada@example.org": ("3001.00001",), "bob@example.org": ()}
    assert {batch for _, _, batch in matches(engine)} == {2}


def test_weaker_match_does_not_replace_a_stronger_one(engine: Engine):
    reader = join(engine, "gentle rivers")
    with read_only(engine) as conn:
        [topic] = [one.topic for one in topics.followed_by(conn, [reader.id])[reader.id]]
    ingest(engine, make_sighting("3001.00001", title="Gentle Rivers"))
    publish(engine)
    [paper] = stored(engine)

    with engine.begin() as conn:
        weaker = Match(topic.id, paper.id, 0.5, ("rivers",), Breadth.MORE)
        topics.add_matches(conn, [(weaker, 9)])

    assert matches(engine) == {(topic.id, paper.id, 1)}


def test_withdrawn_papers_are_not_picked(engine: Engine):
    join(engine)
    paper = make_sighting("3001.00001", version=1)
    ingest(engine, paper, make_sighting("3001.00002"))
    ingest(engine, replace(paper, version=2, withdrawn=True))

    assert papers(publish(engine)) == [("3001.00002",)]


def test_a_withdrawn_paper_is_not_mailed_as_trending(engine: Engine):
    """Even if it has more upvotes than every other paper."""
    join(engine, "Trending")
    listed = [
        make_sighting(f"3001.0000{n}", source="huggingface", upvotes=n, title=title)
        for n, title in enumerate(["Ant", "Bee"], 1)
    ]
    ingest(engine, *listed)
    ingest(engine, replace(listed[1], version=2, withdrawn=True, upvotes=90), now=NOW + HOUR)

    assert papers(publish(engine, NOW + HOUR)) == [("3001.00001",)]


def test_welcome_uses_todays_slot_and_keeps_tomorrows(engine: Engine):
    """A welcome does not use up the next slot."""
    reader = join(engine)
    tomorrow = NOW + DAY
    alter_reader(engine, reader, welcome_due=True, next_slot_at=tomorrow)
    ingest(engine, make_sighting("3001.00001", title="Tea leaves"))

    (welcome,) = publish(engine, NOW)
    (delivery,) = owed(engine)
    settle(engine, DeliveryStatus.SENT)
    ingest(engine, make_sighting("3001.00002", title="Sea shells"), now=NOW + HOUR)
    (digest,) = publish(engine, tomorrow)

    assert (welcome.kind, welcome.edition_on) == (DeliveryKind.WELCOME, NOW.date())
    assert delivery.slot_at == NOW
    assert (digest.kind, digest.edition_on) == (DeliveryKind.DIGEST, tomorrow.date())
    assert papers([welcome, digest]) == [("3001.00001",), ("3001.00002",)]


def test_welcome_does_not_use_a_missed_slot(engine: Engine):
    """A weekly reader with an overdue slot is welcomed today, not under last week's date."""
    reader = join(engine)
    weekly = {"frequency": "weekly", "weekday": (NOW.weekday() - 2) % 7}
    alter_reader(engine, reader, welcome_due=True, next_slot_at=NOW - 2 * DAY, **weekly)
    ingest(engine, make_sighting("3001.00001"))

    (welcome,) = publish(engine, NOW)

    assert (welcome.kind, welcome.edition_on) == (DeliveryKind.WELCOME, NOW.date())


def alter_reader(engine: Engine, reader: Subscriber, **values: Any) -> None:
    with engine.begin() as conn:
        conn.execute(update(SubscriberRow).where(SubscriberRow.id == reader.id).values(**values))


def test_queued_digest_does_not_change_with_its_papers(engine: Engine):
    """A queued digest does not change when its papers change."""
    join(engine, "cat:cs.IR", '"patient readers"')
    paper = make_sighting("3001.00001", version=1, upvotes=5, stars=7, title="For Patient Readers")
    ingest(engine, paper)
    publish(engine)
    before = loaded(engine, owed(engine)[0].id)

    later = replace(paper, version=2, title="Something else", abstract="New.", upvotes=50, stars=70)
    elsewhere = replace(later, source="huggingface", announced_on=TODAY - timedelta(days=9))
    ingest(engine, later, elsewhere)

    assert stored(engine)[0].upvotes == 50
    assert stored(engine)[0].sources == ("arxiv", "huggingface")
    assert loaded(engine, owed(engine)[0].id) == before
    assert before.picks[0].paper.title == "For Patient Readers"
    assert (before.picks[0].paper.upvotes, before.picks[0].paper.stars) == (5, 7)


def test_topics_keep_the_order_they_were_chosen_in(engine: Engine):
    join(engine, email="first@example.org", max_papers=1)  # makes the later one the older topic
    reader = join(engine, "source:arxiv", "cat:cs.IR")

    with read_only(engine) as conn:
        followed = topics.followed_by(conn, [reader.id])[reader.id]

    assert [subscription.label for subscription in followed] == ["source:arxiv", "cat:cs.IR"]


def test_preview_changes_no_state(engine: Engine):
    reader = join(engine)
    ingest(engine, make_sighting("3001.00001"))
    before = as_stored(engine, reader)

    digest = editions.preview(engine, reader.email, now=SOON)

    assert [pick.paper.key for pick in digest.picks] == ["3001.00001"]
    assert digest.edition_on == TODAY
    assert (as_stored(engine, reader), owed(engine)) == (before, [])
    assert papers(publish(engine)) == [("3001.00001",)]
    with pytest.raises(NotFoundError):
        editions.preview(engine, "nobody@example.org", now=NOW)


# --- Recaps -------------------------------------------------------------------------------------


def sent_recap(engine: Engine, now: datetime) -> tuple[int, bool, dict[str, int | None]] | None:
    """Publish at `now`; return the days, pause and counts of the frozen recap of the new digest."""
    previewed = editions.preview(engine, "ada@example.org", now=now)
    publish(engine, now)
    digest = loaded(engine, owed(engine)[-1].id)
    settle(engine, DeliveryStatus.SENT, now)
    assert digest.edition_on == now.date()
    assert previewed.recap == digest.recap
    if digest.recap is None:
        return None
    days = (digest.edition_on - digest.recap.since).days + 1
    return days, digest.recap.after_pause, dict(digest.recap.matched)


def hourly_news(engine: Engine, first: int, last: int) -> None:
    """Ingest a paper half an hour before eight o'clock on each of these days."""
    for number in range(first, last + 1):
        ingest(
            engine,
            make_sighting(announced_on=TODAY + number * DAY, upvotes=5),
            now=NOW + number * DAY - HOUR / 2,
        )


def test_weekly_digest_counts_the_matches_of_its_week(engine: Engine):
    hourly_news(engine, -1, -1)
    weekly = Schedule(frequency=Frequency.WEEKLY, weekday=Weekday.WEDNESDAY)
    join(engine, "cat:cs.IR", "Trending", "cat:cs.CL", schedule=weekly, max_papers=3)
    hourly_news(engine, 0, 0)
    sent_recap(engine, NOW)
    hourly_news(engine, 1, 7)

    recap = sent_recap(engine, NOW + 7 * DAY)

    assert recap == (7, False, {"cat:cs.IR": 7, "Trending": None, "cat:cs.CL": 0})


def test_digest_of_one_day_is_no_recap_but_the_first_after_an_outage_is(engine: Engine):
    hourly_news(engine, -1, -1)
    join(engine)
    hourly_news(engine, 0, 0)
    assert sent_recap(engine, NOW) is None

    hourly_news(engine, 1, 4)
    late = NOW + 4 * DAY + 5 * HOUR  # three slots were missed
    assert sent_recap(engine, late) == (4, False, {"cat:cs.IR": 4})
    hourly_news(engine, 5, 5)
    assert sent_recap(engine, NOW + 5 * DAY) is None


@pytest.mark.parametrize("hour", [1, 8, 16, 23])
def test_one_batch_a_day_makes_no_recap_at_any_hour(engine: Engine, hour: int):
    midnight = NOW.replace(hour=0, minute=30)
    ingest(engine, make_sighting(), now=midnight - DAY)
    join(engine, schedule=Schedule(at=time(hour)), now=midnight - DAY + HOUR)

    for number in range(3):
        today = midnight + number * DAY
        ingest(engine, make_sighting(), now=today)
        assert sent_recap(engine, today.replace(hour=hour, minute=0)) is None
        ingest(engine, make_sighting(), now=today.replace(hour=hour) + HOUR / 4)


def test_a_week_is_a_week_whenever_its_first_and_last_batches_came(engine: Engine):
    weekly = Schedule(frequency=Frequency.WEEKLY, weekday=Weekday.WEDNESDAY)
    hourly_news(engine, -1, -1)
    join(engine, schedule=weekly)
    late = NOW + 5 * HOUR
    ingest(engine, make_sighting(), now=late - HOUR)
    sent_recap(engine, late)
    hourly_news(engine, 1, 4)
    assert sent_recap(engine, NOW + 7 * DAY) == (7, False, {"cat:cs.IR": 4})

    hourly_news(engine, 8, 8)
    assert sent_recap(engine, NOW + 14 * DAY) == (7, False, {"cat:cs.IR": 1})


def test_first_digest_after_a_pause_is_a_recap_of_at_most_a_week(engine: Engine):
    hourly_news(engine, -1, -1)
    reader = join(engine)
    hourly_news(engine, 0, 0)
    sent_recap(engine, NOW)
    signup.pause(engine, reader.id, TODAY + 20 * DAY, NOW + HOUR)
    hourly_news(engine, 1, 20)

    for number in range(1, 20):
        publish(engine, NOW + number * DAY)

    assert sent_recap(engine, NOW + 20 * DAY) == (7, True, {"cat:cs.IR": 7})


def test_first_digest_is_no_recap(engine: Engine):
    hourly_news(engine, -9, -1)
    reader = join(engine, now=NOW - DAY)
    alter_reader(engine, reader, welcome_due=True, cursor=1)

    assert sent_recap(engine, NOW) is None


def test_unreadable_recap_does_not_stop_the_digest(engine: Engine):
    hourly_news(engine, -1, -1)
    join(engine)
    hourly_news(engine, 0, 3)
    publish(engine, NOW + 3 * DAY)
    with engine.begin() as conn:
        conn.execute(update(DeliveryRow).values(recap=["yesterday", True, []]))

    digest = loaded(engine, owed(engine)[0].id)

    assert digest.picks
    assert digest.recap is None


# --- Sources and topics -------------------------------------------------------------------------


def test_preview_omits_papers_sent_within_ninety_days(engine: Engine):
    reader = join(engine)
    ingest(engine, make_sighting("3001.00001"))
    publish(engine)
    settle(engine, DeliveryStatus.SENT)
    with engine.begin() as conn:
        conn.execute(update(SubscriberRow).values(cursor=0))

    previews = [editions.preview(engine, reader.email, now=NOW + n * DAY) for n in (1, 89, 91)]

    assert [len(digest.picks) for digest in previews] == [0, 0, 1]


def test_paper_listed_later_by_another_source_reaches_each_reader_once(engine: Engine):
    """Categories come from arXiv, upvotes and keywords a day later from Hugging Face."""
    queries = {"cat": "cat:cs.IR", "hf": "source:huggingface", "top": "Trending"}
    for name, query in queries.items():
        join(engine, query, email=f"{name}@example.org")
    join(engine, *queries.values(), email="all@example.org")
    got: Counter[str] = Counter()
    first_day: set[str] = set()

    def day(number: int) -> None:
        for outcome in publish(engine, NOW + number * DAY):
            got.update({outcome.email: len(outcome.papers)})
        settle(engine, DeliveryStatus.SENT, NOW + number * DAY)

    ingest(engine, make_sighting("3001.00001"))
    day(0)
    first_day |= {name for name in got if got[name]}
    ingest(
        engine,
        make_sighting("3001.00001", source="huggingface", keywords=("ranking",), upvotes=9),
        now=NOW + 12 * HOUR,
    )
    for number in (1, 2, 3):
        day(number)

    assert first_day == {"cat@example.org", "all@example.org"}
    assert got == dict.fromkeys([f"{name}@example.org" for name in [*queries, "all"]], 1)


def test_trending_picks_the_top_by_upvotes_and_skips_without_news(engine: Engine):
    join(engine, "Trending", max_papers=2)
    listed = [
        make_sighting(f"3001.0000{n}", source="huggingface", upvotes=n, title=title)
        for n, title in enumerate(["Ant", "Bee", "Cow", "Dog"], 1)
    ]
    ingest(engine, *listed)

    first = publish(engine)
    settle(engine, DeliveryStatus.SENT)
    more_upvotes = [replace(paper, upvotes=90 + n) for n, paper in enumerate(listed)]
    ingest(engine, *more_upvotes, now=NOW + HOUR)
    quiet = publish(engine, NOW + DAY)
    newcomer = make_sighting("3001.00009", source="huggingface", upvotes=0, title="Eel")
    ingest(engine, newcomer, now=NOW + 30 * HOUR)
    last = publish(engine, NOW + 2 * DAY)

    assert papers(first) == [("3001.00004", "3001.00003")]
    assert [outcome.skipped for outcome in quiet] == [SkipReason.NOTHING_NEW]
    assert papers(last) == [("3001.00002", "3001.00001")]  # the top of those not sent yet


def test_trending_leaves_out_changed_papers_that_are_older_than_sent_ones_are_known(engine: Engine):
    """A cross-listing after 91 days makes no old paper news; one after 89 days may be sent."""
    for days, arxiv_id in ((91, "3001.00001"), (89, "3001.00002")):
        old = make_sighting(arxiv_id, source="huggingface", upvotes=days, title=f"Moth {days}")
        ingest(engine, old, now=NOW - days * DAY)
    join(engine, "Trending")
    for number in (1, 2):
        store(engine, make_sighting(f"3001.0000{number}", source="feed"), batch=3)
    ingest(engine, make_sighting("3001.00003", source="huggingface", upvotes=1, title="Bee"))

    assert papers(publish(engine)) == [("3001.00002", "3001.00003")]


def test_unpublished_batch_does_not_trigger_trending(engine: Engine):
    """The paper is in a batch that an ingest run stored, but did not publish before it died."""
    join(engine, "Trending")
    ingest(engine, make_sighting("3001.00001", source="huggingface", upvotes=1))
    publish(engine)
    settle(engine, DeliveryStatus.SENT)
    store(engine, make_sighting("3001.00001", source="feed"), batch=2)

    (outcome,) = publish(engine, NOW + DAY)

    assert outcome.skipped is SkipReason.NOTHING_NEW


def test_new_topic_backfill_keeps_batch_numbers_for_thirty_days(engine: Engine):
    """The backfill covers thirty days and no more."""
    for number, days_ago in enumerate((40, 20, 3), start=1):
        ingest(engine, make_sighting(f"3001.0000{number}"), now=NOW - days_ago * DAY)
    reader = join(engine)

    outcomes = publish(engine)

    assert {batch for _, _, batch in matches(engine)} == {2, 3}
    assert papers(outcomes) == [("3001.00003",)]  # a new reader gets a week back
    assert owed(engine)[0].range_from == reader.cursor == 2


def test_refollowed_topic_matches_papers_cross_listed_meanwhile(engine: Engine):
    """The paper was stored before, and matches since it was cross-listed."""
    reader = join(engine, "cat:cs.LG")
    paper = make_sighting("3001.00001", categories=("cs.IR",))
    ingest(engine, paper)
    publish(engine)
    signup.change(engine, reader.id, Choices(parse_queries(("cat:q-bio",))), NOW)
    ingest(engine, replace(paper, categories=("cs.IR", "cs.LG")), now=NOW + HOUR)
    signup.change(engine, reader.id, Choices(parse_queries(("cat:cs.LG",))), NOW + 2 * HOUR)

    assert papers(publish(engine, NOW + DAY)) == [("3001.00001",)]
    assert {batch for _, _, batch in matches(engine)} == {2}


def test_papers_of_an_unfinished_ingest_are_picked_after_it_finishes(engine: Engine):
    """If it matched under the paper's old batch, the reader's cursor would skip it for ever."""
    reader = join(engine, "cat:q-bio")
    paper = make_sighting("3001.00001", categories=("cs.IR",))
    ingest(engine, paper)
    publish(engine)
    signup.change(engine, reader.id, Choices(parse_queries(("cat:cs.LG",))), NOW)
    cross_listed = replace(paper, categories=("cs.IR", "cs.LG"))
    store(engine, cross_listed, batch=2)

    during = publish(engine, NOW + DAY)
    ingest(engine, cross_listed, now=NOW + DAY)
    after = publish(engine, NOW + 2 * DAY)

    assert papers(during) == [()]
    assert papers(after) == [("3001.00001",)]


@pytest.mark.full
def test_topic_followed_during_publish_is_served(engine: Engine):
    """The last reader changes topics after the first chunk was compiled."""
    crowd(engine, 201)
    ingest(engine, make_sighting("3001.00001"), make_sighting("3001.00002", categories=("q-bio",)))
    running = editions.publish(engine, now=NOW, expiry=EXPIRY, template="1")
    outcomes = [next(running)]

    last = rows(engine, SubscriberRow, SubscriberRow.id)[-1]
    signup.change(engine, last.id, Choices(parse_queries(("cat:q-bio",))), NOW)
    with engine.begin() as conn:
        conn.execute(update(SubscriberRow).values(next_slot_at=NOW))
    outcomes += running

    assert len(outcomes) == 201
    assert outcomes[-1].papers == ("3001.00002",)


@pytest.mark.full
def test_papers_merged_during_publish_do_not_stop_it(engine: Engine):
    crowd(engine, 201)
    ingest(
        engine,
        make_sighting("3001.00001", title="Ant"),
        make_sighting(None, source="biorxiv", title="Bee", doi="10.1/x", categories=("cs.IR",)),
    )
    running = editions.publish(engine, now=NOW, expiry=EXPIRY, template="1")
    outcomes = [next(running)]

    ingest(engine, make_sighting("3001.00001", title="Ant", doi="10.1/x"))
    outcomes += running

    assert Counter(len(outcome.papers) for outcome in outcomes) == {2: 200, 1: 1}
    assert {len(set(outcome.papers)) for outcome in outcomes[-1:]} == {1}


# --- Superseded and undelivered digests ----------------------------------------------------------


def test_a_new_digest_supersedes_an_unsent_one_and_covers_its_range(engine: Engine):
    join(engine)
    ingest(engine, make_sighting("3001.00001", title="Ant"))
    publish(engine)
    ingest(engine, make_sighting("3001.00002", title="Bee"))

    (outcome,) = publish(engine, NOW + DAY)

    assert set(outcome.papers) == {"3001.00001", "3001.00002"}
    assert [(d.status, d.range_from, d.range_to) for d in owed(engine)] == [
        ("cancelled", 0, 1),
        ("queued", 0, 2),
    ]
    assert "superseded" in owed(engine)[0].reason


def test_marked_digest_is_not_superseded(engine: Engine):
    join(engine)
    ingest(engine, make_sighting("3001.00001", title="Ant"))
    publish(engine)
    with engine.begin() as conn:
        (delivery,) = deliveries.claim(conn, 1, "token", HOUR, NOW)
        deliveries.mark(conn, [delivery.id], "token", HOUR, NOW)
    ingest(engine, make_sighting("3001.00002", title="Bee"))

    (outcome,) = publish(engine, NOW + DAY)

    assert outcome.papers == ("3001.00002",)
    assert [d.status for d in owed(engine)] == ["sending", "queued"]


@pytest.mark.parametrize(
    ("ends", "again"),
    [
        (DeliveryStatus.FAILED, True),  # because of us
        (DeliveryStatus.EXPIRED, True),
        (DeliveryStatus.CANCELLED, True),  # by the operator
        (DeliveryStatus.UNCERTAIN, False),
        (DeliveryStatus.SENT, False),
    ],
)
def test_papers_are_sent_again_only_if_certainly_undelivered(
    engine: Engine, ends: DeliveryStatus, again: bool
):
    reader = join(engine)
    ingest(engine, make_sighting("3001.00001", title="Ant"))
    publish(engine)
    if ends is DeliveryStatus.EXPIRED:
        with engine.begin() as conn:
            assert deliveries.expire_due(conn, NOW + EXPIRY) == 1
    elif ends is DeliveryStatus.CANCELLED:
        with engine.begin() as conn:
            deliveries.cancel_unsent(conn, [reader.id], deliveries.CancelReason.OPERATOR)
    else:
        settle(engine, ends)
    assert [d.status for d in owed(engine)] == [ends]
    assert as_stored(engine, reader).cursor == (0 if again else 1)
    ingest(engine, make_sighting("3001.00002", title="Bee"))

    (outcome,) = publish(engine, NOW + DAY)

    assert set(outcome.papers) == ({"3001.00001"} if again else set()) | {"3001.00002"}


def test_a_paper_may_come_again_after_ninety_days(engine: Engine):
    join(engine, "cat:cs.IR", "source:huggingface")
    ingest(engine, make_sighting("3001.00001"))
    publish(engine)
    settle(engine, DeliveryStatus.SENT)

    ingest(engine, make_sighting("3001.00001", source="huggingface"), now=NOW + 91 * DAY)

    assert papers(publish(engine, NOW + 91 * DAY)) == [("3001.00001",)]


# --- Pauses -------------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.parametrize(("frequency", "days"), [(Frequency.DAILY, 7), (Frequency.WEEKLY, 14)])
def test_digest_after_a_pause_looks_back_7_or_14_days(
    engine: Engine, frequency: Frequency, days: int
):
    schedule = make_schedule(frequency=frequency, weekday=TODAY.weekday())
    reader = join(engine, schedule=schedule)
    until = TODAY + 28 * DAY
    signup.pause(engine, reader.id, until, SOON)
    for n, title in enumerate(["Ant", "Bee", "Cow", "Dog", "Eel", "Fox"]):
        now = NOW + n * 5 * DAY - HOUR
        ingest(engine, make_sighting(f"3001.0000{n}", title=title), now=now)
        publish(engine, now + HOUR)

    reasons = {skip.reason for skip in rows(engine, SkipRow)}
    assert reasons == {SkipReason.PAUSED}
    assert {(skip.range_from, skip.range_to) for skip in rows(engine, SkipRow)} == {(0, 0)}
    assert as_stored(engine, reader).cursor == 0

    (outcome,) = publish(engine, NOW + 28 * DAY)

    assert outcome.edition_on == until
    newest = [n for n in range(6) if 28 * DAY - (n * 5 * DAY - HOUR) < days * DAY]
    assert set(outcome.papers) == {f"3001.0000{n}" for n in newest}
    assert as_stored(engine, reader).paused_until is None


def test_early_end_of_a_pause_keeps_the_look_back_limit(engine: Engine):
    reader = join(engine)
    signup.pause(engine, reader.id, TODAY + 300 * DAY, SOON)
    ingest(engine, make_sighting("3001.00001", title="Ant"), now=NOW)
    ingest(engine, make_sighting("3001.00002", title="Bee"), now=NOW + 19 * DAY)

    signup.pause(engine, reader.id, TODAY, NOW + 20 * DAY - HOUR)

    assert papers(publish(engine, NOW + 20 * DAY)) == [("3001.00002",)]


# --- Due readers --------------------------------------------------------------------------------


def test_only_active_readers_are_served(engine: Engine):
    gone = join(engine, email="gone@example.org")
    signup.add(engine, "asked@example.org", Choices(), confirmed=False,
               suppression_key=SUPPRESSION_KEY, now=SOON)  # fmt: skip
    signup.leave(engine, gone.secret, SOON)
    ingest(engine, make_sighting())

    assert publish(engine) == publish(engine, everyone=True) == []


def test_lifted_suppression_looks_back_as_after_a_pause(engine: Engine):
    """When the suppression is lifted, the digest looks back as after a pause."""
    reader = join(engine)
    hash_ = addresses.address_hash(reader.email, SUPPRESSION_KEY)
    with engine.begin() as conn:
        suppressions.suppress(conn, hash_, SuppressionReason.HARD, SOON)
    ingest(engine, make_sighting("3001.00001", title="Ant"))
    (barred,) = publish(engine)
    ingest(engine, make_sighting("3001.00002", title="Bee"), now=NOW + 4 * DAY)
    with engine.begin() as conn:
        suppressions.lift(conn, hash_)

    (outcome,) = publish(engine, NOW + 10 * DAY)

    assert (barred.skipped, owed(engine)[0].range_from) == (SkipReason.SUPPRESSED, 1)
    assert outcome.papers == ("3001.00002",)
    assert as_stored(engine, reader).paused_until is None


def test_changed_hour_causes_no_second_digest_on_one_day(engine: Engine):
    reader = join(engine)
    ingest(engine, make_sighting())
    publish(engine)

    changed = signup.change(
        engine, reader.id, Choices(parse_queries(("cat:cs.IR",)), make_schedule(23)), NOW
    )

    assert changed.next_slot_at == NOW + DAY + 15 * HOUR
    assert publish(engine, NOW + 20 * HOUR) == []


def test_resubscribing_on_the_same_day_waits_for_the_next_day(engine: Engine):
    reader = join(engine)
    ingest(engine, make_sighting())
    publish(engine)
    settle(engine, DeliveryStatus.SENT)
    signup.leave(engine, reader.secret, NOW + HOUR)

    back = join(engine, now=NOW + 2 * HOUR, schedule=make_schedule(12))

    assert (back.id, back.status) == (reader.id, SubscriberStatus.ACTIVE)
    assert back.next_slot_at == NOW + DAY + 4 * HOUR
    assert publish(engine, NOW + 5 * HOUR) == []
    (outcome,) = publish(engine, NOW + DAY + 4 * HOUR)
    assert outcome.skipped is SkipReason.ALL_SENT_BEFORE


# --- Concurrency and crashes --------------------------------------------------------------------


def crowd(engine: Engine, count: int) -> None:
    """Add `count` subscribers to one topic, all of them due."""
    with engine.begin() as conn:
        topic = topics.find_or_add(conn, "cat:cs.ir", SOON)
        for number in range(count):
            id_ = subscribers.add(
                conn, email=f"r{number}@example.org", suppression_key=SUPPRESSION_KEY,
                schedule=Schedule(), max_papers=5, status=SubscriberStatus.ACTIVE, cursor=0,
                next_slot_at=NOW, now=SOON,
            )  # fmt: skip
            assert id_ is not None
            topics.follow(conn, id_, [(topic, "retrieval")], SOON)


@pytest.mark.full
def test_concurrent_publish_queues_one_digest_per_reader(engine: Engine):
    crowd(engine, 450)
    ingest(engine, make_sighting())
    outcomes: list[SlotResult] = []
    start = threading.Barrier(3)

    def run() -> None:
        start.wait(30)
        outcomes.extend(publish(engine))

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    outcomes += publish(engine)

    assert len(outcomes) == 450
    assert Counter(d.subscriber_id for d in owed(engine)).most_common(1)[0][1] == 1
    assert len(owed(engine)) == len(rows(engine, PickRow)) == 450


@pytest.mark.full
def test_crash_during_publish_leaves_only_whole_chunks(engine: Engine):
    """Each chunk is committed as a whole or not at all; the next run continues with the others."""
    crowd(engine, 210)
    ingest(engine, make_sighting())
    editions.match_late_topics(engine, published(engine), NOW)
    left = set()
    for after in (15, 120, 212, 217, 230):
        with dying(engine, after):
            publish(engine)
        served = [s for s in rows(engine, SubscriberRow) if s.last_slot_at == NOW]
        assert {s.id for s in served} == {d.subscriber_id for d in owed(engine)}
        assert len(owed(engine)) == len(rows(engine, PickRow))
        assert all((s.cursor, s.last_edition_on) == (1, TODAY) for s in served)
        left.add(len(served))

    publish(engine)

    assert left <= {0, 200, 210}
    assert 0 in left
    assert len(owed(engine)) == len(rows(engine, PickRow)) == 210


# --- Spreading a large edition ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("due", "minutes"), [(0, 0), (999, 0), (6_000, 1), (60_000, 10), (1_000_000, 10)]
)
def test_spread_is_zero_for_few_digests_and_grows_to_the_maximum(due, minutes):
    assert compiler.delivery_spread(due, timedelta(minutes=10)) == timedelta(minutes=minutes)


def test_readers_are_spread_evenly():
    shares = [compiler.spread_position(id_) for id_ in range(1, 1001)]

    tenths = Counter(int(share * 10) for share in shares)
    assert set(tenths) == set(range(10))
    assert all(90 <= count <= 110 for count in tenths.values())


def test_publish_delays_digests_by_their_share_but_not_a_welcome(engine, monkeypatch):
    monkeypatch.setattr(compiler, "MANY", 3)
    monkeypatch.setattr(compiler, "spread_position", lambda id_: id_ / 10)
    ids = [join(engine, email=f"r{n}@example.org").id for n in range(3)]
    ingest(engine, make_sighting())
    with engine.begin() as conn:
        conn.execute(
            update(SubscriberRow).where(SubscriberRow.id == ids[0]).values(welcome_due=True)
        )

    run = editions.publish(
        engine, now=NOW, expiry=EXPIRY, template="1", longest_spread=timedelta(minutes=10)
    )
    assert len(list(run)) == 3

    due = {d.subscriber_id: d.not_before - NOW for d in rows(engine, DeliveryRow)}
    spread = timedelta(seconds=0.03)
    assert due == {ids[0]: timedelta(0), ids[1]: spread * ids[1] / 10, ids[2]: spread * ids[2] / 10}
