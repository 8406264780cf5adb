"""Strikes: which editions count against an address, and when they are enough."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain import DeliveryStatus, StrikeKind, SuppressionReason
from pipeline.storage import strikes
from pipeline.storage.schema import StrikeRow
from pipeline.storage.strikes import Past, enough
from tests import outbox
from tests.factories import NOW, TODAY
from tests.newsroom import rows
from tests.outbox import add_confirmation, add_delivery, add_subscriber

DAY = timedelta(days=1)
LETTERS = {"F": StrikeKind.FULL, "S": StrikeKind.SOFT, "D": StrikeKind.DISABLED, ".": None}


def editions(letters: str, every: int = 1) -> list[Past]:
    """One edition a letter: full, soft, disabled, or a dot for one that arrived."""
    first = date(2030, 1, 1)
    return [Past(first + n * every * DAY, LETTERS[letter]) for n, letter in enumerate(letters)]


# --- When it is enough --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("letters", "every", "reason"),
    [
        ("SS", 1, None),
        ("SSS", 1, SuppressionReason.SOFT),
        ("SSS", 7, SuppressionReason.SOFT),
        ("SS.SS", 1, None),
        ("SS.SSS", 1, SuppressionReason.SOFT),
        ("SSFS", 1, SuppressionReason.SOFT),
        ("D", 1, None),
        ("DD", 1, SuppressionReason.HARD),
        ("D.D", 1, None),
        ("DSS", 1, SuppressionReason.SOFT),
        ("FFFFFFFFFFFFFF", 1, None),  # two weeks of holiday, less a day
        ("FFFFFFFFFFFFFFF", 1, SuppressionReason.FULL),
        ("FFFF", 7, None),
        ("FFFFF", 7, SuppressionReason.FULL),
        ("FFF.F.F", 3, None),  # a score that an arrival lowers
        ("FFF.FF.F", 3, None),
        ("FFF.FF.FF", 3, SuppressionReason.FULL),
        ("F.FFFF", 4, None),  # the first one is paid off, so the weeks count from the second
        ("", 1, None),
    ],
)
def test_a_row_of_editions_is_enough_or_not(letters, every, reason):
    assert enough(editions(letters, every)) is reason


@given(st.text(alphabet="F.", max_size=40))
def test_who_takes_every_other_edition_is_never_given_up(letters):
    assert enough(editions(letters.replace("F", "F."))) is None


# --- Counting -----------------------------------------------------------------------------------


def count(engine, delivery_id, kind=StrikeKind.SOFT, now=NOW):
    with engine.begin() as conn:
        return strikes.count(conn, delivery_id, kind, now)


def send(engine, subscriber_id, days=0, status=DeliveryStatus.SENT, **changes):
    """A digest of a later day, accepted at eight."""
    sent_at = NOW + days * DAY if status is DeliveryStatus.SENT else None
    return add_delivery(
        engine, subscriber_id=subscriber_id, edition_on=TODAY + days * DAY, status=status,
        **{"sent_at": sent_at, **changes},
    )  # fmt: skip


def test_the_third_edition_in_a_row_is_one_too_many(engine):
    subscriber = add_subscriber(engine)
    sent = [send(engine, subscriber, days) for days in range(3)]

    assert [count(engine, id_) for id_ in sent] == [None, None, SuppressionReason.SOFT]


def test_an_edition_counts_once_however_often_it_is_told(engine):
    subscriber = add_subscriber(engine)
    sent = [send(engine, subscriber, days) for days in range(2)]

    found = {count(engine, id_) for _ in range(3) for id_ in sent}

    assert found == {None}
    assert len(rows(engine, StrikeRow)) == 2


def test_bounces_may_come_in_any_order(engine):
    """The second day's comes last, and makes one row of them."""
    subscriber = add_subscriber(engine)
    first, second, third = (send(engine, subscriber, days) for days in range(3))

    assert count(engine, third) is None
    assert count(engine, first) is None
    assert count(engine, second) is SuppressionReason.SOFT


def test_an_edition_that_arrived_breaks_the_row(engine):
    subscriber = add_subscriber(engine)
    sent = [send(engine, subscriber, days) for days in range(4)]

    assert {count(engine, sent[day]) for day in (0, 1, 3)} == {None}


@pytest.mark.parametrize("status", ["cancelled", "expired", "uncertain", "queued"])
def test_an_edition_that_nobody_knows_about_breaks_nothing(engine, status):
    subscriber = add_subscriber(engine)
    sent = [send(engine, subscriber, days) for days in range(3)]
    send(engine, subscriber, 3, status=DeliveryStatus(status))
    last = send(engine, subscriber, 4)

    assert [count(engine, id_) for id_ in (*sent[1:], last)][-1] is SuppressionReason.SOFT


def test_a_server_that_was_full_in_the_morning_and_took_it_at_noon_has_taken_it(engine):
    subscriber = add_subscriber(engine)
    for days in range(3):
        today = NOW + days * DAY
        id_ = send(engine, subscriber, days, status=DeliveryStatus.QUEUED)
        assert count(engine, id_, now=today) is None
        outbox.alter(engine, id_, status="sent", sent_at=today + timedelta(hours=4))

    assert count(engine, send(engine, subscriber, 3)) is None


def test_a_confirmation_that_is_refused_is_no_edition(engine):
    confirmation = add_confirmation(engine)

    assert count(engine, confirmation, StrikeKind.DISABLED) is None
    assert rows(engine, StrikeRow) == []


def test_strikes_at_one_moment_see_each_other(engine):
    """Whoever comes second waits for the first, and knows that it is one too many."""
    subscriber = add_subscriber(engine)
    first, second, third = (send(engine, subscriber, days) for days in range(3))
    count(engine, first)

    with ThreadPoolExecutor(1) as beside:
        with engine.begin() as conn:
            assert strikes.count(conn, second, StrikeKind.SOFT, NOW) is None
            waiting = beside.submit(count, engine, third)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.3)

        assert waiting.result() is SuppressionReason.SOFT


def test_other_readers_and_what_is_long_ago_do_not_count(engine):
    subscriber = add_subscriber(engine)
    long_ago = send(engine, subscriber, -200)
    sent = [long_ago, *(send(engine, add_subscriber(engine)) for _ in range(2))]
    mine = [send(engine, subscriber, days) for days in range(2)]

    assert {count(engine, id_) for id_ in (*sent, *mine)} == {None}


def test_strikes_are_dropped_when_they_are_old(engine):
    subscriber = add_subscriber(engine)
    for days in range(3):
        count(engine, send(engine, subscriber, days), now=NOW + days * DAY)

    with engine.begin() as conn:
        dropped = [strikes.drop_strikes(conn, before=NOW + 2 * DAY, limit=1) for _ in range(3)]

    assert dropped == [1, 1, 0]
    assert [row.edition_on for row in rows(engine, StrikeRow)] == [TODAY + 2 * DAY]
    assert outbox.statuses(engine) == ["sent"] * 3
