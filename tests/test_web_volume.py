from __future__ import annotations

from datetime import date, timedelta

import pytest

from pipeline.matching.suggestions import Count
from pipeline.web.subscribe import volume
from pipeline.web.subscribe.volume import BARREN, DROWNS, STARVES, Instead

FIRST = date(2030, 1, 1)
MONTH = [FIRST + timedelta(days=n) for n in range(30)]


def make_count(papers: int, silent: int = 0, days: int = 20, span: int = 30) -> Count:
    return Count(papers, silent, days, span)


@pytest.mark.parametrize(
    ("counted", "pace", "silence", "hint"),
    [
        (make_count(500), "about 25 papers a day", "", DROWNS),
        (make_count(40, 3), "about 2 papers a day", "none on 3 of 20 days", ""),
        (make_count(10, 12), "about 2 papers a week", "none on 12 of 20 days", ""),
        (make_count(2, 18), "2 papers in 30 days", "none on 18 of 20 days", STARVES),
        (make_count(0, 20), "no papers in these days", "", BARREN),
    ],
)
def test_rate_is_described_in_words(counted, pace, silence, hint):
    told = volume.volume("Moss", counted)

    assert (told.pace, told.silence, told.hint) == (pace, silence, hint)


def test_only_days_with_new_papers_are_counted():
    counted = volume.count({MONTH[0]: 3, MONTH[9]: 1}, [MONTH[0], MONTH[4], MONTH[9]])

    assert counted == Count(papers=4, silent=1, days=3, span=10)


def test_narrower_suggests_the_largest_useful_result_and_never_an_empty_one():
    others = {"none": 0, "little": 10, "good": 300, "nearly all": 490}

    best = volume.narrower(make_count(500), {q: make_count(n) for q, n in others.items()})

    assert best == Instead("Narrower", "good", "about 15 papers a day")
    assert volume.narrower(make_count(500), {"none": make_count(0)}) is None


def test_broader_suggests_the_smallest_useful_increase_and_no_flood():
    others = {"same": 2, "some": 20, "many": 200, "flood": 2_000}

    best = volume.broader(make_count(2), {q: make_count(n) for q, n in others.items()})

    assert best == Instead("Broader", "some", "about 1 paper a day")
    assert volume.broader(make_count(0), {"flood": make_count(2_000)}) is None
    assert volume.broader(make_count(0), {"none": make_count(0)}) is None


@pytest.mark.parametrize(
    ("own", "others", "words"),
    [
        (
            {1, 2, 3, 4},
            {"Moss": {1, 2, 3}, "Ferns": {4}},
            "3 of its 4 papers also match “Moss”.",
        ),
        ({1, 2, 3, 4, 5, 6, 7}, {"Moss": {1, 2, 3}}, ""),
        ({1, 2}, {"Moss": {1, 2}}, ""),
        (set(), {"Moss": {1}}, ""),
        ({1, 2, 3}, {}, ""),
    ],
)
def test_overlapping_topics_are_reported(own, others, words):
    assert volume.overlap(own, others) == words
