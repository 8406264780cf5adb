"""Thumbnails of papers from Hugging Face, at URLs of this site that are the same for all readers.

A mail that loads a picture from Hugging Face would report its readers there. So the site fetches
it once and serves it itself, if `THUMBNAILS` is on. Fetches run in a thread of their own: a slow
one delays neither a page nor a picture that is in memory.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from threading import Lock
from typing import TYPE_CHECKING, Final

import structlog
from fastapi import APIRouter, HTTPException, Request
from starlette.responses import Response

from pipeline.errors import SourceError
from pipeline.rendering.views import THUMBNAIL
from pipeline.settings import Settings
from pipeline.storage import papers
from pipeline.storage.database import read_only
from pipeline.web.dependencies import READ, Services
from pipeline.web.middleware import A_MINUTE, AN_HOUR, public

if TYPE_CHECKING:
    from pipeline.sources.client import Client

log = structlog.get_logger(__name__)

SOURCE: Final = "huggingface"
URL: Final = "https://cdn-thumbnails.huggingface.co/social-thumbnails/papers/{}.png"
HOSTS: Final = frozenset({"cdn-thumbnails.huggingface.co", "huggingface.co"})  # of redirects
LARGEST: Final = 500_000  # bytes of one picture
MEMORY: Final = 32 * 1024 * 1024  # bytes of all pictures of this process
A_WEEK: Final = 7 * 24 * 3_600  # seconds that a picture is kept
SECONDS: Final = 5.0  # of one fetch
GAP: Final = 0.1  # seconds before each fetch
PATIENCE: Final = 8.0  # seconds that a request waits, and a fetch before it is given up
QUEUE: Final = 64  # pictures waiting to be fetched
ENTRY: Final = 1_000  # bytes that an entry counts at least

router = APIRouter()


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A picture, or why there is none: `status` is 200, 404, or 503 if a retry may help."""

    status: int
    until: float  # monotonic time
    body: bytes = b""
    media_type: str = ""


@dataclass(slots=True)
class Thumbnails:
    """Fetch pictures one at a time, and keep them in memory, least recently used out first.

    A failure is kept, too: an hour if there is no such picture, a minute if a retry may help. No
    picture is fetched before the time of a Retry-After.
    """

    client: Client
    url: str = URL  # with a placeholder for the arXiv id
    clock: Callable[[], float] = time.monotonic
    _kept: OrderedDict[str, Thumbnail] = field(default_factory=OrderedDict)
    _size: int = 0
    _pending: dict[str, Future[Thumbnail]] = field(default_factory=dict)
    _not_before: float = 0.0
    _lock: Lock = field(default_factory=Lock)
    _worker: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "thumbnails"))

    @classmethod
    def of(cls, settings: Settings) -> Thumbnails | None:
        """Return None if the setting is off; the HTTP client is imported only if it is on."""
        if not settings.thumbnails:
            return None
        from pipeline.sources.client import Client, DownloadLimits, user_agent
        from pipeline.sources.public_addresses import Proxy

        bounds = DownloadLimits(SECONDS, SECONDS, SECONDS, wire=LARGEST, body=LARGEST)
        agent = user_agent(version("paperboy"), settings.site_url, settings.contact)
        proxy = Proxy.of(settings)
        client = Client(agent, lambda limit: time.sleep(GAP), bounds=bounds, proxy=proxy, pauses=())
        return cls(client)

    def kept(self, arxiv_id: str) -> Thumbnail | None:
        """Return the picture or failure in memory; None if a fetch is due. Never waits for one."""
        with self._lock:
            found = self._kept.get(arxiv_id)
            if found is None or found.until <= self.clock():
                return None
            self._kept.move_to_end(arxiv_id)
            return found

    def fetch(self, arxiv_id: str, is_listed: Callable[[], bool]) -> Future[Thumbnail] | None:
        """Queue a fetch, once for all requests of a picture; return None if the queue is full.

        `is_listed` is called first, in the same thread; if it returns False, nothing is fetched. A
        fetch that has waited for `PATIENCE` is dropped, so that a flood delays others no longer.
        """
        with self._lock:
            if arxiv_id not in self._pending:
                if len(self._pending) >= QUEUE:
                    return None
                due = self.clock() + PATIENCE
                future = self._worker.submit(self._load, arxiv_id, is_listed, due)
                self._pending[arxiv_id] = future
            return self._pending[arxiv_id]

    def _load(self, arxiv_id: str, is_listed: Callable[[], bool], due: float) -> Thumbnail:
        try:
            if found := self.kept(arxiv_id):
                return found
            if self.clock() >= due:
                return Thumbnail(503, due)
            if not is_listed():
                return Thumbnail(404, due)
            found = self._fetch(arxiv_id)
            self._keep(arxiv_id, found)
            return found
        finally:
            with self._lock:
                del self._pending[arxiv_id]

    def _fetch(self, arxiv_id: str) -> Thumbnail:
        if self.clock() < self._not_before:
            return Thumbnail(503, self._not_before)
        url, now = self.url.format(arxiv_id), datetime.now(UTC)
        try:
            answer = self.client.get(url, source=SOURCE, limit="thumbnails", now=now, hosts=HOSTS)
        except SourceError as error:
            log.info("thumbnail.missing", paper=arxiv_id, error=error.message)
            if error.retry_at:
                self._not_before = self.clock() + (error.retry_at - now).total_seconds()
            if error.retryable:
                return Thumbnail(503, max(self.clock() + A_MINUTE, self._not_before))
            return Thumbnail(404, self.clock() + AN_HOUR)
        kind = media_type(answer.body)
        if not kind:
            log.info("thumbnail.missing", paper=arxiv_id, error="not a PNG, JPEG or WebP picture")
            return Thumbnail(404, self.clock() + AN_HOUR)
        return Thumbnail(200, self.clock() + A_WEEK, answer.body, kind)

    def _keep(self, arxiv_id: str, picture: Thumbnail) -> None:
        with self._lock:
            if before := self._kept.pop(arxiv_id, None):
                self._size -= len(before.body) + ENTRY
            self._kept[arxiv_id] = picture
            self._size += len(picture.body) + ENTRY
            while self._size > MEMORY:
                _, oldest = self._kept.popitem(last=False)
                self._size -= len(oldest.body) + ENTRY


def media_type(body: bytes) -> str:
    """Return the type of a picture by its first bytes; "" if it is none that mail clients show."""
    if body.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if body.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    return "image/webp" if body[:4] == b"RIFF" and body[8:12] == b"WEBP" else ""


@router.api_route("/thumbnails/{arxiv_id}", methods=READ)
async def show_thumbnail(arxiv_id: str, request: Request, services: Services) -> Response:
    """Return the picture of a paper that Hugging Face listed; 404 for any other.

    503 if it cannot be fetched now, or not within `PATIENCE`.
    """
    thumbnails: Thumbnails | None = request.app.state.thumbnails
    if thumbnails is None or not THUMBNAIL.fullmatch(arxiv_id):
        raise HTTPException(404)

    def is_listed() -> bool:
        with read_only(services.engine) as conn:
            paper = papers.by_key(conn, arxiv_id)
        return paper is not None and SOURCE in paper.sources

    found = thumbnails.kept(arxiv_id)
    if found is None and (fetch := thumbnails.fetch(arxiv_id, is_listed)):
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                # Other requests may wait for the same fetch, so a timeout does not cancel it.
                found = await asyncio.shield(asyncio.wrap_future(fetch))
    if found is None or found.status != 200:
        headers = {"Cache-Control": f"public, max-age={A_MINUTE}"}
        return Response(status_code=found.status if found else 503, headers=headers)
    return public(request, Response(found.body, media_type=found.media_type), seconds=A_WEEK)
