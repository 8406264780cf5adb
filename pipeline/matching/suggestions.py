"""Suggestions for a query: hints about likely slips, and narrower or broader variants. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice, pairwise
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
from pipeline.matching.tokens import STOP_WORDS, forms, stem
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
    query: str = ""  # the whole query as it was probably meant; "" if the hint has no correction


def hints(query: str) -> tuple[Hint, ...]:
    """Return the hints for a query, in the order of its text; none for most queries."""
    plain = _QUOTED.sub(lambda found: f'"{" " * (len(found.group()) - 1)}', query)
    found = [
        *_fields(query, plain),
        *_categories(query, plain),
        *_operators(query, plain),
        *_authors(query),
    ]
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
            yield _correction(query, found, f"{meant}:", _did_you_mean(f"{meant}:", written))


def _categories(query: str, plain: str) -> Iterator[Hint]:
    for found in _CATEGORY.finditer(plain):
        if meant := nearest_category(found.group(1)):
            text = gettext(
                "did you mean %(meant)s? %(written)s is unknown",
                meant="cat:" + meant,
                written=found.group(),
            )
            yield _correction(query, found, f"cat:{meant}", text)
    rest = _WITH_FIELD.sub(lambda found: " " * len(found.group()), plain)
    for found in _BARE_CATEGORY.finditer(rest):
        if name := CATEGORIES.get(found.group().lower()):
            text = _did_you_mean(f"cat:{name}", found.group())
            yield _correction(query, found, f"cat:{name}", text)


def _operators(query: str, plain: str) -> Iterator[Hint]:
    """Yield hints for lower-case operators, which are words; none if there is no other syntax."""
    if _SYNTAX.search(plain):
        for found in _LOWER.finditer(plain):
            word = found.group()
            text = _did_you_mean(word.upper(), word)
            yield _correction(query, found, word.upper(), text)


def _authors(query: str) -> Iterator[Hint]:
    for found in AUTHOR_NAME.finditer(query):
        name = " ".join(found.group("name").split())
        text = gettext("read as the author “%(name)s”; put AND before a word", name=name)
        yield Hint(text, found.start())


def _correction(query: str, found: re.Match[str], meant: str, text: str) -> Hint:
    corrected = f"{query[: found.start()]}{meant}{query[found.end() :]}"
    return Hint(text, found.start(), corrected)


def _did_you_mean(meant: str, written: str) -> str:
    return gettext(
        "did you mean %(meant)s? %(written)s is searched as text", meant=meant, written=written
    )


TYPED = 80  # characters of a query that may be corrected; a longer one was copied
MOST = 8  # broader queries; each one costs a search
WEEK: Final = 7
DAYS: Final = 30  # length of the window over which papers are counted
FLOOD: Final = 20  # papers a day; more are too many
TRICKLE: Final = 1  # papers a week; fewer are too few
BROADER = 1.5  # times the papers of a topic, at least, that a broader query finds
NEGATIONS: Final = frozenset({"not", "no", "without", "except", "excluding"})
NAMES = 4  # words of an author's name


def narrower(query: Query) -> tuple[TopicQuery, ...]:
    """Return queries that find less: the words as a phrase, and the words in the title."""
    return _others(query, (_with_words(query, _quoted), _with_words(query, _titled)))


def broader(query: Query, corpus: CorpusStatistics) -> tuple[TopicQuery, ...]:
    """Return queries that find more: without quotation marks, one condition, or some words.

    Words are left out so that the rest is still a phrase, see `_shorter`, but never the rarest one
    that the corpus has: without it, the query is about something else. Exclusions stay, also those
    in words ("not").
    """
    others = [_with_words(query, _unquoted)]
    if isinstance(query, And):
        optional = [i for i, one in enumerate(query.operands) if not isinstance(one, Not)][:MOST]
        others += [_all(_without(query.operands, i)) for i in optional]
    if isinstance(query, Words) and NEGATIONS.isdisjoint(query.forms):
        others += [Words(rest) for rest in islice(_shorter(query.forms), MOST)]
    seen = [form for form in _subjects(query) if corpus.frequencies.get(stem(form))]
    rarest = max(seen, key=lambda form: corpus.idf(stem(form)), default=None)
    kept = (one for one in others if rarest is None or rarest in _subjects(one))
    return _others(query, kept)[:MOST]


def _subjects(query: Query) -> list[str]:
    """Return the words of a query that are not excluded, without stop words."""
    match query:
        case And(operands) | Or(operands):
            return [form for operand in operands for form in _subjects(operand)]
        case Words(words) | Phrase(words) | Fielded(Field.TITLE | Field.ABSTRACT, words):
            return [form for form in words if form not in STOP_WORDS]
        case _:
            return []


@dataclass(frozen=True, slots=True)
class Count:
    """Number of papers of a topic on days when any paper was announced.

    Weekends are not counted: they say nothing about a topic.
    """

    papers: int
    silent: int  # days without a paper of this topic
    days: int
    span: int  # calendar days from the first day to the last

    @property
    def a_day(self) -> float:
        return self.papers / self.days

    @property
    def a_week(self) -> float:
        if self.span < WEEK:
            return self.a_day * 5
        return self.a_day * min(7.0, 7 * self.days / self.span)

    @property
    def is_flood(self) -> bool:
        return self.a_day > FLOOD

    @property
    def is_trickle(self) -> bool:
        return self.a_week < TRICKLE


def least_broader(counted: Count, others: Mapping[str, Count]) -> str | None:
    """Return the query with the fewest papers, at least `BROADER` times those of a topic, or None.

    A query with more than `FLOOD` papers a day, or less than `TRICKLE` a week, is never returned.
    """
    useful = {
        query: one.papers
        for query, one in others.items()
        if one.papers >= BROADER * counted.papers and not (one.is_flood or one.is_trickle)
    }
    return min(useful, key=lambda query: useful[query], default=None)


def author(query: Query) -> TopicQuery | None:
    """Return the query for papers by an author of this name; None unless it is 2 to 4 words."""
    if not isinstance(query, Words) or not 2 <= len(query.forms) <= NAMES:
        return None
    if not all(form.isalpha() and form not in STOP_WORDS for form in query.forms):
        return None
    return parse_topic(write(Fielded(Field.AUTHOR, query.forms)))


def as_typed(query: str, typed: str) -> str:
    """Return a canonical query with words and categories as they are in `typed` or at arXiv.

    "bias in llms" is "bias in LLMs" if the topic was "Bias and fairness in LLMs". Return `query`
    if the result would be another query.
    """
    words = {forms(word): word for word in reversed(re.findall(r"[^\s()\":]+", typed))}

    def spelled(found: re.Match[str]) -> str:
        word = found.group()
        return CATEGORIES.get(word) or words.get((word,), word)

    text = re.sub(r"[^\s()\":]+", spelled, query)
    other = parsed(text)
    return text if other and other.text == query else query


def parsed(text: str) -> TopicQuery | None:
    """Parse a suggested query; None if it is invalid, as when a second mistake is left."""
    try:
        return parse_topic(" ".join(text.split()))
    except QueryError:
        return None


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


def _shorter(words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield shorter phrases: without one part between stop words, or without one of its words.

    Of several parts only the words before the last one are left out, which describe it: "soft
    objects" becomes "objects" and not "soft".
    """
    parts = _parts(words)
    if len(parts) == 1:
        yield from (_joined([(*first, *rest)]) for first, rest in _without_one(parts[0]))
        return
    for i, part in enumerate(parts):
        yield _joined([*parts[:i], *parts[i + 1 :]])
        for first, rest in _without_one(part):
            if rest:
                yield _joined([*parts[:i], (*first, *rest), *parts[i + 1 :]])


def _parts(words: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return the parts of a phrase, each of which begins with its stop words, if any."""
    parts: list[list[str]] = []
    for before, word in pairwise(("", *words)):
        begins = word in STOP_WORDS and before not in STOP_WORDS
        if begins or not parts:
            parts.append([])
        parts[-1].append(word)
    if parts and parts[-1][-1] in STOP_WORDS:
        parts.pop()
    return [tuple(part) for part in parts]


def _without_one(part: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Yield the words before and after each word of a part that is not a stop word."""
    telling = [i for i, word in enumerate(part) if word not in STOP_WORDS]
    if len(telling) > 1:
        yield from ((part[:i], part[i + 1 :]) for i in telling)


def _joined(parts: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    words = [word for part in parts for word in part]
    while words and words[0] in STOP_WORDS:
        words.pop(0)
    return tuple(words)
