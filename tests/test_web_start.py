"""Start from papers: proposals that store nothing, in the sign-up form and in the preferences."""

from __future__ import annotations

import re
from html import unescape
from urllib.parse import quote

import pytest
from sqlalchemy import Engine

from pipeline import signup
from pipeline.domain import Subscriber
from pipeline.storage.schema import ProfileRow, ReactionRow, RequestRow
from tests.support.factories import make_sighting
from tests.support.newsroom import everything, rows
from tests.support.site import ADA, ELSEWHERE, Site, now, open_site, path

NASTY = "<img src=x onerror=alert(1)>"
MOSS = """
@article{a, title={Moss gardens on walls}, author={Ada Lovelace and Carl Gauss}, year=2024,
  abstract={We grow moss gardens.}}
@article{b, title={Watering moss gardens}, author={Ada Lovelace}, year=2029}
@article{c, title={Moss gardens in winter}, author={Ada Lovelace}, year=2028}
@article{broken, title=
"""
SIGN_UP = {"queries": "tea", "hour": "8", "frequency": "daily", "max_papers": "5", "email": ADA}


@pytest.fixture
def site(engine: Engine) -> Site:
    site = open_site(engine)
    today = now().date()
    site.announce(
        *(
            make_sighting(title=f"Moss gardens of country {n}", authors=(name,), announced_on=today)
            for n, name in enumerate(("Ada Lovelace", "Ada Lovelace", "Bo Fern"))
        ),
        *(make_sighting(title=f"Tea of sort {n}", announced_on=today) for n in range(40)),
    )
    return site


@pytest.fixture
def reader(site: Site) -> Subscriber:
    return site.reader(ADA, "tea")


def adopted(page: str) -> list[str]:
    return [unescape(found).strip() for found in re.findall(r'name="adopt" value="([^"]*)"', page)]


def offered(page: str) -> list[str]:
    return [unescape(found) for found in re.findall(r'name="add" value="([^"]*)"', page)]


def start_page(site: Site, reader: Subscriber) -> str:
    return f"{site.preferences(reader)}/start"


# --- Sign-up ------------------------------------------------------------------------------------


def test_preview_shows_what_was_read_and_proposes_topics_and_people(site):
    page = site.post("/subscribe/preview", data={"papers": MOSS}).text

    assert "Read 3 papers." in page
    assert "1 entry could not be read" in page
    assert "Line 6" in page
    assert "@article{broken" in unescape(page)
    assert adopted(page) == ["moss gardens", 'au:"Ada Lovelace"']
    assert "in 3 of your papers" in page
    assert "author of 3 papers" in page
    assert re.search(r"begin with more of:.*moss", page)


def test_preview_without_papers_says_nothing_about_them(site):
    assert "From your papers" not in site.post("/subscribe/preview", data={"queries": "tea"}).text


def test_preview_changes_no_table(site):
    before = everything(site.engine)

    site.post("/subscribe/preview", data={"papers": MOSS})
    site.post("/subscribe", data={**SIGN_UP, "papers": MOSS, "do": "preview"})

    assert everything(site.engine) == before


def test_form_without_scripts_shows_the_proposals_and_keeps_the_list(site):
    page = site.post("/subscribe", data={**SIGN_UP, "papers": MOSS, "do": "preview"}).text

    assert adopted(page) == ["moss gardens", 'au:"Ada Lovelace"']
    assert "@article{a, title={Moss gardens on walls}" in unescape(page)
    assert '<details class="all fold" id="from-papers" open>' in page


def test_one_tap_adds_a_proposal_to_the_topics(site):
    form = {**SIGN_UP, "papers": MOSS, "adopt": '\nau:"Ada Lovelace"'}

    page = site.post("/subscribe", data=form).text

    assert 'tea\nau:"Ada Lovelace"</textarea>' in unescape(page)
    assert adopted(page) == ["moss gardens"]
    assert "Added" in page
    assert rows(site.engine, RequestRow) == []


def test_confirmation_names_the_papers_and_stores_them(site):
    site.post("/subscribe", data={**SIGN_UP, "papers": MOSS})
    assert rows(site.engine, ReactionRow) == []
    (request,) = rows(site.engine, RequestRow)
    link = path(site.services.links.confirm(request.id, now()))

    assert "3 papers, such as “Watering moss gardens”" in site.get(link).text
    assert rows(site.engine, ReactionRow) == []
    assert site.post(link).status_code == 200

    assert len(rows(site.engine, ReactionRow)) == 3
    assert [row.likes for row in rows(site.engine, ProfileRow)] == [3]


def test_bibliography_of_300_kb_is_read(site):
    entry = "@article{{k{n}, title={{Moss gardens {n}}}, abstract={{{text}}}, year=2020}}\n"
    text = "".join(entry.format(n=n, text="Growing moss, with care. " * 110) for n in range(105))
    assert len(text) > 290_000

    page = site.post("/subscribe/preview", data={"papers": text})
    asked = site.post("/subscribe", data={**SIGN_UP, "papers": text})

    assert page.status_code == asked.status_code == 200
    assert "Read 105 papers." in page.text
    assert "Only the newest 100 papers of them are used." in page.text
    (request,) = rows(site.engine, RequestRow)
    assert len(request.choices["papers"]) == 100


def test_list_over_a_megabyte_is_refused_with_a_fragment(site):
    answer = site.post("/subscribe/preview", data={"papers": "{" * 360_000})

    assert answer.status_code == 413
    assert answer.text.startswith("<p>The list of papers is too large")


def test_reading_a_list_is_charged_and_limited(engine):
    site = open_site(engine, previews_per_minute=1)
    site.announce()
    form = {**SIGN_UP, "papers": MOSS}

    answers = [site.post("/subscribe", data=form) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [200, 429]
    assert len(rows(site.engine, RequestRow)) == 1


@pytest.mark.parametrize(
    "title",
    [
        NASTY,
        '" autofocus onfocus=alert(1) x="',
        "{{ 7 * 7 }} {% raw %}",
        "\u202eMoss\u0000\u0007 gardens",
    ],
)
def test_what_comes_from_a_list_is_escaped(site, reader, title):
    text = "\n".join(
        f"@article{{k{n}, title={{{title} moss gardens {n}}}, author={{{title} Lovelace}}}}"
        for n in range(3)
    )
    text += f"\n@article{{{title}, nothing"
    pages = [
        site.post("/subscribe/preview", data={"papers": text}).text,
        site.post("/subscribe", data={**SIGN_UP, "papers": text, "do": "preview"}).text,
        site.post(start_page(site, reader), data={"papers": text, "do": "read"}).text,
    ]
    site.post(start_page(site, reader), data={"papers": text, "do": "save"})
    pages.append(site.get(f"{site.preferences(reader)}/interests").text)

    for page in pages:
        assert "moss gardens" in page.lower()
        assert "<img" not in page
        assert 'onfocus=alert(1) x="' not in page
        assert not set(page) & set("\u202e\u0000\u0007")


def test_list_in_an_archive_without_papers_is_read_at_the_confirmation(engine):
    site = open_site(engine)

    assert "There are no papers yet" in site.post("/subscribe/preview", data={"papers": MOSS}).text
    assert site.post("/subscribe", data={**SIGN_UP, "papers": MOSS}).status_code == 200
    assert len(rows(engine, RequestRow)[0].choices["papers"]) == 3


# --- Preferences --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_opening_the_page_changes_no_table(site, reader, method):
    before = everything(site.engine)

    assert site.browser.request(method, start_page(site, reader)).status_code == 200
    assert everything(site.engine) == before


def test_reading_a_list_in_the_preferences_stores_nothing(site, reader):
    before = everything(site.engine)

    page = site.post(start_page(site, reader), data={"papers": MOSS, "do": "read"})

    assert page.status_code == 200
    assert offered(page.text) == ["moss gardens", 'au:"Ada Lovelace"']
    assert everything(site.engine) == before


def test_saving_stores_papers_and_chosen_topics_once(site, reader):
    form = {"papers": MOSS, "do": "save", "add": ["moss gardens", 'au:"Ada Lovelace"', "(("]}

    for _ in range(2):
        answer = site.post(start_page(site, reader), data=form)
        assert answer.status_code == 303

    page = site.get(answer.headers["location"]).text
    assert "papers like yours come first" in page
    assert "Watering moss gardens" in page
    assert len(rows(site.engine, ReactionRow)) == 3
    known = signup.choices_of(site.engine, reader.id)
    assert [label for _, label in known.topics] == ["tea", "moss gardens", 'au:"Ada Lovelace"']


def test_followed_topics_are_not_offered_again(site):
    reader = site.reader(ADA, "moss gardens")

    page = site.post(start_page(site, reader), data={"papers": MOSS, "do": "read"}).text

    assert offered(page) == ['au:"Ada Lovelace"']
    assert "Followed" in page


def test_own_papers_are_listed_and_removed(site, reader):
    site.post(start_page(site, reader), data={"papers": MOSS, "do": "save"})
    interests = f"{site.preferences(reader)}/interests"
    keys = re.findall(r'name="paper" value="([^"]*)"', site.get(interests).text)
    assert len(keys) == 3

    for key in keys:
        form = {"do": "remove-paper", "paper": unescape(key)}
        assert site.post(interests, data=form).status_code == 303

    assert rows(site.engine, ReactionRow) == []
    assert "Watering moss gardens" not in site.get(interests).text


def test_limits_of_topics_leave_everything_as_it_was(site):
    full = site.reader(ADA, *(f"stone{n}" for n in range(20)))
    before = everything(site.engine)

    page = site.post(
        start_page(site, full), data={"papers": MOSS, "do": "save", "add": "moss gardens"}
    )

    assert page.status_code == 422
    assert "at most 20 topics of your own" in page.text
    assert 'value="moss gardens" checked' in page.text
    assert everything(site.engine) == before


def test_reader_with_as_many_papers_as_possible_is_told(site, reader, monkeypatch):
    monkeypatch.setattr("pipeline.signup.MOST_OWN", 3)
    site.post(start_page(site, reader), data={"papers": MOSS, "do": "save"})

    for do, status in (("read", 200), ("save", 422)):
        form = {"papers": "A treatise on moss", "do": do}
        page = site.post(start_page(site, reader), data=form)
        assert page.status_code == status
        assert "You have as many papers as possible" in page.text
    assert len(rows(site.engine, ReactionRow)) == 3


def test_limit_of_new_topics_a_day_leaves_everything_as_it_was(site, reader, monkeypatch):
    monkeypatch.setattr("pipeline.signup.abuse_limits.NEW_TOPICS", 0)
    before = everything(site.engine)

    page = site.post(
        start_page(site, reader), data={"papers": MOSS, "do": "save", "add": "moss gardens"}
    )

    assert page.status_code == 429
    assert everything(site.engine) == before


@pytest.mark.parametrize("papers", ["", "   ", "%", "2999.99999"])
def test_list_without_a_paper_is_a_mistake(site, reader, papers):
    page = site.post(start_page(site, reader), data={"papers": papers, "do": "save"})

    assert page.status_code == 422
    assert "No paper could be read" in page.text
    assert rows(site.engine, ReactionRow) == []


def test_page_needs_a_valid_link_an_active_reader_and_our_own_form(site, reader):
    url = start_page(site, reader)

    assert site.post(url, data={"papers": MOSS, "do": "save"}, headers=ELSEWHERE).status_code == 403
    assert site.get(re.sub(r"preferences/\w", "preferences/9", url)).status_code == 410
    signup.leave(site.engine, reader.secret, now())
    assert site.get(url).status_code == 303
    assert site.post(url, data={"papers": MOSS, "do": "save"}).status_code == 303
    assert rows(site.engine, ReactionRow) == []


def test_form_is_reached_from_the_preferences(site, reader):
    for page in ("", "/interests"):
        link = f"{site.preferences(reader)}/start"
        assert link in site.get(f"{site.preferences(reader)}{page}").text


def test_urlencoded_list_of_300_kb_is_accepted_in_the_preferences(site, reader):
    body = f"do=read&papers={quote('Moss gardens, with {braces}' + chr(10)) * 7_500}"
    assert len(body) > 300_000

    answer = site.post(
        start_page(site, reader),
        content=body,
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )

    assert answer.status_code == 200
