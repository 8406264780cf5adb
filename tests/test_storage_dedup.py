"""Deduplication: the rules for when sightings are one paper, without a database."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pipeline.domain import Links, Sighting
from pipeline.sources import SOURCES
from pipeline.storage.dedup import (
    KnownPaper,
    author_key,
    content_of,
    merged,
    paper_key,
    same_work,
    title_key,
    with_arxiv_id,
)
from tests.support.factories import TODAY, make_sighting

TITLE = "Attention for Patient Readers"


def known(sighting: Sighting, id_: int = 1, **changes: Any) -> KnownPaper:
    """Return the record of a paper announced by this sighting alone."""
    values = {
        "arxiv_id": sighting.arxiv_id,
        "doi": sighting.doi,
        "title_key": title_key(sighting.title),
        "author_key": author_key(sighting.authors),
        "version": 1,
        "content": content_of(sighting),
        "upvotes": None,
        "comments": None,
        "stars": None,
        "announced_on": TODAY,
        "batch": 1,
        "touched_batch": 1,
    }
    return KnownPaper(id=id_, **{**values, **changes})


def ids(papers: list[KnownPaper]) -> list[int]:
    return [paper.id for paper in papers]


def without_id(**changes: Any) -> Sighting:
    return make_sighting(None, **{"source": "feed", "title": TITLE, **changes})


# --- Keys ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "title",
    [
        "attention for patient readers",
        "Attention: for patient   readers!",
        "Átténtion for Patient-Readers",
        "Attention for\tPatient Readers.",
    ],
)
def test_title_key_ignores_case_accents_and_punctuation(title):
    assert title_key(title) == title_key(TITLE)


def test_title_keys_of_punctuation_only_titles_differ():
    assert title_key("???") != title_key("!!!")


@pytest.mark.parametrize(
    "name", ["Ada Lovelace", "A. Lovelace", "Lovelace, Ada", "ADA LOVELACE", "Ada K. Lovelace"]
)
def test_author_key_is_surname_and_initial_of_the_first_author(name):
    assert author_key([name, "Charles Babbage"]) == "lovelace a"


def test_author_key_is_empty_without_an_author_name():
    assert author_key([]) == author_key(["42"]) == ""


def test_paper_key_prefers_arxiv_id_then_doi_then_title():
    assert paper_key("2503.02130", "10.1/x", "0" * 32) == "2503.02130"
    assert paper_key(None, "10.1/x", "0" * 32) == "doi:10.1/x"
    assert paper_key(None, None, "0123456789abcdef0123") == "title:0123456789abcdef"


@pytest.mark.parametrize(
    ("doi", "arxiv_id"),
    [
        ("10.48550/arxiv.2503.02130", "2503.02130"),  # the trailing zero is kept
        ("10.48550/arxiv.astro-ph/0601001", "astro-ph/0601001"),
        ("10.48550/arxiv.2503.02130v2", "2503.02130"),
    ],
)
def test_arxiv_doi_is_converted_to_an_arxiv_id(doi, arxiv_id):
    sighting = with_arxiv_id(without_id(doi=doi))

    assert (sighting.arxiv_id, sighting.doi) == (arxiv_id, None)


# --- One paper ----------------------------------------------------------------------------------


def test_match_by_arxiv_id_is_returned_before_match_by_doi():
    """If one record has no arXiv id, both match, and the match by arXiv id is returned first."""
    by_doi = known(without_id(doi="10.1/x"), 1)
    by_arxiv = known(make_sighting("3001.00001"), 2)

    found = same_work(make_sighting("3001.00001", doi="10.1/x"), [by_doi, by_arxiv])

    assert ids(found) == [2, 1]


def test_different_arxiv_ids_never_match():
    paper = known(make_sighting("3001.00001", title=TITLE, doi="10.1/x"))

    found = same_work(make_sighting("3001.00002", title=TITLE, doi="10.1/x"), [paper])

    assert found == []


def test_sighting_never_merges_two_arxiv_ids():
    """If the DOI is that of the other, the sighting matches only the paper it announced."""
    first = known(make_sighting("3001.00001"), 1)
    second = known(make_sighting("3001.00002", doi="10.1/x"), 2)

    found = same_work(without_id(doi="10.1/x"), [first, second], seen=first)

    assert ids(found) == [1]


def test_later_arxiv_id_matches_the_paper_announced_without_one():
    """Also if the title has changed since."""
    paper = known(without_id())

    found = same_work(make_sighting("3001.00001", title="Something else"), [paper], seen=paper)

    assert ids(found) == [1]


def test_equal_title_and_first_author_match():
    paper = known(make_sighting("3001.00001", title=TITLE, authors=("Ada Lovelace",)))

    assert ids(same_work(without_id(authors=("Lovelace, A.", "Grace Hopper")), [paper])) == [1]
    assert same_work(without_id(authors=("Grace Hopper",)), [paper]) == []


def test_match_by_title_and_author_returns_the_older_record():
    """Of two arXiv papers with one title and author the first is returned, in any row order."""
    first = known(make_sighting("3001.00001", title=TITLE), 1)
    second = known(make_sighting("3001.00002", title=TITLE), 2)

    assert ids(same_work(without_id(), [second, first])) == [1]


def test_title_match_without_id_or_author_requires_a_single_candidate():
    first = known(make_sighting("3001.00001", title=TITLE), 1)
    second = known(make_sighting("3001.00002", title=TITLE), 2)
    anonymous = without_id(authors=())

    assert ids(same_work(anonymous, [first])) == [1]
    assert same_work(anonymous, [first, second]) == []


def test_paper_with_an_arxiv_id_matches_a_record_without_one():
    anonymous = known(without_id(authors=()))

    assert ids(same_work(make_sighting("3001.00001", title=TITLE), [anonymous])) == [1]


# --- Merged content -----------------------------------------------------------------------------


def test_newer_version_replaces_the_text_and_an_older_one_does_not():
    first = content_of(make_sighting("3001.00001", version=1, title="One", abstract="First."))
    second = content_of(make_sighting("3001.00001", version=2, title="Two", abstract="Second."))

    assert merged(first, second)["title"] == "Two"
    assert merged(second, first)["title"] == "Two"
    assert merged(second, first)["abstract"] == "Second."


def test_version_numbers_of_other_sources_are_ignored():
    """Version 3 at bioRxiv does not block version 2 from arXiv."""
    elsewhere = content_of(make_sighting(None, source="biorxiv", version=3))
    at_arxiv = merged(elsewhere, content_of(make_sighting("3001.00001", title="One")))

    again = merged(at_arxiv, content_of(make_sighting("3001.00001", title="Two", version=2)))

    assert at_arxiv["words_version"] is None
    assert again["title"] == "Two"


def test_arxiv_text_wins_and_other_fields_are_kept():
    listed = make_sighting(
        "3001.00001", source="huggingface", title="listed", keywords=("agents",),
        categories=(), links=Links(code="https://example.org/code"),
    )  # fmt: skip
    announced = make_sighting(
        "3001.00001", title="Announced", categories=("cs.CL", "cs.AI"), links=Links(),
    )  # fmt: skip

    one_way = merged(content_of(listed), content_of(announced))
    other_way = merged(content_of(announced), content_of(listed))

    for content in (one_way, other_way):
        assert content["title"] == "Announced"
        assert content["keywords"] == ["agents"]
        assert content["categories"] == ["cs.CL", "cs.AI"]
        assert content["links"] == {"code": "https://example.org/code"}


def test_empty_fields_do_not_overwrite_existing_content():
    full = content_of(make_sighting("3001.00001", source="huggingface"))
    poor = content_of(replace(make_sighting("3001.00001"), abstract="", authors=()))

    content = merged(full, poor)

    assert content["abstract"] == full["abstract"]
    assert content["authors"] == full["authors"]


def test_merging_is_idempotent():
    first, second = (
        content_of(make_sighting("3001.00001", source=source, keywords=(source,), version=2))
        for source in ("huggingface", "arxiv")
    )

    once = merged(merged(first, second), first)

    assert merged(merged(once, first), second) == once


def test_arxiv_is_the_first_text_source():
    assert next(iter(SOURCES)) == "arxiv"
