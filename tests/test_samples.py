"""The sample edition: well-formed, varied enough for a demo, and in our own words."""

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "pipeline" / "samples"
RECORDED = ROOT.parent / "shared" / "data"

LONGEST_SHARED_RUN = 7  # words in a row; names of things need a few

Json = dict[str, Any]

needs_recorded = pytest.mark.skipif(
    not RECORDED.is_dir(), reason="the recorded answers are not beside the project"
)


def huggingface() -> list[Json]:
    entries: list[Json] = json.loads((SAMPLES / "huggingface.json").read_text("utf-8"))
    return entries


def arxiv() -> list[Json]:
    lines = (SAMPLES / "arxiv.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def ids() -> list[Any]:
    return [entry["paper"]["id"] for entry in huggingface()] + [paper["id"] for paper in arxiv()]


def summaries() -> dict[str, str]:
    by_id = {entry["paper"]["id"]: entry["summary"] for entry in huggingface()}
    return by_id | {paper["id"]: paper["abstract"] for paper in arxiv()}


def recorded_huggingface() -> dict[str, list[Json]]:
    """Return the entries by arXiv id; a paper may be on the page of more than one day."""
    found: dict[str, list[Json]] = {}
    for page in sorted((RECORDED / "hf_daily_papers").glob("2026-07-*.json")):
        for entry in json.loads(page.read_text("utf-8")):
            found.setdefault(entry["paper"]["id"], []).append(entry)
    return found


def recorded_arxiv() -> dict[str, Json]:
    with gzip.open(RECORDED / "arxiv_papers.jsonl.gz", "rt", encoding="utf-8") as lines:
        return {paper["id"]: paper for paper in map(json.loads, lines)}


def recorded_abstracts() -> dict[str, str]:
    by_id = {id_: entries[0]["summary"] for id_, entries in recorded_huggingface().items()}
    return by_id | {id_: paper["abstract"] for id_, paper in recorded_arxiv().items()}


def runs(text: str, length: int) -> Iterator[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return zip(*(words[start:] for start in range(length)), strict=False)


def facts(entry: Json) -> Json:
    """Return the facts of a daily-page entry that the samples keep."""
    paper = entry["paper"]
    kept = ("id", "publishedAt", "submittedOnDailyAt", "title", "upvotes")
    return {
        "paper": {name: paper[name] for name in kept}
        | {name: paper.get(name) for name in ("githubRepo", "projectPage")}
        | {"authors": [author["name"] for author in paper["authors"]]},
        "publishedAt": entry["publishedAt"],
        "title": entry["title"],
        "numComments": entry["numComments"],
    }


def test_samples_have_enough_papers_for_a_broad_edition() -> None:
    assert len(huggingface()) >= 30
    assert len(ids()) >= 40


def test_ids_are_unique_strings_in_the_form_of_arxiv() -> None:
    assert all(isinstance(id_, str) and re.fullmatch(r"\d{4}\.\d{5}", id_) for id_ in ids())
    assert len(set(ids())) == len(ids())


def test_summaries_are_one_line_of_15_to_70_words_and_end_in_a_period() -> None:
    for id_, summary in summaries().items():
        assert 15 <= len(summary.split()) <= 70, id_
        assert summary.endswith("."), id_
        assert summary == " ".join(summary.split()), id_


def test_daily_page_has_the_expected_fields_and_no_user_accounts() -> None:
    for entry in huggingface():
        paper = entry["paper"]
        assert set(entry) == {"paper", "publishedAt", "title", "summary", "numComments"}
        assert paper["summary"] == entry["summary"]
        assert paper["title"] == entry["title"]
        assert 3 <= len(paper["ai_keywords"]) <= 5
        assert paper["authors"]
        assert all(set(author) == {"name"} for author in paper["authors"])


def test_arxiv_papers_cover_archives_beyond_computer_science() -> None:
    archives = {name.split(".")[0] for paper in arxiv() for name in paper["categories"]}
    assert {"cs", "econ", "eess", "math", "physics", "q-bio", "stat"} <= archives


def test_some_titles_contain_a_formula() -> None:
    assert sum(paper["title"].count("$") == 2 for paper in arxiv()) >= 2


def test_one_paper_has_hundreds_of_authors() -> None:
    assert max(len(entry["paper"]["authors"]) for entry in huggingface()) > 300


@pytest.mark.shared
@needs_recorded
def test_no_summary_copies_a_run_of_words_from_its_abstract() -> None:
    abstracts = recorded_abstracts()
    length = LONGEST_SHARED_RUN + 1
    for id_, summary in summaries().items():
        assert not set(runs(summary, length)) & set(runs(abstracts[id_], length)), id_


@pytest.mark.shared
@needs_recorded
def test_daily_page_facts_equal_the_recorded_ones() -> None:
    recorded = recorded_huggingface()
    for entry in huggingface():
        assert facts(entry) in [facts(other) for other in recorded[entry["paper"]["id"]]]


@pytest.mark.shared
@needs_recorded
def test_arxiv_paper_facts_equal_the_recorded_ones() -> None:
    recorded = recorded_arxiv()
    for paper in arxiv():
        assert paper | {"abstract": ""} == recorded[paper["id"]] | {"abstract": ""}
