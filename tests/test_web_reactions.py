"""Pages to react to a paper: GET shows the effect, POST stores it, and everything can be undone."""

from __future__ import annotations

import re
from html import unescape

import pytest
from sqlalchemy import Engine

from pipeline import signup
from pipeline.domain import Subscriber
from pipeline.storage.schema import ProfileRow, ReactionRow
from tests.support.factories import make_sighting
from tests.support.newsroom import everything, rows, stored
from tests.support.site import ADA, ELSEWHERE, Site, now, open_site, path

NASTY = "<img src=x onerror=alert(1)>"
ODD_DOI = "10.1000/a<b>(c);d?e#f"


@pytest.fixture
def site(engine: Engine) -> Site:
    return open_site(engine)


@pytest.fixture
def reader(site: Site) -> Subscriber:
    site.announce(
        make_sighting(
            title="Dense retrieval",
            abstract="We study dense retrieval of passages.",
            authors=("Ada Lovelace",),
            announced_on=now().date(),
        )
    )
    return site.reader()


def page_of(site: Site, reader: Subscriber, number: int = 0) -> str:
    from urllib.parse import quote

    key = stored(site.engine)[number].key
    return f"{site.preferences(reader)}/papers/{quote(key, safe='')}"


@pytest.mark.parametrize("do", ["more", "less", "save", "", "reset", NASTY])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_opening_a_link_of_a_mail_changes_no_table(site, reader, do, method):
    before = everything(site.engine)

    page = site.browser.request(method, page_of(site, reader), params={"do": do})

    assert page.status_code == 200
    assert everything(site.engine) == before
    assert NASTY not in page.text


def test_two_taps_store_a_reaction_and_a_third_undoes_it(site, reader):
    url = page_of(site, reader)
    page = site.get(f"{url}?do=more").text
    first = re.findall(r'<button name="do" value="(\w+)"', page)[0]
    assert first == "more"
    assert "Ada Lovelace" in page
    assert "“dense retrieval”" in unescape(page)

    answer = site.post(url, data={"do": first})
    done = site.get(answer.headers["location"]).text

    assert answer.status_code == 303
    assert "Noted. From your next digest on, papers like this come first." in done
    assert re.findall(r'<button name="do" value="(\w+)"', done)[0] == "undo"
    assert [row.liking for row in rows(site.engine, ReactionRow)] == [1]

    site.post(url, data={"do": "undo"})
    assert rows(site.engine, ReactionRow) == []


def test_link_in_the_mail_leads_to_the_page(site, reader):
    site.publish()
    (delivery,) = site.deliveries()
    claimed = site.services.links.preferences(reader.id, now())
    link = f"{claimed}/papers/{stored(site.engine)[0].key}?do=more"

    assert delivery.kind == "welcome" or delivery.kind == "digest"
    assert site.get(link).status_code == 200


def test_saved_paper_has_a_note_of_one_line(site, reader):
    url = page_of(site, reader)
    site.post(url, data={"do": "save"})
    site.post(url, data={"do": "note", "note": f"two\nlines {NASTY}" + "x" * 400})

    page = site.get(url).text

    (row,) = rows(site.engine, ReactionRow)
    assert row.note.startswith("two lines <img")
    assert len(row.note) == 300
    assert NASTY not in page
    site.post(url, data={"do": "unsave"})
    assert rows(site.engine, ReactionRow) == []


def test_paper_with_an_odd_key_can_be_liked(site, reader):
    site.announce(
        make_sighting(None, source="feed", doi=ODD_DOI, title="Odd", announced_on=now().date())
    )
    url = page_of(site, reader, 1)

    answer = site.post(url, data={"do": "more"})

    assert answer.status_code == 303
    assert site.get(answer.headers["location"]).status_code == 200
    assert [row.paper_key for row in rows(site.engine, ReactionRow)] == [f"doi:{ODD_DOI}"]


@pytest.mark.parametrize("do", ["", "delete", "more more", NASTY])
def test_unknown_action_is_refused(site, reader, do):
    for url in (page_of(site, reader), f"{site.preferences(reader)}/interests"):
        assert site.post(url, data={"do": do}).status_code == 422
    assert rows(site.engine, ReactionRow) == []


def test_reaction_needs_a_valid_link_a_known_paper_and_our_own_page(site, reader):
    url = page_of(site, reader)

    assert site.post(url, data={"do": "more"}, headers=ELSEWHERE).status_code == 403
    assert site.get(re.sub(r"preferences/\w", "preferences/9", url)).status_code == 410
    assert site.get(f"{site.preferences(reader)}/papers/2401.99999").status_code == 404
    assert site.get(f"{site.preferences(reader)}/papers/%00").status_code == 404
    assert rows(site.engine, ReactionRow) == []


def test_link_of_a_reader_who_left_changes_nothing(site, reader):
    url = page_of(site, reader)
    signup.leave(site.engine, reader.secret, now())

    assert site.post(url, data={"do": "more"}).status_code == 404
    assert rows(site.engine, ReactionRow) == []


def test_what_was_learned_is_shown_removed_switched_off_and_reset(site, reader):
    site.post(page_of(site, reader), data={"do": "more"})
    url = f"{site.preferences(reader)}/interests"
    page = unescape(site.get(url).text)
    assert "dense retrieval" in page
    assert "because of “Dense retrieval”" in page
    assert "Ada Lovelace" in page
    assert "dense retrieval" in unescape(site.get(site.preferences(reader)).text)

    for term in re.findall(r'name="term" value="([^"]*)"', page):
        answer = site.post(url, data={"do": "remove", "term": term})
        assert "Removed" in site.get(answer.headers["location"]).text
    assert "Ada Lovelace" not in site.get(url).text

    for do, is_on in (("off", False), ("on", True)):
        site.post(url, data={"do": do})
        assert [row.is_on for row in rows(site.engine, ProfileRow)] == [is_on]
    for do, outside in (("inside", False), ("outside", True)):
        site.post(url, data={"do": do})
        assert [row.outside for row in rows(site.engine, ProfileRow)] == [outside]

    site.post(url, data={"do": "reset"})
    assert rows(site.engine, ReactionRow) == []
    assert [(row.likes, row.removed) for row in rows(site.engine, ProfileRow)] == [(0, [])]


def test_erasure_deletes_reactions_and_what_was_learned(site, reader):
    site.post(page_of(site, reader), data={"do": "more"})

    signup.erase(site.engine, ADA)

    assert rows(site.engine, ReactionRow) == rows(site.engine, ProfileRow) == []


def test_titles_and_names_are_escaped(site, reader):
    site.announce(
        make_sighting(title=f"Retrieval {NASTY}", authors=(NASTY,), announced_on=now().date())
    )
    url = page_of(site, reader, 1)
    site.post(url, data={"do": "more"})

    for page in (url, f"{site.preferences(reader)}/interests", site.preferences(reader)):
        assert NASTY not in site.get(page).text
    assert path(url)
