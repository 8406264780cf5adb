"""Preferences page: topics, schedule and pauses, with the next digest and skipped editions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache
from typing import Final

from fastapi import APIRouter
from starlette.background import BackgroundTask
from starlette.responses import HTMLResponse, RedirectResponse, Response

from pipeline import editions, signup, slots
from pipeline.bootstrap import Services
from pipeline.domain import Frequency, Subscriber, SubscriberStatus
from pipeline.errors import ConflictError, LimitError, QueryError
from pipeline.matching.query import canonical
from pipeline.rendering import formatting, views
from pipeline.rendering.views import Card
from pipeline.signup import Preferences
from pipeline.web.account.common import (
    LOOK,
    CurrentChoices,
    Sent,
    current_choices,
    next_digest,
    now,
)
from pipeline.web.account.text import FATES, SKIPS, masked
from pipeline.web.subscribe import form_input, time_zones
from pipeline.web.subscribe.curated import CURATED, GROUPS, parsed
from pipeline.web.subscribe.form_input import FieldError, FormInput
from pipeline.web.templating import Pages

ROOM: Final = views.Room(abstract=0, phrases=3, links=1)
LONGEST_PAUSE: Final = timedelta(days=366)
DONE: Final = {
    "saved": "Saved. It counts from your next digest on.",
    "paused": "Paused. Nothing comes until then; after it, a digest looks back a few days.",
    "resumed": "Welcome back. The next digest looks back a few days.",
    "mailed": "A link to your records is on its way to your address. It works for a day.",
}


@dataclass(frozen=True, slots=True)
class Outlook:
    """Preview of the next digest, as if it were compiled now."""

    cards: tuple[Card, ...]
    more: int
    is_ready: bool = True  # False while a topic is not matched yet


def router(services: Services, pages: Pages, wake_editions: Callable[[], None]) -> APIRouter:
    routes = APIRouter(prefix="/preferences/{token}")
    engine = services.engine

    @routes.api_route("", methods=LOOK)
    def show(token: str, done: str = "") -> Response:
        return _page(token, done=DONE.get(done, ""))

    @routes.post("")
    def change(token: str, form: Sent) -> Response:
        subscriber_id = _whose(token)
        typed = form_input.parse(form)
        wrong = mistakes(typed)
        if wrong:
            return _page(token, typed=typed, wrong=wrong)
        try:
            signup.change(
                engine, subscriber_id, form_input.choices(typed), now(), seen=form.get("seen")
            )
        except ConflictError:
            return _page(token, typed=typed, is_stale=True)
        except LimitError as error:
            refused = _page(token, typed=typed, wrong=(FieldError("topics", TOO_MANY_NEW),))
            refused.status_code = 429
            wait = (error.retry_at - now()).total_seconds()
            refused.headers["Retry-After"] = str(max(1, int(wait)))
            return refused
        answer = _back(token, "saved")
        answer.background = BackgroundTask(wake_editions)  # matches new topics
        return answer

    @routes.post("/pause")
    def pause(token: str, form: Sent) -> Response:
        subscriber = signup.choices_of(engine, _whose(token)).subscriber
        day = read_pause(form.get("until", ""), slots.local_date(now(), subscriber.schedule))
        if day is None:
            return _page(token, pause_error=WRONG_PAUSE)
        return _pause(token, day, form)

    @routes.post("/resume")
    def resume(token: str, form: Sent) -> Response:
        return _pause(token, None, form)

    def _pause(token: str, day: date | None, form: Sent) -> Response:
        try:
            signup.pause(engine, _whose(token), day, now(), seen=form.get("seen"))
        except ConflictError:
            return _page(token, pause_error=PAUSED_MEANWHILE, status=409)
        return _back(token, "paused" if day else "resumed")

    @routes.post("/data")
    def mail_data_link(token: str) -> Response:
        signup.ask_data_link(engine, _whose(token), now())
        return _back(token, "mailed")

    def _whose(token: str) -> int:
        return services.links.read_preferences(token, now())

    def _back(token: str, done: str) -> Response:
        """Redirect to the page (303), so that a reload does not submit the form again."""
        return RedirectResponse(f"/preferences/{token}?done={done}", 303)

    def _page(
        token: str,
        *,
        done: str = "",
        typed: FormInput | None = None,
        wrong: tuple[FieldError, ...] = (),
        pause_error: str = "",
        is_stale: bool = False,
        status: int = 422,
    ) -> HTMLResponse:
        known = signup.choices_of(engine, _whose(token))
        subscriber = known.subscriber
        pause = signup.pause_of(subscriber, now())
        shown = typed or typed_from(known)
        is_wrong = bool(pause_error or wrong or is_stale)
        return pages.show(
            "preferences.html",
            status=409 if is_stale else status if is_wrong else 200,
            token=token,
            done=done,
            seen=known.version,
            saved_meanwhile=_chosen(known) if is_stale else None,
            typed=shown,
            mistakes=wrong,
            groups=GROUPS,
            curated=len(CURATED),
            hours=form_input.HOURS,
            rhythms=form_input.RHYTHMS,
            sizes=form_input.sizes(shown.max_papers),
            breadths=form_input.BREADTHS,
            regions=time_zones.by_region(),
            listed=time_zones.is_listed(shown.timezone),
            pause_error=pause_error,
            first_pause=slots.local_date(now(), subscriber.schedule) + timedelta(days=1),
            address=masked(subscriber.email),
            status_word=subscriber.status.value,
            paused_until=formatting.full_day(pause) if pause else "",
            seen_pause=pause or "",
            next_digest=next_digest(subscriber, now()),
            outlook=None if is_wrong else _outlook(subscriber),
            digests=[
                (formatting.full_day(d.edition_on), services.links.digest(d.delivery_id, now()),
                 FATES[d.status], d.papers)
                for d in known.digests
            ],
            skips=[(formatting.full_day(s.edition_on), SKIPS[s.reason]) for s in known.skips],
        )  # fmt: skip

    def _outlook(subscriber: Subscriber) -> Outlook | None:
        """Return the next digest without matching a new topic; None if not active."""
        if subscriber.status is not SubscriberStatus.ACTIVE:
            return None
        digest = editions.outlook(engine, subscriber.email, now=now())
        if digest is None:
            return Outlook((), 0, is_ready=False)
        cards = tuple(
            views.card(pick.paper, views.reasons(pick.reasons, ROOM), pages.branding, ROOM)
            for pick in digest.picks
        )
        return Outlook(cards, digest.more)

    return routes


# --- Form (pure) --------------------------------------------------------------------------------

TOO_MANY_NEW = (
    "You have added very many topics today, so nothing was changed. Please try again tomorrow."
)
PAUSED_MEANWHILE = (
    "Your pause was changed in another window, and is shown here as it is now. Please decide again."
)
WRONG_PAUSE = "Please give a day after today, at most a year from now."


def typed_from(known: Preferences) -> FormInput:
    """Return the form with the stored choices: curated topics as slugs, all others as queries."""
    schedule = known.subscriber.schedule
    rhythm = schedule.frequency.value
    if schedule.frequency is Frequency.WEEKLY:
        rhythm = f"{rhythm}-{schedule.weekday.name.lower()}"
    slugs = slugs_by_query()
    own = [_line(*topic) for topic in known.topics if topic[0] not in slugs]
    return FormInput(
        email=known.subscriber.email,
        slugs=tuple(slugs[query] for query, _ in known.topics if query in slugs),
        queries="\n".join(own),
        hour=str(schedule.at.hour),
        timezone=schedule.timezone,
        rhythm=rhythm,
        max_papers=str(known.subscriber.max_papers),
        breadth=form_input.breadth_value(known.subscriber.breadth),
    )


def _chosen(known: Preferences) -> CurrentChoices:
    subscriber = known.subscriber
    labels = [label for _, label in known.topics]
    return current_choices(
        subscriber.email, labels, subscriber.schedule, subscriber.max_papers, subscriber.breadth
    )


def _line(query: str, label: str) -> str:
    """Return the label of a topic if it still parses to the stored query, else the query."""
    try:
        return label if canonical(label) == query else query
    except QueryError:
        return query


@cache
def slugs_by_query() -> Mapping[str, str]:
    """Return the slugs of the curated topics by canonical query; cached for the process."""
    return {parsed(topic.slug).text: topic.slug for topic in CURATED}


def mistakes(typed: FormInput) -> tuple[FieldError, ...]:
    """Validate the form; errors of the address are dropped, because it has no such field."""
    return tuple(wrong for wrong in form_input.validate(typed) if wrong.field != "email")


def read_pause(until: str, today: date) -> date | None:
    """Parse an ISO date after `today`, at most `LONGEST_PAUSE` later; None if it is invalid."""
    try:
        day = date.fromisoformat(until)
    except ValueError:
        return None
    return day if today < day <= today + LONGEST_PAUSE else None
