"""Profiles: terms of papers, what is learned from them, and how papers are compared with it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.matching.corpus import CorpusStatistics, statistics
from pipeline.matching.profile import (
    MOST_AUTHORS,
    MOST_LIKENESS,
    OF_PAPER,
    OF_PROFILE,
    SPACE,
    Opinion,
    Profile,
    Terms,
    TermTable,
    author_keys,
    learn,
    place,
    telling_terms,
    terms_of,
)
from pipeline.matching.semantic import Judged, ProfileVector, VectorTable, learn_vector
from tests.support.factories import make_paper


def terms(*titles: str) -> list[Terms]:
    papers = [make_paper(title, abstract="") for title in titles]
    corpus = statistics(papers)
    return [terms_of(paper, corpus) for paper in papers]


def likeness(profile: Profile, papers: list[Terms]) -> list[float]:
    """Return the likeness of papers; weights are small, so that none reaches the limit."""
    table = TermTable({n: replace(one, weights=one.weights / 100) for n, one in enumerate(papers)})
    return table.likeness(profile, table.rows(range(len(papers)))).tolist()


def liked(paper: Terms, day: float = 0, **more) -> Opinion:
    return Opinion(paper, more.pop("authors", {}), day, **more)


def test_terms_are_a_vector_of_length_one():
    moss, empty = terms("Moss on walls", "-")

    assert np.linalg.norm(moss.weights) == pytest.approx(1)
    assert len(set(moss.places.tolist())) == moss.places.size
    assert empty.places.size == 0


def test_a_long_paper_keeps_its_heaviest_terms():
    words = [f"w{chr(97 + n % 26)}{chr(97 + n // 26)}x" for n in range(400)]
    paper = make_paper("Moss moss", abstract=" ".join(words))
    one = terms_of(paper, CorpusStatistics())

    assert one.places.size <= OF_PAPER
    assert place("moss") in one.places


@given(st.text(max_size=300), st.text(max_size=300))
def test_terms_of_any_text_can_be_stored(title, abstract):
    one = terms_of(make_paper(title, abstract=abstract), CorpusStatistics())

    again = Terms.load(one.dump())

    assert again.places.tolist() == one.places.tolist()
    assert again.weights == pytest.approx(one.weights, abs=1e-3)
    assert again.places.max(initial=0) < SPACE


@pytest.mark.parametrize("dumped", [b"", b"abc", b"12345", b"1234567"])
def test_damaged_terms_are_an_error(dumped):
    with pytest.raises(ValueError, match="damaged"):
        Terms.load(dumped)


def test_newer_likes_count_more():
    moss, tea, other = terms("Moss walls", "Tea leaves", "Stars")

    old, new, unknown = likeness(learn([liked(moss, 0), liked(tea, 480)]), [moss, tea, other])

    assert old / new == pytest.approx(0.25, abs=0.02)  # after two half-lives
    assert unknown < old


def test_disliked_and_shown_papers_count_against():
    moss, tea, other = terms("Moss walls", "Tea leaves", "Stars")

    (alone, *_) = likeness(learn([liked(moss)]), [moss])
    _, less, _ = likeness(learn([liked(moss), liked(tea, likes=False)]), [moss, tea, other])
    beside, _, shown = likeness(learn([liked(moss)], [moss, other]), [moss, tea, other])

    assert less < 0
    assert shown < 0
    assert beside < alone


def test_a_removed_term_or_author_is_not_learned():
    (moss,) = terms("Moss walls")
    opinion = liked(moss, authors=author_keys(["Ada Lovelace", "Carl Gauss"]))

    found = learn([opinion], removed=["moss", "ada lovelace"])

    assert found.weight_of("moss") == 0
    assert found.weight_of("wall") > 0
    assert set(found.authors.values()) == {"Carl Gauss"}


def test_a_profile_knows_authors_of_liked_papers():
    (moss,) = terms("Moss")
    names = author_keys(["Ada K. Lovelace", "Gauss, Carl F."])
    found = learn(
        [liked(moss, authors=names), liked(moss, authors=author_keys(["B"]), likes=False)]
    )

    assert found.known(author_keys(["Ada Lovelace"])) == "Ada Lovelace"
    assert found.known(author_keys(["Carl Gauss", "E. Noether"])) == "Carl Gauss"
    assert found.known(author_keys(["B", "Grace Hopper"])) == ""


def test_a_large_group_recommends_nobody():
    (moss,) = terms("Moss")
    many = author_keys([f"Author N{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(40)])

    assert len(many) > MOST_AUTHORS
    assert learn([liked(moss, authors=many)]).authors == {}


def test_a_profile_keeps_its_heaviest_terms_and_can_be_stored():
    rng = np.random.default_rng(1)
    places = rng.choice(SPACE, 5_000, replace=False).astype(np.uint32)
    big = Terms(places, np.linspace(0.001, 1, 5_000, dtype=np.float32), 0.5)

    found = learn([liked(big)])
    again = Profile.load(found.dump(), found.authors)

    assert found.places.size == OF_PROFILE
    assert found.weights.min() == pytest.approx(big.weights[-OF_PROFILE:].min())
    assert again.common == pytest.approx(found.common)
    assert likeness(again, [terms("Moss")[0]]) == pytest.approx(
        likeness(found, [terms("Moss")[0]]), abs=1e-3
    )


def test_general_words_count_less():
    common = [make_paper(f"Study of moss {n}", abstract="") for n in range(50)]
    corpus = statistics(common)

    general, special = (terms_of(make_paper(t, abstract=""), corpus) for t in ("Study", "Gneiss"))

    assert general.common > special.common == 0


def test_a_table_grows_and_knows_nothing_of_other_papers():
    (moss,) = terms("Moss")
    table = TermTable()
    for number in range(600):
        table.add({number: replace(moss)})

    found = table.likeness(learn([liked(moss)]), table.rows([599, 600]))

    assert found[0] > 0
    assert found[1] == 0
    assert 600 not in table


def plain_likeness(profile, one):
    """Return the likeness by its definition."""
    weights = dict(zip(profile.places.tolist(), profile.weights.tolist(), strict=True))
    shared = zip(one.places.tolist(), one.weights.tolist(), strict=True)
    found = sum(weights.get(place, 0.0) * weight for place, weight in shared)
    return MOST_LIKENESS * math.tanh((found - profile.common * one.common) / MOST_LIKENESS)


@st.composite
def sparse(draw):
    places = draw(st.lists(st.sampled_from([0, 1, 2, 3, SPACE - 1]), unique=True))
    weights = draw(st.lists(st.floats(-1, 1, width=32), min_size=len(places), max_size=5))
    return (
        np.array(places, np.uint32),
        np.array(weights[: len(places)], np.float32),
        draw(st.floats(0, 1)),
    )


@given(st.lists(sparse(), max_size=4), st.lists(sparse(), max_size=4))
def test_a_table_finds_the_likeness_of_the_definition(some, readers):
    papers = [Terms(*one) for one in some]
    table = TermTable(dict(enumerate(papers)))

    for profile in [Profile(*one, {}) for one in readers]:
        found = table.likeness(profile, table.rows(range(len(papers))))

        wanted = [plain_likeness(profile, one) for one in papers]
        assert found.tolist() == pytest.approx(wanted, abs=1e-5)


def test_a_table_compares_the_same_profile_with_papers_added_later():
    moss, tea = terms("Moss walls", "Tea leaves")
    table, profile = TermTable({1: tea}), learn([liked(moss), liked(tea)])
    table.likeness(profile, table.rows([1]))

    table.add({2: moss})

    assert table.likeness(profile, table.rows([2]))[0] > 0.1


def test_a_table_returns_the_terms_of_a_paper_in_any_column():
    moss, tea = terms("Moss walls", "Tea walls")
    table = TermTable({1: moss, 2: tea})

    found = table.terms(2)

    heavy = found.weights > 0
    assert found.places[heavy].tolist() == tea.places.tolist()
    assert found.common == pytest.approx(tea.common)


def test_telling_terms_are_as_the_paper_writes_them():
    paper = make_paper("Retrieving Dense Vectors", abstract="We retrieve vectors.")

    found = telling_terms(paper, CorpusStatistics())

    assert "dense vectors" in {term.written for term in found}
    assert all(len(term.stems.split()) == len(term.written.split()) for term in found)


# --- The vector of a semantic model -------------------------------------------------------------

EAST, NORTH, UP = np.eye(3, dtype=np.float32)


def test_vector_of_a_profile_points_to_the_newer_liked_papers_and_away_from_those_shown():
    learned = learn_vector([Judged(EAST, 240.0), Judged(NORTH, 0.0)], [UP] * 20, [])

    assert learned.direction == pytest.approx([2 / 3, 1 / 3, -0.4])  # half-life, contrast, trust


def test_vector_of_a_profile_points_away_from_disliked_papers():
    learned = learn_vector([Judged(EAST, 1.0), Judged(NORTH, 1.0, likes=False)], [], [])

    assert learned.direction == pytest.approx([1.0, -0.8, 0.0])


def test_usual_papers_stand_for_those_shown_and_have_no_likeness():
    learned = learn_vector([Judged(EAST, 1.0)], [], [NORTH, UP])

    assert learned.direction == pytest.approx([1.0, -0.4, -0.4])
    table = VectorTable()
    table.add([1, 2], {1: EAST.astype("<f2").tobytes(), 2: NORTH.astype("<f2").tobytes()})
    likeness = table.likeness(learned, [1, 2])
    assert likeness == {1: pytest.approx(0.05 * 1.4), 2: pytest.approx(0.0)}


def test_papers_without_a_readable_vector_add_nothing():
    table = VectorTable()
    unknown = np.full(3, np.nan, "<f2").tobytes()
    table.add([1, 2, 3, 4], {2: b"short", 3: unknown, 4: NORTH.astype("<f2").tobytes()})
    table.add([5, 6], {5: b"shor", 6: EAST.astype("<f2").tobytes()})

    assert 1 in table
    assert 7 not in table
    found = table.likeness(ProfileVector(EAST, 0.2), range(1, 8))
    assert found == {4: pytest.approx(-0.01), 6: pytest.approx(0.04)}
    assert table.likeness(ProfileVector(EAST[:2], 0.0), [4, 6]) == {}


def test_vector_of_a_profile_survives_storing_and_damage_raises():
    learned = learn_vector([Judged(EAST, 1.0)], [], [NORTH, UP])

    loaded = ProfileVector.load(learned.dump())

    assert loaded.direction == pytest.approx(learned.direction, abs=1e-3)
    assert loaded.usual == pytest.approx(learned.usual)
    for damaged in (b"", learned.dump()[:3], learned.dump()[:-1]):
        with pytest.raises(ValueError, match="damaged"):
            ProfileVector.load(damaged)
