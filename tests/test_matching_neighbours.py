from __future__ import annotations

import pytest

from pipeline.matching.corpus import statistics
from pipeline.matching.query import canonical, parse
from pipeline.matching.suggestions import (
    MOST,
    Count,
    as_typed,
    author,
    broader,
    least_broader,
    narrower,
)
from tests.support.factories import make_paper

RARE = ("moss", "flow", "fairness", "pdes")  # each in one of the papers, other words in five
CORPUS = statistics(
    [make_paper(word, abstract="") for word in RARE]
    + [make_paper("Walls, matching, bias in LLMs, neural operators", abstract="")] * 5
)


@pytest.mark.parametrize(
    ("query", "others"),
    [
        ("flow matching", {'"flow matching"', 'ti:"flow matching"'}),
        ("moss", {"ti:moss"}),
        ('"flow matching"', {'ti:"flow matching"'}),
        ("(moss OR ferns) -trees", {"(ti:moss OR ti:ferns) -trees"}),
        ("ti:moss cat:cs.LG", set()),
    ],
)
def test_narrower_returns_phrase_and_title_queries(query, others):
    assert {one.text for one in narrower(parse(query))} == set(map(canonical, others))


@pytest.mark.parametrize(
    ("query", "others"),
    [
        ('"flow matching"', {"flow matching"}),
        ("ti:moss", {"moss"}),
        ("moss on walls", {"moss"}),
        ("moss cat:cs.LG", {"moss"}),
        ("moss -ferns", set()),
        ("(moss OR walls) -ferns cat:cs.LG", {"(moss OR walls) -ferns"}),
        ("moss not ferns", set()),
        ("moss on unknowns", {"moss"}),
        ("unknown walls", {"walls"}),
        ('"flow matching" OR ti:moss', {"flow matching OR moss"}),
        ("moss", set()),
        ("flow matching", {"flow"}),
        ("bias and fairness in LLMs", {"fairness in LLMs", "bias and fairness"}),
        ("neural operators for PDEs", {"PDEs", "operators for PDEs"}),
        ("the who", set()),
        ("text to", set()),
    ],
)
def test_broader_removes_restrictions(query, others):
    assert {one.text for one in broader(parse(query), CORPUS)} == set(map(canonical, others))


def test_broader_limits_the_neighbours_of_a_long_query():
    assert 0 < len(broader(parse(" ".join(f"word{n}" for n in range(50))), CORPUS)) <= MOST


@pytest.mark.parametrize(
    ("query", "typed", "expected"),
    [
        ("bias in llms", "Bias and fairness in LLMs", "Bias in LLMs"),
        ("schrodinger", "Schrödinger bridge", "Schrödinger"),
        ('"flow matching" cat:cs.lg', "Flow Matching cat:cs.lg", '"Flow Matching" cat:cs.LG'),
        ('au:"ada lovelace"', "Ada Lovelace", 'au:"Ada Lovelace"'),
        ("moss", "ferns", "moss"),
    ],
)
def test_suggestion_is_written_like_the_topic(query, typed, expected):
    assert as_typed(query, typed) == expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("Ada Lovelace", 'au:"ada lovelace"'),
        ("Lovelace", None),
        ("one two three four five", None),
        ("state of the art", None),
        ("C++ A*", None),
        ('"Ada Lovelace"', None),
        ("Ada Lovelace -moss", None),
    ],
)
def test_two_to_four_words_may_be_an_author(query, expected):
    found = author(parse(query))

    assert (found and found.text) == expected


def count(papers: int) -> Count:
    """Return that number of papers in 30 days, 20 of which had papers."""
    return Count(papers, silent=0, days=20, span=30)


@pytest.mark.parametrize(
    ("papers", "others", "expected"),
    [
        (0, {"none": 0, "one": 1}, None),  # fewer than one a week
        (0, {"many": 50, "few": 5}, "few"),
        (10, {"14": 14, "15": 15, "99": 99}, "15"),
        (10, {"flood": 401}, None),
        (10, {}, None),
    ],
)
def test_least_broader_query_has_half_as_many_papers_again(papers, others, expected):
    found = least_broader(count(papers), {query: count(n) for query, n in others.items()})

    assert found == expected
