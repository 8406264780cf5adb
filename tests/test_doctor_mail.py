"""`doctor` reports everything in a mail that mailbox providers would reject or penalise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest

from pipeline import settings
from pipeline.dkim import Algorithm, new_key
from pipeline.doctor import lint, mail, rules
from pipeline.doctor.finding import Finding, Patient
from pipeline.doctor.lint import Expected
from pipeline.domain import DeliveryKind

KEYS = f"a:{new_key(Algorithm.ED25519)}"


@pytest.fixture(scope="module")
def patient() -> Iterator[Patient]:
    loaded = settings.load(
        None,
        site_url="https://papers.example.org",
        mail_from="Papers <papers@example.org>",
        operator_address="1 Analytical Way, London",
        unsubscribe_mailbox="leave@example.org",
        max_papers=50,
        dkim_keys=KEYS,
    )
    patient = Patient(loaded, datetime.now(UTC))
    yield patient
    patient.services.engine.dispose()


@pytest.mark.parametrize("check", mail.CHECKS, ids=lambda check: check.__name__)
def test_nothing_is_wrong_with_our_own_mail(patient, check):
    """Samples of every kind pass each check, with as many papers as a digest can have."""
    findings = list(check(patient))

    assert findings
    assert [finding for finding in findings if finding.ok is not True] == []


def test_a_sample_of_every_kind_is_made(patient):
    checks = [finding.check for finding in mail.samples(patient)]

    assert checks == [f"sample {kind}" for kind in DeliveryKind]


EXPECTED = Expected(is_list=True, is_https=True, operator_address="1 Analytical Way, London")


def _swap(before: bytes, after: bytes) -> Callable[[bytes], bytes]:
    def swap(raw: bytes) -> bytes:
        assert before in raw
        return raw.replace(before, after)

    return swap


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda raw: raw + b"x" * 76 * 900, "Gmail cuts it"),
        (lambda raw: raw + b"x" * 999 + b"\r\n", "longer than 998"),
        (_swap(b"\r\nTo:", b"\nTo:"), "CRLF"),
        (_swap(b"Date:", b"X-Date:"), "no Date"),
        (_swap(b"To: ", b"From: eve@example.org\r\nTo: "), "2 From"),
        (_swap(b"Subject: ", b"Subject: " + b"long " * 30), "longer than 150"),
        (
            _swap(b"<https://papers.example.org/unsub", b"<https://papers.\r\n example.org/unsub"),
            "cut",
        ),
        (_swap(b"List-Unsubscribe: <https", b"List-Unsubscribe: <http"), "no https address"),
        (_swap(b"List-Unsubscribe: ", b"X-Leave: "), "no List-Unsubscribe"),
        (_swap(b"List-Unsubscribe-Post: ", b"X-Post: "), "one click"),
        (_swap(b"Content-Type: text/plain", b"Content-Type: text/calendar"), "its parts are"),
        (_swap(b"Analytical", b"Practical"), "postal address"),
        (_swap(b"/unsubscribe/", b"/elsewhere/"), "no link to leave by"),
        (_swap(b"<html", b"<mj-text><html"), "<mj- is left"),
        (_swap(b"Dense Retrieval", b"{{ pick.title }}"), "{{ is left"),
    ],
)
def test_every_mistake_is_named(patient, change, problem):
    raw = mail.sample(patient, DeliveryKind.DIGEST)
    assert list(lint.problems(raw, EXPECTED)) == []

    assert problem in "; ".join(lint.problems(change(raw), EXPECTED))


def test_links_to_strangers_are_seen(patient):
    raw = mail.sample(patient, DeliveryKind.DIGEST)

    assert lint.links(raw) == {"papers.example.org", "arxiv.org"}
    assert "tracker.example" in lint.links(
        raw.replace(b"https://arxiv.org/", b"https://tracker.example/")
    )


def test_a_page_that_is_not_encrypted_has_no_one_click(patient):
    """RFC 8058 requires https; a local site without it is no error."""
    raw = mail.sample(patient, DeliveryKind.DIGEST).replace(b"List-Unsubscribe-Post", b"X-Post")

    assert list(lint.problems(raw, Expected(is_list=True, is_https=False))) == []


# --- The rules of the large providers -----------------------------------------------------------

ALL_IN_ORDER = {
    f"{check} x" if check in {"dkim", "mx"} else check: True
    for rule in rules.RULES
    for check in rule.checks
}


def judge(patient: Patient, **changes: bool | None) -> dict[str, bool | None]:
    outcome = {**ALL_IN_ORDER, **{name.replace("_", " "): ok for name, ok in changes.items()}}
    findings = [Finding(check, ok, "") for check, ok in outcome.items()]
    return {finding.check: finding.ok for finding in rules.judge(patient, findings)}


def test_rules_are_met_when_what_they_rest_on_is_in_order(patient):
    """The rule about complaints stays unknown: only the providers can count them."""
    judged = judge(patient)

    assert [check for check, ok in judged.items() if ok is not True] == ["gmail, yahoo: complaints"]
    assert {check.partition(":")[0] for check in judged} >= {"gmail", "yahoo", "outlook"}


@pytest.mark.parametrize(
    "check", ["spf", "dkim_x", "dmarc", "ptr", "smtp_tls", "sample_digest", "mx_x"]
)
def test_a_rule_breaks_with_any_check_that_it_rests_on(patient, check):
    broken = [rule for rule, ok in judge(patient, **{check: False}).items() if ok is False]
    unseen = [rule for rule, ok in judge(patient, **{check: None}).items() if ok is None]

    assert broken
    assert set(unseen) == {*broken, "gmail, yahoo: complaints"}


def test_the_keys_themselves_say_nothing_about_what_is_published(patient):
    assert judge(patient, dkim_keys=None, sample_signatures=None) == judge(patient)
    assert judge(patient, dmarc_alignment=False)["gmail: DMARC record, p=none or stricter"] is True


def test_a_broken_rule_names_what_to_look_at(patient):
    findings = list(rules.judge(patient, [Finding("spf", False, ""), Finding("dkim a", True, "")]))

    assert findings[0].detail == "not met"
    assert findings[0].advice == "see spf"
