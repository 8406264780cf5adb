"""`doctor` reads the DNS as mailbox providers do, and returns the records to publish."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache

import pytest

from pipeline import settings
from pipeline.dkim import Algorithm, Record, new_key, read_keys
from pipeline.doctor import dns, spf
from pipeline.doctor.finding import Check, Finding, Installation
from pipeline.doctor.resolver import Resolver
from pipeline.errors import UnansweredError
from tests.support.dns_server import SERVFAIL, NameServer, open_name_server, txt


@cache
def key(number: int = 1) -> str:
    return new_key(Algorithm.ED25519)


@cache
def rsa() -> str:
    return new_key(Algorithm.RSA)


KEYS = f"news1:{rsa()} news2:{key()}"


@cache
def record(number: int = 0) -> Record:
    return read_keys(KEYS)[number].record("example.org")


@pytest.fixture
def name_server() -> Iterator[NameServer]:
    """Run a name server with a correct zone of a newsletter that sends its own mail."""
    with open_name_server() as server:
        server.zone |= {
            ("example.org", "TXT"): [
                *txt("some-verification=1"),
                *txt("v=spf1 ip4:192.0.2.25 include:_spf.example.net -all"),
            ],
            ("_spf.example.net", "TXT"): txt("v=spf1 ip4:198.51.100.0/24 a mx ~all"),
            ("_spf.example.net", "A"): ["198.51.100.7"],
            ("example.org", "MX"): ["20 backup.example.org.", "10 mail.example.org."],
            ("mail.example.org", "A"): ["192.0.2.25"],
            ("25.2.0.192.in-addr.arpa", "PTR"): ["mail.example.org."],
            ("_dmarc.example.org", "TXT"): txt(
                "v=DMARC1; p=reject; rua=mailto:reports@example.org"
            ),
            (record(0).name, "TXT"): txt(record(0).value),
            (record(1).name, "TXT"): txt(record(1).value),
        }
        yield server


Examine = Callable[..., list[Finding]]


@pytest.fixture
def examine(name_server: NameServer) -> Examine:
    """Return a function that runs one check on the current zone; it returns the findings."""

    def examine(check: Check, **changes: str) -> list[Finding]:
        given = {
            "smtp_url": "smtp://mail.example.org",
            "mail_from": "Papers <papers@example.org>",
            "dkim_keys": KEYS,
            "dns_server": name_server.address,
            **changes,
        }
        loaded = settings.load(None, **given)
        return list(check(Installation(loaded, datetime.now(UTC))))

    return examine


@pytest.fixture
def one(examine: Examine) -> Callable[..., Finding]:
    def one(check: Check, **changes: str) -> Finding:
        [finding] = examine(check, **changes)
        return finding

    return one


@pytest.mark.parametrize("check", dns.CHECKS, ids=lambda check: check.__name__)
def test_correct_zone_passes_every_check(examine, check):
    findings = examine(check)

    assert findings
    assert [finding for finding in findings if finding.ok is not True] == []


@pytest.mark.parametrize("check", dns.CHECKS, ids=lambda check: check.__name__)
def test_localhost_sender_is_not_looked_up(examine, name_server, check):
    findings = examine(check, mail_from="papers@localhost", smtp_url="smtp://127.0.0.1")

    assert [finding.ok for finding in findings] == [None]
    assert name_server.requests == []


# --- SPF ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("published", "problem"),
    [
        ([], "no SPF record"),
        (["v=spf10 -all"], "no SPF record"),
        (["v=spf1 -all", "v=spf1 ~all"], "2 SPF records"),
        (["v=spf1 ip4:192.0.2.25 +all"], "allows every server to send"),
        (["v=spf1 ip4:192.0.2.25 all"], "allows every server to send"),
        (["v=spf1 ip4:192.0.2.25"], "does not end in -all"),
        (["v=spf1 ip4:192.0.2.25 include:_spf.example.net"], "does not end in -all"),
        (["v=spf1 ipv4:192.0.2.25 -all"], "'ipv4:192.0.2.25' is not valid"),
        (["v=spf1 ip4:192.0.2.256 -all"], "is not a network"),
        (["v=spf1 include:nowhere.example.org -all"], "includes nowhere.example.org"),
        (["v=spf1 include:example.org -all"], "more than 10 DNS lookups"),
        (["v=spf1 ip4:203.0.113.1 -all"], "does not allow 192.0.2.25"),
        (["v=spf1 " + "a:_spf.example.net " * 11 + "ip4:192.0.2.25 -all"], "more than 10"),
        (["v=spf1 -all ip4:192.0.2.25"], "fail at example.org"),
        (["v=spf1 -ip4:192.0.2.0/24 ip4:192.0.2.25 -all"], "fail at example.org"),
        (["v=spf1 ~mx -all"], "softfail"),
        (["v=spf1 ?all"], "neutral"),
        (["v=spf1 a:_spf.example.net/25 -all"], "does not allow 192.0.2.25"),
        (["v=spf1 include:_strict.example.net -all"], "does not allow 192.0.2.25"),
        (["v=spf1 -all redirect=_spf.example.org"], "fail at example.org"),
        (["v=spf1 redirect=nowhere.example.org"], "redirects to nowhere.example.org"),
        (["v=spf1 redirect=a.example.org redirect=b.example.org"], "redirect= twice"),
        (["v=spf1 mx ip4:192.0.2.25 include: -all"], "has no domain"),
        (["v=spf1 mx exists -all"], "has no domain"),
        (["v=spf1 mx a:192.0.2.25 -all"], "names no domain"),
        (["v=spf1 mx all:example.org"], "is not valid"),
        (["v=spf1 mx +redirect=example.org"], "is not valid"),
        (["v=spf1 mx a/33 -all"], "wrong length"),
        (["v=spf1 mx ip4:2001:db8::1 -all"], "is not a network"),
        (["v=spf1 mx ip6:2001:db8::/129 -all"], "is not a network"),
        (["v=spf1 mx exists:%x.example.org -all"], "has no domain"),
        (["v=spf1 mx\tip4:192.0.2.25 -all"], "is not valid"),
        (["v=spf1 a:a.example.org a:b.example.org a:c.example.org mx -all"], "do not exist"),
        (["v=spf1 exists:%{i}.example.org -all"], "does not allow 192.0.2.25"),
        (["v=spf1 ptr -all"], "does not allow 192.0.2.25"),
    ],
)
def test_invalid_spf_record_is_reported_with_a_valid_one(one, name_server, published, problem):
    """The advice has a valid record for the address of our server."""
    name_server.zone["example.org", "TXT"] = [line for text in published for line in txt(text)]
    name_server.zone["_spf.example.org", "TXT"] = txt("v=spf1 ip4:192.0.2.25 -all")
    name_server.zone["_strict.example.net", "TXT"] = txt("v=spf1 -ip4:192.0.2.25 ip4:192.0.2.0/24")

    finding = one(dns.spf)

    assert finding.ok is False
    assert problem in finding.detail
    assert 'example.org. TXT "v=spf1 ip4:192.0.2.25 -all"' in finding.advice


@pytest.mark.parametrize(
    "published",
    [
        "v=spf1 a:mail.example.org -all",
        "V=SPF1 MX ?ALL",
        "v=spf1 ip4:192.0.0.0/16 ip6:2001:db8::/32 exists:%{i}.example.org ~all",
        "v=spf1 redirect=_spf.example.org",
        "v=spf1 mx/24//64 exp=why.example.org -all",
        "v=spf1 -ip4:192.0.2.26 +ip4:192.0.2.25 -all",
        "v=spf1 a:near.example.org/24 -all",
        "v=spf1 ~include:_strict.example.net mx -all",
        "v=spf1 exists:%{ir}.%{v}.listed.example.org -all",
        "v=spf1 exists:%{l}.example.org mx ~all",  # matched by the next mechanism in either case
        "v=spf1 a:a.example.org a:b.example.org mx -all",
        "v=spf1  mx   unknown=word -all ",
        "v=spf1 ip4:192.0.2.25 " + "a:mail.example.org " * 11 + "-all",
    ],
)
def test_valid_spf_record_passes(one, name_server, published):
    name_server.zone["_spf.example.org", "TXT"] = txt("v=spf1 ip4:192.0.2.25 -all")
    name_server.zone["_strict.example.net", "TXT"] = txt("v=spf1 -all ip4:192.0.2.25")
    name_server.zone["near.example.org", "A"] = ["192.0.2.7"]
    name_server.zone["25.2.0.192.in-addr.listed.example.org", "A"] = ["127.0.0.2"]
    name_server.zone["example.org", "TXT"] = txt(published)

    assert one(dns.spf).ok is True


def test_spf_record_that_depends_on_the_mail_is_not_judged(one, name_server):
    name_server.zone["example.org", "TXT"] = txt("v=spf1 exists:%{l}.example.org -all")

    assert one(dns.spf).ok is None


def test_spf_error_after_a_matching_mechanism_is_only_advice(one, name_server):
    name_server.zone["example.org", "TXT"] = txt("v=spf1 mx include:nowhere.example.org -all")

    finding = one(dns.spf)

    assert finding.ok is True
    assert "nowhere.example.org" in finding.advice


@pytest.mark.parametrize("published", ["v=spf1 -all", "v=spf1 -all include:_spf.example.net"])
def test_spf_record_that_allows_no_sender_fails_for_a_provider(one, name_server, published):
    name_server.zone["example.org", "TXT"] = txt(published)

    finding = one(dns.spf, smtp_url="smtp://smtp.provider.example")

    assert finding.ok is False
    assert "allows no server to send" in finding.detail


def test_spf_lookups_include_nested_records(name_server):
    """RFC 7208, section 4.6.4: include, a, mx, ptr, exists and redirect count, nested ones too."""
    resolver = Resolver(("127.0.0.1", name_server.port))

    read = spf.evaluate("v=spf1 include:_spf.example.net ptr -all", "example.org", resolver)

    assert read.lookups == 4  # include, with its a and mx, and ptr
    assert read.end == "-all", "that of what is included counts for nothing"


def test_spf_is_checked_for_the_bounce_domain(one, name_server):
    finding = one(dns.spf, bounce_address="bounces@news.example.org")

    assert finding.ok is False
    assert ("news.example.org", "TXT") in name_server.requests
    assert 'news.example.org. TXT "v=spf1 ip4:192.0.2.25 -all"' in finding.advice


def test_spf_of_a_provider_passes_with_advice(one):
    finding = one(dns.spf, smtp_url="smtp://smtp.provider.example")

    assert finding.ok is True
    assert "provider" in finding.advice


# --- DKIM ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("published", "problem"),
    [
        ([], "is not published"),
        ([f"v=DKIM1; k=ed25519; p={'A' * 43}="], "another key"),
        ([record(0).value.replace("k=rsa", "k=ed25519")], "another key"),
        (["v=DKIM1; k=rsa; p="], "revoked"),
        ([record(0).value, record(1).value], "2 records"),
    ],
)
def test_missing_or_wrong_dkim_record_is_reported(examine, name_server, published, problem):
    name_server.zone[record(0).name, "TXT"] = [line for text in published for line in txt(text)]

    first, second = examine(dns.dkim)

    assert (first.check, first.ok) == ("dkim news1", False)
    assert problem in first.detail
    assert record(0).line in first.advice
    assert (second.check, second.ok) == ("dkim news2", True)


def test_dkim_record_without_optional_tags_passes(examine, name_server):
    name_server.zone[record(0).name, "TXT"] = txt(
        record(0).value.replace("v=DKIM1; k=rsa; p=", "p = ").replace("A", "A ", 1) + ";"
    )

    assert examine(dns.dkim)[0].ok is True


def test_dkim_key_in_testing_passes_with_advice(examine, name_server):
    name_server.zone[record(0).name, "TXT"] = txt(record(0).value + "; t=y")

    first = examine(dns.dkim)[0]

    assert first.ok is True
    assert "t=y" in first.advice


def test_dkim_key_not_in_use_yet_passes_with_its_record(examine):
    """An unpublished key that does not sign yet is no error; the advice has its record."""
    later = examine(dns.dkim, dkim_keys=f"{KEYS} news3:{key(3)}")[2]

    assert later.ok is True
    assert "not used for signing yet" in later.detail
    assert 'news3._domainkey.example.org. TXT "v=DKIM1; k=ed25519; p=' in later.advice


def test_dkim_is_not_judged_without_keys(examine):
    loaded = settings.load(None, mail_from="papers@example.org")

    [finding] = dns.dkim(Installation(loaded, datetime.now(UTC)))

    assert finding.ok is None
    assert "paperboy dkim new" in finding.advice


# --- DMARC --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "published",
    [[], ["v=DMARC2; p=none"], ["v=DMARC1"], ["v=DMARC1; p=none", "v=DMARC1; p=reject"]],
)
def test_missing_or_invalid_dmarc_policy_is_reported(one, name_server, published):
    name_server.zone["_dmarc.example.org", "TXT"] = [line for p in published for line in txt(p)]

    finding = one(dns.dmarc)

    assert finding.ok is False
    assert '_dmarc.example.org. TXT "v=DMARC1; p=none; rua=mailto:' in finding.advice


def test_dmarc_policy_none_passes_with_advice(one, name_server):
    name_server.zone["_dmarc.example.org", "TXT"] = txt("v=DMARC1;p=none")

    finding = one(dns.dmarc)

    assert finding.ok is True
    assert "p=quarantine" in finding.advice
    assert "rua" in finding.advice


def test_dmarc_policy_of_the_parent_domain_counts(one):
    finding = one(dns.dmarc, mail_from="papers@news.example.org")

    assert finding.ok is True
    assert "_dmarc.example.org" in finding.detail


@pytest.mark.parametrize(
    ("modes", "changes", "ok"),
    [
        ("", {"dkim_domain": "mail.example.org"}, True),
        ("; adkim=s", {"dkim_domain": "mail.example.org"}, True),  # bounces are aligned
        (
            "; adkim=s",
            {"dkim_domain": "mail.example.org", "bounce_address": "b@example.net"},
            False,
        ),
        ("", {"bounce_address": "b@example.net"}, True),  # the signature is aligned
        ("; aspf=s; adkim=s", {"bounce_address": "b@news.example.org"}, True),
        (
            "; aspf=s; adkim=s",
            {"bounce_address": "b@news.example.org", "dkim_domain": "mail.example.org"},
            False,
        ),
    ],
)
def test_dmarc_alignment_requires_aligned_dkim_or_spf(one, name_server, modes, changes, ok):
    name_server.zone["_dmarc.example.org", "TXT"] = txt(f"v=DMARC1; p=none{modes}")

    assert one(dns.dmarc_alignment, **changes).ok is ok


# --- MX and PTR ---------------------------------------------------------------------------------


def test_mx_is_checked_for_every_address_that_receives_mail(examine, name_server):
    name_server.zone["null.example.org", "MX"] = ["0 ."]
    name_server.zone["bare.example.org", "A"] = ["192.0.2.26"]

    findings = examine(
        dns.mx,
        reply_to="Editors <editors@null.example.org>",
        bounce_address="bounces@nowhere.example.org",
        unsubscribe_mailbox="leave@bare.example.org",
    )

    assert {finding.check: finding.ok for finding in findings} == {
        "mx example.org": True,
        "mx null.example.org": False,
        "mx nowhere.example.org": False,
        "mx bare.example.org": True,
    }
    assert "mail.example.org receives its mail" in findings[0].detail
    assert "BOUNCE_ADDRESS" in findings[2].detail


@pytest.mark.parametrize(
    ("zone", "problem"),
    [
        ({("25.2.0.192.in-addr.arpa", "PTR"): []}, "has no PTR record"),
        ({("25.2.0.192.in-addr.arpa", "PTR"): ["host25.example.net."]}, "has another address"),
        ({("mail.example.org", "A"): []}, "has no address"),
    ],
)
def test_missing_or_mismatched_ptr_record_is_reported(one, name_server, zone, problem):
    name_server.zone |= zone

    finding = one(dns.ptr)

    assert finding.ok is False
    assert problem in finding.detail
    assert "mail.example.org" in finding.advice


def test_ptr_of_a_provider_is_not_judged(one):
    assert one(dns.ptr, smtp_url="smtp://smtp.provider.example").ok is None


# --- No answer ----------------------------------------------------------------------------------


def test_silent_dns_server_is_waited_for_once(name_server):
    name_server.silent = True
    resolver = Resolver(("127.0.0.1", name_server.port), patience=0.2)
    started = time.monotonic()

    for _ in range(50):
        with pytest.raises(UnansweredError, match="no DNS server can be reached"):
            resolver.texts("example.org")

    assert time.monotonic() - started < 5
    assert len(name_server.requests) < 10


def test_resolver_continues_after_servfail_for_one_name(name_server):
    name_server.zone["broken.example.org", "TXT"] = SERVFAIL
    resolver = Resolver(("127.0.0.1", name_server.port))

    with pytest.raises(UnansweredError, match=r"broken\.example\.org"):
        resolver.texts("broken.example.org")
    assert resolver.texts("_dmarc.example.org")
    assert resolver.texts("nowhere.example.org") == []


def test_resolver_rejects_answers_from_a_closed_network(name_server):
    """It answers for every name that it does not exist; that must not count as a missing record."""
    name_server.zone.clear()
    name_server.closed = True
    resolver = Resolver(("127.0.0.1", name_server.port))

    with pytest.raises(UnansweredError, match="knows the internet"):
        resolver.texts("example.org")


def test_resolver_accepts_nxdomain_without_soa_if_the_server_knows_org(name_server):
    name_server.closed = True
    name_server.zone["org", "NS"] = ["ns.example.net."]

    assert Resolver(("127.0.0.1", name_server.port)).texts("nowhere.example.org") == []
