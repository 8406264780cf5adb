"""The settlement that each SMTP verdict leads to: the decision alone, without a database."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pipeline.dispatch import retry_policy
from pipeline.dispatch.retry_policy import GAPS, settlement
from pipeline.domain import STRIKES, DeliveryStatus, StrikeKind, SuppressionReason, Verdict
from pipeline.smtp import Outcome, Phase, Reply
from pipeline.storage.deliveries import Settlement
from tests.support.factories import make_delivery

Status = DeliveryStatus
MINUTE = timedelta(minutes=1)


def decide(verdict, reply=None, spread=0.0, **delivery):
    outcome = Outcome(verdict, Phase.RCPT, reply)
    return settlement(make_delivery(**delivery), outcome, spread=spread)


def test_retry_delay_grows_per_attempt_and_the_last_gap_repeats():
    delays = [decide(Verdict.DEFERRED, attempts=n).delay for n in range(6)]

    assert delays == [*GAPS, GAPS[-1], GAPS[-1]]


def test_spread_lengthens_a_retry_delay_and_never_shortens_it():
    assert decide(Verdict.GREYLISTED, spread=0.999).delay > timedelta(minutes=5)
    assert decide(Verdict.GREYLISTED, spread=0.0).delay == timedelta(minutes=5)


@pytest.mark.parametrize("verdict", [Verdict.CONNECTION, Verdict.CONFIGURATION])
def test_connection_and_configuration_errors_charge_no_attempt(verdict):
    settled = decide(verdict, Reply(550, None, "no"))

    assert (settled.status, settled.charged) == (Status.QUEUED, False)


@pytest.mark.parametrize(
    ("verdict", "unread"),
    [
        (Verdict.TOO_LARGE, True),
        (Verdict.BLOCKED, True),
        (Verdict.AUTHENTICATION, True),
        (Verdict.SOFT, False),
        (Verdict.FULL, False),
    ],
)
def test_permanent_refusal_leaves_papers_unread_only_for_sender_faults(verdict, unread):
    settled = decide(verdict, Reply(550, None, "no"))

    assert (settled.status, settled.unread) == (Status.FAILED, unread)
    assert settled.suppression is None


@pytest.mark.parametrize(
    "verdict",
    [Verdict.DEFERRED, Verdict.FULL, Verdict.BLOCKED, Verdict.AUTHENTICATION, Verdict.THROTTLED],
)
def test_temporary_refusal_requeues_and_charges_an_attempt(verdict):
    settled = decide(verdict, Reply(450, None, "later"))

    assert (settled.status, settled.charged) == (Status.QUEUED, True)


def test_an_address_that_does_not_exist_is_suppressed():
    settled = decide(Verdict.HARD, Reply(550, "5.1.1", "no such user"))

    assert settled.status is Status.SUPPRESSED
    assert settled.suppression is SuppressionReason.HARD


@pytest.mark.parametrize(
    ("verdict", "reply", "strike"),
    [
        (Verdict.SOFT, Reply(550, "5.0.0", "no"), StrikeKind.SOFT),
        (Verdict.DISABLED, Reply(550, "5.2.1", "disabled"), StrikeKind.DISABLED),
        (Verdict.NO_DOMAIN, Reply(550, "5.1.2", "no such domain"), StrikeKind.DISABLED),
        (Verdict.DEFERRED, Reply(550, "5.1.1", "timed out"), None),
        (Verdict.GREYLISTED, Reply(550, None, "greylisted"), None),
        (Verdict.FULL, Reply(552, "5.2.2", "full"), StrikeKind.FULL),
        (Verdict.FULL, Reply(452, "4.2.2", "full"), StrikeKind.FULL),
        (Verdict.DEFERRED, Reply(451, "4.3.0", "later"), None),
        (Verdict.BLOCKED, Reply(550, "5.7.1", "spam"), None),
        (Verdict.AUTHENTICATION, Reply(550, "5.7.26", "no SPF"), None),
        (Verdict.TOO_LARGE, Reply(552, "5.3.4", "too large"), None),
        (Verdict.CONFIGURATION, Reply(535, "5.7.8", "no"), None),
        (Verdict.THROTTLED, Reply(421, "4.7.28", "slow down"), None),
    ],
)
def test_only_address_problems_count_as_strikes(verdict, reply, strike):
    assert decide(verdict, reply).strike is strike


@pytest.mark.parametrize("verdict", [Verdict.DEFERRED, Verdict.GREYLISTED, Verdict.THROTTLED])
def test_transient_verdicts_are_retried_even_with_a_5xx_code(verdict):
    assert decide(verdict, Reply(550, "5.4.1", "timed out")).status is Status.QUEUED


@pytest.mark.parametrize("verdict", list(Verdict))
@pytest.mark.parametrize("reply", [None, Reply(450, "4.0.0", "x"), Reply(550, "5.0.0", "x")])
def test_settlement_has_every_field_for_each_verdict_and_reply(verdict, reply):
    delivery = make_delivery(attempts=1)
    settled = settlement(delivery, Outcome(verdict, Phase.DOT, reply, "Q1"), spread=0.5)

    is_hard = settled.status is Status.SUPPRESSED
    assert settled == Settlement(
        delivery.id,
        settled.status,
        f"{verdict} at dot",
        reply=str(reply) if reply else None,
        queue_id="Q1",
        charged=verdict not in {Verdict.CONNECTION, Verdict.CONFIGURATION},
        delay=settled.delay,
        suppression=SuppressionReason.HARD if is_hard else None,
        strike=STRIKES.get(verdict),
        unread=settled.unread,
    )
    ends = {Verdict.ACCEPTED: Status.SENT, Verdict.UNKNOWN: Status.UNCERTAIN}
    passes = {"throttled", "greylisted", "deferred", "connection", "configuration"}
    if verdict in ends:
        expected = ends[verdict]
    elif verdict in passes or reply is None or reply.code < 500:
        expected = Status.QUEUED
    else:
        expected = Status.SUPPRESSED if verdict is Verdict.HARD else Status.FAILED
    assert settled.status is expected
    own = {Verdict.CONNECTION: 1.5 * MINUTE, Verdict.CONFIGURATION: 0 * MINUTE}
    waits = own.get(verdict, 15 * MINUTE * 1.125) if expected is Status.QUEUED else 0 * MINUTE
    assert settled.delay == waits
    is_ours = verdict in {Verdict.TOO_LARGE, Verdict.AUTHENTICATION, Verdict.BLOCKED}
    assert settled.unread is (expected is Status.FAILED and is_ours)


def test_the_gaps_are_five_minutes_to_two_hours():
    assert [gap / MINUTE for gap in GAPS] == [5, 15, 45, 120]


def test_compose_error_fails_with_unread_papers_or_is_retried():
    delivery = make_delivery(attempts=2)

    never = retry_policy.not_composed(delivery, "no template")
    later = retry_policy.not_composed_yet(delivery, "no template", spread=0.4)

    said = "not composed: no template"
    assert never == Settlement(delivery.id, Status.FAILED, said, unread=True)
    assert later == Settlement(
        delivery.id, Status.QUEUED, said, charged=True, delay=45 * MINUTE * 1.1
    )
