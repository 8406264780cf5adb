"""The key sentence of an abstract: sentences, and the choice among them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import key_sentence

ABSTRACT = (
    "Moss is often hard to find in photographs. However, existing maps are limited to large fields."
    " In this paper, we propose Mossfinder, a novel framework for detecting moss in aerial images "
    "with few labels. Experiments show 3.5 points of gain. Code is at https://moss.example/code."
)


def sentences(text: str) -> list[str]:
    return [text[start:end] for start, end in key_sentence.split(text)]


def chosen(title: str, abstract: str) -> str:
    start, end = key_sentence.find(title, abstract)
    return abstract[start:end]


@pytest.mark.parametrize(
    "sentence",
    [
        "Bricks, e.g. Roman ones, last longer (i.e. Longer than mortar).",
        "We follow Moss et al. (2020) and Brick et al. [3].",
        "See Fig. 3, Eq. (4) and Sec. 5 for details.",
        "The method of J. R. Brick and A. Moss is slow.",
        "It gains 3.5 points at p < .05 over v. 2.0 of the tool.",
        "We compare cats vs. Dogs, cf. Dr. Brick.",
        "The code is at https://bricks.example/a.b?c=D.e and stays there.",
        "If f(x) = 1.0! and g(x) = 2, then h. is small.",
        "The U.S. Senate met.",
    ],
)
def test_abbreviations_numbers_and_links_do_not_end_a_sentence(sentence):
    assert sentences(f"{sentence} The next one follows.") == [sentence, "The next one follows."]


def test_sentences_end_at_each_kind_of_mark():
    text = (
        "Why bricks? Because! They said “so.” (It is true.) It improves models.We use vitamin C. "
        "We follow Moss et al. The end"
    )

    assert sentences(text) == [
        "Why bricks?", "Because!", "They said “so.”", "(It is true.)", "It improves models.",
        "We use vitamin C.", "We follow Moss et al.", "The end",
    ]  # fmt: skip


def test_other_scripts_are_split_at_their_own_marks():
    assert sentences("我们提出方法。它很快\uff01真的\uff1f") == [
        "我们提出方法。", "它很快\uff01", "真的\uff1f",
    ]  # fmt: skip
    assert sentences("यह एक है। यह दो है।") == ["यह एक है।", "यह दो है।"]


def test_labels_of_sections_are_no_part_of_a_sentence():
    text = (
        "Background: Bricks are old. Materials and Methods: We weighed bricks. RESULTS We found "
        "that few were light: two. BERT Models were not used. Results: None."
    )

    assert sentences(text) == [
        "Bricks are old.", "We weighed bricks.", "We found that few were light: two.",
        "BERT Models were not used.", "None.",
    ]  # fmt: skip


@given(
    st.text(max_size=300)
    | st.lists(st.sampled_from(["We.", "et", "al?", "a", "3。", ":!”", "Results:", "U.S."])).map(
        " ".join
    )
)
def test_sentences_are_in_order_and_leave_out_only_labels_and_space(text):
    spans = key_sentence.split(text)

    assert all(0 <= start < end <= len(text) for start, end in spans)
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    start, end = key_sentence.find("We", text)
    assert (start, end) in spans or (not spans and (start, end) == (0, 0))


@given(st.lists(st.sampled_from(["We.", "Why?", "No!?", "et", "al.", "e.g.", "4.", "A)."])))
def test_a_mark_of_another_script_does_not_change_other_sentences(words):
    text = " ".join([*words, "End."])

    assert key_sentence.split(f"{text} 完。")[:-1] == key_sentence.split(text)


def test_the_proposal_is_chosen_verbatim():
    assert chosen("Mossfinder: Detecting Moss from the Air", ABSTRACT) == (
        "In this paper, we propose Mossfinder, a novel framework for detecting moss in aerial "
        "images with few labels."
    )


def test_the_label_of_the_chosen_sentence_is_left_out():
    abstract = (
        "Background: Falls are common in old age and costly. Methods: We present a randomized "
        "trial of brick lifting in 200 older adults with and without falls. Results: 3 fell."
    )

    assert chosen("Brick lifting in older adults", abstract) == (
        "We present a randomized trial of brick lifting in 200 older adults with and without falls."
    )


def test_one_sentence_is_its_own_key_sentence_and_no_text_has_none():
    assert chosen("T", "We do it") == "We do it"
    assert key_sentence.find("T", "") == (0, 0)
    assert key_sentence.find("", "Objective: ") != (0, 1)


@pytest.mark.parametrize(
    ("sentence", "kept"),
    [
        ("To close this gap, we propose a kiln.", "… we propose a kiln."),
        ("In this paper, we fire bricks.", "… we fire bricks."),
        ("Guided by the moon, our kiln sings.", "… our kiln sings."),
        ("To close this gap, a kiln is proposed.", "To close this gap, a kiln is proposed."),
        ("Totally new, we are.", "Totally new, we are."),
        ("Bricks, we find, are old.", "Bricks, we find, are old."),
    ],
)
def test_lead_in_before_we_is_replaced_by_an_ellipsis(sentence, kept):
    assert key_sentence.without_lead_in(sentence) == kept


def test_another_language_gives_the_first_sentence():
    french = (
        "Les briques anciennes restent solides. Nous proposons une méthode nouvelle pour les "
        "dater avec la lumière. Elle fonctionne bien sur trois sites."
    )

    assert chosen("Dater les briques", french) == "Les briques anciennes restent solides."
    assert chosen("砖", "我们提出方法。它很快。") == "我们提出方法。"
