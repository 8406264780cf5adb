"""Mutants differ from a module in one place each and skip code that tests need not cover."""

from __future__ import annotations

import pytest

from tests.mutants.making import mutants


def changes(source):
    return [one.what for one in mutants(source)]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a < b", ["a < b  ->  (a <= b)"]),
        ("a and b", ["a and b  ->  (a or b)"]),
        ("x = not a", ["not a  ->  (a)"]),
        ("x = 1", ["1  ->  (2)"]),
        ("x = True", ["True  ->  (False)"]),
        ("f(a)", ["f(a)  ->  pass"]),
        ("raise E", ["raise E  ->  pass"]),
        (
            "x = q.where(a, b)",
            ["q.where(a, b)  ->  (q.where(a))", "q.where(a, b)  ->  (q.where(b))"],
        ),
        ("x = q.values(a=b)", []),
        ("'''A docstring.'''", []),
        ("log.info('a', b=c)", []),
        ("x: Literal[1] = y", []),
        ("assert a < b", []),
    ],
)
def test_each_mutant_changes_one_place(source, expected):
    assert changes(source) == expected


def test_non_ascii_text_does_not_shift_the_mutated_position():
    (found,) = mutants("# é\nx = 'é' if a else 'ü'  # ß\n")

    assert found.source == "# é\nx = ('ü' if a else 'é')  # ß\n"
    assert found.line == 2
