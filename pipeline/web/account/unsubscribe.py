"""One-click unsubscribe (RFC 8058), with undo within 30 days."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from pipeline import signup
from pipeline.bootstrap import Services
from pipeline.domain import Subscriber, SubscriberStatus
from pipeline.errors import NotFoundError
from pipeline.signup import UnsubscribeReason
from pipeline.translations import gettext
from pipeline.web.account.common import LOOK, Sent, by_secret, can_undo, next_digest, now
from pipeline.web.account.text import WHYS, masked
from pipeline.web.templating import Pages

LETTERS: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
WHOLE: Final = 22  # length of a complete secret


def readable(secret: str) -> str:
    """Return `secret` if it is well-formed; raise NotFoundError otherwise."""
    if not LETTERS.fullmatch(secret):
        raise NotFoundError("this link is incomplete")
    return secret


def router(services: Services, pages: Pages) -> APIRouter:
    """Return the same pages under two paths: by the secret of a mail, and by a preferences token.

    The secret never expires, so pages that are reached by an expiring token do not show it.
    """

    def secret_of(token: str) -> str:
        subscriber_id = services.links.read_preferences(token, now())
        return signup.choices_of(services.engine, subscriber_id).subscriber.secret

    routes = APIRouter()
    routes.include_router(_routes(services, pages, readable), prefix="/unsubscribe/{secret}")
    routes.include_router(_routes(services, pages, secret_of), prefix="/preferences/{token}/leave")
    return routes


def _routes(services: Services, pages: Pages, secret_of: Callable[[str], str]) -> APIRouter:
    """Return the routes under one prefix; `secret_of` gets the secret from the path parameter."""
    routes = APIRouter()
    engine = services.engine
    from_the_address = Depends(secret_of)

    @routes.api_route("", methods=LOOK)
    def ask(request: Request, secret: str = from_the_address) -> Response:
        subscriber = by_secret(engine, secret)
        if subscriber.status is SubscriberStatus.UNSUBSCRIBED:
            return _left(request, subscriber)
        return pages.show("unsubscribe.html", address=masked(subscriber.email))

    # RFC 8058, section 3.1: answer here; a redirected POST is often lost. The body comes in one of
    # two encodings and repeats the URL, so it is not parsed.
    @routes.post("")
    def leave(request: Request, secret: str = from_the_address) -> Response:
        try:
            return _left(request, signup.leave(engine, secret, now()))
        except NotFoundError:
            if len(secret) != WHOLE:
                raise
            # Most likely the subscriber was erased since: to a mail service that is a success.
            return pages.show("left.html", address="", place="", whys=(), may_undo=False)

    @routes.post("/undo")
    def undo(secret: str = from_the_address) -> Response:
        subscriber = signup.undo(engine, secret, now())
        return pages.show(
            "back.html",
            address=masked(subscriber.email),
            next_digest=next_digest(subscriber, now()),
            preferences=services.links.preferences(subscriber.id, now()),
        )

    @routes.post("/why")
    def say_why(request: Request, form: Sent, secret: str = from_the_address) -> Response:
        if form.get("why") not in set(UnsubscribeReason):
            return _left(request, by_secret(engine, secret), status=422)
        signup.set_reason(engine, secret, UnsubscribeReason(form["why"]))
        return pages.show("thanks.html", place=_place(request))

    def _left(request: Request, subscriber: Subscriber, *, status: int = 200) -> Response:
        return pages.show(
            "left.html",
            status=status,
            address=masked(subscriber.email),
            place=_place(request),
            whys=[(why.value, gettext(label)) for why, label in WHYS.items()],
            may_undo=can_undo(engine, subscriber.id, now()),
        )

    return routes


def _place(request: Request) -> str:
    """Return the path of the unsubscribe page, also when the request is for its /why form."""
    return request.url.path.removesuffix("/why")
