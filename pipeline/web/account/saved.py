"""A reader's list of saved papers: page, files for reference managers, feeds and weekly mail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote, urlencode
from uuid import NAMESPACE_URL, uuid5

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from pipeline import references, signup
from pipeline.domain import Digest
from pipeline.rendering import Branding, formatting, views
from pipeline.signup.saved import SavedPaper
from pipeline.translations import gettext, gettext_noop
from pipeline.web.account.text import now
from pipeline.web.dependencies import READ, Form, Pages, Services
from pipeline.web.middleware import private
from pipeline.web.papers import feeds
from pipeline.web.papers.feeds import Entry, Feed
from pipeline.web.papers.routes import CITATIONS, CitationFormat
from pipeline.web.papers.views import path_of

SIZE: Final = 50  # papers on a page
LONGEST_SEARCH: Final = 200
ROOM: Final = views.Room(abstract=380, phrases=3, links=1)
NEVER: Final = datetime(1970, 1, 1, tzinfo=UTC)
FILES: Final = {
    form.extension: form
    for form in (
        *CITATIONS.values(),
        CitationFormat("Markdown", "md", "text/markdown; charset=utf-8", references.markdown),
    )
}
DONE: Final = {
    "note": gettext_noop("Your note is saved."),
    "remove": gettext_noop("Removed from your list."),
    "create": gettext_noop("Your feeds have their addresses."),
    "revoke": gettext_noop("The addresses of your feeds no longer work."),
    "weekly": gettext_noop("Papers that you save are mailed to you once a week."),
    "stop": gettext_noop("Your saved papers are no longer mailed."),
}


@dataclass(frozen=True, slots=True)
class ShownPaper:
    """A saved paper on the page; any text except the title may be ""."""

    key: str
    title: str
    url: str
    authors: str
    byline: str
    note: str


router = APIRouter()


@router.api_route("/preferences/{token}/saved", methods=READ)
def show_saved(
    token: str,
    services: Services,
    pages: Pages,
    q: str = "",
    page: str = "",
    done: str = "",
    at: str = "",
) -> Response:
    """Show a page of the list, or of the papers that `q` finds in it.

    `at` is the key of the paper beside which to show that it was changed.
    """
    subscriber_id = services.links.read_preferences(token, now())
    words = formatting.clean(q)[:LONGEST_SEARCH]
    saved = signup.saved_page(services.engine, subscriber_id, words, _number(page), SIZE)
    site_url = pages.branding.site_url
    return pages.show(
        "saved.html",
        token=token,
        done=gettext(DONE[done]) if done in DONE else "",
        at=at,
        q=words,
        page=saved,
        papers=[_shown(one, token, pages.branding) for one in saved.papers],
        steps=(
            _address(token, words, saved.number - 1) if saved.number > 1 else None,
            _address(token, words, saved.number + 1) if saved.number < saved.last else None,
        ),
        files=[
            (form.name, f"/preferences/{token}/saved.{extension}")
            for extension, form in FILES.items()
        ],
        feeds=[
            (gettext("Your digests"), f"{site_url}/feeds/{saved.feed_secret}/digests"),
            (gettext("Your list"), f"{site_url}/feeds/{saved.feed_secret}/saved"),
        ]
        if saved.feed_secret
        else [],
        personal=True,
    )


@router.post("/preferences/{token}/saved")
def change_saved(token: str, form: Form, services: Services, pages: Pages) -> Response:
    """Change the list, its feeds or its weekly mail; `do` is a key of DONE."""
    subscriber_id = services.links.read_preferences(token, now())
    engine, do, key = services.engine, form.get("do", ""), form.get("key", "")
    match do:
        case "note":
            signup.annotate(engine, subscriber_id, key, form.get("note", ""), now())
        case "remove":
            signup.save(engine, subscriber_id, key, now(), saved=False)
        case "create":
            signup.create_feeds(engine, subscriber_id, now())
        case "revoke":
            signup.revoke_feeds(engine, subscriber_id, now())
        case "weekly" | "stop":
            signup.mail_weekly(engine, subscriber_id, now(), wanted=do == "weekly")
        case _:
            return pages.message(gettext("Invalid request"), "", status=422, personal=True)
    words = formatting.clean(form.get("q", ""))[:LONGEST_SEARCH]
    number = _number(form.get("page", ""))
    if do != "note":
        return RedirectResponse(_address(token, words, number, done=do), 303)
    address = _address(token, words, number, done=do, at=key)
    return RedirectResponse(f"{address}#{quote(key, safe='')}", 303)


@router.api_route("/preferences/{token}/saved.{extension}", methods=READ)
def download_saved(token: str, extension: str, services: Services) -> Response:
    """Return the whole list as a file, with the notes."""
    form = FILES.get(extension)
    if form is None:
        raise HTTPException(404)
    subscriber_id = services.links.read_preferences(token, now())
    saved = signup.saved_papers(services.engine, subscriber_id)
    notes = {one.paper.key: one.note for one in saved}
    name = f"{services.settings.site_host}-{now():%Y-%m-%d}.{extension}"
    return Response(
        form.write([one.paper for one in saved], notes),
        media_type=form.media_type,
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


def _number(page: str) -> int:
    return int(page) if page.isascii() and page.isdecimal() and len(page) < 7 else 1


def _address(token: str, words: str, number: int, **more: str) -> str:
    given = {"q": words, "page": str(number) if number > 1 else "", **more}
    query = urlencode({name: value for name, value in given.items() if value})
    return f"/preferences/{token}/saved{f'?{query}' if query else ''}"


def _shown(saved: SavedPaper, token: str, branding: Branding) -> ShownPaper:
    paper = saved.paper
    card = views.card(paper, (), branding, views.Room(abstract=0, phrases=0, links=1))
    url = next((link.url for link in card.links), "")
    return ShownPaper(
        key=paper.key,
        title=card.title,
        url=f"/preferences/{token}{path_of(paper.key)}" if saved.is_stored else url,
        authors=card.authors,
        byline=card.byline if saved.is_stored else references.year_of(paper),
        note=saved.note,
    )


# --- Feeds --------------------------------------------------------------------------------------


@router.api_route("/feeds/{secret}/digests.{form}", methods=READ)
def show_digest_feed(
    request: Request, secret: str, form: str, services: Services, pages: Pages
) -> Response:
    """Return the papers of a reader's last digests, newest first, as they were sent."""
    write = _writer(form)
    sent = signup.feed_digests(services.engine, secret)

    def answer() -> Response:
        digests = signup.digests_of(services.engine, [id_ for id_, _ in sent])
        entries = [
            entry
            for id_, at in sent
            if id_ in digests
            for entry in _entries(digests[id_], at, pages.branding)
        ]
        return write(
            _feed(
                secret,
                "digests",
                gettext("Your digests"),
                gettext("The papers of your last digests."),
                list({entry.paper.key: entry for entry in reversed(entries)}.values())[::-1],
                pages.branding,
            )
        )

    return private(request, (form, sent), answer)


@router.api_route("/feeds/{secret}/saved.{form}", methods=READ)
def show_saved_feed(
    request: Request, secret: str, form: str, services: Services, pages: Pages
) -> Response:
    """Return the papers of a reader's list, the last saved first."""
    write = _writer(form)
    saved = signup.feed_papers(services.engine, secret)

    def answer() -> Response:
        return write(
            _feed(
                secret,
                "saved",
                gettext("Your list"),
                gettext("The papers that you saved."),
                [_saved_entry(one, pages.branding) for one in saved],
                pages.branding,
            )
        )

    state = [(one.paper.key, one.paper.version, one.saved_at, one.note) for one in saved]
    return private(request, (form, state), answer)


def _writer(form: str) -> Callable[[Feed], Response]:
    """Return the function that writes a feed; raise HTTPException 404 for an unknown format."""
    if form not in feeds.FORMATS:
        raise HTTPException(404)
    write, media_type = feeds.FORMATS[form]
    return lambda feed: Response(write(feed), media_type=media_type)


def _feed(
    secret: str, name: str, title: str, description: str, entries: list[Entry], branding: Branding
) -> Feed:
    """Return a private feed. Nothing in it contains its address or leads to a personal page."""
    site_url = branding.site_url
    return Feed(
        id=uuid5(NAMESPACE_URL, f"{site_url}/feeds/{secret}/{name}").urn,
        title=f"{title} · {branding.list_name}",
        description=description,
        site_url=site_url,
        page="/papers",
        atom="",
        json="",
        updated=max((entry.at for entry in entries), default=NEVER),
        entries=entries,
    )


def _entries(digest: Digest, at: datetime, branding: Branding) -> Iterator[Entry]:
    """Yield the papers of a digest in the order of the mail, each with its reasons."""
    for pick in views.arranged(digest.picks):
        (place,) = views.places([pick], ROOM.phrases, near_misses=digest.near_misses)
        reasons = [
            place.heading,
            gettext("Matched %(phrases)s", phrases=place.matched) if place.matched else "",
            gettext("Also for %(topics)s", topics=place.also) if place.also else "",
            place.liked,
        ]
        sentence, _ = views.opening(pick.paper, ROOM.abstract)
        text = "\n\n".join(filter(None, (sentence, " · ".join(filter(None, reasons)))))
        yield Entry(pick.paper, at, text, branding.site_url + path_of(pick.paper.key))


def _saved_entry(saved: SavedPaper, branding: Branding) -> Entry:
    paper = saved.paper
    card = views.card(paper, (), branding, ROOM)
    elsewhere = next((link.url for link in card.links), "")
    address = branding.site_url + path_of(paper.key) if saved.is_stored else elsewhere
    text = "\n\n".join(filter(None, (formatting.clean(saved.note), card.key_sentence)))
    return Entry(paper, saved.saved_at, text, address)
