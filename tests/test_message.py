"""Messages on the wire: headers as their RFCs require, and no injected line breaks."""

from __future__ import annotations

import email
import email.policy
import re
from datetime import date
from email.message import EmailMessage

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.errors import AddressError, RenderError, SettingsError
from pipeline.message import (
    Sender,
    compose_list_mail,
    compose_transactional,
    named_by,
    normal_address,
    own_address,
    wire_address,
)
from pipeline.rendering import Rendered
from pipeline.rendering.fragments import fragment
from tests.support.factories import NOW

LEAVE = "https://papers.example.org/unsubscribe/" + "k3hd82hs9d7xkqpz" * 4


def make_sender(**changes) -> Sender:
    defaults = {
        "mail_from": "Paperboy <papers@example.org>",
        "list_name": "Paperboy",
        "site_url": "https://papers.example.org",
        "key": "a key for tests",
        "unsubscribe_mailbox": "leave@example.org",
    }
    return Sender(**{**defaults, **changes})


def make_content(subject: str = "Papers for 2 Jan: A Title", text: str = "Hi\n") -> Rendered:
    return Rendered(subject, (fragment(text),), (fragment(f"<p>{text}</p>\n"),))


def digest_mail(sender: Sender | None = None, content: Rendered | None = None, **changes) -> bytes:
    defaults = {
        "to": "ada@example.org",
        "dedupe_key": "digest:2030-01-02:17",
        "unsubscribe_url": LEAVE,
        "secret": "k3hd82hs",
        "edition_on": date(2030, 1, 2),
        "now": NOW,
    }
    return compose_list_mail(
        sender or make_sender(), content or make_content(), **{**defaults, **changes}
    )


def read(mail: bytes) -> EmailMessage:
    """Return the message as a mail server forwards it: with dot-stuffing removed."""
    undotted = re.sub(rb"(?m)^\.", b"", mail)
    return email.message_from_bytes(undotted, policy=email.policy.default)


def header_lines(mail: bytes) -> list[bytes]:
    return mail.partition(b"\r\n\r\n")[0].split(b"\r\n")


# --- Headers ------------------------------------------------------------------------------------


def test_digest_has_every_header_once():
    mail = digest_mail(make_sender(reply_to="Editors <editors@example.org>"))

    lines = header_lines(mail)
    names = [line.partition(b":")[0].decode() for line in lines if not line.startswith(b" ")]
    assert " ".join(names) == (
        "From Reply-To To Subject Date Message-ID List-Unsubscribe List-Unsubscribe-Post "
        "Feedback-ID List-Id List-Help List-Owner List-Archive List-Post Precedence MIME-Version "
        "Auto-Submitted X-Auto-Response-Suppress Content-Type"
    )
    assert b"From: Paperboy <papers@example.org>" in lines
    assert b"Reply-To: Editors <editors@example.org>" in lines
    assert b"To: ada@example.org" in lines
    assert b"Date: Wed, 02 Jan 2030 08:00:00 +0000" in lines
    assert b"List-Id: Paperboy <papers.example.org>" in lines
    assert b"List-Help: <mailto:papers@example.org?subject=help>" in lines
    assert b"List-Owner: <mailto:papers@example.org>" in lines
    assert b"List-Archive: <https://papers.example.org/papers>" in lines
    assert b"List-Post: NO" in lines
    assert b"Precedence: bulk" in lines
    assert b"Auto-Submitted: auto-generated" in lines
    assert b"X-Auto-Response-Suppress: All" in lines


def test_list_unsubscribe_is_one_click_and_unfolded():
    """RFC 8058: an https URL, unfolded, in ASCII, next to the mailbox if one is set."""
    lines = header_lines(digest_mail())

    start = lines.index(f"List-Unsubscribe: <{LEAVE}>,".encode())
    assert lines[start + 1] == b" <mailto:leave@example.org?subject=unsubscribe%20k3hd82hs>"
    assert lines[start + 2] == b"List-Unsubscribe-Post: List-Unsubscribe=One-Click"


def test_list_unsubscribe_has_no_mailto_without_a_mailbox():
    lines = header_lines(digest_mail(make_sender(unsubscribe_mailbox=None)))

    assert f"List-Unsubscribe: <{LEAVE}>".encode() in lines


def test_one_click_header_is_omitted_without_https():
    """RFC 8058 requires https for one click; the page and the mailbox are still offered."""
    leave = "http://127.0.0.1:8000/unsubscribe/k3hd82hs"
    plain = make_sender(site_url="http://127.0.0.1:8000", unsubscribe_mailbox=None)
    mail = digest_mail(plain, unsubscribe_url=leave)

    assert f"List-Unsubscribe: <{leave}>".encode() in header_lines(mail)
    assert b"One-Click" not in mail


def test_reply_to_defaults_to_the_sender():
    lines = header_lines(digest_mail(make_sender(reply_to=None)))

    assert b"Reply-To: Paperboy <papers@example.org>" in lines


def test_feedback_id_names_date_and_kind_but_no_subscriber():
    """The last part stays the same for years: Gmail reports its figures by it."""
    confirmation = compose_transactional(
        make_sender(), make_content(), to="ada@example.org", dedupe_key="link:1", now=NOW,
        feedback_name="link",
    )  # fmt: skip

    feedback = b"Feedback-ID: 2030-01-02:%s:list:pbbfabc37432"
    assert feedback % b"digest" in header_lines(digest_mail())
    assert feedback % b"link" in header_lines(confirmation)
    assert feedback % b"quiet" in header_lines(digest_mail(feedback_name="quiet"))


def test_list_help_and_list_owner_use_the_contact_if_set():
    lines = header_lines(digest_mail(make_sender(contact="Ada <help@example.org>")))

    assert b"List-Help: <mailto:help@example.org?subject=help>" in lines
    assert b"List-Owner: <mailto:help@example.org>" in lines
    assert b"From: Paperboy <papers@example.org>" in lines


def test_header_line_longer_than_998_octets_is_rejected():
    """RFC 5322, section 2.1.1; RenderError is raised if a line is longer."""
    room = 998 - len("List-Unsubscribe: <>")
    plain = make_sender(unsubscribe_mailbox=None)

    assert b"x" * room in digest_mail(plain, unsubscribe_url="x" * room)
    with pytest.raises(RenderError, match="List-Unsubscribe"):
        digest_mail(plain, unsubscribe_url="x" * (room + 1))


def test_non_ascii_unsubscribe_url_is_rejected():
    with pytest.raises(RenderError, match="List-Unsubscribe"):
        digest_mail(unsubscribe_url="https://b\xfccher.example/")


def test_date_header_drops_microseconds():
    mail = digest_mail(now=NOW.replace(microsecond=999_999))

    assert b"Date: Wed, 02 Jan 2030 08:00:00 +0000" in header_lines(mail)


def test_subject_is_encoded_only_if_it_does_not_fit_the_first_line():
    """A word stays plain if it fits into the first line."""
    plain, long = ("x" * n for n in (76 - len("Subject: "), 77 - len("Subject: ")))

    assert f"Subject: {plain}".encode() in header_lines(digest_mail(content=make_content(plain)))
    assert b"Subject: =?utf-8?" in digest_mail(content=make_content(long))


def test_sender_repr_does_not_contain_the_key():
    sender = make_sender()

    assert (sender.address, sender.host) == ("papers@example.org", "example.org")
    assert "a key for tests" not in repr(sender)
    assert sender == make_sender()


def test_confirmation_has_no_list_headers():
    mail = compose_transactional(
        make_sender(),
        make_content("Confirm your subscription to Paperboy"),
        to="ada@example.org",
        dedupe_key="confirmation:17:1",
        now=NOW,
    )

    message = read(mail)
    assert not message.defects
    assert not [name for name in message if name.startswith("List-")]
    assert "Precedence" not in message
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Subject"] == "Confirm your subscription to Paperboy"


def test_message_id_is_stable_per_delivery_and_depends_on_the_key():
    """It is the same at every attempt, and the id of another reader's mail cannot be guessed."""
    sender = make_sender()

    first = sender.message_id("digest:2030-01-02:17")
    assert first == make_sender().message_id("digest:2030-01-02:17")
    assert first != sender.message_id("digest:2030-01-02:18")
    assert first != make_sender(key="another").message_id("digest:2030-01-02:17")
    assert re.fullmatch(r"<digest\.2030-01-02\.17\.[0-9a-f]{32}@example\.org>", first)
    assert read(digest_mail(sender))["Message-ID"] == first


def test_dedupe_key_is_read_only_from_authentic_message_ids():
    sender = make_sender()
    ours = sender.message_id("digest:2030-01-02:17")
    theirs = make_sender(key="another").message_id("digest:2030-01-02:17")

    assert sender.dedupe_key_of(ours) == "digest:2030-01-02:17"
    assert sender.dedupe_key_of(ours.strip("<>")) == "digest:2030-01-02:17"
    for made_up in (
        theirs,
        ours.replace(".17.", ".18."),
        "",
        "<@>",
        "<né.né@example.org>",
        "\udc80@",
    ):
        assert sender.dedupe_key_of(made_up) is None


def test_composing_is_deterministic():
    assert digest_mail() == digest_mail()


@pytest.mark.parametrize(
    "subject",
    [
        "Papers for 2 Jan: Short",
        "Papers for 2 Jan: A Title That Goes on Until It Reaches the Sixty Allowed… +19",
        "Papers for 2 Jan: Ünïcode über Alles, 多模态大模型的长上下文推理方法研究与评测基准 🧠 +9",
        "Papers for 2 Jan: مراجعة النماذج اللغوية +2",
        "Papers for 2 Jan: =?utf-8?q?not_a_word?= +1",
        "x" * 200,
    ],
)
def test_any_subject_is_decoded_unchanged(subject):
    """RFC 2047: encoded words of at most 75, lines of at most 76 if they can be folded."""
    mail = digest_mail(content=make_content(subject))

    lines = header_lines(mail)
    start = next(i for i, line in enumerate(lines) if line.startswith(b"Subject:"))
    end = next(i for i in range(start + 1, len(lines)) if not lines[i].startswith(b" "))
    assert all(len(line) <= 78 or b" " not in line[9:] for line in lines[start:end])
    assert all(len(word) <= 75 for word in re.findall(rb"=\?\S+\?=", mail[:3000]))
    assert read(mail)["Subject"] == subject


def test_non_ascii_names_are_encoded():
    sender = make_sender(
        mail_from='"Bücherbote der Universität, Abteilung für lange Namen" <papers@bücher.example>',
        list_name="Bücherbote",
    )

    message = read(digest_mail(sender))
    assert message["From"].addresses[0].addr_spec == "papers@xn--bcher-kva.example"
    assert message["From"].addresses[0].display_name.startswith("Bücherbote der Universität,")
    assert message["List-Id"].startswith("Bücherbote ")
    assert digest_mail(sender).isascii()


def test_names_with_special_characters_are_quoted():
    mail = digest_mail(make_sender(mail_from='"Papers, daily" <papers@example.org>'))

    assert b'From: "Papers, daily" <papers@example.org>' in header_lines(mail)


# --- Header injection ---------------------------------------------------------------------------

BREAKS = ["\r\nBcc: eve@example.org", "\nBcc: eve@example.org", "\rx", "\0"]


@pytest.mark.parametrize("line_break", BREAKS)
def test_line_break_in_an_address_is_rejected(line_break):
    with pytest.raises(AddressError):
        digest_mail(to=f"ada@example.org{line_break}")
    with pytest.raises(AddressError):
        digest_mail(to=f"ada{line_break}@example.org")


@pytest.mark.parametrize("line_break", BREAKS)
def test_line_break_in_other_values_cannot_inject_a_header(line_break):
    with pytest.raises(RenderError):
        digest_mail(content=make_content(f"Papers{line_break}"))
    with pytest.raises(RenderError):
        digest_mail(unsubscribe_url=f"https://papers.example.org/{line_break}")
    assert line_break.encode() not in digest_mail(secret=f"x{line_break}").partition(b"Content")[0]


@pytest.mark.parametrize("line_break", BREAKS)
@pytest.mark.parametrize("name", ["mail_from", "list_name", "site_url", "contact", "reply_to"])
def test_line_break_in_a_setting_is_rejected(name, line_break):
    with pytest.raises(SettingsError):
        make_sender(**{name: f"papers@example.org{line_break}"})


def test_sender_with_a_non_ascii_local_part_is_rejected():
    with pytest.raises(SettingsError, match="address"):
        make_sender(mail_from="Paperboy <пост@example.org>")


# --- Addresses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "wire"),
    [
        ("ada@example.org", "ada@example.org"),
        ("Ada.Lovelace+papers@Example.ORG", "Ada.Lovelace+papers@example.org"),
        ("ada@bücher.example", "ada@xn--bcher-kva.example"),
        ("ada@例え.テスト", "ada@xn--r8jz45g.xn--zckzah"),
    ],
)
def test_wire_address_encodes_the_domain_in_ascii(address, wire):
    assert wire_address(address) == wire


@pytest.mark.parametrize(
    "address",
    [
        "",
        "ada",
        "@example.org",
        "ada@",
        "ädä@example.org",
        "a b@example.org",
        "ada>@example.org",
        "ada@exa mple.org",
        "ada@example..org",
        "ada@-example.org",
        "ada@ex\u202eample.org",
        "<ada@example.org>",
        "a" * 65 + "@example.org",
        "ada@" + "a" * 260,
    ],
)
def test_undeliverable_address_is_rejected(address):
    """Without SMTPUTF8 a local part must be ASCII; the error states the reason."""
    with pytest.raises(AddressError, match=r"cannot write to|not a domain"):
        wire_address(address)


@pytest.mark.parametrize("check", [wire_address, normal_address, own_address])
def test_local_part_longer_than_64_characters_is_rejected(check):
    longest = "a" * 64 + "@example.org"

    assert check(longest) == longest
    with pytest.raises(AddressError, match=r"local part|too long before the @"):
        check("a" + longest)


def test_operator_address_longer_than_254_characters_is_rejected():
    longest = f"{'a' * 64}@{'b' * 189}"

    assert own_address(longest) == longest
    with pytest.raises(AddressError, match="domain"):
        own_address(f"{longest}b")


@pytest.mark.parametrize("address", ["papers@localhost", "papers@mail.internal", "a.b+c@x.test"])
def test_operator_address_may_have_a_local_domain(address):
    assert own_address(address) == address


@pytest.mark.parametrize("address", ["papers", "@localhost", "a..b@x.test", '"a b"@x.test'])
def test_operator_address_with_an_invalid_local_part_is_rejected(address):
    with pytest.raises(AddressError, match="local part"):
        own_address(address)


def test_error_shortens_a_long_address():
    with pytest.raises(AddressError) as caught:
        own_address("a" * 100 + "@example.org")

    assert f"'{'a' * 80}' has" in str(caught.value)


def test_normal_address_is_trimmed_with_a_lowercase_unicode_domain():
    assert normal_address(" Ada@XN--bcher-kva.Example ") == "Ada@b\xfccher.example"
    assert wire_address(" Ada@XN--bcher-kva.Example ") == "Ada@xn--bcher-kva.example"


def test_domain_without_an_ascii_form_is_rejected():
    with pytest.raises(AddressError, match="not a domain"):
        own_address("ada@b\xfc cher.example")


def test_bounce_address_encodes_its_delivery_id():
    """Also if a relay on the way changed the case; None is returned for an invented address."""
    sender = make_sender(bounce_address="bounces@example.org")

    envelope = sender.envelope(123_456, "digest:2030-01-02:17")
    assert re.fullmatch(r"bounces\+[a-z2-7]{16}@example\.org", envelope)
    assert named_by(envelope.upper()) == 123_456
    assert sender.is_envelope_of(envelope.upper(), 123_456, "digest:2030-01-02:17")
    assert named_by("bounces@example.org") is None
    assert named_by("bounces+aaaaaaaa@example.org") is None  # five octets
    assert named_by(f"bounces+{'a' * 24}@example.org") is None  # fifteen
    assert named_by("bounces+né@example.org") is None


@pytest.mark.parametrize(
    ("delivery_id", "dedupe_key"),
    [(123_457, "digest:2030-01-02:17"), (123_456, "digest:2030-01-02:18")],
)
def test_bounce_address_is_valid_for_one_delivery_only(delivery_id, dedupe_key):
    """The same id is not enough: a restored backup assigns ids again."""
    sender = make_sender(bounce_address="bounces@example.org")

    envelope = sender.envelope(123_456, "digest:2030-01-02:17")

    assert not sender.is_envelope_of(envelope, delivery_id, dedupe_key)
    assert not sender.is_envelope_of("bounces+aaaaaaaaaaaaaaaa@example.org", 0, dedupe_key)
    assert not sender.is_envelope_of("bounces+né@example.org", delivery_id, dedupe_key)


def test_envelope_sender_defaults_to_the_from_address():
    assert make_sender().envelope(17, "digest:2030-01-02:17") == "papers@example.org"


# --- Body ---------------------------------------------------------------------------------------


def test_text_part_precedes_html_part():
    message = read(digest_mail(content=make_content(text="Grüße\n")))

    parts = [(part.get_content_type(), part.get_content()) for part in message.iter_parts()]
    assert not message.defects
    assert parts[0][0] == "text/plain"
    assert parts[1][0] == "text/html"
    assert "Grüße" in parts[0][1]
    assert "Grüße" in parts[1][1]


def test_mime_boundary_cannot_occur_in_a_body():
    """Quoted-printable never contains "=_" (RFC 2045, section 6.7)."""
    assert read(digest_mail()).get_boundary().startswith("=_")


@example("A line\n.\n..and dots\n.")
@example("." + "x" * 75)
@given(st.text())
def test_any_text_is_decoded_unchanged(text):
    """ASCII only, short lines, dots doubled, one boundary, for every text of a paper."""
    text = re.sub(r"\r\n?|[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]", "\n", text) + "\n"

    mail = digest_mail(content=make_content(text=text))

    assert mail.isascii()
    assert mail.endswith(b"\r\n")
    lines = mail.split(b"\r\n")
    assert not any(b"\r" in line or b"\n" in line for line in lines)
    assert max(map(len, lines)) <= 998
    assert not any(line.startswith(b".") and not line.startswith(b"..") for line in lines)
    message = read(mail)
    assert not message.defects
    arrived = message.get_body(("plain",)).get_payload(decode=True).decode()
    assert arrived.replace("\r\n", "\n") == text
