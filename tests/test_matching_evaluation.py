from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.domain import Breadth
from pipeline.errors import QueryError
from pipeline.matching.match import PaperText, Ranked, TopicText, rank

pytestmark = pytest.mark.full

SETS = Path(__file__).parents[2] / "shared" / "data" / "eval"


class TestRank:
    def test_papers_sharing_a_word_are_ranked_best_first(self):
        papers = [
            PaperText("a", "Trees", "Nothing else."),
            PaperText("b", "Graphs", "Nothing but graphs."),
            PaperText("c", "Lines", "A graph is drawn."),
        ]

        rows = list(rank(papers, [TopicText("t", "graphs at work")]))

        assert [(row.topic, row.paper) for row in rows] == [("t", "b"), ("t", "c")]
        assert rows[0].score > rows[1].score > 0

    def test_ties_are_ordered_by_id(self):
        papers = [PaperText(name, "Graphs", "") for name in ("b", "a", "c")]

        assert [row.paper for row in rank(papers, [TopicText("t", "graphs")], 2)] == ["a", "b"]

    def test_plain_words_accept_any_text(self):
        papers = [PaperText("a", "Graphs and Trees", "")]
        topics = [TopicText("1", 'graphs -trees "('), TopicText("2", "?"), TopicText("3", "")]

        assert [row.topic for row in rank(papers, topics)] == ["1"]

    def test_query_language_is_used_if_requested(self):
        papers = [PaperText("a", "Graphs and Trees", "")]

        assert list(rank(papers, [TopicText("1", "graphs -trees")], language=True)) == []
        with pytest.raises(QueryError):
            list(rank(papers, [TopicText("1", "(")], language=True))

    def test_breadth_returns_only_what_passes_its_threshold(self):
        texts = ["Gentle rivers.", "Rivers are gentle, gentle are rivers.", "Rivers.", "Stones."]
        papers = [PaperText(str(i), "One", text) for i, text in enumerate(texts)]
        papers += [PaperText(f"x{i}", "Two", "Nothing of interest.") for i in range(40)]

        found = {
            breadth: [
                one.paper
                for one in rank(papers, [TopicText("1", "gentle rivers")], breadth=breadth)
            ]
            for breadth in (None, Breadth.MORE, Breadth.BALANCED)
        }

        assert found == {None: ["0", "1", "2"], Breadth.MORE: ["0", "1"], Breadth.BALANCED: ["0"]}


def rows(path):
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def ndcg_at_10(folder: Path, ranked: list[Ranked], run: Path) -> float:
    run.write_text("\n".join(json.dumps(row._asdict()) for row in ranked))
    told = subprocess.run(
        [sys.executable, SETS / "score.py", folder, run], capture_output=True, check=True, text=True
    )
    return json.loads(told.stdout)["ndcg@10"]


@pytest.mark.shared
@pytest.mark.skipif(not SETS.is_dir(), reason="the labelled sets are not beside the project")
@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("csfcube-background", 39.0),
        ("csfcube-method", 33.5),
        ("csfcube-result", 27.5),
        ("hf-keywords", 54.0),
        ("scirepeval-search", 71.0),
    ],
)
def test_ndcg_of_labelled_sets_reaches_the_published_figures(name, least, tmp_path):
    """The figures of docs/matching.md, with about a point of tolerance for tokenizer changes."""
    folder = SETS / name
    papers = [
        PaperText(row["id"], row["title"], row.get("abstract") or "")
        for row in rows(folder / "papers.jsonl")
    ]
    topics = [TopicText(row["id"], row["query"]) for row in rows(folder / "topics.jsonl")]

    ranked = list(rank(papers, topics))

    assert ndcg_at_10(folder, ranked, tmp_path / "run.jsonl") >= least
