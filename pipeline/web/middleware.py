"""CSRF protection, security headers, HTTP caching and compression of responses."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from email.utils import format_datetime
from hashlib import sha256
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.translations import gettext, gettext_noop

PAGE_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; "
    "frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
MAIL_POLICY = (  # a mail has inline styles and images of this site; all else is blocked
    "default-src 'none'; style-src 'unsafe-inline'; img-src 'self'; form-action 'none'; "
    "base-uri 'none'; "
)
ALWAYS = {
    "Content-Security-Policy": PAGE_POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
PERSONAL = {"Cache-Control": "no-store", "X-Robots-Tag": "noindex, nofollow"}
PERSONAL_PAGES = (
    "/confirm/",
    "/data/",
    "/digests/",
    "/feeds/",
    "/link",
    "/mailbox",
    "/new-address/",
    "/preferences/",
    "/unsubscribe/",
)
ONE_CLICK = re.compile(r"/unsubscribe/[^/]*")
HOOKS = re.compile(r"/hooks/[^/]*")
BROKEN = gettext_noop("Something went wrong. This is an error on our side.")
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class SecurityMiddleware:
    """ASGI middleware that rejects cross-site form posts (403) and adds security headers.

    If the application raises before its response starts, send a plain 500 and raise again.
    """

    def __init__(self, app: ASGIApp, site_url: str) -> None:
        self._app = app
        self._site = urlsplit(site_url).netloc

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        has_started = False

        async def send_guarded(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                _add_headers(MutableHeaders(scope=message), path)
            await send(message)

        if self._may_pass(scope["method"], path, Headers(scope=scope)):
            try:
                await self._app(scope, receive, send_guarded)
            except Exception:
                if not has_started:  # the error page failed, too
                    await PlainTextResponse(f"{gettext(BROKEN)}\n", 500)(
                        scope, receive, send_guarded
                    )
                raise
            return
        refusal = PlainTextResponse(gettext("This form can only be sent from its own page."), 403)
        await refusal(scope, receive, send_guarded)

    def _may_pass(self, method: str, path: str, headers: Headers) -> bool:
        # RFC 8058, section 3.1: mail services post here from any origin.
        if method in SAFE_METHODS or ONE_CLICK.fullmatch(path):
            return True
        if HOOKS.fullmatch(path):  # providers post here; their signature is verified instead
            return True
        return is_same_origin(headers, self._site)


def is_same_origin(headers: Headers, site: str) -> bool:
    """Return whether a request does not come from another site's page.

    `site` is the public host and port. A browser that sends no Sec-Fetch-Site (plain http, except
    on loopback) sends "null" as the Origin of our own pages, because of their no-referrer policy.
    Accepting "null" is sufficient: a POST names its object by a token unknown to other sites.
    """
    fetched_from = headers.get("sec-fetch-site")
    if fetched_from is not None:
        return fetched_from in {"same-origin", "none"}
    origin = headers.get("origin", "null")
    if origin == "null":
        return True
    try:
        return urlsplit(origin).netloc in {site, headers.get("host")}
    except ValueError:  # "http://[::1": unbalanced brackets
        return False


def _add_headers(headers: MutableHeaders, path: str) -> None:
    personal = PERSONAL if path.startswith(PERSONAL_PAGES) else {}
    for name, value in {**ALWAYS, **personal}.items():
        headers.setdefault(name, value)


A_MINUTE = 60
AN_HOUR = 3_600
KEPT = ("cache-control", "etag", "last-modified", "vary")  # headers of a 304 (RFC 9110, 15.4.5)


def public(
    request: Request,
    answer: Response,
    *,
    seconds: int = A_MINUTE,
    modified: datetime | None = None,
) -> Response:
    """Set the caching headers of `answer` and return it, or 304 if the client's copy is current."""
    tag = _weak_tag(bytes(answer.body))
    answer.headers["ETag"] = tag
    answer.headers["Cache-Control"] = f"public, max-age={seconds}"
    if modified is not None:
        answer.headers["Last-Modified"] = format_datetime(modified, usegmt=True)
    if answer.status_code == 200 and _has(request, tag, answer.headers.get("Last-Modified")):
        kept = {name: value for name, value in answer.headers.items() if name in KEPT}
        return Response(status_code=304, headers=kept)
    return answer


def private(request: Request, state: object, write: Callable[[], Response]) -> Response:
    """Return the response of `write` for one reader, or 304 if the client has it.

    `state` is what the response depends on; its `repr` makes the ETag, so that a client that polls
    an unchanged document costs nothing. No cache but the client's own may store it.
    """
    tag = _weak_tag(repr(state).encode())
    kept = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if _has(request, tag, None):
        return Response(status_code=304, headers=kept)
    answer = write()
    answer.headers.update(kept)
    return answer


def _weak_tag(content: bytes) -> str:
    """Return a weak ETag: the same page is sent compressed or uncompressed."""
    return f'W/"{sha256(content).hexdigest()[:24]}"'


def _has(request: Request, tag: str, modified: str | None) -> bool:
    # RFC 9110, section 13.1.3: ignore If-Modified-Since if there is If-None-Match.
    wanted = request.headers.get("if-none-match")
    if wanted is not None:
        names = {name.strip().removeprefix("W/") for name in wanted.split(",")}
        return tag.removeprefix("W/") in names or "*" in names
    return modified is not None and request.headers.get("if-modified-since") == modified


class Compressed:
    """Middleware that compresses public pages with gzip.

    Personal pages stay uncompressed: they contain secrets, and the size of a compressed response
    can reveal its content (BREACH).
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._compressing = GZipMiddleware(app, minimum_size=1_000, compresslevel=5)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_public = scope["type"] == "http" and not scope["path"].startswith(PERSONAL_PAGES)
        await (self._compressing if is_public else self._app)(scope, receive, send)
