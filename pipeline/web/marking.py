"""Show which words of a text matched."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from markupsafe import Markup, escape

from pipeline.matching.query import And, Field, Fielded, Or, Phrase, Query, Words
from pipeline.matching.words import STOP_WORDS, stem, stems

Stems = tuple[str, ...]
TEXTS = {Field.TITLE, Field.ABSTRACT}


def marked(text: str, phrases: Iterable[Stems]) -> Markup:
    """`text`, escaped, with every mention of a phrase in a <mark>.

    A mention may be written in another way than the phrase: "Language Models", "language-model".
    """
    wanted = set(phrases)
    if not wanted:
        return escape(text)
    found, spans = stems(text)
    pieces, at = [], 0
    for first, last in _joined(_mentions(found, wanted)):
        start, end = spans[first][0], spans[last][1]
        pieces += [escape(text[at:start]), Markup("<mark>{}</mark>").format(text[start:end])]
        at = end
    return Markup("").join([*pieces, escape(text[at:])])


def stems_of(phrases: Iterable[str]) -> frozenset[Stems]:
    """Phrases as `marked` compares them."""
    return frozenset(stemmed for phrase in phrases if (stemmed := tuple(stems(phrase)[0])))


def asked_for(query: Query) -> frozenset[Stems]:
    """What a query looks for: each telling word of a ranked group, and its phrases as a whole."""
    ranked = {
        (stem(form),) for group in _groups(query, Words) for form in group if form not in STOP_WORDS
    }
    return frozenset(ranked | {tuple(map(stem, group)) for group in _groups(query, Phrase)})


def _groups(query: Query, kind: type[Words | Phrase]) -> Iterator[tuple[str, ...]]:
    if isinstance(query, kind):
        yield query.forms
    elif isinstance(query, And | Or):
        for operand in query.operands:
            yield from _groups(operand, kind)
    elif isinstance(query, Fielded) and query.field in TEXTS and kind is Phrase:
        yield query.forms


def _joined(mentions: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Mentions next to each other as one."""
    first, last = -1, -1
    for start, end in mentions:
        if start != last + 1 or first < 0:
            if first >= 0:
                yield first, last
            first = start
        last = end
    if first >= 0:
        yield first, last


def _mentions(found: list[str], phrases: set[Stems]) -> Iterator[tuple[int, int]]:
    """First and last word of each mention, in order; of two at one place the longer one."""
    by_first: dict[str, list[Stems]] = {}
    for phrase in sorted(phrases, key=len, reverse=True):
        by_first.setdefault(phrase[0], []).append(phrase)
    end = 0
    for i, first in enumerate(found):
        if i < end or first not in by_first:
            continue
        here = next((p for p in by_first[first] if tuple(found[i : i + len(p)]) == p), None)
        if here is not None:
            end = i + len(here)
            yield i, end - 1
