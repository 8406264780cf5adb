"""The edit distance counts insertions, deletions, substitutions and swaps of neighbours."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.edit_distance import edit_distance

words = st.text(alphabet="abc", max_size=5)


@pytest.mark.parametrize(
    ("typed", "meant", "expected"),
    [("gmail", "gmail", 0), ("gmial", "gmail", 1), ("gmai", "gmail", 1), ("gamli", "gmail", 2)],
)
def test_edit_distance_of_typos(typed: str, meant: str, expected: int):
    assert edit_distance(typed, meant) == expected


@example("abc", "ac")
@example("ac", "abc")
@example("abcd", "acbd")
@example("abc", "abb")
@example("", "ab")
@example("ab", "")
@given(words, words)
def test_edit_distance_equals_a_naive_implementation(one: str, other: str):
    def naive(one: str, other: str) -> int:
        if not one or not other:
            return len(one) + len(other)
        counts = [naive(one[1:], other) + 1, naive(one, other[1:]) + 1]
        counts.append(naive(one[1:], other[1:]) + (one[0] != other[0]))
        if len(one) > 1 and one[:2] == other[1::-1]:
            counts.append(naive(one[2:], other[2:]) + 1)
        return min(counts)

    assert edit_distance(one, other) == naive(one, other)
