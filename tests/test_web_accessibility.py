"""Each page of the site in a real browser: on a phone and on a desktop, light and dark."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright
from sqlalchemy import Engine

from tests.support import CHROMIUM
from tests.support.tour import Stop, arrive, open_tour, tour

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300), pytest.mark.full]

PHONE, DESK = 375, 1280
NARROWEST = 320  # WCAG 2.2, 1.4.10: no horizontal scrolling
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
RULES = [*WCAG, "best-practice"]
LOOKS = ["color-contrast"]  # rules that depend on width and colour scheme
# The 450 time zones of a list are not checked, as each is an option like the first one.
RUN = """(options) => axe.run({ exclude: ["optgroup"] }, options)
    .then((found) => found.violations)
    .then((wrong) => wrong.map((one) => `${one.id} at ${one.nodes.map((node) => node.target)}`))"""
TOO_SMALL = """() => [...document.querySelectorAll("a[href], button, select, summary, input")]
    .filter((one) => getComputedStyle(one).display !== "inline" && one.checkVisibility())
    .map((one) => (one.closest("label") ?? one).getBoundingClientRect())
    .filter((box) => box.width > 1 && box.right > 0 && box.height < 43.5).length"""


@pytest.fixture
def backend() -> str:
    """Return SQLite only: the two databases differ in storage, which other tests cover."""
    return "sqlite"


@pytest.fixture
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, CHROMIUM)))
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Visitor:
    """A visitor that opens pages and records the violations in `wrong`."""

    browser: Browser
    site: str
    wrong: list[str] = field(default_factory=list)
    seen: int = 0

    def __post_init__(self) -> None:
        # A mail forbids all scripts, axe included; our own pages keep their policy.
        self._tabs = {is_mail: self._open(bypass_csp=is_mail) for is_mail in (False, True)}
        self._axe = Axe().axe_script
        self._stop = ""

    def _open(self, **options: Any) -> Page:
        tab = self.browser.new_context(locale="en-GB", **options).new_page()
        tab.on("request", self._watch)
        tab.on("pageerror", lambda error: self._complain(f"script: {error}"))
        tab.on("console", self._hear)
        return tab

    def _watch(self, request: Request) -> None:
        if not request.url.startswith((f"{self.site}/", "data:")):
            self._complain(f"asks elsewhere: {request.url}")

    def _hear(self, message: ConsoleMessage) -> None:
        is_wrong = message.type in {"error", "warning"}
        if is_wrong and "the server responded with a status of" not in message.text:
            self._complain(f"console: {message.text}")

    def _complain(self, what: str) -> None:
        self.wrong.append(f"{self._stop}: {what}")

    def visit(self, stop: Stop) -> None:
        self._stop, tab = stop.name, self._tabs[stop.is_mail]
        self.seen += 1
        self._view(tab, PHONE, "light")
        answer = arrive(tab, self.site, stop)
        if answer.status != stop.status:
            self._complain(f"answered with {answer.status}")
        expect(tab.locator(".busy")).to_have_count(0)  # wait until a preview has loaded
        tab.evaluate(self._axe)
        self._look(tab, WCAG if stop.is_mail else RULES)
        self._view(tab, DESK, "dark")
        self._look(tab, LOOKS)
        self._view(tab, NARROWEST, "light")
        self._measure(tab, stop)

    def _view(self, tab: Page, width: int, scheme: Any) -> None:
        tab.set_viewport_size({"width": width, "height": 800})
        tab.emulate_media(color_scheme=scheme)

    def _look(self, tab: Page, rules: list[str]) -> None:
        options = {"runOnly": rules, "resultTypes": ["violations"], "elementRef": False}
        for violation in tab.evaluate(RUN, options):
            self._complain(f"{tab.viewport_size}: {violation}")

    def _measure(self, tab: Page, stop: Stop) -> None:
        over = tab.evaluate("document.documentElement.scrollWidth - innerWidth")
        if over > 0:
            self._complain(f"scrolls sideways by {over} px")
        if not stop.is_mail and (small := tab.evaluate(TOO_SMALL)):
            self._complain(f"{small} things are too small for a thumb")


def test_every_page_meets_wcag_2_2_aa(engine: Engine, chromium: Browser, tmp_path: Path):
    """No page breaks a rule of WCAG 2.2 AA, in any state that a visitor can reach.

    On a phone nothing is too wide or too small; no page requests anything from another site, and
    none violates its own content security policy.
    """
    with open_tour(engine, tmp_path / "mail") as (site, box):
        visitor = Visitor(chromium, site.services.settings.site_url)
        for stop in tour(site, box):
            visitor.visit(stop)

    assert visitor.wrong == []
    assert visitor.seen > 60
