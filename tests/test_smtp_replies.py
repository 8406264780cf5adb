"""SMTP replies: the verdict returned for each row of the table, with texts of real servers."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.domain import Verdict
from pipeline.smtp.decision import strike_of
from pipeline.smtp.replies import (
    LONGEST,
    Phase,
    Reply,
    Subject,
    parse_reply,
    queue_id,
    subject_of,
    verdict_of,
    without_addresses,
)

V = Verdict


def read(text: str) -> Reply:
    return parse_reply(text.encode().split(b"\n"))


@pytest.mark.parametrize(
    ("phase", "text", "verdict"),
    [
        # Our login or sender address
        (Phase.MAIL, "530 5.7.0 Authentication required", V.CONFIGURATION),
        (Phase.RCPT, "530 5.7.1 Log in first", V.CONFIGURATION),
        (Phase.LOGIN, "535 5.7.8 Wrong password", V.CONFIGURATION),
        (Phase.MAIL, "538 5.7.11 Encryption required", V.CONFIGURATION),
        (Phase.MAIL, "550 5.7.1 Sender not allowed", V.CONFIGURATION),
        (Phase.MAIL, "553 5.1.8 Sender domain unknown", V.CONFIGURATION),
        # The connection
        (Phase.MAIL, "421 4.3.2 Service shutting down", V.CONNECTION),
        (Phase.DOT, "421 Timeout", V.CONNECTION),
        # Full
        (Phase.RCPT, "552 5.1.1 Boite pleine. Recipient overquota. OFR_417", V.FULL),
        (Phase.RCPT, "552 5.1.1 Refused. OFR_506", V.FULL),
        (Phase.RCPT, "452 4.2.2 The account you tried to reach is over quota", V.FULL),
        (Phase.RCPT, "552 5.2.2 Mailbox size limit exceeded", V.FULL),
        (Phase.DOT, "552 Mailbox over limit", V.FULL),
        (Phase.RCPT, "554 Mailbox full", V.FULL),
        (Phase.RCPT, "550 5.2.2 Not now", V.FULL),
        (Phase.RCPT, "550 5.1.1 Postfach ist voll", V.FULL),
        (Phase.RCPT, "550 The user has too many messages on the server", V.FULL),
        # Authentication of our domain
        (Phase.DOT, "550 5.7.515 Access denied, domain is unauthenticated", V.AUTHENTICATION),
        (Phase.DOT, "550 5.7.26 This mail is unauthenticated", V.AUTHENTICATION),
        (Phase.DOT, "421 4.7.26 This mail has been rate limited", V.AUTHENTICATION),
        (Phase.DOT, "421 4.7.32 Your email has been rate limited", V.AUTHENTICATION),
        # Throttled
        (Phase.DOT, "421 4.7.28 Unusual volume from your network", V.THROTTLED),
        (Phase.MAIL, "421 4.7.0 [TSS04] Messages temporarily deferred", V.THROTTLED),
        (Phase.RCPT, "451 4.7.650 The mail server has been temporarily slowed", V.THROTTLED),
        (Phase.RCPT, "451 4.7.651 Later", V.THROTTLED),
        (Phase.RCPT, "450 4.2.1 The user is receiving mail too quickly", V.THROTTLED),
        (Phase.MAIL, "454 Throttling failure: Maximum sending rate exceeded", V.THROTTLED),
        (Phase.RCPT, "450 4.7.1 Too many messages from you", V.THROTTLED),
        (Phase.DOT, "550 5.4.5 Daily user sending quota exceeded", V.THROTTLED),
        # Greylisted
        (Phase.RCPT, "450 4.2.0 Greylisted, see you later", V.GREYLISTED),
        (Phase.RCPT, "451 4.7.1 Greylisting in action", V.GREYLISTED),
        (Phase.RCPT, "450 gray-listed: too many new senders", V.GREYLISTED),
        # Blocked: about the sender or the content, never about the recipient
        (Phase.DOT, "550 5.7.1 Message refused by policy", V.BLOCKED),
        (Phase.RCPT, "554 Your host is listed in a DNSBL", V.BLOCKED),
        (Phase.RCPT, "550 5.7.1 User unknown to our policy", V.BLOCKED),
        (Phase.DOT, "554 This looks like spam", V.BLOCKED),
        (Phase.RCPT, "554 5.7.1 Relay access denied", V.BLOCKED),
        # No such address
        (Phase.RCPT, "550 5.1.1 No such user", V.HARD),
        (Phase.RCPT, "550 5.1.1 Recipient rejected", V.HARD),
        (Phase.RCPT, "550 5.1.6 Moved away", V.HARD),
        (Phase.RCPT, "550 5.1.10 Recipient not found", V.HARD),
        (Phase.RCPT, "550 No such user here", V.HARD),
        (Phase.RCPT, "550 Unknown user", V.HARD),
        (Phase.RCPT, "551 User unknown", V.HARD),
        (Phase.RCPT, "553 Mailbox does not exist", V.HARD),
        (Phase.DOT, "554 delivery error: dd This user doesn't have an account here", V.HARD),
        (Phase.DOT, "554 delivery error: mailbox not found", V.HARD),
        (Phase.RCPT, "550 5.7.1 No such user", V.HARD),
        (Phase.RCPT, "550 5.1.0 Address rejected", V.HARD),
        (Phase.RCPT, "550 5.4.1 Recipient address rejected: Access denied", V.HARD),
        (Phase.RCPT, "550 5.4.1 All recipient addresses rejected : Access denied", V.HARD),
        (Phase.RCPT, "550 Account closed", V.HARD),
        (Phase.RCPT, "550 Unrouteable address", V.HARD),
        (Phase.RCPT, "501 5.1.3 Odbiorca nie istnieje", V.HARD),
        (Phase.RCPT, "550 Empfänger unbekannt", V.HARD),
        (Phase.RCPT, "550 收件人地址不存在", V.HARD),
        (Phase.RCPT, "550 No such user <spam@full.example.org>", V.HARD),
        # Similar words about another subject
        (Phase.RCPT, "550 Sender address rejected: domain not found", V.BLOCKED),
        (Phase.RCPT, "550 5.1.0 Sender address rejected", V.BLOCKED),
        (Phase.RCPT, "550 Cannot find your reverse hostname", V.BLOCKED),
        (Phase.RCPT, "550 5.1.1 Recipient rejected: blocked", V.BLOCKED),
        (Phase.RCPT, "550 5.1.1 Sender address rejected: User unknown in table", V.BLOCKED),
        (Phase.RCPT, "550 Account 192.0.2.9 unknown", V.BLOCKED),
        (Phase.RCPT, "550 5.1.1 https://www.spamhaus.org/query/ip/192.0.2.9", V.BLOCKED),
        (Phase.RCPT, "550 5.1.8 User unknown at your domain", V.BLOCKED),
        (Phase.RCPT, "550 5.7.1 Something", V.BLOCKED),
        (Phase.RCPT, "550 5.6.9 Something", V.BLOCKED),
        (Phase.RCPT, "550 5.7.1 Mailbox full", V.BLOCKED),
        (Phase.RCPT, "550 5.7.1 Quota of this hour reached", V.THROTTLED),
        (Phase.DOT, "552 Your sending quota is full", V.THROTTLED),
        (Phase.DOT, "550 SubmissionQuotaExceeded", V.THROTTLED),
        (Phase.RCPT, "550 Your SMTP account is suspended", V.CONFIGURATION),
        (Phase.RCPT, "550 SMTP AUTH is required", V.CONFIGURATION),
        (Phase.DOT, "550 No DKIM signature", V.AUTHENTICATION),
        (Phase.DOT, "550 5.7.25 Rejected", V.AUTHENTICATION),
        (Phase.RCPT, "550 5.2.1 Too many messages for this user, slow down", V.THROTTLED),
        (Phase.RCPT, "550 Mailbox temporarily unavailable", V.SOFT),
        (Phase.RCPT, "550 Recipient server unavailable or busy", V.DEFERRED),
        (Phase.RCPT, "550 5.1.1 Refused due to recipient preferences", V.BLOCKED),
        (Phase.RCPT, "502 Unknown user command", V.SOFT),
        (Phase.RCPT, "550 Not taken from <unknown.user@example.org>", V.SOFT),
        (Phase.DOT, "550 Message contains an invalid address in a header", V.SOFT),
        # Disabled: perhaps temporary, unless the text states that it is permanent
        (Phase.RCPT, "550 5.2.1 Mailbox disabled", V.DISABLED),
        (Phase.RCPT, "550 5.2.1 This account has been disabled or discontinued", V.DISABLED),
        (Phase.RCPT, "550 5.2.1 The account that you tried to reach is inactive", V.DISABLED),
        (Phase.RCPT, "550 5.2.1 No such user", V.DISABLED),
        # No domain: perhaps temporary, too, unless the text states that it accepts no mail
        (Phase.RCPT, "550 5.1.2 Bad domain", V.NO_DOMAIN),
        (Phase.RCPT, "550 Domain example.org does not exist", V.NO_DOMAIN),
        (Phase.RCPT, "450 4.1.2 Domain not found", V.DEFERRED),
        (Phase.RCPT, "550 5.1.10 Recipient address has null MX", V.HARD),
        (Phase.RCPT, "550 5.4.4 example.org has a nullMX record", V.HARD),
        (Phase.RCPT, "556 5.1.10 No", V.HARD),
        (Phase.RCPT, "550 The domain example.org does not accept mail", V.HARD),
        (Phase.RCPT, "550 5.7.27 Sender address has null MX", V.AUTHENTICATION),
        # Routing and recipient verification
        (Phase.RCPT, "550 5.1.1 Unverified address: connection timed out", V.DEFERRED),
        (Phase.RCPT, "550 Callout failed: User unknown", V.DEFERRED),
        (Phase.RCPT, "550 5.7.1 Greylisted", V.GREYLISTED),
        # About the message, after the recipient was accepted
        (Phase.DOT, "550 5.1.1 User unknown", V.SOFT),
        (Phase.DATA, "550 No such user", V.SOFT),
        (Phase.DOT, "554 delivery error: dd No such mailbox", V.HARD),
        (Phase.RCPT, "550 Message refused", V.BLOCKED),
        (Phase.DOT, "552 5.2.2 Mailbox full", V.FULL),
        # Too large
        (Phase.DOT, "552 5.3.4 Message too big", V.TOO_LARGE),
        (Phase.MAIL, "552 5.3.4 Message size exceeds fixed limit", V.TOO_LARGE),
        (Phase.DOT, "552 Message size exceeds maximum permitted", V.TOO_LARGE),
        (Phase.RCPT, "550 5.1.1 Max message size exceeded", V.TOO_LARGE),
        # Temporary
        (Phase.RCPT, "452 4.3.1 Insufficient system storage", V.DEFERRED),
        (Phase.RCPT, "452 4.5.3 Too many recipients", V.DEFERRED),
        (Phase.RCPT, "452 Later", V.DEFERRED),
        (Phase.RCPT, "450 4.1.1 User unknown for now", V.DEFERRED),
        (Phase.MAIL, "451 4.3.0 Local problem", V.DEFERRED),
        (Phase.DOT, "499 What?", V.DEFERRED),
        (Phase.RCPT, "450 4.7.1 Your host is on a blocklist", V.DEFERRED),
        (Phase.RCPT, "450 4.7.1 Blocklist says too many messages", V.DEFERRED),
        (Phase.RCPT, "550 5.3.1 Your sending quota is reached", V.DEFERRED),
        (Phase.DATA, "399 What?", V.CONNECTION),
        (Phase.DOT, "299 Ok", V.ACCEPTED),
        (Phase.DOT, "300 What?", V.UNKNOWN),
        (Phase.MAIL, "500 5.5.1 No", V.CONFIGURATION),
        (Phase.MAIL, "499 4.5.0 No", V.DEFERRED),
        (Phase.RCPT, "499 4.1.1 No such user", V.DEFERRED),
        (Phase.MAIL, "552 5.3.4 Too big", V.TOO_LARGE),
        (Phase.RCPT, "500 Message too large", V.TOO_LARGE),
        (Phase.RCPT, "550 5.3.4 No", V.TOO_LARGE),
        (Phase.RCPT, "550 5.2.3 No", V.TOO_LARGE),
        (Phase.DOT, "552 The content is too big", V.TOO_LARGE),
        (Phase.DOT, "554 The content is too big", V.TOO_LARGE),
        (Phase.DOT, "553 The content is too big", V.BLOCKED),
        (Phase.RCPT, "452 Message too large", V.DEFERRED),
        # Other permanent refusals
        (Phase.RCPT, "550 5.0.0 No", V.SOFT),
        (Phase.DOT, "554 Transaction failed", V.BLOCKED),
        (Phase.RCPT, "554 Transaction failed", V.SOFT),
        # Accepted, or out of sequence
        (Phase.DOT, "250 2.0.0 Ok: queued as FULLQUOTA", V.ACCEPTED),
        (Phase.DOT, "251 Forwarded at any rate", V.ACCEPTED),
        (Phase.DOT, "354 More?", V.UNKNOWN),
        (Phase.DATA, "250 Ok", V.CONNECTION),
    ],
)  # fmt: skip
def test_replies_map_to_the_expected_verdict(phase, text, verdict):
    assert verdict_of(phase, read(text)) is verdict


@given(st.sampled_from(Phase), st.integers(200, 599), st.text(max_size=80))
def test_every_reply_has_a_verdict_and_only_2yz_at_the_dot_is_accepted(phase, code, text):
    verdict = verdict_of(phase, Reply(code, None, text))

    assert (verdict is V.ACCEPTED) == (code < 300 and phase is Phase.DOT)


ABOUT_US = [
    "your IP is on a blocklist",
    "sender rejected",
    "no PTR record",
    "spam",
    "message limit of the hour reached",
    "relay access denied",
    "DMARC policy",
    "policy violation",
    "listed at bl.spamcop.net",
    "authentication required",
]


@given(
    st.sampled_from([p for p in Phase if p not in {Phase.MAIL, Phase.LOGIN}]),
    st.sampled_from([550, 551, 552, 553, 554, 571, 452, 450]),
    st.sampled_from([None, "5.1.1", "5.2.1", "5.2.2", "5.1.2", "5.1.0", "5.0.0", "5.7.1", "5.4.1"]),
    st.sampled_from(ABOUT_US),
)
def test_text_about_the_sender_overrides_any_code(phase, code, enhanced, words):
    reply = Reply(code, enhanced, words)

    assert subject_of(phase, reply) is Subject.US or code < 500
    assert strike_of(verdict_of(phase, reply), enhanced) is None


@given(
    st.sampled_from(Phase),
    st.sampled_from(["5.1.7", "5.1.8", "5.6.0", "5.6.7", "5.7.0", "5.7.1", "5.7.99", "5.7.708"]),
    st.text(max_size=20),
)
def test_codes_about_the_sender_or_the_content_never_count(phase, enhanced, text):
    letters = "".join(letter for letter in text if letter.isascii())

    assert strike_of(verdict_of(phase, Reply(550, enhanced, letters)), enhanced) is None


@given(st.sampled_from(Phase), st.integers(400, 499), st.text(max_size=80))
def test_temporary_failures_are_never_hard(phase, code, text):
    assert verdict_of(phase, Reply(code, None, text)) is not V.HARD


# --- Parsing ------------------------------------------------------------------------------------


def test_multiline_reply_is_joined_into_one_text():
    reply = read("550-5.1.1 The account does not\n550-5.1.1 exist. Try\n550 5.1.1 again")

    assert reply == Reply(550, "5.1.1", "The account does not exist. Try again")


@pytest.mark.parametrize(
    ("text", "enhanced"),
    [
        ("550 5.1.1", "5.1.1"),
        ("550 4.1.1 classes disagree", None),
        ("250 2.0.0 Ok", "2.0.0"),
        ("550 5.1.1000 no code", None),
        ("550 version 5.1.1", None),
    ],
)
def test_enhanced_code_must_be_first_and_match_the_reply_class(text, enhanced):
    assert read(text).enhanced == enhanced


@pytest.mark.parametrize("text", ["", "hello", "99 no", "999 no", "150 no", "\xff\xfe"])
def test_invalid_replies_raise_value_error(text):
    with pytest.raises(ValueError):  # noqa: PT011  (int's own)
        read(text)


@given(st.lists(st.binary(max_size=6_000), min_size=1, max_size=4))
@example([b"550 " + b"a" * 4_000])
@example([b"550 \xd8\x80\xd8\x9c\xf3\xa0\x80\x81"])  # U+0600, U+061C, U+E0001
@example([b"550-a\0b\x1b[31m", b"550 \xed\xa0\x80\xe2\x80\xae"])
def test_reply_text_is_printable_and_limited_in_length(lines):
    """It is cleaned once, when it is parsed, so that it fits every column and log line."""
    reply = parse_reply([b"550 " + line[4:] for line in lines])

    assert not any(unicodedata.category(letter) in {"Cc", "Cf", "Cs"} for letter in reply.text)
    assert len(reply.text) <= LONGEST
    reply.text.encode()


def test_overlong_queue_id_is_none():
    assert queue_id(read("250 Ok: queued as " + "A" * 900)) is None
    assert queue_id(read("250 Ok: queued as " + "A" * 200)) == "A" * 200


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=4))
def test_any_octets_parse_or_raise_value_error(lines):
    try:
        reply = parse_reply(lines)
    except ValueError:
        return
    assert 200 <= reply.code <= 599


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("250 2.0.0 Ok: queued as 4F5C3A1B", "4F5C3A1B"),
        ("250 OK id=1rAbCd-0001Xy-2Z", "1rAbCd-0001Xy-2Z"),
        ("250 2.0.0 OK  1893571200 a1-20020a05.12 - gsmtp", "a1-20020a05.12"),
        ("250 Ok 0102018c2f3a-1b2c-4d5e-000000", "0102018c2f3a-1b2c-4d5e-000000"),
        ("250 2.6.0 <x@y> [InternalId=123, Hostname=h] Queued mail for delivery", "123"),
        ("250 2.0.0 4BQ8x0aB012345 Message accepted for delivery", "4BQ8x0aB012345"),
        ("250 Ok", None),
    ],
)
def test_queue_id_is_extracted_from_the_reply(text, name):
    assert queue_id(read(text)) == name


def test_addresses_are_removed_from_logged_replies():
    reply = read("530 5.7.0 <ada@example.org>: not for bob@example.org, log in first")

    assert without_addresses(reply) == "530 5.7.0 <address>: not for <address>, log in first"
