"""Confirmation pages of a subscription and of a new address (double opt-in)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fastapi import APIRouter
from starlette.background import BackgroundTask
from starlette.responses import Response

from pipeline import signup
from pipeline.domain import RequestKind, SubscriberStatus
from pipeline.errors import InvalidTokenError
from pipeline.rendering import formatting
from pipeline.storage.reactions import Reaction
from pipeline.translations import gettext, gettext_noop, ngettext
from pipeline.web.account.text import (
    choices_of,
    current_choices,
    had_today,
    masked,
    next_digest,
    now,
)
from pipeline.web.dependencies import READ, Pages, Services, WakeEditions

router = APIRouter()


@router.api_route("/confirm/{token}", methods=READ)
def show_confirmation(token: str, services: Services, pages: Pages) -> Response:
    request = _request(services, services.links.read_confirm(token, now()), RequestKind.JOIN)
    if request.is_used:
        return pages.message(gettext("Already confirmed"), gettext(USED), personal=True)
    choices = request.choices or signup.Choices()
    return pages.show(
        "confirm.html",
        chosen=replace(
            current_choices(
                request.email, choices.labels, choices.schedule, choices.max_papers, choices.breadth
            ),
            papers=_named(choices.papers),
        ),
        is_change=request.status is SubscriberStatus.ACTIVE,
        wording=gettext(signup.WORDING),
    )


@router.post("/confirm/{token}")
def confirm_subscription(
    token: str, services: Services, pages: Pages, wake_editions: WakeEditions
) -> Response:
    confirmed = signup.confirm(services.engine, services.links.read_confirm(token, now()), now())
    answer = _confirmed(services, pages, confirmed.subscriber.id)
    # A topic without followers is first matched against weeks of papers: after the response.
    answer.background = BackgroundTask(wake_editions)
    return answer


@router.api_route("/new-address/{token}", methods=READ)
def show_new_address(token: str, services: Services, pages: Pages) -> Response:
    request_id = services.links.read_new_address(token, now())
    request = _request(services, request_id, RequestKind.NEW_ADDRESS)
    if request.is_used:
        return pages.message(gettext("Already confirmed"), gettext(USED), personal=True)
    return pages.show("move.html", address=masked(request.email), wording=gettext(signup.WORDING))


@router.post("/new-address/{token}")
def confirm_new_address(token: str, services: Services, pages: Pages) -> Response:
    request_id = services.links.read_new_address(token, now())
    subscriber = signup.confirm_new_address(services.engine, request_id, now()).subscriber
    return pages.show(
        "moved.html",
        address=masked(subscriber.email),
        next_digest=next_digest(subscriber, now()),
        preferences=services.links.preferences(subscriber.id, now()),
    )


def _request(services: Services, request_id: int, kind: RequestKind) -> signup.Request:
    """Load a request. Raise InvalidTokenError if it is of another kind."""
    request = signup.read_request(services.engine, request_id, now())
    if request.kind is not kind:
        raise InvalidTokenError(gettext("This link is not valid."))
    return request


def _named(papers: Sequence[Reaction]) -> str:
    """Return the number of papers and the title of the first one; "" if there are none."""
    if not papers:
        return ""
    title = formatting.cut_at_word(formatting.clean(papers[0].title), 80)
    return ngettext(
        "%(num)s paper: “%(title)s”",
        "%(num)s papers, such as “%(title)s”",
        len(papers),
        title=title,
    )


def _confirmed(services: Services, pages: Pages, subscriber_id: int) -> Response:
    known = signup.choices_of(services.engine, subscriber_id)
    subscriber = known.subscriber
    if subscriber.status is not SubscriberStatus.ACTIVE:
        return pages.message(gettext("Already confirmed"), gettext(USED), personal=True)
    return pages.show(
        "joined.html",
        chosen=choices_of(known),
        is_welcome_due=subscriber.welcome_due,
        had_today=had_today(subscriber, now()),
        digests=known.digests,
        next_digest=next_digest(subscriber, now()),
        preferences=services.links.preferences(subscriber.id, now()),
    )


USED = gettext_noop(
    "You do not need to do anything else. If you unsubscribed since, subscribe again on this site. "
    "Otherwise your emails have a link to your preferences."
)
