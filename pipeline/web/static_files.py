"""Static files, the style sheet with the site's colours, robots.txt and sitemap.xml."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from pipeline.rendering import Branding
from pipeline.storage import ingest_state, papers
from pipeline.storage.database import read_only
from pipeline.web.dependencies import READ, Pages, Services
from pipeline.web.middleware import AN_HOUR, PERSONAL_PAGES, public
from pipeline.web.papers import views
from pipeline.web.subscribe import curated

STATIC: Final = Path(__file__).parent / "static"
FILES: Final = {
    "papers.css": "text/css",
    "icon.svg": "image/svg+xml",
    "share.png": "image/png",
}
SITEMAP_PAPERS: Final = 10_000  # newest papers; a sitemap may have 50,000 URLs
SITEMAP: Final = "http://www.sitemaps.org/schemas/sitemap/0.9"
ANY_PAPERS: Final = "/papers?"  # day, search and sort parameters: endless for a crawler


router = APIRouter()


@router.api_route("/style.css", methods=READ)
def show_stylesheet(request: Request, pages: Pages) -> Response:
    return public(request, Response(_style(pages.branding), media_type="text/css"), seconds=AN_HOUR)


@router.api_route("/papers.css", methods=READ)
@router.api_route("/icon.svg", methods=READ)
@router.api_route("/share.png", methods=READ)
def show_file(request: Request) -> Response:
    name = request.url.path.removeprefix("/")
    return public(request, Response(read(name), media_type=FILES[name]), seconds=AN_HOUR)


@router.api_route("/robots.txt", methods=READ)
def show_robots(request: Request, pages: Pages) -> Response:
    text = robots_text(pages.branding.site_url)
    return public(request, PlainTextResponse(text), seconds=AN_HOUR)


@router.api_route("/sitemap.xml", methods=READ)
def show_sitemap(request: Request, services: Services) -> Response:
    with read_only(services.engine) as conn:
        keys = papers.newest_keys(
            conn, through_batch=ingest_state.published_batch(conn), limit=SITEMAP_PAPERS
        )
    return public(request, _sitemap(services.settings.site_url, keys), seconds=AN_HOUR)


@cache
def read(name: str) -> bytes:
    """Return the content of a static file; cached for the process."""
    return (STATIC / name).read_bytes()


def robots_text(site_url: str) -> str:
    """Return a robots.txt that excludes personal pages and parametrised lists of papers."""
    closed = "".join(f"Disallow: {path}\n" for path in (*PERSONAL_PAGES, "/cite/", ANY_PAPERS))
    return f"User-agent: *\n{closed}\nSitemap: {site_url}/sitemap.xml\n"


def _sitemap(site_url: str, keys: list[str]) -> Response:
    paths = ["/", "/topics", "/subscribe", "/privacy"]
    paths += [f"/topics/{topic.slug}" for topic in curated.in_use().topics]
    paths += map(views.path_of, keys)
    root = ElementTree.Element("urlset", xmlns=SITEMAP)
    for path in paths:
        place = ElementTree.SubElement(ElementTree.SubElement(root, "url"), "loc")
        place.text = f"{site_url}{path}"
    xml = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return Response(xml, media_type="application/xml")


def _style(branding: Branding) -> str:
    accents = f":root {{ --light: {branding.accent}; --dark: {branding.accent_on_dark}; }}\n"
    return accents + read("style.css").decode()
