"""The benchmark of key sentences: scores, training, and files that cannot be read."""

from __future__ import annotations

import gzip
import json

import pytest
from typer.testing import CliRunner

from pipeline.bench import sentences
from pipeline.cli.bench import app
from pipeline.errors import PaperboyError
from pipeline.key_sentence import FEATURES

ABSTRACT = (
    "Bricks are a material that is old and is in each of the {0} towns. We propose a kiln for the "
    "bricks of the town {0} that is fast. It is a thing of the past that a brick of {0} breaks."
)
SUMMARY = "A kiln for the bricks of the town {0} is fast."


def paper(number: int, **changes: object) -> dict[str, object]:
    return {
        "id": str(number),
        "title": f"A kiln for {number}",
        "abstract": ABSTRACT.format(number),
        "ai_summary": SUMMARY.format(number),
        **changes,
    }


@pytest.fixture
def file(tmp_path):
    def file(*rows: object, name: str = "papers.jsonl"):
        lines = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
        packed = gzip.compress(lines.encode()) if name.endswith(".gz") else lines.encode()
        (tmp_path / name).write_bytes(packed)
        return tmp_path / name

    return file


def test_rouge1_is_the_f_score_of_the_words():
    assert sentences.rouge1("A kiln, a KILN!", "a kiln") == pytest.approx(100 * 2 * 2 / 6)
    assert sentences.rouge1("", "a") == sentences.rouge1("b", "a") == 0


@pytest.mark.parametrize("name", ["papers.jsonl", "papers.jsonl.gz"])
def test_json_has_the_four_means(file, name):
    path = file(*map(paper, range(3)), "", name=name)

    done = CliRunner().invoke(app, ["sentences", str(path), "--json"])

    told = json.loads(done.output)
    assert list(told) == ["papers", "rouge1_start", "rouge1_chosen", "rouge1_best"]
    assert told["papers"] == 3
    assert told["rouge1_start"] < told["rouge1_chosen"] == told["rouge1_best"] < 100


def test_training_is_deterministic_and_reports_unseen_papers(file, tmp_path):
    papers = sentences.read(file(*map(paper, range(20))))

    first, again = sentences.train(papers), sentences.train(papers)

    assert first == again
    assert first.chosen == pytest.approx(sentences.measure(papers).best, abs=0.5)
    sentences.write(first.weights, tmp_path / "weights.json")
    written = json.loads((tmp_path / "weights.json").read_text())
    assert tuple(written["features"]) == FEATURES
    assert written["words"] == first.weights.words


def test_training_needs_ten_papers(file):
    with pytest.raises(PaperboyError, match="10 papers"):
        sentences.train(sentences.read(file(*map(paper, range(9)))))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{", "line 2: not JSON"),
        ("[]", "line 2: not an object"),
        ({"id": "1", "title": "T"}, "line 2: abstract, ai_summary is missing"),
        (paper(1, ai_summary=None), "line 2: ai_summary is no text"),
    ],
)
def test_an_invalid_line_is_named(file, row, reason):
    with pytest.raises(PaperboyError, match=reason):
        sentences.read(file(paper(0), row))


def test_a_file_without_papers_or_of_another_format_is_rejected(file, tmp_path):
    with pytest.raises(PaperboyError, match="no papers"):
        sentences.read(file(""))
    with pytest.raises(PaperboyError, match="No such file"):
        sentences.read(tmp_path / "none.jsonl")
    (tmp_path / "broken.jsonl.gz").write_bytes(b"not gzip")
    with pytest.raises(PaperboyError, match="Not a gzipped file"):
        sentences.read(tmp_path / "broken.jsonl.gz")
