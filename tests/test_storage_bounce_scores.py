"""Strikes: which editions count against an address, and when the address is suppressed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain import DeliveryStatus, StrikeKind, SuppressionReason
from pipeline.storage import bounce_scores
from pipeline.storage.bounce_scores import EditionOutcome, reason_to_suppress
from pipeline.storage.schema import StrikeRow
from tests.support import outbox
from tests.support.factories import NOW, TODAY
from tests.support.newsroom import rows
from tests.support.outbox import add_confirmation, add_delivery, add_subscriber

DAY = timedelta(days=1)
LETTERS = {"F": StrikeKind.FULL, "S": StrikeKind.SOFT, "D": StrikeKind.DISABLED, ".": None}


def editions(letters: str, every: int = 1) -> list[EditionOutcome]:
    """Return one edition per letter: full, soft, disabled, or a dot if the edition arrived."""
    first = date(2030, 1, 1)
    return [
        EditionOutcome(first + n * every * DAY, LETTERS[letter]) for n, letter in enumerate(letters)
    ]


# --- When an address is suppressed --------------------------------------------------------------


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
        ("F.FFFF", 4, None),  # an arrival cancels the first strike: weeks count from the second
        ("", 1, None),
        (".FFFF", 7, None),
        ("..FFFFF", 7, SuppressionReason.FULL),
        ("FFFF.FF", 3, SuppressionReason.FULL),
        ("FFFF.F", 4, None),
        ("SFSFS", 1, SuppressionReason.SOFT),
        ("D.SD", 1, None),
        ("DFFD", 1, SuppressionReason.HARD),
    ],
)
def test_enough_returns_the_reason_for_a_sequence_of_editions(letters, every, reason):
    assert reason_to_suppress(editions(letters, every)) is reason


@given(st.text(alphabet="F.", max_size=40))
def test_every_second_accepted_edition_prevents_suppression(letters):
    assert reason_to_suppress(editions(letters.replace("F", "F."))) is None


# --- Counting -----------------------------------------------------------------------------------


def count(engine, delivery_id, kind=StrikeKind.SOFT, now=NOW):
    with engine.begin() as conn:
        return bounce_scores.record_strike(conn, delivery_id, kind, now)


def send(engine, subscriber_id, days=0, status=DeliveryStatus.SENT, **changes):
    """Add a digest `days` later; if its status is SENT, it was accepted at eight o'clock."""
    sent_at = NOW + days * DAY if status is DeliveryStatus.SENT else None
    return add_delivery(
        engine, subscriber_id=subscriber_id, edition_on=TODAY + days * DAY, status=status,
        **{"sent_at": sent_at, **changes},
    )  # fmt: skip


def test_third_consecutive_bounce_suppresses(engine):
    subscriber = add_subscriber(engine)
    sent = [send(engine, subscriber, days) for days in range(3)]

    assert [count(engine, id_) for id_ in sent] == [None, None, SuppressionReason.SOFT]


def test_repeated_bounces_of_an_edition_count_once(engine):
    subscriber = add_subscriber(engine)
    sent = [send(engine, subscriber, days) for days in range(2)]

    found = {count(engine, id_) for _ in range(3) for id_ in sent}

    assert found == {None}
    assert len(rows(engine, StrikeRow)) == 2


def test_bounces_may_come_in_any_order(engine):
    """The bounce of the second day comes last and completes the run of three."""
    subscriber = add_subscriber(engine)
    first, second, third = (send(engine, subscriber, days) for days in range(3))

    assert count(engine, third) is None
    assert count(engine, first) is None
    assert count(engine, second) is SuppressionReason.SOFT


def test_accepted_edition_resets_the_sequence(engine):
    subscriber = add_subscriber(engine)
    sent = [send(engine, subscriber, days) for days in range(4)]

    assert {count(engine, sent[day]) for day in (0, 1, 3)} == {None}


@pytest.mark.parametrize("status", ["cancelled", "expired", "uncertain", "queued"])
def test_edition_with_unknown_outcome_does_not_reset_the_sequence(engine, status):
    subscriber = add_subscriber(engine)
    sent = [send(engine, subscriber, days) for days in range(3)]
    send(engine, subscriber, 3, status=DeliveryStatus(status))
    last = send(engine, subscriber, 4)

    assert [count(engine, id_) for id_ in (*sent[1:], last)][-1] is SuppressionReason.SOFT


def test_edition_accepted_after_a_refusal_counts_as_accepted(engine):
    subscriber = add_subscriber(engine)
    for days in range(3):
        today = NOW + days * DAY
        id_ = send(engine, subscriber, days, status=DeliveryStatus.QUEUED)
        assert count(engine, id_, now=today) is None
        outbox.alter(engine, id_, status="sent", sent_at=today + timedelta(hours=4))

    assert count(engine, send(engine, subscriber, 3)) is None


def test_refused_confirmation_is_not_counted(engine):
    confirmation = add_confirmation(engine)

    assert count(engine, confirmation, StrikeKind.DISABLED) is None
    assert rows(engine, StrikeRow) == []


def test_concurrent_strikes_are_counted_together(engine):
    """A concurrent strike waits for the first one's lock, counts it, and returns the reason."""
    subscriber = add_subscriber(engine)
    first, second, third = (send(engine, subscriber, days) for days in range(3))
    count(engine, first)

    with ThreadPoolExecutor(1) as beside:
        with engine.begin() as conn:
            assert bounce_scores.record_strike(conn, second, StrikeKind.SOFT, NOW) is None
            waiting = beside.submit(count, engine, third)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.3)

        assert waiting.result() is SuppressionReason.SOFT


def test_strikes_of_other_readers_and_old_strikes_do_not_count(engine):
    subscriber = add_subscriber(engine)
    long_ago = send(engine, subscriber, -200)
    sent = [long_ago, *(send(engine, add_subscriber(engine)) for _ in range(2))]
    mine = [send(engine, subscriber, days) for days in range(2)]

    assert {count(engine, id_) for id_ in (*sent, *mine)} == {None}


def test_old_strikes_are_deleted_up_to_the_limit(engine):
    subscriber = add_subscriber(engine)
    for days in range(3):
        count(engine, send(engine, subscriber, days), now=NOW + days * DAY)

    with engine.begin() as conn:
        dropped = [bounce_scores.delete_old(conn, before=NOW + 2 * DAY, limit=1) for _ in range(3)]

    assert dropped == [1, 1, 0]
    assert [row.edition_on for row in rows(engine, StrikeRow)] == [TODAY + 2 * DAY]
    assert outbox.statuses(engine) == ["sent"] * 3


@pytest.mark.parametrize(("days", "reason"), [(120, SuppressionReason.SOFT), (121, None)])
def test_sequence_may_begin_up_to_120_days_ago(engine, days, reason):
    subscriber = add_subscriber(engine)
    sent = [send(engine, subscriber, day) for day in (-days, -1, 0)]

    assert [count(engine, id_) for id_ in sent][-1] is reason


def test_mail_to_another_address_is_not_counted(engine):
    subscriber = add_subscriber(engine)

    assert count(engine, send(engine, subscriber, address="new@example.org")) is None
    assert rows(engine, StrikeRow) == []


def test_latest_event_of_an_edition_sets_the_strike_kind(engine):
    id_ = send(engine, add_subscriber(engine))
    kinds = []
    for kind, hours in (("soft", 2), ("full", 1), ("disabled", 2), ("soft", 3)):
        count(engine, id_, StrikeKind(kind), NOW + hours * DAY / 24)
        kinds += [row.kind for row in rows(engine, StrikeRow)]

    assert kinds == ["soft", "soft", "disabled", "soft"]


def test_strike_time_is_never_before_the_acceptance(engine):
    """A bounce with a time before the 250 by our clock still counts for that mail."""
    subscriber = add_subscriber(engine)
    for days in range(3):
        id_ = send(engine, subscriber, days)
        found = count(engine, id_, now=NOW - DAY)
        noted = max(row.noted_at for row in rows(engine, StrikeRow))
        assert noted == NOW + days * DAY

    assert found is SuppressionReason.SOFT


@pytest.mark.parametrize(
    ("changes", "is_taken"),
    [
        ({"sent_at": None, "marked_at": NOW + DAY}, True),
        ({"sent_at": None, "marked_at": None, "created_at": NOW + DAY}, True),
        ({"sent_at": NOW, "marked_at": NOW + DAY}, False),
        ({"sent_at": None, "marked_at": NOW, "created_at": NOW + DAY}, False),
    ],
)
def test_edition_counts_as_accepted_by_its_delivery_row(engine, changes, is_taken):
    subscriber = add_subscriber(engine)
    queued = {"status": DeliveryStatus.QUEUED}
    ids = [send(engine, subscriber, days, **queued) for days in range(3)]
    count(engine, ids[0], now=NOW)
    outbox.alter(engine, ids[0], status="sent", **changes)

    found = [count(engine, id_, now=NOW) for id_ in ids[1:]]

    assert found[-1] is (None if is_taken else SuppressionReason.SOFT)


def test_strikes_are_listed_and_cleared_per_address(engine):
    ada, bob = add_subscriber(engine, "ada@example.org"), add_subscriber(engine, "bob@example.org")
    for subscriber, days in ((ada, 1), (bob, 0), (ada, 0)):
        count(engine, send(engine, subscriber, days), now=NOW + DAY)

    with engine.begin() as conn:
        found = bounce_scores.records_of(conn, "hash of ada@example.org")
        assert [strike["edition_on"] for strike in found] == [TODAY, TODAY + DAY]
        assert found[0] == {"edition_on": TODAY, "kind": "soft", "noted_at": NOW + DAY}
        bounce_scores.clear_strikes(conn, "hash of ada@example.org")

    assert [row.address_hash for row in rows(engine, StrikeRow)] == ["hash of bob@example.org"]


def test_deleting_old_strikes_keeps_newer_ones_of_address_and_edition(engine):
    """The key of a strike is address and edition; strikes that share only one of them stay."""
    ada, bob = add_subscriber(engine, "ada@example.org"), add_subscriber(engine, "bob@example.org")
    for subscriber, days, noted in ((ada, 0, -9), (ada, 1, 2), (bob, 0, 2)):
        id_ = send(engine, subscriber, days, sent_at=NOW - 9 * DAY)
        count(engine, id_, now=NOW + noted * DAY)

    with engine.begin() as conn:
        assert bounce_scores.delete_old(conn, before=NOW, limit=9) == 1

    kept = {(row.address_hash, row.edition_on) for row in rows(engine, StrikeRow)}
    assert kept == {
        ("hash of ada@example.org", TODAY + DAY),
        ("hash of bob@example.org", TODAY),
    }
