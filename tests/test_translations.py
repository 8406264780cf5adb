"""Translations: the catalogue is complete, and no page or mail has text outside of it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from gettext import NullTranslations
from html.parser import HTMLParser
from pathlib import Path

import pytest
from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po
from sqlalchemy import Engine

from pipeline import translations
from pipeline.domain import (
    MAIL_KINDS,
    Breadth,
    Links,
    NoMatchNotice,
    Reason,
    SavedPaper,
    SavedWeek,
    Suggestion,
)
from pipeline.matching.highlights import find
from pipeline.rendering import Branding, MailLinks, Rendered, Renderer, renderer, views
from pipeline.rendering.fragments import plain
from pipeline.web.subscribe import curated
from pipeline.web.subscribe.form_input import zones_by_region
from tests.support.factories import TODAY, make_digest, make_paper, make_pick, make_sighting
from tests.support.site import Site, now, open_site, path

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = ROOT / "pipeline" / "locale" / "paperboy.pot"
URL = "https://1.example"
LINKS = MailLinks(*(f"{URL}/{page}" for page in range(6)))
HOUSE = Branding(URL, "Газета", "Кружок", "Улица 12", note="Привет")
TEXT = {
    "title": "Дым и вода",
    "abstract": "Дым вдали над рекой. " * 40,
    "authors": ("Анна", "Пётр"),
}
SHOWN = ("alt", "aria-label", "placeholder", "title")  # attributes with text
META = {"description", "og:description", "og:image:alt", "og:title"}
DATA = sorted(
    {
        "arXiv", "cs.IR", "UTC", "1.example", "example.org", "Europe/Paris", "List-Unsubscribe",
        "localhost", '"flow matching" cat:cs.LG', 'protein folding OR "drug design"',
        *(topic.name for topic in curated.in_use().topics),
        *(topic.query for topic in curated.in_use().topics),
        *(group for group, _ in curated.in_use().groups),
        *(region for region, _ in zones_by_region()),
        *(city for _, cities in zones_by_region() for _, city in cities),
    },
    key=len,
    reverse=True,
)  # fmt: skip


def template() -> Catalog:
    with TEMPLATE.open("rb") as file:
        return read_po(file)


class Brackets(NullTranslations):
    """Catalogue that wraps each message of the template in brackets, and leaves others alone."""

    def __init__(self) -> None:
        super().__init__()
        ids = [message.id for message in template() if message.id]
        self._info = {"language": "zz_ZZ"}
        self.known = {id_ if isinstance(id_, str) else id_[0] for id_ in ids}

    def gettext(self, message: str) -> str:
        return f"⟦{message}⟧" if message in self.known else message

    def ngettext(self, msgid1: str, msgid2: str, n: int) -> str:
        shown = msgid1 if n == 1 else msgid2
        return f"⟦{shown}⟧" if msgid1 in self.known else shown


@pytest.fixture
def _brackets() -> Iterator[None]:
    caches = (views.edition, views.reasons, views._lines, renderer._topics)
    translations.install(Brackets())
    for cached in caches:
        cached.cache_clear()
    yield
    translations.install(NullTranslations())
    for cached in caches:
        cached.cache_clear()


class Shown(HTMLParser):
    """Collect the text of a page that a reader can see or hear."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.pieces: list[str] = []
        self.inside = ""
        self.feed(html)

    @property
    def text(self) -> str:
        return "\n".join(self.pieces)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = tag if tag in {"style", "script", "code", "option"} else ""
        for name, value in attrs:
            if name in SHOWN or (name == "content" and META & {text for _, text in attrs}):
                self.pieces.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside not in {"style", "script", "code"}:
            self.pieces.append(data)


def untranslated(text: str) -> list[str]:
    """Return the Latin words of `text` that are neither in brackets nor data."""
    while (shorter := re.sub("⟦[^⟦⟧]*⟧", "", text)) != text:
        text = shorter
    text = re.sub(r"https?://\S+|\S+@\S+|width=\S+.*", "", text)
    for known in DATA:
        text = text.replace(known, "")
    return re.findall(r"[A-Za-z]{2,}[^\n]*", text)


def test_untranslated_text_is_found():
    assert untranslated("⟦a ⟦b⟧ c⟧ Trending 1 · ⟦d⟧") == []
    assert untranslated("⟦a⟧ for you") == ["for you"]


@pytest.mark.full
def test_template_has_the_messages_of_the_code(tmp_path):
    extracted = tmp_path / "paperboy.pot"

    subprocess.run(
        [sys.executable, "-m", "babel.messages.frontend", "-q", "extract", "-F", "pyproject.toml",
         "-k", "gettext_noop", "-o", extracted, "."],
        cwd=ROOT, check=True,
    )  # fmt: skip

    with extracted.open("rb") as file:
        found = {message.id for message in read_po(file)}
    assert {message.id for message in template()} == found, "run make messages"


def mails() -> Iterator[Rendered]:
    mail = Renderer(HOUSE, ROOT / "emails", find)
    known = {"announced_on": TODAY, "sources": ("arxiv",), "categories": ("cs.IR",)}
    paper = make_paper(
        **TEXT, **known, author_count=9, upvotes=7, comments=1, stars=1, withdrawn=True,
        links=Links(*(f"{URL}/{n}" for n in range(5))),
    )  # fmt: skip
    reasons = (Reason("Дымы", ("дым",)), Reason("Реки"))
    picks = [
        make_pick(paper, reasons=reasons),
        make_pick(make_paper(**TEXT, **known), reasons=reasons[:1]),
    ]
    yield mail.digest(make_digest(*picks, more=3, topics=("Дымы", "Реки"), welcome=True), LINKS)
    yield mail.digest(make_digest(picks[1], topics=()), LINKS)
    wider = (Suggestion("Дымы", "дым", 3.0),)
    note = NoMatchNotice(TODAY, TODAY, 5, ("Дымы",), Breadth.FEWER, 2, wider, False)
    yield mail.quiet_note(note, LINKS)
    saved = (SavedPaper("1", "Дымы", ("Дымы",) * 5, "Дымы", True),)
    yield mail.saved_papers(SavedWeek(TODAY, saved, 3), LINKS)
    for kind, about in MAIL_KINDS.items():
        if not about.is_list:
            yield mail.transactional(kind, URL, url=URL, lasts=timedelta(days=1))


@pytest.mark.usefixtures("_brackets")
def test_mails_have_no_text_outside_the_catalogue():
    for mail in mails():
        for shown in (mail.subject, plain(mail.text), Shown(plain(mail.html)).text):
            assert untranslated(shown) == []
        assert 'lang="zz-ZZ"' in plain(mail.html)


def pages(site: Site) -> Iterator[tuple[str, dict[str, str] | None]]:
    """Yield the path of each page and the form to post to it."""
    yield "/subscribe", None
    site.announce(
        make_sighting(**TEXT, announced_on=now().date(), upvotes=2),
        make_sighting(
            title="Водопад и скалы",
            arxiv_id="2512.00009",
            withdrawn=True,
            announced_on=now().date(),
            upvotes=1,
        ),
    )
    reader = site.reader("1@example.org", "дым")
    site.publish()
    preferences, data = site.preferences(reader), site.data(reader)
    form = {"queries": "дым\nдым река", "hour": "8", "timezone": "UTC", "max_papers": "5"}
    for page in ("/", "/papers?q=дым", "/papers?q=щит", "/papers?q=(", "/papers?date=2025-07-19"):
        yield page, None
    yield "/authors/Анна", None
    yield f"{preferences}/follow?author=Анна", None
    for page in ("/topics", "/topics?q=(", "/topics?q=дым", "/topics/trending", "/privacy"):
        yield page, None
    for page in (
        "/papers/0",
        "/nowhere",
        "/papers?date=0",
        "/confirm/0",
        "/unsubscribe/0",
        "/link",
    ):
        yield page, None
    yield "/subscribe", {**form, "do": "preview"}
    yield "/subscribe", {"queries": "(", "hour": "99", "timezone": "0", "email": "1"}
    yield "/subscribe", {**form, "email": "2@example.org"}
    yield path(site.ask("3@example.org", "дым")), None
    yield path(site.ask("4@example.org", "дым")), {}
    yield preferences, None
    yield preferences, {"queries": "(", "hour": "99"}
    yield preferences, {"queries": "\n".join(f"дым{n}" for n in range(101)), "hour": "9"}
    yield f"{preferences}/pause", {"until": ""}
    yield f"{preferences}?done=saved", None
    yield data, None
    yield f"{data}/address", {"email": "5@example.org"}
    yield f"{data}/address", {"email": "5"}
    yield "/link", {"email": "1@example.org"}
    yield f"/unsubscribe/{reader.secret}", None
    yield f"/unsubscribe/{reader.secret}", {}
    yield f"/unsubscribe/{reader.secret}/undo", {}
    yield f"{data}/erase", {}
    yield f"{data}/erase", {"sure": "yes"}


@pytest.mark.full
@pytest.mark.usefixtures("_brackets")
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_pages_have_no_text_outside_the_catalogue(engine: Engine):
    site = open_site(
        engine, site_url=URL, list_name="Газета", operator_name="Кружок", operator_address="Дом 1"
    )
    left = {}
    for address, form in pages(site):
        answer = site.get(address) if form is None else site.post(address, data=form)
        if found := untranslated(Shown(answer.text).text):
            left[address] = found
        assert '<html lang="zz-ZZ">' in answer.text

    assert left == {}
