"""Topics that are proposed from a reader's papers: shared phrases that the archive has."""

from __future__ import annotations

from itertools import pairwise

import pytest

from pipeline.matching import proposals
from pipeline.matching.corpus import statistics
from pipeline.matching.index import PaperIndex
from pipeline.matching.match import PaperText
from pipeline.matching.proposals import Tried, proposed_topics
from pipeline.matching.query import TopicQuery
from pipeline.matching.suggestions import Count

DAYS = 20


def paper(title: str, abstract: str = "", *categories: str) -> PaperText:
    return PaperText(id=title, title=title, abstract=abstract, categories=categories)


MOSS = (
    paper("Moss gardens on stone walls", "We propose a novel framework for moss gardens."),
    paper("Watering moss gardens", "Extensive experiments show that rain helps."),
    paper("Peat bogs in winter", "Extensive experiments show that peat bogs freeze."),
    paper("Mapping peat bogs", "We propose a novel framework for maps."),
    paper("On tea", "Extensive experiments, a novel framework, state of the art."),
)
NOISE = tuple(
    paper(f"Subject {n}", f"We propose a novel framework for subject {n}") for n in range(80)
)


class Archive:
    """Papers of a month, and the queries that were tried on them."""

    def __init__(self, *papers: PaperText) -> None:
        self.papers = papers
        self.corpus = statistics(papers)
        self.index = PaperIndex(papers, self.corpus)
        self.tried: list[str] = []

    def __call__(self, query: TopicQuery) -> Tried:
        self.tried.append(query.text)
        found = self.index.find(query.tree).papers.tolist()
        return Tried(Count(len(found), DAYS - min(DAYS, len(found)), DAYS, 30), frozenset(found))

    def proposed(self, *own: PaperText) -> list[str]:
        found = proposed_topics(own, self.corpus, self, len(self.papers))
        return [one.query.typed for one in found]


def test_phrases_that_several_papers_share_are_proposed():
    archive = Archive(*MOSS, *NOISE)

    found = proposed_topics(MOSS, archive.corpus, archive, len(archive.papers))

    assert {one.query.typed: one.shared for one in found} == {"moss gardens": 2, "peat bogs": 2}
    assert [one.count.papers for one in found] == [2, 2]


def test_words_of_any_paper_are_never_proposed():
    own = [
        paper(f"A novel framework {n}", "Extensive experiments on public datasets")
        for n in range(6)
    ]

    assert Archive(*own, *NOISE).proposed(*own) == []


def test_topics_that_the_archive_does_not_have_are_left_out():
    archive = Archive(*MOSS[2:], *NOISE)

    assert archive.proposed(*MOSS) == ["peat bogs"]


def test_topics_of_too_many_papers_are_left_out():
    many = [paper(f"Moss gardens {n}") for n in range(40)]
    archive = Archive(*MOSS, *NOISE, *many)

    assert archive.proposed(*MOSS) == ["peat bogs"]


def test_flood_is_left_out_whatever_its_share():
    archive = Archive(*MOSS, *NOISE)

    def flooded(query: TopicQuery) -> Tried:
        return Tried(Count(21 * DAYS, 0, DAYS, 30), frozenset({1}))

    assert proposed_topics(MOSS, archive.corpus, flooded, 100_000) == []


def test_topics_with_the_same_papers_are_proposed_once():
    own = [paper(f"Green roofs and moss gardens {n}") for n in range(4)]

    assert len(Archive(*own, *NOISE).proposed(*own)) == 1


def test_few_papers_give_their_most_telling_phrases():
    others = [paper(f"Peat bogs of country {n}") for n in range(4)]
    archive = Archive(MOSS[2], *others, *NOISE)

    assert archive.proposed(MOSS[2]) == ["peat bogs"]


def test_category_of_most_papers_is_proposed():
    own = [paper(f"Paper {n}", "", "math.CT", "math.AT" if n else "cs.LG") for n in range(3)]

    assert Archive(*own, *NOISE).proposed(*own) == ["cat:math.CT"]


def test_a_phrase_is_written_as_in_the_papers():
    own = [
        paper("Text-to-Moss Generation for All", "We study text-to-moss generation."),
        paper("Better TEXT-to-moss generation", "In text-to-moss generation, time matters."),
    ]

    assert Archive(*own, *NOISE).proposed(*own) == ["text-to-moss generation"]


def test_a_phrase_does_not_run_over_other_words():
    own = [paper(f"Moss {word} stones {word} tea {n}") for n in range(3) for word in ("for", "and")]

    assert Archive(*own, *NOISE).proposed(*own) == []


def test_abbreviations_are_proposed_and_numbers_are_not():
    own = [paper(f"The XMOSS of 2024, 8B and part {n}") for n in range(3)]

    assert Archive(*own, *NOISE).proposed(*own) == ["XMOSS"]


@pytest.mark.parametrize(
    "title",
    [
        "",
        "AND OR NOT",
        'au:"Ada" cat: ti:( "',
        "<img src=x onerror=alert(1)> <img src=x>",
        "\u202e\u2066RTL moss\u2069 gardens \u0000",
        "استرجاع المعلومات العربية",
        "a" * 5_000,
        "- " * 3_000,
    ],
)
def test_any_title_gives_valid_queries(title):
    own = [paper(title, title) for _ in range(4)]
    archive = Archive(*own, *NOISE)

    for one in proposed_topics(own, archive.corpus, archive, 84):
        assert "<" not in one.query.typed
        assert archive(one.query).papers


def test_number_of_queries_and_topics_is_limited():
    words = [f"{a}{b}" for a in "bcdfghklmnprst" for b in ("oru", "ani", "elo", "umi", "ika")]
    own = [paper(f"{one} {other}s") for one, other in pairwise(words)] * 2
    archive = Archive(*own, *NOISE)

    assert len(archive.proposed(*own)) == proposals.MOST_PROPOSED
    assert len(archive.tried) <= proposals.MOST_TRIED


def test_nothing_is_proposed_from_no_papers_or_an_empty_archive():
    assert Archive(*MOSS, *NOISE).proposed() == []
    assert Archive().proposed(*MOSS) == []
