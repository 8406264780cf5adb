"""One message and one server: the order of commands, and the outcome returned for each reply."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time

import pytest

from pipeline.domain import Verdict
from pipeline.errors import TransportError
from pipeline.settings import SMTPServer
from pipeline.smtp import Phase, Reply, Security, SMTPTransport
from pipeline.smtp.session import SessionLimits
from tests.support.certificates import make_authority
from tests.support.sinks import FEATURES, HANG_UP, PLAIN_FEATURES, STAY_SILENT, open_sink

BODY = b"Subject: hello\r\n\r\n..a dotted line\r\nthe end\r\n"


@pytest.fixture
def connect():
    """Return a function that opens connections; they are closed when the test ends."""
    with contextlib.ExitStack() as opened:

        def connect(sink, *, host="127.0.0.1", login=(None, None), bounds=None, **options):
            server = SMTPServer(host, sink.port, *login, implicit_tls=sink.implicit_tls)
            connection = SMTPTransport(server, bounds=bounds or SessionLimits(), **options).open()
            opened.callback(connection.abandon)
            return connection

        yield connect


def send(connection, recipient="ada@example.org", body=BODY):
    return connection.begin("paper@example.org", recipient, body) or connection.finish()


@pytest.fixture(params=[FEATURES, PLAIN_FEATURES], ids=["pipelined", "step by step"])
def sink(request):
    with open_sink(features=request.param) as sink:
        yield sink


# --- Normal sessions ----------------------------------------------------------------------------


def test_message_is_delivered_unchanged(connect, sink):
    connection = connect(sink)

    outcome = send(connection)
    connection.close()

    assert outcome.verdict is Verdict.ACCEPTED
    assert outcome.queue_id == "Q1"
    assert [(m.sender, m.recipient, m.body) for m in sink.accepted] == [
        ("paper@example.org", "ada@example.org", BODY)
    ]
    assert sink.commands[-1] == "QUIT"


def test_disconnecting_before_the_dot_withdraws_the_message(connect, sink):
    """If we disconnect instead of sending the dot, the message is withdrawn."""
    connection = connect(sink)

    assert connection.begin("paper@example.org", "ada@example.org", BODY) is None
    connection.close()

    assert sink.accepted == []
    assert "QUIT" not in sink.commands, "inside a body QUIT would be text"


def test_one_connection_carries_many_messages(connect, sink):
    connection = connect(sink)

    for number in range(3):
        assert send(connection, f"reader{number}@example.org").verdict is Verdict.ACCEPTED

    assert sink.connections == 1
    assert "RSET" not in sink.commands


def test_connection_is_spent_after_its_message_or_age_limit(connect, sink):
    used = connect(sink, bounds=SessionLimits(messages=1))
    send(used)
    old = connect(sink, bounds=SessionLimits(age=0))

    assert used.is_exhausted
    assert old.is_exhausted
    assert not connect(sink).is_exhausted


def test_pipelined_commands_are_sent_in_one_write(connect):
    """RFC 2920: the three commands need one round trip."""
    with open_sink() as sink:
        connection = connect(sink)
        sink.answers = {"MAIL": STAY_SILENT, "RCPT": "250 Ok\r\n250 Ok"}

        assert send(connection).verdict is Verdict.ACCEPTED


# --- Refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moment", "reply", "phase", "verdict"),
    [
        ("MAIL", "550 5.7.1 Not you", Phase.MAIL, Verdict.CONFIGURATION),
        ("RCPT", "550 5.1.1 No such user", Phase.RCPT, Verdict.HARD),
        ("RCPT", "450 4.2.0 Later", Phase.RCPT, Verdict.DEFERRED),
        ("DATA", "451 4.3.0 Later", Phase.DATA, Verdict.DEFERRED),
        ("DOT", "552 5.3.4 Too big", Phase.DOT, Verdict.TOO_LARGE),
        ("DOT", "451 4.7.1 Greylisted", Phase.DOT, Verdict.GREYLISTED),
    ],
)
def test_refusal_reports_its_phase_and_the_next_message_is_accepted(
    connect, sink, moment, reply, phase, verdict
):
    sink.answers = {moment: [reply]}
    connection = connect(sink)

    refused = send(connection)
    accepted = send(connection)

    assert (refused.verdict, refused.phase) == (verdict, phase)
    assert str(refused.reply) == reply
    assert accepted.verdict is Verdict.ACCEPTED
    assert len(sink.accepted) == 1
    assert sink.connections == 1


def test_lone_dot_ends_a_transaction_without_recipients(connect):
    """RFC 2920, section 3.1: some servers return 354 though they accepted no recipient."""
    with open_sink(answers={"RCPT": ["550 5.1.1 Unknown"], "DATA": ["354 Go on"]}) as sink:
        connection = connect(sink)

        refused = send(connection)

        assert refused.verdict is Verdict.HARD
        assert sink.accepted == []
        assert send(connection).verdict is Verdict.ACCEPTED
        assert sink.connections == 1


def test_no_empty_message_is_sent_if_mail_is_refused_and_rcpt_accepted(connect):
    """If MAIL is refused and RCPT accepted, a dot would deliver an empty message."""
    with open_sink(answers={"MAIL": ["451 4.3.0 Later"], "RCPT": "250 Ok"}) as sink:
        connection = connect(sink)

        refused = send(connection)

        assert (refused.verdict, refused.phase) == (Verdict.DEFERRED, Phase.MAIL)
        assert connection.is_exhausted
        assert sink.accepted == []


def test_message_over_the_advertised_size_is_not_sent(connect, sink):
    connection = connect(sink)

    outcome = send(connection, body=b"x" * 1_000_001 + b"\r\n")

    assert outcome.verdict is Verdict.TOO_LARGE
    assert not any(command.startswith("MAIL") for command in sink.commands)


@pytest.mark.parametrize(
    "address", ["a@b>\r\nRCPT TO:<c@d", "a b@example.org", "Müller@example.org"]
)
def test_unencodable_address_is_rejected_before_rcpt(connect, sink, address):
    connection = connect(sink)

    # If the server lacks SMTPUTF8, that is not the fault of the reader.
    expected = Verdict.SOFT if address.isascii() else Verdict.BLOCKED
    assert send(connection, address).verdict is expected
    assert not any(command.startswith("RCPT") for command in sink.commands)


def test_international_address_is_sent_with_smtputf8(connect):
    with open_sink(features=(*FEATURES, "SMTPUTF8")) as sink:
        assert send(connect(sink), "Müller@example.org").verdict is Verdict.ACCEPTED
        assert "MAIL FROM:<paper@example.org> SMTPUTF8" in sink.commands


# --- Lost connections ---------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["MAIL", "RCPT", "DATA"])
@pytest.mark.parametrize("reply", [HANG_UP, "421 4.3.2 Shutting down", "nonsense", "999 what"])
def test_connection_lost_before_the_dot_returns_connection_verdict(connect, sink, moment, reply):
    sink.answers = {moment: reply}
    connection = connect(sink)

    assert send(connection).verdict is Verdict.CONNECTION
    assert connection.is_exhausted
    assert sink.accepted == []


def test_disconnect_before_finish_is_detected(connect, sink):
    """The dot is not sent then, so the message was certainly not accepted."""
    sink.answers = {"BODY": "421 4.3.2 Shutting down"}
    connection = connect(sink)
    assert connection.begin("paper@example.org", "ada@example.org", BODY) is None
    time.sleep(0.2)

    outcome = connection.finish()

    assert outcome.verdict is Verdict.CONNECTION
    assert outcome.phase is Phase.DATA


@pytest.mark.parametrize("reply", [HANG_UP, "nonsense", "354 again?"])
def test_reply_lost_after_the_dot_returns_unknown(connect, sink, reply):
    sink.answers = {"DOT": reply}

    outcome = send(connect(sink))

    assert (outcome.verdict, outcome.phase) == (Verdict.UNKNOWN, Phase.DOT)


def test_reply_421_after_the_dot_returns_connection_verdict(connect, sink):
    sink.answers = {"DOT": "421 4.3.2 Shutting down"}
    connection = connect(sink)

    assert send(connection).verdict is Verdict.CONNECTION
    assert connection.is_exhausted


def test_slow_server_times_out_before_and_after_the_dot(connect, sink):
    sink.answers = {"RCPT": STAY_SILENT}
    before = send(connect(sink, bounds=SessionLimits(deadline=0.2)))
    sink.answers = {"DOT": STAY_SILENT}
    after = send(connect(sink, bounds=SessionLimits(patience=0.2)))

    assert before.verdict is Verdict.CONNECTION
    assert after.verdict is Verdict.UNKNOWN


@pytest.mark.parametrize("reply", ["250-more\r\n" * 200 + "250 end", "250 " + "x" * 10_000])
def test_endless_reply_is_cut_off(connect, sink, reply):
    sink.answers = {"MAIL": reply}

    assert send(connect(sink)).verdict is Verdict.CONNECTION


def test_closing_is_idempotent_after_a_server_disconnect(connect, sink):
    connection = connect(sink)
    sink.hang_up_everywhere()

    connection.close()
    connection.close()

    assert connection.is_exhausted


# --- Opening ------------------------------------------------------------------------------------


def test_unreachable_server_is_named_in_the_error():
    with open_sink() as sink:
        port = sink.port
    server = SMTPServer("127.0.0.1", port, None, None, implicit_tls=False)

    with pytest.raises(TransportError, match=f"127.0.0.1:{port}"):
        SMTPTransport(server).open()


def test_rejected_greeting_is_quoted_in_the_error(connect, sink):
    sink.answers = {"CONNECT": "554 5.7.1 Your network is listed"}

    with pytest.raises(TransportError, match=r"554 5\.7\.1 Your network is listed"):
        connect(sink)


@pytest.mark.parametrize("mechanisms", ["PLAIN", "LOGIN", "LOGIN PLAIN", "CRAM-MD5 PLAIN"])
def test_login_with_plain_and_login_mechanisms(connect, mechanisms):
    with open_sink(features=(*FEATURES, f"AUTH {mechanisms}"), logins={"me": "s p@ß"}) as sink:
        connection = connect(sink, login=("me", "s p@ß"))

        assert send(connection).verdict is Verdict.ACCEPTED


def test_login_error_does_not_contain_the_password(connect):
    with (
        open_sink(features=("AUTH PLAIN LOGIN",), logins={"me": "right"}) as sink,
        pytest.raises(TransportError, match="535") as refused,
    ):
        connect(sink, login=("me", "wrong-password"))

    assert "wrong-password" not in str(refused.value)


def test_server_without_auth_raises_offers_no_login(connect, sink):
    with pytest.raises(TransportError, match="offers no login"):
        connect(sink, login=("me", "secret"))


# --- TLS ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return make_authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def tls(authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "server.pem")
    return context


def test_starttls_is_used_and_verified(connect, tls, authority):
    with open_sink(tls=tls) as sink:
        connection = connect(sink, security=Security.REQUIRED, ca_file=authority / "ca.pem")

        assert send(connection).verdict is Verdict.ACCEPTED
        assert send(connection).verdict is Verdict.ACCEPTED
        connection.close()
        assert "STARTTLS" in sink.commands


def test_implicit_tls_is_used_and_verified(connect, tls, authority):
    with open_sink(tls=tls, implicit_tls=True) as sink:
        connection = connect(sink, ca_file=authority / "ca.pem")

        assert send(connection).verdict is Verdict.ACCEPTED


@pytest.mark.parametrize("implicit_tls", [True, False])
def test_certificate_of_an_unknown_authority_is_rejected(connect, tls, implicit_tls):
    with (
        open_sink(tls=tls, implicit_tls=implicit_tls) as sink,
        pytest.raises(TransportError, match="TLS failed"),
    ):
        connect(sink, security=Security.REQUIRED)


def test_certificate_for_another_name_is_rejected(connect, tls, authority):
    with open_sink(tls=tls) as sink, pytest.raises(TransportError, match="TLS failed"):
        connect(sink, host="localhost", security=Security.REQUIRED, ca_file=authority / "ca.pem")


def test_server_without_starttls_gets_no_mail_if_tls_is_required(connect, sink):
    with pytest.raises(TransportError, match="offers no STARTTLS"):
        connect(sink, security=Security.REQUIRED)

    assert not any(command.startswith("MAIL") for command in sink.commands)


def test_plain_text_injected_after_starttls_is_rejected(connect, tls, authority):
    """CVE-2011-0411: plain text that arrives together with the 220 is refused."""
    with open_sink(tls=tls) as sink:
        sink.answers = {"STARTTLS": "220 2.0.0 Go ahead\r\n250 slipped in"}

        with pytest.raises(TransportError, match="in the clear"):
            connect(sink, security=Security.REQUIRED, ca_file=authority / "ca.pem")


def test_refused_starttls_raises(connect, tls, authority):
    with open_sink(tls=tls) as sink:
        sink.answers = {"STARTTLS": "454 4.7.0 TLS not available"}

        with pytest.raises(TransportError, match="TLS not available"):
            connect(sink, security=Security.REQUIRED, ca_file=authority / "ca.pem")


def test_unanswered_tls_handshake_times_out():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = SMTPServer("127.0.0.1", listener.getsockname()[1], None, None, implicit_tls=True)

        with pytest.raises(TransportError, match="slow"):
            SMTPTransport(server, bounds=SessionLimits(opening=0.3)).open()


def test_implicit_tls_to_a_plain_text_server_raises():
    with open_sink() as sink:
        server = SMTPServer("127.0.0.1", sink.port, None, None, implicit_tls=True)

        with pytest.raises(TransportError, match="TLS failed"):
            SMTPTransport(server).open()


def test_starttls_is_not_used_on_loopback_by_default(connect, tls):
    with open_sink(tls=tls) as sink:
        assert send(connect(sink)).verdict is Verdict.ACCEPTED
        assert "STARTTLS" not in sink.commands


def test_str_of_a_reply_has_code_enhanced_code_and_text():
    assert str(Reply(550, "5.1.1", "No such user")) == "550 5.1.1 No such user"
