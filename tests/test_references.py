"""Lists of papers that people paste or upload, in the formats of reference managers."""

# ruff: noqa: RUF001  (typographic quotation marks and Greek letters are part of titles)

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.references import Reference, parse
from pipeline.references.reading import MOST_ENTRIES, MOST_OCTETS

GOOGLE_SCHOLAR = """@article{lovelace2017engines,
  title={Engines are all you need},
  author={Lovelace, Ada and Hopper, Grace and others},
  journal={arXiv preprint arXiv:1706.00001},
  year={2017}
}
"""
ZOTERO = r"""
@misc{lovelace_notes_2019,
	title = {Notes on {BERT}: {P}re-training of {$\alpha$}-engines in {\"U}bersee \& co},
	shorttitle = {Notes},
	url = {http://arxiv.org/abs/1810.00002},
	doi = {10.48550/arXiv.1810.00002},
	abstract = {We show that 90\% of {Bernoulli} numbers
are computed in \textit{one} pass.},
	urldate = {2026-01-02},
	publisher = {arXiv},
	author = {Lovelace, Ada and Mu{\~n}oz, Jos{\'e} and van der Berg, Jan and Davis, Jr., Sammy},
	month = may,
	year = {2019},
	note = {arXiv:1810.00002 [cs]},
	keywords = {Computer Science - Machine Learning, Engines},
}
"""
BIBLATEX = """@online{berg,
  title = {A Study of Looms}, subtitle = {Cards and Threads},
  author = {{The ATLAS Collaboration} and Grace Hopper}, date = {2020-05-01},
  eprint = {2005.00003}, eprinttype = {arXiv}, eprintclass = {cs.LG}, doi = {10.1000/LOOMS},
}
"""
RIS = """TY  - GEN
TI  - Notes on engines
AU  - Lovelace, Ada
AU  - Davis, Sammy, Jr.
AB  - First line.
Second line.
DA  - 2024/01/02/
PY  - 2024
DO  - 10.48550/arXiv.2401.00004
UR  - http://arxiv.org/abs/2401.00004
N1  - arXiv:2401.00004 [cs]
KW  - engines
KW  - looms
ER  -
"""
CSL = [
    {
        "id": "http://zotero.org/users/1/items/ABC",
        "type": "article",
        "title": "Notes on <i>engines</i>",
        "abstract": "All of it.",
        "number": "arXiv:2401.00005",
        "DOI": "10.1000/Engines",
        "URL": "http://arxiv.org/abs/2401.00005",
        "author": [
            {"family": "Lovelace", "given": "Ada"},
            {"family": "Berg", "given": "Jan", "non-dropping-particle": "van der"},
            {"literal": "ATLAS Collaboration"},
        ],
        "issued": {"date-parts": [["2024", 1, 2]]},
        "keyword": "engines, looms",
    }
]


def only(text: str | bytes) -> Reference:
    parsed = parse(text)
    assert not parsed.unreadable
    (entry,) = parsed.entries
    return entry


def test_bibtex_of_google_scholar_gives_the_arxiv_id_in_the_journal():
    assert only(GOOGLE_SCHOLAR) == Reference(
        "Engines are all you need", ("Ada Lovelace", "Grace Hopper"), "", 2017, "1706.00001"
    )


def test_bibtex_of_zotero_is_read_without_its_tex():
    assert only(ZOTERO) == Reference(
        title="Notes on BERT: Pre-training of α-engines in Übersee & co",
        authors=("Ada Lovelace", "José Muñoz", "Jan van der Berg", "Sammy Davis, Jr."),
        abstract="We show that 90% of Bernoulli numbers are computed in one pass.",
        year=2019,
        arxiv_id="1810.00002",
        keywords=("Computer Science - Machine Learning", "Engines"),
    )


def test_biblatex_gives_date_subtitle_and_eprint():
    entry = only(BIBLATEX)
    assert entry.title == "A Study of Looms: Cards and Threads"
    assert entry.authors == ("The ATLAS Collaboration", "Grace Hopper")
    assert (entry.year, entry.arxiv_id, entry.doi) == (2020, "2005.00003", "10.1000/looms")


@pytest.mark.parametrize(
    ("written", "names"),
    [
        (r"Lovelace, A. and \'Eluard, Paul", ("A. Lovelace", "Paul Éluard")),
        (r"{\'E}mile Zola AND {Ada and Sons}", ("Émile Zola", "Ada and Sons")),
        ("Ludwig van Beethoven and others", ("Ludwig van Beethoven",)),
        ("{van der} Berg, Jan", ("Jan van der Berg",)),
        ("Grace Hopper\n\tand\n  Ada Lovelace", ("Grace Hopper", "Ada Lovelace")),
    ],
)
def test_authors_in_bibtex(written, names):
    assert only(f"@misc{{k, title = {{Engines}}, author = {{{written}}}}}").authors == names


def test_strings_comments_and_preambles():
    text = (
        '% Encoding: UTF-8\n@string{tee = "Transactions on " # {Engines}}\n@preamble{"\\x"}\n'
        "@comment{jabref-meta: databaseType:bibtex;}\n@MISC(a, TITLE = tee # { and Looms})\n"
    )
    assert only(text).title == "Transactions on Engines and Looms"


@pytest.mark.parametrize(
    ("written", "title"),
    [
        (r"{Erd{\H{o}}s and \'Etale {\ss} maps}", "Erdős and Étale ß maps"),
        (r"{{{Deeply {Nested} Braces}}}", "Deeply Nested Braces"),
        (r'"The {"}quoted{"} engine"', 'The "quoted" engine'),
        (r"{A set \{0, 1\} of {\textbackslash}n}", r"A set {0, 1} of \n"),
        (r"{Costs of \$5 and 10\%, \_all\_ \#1}", "Costs of $5 and 10%, _all_ #1"),
        ("{Over\r\n   two lines}", "Over two lines"),
        ("{Attention <b>and</b> a < b &amp; c}", "Attention and a < b & c"),
        ("{Two @misc{x} inside}", "Two @misc{x} inside".replace("{x}", "x")),
    ],
)
def test_titles_in_bibtex(written, title):
    assert only(f"@misc{{k, title = {written}, year = 2020}}").title == title


def test_broken_bibtex_is_read_where_it_can_be_and_named_where_it_cannot():
    parsed = parse(
        "@article{a,\n title={No commas at all}\n author={Lovelace, Ada}\n year=2020\n}\n"
        "@article{title={No key at all}}\n"
        "@misc{a, title={The key of another}}\n"
        "@misc{b, title={A field twice}, title={Twice}}\n"
        'A line in "quotes"\n'
        "@article{c,\n  title={Never closed},\n  year={2020\n\n2401.01234\n"
        "@misc{d, year={1999}}\n"
    )
    assert [entry.title or entry.arxiv_id for entry in parsed.entries] == [
        "No commas at all",
        "No key at all",
        "The key of another",
        "A field twice",
        'A line in "quotes"',
        "2401.01234",
    ]
    assert parsed.entries[0].authors == ("Ada Lovelace",)
    assert parsed.entries[0].year == 2020
    assert [(part.line, part.text[:12]) for part in parsed.unreadable] == [
        (10, "@article{c, "),
        (15, "@misc{d, yea"),
    ]


def test_ris():
    assert only(RIS) == Reference(
        title="Notes on engines",
        authors=("Ada Lovelace", "Sammy Davis, Jr."),
        abstract="First line. Second line.",
        year=2024,
        arxiv_id="2401.00004",
        keywords=("engines", "looms"),
    )


def test_ris_records_without_an_end_are_read():
    parsed = parse("TY  - JOUR\nT1  - The first engine\nTY  - JOUR\nT1  - The second engine\n")
    assert [entry.title for entry in parsed.entries] == ["The first engine", "The second engine"]
    parsed = parse("TY  - JOUR\nT1  - The first engine\n\n2401.01234\n")
    assert [entry.key for entry in parsed.entries[1:]] == ["2401.01234"]
    (entry,) = parse("TY  - JOUR\nT1  - Engines\nAB  - One.\n\nTwo.\nER  - \n").entries
    assert entry.abstract == "One. Two."


def test_csl_json():
    assert only(json.dumps(CSL)) == Reference(
        title="Notes on engines",
        authors=("Ada Lovelace", "Jan van der Berg", "ATLAS Collaboration"),
        abstract="All of it.",
        year=2024,
        arxiv_id="2401.00005",
        doi="10.1000/engines",
        keywords=("engines", "looms"),
    )
    assert parse(json.dumps({"items": CSL})) == parse(json.dumps(CSL))


def test_csl_json_that_breaks_off_is_read_up_to_there():
    parsed = parse('[{"title": "The whole engine"},\n {"id": 1},\n {"title": "The half eng')
    assert [entry.title for entry in parsed.entries] == ["The whole engine"]
    assert [(part.line, part.text) for part in parsed.unreadable] == [
        (2, '{"id": 1}'),
        (3, '{"title": "The half eng'),
    ]


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("2401.01234", "2401.01234"),
        ("2401.01234v3", "2401.01234"),
        ("arXiv:2401.01234 [cs.LG]", "2401.01234"),
        ("arXiv: 2401.01234", "2401.01234"),
        ("hep-th/9901001", "hep-th/9901001"),
        ("https://arxiv.org/abs/hep-th/9901001v2", "hep-th/9901001"),
        ("http://www.arxiv.org/pdf/2401.01234v2.pdf#page=3", "2401.01234"),
        ("<https://arxiv.org/abs/2401.01234?context=cs>", "2401.01234"),
        ("https://huggingface.co/papers/2401.01234", "2401.01234"),
        ("https://www.alphaxiv.org/abs/2401.01234", "2401.01234"),
        ("https://ar5iv.labs.arxiv.org/html/2401.01234", "2401.01234"),
        ("10.48550/arXiv.2401.01234", "2401.01234"),
        ("https://doi.org/10.48550/arXiv.2401.01234", "2401.01234"),
        ("10.1145/3292500.3330701", "doi:10.1145/3292500.3330701"),
        ("doi: 10.1145/3292500.3330701.", "doi:10.1145/3292500.3330701"),
        ("https://dx.doi.org/10.1000/A(1)b", "doi:10.1000/a(1)b"),
        ("(see 10.1016/S0140-6736(20))", "doi:10.1016/s0140-6736(20)"),
        ('<a href="https://arxiv.org/abs/2401.01234">', "2401.01234"),
        ("https://dl.acm.org/doi/abs/10.1145/3292500.3330701", "doi:10.1145/3292500.3330701"),
        (
            "https://www.biorxiv.org/content/10.1101/2020.01.01.123456v1.full.pdf",
            "doi:10.1101/2020.01.01.123456",
        ),
    ],
)
def test_lines_with_ids_and_links(line, key):
    assert only(line).key == key


def test_lines_with_titles():
    parsed = parse(
        "\ufeff# My list\n1. The analytical engine (a survey)\n\n- [Looms \\*and\\* cards]"
        "(https://arxiv.org/abs/2401.00001). Ada Lovelace. 2024.\n"
        'Engines of the future https://arxiv.org/abs/2401.00002\n[3] "A quoted title"\n'
        "see 2401.00003, 2401.00004 10.1000/x\n"
        "* **Threads and cards** [[paper](https://arxiv.org/abs/2401.00005)]"
        " [[code](https://example.org/x)]\n"
        "[PDF](https://arxiv.org/pdf/2401.00006)\n(Un)woven looms\nN=1 looms in {0,1}\n"
        "[Two words](https://arxiv.org/abs/2401.00007)\n"
    )
    assert [(entry.title, entry.arxiv_id, entry.doi) for entry in parsed.entries] == [
        ("The analytical engine (a survey)", None, None),
        ("Looms *and* cards", "2401.00001", None),
        ("Engines of the future", "2401.00002", None),
        ("A quoted title", None, None),
        ("", "2401.00003", None),
        ("", "2401.00004", None),
        ("", None, "10.1000/x"),
        ("Threads and cards", "2401.00005", None),
        ("", "2401.00006", None),
        ("(Un)woven looms", None, None),
        ("N=1 looms in {0,1}", None, None),
        ("Two words", "2401.00007", None),
    ]
    assert not parsed.unreadable


@pytest.mark.parametrize(
    "line",
    ["arXiv:2401.1", "https://example.org/paper.pdf", "12345", "}x", "@misc", "words " * 200],
)
def test_lines_without_a_title_or_id_are_named(line):
    parsed = parse(f"2401.01234\n\n{line}\n")
    assert len(parsed.entries) == 1
    assert [part.line for part in parsed.unreadable] == [3]
    assert parsed.unreadable[0].text[:5] == line[:5]


def test_formats_may_be_mixed():
    text = f"{RIS}\n{GOOGLE_SCHOLAR}\nA title of its own\n{ZOTERO}\n2401.01234"
    keys = [entry.arxiv_id or entry.title for entry in parse(text).entries]
    assert keys == ["2401.00004", "1706.00001", "A title of its own", "1810.00002", "2401.01234"]
    keys = [entry.arxiv_id for entry in parse(json.dumps(CSL) + "\n2401.01234").entries]
    assert keys == ["2401.00005", "2401.01234"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
def test_encodings_and_line_ends(encoding):
    text = "@misc{a,\r\n  title = {Étude sur l’engine},\r\n  author = {Muñoz, José}\r\n}\r\n"
    entry = only(text.encode(encoding))
    assert (entry.title, entry.authors) == ("Étude sur l’engine", ("José Muñoz",))


def test_text_decoded_twice_is_repaired():
    mistaken = "Étude sur l’engine".encode().decode("cp1252")
    assert only(mistaken).title == "Étude sur l’engine"
    stray = "Étude sur l'engine\n".encode() + "Über eine andere".encode("latin-1")
    assert [entry.title for entry in parse(stray).entries] == [
        "Étude sur l'engine",
        "Über eine andere",
    ]


def test_duplicates_are_merged():
    parsed = parse(
        "https://arxiv.org/abs/2401.00001v2\n"
        "@misc{a, title={The Engine}, doi={10.1000/e}}\n"
        "@misc{b, title={the engine.}, eprint={2401.00001}, author={Lovelace, Ada},"
        " abstract={Long}, keywords={x}}\n"
        "@misc{c, title={The engine}, eprint={2401.00002}}\n"
        "@misc{d, title={Editorial}, author={Lovelace, Ada}, doi={10.1000/1}}\n"
        "@misc{e, title={Editorial}, author={Hopper, Grace}, doi={10.1000/2}}\n"
    )
    assert parsed.entries[0] == Reference(
        "The Engine", ("Ada Lovelace",), "Long", None, "2401.00001", "10.1000/e", ("x",)
    )
    assert [entry.key for entry in parsed.entries[1:]] == [
        "2401.00002",
        "doi:10.1000/1",
        "doi:10.1000/2",
    ]


def test_a_field_that_names_another_paper_gives_no_id():
    text = (
        "@article{a, title={Engines}, note={Erratum of 10.1000/x}, number={2401.00001},"
        " eprint={123456}, eprinttype={pubmed}}"
    )
    assert (only(text).arxiv_id, only(text).doi) == (None, None)


def test_a_line_with_many_ids():
    ids = [f"2401.{number:05}" for number in range(200)]
    assert [entry.arxiv_id for entry in parse(",".join(ids)).entries] == ids


def test_input_beyond_the_limits_is_cut():
    lines = [f"2401.{number:05}" for number in range(MOST_ENTRIES + 1)]
    assert parse("\n".join(lines[:-1])).is_cut is False
    parsed = parse("\n".join(lines))
    assert (len(parsed.entries), parsed.is_cut) == (MOST_ENTRIES, True)
    parsed = parse("2401.01234\n" + "é" * (MOST_OCTETS // 2))
    assert (len(parsed.entries), parsed.unreadable, parsed.is_cut) == (1, (), True)
    parsed = parse("@misc{a}\n" * 3 * MOST_ENTRIES)
    assert (len(parsed.unreadable), parsed.is_cut) == (MOST_ENTRIES, True)
    parsed = parse("@misc{a, title={Engines}}\n" + "@misc{b, " + "year=1," * 60_000 + "}")
    assert (len(parsed.entries), len(parsed.unreadable), parsed.is_cut) == (1, 1, True)


def filled(text: str) -> str:
    return text * (MOST_OCTETS // len(text))


HOSTILE = {
    "unclosed entries": filled("@article{"),
    "unclosed entries on lines": filled("@article{\n"),
    "brackets": filled("@a("),
    "braces": "@a{b,title={" + "{" * (MOST_OCTETS - 20),
    "closed braces": "@a{b,title=" + "{" * 262_000 + "}" * 262_000 + "}",
    "fields": "@a{k," + "a=1," * 131_000 + "}",
    "fields without commas": "@a{k,a=1" + " a=1" * 131_000 + "}",
    "names": "@a{k,title={x},author={" + filled("A and ")[:-40] + "}}",
    "names of many": "".join(
        f"@a{{k{n},title={{x {n}}},author={{{'A B and ' * 120}}}}}\n" for n in range(500)
    ),
    "strings": '@string{s="xxxxxxxx"}' + "@string{s=s#s}" * 900 + "@a{k,title=s}",
    "commands": "@a{k,abstract={" + filled("\\emph{")[:-30] + "}}",
    "formulas": "".join(
        f"@a{{k{n},title={{x {n}}},abstract={{{'$x^{a}_b$ ' * 90}}}}}\n" for n in range(500)
    ),
    "RIS": filled("TY  - JOUR\n"),
    "RIS lines": "TY  - JOUR\n" + filled("x\n")[:-20],
    "JSON": '[{"a":' + "[" * (MOST_OCTETS - 20),
    "JSON objects": filled('{"a":1}'),
    "ids": ",".join(f"2401.{n:05}" for n in range(43_000)),
    "links": filled("[a](https://"),
    "spaces": "@a{" + " \n" * 262_000,
    "spaces after a field": "@a{k,title={x}" + " " * 524_000 + "x}",
    "spaces after a broken entry": "@a{\n\nx}" + " " * 524_000 + "x",
    "spaces after a number": "a=1" + " " * 524_000 + "x",
    "square brackets": "2401.01234 " + "[" * 524_000,
    "closing brackets": "10.1000/x" + ")" * 524_000,
}


@pytest.mark.full
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_input_takes_bounded_time(name):
    started = time.process_time()
    parsed = parse(HOSTILE[name][:MOST_OCTETS])
    assert time.process_time() - started < 3  # about one on a slow machine
    assert len(parsed.entries) <= MOST_ENTRIES
    assert len(parsed.unreadable) <= MOST_ENTRIES


PIECES = [
    *'@{}()"=,\n\\#[]:$ ',
    *("misc", "title", "TY  - ", "ER  - ", "TI  - x", "2401.01234", "10.1000/x"),
]


@given(
    st.one_of(
        st.text(max_size=300),
        st.binary(max_size=300),
        st.lists(
            st.sampled_from(PIECES),
            max_size=60,
        ).map("".join),
    )
)
def test_parse_raises_nothing(text):
    for entry in parse(text).entries:
        assert entry.title or entry.arxiv_id or entry.doi
