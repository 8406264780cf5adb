from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.domain import BREADTHS, Breadth
from pipeline.errors import QueryError
from pipeline.matching.corpus import CorpusStatistics, statistics
from pipeline.matching.highlights import find
from pipeline.matching.index import PaperIndex
from pipeline.matching.match import PaperText
from pipeline.matching.query import parse, plain_words

FILLER = "We study a question and answer it with some care in this work"


def make_paper(title="Untitled", abstract=FILLER, **fields):
    return PaperText("1", title, abstract, **fields)


def titles(papers, query, **options):
    return [
        papers[found.paper].title for found in PaperIndex(papers).search(parse(query), **options)
    ]


def finds(paper, query, **options):
    """Return whether the query finds this paper among unrelated ones."""
    others = [make_paper(f"Paper {i}") for i in range(20)]
    found = PaperIndex([paper, *others]).search(parse(query), **options)
    return 0 in [one.paper for one in found]


class TestSpelling:
    @pytest.mark.parametrize(
        ("query", "title"),
        [
            ("multimodal", "Multi-modal Learning"),
            ("multimodal", "Multi modal Learning"),
            ("multi-modal", "Multimodal Learning"),
            ("multi modal learning", "Multimodal learning"),
            ('"multi-modal learning"', "Multimodal learning"),
            ('"multimodal learning"', "Multi-modal learning"),
            ('"deep multimodal learning"', "Deep multi-modal learning"),
            ('"deep multi modal learning"', "Deep multimodal learning"),
            ("dataset", "A Data Set of Stars"),
            ("data sets", "Datasets of Stars"),
            ("online", "On-line Learning"),
            ("email", "Filtering of E-mail"),
            ("llm", "What LLMs Know"),
            ("LLMs", "What an LLM Knows"),
            ("schrodinger bridge", 'Schr\\"odinger Bridges'),
            ("Schrödinger bridges", "A Schrodinger bridge"),
            ("alpha stable", "$\\alpha$-stable Processes"),
            ("n-ary relations", "Document-Level $N$-ary Relation Extraction"),
        ],
    )
    def test_spelling_variants_are_found(self, query, title):
        assert finds(make_paper(title), query)

    @pytest.mark.parametrize(
        ("query", "title"),
        [
            ("IFN-gamma", "IFN\u03b3 in Mice"),
            ("IFN\u03b3", "IFN-gamma in Mice"),
            ("\u03b1-helix", "Alpha helices in Water"),
            ("GPT4", "What GPT-4 Knows"),
            ("3D", "A 3-D Print"),
            ("C++", "Parsing C++20"),
            ("UNet", "UNet++ for Lungs"),
            ("R&D", "R & D in Firms"),
            ("u s elections", "Elections in the U.S."),
            ("WHO", "What the WHO Recommends"),
            ('"can bus"', "Signals of a CAN Bus"),
            ("kNN", "k-NN at Scale"),
        ],
    )
    def test_symbols_and_greek_letters_are_found(self, query, title):
        assert finds(make_paper(title), query)

    @pytest.mark.parametrize(
        ("query", "title"),
        [
            ('"B* tree"', "A B Tree"),
            ("C++20", "Parsing C++"),
            ("UNet++", "UNet for Lungs"),
            ("C++", "Vitamin C"),
            ('"WHO guidelines"', "Who guidelines help"),
            ("universities", "The Early Universe"),
            ('"organization"', "Organs on a Chip"),
            (".NET", "A Net of Wires"),
            ('"multimodal learning"', "Multi-modal Moss and Learning"),
            ('"learning multimodal"', "Multi-modal Moss and Learning"),
            ('"multi-modal learning"', "Multimodal Moss and Learning"),
            ('"learning multi-modal"', "Multimodal Moss and Learning"),
        ],
    )
    def test_different_words_are_not_found(self, query, title):
        assert not finds(make_paper(title), query)

    @pytest.mark.parametrize(
        ("query", "title", "found"),
        [
            ("medical imaging", "Imaging in Medicine", True),
            ("diffusion models for molecules", "Molecular Diffusion Models", True),
            ("robot grasping", "Robotic Grasping", True),
            ('"medical imaging"', "Imaging in Medicine", False),
            ("ti:medicine", "Medical Imaging", False),
            ("imaging -medicine", "Medical Imaging", True),
            ("medicine", "Medical Imaging", False),
            ("the medicine", "Medical Imaging", False),
            ("medicine AND imaging", "Medical Imaging", False),
            ("visual moss", "Moss Visualization", False),
            ("quantum optics", "Quantum Optical Flow", False),
            ("causality tests", "Tests of Causal Models", False),
        ],
    )
    def test_adjective_and_noun_of_a_field_find_each_other_beside_other_words(
        self, query, title, found
    ):
        assert finds(make_paper(title), query) == found

    def test_papers_with_a_noun_are_found_however_common_its_adjective_is(self):
        passing = make_paper(abstract=f"{FILLER}, on medicine")
        common = [make_paper("Moss", "Medical moss.") for _ in range(100)]

        assert titles([passing, *common], "medicine") == ["Untitled"]

    def test_other_word_of_a_field_is_shown(self):
        [found] = PaperIndex([make_paper("Robotic Grasping"), make_paper()]).search(
            parse("robot grasping")
        )

        assert found.phrases == ("Robotic Grasping",)

    def test_matched_phrases_are_marked_in_the_title(self):
        title = "Labelled Corpora for TNF\u03b1"
        [found] = PaperIndex([make_paper(title), make_paper()]).search(
            parse("labeled AND corpus AND TNFalpha")
        )

        marks = {title[start:end] for start, end in find(title, found.phrases)}

        assert marks == {"Labelled Corpora", "TNF\u03b1"}

    @pytest.mark.parametrize(
        ("query", "text"),
        [("information", "We wrote it in formation"), ("online", "It rests on line search")],
    )
    def test_unrelated_adjacent_words_do_not_match_a_compound(self, query, text):
        assert not finds(make_paper(abstract=text), query, floor=False)


class TestFields:
    @pytest.mark.parametrize(
        ("query", "found"),
        [
            ("ti:graphs", True),
            ("abs:graphs", False),
            ('ti:"sparse graphs"', True),
            ('ti:"graphs sparse"', False),
            ("abs:mercury", True),
            ("ti:mercury", False),
            ("cat:cs.LG", True),
            ("cat:cs.*", True),
            ("cat:cs", True),
            ("cat:cs.L*", True),
            ("cat:cs.CL", False),
            ("cat:c", False),
            ("cat:hep-th", True),
            ("cat:hep", False),
            ("source:arxiv", True),
            ("source:huggingface", False),
            ("au:Erdős", True),
            ("au:erdos_p", True),
            ('au:"Paul Erdos"', True),
            ('au:"Erdos, P."', True),
            ('au:"Anna Erdos"', False),
            ('au:"Ada Lovelace"', True),
            ('au:"A. K. Lovelace"', False),
            ('au:"A. A. Lovelace"', False),
            ("au:Love", False),
            ("graphs -cat:cs.LG", False),
            ("graphs -au:lovelace", False),
            ("graphs -source:feed", True),
        ],
    )
    def test_field_operators_filter_papers(self, query, found):
        paper = make_paper(
            "Sparse Graphs",
            "On mercury.",
            authors=("Paul Erdős", "A. Lovelace"),
            categories=("cs.LG", "hep-th"),
            sources=("arxiv",),
        )

        assert finds(paper, query) is found

    def test_filter_only_query_gives_equal_scores(self):
        papers = [
            make_paper("One", categories=("cs.LG",)),
            make_paper("Two", categories=("cs.LG",)),
        ]

        found = PaperIndex(papers).search(parse("cat:cs.LG"))

        assert [(one.paper, one.score) for one in found] == [(0, 1.0), (1, 1.0)]


class TestOrder:
    def test_title_match_ranks_above_abstract_match(self):
        papers = [
            make_paper("One", "About flow matching and more."),
            make_paper("Flow Matching", "And more."),
        ]

        assert titles(papers, "flow matching") == ["Flow Matching", "One"]

    def test_phrase_ranks_above_separate_words(self):
        papers = [
            make_paper("One", "matching of a flow to a flow by matching words here"),
            make_paper("Two", "the flow matching of one to another by some words here"),
        ]

        assert titles(papers, "flow matching", floor=False) == ["Two", "One"]

    def test_equal_scores_keep_the_input_order(self):
        papers = [make_paper("Graphs", "same") for _ in range(5)]

        assert [one.paper for one in PaperIndex(papers).search(parse("graphs"))] == [0, 1, 2, 3, 4]

    def test_top_limits_the_number_of_results(self):
        papers = [make_paper("Graphs") for _ in range(5)]

        assert len(PaperIndex(papers).search(parse("graphs"), top=2)) == 2

    def test_small_batch_is_scored_with_corpus_statistics(self):
        """Rarity is measured in a corpus of thousands of papers, not in a batch of twenty."""
        corpus = CorpusStatistics(10_000, {"model": 8_000, "mamba": 10}, 1_000_000.0)
        papers = [make_paper("A model"), make_paper("A mamba")]

        found = PaperIndex(papers, corpus).search(parse("model OR mamba"), floor=False)

        assert papers[found[0].paper].title == "A mamba"
        assert found[0].score > 10 * found[1].score

    def test_empty_index_returns_no_results(self):
        assert PaperIndex([]).search(parse("graphs cat:cs.LG -trees")) == []


class TestQuotation:
    @pytest.mark.parametrize(
        ("query", "title"),
        [
            ('"matching"', "Matchings of Graphs"),
            ('"flow matching"', "FLOW-MATCHINGS"),
            ('"topic modelling"', "Topic Modeling"),
            ('"optimisation"', "Optimization of It"),
            ('"learned index"', "Learned Indices"),
            ('"string theory"', "String Theories"),
            ('"matched filter"', "Màtched Filters"),
        ],
    )
    def test_quoted_words_match_in_case_accents_number_and_spelling(self, query, title):
        assert finds(make_paper(title), query)

    @pytest.mark.parametrize(
        ("query", "title"),
        [
            ('"matching"', "We Match Graphs"),
            ('"flow matching"', "Flows Matched"),
            ('"optimization"', "To Optimize It"),
            ('"learned index"', "Learning Indices"),
            ('"match"', "A Matching"),
        ],
    )
    def test_quoted_words_do_not_match_other_forms_of_the_verb(self, query, title):
        assert finds(make_paper(title), query.replace('"', ""))
        assert not finds(make_paper(title), query)

    def test_other_forms_of_the_verb_are_not_highlighted(self):
        (found,) = PaperIndex([make_paper("Matched", "A matching.")]).search(parse('"matching"'))

        assert found.phrases == ("matching",)


class TestFloor:
    @pytest.mark.parametrize(
        ("query", "abstract"),
        [
            ("protein structure prediction network", "A network for traffic"),
            ("flow matching", "The flow of water"),
            (
                "flow matching",
                "The flow of water through long pipes of steel, and then stable matching",
            ),
            ("graph neural network", "A network of friends as a graph"),
            ("the of", "The story of it"),
        ],
    )
    def test_partial_match_is_below_the_threshold(self, query, abstract):
        paper = make_paper(abstract=abstract)

        assert not finds(paper, query)

    def test_words_split_over_title_and_abstract_do_not_match(self):
        assert not finds(make_paper("On the Flow", "Matching is what we do."), "flow matching")

    @pytest.mark.parametrize(
        ("query", "abstract"),
        [
            ("flow matching", "We match flows: flow matching at scale"),
            ("chain of thought", "Chains-of-thought are long"),
            ("protein", "A protein folds"),
        ],
    )
    def test_words_in_order_match(self, query, abstract):
        assert finds(make_paper(abstract=abstract), query)

    @pytest.mark.parametrize("title", ["Matching a Flow", "How Flows of Water Match", "Flow-Match"])
    def test_all_words_in_the_title_match_in_any_order(self, title):
        assert finds(make_paper(title), "flow matching")

    @pytest.mark.parametrize(
        ("query", "title"),
        [
            ("mamba models", "Mamba for Everybody"),
            ("mamba lichen with agents", "Mamba and Lichen"),
            ("glacier agents", "Glaciers"),
        ],
    )
    def test_missing_common_word_does_not_exclude(self, corpus, query, title):
        paper = make_paper(title, f"{title}. {title}. {FILLER}")

        assert len(PaperIndex([paper], corpus).search(parse(query))) == 1

    @pytest.fixture
    def corpus(self):
        """Return statistics: nine papers of ten have a model, one of six an agent, few a mamba."""
        return CorpusStatistics(10_000, {"model": 9_000, "agent": 1_600, "mamba": 20}, 1_500_000.0)

    @pytest.mark.parametrize(
        ("query", "title", "abstract", "found"),
        [
            ("model", "Untitled", "Our model is a good model.", False),
            ("model", "A Model of It", "Our model is a good model.", True),
            ("agent", "Untitled", "An agent does it.", False),
            ("agent", "Untitled", "Agents teach agents to be agents.", True),
            ("agent", "Untitled", "An agent meets an agent.", False),
            ("agent", "An Agent", "It does it.", True),
            ("mamba", "Untitled", "We use mamba.", True),
            ('"agent"', "Untitled", "An agent does it.", True),
            ("agent AND mamba", "Untitled", "An agent does mamba.", True),
            ("agent cat:cs.LG", "Untitled", "An agent does it.", False),
        ],
    )
    def test_common_word_needs_more_mentions_than_a_rare_one(
        self, corpus, query, title, abstract, found
    ):
        paper = make_paper(title, abstract, categories=("cs.LG",))

        assert bool(PaperIndex([paper], corpus).search(parse(query))) is found

    @pytest.mark.parametrize(
        ("query", "title", "abstract", "breadth"),
        [
            ("flow matching", "Flow Matching", "It is done.", Breadth.FEWER),
            ("flow matching", "Untitled", "Flow matching is flow matching.", Breadth.FEWER),
            ("flow matching", "Untitled", "We use flow matching.", Breadth.BALANCED),
            ("flow matching", "The Flow", "We match.", Breadth.BALANCED),
            ("flow matching", "Untitled", "We match the flow.", Breadth.MORE),
            ("flow matching", "The Flow", "It is done.", None),
            ("mamba", "Untitled", "We use mamba.", Breadth.BALANCED),
            ("mamba", "Untitled", "Mamba beats mamba.", Breadth.FEWER),
            ("agent", "Untitled", "An agent meets an agent.", Breadth.MORE),
            ("model", "Untitled", "A model.", None),
            ('"mamba"', "Untitled", "We use mamba.", Breadth.BALANCED),
            ('"mamba"', "Mamba", "It is used.", Breadth.FEWER),
            ("ti:mamba", "Mamba", "It is used.", Breadth.FEWER),
            ("cat:cs.LG", "Untitled", "Nothing.", Breadth.FEWER),
            ("mamba cat:cs.LG", "Untitled", "We use mamba.", Breadth.BALANCED),
            ("mamba -agent", "Mamba", "It is used.", Breadth.FEWER),
            ("agent OR mamba", "Mamba", "An agent meets an agent.", Breadth.FEWER),
            ("agent mamba cat:cs.LG", "Mamba", "An agent meets an agent.", Breadth.BALANCED),
            ("agent mamba cat:cs.LG", "Mamba", "It is used.", Breadth.MORE),
            ("agent mamba cat:cs.LG", "Agents", "They meet.", None),
        ],
    )
    def test_search_reports_the_narrowest_breadth_that_finds_a_paper(
        self, corpus, query, title, abstract, breadth
    ):
        long = f"{abstract} {' '.join([FILLER] * 10)}."  # about the average length
        index = PaperIndex([make_paper(title, long, categories=("cs.LG",))], corpus)

        found = {
            one: [paper.breadth for paper in index.search(parse(query), breadth=one)]
            for one in BREADTHS
        }

        assert found == {
            one: [breadth] if breadth is not None and breadth <= one else [] for one in BREADTHS
        }

    @pytest.mark.parametrize("breadth", BREADTHS)
    def test_five_word_topic_needs_more_than_one_word(self, corpus, breadth):
        paper = make_paper("Untitled", "A glacier and nothing else.")
        index = PaperIndex([paper], corpus)

        assert index.search(parse("glacier mamba lichen quartz fjord"), breadth=breadth) == []

    def test_narrower_breadth_requires_more_words_of_a_long_topic(self, corpus):
        """Of seven rare words in a text of average length."""
        words = ["glacier", "lichen", "quartz", "fjord", "mamba", "heron", "basalt"]
        filler = " ".join([FILLER] * 11)
        texts = [f"{' '.join(words[:n])}. {filler}" for n in range(8)]
        index = PaperIndex([make_paper("Untitled", text) for text in texts], corpus)

        found = {
            breadth: index.search(parse(" ".join(words)), breadth=breadth) for breadth in BREADTHS
        }

        least = {breadth: min(one.paper for one in found[breadth]) for breadth in BREADTHS}
        assert least == {Breadth.FEWER: 7, Breadth.BALANCED: 5, Breadth.MORE: 4}

    def test_score_does_not_depend_on_the_breadth(self, corpus):
        papers = [make_paper("Mamba", "It is used."), make_paper(abstract="An agent and an agent.")]
        index = PaperIndex(papers, corpus)

        narrow, broad = (
            index.search(parse("agent OR mamba"), breadth=one)
            for one in (Breadth.FEWER, Breadth.MORE)
        )

        assert len(broad) == 2
        assert narrow == [broad[0]]

    def test_irrelevant_papers_return_no_results(self):
        papers = [make_paper(f"Deep learning model {i}", "A network learns.") for i in range(30)]

        assert titles(papers, "protein folding with deep learning") == []
        assert len(titles(papers, "protein folding with deep learning", floor=False)) == 30


class TestPhrases:
    def test_phrases_are_returned_as_printed_longest_first(self):
        """Phrases are returned as printed, the longest first, without words already covered."""
        paper = make_paper("Videos", "Matching flows is hard. Flow Matching of two, each flow.")

        (found,) = PaperIndex([paper]).search(parse("flow matching OR video"))

        assert found.phrases == ("Matching flows", "Videos")

    def test_phrase_keeps_its_stop_words(self):
        paper = make_paper("Chain-of-Thought at Work")

        (found,) = PaperIndex([paper]).search(parse("chain of thought"))

        assert found.phrases == ("Chain-of-Thought",)

    def test_phrase_ends_at_the_end_of_a_sentence(self):
        paper = make_paper("Untitled", "This is deep learning. Deep nets learn.")

        (found,) = PaperIndex([paper]).search(parse("deep learning"))

        assert found.phrases == ("deep learning",)

    @pytest.mark.parametrize(
        ("query", "abstract", "phrases"),
        [
            (
                "c1 OR d1 OR e1 OR f1 OR g1 OR h1",
                "C1. D1. E1. F1. G1. H1",
                ["C1", "D1", "E1", "F1", "G1"],
            ),
            ("moss", "Moss. The moss, mosses", ["Moss"]),
            ("the", "The moss of the fern", ["The"]),
            ("moss of", "So moss of moss is", ["moss of moss"]),
            ("the moss", "In the moss the", ["moss"]),
            ("moss fern", "Fern moss, moss fern moss. Fern", ["Fern moss, moss fern moss"]),
            ("moss OR fern", "Moss is fern: moss fern", ["moss fern"]),
            ("moss OR cat:cs.LG", "Nothing", []),
            ('"moss fern"', "Fern. Moss fern. Moss. The fern", ["Moss fern"]),
            ('"moss fern" OR heron', "A moss, a fern, a heron", ["heron"]),
            ('(moss AND heron) OR "fern moss" OR moss', "A fern, a moss", ["moss"]),
            ('ti:so OR "fern so"', "So: fern", ["So"]),
            ("ti:so", "Moss", ["So"]),
            ("cat:cs.LG", "Nothing", []),
        ],
    )
    def test_matched_phrases_of_each_query(self, query, abstract, phrases):
        others = [make_paper("So", "Moss"), make_paper("So", "Moss of fern")]
        papers = [others[0], make_paper("So", abstract, categories=("cs.LG",)), others[1]]

        found = {
            one.paper: one.phrases for one in PaperIndex(papers).search(parse(query), floor=False)
        }

        assert found.get(1) == tuple(phrases)

    def test_low_weight_phrases_are_omitted(self):
        """If it weighs less than three tenths of the best run."""
        texts = ["moss fern lichen. Heron", "moss fern heron. Quartz"]
        corpus = CorpusStatistics(800, {"quartz": 600}, 80_000.0)

        found = [
            PaperIndex([make_paper("So", text)], corpus).search(
                parse("moss OR fern OR lichen OR heron OR quartz"), floor=False
            )[0]
            for text in texts
        ]

        assert [one.phrases for one in found] == [
            ("moss fern lichen", "Heron"),
            ("moss fern heron",),
        ]

    def test_excluded_words_are_not_matched_phrases(self):
        (found,) = PaperIndex([make_paper("Graphs and Trees")]).search(parse("graphs -leaves"))

        assert found.phrases == ("Graphs",)

    texts = st.lists(
        st.sampled_from(
            ["Flow", "matching", "multi-modal", "flows,", "of\n", "the", "Ünit", "(x)", "--"]
        ),
        max_size=12,
    ).map(" ".join)

    @given(
        texts,
        texts,
        st.sampled_from(["flow matching", "multimodal flow", "unit of flow", '"flow of"']),
    )
    def test_every_phrase_occurs_in_the_paper(self, title, abstract, query):
        paper = make_paper(title, abstract, keywords=("flow",))
        text = " ".join([*title.split(), "|", *abstract.split(), "|", "flow"])

        for found in PaperIndex([paper]).search(parse(query), floor=False):
            assert 0 < len(found.phrases) <= 5
            assert len(set(found.phrases)) == len(found.phrases)
            assert all(phrase in text for phrase in found.phrases)


class TestStatistics:
    def test_statistics_of_parts_add_up_to_the_whole(self):
        papers = [
            make_paper("Graphs", "trees"),
            make_paper("Trees", "and leaves", keywords=("a b",)),
        ]

        assert statistics(papers[:1]) + statistics(papers[1:]) == statistics(papers)

    def test_empty_corpus_statistics_are_finite_and_searchable(self):
        nothing = CorpusStatistics()

        assert nothing.average_length > 0
        assert math.isfinite(nothing.idf("graph"))
        assert PaperIndex([make_paper("Graphs")], nothing).search(parse("graphs"))


# --- Operators, compared with a slow evaluation of small papers ---------------------------------

ALPHABET = ["apple", "brick", "cloud", "dress"]
words = st.sampled_from(ALPHABET)
leaves = st.one_of(
    words.map(lambda word: ("word", word)),
    st.lists(words, min_size=1, max_size=2).map(lambda some: ("phrase", *some)),
    words.map(lambda word: ("title", word)),
)
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.tuples(st.just("and"), inner, inner),
        st.tuples(st.just("or"), inner, inner),
        st.tuples(st.just("and not"), inner, inner),
    ),
    max_leaves=8,
)
papers = st.lists(
    st.tuples(st.lists(words, max_size=3), st.lists(words, max_size=4)), min_size=1, max_size=6
)


def spoken(tree):
    match tree:
        case ("word", word):
            return word
        case ("phrase", *some):
            return f'"{" ".join(some)}"'
        case ("title", word):
            return f"ti:{word}"
        case ("and", left, right):
            return f"({spoken(left)}) AND ({spoken(right)})"
        case ("or", left, right):
            return f"({spoken(left)}) OR ({spoken(right)})"
        case ("and not", left, right):
            return f"({spoken(left)}) -({spoken(right)})"


def holds(tree, title, abstract):
    match tree:
        case ("word", word):
            return word in title + abstract
        case ("phrase", *some):
            return any(
                some == text[i : i + len(some)] for text in (title, abstract) for i in range(4)
            )
        case ("title", word):
            return word in title
        case ("and", left, right):
            return holds(left, title, abstract) and holds(right, title, abstract)
        case ("or", left, right):
            return holds(left, title, abstract) or holds(right, title, abstract)
        case ("and not", left, right):
            return holds(left, title, abstract) and not holds(right, title, abstract)


@pytest.mark.full
@given(trees, papers)
def test_operators_match_a_slow_evaluation(tree, some):
    try:
        query = parse(spoken(tree))
    except QueryError:
        assume(False)
    index = PaperIndex([make_paper(" ".join(title), " ".join(text)) for title, text in some])

    found = index.search(query, floor=False)

    assert {one.paper for one in found} == {
        i for i, (title, abstract) in enumerate(some) if holds(tree, title, abstract)
    }


@given(st.lists(words, min_size=1, max_size=3), papers)
def test_one_word_is_enough_without_the_threshold(wanted, some):
    index = PaperIndex([make_paper(" ".join(title), " ".join(text)) for title, text in some])

    found = {one.paper for one in index.search(plain_words(" ".join(wanted)), floor=False)}

    assert found == {i for i, (title, text) in enumerate(some) if set(wanted) & {*title, *text}}
    assert {one.paper for one in index.search(plain_words(" ".join(wanted)))} <= found


def test_negated_words_exclude_only_papers_with_all_of_them():
    papers = [make_paper("apple brick cloud"), make_paper("apple brick"), make_paper("apple")]

    assert titles(papers, "apple -(brick cloud)", floor=False) == ["apple", "apple brick"]
