"""Abbreviations and their long forms, learned from definitions in papers: "neural network (NN)".

The definitions are found as by Schwartz and Hearst, *A simple algorithm for identifying
abbreviation definitions in biomedical text*, 2003.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from pipeline.matching.tokens import STOP_WORDS, forms, stem

Stems = tuple[str, ...]

_IN_PARENTHESES: Final = re.compile(r"\(([^()\s,;]{2,10})(?:[,;][^()]{0,60})?\)")
_SHORT: Final = re.compile(r"(?=.*[A-Z])[A-Za-z0-9][A-Za-z0-9&/.-]*")
_BEFORE: Final = 150  # characters in front of a parenthesis that may contain the long form
_MOST_DEFINED: Final = 20  # definitions of one paper
LONGEST: Final = 6  # words of a long form
_LEAST_PAPERS: Final = 2  # papers that give a long form
_LEAST_SHARE: Final = 0.6  # of the papers that define the abbreviation: else it is ambiguous
_LEAST_DEFINED: Final = 0.02  # of the papers with the word: else it is an ordinary word
_MOST_SHORT: Final = 8  # abbreviations of one expression, the most frequent ones


class Definition(NamedTuple):
    """An abbreviation and the long form that a paper gives it, as stems."""

    short: str
    long: Stems


def definitions(text: str) -> set[Definition]:
    """Return the abbreviations that a text defines, the long form first; at most 20."""
    found: set[Definition] = set()
    if "(" not in text:
        return found
    for match in _IN_PARENTHESES.finditer(text):
        short = match.group(1)
        if _SHORT.fullmatch(short) and len(found) < _MOST_DEFINED:
            found.update(_defined(short, text[max(0, match.start() - _BEFORE) : match.start()]))
    return found


def _defined(short: str, before: str) -> Iterator[Definition]:
    singular = short[:-1] if short[-1] == "s" and short[:-1].isupper() else short
    letters = [letter.lower() for letter in singular if letter.isalnum()]
    near = " ".join(before.split()[-min(len(letters) + 5, 2 * len(letters)) :])
    start = _first_letter(letters, near.lower())
    if start is None:
        return
    names, long = forms(short), tuple(stem(form) for form in forms(near[start:]))
    if len(names) == 1 and 1 < len(long) <= LONGEST and stem(names[0]) not in long:
        yield Definition(stem(names[0]), long)


def _first_letter(letters: list[str], text: str) -> int | None:
    """Return where the long form begins: its letters from the last to the first, read backwards.

    The first letter must begin a word. None if the text lacks a letter.
    """
    at = len(text)
    for place in range(len(letters) - 1, -1, -1):
        at = text.rfind(letters[place], 0, at)
        while place == 0 and at > 0 and text[at - 1].isalnum():
            at = text.rfind(letters[place], 0, at)
        if at < 0:
            return None
    return text.rfind(" ", 0, at) + 1


class Abbreviations:
    """The unambiguous abbreviations among counted definitions, by short and by long form.

    `frequencies` has the number of papers with each stem.
    """

    def __init__(self, counted: Mapping[Definition, int], frequencies: Mapping[str, int]) -> None:
        by_short: defaultdict[str, list[tuple[int, Stems]]] = defaultdict(list)
        for definition, papers in counted.items():
            by_short[definition.short].append((papers, definition.long))
        self._long: dict[str, Stems] = {}
        by_end: defaultdict[Stems, list[tuple[int, str]]] = defaultdict(list)
        for short, known in by_short.items():
            papers, long = max(known)
            every = sum(count for count, _ in known)
            least = max(_LEAST_SHARE * every, _LEAST_DEFINED * frequencies.get(short, 0))
            if papers < max(_LEAST_PAPERS, least):
                continue
            self._long[short] = long
            for i in range(len(long) - 1):
                if long[i] not in STOP_WORDS:
                    by_end[long[i:]].append((-papers, short))
        self._short = {
            end: tuple(short for _, short in sorted(shorts)[:_MOST_SHORT])
            for end, shorts in by_end.items()
        }

    def variants(self, stems: Stems) -> list[tuple[int, int, Stems]]:
        """Return each part of an expression that can be written otherwise: its bounds, and how.

        An abbreviation has its long form. A long form has its abbreviations, and so has the end of
        one: "neural network" has NN and GNN, because a graph neural network is a neural network.
        """
        found = [(i, i + 1, self._long[one]) for i, one in enumerate(stems) if one in self._long]
        for first in range(len(stems) if self._short else 0):
            for last in range(first + 2, min(len(stems), first + LONGEST) + 1):
                shorts = self._short.get(stems[first:last], ())
                found.extend((first, last, (short,)) for short in shorts)
        return found
