from __future__ import annotations

import pytest

from pipeline.matching.abbreviations import Abbreviations, Definition, definitions
from pipeline.matching.corpus import statistics
from pipeline.matching.index import PaperIndex
from pipeline.matching.match import PaperText
from pipeline.matching.query import parse


def paper(title, abstract=""):
    return PaperText("p", title, abstract)


@pytest.mark.parametrize(
    ("text", "short", "long"),
    [
        ("We train large language models (LLMs).", "llm", "large language model"),
        ("Partial differential equations (PDEs) are hard.", "pde", "partial differential equation"),
        ("A system for automatic speech recognition (ASR)", "asr", "automatic speech recognition"),
        ("the mixture-of-experts (MoE) layer", "moe", "mixture of expert"),
        ("Reads electroencephalography signals (EEG signals).", None, None),
        ("low-rank adaptation (LoRA; see below)", "lora", "low rank adaptation"),
        ("retrieval-augmented generation (RAG, for short)", "rag", "retrieval augment generation"),
        ("two methods (see Section 2)", None, None),
        ("the second year (2024)", None, None),
        ("a long road (FAR)", None, None),
        ("robots (robots)", None, None),
        ("no parenthesis here", None, None),
    ],
)
def test_definition_in_parentheses_is_found(text, short, long):
    expected = {Definition(short, tuple(long.split()))} if short else set()

    assert definitions(text) == expected


def test_definitions_of_one_text_are_bounded():
    text = " ".join(f"alpha beta gamma v{i} (ABGV{i})." for i in range(100, 200))

    assert len(definitions(text)) == 20


class TestAbbreviations:
    known = Definition("nn", ("neural", "network"))

    def test_abbreviation_and_long_form_are_variants_of_each_other(self):
        abbreviations = Abbreviations({self.known: 2}, {"nn": 10})

        assert abbreviations.variants(("deep", "nn")) == [(1, 2, ("neural", "network"))]
        assert abbreviations.variants(("a", "neural", "network")) == [(1, 3, ("nn",))]

    def test_abbreviation_stands_for_the_end_of_its_long_form(self):
        graph = Definition("gnn", ("graph", "neural", "network"))
        abbreviations = Abbreviations({self.known: 2, graph: 5}, {})

        assert abbreviations.variants(("neural", "network")) == [(0, 2, ("gnn",)), (0, 2, ("nn",))]
        assert abbreviations.variants(("graph", "neural")) == []

    @pytest.mark.parametrize(
        ("counted", "frequency"),
        [
            ({known: 1}, 1),
            ({known: 5, Definition("nn", ("nearest", "neighbor")): 4}, 9),  # ambiguous
            ({known: 2}, 101),  # an ordinary word
        ],
    )
    def test_uncertain_abbreviation_is_not_used(self, counted, frequency):
        assert Abbreviations(counted, {"nn": frequency}).variants(("nn",)) == []

    def test_an_expression_has_at_most_eight_abbreviations(self):
        counted = {Definition(f"x{i}", ("neural", "network")): 2 for i in range(20)}

        assert len(Abbreviations(counted, {}).variants(("neural", "network"))) == 8


class TestMatching:
    papers = (
        paper("Asking an LLM"),
        paper("Asking Large Language Models"),
        paper("On Seas", "Large language models (LLMs) describe seas."),
        paper("On Lakes", "Large language models (LLMs) describe lakes."),
        *[paper(f"Number {i}", "Nothing of interest.") for i in range(30)],
    )

    def found(self, query):
        index = PaperIndex(self.papers, statistics(self.papers))
        return {one.paper: one.phrases for one in index.search(parse(query))}

    def test_topic_finds_both_the_abbreviation_and_the_long_form(self):
        assert self.found("LLM").keys() == {0, 1, 2, 3}
        assert self.found("large language models").keys() == {0, 1, 2, 3}

    def test_the_abbreviation_that_matched_is_highlighted(self):
        assert self.found("large language models")[0] == ("LLM",)
        assert self.found("LLMs")[1] == ("Large Language Models",)

    def test_abbreviation_is_a_side_of_and(self):
        assert self.found("LLM AND asking").keys() == {0, 1}

    def test_abbreviation_of_quoted_words_is_not_highlighted(self):
        assert self.found('"large language models"')[2] == ("Large language models",)

    def test_quotation_marks_exclude_abbreviations(self):
        assert 1 not in self.found('"LLM"')
        assert 0 not in self.found('"large language models"')

    def test_index_and_statistics_learn_the_same(self):
        assert PaperIndex(self.papers).statistics() == statistics(self.papers)

    def test_sums_of_statistics_count_definitions(self):
        first, second = statistics(self.papers[:3]), statistics(self.papers[3:])

        assert first + second == statistics(self.papers)
