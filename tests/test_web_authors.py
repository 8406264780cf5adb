"""Pages and feeds of authors, links to them, and people of one name."""

from __future__ import annotations

import json
import re
from datetime import date, timedelta
from html import unescape
from urllib.parse import parse_qs, quote, urlsplit
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.matching.query import author_topic
from pipeline.rendering.formatting import clean
from pipeline.web.papers import authors
from pipeline.web.papers.search_index import LiveIndex
from pipeline.web.papers.views import author_path, linked_author
from tests.support.factories import make_sighting
from tests.support.newsroom import ingest
from tests.support.site import Site, links_in, open_site

WEDNESDAY = date(2030, 1, 2)
DAY = timedelta(days=1)
ATOM = "{http://www.w3.org/2005/Atom}"
ADA = "/authors/Ada%20Holm"


@pytest.fixture
def backend() -> str:
    """Return SQLite only: pages of authors have no query of their own."""
    return "sqlite"


@pytest.fixture
def site(engine) -> Site:
    return open_site(engine)


def titles(page: str) -> list[str]:
    return re.findall(r'<h3 class="title"[^>]*><a [^>]*>(.*?)</a>', page)


def topic_of(link: str) -> str:
    return parse_qs(urlsplit(link).query)["topic"][0]


# --- Page ---------------------------------------------------------------------------------------


def test_page_lists_the_papers_newest_first_with_forms_co_authors_and_categories(site, engine):
    ingest(
        engine,
        make_sighting(
            title="Old", authors=("A. Holm", "Bo Fern"), announced_on=WEDNESDAY - DAY, upvotes=9
        ),
        make_sighting(title="New", authors=("Bo Fern", "Ada Holm"), categories=("cs.CV", "cs.LG")),
        make_sighting(title="Other", authors=("Bo Fern",)),
    )

    answer = site.get(ADA)

    assert answer.status_code == 200
    assert titles(answer.text) == ["New", "Old"]
    assert "Also printed as: <bdi>A. Holm</bdi>" in answer.text
    assert "2 papers · about 2 papers a month" in answer.text
    assert '<a href="/authors/Bo%20Fern"><span dir="auto">Bo Fern</span>' in answer.text
    assert "/papers?q=au%3A%22Ada+Holm%22+AND+cat%3Acs.CV" in answer.text
    assert f'<link rel="canonical" href="https://papers.example.org{ADA}">' in answer.text
    assert "several people" not in answer.text


@pytest.mark.parametrize("name", ["A. Holm", "Holm, Ada", "ADA HOLM", " holm\tada\x07 ", "Ada"])
def test_other_forms_of_a_name_redirect_to_the_fullest(site, engine, name):
    ingest(engine, make_sighting(authors=("Ada Holm",)), make_sighting(authors=("A. Holm",)))

    for ending in ("", ".atom", ".json"):
        answer = site.get(f"/authors/{quote(name, safe='')}{ending}")
        if name == "Ada" and not ending:
            assert answer.headers["location"] == ADA
        assert (answer.status_code, answer.headers["location"]) == (303, f"{ADA}{ending}")


def test_initials_of_several_people_have_their_own_page(site, engine):
    ingest(engine, make_sighting(authors=("Jun Holm",)), make_sighting(authors=("Jie Holm",)))

    page = site.get("/authors/J.%20Holm")

    assert page.status_code == 200
    assert "Likely several people" in page.text
    assert {"/authors/Jun%20Holm", "/authors/Jie%20Holm"} <= set(links_in(page.text))
    assert "Get the papers of everyone named J. Holm by email" in page.text
    assert "Also printed as" not in page.text


def test_follow_links_to_the_form_as_a_search_for_the_name_does(site, engine):
    ingest(engine, make_sighting(authors=("Ada Holm",)))

    page, search = site.get(ADA).text, site.get("/papers?q=Ada+Holm").text
    follow = 'href="/subscribe?topic=au%3A%22Ada+Holm%22"'

    assert f"{follow}>Follow</a>" in page
    assert follow in search
    assert 'au:"Ada Holm"' in unescape(site.get("/subscribe?topic=au%3A%22Ada+Holm%22").text)


@pytest.mark.parametrize(
    "name", ["Nemo", "%22", "...", "x" * 3_000, "%00", "-", "a%5C", "%E2%80%AE"]
)
def test_name_without_papers_is_not_found(site, engine, name):
    ingest(engine, make_sighting(authors=("Ada Holm",)))

    for ending in ("", ".atom", ".json"):
        assert site.get(f"/authors/{name}{ending}").status_code == 404


def test_unfinished_index_says_so_and_finds_no_name_missing(engine, monkeypatch):
    monkeypatch.setattr("pipeline.web.papers.search_index.FEW", 1)
    site = open_site(engine)
    site.browser.app.state.live_index = LiveIndex(engine, background=False)
    ingest(engine, make_sighting(authors=("Bo Fern",)), make_sighting(authors=("Ada Holm",)))

    page, missing = site.get(ADA), site.get("/authors/Bo%20Fern")

    assert "Older papers are still being loaded" in page.text
    assert "Older papers are still being loaded" in missing.text
    assert (missing.status_code, missing.headers["retry-after"]) == (503, "10")


def test_pages_have_thirty_papers(site, engine):
    ingest(engine, *(make_sighting(title=f"Paper {n}", authors=("Ada Holm",)) for n in range(31)))

    first, second = site.get(ADA), site.get(f"{ADA}?page=2")

    assert len(titles(first.text)) == 30
    assert len(titles(second.text)) == 1
    assert f'href="{ADA}?page=2" rel="next"' in first.text
    assert f'href="{ADA}" rel="prev"' in second.text


def test_papers_of_each_month_are_a_chart_with_a_summary(site, engine):
    days = (WEDNESDAY, WEDNESDAY - 40 * DAY, WEDNESDAY - 41 * DAY, WEDNESDAY - 400 * DAY)
    ingest(engine, *(make_sighting(authors=("Ada Holm",), announced_on=day) for day in days))

    page = site.get(ADA).text

    assert "4 papers · 3 in the last 12 months" in page
    assert page.count("<rect") == 12
    assert "November 2029: 2 papers" in page
    assert "3 papers in these months." in page


def test_searches_of_authors_are_rate_limited(engine):
    site = open_site(engine, previews_per_minute=2)
    ingest(engine, make_sighting(authors=("Ada Holm",)))

    answers = [site.get(path).status_code for path in (ADA, f"{ADA}.atom", ADA, f"{ADA}.json")]

    assert answers == [200, 200, 429, 429]


# --- People of one name -------------------------------------------------------------------------


def test_people_of_a_common_name_are_listed_and_followed_apart(site, engine):
    """Both parts of the name are frequent, so that some would have both by chance."""
    many = [make_sighting(authors=(f"Wei Author{n}", f"Bo{n} Wang")) for n in range(3)]
    for number in range(2):
        seen = {"announced_on": WEDNESDAY - number * DAY}
        many += [
            make_sighting(authors=("Wei Wang", "Cy Reed"), categories=("cs.CV",), **seen),
            make_sighting(authors=("Wei Wang", "Di Sedge"), categories=("q-bio.NC",), **seen),
        ]
    ingest(engine, *many)

    page = site.get("/authors/Wei%20Wang").text
    follows = [topic_of(one) for one in links_in(page) if one.startswith("/subscribe?topic")]

    assert "Likely several people" in page
    assert page.count('class="person"') == 2
    assert "2 papers, with Cy Reed" in page
    assert follows[0] == 'au:"Wei Wang"'
    assert set(follows[1:]) == {
        'au:"Wei Wang" AND (au:"Cy Reed" OR cat:cs.CV)',
        'au:"Wei Wang" AND (au:"Di Sedge" OR cat:q-bio.NC)',
    }


# --- Feeds --------------------------------------------------------------------------------------


def test_feeds_have_the_newest_papers_of_the_author(site, engine):
    ingest(
        engine,
        make_sighting(title="Old", authors=("Ada Holm",), announced_on=WEDNESDAY - 300 * DAY),
        make_sighting(title="New", authors=("Ada Holm",)),
        make_sighting(title="Other", authors=("Bo Fern",)),
    )

    page, atom, feed = (site.get(f"{ADA}{ending}") for ending in ("", ".atom", ".json"))

    root = ElementTree.fromstring(atom.content)
    assert [entry.findtext(f"{ATOM}title") for entry in root.iter(f"{ATOM}entry")] == ["New", "Old"]
    assert root.findtext(f"{ATOM}id") == f"https://papers.example.org{ADA}.atom"
    assert atom.headers["content-type"].startswith("application/atom+xml")
    assert [item["title"] for item in json.loads(feed.content)["items"]] == ["New", "Old"]
    assert json.loads(feed.content)["home_page_url"] == f"https://papers.example.org{ADA}"
    assert {f"{ADA}.atom", f"{ADA}.json"} <= set(links_in(page.text))
    again = site.get(f"{ADA}.atom", headers={"If-None-Match": atom.headers["etag"]})
    assert again.status_code == 304


# --- Names --------------------------------------------------------------------------------------

HARD_NAMES = [
    'Ada "Bo" <b>Holm</b>',
    "Ada/Bo Holm & Sons",
    "../../preferences/x Holm",
    "100% Holm?#",
    "علي بن الحسن",
    "王 伟",
    "O'Holm-Fern; Jr.",
    "Ada\u202eHolm\x00\x07",
    "Ada \u201cBo\u201d \u00abHolm\u00bb",
]


@pytest.mark.parametrize("name", HARD_NAMES)
def test_link_of_an_unusual_name_leads_to_its_page(site, engine, name):
    ingest(engine, make_sighting("2912.00001", title="Ferns", authors=(name, "Bo Fern")))

    paper = site.get("/papers/2912.00001").text
    path = next(one for one in links_in(paper) if one.startswith("/authors/"))
    page = site.get(path)

    assert page.status_code == 200
    assert titles(page.text) == ["Ferns"]
    assert site.get(f"{path}.atom").status_code == site.get(f"{path}.json").status_code == 200
    for html in (paper, page.text):
        assert "<b>Holm" not in html
        assert not set("\u202e\x00\x07") & set(html)


def test_names_that_cannot_be_searched_for_are_not_linked():
    assert linked_author("Ada <Holm>") == (
        '<a href="/authors/Ada%20%3CHolm%3E" dir="auto">Ada &lt;Holm&gt;</a>'
    )
    assert linked_author("<...>") == "&lt;...&gt;"
    assert linked_author("x" * 121) == "x" * 121
    assert author_path("\ufdfa" * 120) == ""
    assert author_path("a/../b") == "/authors/a%2F..%2Fb"
    assert author_path("") == author_path("Holm.atom") == author_path("\\Holm") == ""


def test_paper_page_links_its_first_sixty_authors(site, engine):
    names = tuple(f"Ada{number} Holm" for number in range(70))
    ingest(engine, make_sighting("2912.00001", authors=names))

    page = site.get("/papers/2912.00001").text

    assert page.count('href="/authors/') == 60
    assert "and 58 more" in page


@pytest.mark.parametrize(("days", "papers", "mean"), [(0, 3, 3.0), (364, 24, 2.0), (900, 24, 2.0)])
def test_papers_a_month_are_the_mean_of_the_last_year(engine, days, papers, mean):
    on = [
        WEDNESDAY - timedelta(days=number % 300) if days else WEDNESDAY for number in range(papers)
    ]
    ingest(
        engine,
        make_sighting(authors=("Bo Fern",), announced_on=WEDNESDAY - timedelta(days=days)),
        *(make_sighting(authors=("Ada Holm",), announced_on=day) for day in on),
    )
    index = LiveIndex(engine, background=False)
    index.renew()

    assert authors.a_month(index.current(), author_topic("A. Holm")) == pytest.approx(mean)


@given(st.text(max_size=130))
def test_every_linked_name_has_a_topic(name):
    assert not author_path(name) or author_topic(clean(name)).text
