"""Search in all papers: results, highlighting, and the index behind them."""

from __future__ import annotations

import re
import threading
from datetime import date, timedelta
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import escape
from starlette.testclient import TestClient

from pipeline.matching.corpus import statistics
from pipeline.matching.highlights import stems_of
from pipeline.matching.index import PaperIndex
from pipeline.matching.query import parse
from pipeline.matching.tokens import _stem, stem
from pipeline.web import create_app
from pipeline.web.papers import search_index
from pipeline.web.papers.search_index import LiveIndex
from pipeline.web.papers.views import marked, phrases_in
from tests.support.factories import make_paper, make_sighting
from tests.support.newsroom import ingest, stored
from tests.support.site import URL, Site, open_site, titles

WEDNESDAY = date(2030, 1, 2)

one_database = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


@pytest.fixture
def site(engine) -> Site:
    return open_site(engine)


# --- Results ------------------------------------------------------------------------------------


def test_search_uses_the_topic_language_over_all_papers(site, engine):
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


def test_search_can_be_limited_to_a_period_and_a_topic(site, engine):
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
def test_search_results_follow_the_requested_order(site, engine):
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
def test_search_syntax_error_is_marked_and_input_is_kept(site, engine, query, before, marked_place):
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
def test_any_search_text_returns_200_or_422(site, engine, query):
    ingest(engine, make_sighting())

    address = f"/papers?q={quote(query, errors='surrogatepass')}"

    assert site.get(address).status_code in {200, 422}


@one_database
def test_search_without_results_suggests_alternatives(site, engine):
    ingest(engine, make_sighting())

    page = site.get("/papers?q=zebrafish&date=2030-01-02").text

    assert "No papers match" in page
    assert '<a href="/papers?q=zebrafish">Search all days</a>' in page
    assert 'href="/subscribe?topic=zebrafish"' in page


@one_database
@pytest.mark.parametrize(
    "typed",
    [
        "2607.22798", "2607.22798v2", "arXiv:2607.22798", "https://arxiv.org/abs/2607.22798v1",
        "arxiv.org/pdf/2607.22798", "https://huggingface.co/papers/2607.22798",
        "10.1101/2026.07.01.123456", "https://doi.org/10.1101/2026.07.01.123456 ",
    ],
)  # fmt: skip
def test_identifier_or_link_leads_to_its_paper(site, engine, typed):
    ingest(
        engine, make_sighting("2607.22798"), make_sighting(None, doi="10.1101/2026.07.01.123456")
    )

    found = site.get(f"/papers?q={quote(typed, safe='')}")

    assert found.status_code == 303
    paper = found.headers["location"]
    assert paper in {"/papers/2607.22798", "/papers/doi:10.1101/2026.07.01.123456"}
    assert site.get(paper).status_code == 200


@one_database
def test_unknown_identifier_is_named(site, engine):
    ingest(engine, make_sighting())

    found = site.get("/papers?q=2607.99999")

    assert found.status_code == 404
    assert "<code>2607.99999</code>" in found.text


@one_database
def test_papers_that_match_in_part_come_last_in_every_order(site, engine):
    ingest(
        engine,
        make_sighting(title="Oak, moth and pollen of the dunes", upvotes=9),
        make_sighting(title="Moth pollination", abstract="Moth pollination by night."),
        make_sighting(title="Steel", abstract="A moth is mentioned."),
        make_sighting(title="Concrete", abstract="Nothing."),
    )

    for sort in ("best", "trending", "newest"):
        page = site.get(f"/papers?q=moth+pollination&sort={sort}").text
        assert titles(page)[0] == "Moth pollination"
        assert set(titles(page)[1:]) == {"Steel", "Oak, moth and pollen of the dunes"}
        assert "1 paper, 2 more that match only in part" in page


@one_database
def test_search_with_partial_matches_only_says_so(site, engine):
    ingest(engine, make_sighting(title="Steel", abstract="A moth is mentioned."))

    page = site.get("/papers?q=moth+pollination+dunes").text

    assert "1 paper that matches only in part" in page
    assert "0 papers" not in page


@one_database
def test_name_finds_its_papers(site, engine):
    """A full name comes before the words, a single word after them."""
    ingest(
        engine,
        make_sighting(title="Engines", authors=("Ada Moth",)),
        make_sighting(title="Moth Ada lights", abstract="Ada saw a moth."),
    )

    assert titles(site.get("/papers?q=ada+moth").text) == ["Engines", "Moth Ada lights"]
    assert titles(site.get('/papers?q="ada moth"').text) == ["Engines"]
    assert titles(site.get("/papers?q=moth").text) == ["Moth Ada lights", "Engines"]


@one_database
@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("polination", "pollination"),
        ("moht pollinatoin", "moth pollination"),
        ('"mothh"', '"moth"'),
    ],
)
def test_typo_is_corrected_by_a_link(site, engine, typed, meant):
    ingest(engine, make_sighting(title="Moth pollination"))

    page = site.get("/papers", params={"q": typed}).text

    assert re.search(
        rf'Did you mean <a href="/papers\?q=[^"]+" dir="auto">{escape(meant)}</a>', page
    )


@one_database
@pytest.mark.parametrize(
    "typed",
    [
        "moth", "xyzzyxyzzy", "ti:polination", "-polination moth",
        "polination of dunes by night on all the islands of the north, in the light of lamps alone",
    ],
)  # fmt: skip
def test_nothing_is_corrected_without_a_typo(site, engine, typed):
    ingest(engine, make_sighting(title="Moth pollination"))

    assert "Did you mean" not in site.get("/papers", params={"q": typed}).text


@one_database
def test_subscribe_link_contains_the_search_query(site, engine):
    ingest(engine, make_sighting())

    assert 'href="/subscribe?topic=moths+-zebra"' in site.get("/papers?q=moths+-zebra").text
    assert "Get trending papers by email" in site.get("/papers?sort=newest").text
    assert 'href="/subscribe"' in site.get("/").text


@one_database
@pytest.mark.parametrize(
    ("typed", "topic"),
    [
        ("Ada Moth", 'au:"Ada Moth"'),
        ('"Ada Moth"', 'au:"Ada Moth"'),
        ("Lovelace", 'au:"Lovelace"'),
        ("moth", "moth"),  # of a single word, papers about it come first
        ("Ada Hopper", "Ada Hopper"),
        ("Ada Moth -brick", "Ada Moth -brick"),
    ],
)
def test_subscribe_link_of_a_name_contains_the_author(site, engine, typed, topic):
    ingest(
        engine,
        make_sighting(title="Engines", authors=("Ada Moth",)),
        make_sighting(title="Moth Ada lights", authors=("Ada Lovelace",)),
    )

    page = site.get("/papers", params={"q": typed}).text

    assert f'href="/subscribe?{urlencode({"topic": topic})}"' in page
    assert f'href="/topics.atom?q={quote(topic)}"' in page
    assert ("papers by this author by email" in page) == topic.startswith("au:")


@one_database
@pytest.mark.parametrize("page", ["/papers?topic=agents", "/topics/agents"])
def test_subscribe_link_of_a_curated_topic_uses_its_slug(site, page):
    assert 'href="/subscribe?topic=agents"' in site.get(page).text


@one_database
def test_paper_page_links_to_similar_papers_once_indexed(site, engine):
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
def test_matched_words_are_marked_and_all_other_text_is_escaped(site, engine):
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


def test_ranked_words_are_marked_separately_and_phrases_only_whole():
    wanted = phrases_in(parse('video models OR "optical flow"'))

    text = "Models for video: optical illusions, optical flow"

    assert marked(text, wanted) == (
        "<mark>Models</mark> for <mark>video</mark>: optical illusions, <mark>optical flow</mark>"
    )


def test_excluded_words_and_authors_are_not_marked():
    assert phrases_in(parse("moth -zebra au:lovelace cat:cs.CL")) == {(stem("moth"),)}


@pytest.mark.full
@given(st.text(max_size=200), st.lists(st.text(max_size=20), max_size=3))
def test_marking_does_not_change_the_text(text, phrases):
    shown = str(marked(text, stems_of(phrases)))

    assert re.sub("</?mark>", "", shown) == str(escape(text))


# --- The index and its segments -----------------------------------------------------------------


def test_shelves_return_the_same_results_as_one_index(engine, monkeypatch):
    monkeypatch.setattr(search_index, "SEGMENT", 7)
    subjects = ["moths", "zebrafish", "dense retrieval", "multi-modal models"]
    ingest(
        engine,
        *(make_sighting(title=f"{subjects[n % 4]} and {subjects[n % 3]}") for n in range(60)),
    )
    live_index = LiveIndex(engine, background=False)
    live_index.renew()
    index, papers = live_index.current(), stored(engine)
    whole = PaperIndex(papers)

    for query in ("moths", "dense retrieval", "multimodal", "zebrafish -moths", "reader topics"):
        found, expected = index.find(parse(query)), whole.find(parse(query))

        assert len(index.segments) > 5
        assert found.papers.tolist() == expected.papers.tolist()
        assert found.scores.tolist() == pytest.approx(expected.scores.tolist())
        assert index.phrases(parse(query), found.papers) == whole.phrases(
            parse(query), expected.papers
        )


@one_database
def test_only_the_shelf_of_a_new_paper_is_rebuilt(engine, monkeypatch):
    monkeypatch.setattr(search_index, "SEGMENT", 10)
    ingest(engine, *(make_sighting() for _ in range(25)))
    live_index = LiveIndex(engine, background=False)
    live_index.renew()
    before = {id(segment.index._postings) for segment in live_index.current().segments}
    ingest(engine, make_sighting(title="New on the shelf"))

    live_index.renew()

    after = [id(segment.index._postings) for segment in live_index.current().segments]
    assert [segment in before for segment in after] == [True, True, False]
    assert live_index.current().find(parse("shelf")).papers.size == 1


@one_database
def test_search_within_a_mask_skips_other_segments(engine, monkeypatch):
    monkeypatch.setattr(search_index, "SEGMENT", 10)
    ingest(engine, *(make_sighting(title=f"Moth {n}") for n in range(25)))
    live_index = LiveIndex(engine, background=False)
    live_index.renew()
    index = live_index.current()
    ids = index.catalog.ids

    found = index.find(parse("moth"), within=ids == 15)
    nothing = index.find(parse("moth"), within=ids == 0)

    assert ids[found.papers].tolist() == list(range(10, 20))
    assert nothing.papers.size == 0


@one_database
def test_only_the_newest_papers_are_searched_until_all_are_indexed(engine, monkeypatch):
    monkeypatch.setattr(search_index, "FEW", 3)
    ingest(engine, *(make_sighting(title=f"Moth {n}") for n in range(5)))
    services = open_site(engine).services
    live_index = LiveIndex(engine, background=False)
    browser = TestClient(create_app(services, live_index=live_index), base_url=URL)

    early = browser.get("/papers?q=moth").text
    live_index.renew()
    later = browser.get("/papers?q=moth").text

    assert len(titles(early)) == 3
    assert "still being loaded" in early
    assert len(titles(later)) == 5
    assert "still being loaded" not in later


def open_bounded(engine, monkeypatch, most: int) -> tuple[LiveIndex, TestClient]:
    monkeypatch.setattr(search_index, "SEGMENT", 10)
    live_index = LiveIndex(engine, background=False, most=most)
    services = open_site(engine).services
    return live_index, TestClient(create_app(services, live_index=live_index), base_url=URL)


@one_database
def test_index_of_the_newest_papers_is_the_same_as_one_without_the_others(engine, monkeypatch):
    ingest(engine, *(make_sighting(title=f"Moth of kind {n % 4}") for n in range(35)))
    live_index, _ = open_bounded(engine, monkeypatch, most=20)
    live_index.renew()
    index, whole = live_index.current(), PaperIndex(stored(engine)[9:])

    found, expected = index.find(parse("moth kind")), whole.find(parse("moth kind"))

    assert index.complete
    assert (index.size, len(index.segments)) == (26, 3)  # whole segments of ids only
    assert found.papers.tolist() == (expected.papers + 9).tolist()
    assert found.scores.tolist() == pytest.approx(expected.scores.tolist())


@one_database
@pytest.mark.parametrize(("most", "size"), [(1, 6), (6, 6), (7, 16), (35, 35), (1_000, 35)])
def test_index_has_the_segments_of_so_many_papers(engine, monkeypatch, most, size):
    ingest(engine, *(make_sighting() for _ in range(35)))
    live_index, _ = open_bounded(engine, monkeypatch, most)

    live_index.renew()

    index = live_index.current()
    assert index.size == size
    assert (index.since is None) == (size == 35)


@one_database
def test_search_says_since_when_if_the_catalog_is_cut_where_the_index_is(engine, monkeypatch):
    monkeypatch.setattr(LiveIndex._load, "__defaults__", (20,))
    ingest(engine, *(make_sighting() for _ in range(21)))
    live_index, _ = open_bounded(engine, monkeypatch, most=20)

    live_index.renew()

    index = live_index.current()
    assert index.size == index.catalog.size == 20
    assert index.since is not None


@one_database
def test_older_papers_are_found_by_title_and_id_and_the_search_says_since_when(engine, monkeypatch):
    old = make_sighting("3001.00001", title="Zebrafish Sleep: A Study of Fins")
    ingest(engine, old, *(make_sighting(title=f"Moth {n}") for n in range(25)))
    live_index, browser = open_bounded(engine, monkeypatch, most=15)
    live_index.renew()

    def location(query: str) -> str | None:
        answer = browser.get("/papers", params={"q": query}, follow_redirects=False)
        return answer.headers.get("location")

    assert location("zebrafish sleep a study of fins") == "/papers/3001.00001"
    assert location("3001.00001") == "/papers/3001.00001"
    assert location("zebrafish") is None
    assert "The search covers papers since" in browser.get("/papers?q=moth").text
    assert "The search covers papers since" not in browser.get("/papers").text
    assert "These are papers since" in browser.get("/authors/Ada%20Lovelace").text


@one_database
def test_newest_papers_are_searched_while_older_ones_are_being_indexed(engine, monkeypatch):
    ingest(engine, *(make_sighting(title=f"Moth {n}") for n in range(35)))
    live_index, _ = open_bounded(engine, monkeypatch, most=1_000)
    sizes = []
    build = LiveIndex._segment

    def observed(self, *arguments):
        if self._few:
            sizes.append((self.current().size, self.current().complete, self.ready()))
        return build(self, *arguments)

    monkeypatch.setattr(LiveIndex, "_segment", observed)
    live_index.renew()

    assert sizes == [(6, False, None), (16, False, None), (26, False, None)]
    assert (live_index.current().size, live_index.current().complete) == (35, True)


@one_database
def test_library_indexes_papers_at_startup_and_follows_new_papers(engine):
    ingest(engine, make_sighting(title="Moths"))
    live_index = LiveIndex(engine)
    services = open_site(engine).services

    with TestClient(create_app(services, live_index=live_index), base_url=URL) as browser:
        assert live_index._ready.wait(20)
        ingest(engine, make_sighting(title="More moths"))
        for _ in range(200):  # each request starts a check for new papers
            if len(found := titles(browser.get("/papers?q=ti:moths").text)) == 2:
                break
            threading.Event().wait(0.05)

    assert set(found) == {"Moths", "More moths"}


def test_index_statistics_equal_corpus_statistics():
    papers = [make_paper(keywords=("patient readers",)), make_paper("Moths and moths")]

    index = PaperIndex(papers)

    assert index.statistics() == statistics(papers)
    assert PaperIndex([]).statistics() == statistics([])


def test_stemming_is_thread_safe():
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
