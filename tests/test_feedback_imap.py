"""Bounce mailboxes: every mail is applied, then moved or flagged, and none is ever deleted."""

from __future__ import annotations

import socketserver
import threading
from typing import Any, ClassVar

import pytest

from pipeline.errors import MailboxError, SettingsError
from pipeline.feedback import imap
from pipeline.feedback.imap import parse, read_imap
from pipeline.feedback.mailboxes import LARGEST, read_maildir
from tests.support import dovecot
from tests.support.dovecot import FAR_AWAY, Dovecot

BOUNCE = b"Subject: Undelivered Mail\r\n\r\nno such user\r\n"
LETTER = b"Subject: Hello\r\n\r\nhow are you?\r\n"
PASSWORDS = ("pass wörd", 'a"b\\c', "密码", "{3}", "p%40ss")
SEEN, FLAGGED = {r"\Seen"}, {r"\Flagged"}


@pytest.fixture(scope="module")
def server():
    """Run a server that requires folders below INBOX, as many do."""
    with dovecot.open_dovecot(prefix="INBOX.", passwords=PASSWORDS) as server:
        yield server


@pytest.fixture
def account(server) -> Dovecot:
    return server.account()


class Reader:
    """A callback that recognises bounces; it raises at the mail with the number `dies_at`."""

    def __init__(self, dies_at: int = 0) -> None:
        self.read: list[bytes] = []
        self.names: list[str] = []
        self._dies_at = dies_at

    def __call__(self, name: str, octets: bytes) -> bool:
        self.read.append(octets)
        self.names.append(name)
        if len(self.read) == self._dies_at:
            raise KeyboardInterrupt
        return b"Undelivered" in octets


# --- IMAP ---------------------------------------------------------------------------------------


@pytest.mark.dovecot
def test_bounces_are_moved_and_other_mails_are_flagged(account):
    account.deliver(BOUNCE, LETTER)
    reader = Reader()

    assert read_imap(account.url(), reader) == 2

    assert reader.read == [BOUNCE, LETTER]
    assert account.holds() == [(LETTER, FLAGGED)]
    assert account.holds("INBOX.Paperboy") == [(BOUNCE, SEEN)]


@pytest.mark.dovecot
def test_second_read_returns_only_new_mails(account):
    account.deliver(BOUNCE, LETTER)
    read_imap(account.url(), Reader())
    account.deliver(BOUNCE)
    reader = Reader()

    assert read_imap(account.url(), reader) == 1
    assert read_imap(account.url(), reader) == 0

    assert reader.read == [BOUNCE]
    assert account.holds("INBOX.Paperboy") == [(BOUNCE, SEEN)] * 2


@pytest.mark.dovecot
def test_mail_interrupted_while_applied_is_read_again(account):
    first, second = (BOUNCE.replace(b"user", b"user %d" % n) for n in (1, 2))
    account.deliver(first, second)
    with pytest.raises(KeyboardInterrupt):
        read_imap(account.url(), Reader(dies_at=2))
    reader = Reader()

    read_imap(account.url(), reader)

    assert reader.read == [second]
    assert account.holds() == []


@pytest.mark.dovecot
def test_only_the_beginning_of_a_huge_mail_is_read(account):
    account.deliver(BOUNCE + b"x" * LARGEST)
    reader = Reader()

    read_imap(account.url(), reader)

    assert [len(octets) for octets in reader.read] == [LARGEST]


@pytest.mark.dovecot
def test_url_can_name_another_folder(account):
    with account._client() as imap:
        imap.create("INBOX.Back")
    account.deliver(BOUNCE, box="INBOX.Back")
    reader = Reader()

    assert read_imap(account.url(box="INBOX.Back"), reader) == 1
    assert reader.names == ["INBOX.Back/1"]
    with pytest.raises(MailboxError):
        read_imap(account.url(box="INBOX.Nowhere"), reader)


@pytest.mark.dovecot
@pytest.mark.parametrize(("scheme", "host"), [("imaps", "127.0.0.1"), ("imap", FAR_AWAY)])
def test_tls_certificate_of_the_server_is_verified(account, scheme, host):
    account.deliver(BOUNCE)
    url = account.url(scheme, host=host)

    with pytest.raises(MailboxError, match="certificate"):
        read_imap(url, Reader())
    assert read_imap(url, Reader(), ca_file=account.certificate) == 1


@pytest.mark.full
@pytest.mark.dovecot
def test_wrong_password_error_does_not_show_it(account):
    with pytest.raises(MailboxError, match="the mailbox at 127") as raised:
        read_imap(account.url(password="hunter2"), Reader())

    assert "hunter2" not in str(raised.value)


@pytest.mark.dovecot
@pytest.mark.parametrize("password", PASSWORDS)
def test_login_accepts_passwords_with_any_characters(server, password):
    account = server.guarded(password)
    account.deliver(BOUNCE)

    assert read_imap(account.url(), Reader()) == 1


class PlainImap(socketserver.StreamRequestHandler):
    """A small IMAP server with the quirks of some providers: `ways` sets them, `seen` has lines.

    It offers LOGIN only, requires ID before SELECT, answers an empty SEARCH without a SEARCH line,
    and sends bodies as `body`: a literal, or a quoted string.
    """

    ways: ClassVar[dict[str, Any]] = {}
    seen: ClassVar[list[bytes]] = []

    def handle(self) -> None:
        identified = False
        self.say(b"* OK ready")
        while line := self.rfile.readline().strip():
            self.seen.append(line)
            tag, command, *rest = line.split(b" ", 2)
            if command == b"CAPABILITY":
                self.say(b"* CAPABILITY IMAP4rev1 ID")
            elif command == b"ID":
                identified = True
            elif command == b"SELECT":
                if not identified:
                    self.say(tag + b" NO SELECT Unsafe Login")
                    continue
                self.say(b"* %d EXISTS" % self.ways["mails"])
            elif rest and rest[0].startswith(b"SEARCH") and self.ways["mails"]:
                self.say(b"* SEARCH 7")
            elif rest and rest[0].startswith(b"FETCH"):
                self.say(
                    b"* 1 FETCH (FLAGS ())", b"* 1 FETCH (UID 7 BODY[]<0> " + self.ways["body"]
                )
            self.say(tag + b" OK done")

    def say(self, *lines: bytes) -> None:
        self.wfile.write(b"".join(line + b"\r\n" for line in lines))


@pytest.fixture
def plain_imap():
    PlainImap.seen.clear()
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), PlainImap) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("body", "octets"),
    [
        (b"{4}\r\nab\r\n)", b"ab\r\n"),
        (b'"a \\"b\\" \\\\c")', b'a "b" \\c'),
        (b'"")', b""),
    ],
)
def test_imap_server_with_quirks_is_supported(plain_imap, body, octets):
    """The user name is quoted, the client sends ID, and a body may be a quoted string."""
    PlainImap.ways = {"mails": 1, "body": body}
    reader = Reader()

    assert read_imap(f"imap://ada%20d%C3%B6e:p%22w@127.0.0.1:{plain_imap}", reader) == 1

    assert reader.read == [octets]
    assert any(line.endswith(' LOGIN "ada döe" "p\\"w"'.encode()) for line in PlainImap.seen)


def test_empty_folder_without_a_search_response_is_accepted(plain_imap):
    PlainImap.ways = {"mails": 0}

    assert read_imap(f"imap://ada:pw@127.0.0.1:{plain_imap}", Reader()) == 0


def test_password_with_line_breaks_is_rejected_before_login(plain_imap):
    PlainImap.ways = {"mails": 0}

    with pytest.raises(SettingsError, match="line breaks"):
        read_imap(f"imap://ada:pw%0D%0Ax@127.0.0.1:{plain_imap}", Reader())

    assert not any(b"LOGIN" in line for line in PlainImap.seen)


@pytest.mark.dovecot
def test_many_new_mails_are_read_in_slices(account, monkeypatch):
    """`imaplib` refuses lines of over 1 MB, so no SEARCH covers the whole folder."""
    monkeypatch.setattr(imap, "SLICE", 3)
    account.deliver(*(BOUNCE.replace(b"user", b"user %d" % n) for n in range(8)))
    reader = Reader()

    assert read_imap(account.url(), reader) == 8
    assert read_imap(account.url(), Reader()) == 0

    assert len(set(reader.read)) == 8


@pytest.mark.dovecot
def test_bounces_are_marked_as_seen_if_the_server_cannot_move(request):
    with dovecot.open_dovecot(capability="IMAP4rev1") as server:
        server.deliver(BOUNCE, LETTER)

        assert read_imap(server.url(), Reader()) == 2
        assert read_imap(server.url(), Reader()) == 0

        assert server.holds() == [(BOUNCE, SEEN), (LETTER, FLAGGED)]


def test_unreachable_mailbox_raises_mailbox_error():
    with pytest.raises(MailboxError, match="cannot be read"):
        read_imap("imap://a:b@127.0.0.1:9", Reader())


def test_parse_returns_all_parts_of_a_mailbox_url():
    far = parse("imaps://ada%40example.org:p%40ss@mail.example.org/INBOX/Bounces")
    near = parse("imap://bounces:secret@localhost")

    assert (far.user, far.password, far.folder) == ("ada@example.org", "p@ss", "INBOX/Bounces")
    assert (far.port, far.implicit_tls, far.is_loopback) == (993, True, False)
    assert (near.port, near.folder, near.is_loopback) == (143, "INBOX", True)


@pytest.mark.parametrize(
    "url", ["imap://", "http://a:b@example.org", "imaps://mail.example.org", "imap://a:hunter2@x:y"]
)
def test_parse_rejects_an_invalid_url_without_showing_it(url):
    with pytest.raises(SettingsError) as raised:
        parse(url)

    assert "hunter2" not in str(raised.value)


# --- Maildir ------------------------------------------------------------------------------------


@pytest.fixture
def maildir(tmp_path):
    for name in ("new", "cur", "tmp"):
        (tmp_path / name).mkdir()
    (tmp_path / "new" / "1.a").write_bytes(BOUNCE)
    (tmp_path / "new" / "2.b").write_bytes(LETTER)
    (tmp_path / "cur" / "0.c:2,S").write_bytes(BOUNCE)
    return tmp_path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_new_mails_of_a_maildir_are_read_once(maildir):
    reader = Reader()

    assert read_maildir(maildir, reader) == 2
    assert read_maildir(maildir, reader) == 0

    assert reader.read == [BOUNCE, LETTER]
    assert names(maildir / "cur") == ["0.c:2,S", "1.a:2,S", "2.b:2,F"]


def test_maildir_reads_unseen_mails_in_cur(maildir):
    """Mails in `cur` that are seen, flagged or trashed are left alone."""
    for name in ("3.d:2,", "4.e:2,PR", "5.f", "6.g:2,F", "7.h:2,T", ".hidden"):
        (maildir / "cur" / name).write_bytes(BOUNCE)
    reader = Reader()

    read_maildir(maildir, reader)

    assert reader.names == ["1.a", "2.b", "3.d:2,", "4.e:2,PR", "5.f"]
    assert {"3.d:2,S", "4.e:2,PRS", "5.f:2,S"} <= set(names(maildir / "cur"))


def test_maildir_mail_interrupted_while_applied_is_read_again(maildir):
    with pytest.raises(KeyboardInterrupt):
        read_maildir(maildir, Reader(dies_at=2))
    assert names(maildir / "new") == ["2.b"]
    reader = Reader()

    assert read_maildir(maildir, reader) == 1
    assert reader.read == [LETTER]


def test_concurrent_readers_of_a_maildir_lose_no_mail(maildir):
    """Another process moves a mail while it is applied here."""

    def beside(name, octets):
        if name == "1.a":
            read_maildir(maildir, Reader())
        return True

    assert read_maildir(maildir, beside) == 1
    assert names(maildir / "new") == []
    assert names(maildir / "cur") == ["0.c:2,S", "1.a:2,S", "2.b:2,F"]


def test_unreadable_maildir_file_is_skipped(maildir):
    (maildir / "new" / "0.loop").symlink_to("0.loop")  # even root cannot open it
    reader = Reader()

    assert read_maildir(maildir, reader) == 2

    assert reader.names == ["1.a", "2.b"]


def test_folder_that_is_no_maildir_is_rejected(tmp_path):
    with pytest.raises(MailboxError, match="not a Maildir"):
        read_maildir(tmp_path, Reader())
