"""The command line: options, output fields, exit codes, and one clear line on failure."""

from __future__ import annotations

import io
import json
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from email import message_from_bytes
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from pipeline import bootstrap, cli, settings
from pipeline.cli.main import COMMANDS
from pipeline.setting_files import is_secret
from tests.support.sinks import open_sink

AT_EIGHT = "2030-01-02T08:00:00Z"
BEFORE = "2030-01-01T12:00Z"
TITLE = "Retrieval for Patient Readers"


@dataclass(frozen=True)
class Answer:
    """The exit code, stdout and stderr of a command."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


Paperboy = Callable[..., Answer]


@pytest.fixture
def paperboy(tmp_path, monkeypatch, capfd) -> Iterator[Paperboy]:
    """Return a function that runs `paperboy ...` in an empty folder, with no database file yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'paperboy.db'}")
    monkeypatch.setenv("COLUMNS", "200")

    def paperboy(*arguments: str) -> Answer:
        monkeypatch.setattr(sys, "argv", ["paperboy", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        _close()
        out, err = capfd.readouterr()
        return Answer(int(ended.value.code or 0), out, err)

    yield paperboy
    _close()


def _close() -> None:
    """Dispose of the cached services: outside the tests each command is a separate process."""
    if bootstrap.services.cache_info().currsize:
        bootstrap.services().engine.dispose()
    bootstrap.services.cache_clear()


@pytest.fixture
def ready(paperboy: Paperboy, tmp_path: Path, sqlite_template: Path) -> Paperboy:
    """Return `paperboy` with the tables created."""
    shutil.copy(sqlite_template, tmp_path / "paperboy.db")
    return paperboy


@pytest.fixture
def day(tmp_path: Path) -> str:
    """Return the path of a recorded Hugging Face response with two test papers."""
    path = tmp_path / "day.json"
    path.write_text(json.dumps([_entry("3001.00001", TITLE, 7), _entry("3001.00002", "Stones", 9)]))
    return str(path)


def _entry(arxiv_id: str, title: str, upvotes: int) -> dict[str, Any]:
    return {
        "paper": {
            "id": arxiv_id,
            "title": title,
            "summary": "We describe what we did, and what came of it.",
            "authors": [{"name": "Ada Lovelace"}],
            "upvotes": upvotes,
            "submittedOnDailyAt": "2030-01-02T00:00:00.000Z",
        },
        "publishedAt": "2030-01-01T20:00:00.000Z",
        "title": title,
    }


@pytest.fixture
def full(ready: Paperboy, day: str) -> Paperboy:
    """Return `paperboy` with two papers and one subscriber, to retrieval and due at eight."""
    add = ("subscribers", "add", "ada@example.org", "--topic", "retrieval", "--confirmed")
    assert ready(*add, "--now", BEFORE).code == 0
    assert ready("ingest", "--file", day, "--now", "2030-01-02T06:00Z").code == 0
    return ready


# --- The commands -------------------------------------------------------------------------------


def test_every_command_can_be_loaded():
    for name, entry in COMMANDS.items():
        command = entry.load(name)

        assert getattr(command, "commands", None) if entry.group else command.callback


def test_command_table_has_every_defined_command():
    modules = (p for p in Path(cli.__file__).parent.glob("*.py") if "Typer(" in p.read_text())
    defined = {
        name or function.__name__
        for module in modules
        if module.stem not in ("main", "bench_matching")
        for app in [getattr(import_module(f"pipeline.cli.{module.stem}"), "app", None)]
        if app and (module.stem, "app") not in {(e.module, e.group) for e in COMMANDS.values()}
        for name, function in ((c.name, c.callback) for c in app.registered_commands)
    }

    assert defined <= set(COMMANDS)
    assert {"send", "rank", "doctor"} <= defined


def test_help_imports_neither_the_database_nor_the_settings():
    program = (
        "import sys; sys.argv = ['paperboy', '--help']\n"
        "from pipeline.cli import main\n"
        "try: main()\n"
        "finally: print(sorted({'sqlalchemy', 'pydantic', 'numpy', 'rich'} & set(sys.modules)))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )

    assert ran.stdout.splitlines()[-1] == "[]"
    assert "subscribers" in ran.stdout


def test_the_version_is_printed(paperboy):
    assert paperboy("--version").out == f"paperboy {version('paperboy')}\n"


# --- Exit codes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        "nonsense",
        "ingest --since yesterday",
        "ingest --now noon",
        "papers --since tomorrow",
        "match",
        "rank",
        "publish --everybody",
        "subscribers add",
        "subscribers add ada@example.org --hour 24",
        "subscribers add ada@example.org --weekday someday",
        "subscribers add ada@example.org --frequency hourly",
        "subscribers add ada@example.org --breadth all",
        "match retrieval --breadth all",
        "deliveries --status lost",
        "deliveries resolve 1",
        "deliveries resolve 1 --resend --drop",
        "demo --papers day.json --live",
        "up --port many",
        "serve --port 70000",
    ],
)
def test_invalid_arguments_exit_with_code_2(ready, arguments):
    answer = ready(*arguments.split())

    assert answer.code == 2
    assert answer.out == ""
    assert "Usage: paperboy" in answer.err


@pytest.mark.parametrize(
    "arguments",
    [
        "ingest --file nowhere.json --json",
        "subscribers add nobody --confirmed",
        "subscribers add ada@example.org --timezone Mars/Olympus",
        "subscribers show nobody@example.org",
        "subscribers erase nobody@example.org",
        "subscribers import nowhere.csv",
        "suppressions remove nobody@example.org",
        "preview nobody@example.org",
        "deliveries resolve 17 --drop",
        "rank --papers nowhere.jsonl --topics nowhere.jsonl",
        "demo --papers nowhere.json",
    ],
)
def test_failure_exits_with_code_1_and_one_error_message(ready, arguments):
    answer = ready(*arguments.split())

    said = answer.err.splitlines() or [row["error"] for row in answer.rows]
    assert answer.code == 1
    assert len(said) == 1
    assert "Traceback" not in answer.err


@pytest.mark.parametrize(
    "arguments", ["match retrieval", "publish", "rank --papers p.jsonl --topics t.jsonl"]
)
def test_missing_semantic_model_fails_with_its_path(ready, monkeypatch, tmp_path, arguments):
    """Falling back to word matching would return another order than the requested one."""
    for name in ("p.jsonl", "t.jsonl"):
        (tmp_path / name).touch()
    monkeypatch.setenv("SEMANTIC_MODEL", str(tmp_path / "no-model"))

    answer = ready(*arguments.split())

    assert answer.code == 1
    assert f"{tmp_path / 'no-model'} is no folder and no installed package" in answer.err


@pytest.mark.parametrize(("wait", "least"), [("0", 0.0), ("1", 1.0)])
def test_upgrade_waits_for_the_server_as_long_as_requested(paperboy, monkeypatch, wait, least):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("DATABASE_URL", f"postgresql://ada@127.0.0.1:{port}/paperboy")

    began = time.monotonic()
    answer = paperboy("db", "upgrade", "--wait", wait)

    assert answer.code == 1
    assert answer.err.splitlines()[-1].startswith("paperboy: the database cannot be used: conn")
    assert "Traceback" not in answer.err
    assert least <= time.monotonic() - began < least + 30


def test_upgrade_continues_when_the_server_answers(paperboy, tmp_path):
    """A SQLite file that cannot be opened yet stands for a server that is starting."""
    folder = tmp_path / "paperboy.db"
    folder.mkdir()
    ready = threading.Timer(0.6, folder.rmdir)
    ready.start()

    answer = paperboy("db", "upgrade", "--wait", "60")

    ready.join()
    assert answer.code == 0
    assert "database.unreachable" in answer.err
    assert folder.is_file()


@pytest.mark.parametrize(
    "arguments", ["papers", "subscribers list", "publish", "send --once", "serve", "deliveries"]
)
def test_empty_database_is_rejected_with_advice_to_upgrade(paperboy, arguments):
    answer = paperboy(*arguments.split())

    assert answer.code == 1
    assert answer.err == "paperboy: the database is empty: run `paperboy db upgrade`\n"


def test_invalid_setting_is_named_in_the_error(paperboy, monkeypatch):
    monkeypatch.setenv("MAX_PAPERS", "many")

    answer = paperboy("papers")

    assert answer.code == 1
    assert "MAX_PAPERS" in answer.err


def test_topic_syntax_error_is_marked_with_a_caret(ready):
    answer = ready("match", "retrieval AND (stones")

    assert answer.code == 1
    assert answer.err.splitlines()[-1].strip() == "^"


def test_serve_names_a_port_in_use(ready, inbox):
    answer = ready("serve", "--port", str(inbox.port))

    assert answer.code == 1
    assert f"port {inbox.port}" in answer.err


# --- Papers -------------------------------------------------------------------------------------


def test_ingest_prints_a_json_row_per_source(ready, day):
    answer = ready("ingest", "--file", day, "--json", "--now", AT_EIGHT)

    assert answer.code == 0
    assert answer.rows == [
        {
            "source": "huggingface",
            "state": "fresh",
            "sightings": 2,
            "new": 2,
            "batch": 1,
            "error": None,
        }
    ]


def test_ingest_continues_after_an_invalid_file(ready, day, tmp_path):
    broken = tmp_path / "broken.json"
    broken.write_text("{")

    answer = ready("ingest", "--file", str(broken), "--file", day, "--json")

    assert answer.code == 1
    assert {(row["state"], row["new"]) for row in answer.rows} == {("fresh", 2), ("failed", 0)}
    assert [line for line in answer.err.splitlines() if line.startswith("paperboy: ")] == [
        "paperboy: broken.json is not JSON: Expecting property name enclosed in double quotes:"
        " line 1 column 2 (char 1)"
    ]


def test_papers_since_filters_by_announced_date(full):
    answer = full("papers", "--json", "--since", "2030-01-02")

    assert {row["title"]: row for row in answer.rows}[TITLE] == {
        "id": "3001.00001",
        "title": TITLE,
        "sources": ["huggingface"],
        "batch": 1,
        "announced_on": "2030-01-02",
    }
    assert full("papers", "--json", "--since", "2030-01-03").out == ""


def test_papers_are_listed_page_by_page(full, monkeypatch):
    monkeypatch.setattr("pipeline.cli.papers.PAGE", 1)
    every = [row["id"] for row in full("papers", "--json").rows]

    first = [row["id"] for row in full("papers", "--json", "--limit", "1").rows]
    rest = [row["id"] for row in full("papers", "--json", "--before", first[0]).rows]

    assert len(every) == len(set(every)) > 1
    assert first + rest == every
    assert full("papers", "--before", "9999.99999").code == 2


def test_match_prints_the_score_and_the_matching_phrases(full):
    [row] = full("match", "retrieval", "--json").rows

    assert set(row) == {"paper", "title", "score", "phrases"}
    assert (row["paper"], row["phrases"]) == ("3001.00001", ["Retrieval"])
    assert row["score"] > 0


def test_match_suggests_a_broader_query_in_text_output_only(full):
    answer = full("match", "retrieval cat:q-bio.TO")

    assert "no papers in these days" in answer.out
    assert "Broader: retrieval (about 1 paper a day)" in answer.out
    assert "Broader" not in full("match", "retrieval cat:q-bio.TO", "--json").out


def test_match_prints_the_overlap_with_a_named_topic(ready, tmp_path):
    path = tmp_path / "agents.json"
    titles = ["Agents at Tea", "Agents at Sea", "Sea Agents", "Bees"]
    path.write_text(json.dumps([_entry(f"3001.{n:05}", t, n) for n, t in enumerate(titles)]))
    assert ready("ingest", "--file", str(path), "--now", "2030-01-02T06:00Z").code == 0

    assert "3 of its 3 papers also match “Agents”." in ready("match", "agents").out
    assert "also match" not in ready("match", "bees").out
    assert "also match" not in ready("match", "agents", "--json").out


def test_match_warns_about_a_mistyped_field_and_still_matches(full):
    answer = full("match", "retrieval OR tilte:nothing", "--json")

    assert answer.code == 0
    assert len(answer.rows) == 1
    assert "did you mean ti:? tilte: is searched as text" in answer.err
    assert answer.err.rstrip().endswith("^")


def test_rank_needs_no_database(paperboy, tmp_path):
    papers, topics = tmp_path / "papers.jsonl", tmp_path / "topics.jsonl"
    rows = [{"id": "a", "title": "Stones", "abstract": ""},
            {"id": "b", "title": TITLE, "abstract": "Words."}]  # fmt: skip
    papers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    topics.write_text(json.dumps({"id": "t", "query": "retrieval"}) + "\n")

    answer = paperboy("rank", "--papers", str(papers), "--topics", str(topics), "--top", "1")

    [row] = answer.rows
    assert (row["topic"], row["paper"]) == ("t", "b")
    assert set(row) == {"topic", "paper", "score"}
    assert not (tmp_path / "paperboy.db").exists()


# --- Subscribers --------------------------------------------------------------------------------


def test_a_subscriber_is_added_shown_and_erased(ready):
    topics = ("--topic", "retrieval", "--topic", '"small stones"')
    rhythm = [
        "--hour",
        "7",
        "--timezone",
        "Asia/Tokyo",
        "--frequency",
        "weekly",
        "--weekday",
        "friday",
        "--max",
        "5",
        "--breadth",
        "fewer",
    ]

    [added] = ready(
        "subscribers", "add", "ada@example.org", *topics, *rhythm, "--confirmed", "--json"
    ).rows
    [shown] = ready("subscribers", "show", "ADA@example.org", "--json").rows

    assert added == shown
    assert shown["status"] == "active"
    assert (shown["hour"], shown["timezone"], shown["max_papers"]) == (7, "Asia/Tokyo", 5)
    assert (shown["frequency"], shown["weekday"]) == ("weekly", "friday")
    assert shown["breadth"] == "fewer"
    assert len(shown["topics"]) == 2
    [held] = ready("subscribers", "records", "ada@example.org").rows
    assert held["subscriber"]["email"] == "ada@example.org"
    assert [request["origin"] for request in held["requests"]] == ["operator"]
    assert ready("subscribers", "erase", "ada@example.org").code == 0
    assert ready("subscribers", "list", "--json").rows == []


def test_subscribers_survive_export_and_import(full, tmp_path):
    before = full("subscribers", "list", "--json").rows
    assert full("subscribers", "export", "readers.csv").code == 0
    assert (tmp_path / "readers.csv").stat().st_mode & 0o077 == 0
    (tmp_path / "paperboy.db").unlink()
    full("db", "upgrade")

    assert full("subscribers", "import", "readers.csv", "--now", BEFORE).code == 0

    kept = ("email", "status", "topics", "hour", "timezone", "frequency", "max_papers", "breadth")
    after = full("subscribers", "list", "--json").rows
    assert [[row[k] for k in kept] for row in after] == [[row[k] for k in kept] for row in before]


@pytest.mark.full
def test_db_settle_unsubscribes_leavers_and_holds_sending(full, tmp_path):
    until = ("db", "settle", "--now", AT_EIGHT, "--json", "--sent-until")
    assert full(*until, "2031-01-01T00:00Z").code == 2
    assert full(*until, "yesterday").code == 2
    missing = full(*until, BEFORE, "--old-database", f"sqlite:///{tmp_path / 'no.db'}")
    assert (missing.code, (tmp_path / "no.db").exists()) == (1, False)
    (tmp_path / "left.csv").write_text("email\nada@example.org\n")

    settled = full(*until, BEFORE, "--leavers", "left.csv")

    assert (settled.code, settled.rows[0]["left"]) == (0, ["ada@example.org"])
    assert full("subscribers", "show", "ada@example.org", "--json").rows[0]["status"] == (
        "unsubscribed"
    )
    [held] = full("sending", "status", "--json").rows
    assert "paperboy db settle" in held["reason"]


def test_export_overwrites_a_file_only_with_force(full, tmp_path):
    kept = tmp_path / "readers.csv"
    kept.write_text("mine")

    refused = full("subscribers", "export", "readers.csv")
    assert (refused.code, kept.read_text()) == (1, "mine")
    assert "readers.csv" in refused.err

    assert full("subscribers", "export", "readers.csv", "--force").code == 0
    assert kept.read_text().startswith("email,status,topics")
    assert kept.stat().st_mode & 0o077 == 0
    assert [path.name for path in tmp_path.glob(".readers*")] == []
    assert full("subscribers", "export", "nowhere/readers.csv").code == 1


def test_import_reads_stdin_and_reports_rejected_rows(ready, tmp_path, monkeypatch):
    """Valid rows are stored although others fail; a dry run reports the same and stores nothing."""
    text = b"email;hour\nada@example.org;7\nbob@example.org;late\n"
    for options, stored in ((["--dry-run"], 0), ([], 1)):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))
        rejects = f"rejects{stored}.csv"
        answer = ready("subscribers", "import", "-", "--json", "--rejects", rejects, *options)

        assert answer.code == 1
        assert [(row["line"], row["outcome"]) for row in answer.rows] == [
            (2, "added"),
            (3, "rejected"),
        ]
        assert "late" in answer.rows[1]["reason"]
        assert "bob@example.org" in (tmp_path / rejects).read_text()
        assert len(ready("subscribers", "list", "--json").rows) == stored


def test_export_to_stdout_can_be_imported_from_stdin(full, monkeypatch):
    text = full("subscribers", "export", "-").out
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))

    answer = full("subscribers", "import", "-", "--json")

    assert answer.code == 0
    assert {row["outcome"] for row in answer.rows} == {"known"}


def test_suppression_is_listed_as_a_hash_and_can_be_removed(ready):
    assert ready("suppressions", "add", "ada@example.org").code == 0

    [row] = ready("suppressions", "list", "--json").rows
    assert set(row) == {"hash", "reason", "since"}
    assert row["reason"] == "manual"
    assert re.fullmatch("[0-9a-f]{64}", row["hash"])
    assert ready("suppressions", "remove", "ada@example.org").code == 0
    assert ready("suppressions", "list", "--json").rows == []


@pytest.mark.parametrize(
    ("command", "field"), [("subscribers list", "id"), ("suppressions list", "hash")]
)
def test_list_has_the_newest_rows_and_older_ones_on_request(ready, command, field):
    for email in ("ada@example.org", "bob@example.org", "eve@example.org"):
        ready("subscribers", "add", email, "--confirmed")
        ready("suppressions", "add", email)

    def listed(*arguments):
        return [row[field] for row in ready(*command.split(), *arguments, "--json").rows]

    first, second, third = listed()
    assert listed("--limit", "2") == [second, third]
    assert listed("--limit", "2", "--before", str(third)) == [first, second]


def test_suppressions_are_filtered_by_day_and_hash(ready):
    ready("suppressions", "add", "ada@example.org")

    assert ready("suppressions", "list", "--json", "--since", "2100-01-01").rows == []
    assert ready("suppressions", "list", "--before", "cafe").code == 2


# --- Mail ---------------------------------------------------------------------------------------


def test_publish_compiles_each_due_digest_once(full):
    """`--now` sets the clock: no digest is compiled before its hour, and none twice."""
    early = full("publish", "--json", "--now", "2030-01-02T07:59Z")
    due = full("publish", "--json", "--now", AT_EIGHT)
    again = full("publish", "--json", "--now", AT_EIGHT)

    assert (early.out, again.out) == ("", "")
    [row] = due.rows
    assert row.pop("subscriber") > 0
    assert row == {
        "email": "ada@example.org",
        "kind": "digest",
        "edition": "2030-01-02",
        "papers": ["3001.00001"],
        "outcome": "queued",
        "reason": None,
        "noted": False,
    }


def test_publish_all_compiles_digests_before_their_hour(full):
    [row] = full("publish", "--all", "--json", "--now", "2030-01-02T06:30Z").rows

    assert row["outcome"] == "queued"


def test_preview_writes_files_and_queues_nothing(full, tmp_path):
    for _ in range(2):
        files = ("--html", "a.html", "--text", "a.txt", "--eml", "a.eml")
        assert full("preview", "ada@example.org", *files, "--now", AT_EIGHT).code == 0

    message = message_from_bytes((tmp_path / "a.eml").read_bytes())
    assert message["To"] == "ada@example.org"
    assert TITLE in (tmp_path / "a.html").read_text()
    assert TITLE in (tmp_path / "a.txt").read_text()
    assert full("deliveries", "--json").rows == []
    assert len(full("publish", "--json", "--now", AT_EIGHT).rows) == 1


@pytest.mark.full
def test_send_drains_the_outbox_and_deliveries_lists_the_mail(full, inbox, monkeypatch):
    monkeypatch.setenv("SMTP_URL", inbox.url)
    full("publish", "--json", "--now", AT_EIGHT)

    answer = full("send", "--once", "--json", "--now", AT_EIGHT)

    assert answer.code == 0
    assert answer.rows[-1] == {
        "sent": 1,
        "deferred": 0,
        "failed": 0,
        "uncertain": 0,
        "cancelled": 0,
        "expired": 0,
    }
    [row] = full("deliveries", "--status", "sent", "--json").rows
    assert set(row) == {
        "id", "email", "kind", "edition", "status", "attempts", "message_id", "reason", "papers",
    }  # fmt: skip
    assert row["papers"] == ["3001.00001"]
    assert row["message_id"] in inbox.only().raw.decode()
    for chosen in (("--email", row["email"]), ("--edition", row["edition"]), ("--limit", "1")):
        assert [one["id"] for one in full("deliveries", *chosen, "--json").rows] == [row["id"]]
    assert full("deliveries", "--after", str(row["id"]), "--json").rows == []
    assert full("deliveries", "--email", "nobody@example.org").code == 1


def test_send_exits_with_code_0_if_a_recipient_is_refused(full, inbox, monkeypatch):
    monkeypatch.setenv("SMTP_URL", inbox.url)
    inbox.refuse["ada@example.org"] = "550 5.1.1 No such user"
    full("publish", "--json", "--now", AT_EIGHT)

    answer = full("send", "--once", "--json", "--now", AT_EIGHT)

    # No other recipient was accepted yet, so no strike is recorded and it is retried.
    assert (answer.code, answer.rows[-1]["deferred"]) == (0, 1)


def test_send_exits_with_code_1_if_the_server_is_unreachable(full, closed_port, monkeypatch):
    monkeypatch.setenv("SMTP_URL", f"smtp://127.0.0.1:{closed_port}")
    full("publish", "--json", "--now", AT_EIGHT)

    answer = full("send", "--once", "--json", "--now", AT_EIGHT)

    assert answer.code == 1
    assert answer.rows[-1]["sent"] == 0
    [row] = full("deliveries", "--json").rows
    assert (row["status"], row["attempts"]) == ("queued", 0)


DSN = """\
From: MAILER-DAEMON@mx.example.org
Subject: Undelivered Mail Returned to Sender
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status; boundary="b"

--b

Your mail was not delivered.
--b
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.example.org

Final-Recipient: rfc822; ada@example.org
Action: failed
Status: 5.1.1
Diagnostic-Code: smtp; 550 5.1.1 User unknown

--b
Content-Type: message/rfc822

Message-ID: {}
Subject: Papers

.
--b--
"""


@pytest.mark.full
def test_bounce_suppresses_its_address_and_undo_lifts_it(full, inbox, monkeypatch, tmp_path):
    """Bounce, suppression and undo by commands alone; a second read of the bounce has no effect."""
    monkeypatch.setenv("SMTP_URL", inbox.url)
    add = ("subscribers", "add", "bob@example.org", "--topic", "retrieval", "--confirmed")
    full(*add, "--now", BEFORE)
    full("publish", "--now", AT_EIGHT)
    full("send", "--once", "--now", AT_EIGHT)
    [sent] = (one for one in full("deliveries", "--json").rows if one["email"][:3] == "ada")
    (tmp_path / "1.eml").write_text(DSN.format(sent["message_id"]))

    dry = full("bounces", "read", str(tmp_path / "1.eml"), "--dry-run", "--json")
    first = full("bounces", "read", str(tmp_path / "1.eml"), "--json")
    again = full("bounces", "read", str(tmp_path / "1.eml"), "--json")

    [said] = dry.rows
    assert (said["kind"], said["status"], "effect" in said) == ("hard", "5.1.1", False)
    assert [row["effect"] for row in first.rows + again.rows] == ["suppressed", "known"]
    [suppression] = full("suppressions", "list", "--json").rows
    assert suppression["reason"] == "hard"

    undo = ("suppressions", "undo", "--since", "2020-01-01")
    dry = full(*undo, "--dry-run", "--json").rows
    assert dry[0]["count"] == 1
    assert dry[-1] == {"found": 1, "lifted": 0, "dry_run": True}
    assert full(*undo, "--reply", "no such words", "--json").rows[-1]["found"] == 0
    assert full("suppressions", "undo", "--since", "noon").code == 2
    assert full(*undo, "--reason", "complaint").code == 2
    assert "1 found, 1 lifted" in full(*undo).out
    assert full("suppressions", "list", "--json").rows == []


def test_a_maildir_of_bounces_is_read_once(full, tmp_path):
    for folder in ("cur", "new", "tmp"):
        (tmp_path / "back" / folder).mkdir(parents=True)
    (tmp_path / "back" / "new" / "1").write_text(DSN.format("<somebody@elsewhere.example>"))

    first = full("bounces", "read", str(tmp_path / "back"), "--json")
    again = full("bounces", "read", str(tmp_path / "back"), "--json")

    assert [(row["kind"], row["effect"]) for row in first.rows] == [("hard", "not ours")]
    assert again.rows == []


@pytest.mark.full
def test_send_exits_with_code_0_if_the_server_refuses_the_sender(full, monkeypatch):
    """The server was reached; queued mail is retried once the circuit breaker allows it."""
    with open_sink(answers={"MAIL": "550 5.7.1 Sender not allowed"}) as sink:
        monkeypatch.setenv("SMTP_URL", f"smtp://127.0.0.1:{sink.port}")
        full("publish", "--json", "--now", AT_EIGHT)

        first = full("send", "--once", "--json", "--now", AT_EIGHT)
        second = full("send", "--once", "--json", "--now", AT_EIGHT)
        status = full("sending", "status", "--json")

    assert (first.code, second.code) == (0, 0)
    assert first.rows[-1]["sent"] == second.rows[-1]["sent"] == 0
    assert "paperboy: the server refuses us: 550 5.7.1 Sender not allowed" in first.err
    assert "is left alone until 2030-01-02 08:01 UTC" in second.err
    assert sink.connections == 1
    [row] = status.rows
    assert (row["what"], row["reason"]) == ("server", "550 5.7.1 Sender not allowed")
    assert row["until"] == "2030-01-02T08:01:00+00:00"


@pytest.mark.full
def test_sending_is_stopped_and_started_by_hand(full, inbox, monkeypatch):
    monkeypatch.setenv("SMTP_URL", inbox.url)
    full("publish", "--json", "--now", AT_EIGHT)

    stopped = full("sending", "stop", "--reason", "wrong logo", "--json")
    again = full("sending", "stop", "--json")
    nothing = full("send", "--once", "--json", "--now", AT_EIGHT)
    status = full("sending", "status", "--json")
    full("sending", "start")
    everything = full("send", "--once", "--json", "--now", AT_EIGHT)

    assert stopped.rows == [{"state": "stopped", "changed": True}]
    assert again.rows == [{"state": "stopped", "changed": False}]
    assert (nothing.code, nothing.rows[-1]["sent"]) == (0, 0)
    assert "sending is stopped (wrong logo): `paperboy sending start` resumes it" in nothing.err
    assert [(row["what"], row["name"]) for row in status.rows] == [("held", "everything")]
    assert everything.rows[-1]["sent"] == 1
    assert full("sending", "status").out == "Nothing is paused, blocked or throttled.\n"


@pytest.mark.full
def test_an_edition_is_paused_resumed_and_cancelled_by_hand(full, inbox, monkeypatch):
    monkeypatch.setenv("SMTP_URL", inbox.url)
    full("publish", "--json", "--now", AT_EIGHT)

    full("editions", "pause", "2030-01-02")
    paused = full("send", "--once", "--json", "--now", AT_EIGHT)
    [listed] = full("editions", "list", "--json").rows
    full("editions", "resume", "2030-01-02")
    cancelled = full("editions", "cancel", "2030-01-02", "--json")
    [after] = full("editions", "list", "--json").rows

    assert paused.rows[-1]["sent"] == 0
    assert (listed["edition"], listed["paused"], listed["queued"]) == ("2030-01-02", True, 1)
    assert cancelled.rows == [{"edition": "2030-01-02", "state": "cancelled", "deliveries": 1}]
    assert (after["paused"], after["queued"], after["cancelled"]) == (False, 0, 1)
    assert full("editions", "pause", "tomorrow").code == 2


def test_release_rejects_a_domain_that_is_not_slowed(ready):
    answer = ready("sending", "release", "example.org")

    assert (answer.code, answer.err) == (1, "paperboy: nothing slows mail to example.org\n")


@pytest.fixture
def closed_port() -> Iterator[int]:
    """Return a port that refuses connections; it stays bound, so no other process can take it."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def test_send_to_a_real_server_requires_the_operator_address(full, monkeypatch):
    monkeypatch.setenv("SMTP_URL", "smtp://mail.example.org:587")

    answer = full("send", "--once")

    assert answer.code == 1
    assert "OPERATOR_ADDRESS" in answer.err


@pytest.mark.parametrize("title", ["null", "5", '["T"]'])
def test_rank_rejects_a_title_that_is_no_text(ready, tmp_path, title):
    (tmp_path / "p.jsonl").write_text(f'{{"id": "a", "title": {title}}}\n')
    (tmp_path / "t.jsonl").write_text('{"id": "t", "query": "graphs"}\n')

    answer = ready("rank", "--papers", f"{tmp_path}/p.jsonl", "--topics", f"{tmp_path}/t.jsonl")

    assert answer.code == 1
    assert answer.err.endswith("p.jsonl, line 1: title is no text\n")


# --- Wrong settings ----------------------------------------------------------------------------


def test_invalid_setting_prints_one_line_without_the_password(paperboy, monkeypatch):
    """The doctor reports the same error as a finding."""
    monkeypatch.setenv("SMTP_URL", "smpt://me:hunter2@mail.example.org")

    listed, examined = paperboy("subscribers", "list"), paperboy("doctor", "--json")

    assert (listed.code, examined.code) == (1, 1)
    assert listed.err.startswith("paperboy: SMTP_URL: must look like")
    assert len(listed.err.splitlines()) == 1
    assert [(row["check"], row["ok"]) for row in examined.rows] == [("settings", False)]
    assert "hunter2" not in listed.err + examined.out + examined.err


# --- DKIM keys ----------------------------------------------------------------------------------


def test_dkim_new_writes_a_key_file_and_prints_its_record(paperboy, tmp_path, monkeypatch):
    """It needs no database; the printed record and setting can be used unchanged."""
    monkeypatch.setenv("MAIL_FROM", "papers@example.org")

    made = paperboy("dkim", "new", "news1", "--json")
    second = paperboy("dkim", "new", "news2", "--type", "ed25519", "--file", "own.pem")
    monkeypatch.setenv("DKIM_KEYS", f"news1:{tmp_path}/dkim-news1.pem news2:own.pem")
    records = paperboy("dkim", "records", "--json")

    [row] = made.rows
    assert (row["name"], row["type"]) == ("news1._domainkey.example.org", "TXT")
    assert row["value"].startswith("v=DKIM1; k=rsa; p=")
    assert (tmp_path / "dkim-news1.pem").stat().st_mode & 0o777 == 0o600
    assert f"DKIM_KEYS=news2:{tmp_path / 'own.pem'}" in second.out
    assert [(r["selector"], r["value"], r["signs"]) for r in records.rows] == [
        ("news1", row["value"], True),
        ("news2", records.rows[1]["value"], True),
    ]
    assert records.rows[1]["line"] in second.out
    assert not (tmp_path / "paperboy.db").exists()


def test_dkim_new_does_not_overwrite_a_key_file(paperboy, tmp_path):
    """Mails that it has signed may still be in transit."""
    (tmp_path / "dkim-news1.pem").write_text("the old one")

    answer = paperboy("dkim", "new", "news1")

    assert answer.code == 1
    assert "exists already" in answer.err
    assert (tmp_path / "dkim-news1.pem").read_text() == "the old one"


def test_dkim_new_rejects_an_invalid_selector(paperboy):
    answer = paperboy("dkim", "new", "news_1")

    assert answer.code == 1
    assert "no selector" in answer.err


def test_dkim_records_fails_without_keys(paperboy):
    answer = paperboy("dkim", "records")

    assert answer.code == 1
    assert "paperboy dkim new" in answer.err


# --- Error messages -----------------------------------------------------------------------------


def test_unexpected_error_is_printed_without_addresses(ready, tmp_path):
    """Python would print the error unchanged, and the database quotes the value in it."""
    with closing(sqlite3.connect(tmp_path / "paperboy.db")) as conn:
        conn.execute(
            "CREATE TRIGGER no BEFORE INSERT ON subscribers BEGIN "
            "SELECT RAISE(ABORT, 'not ada@example.org'); END"
        )

    answer = ready("subscribers", "add", "ada@example.org", "--confirmed")

    assert answer.code == 1
    assert "not [address]" in answer.err
    assert "ada" not in answer.err
    assert answer.err.endswith("IntegrityError; please report it\n")


def test_unknown_subscriber_error_omits_the_address(ready):
    answer = ready("subscribers", "show", "ada@example.org")

    assert (answer.code, answer.err) == (1, "paperboy: no subscriber has this address\n")


# --- config -------------------------------------------------------------------------------------


def test_config_lists_every_setting_with_its_source(paperboy: Paperboy, tmp_path, monkeypatch):
    (tmp_path / ".env").write_text(
        "NOTE=Tea\nMAX_PAPRS=3\nSMTP_URL=smtp://token:token@mail.example"
    )
    monkeypatch.setenv("REDIS_URL", "redis://:canary@127.0.0.1:6379/3")

    answer = paperboy("config", "--json")
    rows = {row["name"]: (row["value"], row["source"]) for row in answer.rows}

    assert set(rows) == {name.upper() for name in settings.Settings.model_fields}
    assert rows["NOTE"] == ("Tea", str(tmp_path / ".env"))
    assert rows["REDIS_URL"] == ("redis://:***@127.0.0.1:6379/3", "environment")
    assert rows["MAX_PAPERS"] == ("10", "default")
    assert rows["SMTP_URL"][0] == "smtp://***:***@mail.example"
    assert "MAX_PAPRS (.env, line 2) is not a setting; did you mean MAX_PAPERS?" in answer.err


def test_config_prints_no_secret(paperboy: Paperboy, monkeypatch):
    urls = {
        "DATABASE_URL": "postgresql://ada:canary@h/db?password=canary",
        "SMTP_URL": "smtp://canary:canary@h",
        "BOUNCE_MAILBOX": "imaps://a:canary@h/X",
        "HTTPS_PROXY": "http://a:canary@h:3128",
    }
    secrets = [n.upper() for n, field in settings.Settings.model_fields.items() if is_secret(field)]
    for name in set(secrets) - {"REDIS_URL", "BOUNCE_MAILBOX_PASSWORD", "SMTP_OAUTH_COMMAND"}:
        monkeypatch.setenv(name, urls.get(name, "canary" * 8))
    monkeypatch.setenv("SMTP_OAUTH_CLIENT_ID", "paperboy")
    monkeypatch.setenv("SMTP_OAUTH_TOKEN_URL", "https://auth.example/token")

    for answer in paperboy("config"), paperboy("config", "--json"):
        assert answer.code == 0
        assert "canary" not in answer.out + answer.err
    rows = {row["name"]: row["value"] for row in answer.rows}
    assert rows["DATABASE_URL"] == "postgresql://***:***@h/db"
    assert rows["SECRET_KEY"] == "set"
