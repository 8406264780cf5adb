"""Ids and pages of authors: recognised in a list, and the answers of ORCID and arXiv about them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline.references import MOST_ENTRIES, Reference, parse, read_works
from pipeline.sources.documents import DocumentError
from pipeline.sources.identifiers import AuthorId, author_id
from tests.support.source_answers import author_feed, orcid_work, orcid_works

ADA = AuthorId("orcid", "0000-0002-1825-0097")
BO = AuthorId("arxiv", "fern_b_1")


# --- Lines --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "0000-0002-1825-0097",
        "orcid:0000-0002-1825-0097",
        "ORCID iD: 0000-0002-1825-0097",
        "https://orcid.org/0000-0002-1825-0097",
        "http://www.orcid.org/0000-0002-1825-0097/",
        "orcid.org/0000-0002-1825-0097?lang=en",
        "- <https://orcid.org/0000-0002-1825-0097>",
    ],
)
def test_line_with_an_orcid_id_names_an_author(line):
    parsed = parse(f"Moss gardens on walls\n{line}")

    assert parsed.author_ids == {ADA: 2}
    assert [one.title for one in parsed.entries] == ["Moss gardens on walls"]
    assert parsed.unreadable == ()


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("https://arxiv.org/a/fern_b_1", "fern_b_1"),
        ("arxiv.org/a/Fern_B_1.atom2", "fern_b_1"),
        ("https://arxiv.org/a/van-fern_b_12/", "van-fern_b_12"),
        ("https://arxiv.org/a/0000-0002-1694-233x", "0000-0002-1694-233X"),
    ],
)
def test_line_with_an_arxiv_author_page_names_an_author(line, name):
    assert [*parse(line).author_ids] == [AuthorId("arxiv", name)]


@pytest.mark.parametrize(
    "line",
    [
        "https://orcid.org/0000-0002-1825-00978",
        "https://orcid.org/0000-0002-1825-0097/../../private",
        "https://orcid.org.example.org/0000-0002-1825-0097",
        "https://example.org/?u=https://orcid.org/0000-0002-1825-0097",
        "https://arxiv.org/a/../abs_b_1",
        "https://arxiv.org/a/fern_b_1@example.org",
        "https://arxiv.org/a/fern%2f_b_1",
        "\u0660000-0002-1825-0097",
        "0000-0002-1825-0097 " * 20,
    ],
)
def test_anything_else_names_no_author(line):
    assert parse(line).author_ids == {}


def test_author_who_is_named_twice_is_one_with_the_first_line():
    assert parse("orcid.org/0000-0002-1825-0097\n0000-0002-1825-0097").author_ids == {ADA: 1}


def test_orcid_id_in_a_bibtex_field_names_no_author():
    text = "@article{a, title={Moss gardens},\n orcid={\n0000-0002-1825-0097\n}}"

    assert parse(text).author_ids == {}


@pytest.mark.parametrize(
    "id_", ["0000-0002-1825-0097", "0000-0002-1694-233X", "0000-0001-5109-3700"]
)
def test_check_digit_of_a_valid_id_fits_and_that_of_any_changed_id_does_not(id_):
    assert not AuthorId("orcid", id_).is_mistyped
    for place, digit in enumerate(id_[:-1]):
        if digit.isdecimal():
            changed = id_[:place] + str((int(digit) + 1) % 10) + id_[place + 1 :]
            assert AuthorId("orcid", changed).is_mistyped
            assert AuthorId("arxiv", changed).is_mistyped


def test_arxiv_author_id_has_no_check_digit():
    found = author_id("https://arxiv.org/a/fern_b_1")

    assert found is not None
    assert not found.is_mistyped


# --- ORCID --------------------------------------------------------------------------------------


def test_works_of_orcid_are_read_as_titles_ids_and_years():
    answer = orcid_works(
        orcid_work("Moss <i>gardens</i> on walls", doi="https://doi.org/10.1000/MOSS", year="2024"),
        orcid_work("Watering moss", arxiv="arXiv:2401.00001v2", doi="10.48550/arXiv.2401.00001"),
        orcid_work("A talk about moss"),
    )

    assert read_works(ADA, answer) == (
        Reference("Moss gardens on walls", year=2024, doi="10.1000/moss"),
        Reference("Watering moss", arxiv_id="2401.00001"),
        Reference("A talk about moss"),
    )


def test_summaries_of_one_group_are_one_work():
    one = orcid_work("", doi="10.1000/moss")
    other = orcid_work("Moss gardens", arxiv="2401.00001", year="2024")
    group = {"work-summary": [*one["work-summary"], *other["work-summary"]]}

    assert read_works(ADA, orcid_works(group)) == (
        Reference("Moss gardens", year=2024, arxiv_id="2401.00001", doi="10.1000/moss"),
    )


def test_id_of_the_book_is_not_that_of_its_chapter():
    group = orcid_work("A chapter about moss", doi="10.1000/book", relation="part-of")

    assert read_works(ADA, orcid_works(group)) == (Reference("A chapter about moss"),)


def test_normalized_id_comes_first():
    group = orcid_work("Moss", doi="doi 10.1000/MOSS (printed)", normalized="10.1000/moss")

    assert [one.doi for one in read_works(ADA, orcid_works(group))] == ["10.1000/moss"]


def test_at_most_the_first_works_are_read():
    groups = [orcid_work(f"Moss of sort {n}") for n in range(MOST_ENTRIES + 100)]

    assert len(read_works(ADA, orcid_works(*groups))) == MOST_ENTRIES


NOTHINGS: list[Any] = [None, 7, "x", [], {}, {"work-summary": None}, {"work-summary": [None, 7]}]


@pytest.mark.parametrize("path", ["title", "external-ids", "publication-date"])
@pytest.mark.parametrize("value", [None, 7, "x", [], {}, [None], {"year": None}])
def test_field_of_a_wrong_type_is_left_out(path, value):
    group = orcid_work("Moss", doi="10.1000/moss", year="2024")
    del group["external-ids"]
    group["work-summary"][0][path] = value

    (read,) = read_works(ADA, orcid_works(*NOTHINGS, group))

    assert read.title == ("" if path == "title" else "Moss")
    assert read.doi == (None if path == "external-ids" else "10.1000/moss")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"<!doctype html><title>Sign in</title>",
        b"{}",
        b"[]",
        b'{"group": {}}',
        b'{"group": [',
        b'{"error-code": 9016}',
        b"[" * 100_000,
    ],
)
def test_answer_that_is_no_list_of_works_is_an_error(answer):
    with pytest.raises(DocumentError):
        read_works(ADA, answer)


def test_author_without_public_works_has_no_papers():
    assert read_works(ADA, json.dumps({"group": []}).encode()) == ()


# --- arXiv --------------------------------------------------------------------------------------


def test_feed_of_an_author_is_read_with_authors_and_abstracts():
    answer = author_feed(
        ("2401.00001v2", "Moss gardens", ("Bo Fern", "Ada Lovelace"), "2024-01-02 03:04:05+00:00"),
        ("http://arxiv.org/abs/astro-ph/0601001v1", "Moss on Mars", ("Bo Fern",), "2006-01-02"),
    )

    assert read_works(BO, answer) == (
        Reference("Moss gardens", ("Bo Fern", "Ada Lovelace"), "About moss.", 2024, "2401.00001"),
        Reference("Moss on Mars", ("Bo Fern",), "About moss.", 2006, "astro-ph/0601001"),
    )


def test_feed_without_papers_has_none():
    assert read_works(BO, author_feed()) == ()


@pytest.mark.parametrize(
    "answer", [b"", b"{}", b"<html><body>Busy</body></html>", b"<feed><entry>"]
)
def test_answer_that_is_no_feed_is_an_error(answer):
    with pytest.raises(DocumentError):
        read_works(BO, answer)
