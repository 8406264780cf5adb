"""Find the mentions of matched phrases in a text, in any spelling."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from functools import lru_cache

from pipeline.matching.tokens import forms, is_hyphen, stem, stems

Stems = tuple[str, ...]
Span = tuple[int, int]  # characters: start, and end (exclusive)
BETWEEN = " -\u2010\u2011"  # characters between the words of one expression


def stems_of(phrases: Iterable[str]) -> frozenset[Stems]:
    """Return phrases as stems, which `mentions` compares."""
    wanted: set[Stems] = set()
    for phrase in phrases:
        stemmed = tuple(stems(phrase)[0])
        if stemmed:
            wanted.add(stemmed)
        if len(stemmed) == 2 and any(map(is_hyphen, phrase)):
            wanted.add((_as_one(phrase),))
    return frozenset(wanted)


def find(text: str, phrases: tuple[str, ...]) -> list[Span]:
    """Return the `mentions` of phrases in plain text. The stems of the phrases are cached."""
    return highlights(text, _known_stems_of(phrases))


@lru_cache(maxsize=8_192)
def _known_stems_of(phrases: tuple[str, ...]) -> frozenset[Stems]:
    return stems_of(phrases)


def highlights(text: str, wanted: Iterable[Stems]) -> list[Span]:
    """Return the spans of all mentions in order; merge those with only spaces or hyphens between.

    A mention may be written in another way than the phrase: "Language Models", "language-model";
    also "multi-modal" for "multimodal", and the other way round.
    """
    phrases = set(wanted)
    if not phrases:
        return []
    found, spans, compounds = _read(text)
    joined: list[Span] = []
    for first, last in _places(found, compounds, phrases):
        start, end = spans[first][0], spans[last][1]
        if joined and not text[joined[-1][1] : start].strip(BETWEEN):
            start = joined.pop()[0]
        joined.append((start, end))
    return joined


@lru_cache(maxsize=1_024)
def _read(text: str) -> tuple[list[str], list[Span], dict[int, str]]:
    """Return stems, spans and compounds. Cached: many readers get one text with other phrases."""
    found, spans = stems(text)
    return found, spans, _compounds(text, spans)


def _compounds(text: str, spans: list[Span]) -> dict[int, str]:
    """Return pairs of words joined by a hyphen as one stem, by the index of the first word."""
    pairs = enumerate(itertools.pairwise(spans))
    return {
        i: _as_one(text[first[0] : second[1]])
        for i, (first, second) in pairs
        if is_hyphen(text[first[1] : second[0]])
    }


def _as_one(words: str) -> str:
    return stem("".join(forms(words)))


def _places(
    found: list[str], compounds: dict[int, str], phrases: set[Stems]
) -> Iterator[tuple[int, int]]:
    """Yield the first and last word of each mention, in order; the longest at each start."""
    by_first: dict[str, list[Stems]] = {}
    for phrase in sorted(phrases, key=len, reverse=True):
        by_first.setdefault(phrase[0], []).append(phrase)
    end = 0
    for i, first in enumerate(found):
        if i < end:
            continue
        known = by_first.get(first, ())
        length = next((len(p) for p in known if tuple(found[i : i + len(p)]) == p), 0)
        if length < 2 and (compounds.get(i),) in phrases:
            length = 2
        if length:
            end = i + length
            yield i, end - 1
