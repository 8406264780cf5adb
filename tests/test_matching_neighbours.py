from __future__ import annotations

import pytest

from pipeline.matching.neighbours import MOST, broader, narrower
from pipeline.matching.query import canonical, parse


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
def test_narrower_is_the_phrase_or_the_title(query, others):
    assert set(narrower(parse(query))) == set(map(canonical, others))


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
def test_broader_asks_for_less(query, others):
    assert set(broader(parse(query))) == set(map(canonical, others))


def test_a_long_sentence_has_few_neighbours():
    assert len(broader(parse(" ".join(f"word{n}" for n in range(50))))) == MOST
