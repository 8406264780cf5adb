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
from pipeline.doctor.finding import Check, Finding, Patient
from pipeline.doctor.resolver import Resolver
from pipeline.errors import UnansweredError
from tests.dns_server import SERVFAIL, NameServer, open_name_server, txt


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
        return list(check(Patient(loaded, datetime.now(UTC))))

    return examine


@pytest.fixture
def one(examine: Examine) -> Callable[..., Finding]:
    def one(check: Check, **changes: str) -> Finding:
        [finding] = examine(check, **changes)
        return finding

    return one


@pytest.mark.parametrize("check", dns.CHECKS, ids=lambda check: check.__name__)
def test_nothing_is_found_in_a_good_zone(examine, check):
    findings = examine(check)

    assert findings
    assert [finding for finding in findings if finding.ok is not True] == []


@pytest.mark.parametrize("check", dns.CHECKS, ids=lambda check: check.__name__)
def test_a_sender_on_this_machine_is_not_looked_up(examine, name_server, check):
    findings = examine(check, mail_from="papers@localhost", smtp_url="smtp://127.0.0.1")

    assert [finding.ok for finding in findings] == [None]
    assert name_server.asked == []


# --- SPF ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("published", "problem"),
    [
        ([], "no SPF record"),
        (["v=spf10 -all"], "no SPF record"),
        (["v=spf1 -all", "v=spf1 ~all"], "2 SPF records"),
        (["v=spf1 ip4:192.0.2.25 +all"], "lets everybody send"),
        (["v=spf1 ip4:192.0.2.25 all"], "lets everybody send"),
        (["v=spf1 ip4:192.0.2.25"], "does not end in -all"),
        (["v=spf1 ip4:192.0.2.25 include:_spf.example.net"], "does not end in -all"),
        (["v=spf1 ipv4:192.0.2.25 -all"], "'ipv4:192.0.2.25' means nothing"),
        (["v=spf1 ip4:192.0.2.256 -all"], "is no network"),
        (["v=spf1 include:nowhere.example.org -all"], "includes nowhere.example.org"),
        (["v=spf1 include:example.org -all"], "more than 10 times"),
        (["v=spf1 ip4:203.0.113.1 -all"], "does not let 192.0.2.25 send"),
        (["v=spf1 " + "a:_spf.example.net " * 11 + "ip4:192.0.2.25 -all"], "more than 10"),
        (["v=spf1 -all ip4:192.0.2.25"], "fail at example.org"),
        (["v=spf1 -ip4:192.0.2.0/24 ip4:192.0.2.25 -all"], "fail at example.org"),
        (["v=spf1 ~mx -all"], "softfail"),
        (["v=spf1 ?all"], "neutral"),
        (["v=spf1 a:_spf.example.net/25 -all"], "does not let 192.0.2.25 send"),
        (["v=spf1 include:_strict.example.net -all"], "does not let 192.0.2.25 send"),
        (["v=spf1 -all redirect=_spf.example.org"], "fail at example.org"),
        (["v=spf1 redirect=nowhere.example.org"], "redirects to nowhere.example.org"),
        (["v=spf1 redirect=a.example.org redirect=b.example.org"], "redirect= twice"),
        (["v=spf1 mx ip4:192.0.2.25 include: -all"], "has no domain"),
        (["v=spf1 mx exists -all"], "has no domain"),
        (["v=spf1 mx a:192.0.2.25 -all"], "names no domain"),
        (["v=spf1 mx all:example.org"], "means nothing"),
        (["v=spf1 mx +redirect=example.org"], "means nothing"),
        (["v=spf1 mx a/33 -all"], "wrong length"),
        (["v=spf1 mx ip4:2001:db8::1 -all"], "is no network"),
        (["v=spf1 mx ip6:2001:db8::/129 -all"], "is no network"),
        (["v=spf1 mx exists:%x.example.org -all"], "has no domain"),
        (["v=spf1 mx\tip4:192.0.2.25 -all"], "means nothing"),
        (["v=spf1 a:a.example.org a:b.example.org a:c.example.org mx -all"], "do not exist"),
        (["v=spf1 exists:%{i}.example.org -all"], "does not let 192.0.2.25 send"),
        (["v=spf1 ptr -all"], "does not let 192.0.2.25 send"),
    ],
)
def test_what_voids_an_spf_record_is_said(one, name_server, published, problem):
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
def test_every_form_of_an_spf_record_is_read(one, name_server, published):
    name_server.zone["_spf.example.org", "TXT"] = txt("v=spf1 ip4:192.0.2.25 -all")
    name_server.zone["_strict.example.net", "TXT"] = txt("v=spf1 -all ip4:192.0.2.25")
    name_server.zone["near.example.org", "A"] = ["192.0.2.7"]
    name_server.zone["25.2.0.192.in-addr.listed.example.org", "A"] = ["127.0.0.2"]
    name_server.zone["example.org", "TXT"] = txt(published)

    assert one(dns.spf).ok is True


def test_a_record_that_depends_on_the_mail_is_not_judged(one, name_server):
    name_server.zone["example.org", "TXT"] = txt("v=spf1 exists:%{l}.example.org -all")

    assert one(dns.spf).ok is None


def test_what_fails_behind_our_own_server_is_advice(one, name_server):
    name_server.zone["example.org", "TXT"] = txt("v=spf1 mx include:nowhere.example.org -all")

    finding = one(dns.spf)

    assert finding.ok is True
    assert "nowhere.example.org" in finding.advice


@pytest.mark.parametrize("published", ["v=spf1 -all", "v=spf1 -all include:_spf.example.net"])
def test_a_record_that_lets_nobody_send_is_wrong_for_any_provider(one, name_server, published):
    name_server.zone["example.org", "TXT"] = txt(published)

    finding = one(dns.spf, smtp_url="smtp://smtp.provider.example")

    assert finding.ok is False
    assert "lets nobody send" in finding.detail


def test_lookups_are_counted_through_what_is_included(name_server):
    """RFC 7208, section 4.6.4: include, a, mx, ptr, exists and redirect count, nested ones too."""
    resolver = Resolver(("127.0.0.1", name_server.port))

    read = spf.read("v=spf1 include:_spf.example.net ptr -all", "example.org", resolver)

    assert read.lookups == 4  # include, with its a and mx, and ptr
    assert read.end == "-all", "that of what is included counts for nothing"


def test_spf_is_asked_of_the_domain_that_bounces_go_to(one, name_server):
    finding = one(dns.spf, bounce_address="bounces@news.example.org")

    assert finding.ok is False
    assert ("news.example.org", "TXT") in name_server.asked
    assert 'news.example.org. TXT "v=spf1 ip4:192.0.2.25 -all"' in finding.advice


def test_what_a_provider_sends_from_only_it_knows(one):
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
        (["v=DKIM1; k=rsa; p="], "withdrawn"),
        ([record(0).value, record(1).value], "2 records"),
    ],
)
def test_a_key_that_is_not_published_is_found(examine, name_server, published, problem):
    name_server.zone[record(0).name, "TXT"] = [line for text in published for line in txt(text)]

    first, second = examine(dns.dkim)

    assert (first.check, first.ok) == ("dkim news1", False)
    assert problem in first.detail
    assert record(0).line in first.advice
    assert (second.check, second.ok) == ("dkim news2", True)


def test_a_key_is_found_however_its_record_is_written(examine, name_server):
    name_server.zone[record(0).name, "TXT"] = txt(
        record(0).value.replace("v=DKIM1; k=rsa; p=", "p = ").replace("A", "A ", 1) + ";"
    )

    assert examine(dns.dkim)[0].ok is True


def test_a_key_in_testing_is_mentioned(examine, name_server):
    name_server.zone[record(0).name, "TXT"] = txt(record(0).value + "; t=y")

    first = examine(dns.dkim)[0]

    assert first.ok is True
    assert "t=y" in first.advice


def test_a_key_is_published_before_it_is_used(examine):
    """A key that does not sign yet is no error; the advice has the record to publish."""
    later = examine(dns.dkim, dkim_keys=f"{KEYS} news3:{key(3)}")[2]

    assert later.ok is True
    assert "does not sign yet" in later.detail
    assert 'news3._domainkey.example.org. TXT "v=DKIM1; k=ed25519; p=' in later.advice


def test_who_does_not_sign_cannot_tell(examine):
    loaded = settings.load(None, mail_from="papers@example.org")

    [finding] = dns.dkim(Patient(loaded, datetime.now(UTC)))

    assert finding.ok is None
    assert "paperboy dkim new" in finding.advice


# --- DMARC --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "published",
    [[], ["v=DMARC2; p=none"], ["v=DMARC1"], ["v=DMARC1; p=none", "v=DMARC1; p=reject"]],
)
def test_a_missing_policy_is_found(one, name_server, published):
    name_server.zone["_dmarc.example.org", "TXT"] = [line for p in published for line in txt(p)]

    finding = one(dns.dmarc)

    assert finding.ok is False
    assert '_dmarc.example.org. TXT "v=DMARC1; p=none; rua=mailto:' in finding.advice


def test_a_policy_that_does_nothing_is_enough_to_begin_with(one, name_server):
    name_server.zone["_dmarc.example.org", "TXT"] = txt("v=DMARC1;p=none")

    finding = one(dns.dmarc)

    assert finding.ok is True
    assert "p=quarantine" in finding.advice
    assert "rua" in finding.advice


def test_the_policy_of_the_domain_above_counts(one):
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
def test_one_of_both_must_speak_for_the_sender(one, name_server, modes, changes, ok):
    name_server.zone["_dmarc.example.org", "TXT"] = txt(f"v=DMARC1; p=none{modes}")

    assert one(dns.dmarc_alignment, **changes).ok is ok


# --- MX and PTR ---------------------------------------------------------------------------------


def test_every_address_must_take_mail(examine, name_server):
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
    assert "mail.example.org takes its mail" in findings[0].detail
    assert "BOUNCE_ADDRESS" in findings[2].detail


@pytest.mark.parametrize(
    ("zone", "problem"),
    [
        ({("25.2.0.192.in-addr.arpa", "PTR"): []}, "has no name"),
        ({("25.2.0.192.in-addr.arpa", "PTR"): ["host25.example.net."]}, "is not at"),
        ({("mail.example.org", "A"): []}, "has no address"),
    ],
)
def test_the_sending_address_has_a_name_and_the_name_the_address(one, name_server, zone, problem):
    name_server.zone |= zone

    finding = one(dns.ptr)

    assert finding.ok is False
    assert problem in finding.detail
    assert "mail.example.org" in finding.advice


def test_the_name_of_a_provider_is_its_own_business(one):
    assert one(dns.ptr, smtp_url="smtp://smtp.provider.example").ok is None


# --- No answer ----------------------------------------------------------------------------------


def test_a_dns_that_is_silent_is_waited_for_once(name_server):
    name_server.silent = True
    resolver = Resolver(("127.0.0.1", name_server.port), patience=0.2)
    started = time.monotonic()

    for _ in range(50):
        with pytest.raises(UnansweredError, match="no DNS server can be reached"):
            resolver.texts("example.org")

    assert time.monotonic() - started < 5
    assert len(name_server.asked) < 10


def test_a_dns_that_fails_on_one_name_is_asked_about_others(name_server):
    name_server.zone["broken.example.org", "TXT"] = SERVFAIL
    resolver = Resolver(("127.0.0.1", name_server.port))

    with pytest.raises(UnansweredError, match=r"broken\.example\.org"):
        resolver.texts("broken.example.org")
    assert resolver.texts("_dmarc.example.org")
    assert resolver.texts("nowhere.example.org") == []


def test_the_dns_of_a_closed_network_tells_nothing(name_server):
    """It answers for every name that it does not exist; that must not count as a missing record."""
    name_server.zone.clear()
    name_server.closed = True
    resolver = Resolver(("127.0.0.1", name_server.port))

    with pytest.raises(UnansweredError, match="knows the internet"):
        resolver.texts("example.org")


def test_a_forwarder_that_drops_where_an_answer_is_from_is_believed(name_server):
    name_server.closed = True
    name_server.zone["org", "NS"] = ["ns.example.net."]

    assert Resolver(("127.0.0.1", name_server.port)).texts("nowhere.example.org") == []
