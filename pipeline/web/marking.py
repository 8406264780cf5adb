"""Show which words of a text matched."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from markupsafe import Markup, escape

from pipeline.matching.words import Word, forms, stem, words

Stems = tuple[str, ...]


def marked(text: str, phrases: Iterable[Stems]) -> Markup:
    """`text`, escaped, with every mention of a phrase in a <mark>.

    A mention may be written in another way than the phrase: "Language Models", "language-model".
    """
    found = words(text)
    pieces, at = [], 0
    for first, last in _mentions([stem(word.form) for word in found], set(phrases)):
        start, end = _span(found, first, last)
        pieces += [escape(text[at:start]), Markup("<mark>{}</mark>").format(text[start:end])]
        at = end
    return Markup("").join([*pieces, escape(text[at:])])


def stems_of(phrases: Iterable[str]) -> frozenset[Stems]:
    """Phrases as `marked` compares them."""
    return frozenset(
        stems for phrase in phrases if (stems := tuple(stem(form) for form in forms(phrase)))
    )


def _mentions(stems: list[str], phrases: set[Stems]) -> Iterator[tuple[int, int]]:
    """First and last word of each mention, in order; of two that overlap the longer one."""
    by_length = sorted(phrases, key=len, reverse=True)
    i = 0
    while i < len(stems):
        here = next((p for p in by_length if tuple(stems[i : i + len(p)]) == p), None)
        if here is None:
            i += 1
            continue
        yield i, i + len(here) - 1
        i += len(here)


def _span(found: list[Word], first: int, last: int) -> tuple[int, int]:
    return found[first].start, found[last].end
