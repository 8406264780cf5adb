"""Throttling after a refusal: the arithmetic, without a database."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dispatch import throttle
from pipeline.storage.throttles import ThrottleState, domain_of
from tests.support.factories import NOW

MINUTE = timedelta(minutes=1)
SLOWED, BLOCKED = ThrottleState.SLOWED, ThrottleState.BLOCKED


def refuse(known=None, state=SLOWED, at=NOW, reply="450 slow down"):
    return throttle.refused(known, "gmail.com", state, reply, at)


def test_each_refusal_halves_the_allowance_and_lengthens_the_pause():
    known, at, seen = None, NOW, []
    for _ in range(8):
        known = refuse(known, at=at)
        seen.append((known.allowance, (known.not_before - at) / MINUTE))
        at = known.not_before

    assert seen == [
        (60, 1), (30, 2), (15, 4), (7.5, 8), (3.75, 16), (1.875, 30), (1, 30), (1, 30),
    ]  # fmt: skip


def test_each_consecutive_block_lengthens_the_pause():
    known, at, pauses = None, NOW, []
    for _ in range(5):
        known = refuse(known, BLOCKED, at)
        pauses.append((known.not_before - at) / MINUTE)
        at = known.not_before

    assert pauses == [30, 60, 120, 240, 240]
    assert (known.refusals, known.allowance, known.refused_at) == (5, 1, at - 240 * MINUTE)


def test_later_refusal_never_shortens_a_pause():
    known = throttle.replace(refuse(), not_before=NOW + 60 * MINUTE)

    assert refuse(known, at=NOW + MINUTE).not_before == NOW + 60 * MINUTE
    again = refuse(known, BLOCKED, NOW + timedelta(seconds=1), "550 blocked")
    assert (again.refusals, again.state) == (1, BLOCKED), "it counts anew, and at once"
    assert (again.reply, again.domain, again.since) == ("550 blocked", "gmail.com", NOW)
    assert again.refused_at == NOW + timedelta(seconds=1)


@pytest.mark.parametrize(
    ("allowance", "count", "grown"),
    [
        (1, 1, 2),
        (1, 10, 11),
        (60, 60, 70),
        (60, 30, 65),
        (20, 10, 25),
        (590, 589, 599.98),
        (590, 590, None),
    ],
)
def test_accepted_mails_increase_the_allowance(allowance, count, grown):
    known = throttle.replace(refuse(), allowance=allowance)

    found = throttle.accepted(known, count, NOW + timedelta(seconds=30))

    assert (found and round(found.allowance, 2)) == grown


def test_spent_turns_delay_the_next_from_now_or_from_saved_turns():
    known = throttle.replace(refuse(), not_before=NOW, allowance=60)

    assert throttle.after_claim(known, 3, NOW).not_before == NOW + timedelta(seconds=3)
    late = throttle.after_claim(known, 3, NOW + MINUTE)
    assert late.not_before == NOW + MINUTE - timedelta(seconds=2)


@pytest.mark.parametrize(("refused_at", "not_before"), [(0, -9), (-9, 0)])
def test_pace_expires_a_day_after_its_last_refusal_and_pause(refused_at, not_before):
    times = {"refused_at": NOW + refused_at * MINUTE, "not_before": NOW + not_before * MINUTE}
    known = throttle.replace(refuse(), **times)

    assert not throttle.is_outdated(known, NOW + timedelta(days=1, seconds=-1))
    assert throttle.is_outdated(known, NOW + timedelta(days=1))


def test_refusals_within_30_seconds_count_once():
    first = refuse()

    assert refuse(first, at=NOW + timedelta(seconds=29)) == first
    assert refuse(first, at=NOW + timedelta(seconds=30)) != first


def test_acceptances_within_30_seconds_of_a_refusal_are_ignored():
    blocked = refuse(state=BLOCKED)

    assert throttle.accepted(blocked, 5, NOW + timedelta(seconds=29)) == blocked
    assert throttle.accepted(blocked, 5, NOW + 31 * MINUTE).state is SLOWED


def test_block_overrides_a_slowed_state_immediately():
    blocked = refuse(refuse(), BLOCKED)

    assert (blocked.state, blocked.allowance) == (BLOCKED, throttle.LEAST)
    assert blocked.not_before == NOW + 30 * MINUTE
    assert refuse(blocked, SLOWED, NOW + MINUTE).state is BLOCKED


def test_accepted_mails_lift_the_throttle_in_50_to_60_steps():
    known = refuse()

    grown = throttle.accepted(known, 60, NOW + MINUTE)
    minutes = 0
    while known is not None:
        known = throttle.accepted(known, int(known.allowance), NOW + MINUTE)
        minutes += 1

    assert grown.allowance == 70, "a minute's worth adds ten"
    assert 50 <= minutes <= 60


def test_turns_accrue_evenly_and_saved_turns_are_limited():
    known = throttle.replace(refuse(), not_before=NOW)

    assert throttle.allowance(known, NOW - timedelta(seconds=1)) == 0
    assert throttle.allowance(known, NOW) == 1
    assert throttle.allowance(known, NOW + timedelta(seconds=3)) == 4
    assert throttle.allowance(known, NOW + timedelta(hours=3)) == 6


@pytest.mark.parametrize("allowance", [1, 7.5, 60, 599])
def test_turns_per_minute_are_limited_to_allowance_plus_burst(allowance):
    known = throttle.replace(refuse(), not_before=NOW, allowance=allowance)
    left = []
    for step in range(0, 3 * 600, 7):  # one step per 0.7 s, for three minutes
        now = NOW + step * timedelta(seconds=0.1)
        turns = throttle.allowance(known, now)
        known = throttle.after_claim(known, turns, now)
        left += [step] * turns

    most = max(sum(start <= step < start + 600 for step in left) for start in left)
    burst = allowance * throttle.BURST / MINUTE
    assert allowance * 0.95 - 1 <= most <= allowance + burst + 1


def test_concurrent_mails_decrease_after_each_refusal():
    known, at, seen = None, NOW, []
    for _ in range(4):
        known = refuse(known, at=at)
        seen.append(throttle.most_in_flight(known))
        at = known.not_before

    assert seen == [4, 2, 1, 1]


@given(st.lists(st.one_of(st.none(), st.integers(1, 2_000)), max_size=60))
def test_at_least_one_mail_is_allowed_and_the_throttle_always_ends(story):
    """After any history of refusals (None) and accepted mails."""
    known, at = refuse(), NOW
    for taken in story:
        at += MINUTE
        known = throttle.accepted(known, taken, at) if taken and known else refuse(known, at=at)
        assert known is None or throttle.most_in_flight(known) >= 1

    minutes = 0
    while known is not None:
        before = throttle.most_in_flight(known)
        at, minutes = at + MINUTE, minutes + 1
        known = throttle.accepted(known, max(1, int(known.allowance)), at)
        assert known is None or throttle.most_in_flight(known) >= before
    assert minutes <= 70


def test_refusal_expires_after_a_day():
    known = refuse()

    assert not throttle.is_outdated(known, NOW + timedelta(hours=24))
    assert throttle.is_outdated(known, NOW + timedelta(hours=24) + MINUTE)


def test_distrust_window_is_ten_minutes():
    assert throttle.DISTRUST_WINDOW == 10 * MINUTE


def test_breaker_opens_for_longer_each_time():
    assert [throttle.open_for(n) / MINUTE for n in range(1, 7)] == [1, 5, 15, 30, 60, 60]


@pytest.mark.parametrize(
    ("refusals", "recipients", "paused"),
    [(2, 2, False), (3, 1, False), (30, 1, False), (3, 2, True), (4, 3, True)],
)
def test_distrust_requires_three_refusals_of_two_recipients(refusals, recipients, paused):
    assert throttle.is_authentication_failing(refusals, recipients) is paused


@pytest.mark.parametrize(
    ("email", "domain"),
    [
        ("ada@GoogleMail.com", "gmail.com"),
        ("ada@gmail.com", "gmail.com"),
        ("ada@hotmail.fr", "outlook.com"),
        ("ada@msn.com", "outlook.com"),
        ("ada@yahoo.co.uk", "yahoo.com"),
        ("ada@yahoo.co.jp", "yahoo.co.jp"),
        ("ada@mac.com", "icloud.com"),
        ("ada@yahoo.example.org", "yahoo.example.org"),
        ("ada@bücher.example", "xn--bcher-kva.example"),
        ("", ""),
    ],
)
def test_domains_of_one_provider_have_one_name(email, domain):
    assert domain_of(email) == domain
