"""Planning of an edition per reader (slot, batches, skips and papers) without a database."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from pipeline.domain import (
    Breadth,
    DeliveryKind,
    Digest,
    Frequency,
    SkipReason,
    Subscription,
    Topic,
    TopicKind,
)
from pipeline.editions import compiler
from pipeline.editions.candidates import Candidates, Draft, Edition
from pipeline.storage import ingest_state
from pipeline.storage.papers import Upvoted
from pipeline.storage.topics import PublishedMatch
from tests.support.factories import (
    NOW,
    TODAY,
    make_digest,
    make_paper,
    make_schedule,
    make_subscriber,
    make_topic,
)

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def make_edition(**changes: Any) -> Edition:
    defaults: dict[str, Any] = {
        "now": NOW,
        "through": 9,
        "pause_floor": {Frequency.DAILY: 5, Frequency.WEEKDAYS: 5, Frequency.WEEKLY: 2},
        "trending_floor": 3,
        "trending_oldest": 0,
        "expiry": 18 * HOUR,
        "template": "1",
    }
    return Edition(**{**defaults, **changes})


def make_draft(**changes: Any) -> Draft:
    return Draft(make_subscriber(**changes), NOW, TODAY, changes.get("cursor", 0))


def make_subscription(topic: Topic) -> Subscription:
    return Subscription(topic, f"My {topic.query}")


# --- Slots --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "reader", "slot"),
    [
        (NOW, {}, NOW),
        (NOW + 5 * HOUR, {}, NOW),
        (NOW + 2 * DAY + HOUR, {}, NOW + 2 * DAY),
        (NOW - HOUR, {}, NOW),  # by hand
        (NOW - HOUR, {"next_slot_at": None}, NOW),
        (NOW - HOUR, {"next_slot_at": NOW + DAY}, NOW),
        (NOW, {"last_edition_on": TODAY}, None),
        (NOW, {"last_edition_on": TODAY + DAY}, None),
        (NOW, {"last_edition_on": TODAY - DAY}, NOW),
        (NOW + HOUR, {"welcome_due": True, "next_slot_at": NOW - 9 * DAY}, NOW),
        (NOW + HOUR, {"welcome_due": True, "last_edition_on": TODAY}, None),
    ],
)
def test_draft_has_the_slot_to_serve(now, reader, slot):
    draft = compiler._draft(make_subscriber(**reader), make_edition(now=now))

    assert (draft.slot_at if draft else None) == slot
    assert draft is None or draft.edition_on == slot.date()


@pytest.mark.parametrize(
    ("due", "slot"),
    [(None, NOW), (NOW - DAY, NOW), (NOW, NOW), (NOW + HOUR, NOW + HOUR), (NOW + DAY, NOW + DAY)],
)
def test_slot_to_come_returns_the_next_slot(due, slot):
    reader = make_subscriber(next_slot_at=due)

    assert compiler._slot_to_come(reader, NOW) == slot


def test_reader_with_an_invalid_timezone_is_skipped_alone():
    good = make_subscriber()
    bad = make_subscriber(schedule=make_schedule(timezone="Mars/Olympus"))
    served = make_subscriber(last_edition_on=TODAY)

    planned = list(compiler._planned([bad, good, served], make_edition()))

    assert [(reader, draft is None) for reader, draft in planned] == [(good, False), (served, True)]


def test_unwelcome_returns_readers_with_a_welcome_but_no_draft():
    waits, served, other = (make_subscriber(welcome_due=due) for due in (True, True, False))
    draft = Draft(served, NOW, TODAY, 0)

    assert compiler._unwelcome([waits, served, other], [draft]) == [waits.id]


@pytest.mark.parametrize(
    ("due", "longest", "seconds"),
    [
        (999, 600, 0),
        (1_000, 600, 10),
        (5_999, 600, 59.99),
        (59_999, 600, 599.99),
        (60_001, 600, 600),
        (60_001, 0, 0),
    ],
)
def test_spread_grows_from_a_thousand_digests_up_to_the_maximum(due, longest, seconds):
    found = compiler.delivery_spread(due, timedelta(seconds=longest))

    assert found == timedelta(seconds=seconds)


def test_share_of_a_reader_is_stable():
    """A changed hash constant would move every reader to another minute."""
    assert compiler.spread_position(0) == 0
    assert [round(compiler.spread_position(id_), 9) for id_ in (1, 2, 1_000_000)] == [
        round(id_ * 2654435769 % 4294967296 / 4294967296, 9) for id_ in (1, 2, 1_000_000)
    ]
    assert 0.6180 < compiler.spread_position(1) < 0.6181


@pytest.mark.parametrize(
    ("slot_at", "expires_at"),
    [(NOW - HOUR, NOW + 18 * HOUR), (NOW, NOW + 18 * HOUR), (NOW + HOUR, NOW + 19 * HOUR)],
)
def test_digest_expiry_counts_from_the_later_of_slot_and_now(slot_at, expires_at):
    draft = replace(make_draft(), slot_at=slot_at)

    assert compiler._expires_at(draft, make_edition()) == expires_at


# --- Batches ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cursor", "paused_until", "frequency", "range_from"),
    [
        (1, None, Frequency.DAILY, 1),
        (1, TODAY - DAY, Frequency.DAILY, 5),
        (7, TODAY - DAY, Frequency.DAILY, 7),
        (1, TODAY - DAY, Frequency.WEEKLY, 2),
    ],
)
def test_range_after_a_pause_starts_no_earlier_than_the_floor(
    cursor, paused_until, frequency, range_from
):
    reader = make_subscriber(
        cursor=cursor, paused_until=paused_until, schedule=make_schedule(frequency=frequency)
    )

    assert compiler._range_from(reader, make_edition()) == range_from


def test_look_back_constants():
    assert ingest_state.GAP_DAYS == {
        Frequency.DAILY: 7,
        Frequency.WEEKDAYS: 7,
        Frequency.WEEKLY: 14,
    }
    assert compiler.TRENDING_DAYS == 7
    assert timedelta(days=90) == compiler.NEVER_TWICE
    assert (compiler.CHUNK, compiler.MOST_FRESH_STARTS) == (200, 20)


@pytest.mark.parametrize(
    ("barred", "paused_until", "reason"),
    [
        (False, None, None),
        (False, TODAY, None),
        (False, TODAY + DAY, SkipReason.PAUSED),
        (True, None, SkipReason.SUPPRESSED),
        (True, TODAY + DAY, SkipReason.SUPPRESSED),
    ],
)
def test_paused_and_suppressed_readers_get_no_mail(barred, paused_until, reason):
    draft = make_draft(paused_until=paused_until)

    assert compiler._skip_reason(draft, {draft.subscriber.id} if barred else set()) is reason


@pytest.mark.parametrize(
    ("skipped", "paused_until", "covered", "silent_until"),
    [
        (None, None, (4, 9), None),
        (None, TODAY, (4, 9), None),
        (SkipReason.NOTHING_NEW, None, (4, 9), None),
        (SkipReason.NOTHING_MATCHED, TODAY, (4, 9), None),
        (SkipReason.PAUSED, TODAY + DAY, (2, 2), TODAY + DAY),
        (SkipReason.SUPPRESSED, None, (2, 2), TODAY),
    ],
)
def test_skips_for_pause_or_suppression_cover_no_batch(
    skipped, paused_until, covered, silent_until
):
    reader = make_subscriber(cursor=2, paused_until=paused_until, welcome_due=True)
    draft = Draft(reader, NOW, TODAY, 4)

    served = compiler._served(draft, skipped, make_edition())

    assert compiler._range(draft, skipped, make_edition()) == covered
    assert (served.old_cursor, served.cursor) == (2, covered[1])
    assert served.paused_until == silent_until
    assert (served.slot_at, served.edition_on, served.welcome) == (NOW, TODAY, True)
    assert served.next_slot_at == NOW + DAY


def test_spread_delays_digests_but_not_welcomes():
    edition = make_edition(spread=timedelta(seconds=100))
    for welcome_due, kind in ((True, DeliveryKind.WELCOME), (False, DeliveryKind.DIGEST)):
        draft = Draft(make_subscriber(id=1, welcome_due=welcome_due), NOW, TODAY, 4)

        new = compiler._new_digest(draft, make_digest(), edition)

        assert new.kind is kind
        assert (new.range_from, new.range_to, new.template) == (4, 9, "1")
        turn = timedelta(0) if welcome_due else timedelta(seconds=100) * compiler.spread_position(1)
        assert new.delay == turn


# --- Papers -------------------------------------------------------------------------------------


def make_candidates(*papers: Any, edition: Edition | None = None, **state: Any) -> Candidates:
    candidates = Candidates(edition or make_edition())
    candidates._papers = {paper.id: paper for paper in papers}
    candidates._matches = state.get("matches", {})
    candidates._trending = state.get("trending", [])
    return candidates


def match(paper: Any, **changes: Any) -> PublishedMatch:
    defaults = {"batch": 9, "score": 1.0, "phrases": (), "breadth": Breadth.BALANCED}
    return PublishedMatch(paper.id, **{**defaults, **changes})


def picked(digest: Digest) -> list[int]:
    return [pick.paper.id for pick in digest.picks]


@pytest.mark.parametrize(
    ("reader", "paper", "matched", "is_picked"),
    [
        ({}, {}, {}, True),
        ({"cursor": 8}, {}, {}, True),
        ({"cursor": 9}, {}, {}, False),
        ({}, {}, {"breadth": Breadth.MORE}, False),
        ({"breadth": Breadth.MORE}, {}, {"breadth": Breadth.MORE}, True),
        ({"breadth": Breadth.FEWER}, {}, {}, False),
        ({}, {"withdrawn": True}, {}, False),
        ({"papers_from": TODAY}, {}, {}, True),
        ({"papers_from": TODAY + DAY}, {}, {}, False),
        ({"papers_from": TODAY}, {"announced_on": TODAY + DAY}, {}, True),
    ],
)
def test_match_is_picked_by_batch_breadth_date_and_withdrawal(reader, paper, matched, is_picked):
    one, followed = make_paper(**paper), make_subscription(make_topic(id=1))
    candidates = make_candidates(one, matches={1: [match(one, **matched)]})

    digest, reason = candidates.digest(make_draft(**reader), [followed], set())

    assert picked(digest) == ([one.id] if is_picked else [])
    assert (reason is None) is is_picked


def test_merged_paper_is_not_picked():
    followed = make_subscription(make_topic(id=1))
    candidates = make_candidates(matches={1: [match(make_paper())]})

    assert picked(candidates.digest(make_draft(), [followed], set())[0]) == []


@pytest.mark.parametrize(
    ("cursor", "seen", "reason"),
    [
        (8, True, SkipReason.ALL_SENT_BEFORE),
        (9, False, SkipReason.NOTHING_NEW),
        (10, False, SkipReason.NOTHING_NEW),
        (0, None, SkipReason.NOTHING_MATCHED),
    ],
)
def test_empty_digest_has_a_skip_reason(cursor, seen, reason):
    one, followed = make_paper(), make_subscription(make_topic(id=1))
    matches = [] if seen is None else [match(one)]
    candidates = make_candidates(one, matches={1: matches})

    digest, why = candidates.digest(
        make_draft(cursor=cursor), [followed], {one.id} if seen else set()
    )

    assert digest.picks == ()
    assert digest.edition_on == TODAY
    assert why is reason


@pytest.mark.parametrize(
    ("touched", "cursor", "count"),
    [([9, 1], 8, 2), ([9, 1], 9, 0), ([8, 1], 8, 0), ([10, 1], 8, 0), ([9, 10], 0, 2)],
)
def test_trending_is_picked_only_with_papers_of_a_new_batch(touched, cursor, count):
    papers = [make_paper(upvotes=50 - n) for n in range(len(touched))]
    trending = [
        Upvoted(paper.id, paper.upvotes, batch)
        for paper, batch in zip(papers, touched, strict=True)
    ]
    topic = make_topic("trending", id=1, kind=TopicKind.TRENDING)
    candidates = make_candidates(*papers, trending=trending)

    digest, _ = candidates.digest(make_draft(cursor=cursor), [make_subscription(topic)], set())

    assert picked(digest) == [paper.id for paper in papers[:count]]


def test_trending_picks_the_top_papers_and_counts_no_further_ones():
    papers = [make_paper(upvotes=50 - n) for n in range(4)]
    trending = [Upvoted(paper.id, paper.upvotes, 9) for paper in papers]
    followed = make_subscription(make_topic("trending", id=1, kind=TopicKind.TRENDING))
    other = make_subscription(make_topic(id=2))
    state: dict[str, Any] = {"trending": trending, "matches": {2: [match(one) for one in papers]}}
    candidates = make_candidates(*papers, **state)
    draft = make_draft(max_papers=2)

    top, _ = candidates.digest(draft, [followed], {papers[0].id})
    most, _ = candidates.digest(draft, [other], set())

    assert (picked(top), top.more) == ([papers[1].id, papers[2].id], 0)
    assert (len(picked(most)), most.more) == (2, 2)
    assert top.topics == (followed.label,)
