from __future__ import annotations

import pytest

from pipeline.matching.query import canonical, parse
from pipeline.matching.suggestions import MOST, broader, narrower


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
        ("moss on walls", {"on walls", "moss on"}),
        ("moss cat:cs.LG", {"moss"}),
        ("moss -ferns", {"moss"}),
        ('"flow matching" OR ti:moss', {"flow matching OR moss"}),
        ("moss", set()),
        ("flow matching", set()),
    ],
)
def test_broader_removes_restrictions(query, others):
    assert {one.text for one in broader(parse(query))} == set(map(canonical, others))


def test_broader_limits_the_neighbours_of_a_long_query():
    assert len(broader(parse(" ".join(f"word{n}" for n in range(50))))) == MOST
