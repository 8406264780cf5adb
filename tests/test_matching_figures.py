"""The relevance threshold and the score match docs/matching.md, computed here by hand."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain import BREADTHS, Breadth
from pipeline.matching.corpus import CorpusStatistics
from pipeline.matching.index import PaperIndex
from pipeline.matching.match import PaperText
from pipeline.matching.query import parse, plain_words

# Base forms, none of which is a compound of the others.
WORDS = (
    *("moss", "fern", "lichen", "quartz", "fjord", "heron", "glacier", "mamba"),
    *("basalt", "otter", "maple", "comet", "anvil", "tulip", "walnut", "pebble"),
)


def corpus(share: float = 0.01) -> CorpusStatistics:
    """Return statistics of 800 papers, counted as 1,000, of which a share has each of the words."""
    found = round(1_000 * share)
    return CorpusStatistics(800, dict.fromkeys(WORDS, found), 80_000.0)


def found_by(query: str, *papers: PaperText, share: float = 0.01) -> dict[int, Breadth]:
    """Return each paper that is found by any breadth, and the narrowest that finds it."""
    index = PaperIndex(papers, corpus(share))
    found = {
        one: {paper.paper: paper.breadth for paper in index.search(parse(query), breadth=one)}
        for one in BREADTHS
    }
    for breadth in BREADTHS:
        assert found[breadth] == {
            paper: needs for paper, needs in found[Breadth.MORE].items() if needs <= breadth
        }
    return found[Breadth.MORE]


def abstracts(*texts: str) -> list[PaperText]:
    return [PaperText("p", "", text) for text in texts]


def least_found(found: dict[int, Breadth]) -> list[int | None]:
    """Return the first paper that each breadth finds, the narrowest breadth first."""
    return [
        min((paper for paper, needs in found.items() if needs <= one), default=None)
        for one in BREADTHS
    ]


# --- The relevance threshold --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "mentions"),
    [
        (0.0, [2, 1, 1]),
        (0.019, [2, 1, 1]),
        (0.02, [3, 2, 1]),
        (0.099, [3, 2, 1]),
        (0.1, [4, 3, 2]),
        (0.299, [4, 3, 2]),
        (0.3, [6, 5, 3]),
        (0.8, [6, 5, 3]),
    ],
)
def test_mentions_required_for_one_word_by_its_frequency(share, mentions):
    found = found_by("moss", *abstracts(*("moss " * n for n in range(8))), share=share)

    assert least_found(found) == mentions


@pytest.mark.parametrize(
    ("paper", "breadth"),
    [
        (PaperText("p", "moss", ""), Breadth.FEWER),  # three mentions
        (PaperText("p", "", "moss moss"), Breadth.BALANCED),
        (PaperText("p", "", "", keywords=("moss",)), Breadth.BALANCED),
        (PaperText("p", "", "moss", keywords=("moss",)), Breadth.FEWER),
        (PaperText("p", "", "moss"), Breadth.MORE),
    ],
)
def test_mentions_in_titles_and_keywords_count_more(paper, breadth):
    assert found_by("moss", paper, share=0.02) == {0: breadth}


@pytest.mark.parametrize(
    ("paper", "breadth"),
    [
        (PaperText("p", "fern moss", ""), Breadth.FEWER),
        (PaperText("p", "", "fern moss"), Breadth.BALANCED),
        (PaperText("p", "", "fern moss is fern moss"), Breadth.FEWER),
        (PaperText("p", "", "", keywords=("fern moss",)), Breadth.FEWER),
    ],
)
def test_quoted_phrase_of_common_words_is_found(paper, breadth):
    assert found_by('"fern moss"', paper, share=0.5) == {0: breadth}


def test_absent_phrase_is_found_by_no_breadth():
    assert found_by('"fern moss"', *abstracts("moss fern")) == {}


# --- The score and its threshold ------------------------------------------------------------------

few = st.sampled_from([*WORDS[:4], "the"])
runs = st.lists(few, max_size=7).map(tuple)
papers = st.lists(st.tuples(runs, runs, st.lists(runs, max_size=1)), min_size=1, max_size=4)
frequencies = st.fixed_dictionaries({word: st.integers(0, 800) for word in (*WORDS[:4], "the")})


def count(run, texts):
    """Return how often the words stand in each text, next to each other."""
    return [
        sum(text[i : i + len(run)] == run for i in range(len(text) - len(run) + 1))
        for text in texts
    ]


def idf_by_hand(numbers, word):
    return math.log(1 + (800 - numbers[word] + 0.5) / (numbers[word] + 0.5))


def score_by_hand(query, texts, numbers):
    """Return the score: BM25 of words and of adjacent pairs, and the whole query as a phrase."""
    weights = [3, 1, *[2] * (len(texts) - 2)]
    length = sum(weight * len(text) for weight, text in zip(weights, texts, strict=True))

    idf = partial(idf_by_hand, numbers)

    def bm25(run, worth):
        found = zip(weights, count(run, texts), strict=True)
        mentions = sum(weight * times for weight, times in found)
        return worth * mentions * 2 / (mentions + 0.1 + 0.9 * length / 100) if mentions else 0.0

    telling = [i for i, word in enumerate(query) if word != "the"]
    score = sum(bm25((word,), idf(word)) for word in {query[i] for i in telling} or {*query})
    for left, right in pairwise(telling):
        worth = (idf(query[left]) + idf(query[right])) / 2
        score += bm25(query[left : right + 1], worth / 2)
    if len(query) > 1:
        whole = count(query, texts)
        score += 2 * min(4, sum(whole)) + (4 if whole[0] else 0)
    return score


@pytest.mark.full
@given(st.lists(few, min_size=1, max_size=4).map(tuple), papers, frequencies)
def test_score_equals_the_documented_formula(query, some, numbers):
    index = PaperIndex(
        [
            PaperText("p", " ".join(title), " ".join(abstract), keywords=tuple(map(" ".join, keys)))
            for title, abstract, keys in some
        ],
        CorpusStatistics(800, numbers, 80_000.0),
    )

    found = index.search(plain_words(" ".join(query)), floor=False)

    scores = [score_by_hand(query, [title, text, *keys], numbers) for title, text, keys in some]
    assert {one.paper for one in found} == {i for i, score in enumerate(scores) if score}
    for one in found:
        assert one.score == pytest.approx(scores[one.paper], abs=1e-5)


def breadth_by_hand(query, texts, numbers):
    """Return the narrowest breadth for several words; None if the paper passes no threshold."""
    idf = partial(idf_by_hand, numbers)
    words = [word for word in query if word != "the"]
    worth = sum(map(idf, {*words}))
    once = worth + sum((idf(left) + idf(right)) / 4 for left, right in pairwise(words)) + 2
    lower = 0.05 * (len({*words}) - 2)
    share = score_by_hand(query, texts, numbers) / once + 1e-9
    if sum(map(idf, {*words}.intersection(*[sum(texts, ())]))) < worth / 2 - 1e-9:
        share = 0
    if share >= max(0.5, 1.1 - lower):
        return Breadth.FEWER
    if share >= max(0.5, 0.9 - lower) or {*words} <= {*texts[0]}:
        return Breadth.BALANCED
    return Breadth.MORE if share >= max(0.5, 0.7 - lower) else None


many = st.sampled_from([*WORDS[:9], "the"])
queries = st.lists(many, min_size=2, max_size=12).filter(lambda run: len({*run} - {"the"}) > 1)
all_frequencies = st.fixed_dictionaries({word: st.integers(0, 800) for word in (*WORDS, "the")})


@given(st.data(), queries.map(tuple), all_frequencies)
def test_threshold_equals_the_documented_formula(data, query, numbers):
    run = st.lists(st.sampled_from([*query, "anvil", "tulip"]), max_size=40).map(tuple)
    title, abstract = data.draw(run.map(lambda words: words[:4])), data.draw(run)
    paper = PaperText("p", " ".join(title), " ".join(abstract))
    index = PaperIndex([paper], CorpusStatistics(800, numbers, 80_000.0))

    found = index.search(plain_words(" ".join(query)), breadth=Breadth.MORE)

    expected = breadth_by_hand(query, [title, abstract], numbers)
    assert [one.breadth for one in found] == ([] if expected is None else [expected])
