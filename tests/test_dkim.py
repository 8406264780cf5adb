"""DKIM signatures: valid for the receiver, and invalid once a byte has changed."""

from __future__ import annotations

import mailbox
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache

import dkim as dkimpy
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline import bootstrap, settings, signup
from pipeline.bootstrap import Services
from pipeline.dkim import Algorithm, Signer, aligned, check, new_key, read_keys
from pipeline.domain import DeliveryKind, Verdict
from pipeline.errors import SettingsError
from pipeline.signup import Choices, parse_queries
from tests.support.factories import make_delivery, make_digest, make_paper, make_pick
from tests.support.servers import Inbox

DOMAIN = "example.org"


@cache
def pem(algorithm: Algorithm = Algorithm.RSA, number: int = 0) -> str:
    """Return a private key for tests; each number is another key."""
    return new_key(algorithm)


RSA, ED25519 = f"rsa1:{pem(Algorithm.RSA)}", f"ed1:{pem(Algorithm.ED25519)}"
BOTH = f"{RSA} {ED25519}"


@cache
def signer_with(keys: str = BOTH, domain: str = DOMAIN) -> Signer:
    return Signer(read_keys(keys), domain)


def zone(signer: Signer) -> dict[str, str]:
    """Return the DNS records of all keys of a signer, by name."""
    records = (key.record(signer.domain) for key in signer.keys)
    return {record.name: record.value for record in records}


@dataclass(frozen=True)
class Mailbox:
    """A receiver that verifies signatures with dkimpy."""

    published: dict[str, str]

    def accepts(self, raw: bytes) -> list[bool]:
        """Return whether each signature is valid, in their order."""
        count = len(re.findall(rb"(?m)^DKIM-Signature:", raw))
        return [self._holds(raw, number) for number in range(count)]

    def _holds(self, raw: bytes, number: int) -> bool:
        try:
            return dkimpy.DKIM(raw).verify(number, dnsfunc=self._lookup)
        except dkimpy.DKIMException:
            return False

    def _lookup(self, name: bytes, timeout: int = 5) -> bytes | None:
        record = self.published.get(name.decode().rstrip("."))
        return record.encode() if record else None


# --- Through a real server ----------------------------------------------------------------------


@pytest.fixture
def branding(inbox: Inbox, sqlite_url: str) -> Iterator[Callable[..., Services]]:
    """Return a function that builds services with changed settings and mail to the inbox.

    The database has the keys of their links.
    """
    made: list[Services] = []

    def branding(**changes: str) -> Services:
        given = {
            "database_url": sqlite_url,
            "smtp_url": inbox.url,
            "site_url": "https://papers.example.org",
            "mail_from": "Bücherbote <papers@example.org>",
            "operator_address": "1 Analytical Way, London",
        }
        loaded = settings.load(None, **{**given, **changes})
        made.append(bootstrap.build(loaded, check=False))
        return made[-1]

    yield branding
    for services in made:
        services.engine.dispose()


def post(services: Services, body: bytes) -> None:
    connection = services.transport.open()
    outcome = connection.begin("papers@example.org", "ada@example.org", body)
    assert (outcome or connection.finish()).verdict is Verdict.ACCEPTED
    connection.close()


def test_mails_of_every_kind_arrive_signed(branding, inbox):
    """Both signatures are valid in the bytes that the server received, RSA first."""
    services, now = branding(dkim_keys=BOTH), datetime.now(UTC)
    title = ". Möbius 多模态 = a < b & c " + "x" * 300
    digest = make_digest(make_pick(make_paper(title, abstract=".\n..\n. dots\n" * 9)))

    for kind in DeliveryKind:
        post(services, services.compose(make_delivery(kind=kind, request_id=1), digest, now=now))

    mailbox = Mailbox(zone(services.signer))
    assert len(inbox.received) == len(DeliveryKind)
    for mail in inbox.received:
        assert mailbox.accepts(mail.raw) == [True, True], mail.message["Subject"]
        assert re.findall(rb"v=1; a=(\S+);", mail.raw) == [b"rsa-sha256", b"ed25519-sha256"]
        assert max(map(len, mail.raw.split(b"\r\n"))) <= 998


def test_signatures_survive_an_mbox_file(branding, inbox, tmp_path):
    """An mbox file escapes lines that begin with "From ", so no mail of any kind may have one."""
    services, now = (
        branding(dkim_keys=BOTH, list_name="From here", note="From us to you"),
        datetime.now(UTC),
    )
    lines = "From the first line\nFrom the next\n" + "x" * 75 + "From afar, " * 30
    digest = make_digest(make_pick(make_paper("From Here to There", abstract=lines)))
    file = mailbox.mbox(tmp_path / "mails")

    for kind in DeliveryKind:
        post(services, services.compose(make_delivery(kind=kind, request_id=1), digest, now=now))
    for mail in inbox.received:
        file.add(mail.raw.replace(b"\r\n", b"\n"))
    file.flush()

    signer = Mailbox(zone(services.signer))
    kept = [file.get_bytes(key).replace(b"\n", b"\r\n") for key in file.keys()]  # noqa: SIM118
    file.close()
    assert len(kept) == len(DeliveryKind)
    assert [signer.accepts(raw) for raw in kept] == [[True, True]] * len(kept)


@pytest.mark.full
def test_dispatched_mail_is_signed(branding, inbox, sqlite_url):
    """From the sign-up form through outbox and dispatcher to the wire."""
    services = branding(dkim_keys=BOTH, database_url=sqlite_url)
    key, now = services.suppression_key, datetime.now(UTC)
    choices = Choices(parse_queries(("retrieval",)))
    signup.request_subscription(
        services.engine, "ada@example.org", choices, ip=None, suppression_key=key, now=now
    )

    assert services.dispatch(once=True).sent == 1

    assert Mailbox(zone(services.signer)).accepts(inbox.only().raw) == [True, True]


BODIES = {
    "leading dots": b"..\r\n...\r\n..one\r\n\r\n..",
    "nothing": b"",
    "one empty line": b"\r\n",
    "empty lines": b"\r\n\r\n\r\n",
    "white space": b" \t \r\n a\t  b \r\n\t\r\n  ",
    "text": b"Hello\r\nthere\r\n\r\n\r\n",
}


@pytest.mark.parametrize("keys", [RSA, ED25519, BOTH], ids=["rsa", "ed25519", "both"])
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_any_body_arrives_signed(branding, inbox, keys, body):
    services = branding(dkim_keys=keys)
    mail = MAIL + body if body.endswith(b"\r\n") else MAIL + body + b"\r\n"

    post(services, services.signer.sign(mail, datetime.now(UTC)))

    accepted = Mailbox(zone(services.signer)).accepts(inbox.only().raw)
    assert accepted == [True] * len(services.signer.keys)


def test_mail_is_unchanged_without_dkim_keys(branding):
    plain, signed = branding(), branding(dkim_keys=ED25519)
    delivery, now = make_delivery(), datetime.now(UTC)
    digest = make_digest()

    mail = plain.compose(delivery, digest, now=now)

    assert b"DKIM" not in mail
    assert signed.compose(delivery, digest, now=now).endswith(b"\r\n" + mail)


# --- Signed headers -----------------------------------------------------------------------------

MAIL = (
    b"From: Papers <papers@example.org>\r\n"
    b"Reply-To: papers@example.org\r\n"
    b"To: ada@example.org\r\n"
    b"Subject: =?utf-8?q?A_long_M=C3=B6bius_subject_that_goes_on?=\r\n"
    b" =?utf-8?q?_over_two_lines?=\r\n"
    b"Date: Wed, 02 Jan 2030 08:00:00 +0000\r\n"
    b"Message-ID: <1@example.org>\r\n"
    b"List-Id: Papers <papers.example.org>\r\n"
    b"List-Unsubscribe: <https://papers.example.org/unsubscribe/x>,\r\n"
    b" <mailto:leave@example.org>\r\n"
    b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
    b"Feedback-ID: 1:digest:list:pb\r\n"
    b"MIME-Version: 1.0\r\n"
    b"Content-Type: text/plain\r\n"
    b"\r\n"
)
COVERED = [line.partition(b":")[0] for line in MAIL.split(b"\r\n") if line[:1] not in {b" ", b""}]


def signed(keys: str = ED25519, mail: bytes = MAIL + b"Hello\r\n") -> bytes:
    return signer_with(keys).sign(mail, datetime.now(UTC))


def judged(raw: bytes, keys: str = ED25519) -> list[bool]:
    """Return whether each signature is valid; dkimpy and our own check must agree."""
    published = zone(signer_with(keys))
    accepted = Mailbox(published).accepts(raw)
    assert [found.problem is None for found in check(raw, published.get)] == accepted
    return accepted


@pytest.mark.parametrize("keys", [RSA, ED25519], ids=["rsa", "ed25519"])
@pytest.mark.parametrize("name", COVERED)
def test_changed_or_removed_header_invalidates_the_signature(keys, name):
    raw = signed(keys)
    changed = re.sub(rb"(?m)^(" + name + rb": .)", rb"\1z", raw)
    taken_away = re.sub(rb"(?m)^" + name + rb": .*\r\n(?: .*\r\n)*", b"", raw)

    assert judged(raw, keys) == [True]
    assert judged(changed, keys) == [False]
    if name != b"From":  # dkimpy raises if there is no From
        assert judged(taken_away, keys) == [False]


def test_changed_or_extended_body_invalidates_the_signature():
    raw = signed()

    assert judged(raw.replace(b"Hello", b"Hallo")) == [False]
    assert judged(raw + b"more\r\n") == [False], "there is no l= that would allow it"


def test_added_from_header_invalidates_the_signature():
    """RFC 6376, section 8.15: From is signed once more than it occurs, so none can be added."""
    raw = signed()

    for forged in (
        b"From: eve@example.com\r\n" + raw,
        raw.replace(b"To:", b"From: eve@x.y\r\nTo:"),
    ):
        accepted = Mailbox(zone(signer_with())).accepts(forged)
        assert accepted == [False]
        assert [bool(found.problem) for found in check(forged, zone(signer_with()).get)] == [True]


def test_headers_prepended_by_servers_keep_the_signature_valid():
    """The last header of a name is the one that was signed (RFC 6376, section 5.4.2)."""
    assert judged(b"Received: from here\r\nFeedback-ID: theirs\r\n" + signed()) == [True]


def test_changed_white_space_keeps_the_signature_valid():
    """Relaxed canonicalization: servers refold headers and trim lines."""
    raw = signed(mail=MAIL + b"two  words \r\n")
    refolded = raw.replace(b"To: ada", b"TO:\r\n   ada").replace(
        b"two  words \r\n", b"two words\r\n"
    )

    assert judged(refolded) == [True]


def test_signature_is_invalid_with_another_published_key_or_none():
    strange = zone(Signer(read_keys(f"ed1:{pem(Algorithm.ED25519, 1)}"), DOMAIN))

    assert Mailbox(strange).accepts(signed()) == [False]
    assert [found.problem for found in check(signed(), strange.get)] == [
        "a header was changed, or another key is published"
    ]
    assert [found.problem for found in check(signed(), {}.get)] == ["its key is not published"]


def test_signature_header_has_the_expected_tags():
    now = datetime(2030, 1, 2, 8, tzinfo=UTC)
    mail = signer_with(ED25519, "mail.example.org").sign(MAIL + b"Hello\r\n", now)

    head = mail[: mail.index(b"From:")]
    said = dict(re.findall(r"(\w+)=([^;]*)", re.sub(rb"\r\n ", b"", head).decode()))
    assert said["d"] == "mail.example.org"
    assert said["s"] == "ed1"
    assert said["c"] == "relaxed/relaxed"
    assert int(said["t"]) == now.timestamp()
    assert said["h"].split(":") == ["from", *(name.decode().lower() for name in sorted_as(said))]
    assert "l" not in said
    assert all(len(line) <= 78 for line in mail.split(b"\r\n"))


def sorted_as(said: dict[str, str]) -> list[bytes]:
    order = said["h"].split(":")[1:]
    return sorted(COVERED, key=lambda name: order.index(name.decode().lower()))


@example("")
@example(" ")
@example("\r\n.\r\n")
@example("a\t \r\n \r\n\r\n")
@given(st.text(st.sampled_from("a. \t=é"), max_size=8).map(str) | st.text(max_size=40))
def test_signature_covers_the_text_without_dot_stuffing(text):
    """Dots are doubled on the wire only; the signature covers the text that the receiver sees."""
    body = re.sub(r"\r\n|[\r\n\0]", "\r\n", text).encode() + b"\r\n"
    wire = MAIL + re.sub(rb"(?m)^\.", b"..", body)

    received = re.sub(rb"(?m)^\.", b"", signed(mail=wire))

    assert received.endswith(b"\r\n\r\n" + body)
    assert judged(received) == [True]


# --- Keys ---------------------------------------------------------------------------------------


def test_first_key_of_each_algorithm_signs():
    """Other keys are old ones, still published, or new ones, published and not used yet."""
    keys = f"old:{pem(Algorithm.ED25519, 1)} {BOTH} next:{pem(Algorithm.RSA, 1)}"
    signer = signer_with(keys)

    assert [key.selector for key in signer.signing] == ["rsa1", "old"]
    assert [key.selector for key in signer.keys] == ["old", "rsa1", "ed1", "next"]


def test_read_keys_accepts_files_and_inline_pem(tmp_path):
    """Line breaks may be kept, escaped or lost in a variable or a mounted file."""
    path = tmp_path / "key.pem"
    path.write_text(pem())
    escaped, one_line = pem().replace("\n", "\\n"), pem().replace("\n", " ")

    for given_as in (path, pem(), escaped, one_line):
        first, second = read_keys(f"\n a:{given_as},\n b:{path}\n")
        assert (first.selector, second.selector) == ("a", "b")
        assert first.record(DOMAIN).value == second.record(DOMAIN).value


def too_short() -> str:
    p, q, e = 2**521 - 1, 2**127 - 1, 65_537  # two Mersenne primes
    d = pow(e, -1, (p - 1) * (q - 1))
    numbers = rsa.RSAPrivateNumbers(
        p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), rsa.RSAPublicNumbers(e, p * q)
    )
    return _written(numbers.private_key(unsafe_skip_rsa_key_validation=True))


def _written(key, encryption=None) -> str:
    return key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption()
    ).decode()


WRONG = {
    "rsa1": "must look like",
    "rsa1:/nowhere/key.pem": "file of rsa1 cannot be read",
    f"_x:{pem()}": "no selector",
    f"rsa1:{pem()[:200]}-----END PRIVATE KEY-----": "no private key",
    f"rsa1:{too_short()}": "has 648 bits",
    f"rsa1:{_written(ec.generate_private_key(ec.SECP256R1()))}": "neither RSA nor Ed25519",
    f"a:{_written(rsa.generate_private_key(65_537, 2_048), BestAvailableEncryption(b'x'))}": (
        "encrypted"
    ),
    f"{RSA} {RSA}": "two keys of one selector: rsa1",
}


@pytest.mark.parametrize(("keys", "problem"), WRONG.items(), ids=list(WRONG.values()))
def test_invalid_key_is_rejected_without_showing_it(keys, problem, tmp_path):
    """The error does not show the key, since half a key is a secret too."""
    loaded = settings.load(None, database_url=f"sqlite:///{tmp_path / 'p.db'}", dkim_keys=keys)

    with pytest.raises(SettingsError, match=f"^DKIM_KEYS: .*{problem}") as raised:
        _ = bootstrap.build(loaded, check=False).signer

    assert pem()[60:90] not in str(raised.value)


def test_build_rejects_invalid_dkim_keys(sqlite_url):
    with pytest.raises(SettingsError, match="DKIM_KEYS"):
        bootstrap.build(settings.load(None, database_url=sqlite_url, dkim_keys="nonsense"))


def test_short_key_is_accepted_with_a_logged_warning(branding, capsys):
    short = _written(rsa.generate_private_key(65_537, 1_024))

    assert branding(dkim_keys=f"old:{short}").signer is not None

    assert "dkim_key.short" in capsys.readouterr().out


@pytest.mark.parametrize("domain", ["example.com", "org", "notexample.org"])
def test_unaligned_dkim_domain_is_rejected(branding, domain):
    with pytest.raises(SettingsError, match="DKIM_DOMAIN"):
        _ = branding(dkim_keys=RSA, dkim_domain=domain).signer


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("example.org", "example.org", True),
        ("Mail.Example.org", "example.org", True),
        ("example.org", "news.mail.example.org.", True),
        ("localhost", "localhost", True),
        ("example.org", "example.com", False),
        ("notexample.org", "example.org", False),
        ("org", "example.org", False),
    ],
)
def test_aligned_compares_organizational_domains(one, other, same):
    assert aligned(one, other) is same
    assert aligned(other, one) is same


def test_long_record_is_split_into_strings_of_at_most_255_octets():
    """A DNS string holds at most 255 octets; receivers join them."""
    record = signer_with(RSA).keys[0].record(DOMAIN)

    name, kind, pieces = record.line.split(" ", 2)
    strings = re.findall(r'"([^"]*)"', pieces)
    assert (name, kind) == ("rsa1._domainkey.example.org.", "TXT")
    assert "".join(strings) == record.value
    assert all(len(string) <= 255 for string in strings)
    assert len(strings) > 1


def test_repr_shows_no_private_key():
    assert "PRIVATE" not in repr(signer_with())
    assert "BEGIN" not in repr(settings.load(None, dkim_keys=RSA))
