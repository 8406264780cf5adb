"""A reader's own pages, reached by the links in their mail. GET shows, POST does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from fastapi import APIRouter
from starlette.responses import HTMLResponse, Response

from pipeline import signup, slots
from pipeline.bootstrap import Services
from pipeline.domain import Frequency, Subscriber, SubscriberStatus, Subscription
from pipeline.errors import NotFoundError
from pipeline.rendering import MailLinks, words
from pipeline.storage import digests, subscribers, topics
from pipeline.storage.database import reading
from pipeline.web.pages import Pages
from pipeline.web.security import MAIL_POLICY

GET = ["GET", "HEAD"]
DIGEST_POLICY = MAIL_POLICY + "frame-ancestors 'none'"


def router(services: Services, pages: Pages) -> APIRouter:
    routes = APIRouter()
    readers = Readers(services)

    @routes.api_route("/unsubscribe/{secret}", methods=GET)
    def ask_whether_to_leave(secret: str) -> Response:
        subscriber = readers.by_secret(secret)
        if subscriber.status is SubscriberStatus.UNSUBSCRIBED:
            return pages.show("left.html", address=masked(subscriber.email))
        return pages.show("unsubscribe.html", address=masked(subscriber.email))

    # RFC 8058, section 3.1: answer here; a redirected POST is often lost. The body says what the
    # address says already, in one of two encodings, so nobody reads it.
    @routes.post("/unsubscribe/{secret}")
    def leave(secret: str) -> Response:
        subscriber = signup.leave(services.engine, secret, _now())
        return pages.show("left.html", address=masked(subscriber.email))

    @routes.api_route("/confirm/{token}", methods=GET)
    def ask_whether_to_join(token: str) -> Response:
        subscriber = readers.by_id(services.links.read_confirm(token, _now()))
        if subscriber.status is SubscriberStatus.PENDING:
            return pages.show("confirm.html", wishes=readers.wishes(subscriber))
        return _joined(subscriber)

    @routes.post("/confirm/{token}")
    def join(token: str) -> Response:
        now = _now()
        subscriber_id = services.links.read_confirm(token, now)
        return _joined(signup.confirm(services.engine, subscriber_id, now))

    def _joined(subscriber: Subscriber) -> Response:
        if subscriber.status is SubscriberStatus.UNSUBSCRIBED:
            return pages.show("left.html", address=masked(subscriber.email))
        return pages.show("joined.html", wishes=readers.wishes(subscriber))

    @routes.api_route("/preferences/{token}", methods=GET)
    def preferences(token: str) -> Response:
        subscriber = readers.by_id(services.links.read_preferences(token, _now()))
        return pages.show(
            "preferences.html",
            wishes=readers.wishes(subscriber),
            active=subscriber.status is SubscriberStatus.ACTIVE,
            unsubscribe=services.links.unsubscribe(subscriber.secret),
        )

    @routes.api_route("/digests/{token}", methods=GET)
    def digest(token: str) -> Response:
        html = readers.digest(services.links.read_digest(token, _now()))
        return HTMLResponse(html, headers={"Content-Security-Policy": DIGEST_POLICY})

    return routes


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a reader has chosen, in words."""

    address: str
    topics: tuple[str, ...]
    rhythm: str  # "Every day at 08:00, Europe/Paris time"
    max_papers: int
    next_digest: str  # "" when none is planned


@dataclass(frozen=True, slots=True)
class Readers:
    """Looks up what a link belongs to. Raises NotFoundError where that was erased."""

    services: Services

    def by_secret(self, secret: str) -> Subscriber:
        with reading(self.services.engine) as conn:
            return _known(subscribers.by_secret(conn, secret))

    def by_id(self, subscriber_id: int) -> Subscriber:
        with reading(self.services.engine) as conn:
            return _known(subscribers.by_id(conn, subscriber_id))

    def wishes(self, subscriber: Subscriber) -> Wishes:
        with reading(self.services.engine) as conn:
            followed = topics.followed_by(conn, [subscriber.id])[subscriber.id]
        return wishes(subscriber, followed)

    def digest(self, delivery_id: int) -> str:
        """The mail as it was sent: the same papers, order and reasons."""
        services = self.services
        with reading(services.engine) as conn:
            digest = digests.load(conn, [delivery_id]).get(delivery_id)
            subscriber_id = digests.reader_of(conn, delivery_id)
            if digest is None or subscriber_id is None:
                raise NotFoundError("this digest is no longer kept")
            subscriber = _known(subscribers.by_id(conn, subscriber_id))
        site = services.settings.site_url
        links = MailLinks(
            subscribe=f"{site}/subscribe",
            privacy=f"{site}/privacy",
            archive=f"{site}/papers",
            unsubscribe=services.links.unsubscribe(subscriber.secret),
            preferences=services.links.preferences(subscriber.id, _now()),
            view=services.links.digest(delivery_id, _now()),
        )
        _, html, _ = services.renderer.page(digest, links)
        return html


def wishes(subscriber: Subscriber, followed: Sequence[Subscription]) -> Wishes:
    due_at = subscriber.next_slot_at
    return Wishes(
        address=masked(subscriber.email),
        topics=tuple(subscription.label for subscription in followed),
        rhythm=rhythm(subscriber),
        max_papers=subscriber.max_papers,
        next_digest=words.full_day(slots.local_date(due_at, subscriber.schedule)) if due_at else "",
    )


def rhythm(subscriber: Subscriber) -> str:
    """ "Every Monday at 08:00, Europe/Paris time"."""
    schedule = subscriber.schedule
    days = {
        Frequency.DAILY: "Every day",
        Frequency.WEEKDAYS: "Monday to Friday",
        Frequency.WEEKLY: f"Every {schedule.weekday.name.capitalize()}",
    }
    return f"{days[schedule.frequency]} at {schedule.at:%H:%M}, {schedule.timezone} time"


def masked(email: str) -> str:
    """Enough of an address for its owner to know it: "a•••@example.org"."""
    name, _, domain = email.rpartition("@")
    return f"{name[:1]}•••@{domain}"


def _known(subscriber: Subscriber | None) -> Subscriber:
    if subscriber is None:
        raise NotFoundError("this subscription does not exist any more")
    return subscriber


def _now() -> datetime:
    return datetime.now(UTC)
