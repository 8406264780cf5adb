"""Rendered mails, as a mail client decodes and shows them."""

from __future__ import annotations

import quopri
import re
from html.parser import HTMLParser
from pathlib import Path

from pipeline.matching.highlights import find
from pipeline.rendering import Branding, MailLinks, Renderer

EMAILS = Path(__file__).resolve().parents[2] / "emails"


BRANDING = Branding(
    site_url="https://papers.example.org",
    list_name="Bits & Papers",
    operator_name="Example Reading Group",
    operator_address="12 Sample Street, 10115 Berlin",
)


LINKS = MailLinks(
    unsubscribe="https://papers.example.org/unsubscribe/k3hd82hs",
    preferences="https://papers.example.org/preferences/17.1.x",
    view="https://papers.example.org/digests/4.1.x",
    subscribe="https://papers.example.org/subscribe",
    privacy="https://papers.example.org/privacy",
    more="https://papers.example.org/digests/4.1.x/more",
    papers="https://papers.example.org/preferences/17.1.x/papers",
)


RENDERER = Renderer(BRANDING, EMAILS, find)


def decoded(wire: tuple[bytes, ...]) -> str:
    """Return a body as a mail client decodes it: dot-stuffing and quoted-printable removed."""
    body = re.sub(rb"(?m)^\.", b"", b"".join(wire))
    return quopri.decodestring(body).decode().replace("\r\n", "\n")


class Seen(HTMLParser):
    """Parse a page into its visible text and the targets of its links."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.links, self.tags = "", [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "a":
            self.links.append(dict(attrs)["href"])

    def handle_data(self, data):
        self.text += data
