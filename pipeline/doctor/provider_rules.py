"""Rules of the large mailbox providers for bulk senders, judged by the other findings.

Sources: Google's "Email sender guidelines", Yahoo's "Sender requirements and recommendations",
Microsoft's requirements for high-volume senders to Outlook.com.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.doctor.finding import Finding, Installation, unknown
from pipeline.domain import DeliveryKind


@dataclass(frozen=True, slots=True)
class ProviderRule:
    """One requirement of one provider; it is met if all of its checks are good."""

    provider: str
    demand: str
    checks: tuple[str, ...]


AUTHENTICATED: Final = ("spf", "dkim")
SAMPLES: Final = tuple(f"sample {kind}" for kind in DeliveryKind)
WAY_OUT: Final = ("sample digest", "sample welcome", "site tls", "one-click")
SEVERAL: Final = ("dkim ", "mx ")  # checks with a finding for each selector or domain

RULES: Final = (
    ProviderRule("gmail", "SPF and DKIM for the sending domain", AUTHENTICATED),
    ProviderRule("gmail", "DMARC record, p=none or stricter", ("dmarc",)),
    ProviderRule("gmail", "From aligned with SPF or DKIM", ("dmarc alignment",)),
    ProviderRule("gmail", "forward and reverse DNS of the sending address", ("ptr",)),
    ProviderRule("gmail", "TLS on the way", ("smtp tls",)),
    ProviderRule("gmail", "one-click unsubscribe, and a link in the body", WAY_OUT),
    ProviderRule("gmail", "format of RFC 5322", SAMPLES),
    ProviderRule("yahoo", "SPF and DKIM for the sending domain", AUTHENTICATED),
    ProviderRule("yahoo", "DMARC record that passes, From aligned", ("dmarc", "dmarc alignment")),
    ProviderRule("yahoo", "one-click unsubscribe", WAY_OUT),
    ProviderRule("yahoo", "forward and reverse DNS of the sending address", ("ptr",)),
    ProviderRule("yahoo", "format of RFC 5321 and 5322", SAMPLES),
    ProviderRule("outlook", "SPF and DKIM pass", AUTHENTICATED),
    ProviderRule("outlook", "DMARC record, aligned with SPF or DKIM", ("dmarc", "dmarc alignment")),
    ProviderRule("outlook", "From and Reply-To that take answers", ("mx",)),
    ProviderRule("outlook", "a working, visible way to unsubscribe", WAY_OUT),
)
COMPLAINTS: Final = (
    "below 0.3 %, better 0.1 %, of mails are reported as spam",
    "register with Google Postmaster Tools and Yahoo's Sender Hub, which report it",
)


def judge(installation: Installation, findings: Sequence[Finding]) -> Iterator[Finding]:
    if not installation.is_public:
        yield unknown("sender rules", "not applicable: MAIL_FROM is on this machine")
        return
    for rule in RULES:
        yield _judged(rule, findings)
    yield unknown(
        "gmail, yahoo: complaints", f"{COMPLAINTS[0]}: cannot be checked here", COMPLAINTS[1]
    )


def _judged(rule: ProviderRule, findings: Sequence[Finding]) -> Finding:
    check = f"{rule.provider}: {rule.demand}"
    used = [finding for finding in findings if _serves(finding.check, rule.checks)]
    failed = [finding.check for finding in used if finding.ok is False]
    unseen = [finding.check for finding in used if finding.ok is None]
    if failed:
        return Finding(check, False, "not met", f"see {', '.join(failed)}")
    if unseen or not used:
        return Finding(check, None, f"could not be checked: {', '.join(unseen)}")
    return Finding(check, True, "met")


def _serves(check: str, names: Sequence[str]) -> bool:
    """Return whether a check is one of `names`.

    "dkim" stands for the finding of each selector, but not for "dkim keys".
    """
    if check.startswith(SEVERAL) and check != "dkim keys":
        check = check.partition(" ")[0]
    return check in names
