"""Highlight the matched words of a text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from markupsafe import Markup, escape

from pipeline.matching.mentions import Stems, mentions
from pipeline.matching.query import And, Field, Fielded, Or, Phrase, Query, Words
from pipeline.matching.words import STOP_WORDS, stem

TEXTS = {Field.TITLE, Field.ABSTRACT}


def marked(text: str, phrases: Iterable[Stems]) -> Markup:
    """Return `text` as escaped HTML, each mention of a phrase wrapped in <mark>."""
    pieces, at = [], 0
    for start, end in mentions(text, phrases):
        pieces += [escape(text[at:start]), Markup("<mark>{}</mark>").format(text[start:end])]
        at = end
    return Markup("").join([*pieces, escape(text[at:])])


def asked_for(query: Query) -> frozenset[Stems]:
    """Return the stems to highlight: words of ranked groups without stop words, whole phrases.

    Of fielded terms only phrases in the title or the abstract count; negated terms do not.
    """
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
