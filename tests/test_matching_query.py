from __future__ import annotations

import random
import sys
import time
import unicodedata
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.domain import TRENDING, TopicKind
from pipeline.errors import QueryError
from pipeline.matching.query import (
    LARGEST_CANONICAL,
    LONGEST_QUERY,
    And,
    Field,
    Fielded,
    Not,
    Or,
    Phrase,
    Words,
    author_topic,
    canonical,
    parse,
    plain_words,
    topic_kind,
)
from pipeline.storage import topics
from pipeline.storage.database import in_chunks
from tests.support.factories import NOW

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
    def test_each_syntax_form_is_parsed(self, text, tree):
        assert parse(text) == tree

    def test_or_binds_weakest_and_adjacent_words_strongest(self):
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
    def test_paper_titles_parse_as_plain_words(self, title, words):
        """Odd punctuation, unknown fields and operators at the edge raise no error."""
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
    def test_query_error_states_the_position(self, text, position):
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
    def test_hostile_texts_are_rejected_within_a_second(self, text):
        started = time.perf_counter()

        with pytest.raises(QueryError):
            parse(text)

        assert time.perf_counter() - started < 1

    @pytest.mark.parametrize(
        ("text", "longer"),
        [
            ("x" * 2_000, "x" * 2_001),  # as typed
            ("x" * 1_998 + "\xdf", "x" * 1_999 + "\xdf"),  # in its canonical form: with "ss"
        ],
    )
    def test_query_longer_than_2000_characters_is_rejected(self, text, longer):
        assert isinstance(parse(text), Words)
        with pytest.raises(QueryError, match=r"2,?000") as caught:
            parse(longer)

        assert caught.value.query == longer[:60] + "..."
        assert caught.value.position == 0

    @pytest.mark.parametrize("beside", ["", "a (b) (c) " * 12, "a -(b c) -d-e NOT f " * 12])
    @pytest.mark.parametrize(
        ("opening", "closing", "most"), [("(", ")", 20), ("NOT ", "", 20), ("-(", ")", 10)]
    )
    def test_nesting_is_limited_for_parentheses_and_negations(self, beside, opening, closing, most):
        """Groups that are closed again do not count."""
        deep, deeper = (f"{beside}z {opening * n}y{closing * n}" for n in (most, most + 1))

        parse(deep + " x")
        with pytest.raises(QueryError, match="too many nested parentheses"):
            parse(deeper)

    @pytest.mark.parametrize(
        ("text", "read"),
        [
            ("ti:(moss (fern OR heron)) otter", "otter ti:moss (ti:fern OR ti:heron)"),
            ("ti:((moss) fern) otter", "otter ti:fern ti:moss"),
            ('ti:(abs:moss "red fern") "wet otter"', 'abs:moss ti:"red fern" "wet otter"'),
            ("au:(Ada Holm OR Roe)", "au:ada au:holm OR au:roe"),
            ("(moss) fern", "moss fern"),
        ],
    )
    def test_field_applies_to_everything_in_its_parentheses(self, text, read):
        assert canonical(text) == canonical(read)

    @pytest.mark.parametrize(
        ("text", "read"),
        [
            ("moss -(-fern)", "moss fern"),
            ("moss NOT NOT fern", "moss fern"),
            ("-(-moss)", "moss"),
            ("moss -red-fern otter", 'moss otter -"red fern"'),
            ("moss -NOT fern", "moss fern -not"),
            ("moss OR OR fern", "fern OR moss or"),
            ("(AND fern)", "and fern"),
            ("moss NOT OR fern", "fern OR moss not"),
            ("-moss AND fern", "fern -moss"),
            ("moss | fern || heron", "fern OR heron OR moss"),
            ("moss && fern", "fern AND moss"),
        ],
    )
    def test_adjacent_signs_and_operators_are_parsed(self, text, read):
        assert canonical(text) == read

    @pytest.mark.parametrize(
        ("text", "read"),
        [
            ("cat: cs.LG moss", "moss cat:cs.lg"),
            ("cat:cs.LG, cs.CL moss", "moss (cat:cs.cl OR cat:cs.lg)"),
            ("cat:cs.LG|cs.CL", "cat:cs.cl OR cat:cs.lg"),
            ("cat:cs.L** cat:cs.CL.", "cat:cs.cl cat:cs.l*"),
            ("source:arxiv,huggingface", "source:arxiv OR source:huggingface"),
        ],
    )
    def test_category_and_source_values_are_normalised(self, text, read):
        assert canonical(text) == read

    @pytest.mark.parametrize("text", ["ti: cs.LG", "source: cs.LG", "au: cs.LG", "cat:, moss"])
    def test_field_without_a_value_after_its_colon_is_rejected(self, text):
        with pytest.raises(QueryError, match=r"needs a word right after the colon"):
            parse(text)

    @pytest.mark.parametrize(
        ("text", "position"),
        [("moss (cat:) x", 6), ("moss “ ”", 5), ("moss (fern", 5), ("moss AND )", 9)],
    )
    def test_query_error_position_refers_to_the_text_as_typed(self, text, position):
        with pytest.raises(QueryError) as caught:
            parse(text)

        assert (caught.value.query, caught.value.position) == (text, position)

    def test_long_sentence_is_accepted(self):
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
    def test_equivalent_queries_have_one_canonical_form(self, one, other):
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
    def test_different_queries_have_different_canonical_forms(self, one, other):
        assert canonical(one) != canonical(other)

    def test_canonical_form_puts_words_first_and_exclusions_last(self):
        text = "-survey cat:cs.LG (video OR image) diffusion model"

        assert canonical(text) == "diffusion model cat:cs.lg (image OR video) -survey"

    @given(queries)
    def test_canonical_is_idempotent(self, text):
        """The canonical text parses to the same query and is its own canonical text."""
        try:
            tree = parse(text)
        except QueryError as error:
            assert 0 <= error.position <= len(text)  # noqa: PT017
            return

        assert parse(canonical(text)) == tree
        assert canonical(canonical(text)) == canonical(text)


class TestPlainWords:
    @given(st.text() | queries)
    def test_plain_words_accepts_any_text(self, text):
        assert isinstance(plain_words(text), Words)

    def test_plain_words_accepts_invalid_syntax(self):
        assert plain_words('5" (or so: AND').forms == ("5", "or", "so", "and")


class TestTopicKind:
    @pytest.mark.parametrize("text", ["trending", "Trending", " TRENDING ", "(trending)"])
    def test_bare_word_trending_is_the_built_in_topic(self, text):
        assert topic_kind(text) is TopicKind.TRENDING
        assert canonical(text) == TRENDING

    @pytest.mark.parametrize("text", ['"trending"', "ti:trending", "trending topics"])
    def test_trending_in_other_forms_is_a_query(self, text):
        assert topic_kind(text) is TopicKind.QUERY


# --- Stored queries can be parsed again ---------------------------------------------------------


def assert_read_again(text: str) -> None:
    """Assert that a query, if valid, is stored in a form that parses to the same query."""
    try:
        stored = canonical(text)
    except QueryError:
        return
    assert parse(stored) == parse(text), ascii(text)
    assert canonical(stored) == stored, ascii(text)
    assert len(stored.encode()) <= LARGEST_CANONICAL


def changing_code_points() -> Iterator[str]:
    """Yield each code point that normalising may change; the others are letters that stay."""
    for letter in map(chr, range(sys.maxunicode + 1)):
        category = unicodedata.category(letter)
        decomposes = unicodedata.normalize("NFKD", letter).casefold() != letter
        if category not in {"Cn", "Co", "Cs"} and (decomposes or category != "Lo"):
            yield letter


@pytest.mark.full
def test_stored_form_of_every_code_point_parses_to_the_same_query():
    """Alone, inside a word, in a phrase, in a name, and excluded."""
    for letters in in_chunks(changing_code_points(), 60):
        assert_read_again(" ".join(letters))
        assert_read_again(" ".join(f"a{letter}b" for letter in letters))
        assert_read_again(" ".join(f'"x{letter} {letter}"' for letter in letters))
        assert_read_again(" ".join(f"au:{letter}o" for letter in letters))
        assert_read_again("z " + " ".join(f"-{letter}q" for letter in letters))


STRANGE = st.sampled_from(
    "\ufdfa\ufdfb\xdf\u0130\u0345\u03c2\ufb03\u1e9e\ud800\0\U0001f9ea\u8a9e\u03b1\u03a9\xe9"
    "\\{}'\u2019-+#"
)
SIGNS = st.sampled_from([" ", " OR ", " AND ", " NOT ", "-", '"', "(", ")", "ti:", "au:", "cat:"])


@given(st.lists(st.one_of(STRANGE, SIGNS, st.characters()), max_size=60).map("".join))
def test_stored_form_of_mixed_texts_parses_to_the_same_query(text: str):
    assert_read_again(text)


@pytest.mark.full
@settings(deadline=None)
@given(st.lists(st.one_of(STRANGE, st.characters()), min_size=1, max_size=4).map("".join))
def test_texts_near_the_limit_are_stored_correctly_or_rejected(unit: str):
    """Normalising may lengthen a text past the limit: U+FDFA becomes fifteen letters."""
    for length in (130, 700, LONGEST_QUERY):
        assert_read_again((unit * length)[:length])
        assert_read_again(" ".join(unit * length)[:length])


@pytest.mark.parametrize(
    "text", ["\ufdfa" * 140, "\ufdfaa \ufdfab " * 70, "\u03b1lpha\u8a9e" * 280]
)
def test_topic_is_rejected_if_normalising_makes_it_too_long(text: str):
    assert len(text) <= LONGEST_QUERY

    with pytest.raises(QueryError, match="too long"):
        canonical(text)


def test_stored_topic_is_limited_to_2600_bytes():
    assert len(canonical("\u0436" * 1_300).encode()) == 2_600
    with pytest.raises(QueryError, match="2,000 characters, or 650 of any script") as caught:
        canonical("\u0436" * 1_300 + "a")

    assert caught.value.query == "\u0436" * 60 + "..."
    assert caught.value.position == 0


def test_longest_topics_fit_into_the_database_index(engine):
    """PostgreSQL refuses an index entry of more than 2,704 bytes."""
    letters = random.Random(1)
    # Ideographs are words of one letter; their canonical text has a space between each.
    for first, last, size in ((0x4E00, 0x9FA5, 4), (0x20000, 0x2A6DF, 4), (0x61, 0x7A, 1)):
        count = min(LONGEST_QUERY, LARGEST_CANONICAL // size)
        text = "".join(chr(letters.randint(first, last)) for _ in range(count))
        with engine.begin() as conn:
            topic = topics.find_or_add(conn, canonical(text), NOW)
        assert canonical(topic.query) == topic.query


@pytest.mark.parametrize(
    ("name", "typed"),
    [
        ("Ada Holm", 'au:"Ada Holm"'),
        ("Ada \u201cBo\u201d \u00abHolm\u00bb\\", 'au:"Ada Bo Holm"'),
        ('"O\'Holm, A." OR all', 'au:"O\'Holm, A. OR all"'),
    ],
)
def test_author_topic_quotes_any_name(name, typed):
    assert author_topic(name).typed == typed
    assert isinstance(author_topic(name).tree, Fielded)


def test_author_topic_rejects_what_is_no_name():
    for name in ("", '"', "...", "x y " * 600):
        with pytest.raises(QueryError):
            author_topic(name)
