"""The guard in front of all pages: which requests may post, and the headers of each response."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse

from pipeline.web.middleware import ALWAYS, BROKEN, PERSONAL, SecurityMiddleware, is_same_origin

SITE = "papers.example.org"


async def hello(scope, receive, send) -> None:
    await PlainTextResponse("hello")(scope, receive, send)


def ask(app=hello, method="POST", path="/subscribe", type_="http", **headers: str) -> Any:
    """Return the status, headers and body of the response, and the error raised by the application.

    If there is no HTTP response, return only the messages sent and the error.
    """
    sent, error = [], None

    async def send(message) -> None:
        sent.append(message)

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": type_, "method": method, "path": path, "headers": raw}
    try:
        asyncio.run(SecurityMiddleware(app, f"https://{SITE}")(scope, None, send))
    except RuntimeError as raised:
        error = str(raised)
    if type_ != "http" or not sent:
        return sent, error
    body = b"".join(message.get("body", b"") for message in sent[1:]).decode()
    return sent[0]["status"], Headers(raw=sent[0]["headers"]), body, error


@pytest.mark.parametrize(
    ("headers", "same"),
    [
        ({}, True),
        ({"origin": "null"}, True),
        ({"origin": f"https://{SITE}"}, True),
        ({"origin": "http://inside:8000", "host": "inside:8000"}, True),
        ({"origin": "https://elsewhere.example", "host": "inside:8000"}, False),
        ({"origin": f"https://{SITE}.elsewhere.example"}, False),
        ({"origin": "elsewhere"}, False),
        ({"origin": "http://[::1"}, False),
        ({"sec-fetch-site": "same-origin", "origin": "https://elsewhere.example"}, True),
        ({"sec-fetch-site": "none"}, True),
        ({"sec-fetch-site": "same-site", "origin": f"https://{SITE}"}, False),
        ({"sec-fetch-site": "cross-site", "origin": "null"}, False),
        ({"sec-fetch-site": ""}, False),
    ],
)
def test_same_origin_is_detected_from_request_headers(headers, same):
    assert is_same_origin(Headers(headers), SITE) is same


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/subscribe", 200),
        ("HEAD", "/subscribe", 200),
        ("OPTIONS", "/subscribe", 200),
        ("POST", "/subscribe", 403),
        ("PUT", "/subscribe", 403),
        ("POST", "/unsubscribe/secret", 200),
        ("POST", "/unsubscribe/secret/more", 403),
        ("POST", "/x/unsubscribe/secret", 403),
        ("POST", "/hooks/ses", 200),
        ("POST", "/hooks/ses/more", 403),
        ("POST", "/confirm/token", 403),
    ],
)
def test_cross_site_posts_are_accepted_only_on_machine_endpoints(method, path, status):
    found, headers, body, _ = ask(method=method, path=path, sec_fetch_site="cross-site")

    assert found == status
    refusal = "This form can only be sent from its own page."
    assert body == ("hello" if status == 200 else refusal)
    assert headers["content-security-policy"] == ALWAYS["Content-Security-Policy"]


@pytest.mark.parametrize(
    ("path", "is_personal"),
    [
        ("/", False),
        ("/papers", False),
        ("/links", True),
        ("/preferences/token", True),
        ("/preferences", False),
        ("/unsubscribe/secret", True),
        ("/digests/token", True),
        ("/my/data/", False),
    ],
)
def test_personal_pages_have_no_cache_and_no_index_headers(path, is_personal):
    _, headers, _, _ = ask(method="GET", path=path)

    for name, value in ALWAYS.items():
        assert headers[name] == value
    for name, value in PERSONAL.items():
        assert headers.get(name) == (value if is_personal else None)


def test_headers_set_by_the_page_are_kept():
    async def page(scope, receive, send) -> None:
        answer = PlainTextResponse("", headers={"Referrer-Policy": "origin"})
        await answer(scope, receive, send)

    _, headers, _, _ = ask(page, method="GET")

    assert headers.getlist("referrer-policy") == ["origin"]


def test_failing_application_sends_exactly_one_response():
    async def broken(scope, receive, send) -> None:
        raise RuntimeError("before")

    async def breaking(scope, receive, send) -> None:
        await hello(scope, receive, send)
        raise RuntimeError("after")

    status, headers, body, error = ask(broken)
    assert (status, body, error) == (500, f"{BROKEN}\n", "before")
    assert headers["x-content-type-options"] == "nosniff"
    status, _, body, error = ask(breaking)
    assert (status, body, error) == (200, "hello", "after")


def test_non_http_scopes_pass_unchanged():
    async def start(scope, receive, send) -> None:
        await send({"type": "lifespan.startup.complete"})

    sent, error = ask(start, type_="lifespan", sec_fetch_site="cross-site")

    assert (sent, error) == ([{"type": "lifespan.startup.complete"}], None)
