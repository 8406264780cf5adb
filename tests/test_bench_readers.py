"""`paperboy bench readers`, on made-up people."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.bench import readers
from pipeline.errors import PaperboyError

FIELDS = {
    "moss": ("Moss on walls", "Moss grows on old walls and stones.", "Ada Lovelace"),
    "tea": ("Tea leaves", "We dry tea leaves in the shade.", "Carl Gauss"),
    "stars": ("Bright stars", "Stars shine at night over the sea.", "Emmy Noether"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten days, each with a paper of every field; two people who submit theirs."""
    papers = [
        {
            "id": f"{field}{day}",
            "day": f"2030-01-{day:02}",
            "title": f"{title}, part {day}",
            "abstract": abstract,
            "authors": [f"Coauthor {field} {day}", author],
            "upvotes": len(field),
        }
        for day in range(1, 11)
        for field, (title, abstract, author) in FIELDS.items()
    ]
    people = [
        {
            "person": field,
            "submissions": [
                {"day": f"2030-01-{day:02}", "paper": f"{field}{day}"} for day in range(1, 9)
            ],
        }
        for field in ("moss", "stars")
    ]
    with gzip.open(tmp_path / "papers.jsonl.gz", "wt") as file:
        file.writelines(f"{json.dumps(row)}\n" for row in papers)
    (tmp_path / "people.jsonl").write_text("\n".join(map(json.dumps, people)))
    return tmp_path


def test_people_who_submit_one_field_are_predicted_by_terms_and_by_people(folder):
    found = {(one.order, one.liked): one for one in readers.measure(folder)}

    assert {liked for _, liked in found} == {"1", "2-3", "4-6", "7-12", "newest 2", "newest 4"}
    for order in ("terms", "people", "terms and people"):
        for liked in ("1", "4-6", "newest 4"):
            one = found[order, liked]
            assert (one.people, one.auc, one.mrr, one.hit3) == (2, 1.0, 1.0, 1.0)
    assert [found["terms", liked].episodes for liked in ("1", "2-3", "4-6", "7-12")] == [2, 4, 6, 2]
    upvotes = found["upvotes", "4-6"]  # of moss the second, of stars the first of three
    assert upvotes.auc == pytest.approx((0.5 + 1.0) / 2)
    assert upvotes.mrr == pytest.approx((0.5 + 1.0) / 2)


def test_days_without_a_choice_are_left_out(folder):
    """All papers of the day, none of them, or an unknown paper."""
    rows = [
        {"day": "2030-01-01", "paper": "moss1"},
        *({"day": "2030-01-02", "paper": f"{field}2"} for field in FIELDS),
        {"day": "2030-01-03", "paper": "unknown"},
        {"day": "2030-01-04", "paper": "moss4"},
    ]
    (folder / "people.jsonl").write_text(json.dumps({"person": "ada", "submissions": rows}))

    found = readers.measure(folder)

    assert {one.episodes for one in found if not one.liked.startswith("newest")} == {1}
    assert {one.liked for one in found} == {"4-6", "newest 2", "newest 4"}


def test_row_without_a_value_is_an_error(folder):
    (folder / "people.jsonl").write_text('{"person": "ada"}')

    with pytest.raises(PaperboyError, match="submissions is missing"):
        readers.measure(folder)


@pytest.mark.parametrize("line", ["", "{", "[1]"])
def test_malformed_file_is_named(folder, line):
    if line:
        (folder / "people.jsonl").write_text(line)
    else:
        (folder / "people.jsonl").unlink()

    with pytest.raises(PaperboyError, match=r"people\.jsonl"):
        readers.measure(folder)


class OneFieldEach:
    """An embedder that knows the field of a paper by its title."""

    def papers(self, texts):
        fields = [title for title, _, _ in FIELDS.values()]
        return np.array([[float(one.startswith(field)) for field in fields] for one in texts],
                        np.float32)  # fmt: skip

    def topic(self, text):
        raise NotImplementedError


def test_with_a_model_the_orders_by_vectors_are_measured_too(folder):
    without = {one.order for one in readers.measure(folder)}
    found = {(one.order, one.liked): one for one in readers.measure(folder, OneFieldEach())}

    orders = {"vector", "terms and vector", "terms, vector and people"}
    assert {order for order, _ in found} - without == orders
    assert without.isdisjoint(orders)
    for order in orders:
        assert (found[order, "1"].auc, found[order, "4-6"].hit3) == (1.0, 1.0)
