"""Pages behind the links of a mail: GET shows, POST acts, and other sites cannot make us act."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import Page, sync_playwright
from sqlalchemy import Engine
from starlette.testclient import TestClient

from pipeline import ingest, settings, signup
from pipeline.bootstrap import Services
from pipeline.domain import DeliveryStatus, Schedule, Subscriber, SubscriberStatus
from pipeline.mailbox import Mailbox
from pipeline.sources import FetchResult
from pipeline.storage import delivery_queries, subscribers
from pipeline.storage.database import open_engine, read_only
from pipeline.web import create_app
from pipeline.web.server import listen, server
from tests.support import CHROMIUM
from tests.support.factories import make_schedule, make_sighting

SITE = "https://papers.example.org"
ONE_CLICK = {"List-Unsubscribe": "One-Click"}
ELSEWHERE = {"Origin": "https://elsewhere.example", "Sec-Fetch-Site": "cross-site"}
MAIL = b"""From: Paperboy <papers@example.org>\r
To: ada@example.org\r
Subject: A <b>bold</b> letter\r
MIME-Version: 1.0\r
Content-Type: multipart/alternative; boundary="b"\r
\r
--b\r
Content-Type: text/plain; charset="utf-8"\r
\r
Plain <i>words</i>\r
--b\r
Content-Type: text/html; charset="utf-8"\r
\r
<html><head></head><body><a href="https://example.org">Out</a><script>alert(1)</script></body></html>\r
--b--\r
"""


@pytest.fixture
def backend() -> str:
    """Return SQLite only: the two databases differ in storage, which other tests cover."""
    return "sqlite"


@pytest.fixture
def services(engine: Engine) -> Services:
    return Services(settings.load(None, site_url=SITE), engine)


@pytest.fixture
def browser(services: Services) -> TestClient:
    return TestClient(create_app(services), base_url=SITE, follow_redirects=False)


@pytest.fixture
def subscribe(engine: Engine):
    def subscribe(
        email: str = "ada@example.org",
        *,
        confirmed: bool = True,
        topics: tuple[str, ...] = ("retrieval",),
        schedule: Schedule | None = None,
    ) -> Subscriber:
        choices = signup.Choices(signup.parse_queries(topics), schedule or make_schedule())
        return signup.add(
            engine, email, choices, confirmed=confirmed, suppression_key="k", now=datetime.now(UTC)
        )

    return subscribe


@pytest.fixture
def status(engine: Engine):
    def status(subscriber: Subscriber) -> SubscriberStatus:
        with read_only(engine) as conn:
            known = subscribers.by_id(conn, subscriber.id)
        assert known is not None
        return known.status

    return status


def path(url: str) -> str:
    return url.removeprefix(SITE)


# --- Unsubscribe --------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["urlencoded", "multipart", "none"])
def test_one_click_unsubscribes_in_either_encoding(browser, subscribe, status, encoding):
    """RFC 8058: no cookie, no redirect, and no check of the origin, which is a mail service."""
    ada = subscribe()
    body = {
        "urlencoded": {"data": ONE_CLICK},
        "multipart": {"files": {name: (None, value) for name, value in ONE_CLICK.items()}},
        "none": {},
    }[encoding]

    answer = browser.post(f"/unsubscribe/{ada.secret}", headers=ELSEWHERE, **body)

    assert answer.status_code == 200
    assert "set-cookie" not in answer.headers
    assert status(ada) is SubscriberStatus.UNSUBSCRIBED


def test_one_click_is_never_redirected(browser, subscribe):
    ada = subscribe()

    assert browser.post(f"/unsubscribe/{ada.secret}/").status_code == 404


def test_unsubscribe_is_idempotent(browser, subscribe, status):
    ada = subscribe()

    answers = [browser.post(f"/unsubscribe/{ada.secret}", data=ONE_CLICK) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert status(ada) is SubscriberStatus.UNSUBSCRIBED


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_opening_the_unsubscribe_link_changes_nothing(browser, subscribe, status, method):
    """Link scanners open each link of a mail."""
    ada = subscribe()

    answer = browser.request(method, f"/unsubscribe/{ada.secret}")

    assert answer.status_code == 200
    assert status(ada) is SubscriberStatus.ACTIVE


def test_unsubscribe_page_has_one_button_and_masks_the_address(browser, subscribe):
    ada = subscribe()

    page = browser.get(f"/unsubscribe/{ada.secret}").text

    assert page.count("<button") == 1
    assert "ada@example.org" not in page
    assert "a•••@e•••.org" in page


def test_unsubscribe_cancels_the_queued_delivery(browser, subscribe, engine):
    bob = subscribe("bob@example.org", confirmed=False)

    browser.post(f"/unsubscribe/{bob.secret}")

    with read_only(engine) as conn:
        [view] = delivery_queries.list_views(conn)
    assert view.status is DeliveryStatus.CANCELLED


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_unknown_unsubscribe_link_returns_404(browser, method):
    answer = browser.request(method, "/unsubscribe/nobody")

    assert answer.status_code == 404
    assert "no longer works" in answer.text


# --- Subscribe ----------------------------------------------------------------------------------


def test_confirming_requires_a_button(browser, services, subscribe, status):
    bob = subscribe("bob@example.org", confirmed=False, topics=("<b>retrieval",))
    link = path(services.links.confirm(bob.id, datetime.now(UTC)))

    page = browser.get(link)
    assert status(bob) is SubscriberStatus.PENDING
    answer = browser.post(link)

    assert page.text.count("<button") == 1
    assert "&lt;b&gt;retrieval" in page.text
    assert answer.status_code == 200
    assert "You are subscribed" in answer.text
    assert status(bob) is SubscriberStatus.ACTIVE


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_expired_confirmation_link_is_rejected(browser, services, subscribe, status, method):
    bob = subscribe("bob@example.org", confirmed=False)
    link = services.links.confirm(bob.id, datetime.now(UTC) - timedelta(hours=73))

    answer = browser.request(method, path(link))

    assert answer.status_code == 410
    assert "This link has expired" in answer.text
    assert status(bob) is SubscriberStatus.PENDING


def test_altered_confirmation_link_is_rejected(browser, services, subscribe, status):
    bob = subscribe("bob@example.org", confirmed=False)
    link = path(services.links.confirm(bob.id, datetime.now(UTC)))

    answer = browser.post(link.replace(f"/{bob.id}.", f"/{bob.id + 1}."))

    assert answer.status_code == 410
    assert status(bob) is SubscriberStatus.PENDING


def test_confirmation_link_is_rejected_after_unsubscribe(browser, services, subscribe, status):
    bob = subscribe("bob@example.org", confirmed=False)
    browser.post(f"/unsubscribe/{bob.secret}")

    answer = browser.post(path(services.links.confirm(bob.id, datetime.now(UTC))))

    assert answer.status_code == 410
    assert status(bob) is SubscriberStatus.UNSUBSCRIBED


@pytest.mark.parametrize(
    ("headers", "may_pass"),
    [
        (ELSEWHERE, False),
        ({"Sec-Fetch-Site": "same-site", "Origin": "null"}, False),
        ({"Origin": "https://elsewhere.example"}, False),
        ({"Origin": "http://[::1"}, False),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "null"}, True),
        ({"Origin": SITE}, True),
        ({"Origin": "null"}, True),  # our own pages, if the browser sends no origin
        ({}, True),
    ],
)
def test_cross_site_confirmation_is_rejected(
    browser, services, subscribe, status, headers, may_pass
):
    bob = subscribe("bob@example.org", confirmed=False)

    answer = browser.post(path(services.links.confirm(bob.id, datetime.now(UTC))), headers=headers)

    assert answer.status_code == (200 if may_pass else 403)
    assert (status(bob) is SubscriberStatus.ACTIVE) == may_pass


# --- Account pages ------------------------------------------------------------------------------


def test_preferences_show_topics_and_schedule(browser, services, subscribe):
    ada = subscribe(topics=("retrieval", '"small stones"'), schedule=make_schedule(7, "Asia/Tokyo"))

    link = path(services.links.preferences(ada.id, datetime.now(UTC)))
    page = browser.get(link).text

    assert "retrieval" in page
    assert "&#34;small stones&#34;" in page
    assert 'value="Asia/Tokyo" selected' in page
    assert f'href="{link}/leave"' in page


def test_digest_page_shows_the_sent_papers_and_reasons(browser, services, subscribe, engine):
    subscribe()
    sighting = make_sighting(title="Retrieval of <script>alert(1)</script> Stones")
    ingest.ingest_recorded(
        engine, [("arxiv", FetchResult(sightings=[sighting]))], now=datetime.now(UTC)
    )
    [outcome] = services.publish(datetime.now(UTC), everyone=True)
    with read_only(engine) as conn:
        [owed] = [view for view in delivery_queries.list_views(conn) if view.email == outcome.email]

    answer = browser.get(path(services.links.digest(owed.id, datetime.now(UTC))))

    assert answer.status_code == 200
    assert "Retrieval of &lt;script&gt;" in answer.text
    assert "<script" not in answer.text
    assert ">retrieval</p>" in answer.text
    assert "script-src" not in answer.headers["content-security-policy"]


def test_deleted_digest_returns_410(browser, services):
    answer = browser.get(path(services.links.digest(4711, datetime.now(UTC))))

    assert answer.status_code == 410
    assert "no longer stored" in answer.text


@pytest.mark.parametrize("kind", ["unsubscribe", "confirm", "preferences", "digests"])
def test_personal_pages_have_no_store_and_noindex_headers(browser, kind):
    """Even if the token is invalid: no cache, no index, no referrer."""
    headers = browser.get(f"/{kind}/whatever").headers

    assert headers["cache-control"] == "no-store"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-robots-tag"].startswith("noindex")


# --- Public pages -------------------------------------------------------------------------------


def test_front_page_shows_the_latest_papers_escaped(browser, engine):
    sightings = [
        make_sighting(title="Stones <img src=x onerror=alert(1)>", announced_on=day)
        for day in (
            datetime(2030, 1, 1, tzinfo=UTC).date(),
            datetime(2030, 1, 2, tzinfo=UTC).date(),
        )
    ]
    ingest.ingest_recorded(
        engine, [("arxiv", FetchResult(sightings=sightings))], now=datetime.now(UTC)
    )

    page = browser.get("/").text

    assert "<img" not in page
    assert "<h1>Wednesday, 2 January 2030</h1>" in page
    assert 'href="/papers?date=2030-01-01"' in page


@pytest.mark.parametrize("page", ["/", "/papers", "/subscribe", "/privacy", "/nowhere"])
def test_pages_load_nothing_from_other_sites_and_have_no_inline_script(browser, page):
    answer = browser.get(page)

    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert not re.search(r"<script(?![^>]* src=\"/)", answer.text)
    assert " style=" not in answer.text
    asked = re.sub('<link rel="canonical"[^>]*>', "", answer.text)  # an identifier, not fetched
    assert re.findall(r'(?:src|<link[^>]* href)="(?!/)[^"]*"', asked) == []


def test_unknown_page_and_wrong_method_return_404_and_405(browser):
    assert (browser.get("/nowhere").status_code, browser.put("/").status_code) == (404, 405)
    assert "Page not found" in browser.get("/nowhere").text


def test_readiness_requires_a_database_with_the_right_tables(browser, services, tmp_path):
    assert browser.get("/readyz").status_code == 200

    engine = open_engine(f"sqlite:///{tmp_path}/empty.db")
    empty = TestClient(create_app(Services(services.settings, engine)), base_url=SITE)
    assert empty.get("/readyz").status_code == 503
    assert empty.get("/healthz").status_code == 200
    engine.dispose()


def test_missing_database_is_not_ready(services, tmp_path):
    engine = open_engine(f"sqlite:///{tmp_path}/nowhere/paperboy.db")
    gone = TestClient(create_app(Services(services.settings, engine)), base_url=SITE)

    assert gone.get("/readyz").status_code == 503
    engine.dispose()


# --- The built-in mailbox -----------------------------------------------------------------------


@pytest.fixture
def mailbox(tmp_path) -> Mailbox:
    return Mailbox(tmp_path / "mail")


@pytest.fixture
def local(services, mailbox) -> TestClient:
    return TestClient(create_app(services, mailbox), base_url="http://127.0.0.1:8000")


def test_mailbox_page_returns_404_without_a_mailbox(browser):
    assert browser.get("/mailbox").status_code == 404


def test_mails_are_listed_and_shown_escaped(local, mailbox):
    id_ = mailbox.keep("", MAIL)

    listed, shown = local.get("/mailbox").text, local.get(f"/mailbox/{id_}").text

    assert "A &lt;b&gt;bold&lt;/b&gt; letter" in listed
    assert "Plain &lt;i&gt;words&lt;/i&gt;" in shown
    assert "<script" not in shown


def test_mail_html_is_sandboxed(local, mailbox):
    """No script runs, no form is sent, nothing is loaded from another site."""
    id_ = mailbox.keep("", MAIL)

    answer = local.get(f"/mailbox/{id_}/html")

    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "allow-scripts" not in policy
    assert "sandbox " in policy
    assert '<base target="_blank">' in answer.text


def test_raw_mail_is_returned_as_sent(local, mailbox):
    id_ = mailbox.keep("", MAIL)

    answer = local.get(f"/mailbox/{id_}/raw")

    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.text.encode() == MAIL


def test_mailbox_id_cannot_access_other_files(local):
    for id_ in ("nothing", "..%2F..%2Fetc%2Fpasswd"):
        assert local.get(f"/mailbox/{id_}/raw").status_code == 404


def test_mailbox_rejects_other_host_names(local):
    """DNS rebinding: another name may resolve to our address; its pages must not read mails."""
    answer = local.get("/mailbox", headers={"Host": "elsewhere.example"})

    assert answer.status_code == 400


# --- In a real browser --------------------------------------------------------------------------


@pytest.fixture
def site(engine: Engine) -> Iterator[Services]:
    """Serve the site on loopback, with links that lead to it."""
    with listen("127.0.0.1", 0) as socket:
        url = f"http://127.0.0.1:{socket.getsockname()[1]}"
        services = Services(settings.load(None, site_url=url), engine)
        running = server(create_app(services))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [socket]})
        thread.start()
        yield services
        running.should_exit = True
        thread.join()


@pytest.fixture
def tab() -> Iterator[Page]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=next(filter(None, map(shutil.which, CHROMIUM))),
            args=["--no-sandbox"],
        )
        yield chromium.new_page()
        chromium.close()


@pytest.mark.full
@pytest.mark.browser
def test_confirm_and_unsubscribe_work_in_a_browser(site, tab, subscribe, status):
    """The security headers do not block the buttons of our own pages."""
    complaints: list[str] = []
    tab.on("console", lambda message: complaints.append(message.text))
    bob = subscribe("bob@example.org", confirmed=False)

    tab.goto(site.links.confirm(bob.id, datetime.now(UTC)))
    tab.get_by_role("button").click()
    assert tab.get_by_role("heading", level=1).inner_text() == "You are subscribed"
    assert status(bob) is SubscriberStatus.ACTIVE

    tab.goto(site.links.unsubscribe(bob.secret))
    tab.get_by_role("button").click()
    assert tab.get_by_role("heading", level=1).inner_text() == "You are unsubscribed"
    assert status(bob) is SubscriberStatus.UNSUBSCRIBED
    assert complaints == []
