"""`paperboy bounces read` finds mails in every format, and one bad file stops no other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from pipeline import cli
from pipeline.bootstrap import services
from pipeline.errors import MailboxError, PaperboyError
from pipeline.feedback.mailboxes import FoundMail, mails_at
from tests.support.bounces import ADA, bounce, recipient, report
from tests.support.running import Command

GONE = report(recipient("5.1.1", "smtp; 550 5.1.1 No such user"))
FULL = report(recipient("5.2.2", "smtp; 552 5.2.2 Mailbox full"))
FROM = b"From MAILER-DAEMON@mx.example.com Wed Jan  2 08:00:00 2030\n"


def read(*arguments: str, stdin: bytes = b"") -> Result:
    options = ["bounces", "read", *arguments, "--dry-run", "--json"]
    return CliRunner().invoke(cli.app, options, input=stdin)


def rows(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def kinds(result: Result) -> dict[str, str]:
    return {Path(row["file"]).name: row["kind"] for row in rows(result)}


def test_file_is_printed_as_one_json_line(tmp_path):
    (tmp_path / "one.eml").write_bytes(GONE)

    result = read(str(tmp_path / "one.eml"))

    assert result.exit_code == 0
    assert rows(result) == [
        {
            "file": str(tmp_path / "one.eml"),
            "kind": "hard",
            "recipients": [ADA],
            "status": "5.1.1",
            "reason": "550 5.1.1 No such user",
        }
    ]


def test_mail_is_read_from_stdin():
    result = read("-", stdin=FULL)

    assert [(row["file"], row["kind"], row["status"]) for row in rows(result)] == [
        ("-", "soft", "5.2.2")
    ]


def test_folder_is_read_recursively_in_name_order(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "2.eml").write_bytes(FULL)
    (tmp_path / "b" / "1").write_bytes(GONE)
    (tmp_path / "a.eml").write_bytes(b"Subject: hello\n\nhello\n")
    (tmp_path / ".hidden").write_bytes(GONE)
    os.mkfifo(tmp_path / "c.eml")  # a FIFO without a writer would block

    result = read(str(tmp_path))

    assert list(kinds(result).items()) == [("a.eml", "none"), ("1", "hard"), ("2.eml", "soft")]


def test_maildir_is_read_without_its_tmp_folder(tmp_path):
    for folder in ("cur", "new", "tmp"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{folder}:2,S").write_bytes(GONE)

    assert kinds(read(str(tmp_path))) == {"cur:2,S": "hard", "new:2,S": "hard"}


def test_the_mails_of_an_mbox_are_numbered(tmp_path):
    quoted = GONE.replace(b"This is an auto", b"From now on\n>From here on\nthis is an auto")
    (tmp_path / "box").write_bytes(FROM + quoted + b"\n" + FROM + FULL + b"\n" + FROM + GONE)

    assert kinds(read(str(tmp_path / "box"))) == {"box#1": "hard", "box#2": "soft", "box#3": "hard"}


def test_eml_file_with_from_lines_is_read_as_one_mail(tmp_path):
    (tmp_path / "one.eml").write_bytes(FROM + FULL + b"\n" + FROM + GONE)

    assert kinds(read(str(tmp_path / "one.eml"))) == {"one.eml": "soft"}


@pytest.mark.parametrize("name", ["box", "one.eml"])
def test_single_mail_with_a_from_line_keeps_its_name(tmp_path, name):
    (tmp_path / name).write_bytes(FROM + bounce(f"<{ADA}>:\n550 user unknown", after=""))

    assert kinds(read(str(tmp_path / name))) == {name: "hard"}


def test_file_names_are_read_from_stdin_or_a_file(tmp_path):
    for name, octets in {"1.eml": GONE, "2.eml": FULL}.items():
        (tmp_path / name).write_bytes(octets)
    names = f"{tmp_path / '2.eml'}\n\n{tmp_path / '1.eml'}\r\n".encode()
    (tmp_path / "names").write_bytes(names)

    by_stdin = read("--names", "-", stdin=names)
    by_file = read("--names", str(tmp_path / "names"))

    assert kinds(by_stdin) == {"2.eml": "soft", "1.eml": "hard"}
    assert by_file.stdout == by_stdin.stdout


def test_unreadable_file_is_reported_and_the_others_are_read(tmp_path):
    (tmp_path / "1.eml").write_bytes(GONE)
    names = f"{tmp_path}/1.eml\n{tmp_path}/missing.eml\n{tmp_path}\n{tmp_path}/1.eml\n".encode()

    result = read("--names", "-", stdin=names)

    assert result.exit_code == 1
    assert [row["kind"] for row in rows(result)] == ["hard", "hard"]
    assert f"paperboy: {tmp_path}/missing.eml: No such file or directory\n" in result.stderr
    assert f"paperboy: {tmp_path}: Is a directory\n" in result.stderr


def test_file_name_that_is_not_utf8_is_accepted(tmp_path):
    odd = os.fsencode(tmp_path) + b"/\xff.eml"
    Path(os.fsdecode(odd)).write_bytes(GONE)

    result = read(str(tmp_path))

    assert result.exit_code == 0
    assert rows(result)[0]["kind"] == "hard"


def test_mbox_is_read_mail_by_mail(tmp_path):
    """The first mail is returned before the rest of the file is read."""
    box = tmp_path / "box"
    box.write_bytes((FROM + GONE + b"\n") * 2_000)

    first = next(iter(mails_at(box)))

    assert isinstance(first, FoundMail)
    assert first.name.endswith("#1")
    assert len(first.octets) < 2 * len(GONE)


def test_text_output_has_the_kind_and_the_recipient(tmp_path):
    (tmp_path / "1.eml").write_bytes(GONE)

    result = CliRunner().invoke(
        cli.app, ["bounces", "read", str(tmp_path), "--dry-run"], env={"COLUMNS": "300"}
    )

    assert "hard" in result.stdout
    assert ADA in result.stdout


def test_missing_list_of_names_raises(tmp_path):
    result = read("--names", str(tmp_path / "names"))

    assert isinstance(result.exception, PaperboyError)
    assert str(result.exception) == f"{tmp_path}/names: No such file or directory"


@pytest.mark.full
def test_a_dry_run_needs_no_database(tmp_path):
    (tmp_path / "mails").mkdir()
    (tmp_path / "mails" / "1.eml").write_bytes(GONE)
    command = Command(tmp_path / "mails", {"DATABASE_URL": "sqlite:////nowhere/paperboy.db"})

    code, out, err = command.run("bounces", "read", ".", "--dry-run", "--json")

    assert (code, err) == (0, "")
    assert json.loads(out)["kind"] == "hard"


# --- The password of a mailbox ------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_bounces_read_without_a_path_uses_the_configured_mailbox(database_url, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("BOUNCE_MAILBOX", "imap://ada:Zk9/q#w@127.0.0.1:1/Back")
    services.cache_clear()

    read = CliRunner().invoke(cli.app, ["bounces", "read"])
    typed = CliRunner().invoke(cli.app, ["bounces", "read", "imap://eva:Zk9/q@127.0.0.1:1"])
    services.cache_clear()

    assert isinstance(read.exception, MailboxError)
    assert "127.0.0.1" in str(read.exception)
    assert "on the command line" not in read.output
    assert "on the command line is visible to other users" in typed.output
    assert "Zk9" not in str(read.exception) + str(typed.exception) + read.output + typed.output


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows where arguments are")
@pytest.mark.parametrize("password", ["Zk9qw", "Zk9/q#w", "Zk9%2Fqw", "Zk9@qw"])
def test_hide_passwords_masks_the_process_command_line(password):
    """The password is overwritten in place, so that other users cannot read it with ps."""
    program = (
        "import sys; from pathlib import Path; from pipeline.cli.main import hide_passwords;"
        "hide_passwords(sys.argv); print(Path('/proc/self/cmdline').read_text(), sys.argv[1])"
    )
    url = f"--url=imap://ada:{password}@127.0.0.1:1/INBOX"

    said = subprocess.run(
        [sys.executable, "-c", program, url], capture_output=True, text=True, check=True
    ).stdout

    seen, _, kept = said.partition(" --url")
    assert "ada:" + "*" * len(password) + "@127.0.0.1" in seen
    assert kept.strip() == url.removeprefix("--url"), "we ourselves still have it"
