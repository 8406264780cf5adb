"""Each page of the site, in each state that a visitor can reach."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from playwright.sync_api import Page, Response
from sqlalchemy import Engine

from pipeline import ingest, mailbox, settings, signup
from pipeline.bootstrap import Services
from pipeline.domain import Subscriber
from pipeline.errors import LimitError
from pipeline.local.demo import SAMPLE
from pipeline.mailbox import Mailbox
from pipeline.sources import recorded_files
from pipeline.storage.schema import RequestRow
from pipeline.web import create_app
from pipeline.web.server import listen, server
from tests.support.factories import make_sighting
from tests.support.newsroom import rows, stored
from tests.support.site import ADA, Site, now, path

Form = tuple[tuple[str, str], ...]

LONG = "Retrieval of " + "Electroencephalographically " * 11
HARD = (  # papers as sources send them at worst
    make_sighting(title=LONG, authors=(), abstract="", announced_on=now().date()),
    make_sighting(
        title="استرجاع المعلومات <b>retrieval</b> & 🦜",
        authors=tuple(f"Author {number} of Many" for number in range(90)),
        abstract="Retrieval <script>alert(1)</script> " * 40,
        announced_on=now().date(),
    ),
    make_sighting(title="Retrieval, withdrawn", withdrawn=True, announced_on=now().date()),
    *(
        make_sighting(title=LONG, authors=(name, "Ada Reed-Holm" * 8), announced_on=now().date())
        for name in ("Jun Holm", "Jie Holm")
    ),
)
WISHES: Form = (
    ("topic", "trending"),
    ("topic", "agents"),
    ("queries", 'retrieval\n"world model" -survey'),
    ("frequency", "daily"),
    ("hour", "8"),
    ("timezone", "Europe/Paris"),
    ("max_papers", "5"),
)
PAPERS = """
@article{a, title={Video generation <b>with</b> retrieval}, author={Jun Holm and A. Reed}}
@article{b, title={Agents for video generation, and استرجاع المعلومات}, author={Jun Holm}}
@article{c, title={Reasoning in video generation}, author={Jun Holm}, abstract={Retrieval.}}
2999.99999
@article{broken, title=
"""
MISTAKES: Form = (
    ("queries", "retrieval\n(agents OR\nti:"),
    ("frequency", "hourly"),
    ("hour", "77"),
    ("timezone", "Mars/Base"),
    ("max_papers", "900"),
    ("email", "ada@"),
)
SUBMIT = """([path, fields]) => {
    const form = document.createElement("form");
    form.method = "post";
    form.action = path;
    for (const [name, value] of fields) {
        const input = document.createElement("textarea");
        [input.name, input.value] = [name, value];
        form.append(input);
    }
    document.body.append(form);
    form.submit();
}"""


@dataclass(frozen=True, slots=True)
class Stop:
    """A page to open."""

    name: str
    path: str
    status: int = 200
    form: Form | None = None  # fields to send; None if the page is only opened
    is_mail: bool = False  # a mail as a page, which has its own styles and forbids scripts


def arrive(tab: Page, site: str, stop: Stop) -> Response:
    """Open a page as a visitor does: by a link, or by the submit button of a form."""
    if stop.form is None:
        answer = tab.goto(f"{site}{stop.path}")
    else:
        if not tab.url.startswith(site):
            tab.goto(f"{site}/privacy")
        with tab.expect_navigation() as going:
            tab.evaluate(SUBMIT, [stop.path, [list(field) for field in stop.form]])
        answer = going.value
    assert answer is not None
    return answer


@contextmanager
def open_tour(engine: Engine, folder: Path) -> Iterator[tuple[Site, Mailbox]]:
    """Serve the site with its mailbox on loopback, with a page that raises."""
    box = Mailbox(folder)
    with listen("127.0.0.1", 0) as socket, mailbox.serve("127.0.0.1", 0, box) as smtp:
        url = f"http://127.0.0.1:{socket.getsockname()[1]}"
        loaded = settings.load(None, site_url=url, smtp_url=f"smtp://127.0.0.1:{smtp}")
        services = Services(loaded, engine)
        app = create_app(services, box)
        app.add_api_route("/broken", _break)
        running = server(app)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [socket]})
        thread.start()
        try:
            yield Site(services, browser=None), box  # type: ignore[arg-type]
        finally:
            running.should_exit = True
            thread.join()


def _break() -> None:
    raise ValueError("a page that breaks")


def tour(site: Site, box: Mailbox) -> Iterator[Stop]:
    """Yield the stops in order; the code between two stops prepares the later one."""
    yield Stop("home-without-papers", "/papers")  # another path: browsers cache "/" for a minute
    yield Stop("subscribe-without-papers", "/subscribe")
    found = [answer for file in SAMPLE for answer in recorded_files.read_file(file)]
    ingest.ingest_recorded(site.engine, found, now=now() - timedelta(days=1))
    site.announce(*HARD)
    yield from _papers()
    yield from _joining(site)
    yield from _reading(site)
    yield from _leaving(site)
    yield from _refusals(site)
    yield from _letters(box)


def _papers() -> Iterator[Stop]:
    yield Stop("home", "/")
    yield Stop("day", "/papers?date=2025-07-14")
    yield Stop("day-empty", "/papers?date=2025-07-19")
    yield Stop("week", "/papers?week=2025-W29")
    yield Stop("month-page-2", "/papers?month=2025-07&page=2&sort=newest")
    yield Stop("search", "/papers?q=video+generation")
    yield Stop("search-topic-and-month", "/papers?q=video&topic=agents&month=2025-07")
    yield Stop("search-nothing", "/papers?q=xylophone+glaciology")
    yield Stop("search-mistake", "/papers?q=video+AND+(agents", 422)
    yield Stop("topics", "/topics")
    yield Stop("topics-mistake", "/topics?q=(agents", 422)
    yield Stop("topic", "/topics/agents")
    yield Stop("topic-trending", "/topics/trending")
    yield Stop("topic-rare", "/topics?q=xylophone")
    yield Stop("paper", "/papers/2506.19852")
    yield Stop("paper-hard", f"/papers/{HARD[1].arxiv_id}")
    yield Stop("paper-long", f"/papers/{HARD[0].arxiv_id}")
    yield Stop("author", "/authors/Author%201%20of%20Many")
    yield Stop("author-several", "/authors/J.%20Holm")
    yield Stop("author-unknown", "/authors/Nemo", 404)
    yield Stop("paper-unknown", "/papers/9999.99999", 404)
    yield Stop("privacy", "/privacy")


def _joining(site: Site) -> Iterator[Stop]:
    yield Stop("subscribe", "/subscribe")
    yield Stop("subscribe-chosen", "/subscribe?topic=agents&topic=retrieval")
    yield Stop("subscribe-preview", "/subscribe", form=(*WISHES, ("do", "preview")))
    papers: Form = (*WISHES, ("papers", PAPERS), ("do", "preview"))
    yield Stop("subscribe-papers", "/subscribe", form=papers)
    unread = (*WISHES, ("papers", "0000-0002-1825-0097"), ("adopt", "\nagents"))
    yield Stop("subscribe-author", "/subscribe", form=unread)
    mistyped = (*WISHES, ("email", ADA), ("papers", "0000-0002-1825-0098"))
    yield Stop("subscribe-author-mistyped", "/subscribe", 422, mistyped)
    yield Stop("subscribe-mistakes", "/subscribe", 422, (*MISTAKES, ("do", "subscribe")))
    yield Stop("subscribe-sent", "/subscribe", form=(*WISHES, ("email", ADA)))
    link = path(site.services.links.confirm(rows(site.engine, RequestRow)[-1].id, now()))
    yield Stop("confirm", link)
    yield Stop("joined", link, form=())
    yield Stop("confirmed-already", link)
    old = site.services.links.confirm(1, now() - timedelta(hours=73))
    yield Stop("confirm-expired", path(old), 410)
    yield Stop("confirm-altered", f"{link}x", 410)
    yield Stop("link", "/link")
    yield Stop("link-mistake", "/link", 422, (("email", "ada@"),))
    yield Stop("link-mailed", "/link", form=(("email", ADA),))


def _reading(site: Site) -> Iterator[Stop]:
    ada = site.reader("grace@example.org", "retrieval", "agents", "a topic <b>of</b> my own")
    yield Stop("preferences-looked-up", site.preferences(ada))
    site.publish()
    site.services.dispatch(once=True)
    yield Stop("preferences", site.preferences(ada))
    _forget_today(site, ada)
    site.publish()
    yield Stop("preferences-with-skips", site.preferences(ada))
    follow = f"{site.preferences(ada)}/follow"
    yield Stop("follow", f"{follow}?author=Jun+Holm")
    yield Stop("follow-done", follow, form=(("author", "Jun Holm"),))
    yield Stop("follow-again", f"{follow}?author=Holm,+Jun")
    start = f"{site.preferences(ada)}/start"
    yield Stop("start", start)
    yield Stop("start-mistake", start, 422, (("do", "read"),))
    yield Stop("start-read", start, form=(("papers", PAPERS), ("do", "read")))
    yield Stop("start-saved", start, form=(("papers", PAPERS), ("do", "save")))
    full = site.reader("mary@example.org", *(f"stone{number}" for number in range(20)))
    yield Stop("follow-full", f"{site.preferences(full)}/follow?author=Jun+Holm")
    yield Stop("preferences-mistakes", site.preferences(ada), 422, MISTAKES)
    yield Stop("preferences-saved", site.preferences(ada), form=WISHES)
    yield Stop("pause-mistake", f"{site.preferences(ada)}/pause", 422, (("until", ""),))
    until = f"{now() + timedelta(days=9):%Y-%m-%d}"
    yield Stop("paused", f"{site.preferences(ada)}/pause", form=(("until", until),))
    yield Stop("resumed", f"{site.preferences(ada)}/resume", form=())
    yield from _saving(site, ada)
    yield Stop("data-mailed", f"{site.preferences(ada)}/data", form=())
    yield Stop("data", site.data(ada))
    yield Stop("address-mistake", f"{site.data(ada)}/address", 422, (("email", "ada@"),))
    new = (("email", "hopper@example.org"),)
    yield Stop("address-asked", f"{site.data(ada)}/address", form=new)
    move = path(site.services.links.new_address(rows(site.engine, RequestRow)[-1].id, now()))
    yield Stop("new-address", move)
    yield Stop("address-moved", move, form=())
    digest = site.services.links.digest(_digest_of(site, ada), now())
    yield Stop("digest", path(digest), is_mail=True)
    yield Stop("preferences-expired", path(_expired_preferences(site, ada)), 410)
    yield Stop("erase", f"{site.data(ada)}/erase", form=())
    yield Stop("erased", f"{site.data(ada)}/erase", form=(("sure", "yes"),))
    yield Stop("digest-gone", path(digest), 410)


def _saving(site: Site, reader: Subscriber) -> Iterator[Stop]:
    saved = f"{site.preferences(reader)}/saved"
    yield Stop("saved-empty", saved)
    for paper in stored(site.engine)[-len(HARD) :]:
        signup.annotate(site.engine, reader.id, paper.key, "مهم <b>read</b>" * 20, now())
    yield Stop("saved", saved)
    yield Stop("saved-search", f"{saved}?q=withdrawn")
    yield Stop("saved-search-nothing", f"{saved}?q=xylophone")
    key = stored(site.engine)[-1].key
    yield Stop("saved-note", saved, form=(("do", "note"), ("key", key), ("note", "later")))
    yield Stop("saved-feeds", saved, form=(("do", "create"),))
    yield Stop("saved-without-feeds", saved, form=(("do", "revoke"),))
    yield Stop("saved-weekly", saved, form=(("do", "weekly"),))


def _leaving(site: Site) -> Iterator[Stop]:
    way_out = f"/unsubscribe/{site.reader('rohini@example.com', 'agents').secret}"
    yield Stop("unsubscribe", way_out)
    yield Stop("left", way_out, form=())
    yield Stop("why", f"{way_out}/why", form=(("why", next(iter(signup.UnsubscribeReason)).value),))
    yield Stop("back-again", f"{way_out}/undo", form=())
    yield Stop("left-by-nobody", "/unsubscribe/" + "x" * 22, form=())
    yield Stop("unsubscribe-unknown", "/unsubscribe/not-a-secret", 404)


def _refusals(site: Site) -> Iterator[Stop]:
    yield Stop("404", "/nowhere", 404)
    yield Stop("405", "/papers", 405, ())
    yield Stop("422", "/papers?date=yesterday", 422)
    yield Stop("500", "/broken", 500)
    with suppress(LimitError):
        for number in range(60):  # until the limit of this address is reached
            site.ask(f"reader{number}@example.org", ip="127.0.0.1")
    yield Stop("429", "/subscribe", 429, (*WISHES, ("email", "one-more@example.org")))
    yield Stop("429-link", "/link", 429, (("email", "one-more@example.org"),))


def _letters(box: Mailbox) -> Iterator[Stop]:
    letters = box.messages()
    digest = next(
        letter.id for letter in letters if "retrieval" in (box.read(letter.id).html or "")
    )
    yield Stop("mailbox", "/mailbox")
    yield Stop("letter", f"/mailbox/{digest}")
    yield Stop("letter-html", f"/mailbox/{digest}/html", is_mail=True)
    yield Stop("letter-gone", "/mailbox/00000000000000000000-0-0", 404)


def _forget_today(site: Site, reader: Subscriber) -> None:
    """Make the edition of today due again."""
    site.alter(reader, last_edition_on=now().date() - timedelta(days=1), last_slot_at=None)


def _digest_of(site: Site, reader: Subscriber) -> int:
    return next(row.id for row in site.deliveries() if row.subscriber_id == reader.id)


def _expired_preferences(site: Site, reader: Subscriber) -> str:
    return site.services.links.preferences(reader.id, now() - timedelta(days=31))
