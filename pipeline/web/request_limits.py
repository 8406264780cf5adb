"""Limit each request: size, time to receive the body, and concurrency by kind.

Synchronous endpoints share a pool of 40 threads. Each request queues here, without a thread, for a
place in the lane of its path, so that one lane cannot take the threads of another: a flood of
previews never slows health checks or one-click unsubscribing. The queue is limited in length and
time; beyond that the response is 503 with Retry-After. A slow client holds neither a thread nor a
place: the body is read before, and the place is released when the response starts.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qs, unquote_to_bytes
from weakref import WeakKeyDictionary

import structlog
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.signup.abuse_limits import host
from pipeline.translations import gettext, gettext_noop
from pipeline.web.client_address import ProxyWatch, client_ip
from pipeline.web.dependencies import LARGEST_FORM, LOOKS_UP, WITH_PAPERS, largest_form
from pipeline.web.middleware import HOOKS, ONE_CLICK, SAFE_METHODS
from pipeline.web.ops import LARGEST
from pipeline.web.templating import Pages

log = structlog.get_logger(__name__)

LONGEST_ADDRESS: Final = 24 * 1024  # octets of path and query; a query of 2,000 letters fits
LARGEST_HEADERS: Final = 32 * 1024  # octets of all headers together
BODY_SECONDS: Final = 20.0  # to receive a whole body
BODIES: Final = 32 * 1024 * 1024  # octets of all bodies in memory at a time
RETRY_AFTER: Final = 10  # seconds
LOG_EVERY: Final = 60.0  # seconds between two log events about one lane
FOR_PROGRAMS: Final = ("/feeds/", "/hooks/", "/metrics", "/readyz")  # errors here are plain text


@dataclass(frozen=True, slots=True)
class RequestClass:
    """Kind of request: how many run at once, how many are queued, and for how many seconds."""

    name: str
    at_once: int
    waiting: int
    patience: float


# Together they use 24 of the 40 threads (pictures need none); the rest is for paths without a lane,
# which are fast.
OPERATING: Final = RequestClass("operating", 2, 16, 10.0)
LEAVING: Final = RequestClass("leaving", 4, 200, 20.0)
PROVIDERS: Final = RequestClass("providers", 2, 32, 10.0)
CHANGING: Final = RequestClass("changing", 3, 64, 10.0)  # sign-ups, confirmations, preferences
SEARCHING: Final = RequestClass("searching", 2, 32, 5.0)  # paths that evaluate queries
LOOKING_UP: Final = RequestClass("looking-up", 3, 16, 8.0)  # forms that wait for another site
FEEDS: Final = RequestClass("feeds", 2, 64, 8.0)  # of readers, polled by programs
PICTURES: Final = RequestClass("pictures", 64, 0, 8.0)  # thumbnails, fetched by their own thread
SHOWING: Final = RequestClass("showing", 6, 64, 8.0)

_SEARCHES: Final = ("/authors/", "/preferences/", "/topics", "/sitemap.xml")
_CHANGES: Final = ("/confirm/", "/data/", "/link", "/new-address/", "/preferences/", "/subscribe")
_SHOWS: Final = (*_CHANGES, "/cite/", "/digests/", "/mailbox", "/papers", "/privacy")
_EVALUATED: Final = {"adopt", "papers"}  # fields of the sign-up form
_AUTHOR_ID: Final = re.compile(rb"\d{4}-\d{4}-\d{4}-\d{3}[\dX]|arxiv\.org/a/", re.I)
_FREE: Final = ("/papers.css",)


def request_class(method: str, path: str, query: bytes, body: bytes) -> RequestClass | None:
    """Return the lane of a request; None if its response costs next to nothing."""
    if path in {"/readyz", "/metrics"}:
        return OPERATING
    if path.startswith("/unsubscribe/") or (
        path.startswith("/preferences/") and path.split("/")[3:4] == ["leave"]
    ):
        return LEAVING
    if path.startswith("/hooks/"):
        return PROVIDERS
    if path.startswith("/feeds/"):
        return FEEDS
    if path.startswith("/thumbnails/"):
        return PICTURES
    if path in _FREE:
        return None
    is_reading = method in SAFE_METHODS
    if not is_reading and LOOKS_UP.fullmatch(path) and _AUTHOR_ID.search(unquote_to_bytes(body)):
        return LOOKING_UP
    if is_reading and _evaluates(path, query):
        return SEARCHING
    if not is_reading and WITH_PAPERS.fullmatch(path) and _evaluates_form(path, body):
        return SEARCHING
    if not is_reading and path.startswith(_CHANGES):
        return CHANGING
    return SHOWING if path == "/" or path.startswith(_SHOWS) else None


def _evaluates(path: str, query: bytes) -> bool:
    is_list = path in {"/", "/papers"} or path == "/subscribe"
    if path.startswith("/preferences/") and path.count("/") > 2:
        return path.endswith(("/follow", "/interests"))  # its other pages evaluate no query
    return path.startswith(_SEARCHES) or (is_list and any(n in query for n in (b"q=", b"topic=")))


def _evaluates_form(path: str, body: bytes) -> bool:
    """Return whether a form is to be previewed, or has papers; a large form must have some."""
    if path != "/subscribe" or len(body) > LARGEST_FORM:
        return True
    with suppress(ValueError):
        fields = parse_qs(body.decode("latin-1"), max_num_fields=500)
        return "preview" in fields.get("do", ()) or not fields.keys().isdisjoint(_EVALUATED)
    return False


@dataclass(slots=True)
class _Gate:
    """Semaphore and queue of one lane, in one event loop."""

    lane: RequestClass
    places: asyncio.Semaphore
    clients: Counter[str] = field(default_factory=Counter)  # requests of each, running or queued

    @asynccontextmanager
    async def place(self, client: str) -> AsyncIterator[Callable[[], None]]:
        """Wait for a place; yield a function that releases it early (idempotent).

        Raise TimeoutError if the queue is full, or if no place is free within `lane.patience`.
        """
        most = self.lane.at_once + self.lane.waiting
        # One client gets at most half of the places, so that a flood leaves some for others.
        if self.clients.total() >= most or self.clients[client] >= most // 2:
            raise TimeoutError
        self.clients[client] += 1
        try:
            async with asyncio.timeout(self.lane.patience):
                await self.places.acquire()
        except BaseException:
            self._leave(client)
            raise
        is_held = True

        def give_back() -> None:
            nonlocal is_held
            if is_held:
                is_held = False
                self.places.release()
                self._leave(client)

        try:
            yield give_back
        finally:
            give_back()

    def _leave(self, client: str) -> None:
        self.clients[client] -= 1
        if self.clients[client] <= 0:
            del self.clients[client]


class _Refusal(Exception):  # noqa: N818  (never leaves this module)
    """Rejection of a request by the middleware, with an HTTP status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


WORDS: Final = {
    408: (
        gettext_noop("Request timed out"),
        gettext_noop("The form did not arrive in time. Send it again."),
    ),
    413: (gettext_noop("Request too large"), gettext_noop("The form is too large.")),
    414: (
        gettext_noop("Address too long"),
        gettext_noop("Shorten it, or start from the front page."),
    ),
    431: (
        gettext_noop("Request headers too large"),
        gettext_noop("Delete the cookies of this site, then try again."),
    ),
    503: (
        gettext_noop("The site is busy"),
        gettext_noop("Nothing was changed. Try again in a few seconds."),
    ),
}


class RequestLimits:
    """ASGI middleware that enforces the limits; only `SecurityMiddleware` is further out."""

    def __init__(
        self, app: ASGIApp, pages: Pages, trusted_proxies: tuple[str, ...], watch: ProxyWatch
    ) -> None:
        self._app = app
        self._pages = pages
        self._proxies = trusted_proxies
        self._watch = watch
        self._held = 0  # octets of bodies
        self._logged: dict[str, float] = {}  # lane -> when a refusal was last logged
        # A semaphore belongs to one event loop; tests run one loop for each request.
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, _Gate]] = (
            WeakKeyDictionary()
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self._watch.see(HTTPConnection(scope))
        try:
            _check_size(scope)
            body = await self._body(scope, receive)
        except _Refusal as refusal:
            await self._refuse(refusal.status, scope, receive, send)
            return
        if body is None:  # the client disconnected
            return
        try:
            await self._run(scope, _replayed(body, receive), send, body)
        finally:
            self._held -= len(body)

    async def _run(self, scope: Scope, receive: Receive, send: Send, body: bytes) -> None:
        lane = request_class(scope["method"], scope["path"], scope["query_string"], body)
        if lane is None:
            await self._app(scope, receive, send)
            return
        client = host(client_ip(HTTPConnection(scope), self._proxies))
        is_running = False
        try:
            async with self._gate(lane).place(client) as give_back:
                is_running = True

                async def send_and_give_back(message: Message) -> None:
                    if message["type"] == "http.response.start":
                        give_back()
                    await send(message)

                await self._app(scope, receive, send_and_give_back)
        except TimeoutError:
            if is_running:  # raised by the endpoint itself
                raise
            self._log(lane)
            await self._refuse(503, scope, receive, send)

    def _log(self, lane: RequestClass) -> None:
        """Log at most once a minute for each lane, so that a flood does not fill the disk."""
        now = time.monotonic()
        if now - self._logged.get(lane.name, -LOG_EVERY) >= LOG_EVERY:
            self._logged[lane.name] = now
            log.warning("requests.rejected", lane=lane.name)

    def _gate(self, lane: RequestClass) -> _Gate:
        gates = self._loops.setdefault(asyncio.get_running_loop(), {})
        return gates.setdefault(lane.name, _Gate(lane, asyncio.Semaphore(lane.at_once)))

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """Return the whole body, counted in `_held`; None if the client disconnects.

        b"" for requests whose body is ignored. Raise _Refusal 413 if the body is too large, 408
        if it is too slow, and 503 if all bodies together exceed `BODIES`.
        """
        # RFC 8058: one-click POSTs come in one of two encodings; the URL alone is sufficient.
        if scope["method"] in SAFE_METHODS or ONE_CLICK.fullmatch(scope["path"]):
            return b""
        path = scope["path"]
        most = LARGEST if HOOKS.fullmatch(path) else largest_form(path)
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and (len(announced) > 15 or int(announced) > most):
            raise _Refusal(413)
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        self._held -= len(body)
                        return None
                    self._hold(message.get("body", b""), body, most)
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            self._held -= len(body)
            raise _Refusal(408) from None
        except _Refusal:
            self._held -= len(body)
            raise

    def _hold(self, chunk: bytes, body: bytearray, most: int) -> None:
        body += chunk
        self._held += len(chunk)
        if len(body) > most:
            raise _Refusal(413)
        if self._held > BODIES:
            raise _Refusal(503)

    async def _refuse(self, status: int, scope: Scope, receive: Receive, send: Send) -> None:
        await self._refusal(status, scope["path"])(scope, receive, send)

    def _refusal(self, status: int, path: str) -> Response:
        title, text = map(gettext, WORDS[status])
        answer: Response
        if path.startswith(FOR_PROGRAMS):
            answer = PlainTextResponse(f"{title}: {text}\n", status)
        elif path == "/subscribe/preview":
            answer = self._pages.show("subscribe_busy.html", status=status, is_large=status == 413)
        else:
            answer = self._pages.message(title, text, status=status, personal=True)
        answer.headers["Cache-Control"] = "no-store"
        if status == 503:
            answer.headers["Retry-After"] = str(RETRY_AFTER)
        else:  # the rest of the request is not read
            answer.headers["Connection"] = "close"
        return answer


def _check_size(scope: Scope) -> None:
    """Raise _Refusal 414 if the URL is too long, 431 if the headers are too large."""
    if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > LONGEST_ADDRESS:
        raise _Refusal(414)
    if sum(len(name) + len(value) for name, value in scope["headers"]) > LARGEST_HEADERS:
        raise _Refusal(431)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives `body` once and then waits for the disconnect."""
    is_read = False

    async def receive_body() -> Message:
        nonlocal is_read
        if is_read:
            return await receive()
        is_read = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_body


def one_at_a_time(work: Callable[[], None]) -> Callable[[], None]:
    """Return a wrapper that runs `work` in one thread at a time.

    Calls during a run return at once and cause one more run after it. For wake-ups after a
    response: if the broker is unreachable, they would block all threads of the pool.
    """
    running, wanted = threading.Lock(), threading.Event()

    def run() -> None:
        wanted.set()
        while wanted.is_set() and running.acquire(blocking=False):
            try:
                wanted.clear()
                work()
            finally:
                running.release()

    return run
