"""Returned mails are classified correctly, and no existing address is called gone."""

from __future__ import annotations

import sys
from base64 import b64encode
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.domain import Notice, NoticeKind, Verdict
from pipeline.feedback.bounces import classify, read_mail
from pipeline.feedback.bounces.classify import _read_mail
from pipeline.feedback.bounces.diagnostics import diagnose
from pipeline.feedback.bounces.mime import _CHARSETS, LONGEST, _text, parse_mail
from pipeline.message import Sender
from pipeline.rendering import views
from tests.support.bounces import Case, bounce, mail, recipient, report
from tests.support.bounces import freeform as made_freeform
from tests.support.bounces import living as made_living
from tests.support.bounces import standard as made_standard

CASES = [*made_standard.CASES, *made_freeform.CASES, *made_living.CASES]
ALIVE = [case for case in CASES if case.kind is not NoticeKind.HARD]


@pytest.fixture
def steps() -> Callable[[Callable[[], object]], int]:
    """Return a function that counts executed lines of Python: no timing, so load has no effect."""

    def count(work: Callable[[], object]) -> int:
        seen = 0

        def trace(_frame: object, event: str, _argument: object) -> object:
            nonlocal seen
            seen += event == "line"
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            work()
        finally:
            sys.settrace(before)
        return seen

    return count


def named(case: Case) -> str:
    return case.name


@pytest.mark.parametrize("case", CASES, ids=named)
def test_mail_is_classified_correctly(case):
    notice = read_mail(case.octets)

    assert notice.kind is case.kind
    assert notice.status == case.status
    assert notice.recipients == case.recipients
    assert notice.message_id == case.message_id


@pytest.mark.parametrize("case", CASES, ids=named)
def test_line_endings_do_not_change_the_result(case):
    as_unix = case.octets.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    for end in (b"\r\n", b"\r", b"\r\r\n"):
        assert read_mail(as_unix.replace(b"\n", end)) == read_mail(as_unix)


@pytest.mark.parametrize(("case", "secret"), made_living.WISHES, ids=lambda value: str(value)[:20])
def test_unsubscribe_mail_keeps_the_secret_of_its_link(case, secret):
    assert read_mail(case.octets).secret == secret


def test_repr_of_a_notice_omits_the_secret():
    notice = read_mail(made_living.WISHES[0][0].octets)

    assert notice.secret
    assert notice.secret not in repr(notice)


def test_only_failures_have_a_verdict():
    failures = (NoticeKind.HARD, NoticeKind.SOFT)

    for case in CASES:
        notice = read_mail(case.octets)
        assert (notice.verdict is not None) == (notice.kind in failures), case.name
        is_gone = notice.verdict is Verdict.HARD
        # Disabled accounts and missing domains may be HARD; they suppress at the second edition.
        may_be_gone = notice.verdict in {Verdict.DISABLED, Verdict.NO_DOMAIN}
        assert is_gone <= (notice.kind is NoticeKind.HARD) <= (is_gone or may_be_gone), case.name


# --- Finding the delivery -----------------------------------------------------------------------


@pytest.mark.parametrize("header", ["X-Original-To", "Delivered-To", "Envelope-To", "To"])
def test_envelope_is_found_in_each_recipient_header(header):
    key = "digest:2030-01-02:17"
    sender = Sender(
        mail_from="papers@papers.example.com",
        list_name="Papers",
        site_url="https://papers.example.com",
        key="k" * 40,
        bounce_address="bounces@papers.example.com",
    )
    marked = (
        f"{header}: <{sender.envelope(17, key)}>\nDelivered-To: postmaster@papers.example.com\n"
    )

    envelope = read_mail(marked.encode() + report(recipient("5.1.1", None))).envelope

    assert envelope is not None
    assert sender.is_envelope_of(envelope, 17, key)


def test_reason_is_one_bounded_printable_line():
    octets = report(recipient("5.1.1", "smtp; 550 \x1b[31mno\x07 such\n\tuser\u202e " + "x" * 5000))

    reason = read_mail(octets).reason

    assert reason.startswith("550 [31mno such user x")
    assert reason.isprintable()
    assert len(reason) <= 300


# --- Untrusted input ----------------------------------------------------------------------------


@given(st.binary(max_size=2_000))
@example(b"")
@example(b"\0" * 100)
@example(b"Content-Type: multipart/report; boundary=\n\n--\n")
@example(b"Subject: =?utf-7?b?2AA=?= =?punycode?q?x-?= =?unicode_escape?q?=5Cud800?=\n\n")
@example(b"Auto-Submitted: auto-replied\nSubject: =?utf-7?q?+2AA-?=\n\n")
def test_read_mail_accepts_any_octets(octets):
    """The parser itself raises nothing, so the guard around it has nothing to catch."""
    notice = _read_mail(octets)

    assert notice.kind is not NoticeKind.HARD
    str(notice).encode()


HEADS = [
    b"From: MAILER-DAEMON@x.example\nSubject: Undelivered mail\n\n",
    b"Content-Type: multipart/report; boundary=b\n\n--b\nContent-Type: message/delivery-status\n\n",
    b"From: MAILER-DAEMON@x.example\nContent-Type: text/html; charset=gb2312\n\n",
    b"Content-Type: multipart/mixed; boundary=b\nContent-Transfer-Encoding: base64\n\n--b\n",
]
BITS = [
    b"--b",
    b"\n",
    b"\n\n",
    b"550 ",
    b"5.1.1",
    b"<",
    b">",
    b"@",
    b"Status: ",
    b"\xff",
    b" ",
    b"=?",
]


@given(st.sampled_from(HEADS), st.lists(st.one_of(st.sampled_from(BITS), st.binary(max_size=9))))
def test_read_mail_accepts_malformed_bounces(head, rest):
    str(_read_mail(head + b"".join(rest))).encode()


@pytest.mark.parametrize("case", ALIVE, ids=named)
def test_truncated_mail_about_an_existing_address_is_not_a_hard_bounce(case):
    """Cut at every 23rd octet: a prime step hits every part of a line in some mail."""
    for end in range(0, len(case.octets), 23):
        assert read_mail(case.octets[:end]).kind is not NoticeKind.HARD, case.octets[:end][-60:]


def test_report_truncated_before_its_diagnostic_is_a_soft_bounce():
    """Orange sends 5.1.1 for full mailboxes; only the diagnostic after it says so."""
    whole = report(recipient("5.1.1", "smtp; 552 5.1.1 Boite pleine"))
    cut = whole[: whole.index(b"tic-Code: smtp")]

    notice = read_mail(cut)

    assert (notice.kind, notice.status) == (NoticeKind.SOFT, "5.1.1")


@pytest.mark.parametrize(
    ("status", "kind"),
    [("4.0.0", NoticeKind.SOFT), ("5.0.0", NoticeKind.HARD), (None, NoticeKind.HARD)],
)
def test_text_of_a_report_decides_unless_its_status_is_temporary(status, kind):
    octets = report(recipient(status, None), "<ada@example.org>: 550 5.1.1 User unknown")

    assert read_mail(octets).kind is kind


@pytest.mark.parametrize("what", ["subject", "name", "returned mail", "quoted mail"])
def test_subject_and_quoted_text_are_no_evidence_of_a_hard_bounce(what):
    """A subject, an address or a returned mail may contain any text about unknown users."""
    gone = "550 5.1.1 User unknown"
    octets = {
        "subject": bounce("The message could not be delivered.", subject=f"Undelivered: {gone}"),
        "name": bounce("The message could not be delivered to <no.such.user@example.org>."),
        "returned mail": bounce("The message could not be delivered."),
        "quoted mail": bounce(f"The message could not be delivered.\n\n> {gone}\n>{gone}"),
    }[what]

    assert read_mail(octets).kind is NoticeKind.SOFT


@pytest.mark.parametrize("title", ["Unsubscribe", "Opt out, please"])
def test_reply_to_a_digest_is_no_request_whatever_its_title(title):
    subject = views.subject(title, "Papers")
    head = "From: grace@example.net\nAuto-Submitted: auto-replied\nSubject: "

    assert read_mail(f"{head}Re: {subject}\n\nI am away.\n".encode()).kind is NoticeKind.AUTO_REPLY
    assert read_mail(f"{head}Re: Unsubscribe\n\n\n".encode()).kind is NoticeKind.UNSUBSCRIBE


@pytest.mark.parametrize("prefix", ["Undeliverable: ", "DELIVERY FAILURE: "])
def test_title_of_a_digest_does_not_make_a_failure_a_delay(prefix):
    """The subject of a digest is the title of a paper, and mail systems repeat it."""
    title = "Delivery is delayed: agents will be retried"

    notice = read_mail(bounce("The message could not be delivered.", subject=f"{prefix}{title}"))

    assert notice.kind is NoticeKind.SOFT


def test_only_the_start_of_a_huge_mail_is_read():
    tail = b"\n550 5.1.1 User unknown\n"
    huge = mail("From: MAILER-DAEMON@x.example\nSubject: Undelivered mail\n\nNot delivered.\n")

    mailed = huge + b"\n" * LONGEST + tail

    assert read_mail(mailed).kind is NoticeKind.SOFT
    assert len(parse_mail(mailed).parts[0].octets) < LONGEST


OTHER_CODECS = ("punycode", "-punycode", "_idna", "unicode_escape", "rot13", "undefined", "zlib")
NO_CODECS = ("utf8mb5", "nonsense", "\xe9", ".", "mbcs", "charmap", "x" * 4_000, "encodings.zlib")


@pytest.mark.parametrize("charset", [*OTHER_CODECS, *NO_CODECS])
def test_codec_that_is_no_mail_charset_is_ignored(charset):
    """Python has codecs of such names, some of them slow."""
    octets = f"Content-Type: text/plain; charset={charset}\n\nab\\x41-kva".encode()

    assert parse_mail(octets).parts[0].text == "ab\\x41-kva"


def test_deeply_nested_mail_is_read_as_one_part():
    octets = b"hello"
    for depth in range(2_000):
        octets = b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n%b\n--b%d--\n" % (
            depth, depth, octets, depth
        )  # fmt: skip

    assert len(parse_mail(octets).parts) == 1
    assert read_mail(octets).kind is NoticeKind.NONE


# --- Running time -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    ["user ", "550 ", "<", "a@", "a", "=?utf-8?q?a?= ", "\n", "--b\n", "subject:\n ", "<style>",
     "a: b\n", "<a@b.co>:\n", "550 5.1.1 user ", "no ", "(", "Final-Recipient: a@b.co\n"],
)  # fmt: skip
def test_executed_lines_grow_linearly_with_the_input(words, steps):
    """The count is of our own lines; regular expressions are bounded by their input."""
    head = "From: MAILER-DAEMON@x.example\nSubject: Undelivered mail\nContent-Type: text/html\n\n"

    once = steps(lambda: read_mail((head + words * 500).encode()))
    twice = steps(lambda: read_mail((head + words * 1_000).encode()))

    assert twice < 2.2 * once + 500


@pytest.mark.parametrize(
    "word", ["user ", "no ", "x", "quota ", "domain ", "用户", "пользователь "]
)
def test_judge_reads_only_the_start_of_a_diagnostic(word):
    """The rules see a bounded prefix, however long the reply is."""
    start = "550 5.1.1 unknown user "

    assert diagnose(start + word * 100_000) == diagnose(start + word * 10_000)


@pytest.mark.parametrize(
    ("charset", "octets"),
    [
        ("utf8mb4", "Ä€".encode()),
        ("UTF_8", "Ä€".encode()),
        ("iso-8859-15", "Ä€".encode("iso8859_15")),
        ("Windows-1252", "Ä€".encode("cp1252")),
        ("utf-16", "Ä€".encode("utf-16")),
    ],
)
def test_charset_is_recognised_in_different_spellings(charset, octets):
    head = f"Content-Type: text/plain; charset={charset}\n\n".encode()

    # `take_apart` removes NUL, which UTF-16 has, so the body is sent as base64.
    head = head.replace(b"\n\n", b"\nContent-Transfer-Encoding: base64\n\n")
    assert parse_mail(head + b64encode(octets)).parts[0].text == "Ä€"


@pytest.mark.parametrize("name", ["euc-kr", "ks_c_5601-1987", "gb2312", "iso-2022-jp", "shift_jis"])
def test_east_asian_charsets_are_decoded_with_their_supersets(name):
    word, wide = {
        "euc-kr": ("똠", "cp949"),
        "ks_c_5601-1987": ("똠", "cp949"),
        "gb2312": ("镕", "gb18030"),
        "iso-2022-jp": ("丂", "iso2022_jp_ext"),
        "shift_jis": ("①", "cp932"),
    }[name]
    head = f"Content-Type: text/plain; charset={name}\n\n".encode()

    assert parse_mail(head + word.encode(wide)).parts[0].text == word


@pytest.mark.parametrize("codec", sorted(set(_CHARSETS.values())))
@pytest.mark.parametrize("unit", [b"A", b"\xff", b"\x1b$", b"~{", b"+AAA-", b"\x80\xd8"])
def test_no_charset_uses_a_codec_written_in_python(steps, codec, unit):
    """Codecs written in Python may be quadratic: punycode took 304 s of CPU for 1 MB."""
    _text(unit, codec)  # imports the codec

    short, long = (steps(lambda n=n: _text(unit * n, codec)) for n in (100, 1_000))

    assert long <= short + 10


def test_read_mail_returns_kind_none_if_the_parser_raises(monkeypatch):
    """The error is logged, the mail is flagged, and the next mail is read."""

    def fail(octets):
        raise KeyError(octets)

    monkeypatch.setattr(classify, "_read_mail", fail)

    assert read_mail(b"x") == Notice(NoticeKind.NONE, reason="cannot be read: KeyError")
