"""The sending benchmark: every mail arrives, has the right content, and is counted once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Engine
from typer.testing import CliRunner

from pipeline import cli
from pipeline.bench import outbox, send, sinks
from pipeline.bench.outbox import Outbox
from pipeline.bench.profile import Step
from pipeline.bench.send import Leg, Plan, Report, Round
from pipeline.bench.synthetic import Scribe
from pipeline.bench.web import Spread
from pipeline.bootstrap import Services
from pipeline.errors import PaperboyError, SettingsError
from pipeline.matching.index import PaperIndex
from pipeline.matching.match import PaperText
from pipeline.matching.query import parse
from pipeline.settings import Settings
from tests.support.factories import NOW, make_paper

pytestmark = pytest.mark.full

ROOT = Path(__file__).resolve().parent.parent
TINY = Plan(mails=40, papers=3, rounds=1, sessions=4)

LOSES_ONE = f"""#!{sys.executable}
import asyncio, runpy, sys
sink = runpy.run_path({str(Path(sinks.__file__).with_name("python_sink.py"))!r})
class Forgetful(sink["Counter"]):
    messages = -1
sink["serve"].__globals__["Counter"] = Forgetful
asyncio.run(sink["serve"](int(sys.argv[-2].rpartition(":")[2])))
"""


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline", "bench", *arguments],
        cwd=ROOT,
        env={**os.environ, "LOG_LEVEL": "WARNING", "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def make_outbox(engine: Engine, readers: int) -> Outbox:
    papers = outbox.ingest_samples(engine, NOW)
    added = outbox.add_readers(engine, readers, papers, "key", NOW)
    return Outbox(engine, papers, added, template="t")


def make_leg(per_second: float, **changes: object) -> Leg:
    leg = Leg(mails=100, seconds=100 / per_second, sender_cpu=0.1, sink_cpu=0.01, octets=3_000)
    return replace(leg, **changes)


def make_report(*rates: tuple[float, float, float]) -> Report:
    """Return a report of rounds with these rates: ours, smtp-source's, the plain client's."""
    rounds = [
        Round(make_leg(ours), make_leg(plain), make_leg(theirs), make_leg(theirs))
        for ours, theirs, plain in rates
    ]
    return Report(TINY, "smtp-sink", "sqlite", rounds)


# --- The command --------------------------------------------------------------------------------


def test_send_prints_json_figures_on_the_last_line():
    done = bench(
        "send", "--json", "--mails", "40", "--papers", "3", "--rounds", "1", "--sessions", "4"
    )

    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout.splitlines()[-1])
    assert measured["emails_per_s"] > 0
    assert measured["ratio_plain"] > 0
    assert set(measured["us_per_mail"]) == set(Step)
    assert all(measured["us_per_mail"][step] > 0 for step in Step)
    compared = measured["ratio_smtp_source"] is not None
    assert compared == (sinks.postfix("smtp-source") is not None)


def test_send_without_json_prints_a_table():
    done = bench("send", "--mails", "5", "--papers", "1", "--rounds", "1", "--sessions", "1")

    assert done.returncode == 0, done.stderr
    assert "mails a second" in done.stdout
    assert "compose" in done.stdout


@pytest.mark.parametrize(
    "arguments", [["send", "--mails", "0"], ["send", "--papers", "51"], ["nonsense"], []]
)
def test_invalid_arguments_exit_with_code_2(arguments: Sequence[str]):
    assert CliRunner().invoke(cli.app, ["bench", *arguments]).exit_code == 2


def test_web_prints_json_figures_on_the_last_line():
    done = bench("web", "--json", "--papers", "150", "--searches", "10")

    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout.splitlines()[-1])
    assert measured["papers"] == 150
    assert 0 < measured["search_p50_ms"] <= measured["search_p99_ms"]
    assert measured["ratio_floor"] > 1  # a search takes longer than an empty request
    assert {"/", "/subscribe", "/topics"} < set(measured["pages"])


# --- A run --------------------------------------------------------------------------------------


def test_ratio_to_smtp_source_is_none_without_postfix(monkeypatch):
    monkeypatch.setattr(sinks, "POSTFIX_FOLDERS", ())
    monkeypatch.setenv("PATH", "")

    measured = send.run(TINY).as_json()

    assert measured["ratio_smtp_source"] is None
    assert measured["sink"] == "python"
    assert measured["ratio_plain"] > 0


def test_a_mail_that_does_not_arrive_fails_the_run(monkeypatch, tmp_path):
    program = tmp_path / "smtp-sink"
    program.write_text(LOSES_ONE)
    program.chmod(0o755)
    monkeypatch.setattr(sinks, "LAST_WORDS", 0.2)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    with pytest.raises(PaperboyError, match="only 39 of 40 mails arrived"):
        send.run(TINY)


def test_oracle_rejects_a_mail_with_wrong_content(engine):
    class Sloppy(Services):
        def compose(self, *args, **kwargs) -> bytes:
            return super().compose(*args, **kwargs).replace(b"unsubscribe/", b"unsubscribf/")

    settings = Settings(site_url="https://papers.example.org")
    make_outbox(engine, readers=3).fill(0, 2, NOW)

    with pytest.raises(PaperboyError, match="does not say what the plain way says"):
        send.check_content(Sloppy(settings, engine), NOW)


def test_temporary_database_is_created_and_dropped_on_postgresql(postgresql_url):
    with outbox.temporary_database(postgresql_url) as url, psycopg.connect(url) as conn:
        made = conn.execute("SELECT current_database(), count(*) FROM papers").fetchone()
    with psycopg.connect(postgresql_url) as conn:
        left = {name for (name,) in conn.execute("SELECT datname FROM pg_database")}

    assert made is not None
    assert made[0].startswith("paperboy_bench_")
    assert made[1] == 0
    assert made[0] not in left


def test_sqlite_database_url_is_rejected_and_no_file_created(tmp_path):
    url = f"sqlite:///{tmp_path / 'paperboy.db'}"

    with pytest.raises(SettingsError, match="--database-url"), outbox.temporary_database(url):
        pass

    assert not any(tmp_path.iterdir())


# --- Content of the mails -----------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_each_reader_gets_a_different_digest(engine):
    owed = make_outbox(engine, readers=20).fill(0, 10, NOW)

    picks = {tuple(pick.paper.id for pick in one.digest.picks) for one in owed}
    assert len(picks) == 20
    assert {len(one.digest.picks) for one in owed} == {10}
    assert len({one.digest.topics for one in owed}) == 20


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_rounds_have_different_digests(engine):
    box = make_outbox(engine, readers=2)

    first, second = box.fill(1, 5, NOW), box.fill(2, 5, NOW)

    assert first[0].digest.picks != second[0].digest.picks
    assert first[0].digest.edition_on < second[0].digest.edition_on


# --- Figures ------------------------------------------------------------------------------------


def test_ratios_are_medians_of_rounds_not_ratios_of_medians():
    report = make_report((100, 100, 10), (200, 400, 10), (400, 500, 10))

    measured = report.as_json()

    assert measured["ratio_smtp_source"] == 0.8
    assert measured["ratio_plain"] == 20
    assert measured["emails_per_s_range"] == [100, 400]


def test_cpu_time_and_bytes_are_reported_per_mail():
    measured = make_report((100, 100, 10)).as_json()

    assert measured["sender_cpu_us"] == 1_000
    assert measured["sink_cpu_us"] == 100
    assert measured["bytes_per_mail"] == 30


# --- Papers and searches ------------------------------------------------------------------------


def test_generated_papers_are_deterministic_and_have_unique_ids():
    first = list(Scribe([make_paper()]).papers(300, NOW.date()))
    again = list(Scribe([make_paper()]).papers(300, NOW.date()))

    assert first == again
    assert len({paper.arxiv_id for paper in first}) == 300
    assert len({paper.announced_on for paper in first}) == 3


def test_searches_can_be_parsed_and_most_find_a_paper():
    scribe = Scribe([make_paper()])
    papers = list(scribe.papers(200, NOW.date()))
    texts = [PaperText(paper.source_id, paper.title, paper.abstract, categories=paper.categories)
             for paper in papers]  # fmt: skip
    index = PaperIndex(texts)

    found = [index.find(parse(search.query)).papers.size for search in scribe.searches(50, papers)]

    assert sum(map(bool, found)) > 25


def test_spread_returns_the_median_and_the_99th_percentile_in_ms():
    spread = Spread.of([0.001] * 98 + [0.5] * 2)

    assert spread.p50 == 1
    assert spread.p99 == 500
