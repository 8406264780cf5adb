"""Responses of the site to any request: their headers, and the methods that they allow."""

from __future__ import annotations

import re

import pytest
from starlette.testclient import TestClient

from pipeline import settings
from pipeline.bootstrap import Services
from pipeline.mailbox import Mailbox
from pipeline.web import create_app, ops
from pipeline.web.app import METHODS
from pipeline.web.middleware import ALWAYS
from pipeline.web.templating import Pages

SITE = "http://127.0.0.1:8000"
CROSS_SITE = {"Origin": "https://mail.example", "Sec-Fetch-Site": "cross-site"}


@pytest.fixture
def backend() -> str:
    return "sqlite"


@pytest.fixture
def app(engine, tmp_path):
    services = Services(settings.load(None, site_url=SITE), engine)
    return create_app(services, Mailbox(tmp_path / "mailbox"))


@pytest.fixture
def browser(app) -> TestClient:
    return TestClient(app, base_url=SITE, follow_redirects=False, raise_server_exceptions=False)


def paths_of(app) -> list[str]:
    """Return one path for each route, and two paths that do not exist."""
    found = {route.path for route in app.routes}
    assert {"/papers", "/hooks/{provider}", "/healthz", "/mailbox/{letter_id}"} <= found
    return [
        *(re.sub(r"{[^}]*}", "x", path) for path in sorted(found)),
        "/no/such/page",
        "/data/x/y",
    ]


def is_guarded(answer) -> bool:
    return all(name in answer.headers for name in ALWAYS)


@pytest.mark.full
def test_every_response_has_the_security_headers(app, browser):
    """Each route is requested with each method, same-origin: found or not, allowed or not."""
    seen = set()
    for path in paths_of(app):
        for method in (*METHODS, "TRACE", "BREW"):
            answer = browser.request(method, path, headers={"Sec-Fetch-Site": "same-origin"})
            seen.add(answer.status_code)
            assert is_guarded(answer), (method, path, answer.status_code)
    assert {200, 204, 403, 404, 405, 410, 415} <= seen


@pytest.mark.full
def test_method_not_allowed_response_lists_allowed_methods(app, browser):
    """RFC 9110, section 15.5.6; one path may have a route to show and another to send."""
    for path in paths_of(app):
        answers = {method: browser.request(method, path) for method in METHODS}
        refused = [answer for answer in answers.values() if answer.status_code == 405]
        allowed = {method for method in METHODS if answers[method].status_code not in {405, 404}}
        for answer in refused:
            named = set(answer.headers["Allow"].split(", "))
            assert allowed <= named, path
            assert not {m for m in named if answers[m].status_code == 405}, path
        if answers["OPTIONS"].status_code == 204:
            assert answers["OPTIONS"].content == b""
            assert "OPTIONS" in answers["OPTIONS"].headers["Allow"]

    assert browser.put("/subscribe").headers["Allow"] == "GET, HEAD, OPTIONS, POST"


@pytest.mark.full
def test_head_returns_the_status_of_get(app, browser):
    """HEAD returns the status of GET if the path has a GET route."""
    for path in paths_of(app):
        looked, headed = browser.get(path), browser.head(path)
        if looked.status_code != 405:
            assert headed.status_code == looked.status_code, path


@pytest.mark.full
@pytest.mark.parametrize("headers", [CROSS_SITE, {"Sec-Fetch-Site": "same-site"}])
def test_cross_site_links_are_accepted(app, browser, headers):
    """Links in a mail are opened from a webmail site."""
    for path in paths_of(app):
        for method in ("GET", "HEAD"):
            answer = browser.request(method, path, headers=headers)
            assert path == "/metrics" or answer.status_code != 403, (method, path)


@pytest.mark.parametrize("headers", [CROSS_SITE, {"Sec-Fetch-Site": "same-site"}])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_cross_site_forms_are_rejected(app, browser, method, headers):
    """Except one-click, which mail services post, and webhooks, which are signed."""
    open_to_all = {"/unsubscribe/x", "/hooks/x"}
    for path in paths_of(app):
        answer = browser.request(method, path, headers=headers)
        assert (answer.status_code == 403) is (path not in open_to_all), path


def test_uncaught_error_response_has_the_security_headers(browser, monkeypatch):
    """The outermost handler returns that page, outside all other middleware."""
    monkeypatch.setattr(ops, "why_not_ready", lambda *_: 1 / 0)

    answer = browser.get("/readyz")

    assert answer.status_code == 500
    assert "Something went wrong" in answer.text
    assert is_guarded(answer)


def test_error_while_rendering_the_error_page_returns_a_plain_500(browser, monkeypatch):
    monkeypatch.setattr(ops, "why_not_ready", lambda *_: 1 / 0)
    monkeypatch.setattr(Pages, "show", lambda *_, **__: 1 / 0)

    answer = browser.get("/readyz")

    assert answer.status_code == 500
    assert "Something went wrong" in answer.text
    assert "ZeroDivisionError" not in answer.text
    assert is_guarded(answer)


def test_two_applications_of_a_process_share_their_routes_but_no_state(engine, tmp_path):
    """Routes are analysed once, at import; what they use comes from the application's state."""
    first, second = (
        create_app(Services(settings.load(None, site_url=SITE, list_name=name), engine), box)
        for name, box in (("Ada's papers", Mailbox(tmp_path / "mailbox")), ("Bob's papers", None))
    )

    assert all(one is other for one, other in zip(second.routes, first.routes, strict=False))
    for app, name, status in ((first, "Ada", 200), (second, "Bob", 404), (first, "Ada", 200)):
        browser = TestClient(app, base_url=SITE)
        assert f"{name}&#39;s papers" in browser.get("/topics").text
        assert browser.get("/mailbox").status_code == status
