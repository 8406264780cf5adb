"""Suggestions for a query: hints about likely slips, and narrower or broader variants. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from typing import Final

from pipeline.edit_distance import neighbours
from pipeline.errors import QueryError
from pipeline.matching.corpus import CorpusStatistics
from pipeline.matching.query import (
    AUTHOR_NAME,
    And,
    Field,
    Fielded,
    Not,
    Or,
    Phrase,
    Query,
    TopicQuery,
    Words,
    parse_topic,
    write,
)
from pipeline.matching.tokens import STOP_WORDS, stem
from pipeline.translations import gettext

# https://arxiv.org/category_taxonomy
_TAXONOMY: Final = """
cs AI AR CC CE CG CL CR CV CY DB DC DL DM DS ET FL GL GR GT HC IR IT LG LO MA MM MS NA NE NI OH OS
 PF PL RO SC SD SE SI SY
econ EM GN TH
eess AS IV SP SY
math AC AG AP AT CA CO CT CV DG DS FA GM GN GR GT HO IT KT LO MG MP NA NT OA OC PR QA RA RT SG SP ST
astro-ph CO EP GA HE IM SR
cond-mat dis-nn mes-hall mtrl-sci other quant-gas soft stat-mech str-el supr-con
gr-qc
hep-ex
hep-lat
hep-ph
hep-th
math-ph
nlin AO CD CG PS SI
nucl-ex
nucl-th
physics acc-ph ao-ph app-ph atm-clus atom-ph bio-ph chem-ph class-ph comp-ph data-an ed-ph flu-dyn
 gen-ph geo-ph hist-ph ins-det med-ph optics plasm-ph pop-ph soc-ph space-ph
q-bio BM CB GN MN NC OT PE QM SC TO
q-fin CP EC GN MF PM PR RM ST TR
quant-ph
stat AP CO ME ML OT TH
"""
_ARCHIVES: Final = {
    archive: tuple(f"{archive}.{part}" for part in parts)
    for archive, *parts in map(str.split, _TAXONOMY.strip().replace("\n ", " ").split("\n"))
}
CATEGORIES: Final = {
    name.lower(): name for archive, parts in _ARCHIVES.items() for name in (archive, *parts)
}
# Common names of categories that arXiv names otherwise.
_CALLED: Final = {"cs.ml": "cs.LG", "cs.nlp": "cs.CL", "cs.rl": "cs.LG"}
_FIELDS: Final = {
    **{field.value: field for field in Field},
    "title": Field.TITLE,
    "abstract": Field.ABSTRACT,
    "author": Field.AUTHOR,
    "authors": Field.AUTHOR,
    "category": Field.CATEGORY,
    "categories": Field.CATEGORY,
    "subject": Field.CATEGORY,
}
_QUOTED = re.compile(r"[\"\u201c\u201d\u201e][^\"\u201c\u201d\u201e]*[\"\u201c\u201d\u201e]")
_NAMED = re.compile(r"(?<![^\s(-])([A-Za-z]{2,12}):(?=[\w\"\u201c])")
_CATEGORY = re.compile(r"(?<![^\s(-])cat:([A-Za-z0-9.*-]+)", re.IGNORECASE)
_WITH_FIELD = re.compile(r"cat:(?:\([^()]*\)|\s*[^\s()]+(?:[,;]\s+[\w-]+\.[\w-]+)*)", re.IGNORECASE)
_BARE_CATEGORY = re.compile(r"(?<![^\s(,;-])[a-z-]{1,8}\.[A-Za-z-]{2,10}(?![\w:.-]*\w)")
_LOWER = re.compile(r"(?<=\s)(and|or|not)(?=\s)")
_SYNTAX = re.compile(r"(?<![^\s(-])(?:ti|abs|au|cat|source):|[\"\u201c(]", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Hint:
    """A question about a query, or how it is parsed; `position` is the offset of the character."""

    text: str
    position: int


def hints(query: str) -> tuple[Hint, ...]:
    """Return the hints for a query, in the order of its text; none for most queries."""
    plain = _QUOTED.sub(lambda found: f'"{" " * (len(found.group()) - 1)}', query)
    found = [*_fields(query, plain), *_categories(plain), *_operators(plain), *_authors(query)]
    return tuple(sorted(found, key=lambda hint: hint.position))


def nearest_category(name: str) -> str | None:
    """Return the likely category for an unknown name; None if it is known, or if none is near."""
    folded = name.lower()
    stem = folded.removesuffix("*").removesuffix(".")
    if stem in CATEGORIES or (folded.endswith("*") and _begins_one(stem)):
        return None
    if stem in _CALLED:
        return _CALLED[stem]
    alike = [known for known in CATEGORIES if known.rpartition(".")[2] == stem.rpartition(".")[2]]
    near = get_close_matches(stem, alike, n=1, cutoff=0.3) or get_close_matches(
        stem, CATEGORIES, n=1, cutoff=0.75
    )
    return CATEGORIES[near[0]] if near else None


def _begins_one(stem: str) -> bool:
    return any(known.startswith(stem) for known in CATEGORIES)


def _fields(query: str, plain: str) -> Iterator[Hint]:
    for found in _NAMED.finditer(plain):
        name = found.group(1).lower()
        near = [name] if name in _FIELDS else get_close_matches(name, _FIELDS, n=1, cutoff=0.75)
        if near and name not in set(Field):
            written = query[found.start() : found.end()]
            meant = _FIELDS[near[0]]
            yield Hint(_did_you_mean(f"{meant}:", written), found.start())


def _categories(plain: str) -> Iterator[Hint]:
    for found in _CATEGORY.finditer(plain):
        if meant := nearest_category(found.group(1)):
            text = gettext(
                "did you mean %(meant)s? %(written)s is unknown",
                meant="cat:" + meant,
                written=found.group(),
            )
            yield Hint(text, found.start())
    rest = _WITH_FIELD.sub(lambda found: " " * len(found.group()), plain)
    for found in _BARE_CATEGORY.finditer(rest):
        if name := CATEGORIES.get(found.group().lower()):
            yield Hint(_did_you_mean(f"cat:{name}", found.group()), found.start())


def _operators(plain: str) -> Iterator[Hint]:
    """Yield hints for lower-case operators, which are words; none if there is no other syntax."""
    if _SYNTAX.search(plain):
        for found in _LOWER.finditer(plain):
            word = found.group()
            yield Hint(_did_you_mean(word.upper(), word), found.start())


def _authors(query: str) -> Iterator[Hint]:
    for found in AUTHOR_NAME.finditer(query):
        name = " ".join(found.group("name").split())
        text = gettext("read as the author “%(name)s”; put AND before a word", name=name)
        yield Hint(text, found.start())


def _did_you_mean(meant: str, written: str) -> str:
    return gettext(
        "did you mean %(meant)s? %(written)s is searched as text", meant=meant, written=written
    )


TYPED = 80  # characters of a query that may be corrected; a longer one was copied
MOST = 8  # broader queries; each one costs a search


def narrower(query: Query) -> tuple[TopicQuery, ...]:
    """Return queries that find less: the words as a phrase, and the words in the title."""
    return _others(query, (_with_words(query, _quoted), _with_words(query, _titled)))


def broader(query: Query) -> tuple[TopicQuery, ...]:
    """Return queries that find more: without quotation marks, one condition or one word."""
    others = [_with_words(query, _unquoted)]
    if isinstance(query, And):
        some = range(min(len(query.operands), MOST))
        others += [_all(_without(query.operands, i)) for i in some]
    if isinstance(query, Words) and len(query.forms) > 2:
        others += [Words(rest) for rest in islice(_shorter(query.forms), MOST)]
    return _others(query, others)[:MOST]


def corrected(query: Query, corpus: CorpusStatistics) -> TopicQuery | None:
    """Return the query with unknown words replaced by the most frequent known word one edit away.

    None if nothing was replaced, or if the query is longer than `TYPED` characters: each unknown
    word costs 5 milliseconds. Words of up to three letters and negated ones are left alone.
    """
    if len(write(query)) > TYPED:
        return None

    def change(term: Query) -> Query:
        if isinstance(term, Words | Phrase):
            return type(term)(tuple(_nearest(form, corpus) for form in term.forms))
        return term

    other = _with_words(query, change)
    return parse_topic(write(other)) if write(other) != write(query) else None


def _nearest(form: str, corpus: CorpusStatistics) -> str:
    if len(form) < 4 or corpus.frequencies.get(stem(form)):
        return form
    known = corpus.frequencies
    return max(neighbours(form), key=lambda other: (known.get(stem(other), 0), other == form))


def _others(query: Query, candidates: Iterable[Query]) -> tuple[TopicQuery, ...]:
    """Return the valid candidates with words, normalised, without duplicates or `query`."""
    found: dict[str, TopicQuery] = {}
    for candidate in filter(_has_words, candidates):
        try:
            one = parse_topic(write(candidate))  # which normalises the tree, too
        except QueryError:
            continue  # the candidate only excludes papers
        found[one.text] = one
    found.pop(write(query), None)
    return tuple(found.values())


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
