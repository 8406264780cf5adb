from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.matching.words import forms, stem, stems, words


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Transformers", "transformer"),
        ("LLMs", "llm"),
        ("GPUs", "gpu"),
        ("GANs", "GAN"),
        ("policies", "policy"),
        ("tokenisation", "tokenization"),
        ("Schrödinger", "Schrodinger"),
        ('Schr\\"odinger', "Schrödinger"),
        ('Schr{\\"o}dinger', "Schrödinger"),
        ("Erd\\H{o}s", "Erdős"),
        ('na\\"{\\i}ve', "naïve"),
        ("yap\u0131lar\u0131", "yapilari"),
        ("Øresund", "oresund"),
        ("\ufb01ne", "fine"),
        ("model's", "model"),
        ("model\u2019s", "models"),
        ("$\\alpha$-stable", "\u03b1 stable"),
        ("\\textbf{Deep} nets", "deep net"),
        ("zero-shot", "zero shot"),
        ("GPT-4", "gpt 4"),
    ],
)
def test_spellings_a_reader_would_call_the_same(one, other):
    assert stems(one)[0] == stems(other)[0]


@pytest.mark.parametrize(("one", "other"), [("c", "C++"), ("generative", "general"), ("bus", "bu")])
def test_different_words_stay_different(one, other):
    assert stems(one)[0] != stems(other)[0]


def test_ideographs_are_words_by_themselves():
    assert forms("机器学习") == ("机", "器", "学", "习")


@given(st.text(max_size=60))
def test_reading_forms_again_changes_nothing(text):
    once = forms(text)

    assert forms(" ".join(once)) == once


@given(st.text(max_size=60))
def test_every_word_says_where_it_stands(text):
    for word in words(text):
        assert word.form in forms(text[word.start : word.end])


@given(st.text(alphabet=st.sampled_from("aAé-ls's $\\{}µ漢字ßİΩ+#.,1 "), max_size=80))
def test_the_stems_of_a_text_are_those_of_its_words(text: str):
    found, spans = stems(text)

    assert found == [stem(word.form) for word in words(text)]
    assert spans == [(word.start, word.end) for word in words(text)]
