from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain import TRENDING, TopicKind
from pipeline.errors import QueryError
from pipeline.matching.query import (
    LONGEST_QUERY,
    And,
    Field,
    Fielded,
    Not,
    Or,
    Phrase,
    Words,
    canonical,
    parse,
    plain_words,
    topic_kind,
)

SYNTAX = ['"', "(", ")", "-", "--", "AND", "OR", "NOT", "ANDNOT", "ti:", "cat:", "au:", "source:"]
WORDS = [
    "graph",
    "Graph",
    "multi-modal",
    "é",
    "\\'e",
    "cs.CL",
    "cs.*",
    "c++",
    "x:y",
    "\u201c",
    "and",
]
queries = st.lists(
    st.sampled_from(SYNTAX) | st.sampled_from(WORDS) | st.text(max_size=4) | st.just(" "),
    max_size=14,
).flatmap(lambda pieces: st.sampled_from(["".join(pieces), " ".join(pieces)]))


class TestParse:
    @pytest.mark.parametrize(
        ("text", "tree"),
        [
            ("Flow Matching", Words(("flow", "matching"))),
            ('"Flow Matching"', Phrase(("flow", "matching"))),
            ("flow AND matching", And((Words(("flow",)), Words(("matching",))))),
            ("flow OR matching", Or((Words(("flow",)), Words(("matching",))))),
            ("flow -matching", And((Words(("flow",)), Not(Words(("matching",)))))),
            ("flow NOT matching", And((Words(("flow",)), Not(Words(("matching",)))))),
            ("flow ANDNOT matching", And((Words(("flow",)), Not(Words(("matching",)))))),
            ("ti:flow", Fielded(Field.TITLE, ("flow",))),
            ("TI:Flow", Fielded(Field.TITLE, ("flow",))),
            ("abs:multi-modal", Fielded(Field.ABSTRACT, ("multi", "modal"))),
            ('au:"Ada Lovelace"', Fielded(Field.AUTHOR, ("ada", "lovelace"))),
            ("au:lovelace_a", Fielded(Field.AUTHOR, ("lovelace", "a"))),
            ("au:Ada Lovelace", Fielded(Field.AUTHOR, ("ada", "lovelace"))),
            ("AU:Lovelace, A. K.", Fielded(Field.AUTHOR, ("lovelace", "a", "k"))),
            (
                "au:Lovelace engines",
                And((Words(("engines",)), Fielded(Field.AUTHOR, ("lovelace",)))),
            ),
            ("au:Lovelace Fine engines", parse("fine engines au:lovelace")),
            ("au:Lovelace AND Engines", parse("engines au:lovelace")),
            ("(au:Ada Lovelace OR au:Al Turing)", parse('au:"al turing" OR au:"ada lovelace"')),
            ("au:Ada Lovelace -survey", parse('au:"ada lovelace" -survey')),
            ("au:Ada Lovelace cat:cs.LG", parse('au:"ada lovelace" cat:cs.lg')),
            ("cat:cs.CL", Fielded(Field.CATEGORY, ("cs.cl",))),
            ("cat:cs.*", Fielded(Field.CATEGORY, ("cs",))),
            ("cat:hep-th", Fielded(Field.CATEGORY, ("hep-th",))),
            ('source:"Hugging Face"', Fielded(Field.SOURCE, ("huggingface",))),
            ("a -multi-modal", And((Words(("a",)), Not(Phrase(("multi", "modal")))))),
        ],
    )
    def test_each_form_of_the_language(self, text, tree):
        assert parse(text) == tree

    def test_or_binds_weakest_and_words_side_by_side_strongest(self):
        assert parse("a b AND c OR d") == parse("((a b) AND c) OR d")

    @pytest.mark.parametrize(
        ("title", "words"),
        [
            ("Measuring by a single-response method.", "measuring by a single response method"),
            ("eftover? I am a victorious woman", "eftover i am a victorious woman"),
            ("Dualities between entropy and codes,", "dualities between entropy and codes"),
            ("BERT: a study -- of what?", "bert a study of what"),
            ("AND gates are NOT", "and gates are not"),
            ("NOT all tokens", "not all tokens"),
            ("OR", "or"),
            ("a - b -> c", "a b c"),
            ("unknown:field all:x", "unknown field all x"),
        ],
    )
    def test_titles_are_words(self, title, words):
        """Odd punctuation, unknown fields and operators at the edge are no mistakes."""
        assert canonical(title) == words

    @pytest.mark.parametrize(
        ("text", "position"),
        [
            ("", 0),
            ("  ?! ", 0),
            ("graphs (trees", 7),
            ("graphs) trees", 6),
            ("graphs ()", 8),
            ('say "hello', 4),
            ('say ""', 4),
            ("graphs ti:", 7),
            ("graphs ti: trees", 7),
            ("graphs cat:*", 7),
            ("-graphs", 0),
            ("graphs OR -trees", 0),
        ],
    )
    def test_a_mistake_is_shown_where_it_is(self, text, position):
        with pytest.raises(QueryError) as caught:
            parse(text)

        assert caught.value.position == position

    @pytest.mark.parametrize(
        "text",
        [
            "(" * 1_000,
            "-" * 1_000,
            "a " + "-(" * 600,
            "a " + "NOT " * 400 + "b",
            '"' * 999,
            "x" * 10_000,
        ],
    )
    def test_hostile_texts_are_refused_at_once(self, text):
        started = time.perf_counter()

        with pytest.raises(QueryError):
            parse(text)

        assert time.perf_counter() - started < 1

    def test_a_long_sentence_is_a_query(self):
        assert isinstance(parse("word and more " * (LONGEST_QUERY // 15)), Words)


class TestCanonical:
    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("Flow  Matching", "flow matching"),
            ("Schrödinger", "schrodinger"),
            ('Schr\\"odinger bridge', "schrodinger bridge"),
            ("multi-modal", "multi modal"),
            ("b AND a", "a AND b"),
            ("b OR a OR b", "a OR b"),
            ("((a)) OR (b)", "a OR b"),
            ("cat:cs.CL graphs", "graphs cat:CS.cl"),
            ("cat:cs.* graphs", "graphs AND cat:cs"),
            ("graphs NOT trees", "-trees graphs"),
            ("graphs graphs", "graphs"),
            ("graphs AND (trees AND leaves)", "(leaves AND graphs) AND trees"),
            ('-"trees" graphs', "graphs -trees"),
            ("\u201cflow matching\u201d", '"flow matching"'),
        ],
    )
    def test_two_forms_of_one_query_are_one_topic(self, one, other):
        assert canonical(one) == canonical(other)

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("flow matching", "matching flow"),
            ("flow matching", '"flow matching"'),
            ("flow matching", "flow AND matching"),
            ("ti:flow", "abs:flow"),
            ("WHO", "who"),
            ("C++", "C"),
            ("B*", "B"),
        ],
    )
    def test_different_wishes_stay_different(self, one, other):
        assert canonical(one) != canonical(other)

    def test_reads_as_a_person_would_write_it(self):
        text = "-survey cat:cs.LG (video OR image) diffusion model"

        assert canonical(text) == "diffusion model cat:cs.lg (image OR video) -survey"

    @given(queries)
    def test_reading_it_again_changes_nothing(self, text):
        """The canonical text means the same, and is its own canonical text."""
        try:
            tree = parse(text)
        except QueryError as error:
            assert 0 <= error.position <= len(text)  # noqa: PT017
            return

        assert parse(canonical(text)) == tree
        assert canonical(canonical(text)) == canonical(text)


class TestPlainWords:
    @given(st.text() | queries)
    def test_never_fails(self, text):
        assert isinstance(plain_words(text), Words)

    def test_takes_what_the_language_refuses(self):
        assert plain_words('5" (or so: AND').forms == ("5", "or", "so", "and")


class TestTopicKind:
    @pytest.mark.parametrize("text", ["trending", "Trending", " TRENDING ", "(trending)"])
    def test_the_bare_word_is_the_built_in_topic(self, text):
        assert topic_kind(text) is TopicKind.TRENDING
        assert canonical(text) == TRENDING

    @pytest.mark.parametrize("text", ['"trending"', "ti:trending", "trending topics"])
    def test_anything_else_is_a_query(self, text):
        assert topic_kind(text) is TopicKind.QUERY
