"""Thumbnails of papers from Hugging Face, at URLs of this site that are the same for all readers.

A mail that loads a picture from Hugging Face would report its readers there. So the site fetches
it once and serves it itself, if `THUMBNAILS` is on.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
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
from pipeline.web.middleware import public

if TYPE_CHECKING:
    from pipeline.sources.client import Client

log = structlog.get_logger(__name__)

SOURCE: Final = "huggingface"
URL: Final = "https://cdn-thumbnails.huggingface.co/social-thumbnails/papers/{}.png"
LARGEST: Final = 500_000  # bytes of one picture
MEMORY: Final = 32 * 1024 * 1024  # bytes of all pictures of this process
A_WEEK: Final = 7 * 24 * 3_600  # seconds that a picture is kept
AN_HOUR: Final = 3_600  # seconds that a missing or failed one is not fetched again
SECONDS: Final = 5.0  # of one fetch
GAP: Final = 0.1  # seconds before each fetch
ENTRY: Final = 1_000  # bytes that an entry counts at least

router = APIRouter()


@dataclass(frozen=True, slots=True)
class Thumbnail:
    body: bytes  # b"" if there is none
    media_type: str
    until: float  # monotonic time


@dataclass(slots=True)
class Thumbnails:
    """Fetch pictures one at a time, and keep them in memory, least recently used out first."""

    client: Client
    url: str = URL  # with a placeholder for the arXiv id
    clock: Callable[[], float] = time.monotonic
    _kept: OrderedDict[str, Thumbnail] = field(default_factory=OrderedDict)
    _size: int = 0
    _lock: Lock = field(default_factory=Lock)

    @classmethod
    def of(cls, settings: Settings) -> Thumbnails | None:
        """Return None if the setting is off; the HTTP client is imported only if it is on."""
        if not settings.thumbnails:
            return None
        from pipeline.sources.client import Client, DownloadLimits, user_agent

        bounds = DownloadLimits(SECONDS, SECONDS, SECONDS, wire=LARGEST, body=LARGEST)
        agent = user_agent(version("paperboy"), settings.site_url, settings.contact)
        return cls(Client(agent, lambda limit: time.sleep(GAP), bounds=bounds, pauses=()))

    def get(self, arxiv_id: str) -> Thumbnail:
        """Return the picture of a paper, kept or fetched; a missing one has an empty body."""
        with self._lock:
            found = self._kept.get(arxiv_id)
            if found is None or found.until <= self.clock():
                found = self._fetch(arxiv_id)
                self._keep(arxiv_id, found)
            self._kept.move_to_end(arxiv_id)
            return found

    def _fetch(self, arxiv_id: str) -> Thumbnail:
        url = self.url.format(arxiv_id)
        try:
            answer = self.client.get(url, source=SOURCE, limit="thumbnails", now=datetime.now(UTC))
        except SourceError as error:
            log.info("thumbnail.missing", paper=arxiv_id, error=error.message)
            return Thumbnail(b"", "", self.clock() + AN_HOUR)
        kind = media_type(answer.body)
        if not kind:
            log.info("thumbnail.missing", paper=arxiv_id, error="not a PNG, JPEG or WebP picture")
            return Thumbnail(b"", "", self.clock() + AN_HOUR)
        return Thumbnail(answer.body, kind, self.clock() + A_WEEK)

    def _keep(self, arxiv_id: str, picture: Thumbnail) -> None:
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
def show_thumbnail(arxiv_id: str, request: Request, services: Services) -> Response:
    """Return the picture of a paper that Hugging Face listed; 404 for any other."""
    thumbnails: Thumbnails | None = request.app.state.thumbnails
    if thumbnails is None or not THUMBNAIL.fullmatch(arxiv_id):
        raise HTTPException(404)
    with read_only(services.engine) as conn:
        paper = papers.by_key(conn, arxiv_id)
    if paper is None or SOURCE not in paper.sources:
        raise HTTPException(404)
    found = thumbnails.get(arxiv_id)
    if not found.body:
        raise HTTPException(404)
    return public(request, Response(found.body, media_type=found.media_type), seconds=A_WEEK)
