"""Positional index of the words of some papers: the arrays that searches use."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from enum import IntEnum
from functools import cached_property
from itertools import chain
from sys import intern
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.matching.abbreviations import Definition, definitions
from pipeline.matching.corpus import KEYWORD_WEIGHT, TITLE_WEIGHT, CorpusStatistics, Readable
from pipeline.matching.tokens import ACRONYMS, STOP_WORDS, Word, ending, is_hyphen, stem, words

Positions = npt.NDArray[np.int64]
Counts = npt.NDArray[np.float64]

_ENDS_A_THOUGHT = re.compile(r"[.;:!?()\[\]]")
# Visitors search for different words all day, so the caches are bounded.
_REMEMBERED = 4_096  # entries of each cache
_LEAST_KEPT = 1 << 20  # bytes of cached positions, or
_KEPT_SHARE = 2  # bytes per position of the index, if that is more
_LONGEST_KEPT = 8  # stems; longer phrases are not cached
_LONGEST_SPLIT = 40  # letters; longer words are not split in two
_MARKED = re.compile(r"(\w+)(?:\+\+|\*)")
_GAP = -1  # separates two texts, so that no phrase spans both


class Zone(IntEnum):
    TITLE = 0
    ABSTRACT = 1
    KEYWORDS = 2
    NONE = 3  # between two texts


class Joint(IntEnum):
    """Separator between a word and the next one."""

    LOOSE = 0
    HYPHEN = 1
    BREAK = 2  # the end of a sentence, a colon, a parenthesis


ZONE_WEIGHTS = np.array([TITLE_WEIGHT, 1.0, KEYWORD_WEIGHT, 0.0])


class Postings:
    """All words of all papers in one sequence; a position is an index into that sequence.

    `stems`, `endings`, `paper`, `zone`, `start`, `end` and `joint` have one entry per position: the
    numbers of the stem and of the ending, the paper, the zone, the first character and the end of
    the word in its text, and the separator after it. An instance can be shared between threads.
    """

    def __init__(self, papers: Sequence[Readable]) -> None:
        self.papers = len(papers)
        self._texts = [_texts(paper) for paper in papers]
        self._vocabulary: dict[str, int] = {}
        self._occurrences: dict[tuple[str, ...], Positions] = {}
        self._kept = 0  # bytes in `_occurrences`
        self._spellings: dict[str, list[tuple[str, ...]]] = {}
        # Fill one array directly: as tuples, a few thousand papers would take half a gigabyte.
        forms: dict[str, tuple[int, int]] = {}  # stem and ending
        flat = np.fromiter(chain.from_iterable(self._rows(forms)), dtype=np.int32)
        rows = flat.reshape(-1, 8).T
        self.stems = rows[0].copy()
        self.paper, self.start, self.end, self._text = (_narrow(rows[i]) for i in (1, 2, 3, 6))
        self.zone, self.joint = rows[4].astype(np.int8), rows[5].astype(np.int8)
        self.endings = rows[7].astype(np.int8)
        self._forms = frozenset(forms)
        self._by_stem = np.argsort(self.stems, kind="stable").astype(np.int32)
        self._first: Positions = np.searchsorted(
            self.stems[self._by_stem], np.arange(-1, self._size + 1)
        )
        self._bounds = np.searchsorted(self.paper, np.arange(self.papers + 1))

    @property
    def _size(self) -> int:
        return len(self._vocabulary)

    @cached_property
    def lengths(self) -> Counts:
        """The weighted number of words of each paper."""
        return self.count(np.arange(self.stems.size))

    def statistics(self) -> CorpusStatistics:
        """Return `corpus.statistics` of these papers without tokenizing them again."""
        written = self.stems != _GAP
        pairs = self.stems[written].astype(np.int64) * self.papers + self.paper[written]
        found = np.bincount(np.unique(pairs) // max(self.papers, 1), minlength=self._size)
        frequencies = dict(zip(self._vocabulary, found.tolist(), strict=True))
        defined = Counter(chain.from_iterable(map(_definitions, self._texts)))
        return CorpusStatistics(self.papers, frequencies, float(self.lengths.sum()), dict(defined))

    def count(self, at: Positions) -> Counts:
        """Return the weighted number of mentions at these positions, per paper."""
        counts = np.bincount(self.paper[at], ZONE_WEIGHTS[self.zone[at]], minlength=self.papers)
        return counts[: self.papers].astype(np.float64, copy=False)

    def occurrences(self, stems: tuple[str, ...]) -> Positions:
        """Return the positions at which the stems follow each other directly, in order. Cached."""
        found = self._occurrences.get(stems)
        if found is None:
            found = self._find(stems)
            self._keep(stems, found)
        return found

    def as_written(self, forms: tuple[str, ...]) -> Positions:
        """Return the positions at which the words follow each other in this form or the plural."""
        at = self.occurrences(tuple(stem(form) for form in forms))
        for i, form in enumerate(forms):
            at = at[self.endings[at + i] == ending(form)]
        return at

    def _keep(self, stems: tuple[str, ...], found: Positions) -> None:
        if len(stems) > _LONGEST_KEPT or any(len(stem) > _LONGEST_SPLIT for stem in stems):
            return
        room = max(_LEAST_KEPT, _KEPT_SHARE * self.stems.size)
        if len(self._occurrences) >= _REMEMBERED or self._kept + found.nbytes > room:
            self._occurrences, self._kept = {}, 0
        if found.nbytes <= room:
            self._occurrences[stems] = found
            self._kept += found.nbytes

    def spellings(self, form: str) -> list[tuple[str, ...]]:
        """Return the stem of a word, then the stems of its other spellings in these papers. Cached.

        Other spellings are the word written as two, an acronym, and forms with a mark (C++17).
        """
        if len(form) > _LONGEST_SPLIT:
            return [(form,)]
        found = self._spellings.get(form)
        if found is None:
            if len(self._spellings) >= _REMEMBERED:
                self._spellings.clear()
            found = self._spellings[form] = self._spell(form)
        return found

    def joined(self, left: str, right: str) -> tuple[str, ...] | None:
        """Return the stem of two words written as one; None if no paper writes them as one."""
        if left in STOP_WORDS or right in STOP_WORDS:
            return None
        # An earlier tokenizer split U.S. into two words; now its form is US, unlike the word us.
        for whole in (stem(left + right), (left + right).upper()):
            if whole in self._vocabulary:
                return (whole,)
        return None

    def words_of(self, paper: int) -> tuple[int, int]:
        """Return the first position of a paper, and the position after its last."""
        return int(self._bounds[paper]), int(self._bounds[paper + 1])

    def written(self, first: int, last: int) -> str:
        """Return the paper's own text between two positions of one text, on a single line."""
        text = self._texts[self.paper[first]][self._text[first]][1]
        return " ".join(text[self.start[first] : self.end[last]].split())

    def _spell(self, form: str) -> list[tuple[str, ...]]:
        whole = stem(form)
        spellings: dict[tuple[str, ...], None] = {(whole,): None}
        for candidate in dict.fromkeys((form, whole)):
            for cut in range(1, len(candidate)):
                if candidate[:cut] in self._forms and self._splits(candidate, cut):
                    spellings[stem(candidate[:cut]), stem(candidate[cut:])] = None
        if form.upper() in ACRONYMS:  # "can bus" finds the CAN bus, too
            spellings[(form.upper(),)] = None
        spellings.update(dict.fromkeys(self._marked_spellings(form)))
        return list(spellings)

    def _marked_spellings(self, form: str) -> list[tuple[str, ...]]:
        """Return forms with a mark: PointNet++ for PointNet, C++17 for C++, and R & D for R&D.

        A single letter has none: C is neither C++ nor C#.
        """
        if "&" in form:
            return [tuple(form.split("&"))]
        if len(form) == 1 or not (form.isalnum() or form.endswith("++")):
            return []
        name = form.removesuffix("++")
        return [(one,) for one in self._marked.get(name, ()) if one.lower().startswith(form)]

    @cached_property
    def _marked(self) -> dict[str, list[str]]:
        """Words of the papers with a mark (C++17), by the word before the mark."""
        marked: dict[str, list[str]] = {}
        for one in self._vocabulary:
            if (found := _MARKED.match(one)) is not None:
                marked.setdefault(found.group(1).lower(), []).append(one)
        return marked

    def _splits(self, form: str, cut: int) -> bool:
        """Return whether the papers write the word as two, split at `cut`.

        If the first part is a stop word, or a part is one letter, only a hyphen between them
        counts: "in formation" is not "information".
        """
        left, right = form[:cut], form[cut:]
        at = self.occurrences((stem(left), stem(right)))
        if 1 in {len(left), len(right)} or left in STOP_WORDS:
            return bool((self.joint[at] == Joint.HYPHEN).any())
        return bool(at.size)

    def _find(self, stems: tuple[str, ...]) -> Positions:
        numbers = [self._vocabulary.get(stem, _GAP) for stem in stems]
        if not numbers or min(numbers) == _GAP:
            return np.empty(0, dtype=np.int64)
        rarest = min(range(len(numbers)), key=lambda i: self._count(numbers[i]))
        at: Positions = self._positions(numbers[rarest]) - rarest
        at = at[(at >= 0) & (at + len(numbers) <= self.stems.size)]
        for i, number in enumerate(numbers):
            if i != rarest:
                at = at[self.stems[at + i] == number]
        return at

    def _positions(self, number: int) -> Positions:
        return self._by_stem[self._first[number + 1] : self._first[number + 2]].astype(np.int64)

    def _count(self, number: int) -> int:
        return int(self._first[number + 2] - self._first[number + 1])

    def _rows(
        self, forms: dict[str, tuple[int, int]]
    ) -> Iterator[tuple[int, int, int, int, int, int, int, int]]:
        """Yield the values of each position; add the forms of the papers to `forms`."""
        for paper, texts in enumerate(self._texts):
            for number, (zone, text) in enumerate(texts):
                found = words(text)
                for i, word in enumerate(found):
                    which, end = self._known(word.form, forms)
                    joint = _joint(text, found, i)
                    yield which, paper, word.start, word.end, zone, joint, number, end
                yield _GAP, paper, 0, 0, Zone.NONE, 0, number, 0

    def _known(self, form: str, forms: dict[str, tuple[int, int]]) -> tuple[int, int]:
        """Return the numbers of the stem and the ending of a word; add it to the vocabulary.

        Words are interned, so that several indexes share them.
        """
        if (known := forms.get(form)) is None:
            number = self._vocabulary.setdefault(intern(stem(form)), len(self._vocabulary))
            known = forms[intern(form)] = number, ending(form)
        return known


def _narrow(values: npt.NDArray[np.int32]) -> npt.NDArray[np.integer[Any]]:
    """Return a copy of numbers from 0 on in the smallest type that can hold them."""
    highest = int(values.max(initial=0))
    return values.astype(np.min_scalar_type(highest))


def _texts(paper: Readable) -> list[tuple[Zone, str]]:
    return [
        (Zone.TITLE, paper.title),
        (Zone.ABSTRACT, paper.abstract),
        *((Zone.KEYWORDS, keyword) for keyword in paper.keywords),
    ]


def _definitions(texts: list[tuple[Zone, str]]) -> set[Definition]:
    return definitions("\n".join(text for _, text in texts[:2]))


def _joint(text: str, found: list[Word], i: int) -> Joint:
    if i + 1 == len(found):
        return Joint.LOOSE
    between = text[found[i].end : found[i + 1].start]
    if len(between) == 1:
        return Joint.HYPHEN if is_hyphen(between) else Joint.LOOSE
    return Joint.BREAK if _ENDS_A_THOUGHT.search(between) else Joint.LOOSE
