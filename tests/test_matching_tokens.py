from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.matching.tokens import forms, stem, stems, words


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
def test_spelling_variants_have_equal_stems(one, other):
    assert stems(one)[0] == stems(other)[0]


SAME = [
    # Plurals
    "matrix matrices", "appendix appendices", "basis bases", "axis axes", "crisis crises",
    "parenthesis parentheses", "larva larvae", "formula formulae formulas", "fungus fungi",
    "radius radii", "bacterium bacteria", "maximum maxima", "polyhedron polyhedra",
    "lemma lemmata lemmas", "virus viruses", "census censuses", "alias aliases", "quiz quizzes",
    "tooth teeth", "woman women", "shelf shelves", "fly flies", "movie movies", "hero heroes",
    "shoe shoes", "cache caches", "branch branches", "kinase kinases", "phase phases",
    "brie bries", "tie ties", "housewife housewives", "eyetooth eyeteeth", "bivertex bivertices",
    "workman workmen", "craftsman craftsmen", "fireman firemen", "layman laymen", "tv tvs",
    "lens lenses", "box boxes", "mess messes", "dish dishes", "tax taxes", "toe toes", "use uses",
    "metamorphosis metamorphoses", "paralysis paralyses", "alga algae", "stigma stigmata",
    "VAE VAEs", "TPU TPUs", "KG KGs", "DNA DNAs", "topic topics", "heuristic heuristics",
    # Verbs
    "prune prunes pruned pruning", "plan plans planned planning", "study studied studying",
    "add added adding", "image imaging", "force forcing", "encode encoding", "format formatted",
    "process processing", "install installed", "agree agreed", "die dying", "score scoring",
    "go going", "do doing", "use using used", "ice iced icing", "box boxed boxing",
    "age aged aging", "treat treated", "overload overloaded", "reedit reedited", "add added",
    "pass passed passing", "buzz buzzed", "staff staffed", "dye dyeing",
    "rebut rebutted", "tie tied", "deny denied", "carry carried carrying", "bias biased biasing",
    "undertreat undertreated", "rate rated", "tune tuned", "host hosted", "share shared",
    # British and American
    "organise organisation organization organizing", "likewise likewise", "instal install",
    "paralyse paralyze", "calibre caliber", "distil distill", "rise rises rising", "size sizes",
    "visualisable visualizable", "visualise visualize", "optimiser optimizer optimisers optimizers",
    "flavour flavor flavours", "honour honor honoured honored", "neighbourhood neighborhood",
    "tumour tumor", "harbouring harboring", "theatre theater", "litre liter", "epicentre epicenter",
    "kilometre kilometer kilometres", "generalise generalize generalised generalizing",
    "quantise quantize quantisation quantization", "hydrolyse hydrolyze", "dialogue dialog",
    "offence offense", "anaemia anemia", "leukaemia leukemia", "paediatric pediatric",
    "oestrogen estrogen", "foetus fetus", "diarrhoea diarrhea", "archaeology archeology",
    "labelled labeled labelling", "travelling traveling", "signalled signaled", "fuelled fueled",
    "traveller traveler", "fulfil fulfill", "enrolment enrollment", "aluminium aluminum",
    "programme program programmes", "artefact artifact", "manoeuvring maneuvering", "disc disk",
    "judgement judgment", "ageing aging", "plough plow", "mould mold", "learnt learned",
]  # fmt: skip


@pytest.mark.parametrize("spellings", SAME)
def test_inflections_and_regional_spellings_have_one_stem(spellings):
    assert len({stem(one) for word in spellings.split() for one in forms(word)}) == 1


DIFFERENT = [
    "universe university", "organ organization", "general generative", "policy police",
    "import important", "author authority", "animate animal", "integral integer", "human humane",
    "moral morale", "negative negation", "community communication", "experience experiment",
    "polar polarization", "vector vectorization", "norm normal", "cause causal", "past paste",
    "gene gen", "mode mod", "plan plane", "rat rate", "bar bare", "dynamics dynamic",
    "ethics ethnic", "generic genetic", "relate relative", "compute compete", "wander wand",
    "advise advice", "basis based", "market marketing", "rate rating", "new news", "gps gp",
    "pie py", "die dy", "vgg vg", "gas ga", "yes ye", "ids id", "specimen speciman", "sing s",
    "bed b", "feed fe", "red r", "king k", "precise precize", "premise premize", "lyre lyer",
    "acre acer", "clockwise clockwize", "skill skil", "full ful", "wall wal", "pull pul",
    "synagogue synagog", "vogue vog", "fence fense", "pence pense", "physics physic",
    "four for", "pour por", "omen oman", "ring r",
    "hour our", "genre gener", "massacre massacer", "exercise exercize", "wise wize",
]  # fmt: skip


@pytest.mark.parametrize("pair", DIFFERENT)
def test_words_with_a_common_prefix_have_different_stems(pair):
    one, other = pair.split()

    assert stem(one) != stem(other)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("\u03b23-integrin", ("beta3", "integrin")),
        ("IFN\u03b3", ("ifngamma",)),
        ("\u03b1\u03b2", ("alphabeta",)),
        ("\u0394G", ("deltag",)),
        ("\u03c6\u03af\u03bb\u03bf\u03c2", ("\u03c6\u03b9\u03bb\u03bf\u03c3",)),
        ("10 \u00b5m", ("10", "um")),
        ("C++20 and C++", ("c++20", "and", "c++")),
        ("F# or C#", ("f#", "or", "c#")),
        ("U2Net++ runs", ("u2net++", "runs")),
        ("B* and LPA*", ("b*", "and", "LPA*")),
        ("neur* 3*x *a*", ("neur", "3", "x", "a")),
        ("H&E and AT&T", ("h&e", "and", "at&t")),
        ("on .NET 9, example.net", ("on", ".net", "9", "example", "net")),
        ("the WHO says who", ("the", "WHO", "says", "who")),
        ("IT staff", ("IT", "staff")),
        ("U.S. and A.I.", ("US", "and", "ai")),
        ("WHO CAN TRAIN IT", ("who", "can", "train", "it")),
    ],
)
def test_symbols_and_capitals_that_distinguish_words_are_kept(text, read):
    assert forms(text) == read


@given(st.text(alphabet=st.sampled_from("WHOITUSaA*+#&.\u03b1\u03b2 NET\\17"), max_size=30))
def test_forms_is_idempotent_for_symbols_and_capitals(text):
    once = forms(text)

    assert forms(" ".join(once)) == once


@pytest.mark.parametrize(("one", "other"), [("c", "C++"), ("generative", "general"), ("bus", "bu")])
def test_different_words_have_different_stems(one, other):
    assert stems(one)[0] != stems(other)[0]


def test_each_ideograph_is_a_word():
    assert forms("机器学习") == ("机", "器", "学", "习")


@given(st.text(max_size=60))
def test_forms_is_idempotent(text):
    once = forms(text)

    assert forms(" ".join(once)) == once


@given(st.text(max_size=60))
def test_word_offsets_point_to_the_word(text):
    for word in words(text):
        assert word.form in forms(text[word.start : word.end])


@given(st.text(alphabet=st.sampled_from("aAé-ls's $\\{}µ漢字ßİΩ+#.,1 "), max_size=80))
def test_stems_of_a_text_equal_the_stems_of_its_words(text: str):
    found, spans = stems(text)

    assert found == [stem(word.form) for word in words(text)]
    assert spans == [(word.start, word.end) for word in words(text)]
