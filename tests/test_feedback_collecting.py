"""Mailboxes of bounces: every mail is applied, then put away, and none is ever deleted."""

from __future__ import annotations

import pytest

from pipeline.errors import MailboxError, SettingsError
from pipeline.feedback.imap import parse, read_imap
from pipeline.feedback.maildir import LARGEST, read_maildir
from tests import dovecot
from tests.dovecot import FAR_AWAY, Dovecot

BOUNCE = b"Subject: Undelivered Mail\r\n\r\nno such user\r\n"
LETTER = b"Subject: Hello\r\n\r\nhow are you?\r\n"
SEEN, FLAGGED = {r"\Seen"}, {r"\Flagged"}


@pytest.fixture(scope="module")
def server():
    """One that wants its folders below INBOX, as many do."""
    with dovecot.open_dovecot(prefix="INBOX.") as server:
        yield server


@pytest.fixture
def account(server) -> Dovecot:
    return server.account()


class Reader:
    """Understands bounces; dies at the mail whose number is `dies_at`."""

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
def test_what_is_understood_is_moved_and_the_rest_waits_for_somebody(account):
    account.deliver(BOUNCE, LETTER)
    reader = Reader()

    assert read_imap(account.url(), reader) == 2

    assert reader.read == [BOUNCE, LETTER]
    assert account.holds() == [(LETTER, FLAGGED)]
    assert account.holds("INBOX.Paperboy") == [(BOUNCE, SEEN)]


@pytest.mark.dovecot
def test_a_mailbox_is_read_again_for_what_is_new(account):
    account.deliver(BOUNCE, LETTER)
    read_imap(account.url(), Reader())
    account.deliver(BOUNCE)
    reader = Reader()

    assert read_imap(account.url(), reader) == 1
    assert read_imap(account.url(), reader) == 0

    assert reader.read == [BOUNCE]
    assert account.holds("INBOX.Paperboy") == [(BOUNCE, SEEN)] * 2


@pytest.mark.dovecot
def test_killed_while_it_is_applied_a_mail_is_read_again(account):
    first, second = (BOUNCE.replace(b"user", b"user %d" % n) for n in (1, 2))
    account.deliver(first, second)
    with pytest.raises(KeyboardInterrupt):
        read_imap(account.url(), Reader(dies_at=2))
    reader = Reader()

    read_imap(account.url(), reader)

    assert reader.read == [second]
    assert account.holds() == []


@pytest.mark.dovecot
def test_of_a_huge_mail_the_beginning_is_read(account):
    account.deliver(BOUNCE + b"x" * LARGEST)
    reader = Reader()

    read_imap(account.url(), reader)

    assert [len(octets) for octets in reader.read] == [LARGEST]


@pytest.mark.dovecot
def test_another_folder_can_be_named(account):
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
def test_the_password_travels_by_tls_to_a_server_that_is_known(account, scheme, host):
    account.deliver(BOUNCE)
    url = account.url(scheme, host=host)

    with pytest.raises(MailboxError, match="certificate"):
        read_imap(url, Reader())
    assert read_imap(url, Reader(), ca_file=account.certificate) == 1


@pytest.mark.dovecot
def test_a_wrong_password_is_named_and_not_shown(account):
    with pytest.raises(MailboxError, match="the mailbox at 127") as raised:
        read_imap(account.url(password="hunter2"), Reader())

    assert "hunter2" not in str(raised.value)


@pytest.mark.dovecot
def test_a_server_that_cannot_move_keeps_it_read(request):
    with dovecot.open_dovecot(capability="IMAP4rev1") as server:
        server.deliver(BOUNCE, LETTER)

        assert read_imap(server.url(), Reader()) == 2
        assert read_imap(server.url(), Reader()) == 0

        assert server.holds() == [(BOUNCE, SEEN), (LETTER, FLAGGED)]


def test_nobody_there_is_a_mailbox_that_cannot_be_read():
    with pytest.raises(MailboxError, match="cannot be read"):
        read_imap("imap://a:b@127.0.0.1:9", Reader())


def test_an_address_names_everything():
    far = parse("imaps://ada%40example.org:p%40ss@mail.example.org/INBOX/Bounces")
    near = parse("imap://bounces:secret@localhost")

    assert (far.user, far.password, far.folder) == ("ada@example.org", "p@ss", "INBOX/Bounces")
    assert (far.port, far.implicit_tls, far.is_loopback) == (993, True, False)
    assert (near.port, near.folder, near.is_loopback) == (143, "INBOX", True)


@pytest.mark.parametrize(
    "url", ["imap://", "http://a:b@example.org", "imaps://mail.example.org", "imap://a:hunter2@x:y"]
)
def test_what_is_no_address_of_a_mailbox_is_refused_unseen(url):
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


def test_what_an_imap_server_moved_is_still_unread(maildir):
    """Old mails that somebody read, flagged or threw away are left alone."""
    for name in ("3.d:2,", "4.e:2,PR", "5.f", "6.g:2,F", "7.h:2,T", ".hidden"):
        (maildir / "cur" / name).write_bytes(BOUNCE)
    reader = Reader()

    read_maildir(maildir, reader)

    assert reader.names == ["1.a", "2.b", "3.d:2,", "4.e:2,PR", "5.f"]
    assert {"3.d:2,S", "4.e:2,PRS", "5.f:2,S"} <= set(names(maildir / "cur"))


def test_killed_in_a_maildir_a_mail_is_read_again(maildir):
    with pytest.raises(KeyboardInterrupt):
        read_maildir(maildir, Reader(dies_at=2))
    assert names(maildir / "new") == ["2.b"]
    reader = Reader()

    assert read_maildir(maildir, reader) == 1
    assert reader.read == [LETTER]


def test_two_who_read_one_maildir_lose_nothing(maildir):
    """Another one puts a mail away while it is applied here."""

    def beside(name, octets):
        if name == "1.a":
            read_maildir(maildir, Reader())
        return True

    assert read_maildir(maildir, beside) == 1
    assert names(maildir / "new") == []
    assert names(maildir / "cur") == ["0.c:2,S", "1.a:2,S", "2.b:2,F"]


def test_a_folder_that_is_none_is_said_to_be_none(tmp_path):
    with pytest.raises(MailboxError, match="not a Maildir"):
        read_maildir(tmp_path, Reader())
