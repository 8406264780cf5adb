"""Property tests: the index returns the papers that a slow evaluation by hand returns."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import QueryError
from pipeline.matching.index import PaperIndex
from pipeline.matching.match import PaperText
from pipeline.matching.query import (
    And,
    Field,
    Fielded,
    Not,
    Or,
    Phrase,
    Query,
    Words,
    canonical,
    parse,
    write,
)
from pipeline.matching.tokens import STOP_WORDS, stem

# No word is a compound of others, and "the" is a stop word.
WORDS = ("graph", "graphs", "tree", "trees", "moss", "fern", "the")
CATEGORIES = ("cs.LG", "cs.CL", "math.CO")
AUTHORS = ("Ada Lovelace", "A. Turing", "Grace Hopper")


# --- Queries ------------------------------------------------------------------------------------

words = st.sampled_from(WORDS)
terms = st.one_of(
    words,
    st.lists(words, min_size=1, max_size=3).map(lambda some: f'"{" ".join(some)}"'),
    st.builds("{}:{}".format, st.sampled_from(["ti", "abs"]), words),
    st.sampled_from(["cat:cs.*", "cat:cs", *(f"cat:{name}" for name in CATEGORIES)]),
    st.sampled_from(["au:lovelace", "au:lovelace_a", "au:Grace Hopper", 'au:"Turing, Alan"']),
    st.sampled_from(["source:arxiv", "source:huggingface"]),
)


def _joined(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    operator = st.sampled_from([" ", " AND ", " OR ", " NOT ", " ANDNOT ", " -"])
    pair = st.builds("{}{}{}".format, inner, operator, inner)
    return pair | pair.map("({})".format) | inner.map("graph -({})".format)


queries = terms | _joined(terms) | _joined(terms | _joined(terms))
texts = st.lists(words, max_size=6).map(" ".join)
papers = st.lists(
    st.builds(
        PaperText,
        id=st.just("p"),
        title=texts,
        abstract=texts,
        authors=st.lists(st.sampled_from(AUTHORS), max_size=2).map(tuple),
        categories=st.lists(st.sampled_from(CATEGORIES), max_size=2).map(tuple),
        sources=st.lists(st.sampled_from(["arxiv", "huggingface"]), max_size=1).map(tuple),
    ),
    min_size=1,
    max_size=6,
)


def readable(text: str) -> Query | None:
    """Return the parsed query, or None if it only excludes papers."""
    try:
        return parse(text)
    except QueryError as error:
        assert "only excludes papers" in error.message  # noqa: PT017
        return None


# --- Evaluation by hand -------------------------------------------------------------------------


def holds(query: Query, paper: PaperText, *, whole: bool = False) -> bool:
    """Return whether the paper matches, without a threshold.

    Any significant word of a group is enough; if the group is excluded (`whole`), all must occur.
    """
    match query:
        case Words(forms):
            telling = [form for form in forms if form not in STOP_WORDS] or list(forms)
            every = all if whole else any
            wanted = forms if whole else telling
            return every(_stands((form,), (paper.title, paper.abstract)) for form in wanted)
        case Phrase(forms):
            return _stands(forms, (paper.title, paper.abstract))
        case Fielded(Field.TITLE, forms):
            return _stands(forms, (paper.title,))
        case Fielded(Field.ABSTRACT, forms):
            return _stands(forms, (paper.abstract,))
        case Fielded(Field.CATEGORY, (name,)):
            return any(f"{one}.".lower().startswith(f"{name}.") for one in paper.categories)
        case Fielded(Field.SOURCE, (name,)):
            return name in paper.sources
        case Fielded(Field.AUTHOR, names):
            return any(_is_called(author, names) for author in paper.authors)
        case Not(operand):
            return not holds(operand, paper, whole=True)
        case And(operands):
            return all(holds(one, paper, whole=whole) for one in operands)
        case Or(operands):
            return any(holds(one, paper, whole=whole) for one in operands)
    raise AssertionError(query)


def _stands(forms: tuple[str, ...], texts: tuple[str, ...]) -> bool:
    wanted = [stem(form) for form in forms]
    return any(wanted == run for text in texts for run in _runs(text, len(wanted)))


def _runs(text: str, length: int) -> Iterator[list[str]]:
    stems = [stem(word) for word in text.split()]
    for start in range(len(stems) - length + 1):
        yield stems[start : start + length]


def _is_called(author: str, names: tuple[str, ...]) -> bool:
    """Return whether the author has these names; the few test authors share no initial."""
    known = author.lower().replace(".", "").split()
    return all(
        any(name == one or (1 in {len(name), len(one)} and name[0] == one[0]) for one in known)
        for name in names
    )


# --- Properties ---------------------------------------------------------------------------------


@pytest.mark.full
@settings(max_examples=300)
@given(queries, papers)
def test_index_results_equal_a_slow_evaluation(text, some):
    query = readable(text)
    if query is None:
        return

    found = {one.paper for one in PaperIndex(some).search(query, floor=False)}

    assert found == {place for place, paper in enumerate(some) if holds(query, paper)}


@pytest.mark.full
@given(queries, papers)
def test_threshold_only_removes_results(text, some):
    query = readable(text)
    if query is None:
        return
    index = PaperIndex(some)

    kept = {one.paper for one in index.search(query)}

    assert kept <= {one.paper for one in index.search(query, floor=False)}


@given(queries)
def test_written_query_parses_to_the_same_query(text):
    query = readable(text)
    if query is None:
        return

    assert parse(write(query)) == query
    assert write(query) == canonical(text)


@pytest.mark.full
@given(queries, queries, papers)
def test_queries_with_equal_canonical_text_return_equal_results(one, other, some):
    """Also when the operands of `AND` and `OR` are swapped."""
    index = PaperIndex(some)
    pairs = [
        (f"({one}) {operator} ({other})", f"({other}) {operator} ({one})")
        for operator in ("AND", "OR")
    ]
    for left, right in pairs:
        if (first := readable(left)) is not None and (second := readable(right)) is not None:
            assert canonical(left) == canonical(right)
            assert index.search(first) == index.search(second)
