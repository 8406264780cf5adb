"""Suggest narrower and broader variants of a query. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from pipeline.errors import QueryError
from pipeline.matching.query import And, Field, Fielded, Not, Or, Phrase, Query, Words, parse, write
from pipeline.matching.words import STOP_WORDS

MOST = 8  # broader queries; each one costs a search


def narrower(query: Query) -> tuple[str, ...]:
    """Return canonical texts that find less: the words as a phrase, and the words in the title."""
    return _others(query, (_with_words(query, _quoted), _with_words(query, _titled)))


def broader(query: Query) -> tuple[str, ...]:
    """Return canonical texts that find more: without quotation marks, one condition or one word."""
    others = [_with_words(query, _unquoted)]
    if isinstance(query, And):
        some = range(min(len(query.operands), MOST))
        others += [_all(_without(query.operands, i)) for i in some]
    if isinstance(query, Words) and len(query.forms) > 2:
        others += [Words(rest) for rest in islice(_shorter(query.forms), MOST)]
    return _others(query, others)[:MOST]


def _others(query: Query, candidates: Iterable[Query]) -> tuple[str, ...]:
    """Return the valid candidates with words as canonical texts, without duplicates or `query`."""
    found: dict[str, None] = {}
    for candidate in filter(_has_words, candidates):
        try:
            found[write(parse(write(candidate)))] = None
        except QueryError:
            continue  # the candidate only excludes papers
    found.pop(write(query), None)
    return tuple(found)


def _has_words(query: Query) -> bool:
    match query:
        case Words() | Phrase() | Fielded(Field.TITLE | Field.ABSTRACT):
            return True
        case And(operands) | Or(operands):
            return any(_has_words(one) for one in operands)
        case _:
            return False


def _with_words(query: Query, change: Callable[[Query], Query]) -> Query:
    """Apply `change` to each term of the query except the negated ones."""
    match query:
        case And(operands):
            return And(tuple(_with_words(one, change) for one in operands))
        case Or(operands):
            return Or(tuple(_with_words(one, change) for one in operands))
        case Not():
            return query
        case _:
            return change(query)


def _quoted(query: Query) -> Query:
    return Phrase(query.forms) if isinstance(query, Words) and len(query.forms) > 1 else query


def _titled(query: Query) -> Query:
    return Fielded(Field.TITLE, query.forms) if isinstance(query, Words | Phrase) else query


def _unquoted(query: Query) -> Query:
    match query:
        case Phrase(forms) | Fielded(Field.TITLE | Field.ABSTRACT, forms):
            return Words(forms)
        case _:
            return query


def _without(operands: tuple[Query, ...], i: int) -> tuple[Query, ...]:
    return (*operands[:i], *operands[i + 1 :])


def _all(operands: tuple[Query, ...]) -> Query:
    return operands[0] if len(operands) == 1 else And(operands)


def _shorter(forms: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for i, form in enumerate(forms):
        if form not in STOP_WORDS:
            yield (*forms[:i], *forms[i + 1 :])
