"""One-click unsubscribe (RFC 8058), with undo within 30 days.

The same pages have two paths: by the secret of a mail, and by a preferences token. The secret never
expires, so pages that are reached by an expiring token do not show it.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Final

from fastapi import APIRouter, Depends
from sqlalchemy import Engine
from starlette.requests import Request
from starlette.responses import Response

from pipeline import signup
from pipeline.domain import Subscriber, SubscriberStatus
from pipeline.errors import NotFoundError
from pipeline.signup import UnsubscribeReason
from pipeline.storage import subscribers
from pipeline.storage.database import read_only
from pipeline.translations import gettext
from pipeline.web.account.text import WHYS, masked, next_digest, now
from pipeline.web.dependencies import READ, Form, Pages, Services

FROM_MAIL: Final = "/unsubscribe/{secret}"
FROM_PREFERENCES: Final = "/preferences/{token}/leave"
LETTERS: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
WHOLE: Final = 22  # length of a complete secret


def _secret(request: Request, services: Services) -> str:
    """Return the secret in the path, or that of the subscriber whose token is in the path.

    Raise NotFoundError if the secret is malformed, InvalidTokenError if the token is.
    """
    token = request.path_params.get("token")
    if token is not None:
        subscriber_id = services.links.read_preferences(token, now())
        return signup.choices_of(services.engine, subscriber_id).subscriber.secret
    secret: str = request.path_params["secret"]
    if not LETTERS.fullmatch(secret):
        raise NotFoundError("this link is incomplete")
    return secret


Secret = Annotated[str, Depends(_secret)]
router = APIRouter()


@router.api_route(FROM_MAIL, methods=READ)
@router.api_route(FROM_PREFERENCES, methods=READ)
def show_unsubscribe(
    request: Request, secret: Secret, services: Services, pages: Pages
) -> Response:
    subscriber = _by_secret(services.engine, secret)
    if subscriber.status is SubscriberStatus.UNSUBSCRIBED:
        return _left(request, services, pages, subscriber)
    return pages.show("unsubscribe.html", address=masked(subscriber.email))


# RFC 8058, section 3.1: answer here; a redirected POST is often lost. The body comes in one of
# two encodings and repeats the URL, so it is not parsed.
@router.post(FROM_MAIL)
@router.post(FROM_PREFERENCES)
def unsubscribe(request: Request, secret: Secret, services: Services, pages: Pages) -> Response:
    try:
        subscriber = signup.leave(services.engine, secret, now())
        return _left(request, services, pages, subscriber)
    except NotFoundError:
        if len(secret) != WHOLE:
            raise
        # Most likely the subscriber was erased since: to a mail service that is a success.
        return pages.show("left.html", address="", place="", whys=(), may_undo=False)


@router.post(FROM_MAIL + "/undo")
@router.post(FROM_PREFERENCES + "/undo")
def undo_unsubscribe(secret: Secret, services: Services, pages: Pages) -> Response:
    subscriber = signup.undo(services.engine, secret, now())
    return pages.show(
        "back.html",
        address=masked(subscriber.email),
        next_digest=next_digest(subscriber, now()),
        preferences=services.links.preferences(subscriber.id, now()),
    )


@router.post(FROM_MAIL + "/why")
@router.post(FROM_PREFERENCES + "/why")
def save_leaving_reason(
    request: Request, form: Form, secret: Secret, services: Services, pages: Pages
) -> Response:
    if form.get("why") not in set(UnsubscribeReason):
        subscriber = _by_secret(services.engine, secret)
        return _left(request, services, pages, subscriber, status=422)
    signup.set_reason(services.engine, secret, UnsubscribeReason(form["why"]))
    return pages.show("thanks.html", place=_place(request))


def _left(
    request: Request, services: Services, pages: Pages, subscriber: Subscriber, *, status: int = 200
) -> Response:
    return pages.show(
        "left.html",
        status=status,
        address=masked(subscriber.email),
        place=_place(request),
        whys=[(why.value, gettext(label)) for why, label in WHYS.items()],
        may_undo=_can_undo(services.engine, subscriber.id, now()),
    )


def _place(request: Request) -> str:
    """Return the path of the unsubscribe page, also when the request is for its /why form."""
    return request.url.path.removesuffix("/why")


def _by_secret(engine: Engine, secret: str) -> Subscriber:
    """Return the subscriber with this secret. Raise NotFoundError if there is none."""
    with read_only(engine) as conn:
        subscriber = subscribers.by_secret(conn, secret)
    if subscriber is None:
        raise NotFoundError("this link belongs to no subscription")
    return subscriber


def _can_undo(engine: Engine, subscriber_id: int, now: datetime) -> bool:
    """Return whether unsubscribing can be undone."""
    with read_only(engine) as conn:
        return subscribers.may_be_restored(conn, subscriber_id, now)
