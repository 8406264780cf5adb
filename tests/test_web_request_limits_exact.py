"""Limits of a request, exact to the octet and the slot, without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse

from pipeline import settings
from pipeline.web import request_limits
from pipeline.web.request_limits import (
    CHANGING,
    LEAVING,
    LOOKING_UP,
    OPERATING,
    PROVIDERS,
    SEARCHING,
    SHOWING,
    RequestClass,
    RequestLimits,
    request_class,
)
from pipeline.web.templating import Pages

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Headers
    text: str


async def echo(scope, receive, send) -> None:
    """Return the number of octets of the body."""
    message = await receive()
    assert message["type"] == "http.request"
    assert message["more_body"] is False
    await PlainTextResponse(str(len(message["body"])))(scope, receive, send)


def make_bounds(app=echo) -> RequestLimits:
    pages = Pages.of(settings.load(None), has_mailbox=False)
    watch: Any = SimpleNamespace(see=lambda request: None)
    return RequestLimits(app, pages, (), watch)


async def ask(
    bounded: RequestLimits,
    method: str = "GET",
    path: str = "/papers",
    *chunks: bytes,
    query: bytes = b"",
    peer: str = "192.0.2.1",
    leaves: bool = False,
    **headers: str,
) -> Answer | None:
    """Send a request and return the response, or None if there is none.

    The body comes in `chunks`; if `leaves`, the client disconnects after the last one.
    """
    sent, coming = [], list(chunks) or [b""]

    async def receive():
        if not coming:
            if leaves:
                return {"type": "http.disconnect"}
            await asyncio.sleep(60)
        chunk = coming.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(coming) or leaves}

    async def send(message) -> None:
        sent.append(message)

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(),
        "query_string": query, "headers": raw, "client": (peer, 5000),
    }  # fmt: skip
    await bounded(scope, receive, send)
    if not sent:
        return None
    text = b"".join(message.get("body", b"") for message in sent[1:]).decode()
    return Answer(sent[0]["status"], Headers(raw=sent[0]["headers"]), text)


def answer(*args: Any, app=echo, **more: Any) -> Answer:
    found = asyncio.run(ask(make_bounds(app), *args, **more))
    assert found is not None
    return found


# --- Size ---------------------------------------------------------------------------------------


def test_request_limits_have_the_expected_values():
    assert (request_limits.BODIES, request_limits.BODY_SECONDS) == (32 * MIB, 20.0)
    assert (request_limits.RETRY_AFTER, request_limits.LOG_EVERY) == (10, 60.0)


def test_url_is_limited_to_24_kib():
    path, query = "/" + "a" * 999, b"b" * (24 * KIB - 1_000)

    assert answer("GET", path, query=query).status == 200
    refused = answer("GET", path, query=query + b"b")
    assert refused.status == 414
    assert "Address too long" in refused.text


def test_headers_are_limited_to_32_kib_in_total():
    assert answer(a="a" * 16_000, b="b" * (32 * KIB - 16_002)).status == 200
    assert answer(a="a" * 16_000, b="b" * (32 * KIB - 16_001)).status == 431


@pytest.mark.parametrize(
    ("path", "most"),
    [
        ("/link", 128 * KIB),
        ("/subscribe", MIB),
        ("/subscribe/preview", MIB),
        ("/preferences/token/start", MIB),
        ("/preferences/token", 128 * KIB),
        ("/preferences/token/start/more", 128 * KIB),
        ("/hooks/ses", MIB),
        ("/hooks/a/b", 128 * KIB),
    ],
)
def test_form_and_event_body_size_is_limited(path, most):
    chunks = [b"a" * (most - 1_000), b"a" * 1_000]

    assert answer("POST", path, *chunks).text == str(most)
    assert answer("POST", path, *chunks, b"a").status == 413
    assert answer("POST", path, content_length=str(most)).status == 200
    for announced in (str(most + 1), "9" * 15, "9" * 16, "9" * 5_000):
        refused = answer("POST", path, content_length=announced)
        assert refused.status == 413
        assert refused.headers["connection"] == "close"
        assert refused.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("announced", ["", "-1", "x", "0x9999999", "1e99"])
def test_non_numeric_content_length_is_ignored(announced):
    assert answer("POST", "/subscribe", b"ab", content_length=announced).text == "2"


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/papers"), ("HEAD", "/"), ("POST", "/unsubscribe/secret")]
)
def test_body_is_not_read_if_the_route_takes_none(method, path):
    assert answer(method, path, b"a" * MIB, content_length="9" * 20).text == "0"


def test_total_size_of_held_bodies_is_limited(monkeypatch):
    monkeypatch.setattr(request_limits, "BODIES", 100)

    async def both() -> list[Answer | None]:
        is_first_in = asyncio.Event()

        async def hold(scope, receive, send) -> None:
            await echo(scope, receive, send)
            is_first_in.set()
            await asyncio.sleep(0.02)

        bounded = make_bounds(hold)
        first = asyncio.create_task(ask(bounded, "POST", "/link", b"a" * 60))
        await is_first_in.wait()
        while_held = [await ask(bounded, "POST", "/link", b"a" * 41)]
        await first
        return [*while_held, await ask(bounded, "POST", "/link", b"a" * 100)]

    refused, taken = asyncio.run(both())

    assert refused is not None
    assert (refused.status, refused.headers["retry-after"]) == (503, "10")
    assert "connection" not in refused.headers
    assert taken is not None
    assert taken.text == "100"


def test_rejected_or_aborted_bodies_are_released(monkeypatch):
    async def held() -> list[int]:
        bounded = make_bounds()
        monkeypatch.setattr(request_limits, "BODY_SECONDS", 0.05)
        found = []
        for chunks, leaves in (
            ([b"a" * 100], True),
            ([b"a" * 200_000], False),
            ([b"a" * 100], False),
        ):
            await ask(bounded, "POST", "/link", *chunks, leaves=leaves)
            found.append(bounded._held)
        slow = asyncio.create_task(ask(bounded, "POST", "/link", *[b"a"] * 3, leaves=True))
        assert await slow is None
        return [*found, bounded._held]

    assert asyncio.run(held()) == [0, 0, 0, 0]


def test_slow_body_returns_408_and_is_released(monkeypatch):
    monkeypatch.setattr(request_limits, "BODY_SECONDS", 0.05)

    async def slow() -> tuple[int, int]:
        bounded, sent = make_bounds(), []

        async def receive():
            if sent:
                await asyncio.sleep(60)
            sent.append("a part")
            return {"type": "http.request", "body": b"a" * 10, "more_body": True}

        statuses = []

        async def send(message) -> None:
            statuses.append(message.get("status"))

        scope = {"type": "http", "method": "POST", "path": "/link", "query_string": b"",
                 "headers": [], "client": None}  # fmt: skip
        await bounded(scope, receive, send)
        return statuses[0], bounded._held

    assert asyncio.run(slow()) == (408, 0)


def test_application_receives_the_body_once_and_then_disconnect():
    async def reads_twice(scope, receive, send) -> None:
        kinds = [(await receive())["type"] for _ in range(2)]
        await PlainTextResponse(" ".join(kinds))(scope, receive, send)

    async def asked() -> str:
        coming = [
            {"type": "http.request", "body": b"ab", "more_body": False},
            {"type": "http.disconnect"},
        ]
        sent = []

        async def receive():
            return coming.pop(0)

        async def send(message) -> None:
            sent.append(message.get("body", b""))

        scope = {"type": "http", "method": "POST", "path": "/x", "query_string": b"",
                 "headers": [], "client": None}  # fmt: skip
        await make_bounds(reads_twice)(scope, receive, send)
        return b"".join(sent).decode()

    assert asyncio.run(asked()) == "http.request http.disconnect"


def test_non_http_scopes_pass():
    seen = []

    async def app(scope, receive, send) -> None:
        seen.append(scope["type"])

    asyncio.run(make_bounds(app)({"type": "lifespan"}, None, None))

    assert seen == ["lifespan"]


# --- Rejections ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "begins"),
    [
        ("/hooks/ses", "Request too large: "),
        ("/metrics", "Request too large: "),
        ("/readyz", "Request too large: "),
        ("/subscribe", "<!DOCTYPE html>"),
    ],
)
def test_machine_clients_are_rejected_in_plain_text(path, begins):
    refused = answer("POST", path, content_length="9" * 16)

    assert refused.text.lower().startswith(begins.lower())
    assert "connection" in refused.headers


def test_rejected_preview_returns_an_html_fragment():
    refused = answer("POST", "/subscribe/preview", content_length="9" * 16)

    assert refused.status == 413
    assert "<html" not in refused.text


# --- Lanes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lane", "figures"),
    [
        (OPERATING, ("operating", 2, 16, 10.0)),
        (LEAVING, ("leaving", 4, 200, 20.0)),
        (PROVIDERS, ("providers", 2, 32, 10.0)),
        (CHANGING, ("changing", 3, 64, 10.0)),
        (SEARCHING, ("searching", 2, 32, 5.0)),
        (LOOKING_UP, ("looking-up", 3, 16, 8.0)),
        (SHOWING, ("showing", 6, 64, 8.0)),
    ],
)
def test_lanes_have_the_expected_limits(lane, figures):
    assert lane == RequestClass(*figures)


@pytest.mark.parametrize(
    ("method", "path", "query", "lane"),
    [
        ("GET", "/metrics", b"", OPERATING),
        ("GET", "/papers.css", b"q=x", None),
        ("POST", "/papers", b"q=x", SHOWING),
        ("GET", "/papers/1", b"q=x", SHOWING),
        ("GET", "/", b"", SHOWING),
        ("GET", "/", b"page=2", SHOWING),
        ("POST", "/", b"q=x", SHOWING),
        ("GET", "/sitemap.xml", b"", SEARCHING),
        ("POST", "/sitemap.xml", b"", None),
        ("GET", "/topics", b"", SEARCHING),
        ("POST", "/link", b"", CHANGING),
        ("GET", "/link", b"", SHOWING),
        ("POST", "/new-address/x", b"", CHANGING),
        ("DELETE", "/data/x", b"", CHANGING),
        ("GET", "/mailbox", b"", SHOWING),
        ("GET", "/nowhere", b"q=x", None),
    ],
)
def test_lane_depends_on_method_path_and_query(method, path, query, lane):
    assert request_class(method, path, query, b"") is lane


def gates(bounded: RequestLimits) -> list[request_limits._Gate]:
    return [gate for by_lane in bounded._loops.values() for gate in by_lane.values()]


def test_form_with_too_many_fields_is_not_a_preview():
    fields = b"a=1&" * 499

    assert request_class("POST", "/subscribe", b"", fields + b"do=preview") is SEARCHING
    assert request_class("POST", "/subscribe", b"", fields + b"a=1&do=preview") is CHANGING


async def _flood(lane: RequestClass, peers: list[str], app, monkeypatch) -> list[int]:
    monkeypatch.setattr(request_limits, "SHOWING", lane)
    bounded = make_bounds(app)
    found = await asyncio.gather(*(ask(bounded, peer=peer) for peer in peers))
    assert not any(gate.clients for gate in gates(bounded))
    return [one.status for one in found if one]


def slow(seconds: float) -> Callable[..., Awaitable[None]]:
    async def app(scope, receive, send) -> None:
        await asyncio.sleep(seconds)
        await echo(scope, receive, send)

    return app


def test_full_lane_and_queue_return_503(monkeypatch):
    peers = [f"192.0.2.{number}" for number in range(1, 9)]

    found = asyncio.run(_flood(RequestClass("any", 2, 4, 20.0), peers, slow(0.02), monkeypatch))

    assert found == [200] * 6 + [503] * 2


def test_one_client_takes_at_most_half_of_a_lane(monkeypatch):
    peers = ["192.0.2.1"] * 5 + ["192.0.2.2"]

    found = asyncio.run(_flood(RequestClass("any", 2, 4, 20.0), peers, slow(0.02), monkeypatch))

    assert found == [200] * 3 + [503] * 2 + [200]


def test_waiting_for_a_lane_times_out_with_503(monkeypatch):
    peers = ["192.0.2.1", "192.0.2.2"]

    found = asyncio.run(_flood(RequestClass("any", 1, 8, 0.02), peers, slow(0.3), monkeypatch))

    assert found == [200, 503]


def test_lane_place_is_released_when_the_response_starts():
    async def answered_early() -> list[int]:
        has_started = asyncio.Event()

        async def app(scope, receive, send) -> None:
            await echo(scope, receive, send)
            if not has_started.is_set():
                has_started.set()
                await asyncio.sleep(0.2)  # the client reads the response slowly

        bounded = make_bounds(app)
        first = asyncio.create_task(ask(bounded))
        await has_started.wait()
        taken = [len(gate.clients) for gate in gates(bounded)]
        await first
        return taken

    assert asyncio.run(answered_early()) == [0]


def test_timeout_error_of_a_page_is_raised_unchanged():
    async def app(scope, receive, send) -> None:
        raise TimeoutError("of the page")

    with pytest.raises(TimeoutError, match="of the page"):
        answer(app=app)


def test_refusals_are_logged_once_a_minute_for_each_lane(monkeypatch):
    clock, logged = [1_000.0], []
    monkeypatch.setattr(request_limits.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(
        request_limits.log, "warning", lambda _, lane: logged.append(lane), raising=False
    )
    bounded = make_bounds()

    for seconds in (0.0, 59.9, 60.0):
        clock[0] = 1_000.0 + seconds
        bounded._log(SHOWING)
        bounded._log(CHANGING)

    assert logged == ["showing", "changing"] * 2
