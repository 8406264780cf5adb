"""Confirmation pages of a subscription and of a new address (double opt-in)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from fastapi import APIRouter
from starlette.background import BackgroundTask
from starlette.responses import Response

from pipeline import signup, slots
from pipeline.bootstrap import Services
from pipeline.domain import RequestKind, Subscriber, SubscriberStatus
from pipeline.errors import InvalidTokenError
from pipeline.translations import gettext, gettext_noop
from pipeline.web.account.common import LOOK, current_choices, next_digest, now
from pipeline.web.account.text import masked
from pipeline.web.templating import Pages


def router(services: Services, pages: Pages, wake_editions: Callable[[], None]) -> APIRouter:
    routes = APIRouter()
    engine = services.engine

    @routes.api_route("/confirm/{token}", methods=LOOK)
    def ask(token: str) -> Response:
        request = _request(services.links.read_confirm(token, now()), RequestKind.JOIN)
        if request.is_used:
            return pages.message(gettext("Already confirmed"), gettext(USED), personal=True)
        choices = request.choices or signup.Choices()
        return pages.show(
            "confirm.html",
            chosen=current_choices(
                request.email, choices.labels, choices.schedule, choices.max_papers, choices.breadth
            ),
            is_change=request.status is SubscriberStatus.ACTIVE,
            wording=gettext(signup.WORDING),
        )

    @routes.post("/confirm/{token}")
    def join(token: str) -> Response:
        confirmed = signup.confirm(engine, services.links.read_confirm(token, now()), now())
        answer = _joined(confirmed.subscriber.id)
        # A topic without followers is first matched against weeks of papers: after the response.
        answer.background = BackgroundTask(wake_editions)
        return answer

    @routes.api_route("/new-address/{token}", methods=LOOK)
    def ask_to_move(token: str) -> Response:
        request = _request(services.links.read_new_address(token, now()), RequestKind.NEW_ADDRESS)
        if request.is_used:
            return pages.message(gettext("Already confirmed"), gettext(USED), personal=True)
        return pages.show(
            "move.html", address=masked(request.email), wording=gettext(signup.WORDING)
        )

    @routes.post("/new-address/{token}")
    def move(token: str) -> Response:
        confirmed = signup.confirm_new_address(
            engine, services.links.read_new_address(token, now()), now()
        )
        return pages.show(
            "moved.html",
            address=masked(confirmed.subscriber.email),
            next_digest=next_digest(confirmed.subscriber, now()),
            preferences=services.links.preferences(confirmed.subscriber.id, now()),
        )

    def _request(request_id: int, kind: RequestKind) -> signup.Request:
        """Load a request. Raise InvalidTokenError if it is of another kind."""
        request = signup.read_request(engine, request_id, now())
        if request.kind is not kind:
            raise InvalidTokenError(gettext("This link is not valid."))
        return request

    def _joined(subscriber_id: int) -> Response:
        known = signup.choices_of(engine, subscriber_id)
        subscriber = known.subscriber
        if subscriber.status is not SubscriberStatus.ACTIVE:
            return pages.message(gettext("Already confirmed"), gettext(USED), personal=True)
        return pages.show(
            "joined.html",
            chosen=current_choices(
                subscriber.email,
                [label for _, label in known.topics],
                subscriber.schedule,
                subscriber.max_papers,
                subscriber.breadth,
            ),
            is_welcome_due=subscriber.welcome_due,
            had_today=_had_today(subscriber, now()),
            digests=known.digests,
            next_digest=next_digest(subscriber, now()),
            preferences=services.links.preferences(subscriber.id, now()),
        )

    return routes


def _had_today(subscriber: Subscriber, at: datetime) -> bool:
    """Return whether today's edition is compiled already: there is one for each local day."""
    last = subscriber.last_edition_on
    return last is not None and last >= slots.local_date(at, subscriber.schedule)


USED = gettext_noop(
    "You do not need to do anything else. If you unsubscribed since, subscribe again on this site. "
    "Otherwise your emails have a link to your preferences."
)
