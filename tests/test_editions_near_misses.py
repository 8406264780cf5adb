"""Near misses: the nearest papers, sent after some days without a match."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, update

from pipeline import editions, signup
from pipeline.domain import (
    Breadth,
    DeliveryStatus,
    Frequency,
    Schedule,
    SkipReason,
    Subscriber,
)
from pipeline.editions import SlotResult
from pipeline.matching.corpus import statistics
from pipeline.matching.index import PaperIndex
from pipeline.matching.query import parse
from pipeline.storage import digests
from pipeline.storage.database import read_only
from pipeline.storage.schema import DeliveryRow, MatchRow, PickRow
from tests.support.factories import NOW, TODAY, make_paper, make_sighting
from tests.support.newsroom import add_reader, ingest, rows

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
TOPIC = "quantum"  # in 10 to 30 % of the papers: one mention is a near miss, two are Broad
NEAR = "We count one quantum of light."
FAR = "We grow tea leaves in the shade of a wall."
PASSING = "A quantum follows a quantum."
MATCH = "Quantum to quantum: a quantum is a quantum, and each quantum is one more quantum."


def publish(engine: Engine, day: int) -> list[SlotResult]:
    settings = {"expiry": timedelta(hours=18), "template": "1"}
    return list(editions.publish(engine, now=NOW + day * DAY, **settings))


def end(engine: Engine) -> None:
    """Set all queued mails to sent."""
    with engine.begin() as conn:
        conn.execute(
            update(DeliveryRow)
            .where(DeliveryRow.status == DeliveryStatus.QUEUED)
            .values(status=DeliveryStatus.SENT, reason="test")
        )


def add_follower(engine: Engine, *topics: str, **choices: Any) -> Subscriber:
    """Add a reader to a site with older papers, of which 20 % count as having the word."""
    older = [make_sighting(abstract=NEAR, announced_on=TODAY - 30 * DAY) for _ in range(25)]
    ingest(engine, *older, now=NOW - 30 * DAY)
    return add_reader(engine, *topics, now=NOW - HOUR, **choices)


def day(engine: Engine, number: int, *abstracts: str) -> list[str]:
    """Ingest papers on that day and publish; return the titles of the digest, or [the reason]."""
    end(engine)
    for place, abstract in enumerate(abstracts):
        sighting = make_sighting(
            title=f"Paper {number}.{place}",
            abstract=abstract,
            announced_on=TODAY + number * DAY,
        )
        ingest(engine, sighting, now=NOW + number * DAY)
    (outcome,) = publish(engine, number)
    if outcome.skipped:
        return [outcome.skipped.value]
    with read_only(engine) as conn:
        last = rows(engine, DeliveryRow, DeliveryRow.id)[-1]
        (digest,) = digests.load(conn, [last.id]).values()
    assert len(digest.picks) == len(outcome.papers)
    mark = "near: " if digest.near_misses else ""
    return [mark + pick.paper.title for pick in digest.picks]


NOTHING = ["nothing matched"]


def test_nearest_papers_are_sent_on_the_third_day_without_a_match(engine: Engine):
    add_follower(engine, TOPIC)

    found = [day(engine, n, FAR, NEAR) for n in range(1, 8)]

    assert found == [
        NOTHING, NOTHING, ["near: Paper 3.1"],
        NOTHING, NOTHING, ["near: Paper 6.1"],
        NOTHING,
    ]  # fmt: skip


def test_a_match_restarts_the_count_and_is_sent_alone(engine: Engine):
    add_follower(engine, TOPIC)

    found = [day(engine, n, MATCH if n == 3 else NEAR) for n in range(1, 7)]

    assert found == [NOTHING, NOTHING, ["Paper 3.0"], NOTHING, NOTHING,
                     ["near: Paper 6.0"]]  # fmt: skip


@pytest.mark.parametrize(
    ("after", "frequency", "expected"),
    [
        (0, Frequency.DAILY, []),
        (1, Frequency.DAILY, [1, 2, 3, 4]),
        (3, Frequency.DAILY, [3]),
        (7, Frequency.DAILY, []),
        (0, Frequency.WEEKLY, []),
        (3, Frequency.WEEKLY, [6]),
    ],
)
def test_reader_chooses_after_how_many_days_near_misses_are_sent(
    engine: Engine, after, frequency, expected
):
    weekday = (TODAY + 6 * DAY).weekday()
    add_follower(
        engine, TOPIC, near_misses_after=after,
        schedule=Schedule(frequency=frequency, weekday=weekday),
    )  # fmt: skip
    last = 6 if frequency is Frequency.WEEKLY else 4

    sent = []
    for n in range(1, last + 1):
        end(engine)
        ingest(
            engine,
            make_sighting(abstract=NEAR, title=f"Paper {n}", announced_on=TODAY + n * DAY),
            now=NOW + n * DAY,
        )
        sent += [n for outcome in publish(engine, n) if outcome.skipped is None]

    assert sent == expected


def test_days_without_a_paper_near_the_topic_stay_silent(engine: Engine):
    add_follower(engine, TOPIC)

    assert [day(engine, n, FAR) for n in range(1, 5)] == [NOTHING] * 4


def test_days_without_announcements_do_not_count(engine: Engine):
    add_follower(engine, TOPIC)

    found = [day(engine, n, *[NEAR] * (n in {1, 3, 6})) for n in range(1, 7)]

    nothing = [SkipReason.NOTHING_NEW.value]
    assert found == [NOTHING, nothing, NOTHING, nothing, nothing,
                     ["near: Paper 6.0"]]  # fmt: skip


def test_a_near_miss_is_not_sent_again_as_a_match(engine: Engine):
    """Another source adds keywords; the reader has had the paper."""
    add_follower(engine, TOPIC, near_misses_after=1)
    paper = make_sighting(abstract=NEAR, announced_on=TODAY + DAY)
    ingest(engine, paper, now=NOW + DAY)
    assert [one.papers for one in publish(engine, 1)] == [(paper.arxiv_id,)]
    end(engine)

    keywords = tuple(f"quantum {word}" for word in ("dots", "noise", "optics"))
    ingest(engine, replace(paper, source="huggingface", keywords=keywords), now=NOW + 2 * DAY)

    assert min(one.breadth for one in rows(engine, MatchRow)) == Breadth.FEWER
    (outcome,) = publish(engine, 2)
    assert outcome.skipped is SkipReason.ALL_SENT_BEFORE


def test_matches_of_a_broader_setting_come_before_near_misses(engine: Engine):
    add_follower(engine, TOPIC, near_misses_after=1)

    assert day(engine, 1, NEAR, PASSING, FAR) == ["near: Paper 1.1"]


def test_preview_shows_near_misses_when_they_are_due(engine: Engine):
    add_follower(engine, TOPIC)
    for n in (1, 2):
        day(engine, n, NEAR)
    sighting = make_sighting(abstract=NEAR, announced_on=TODAY + 3 * DAY)
    ingest(engine, sighting, now=NOW + 3 * DAY - 2 * HOUR)

    digest = editions.preview(engine, "ada@example.org", now=NOW + 3 * DAY - HOUR)
    outlook = editions.outlook(engine, "ada@example.org", now=NOW + 3 * DAY - HOUR)

    assert digest == outlook
    assert digest.near_misses
    assert [pick.paper.key for pick in digest.picks] == [sighting.arxiv_id]


def test_two_near_misses_at_most_are_stored_for_a_topic_without_a_match(engine: Engine):
    add_follower(engine, TOPIC, "tea leaves")

    publish(engine, 0)  # matches the new topics
    many = [make_sighting(title=f"Paper {n}", abstract=NEAR, announced_on=TODAY) for n in range(5)]
    ingest(engine, *many, make_sighting(title="Tea", abstract=FAR), now=NOW)

    stored = Counter(Breadth(one.breadth) for one in rows(engine, MatchRow) if one.batch == 2)
    assert stored == {Breadth.FEWER: 1, Breadth.NEAR_MISS: 2}


def test_near_misses_of_one_side_of_or_do_not_change_the_matches():
    papers = [make_paper(abstract=text) for text in (NEAR, PASSING, f"{FAR} {NEAR}", FAR)]
    index = PaperIndex(papers, statistics([*papers, *[make_paper(abstract=NEAR)] * 25]))

    for breadth in (Breadth.BALANCED, Breadth.MORE):
        alone = index.search(parse('"tea leaves"'), breadth=breadth)
        either = index.search(parse(f'"tea leaves" OR {TOPIC}'), breadth=breadth)
        found = {scored.paper: scored for scored in either}
        assert [found[scored.paper].phrases for scored in alone] == [("tea leaves",)] * 2


def test_filters_alone_have_no_near_misses():
    paper = make_paper(abstract=NEAR, categories=("cs.LG",))
    index = PaperIndex([paper], statistics([paper] * 25))

    assert index.matches(parse("cat:cs.IR")) == []
    assert index.matches(parse('"quantum gravity"')) == []
    assert index.matches(parse(f"{TOPIC} cat:cs.IR")) == []
    (near,) = index.matches(parse(TOPIC))
    assert near.breadth is Breadth.NEAR_MISS


def test_a_second_run_of_the_same_edition_sends_nothing(engine: Engine):
    add_follower(engine, TOPIC, near_misses_after=1)
    day(engine, 1, NEAR)

    again = publish(engine, 1)

    assert again == []
    assert len(rows(engine, PickRow)) == 1


def test_choice_of_near_misses_is_kept_with_the_preferences(engine: Engine):
    reader = add_follower(engine, TOPIC)
    choices = signup.Choices(signup.parse_queries((TOPIC,)), near_misses_after=7)

    changed = signup.change(engine, reader.id, choices, NOW + timedelta(minutes=1))

    assert reader.near_misses_after == 3
    assert changed.near_misses_after == 7


def test_near_misses_that_were_not_sent_are_no_contact(engine: Engine):
    """The digest of day 3 expires, so day 4 is the third day without a match."""
    add_follower(engine, TOPIC)
    found = [day(engine, n, NEAR) for n in (1, 2, 3)]
    with engine.begin() as conn:
        conn.execute(update(DeliveryRow).values(status=DeliveryStatus.EXPIRED, reason="test"))

    found.append(day(engine, 4, NEAR))

    assert found == [NOTHING, NOTHING, ["near: Paper 3.0"], ["near: Paper 4.0"]]


def test_other_preferences_do_not_restart_the_count_but_topics_do(engine: Engine):
    reader = add_follower(engine, TOPIC)
    queries = signup.parse_queries((TOPIC,))
    more = signup.parse_queries((TOPIC, "moss"))

    found = [day(engine, 1, NEAR), day(engine, 2, NEAR)]
    names = {TOPIC: "Quanta"}
    changed = signup.Choices(queries, max_papers=3, names=names)
    signup.change(engine, reader.id, changed, NOW + 2 * DAY + HOUR)
    found.append(day(engine, 3, NEAR))
    found += [day(engine, 4, NEAR), day(engine, 5, NEAR)]
    signup.change(engine, reader.id, signup.Choices(more), NOW + 5 * DAY + HOUR)
    found.append(day(engine, 6, NEAR))

    assert found == [NOTHING, NOTHING, ["near: Paper 3.0"], NOTHING, NOTHING, NOTHING]
