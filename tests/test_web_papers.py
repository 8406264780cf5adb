"""Papers of a day, a week or a month; one paper; the archive of a topic and its feeds."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager, suppress
from datetime import date, timedelta
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event
from starlette.testclient import TestClient

from pipeline import settings
from pipeline.domain import Links
from pipeline.references import parse
from pipeline.web import create_app
from pipeline.web.papers import periods
from pipeline.web.papers.listing import pages
from pipeline.web.papers.periods import Span
from pipeline.web.papers.search_index import LiveIndex
from pipeline.web.subscribe import curated
from pipeline.web.templating import Pages
from tests.support.factories import make_sighting
from tests.support.newsroom import ingest
from tests.support.site import URL, Site, open_site, titles

HOSTILE = "<img src=x onerror=alert(1)> & \"quotes\" </title><script>alert('x')</script> \u202eabc"
WEDNESDAY = date(2030, 1, 2)
DAY = timedelta(days=1)
ATOM = "{http://www.w3.org/2005/Atom}"

one_database = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


@pytest.fixture
def site(engine) -> Site:
    return open_site(engine)


# --- Lists --------------------------------------------------------------------------------------


def test_front_page_shows_the_newest_day_by_upvotes(site, engine):
    ingest(engine, make_sighting(title="Old", announced_on=WEDNESDAY - DAY, upvotes=90))
    ingest(
        engine,
        make_sighting(title="Few", upvotes=2),
        make_sighting(title="Many", upvotes=1_234),
        make_sighting(title="None"),
    )

    page = site.get("/").text

    assert "<h1>Wednesday, 2 January 2030</h1>" in page
    assert titles(page) == ["Many", "Few", "None"]
    assert "1,234" in page


PITCH = "A daily email of new research papers on your topics"


@one_database
def test_front_page_says_what_the_site_sends_and_reads(engine):
    """Other lists have the papers first, with a smaller invitation."""
    read = {"sources": ("arxiv",), "arxiv_categories": ("cs.CL", "math.AG")}
    site = open_site(engine, operator_name="City Library", **read)
    ingest(engine, make_sighting(title="Moss"))

    page = site.get("/").text
    others = [site.get(path).text for path in (f"/papers?date={WEDNESDAY}", "/papers?q=moss")]

    assert page.index(PITCH) < page.index('href="/subscribe">Subscribe</a>\n    </section>')
    assert page.index("</section>") < page.index("Moss")
    assert "Free, run by City Library. Sources: arXiv (cs.CL and math.AG)." in page
    assert not any(PITCH in other for other in others)


def test_coverage_names_sources_and_the_first_six_categories():
    def coverage(*sources: str, **more: Any) -> str:
        return Pages.of(settings.load(None, sources=sources, **more), has_mailbox=False).coverage

    many = tuple(f"cs.A{letter}" for letter in "ABCDEFGH")

    assert coverage("huggingface") == "Hugging Face"
    assert coverage("arxiv", "huggingface", arxiv_categories=("cs.CL",)) == (
        "arXiv (cs.CL) and Hugging Face"
    )
    assert coverage("arxiv", arxiv_categories=many) == (
        "arXiv (cs.AA, cs.AB, cs.AC, cs.AD, cs.AE, cs.AF and 2 more)"
    )


def test_paper_is_listed_on_every_day_it_was_announced(site, engine):
    """Hugging Face lists a paper days after arXiv; the paper is listed on both days."""
    ingest(engine, make_sighting("2912.00001", title="Twice", announced_on=WEDNESDAY - 2 * DAY))
    ingest(engine, make_sighting("2912.00001", title="Twice", source="huggingface", upvotes=7))

    for day in ("2029-12-31", "2030-01-02"):
        page = site.get(f"/papers?date={day}").text
        assert titles(page) == ["Twice"]
        assert "arXiv 31 Dec · Hugging Face 2 Jan" in page


def test_previous_and_next_links_skip_days_without_papers(site, engine):
    for days in (0, 5, 45):
        ingest(engine, make_sighting(announced_on=WEDNESDAY - days * DAY))

    page = site.get("/papers?date=2029-12-28").text

    assert 'href="/papers?date=2029-11-18" rel="prev"' in page
    assert 'href="/papers?date=2030-01-02" rel="next"' in page
    month = site.get("/papers?month=2029-12").text
    assert 'href="/papers?month=2029-11" rel="prev"' in month
    assert 'href="/papers?month=2030-01" rel="next"' in month


@one_database
@pytest.mark.parametrize(
    ("address", "heading"),
    [
        ("/papers?week=2030-W01", "Week 1: 31 December 2029 to 6 January 2030"),
        ("/papers?month=2030-01", "January 2030"),
        ("/papers?date=2030-01-01", "Tuesday, 1 January 2030"),
    ],
)
def test_weeks_and_months_have_pages(site, engine, address, heading):
    ingest(engine, make_sighting(title="Here", announced_on=WEDNESDAY))

    page = site.get(address).text

    assert f"<h1>{heading}</h1>" in page
    assert titles(page) == ([] if "date=" in address else ["Here"])


@one_database
def test_empty_day_links_to_neighbouring_days(site, engine):
    ingest(engine, make_sighting(announced_on=WEDNESDAY))
    ingest(engine, make_sighting(announced_on=WEDNESDAY + 3 * DAY))

    page = site.get("/papers?date=2030-01-03").text

    assert "No papers were announced" in page
    assert page.count('href="/papers?date=2030-01-02"') == 2
    assert page.count('href="/papers?date=2030-01-05"') == 2


@one_database
def test_front_page_without_papers_shows_a_notice(site):
    assert "No papers yet" in site.get("/").text


@one_database
@pytest.mark.parametrize(
    "address",
    ["/papers?date=2030-13-01", "/papers?date=x", "/papers?week=2030-W60", "/papers?month=0000-00"],
)
def test_invalid_date_returns_422(site, address):
    assert site.get(address).status_code == 422


@one_database
def test_pagination_shows_every_paper_once(site, engine):
    ingest(engine, *(make_sighting(title=f"Paper {n}", upvotes=n) for n in range(70)))

    first, second, third = (site.get(f"/papers?page={n}").text for n in (1, 2, 3))

    assert len({*titles(first), *titles(second), *titles(third)}) == 70
    assert "Page 2 of 3" in second
    assert 'rel="prev"' in second
    assert 'rel="next"' in second
    assert titles(site.get("/papers?page=99").text) == titles(third)
    assert titles(site.get("/papers?page=-1%00x").text) == titles(first)


@one_database
def test_number_of_queries_per_page_is_constant(engine, questions):
    live_index = LiveIndex(engine, background=False)
    app = create_app(open_site(engine).services, live_index=live_index)
    browser = TestClient(app, base_url=URL)
    asked = []

    for papers in (1, 29):
        ingest(engine, *(make_sighting() for _ in range(papers)))
        live_index.renew()
        for address in ("/", "/papers?q=readers", "/topics?q=readers"):
            with questions() as statements:
                browser.get(address)
            asked.append(len(statements))

    assert asked[:3] == asked[3:]
    assert max(asked) <= 4


@pytest.fixture
def questions(engine):
    """Return a context manager that collects the statements sent to the database."""

    @contextmanager
    def counting():
        asked: list[str] = []

        def note(_conn, _cursor, statement, *_rest) -> None:
            if not statement.startswith(("BEGIN", "PRAGMA")):
                asked.append(statement)

        event.listen(engine, "before_cursor_execute", note)
        yield asked
        event.remove(engine, "before_cursor_execute", note)

    return counting


# --- One paper ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sighting", "addresses"),
    [
        ({"arxiv_id": "2912.00001"}, ["2912.00001", "2912.00001v3", "arXiv:2912.00001"]),
        ({"arxiv_id": "astro-ph/0601001"}, ["astro-ph/0601001"]),
        ({"arxiv_id": None, "doi": "10.1101/2030.01.02"}, ["doi:10.1101/2030.01.02"]),
    ],
)
def test_paper_is_found_by_every_form_of_its_id(site, engine, sighting, addresses):
    ingest(engine, make_sighting(title="Found", **sighting))

    for address in addresses:
        answer = site.get(f"/papers/{address}")
        assert answer.status_code == 200
        assert '<h1 class="title" dir="auto">Found</h1>' in answer.text
        assert f'<link rel="canonical" href="{URL}/papers/{addresses[0]}">' in answer.text


def test_paper_without_an_id_has_a_page_linked_from_its_list(site, engine):
    ingest(engine, make_sighting(None, title="Nameless"))

    link = re.search(r'class="title"[^>]*><a href="(/papers/title:[^"]+)"', site.get("/").text)

    assert link is not None
    assert "Nameless" in site.get(link[1]).text


@pytest.mark.parametrize("key", ["9999.99999", "title:", "doi:", "a%00b", "%F0%9F%98%80", "v1"])
def test_unknown_paper_returns_404(site, engine, key):
    ingest(engine, make_sighting("2912.00001"))

    answer = site.get(f"/papers/{key}")

    assert answer.status_code == 404
    assert "Paper not found" in answer.text


@one_database
def test_paper_page_shows_sources_dates_and_counts(site, engine):
    ingest(
        engine,
        make_sighting("2912.00001", announced_on=WEDNESDAY - DAY),
        make_sighting("2912.00001", source="huggingface", upvotes=41, comments=3, stars=1_234),
    )

    page = re.sub(r"\s+", " ", site.get("/papers/2912.00001").text)

    assert '<th scope="row">arXiv</th><td>Tuesday, 1 January 2030</td>' in page
    assert "Hugging Face</th><td>Wednesday, 2 January 2030</td>" in page
    assert (
        '<td class="number" data-of="upvotes">41</td><td class="number" data-of="comments">3</td>'
        in page
    )
    assert "1.2k stars on GitHub" in page
    assert "1.2k stars" in site.get("/papers").text


@pytest.mark.parametrize(
    ("form", "media_type", "extension", "beginning"),
    [
        ("bibtex", "application/x-bibtex; charset=utf-8", "bib", "@misc{lovelace2006moss,\n"),
        ("ris", "application/x-research-info-systems; charset=utf-8", "ris", "TY  - GEN\r\n"),
        ("csl", "application/vnd.citationstyles.csl+json", "json", "[\n  {"),
    ],
)
def test_paper_page_links_to_its_citation_as_files(
    site, engine, form, media_type, extension, beginning
):
    ingest(engine, make_sighting("astro-ph/0601001", title="Moss & ferns"))
    page = site.get("/papers/astro-ph/0601001").text
    path = f"/cite/{form}/astro-ph/0601001"
    assert f'href="{path}"' in page

    file, head = site.get(path), site.browser.head(path)
    again = site.get(path, headers={"If-None-Match": file.headers["etag"]})

    assert file.text.startswith(beginning)
    assert parse(file.content).entries[0].title == "Moss & ferns"
    assert file.headers["content-type"] == media_type
    name = f"lovelace2006moss.{extension}"
    assert file.headers["content-disposition"] == f'attachment; filename="{name}"'
    assert file.headers["cache-control"] == "public, max-age=3600"
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == media_type
    assert again.status_code == 304


@one_database
def test_paper_page_shows_its_bibtex_entry_escaped(site, engine):
    ingest(engine, make_sighting("2912.00001", title='Moss <think> & "ferns"'))

    page = site.get("/papers/2912.00001").text

    assert "title = {Moss &lt;think&gt; \\&amp; &#34;ferns&#34;}," in page


@one_database
@pytest.mark.parametrize("key", ["2912.00001", "doi:10.1101/a(b)_c", "title"])
def test_citation_is_found_by_every_kind_of_key(site, engine, key):
    arxiv_id = "2912.00001" if key.startswith("29") else None
    doi = key.removeprefix("doi:") if key.startswith("doi:") else None
    ingest(engine, make_sighting(arxiv_id, title="Moss", doi=doi))
    link = re.search(r'href="(/cite/ris/[^"]+)"', site.get(paper_in_list(site)).text)

    assert link is not None
    assert parse(site.get(link[1]).content).entries[0].title == "Moss"


@one_database
@pytest.mark.parametrize(
    "path", ["bibtex/9999.99999", "bibtex/", "bibtex/a%00b", "word/2912.00001", "bibtex"]
)
def test_unknown_citation_returns_404(site, engine, path):
    ingest(engine, make_sighting("2912.00001"))

    assert site.get(f"/cite/{path}").status_code == 404


def paper_in_list(site: Site) -> str:
    """Return the path of the first paper on the front page."""
    found = re.search(r'class="title"[^>]*><a href="(/papers/[^"]+)"', site.get("/").text)
    assert found is not None
    return found[1]


@one_database
def test_withdrawn_paper_is_labelled(site, engine):
    ingest(engine, make_sighting("2912.00001"))
    ingest(engine, make_sighting("2912.00001", version=2, withdrawn=True))

    assert "Withdrawn by its authors" in site.get("/papers/2912.00001").text
    assert "Withdrawn by its authors" in site.get("/").text


@one_database
@pytest.mark.parametrize("address", ["/", "/papers/2912.00001", "/papers?q=onerror", "/topics?q=x"])
def test_source_text_is_escaped_in_pages(site, engine, address):
    ingest(
        engine,
        make_sighting(
            "2912.00001",
            title=HOSTILE,
            abstract=f"{HOSTILE} x. " * 30,
            authors=(HOSTILE,),
            categories=("cs.<b>",),
            keywords=(HOSTILE,),
            note=HOSTILE,
            links=Links(code="https://example.org/?a=1&b=<i>"),
        ),
    )

    page = site.get(address).text

    assert "<img" not in page
    assert "<script" not in page
    assert "\u202e" not in page
    assert "<b>cs" not in page
    assert "<i>" not in page


# --- Topics -------------------------------------------------------------------------------------


@one_database
def test_curated_topics_are_listed_and_the_first_has_a_page_and_feeds(site, engine):
    ingest(engine, make_sighting(title="An agent", abstract="An LLM agent learns."))

    listed = site.get("/topics").text

    topics = curated.read(curated.DEFAULT).topics
    for topic in topics:
        assert f'href="/topics/{topic.slug}"' in listed
    for form in ("", ".atom", ".json"):
        assert site.get(f"/topics/{topics[0].slug}{form}").status_code == 200
    assert site.get("/topics/nowhere").status_code == 404
    assert site.get("/topics/nowhere.atom").status_code == 404
    assert site.get("/topics/trending.rss").status_code == 404


def test_topic_page_shows_30_days_up_to_its_newest_paper(site, engine):
    for days in (0, 29, 30):
        title = f"Retrieval, {days} days ago"
        ingest(engine, make_sighting(title=title, announced_on=WEDNESDAY - days * DAY))

    page = site.get("/topics?q=ti:retrieval").text

    assert titles(page) == ["Retrieval, 0 days ago", "Retrieval, 29 days ago"]
    assert "<title>2 Jan: 1 paper</title>" in page
    assert page.count("<rect") == 30
    assert 'href="/subscribe?topic=ti%3Aretrieval"' in page


@one_database
def test_trending_topic_page_orders_by_upvotes(site, engine):
    ingest(engine, make_sighting(title="Few", upvotes=1), make_sighting(title="Many", upvotes=9))

    assert titles(site.get("/topics/trending").text) == ["Many", "Few"]


@one_database
def test_atom_feed_has_the_required_elements(site, engine):
    ingest(engine, make_sighting("2912.00001", title=HOSTILE), make_sighting(authors=()))

    answer = site.get("/topics.atom?q=readers")

    feed = ElementTree.fromstring(answer.text)
    assert answer.headers["content-type"] == "application/atom+xml"
    assert [feed.findtext(ATOM + name) for name in ("id", "title", "updated")] == [
        f"{URL}/topics.atom?q=readers",
        "readers · Paperboy",
        "2030-01-02T08:00:00Z",
    ]
    assert {link.get("rel") for link in feed.findall(ATOM + "link")} == {"self", "alternate"}
    entries = feed.findall(ATOM + "entry")
    assert f"{URL}/papers/2912.00001" in {entry.findtext(ATOM + "id") for entry in entries}
    for entry in entries:
        for name in ("id", "title", "updated", "summary", "author"):
            assert entry.find(ATOM + name) is not None
    assert any("<img src=x" in (entry.findtext(ATOM + "title") or "") for entry in entries)


@one_database
def test_json_feed_has_the_required_fields(site, engine):
    ingest(engine, make_sighting("2912.00001", title="Found"))

    answer = site.get("/topics.json?q=readers")

    feed = json.loads(answer.text)
    assert answer.headers["content-type"] == "application/feed+json"
    assert feed["version"] == "https://jsonfeed.org/version/1.1"
    assert feed["feed_url"] == f"{URL}/topics.json?q=readers"
    (item,) = feed["items"]
    assert item["id"] == item["url"] == f"{URL}/papers/2912.00001"
    assert item["external_url"] == "https://arxiv.org/abs/2912.00001"
    assert item["date_published"] == "2030-01-02T00:00:00Z"


@one_database
def test_feeds_linked_in_the_page_head_exist(site, engine):
    ingest(engine, make_sighting())

    for page in ("/", "/papers?q=readers", "/topics/agents", "/topics?q=readers"):
        for feed in re.findall(r'<link rel="alternate"[^>]* href="([^"]+)"', site.get(page).text):
            assert site.get(feed.replace("&amp;", "&")).status_code == 200


# --- Caches, compression, link previews and robots ----------------------------------------------


@one_database
@pytest.mark.parametrize(
    "address", ["/", "/papers?q=readers", "/papers/2912.00001", "/topics/agents", "/sitemap.xml"]
)
def test_matching_etag_returns_304(site, engine, address):
    ingest(engine, make_sighting("2912.00001"))
    first = site.get(address)

    again = site.get(address, headers={"If-None-Match": first.headers["etag"]})

    assert first.headers["cache-control"].startswith("public, max-age=")
    assert again.status_code == 304
    assert again.text == ""
    assert again.headers["etag"] == first.headers["etag"]


@one_database
def test_feed_supports_if_modified_since(site, engine):
    ingest(engine, make_sighting())
    first = site.get("/topics/trending.atom")

    again = site.get(
        "/topics/trending.atom", headers={"If-Modified-Since": first.headers["last-modified"]}
    )

    assert first.headers["last-modified"] == "Wed, 02 Jan 2030 08:00:00 GMT"
    assert again.status_code == 304


@one_database
def test_public_pages_are_compressed_and_pages_with_a_secret_are_not(site, engine):
    ingest(engine, *(make_sighting() for _ in range(10)))

    assert site.get("/").headers["content-encoding"] == "gzip"
    assert "content-encoding" not in site.get("/preferences/x").headers


@one_database
def test_paper_page_has_open_graph_metadata_and_an_image(site, engine):
    ingest(engine, make_sighting("2912.00001", title='A "quoted" title', abstract="What it says."))

    page = site.get("/papers/2912.00001").text

    assert '<meta property="og:title" content="A &#34;quoted&#34; title">' in page
    assert '<meta property="og:description" content="What it says.">' in page
    assert f'<meta property="og:image" content="{URL}/share.png">' in page
    picture = site.get("/share.png")
    assert picture.content[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(picture.content) < 60_000


@one_database
def test_front_page_says_in_its_title_and_link_preview_what_the_site_is(site, engine):
    ingest(engine, make_sighting())
    sentence = "A daily email of new research papers on your topics"
    name = site.services.settings.list_name

    page = site.get("/").text

    assert f"<title>{name}: {sentence[0].lower()}{sentence[1:]}</title>" in page
    assert f'property="og:title" content="{name}: ' in page
    assert '<meta name="description" content="Choose your topics and get the new papers' in page
    assert f"<title>Subscribe · {name}</title>" in site.get("/subscribe").text


@one_database
def test_personal_page_has_no_open_graph_metadata(site):
    page = site.get("/preferences/x").text

    assert "og:" not in page
    assert 'rel="canonical"' not in page


@one_database
def test_robots_txt_disallows_personal_pages_and_sitemap_lists_papers(site, engine):
    ingest(engine, make_sighting("astro-ph/0601001"))

    robots = site.get("/robots.txt").text
    sitemap = ElementTree.fromstring(site.get("/sitemap.xml").text)

    for path in ("/preferences/", "/confirm/", "/unsubscribe/", "/digests/", "/papers?", "/cite/"):
        assert f"\nDisallow: {path}\n" in robots
    assert f"\nSitemap: {URL}/sitemap.xml\n" in robots
    places = {
        place.text for place in sitemap.iter("{http://www.sitemaps.org/schemas/sitemap/0.9}loc")
    }
    assert {f"{URL}/", f"{URL}/papers/astro-ph/0601001", f"{URL}/topics/agents"} <= places


# --- Periods and pages --------------------------------------------------------------------------

spans = st.sampled_from(Span)
some_days = st.dates(date(1991, 1, 1), date(9990, 1, 1))


@given(some_days, spans)
def test_period_name_round_trips(day, span):
    period = periods.around(day, span)

    assert day in period
    assert periods.parse(span, period.name) == period


@given(some_days, st.lists(some_days, max_size=20), spans)
def test_previous_and_next_periods_are_the_nearest_with_papers(day, with_papers, span):
    days = sorted(with_papers)
    period = periods.around(day, span)

    earlier, later = periods.before(period, days), periods.after(period, days)

    if earlier is not None:
        assert earlier.last < period.first
        assert not [one for one in days if earlier.last < one < period.first]
    if later is not None:
        assert period.last < later.first
        assert not [one for one in days if period.last < one < later.first]
    outside = [one for one in days if one not in period]
    assert bool(outside) == (earlier is not None or later is not None)


@given(spans, st.text(max_size=12))
def test_accepted_period_names_are_canonical(span, name):
    with suppress(ValueError):
        assert periods.parse(span, name).name == name


@given(st.integers(0, 10_000), st.integers(1, 100))
def test_page_count_holds_all_papers_without_an_empty_page(total, size):
    last = pages(total, size)

    assert last * size >= total
    assert last == 1 or (last - 1) * size < total


# --- The search index ---------------------------------------------------------------------------


def test_catalog_returns_the_earlier_list_until_renewed(engine):
    """The first request after a new batch may still get the earlier list."""
    live_index = LiveIndex(engine, background=False)
    ingest(engine, make_sighting())
    assert live_index.catalog(1).size == 1
    ingest(engine, make_sighting())

    behind = live_index.catalog(2)
    live_index.renew()

    assert behind.size == 1
    assert live_index.catalog(2).size == 2
