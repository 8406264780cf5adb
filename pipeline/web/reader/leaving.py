"""Out with one click, and back within a month."""

from __future__ import annotations

import re
from typing import Annotated, Final

from fastapi import APIRouter, Depends
from starlette.responses import Response

from pipeline import signup
from pipeline.bootstrap import Services
from pipeline.domain import Subscriber, SubscriberStatus
from pipeline.errors import NotFoundError
from pipeline.signup import Why
from pipeline.web.pages import Pages
from pipeline.web.reader.looking import LOOK, Sent, by_secret, may_come_back, next_digest, now
from pipeline.web.reader.wording import WHYS, masked

LETTERS: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
WHOLE: Final = 22  # letters of a secret


def readable(secret: str) -> str:
    """A secret that could be somebody's. Raises NotFoundError."""
    if not LETTERS.fullmatch(secret):
        raise NotFoundError("this link is not complete")
    return secret


Secret = Annotated[str, Depends(readable)]


def router(services: Services, pages: Pages) -> APIRouter:
    routes = APIRouter(prefix="/unsubscribe")
    engine = services.engine

    @routes.api_route("/{secret}", methods=LOOK)
    def ask(secret: Secret) -> Response:
        subscriber = by_secret(engine, secret)
        if subscriber.status is SubscriberStatus.UNSUBSCRIBED:
            return _left(secret, subscriber)
        return pages.show("unsubscribe.html", address=masked(subscriber.email))

    # RFC 8058, section 3.1: answer here; a redirected POST is often lost. The body says what the
    # address says already, in one of two encodings, so nobody reads it.
    @routes.post("/{secret}")
    def leave(secret: Secret) -> Response:
        try:
            return _left(secret, signup.leave(engine, secret, now()))
        except NotFoundError:
            if len(secret) != WHOLE:
                raise
            # Most likely it was erased since: a mail service must not be told of a failure.
            return pages.show("left.html", address="", secret="", whys=(), may_undo=False)

    @routes.post("/{secret}/undo")
    def undo(secret: Secret) -> Response:
        subscriber = signup.undo(engine, secret, now())
        return pages.show(
            "back.html",
            address=masked(subscriber.email),
            next_digest=next_digest(subscriber, now()),
            preferences=services.links.preferences(subscriber.id, now()),
        )

    @routes.post("/{secret}/why")
    def say_why(secret: Secret, form: Sent) -> Response:
        if form.get("why") not in set(Why):
            return _left(secret, by_secret(engine, secret), status=422)
        signup.say_why(engine, secret, Why(form["why"]))
        return pages.show("thanks.html", secret=secret)

    def _left(secret: str, subscriber: Subscriber, *, status: int = 200) -> Response:
        return pages.show(
            "left.html",
            status=status,
            address=masked(subscriber.email),
            secret=secret,
            whys=[(why.value, label) for why, label in WHYS.items()],
            may_undo=may_come_back(engine, subscriber.id, now()),
        )

    return routes
