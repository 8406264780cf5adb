"""The journey of a reader in a real browser and mailbox, and each tap in a mail on a phone."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from email.message import EmailMessage

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, expect, sync_playwright
from sqlalchemy import Engine, update

from pipeline import settings, signup
from pipeline.bootstrap import Services
from pipeline.domain import Links, SubscriberStatus
from pipeline.signup import Choices, parse_queries
from pipeline.storage.schema import DeliveryRow, ProfileRow, ReactionRow, SubscriberRow
from pipeline.web import create_app
from pipeline.web.server import listen, server
from tests.support import CHROMIUM
from tests.support.factories import make_schedule, make_sighting
from tests.support.newsroom import rows
from tests.support.servers import Inbox
from tests.support.site import ADA, Site, now

pytestmark = [pytest.mark.full, pytest.mark.browser]


@pytest.fixture
def backend() -> str:
    """Run on SQLite only: the two databases differ in storage alone."""
    return "sqlite"


@pytest.fixture
def site(engine: Engine, inbox: Inbox) -> Iterator[Site]:
    """Run the site on loopback: its links lead to itself, its mail goes to the inbox."""
    with listen("127.0.0.1", 0) as socket:
        url = f"http://127.0.0.1:{socket.getsockname()[1]}"
        loaded = settings.load(None, site_url=url, smtp_url=inbox.url)
        services = Services(loaded, engine)
        running = server(create_app(services))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [socket]})
        thread.start()
        yield Site(services, browser=None)  # type: ignore[arg-type]
        running.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, CHROMIUM)))
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Reader:
    """A reader with a browser and a mailbox; `complaints` has the console's errors and warnings."""

    tab: Page
    site: Site
    inbox: Inbox
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tab.on("console", self._hear)
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(message.text)

    def mail(self) -> EmailMessage:
        """Return the newest mail after the dispatcher has sent the queued one."""
        before = len(self.inbox.received)
        self.site.services.dispatch(once=True)
        assert len(self.inbox.received) == before + 1
        return self.inbox.received[-1].message

    def open(self, page: str) -> None:
        self.tab.goto(f"{self.site.services.settings.site_url}{page}")

    def follow(self, mail: EmailMessage, kind: str) -> None:
        [link, *_] = re.findall(rf"https?://\S+/{kind}/[^\s/]+(?=\s)", text_of(mail))
        self.tab.goto(link)

    def press(self, button: str) -> None:
        self.tab.get_by_role("button", name=button, exact=True).last.click()

    def reads(self, heading: str) -> None:
        expect(self.tab.get_by_role("heading", level=1)).to_have_text(heading)

    def sees(self, text: str) -> None:
        expect(self.tab.locator("body")).to_contain_text(text)


@pytest.fixture(params=[True, False], ids=["with scripts", "without scripts"])
def reader(request, chromium: Browser, site: Site, inbox: Inbox) -> Iterator[Reader]:
    context = chromium.new_context(
        java_script_enabled=request.param, timezone_id="Europe/Paris", locale="en-GB"
    )
    yield Reader(context.new_page(), site, inbox)
    context.close()


def text_of(mail: EmailMessage) -> str:
    part = mail.get_body(("plain",))
    assert part is not None
    text = part.get_content()
    assert isinstance(text, str)
    return text


def test_reader_signs_up_reads_changes_topics_and_unsubscribes(reader, site, inbox):
    """Sign up, confirm, read, change topics and unsubscribe; no mail is sent afterwards."""
    site.announce(make_sighting(title="Retrieval, the first", announced_on=now().date()))

    reader.open("/subscribe")
    tab = reader.tab
    for box in tab.locator('input[name="topic"]:checked').all():
        box.uncheck()
    tab.get_by_label("Your own topics").fill("retrieval")
    tab.get_by_label("Email address").fill(ADA)
    reader.press("Subscribe")
    reader.reads("Check your inbox")

    question = reader.mail()
    assert question["To"] == ADA
    assert question["List-Unsubscribe"] is None
    reader.follow(question, "confirm")
    assert [row.status for row in rows(site.engine, SubscriberRow)] == [SubscriberStatus.PENDING]
    reader.press("Subscribe")
    reader.reads("You are subscribed")
    reader.sees("Your first digest is being prepared")

    site.publish(everyone=False)
    welcome = reader.mail()
    assert "Retrieval, the first" in text_of(welcome)
    assert welcome["List-Unsubscribe-Post"] is None  # one-click unsubscribe needs https
    reader.follow(welcome, "digests")
    reader.sees("Retrieval, the first")

    reader.follow(welcome, "preferences")
    tab.locator(".followed summary").click()
    expect(tab.get_by_label("Query")).to_have_value("retrieval")
    tab.get_by_label("Query").fill("granite")
    tab.get_by_label("Name", exact=True).fill("My rocks")
    reader.press("Save")
    reader.sees("Saved.")
    expect(tab.locator(".followed summary")).to_contain_text("My rocks granite")

    site.announce(
        make_sighting(title="Retrieval, the second", announced_on=now().date()),
        make_sighting(title="Granite", announced_on=now().date()),
    )
    site.alter(rows(site.engine, SubscriberRow)[0], last_edition_on=None, last_slot_at=None)
    site.publish()
    digest = reader.mail()
    assert "Granite" in text_of(digest)
    assert "My rocks" in text_of(digest)
    assert "Retrieval" not in text_of(digest)

    reader.follow(digest, "unsubscribe")
    reader.press("Unsubscribe")
    reader.reads("You are unsubscribed")

    site.announce(make_sighting(title="Granite once more", announced_on=now().date()))
    site.alter(rows(site.engine, SubscriberRow)[0], last_edition_on=None, last_slot_at=None)
    site.publish()
    assert site.services.dispatch(once=True).sent == 0
    assert len(inbox.received) == 3
    assert reader.complaints == []


def test_reader_downloads_and_erases_personal_data(reader, site, inbox):
    """The link to personal data comes by mail; after erasing, no link of the reader works."""
    site.announce(make_sighting(announced_on=now().date()))
    ada = site.reader()
    site.publish()
    digest = reader.mail()

    reader.follow(digest, "preferences")
    reader.press("Send link")
    reader.sees("A link to your data is on its way")
    reader.follow(reader.mail(), "data")
    with reader.tab.expect_download() as download:
        reader.press("Download")
    assert ADA in download.value.path().read_text("utf-8")
    reader.press("Erase everything")
    reader.reads("Erase your data?")
    reader.press("Erase everything")
    reader.reads("Your data is erased")

    reader.follow(digest, "unsubscribe")
    reader.reads("This link no longer works")
    assert ADA not in str(rows(site.engine, SubscriberRow))
    assert ada.secret not in str(rows(site.engine, SubscriberRow))


def test_reader_pauses_resumes_unsubscribes_and_resubscribes(reader, site):
    ada = site.reader()
    reader.tab.goto(site.services.links.preferences(ada.id, now()))

    reader.tab.get_by_label("Pause until").fill("2099-01-01")
    reader.press("Pause")
    expect(reader.tab.locator("#until-error")).to_be_visible()

    reader.tab.get_by_label("Pause until").fill(f"{now() + timedelta(days=9):%Y-%m-%d}")
    reader.press("Pause")
    reader.sees("Paused until")

    reader.press("Resume now")
    expect(reader.tab.locator("main")).not_to_contain_text("Paused until")

    reader.tab.goto(site.services.links.unsubscribe(ada.secret))
    reader.press("Unsubscribe")
    reader.press("Undo: subscribe again")
    reader.reads("You are subscribed again")
    assert site.again(ada).status is SubscriberStatus.ACTIVE
    assert [text for text in reader.complaints if "422" not in text] == []


# --- Taps on a phone ----------------------------------------------------------------------------

PHONE = {"width": 375, "height": 667}
FINGER = 44  # pixels: the smallest height of a target (WCAG 2.5.5)
INLINE = ("Subscribe", "127.0.0.1")  # links in a sentence, which the criterion excepts
HIT = """(link) => {
    link.scrollIntoView({ block: "center" });
    const box = [...link.getClientRects()].at(-1);
    const x = box.left + Math.min(box.width / 2, 40);
    const rows = [...Array(Math.round(box.height * 2)).keys()].map((n) => box.top + n / 2 + 0.25);
    const hit = (y) => link.contains(document.elementFromPoint(x, y));
    return Math.min(box.height, rows.filter(hit).length / 2 + 1); // hits are rounded to pixels
}"""


def target(link: Locator) -> float:
    """Return the height of a link's target on the screen, without parts that others cover."""
    return round(link.evaluate(HIT), 1)


@pytest.fixture
def phone(chromium: Browser, site: Site, inbox: Inbox) -> Iterator[Reader]:
    context = chromium.new_context(viewport=PHONE, has_touch=True, is_mobile=True)
    yield Reader(context.new_page(), site, inbox)
    context.close()


BIBLIOGRAPHY = """
@article{a, title={Moss gardens on walls}, author={Lovelace, Ada and Gauss, Carl}, year=2029,
  abstract={We grow moss gardens.}}
@article{b, title={Watering moss gardens}, author={Lovelace, Ada}, year=2028}
@article{c, title={L\\"uftung of moss gardens}, author={Lovelace, Ada}, year=2027}
"""


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_reader_starts_from_a_bibliography_on_a_phone(phone, site, tmp_path, encoding):
    """Choose a .bib file, add a proposed topic, enter the address, confirm: the profile exists."""
    site.announce(
        *(make_sighting(title=f"Moss gardens, part {n}", announced_on=now().date()) for n in "12"),
        *(make_sighting(title=f"Tea of sort {n}", announced_on=now().date()) for n in range(40)),
    )
    file = tmp_path / "library.bib"
    file.write_bytes(BIBLIOGRAPHY.replace('\\"u', "ü").encode(encoding))
    phone.open("/subscribe")
    tab = phone.tab

    tab.get_by_text("Start from my papers").tap()
    tab.get_by_label("Choose a file").set_input_files(file)
    expect(tab.locator("#papers-result")).to_contain_text("Read 3 papers.")
    expect(tab.locator("#papers")).to_have_value(re.compile("Lüftung"))
    tap(phone, tab.get_by_role("button", name="Add moss gardens"))
    expect(tab.locator("#papers-result")).to_contain_text("Added")
    expect(tab.get_by_label("Your own topics")).to_have_value("moss gardens")
    assert tab.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    tab.get_by_label("Email address").fill(ADA)
    phone.press("Subscribe")
    phone.reads("Check your inbox")
    assert rows(site.engine, ReactionRow) == []

    phone.follow(phone.mail(), "confirm")
    phone.sees("3 papers, such as “Moss gardens on walls”")
    phone.press("Subscribe")
    phone.reads("You are subscribed")

    assert [row.likes for row in rows(site.engine, ProfileRow)] == [3]
    site.publish(everyone=False)
    assert "Moss gardens, part" in text_of(phone.mail())
    assert phone.complaints == []


@pytest.fixture
def digest(phone: Reader, site: Site) -> Reader:
    """Return a phone that shows the HTML of a digest of ten papers; two more have matched."""
    announced = [
        make_sighting(
            f"3001.000{number:02}",
            title=f"Retrieval of stones, part {number}",
            announced_on=now().date(),
            links=Links(abstract=f"https://arxiv.org/abs/3001.000{number:02}",
                        pdf="https://arxiv.org/pdf/x", code="https://github.com/ada/stones"),
        )
        for number in range(12)
    ]  # fmt: skip
    announced[0] = replace(announced[0], title="Retrieval of very many stones " * 3)
    site.announce(*announced)
    signup.add(
        site.engine,
        ADA,
        Choices(parse_queries(("retrieval",)), make_schedule(), 10),
        confirmed=True,
        suppression_key=site.key,
        now=now(),
    )
    site.publish()
    html = phone.mail().get_body(("html",))
    assert html is not None
    phone.tab.route("https://arxiv.org/**", lambda route: route.fulfill(body="The paper"))
    phone.tab.route("https://mail.test/", lambda route: route.fulfill(
        body=html.get_content(), content_type="text/html; charset=utf-8"
    ))  # fmt: skip
    phone.tab.goto("https://mail.test/")
    return phone


def tap(reader: Reader, link: Locator) -> None:
    """Tap a link whose target is high enough for a finger."""
    assert target(link) >= FINGER
    link.tap()


def test_title_in_a_mail_opens_the_paper(digest):
    titles = digest.tab.locator("h2 a")
    assert titles.count() == 10
    assert all(target(title) >= FINGER for title in titles.all())

    tap(digest, titles.nth(3))

    digest.sees("The paper")
    expect(digest.tab).to_have_url(re.compile(r"https://arxiv\.org/abs/3001\.000\d\d$"))


def test_entry_of_the_contents_leads_to_its_card(digest):
    entries = digest.tab.locator('a[href^="#p"]')
    assert entries.count() == 10
    assert all(target(entry) >= FINGER for entry in entries.all())

    tap(digest, entries.nth(6))

    card = digest.tab.locator("#p7")
    expect(card).to_contain_text(re.sub("…$", "", entries.nth(6).inner_text()))
    expect(card).to_be_in_viewport(ratio=1)
    assert card.evaluate("(link) => link.getBoundingClientRect().top") == pytest.approx(0, abs=1)


@pytest.mark.parametrize(
    ("name", "heading"),
    [
        ("See them", "2 more papers matched"),
        ("Preferences", "Your digest"),
        ("Unsubscribe", "Unsubscribe?"),
        ("View in browser", settings.load(None).list_name),
        ("Privacy", "Privacy"),
    ],
)
def test_link_of_a_mail_opens_its_page(digest, name, heading):
    link = digest.tab.get_by_role("link", name=name, exact=True).last

    tap(digest, link)

    expect(digest.tab.get_by_role("heading", level=1)).to_contain_text(heading, ignore_case=True)


def test_standalone_links_of_a_mail_are_high_enough_for_a_finger(digest):
    links = digest.tab.locator("a").all()

    low = [link.inner_text() for link in links if target(link) < FINGER]

    assert [text for text in low if not text.startswith(INLINE)] == []


def show_mail(reader: Reader) -> None:
    """Send what is queued, and show the HTML of the mail on the phone."""
    html = reader.mail().get_body(("html",))
    assert html is not None
    reader.tab.unroute("https://mail.test/")
    reader.tab.route("https://mail.test/", lambda route: route.fulfill(
        body=html.get_content(), content_type="text/html; charset=utf-8"
    ))  # fmt: skip
    reader.tab.goto("https://mail.test/")


def test_two_taps_on_less_change_the_next_digest_until_they_are_undone(phone, site):
    """Less like the first paper; the next digest begins with the other; undo, and it is first."""
    walls = "Retrieval of moss: a retrieval of lichen and ferns on stone walls."
    shade = "Retrieval of tea: a retrieval of leaves, which are dried in the shade."
    filler = [make_sighting(title=f"Star {n}", abstract="", authors=()) for n in range(30)]
    site.announce(*filler)
    choices = Choices(parse_queries(("retrieval",)), make_schedule(), 10)
    reader = signup.add(
        site.engine, ADA, choices, confirmed=True, suppression_key=site.key, now=now()
    )

    def send(number: int) -> list[str]:
        site.announce(
            make_sighting(title=f"Moss {number}", abstract=walls, authors=(f"A {number}",)),
            make_sighting(title=f"Tea {number}", abstract=shade, authors=(f"B {number}",)),
        )
        site.alter(reader, last_edition_on=None, last_slot_at=None)
        with site.engine.begin() as conn:  # as on another day: the key names the date
            conn.execute(update(DeliveryRow).values(dedupe_key=DeliveryRow.dedupe_key + "-old"))
        site.publish()
        show_mail(phone)
        return [title.split()[1] for title in phone.tab.locator("h2 a").all_inner_texts()]

    usual = send(1)
    card = phone.tab.get_by_role("link", name="Less", exact=True).first
    tap(phone, card)
    phone.sees("Papers about")
    phone.press("Less like this")
    phone.sees("Noted.")
    page = phone.tab.url

    assert send(2) == usual[::-1]

    phone.tab.goto(page)
    phone.press("Undo “less like this”")
    phone.sees("Undone.")
    assert send(3) == usual
    assert phone.complaints == []


def test_preview_button_leads_to_the_papers(chromium, site, inbox):
    """With scripts the preview follows each change; without them it has a button."""
    site.announce(make_sighting(title="Retrieval, previewed", announced_on=now().date()))
    context = chromium.new_context(
        viewport=PHONE, has_touch=True, is_mobile=True, java_script_enabled=False
    )
    phone = Reader(context.new_page(), site, inbox)
    phone.open("/papers")  # the index of papers is built with the first request
    phone.sees("Retrieval, previewed")
    phone.open("/subscribe?topic=retrieval")

    phone.tab.get_by_role("button", name="Preview").tap()

    expect(phone.tab.locator("#preview")).to_be_in_viewport()
    for link in phone.tab.locator("#preview-result a").all():
        assert link.bounding_box()["height"] >= FINGER
    expect(phone.tab.locator("#preview-result")).to_contain_text("Retrieval, previewed")
    context.close()


def test_search_leads_to_the_form_with_its_topic(phone, site):
    site.announce(make_sighting(title="Retrieval of stones", announced_on=now().date()))
    phone.open("/papers")

    phone.tab.get_by_role("searchbox").fill("stones")
    tap(phone, phone.tab.get_by_role("button", name="Search"))
    tap(phone, phone.tab.locator('main a[href^="/subscribe?"]').first)

    expect(phone.tab.get_by_label("Your own topics")).to_have_value("stones")


def test_followed_topic_is_opened_with_a_tap(phone, site):
    ada = site.reader()
    phone.tab.goto(site.services.links.preferences(ada.id, now()))
    summary = phone.tab.locator(".followed summary")

    tap(phone, summary)

    for label in ("Name", "Query", "Remove this topic"):
        field = phone.tab.locator(".followed").get_by_text(label, exact=True)
        expect(field).to_be_visible()
    assert phone.tab.get_by_label("Name", exact=True).bounding_box()["height"] >= FINGER
    assert phone.tab.locator(".followed .tick").bounding_box()["height"] >= FINGER
