"""The built-in mailbox: store each message byte for byte and show it in a browser."""

from __future__ import annotations

import smtplib
import socket
from datetime import UTC, datetime

import pytest

from pipeline import mailbox
from pipeline.errors import NotFoundError
from pipeline.mailbox import Mailbox

RAW = (
    b"From: Paperboy <paperboy@example.org>\r\n"
    b"To: ada@example.org\r\n"
    b"Subject: =?utf-8?q?Papers_for_2_Jan=3A_Caf=C3=A9?=\r\n"
    b" with a second line\r\n"
    b"Date: Wed, 02 Jan 2030 08:00:00 +0000\r\n"
    b"MIME-Version: 1.0\r\n"
    b'Content-Type: multipart/alternative; boundary="b"\r\n'
    b"\r\n"
    b"--b\r\n"
    b'Content-Type: text/plain; charset="utf-8"\r\n'
    b"Content-Transfer-Encoding: quoted-printable\r\n"
    b"\r\n"
    b"Caf=C3=A9\r\n"
    b".a line with a dot\r\n"
    b"--b\r\n"
    b'Content-Type: text/html; charset="utf-8"\r\n'
    b"\r\n"
    b"<p>Caf\xc3\xa9</p>\r\n"
    b"--b--\r\n"
)


@pytest.fixture
def box(tmp_path):
    return Mailbox(tmp_path / "mail")


def _send(port: int, raw: bytes = RAW) -> None:
    with smtplib.SMTP("127.0.0.1", port, local_hostname="localhost", timeout=10) as client:
        client.sendmail("bounce+17@example.org", ["ada@example.org"], raw)


def test_message_is_stored_byte_for_byte(box):
    with mailbox.serve("127.0.0.1", 0, box) as port:
        _send(port)

    [letter] = box.messages()
    assert box.read(letter.id).raw == RAW


def test_listing_shows_decoded_headers(box):
    with mailbox.serve("127.0.0.1", 0, box) as port:
        _send(port)

    [letter] = box.messages()

    assert letter.mail_from == "bounce+17@example.org"
    assert letter.sender == "Paperboy <paperboy@example.org>"
    assert letter.to == "ada@example.org"
    assert letter.subject == "Papers for 2 Jan: Café with a second line"
    assert letter.date == datetime(2030, 1, 2, 8, tzinfo=UTC)


def test_read_returns_the_text_and_html_parts(box):
    opened = box.read(box.keep("", RAW))

    assert opened.text == "Café\r\n.a line with a dot"
    assert opened.html == "<p>Café</p>"


def test_messages_are_listed_newest_first_up_to_the_limit(box):
    ids = [box.keep("", b"Subject: %d\r\n\r\n" % number) for number in range(12)]

    assert [letter.id for letter in box.messages(limit=10)] == ids[:1:-1]


def test_messages_survive_a_restart(box):
    id_ = box.keep("", RAW)

    assert Mailbox(box.folder).read(id_).raw == RAW


@pytest.mark.parametrize("id_", ["", "../../etc/passwd", "0" * 20 + "-1-1", "0" * 20 + "-1-1\n"])
def test_unknown_or_malformed_id_raises_not_found(box, id_):
    with pytest.raises(NotFoundError):
        box.read(id_)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\r\n\r\n",
        b"Subject: =?klingon?q?Qapla?=\r\nDate: yesterday\r\n\r\nbody\r\n",
        b"Content-Type: text/plain; charset=klingon\r\n\r\n\xff\xfe\r\n",
        b"Subject: \xff\xfe\r\nContent-Type: multipart/mixed\r\n\r\nno boundary\r\n",
    ],
)
def test_malformed_message_is_listed_and_read(box, raw):
    """An operator who debugs a mail needs to see it as it was sent."""
    id_ = box.keep("", raw)

    assert [letter.id for letter in box.messages()] == [id_]
    assert box.read(id_).raw == raw


def test_pipelined_commands_are_accepted(box):
    """RFC 2920: a client may send a group of commands without waiting for each reply."""
    commands = (
        b"EHLO localhost\r\n"
        b"MAIL FROM:<a@example.org> BODY=8BITMIME\r\n"
        b"RCPT TO:<b@example.org>\r\n"
        b"DATA\r\n" + RAW.replace(b"\r\n.", b"\r\n..") + b".\r\nQUIT\r\n"
    )

    with (
        mailbox.serve("127.0.0.1", 0, box) as port,
        socket.create_connection(("127.0.0.1", port), timeout=10) as client,
    ):
        client.sendall(commands)
        with client.makefile("rb") as replies:
            said = replies.read()

    assert b"250-PIPELINING\r\n" in said
    assert b"250-8BITMIME\r\n" in said
    assert b"250-SIZE " in said
    assert said.splitlines()[-1].startswith(b"221")
    assert [letter.subject for letter in box.messages()] != []


def test_server_stops_while_a_client_is_connected(box):
    with mailbox.serve("127.0.0.1", 0, box) as port:
        client = socket.create_connection(("127.0.0.1", port), timeout=10)
        assert client.recv(100).startswith(b"220")

    client.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=10)


def test_inbox_fixture_refuses_configured_recipients(inbox):
    """The SMTP server of other tests refuses at RCPT or at the dot if a test asks for it."""
    inbox.refuse["ada@example.org"] = "450 4.2.0 Greylisted"
    inbox.refuse_at_dot["bob@example.org"] = "550 5.7.1 Looks like spam"

    with smtplib.SMTP(inbox.host, inbox.port, local_hostname="localhost", timeout=10) as client:
        with pytest.raises(smtplib.SMTPRecipientsRefused) as at_rcpt:
            client.sendmail("x@example.org", ["ada@example.org"], RAW)
        with pytest.raises(smtplib.SMTPDataError) as at_dot:
            client.sendmail("x@example.org", ["bob@example.org"], RAW)
        client.sendmail("x@example.org", ["eve@example.org"], RAW)

    assert at_rcpt.value.recipients["ada@example.org"] == (450, b"4.2.0 Greylisted")
    assert at_dot.value.smtp_code == 550
    assert inbox.only().rcpt_to == ("eve@example.org",)
    assert inbox.only().raw == RAW
