"""Rendered mails: correct content, escaped, in HTML and text, within the size limit."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from html import unescape
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markupsafe import escape

from pipeline.domain import (
    MAIL_KINDS,
    DeliveryKind,
    Digest,
    Links,
    Reason,
    Recap,
    SavedPaper,
    SavedWeek,
)
from pipeline.errors import RenderError
from pipeline.matching.highlights import find
from pipeline.message import Sender, compose_list_mail
from pipeline.rendering import MailLinks, Renderer, formatting, selftest, views
from pipeline.rendering.branding import SHEET, SHEET_DARK, contrast
from pipeline.rendering.cards import RenderCache
from pipeline.rendering.fragments import Rendered, fragment, plain
from pipeline.storage import saved_mails
from tests.support import SHARED
from tests.support.factories import NOW, TODAY, make_digest, make_paper, make_pick
from tests.support.rendered import BRANDING, EMAILS, LINKS, RENDERER, Seen, decoded

SMALL = 90_000  # bytes; Gmail clips at 102 KB

ABSTRACT = "We show that a reader who follows one topic finds more than one who follows ten. " * 25


def render(digest: Digest, renderer: Renderer = RENDERER) -> tuple[str, str, str]:
    mail = renderer.digest(digest, LINKS)
    return mail.subject, decoded(mail.html), decoded(mail.text)


def one(**changes) -> Digest:
    return make_digest(make_pick(make_paper(**changes)))


# --- Joined fragments and plain templates -------------------------------------------------------

characters = st.characters(exclude_categories=["Cs"])
texts = st.text(characters, max_size=60) | st.sampled_from(
    ["a < b & c", "</script><script>alert(1)</script>", "{{ 7 * 7 }}", "{% raw %}", "=C3=\n.\n..x"]
)
papers = st.builds(
    make_paper,
    title=texts,
    abstract=texts | st.just(ABSTRACT),
    authors=st.lists(texts, max_size=5).map(tuple),
    categories=st.lists(texts, max_size=2).map(tuple),
    upvotes=st.none() | st.integers(0, 5000),
    comments=st.none() | st.integers(0, 50),
    stars=st.none() | st.integers(0, 2**31 - 1),
    withdrawn=st.booleans(),
)
reasons = st.builds(Reason, texts, st.lists(texts, max_size=5).map(tuple))
picks = st.builds(make_pick, papers, reasons=st.lists(reasons, max_size=5).map(tuple))
dates = st.dates(date(2020, 1, 1), date(2040, 1, 1))
digests = st.builds(
    Digest,
    edition_on=dates,
    picks=st.lists(picks, min_size=1, max_size=4).map(tuple),
    more=st.integers(0, 2000),
    topics=st.lists(texts, max_size=15).map(tuple),
    announced=st.none() | st.tuples(dates, dates).map(sorted).map(tuple),
    welcome=st.booleans(),
    recap=st.none()
    | st.builds(
        Recap,
        dates,
        st.booleans(),
        st.lists(st.tuples(texts, st.none() | st.integers(0, 2000)), max_size=5).map(tuple),
    ),
)
urls = st.text("abcxyz=.-_0189", min_size=1, max_size=120).map("https://x.example/{}".format)
mail_links = st.builds(MailLinks, urls, urls, urls, urls, urls, urls)


@pytest.mark.full
@settings(deadline=None, max_examples=60)
@given(digests, mail_links)
def test_joined_fragments_equal_the_plain_template(digest, links):
    """The fast path returns the same as plain Jinja, byte for byte when decoded."""
    mail = RENDERER.digest(digest, links)
    subject, html, text = RENDERER.page(digest, links)

    assert mail.subject == subject
    assert decoded(mail.text) == text
    assert decoded(mail.html) == html


@pytest.mark.full
@settings(deadline=None, max_examples=60)
@given(digests)
def test_body_has_short_ascii_lines_with_crlf_and_doubled_dots(digest):
    """ASCII lines of at most 76 with CRLF, dots doubled, and no soft line break at the end."""
    mail = RENDERER.digest(digest, LINKS)

    for wire in (mail.text, mail.html):
        body = b"".join(wire)
        lines = body.split(b"\r\n")
        assert body.isascii()
        assert body.endswith(b"\r\n")
        assert not body.endswith(b"=\r\n")
        assert not any(b"\n" in line or b"\r" in line for line in lines)
        assert all(len(re.sub(rb"^\.", b"", line)) <= 76 for line in lines)
        assert not any(re.match(rb"\.(?!\.)", line) for line in lines)


@pytest.mark.full
@example(["A line\n.\n..and dots\n.", ".", "é" * 30, "x" * 76, ""])
@settings(deadline=None)
@given(st.lists(st.text(characters.filter(lambda c: c != "\r"), max_size=200)))
def test_joined_fragments_decode_to_the_joined_texts(parts):
    wire = tuple(map(fragment, parts))

    assert decoded(wire) == "".join(parts)
    assert max(map(len, b"".join(wire).split(b"\r\n"))) <= 77  # with a doubled dot


@pytest.mark.full
@example(["From a\n", "From b", ">From c\n>>From d", " From e"])
@example(["x" * 75 + "From here", "From " * 40, ">" * 70 + "From here to é" + "é" * 30])
@example(["From " + "x" * 71, "From " + "x" * 70 + "é", "From " + "x" * 67 + "é.\n"])
@example(["a \n", "b\t", " ", ".", ".\n", "\n"])
@settings(deadline=None, max_examples=150)
@given(
    st.lists(
        st.lists(st.sampled_from(["From ", ">", "x", "é", "=", " ", ".", "\n", "x" * 70, "y" * 60]))
        .map("".join)
    )
)  # fmt: skip
def test_no_line_starts_with_from_or_ends_in_white_space(parts):
    """Mailbox files quote lines with "From ", which breaks DKIM; no line may end in a space."""
    wire = tuple(map(fragment, parts))

    lines = b"".join(wire).split(b"\r\n")
    assert not [line for line in lines if re.match(rb">*From ", line)]
    assert not [line for line in lines if line.endswith((b" ", b"\t")) or line == b"."]
    assert max(map(len, lines)) <= 77  # with a doubled dot
    assert decoded(wire) == "".join(parts)


# --- Hostile and unusual papers -----------------------------------------------------------------


def test_markup_in_a_paper_is_escaped():
    title = "a < b & c <script>alert(1)</script>"
    hostile = make_paper(
        title, abstract="</td></table><img src=x onerror=alert(1)>", authors=(title,)
    )
    reason = Reason('"><b>bold', ("<i>it</i>",))

    _, html, text = render(make_digest(make_pick(hostile, reasons=(reason,)), topics=("<u>",)))

    seen = Seen(html)
    assert not {"script", "img", "i", "u"} & set(seen.tags)
    assert title in seen.text
    assert "</td></table><img src=x onerror=alert(1)>" in seen.text
    assert '"><b>bold' in seen.text
    assert title in text


def test_template_syntax_in_a_paper_is_not_evaluated():
    _, html, text = render(one(title="{{ branding.site_url }} {% endfor %} {# x #}"))

    assert "{{ branding.site_url }} {% endfor %} {# x #}" in html
    assert "{{ branding.site_url }} {% endfor %} {# x #}" in text


def test_control_characters_are_removed():
    """Control characters, NUL and marks that override the text direction are removed."""
    subject, html, text = render(one(title="A\0 good\u202e title\x1b[31m\ud800 \ue000view\ue001"))

    for shown in (subject, html, text):
        assert "A good title[31m view" in shown
        assert not re.search("[\0\x1b\u202e\ud800\ue000\ue001]", shown)


@pytest.mark.parametrize(
    "title", ["🧠 Emoji 👩‍🔬 in a Title", "مراجعة النماذج اللغوية", "多模态大模型", "Ünïcödé"]
)
def test_titles_in_any_script_are_rendered(title):
    subject, html, text = render(one(title=title))

    assert title in subject
    assert title in html
    assert title in text


def test_right_to_left_titles_have_automatic_direction():
    assert re.search(r'<h2 dir="auto"[^>]*><a[^>]*>1\. مراجعة', render(one(title="مراجعة"))[1])


def test_long_title_is_cut_only_in_the_subject():
    title = ("Learning " * 40)[:299] + "g"

    subject, html, text = render(one(title=title))

    assert title in html
    assert title in " ".join(text.split())
    assert len(subject) <= 90
    assert subject.endswith("Learning…")


def test_paper_without_authors_is_rendered():
    _, html, text = render(one(authors=()))

    assert "and 0 more" not in html
    assert "\n\n\n" not in text


def test_paper_with_3303_authors_names_the_first():
    names = tuple(f"Author {number}" for number in range(100))

    _, html, text = render(one(authors=names, author_count=3303))

    assert "Author 0 +3,302" in html
    assert "Author 0 +3,302" in text
    assert "Author 1" not in html


def test_paper_without_an_abstract_is_rendered():
    _, html, text = render(one(title="Only a Title", abstract=""))

    assert "Only a Title" in html
    assert "\n\n\n" not in text


def test_paper_without_a_title_is_shown_as_untitled():
    assert "Untitled" in render(one(title=" \0 ", abstract="Words."))[2]


def test_only_valid_http_urls_become_links():
    wild = Links(
        abstract="javascript://x.example/%0aalert(1)",
        pdf="data:text/html,x",
        code="https://code.example/a b",
        project="https://[broken",
        discussion="https://talk.example/1",
    )

    _, html, text = render(one(title="Wild", links=wild))

    assert "https://talk.example/1" in Seen(html).links
    for link in ("javascript", "data:text", "code.example", "broken"):
        assert link not in html
        assert link not in text


def test_paper_without_links_links_to_its_page_on_the_site():
    digest = one(key="title:ab/c", links=Links())

    assert "https://papers.example.org/papers/title%3Aab%2Fc" in Seen(render(digest)[1]).links


def test_withdrawn_paper_is_labelled():
    assert "Withdrawn by its authors" in render(one(withdrawn=True))[1]
    assert "Withdrawn by its authors" in render(one(withdrawn=True))[2]


def test_paper_that_cannot_be_rendered_is_skipped():
    bad = replace(make_paper(), title=None)

    subject, html, _ = render(make_digest(make_pick(bad), make_pick(make_paper("A Good One"))))

    assert subject == "A Good One · Bits & Papers"
    assert "· 1 paper\n" in html
    assert "1. A Good One" in html


@pytest.mark.parametrize(
    "digest",
    [make_digest(make_pick(replace(make_paper(), title=None))), replace(make_digest(), picks=())],
)
def test_digest_without_renderable_papers_raises(digest):
    with pytest.raises(RenderError, match="paper"):
        RENDERER.digest(digest, LINKS)


# --- Content of a mail --------------------------------------------------------------------------


def test_html_and_text_show_the_same_papers_in_the_same_order():
    digest = make_digest(*(make_pick(make_paper(f"Paper number {n}.")) for n in range(20)))

    _, html, text = render(digest)

    titles = [f"Paper number {n}." for n in range(20)]
    shown = Seen(html).text.partition("20 papers")[2]
    assert re.findall(r"Paper number \d+\.", shown) == titles * 2  # contents and cards
    assert re.findall(r"Paper number \d+\.", text) == titles * 2


@pytest.mark.parametrize(
    ("known", "line"),
    [
        ({"categories": ("cs.CL", "cs.LG"), "upvotes": 1145}, "A +1 · cs.CL · 1,145 upvotes"),
        ({"categories": ("cs.CL",), "upvotes": 0}, "A +1 · cs.CL"),
        ({"categories": ("cs.CL",), "organization": "Society"}, "A +1 · Society"),
        ({"organization": f"{'Society ' * 4}"}, "A +1 · Society Society Society Society"),
        ({"categories": (), "upvotes": 1}, "A +1 · 1 upvote"),
        ({"categories": (), "upvotes": None}, "A +1 · arXiv"),
    ],
)
def test_card_shows_author_category_and_upvotes_or_the_source(known, line):
    _, html, text = render(one(authors=("A", "B"), author_count=2, sources=("arxiv",), **known))

    assert f">{line}\n" in html
    assert f"\n{line}\n" in text


def test_papers_are_grouped_by_topic_beginning_with_that_of_the_best():
    topics = ("Search", "Agents", "Search", "Agents", "")
    digest = make_digest(
        *(
            make_pick(make_paper(f"Paper {n}."), reasons=(Reason(topic),) if topic else ())
            for n, topic in enumerate(topics)
        )
    )

    subject, html, text = render(digest)

    assert subject == "Paper 0. · Bits & Papers"
    order = [
        "Search",
        "1. Paper 0",
        "2. Paper 2",
        "Agents",
        "3. Paper 1",
        "4. Paper 3",
        "5. Paper 4",
    ]
    for shown in (Seen(html[html.index("<h1") :]).text, text):
        assert re.findall(r"Search|Agents|\d\. Paper \d", shown)[:14] == order * 2


def test_contents_link_to_the_cards():
    _, html, text = render(
        make_digest(*(make_pick(make_paper(f"Name{n}: A Title")) for n in range(4)))
    )

    assert Seen(html[html.index("<h1") :]).text.count("Name2: A Title") == 1
    assert re.findall(r'href="#p(\d)"[^>]*>(\d\. Name\d)<', html) == [
        (str(n + 1), f"{n + 1}. Name{n}") for n in range(4)
    ]
    assert re.findall(r'name="p(\d)" id="p(\d)"', html) == [(str(n), str(n)) for n in range(1, 5)]
    assert "\n  2. Name1\n" in text


def test_short_digest_has_no_contents():
    _, html, text = render(make_digest(*(make_pick(make_paper(f"Name{n}")) for n in range(3))))

    assert "#p1" not in html
    assert text.count("Name1") == 1


def test_card_shows_matched_phrases_only_if_no_highlight_is_visible():
    hidden = Reason("Search", ("dense retrieval", "reranker"))
    _, html, text = render(one_for(hidden, abstract="Nothing of it."))

    assert "Matched “dense retrieval”, “reranker”" in Seen(html).text
    assert "\nMatched “dense retrieval”, “reranker”\n" in text
    for shown in ({"title": "A Reranker"}, {"abstract": "We rerank with a reranker."}):
        _, html, text = render(one_for(hidden, **shown))
        assert "Matched" not in html
        assert "\nMatched “dense retrieval”, “reranker”\n" in text  # which has no highlights


def one_for(*reasons: Reason, **changes) -> Digest:
    return make_digest(make_pick(make_paper(**changes), reasons=reasons))


def test_card_names_the_other_topics_whose_words_matched():
    reasons = (Reason("Search", ("a",)), Reason("Agents", ("tool use",)), Reason("Trending"))

    _, html, text = render(one_for(*reasons))

    assert re.search(r"<p[^>]*>Search</p>", html)
    assert "Also for Agents\n" in Seen(html).text
    assert "\nAlso for Agents\n" in text


def test_topic_without_phrases_shows_no_matched_phrase():
    _, html, text = render(one_for(Reason("Trending")))

    assert re.search(r"<p[^>]*>Trending</p>", html)
    assert "\nTrending\n" in text
    assert "Matched" not in html + text


MARK = re.compile(r'<span class="mark"[^>]*>(.*?)</span>')
SPAN = re.compile(r'<span class="mark"[^>]*>')
MARKED = "<span>{}</span>"


def marks(html: str) -> list[str]:
    return MARK.findall(html)


def test_matched_words_are_marked_in_the_html_only():
    """In any spelling of the abstract; subject, preview line, title and text are not marked."""
    paper = make_paper(
        "A < B & Multi-Modal <Agents>",
        abstract="Agents that are multimodal & an agent's agent: <agents>. Reagents are none.",
    )
    why = (Reason("one", ("Multi-Modal",)), Reason("two", ("Agents",)))

    subject, html, text = render(make_digest(make_pick(paper, reasons=why)))

    assert marks(html) == ["Agents", "multimodal", "agent&#39;s agent", "agents"]
    assert "A < B & Multi-Modal <Agents>" in Seen(html).text
    assert "span" not in subject + text
    assert "multimodal & an agent's agent: <agents>." in Seen(html).text
    assert "Reagents are none." in Seen(html).text


LONG = (
    "Bricks are old and there are many of them in the towns. In this paper, we propose a novel"
    " kiln for bricks that is fast. It is tested in a town with a wall of bricks."
    + " It holds."
    * 40
)


def test_card_opens_with_the_key_sentence_and_goes_on_after_it():
    """Matched words are marked in both; the text part has both, too."""
    _, html, text = render(one_for(Reason("x", ("bricks",)), title="A kiln", abstract=LONG))

    key = "In this paper, we propose a novel kiln for bricks that is fast."
    assert f"{key.replace('bricks', MARKED.format('bricks'))}</p>" in SPAN.sub("<span>", html)
    assert f"a wall of {MARKED.format('bricks')}. It holds." in SPAN.sub("<span>", html)
    folded = " ".join(text.split())
    assert f"{key} It is tested in a town with a wall of bricks. It holds." in folded
    assert "Bricks are old" not in html + text


def test_card_of_many_has_the_key_sentence_only():
    paper = make_paper(abstract=LONG)

    _, _, text = render(make_digest(*[make_pick(paper)] * 6))

    assert "In this paper, we propose" in text
    assert text.count("It is tested") == 1  # in the first card


def test_card_has_the_whole_of_a_short_abstract():
    short = "Bricks are old and heavy. In this paper, we propose a novel kiln for the bricks."

    _, _, text = render(one(title="A kiln for bricks", abstract=short))

    assert "we propose a novel kiln for the bricks. Bricks are old" in " ".join(text.split())


def test_long_key_sentence_is_cut_at_a_word_and_leaves_no_excerpt():
    paper = make_paper("Kilns", abstract="We propose a " + "very " * 100 + "long kiln. It is fast.")

    sentence, excerpt = views.opening(paper, 120)

    assert sentence.endswith(" very…")
    assert len(sentence) <= 120
    assert excerpt == ""


def test_only_matched_phrases_are_marked_up_to_a_limit():
    """If a pick has no phrases, nothing is marked; long digests mark fewer phrases per paper."""
    paper = make_paper(abstract="one two three four five")
    phrases = ("one", "two", "three", "four", "five")
    few = make_digest(*[make_pick(paper, reasons=(Reason("x", phrases),))] * 2)
    many = make_digest(*[make_pick(paper, reasons=(Reason("x", phrases),))] * 21)

    assert marks(render(make_digest(make_pick(paper, reasons=())))[1]) == []
    assert marks(render(few)[1]) == ["one two three four"] * 2
    assert marks(render(many)[1]) == ["one two"] * 21


def test_repeated_phrase_is_marked_at_most_eight_times():
    paper = make_paper("A Title", abstract="agents and " * 30)

    _, html, _ = render(make_digest(make_pick(paper, reasons=(Reason("x", ("agents",)),))))

    assert marks(html) == ["agents"] * 8


@settings(deadline=None, max_examples=60)
@given(texts, st.lists(texts, max_size=3).map(tuple))
def test_marks_do_not_change_the_text(title, phrases):
    """Markup in a paper stays escaped when phrases are marked."""
    pick = make_pick(make_paper(title), reasons=(Reason("x", phrases),))

    _, html, _ = render(make_digest(pick))

    unmarked = MARK.sub(r"\1", html)
    assert str(escape(formatting.clean(title))) in unmarked
    assert Seen(html).text == Seen(unmarked).text


def test_card_links_to_the_first_three_pages_of_its_paper():
    links = Links(*(f"https://x.example/{name}" for name in "abcde"))

    _, html, text = render(one(links=links))

    labels = ("Abstract", "PDF", "Code")
    for label, url in zip(labels, "abc", strict=True):
        shown = "1. .*" if label == "Abstract" else label  # the title
        assert re.search(rf'href="https://x.example/{url}"[^>]*>{shown}</a>', html)
        assert re.search(rf"^{label} +https://x.example/{url}$", text, re.MULTILINE)


def test_header_shows_the_date_the_covered_days_and_the_number_of_papers():
    digest = make_digest(announced=(date(2029, 12, 31), date(2030, 1, 1)))

    _, html, text = render(digest)

    for shown in (Seen(html).text, text):
        assert "2 January" in shown
        assert "31 December 2029 to 1 January 2030" in shown
        assert "1 paper" in shown


def test_header_names_no_covered_days_if_they_are_today():
    _, html, text = render(make_digest(announced=(TODAY, TODAY)))

    assert "announced" not in Seen(html).text + text


def test_long_key_sentence_begins_with_we_before_it_is_cut():
    lead_in = "To address the lack of bricks in the towns of the north, "
    abstract = f"Bricks are old. {lead_in}we propose a novel kiln for bricks, {'very ' * 40}fast."

    sentence, _ = views.opening(make_paper("A kiln", abstract=abstract), 100)

    assert sentence.startswith("… we propose a novel kiln for bricks, very")


def test_preview_line_is_the_second_and_third_title():
    digest = make_digest(*(make_pick(make_paper(title)) for title in ("First", "Second", "Third")))

    html = render(digest)[1]

    assert Seen(html[html.index("<body") :]).text.startswith("Second · Third")


def test_digest_has_unsubscribe_links_and_names_the_operator():
    _, html, text = render(make_digest(topics=("Search", "Agents")))

    links = Seen(html).links
    assert links[1:3] == [LINKS.view, LINKS.unsubscribe]  # at the top, and again below
    assert links.count(LINKS.unsubscribe) == 2
    assert {LINKS.preferences, LINKS.subscribe, LINKS.privacy} <= set(links)
    for link in (LINKS.view, LINKS.unsubscribe, LINKS.preferences, LINKS.subscribe, LINKS.privacy):
        assert link in text
    for shown in (" ".join(Seen(html).text.split()), " ".join(text.split())):
        assert "You subscribed to Bits & Papers at papers.example.org." in shown
        assert "Example Reading Group" in shown
        assert "12 Sample Street, 10115 Berlin" in shown


def test_number_of_further_papers_links_to_their_page():
    _, html, text = render(make_digest(more=1))

    assert "1 more paper matched" in Seen(html).text
    assert LINKS.more in Seen(html).links
    assert f"1 more paper matched.\nSee them: {LINKS.more}" in text
    assert "See them" not in render(make_digest(more=0))[2]


def test_first_digest_has_a_welcome_text():
    assert "This is your first digest" in render(make_digest(welcome=True))[1]
    assert "This is your first digest" in render(make_digest(welcome=True))[2]
    assert "first digest" not in render(make_digest())[1]


MATCHED = (("Dense retrieval", 23), ("Trending", None), ("Agents", 0))


def recap(days: int, more: int = 20, *, after_pause: bool = False) -> str:
    """Return the line at the top of a digest of three papers that covers `days` days."""
    topics = ("Dense retrieval", "Dense retrieval", "Trending")
    digest = make_digest(
        *(make_pick(reasons=(Reason(topic),)) for topic in topics),
        announced=(TODAY - timedelta(days=3), TODAY),
        more=more,
        recap=Recap(TODAY - timedelta(days=days - 1), after_pause, MATCHED),
    )
    _, html, text = render(digest)
    shown = " ".join(Seen(html[html.index("<h1") :]).text.split())
    for heading in ("Dense retrieval · 2 of 23", "Trending"):
        assert f" {heading} " in shown
        assert f"\n{heading}\n" in text
    assert "announced" not in shown + text
    line = " ".join(text.partition("2 January\n")[2].partition("View in browser")[0].split())
    assert line in shown
    return line


def test_recap_says_what_it_covers_and_how_many_papers_matched_each_topic():
    week = "27 December 2029 to 2 January 2030"
    assert recap(7) == f"Your week: 3 of 23 papers on 2 topics, {week}."
    assert recap(7, more=0) == f"Your week: 3 papers on 2 topics, {week}."
    assert recap(2) == "Since your last digest: 3 of 23 papers on 2 topics, 1 to 2 January."
    assert recap(7, after_pause=True) == (
        "Welcome back: the best of the last 7 days, 3 of 23 papers on 2 topics."
    )


def test_question_has_one_link_to_its_page():
    _, html, text = render(make_digest(pauses_on=date(2030, 1, 31)))

    for shown in (" ".join(Seen(html).text.split()), " ".join(text.split())):
        assert "Still want these emails?" in shown
        assert "Otherwise they pause on 31 January." in shown
    assert Seen(html).links.count(f"{LINKS.preferences}/keep") == 1
    assert f"Keep them coming: {LINKS.preferences}/keep\n" in text
    assert "/keep" not in "".join(render(make_digest())[1:])


def test_shared_page_of_a_digest_asks_nothing():
    shared = replace(LINKS, unsubscribe="", preferences="https://papers.example.org/link")

    _, html, text = RENDERER.page(make_digest(pauses_on=TODAY), shared)

    assert "Still want" not in html + text
    assert "/keep" not in html + text


def test_pause_note_has_one_link_to_resume_and_one_to_unsubscribe():
    mail = RENDERER.pause_note(LINKS)
    html, text = decoded(mail.html), decoded(mail.text)

    assert mail.subject == "Bits & Papers is paused"
    links = Seen(html).links
    assert links.count(f"{LINKS.preferences}/keep") == 1
    assert LINKS.unsubscribe in links
    assert f"Resume my digests:\n{LINKS.preferences}/keep\n" in text
    assert f"Unsubscribe: {LINKS.unsubscribe}" in text


def test_weekly_mail_lists_saved_papers_with_notes_and_links():
    papers = (
        SavedPaper("cs/0301001", "Moss & <b>walls</b>", ("Ada Lovelace",), "read\x00 <i>", True),
        SavedPaper("title:1", "Tea", (), "", False, "https://tea.example/1"),
        SavedPaper("title:2", "", (), "", False, "javascript:alert(1)"),
    )

    mail = RENDERER.saved_papers(SavedWeek(TODAY, papers, 1), LINKS)

    html, text = decoded(mail.html), decoded(mail.text)
    links = Seen(html).links
    assert links.count(f"{LINKS.papers}/cs%2F0301001") == 1
    assert links.count("https://tea.example/1") == 1
    assert "javascript:" not in html + text
    assert links.count(f"{LINKS.preferences}/saved") == 1
    assert f"{LINKS.preferences}/saved#weekly" in links
    assert LINKS.unsubscribe in links
    assert "Moss &amp; &lt;b&gt;walls&lt;/b&gt;" in html
    assert "- Moss & <b>walls</b>\n  Ada Lovelace\n  read <i>\n" in text
    assert "Untitled" in text
    assert "1 more paper\n" in text
    assert "1 more paper<" in html


def test_longest_weekly_mail_is_not_clipped_by_gmail():
    long = "Дым " * 300
    paper = SavedPaper("3001.00001", long, (long,) * 9, long, True)

    url = f"https://papers.example.org/preferences/{'x' * 60}"
    links = replace(LINKS, preferences=url, papers=f"{url}/papers")

    mail = RENDERER.saved_papers(SavedWeek(TODAY, (paper,) * saved_mails.MOST, 999), links)
    alone = RENDERER.saved_papers(SavedWeek(TODAY, (replace(paper, note="ы" * 300),), 0), links)

    assert "ы" * 300 in decoded(alone.html)
    assert sum(map(len, (*mail.html, *mail.text))) < 90_000


def test_operator_note_and_logo_are_shown():
    noted = Renderer(
        replace(BRANDING, note="No digest on <Friday>.", logo_url="https://x.example/l.png"),
        EMAILS,
        find,
    )

    _, html, text = render(make_digest(), noted)

    assert "No digest on <Friday>." in Seen(html).text
    assert "No digest on <Friday>." in text
    assert '<img src="https://x.example/l.png" alt="Bits &amp; Papers"' in html


def test_html_loads_no_external_resources():
    """No picture, font or style sheet: a mail is complete offline and does not track its reader."""
    html = render(make_digest())[1]

    assert not re.search(r"<(img|link|script|iframe)\b|url\(|@import", html)


def test_text_lines_have_at_most_76_characters():
    digest = make_digest(
        *(make_pick(make_paper(abstract=ABSTRACT, title="Word " * 50)) for _ in range(3)),
        topics=tuple(f"A topic of some length, number {n}" for n in range(20)),
        more=5,
    )

    text = render(digest)[2]

    assert all(len(line) <= 76 for line in text.splitlines() if "://" not in line)


@pytest.mark.parametrize(
    ("titles", "subject"),
    [
        (["One"], "One · Bits & Papers"),
        (["One", "Two", "Three"], "One · Bits & Papers"),
        (["A Title of Thirty Characters.."], "A Title of Thirty Characters.."),
        (["W " * 100, "Two"], f"{'W ' * 44}W…"),
    ],
)
def test_subject_is_the_title_of_the_first_paper(titles, subject):
    digest = make_digest(*(make_pick(make_paper(title)) for title in titles))

    assert RENDERER.digest(digest, LINKS).subject == subject


@pytest.mark.parametrize("title", ["Moss", "A Title of More than Thirty Characters", "W " * 100])
def test_near_misses_are_marked_and_claim_no_match(title):
    """The topic stands above, but no part says that a paper matched it."""
    reasons = (Reason("dense retrieval", ("moss",)), Reason("robots", ("walls",)))
    digest = make_digest(make_pick(make_paper(title), reasons=reasons), topics=("dense retrieval",))

    mail = RENDERER.digest(replace(digest, near_misses=True), LINKS)

    html, text = Seen(decoded(mail.html)), decoded(mail.text)
    assert mail.subject.startswith("Near your topics: ")
    assert len(mail.subject) <= formatting.HEADLINE
    for shown in (html.text, text):
        flat = " ".join(shown.split())
        assert "No new paper matched your topics. These come nearest." in flat
        assert "dense retrieval" in flat
        assert "Matched" not in flat
        assert "Also for" not in flat
    assert html.links.count(LINKS.preferences) == 2
    assert text.replace(LINKS.papers, "").count(LINKS.preferences) == 2


def test_confirmation_has_its_link_expiry_and_postal_address():
    mail = RENDERER.transactional(
        DeliveryKind.CONFIRMATION,
        "https://x.example",
        url="https://papers.example.org/confirm/9.1.x",
        lasts=timedelta(hours=72),
    )

    html, text = decoded(mail.html), decoded(mail.text)
    assert mail.subject == "Confirm your subscription to Bits & Papers"
    assert Seen(html).links.count("https://papers.example.org/confirm/9.1.x") == 2
    assert "\nhttps://papers.example.org/confirm/9.1.x\n" in text
    for shown in (" ".join(Seen(html).text.split()), " ".join(text.split())):
        assert "The link expires in 72 hours." in shown
        assert "If you did not sign up, ignore this email" in shown
        assert "12 Sample Street, 10115 Berlin" in shown
        assert "nsubscribe" not in shown


# --- Size ---------------------------------------------------------------------------------------

SENDER = Sender(
    mail_from="Paperboy <papers@example.org>",
    list_name="Paperboy",
    site_url=BRANDING.site_url,
    key="a key for tests",
)


def size(digest: Digest) -> int:
    mail = compose_list_mail(
        SENDER,
        RENDERER.digest(digest, LINKS),
        to="ada@example.org",
        dedupe_key="digest:2030-01-02:17",
        unsubscribe_url=LINKS.unsubscribe,
        secret="k3hd82hs",
        edition_on=TODAY,
        now=NOW,
    )
    return len(mail)


@pytest.mark.parametrize(
    "abstract", [ABSTRACT, "Ünïcödé is heavier on the wire. " * 70, "论文" * 1000]
)
@pytest.mark.parametrize("papers", [20, 30, 50])
def test_digest_stays_under_90_kb(papers, abstract):
    """If there are more than twenty papers, abstracts are cut and papers are kept."""
    links = Links(*(f"https://papers.example.com/{'x' * 20}/{name}" for name in "abcde"))
    long = [
        make_pick(
            make_paper(
                "A Title of the Length That Titles Have: About Eighty or Ninety Characters",
                abstract=abstract[:2000], links=links, upvotes=100, comments=10,
                authors=("Ada Lovelace",) * 9, sources=("huggingface", "arxiv"),
            ),
            reasons=(Reason("World models", ("world model", "video")), Reason("Agents", ("plan",))),
        )
        for _ in range(papers)
    ]  # fmt: skip

    assert size(make_digest(*long, more=99)) < SMALL


@pytest.mark.shared
def test_digest_of_recorded_papers_stays_under_90_kb():
    day = json.loads((SHARED / "hf_daily_papers" / "2026-07-31.json").read_text())
    papers = [entry["paper"] for entry in day[:20]]
    picks = [
        make_pick(
            make_paper(
                paper["title"],
                key=paper["id"],
                abstract=paper["summary"],
                authors=tuple(author["name"] for author in paper["authors"]),
                upvotes=paper["upvotes"],
            )
        )
        for paper in papers
    ]

    assert size(make_digest(*picks)) < SMALL


# --- Templates ----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path) -> Path:
    """Return a copy of the templates that a test may break."""
    return Path(shutil.copytree(EMAILS, tmp_path / "emails"))


def spoil(path: Path, old: str, new: str) -> None:
    before = path.read_text()
    assert old in before
    path.write_text(before.replace(old, new, 1))


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("digest.mjml", "</mj-column>", ""),  # not MJML
        ("digest.mjml", "<mj-text css", "<mj-txt css"),  # an unknown tag
        ("partials/card.mjml", "{% endif %}", ""),  # not Jinja
        ("partials/card.txt", "{% endif %}", ""),
        ("digest.mjml", "{% for pick in picks %}", "{% for paper in picks %}"),
        ("digest.mjml", "partials/card.mjml", "partials/crad.mjml"),
        ("confirmation.txt", "{{ confirm_url }}", "{{ confirm_url"),
        ("confirmation.mjml", "hours)", "ours)"),  # an unknown name
        ("partials/footer.mjml", "{{ branding.host }}", "{{ branding.hots }}"),
        ("partials/card.mjml", "{{ pick.facts }}", "{{ pick.fact }}"),
        ("partials/welcome.mjml", "<p ", "{{ welcome }}<p "),
        ("digest.txt", "{{ mail.more }}", "{{ mail.more | upper }}"),  # alters visible text
        (
            "digest.mjml",
            "{% if edition.has_more %}",
            "{% if mail.more == '2 more papers matched.' %}",
        ),
        ("partials/card.txt", "{{ pick.place.lines }}", "{{ pick.place.lines | upper }}"),
        ("partials/mark.mjml", "{{ words }}", "{{ word }}"),
        ("partials/mark.mjml", "{{ words }}", "{{ words"),
        ("partials/mark.mjml", "{{ words }}", "these"),
    ],
)
def test_broken_template_raises_render_error(folder, name, old, new):
    spoil(folder / name, old, new)

    with pytest.raises(RenderError):
        Renderer(BRANDING, folder, find)


@pytest.mark.parametrize("name", ["digest.mjml", "digest.txt", "link.mjml", "partials/card.txt"])
def test_error_of_a_broken_template_names_its_file(folder, name):
    if name.endswith("mjml"):
        spoil(folder / name, "</mj-text>", "{% endif %}</mj-text>")
    else:
        with (folder / name).open("a") as template:
            template.write("{% endif %}")

    with pytest.raises(RenderError, match=rf"^{name}: "):
        Renderer(BRANDING, folder, find)


def test_rendered_html_contains_no_mjml():
    assert "<mj-" not in render(make_digest(more=3, welcome=True))[1]
    for kind, mail in MAIL_KINDS.items():
        if not mail.is_list:
            rendered = RENDERER.transactional(kind, "https://x.example", url="https://x.example")
            assert "<mj-" not in decoded(rendered.html)


def test_template_version_changes_with_a_template(folder):
    before = Renderer(BRANDING, folder, find).template_version

    assert before == RENDERER.template_version
    spoil(folder / "partials" / "footer.mjml", "Forwarded", "Passed on")
    assert Renderer(BRANDING, folder, find).template_version != before


@pytest.mark.parametrize(
    ("stars", "shown"),
    [
        (None, ""), (0, ""), (1, "1 star"), (999, "999 stars"), (1_000, "1k stars"),
        (1_049, "1k stars"), (1_299, "1.2k stars"), (9_999, "9.9k stars"), (45_678, "45k stars"),
        (1_234_567, "1,234k stars"),
    ],
)  # fmt: skip
def test_stars_of_the_code_are_shown_if_there_are_any(stars, shown):
    paper = make_paper(authors=("Ada Lovelace",), categories=(), upvotes=3, stars=stars)

    facts = views.card(paper, (), BRANDING, views.room(10)).facts

    assert facts == " · ".join(filter(None, ("Ada Lovelace", "3 upvotes", shown)))


# --- CSS in mail clients ------------------------------------------------------------------------

# The properties that mails may use, each with what a client shows that does not support it
# (caniemail.com; the client named is an example).
CSS = {
    "background": "white, as without style sheets",
    "background-color": "no highlight: the matched words are named in the text part",
    "border": "0 for pictures: an old client draws a frame around a linked logo",
    "border-color": "the colour of the light mode",
    "border-collapse": "a gap of two pixels around the sheet",
    "border-radius": "square corners (Outlook for Windows)",
    "border-top": "no line between the groups, whose headings remain",
    "color": "black text and blue links",
    "color-scheme": "the light mode, or colours that the client inverts itself (Gmail)",
    "direction": "left to right, the default",
    "display": "links are inline, as high as their text (Outlook for Windows, used with a mouse)",
    "float": "the attribute align of a thumbnail (Outlook for Windows)",
    "font": "the font of the client",
    "font-family": "the font of the client",
    "font-size": "the size of the client",
    "font-weight": "headings are bold as elements",
    "height": "titles of one line are 21 pixels high (Outlook for Windows, Yahoo)",
    "letter-spacing": "the name of the list is a little wider",
    "line-height": "lines are closer",
    "margin": "the distances of the client",
    "max-height": "the preview line has opacity 0 and font size 1",
    "max-width": "the sheet is as wide as its table, 600 pixels",
    "mso-table-lspace": "only for Outlook",
    "mso-table-rspace": "only for Outlook",
    "-ms-interpolation-mode": "only for Outlook",
    "-ms-text-size-adjust": "only for Windows phones",
    "-webkit-text-size-adjust": "only for old iOS",
    "opacity": "the preview line has font size 1",
    "outline": "a frame around a linked logo",
    "overflow": "the preview line has font size 1",
    "padding": "links are as high as their text (Outlook for Windows supports it in cells only)",
    "padding-left": "the margin of wide screens",
    "padding-right": "the margin of wide screens",
    "supported-color-schemes": "old name of color-scheme (Apple Mail)",
    "text-align": "the text of a button is not centred",
    "text-decoration": "titles are underlined",
    "vertical-align": "a title of one line is at the top of its 44 pixels",
    "width": "the sheet is as wide as its text",
    "word-break": "a long URL makes the mail wider",
    "word-spacing": "the default",
}
DISPLAY = {"block", "inline-block", "none", "table-cell"}  # Gmail keeps no other in all its apps
AT_RULES = {
    "@media only screen and (min-width:480px)": "one column anyway",
    "@media (max-width: 479px)": "the wider margin, and rounded corners",
    "@media (prefers-color-scheme: dark)": "the light mode",
}


def test_mails_use_only_css_with_a_known_fallback():
    """A property or at-rule that a client does not support may cost it the whole style sheet.

    Rules for a state, such as `:hover`, are not used: Gmail's apps and Outlook drop them.
    """
    used = set()
    for mail in each_kind_of_mail():
        html = re.sub(r"<!--.*?-->", "", plain(mail.html), flags=re.S)
        sheets = " ".join(re.findall(r"<style[^>]*>(.*?)</style>", html, re.S))
        blocks = [
            *re.findall(r"\{([^{}]*)\}", sheets),
            *map(unescape, re.findall(r' style="([^"]*)"', html)),
        ]
        declared = [
            tuple(map(str.strip, part.split(":", 1)))
            for block in blocks
            for part in block.split(";")
            if part.strip()
        ]
        used |= {name for name, _ in declared}
        assert {value for name, value in declared if name == "display"} <= DISPLAY
        assert {*map(str.strip, re.findall(r"@[^{;]*", sheets))} <= AT_RULES.keys()
        selectors = re.sub(r"\{[^{}]*\}|@[^{;]*\{", " ", sheets)
        assert re.findall(r":[\w-]+", selectors) == [":root"]
    assert used == CSS.keys()


def each_kind_of_mail() -> Iterator[Rendered]:
    noted = Renderer(replace(BRANDING, note="Closed on Friday", thumbnails=True), EMAILS, find)
    longer = replace(selftest.FULL, picks=selftest.FULL.picks * 3)  # has contents
    for digest in (selftest.BARE, selftest.FULL, longer):
        yield noted.digest(digest, LINKS)
    yield from (RENDERER.quiet_note(note, LINKS) for note in selftest.NOTES)
    yield from (RENDERER.saved_papers(week, LINKS) for week in selftest.WEEKS)
    for kind, mail in MAIL_KINDS.items():
        if not mail.is_list:
            yield RENDERER.transactional(kind, "https://x.example", url="https://x.example")


# --- Cached cards -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"title": "New words", "version": 2},
        {"upvotes": 7},
        {"comments": 7},
        {"stars": 7},
        {"links": Links(abstract="https://x.example/new")},
        {"withdrawn": True},
        {"sources": ("medrxiv",)},
    ],
)
def test_changed_paper_is_rendered_again(changes):
    paper = make_paper("Old words", authors=(), categories=(), upvotes=0, comments=0)
    before = render(make_digest(make_pick(paper)))

    after = render(make_digest(make_pick(replace(paper, **changes))))

    assert before[1] != after[1]
    assert before[2] != after[2]


def test_cached_paper_is_shown_with_the_reasons_of_each_reader():
    paper = make_paper()

    first = render(make_digest(make_pick(paper, reasons=(Reason("Search"),)), topics=()))
    second = render(make_digest(make_pick(paper, reasons=(Reason("Agents"),)), topics=()))

    assert "Agents" not in first[1]
    assert "Search" not in second[1]


def test_cache_is_bounded_and_evicts_the_least_recently_used():
    kept: RenderCache[int, str] = RenderCache(2)
    made = []

    def get(key: int) -> str:
        return kept.get(key, lambda: made.append(key) or str(key))

    for key in (1, 2, 1, 3, 1, 2):
        assert get(key) == str(key)
    assert made == [1, 2, 3, 2]
    assert len(kept) == 2


# --- Text and colours ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "limit", "kept"),
    [
        ("Short.", 10, "Short."),
        ("One sentence here. Another that is too long.", 30, "One sentence here. …"),
        ("One. Then a sentence that goes on and on.", 30, "One. Then a sentence that…"),
        ("Supercalifragilistic", 10, "Supercali…"),
        ("words, cut at a comma", 7, "words…"),
        ("一二三四五六七八九十", 24, "一二三…"),
        ("Anything", 0, ""),
    ],
)
def test_cut_ends_at_a_sentence_or_word(text, limit, kept):
    assert formatting.cut(text, limit) == kept


@given(st.text(max_size=400), st.integers(1, 100))
def test_cut_keeps_the_limit(text, limit):
    clean = formatting.clean(text)

    assert len(formatting.cut_at_word(clean, limit)) <= limit
    assert (
        formatting.cut(clean, limit).rstrip(" …")
        == clean[: len(formatting.cut(clean, limit).rstrip(" …"))]
    )


@pytest.mark.parametrize(
    ("first", "last", "said"),
    [
        (date(2026, 7, 30), date(2026, 7, 30), "Thursday 30 July"),
        (date(2026, 7, 28), date(2026, 7, 31), "28 to 31 July"),
        (date(2026, 6, 30), date(2026, 7, 2), "30 June to 2 July"),
        (date(2025, 12, 31), date(2026, 1, 1), "31 December 2025 to 1 January 2026"),
    ],
)
def test_date_range_is_formatted_briefly(first, last, said):
    assert formatting.days(first, last) == said


@pytest.mark.parametrize(
    ("names", "total", "said"),
    [
        ((), 0, ""),
        (("A",), 1, "A"),
        (("A", "B"), 2, "A and B"),
        (("A", "B", "C"), 3, "A, B and C"),
        (("A", "B", "C", "D"), 4, "A, B, C and 1 more"),
        (("A", "B"), 9, "A, B and 7 more"),
    ],
)
def test_at_most_three_authors_are_named(names, total, said):
    assert formatting.authors(names, total) == said


def test_topics_beyond_the_limit_are_counted():
    said = views.topics(tuple(f"T{n}" for n in range(20)))

    assert said.endswith("T11 and 8 more")


@given(st.integers(0, 0xFFFFFF).map("#{:06x}".format))
def test_any_accent_color_has_sufficient_contrast(accent):
    """WCAG 2.2, 1.4.3: a contrast of at least 4.5 : 1."""
    branding = replace(BRANDING, accent_color=accent)

    assert contrast(branding.accent, SHEET) >= 4.5
    assert contrast(branding.accent_on_dark, SHEET_DARK) >= 4.5
