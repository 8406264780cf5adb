"""What every request must prove, and what every answer forbids the browser."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PAGE_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; "
    "frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
MAIL_POLICY = (  # a mail brings its styles along, and is given nothing else
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
    "/link",
    "/mailbox",
    "/new-address/",
    "/preferences/",
    "/unsubscribe/",
)
ONE_CLICK = re.compile(r"/unsubscribe/[^/]*")
HOOKS = re.compile(r"/hooks/[^/]*")
BROKEN = "Something went wrong. The fault is ours.\n"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class Guard:
    """Refuses what another site's page sends in a reader's name, and adds headers to answers."""

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
                if not has_started:  # even the page that says so is broken
                    await PlainTextResponse(BROKEN, 500)(scope, receive, send_guarded)
                raise
            return
        refusal = PlainTextResponse("This form can only be sent from its own page.", 403)
        await refusal(scope, receive, send_guarded)

    def _may_pass(self, method: str, path: str, headers: Headers) -> bool:
        # RFC 8058, section 3.1: a mail service posts here from wherever it likes.
        if method in SAFE_METHODS or ONE_CLICK.fullmatch(path):
            return True
        if HOOKS.fullmatch(path):  # a provider's server posts here, and signs what it says
            return True
        return is_same_origin(headers, self._site)


def is_same_origin(headers: Headers, site: str) -> bool:
    """Whether no other site's page has sent this; `site` is our host and port from outside.

    A browser that sends no Sec-Fetch-Site (plain http, but for loopback) calls the origin of our
    own pages "null", because they have no referrer. What a POST changes here is named by a token
    that a page elsewhere cannot know, so that much is enough.
    """
    fetched_from = headers.get("sec-fetch-site")
    if fetched_from is not None:
        return fetched_from in {"same-origin", "none"}
    origin = headers.get("origin", "null")
    if origin == "null":
        return True
    try:
        return urlsplit(origin).netloc in {site, headers.get("host")}
    except ValueError:  # "http://[::1": brackets without an end
        return False


def _add_headers(headers: MutableHeaders, path: str) -> None:
    personal = PERSONAL if path.startswith(PERSONAL_PAGES) else {}
    for name, value in {**ALWAYS, **personal}.items():
        headers.setdefault(name, value)
