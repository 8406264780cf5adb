"""`demo` shows a whole run and leaves only its mail; `up` and `serve` run until stopped."""

from __future__ import annotations

import json
import re
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
import redis
from sqlalchemy import Engine

from pipeline import ingest, signup
from pipeline.domain import SubscriberStatus
from pipeline.sources import FetchResult
from pipeline.storage import subscribers
from pipeline.storage.database import read_only
from tests.support.factories import NOW, make_sighting
from tests.support.running import Command, read_until, wait_until
from tests.support.site import open_site, path

pytestmark = [
    pytest.mark.full,
    pytest.mark.timeout(180),
    pytest.mark.skipif(sys.platform != "linux", reason="processes are counted in /proc"),
]

TITLES = {
    "3001.00001": ("Patient Agents that Ask Before They Act", 3),
    "3001.00002": ("Diffusion on a Kitchen Clock", 5),
    "3001.00003": ("Retrieval for Readers in a Hurry <b>& Others</b>", 40),
    "3001.00004": ("A Catalogue of Small Stones", 90),
}
READERS = ("ada@example.org", "grace@example.net", "rohini@example.com")


def recorded_answer() -> str:
    """Return a day's response of Hugging Face with test papers."""
    return json.dumps(
        [
            {
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
                "numComments": 1,
            }
            for arxiv_id, (title, upvotes) in TITLES.items()
        ]
    )


@dataclass(frozen=True)
class Shown:
    """The result of a demo that has ended."""

    command: Command
    code: int
    out: str
    err: str
    mail: Path

    @property
    def words(self) -> str:
        """Return the output without the line breaks of its tables."""
        return " ".join(self.out.split())


@pytest.fixture(scope="module")
def shown(tmp_path_factory) -> Shown:
    folder = tmp_path_factory.mktemp("demo")
    (folder / "day.json").write_text(recorded_answer())
    command = Command(folder, {"COLUMNS": "200"})
    code, out, err = command.run("demo", "--papers", "day.json", "--mail-dir", "mail")
    return Shown(command, code, out, err, folder / "mail")


# --- The demo -----------------------------------------------------------------------------------


def test_demo_succeeds_and_prints_its_progress(shown):
    assert shown.code == 0, shown.err
    assert "3 digests arrived" in shown.words
    assert [line for line in shown.err.splitlines() if not line.endswith(" ...")] == []


def test_demo_writes_an_eml_and_an_html_file_per_reader(shown):
    names = {f"{reader}.{kind}" for reader in READERS for kind in ("eml", "html")}
    assert {path.name for path in shown.mail.iterdir()} == names

    for reader in READERS:
        eml = (shown.mail / f"{reader}.eml").read_bytes()
        assert f"\r\nTo: {reader}\r\n".encode() in eml
        assert b"\r\nList-Unsubscribe: <https://" in eml
        assert b"\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n" in eml
        assert b"<mj-" not in (shown.mail / f"{reader}.html").read_bytes()


def test_demo_prints_the_papers_of_each_reader_with_the_reasons(shown):
    ada, grace, rohini = (shown.words.index(reader) for reader in READERS)

    assert "Patient Agents that Ask Before They Act agents: Agents" in shown.words[ada:grace]
    assert "Diffusion on a Kitchen Clock diffusion: Diffusion" in shown.words[grace:rohini]
    assert "Trending: 90 upvotes" in shown.words[rohini:]
    assert "Europe/London" in shown.words[ada:grace]


def test_demo_escapes_titles_in_html(shown):
    html = (shown.mail / "rohini@example.com.html").read_text()

    assert "Retrieval for Readers in a Hurry" in html
    assert "& Others" not in html.replace("&amp; Others", "")
    assert "<b>&" not in html


def test_demo_leaves_no_files_but_the_mail_and_no_processes(shown):
    assert {path.name for path in shown.command.folder.iterdir()} == {"day.json", "mail"}
    assert list(shown.command.temporary.iterdir()) == []
    assert shown.command.processes() == set()


def test_interrupted_demo_leaves_no_files_and_no_processes(tmp_path):
    folder = tmp_path / "here"
    folder.mkdir()
    command = Command(folder)
    with command.start("demo") as process:
        read_until(process, "Compiling")

        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)

    assert process.returncode == 130
    assert list(folder.iterdir()) == []
    assert list(command.temporary.iterdir()) == []
    wait_until(lambda: command.processes() == set())


def test_demo_fails_if_its_papers_file_is_missing(tmp_path):
    code, out, err = Command(tmp_path).run("demo", "--papers", "nowhere.json")

    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert "nowhere.json" in err


# --- Everything in one terminal -----------------------------------------------------------------


@pytest.fixture
def backend() -> str:
    return "sqlite"


def test_up_serves_pages_and_mail_until_it_is_stopped(tmp_path, engine: Engine, database_url):
    """A subscriber confirms through the mail of the site and is welcomed; no process is left."""
    # If papers exist, `up` has no reason to query the sources at once.
    recorded = FetchResult(sightings=[make_sighting()])
    assert ingest.ingest_recorded(engine, [("arxiv", recorded)], now=NOW)
    folder = tmp_path / "here"
    folder.mkdir()
    command = Command(folder, {"DATABASE_URL": database_url})
    with command.start("up", "--port", "0") as process:
        site = read_until(process, "Site").split()[-1]
        with httpx2.Client(base_url=site) as browser:
            assert "Retrieval for Patient Readers" in browser.get("/").text
            assert browser.get("/readyz").status_code == 200

            choices = signup.Choices(signup.parse_queries(("retrieval",)))
            signup.add(engine, "ada@example.org", choices, confirmed=False,
                       suppression_key="k", now=NOW.now(NOW.tzinfo))  # fmt: skip
            wait_until(lambda: "ada@example.org" in browser.get("/mailbox").text)
            _confirm(browser)
            wait_until(lambda: browser.get("/mailbox").text.count("ada@example.org") == 2)
        assert _status(engine, "ada@example.org") is SubscriberStatus.ACTIVE
        assert len(command.processes()) >= 5  # itself, Valkey, two workers, a beat

        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)

    assert process.returncode == 0
    wait_until(lambda: command.processes() == set())
    assert list(command.temporary.iterdir()) == []


def test_serve_runs_the_site_alone_until_it_is_stopped(tmp_path, database_url, valkey, engine):
    """The site compiles nothing itself: when a subscriber confirms, it wakes a worker."""
    command = Command(tmp_path, {"DATABASE_URL": database_url, "REDIS_URL": valkey})
    link = open_site(engine).ask("ada@example.org")
    with command.start("serve", "--port", "0") as process:
        port = read_until(process, "Serving").split()[-1]
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}") as browser:
            page = browser.get("/unsubscribe/a-secret-of-nobody")
            assert browser.get("/mailbox").status_code == 404
            with redis.Redis.from_url(valkey) as broker:
                broker.flushall()
                assert browser.post(path(link)).status_code == 200
                wait_until(lambda: broker.llen("edition") == 1)

        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)

    assert process.returncode == 0
    assert page.status_code == 404
    assert "secret" not in err


def _confirm(browser: httpx2.Client) -> None:
    letter = re.search(r"/mailbox/[\d-]+", browser.get("/mailbox").text)
    assert letter is not None
    text = browser.get(letter[0]).text
    link = re.search(r"http\S+/confirm/[\w.-]+", text)
    assert link is not None, text
    assert browser.post(urlsplit(link[0]).path).status_code == 200


def _status(engine: Engine, email: str) -> SubscriberStatus:
    with read_only(engine) as conn:
        subscriber = subscribers.by_email(conn, email)
    assert subscriber is not None
    return subscriber.status
