from __future__ import annotations

import pytest

from pipeline.matching.suggestions import hints, nearest_category


@pytest.mark.parametrize(
    ("query", "words", "position"),
    [
        ("tilte:graphs", "did you mean ti:? tilte: is searched as text", 0),
        ("moss title:graphs", "did you mean ti:", 5),
        ("autor:Smith", "did you mean au:", 0),
        ('abtract:"thin layers"', "did you mean abs:", 0),
        ("moss cat:cs.ML", "did you mean cat:cs.LG? cat:cs.ML is unknown", 5),
        ("cat:lg", "did you mean cat:cs.LG?", 0),
        ("cat:csCL", "did you mean cat:cs.CL?", 0),
        ("-cat:astro-ph.XX moss", "did you mean cat:astro-ph?", 1),
        ("cat:cs.RO OR cs.AI", "did you mean cat:cs.AI? cs.AI is searched as text", 13),
        ("q-bio.NC", "did you mean cat:q-bio.NC?", 0),
        ("ti:moss or ti:fern", "did you mean OR? or is searched as text", 8),
        ('"thin layers" and moss', "did you mean AND?", 14),
        ("moss au:Ada Lovelace", "read as the author “Ada Lovelace”", 5),
    ],
)
def test_hint_names_the_likely_mistake_and_its_position(query, words, position):
    [hint] = hints(query)

    assert hint.text.startswith(words)
    assert hint.position == position


@pytest.mark.parametrize(
    ("query", "meant"),
    [
        ("moss tilte:graphs", "moss ti:graphs"),
        ("moss cat:cs.ML", "moss cat:cs.LG"),
        ("q-bio.NC", "cat:q-bio.NC"),
        ('"thin layers" and moss', '"thin layers" AND moss'),
        ("moss au:Ada Lovelace", ""),
    ],
)
def test_hint_contains_the_corrected_query(query, meant):
    [hint] = hints(query)

    assert hint.query == meant


@pytest.mark.parametrize(
    "query",
    [
        "flow matching",
        "BERT: a study",
        "a ratio of 3:4, at http://example.org",
        "unknown:field",
        '"tilte:graphs"',
        "cats and dogs",
        "ti:moss OR ti:fern",
        "cat:cs.LG cat:cs.lg cat:cs.* cat:cs cat:cs.L* cat:hep-th cat:q-bio.*",
        "cat:neuroscience",
        "cat:cs.RO,cs.AI cat:(math.CO OR math.AG)",
        "node.js and e.g.this",
        "au:lovelace_a",
        'au:"Ada Lovelace"',
        "au:Lovelace engines",
    ],
)
def test_valid_query_returns_no_hints(query):
    assert hints(query) == ()


@pytest.mark.parametrize("name", ["cs.LG", "math.*", "cond-mat.dis-nn", "nothing.like-it"])
def test_nearest_category_is_none_for_known_or_dissimilar_names(name):
    assert nearest_category(name) is None
