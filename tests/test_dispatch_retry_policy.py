"""The decision that each SMTP reply leads to, and its settlement, without a database."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from pipeline.dispatch import retry_policy
from pipeline.dispatch.retry_policy import GAPS, settlement_of
from pipeline.domain import DeliveryStatus, StrikeKind, Verdict
from pipeline.smtp import Phase, Reply, Scope, decide, decide_locally, strike_of
from pipeline.storage.deliveries import Settlement
from tests.support.factories import make_delivery

Status = DeliveryStatus
MINUTE = timedelta(minutes=1)


def settle(verdict, reply=None, spread=0.0, **delivery):
    decision = decide_locally(verdict, Phase.RCPT, reply)
    return settlement_of(make_delivery(**delivery), decision, spread=spread)


def test_retry_delay_grows_per_attempt_and_the_last_gap_repeats():
    delays = [settle(Verdict.DEFERRED, attempts=n).delay for n in range(6)]

    assert delays == [*GAPS, GAPS[-1], GAPS[-1]]


def test_spread_lengthens_a_retry_delay_and_never_shortens_it():
    assert settle(Verdict.GREYLISTED, spread=0.999).delay > timedelta(minutes=5)
    assert settle(Verdict.GREYLISTED, spread=0.0).delay == timedelta(minutes=5)


@pytest.mark.parametrize("verdict", [Verdict.CONNECTION, Verdict.CONFIGURATION])
def test_connection_and_configuration_errors_charge_no_attempt(verdict):
    settled = settle(verdict, Reply(550, None, "no"))

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
    settled = settle(verdict, Reply(550, None, "no"))

    assert (settled.status, settled.unread) == (Status.FAILED, unread)


@pytest.mark.parametrize(
    "verdict",
    [Verdict.DEFERRED, Verdict.FULL, Verdict.BLOCKED, Verdict.AUTHENTICATION, Verdict.THROTTLED],
)
def test_temporary_refusal_requeues_and_charges_an_attempt(verdict):
    settled = settle(verdict, Reply(450, None, "later"))

    assert (settled.status, settled.charged) == (Status.QUEUED, True)


def test_an_address_that_does_not_exist_is_suppressed():
    settled = settle(Verdict.HARD, Reply(550, "5.1.1", "no such user"))

    assert settled.status is Status.SUPPRESSED
    assert settled.strike is StrikeKind.HARD


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
    assert settle(verdict, reply).strike is strike


@pytest.mark.parametrize("verdict", [Verdict.DEFERRED, Verdict.GREYLISTED, Verdict.THROTTLED])
def test_transient_verdicts_are_retried_even_with_a_5xx_code(verdict):
    assert settle(verdict, Reply(550, "5.4.1", "timed out")).status is Status.QUEUED


@pytest.mark.parametrize("verdict", list(Verdict))
@pytest.mark.parametrize("reply", [None, Reply(450, "4.0.0", "x"), Reply(550, "5.0.0", "x")])
def test_settlement_has_every_field_for_each_verdict_and_reply(verdict, reply):
    delivery = make_delivery(attempts=1)
    decision = replace(decide_locally(verdict, Phase.DOT, reply), queue_id="Q1")
    settled = settlement_of(delivery, decision, spread=0.5)

    assert settled == Settlement(
        delivery.id,
        settled.status,
        f"{verdict} at dot",
        reply=str(reply) if reply else None,
        queue_id="Q1",
        charged=verdict not in {Verdict.CONNECTION, Verdict.CONFIGURATION},
        delay=settled.delay,
        strike=strike_of(verdict, None),
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


# --- Scope ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "reply", "scope"),
    [
        (Phase.MAIL, Reply(454, None, "Throttling failure: Maximum sending rate"), Scope.ACCOUNT),
        (Phase.DOT, Reply(454, None, "Throttling failure: Maximum sending rate"), Scope.ACCOUNT),
        (Phase.RCPT, Reply(421, "4.7.28", "unusual rate of mail"), Scope.DOMAIN),
        (Phase.DOT, Reply(451, "4.7.650", "temporarily rate limited"), Scope.DOMAIN),
        (Phase.DOT, Reply(554, "5.7.1", "blocked"), Scope.DOMAIN),
        (Phase.DOT, Reply(550, "5.7.26", "not authenticated"), Scope.EDITION),
        (Phase.MAIL, Reply(550, "5.7.1", "sender denied"), Scope.SERVER),
        (Phase.RCPT, Reply(550, "5.1.1", "no such user"), Scope.MESSAGE),
        (Phase.RCPT, Reply(450, "4.2.0", "greylisted"), Scope.MESSAGE),
        (Phase.DOT, Reply(550, "5.7.1", "You have exceeded your monthly quota"), Scope.ACCOUNT),
        (Phase.DOT, Reply(450, None, "Sending quota of the hour reached"), Scope.ACCOUNT),
        (Phase.RCPT, Reply(550, "5.2.1", "receiving mail at a rate"), Scope.DOMAIN),
        (Phase.DOT, Reply(554, None, "Transaction failed"), Scope.MESSAGE),
        (Phase.DOT, Reply(550, "5.6.0", "Malformed header"), Scope.MESSAGE),
        (Phase.RCPT, Reply(550, "5.1.1", "your IP is on a blocklist"), Scope.DOMAIN),
    ],
)
def test_refusal_scope_depends_on_phase_and_reply(phase, reply, scope):
    assert decide(phase, reply).scope is scope


def test_scope_without_a_reply_depends_on_verdict_and_phase():
    assert decide_locally(Verdict.BLOCKED, Phase.DOT).scope is Scope.MESSAGE
    assert decide_locally(Verdict.THROTTLED, Phase.DOT).scope is Scope.DOMAIN
    assert decide_locally(Verdict.THROTTLED, Phase.MAIL).scope is Scope.ACCOUNT


@pytest.mark.parametrize("verdict", [Verdict.SOFT, Verdict.HARD, Verdict.DISABLED])
def test_a_mailbox_with_5_2_1_is_disabled_whatever_the_text_says(verdict):
    """RFC 3463: the mailbox exists and is disabled, so one refusal must not suppress it."""
    settled = settle(verdict, Reply(550, "5.2.1", "no such user"))

    assert (settled.status, settled.strike) == (Status.FAILED, StrikeKind.DISABLED)


def test_decision_of_an_accepted_message_has_its_queue_id():
    accepted = decide(Phase.DOT, Reply(250, "2.0.0", "Ok: queued as 4Wxyz"))

    assert (accepted.status, accepted.queue_id) == (Status.SENT, "4Wxyz")
    assert decide(Phase.DOT, Reply(550, None, "not queued as 4Wxyz")).queue_id is None
