"""Papers of one name are grouped by person, and authors of liked papers are suggested."""

from __future__ import annotations

from time import process_time

import pytest

from pipeline.matching.people import (
    MOST_GROUPED,
    Person,
    SignedPaper,
    fullest,
    persons,
    suggested_people,
)
from pipeline.matching.query import TopicQuery
from tests.support.factories import make_paper

VISION, BIOLOGY = ("cs.CV", "cs.LG"), ("q-bio.NC",)


def signed(
    paper: int, name: str, coauthors: str = "", categories: tuple[str, ...] = VISION
) -> SignedPaper:
    others = tuple(filter(None, coauthors.split(", ")))
    return SignedPaper(paper, name, others, categories)


def common(_names: tuple[str, ...]) -> bool:
    return True


def rare(_names: tuple[str, ...]) -> bool:
    return False


def grouped(
    *papers: SignedPaper, is_common=common
) -> tuple[list[tuple[str, list[int]]], list[int]]:
    """Return the name and the papers of each person, and the papers of none."""
    found, unclear = persons(papers, is_common)
    return (
        [(one.name, [paper.paper for paper in one.papers]) for one in found],
        [paper.paper for paper in unclear],
    )


@pytest.mark.parametrize(
    ("forms", "expected"),
    [
        (["A. Holm", "Ada Holm", "Holm, A."], "Ada Holm"),
        (["J. Holm", "Jun Holm", "Jie Holm"], "J. Holm"),
        (["Ada Holm", "ADA HOLM", "Ada Holm", "Holm Ada"], "Ada Holm"),
        (["Wei Wang", "Wei Bo Wang", "W. Wang"], "Wei Wang"),
        (["Ana Ruiz-Soler"], "Ana Ruiz-Soler"),
        (["Jun Holm", "Jie Holm"], ""),
        ([], ""),
    ],
)
def test_fullest_form_of_a_name_finds_all_the_others(forms, expected):
    assert fullest(forms) == expected


def test_papers_of_two_fields_under_initials_are_two_people():
    assert grouped(
        signed(1, "J. Wang", "Ada Moth, Bo Fern"),
        signed(2, "J. Wang", "Cy Reed", BIOLOGY),
        signed(3, "J. Wang", "Bo Fern"),
        signed(4, "J. Wang", "Cy Reed, Di Sedge", BIOLOGY),
        signed(5, "J. Wang", "Ada Moth"),
    ) == ([("J. Wang", [1, 3, 5]), ("J. Wang", [2, 4])], [])


def test_common_full_name_is_split_and_an_uncommon_one_never_is():
    papers = (
        signed(1, "Wei Wang", "Ada Moth"),
        signed(2, "Wei Wang", "Ada Moth"),
        signed(3, "Wei Wang", "Cy Reed", BIOLOGY),
        signed(4, "Wei Wang", "Cy Reed", BIOLOGY),
    )

    assert grouped(*papers) == ([("Wei Wang", [1, 2]), ("Wei Wang", [3, 4])], [])
    assert grouped(*papers, is_common=rare) == ([("Wei Wang", [1, 2, 3, 4])], [])


def test_one_odd_paper_splits_no_name():
    assert grouped(
        signed(1, "Wei Wang", "Ada Moth"),
        signed(2, "Wei Wang", "Ada Moth"),
        signed(3, "Wei Wang", "Cy Reed", BIOLOGY),
    ) == ([("Wei Wang", [1, 2, 3])], [])


def test_odd_paper_between_two_people_belongs_to_none():
    assert grouped(
        signed(1, "Wei Wang", "Ada Moth"),
        signed(2, "Wei Wang", "Ada Moth"),
        signed(3, "Wei Wang", "Cy Reed", BIOLOGY),
        signed(4, "Wei Wang", "Cy Reed", BIOLOGY),
        signed(5, "Wei Wang", "El Alder", ("math.AG",)),
        signed(6, "Wei Wang", "Cy Reed", ("hep-th",)),
    ) == ([("Wei Wang", [3, 4, 6]), ("Wei Wang", [1, 2])], [5])


def test_co_author_of_one_field_or_two_of_any_link_papers():
    """One co-author in another field may be a namesake, too; two are not."""
    one = grouped(
        signed(1, "Wei Wang", "Yang Liu"),
        signed(2, "Wei Wang", "Yang Liu"),
        signed(3, "Wei Wang", "Yang Liu", BIOLOGY),
        signed(4, "Wei Wang", "Yang Liu", BIOLOGY),
    )
    two = grouped(
        signed(1, "Wei Wang", "Yang Liu, Ada Moth"),
        signed(2, "Wei Wang", "Yang Liu, Ada Moth"),
        signed(3, "Wei Wang", "ada moth, LIU YANG", BIOLOGY),
        signed(4, "Wei Wang", "Yang Liu", BIOLOGY),
    )

    assert len(one[0]) == 2
    assert len(two[0]) == 1


def test_contradicting_given_names_are_two_people_and_initials_join_by_co_authors():
    assert grouped(
        signed(1, "Jun Holm", "Ada Moth"),
        signed(2, "J. Holm", "Cy Reed"),
        signed(3, "Jie Holm", "Cy Reed"),
        signed(4, "J. Holm", "El Alder", ()),
        is_common=rare,
    ) == ([("Jie Holm", [2, 3]), ("Jun Holm", [1])], [4])


def test_longer_name_is_another_person_only_if_the_shorter_is_common():
    papers = (signed(1, "Wei Wang", "Ada Moth"), signed(2, "Wei Bo Wang", "Cy Reed"))

    assert len(grouped(*papers)[0]) == 2
    assert grouped(*papers, is_common=rare) == ([("Wei Bo Wang", [1, 2])], [])
    initials = (signed(1, "J. P. Q. Holm"), signed(2, "Jo Holm"))
    assert grouped(*initials, is_common=rare) == ([("Jo Holm", [1, 2])], [])


def test_person_counts_forms_of_a_co_author_as_one():
    person = Person(
        "Ada",
        (
            signed(1, "Ada", "Bo Fern, Cy Reed"),
            signed(2, "Ada", "FERN BO", BIOLOGY),
            signed(3, "Ada", "Bo Fern"),
            signed(4, "Ada", ", ".join(f"Member {number}" for number in range(40))),
        ),
    )

    assert person.coauthors == [("Bo Fern", 3), ("Cy Reed", 1)]
    assert person.categories[0] == ("cs.CV", 3)
    assert person.field == "cs.CV"


def test_no_papers_are_no_person():
    assert persons((), common) == ((), ())


def test_most_grouped_papers_of_a_common_name_take_little_time():
    names = [f"{a} {b}" for a in ("Bo", "Jun", "Li", "Min") for b in ("Li", "Liu", "Wu", "Zhao")]
    fields = ("cs.CV", "cs.LG", "q-bio.NC", "math.AG", "stat.ML")
    forms = ("Wei Wang", "W. Wang", "Wang, Wei", "Wei Q. Wang")
    papers = [
        SignedPaper(
            number,
            forms[number % 4],
            tuple(names[(number * step) % 16] for step in (1, 3, 5, 7)),
            (fields[number % 5], fields[number % 3]),
        )
        for number in range(MOST_GROUPED)
    ]
    persons(papers, common)  # fills the caches of names

    started = process_time()
    persons(papers, common)

    assert process_time() - started < 0.05


# --- Suggestions --------------------------------------------------------------------------------


def monthly(topic: TopicQuery) -> float:
    return 0.0 if "silent" in topic.text else 2.0


def test_author_of_two_liked_papers_is_suggested_in_the_fullest_form():
    liked = [
        make_paper(authors=("A. Holm", "Bo Fern")),
        make_paper(authors=("Cy Reed", "Ada Holm", "Silent Author")),
        *(make_paper(authors=("Silent Author",)) for _ in range(4)),
    ]

    found = suggested_people(liked, monthly)

    assert [(one.name, one.liked, one.topic.text, one.a_month) for one in found] == [
        ("Ada Holm", 2, 'au:"ada holm"', 2.0)
    ]


def test_first_and_last_authors_of_few_liked_papers_are_suggested():
    liked = [make_paper(authors=("Ada Holm", "Bo Fern", "Cy Reed")), make_paper(authors=())]

    assert [one.name for one in suggested_people(liked, monthly)] == ["Ada Holm", "Cy Reed"]
    assert suggested_people([], monthly) == []


def test_name_that_cannot_be_searched_for_is_not_suggested():
    assert suggested_people([make_paper(authors=("...", '"'))], monthly) == []
