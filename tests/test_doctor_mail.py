"""`doctor` reports everything in a mail that mailbox providers would reject or penalise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest

from pipeline import settings
from pipeline.dkim import Algorithm, new_key
from pipeline.doctor import mail, provider_rules
from pipeline.doctor.finding import Finding, Installation
from pipeline.doctor.mail import Expected
from pipeline.domain import DeliveryKind

KEYS = f"a:{new_key(Algorithm.ED25519)}"


@pytest.fixture(scope="module")
def installation() -> Iterator[Installation]:
    loaded = settings.load(
        None,
        site_url="https://papers.example.org",
        mail_from="Papers <papers@example.org>",
        operator_address="1 Analytical Way, London",
        unsubscribe_mailbox="leave@example.org",
        max_papers=50,
        dkim_keys=KEYS,
    )
    installation = Installation(loaded, datetime.now(UTC))
    yield installation
    installation.services.engine.dispose()


@pytest.mark.parametrize("check", mail.CHECKS, ids=lambda check: check.__name__)
def test_sample_mail_passes_every_check(installation, check):
    """Samples of every kind pass each check, with as many papers as a digest can have."""
    findings = list(check(installation))

    assert findings
    assert [finding for finding in findings if finding.ok is not True] == []


def test_a_sample_of_every_kind_is_made(installation):
    checks = [finding.check for finding in mail.samples(installation)]

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
        (lambda raw: raw + b"x" * 76 * 900, "Gmail clips it"),
        (lambda raw: raw + b"x" * 999 + b"\r\n", "longer than 998"),
        (_swap(b"\r\nTo:", b"\nTo:"), "CRLF"),
        (_swap(b"Date:", b"X-Date:"), "no Date"),
        (_swap(b"To: ", b"From: eve@example.org\r\nTo: "), "2 From"),
        (_swap(b"Subject: ", b"Subject: " + b"long " * 30), "longer than 150"),
        (
            _swap(b"<https://papers.example.org/unsub", b"<https://papers.\r\n example.org/unsub"),
            "truncate",
        ),
        (_swap(b"List-Unsubscribe: <https", b"List-Unsubscribe: <http"), "no https URL"),
        (_swap(b"List-Unsubscribe: ", b"X-Leave: "), "no List-Unsubscribe"),
        (_swap(b"List-Unsubscribe-Post: ", b"X-Post: "), "no List-Unsubscribe-Post"),
        (_swap(b"Content-Type: text/plain", b"Content-Type: text/calendar"), "its parts are"),
        (_swap(b"Analytical", b"Practical"), "postal address"),
        (_swap(b"/unsubscribe/", b"/elsewhere/"), "no unsubscribe link"),
        (_swap(b"<html", b"<mj-text><html"), "contains <mj-"),
        (_swap(b"Dense Retrieval", b"{{ pick.title }}"), "contains {{"),
    ],
)
def test_lint_reports_each_problem(installation, change, problem):
    raw = mail.sample(installation, DeliveryKind.DIGEST)
    assert list(mail.problems(raw, EXPECTED)) == []

    assert problem in "; ".join(mail.problems(change(raw), EXPECTED))


def test_lint_links_returns_every_linked_domain(installation):
    raw = mail.sample(installation, DeliveryKind.DIGEST)

    assert mail.links(raw) == {"papers.example.org", "arxiv.org"}
    assert "tracker.example" in mail.links(
        raw.replace(b"https://arxiv.org/", b"https://tracker.example/")
    )


def test_one_click_header_is_not_required_without_https(installation):
    """RFC 8058 requires https; a local site without it is no error."""
    raw = mail.sample(installation, DeliveryKind.DIGEST).replace(
        b"List-Unsubscribe-Post", b"X-Post"
    )

    assert list(mail.problems(raw, Expected(is_list=True, is_https=False))) == []


# --- The rules of the large providers -----------------------------------------------------------

ALL_IN_ORDER = {
    f"{check} x" if check in {"dkim", "mx"} else check: True
    for rule in provider_rules.RULES
    for check in rule.checks
}


def judge(installation: Installation, **changes: bool | None) -> dict[str, bool | None]:
    outcome = {**ALL_IN_ORDER, **{name.replace("_", " "): ok for name, ok in changes.items()}}
    findings = [Finding(check, ok, "") for check, ok in outcome.items()]
    return {finding.check: finding.ok for finding in provider_rules.judge(installation, findings)}


def test_rules_pass_except_complaints_if_every_check_passes(installation):
    """The rule about complaints stays unknown: only the providers can count them."""
    judged = judge(installation)

    assert [check for check, ok in judged.items() if ok is not True] == ["gmail, yahoo: complaints"]
    assert {check.partition(":")[0] for check in judged} >= {"gmail", "yahoo", "outlook"}


@pytest.mark.parametrize(
    "check", ["spf", "dkim_x", "dmarc", "ptr", "smtp_tls", "sample_digest", "mx_x"]
)
def test_rule_fails_or_is_unknown_with_each_of_its_checks(installation, check):
    broken = [rule for rule, ok in judge(installation, **{check: False}).items() if ok is False]
    unseen = [rule for rule, ok in judge(installation, **{check: None}).items() if ok is None]

    assert broken
    assert set(unseen) == {*broken, "gmail, yahoo: complaints"}


def test_rules_ignore_checks_they_do_not_depend_on(installation):
    assert judge(installation, dkim_keys=None, sample_signatures=None) == judge(installation)
    assert (
        judge(installation, dmarc_alignment=False)["gmail: DMARC record, p=none or stricter"]
        is True
    )


def test_failed_rule_names_its_failed_check(installation):
    findings = list(
        provider_rules.judge(installation, [Finding("spf", False, ""), Finding("dkim a", True, "")])
    )

    assert findings[0].detail == "not met"
    assert findings[0].advice == "see spf"
