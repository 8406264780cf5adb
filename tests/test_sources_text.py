"""Text from outside becomes plain text that is safe to show."""

# ruff: noqa: RUF001  (letters that look alike are what this is about)

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.sources.identifiers import arxiv_categories, arxiv_name, doi
from pipeline.sources.text import (
    MOST_AUTHORS,
    NAME_LIMIT,
    TITLE_LIMIT,
    clean,
    clean_names,
    clean_title,
    https_link,
    is_withdrawn,
    split_authors,
)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("a < b & c", "a < b & c"),
        ("if a<b and c>d", "if a<b and c>d"),
        ("a < b & c <script>alert(1)</script>", "a < b & c"),
        ("R&amp;D &lt;b&gt;bold&lt;/b&gt;", "R&D bold"),
        ("AT&amp;amp;T", "AT&T"),
        ("<p>One</p><p>Two</p>", "One Two"),
        ("H<sub>2</sub>O", "H2O"),
        ("<svg/onload=alert(1)>x", "x"),
        ("a <img src=x onerror=alert(1)> b", "a b"),
        ("<scr<b>ipt>x", "x"),
        ("&lt;img src=x onerror=alert(1)&gt;x", "x"),
        ("$<$script$>$x", "x"),
        ("a <!-- hidden --> b", "a b"),
        ("reasoning in <think> tokens", "reasoning in <think> tokens"),
        ("a List<T> of 5 > 3", "a List<T> of 5 > 3"),
        ("an <img> token and a <select> box", "an <img> token and a <select> box"),
        ("between <s> and </s> tokens", "between <s> and </s> tokens"),
        ("a <p> token", "a <p> token"),
        ("One<p>Two<br>Three", "One Two Three"),
        ("for i<b>j of", "for i<b>j of"),
        ("x <i>in vivo</i> y", "x in vivo y"),
        ("the &lt;audio&gt; part", "the <audio> part"),
    ],
)
def test_markup_is_removed_and_comparisons_are_kept(written, read):
    assert clean(written) == read


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("a\u202eb\u2066c\u200bd\x00e\ufefff\u00adg\U000e0041h", "abcdefgh"),
        ("&#8238;x&#x200b;y", "xy"),
        ("one\r\n\ttwo\u2028three\u00a0four", "one two three four"),
        ("Cafe\u0301", "Café"),
        ("lone \ud800 surrogate", "lone surrogate"),
        ("Z" + "\u0301" * 50, "Ź" + "\u0301" * 4),
        ("bug 🐛 and ❤\ufe0f", "bug 🐛 and ❤\ufe0f"),
        ("שלום עולם", "שלום עולם"),
    ],
)
def test_invisible_characters_are_removed(written, read):
    assert clean(written) == read


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (r"S$^4$C and CaO$_2$", "S⁴C and CaO₂"),
        (r"$\alpha$-stable $\mathcal{F}_x$", "α-stable ℱ_x"),
        (r"an error of $10^{-3}$", "an error of 10⁻³"),
        (r"in $O(n\log n)$ or $2\log\log n$", "in O(n log n) or 2 log log n"),
        (r"$\max_x f$ and $\sin(x)\cos x$", "max_x f and sin(x) cos x"),
        (r"90\% of $50\%$, i.e. 100% $\gamma % x$", "90% of 50%, i.e. 100% γ% x"),
        ("it costs $5 and $10", "it costs $5 and $10"),
        ("US$0.50 for $x^2$", "US$0.50 for x²"),
        (r"from 30%$\sim$225%", "from 30%∼225%"),
        (r"$x < y$ & $a_1 > b$", "x < y & a₁ > b"),
        (r"\textbf{Bold} \emph{\textit{both}} {\bf old}", "Bold both old"),
        (r"a \b{eta}-VAE at 20{\deg}", "a β-VAE at 20°"),
        (r"see \href{https://a.example/~me}{here}", "see https://a.example/~me"),
        (r"i.i.d.\ samples (\eg, two)", "i.i.d. samples (e.g., two)"),
        (r"\(a^2\) and \[b_1\]", "a² and b₁"),
        (r"below $<$5 and 45$^{\circ}$C", "below <5 and 45°C"),
        (r"``two'' and `one' but `code`", "“two” and ‘one’ but `code`"),
        (r"Fig.~3 at 5~GeV, 2~3 days, x~N(0,1)", "Fig. 3 at 5 GeV, 2~3 days, x~N(0,1)"),
        (r"shown~\cite{a,b} here\footnote{A {deep} note.}", "shown here"),
        (r"\textcolor{blue}{cold} H\textsubscript{2}O", "cold H₂O"),
        (r"p\textgreater{}0.05, 10\,000, 10{,}000", "p>0.05, 10 000, 10,000"),
        ("pages 3--5 -- or so---yes, with --help", "pages 3–5 – or so—yes, with --help"),
        (r"\begin{itemize} \item one \end{itemize}", "one"),
        (r"{BERT}: sets {0, 1} and \{a\}", "BERT: sets {0, 1} and {a}"),
        (r"in C:\temp\new", r"in C:\temp\new"),
        (r"\alpha-helix, \Delta G", "α-helix, ΔG"),
        (r"unreadable $\frac{1}{2 and $\left( stay", r"unreadable $\frac{1}{2 and $\left( stay"),
        ("$" + "{" * 60 + "$", "$" + "{" * 60 + "$"),
    ],
)
def test_tex_becomes_unicode_or_is_kept(written, read):
    assert clean(written) == read


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (r"Mikol\'a\v{s} Janota", "Mikoláš Janota"),
        (r"Paige Tutt\"os\'i", "Paige Tuttösí"),
        (r"{\'E}tienne H{\aa}kan {\O}rsted", "Étienne Håkan Ørsted"),
        (r"\L\'od\'z, Erd\H{o}s", "Łódź, Erdős"),
        (r"Na\"{\i}ve \c{C}elik Stra\ss e", "Naïve Çelik Straße"),
        ("Donald~E.~Knuth", "Donald E. Knuth"),
        (r"Nguy{\~{\^e}}n, Nguy\~{\^{e}}n", "Nguyễn, Nguyễn"),
        (r"Dvo\v rák, Fran\c cois, Erd\H os", "Dvořák, François, Erdős"),
        (r"{Tr\"{a}ff} Bo, J\o rgensen", "Träff Bo, Jørgensen"),
        (r"Tr{\d{\^o}}n", "Trộn"),
    ],
)
def test_tex_accents_in_names_are_decoded(written, read):
    assert clean(written) == read


def test_text_lengths_are_limited():
    title = clean_title("word " * 1_000)

    assert len(title) <= TITLE_LIMIT
    assert title.endswith("word…")
    assert len(clean("x" * 100_000)) == 10_000
    assert len(clean_names(["n" * 1_000])[0]) == NAME_LIMIT
    assert len(clean_names(f"Name {n}" for n in range(9_000))) == MOST_AUTHORS


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.characters(), max_size=60) | st.text(alphabet="<>&;$\\{}^_'ab =/!-#12"))
def test_clean_returns_normalized_printable_text_for_any_input(text):
    cleaned = clean(text)

    assert cleaned == " ".join(cleaned.split())
    assert unicodedata.is_normalized("NFC", cleaned)
    assert cleaned.isprintable() or all(
        unicodedata.category(c) in {"Cn", "Co", "Zs"} for c in cleaned if not c.isprintable()
    )
    cleaned.encode()


@pytest.mark.parametrize(
    "piece",
    ["<", "<script>", "<b", "&lt;", "<!--", "$", "$a", "$ x", "\\", "{\\'", "\\emph{", "(", "a<b ",
     "\u0301", "$\\alpha_1$", "\\href{"],
)  # fmt: skip
def test_hostile_text_is_cleaned_quickly(piece):
    started = time.process_time()

    clean(piece * (100_000 // len(piece)))

    assert time.process_time() - started < 1


@pytest.mark.parametrize("piece", ["; ", ", ", "for the ", "for a b c ", "Team: ", "(", "H. A., "])
def test_long_author_string_is_split_within_a_second(piece):
    started = time.process_time()

    split_authors(piece * (30_000 // len(piece)))

    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    ("written", "names"),
    [
        ("Ada Lovelace, Grace Hopper", ("Ada Lovelace", "Grace Hopper")),
        (r"Pedro Orvalho and Mikol\'a\v{s} Janota", ("Pedro Orvalho", "Mikoláš Janota")),
        ("A. One (U. (of) X, Y), B. Two, and C. Three", ("A. One", "B. Two", "C. Three")),
        ("John Smith, Jr., Jane Doe III", ("John Smith, Jr.", "Jane Doe III")),
        ("Sandy Anderson", ("Sandy Anderson",)),
        ("Holm, Ada; Lund, Bo", ("Holm, Ada", "Lund, Bo")),
        ("Holm, Ada and Lund, Bo", ("Holm, Ada", "Lund, Bo")),
        ("Holm, A., Lund, B.", ("Holm, A.", "Lund, B.")),
        ("A. Holm & B. Lund; C. Tan", ("A. Holm", "B. Lund", "C. Tan")),
        ("A. Holm, B. Lund and 12 others", ("A. Holm", "B. Lund")),
        ("A. Holm on behalf of the DEF Team", ("A. Holm", "the DEF Team")),
        ("DEF Consortium: A. Holm et al.", ("DEF Consortium", "A. Holm")),
        ("Ada Holm1, Bo Lund2,*", ("Ada Holm", "Bo Lund")),
        ("", ()),
    ],
)
def test_author_string_is_split_into_names(written, names):
    assert split_authors(written) == names


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("2503.02130", ("2503.02130", None)),
        ("2503.02130v2", ("2503.02130", 2)),
        ("arXiv:2503.02130", ("2503.02130", None)),
        ("http://arxiv.org/abs/1605.08386v1", ("1605.08386", 1)),
        ("https://arxiv.org/pdf/2503.02130v3.pdf", ("2503.02130", 3)),
        ("oai:arXiv.org:2508.13426v1", ("2508.13426", 1)),
        ("astro-ph/0601001", ("astro-ph/0601001", None)),
        ("http://arxiv.org/abs/quant-ph/0201082v1", ("quant-ph/0201082", 1)),
        ("math.GT/0309136", ("math/0309136", None)),
        ("https://huggingface.co/papers/2503.02130", ("2503.02130", None)),
    ],
)
def test_arxiv_ids_are_normalized(written, name):
    read = arxiv_name(written)

    assert read is not None
    assert (read.id, read.version) == name


@pytest.mark.parametrize(
    "written",
    [2503.0213, 2503, None, "", "2513.02130", "2503.021", "10.1101/2503.02130", "x2503.02130",
     "https://example.org/abs/2503.02130", "2503.02130v0", "２５０３.02130", "1" * 10_000],
)  # fmt: skip
def test_invalid_arxiv_ids_are_rejected(written):
    """Numbers are refused, too: 2503.02130 as a number has lost its last zero."""
    assert arxiv_name(written) is None


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("10.1091/mbc.E25-09-0454", "10.1091/mbc.e25-09-0454"),
        ("https://doi.org/10.1101/2025.09.17.676679", "10.1101/2025.09.17.676679"),
        ("doi: 10.1000/182.", "10.1000/182"),
        ("NA", None),
        ("", None),
        (10.1, None),
    ],
)
def test_dois_are_normalized(written, read):
    assert doi(written) == read


def test_only_arxiv_categories_are_kept():
    listed = ["cs.CL", "hep-th", "cond-mat.mes-hall", "cs.CL", "Primary 68T50", "I.2.7; I.2.6", 7]

    assert arxiv_categories(listed) == ("cs.CL", "hep-th", "cond-mat.mes-hall")


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://github.com/a/b", True),
        ("http://example.org:8080/x?y=1#z", True),
        ("javascript:alert(1)", False),
        ("data:text/html,x", False),
        ("https://user:pass@example.org/", False),
        ("https://example.org/\nX: y", False),
        ("https://example.org/\u202ex", False),
        ('https://example.org/"onclick="x', False),
        ("https://", False),
        ("//example.org/x", False),
        ("https://[::1", False),
        ("https://example.org/" + "x" * 3000, False),
        (None, False),
        (7, False),
    ],
)
def test_only_plain_web_urls_are_kept_as_links(url, kept):
    assert https_link(url) == (url if kept else None)


@pytest.mark.parametrize(
    ("note", "withdrawn"),
    [
        ("This paper has been withdrawn by the authors", True),
        ("Withdrawn: an error in Lemma 3", True),
        ("Withdrawn from a workshop, now at another one", False),
        ("12 pages, 3 figures", False),
        ("12 pages; withdrawn due to a gap in version 2", True),
        ("The authors have withdrawn this preprint", True),
        ("This version withdrawn by arXiv administrators", True),
        ("Withdrawn from the arXiv", True),
        ("[withdrawn]", True),
        ("v1 was withdrawn", False),
        ("Lemma 4 is withdrawn", False),
        ("Replaces our withdrawn paper", False),
        ("The first version of this paper was withdrawn", False),
        ("This paper has not been withdrawn", False),
        ("Submitted to a journal, withdrawn", False),
        ("A study of drugs withdrawn from the market", False),
        ("", False),
    ],
)
def test_withdrawal_is_detected_in_comments(note, withdrawn):
    assert is_withdrawn(note) is withdrawn
