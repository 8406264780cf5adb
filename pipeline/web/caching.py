"""HTTP caching of public pages: Cache-Control, ETag, Last-Modified; compression."""

from __future__ import annotations

from datetime import datetime
from email.utils import format_datetime
from hashlib import sha256

from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from pipeline.web.security import PERSONAL_PAGES

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
    # A weak ETag: the same page is sent compressed or uncompressed.
    tag = f'W/"{sha256(answer.body).hexdigest()[:24]}"'
    answer.headers["ETag"] = tag
    answer.headers["Cache-Control"] = f"public, max-age={seconds}"
    if modified is not None:
        answer.headers["Last-Modified"] = format_datetime(modified, usegmt=True)
    if answer.status_code == 200 and _has(request, tag, answer.headers.get("Last-Modified")):
        kept = {name: value for name, value in answer.headers.items() if name in KEPT}
        return Response(status_code=304, headers=kept)
    return answer


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
