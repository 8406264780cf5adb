"""Each request is bounded: in size, in time, and in its share of threads and connections."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from pipeline.storage.database import open_engine
from pipeline.web import request_limits
from pipeline.web import server as servers
from pipeline.web.client_address import VisitorLimit
from pipeline.web.papers import topics
from pipeline.web.request_limits import (
    CHANGING,
    FEEDS,
    LEAVING,
    LOOKING_UP,
    OPERATING,
    PICTURES,
    PROVIDERS,
    SEARCHING,
    SHOWING,
    RequestClass,
    one_at_a_time,
    request_class,
)
from tests.support.site import Site, open_site

SECRET = "x" * 22


@pytest.fixture
def site(engine: Engine) -> Site:
    return open_site(engine, site_url="http://127.0.0.1:8000")


@contextlib.contextmanager
def serving(site: Site) -> Iterator[int]:
    """Serve the site on a real socket; yield its port."""
    with servers.listen("127.0.0.1", 0) as listening:
        server = servers.server(site.browser.app)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            wait_until(lambda: server.started)
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


def wait_until(is_so) -> None:
    end = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.02)


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=30)


def answer_to(port: int, octets: bytes) -> bytes:
    with connect(port) as visitor:
        visitor.sendall(octets)
        return read_all(visitor)


def read_all(visitor: socket.socket) -> bytes:
    """Return all octets until the server closes the connection."""
    answer = b""
    with contextlib.suppress(ConnectionResetError):
        while some := visitor.recv(65536):
            answer += some
    return answer


def is_closed(visitor: socket.socket) -> bool:
    """Return if the server has closed the connection without an answer."""
    return read_all(visitor) == b""


# --- Size ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/papers?q=" + "a" * 30_000, {}, 414),
        ("/" + "a" * 30_000, {}, 414),
        ("/papers?" + "&".join(f"q{i}=" for i in range(6_000)), {}, 414),
        ("/papers", {"Cookie": "a" * 40_000}, 431),
        ("/papers", {f"X-{i}": "a" * 100 for i in range(400)}, 431),
    ],
)
def test_oversized_url_or_header_is_rejected_with_a_page(site: Site, path, headers, status):
    answer = site.get(path, headers=headers)

    assert answer.status_code == status
    assert "<h1>" in answer.text
    assert answer.headers["connection"] == "close"


def test_longest_search_query_is_accepted(site: Site):
    assert site.get("/papers", params={"q": "\u96fb" * 2_000}).status_code == 200


ODD = (
    "/papers?page=999999999",
    "/papers?page=-1",
    "/papers?page=\u0663",
    "/papers?date=0001-01-01",
    "/papers?date=9999-12-31",
    "/papers?week=0001-W01",
    "/papers?week=9999-W52",
    "/papers?week=9999-W53",
    "/papers?month=0001-01",
    "/papers?month=9999-12",
    "/papers?month=9999-12&date=0001-01-01&week=1",
    "/papers?q=%00%ff%fe&sort=best&page=7",
    "/papers?q=" + "(" * 1_900,
    "/papers?q=" + "-" * 1_900,
    "/papers?q=" + "-(" * 900,
    "/papers?q=" + "a%20OR%20" * 280 + "a",
    "/papers?q=" + "au:a%20" * 280,
    "/papers?q=" + "cat:*%20OR%20" * 180 + "cat:*",
    "/papers?q=" + "%EF%B7%BA" * 1_000,
    "/papers?q=" + "%5C%22o" * 600,
    "/papers?topic=" + "a" * 1_900,
    "/papers/" + "../" * 100 + "etc/passwd",
    "/papers/%00",
    "/papers/" + "a/" * 2_000,
    "/topics?q=" + "a%20" * 480 + "&page=99999",
    "/topics/agents.rss",
    "/topics/agents.atom.atom",
    "/topics.atom?q=(",
    "/topics.json",
    "/topics/%00.json",
    "/subscribe?" + "&".join(["topic=moss"] * 1_000),
    "/subscribe?topic=" + "a" * 20_000,
    "/unsubscribe/" + "a" * 5_000,
    "/preferences/" + "a" * 5_000,
    "/confirm/" + "." * 5_000,
    "/digests/%ff",
    "/data/%00",
)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_unusual_urls_never_fail_or_take_long(site: Site, method: str):
    for path in ODD:
        started = time.thread_time()

        answer = site.browser.request(method, path, headers={"Range": "bytes=0-,5-,9-"})

        assert answer.status_code < 500, path[:80]
        assert time.thread_time() - started < 5, path[:80]


@pytest.mark.parametrize("path", ["/subscribe", "/link", "/hooks/generic", "/nowhere"])
def test_oversized_body_is_rejected_before_it_is_read(site: Site, path: str):
    with serving(site) as port:
        announced = answer_to(
            port, f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999\r\n\r\n".encode()
        )
        chunk = b"10000\r\n" + b"a" * 0x10000 + b"\r\n"
        with connect(port) as visitor:
            visitor.sendall(
                f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
            )
            with contextlib.suppress(OSError):
                for _ in range(40):
                    visitor.sendall(chunk)
            chunked = read_all(visitor)

    assert announced.startswith(b"HTTP/1.1 413")
    assert chunked.startswith(b"HTTP/1.1 413") or chunked == b""  # reset while the request was sent


def test_total_body_size_is_limited(site: Site, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(request_limits, "BODIES", 1_000)

    answers = [site.post("/subscribe", content=b"a" * size) for size in (2_000, 10)]

    assert [answer.status_code for answer in answers] == [503, 415]
    assert answers[0].headers["retry-after"]


# --- Time ---------------------------------------------------------------------------------------


def test_slow_headers_time_out(site: Site, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(servers, "HEADER_SECONDS", 1.0)
    with serving(site) as port, connect(port) as silent, connect(port) as slow:
        slow.sendall(b"GET /healthz HTTP/1.1\r\n")
        end = time.monotonic() + 20
        with contextlib.suppress(OSError):
            while time.monotonic() < end:
                slow.sendall(b"X: y\r\n")
                time.sleep(0.1)

        assert time.monotonic() < end
        assert is_closed(slow)
        assert is_closed(silent)


def test_incomplete_second_request_times_out(site: Site, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(servers, "HEADER_SECONDS", 1.0)
    with serving(site) as port, connect(port) as visitor:
        visitor.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /healthz HTTP/1.1\r\n")

        assert read_all(visitor).startswith(b"HTTP/1.1 200")


def test_body_sent_after_the_response_times_out(site: Site, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(servers, "HEADER_SECONDS", 1.0)
    with serving(site) as port, connect(port) as visitor:
        visitor.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n")
        end = time.monotonic() + 20
        with contextlib.suppress(OSError):
            while time.monotonic() < end:
                visitor.sendall(b"y")
                time.sleep(0.1)

        assert time.monotonic() < end


def test_slow_body_returns_408(site: Site, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(request_limits, "BODY_SECONDS", 0.5)
    with serving(site) as port:
        answer = answer_to(
            port, b"POST /link HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nemail="
        )

    assert answer.startswith(b"HTTP/1.1 408")


def test_one_click_does_not_wait_for_its_body(site: Site):
    with serving(site) as port:
        head = f"POST /unsubscribe/{SECRET} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
        with connect(port) as visitor:
            visitor.sendall(head.encode())
            assert visitor.recv(100).startswith(b"HTTP/1.1 200")


def test_unread_response_is_dropped_after_a_timeout(site: Site, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(servers, "WRITE_SECONDS", 1.0)
    with serving(site) as port, socket.socket() as visitor:
        visitor.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        visitor.settimeout(30)
        visitor.connect(("127.0.0.1", port))
        ask = b"GET /subscribe HTTP/1.1\r\nHost: x\r\n\r\n"
        end = time.monotonic() + 25
        with contextlib.suppress(OSError):
            while time.monotonic() < end:
                visitor.sendall(ask * 50)
                time.sleep(0.1)

        assert time.monotonic() < end


def test_oldest_idle_connection_is_closed_when_connections_run_out(
    site: Site, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(servers, "MOST_CONNECTIONS", 5)
    with serving(site) as port, contextlib.ExitStack() as stack:
        idle = [stack.enter_context(connect(port)) for _ in range(20)]
        wait_until(lambda: is_closed(idle[0]))

        answer = answer_to(port, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 200")


# --- Lanes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "query", "body", "lane"),
    [
        ("GET", "/healthz", b"", b"", None),
        ("GET", "/style.css", b"", b"", None),
        ("GET", "/readyz", b"", b"", OPERATING),
        ("POST", f"/unsubscribe/{SECRET}", b"", b"", LEAVING),
        ("POST", "/hooks/ses", b"", b"", PROVIDERS),
        ("GET", "/subscribe", b"", b"", SHOWING),
        ("GET", "/subscribe", b"topic=moss", b"", SEARCHING),
        ("POST", "/subscribe", b"", b"email=a%40b.org&do=subscribe", CHANGING),
        ("POST", "/subscribe", b"", b"email=a%40b.org&do=preview", SEARCHING),
        ("POST", "/subscribe", b"", b"email=a%40b.org&papers=&do=subscribe", CHANGING),
        ("POST", "/subscribe", b"", b"email=a%40b.org&p%61pers=Moss&do=subscribe", SEARCHING),
        ("POST", "/subscribe", b"", b"adopt=moss%0Awall", SEARCHING),
        ("POST", "/subscribe", b"", b"a" * (128 * 1024 + 1), SEARCHING),
        ("POST", "/preferences/token/start", b"", b"do=save", SEARCHING),
        ("GET", "/preferences/token/start", b"", b"", SHOWING),
        ("POST", "/subscribe", b"", b"\xff\xfe", CHANGING),
        ("POST", "/subscribe/preview", b"", b"", SEARCHING),
        ("POST", "/subscribe/preview", b"", b"papers=0000-0002-1825-0097", SEARCHING),
        ("POST", "/subscribe", b"", b"papers=0000-0002-1694-233x", LOOKING_UP),
        ("POST", "/subscribe", b"", b"papers=https%3A%2F%2Farxiv.org%2fa%2Ffern_b_1", LOOKING_UP),
        ("POST", "/subscribe", b"", b"papers=0000%2D0002-1825-009%37", LOOKING_UP),
        ("POST", "/subscribe", b"", b"papers=arxiv%2Eorg/a/fern_b_1", LOOKING_UP),
        ("POST", "/preferences/token/start", b"", b"papers=0000-0002-1825-0097", LOOKING_UP),
        ("GET", "/papers", b"", b"", SHOWING),
        ("HEAD", "/papers", b"q=moss", b"", SEARCHING),
        ("GET", "/", b"topic=moss", b"", SEARCHING),
        ("GET", "/papers/2506.19852", b"", b"", SHOWING),
        ("GET", "/cite/ris/2506.19852", b"", b"", SHOWING),
        ("GET", "/preferences/token/saved", b"q=moss", b"", SHOWING),
        ("GET", "/preferences/token/saved.bib", b"", b"", SHOWING),
        ("POST", "/preferences/token/saved", b"", b"", CHANGING),
        ("GET", "/feeds/secret/digests.atom", b"", b"", FEEDS),
        ("GET", "/thumbnails/2506.19852", b"", b"", PICTURES),
        ("GET", "/topics/agents.atom", b"", b"", SEARCHING),
        ("GET", "/authors/Ada%20Lovelace.atom", b"", b"", SEARCHING),
        ("GET", "/preferences/token", b"", b"", SEARCHING),
        ("POST", "/preferences/token", b"", b"", CHANGING),
        ("POST", "/confirm/token", b"", b"", CHANGING),
        ("GET", "/digests/token", b"", b"", SHOWING),
    ],
)
def test_lane_of_returns_the_lane_of_each_path(method, path, query, body, lane):
    assert request_class(method, path, query, body) is lane


def test_lanes_use_at_most_half_of_the_threads():
    lanes = (OPERATING, LEAVING, PROVIDERS, CHANGING, SEARCHING, SHOWING)  # PICTURES needs none

    assert sum(lane.at_once for lane in lanes) <= 20  # of 40 threads, and 15 to 20 connections


def test_search_flood_does_not_block_health_checks_and_one_click(
    site: Site, monkeypatch: pytest.MonkeyPatch
):
    """If searches never end, their lane fills up and its queue is refused; other lanes respond."""
    monkeypatch.setattr(request_limits, "SEARCHING", RequestClass("searching", 2, 4, 0.5))
    released = threading.Event()
    selected = topics._selected

    def selected_when_released(*parameters):
        released.wait(60)
        return selected(*parameters)

    monkeypatch.setattr(topics, "_selected", selected_when_released)
    search = b"GET /topics/agents HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with serving(site) as port, contextlib.ExitStack() as stack:
        flood = [stack.enter_context(connect(port)) for _ in range(60)]
        for visitor in flood:
            visitor.sendall(search)
        wait_until(lambda: sum(answered(one) for one in flood) == 58)

        health = answer_to(port, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        ready = answer_to(port, b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        left = answer_to(
            port,
            f"POST /unsubscribe/{SECRET} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode(),
        )
        front = answer_to(port, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        refused = next(visitor for visitor in flood if answered(visitor)).recv(65536)
        released.set()

        assert refused.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 10" in refused.lower()
        assert b"<h1>" in refused
        assert b"content-security-policy" in refused.lower()
    for answer in (health, ready, left, front):
        assert answer.startswith(b"HTTP/1.1 200")


def answered(visitor: socket.socket) -> bool:
    visitor.setblocking(False)
    try:
        return bool(visitor.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False
    finally:
        visitor.settimeout(30)


def test_one_client_gets_at_most_half_of_a_lane():
    async def places() -> tuple[int, int]:
        gate = request_limits._Gate(RequestClass("any", 2, 6, 20.0), asyncio.Semaphore(2))

        async def hold(client: str) -> bool:
            try:
                async with gate.place(client):
                    await asyncio.sleep(0.02)
            except TimeoutError:
                return False
            return True

        greedy = [asyncio.create_task(hold("greedy")) for _ in range(20)]
        await asyncio.sleep(0)
        other = asyncio.create_task(hold("other"))
        return sum(await asyncio.gather(*greedy)), await other

    assert asyncio.run(places()) == (4, True)


def test_wake_ups_during_a_run_are_merged_into_one():
    """While one runs, further calls return at once; it runs once more for all of them."""
    runs: list[int] = []
    hanging, may_end = threading.Event(), threading.Event()

    def work() -> None:
        runs.append(1)
        hanging.set()
        may_end.wait(30)

    wake = one_at_a_time(work)
    thread = threading.Thread(target=wake)
    thread.start()
    hanging.wait(30)
    for _ in range(10):
        wake()
    may_end.set()
    thread.join()

    assert len(runs) == 2


# --- The database -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [PoolTimeoutError("QueuePool limit"), OperationalError("SELECT", {}, Exception("locked"))],
)
def test_busy_database_returns_503(engine: Engine, error: Exception):
    site = open_site(engine)

    def refuse(*_: object) -> None:
        raise error

    event.listen(engine, "begin", refuse)
    try:
        answer = site.get("/papers")
    finally:
        event.remove(engine, "begin", refuse)

    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    assert "<h1>" in answer.text


def test_exhausted_connection_pool_returns_503_after_a_short_wait(database_url: str):
    engine = open_engine(database_url, pool_timeout=0.3)
    site = open_site(engine)
    site.get("/papers")
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(PoolTimeoutError):
            while True:
                stack.enter_context(engine.connect())
        started = time.monotonic()

        answer = site.get("/papers")

    engine.dispose()
    assert answer.status_code == 503
    assert time.monotonic() - started < 10


# --- Throttles ----------------------------------------------------------------------------------


def test_rotating_addresses_inside_a_network_are_throttled():
    def taken(addresses: list[str]) -> int:
        throttle = VisitorLimit(10)
        return sum(throttle.takes(address, 0) for address in addresses)

    assert taken([f"2001:db8::{i:x}" for i in range(200)]) == 10
    assert taken([f"2001:db8:0:{i:x}::1" for i in range(200)]) == 20  # of one /56
    assert taken([f"2001:db8:0:{i:x}00::1" for i in range(200)]) == 40  # of one /48
    assert taken([f"203.0.113.{i}" for i in range(200)]) == 40
    assert taken(["::ffff:203.0.113.9", "203.0.113.9"] * 20) == 10
    assert taken([f"2001:{i:x}::1" for i in range(1, 200)]) == 199


def test_cpu_time_is_throttled_per_client_and_globally():
    throttle = VisitorLimit(1_000, seconds=2.0, everybody=5.0)

    for client in ("192.0.2.1", "198.51.100.1", "203.0.113.1"):
        throttle.charge(client, 1.9, 0)

    assert not throttle.takes("192.0.3.1", 0)  # 5.7 s for all clients together
    assert throttle.takes("192.0.2.1", 60)
    throttle.charge("192.0.2.1", 2.1, 60)
    assert not throttle.takes("192.0.2.1", 61)
    assert throttle.takes("198.51.100.1", 61)


def test_throttle_keeps_a_limited_number_of_clients():
    throttle = VisitorLimit(10)

    for i in range(30_000):
        throttle.takes(f"{i % 223 + 1}.{i // 223}.0.1", 0)

    assert len(throttle._counts) <= 10_001
    assert throttle.takes("1.0.0.1", 0)  # a client known before still has its own count
