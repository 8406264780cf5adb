"""Search in all papers: results, highlighting, and the index behind them."""

from __future__ import annotations

import re
import threading
from datetime import date, timedelta
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import escape
from starlette.testclient import TestClient

from pipeline.matching.corpus import statistics
from pipeline.matching.index import PaperIndex
from pipeline.matching.mentions import stems_of
from pipeline.matching.query import parse
from pipeline.matching.words import _stem, stem
from pipeline.web import create_app
from pipeline.web import library as libraries
from pipeline.web.library import Library
from pipeline.web.marking import asked_for, marked
from tests.factories import make_paper, make_sighting
from tests.newsroom import ingest, stored
from tests.site import URL, Site, open_site
from tests.test_web_papers import titles

WEDNESDAY = date(2030, 1, 2)

one_database = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


@pytest.fixture
def site(engine) -> Site:
    return open_site(engine)


# --- Results ------------------------------------------------------------------------------------


def test_the_topic_language_searches_every_paper(site, engine):
    ingest(
        engine,
        make_sighting(title="Dense retrieval", announced_on=WEDNESDAY - timedelta(days=400)),
        make_sighting(title="Retrieval of moths", categories=("q-bio.PE",)),
        make_sighting(title="Moths alone", abstract="Moths."),
    )

    assert set(titles(site.get("/papers?q=ti:retrieval").text)) == {
        "Dense retrieval",
        "Retrieval of moths",
    }
    assert titles(site.get("/papers?q=moths+cat:q-bio.*").text) == ["Retrieval of moths"]
    assert titles(site.get("/papers?q=moths+-retrieval").text) == ["Moths alone"]


def test_a_search_can_be_kept_to_a_period_and_to_a_topic(site, engine):
    ingest(engine, make_sighting(title="Moths", announced_on=WEDNESDAY - timedelta(days=40)))
    ingest(engine, make_sighting(title="Moths again"), make_sighting(title="Moths, an LLM agent"))

    assert len(titles(site.get("/papers?q=moths").text)) == 3
    assert set(titles(site.get("/papers?q=moths&month=2030-01").text)) == {
        "Moths again",
        "Moths, an LLM agent",
    }
    assert titles(site.get("/papers?q=moths&topic=agents").text) == ["Moths, an LLM agent"]
    assert titles(site.get("/papers?q=moths&topic=trending&date=2030-01-02").text) != []


@one_database
def test_what_is_found_comes_in_the_order_that_is_asked_for(site, engine):
    long_ago = WEDNESDAY - timedelta(days=9)
    ingest(
        engine,
        make_sighting(title="Moths, moths", abstract="Moths.", announced_on=long_ago, upvotes=1),
        make_sighting(title="On moths", upvotes=5, announced_on=long_ago + timedelta(days=1)),
        make_sighting(title="Of moths and readers", upvotes=3),
    )

    best, trending, newest = (
        titles(site.get(f"/papers?q=moths&sort={sort}").text)
        for sort in ("best", "trending", "newest")
    )

    assert best[0] == "Moths, moths"
    assert trending == ["On moths", "Of moths and readers", "Moths, moths"]
    assert newest == ["Of moths and readers", "On moths", "Moths, moths"]


@one_database
@pytest.mark.parametrize(
    ("query", "before", "marked_place"),
    [
        ('moths "and more', "moths ", "&#34;and more"),
        ("(moths OR", "", "(moths OR"),
        ("moths ti:", "moths ", "ti:"),
        ("-moths", "", "-moths"),
    ],
)
def test_a_mistake_is_pointed_at_and_nothing_typed_is_lost(
    site, engine, query, before, marked_place
):
    ingest(engine, make_sighting())

    answer = site.get(f"/papers?q={quote(query)}&month=2030-01&sort=newest")

    assert answer.status_code == 422
    assert f"<code>{before}<mark>{marked_place}</mark></code>" in answer.text
    assert f'value="{escape(query)}"' in answer.text
    assert 'aria-describedby="q-mistake"' in answer.text
    assert '<input type="checkbox" name="month" value="2030-01" checked>' in answer.text
    assert '<input type="hidden" name="sort" value="newest">' in answer.text


@one_database
@pytest.mark.parametrize("query", ["x" * 3_000, "\x00", "a\x00b", "\ud800", "((((" * 30, "🦋", "%"])
def test_no_text_breaks_the_search(site, engine, query):
    ingest(engine, make_sighting())

    address = f"/papers?q={quote(query, errors='surrogatepass')}"

    assert site.get(address).status_code in {200, 422}


@one_database
def test_a_search_without_an_answer_says_what_to_do(site, engine):
    ingest(engine, make_sighting())

    page = site.get("/papers?q=zebrafish&date=2030-01-02").text

    assert "No paper matches" in page
    assert '<a href="/papers?q=zebrafish">Search all days</a>' in page
    assert 'href="/subscribe?topic=zebrafish"' in page


@one_database
def test_the_invitation_carries_what_was_searched(site, engine):
    ingest(engine, make_sighting())

    assert 'href="/subscribe?topic=moths+-zebra"' in site.get("/papers?q=moths+-zebra").text
    assert "Get trending papers in your email inbox!" in site.get("/").text
    assert 'href="/subscribe"' in site.get("/").text


@one_database
@pytest.mark.parametrize("page", ["/papers?topic=agents", "/topics/agents"])
def test_a_topic_with_a_name_is_subscribed_to_by_its_name(site, page):
    assert 'href="/subscribe?topic=agents"' in site.get(page).text


@one_database
def test_a_paper_leads_to_similar_ones_once_they_are_read(site, engine):
    ingest(
        engine,
        make_sighting("2912.00001", title="Wings of nocturnal moths"),
        make_sighting("2912.00002", title="Nocturnal moths and lamps"),
    )
    site.get("/papers?q=moths")

    page = site.get("/papers/2912.00001").text

    assert 'href="/papers/2912.00002"' in page.split("Similar papers")[1]


# --- Highlighting -------------------------------------------------------------------------------


@one_database
def test_the_words_that_matched_are_marked_and_all_else_is_escaped(site, engine):
    ingest(
        engine,
        make_sighting(
            title="<b>World-Models</b> & worlds",
            abstract="A world model <i>dreams</i>. " + "Filler of the abstract. " * 30 + "A model.",
        ),
    )

    page = site.get("/papers?q=%22world+model%22").text

    assert "&lt;b&gt;<mark>World-Models</mark>&lt;/b&gt; &amp; worlds" in page
    assert "A <mark>world model</mark> &lt;i&gt;dreams&lt;/i&gt;." in page


def test_each_word_of_a_ranked_group_is_marked_and_a_phrase_only_whole():
    wanted = asked_for(parse('video models OR "optical flow"'))

    text = "Models for video: optical illusions, optical flow"

    assert marked(text, wanted) == (
        "<mark>Models</mark> for <mark>video</mark>: optical illusions, <mark>optical flow</mark>"
    )


def test_neither_what_is_left_out_nor_an_author_is_marked():
    assert asked_for(parse("moth -zebra au:lovelace cat:cs.CL")) == {(stem("moth"),)}


@given(st.text(max_size=200), st.lists(st.text(max_size=20), max_size=3))
def test_marking_changes_no_letter(text, phrases):
    shown = str(marked(text, stems_of(phrases)))

    assert re.sub("</?mark>", "", shown) == str(escape(text))


# --- The index and its segments -----------------------------------------------------------------


def test_shelves_find_what_one_index_of_all_papers_finds(engine, monkeypatch):
    monkeypatch.setattr(libraries, "SHELF", 7)
    subjects = ["moths", "zebrafish", "dense retrieval", "multi-modal models"]
    ingest(
        engine,
        *(make_sighting(title=f"{subjects[n % 4]} and {subjects[n % 3]}") for n in range(60)),
    )
    library = Library(engine, background=False)
    library.renew()
    shelves, papers = library.shelves(), stored(engine)
    whole = PaperIndex(papers)

    for query in ("moths", "dense retrieval", "multimodal", "zebrafish -moths", "reader topics"):
        found, expected = shelves.find(parse(query)), whole.find(parse(query))

        assert len(shelves.shelves) > 5
        assert found.papers.tolist() == expected.papers.tolist()
        assert found.scores.tolist() == pytest.approx(expected.scores.tolist())
        assert shelves.phrases(parse(query), found.papers) == whole.phrases(
            parse(query), expected.papers
        )


@one_database
def test_only_the_shelf_of_a_new_paper_is_filled_anew(engine, monkeypatch):
    monkeypatch.setattr(libraries, "SHELF", 10)
    ingest(engine, *(make_sighting() for _ in range(25)))
    library = Library(engine, background=False)
    library.renew()
    before = {id(shelf.index._postings) for shelf in library.shelves().shelves}
    ingest(engine, make_sighting(title="New on the shelf"))

    library.renew()

    after = [id(shelf.index._postings) for shelf in library.shelves().shelves]
    assert [shelf in before for shelf in after] == [True, True, False]
    assert library.shelves().find(parse("shelf")).papers.size == 1


@one_database
def test_until_the_papers_are_read_the_newest_are_searched_and_the_page_says_so(
    engine, monkeypatch
):
    monkeypatch.setattr(libraries, "FEW", 3)
    ingest(engine, *(make_sighting(title=f"Moth {n}") for n in range(5)))
    services = open_site(engine).services
    library = Library(engine, background=False)
    browser = TestClient(create_app(services, library=library), base_url=URL)

    early = browser.get("/papers?q=moth").text
    library.renew()
    later = browser.get("/papers?q=moth").text

    assert len(titles(early)) == 3
    assert "still being read" in early
    assert len(titles(later)) == 5
    assert "still being read" not in later


@one_database
def test_a_served_site_reads_its_papers_before_anybody_asks_and_follows_news(engine):
    ingest(engine, make_sighting(title="Moths"))
    library = Library(engine)
    services = open_site(engine).services

    with TestClient(create_app(services, library=library), base_url=URL) as browser:
        assert library._ready.wait(20)
        ingest(engine, make_sighting(title="More moths"))
        for _ in range(200):  # each request starts a check for new papers
            if len(found := titles(browser.get("/papers?q=ti:moths").text)) == 2:
                break
            threading.Event().wait(0.05)

    assert set(found) == {"Moths", "More moths"}


def test_an_index_counts_its_papers_as_the_corpus_does():
    papers = [make_paper(keywords=("patient readers",)), make_paper("Moths and moths")]

    index = PaperIndex(papers)

    assert index.statistics() == statistics(papers)
    assert PaperIndex([]).statistics() == statistics([])


def test_threads_stem_the_same_words_alike():
    words = [f"{one}{end}" for one in ("index", "read", "relat") for end in ("ing", "ed", "ional")]
    words = [f"{word}{n}x" for word in words for n in "abcdefghij"] * 20
    alone = [_stem.__wrapped__(word) for word in words]
    together: list[list[str]] = []

    threads = [
        threading.Thread(target=lambda: together.append([_stem.__wrapped__(w) for w in words]))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert together == [alone] * 4
