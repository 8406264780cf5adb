"""Papers of an author, looked up at ORCID and arXiv: by the button only, and within limits."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from html import unescape

import pytest
from sqlalchemy import Engine

from pipeline.domain import Subscriber
from pipeline.sources.identifiers import AuthorId
from pipeline.storage import rate_limits
from pipeline.storage.schema import ReactionRow, RequestRow
from pipeline.web.subscribe import author_lookup
from pipeline.web.subscribe.author_lookup import (
    KEPT,
    MOST_KEPT,
    OF_ONE,
    QUEUE,
    SITES,
    AuthorLookup,
    Problem,
)
from tests.support import source_server
from tests.support.factories import make_sighting
from tests.support.newsroom import everything, rows
from tests.support.site import ADA, Site, now, open_site
from tests.support.source_answers import author_feed, orcid_work, orcid_works
from tests.support.source_server import Reply

pytestmark = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)

IDS = ("0000-0002-1825-0097", "0000-0002-1694-233X", "0000-0001-5109-3700", "0000-0002-7970-7855")
ID = IDS[0]
WORKS = f"/v3.0/{ID}/works"
FEED = "/a/fern_b_1.atom"
LIST = f"A study of looms\nhttps://orcid.org/{ID}"
MOSS = orcid_works(
    orcid_work("Moss gardens on walls", doi="10.1000/moss", year="2024"),
    orcid_work("Watering moss gardens", arxiv="2401.00001", year="2029"),
    orcid_work("Moss gardens in winter", year="2028"),
)
SIGN_UP = {"queries": "tea", "hour": "8", "frequency": "daily", "max_papers": "5", "email": ADA}


@pytest.fixture
def world() -> Iterator[source_server.Site]:
    """Return a server in the place of ORCID and arXiv."""
    with source_server.serve() as server:
        yield server


@pytest.fixture
def site(engine: Engine, world, monkeypatch) -> Site:
    monkeypatch.setattr(author_lookup, "SECONDS", 1.0)
    return opened(engine, world)


@pytest.fixture
def reader(site: Site) -> Subscriber:
    return site.reader(ADA, "tea")


def opened(engine: Engine, world: source_server.Site, **changes) -> Site:
    site = open_site(engine, **changes)
    lookup = site.browser.app.state.author_lookup
    lookup.sites = {
        name: replace(one, url=one.url.replace("https://pub.orcid.org", world.url))
        if name == "orcid"
        else replace(one, url=one.url.replace("https://arxiv.org", world.url))
        for name, one in SITES.items()
    }
    if lookup.client:
        lookup.client = replace(lookup.client, allow_private=True)
    site.announce(
        *(make_sighting(title=f"Moss gardens of country {n}") for n in range(3)),
        *(make_sighting(title=f"Tea of sort {n}") for n in range(40)),
    )
    return site


def read(site: Site, papers: str = LIST, do: str = "preview") -> str:
    answer = site.post("/subscribe", data={**SIGN_UP, "papers": papers, "do": do})
    return unescape(answer.text)


def start_page(site: Site, reader: Subscriber) -> str:
    return f"{site.preferences(reader)}/start"


@contextmanager
def slow(world: source_server.Site, path: str, reply: Reply) -> Iterator[threading.Event]:
    """Hold back the reply until the event is set, at the latest when the block ends."""
    released = threading.Event()

    def answer(handler):
        released.wait(20)
        source_server.write(handler, reply)

    world.replies[path] = answer
    try:
        yield released
    finally:
        released.set()


# --- The form -----------------------------------------------------------------------------------


def test_button_looks_up_the_papers_of_an_orcid_id(site, world):
    world.replies[WORKS] = Reply(MOSS)

    page = read(site)

    assert "Read 4 papers." in page
    assert 'value="\nmoss gardens"' in page
    ((path, headers),) = world.requests
    assert path == WORKS
    assert headers["Accept"] == "application/json"
    assert headers["User-Agent"].startswith("Paperboy/")
    assert "(+https://papers.example.org" in headers["User-Agent"]
    assert "Cookie" not in headers
    assert "Referer" not in headers


def test_button_looks_up_an_arxiv_author_page(site, world):
    papers = [
        (f"2401.0000{n}v1", f"Moss gardens {n}", ("Ada Lovelace",), "2024-01-02") for n in "123"
    ]
    world.replies[FEED] = Reply(author_feed(*papers))
    site.announce(make_sighting(authors=("Ada Lovelace",), announced_on=now().date()))

    page = read(site, "https://arxiv.org/a/fern_b_1")

    assert "Read 3 papers." in page
    assert "author of 3 papers" in page


def test_papers_found_are_linked_to_the_archive_and_counted_once(site, world):
    site.announce(make_sighting("2401.00001", title="Watering moss gardens"))
    world.replies[WORKS] = Reply(MOSS)

    page = read(site, f"arXiv:2401.00001\n{ID}")

    assert "Read 3 papers. 1 is in the archive of this site." in page


def test_preview_while_typing_looks_up_nothing_and_offers_the_button(site, world):
    world.replies[WORKS] = Reply(MOSS)

    page = site.post("/subscribe/preview", data={"papers": LIST}).text

    assert world.requests == []
    assert "Line 2: an author at ORCID, not looked up yet." in page
    assert "Look up the author</button>" in page
    assert "Read 1 paper." in page


def test_preview_after_the_button_has_the_papers_without_another_request(site, world):
    world.replies[WORKS] = Reply(MOSS)
    read(site)

    page = site.post("/subscribe/preview", data={"papers": LIST, "queries": "moss"}).text

    assert "Read 4 papers." in page
    assert "Look up the author" not in page
    assert world.paths == [WORKS]


def test_adopting_a_proposal_looks_up_nothing(site, world):
    page = site.post("/subscribe", data={**SIGN_UP, "papers": LIST, "adopt": "\nmoss"}).text

    assert world.requests == []
    assert "Look up the author" in page


def test_confirmed_subscription_has_the_papers_and_not_the_id(site, world):
    world.replies[WORKS] = Reply(MOSS)

    site.post("/subscribe", data={**SIGN_UP, "papers": ID})
    (request,) = rows(site.engine, RequestRow)
    assert site.post(site.services.links.confirm(request.id, now())).status_code == 200

    keys = {row.paper_key for row in rows(site.engine, ReactionRow)}
    assert len(keys) == 3
    assert {"doi:10.1000/moss", "2401.00001"} < keys
    assert ID not in repr(everything(site.engine))


def test_failed_look_up_stops_the_sign_up_and_keeps_the_form(site, world):
    world.replies[WORKS] = Reply(status=503)

    answer = site.post("/subscribe", data={**SIGN_UP, "papers": LIST})

    page = unescape(answer.text)
    assert answer.status_code == 422
    assert "Line 2: ORCID did not answer. Paste your papers instead, or try again later." in page
    assert 'aria-invalid="true" aria-describedby="papers-mistake papers-hint"' in page
    assert f"{LIST}</textarea>" in page
    assert f'value="{ADA}"' in page
    assert rows(site.engine, RequestRow) == []


def test_preferences_read_and_save_with_one_request(site, world, reader):
    world.replies[WORKS] = Reply(MOSS)

    page = site.post(start_page(site, reader), data={"papers": ID, "do": "read"}).text
    saved = site.post(start_page(site, reader), data={"papers": ID, "do": "save"})

    assert "Read 3 papers." in page
    assert saved.status_code == 303
    assert len(rows(site.engine, ReactionRow)) == 3
    assert world.paths == [WORKS]


@pytest.mark.parametrize("papers", [LIST, ID])
def test_preferences_save_nothing_after_a_failed_look_up(site, world, reader, papers):
    world.replies[WORKS] = Reply(status=500)

    answer = site.post(start_page(site, reader), data={"papers": papers, "do": "save"})

    assert answer.status_code == 422
    assert "ORCID did not answer" in answer.text
    assert papers in answer.text
    assert rows(site.engine, ReactionRow) == []


def test_titles_that_come_from_orcid_are_escaped(site, world):
    title = "<img src=x onerror=alert(1)> moss gardens"
    world.replies[WORKS] = Reply(orcid_works(*(orcid_work(f"{title} {n}") for n in range(3))))

    page = site.post("/subscribe", data={**SIGN_UP, "papers": ID, "do": "preview"}).text

    assert "Read 3 papers." in page
    assert "<img" not in page


# --- Without a request --------------------------------------------------------------------------


def test_mistyped_id_is_named_with_its_line_and_not_requested(site, world):
    page = read(site, "A study of looms\n\n0000-0002-1825-0098")

    assert "Line 3: this ORCID iD is mistyped. Compare its digits." in page
    assert world.requests == []


def test_setting_switches_look_ups_off_and_the_form_says_so(engine, world):
    site = opened(engine, world, author_lookup=False)

    page = read(site)

    assert "Line 2: this site does not look up authors at ORCID." in page
    assert "An ORCID iD or an arXiv author page" not in page
    assert "ORCID" not in site.get("/privacy").text
    assert world.requests == []


def test_form_and_privacy_page_name_the_look_up(site):
    assert "An ORCID iD or an arXiv author page is looked up." in site.get("/subscribe").text
    assert "is sent to ORCID or arXiv" in site.get("/privacy").text


# --- Answers ------------------------------------------------------------------------------------


def lookup_of(site: Site) -> AuthorLookup:
    return site.browser.app.state.author_lookup


def without_turns(site: Site) -> AuthorLookup:
    """Return the look-up without the limits that all visitors share."""
    lookup = lookup_of(site)
    lookup.client = replace(lookup.client, wait_turn=lambda limit: None)
    return lookup


def result(site: Site, id_: str = ID, **more):
    page = AuthorId("arxiv" if "_" in id_ else "orcid", id_)
    return lookup_of(site).results([page], more.get("visitor"), is_wanted=True)[page]


def test_merged_id_is_followed_to_its_successor(site, world):
    world.replies[WORKS] = Reply(status=301, headers={"Location": f"/v3.0/{IDS[1]}/works"})
    world.replies[f"/v3.0/{IDS[1]}/works"] = Reply(MOSS)

    assert len(result(site)) == 3


def test_redirect_to_another_host_is_not_followed(site, world):
    elsewhere = world.url.replace("127.0.0.1", "localhost") + "/works"
    world.replies[WORKS] = Reply(status=301, headers={"Location": elsewhere})
    world.replies["/works"] = Reply(MOSS)

    assert result(site) is Problem.FAILED
    assert world.paths == [WORKS]


@pytest.mark.parametrize("status", [404, 409])
def test_unknown_or_locked_id_has_no_list(site, world, status):
    body = b'{"response-code": 404, "error-code": 9016}'
    world.replies[WORKS] = Reply(body, status=status)

    assert "Line 2: ORCID has no list of papers under this id." in read(site)


def test_unknown_arxiv_author_has_no_list(site, world):
    world.replies[FEED] = Reply(b"<h1>Bad Request</h1>", status=400)

    assert result(site, "fern_b_1") is Problem.UNKNOWN


def test_author_without_public_papers_has_an_empty_list(site, world):
    world.replies[WORKS] = Reply(orcid_works())

    assert result(site) is Problem.EMPTY


@pytest.mark.parametrize(
    "reply",
    [
        Reply(b"<!doctype html><title>Sign in</title>"),
        Reply(b'{"group": ['),
        Reply(b"{}"),
        Reply(b" " * (author_lookup.LARGEST + 1)),
        Reply(status=500),
        Reply(status=403),
        Reply(status=301),
        Reply(MOSS, headers={"Content-Encoding": "br"}),
        Reply(MOSS, headers={"Content-Length": "1000000"}),
    ],
    ids=["html", "cut", "no-list", "large", "500", "403", "nowhere", "br", "short"],
)
def test_any_other_answer_is_a_failure_and_not_retried(site, world, reply):
    world.replies[WORKS] = reply

    assert result(site) is Problem.FAILED
    assert len(world.requests) == 1


def test_address_in_a_private_network_is_not_requested(site, world):
    lookup = lookup_of(site)
    lookup.client = replace(lookup.client, allow_private=False)

    assert result(site) is Problem.FAILED
    assert world.requests == []


def test_retry_after_is_obeyed(site, world):
    world.replies[WORKS] = [Reply(status=429, headers={"Retry-After": "60"}), Reply(MOSS)]
    lookup, clock = without_turns(site), [time.monotonic()]
    lookup.clock = lambda: clock[0]

    assert result(site) is Problem.FAILED
    assert result(site) is Problem.BUSY
    clock[0] += 61
    assert len(result(site)) == 3
    assert len(world.requests) == 2


def test_ids_are_not_logged(site, world, capfd):
    without_turns(site)
    world.replies[WORKS] = Reply(status=301, headers={"Location": f"ftp://{ID}.example/{ID}"})

    read(site)
    world.replies[WORKS] = Reply(b"<html>")
    read(site)

    logged = "".join(capfd.readouterr())
    assert "author_lookup.failed" in logged
    assert "author_lookup.malformed" in logged
    assert ID not in logged


# --- Limits -------------------------------------------------------------------------------------


def test_slow_site_delays_only_its_own_form(site, world):
    with slow(world, WORKS, Reply(MOSS)) as released:
        waiting = threading.Thread(target=read, args=(site,))
        started = time.monotonic()
        waiting.start()
        while not world.requests:
            time.sleep(0.01)
        for _ in range(3):
            assert site.post("/subscribe/preview", data={"papers": "Moss gardens"}).is_success
        is_still_waiting = waiting.is_alive()
        page = read(site)
        took = time.monotonic() - started
        released.set()
        waiting.join()

    assert is_still_waiting or took > 1
    assert "Line 2: ORCID did not answer." in page
    assert world.paths == [WORKS]


def test_answer_that_comes_late_is_there_at_the_next_press(site, world):
    with slow(world, WORKS, Reply(MOSS)):
        assert result(site) is Problem.FAILED
    while lookup_of(site)._pending:
        time.sleep(0.01)

    assert len(result(site)) == 3
    assert len(world.requests) == 1


def test_full_queue_refuses_further_look_ups(site, world):
    lookup = lookup_of(site)
    with slow(world, "/a/fern_b_1.atom", Reply(author_feed())):
        for n in range(1, QUEUE + 1):
            world.replies[f"/a/fern_b_{n}.atom"] = world.replies["/a/fern_b_1.atom"]
            page = AuthorId("arxiv", f"fern_b_{n}")
            assert lookup._start(page, f"192.0.{n}.1", lookup.clock() + 1)

        assert result(site, visitor="198.51.100.1") is Problem.BUSY


def test_one_visitor_has_a_few_look_ups_a_minute(site, world):
    without_turns(site).clock = lambda: 600.0
    names = [f"fern_b_{n}" for n in range(OF_ONE + 1)]
    world.replies |= {f"/a/{name}.atom": Reply(author_feed()) for name in names}

    found = [result(site, name, visitor="192.0.2.1") for name in names]

    assert found == [Problem.EMPTY] * OF_ONE + [Problem.BUSY]
    assert result(site, names[-1], visitor="198.51.100.1") is Problem.EMPTY


def test_list_looks_up_a_few_authors_only(site, world):
    without_turns(site)
    world.replies |= {f"/v3.0/{id_}/works": Reply(MOSS) for id_ in IDS}

    page = read(site, "\n".join(IDS))

    assert "Line 4: only 3 authors are looked up. Paste the papers of others." in page
    assert len(world.requests) == 3


def test_site_has_one_limit_for_all_visitors_and_processes(site, world, monkeypatch):
    monkeypatch.setattr(author_lookup, "OF_ALL", 1)
    world.replies |= {f"/v3.0/{id_}/works": Reply(MOSS) for id_ in IDS}

    assert len(result(site, IDS[0])) == 3
    assert result(site, IDS[1]) is Problem.BUSY
    assert len(world.requests) == 1


def test_turn_that_is_too_far_away_is_left_to_the_daily_run(site, world):
    """arXiv allows one request in three seconds, for all machines and interfaces together."""
    gap = timedelta(seconds=3)
    with site.engine.begin() as conn:
        for _ in range(2):
            rate_limits.take_turn(conn, "arxiv", gap=gap)

    assert [result(site, "fern_b_1") for _ in range(2)] == [Problem.BUSY] * 2

    assert world.requests == []
    with site.engine.begin() as conn:
        assert rate_limits.take_turn(conn, "arxiv", gap=gap) <= 2 * gap


def test_result_is_forgotten_after_ten_minutes(site, world):
    lookup, clock = lookup_of(site), [time.monotonic()]
    lookup.clock = lambda: clock[0]
    world.replies[WORKS] = Reply(MOSS)
    result(site)

    clock[0] += KEPT + 1
    site.post("/subscribe/preview", data={"papers": "0000-0002-1694-233X"})

    assert not lookup._kept


def test_memory_holds_a_limited_number_of_results(site):
    lookup = lookup_of(site)
    for n in range(MOST_KEPT + 5):
        lookup._keep(AuthorId("arxiv", f"fern_b_{n}"), Problem.EMPTY)

    assert len(lookup._kept) == MOST_KEPT
    assert AuthorId("arxiv", "fern_b_0") not in lookup._kept
