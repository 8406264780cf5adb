"""Random histories of a newsletter: no paper is missed and none is sent twice.

A simple model of the rules runs next to the code: after every publish it reads the tables and
computes the papers that each reader should have received.
"""

from __future__ import annotations

import random
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, time, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine

from pipeline import editions, signup
from pipeline.domain import (
    UNSENT,
    DeliveryStatus,
    Frequency,
    Schedule,
    Sighting,
    SkipReason,
    Subscriber,
    SubscriberStatus,
    Weekday,
)
from pipeline.editions import SlotResult
from pipeline.signup import Choices, parse_queries
from pipeline.storage import deliveries, ingest_state, subscribers, topics
from pipeline.storage.database import read_only, with_retries
from pipeline.storage.deliveries import Resolution, Settlement
from pipeline.storage.digests import REACHED
from pipeline.storage.schema import DeliveryRow, MatchRow, PickRow, SkipRow
from tests.support.factories import NOW, make_sighting
from tests.support.newsroom import SUPPRESSION_KEY, add_reader, empty, ingest, rows, store, stored

pytestmark = pytest.mark.full

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
EXPIRY = timedelta(hours=18)
FIELDS = ("cs.IR", "cs.LG", "q-bio.NC", "math.CO")
QUERIES = (*(f"cat:{name}" for name in FIELDS), "source:huggingface")
ZONES = ("UTC", "Europe/Berlin", "Asia/Kathmandu", "America/Los_Angeles", "Pacific/Apia")
ENDS = (
    DeliveryStatus.SENT,
    DeliveryStatus.SENT,
    DeliveryStatus.FAILED,
    DeliveryStatus.UNCERTAIN,
    DeliveryStatus.QUEUED,
)


@dataclass
class History:
    """One random history; `faithful` readers never change topics, pause or unsubscribe."""

    engine: Engine
    dice: random.Random
    now: datetime = NOW
    readers: list[Subscriber] = field(default_factory=list)
    faithful: list[Subscriber] = field(default_factory=list)
    known: list[Sighting] = field(default_factory=list)
    number: int = 0  # of the last paper

    def live(self, steps: int) -> None:
        self.begin()
        events = (
            self.time_passes, self.time_passes, self.papers_appear, self.papers_appear,
            self.publish, self.publish, self.publish_by_hand, self.mail_is_sent, self.mail_is_sent,
            self.mail_expires, self.somebody_changes, self.somebody_pauses, self.somebody_leaves,
        )  # fmt: skip
        for _ in range(steps):
            self.dice.choice(events)()
        self.come_to_rest()

    def begin(self) -> None:
        for number in range(5):
            queries = self.dice.sample(QUERIES, self.dice.randint(1, 3))
            if number == 4:
                queries.append("Trending")
            reader = add_reader(
                self.engine, *queries, email=f"r{number}@example.org", schedule=self.schedule(),
                max_papers=500 if number < 2 else self.dice.randint(1, 4), now=self.now,
            )  # fmt: skip
            self.readers.append(reader)
        self.faithful = self.readers[:2]

    def schedule(self) -> Schedule:
        return Schedule(
            time(self.dice.randrange(24)),
            self.dice.choice(ZONES),
            self.dice.choice(list(Frequency)),
            self.dice.choice(list(Weekday)),
        )

    # --- Events ---------------------------------------------------------------------------------

    def time_passes(self) -> None:
        self.now += self.dice.choice([HOUR, 5 * HOUR, 13 * HOUR, DAY, 2 * DAY])

    def papers_appear(self) -> None:
        """Ingest new papers, and known ones that are cross-listed or listed by Hugging Face.

        One run in five dies before it publishes its batch.
        """
        found = [self.new_paper() for _ in range(self.dice.randrange(4))]
        for sighting in self.dice.sample(self.known, min(len(self.known), self.dice.randrange(3))):
            changes = self.dice.choice(
                [{"source": "huggingface", "upvotes": self.dice.randrange(50)},
                 {"categories": (*sighting.categories, self.dice.choice(FIELDS))}]
            )  # fmt: skip
            found.append(replace(sighting, **changes))
        if self.dice.random() < 0.2:
            store(self.engine, *found, batch=self.published() + 1)
        else:
            ingest(self.engine, *found, now=self.now)

    def new_paper(self) -> Sighting:
        self.number += 1
        number = self.number
        sighting = make_sighting(
            f"3001.{number:05}",
            title=f"w{number}a w{number}b w{number}c",  # similar titles would be merged
            categories=tuple(self.dice.sample(FIELDS, self.dice.randint(1, 2))),
        )
        self.known.append(sighting)
        return sighting

    def publish(self) -> None:
        self._publish(everyone=False)
        assert list(self.editions(everyone=False)) == []

    def publish_by_hand(self) -> None:
        self._publish(everyone=True)

    def mail_is_sent(self) -> None:
        """Claim some deliveries, mark some of those, and settle the marked ones at random."""
        with self.engine.begin() as conn:
            claimed = deliveries.claim(conn, self.dice.randint(1, 9), "token", HOUR, self.now)
            ids = [delivery.id for delivery in claimed]
            marked = self.dice.sample(ids, self.dice.randint(0, len(ids)))
            deliveries.mark(conn, marked, "token", HOUR, self.now)
            ends = [(id_, self.dice.choice(ENDS)) for id_ in marked]
            deliveries.settle(
                conn,
                [Settlement(id_, end, "", unread=end is DeliveryStatus.FAILED)
                 for id_, end in ends],
                "token",
                self.now,
            )  # fmt: skip
            if self.dice.random() < 0.5:  # else it stays leased, and may be superseded
                deliveries.give_back(conn, "token")
            for id_, end in ends:
                if end is DeliveryStatus.UNCERTAIN and self.dice.random() < 0.3:
                    deliveries.resolve(conn, id_, Resolution.DROP, self.now)

    def mail_expires(self) -> None:
        with self.engine.begin() as conn:
            deliveries.recover_leases(conn, self.now)
            deliveries.expire_due(conn, self.now)

    def somebody_changes(self) -> None:
        reader = self.dice.choice(self.readers)
        queries = self.queries_of(reader)
        if reader not in self.faithful:
            queries = self.dice.sample(QUERIES, self.dice.randint(1, 3))
        choices = Choices(parse_queries(queries), self.schedule(), reader.max_papers)
        signup.change(self.engine, reader.id, choices, self.now)

    def somebody_pauses(self) -> None:
        reader = self.dice.choice(self.readers[2:])
        days = self.dice.choice([0, 0, 3, 12, 20])
        signup.pause(self.engine, reader.id, (self.now + days * DAY).date(), self.now)

    def somebody_leaves(self) -> None:
        """Unsubscribe an active reader, or sign up again one that has left."""
        reader = self.dice.choice(self.readers[2:])
        if self.as_stored(reader).status is SubscriberStatus.ACTIVE:
            signup.leave(self.engine, reader.secret, self.now)
            assert not [d for d in self.digests_of(reader) if d.status in UNSENT]
            return
        queries = parse_queries((self.dice.choice(QUERIES),))
        signup.add(
            self.engine, reader.email, Choices(queries, self.schedule(), 3),
            confirmed=True, suppression_key=SUPPRESSION_KEY, now=self.now,
        )  # fmt: skip

    # --- Invariants -----------------------------------------------------------------------------

    def _publish(self, *, everyone: bool) -> None:
        before = {reader.id: self.as_stored(reader) for reader in self.readers}
        floors = {days: self.look_back(days) for days in (7, 14)}
        owed = {d.id: d for reader in self.readers for d in self.owed(reader)}
        sent = {reader.id: self.had(reader) for reader in self.readers}
        for outcome in self.editions(everyone=everyone):
            old = before[outcome.subscriber_id]
            mine = [d for d in owed.values() if d.subscriber_id == old.id]
            had = sent[old.id] - self.picked([d.id for d in mine])
            self.check(outcome, old, mine, had, floors)
        for reader in self.readers:
            self.check_nothing_twice(reader)

    def editions(self, *, everyone: bool) -> Iterator[SlotResult]:
        return editions.publish(
            self.engine, now=self.now, expiry=EXPIRY, template="1", everyone=everyone
        )

    def check(
        self, outcome: SlotResult, old: Subscriber, owed: list[Any], had: set[int], floors: Any
    ) -> None:
        """Check the outcome against the reader's row and queued deliveries before the publish."""
        new = self.as_stored(old)
        if outcome.skipped is SkipReason.PAUSED:
            assert old.paused_until is not None
            assert outcome.edition_on < old.paused_until
            assert (new.cursor, new.last_edition_on) == (old.cursor, outcome.edition_on)
            return
        record = self.record_of(outcome)
        start = old.cursor
        if old.paused_until is not None:
            weekly = old.schedule.frequency is Frequency.WEEKLY
            start = max(start, floors[14 if weekly else 7])
        assert record.range_from == min([start, *(d.range_from for d in owed)])
        assert record.range_to == new.cursor == self.published()
        assert (new.last_slot_at, new.last_edition_on) == (record.slot_at, outcome.edition_on)
        assert old.last_edition_on is None or outcome.edition_on > old.last_edition_on
        assert new.next_slot_at is not None
        assert new.next_slot_at - record.slot_at >= 20 * HOUR
        assert len(self.owed(old)) == (outcome.skipped is None)
        self.check_papers(outcome, record, old, had)

    def check_papers(
        self, outcome: SlotResult, record: Any, reader: Subscriber, had: set[int]
    ) -> None:
        followed = self.topics_of(reader)
        expected = {
            match.paper_id
            for match in rows(self.engine, MatchRow)
            if match.topic_id in followed and record.range_from < match.batch <= record.range_to
        } - had
        picks = self.picked([record.id]) if outcome.skipped is None else set()
        assert len(picks) == len(outcome.papers) <= reader.max_papers
        assert not picks & had
        if "trending" in followed.values():
            assert len(expected - picks) <= (record.more if picks else 0)
            return
        assert picks <= expected
        assert len(picks) == min(len(expected), reader.max_papers)
        if picks:
            assert record.more == len(expected) - len(picks)

    def check_nothing_twice(self, reader: Subscriber) -> None:
        days: defaultdict[int, list[datetime]] = defaultdict(list)
        by_id = {d.id: d for d in self.digests_of(reader) if d.status in REACHED}
        for pick in rows(self.engine, PickRow):
            if pick.delivery_id in by_id:
                days[pick.paper_id].append(by_id[pick.delivery_id].created_at)
        for when in days.values():
            assert len(when) == 1 or max(when) - min(when) > 90 * DAY

    def come_to_rest(self) -> None:
        """Settle and compile everything; faithful readers must have had each paper that matched."""
        ingest(self.engine, now=self.now)
        for _ in range(3):
            self.now += 8 * DAY
            self.mail_expires()
            self._publish(everyone=False)
            with self.engine.begin() as conn:
                ids = [d.id for d in deliveries.claim(conn, 99, "last", HOUR, self.now)]
                deliveries.mark(conn, ids, "last", HOUR, self.now)
                done = [Settlement(id_, DeliveryStatus.SENT, "") for id_ in ids]
                deliveries.settle(conn, done, "last", self.now)
        for reader in self.faithful:
            followed = self.topics_of(reader)
            matched = {m.paper_id for m in rows(self.engine, MatchRow) if m.topic_id in followed}
            should = {p.id for p in stored(self.engine) if self.belongs(p, reader)}
            assert matched == should
            assert self.had(reader) == should

    def belongs(self, paper: Any, reader: Subscriber) -> bool:
        names = {query.split(":")[1].lower() for query in self.queries_of(reader)}
        return bool(names & {c.lower() for c in (*paper.categories, *paper.sources)})

    # --- Queries --------------------------------------------------------------------------------

    def as_stored(self, reader: Subscriber) -> Subscriber:
        with read_only(self.engine) as conn:
            found = subscribers.by_id(conn, reader.id)
        assert found is not None
        return found

    def published(self) -> int:
        with read_only(self.engine) as conn:
            return ingest_state.published_batch(conn)

    def look_back(self, days: int) -> int:
        with read_only(self.engine) as conn:
            return ingest_state.look_back(conn, self.now, days=days)

    def topics_of(self, reader: Subscriber) -> dict[int, str]:
        with read_only(self.engine) as conn:
            followed = topics.followed_by(conn, [reader.id])[reader.id]
        return {one.topic.id: one.topic.query for one in followed}

    def queries_of(self, reader: Subscriber) -> list[str]:
        return [query for query in self.topics_of(reader).values() if query != "trending"]

    def digests_of(self, reader: Subscriber) -> list[Any]:
        return [d for d in rows(self.engine, DeliveryRow) if d.subscriber_id == reader.id]

    def owed(self, reader: Subscriber) -> list[Any]:
        return [d for d in self.digests_of(reader) if d.status in UNSENT]

    def record_of(self, outcome: SlotResult) -> Any:
        """Return the delivery of the outcome, or the row with the reason if there is none."""
        found = rows(self.engine, DeliveryRow if outcome.skipped is None else SkipRow)
        place = (outcome.subscriber_id, outcome.edition_on)
        (record,) = (r for r in found if (r.subscriber_id, r.edition_on) == place)
        return record

    def picked(self, delivery_ids: list[int]) -> set[int]:
        picks = rows(self.engine, PickRow)
        return {pick.paper_id for pick in picks if pick.delivery_id in delivery_ids}

    def had(self, reader: Subscriber) -> set[int]:
        """Return the ids of papers that reached the reader in 90 days, or still may."""
        since = self.now - 90 * DAY
        reached = [d for d in self.digests_of(reader) if d.status in REACHED]
        return self.picked([d.id for d in reached if d.created_at >= since])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_random_history_sends_each_matching_paper_once(engine: Engine, seed: int):
    for part in range(2):
        empty(engine)
        History(engine, random.Random(f"{seed}.{part}")).live(steps=40)


def test_concurrent_history_sends_each_matching_paper_once(engine: Engine):
    """Ingest, two compilers, a sender and changing readers run concurrently for ten days."""
    history = History(engine, random.Random(7))
    history.begin()
    errors: list[BaseException] = []
    together = threading.Barrier(5)
    days = [NOW + n * DAY / 2 for n in range(20)]

    def work(step: Callable[[History], None], seed: int) -> None:
        mine = replace(history, dice=random.Random(seed), known=[])
        mine.number = 10_000 * seed
        try:
            for now in days:
                mine.now = now
                together.wait(60)
                step(mine)
        except BaseException as error:  # noqa: BLE001  (a thread's error would be lost)
            errors.append(error)
            together.abort()

    def compile_(mine: History) -> None:
        list(mine.editions(everyone=False))

    def send(mine: History) -> None:
        with_retries(mine.dice.choice([mine.mail_is_sent, mine.mail_expires]))

    def change(mine: History) -> None:
        mine.dice.choice([mine.somebody_changes, mine.somebody_leaves])()

    steps = (History.papers_appear, compile_, compile_, send, change)
    threads = [
        threading.Thread(target=work, args=(step, seed)) for seed, step in enumerate(steps, 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)

    assert errors == []
    for reader in history.readers:
        history.check_nothing_twice(reader)
        assert len(history.owed(reader)) <= 1
    history.now = days[-1] + DAY
    history.come_to_rest()


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_random_history_on_postgresql(engine: Engine):
    History(engine, random.Random(2030)).live(steps=40)
