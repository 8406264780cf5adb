"""The matching benchmark: the timed code does its work, and the scores are right."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.bench import match, quality, synthetic
from pipeline.bench.match import Plan
from pipeline.domain import Breadth, Match
from pipeline.errors import PaperboyError

ROOT = Path(__file__).resolve().parent.parent
FILLER = "We study a question and answer it with some care"
PAPERS = [
    {"id": "about", "title": "Gentle rivers", "abstract": FILLER},
    {"id": "says", "title": "One", "abstract": f"Of gentle rivers. {FILLER}"},
    {"id": "passes", "title": "Two", "abstract": f"Rivers are gentle, gentle are rivers. {FILLER}"},
    *({"id": f"other {n}", "title": f"Number {n}", "abstract": FILLER} for n in range(40)),
]


@pytest.fixture
def folder(tmp_path):
    def folder(grades, papers=PAPERS, topics=({"id": "t", "query": "gentle rivers"},)) -> Path:
        rows = [
            {"topic": topic, "paper": paper, "grade": g} for (topic, paper), g in grades.items()
        ]
        files = {"papers": papers, "topics": topics, "qrels": rows}
        for name, some in files.items():
            (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, some)))
        return tmp_path

    return folder


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline", "bench", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip


# --- Quality ------------------------------------------------------------------------------------


def test_ndcg_is_100_for_a_perfect_order_and_less_otherwise(folder):
    best_first = quality.measure(quality.read_set(folder({("t", "about"): 2, ("t", "says"): 1})))
    wrong = quality.measure(quality.read_set(folder({("t", "passes"): 2, ("t", "says"): 1})))

    assert best_first.ndcg == pytest.approx(100)
    assert 0 < wrong.ndcg < 100
    assert best_first.error == 0  # the standard error of a single topic


def test_floor_has_precision_and_recall_per_breadth(folder):
    measured = quality.measure(quality.read_set(folder({("t", "about"): 1, ("t", "passes"): 1})))

    told = {breadth: (f.precision, f.recall, f.papers) for breadth, f in measured.floors.items()}
    assert told == {
        Breadth.FEWER: (100, 50, 1),
        Breadth.BALANCED: (50, 50, 2),
        Breadth.MORE: (pytest.approx(100 * 2 / 3), 100, 3),
    }


def test_quiet_is_the_percentage_of_days_without_a_sent_paper(folder):
    """One of the 41 ungraded papers is sent; about half of the days, of 30 papers each, have it."""
    grades = {("t", "about"): 1, ("t", "passes"): 1}

    measured = quality.measure(quality.read_set(folder(grades)))

    assert measured.floors[Breadth.FEWER].quiet == 100
    assert 20 < measured.floors[Breadth.BALANCED].quiet < 80


def test_elsewhere_is_100_for_days_of_another_field(folder):
    known = quality.read_set(folder({("t", "about"): 1}))

    others = [paper for paper in known.papers if paper.id.startswith("other")]

    measured = quality.measure(known, others)

    assert measured.floors[Breadth.MORE].elsewhere == 100
    assert quality.measure(known, known.papers).floors[Breadth.MORE].elsewhere < 100


def test_ndcg_ignores_ungraded_papers_if_a_paper_is_graded_0(folder):
    """An ungraded paper, ranked between two graded ones, does not change the score."""
    judged = {("t", "about"): 1, ("t", "passes"): 1, ("t", "other 1"): 0}
    unjudged = {key: grade for key, grade in judged.items() if grade}

    assert quality.measure(quality.read_set(folder(judged))).ndcg == pytest.approx(100)
    assert quality.measure(quality.read_set(folder(unjudged))).ndcg < 100


@pytest.mark.full
def test_quality_prints_a_set_as_one_json_object(folder):
    path = folder({("t", "about"): 1})

    done = bench("quality", str(path), "--elsewhere", str(path), "--json")

    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["set"], told["topics"], told["ndcg@10"]) == (path.name, 1, 100.0)
    assert set(told["floor"]) == {"fewer", "balanced", "more"}
    assert set(told["floor"]["more"]) == {"precision", "recall", "papers", "quiet", "elsewhere"}


@pytest.mark.parametrize(
    ("grades", "papers", "message"),
    [
        ({}, PAPERS, "no grades"),
        ({("t", "about"): "good"}, PAPERS, "'good' is no whole number"),
        ({("t", "about"): 1}, [{"id": "about"}], "line 1: title is missing"),
    ],
)
def test_read_rejects_an_invalid_set_with_the_reason(folder, grades, papers, message):
    with pytest.raises(PaperboyError, match=message):
        quality.read_set(folder(grades, papers))


# --- Speed --------------------------------------------------------------------------------------


@pytest.mark.full
def test_match_prints_positive_figures_as_json():
    done = bench("match", "--papers", "30", "--topics", "60", "--readers", "50", "--json")

    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert measured["matches"] >= 60  # each topic occurs in a paper, so it matches at least one
    for name in ("index_s", "match_s", "ratio_fts5", "ratio_plain", "pick_us", "readers_per_s"):
        assert measured[name] > 0


def test_run_raises_if_batch_and_single_matching_differ(monkeypatch):
    real = match.match
    monkeypatch.setattr(
        match, "match", lambda topics, *args, **kw: list(real(topics, *args, **kw))[:: len(topics)]
    )

    with pytest.raises(PaperboyError, match="finds other papers by itself"):
        match.run(Plan(papers=20, topics=10, readers=5))


def test_generated_topics_are_unique_and_papers_deterministic():
    papers = synthetic.papers(50)

    queries = [topic.query for topic in synthetic.topics(300, papers)]

    assert len(set(queries)) == 300
    assert papers == synthetic.papers(50)
    assert synthetic.readers(1_000, 300).max() < 300


def test_fan_out_returns_the_best_matches_per_reader():
    found = [Match(0, 7, 4.0, ()), Match(0, 8, 1.0, ()), Match(2, 9, 2.0, ())]

    rows = match.fan_out(found, np.array([[0, 2], [1, 1]]), topic_count=3)

    assert rows[0, :3].tolist() == [7, 9, 8]
    assert rows[1].max() == -1
