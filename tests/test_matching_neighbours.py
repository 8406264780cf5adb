from __future__ import annotations

import pytest

from pipeline.matching.query import canonical, parse
from pipeline.matching.suggestions import MOST, as_typed, author, broader, least_broader, narrower


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
        ("moss on walls", {"walls", "moss"}),
        ("moss cat:cs.LG", {"moss"}),
        ("moss -ferns", {"moss"}),
        ('"flow matching" OR ti:moss', {"flow matching OR moss"}),
        ("moss", set()),
        ("flow matching", {"flow", "matching"}),
        ("bias and fairness in LLMs", {"fairness in LLMs", "bias in LLMs", "bias and fairness"}),
        ("neural operators for PDEs", {"PDEs", "operators for PDEs", "neural operators"}),
        ("the who", set()),
        ("text to", set()),
    ],
)
def test_broader_removes_restrictions(query, others):
    assert {one.text for one in broader(parse(query))} == set(map(canonical, others))


def test_broader_limits_the_neighbours_of_a_long_query():
    assert len(broader(parse(" ".join(f"word{n}" for n in range(50))))) == MOST


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


@pytest.mark.parametrize(
    ("papers", "others", "expected"),
    [
        (0, {"a": 0}, None),
        (0, {"a": 5, "b": 1, "c": 0}, "b"),
        (10, {"a": 14, "b": 15, "c": 99}, "b"),
        (10, {}, None),
    ],
)
def test_least_broader_query_has_half_as_many_papers_again(papers, others, expected):
    assert least_broader(papers, others) == expected
