"""Servers that misbehave at every step: the outcome is correct, and each attempt ends."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter

import pytest

from pipeline.domain import Verdict
from pipeline.errors import TransportError
from pipeline.settings import SMTPServer
from pipeline.smtp import Phase, SMTPTransport, session
from pipeline.smtp.session import SessionLimits
from pipeline.smtp.stream import never_give_up
from tests.support.sinks import (
    DRIP,
    ENDLESS,
    FEATURES,
    HANG_UP,
    PLAIN_FEATURES,
    STAY_SILENT,
    open_sink,
)

BODY = b"Subject: hello\r\n\r\nhello\r\n"
SOON = 0.15  # seconds, for timeouts that a test reaches
LATE = 8.0  # seconds, for timeouts that must not be reached on a busy machine

MISBEHAVIOUR = {
    "hangs up": HANG_UP,
    "is silent": STAY_SILENT,
    "drips": f"{DRIP}250-{'x' * 1000}",
    "never ends its reply": f"{ENDLESS}250-more\r\n",
    "never ends its line": f"{ENDLESS}{'x' * 100}",
    "talks nonsense": "hello there",
    "has codes of its own": "999 5.9.9 What?",
    "says goodbye": "421 4.3.2 Shutting down",
}
NOBODY = (None, None)
GETTING_IN = ("CONNECT", "EHLO", "AUTH")
BEFORE_THE_DOT = ("MAIL", "RCPT", "DATA")


@pytest.fixture(params=[FEATURES, PLAIN_FEATURES], ids=["pipelined", "step by step"])
def sink(request):
    features = (*request.param, "AUTH PLAIN LOGIN")
    with open_sink(features=features, logins={"me": "secret"}) as sink:
        yield sink


@pytest.fixture
def connect():
    """Return a function that opens connections; they are closed when the test ends."""
    with contextlib.ExitStack() as opened:

        def connect(sink, *, login=("me", "secret"), give_up=never_give_up, **bounds):
            server = SMTPServer("127.0.0.1", sink.port, *login, implicit_tls=False)
            patience = {"opening": LATE, "deadline": LATE, "patience": LATE, **bounds}
            conversation = SMTPTransport(server, bounds=SessionLimits(**patience)).open(give_up)
            opened.callback(conversation.abandon)
            return conversation

        yield connect


def send(conversation, recipient="ada@example.org"):
    return conversation.begin("paper@example.org", recipient, BODY) or conversation.finish()


@pytest.fixture(autouse=True)
def _in_time():
    started = time.monotonic()
    yield
    assert time.monotonic() - started < LATE


# --- Each step, each kind -----------------------------------------------------------------------


@pytest.mark.parametrize("moment", GETTING_IN)
@pytest.mark.parametrize("kind", MISBEHAVIOUR)
def test_misbehaving_server_at_opening_raises_a_transport_error(connect, sink, moment, kind):
    sink.answers = {moment: MISBEHAVIOUR[kind]}

    with pytest.raises(TransportError, match=str(sink.port)):
        connect(sink, opening=SOON)


@pytest.mark.parametrize("moment", BEFORE_THE_DOT)
@pytest.mark.parametrize("kind", MISBEHAVIOUR)
def test_connection_lost_before_the_dot_returns_connection_or_soft(connect, sink, moment, kind):
    sink.answers = {moment: MISBEHAVIOUR[kind]}
    conversation = connect(sink, deadline=SOON)

    outcome = send(conversation)

    # If commands are pipelined, the reply to the next one may have arrived: it is returned, too.
    assert outcome.verdict in {Verdict.CONNECTION, Verdict.SOFT}
    assert outcome.verdict is Verdict.CONNECTION or "PIPELINING" in sink.features
    assert sink.accepted == []
    assert conversation.is_exhausted or outcome.verdict is Verdict.SOFT


@pytest.mark.parametrize("kind", [kind for kind in MISBEHAVIOUR if kind != "says goodbye"])
def test_misbehaviour_after_the_dot_returns_unknown(connect, sink, kind):
    """Never return "given up": the message may have been accepted."""
    sink.answers = {"DOT": MISBEHAVIOUR[kind]}
    conversation = connect(sink, patience=SOON)

    outcome = send(conversation)

    assert (outcome.verdict, outcome.phase) == (Verdict.UNKNOWN, Phase.DOT)
    assert conversation.is_exhausted


@pytest.mark.parametrize("kind", MISBEHAVIOUR)
def test_failure_at_quit_does_not_change_the_outcome(connect, sink, monkeypatch, kind):
    monkeypatch.setattr(session, "QUIT_PATIENCE", SOON)
    conversation = connect(sink)
    sink.answers = {"QUIT": MISBEHAVIOUR[kind]}

    outcome = send(conversation)
    conversation.close()

    assert outcome.verdict is Verdict.ACCEPTED
    assert conversation.is_exhausted


# --- One deadline for an attempt ----------------------------------------------------------------


def test_opening_and_offering_share_one_deadline(connect, sink):
    """The deadline does not start again at each step of a slow server."""
    slow = f"{DRIP}220 sink.test"  # 17 octets, most of a second
    sink.answers = {"CONNECT": slow, "MAIL": STAY_SILENT}
    started = time.monotonic()

    outcome = send(connect(sink, opening=2.0, deadline=1.2))

    assert outcome.verdict is Verdict.CONNECTION
    assert time.monotonic() - started < 2.0


def test_each_message_has_its_own_deadline(connect, sink):
    conversation = connect(sink, deadline=0.4)
    assert send(conversation).verdict is Verdict.ACCEPTED
    time.sleep(0.5)

    assert send(conversation).verdict is Verdict.ACCEPTED


def test_a_tarpit_on_one_connection_does_not_stall_another(connect, sink):
    sink.answers = {"RCPT tar@example.org": STAY_SILENT}
    stuck, free = connect(sink), connect(sink)
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.append(send(stuck, "tar@example.org")))
    thread.start()

    taken = [send(free).verdict for _ in range(20)]
    still_stuck = thread.is_alive()
    sink.hang_up_everywhere()
    thread.join()

    assert still_stuck
    assert Counter(taken) == {Verdict.ACCEPTED: 20}


def test_give_up_ends_the_wait_for_a_reply(connect, sink):
    """When sending has to stop, the wait is a second or so at most."""
    sink.answers = {"DOT": STAY_SILENT}
    stopping = threading.Event()
    conversation = connect(sink, give_up=stopping.is_set)
    threading.Timer(0.1, stopping.set).start()

    assert send(conversation).verdict is Verdict.UNKNOWN


# --- Odd but valid ------------------------------------------------------------------------------


def test_multiline_replies_sent_bytewise_are_parsed(connect, sink):
    sink.bytewise = True
    sink.answers = {
        "MAIL": "250-2.1.0 Well\r\n250 2.1.0 Ok",
        "RCPT": "250-2.1.5 Well\r\n250-and\r\n250 Ok",
        "DOT": "250-2.0.0 Ok\r\n250 2.0.0 queued as Q7",
    }

    outcome = send(connect(sink))

    assert outcome.verdict is Verdict.ACCEPTED
    assert outcome.queue_id == "Q7"


def test_pipelined_replies_received_together_are_accepted(connect):
    with open_sink() as sink:
        sink.answers = {"MAIL": STAY_SILENT, "RCPT": "250 Ok\r\n250 Ok"}

        assert send(connect(sink, login=NOBODY)).verdict is Verdict.ACCEPTED


def test_server_that_supports_only_helo_is_accepted(connect):
    with open_sink(answers={"EHLO": "502 5.5.1 What?"}) as sink:
        assert send(connect(sink, login=NOBODY)).verdict is Verdict.ACCEPTED


# --- False replies ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moment", "reply"),
    [
        ("MAIL", "354 Go on"),
        ("RCPT", "354 Go on"),
        ("DATA", "250 Ok"),
        ("BODY", "250 2.0.0 Ok: queued as Q1"),
        ("MAIL", "250 Ok\r\n250 Ok"),
    ],
)
def test_out_of_order_reply_returns_connection_verdict(connect, sink, moment, reply):
    sink.answers = {moment: reply}
    conversation = connect(sink)

    outcome = conversation.begin("paper@example.org", "ada@example.org", BODY)
    if outcome is None:
        time.sleep(0.1)
        outcome = conversation.finish()

    assert outcome.verdict is Verdict.CONNECTION
    assert sink.accepted == []


def test_enhanced_code_of_another_class_is_ignored(connect, sink):
    """RFC 2034, section 4: "550 4.2.2" does not mean that a mailbox is full."""
    sink.answers = {"RCPT": ["550 2.1.5 Fine"]}

    outcome = send(connect(sink))

    assert outcome.reply.enhanced is None
    assert outcome.verdict is Verdict.SOFT


@pytest.mark.parametrize("then", ["421 4.7.0 Too many errors", HANG_UP])
def test_refusal_counts_even_if_the_server_disconnects(connect, sink, then):
    """Otherwise a delivery to an address that does not exist would be retried every minute."""
    sink.answers = {"RCPT": "550 5.1.1 No such user", "DATA": then}
    conversation = connect(sink)

    assert send(conversation).verdict is Verdict.HARD
    usable = connect(sink) if conversation.is_exhausted else conversation
    assert send(usable).verdict is Verdict.HARD


def test_reply_sent_before_a_disconnect_during_the_body_is_used(connect, sink):
    sink.answers = {"BODY": "552 5.3.4 Too big"}
    conversation = connect(sink)
    body = BODY + b"x" * 78 + b"\r\n"

    outcome = conversation.begin("paper@example.org", "ada@example.org", body * 6_000)
    time.sleep(0.1)
    outcome = outcome or conversation.finish()

    assert outcome.verdict is Verdict.TOO_LARGE
    assert sink.accepted == []


def test_failed_rset_closes_the_connection(connect, sink):
    """Its 503 to the next MAIL would look like a refusal of the sender."""
    sink.answers = {"RCPT": ["450 4.2.0 Later"], "RSET": "502 5.5.1 What?"}
    conversation = connect(sink)
    send(conversation)

    assert send(conversation).verdict is Verdict.CONNECTION
    assert conversation.is_exhausted


@pytest.mark.parametrize("words", ["PLAIN", "LOGIN"])
def test_endless_login_challenges_raise(connect, words):
    with open_sink(features=(f"AUTH {words}",), answers={"AUTH": "334 bW9yZQ=="}) as sink:
        with pytest.raises(TransportError):
            connect(sink)

        assert len(sink.commands) <= 4


# --- The reply table, at every phase ------------------------------------------------------------

TABLE = [
    ("530 5.7.0 Log in first", Verdict.CONFIGURATION),
    ("535 5.7.8 Wrong login", Verdict.CONFIGURATION),
    ("421 4.3.2 Shutting down", Verdict.CONNECTION),
    ("421 4.7.28 Too many messages from you", Verdict.THROTTLED),
    ("421 4.7.0 [TSS04] Messages temporarily deferred", Verdict.THROTTLED),
    ("451 4.7.650 Rate limited", Verdict.THROTTLED),
    ("450 4.2.1 Receiving mail too quickly", Verdict.THROTTLED),
    ("454 Throttling failure: Maximum sending rate exceeded", Verdict.THROTTLED),
    ("451 4.7.1 Greylisted, come back", Verdict.GREYLISTED),
    ("552 5.1.1 Mailbox full", Verdict.FULL),
    ("452 4.2.2 Mailbox full", Verdict.FULL),
    ("552 5.2.2 Over quota", Verdict.FULL),
    ("550 5.7.515 Domain not authenticated", Verdict.AUTHENTICATION),
    ("550 5.7.26 Unauthenticated", Verdict.AUTHENTICATION),
    ("421 4.7.32 From domain not aligned", Verdict.AUTHENTICATION),
    ("550 5.7.1 Policy", Verdict.BLOCKED),
    ("554 Listed by a DNSBL", Verdict.BLOCKED),
    ("550 5.1.1 No such user", Verdict.HARD),
    ("553 5.1.2 No such domain", Verdict.NO_DOMAIN),
    ("550 User unknown", Verdict.HARD),
    ("554 delivery error: dd This user doesn't have a mailbox", Verdict.HARD),
    ("550 5.2.1 Mailbox disabled", Verdict.DISABLED),
    ("552 5.3.4 Message too big", Verdict.TOO_LARGE),
    ("452 4.3.1 Insufficient system storage", Verdict.DEFERRED),
    ("452 4.5.3 Too many recipients", Verdict.DEFERRED),
    ("452 Later", Verdict.DEFERRED),
    ("451 4.3.0 Later", Verdict.DEFERRED),
    ("554 5.6.0 Something", Verdict.BLOCKED),
]
SHOWN = {"MAIL": Phase.MAIL, "RCPT": Phase.RCPT, "DATA": Phase.DATA, "DOT": Phase.DOT}


@pytest.mark.parametrize(("reply", "verdict"), TABLE, ids=[reply for reply, _ in TABLE])
@pytest.mark.parametrize("sink", [FEATURES], indirect=True, ids=["pipelined"])
def test_reply_verdict_depends_on_the_phase(connect, sink, reply, verdict):
    for moment, phase in SHOWN.items():
        code, _, words = reply.partition(" ")
        sink.answers = {moment: f"{code}-{words}\r\n{reply}"}

        outcome = send(connect(sink))

        # "Unknown user" after DATA may be a filter; Yahoo alone checks the user only then.
        too_late = moment in {"DATA", "DOT"} and "dd This user" not in reply
        expected = Verdict.SOFT if verdict is Verdict.HARD and too_late else verdict
        refuses_us = moment == "MAIL" and code[0] == "5" and verdict is not Verdict.TOO_LARGE
        assert outcome.verdict is (Verdict.CONFIGURATION if refuses_us else expected), moment
        assert outcome.phase is phase
    assert sink.accepted == []
