"""Feeds of papers: Atom (RFC 4287) and JSON Feed 1.1."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time
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
class Entry:
    """A paper in a feed."""

    paper: Paper
    at: datetime  # when it entered the feed
    text: str
    address: str  # URL of its page; "" if there is none

    @classmethod
    def announced(cls, paper: Paper, site_url: str) -> Entry:
        """Return the entry of a paper by the day of its announcement, with its abstract."""
        at = datetime.combine(paper.announced_on, time(), UTC)
        return cls(paper, at, formatting.clean(paper.abstract), site_url + path_of(paper.key))


@dataclass(frozen=True, slots=True)
class Feed:
    """Entries of a feed, newest first, with its title and URLs."""

    id: str  # a URI that stays
    title: str
    description: str
    site_url: str
    page: str  # path and query, as are the next two
    atom: str  # "" in a private feed: entries are shared with the address of their feed
    json: str
    updated: datetime
    entries: Sequence[Entry]


def atom(feed: Feed) -> bytes:
    """Return the feed as UTF-8 encoded Atom (RFC 4287)."""
    root = Element("feed", xmlns=ATOM)
    _text(root, "id", feed.id)
    _text(root, "title", feed.title)
    _text(root, "subtitle", feed.description)
    _text(root, "updated", _instant(feed.updated))
    if feed.atom:
        SubElement(root, "link", rel="self", type=ATOM_TYPE, href=feed.site_url + feed.atom)
    SubElement(root, "link", rel="alternate", type="text/html", href=feed.site_url + feed.page)
    for entry in feed.entries:
        _entry(root, entry, feed.site_url)
    written: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return written


def _entry(root: Element, entry: Entry, site_url: str) -> None:
    paper, element = entry.paper, SubElement(root, "entry")
    _text(element, "id", site_url + path_of(paper.key))
    _text(element, "title", views.title(paper))
    _text(element, "updated", _instant(entry.at))
    _text(element, "published", _instant(entry.at))
    if entry.address:
        SubElement(element, "link", rel="alternate", type="text/html", href=entry.address)
    # RFC 4287, section 4.1.2: an entry must have an author, unless its feed has one.
    for name in _authors(paper) or [gettext("Unknown")]:
        _text(SubElement(element, "author"), "name", name)
    for category in paper.categories:
        SubElement(element, "category", term=formatting.clean(category))
    # The same section: an entry without an alternate link must have content.
    _text(element, "summary" if entry.address else "content", entry.text)


def json_feed(feed: Feed) -> bytes:
    """Return the feed as UTF-8 encoded JSON Feed (https://www.jsonfeed.org/version/1.1/)."""
    return json.dumps(
        {
            "version": "https://jsonfeed.org/version/1.1",
            "title": feed.title,
            "description": feed.description,
            "home_page_url": feed.site_url + feed.page,
            **({"feed_url": feed.site_url + feed.json} if feed.json else {}),
            "items": [_item(entry, feed.site_url) for entry in feed.entries],
        },
        ensure_ascii=False,
    ).encode()


def _item(entry: Entry, site_url: str) -> dict[str, object]:
    paper = entry.paper
    item: dict[str, object] = {
        "id": site_url + path_of(paper.key),
        "title": views.title(paper),
        "content_text": entry.text,
        "date_published": _instant(entry.at),
        "authors": [{"name": name} for name in _authors(paper)],
        "tags": [formatting.clean(category) for category in paper.categories],
    }
    if entry.address:
        item["url"] = entry.address
    if elsewhere := paper.links.abstract or paper.links.pdf:
        item["external_url"] = elsewhere
    return item


def _authors(paper: Paper) -> list[str]:
    return [name for name in map(formatting.clean, paper.authors[:AUTHORS]) if name]


def _text(parent: Element, name: str, text: str) -> None:
    SubElement(parent, name).text = text


def _instant(moment: datetime) -> str:
    """Format a timestamp in UTC (RFC 3339)."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


FORMATS = {"atom": (atom, ATOM_TYPE), "json": (json_feed, JSON_TYPE)}
