"""Page to start from one's own papers: paste or choose a list, choose topics, save."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Final

from fastapi import APIRouter
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from pipeline import signup
from pipeline.domain import SubscriberStatus
from pipeline.errors import LimitError
from pipeline.matching import suggestions
from pipeline.matching.query import TopicQuery
from pipeline.signup import Preferences
from pipeline.storage.database import read_only
from pipeline.translations import gettext, gettext_noop
from pipeline.web.account.preferences import TOO_MANY_NEW, stored_values
from pipeline.web.account.text import now
from pipeline.web.dependencies import (
    READ,
    AuthorLookup,
    ClientIP,
    CPUBudget,
    Form,
    Pages,
    RecentPapers,
    Services,
    WakeEditions,
)
from pipeline.web.subscribe import form_input
from pipeline.web.subscribe import start as starting
from pipeline.web.subscribe.form_input import FollowedTopic
from pipeline.web.subscribe.routes import TOO_MANY_PREVIEWS
from pipeline.web.subscribe.start import Start

NO_PAPERS: Final = gettext_noop("No paper could be read. Paste a list, or choose a file.")
NO_ROOM: Final = gettext_noop("You have as many papers as possible. Remove some first.")

router = APIRouter()


@router.api_route("/preferences/{token}/start", methods=READ)
def show_start(token: str, services: Services, pages: Pages) -> Response:
    """Show the form for a list of papers."""
    known = _known(services, token)
    if known.subscriber.status is not SubscriberStatus.ACTIVE:
        return RedirectResponse(f"/preferences/{token}", 303)
    return _page(services, pages, token, known)


@router.post("/preferences/{token}/start")
def start(
    request: Request,
    token: str,
    form: Form,
    ip: ClientIP,
    services: Services,
    pages: Pages,
    recent: RecentPapers,
    budget: CPUBudget,
    authors: AuthorLookup,
    wake_editions: WakeEditions,
) -> Response:
    """Show what a list of papers says; if `do` is "save", store its papers and the topics `add`."""
    known = _known(services, token)
    if known.subscriber.status is not SubscriberStatus.ACTIVE:
        return RedirectResponse(f"/preferences/{token}", 303)
    text, chosen = form_input.papers(form), form.getlist("add")[: form_input.MOST_TOPICS]

    def answer(mistake: str = "", status: int = 200, read: Start | None = None) -> Response:
        return _page(services, pages, token, known, text, read, chosen, mistake, status=status)

    if not budget.allows(request):
        return answer(gettext(TOO_MANY_PREVIEWS), 429)
    room = signup.MOST_OWN - _own(services, known)
    with budget.charged(request):
        window = recent.get()
        listed = starting.read_list(text, authors, ip, is_wanted=True)
        with read_only(services.engine) as conn:
            read = starting.start(listed, window, conn, dict(known.topics), room=room)
    if not read.own.total:
        return answer(next(iter(listed.problems), gettext(NO_PAPERS)), 422, read if text else None)
    if form.get("do") != "save":
        return answer(gettext(NO_ROOM) if room <= 0 else "", read=read)
    new = [query for query in map(suggestions.parsed, chosen) if query]
    problem = gettext(NO_ROOM) if room <= 0 and not new else _no_room(known, new)
    problem = problem or next(iter(listed.problems), "")
    if problem:
        return answer(problem, 422, read)
    papers = read.own.reactions
    try:
        signup.start_from(services.engine, known.subscriber.id, papers, new, now())
    except LimitError:
        return answer(gettext(TOO_MANY_NEW), 429, read)
    done = RedirectResponse(f"/preferences/{token}/interests?done=own", 303)
    if new:
        done.background = BackgroundTask(wake_editions)  # matches the new topics
    return done


def _known(services: Services, token: str) -> Preferences:
    return signup.choices_of(services.engine, services.links.read_preferences(token, now()))


def _own(services: Services, known: Preferences) -> int:
    """Return how many papers of their own a reader has stored."""
    stored = signup.interests(services.engine, known.subscriber.id)
    return sum(one.is_own for one in stored.judged)


def _no_room(known: Preferences, new: Sequence[TopicQuery]) -> str:
    """Return the limit that new topics would exceed; "" if there is room."""
    values = stored_values(known)
    added = tuple(FollowedTopic(one.typed) for one in new if one.text not in dict(known.topics))
    more = replace(values, followed=(*values.followed, *added))
    return next((error.text for error in form_input.too_many_topics(more)), "")


def _page(
    services: Services,
    pages: Pages,
    token: str,
    known: Preferences,
    papers: str = "",
    read: Start | None = None,
    chosen: Collection[str] = (),
    mistake: str = "",
    *,
    status: int = 200,
) -> Response:
    return pages.show(
        "start.html",
        status=status,
        token=token,
        papers=papers,
        start=read,
        chosen=chosen,
        mistake=mistake,
        own=_own(services, known),
    )
