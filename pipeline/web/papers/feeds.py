"""Feeds of a topic's papers: Atom (RFC 4287) and JSON Feed 1.1."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from pipeline.domain import Paper
from pipeline.rendering import formatting, views
from pipeline.translations import gettext
from pipeline.web.papers.views import path_of

ATOM = "http://www.w3.org/2005/Atom"
ATOM_TYPE = "application/atom+xml"
JSON_TYPE = "application/feed+json"
AUTHORS = 50  # at most, for each paper; some have thousands


@dataclass(frozen=True, slots=True)
class Feed:
    """Papers of a feed, newest first, with its title and URLs."""

    title: str
    description: str
    site_url: str
    page: str  # path and query, as are the next two
    atom: str
    json: str
    updated: datetime
    papers: Sequence[Paper]


def atom(feed: Feed) -> bytes:
    """Return the feed as UTF-8 encoded Atom (RFC 4287)."""
    root = Element("feed", xmlns=ATOM)
    _text(root, "id", feed.site_url + feed.atom)
    _text(root, "title", feed.title)
    _text(root, "subtitle", feed.description)
    _text(root, "updated", _instant(feed.updated))
    SubElement(root, "link", rel="self", type=ATOM_TYPE, href=feed.site_url + feed.atom)
    SubElement(root, "link", rel="alternate", type="text/html", href=feed.site_url + feed.page)
    for paper in feed.papers:
        _entry(root, paper, feed.site_url)
    written: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return written


def _entry(root: Element, paper: Paper, site_url: str) -> None:
    entry = SubElement(root, "entry")
    address = site_url + path_of(paper.key)
    _text(entry, "id", address)
    _text(entry, "title", views.title(paper))
    _text(entry, "updated", _instant(_midnight(paper.announced_on)))
    _text(entry, "published", _instant(_midnight(paper.announced_on)))
    SubElement(entry, "link", rel="alternate", type="text/html", href=address)
    # RFC 4287, section 4.1.2: an entry must have an author, unless its feed has one.
    for name in _authors(paper) or [gettext("Unknown")]:
        _text(SubElement(entry, "author"), "name", name)
    for category in paper.categories:
        SubElement(entry, "category", term=formatting.clean(category))
    _text(entry, "summary", formatting.clean(paper.abstract))


def json_feed(feed: Feed) -> bytes:
    """Return the feed as UTF-8 encoded JSON Feed (https://www.jsonfeed.org/version/1.1/)."""
    return json.dumps(
        {
            "version": "https://jsonfeed.org/version/1.1",
            "title": feed.title,
            "description": feed.description,
            "home_page_url": feed.site_url + feed.page,
            "feed_url": feed.site_url + feed.json,
            "items": [_item(paper, feed.site_url) for paper in feed.papers],
        },
        ensure_ascii=False,
    ).encode()


def _item(paper: Paper, site_url: str) -> dict[str, object]:
    address = site_url + path_of(paper.key)
    item: dict[str, object] = {
        "id": address,
        "url": address,
        "title": views.title(paper),
        "content_text": formatting.clean(paper.abstract),
        "date_published": _instant(_midnight(paper.announced_on)),
        "authors": [{"name": name} for name in _authors(paper)],
        "tags": [formatting.clean(category) for category in paper.categories],
    }
    if elsewhere := paper.links.abstract or paper.links.pdf:
        item["external_url"] = elsewhere
    return item


def _authors(paper: Paper) -> list[str]:
    return [name for name in map(formatting.clean, paper.authors[:AUTHORS]) if name]


def _text(parent: Element, name: str, text: str) -> None:
    SubElement(parent, name).text = text


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def _instant(moment: datetime) -> str:
    """Format a timestamp in UTC (RFC 3339)."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
