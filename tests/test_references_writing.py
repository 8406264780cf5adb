"""Citations of papers, and that they are read back as they were written."""

import json

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from pipeline import references
from pipeline.domain import Links
from pipeline.references import bibtex, csl_json, markdown, parse, ris
from pipeline.references.reading import MOJIBAKE
from pipeline.sources.text import clean_names, clean_title
from tests.support.factories import make_paper

ENGINES = make_paper(
    "The Analytical Engine: BERT & 100% of {Looms}",
    key="2601.01234",
    authors=("Ada Lovelace", "Jan van der Berg", "ATLAS Collaboration", "Sammy Davis, Jr."),
    categories=("cs.LG", "stat.ML"),
    abstract="We weave.",
    keywords=(),
)


def test_bibtex():
    assert bibtex([ENGINES], {"2601.01234": "For the reading group, 50%"}) == (
        "@misc{lovelace2026analytical,\n"
        r"  title = {The Analytical Engine: {BERT} \& 100\% of "
        r"{{\textbraceleft}Looms{\textbraceright}}},"
        "\n"
        "  author = {Lovelace, Ada and van der Berg, Jan and {ATLAS Collaboration}"
        " and Davis, Jr., Sammy},\n"
        "  year = {2026},\n"
        "  eprint = {2601.01234},\n"
        "  archivePrefix = {arXiv},\n"
        "  primaryClass = {cs.LG},\n"
        "  url = {https://arxiv.org/abs/2601.01234},\n"
        "  annote = {For the reading group, 50\\%},\n"
        "}\n"
    )


def test_bibtex_of_a_doi_and_of_a_paper_without_ids():
    written = bibtex([make_paper("Looms", key="doi:10.1000/a_{b}(c)", authors=())])
    assert "  doi = {10.1000/a_%7Bb%7D(c)},\n" in written
    assert "  url = {https://doi.org/10.1000/a_%7Bb%7D(c)},\n" in written
    assert "eprint" not in written
    assert "author" not in written
    link = Links(abstract="https://example.org/looms")
    assert "url = {https://example.org/looms}" in bibtex([make_paper(key="title:0", links=link)])


def test_citation_keys_are_unique_ascii():
    papers = [
        make_paper("A Loom of Cards", key="2601.00001", authors=("Jürgen Großmann",)),
        make_paper("The loom again", key="2601.00002", authors=("Jürgen Großmann",)),
        make_paper("The loom again", key="2601.00003", authors=("Jürgen Großmann",)),
        make_paper("織機", key="hep-th/9901001", authors=("王小明",)),
        make_paper("Étude", key="hep-th/0101001", authors=()),
    ]
    keys = [item["id"] for item in json.loads(csl_json(papers))]
    assert keys == [
        "grossmann2026loom",
        "grossmann2026loom-2",
        "grossmann2026loom-3",
        "paper1999",
        "paper2001etude",
    ]
    assert [part.partition(",")[0] for part in bibtex(papers).split("@misc{")[1:]] == keys


def test_bibtex_lists_a_hundred_authors():
    many = make_paper(authors=tuple(f"Ada Number{n}" for n in range(150)), author_count=150)
    (entry,) = parse(bibtex([many])).entries
    assert len(entry.authors) == 100
    assert " and others}" in bibtex([many])


def test_ris():
    assert ris([ENGINES], {"2601.01234": "For\nthe group"}) == "\r\n".join(
        [
            "TY  - GEN",
            "TI  - The Analytical Engine: BERT & 100% of {Looms}",
            "AU  - Lovelace, Ada",
            "AU  - van der Berg, Jan",
            "AU  - ATLAS Collaboration",
            "AU  - Davis, Sammy, Jr.",
            "PY  - 2026",
            "AB  - We weave.",
            "DO  - 10.48550/arXiv.2601.01234",
            "UR  - https://arxiv.org/abs/2601.01234",
            "PB  - arXiv",
            "N1  - For the group",
            "ER  - ",
            "",
        ]
    )


def test_csl_json():
    (item,) = json.loads(csl_json([ENGINES], {"2601.01234": "For the group"}))
    assert item == {
        "id": "lovelace2026analytical",
        "type": "article",
        "title": ENGINES.title,
        "author": [
            {"family": "Lovelace", "given": "Ada"},
            {"family": "van der Berg", "given": "Jan"},
            {"literal": "ATLAS Collaboration"},
            {"family": "Davis", "given": "Sammy", "suffix": "Jr."},
        ],
        "issued": {"date-parts": [[2026]]},
        "abstract": "We weave.",
        "DOI": "10.48550/arXiv.2601.01234",
        "URL": "https://arxiv.org/abs/2601.01234",
        "number": "arXiv:2601.01234",
        "publisher": "arXiv",
        "annote": "For the group",
    }


def test_markdown():
    paper = make_paper("A *bold* [engine]", key="doi:10.1000/(a)", authors=("Ada_Lovelace",))
    assert markdown([paper, ENGINES], {"2601.01234": "A <b> note."}) == (
        r"- [A \*bold\* \[engine\]](https://doi.org/10.1000/%28a%29). Ada\_Lovelace. 2030."
        "\n"
        r"- [The Analytical Engine: BERT \& 100% of \{Looms\}](https://arxiv.org/abs/2601.01234). "
        "Ada Lovelace, Jan van der Berg, ATLAS Collaboration, Sammy Davis, Jr.. 2026. "
        r"A \<b\> note."
        "\n"
    )
    many = make_paper(authors=("Ada",) * 11, key="title:0")
    assert "Ada et al. 2030.\n" in markdown([many])


TEXT = st.text(
    st.one_of(
        st.sampled_from("&%$#_{}~^\\\"'`<>@=,;:-()[]|*"),
        st.sampled_from("aZ éßøÅıŁαЖ中あ가אع😀"),
        st.characters(codec="utf-8", exclude_categories=("Cc", "Cf", "Cs", "Co", "Cn")),
    ),
    min_size=1,
    max_size=60,
)
NAMES = st.lists(TEXT.map(lambda text: text.replace(",", "")), max_size=4)


LOOMS = make_paper(key="2501.00001", authors=ENGINES.authors)


@pytest.mark.parametrize("form", ["bibtex", "ris", "csl_json"])
@pytest.mark.parametrize("key", ["2601.01234", "hep-th/9901001", "doi:10.1000/a_b(c)<d>;e"])
@given(title=TEXT, names=NAMES)
@example(title="{", names=["and", "others", "Ada and Grace", "ludwig van Beethoven", "bell hooks"])
@example(title='}"\\$%', names=["{", "\\", "A # B"])
def test_what_is_written_is_read_back(form, key, title, names):
    title, names = clean_title(title), clean_names(names)
    assume(title and title == clean_title(title) and names == clean_names(names))
    assume(not MOJIBAKE.search(" ".join((title, *names))))
    paper = make_paper(title, key=key, authors=names)
    written = getattr(references, form)([paper, LOOMS])
    if form == "bibtex":  # which counts escaped braces, too
        assert written.count("{") == written.count("}")
    parsed = parse(written)
    assert not parsed.unreadable
    entry, other = parsed.entries
    assert (other.title, other.authors, other.arxiv_id) == (LOOMS.title, LOOMS.authors, LOOMS.key)
    assert (entry.title, entry.authors, entry.key) == (title, names, key)
