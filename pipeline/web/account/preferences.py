"""Preferences page: topics, schedule and pauses, with the next digest and skipped editions."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import partial
from typing import Annotated, Final

from fastapi import APIRouter, Query
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from pipeline import editions, signup, slots
from pipeline.domain import Frequency, Subscriber, SubscriberStatus
from pipeline.errors import ConflictError, LimitError, QueryError
from pipeline.matching import suggestions
from pipeline.matching.query import TopicQuery, author_topic, canonical
from pipeline.rendering import formatting, views
from pipeline.rendering.views import Card
from pipeline.signup import Preferences
from pipeline.translations import gettext, gettext_noop
from pipeline.web import static_files
from pipeline.web.account import reactions
from pipeline.web.account.text import FATES, SKIPS, choices_of, masked, next_digest, now
from pipeline.web.dependencies import (
    READ,
    CPUBudget,
    Form,
    LiveIndex,
    Pages,
    RecentPapers,
    Services,
    WakeEditions,
)
from pipeline.web.papers import authors
from pipeline.web.papers.views import author_path
from pipeline.web.subscribe import curated, form_input
from pipeline.web.subscribe.form_input import (
    LONGEST_QUERY,
    FieldError,
    FollowedTopic,
    FormInput,
)
from pipeline.web.subscribe.preview import SignupPreview, charged_preview

ROOM: Final = views.Room(abstract=0, phrases=3, links=1)
AN_HOUR: Final = {"Cache-Control": "public, max-age=3600"}
LONGEST_LABEL: Final = 2 * LONGEST_QUERY
LONGEST_PAUSE: Final = timedelta(days=366)
DONE: Final = {
    "saved": gettext_noop("Saved. The changes apply from your next digest."),
    "paused": gettext_noop("Paused. The first digest after the pause covers a few days."),
    "resumed": gettext_noop("Resumed. The next digest covers a few days."),
    "kept": gettext_noop("Thank you. Your digests continue as before."),
    "mailed": gettext_noop(
        "A link to your data is on its way to your address. It works for a day."
    ),
}


@dataclass(frozen=True, slots=True)
class Outlook:
    """Preview of the next digest, as if it were compiled now."""

    cards: tuple[Card, ...]
    more: int
    near_misses: bool = False
    is_ready: bool = True  # False while a topic is not matched yet


router = APIRouter()


@router.api_route("/preferences.css", methods=READ)
def show_stylesheet() -> Response:
    style = static_files.read("preferences.css")
    return Response(style, media_type="text/css", headers=AN_HOUR)


@router.api_route("/preferences/{token}", methods=READ)
def show_preferences(
    request: Request,
    token: str,
    services: Services,
    pages: Pages,
    recent: RecentPapers,
    budget: CPUBudget,
    done: str = "",
) -> Response:
    """Show the form; with a preview if the index was used before and the rate limit allows."""
    shows_preview = recent.is_ready and budget.allows(request)
    preview = partial(
        charged_preview,
        request,
        services=services,
        pages=pages,
        recent=recent,
        budget=budget,
    )
    return _page(
        services,
        pages,
        token,
        done=gettext(DONE[done]) if done in DONE else "",
        silent=recent.silent_topics,
        preview=preview if shows_preview else None,
    )


@router.post("/preferences/{token}")
def change_preferences(
    token: str,
    form: Form,
    services: Services,
    pages: Pages,
    wake_editions: WakeEditions,
) -> Response:
    subscriber_id = _subscriber_id(services, token)
    values = form_input.adopt(form_input.parse(form), form.get("adopt", ""))
    if errors := validate(values):
        return _page(services, pages, token, values=values, errors=errors)
    choices = form_input.choices(values)
    try:
        signup.change(services.engine, subscriber_id, choices, now(), seen=form.get("seen"))
    except ConflictError:
        return _page(services, pages, token, values=values, is_stale=True)
    except LimitError as error:
        return _too_many(services, pages, token, error, values)
    answer = _redirect(token, "saved")
    answer.background = BackgroundTask(wake_editions)  # matches new topics
    return answer


def _too_many(
    services: Services,
    pages: Pages,
    token: str,
    error: LimitError,
    values: FormInput | None = None,
) -> Response:
    errors = (FieldError("topics", gettext(TOO_MANY_NEW)),)
    answer = _page(services, pages, token, values=values, errors=errors, status=429)
    wait = (error.retry_at - now()).total_seconds()
    answer.headers["Retry-After"] = str(max(1, int(wait)))
    return answer


@router.api_route("/preferences/{token}/adopt", methods=READ)
def show_suggestion(
    token: str,
    services: Services,
    pages: Pages,
    topic: Annotated[str, Query(max_length=LONGEST_LABEL)] = "",
    query: Annotated[str, Query(max_length=LONGEST_QUERY)] = "",
) -> Response:
    """Show a suggestion from a mail: a topic, by its label, and the query that would replace it.

    If the suggestion does not fit the topics any more, redirect to all of them.
    """
    known = signup.choices_of(services.engine, _subscriber_id(services, token))
    old = next((query for query, label in known.topics if label == topic), None)
    new = suggestions.parsed(query)
    is_active = known.subscriber.status is SubscriberStatus.ACTIVE
    if old is None or new is None or new.text in dict(known.topics) or not is_active:
        return RedirectResponse(f"/preferences/{token}", 303)
    return pages.show("adopt.html", token=token, topic=topic, old=old, query=query, personal=True)


@router.post("/preferences/{token}/adopt")
def adopt_suggestion(
    token: str, form: Form, services: Services, pages: Pages, wake_editions: WakeEditions
) -> Response:
    """Replace a topic by a suggested query; all other preferences stay."""
    subscriber_id = _subscriber_id(services, token)
    known = dict(signup.choices_of(services.engine, subscriber_id).topics)
    old, new = form.get("old", ""), suggestions.parsed(form.get("query", ""))
    if old not in known or new is None:
        return RedirectResponse(f"/preferences/{token}", 303)
    label = replace(_followed(old, known[old]), query=new.typed).label
    try:
        signup.replace_topic(services.engine, subscriber_id, old, new, label, now())
    except ConflictError:
        return RedirectResponse(f"/preferences/{token}", 303)
    except LimitError as error:
        return _too_many(services, pages, token, error)
    answer = _redirect(token, "saved")
    answer.background = BackgroundTask(wake_editions)  # matches the new topic
    return answer


@router.api_route("/preferences/{token}/keep", methods=READ)
def show_keep(token: str, services: Services, pages: Pages) -> Response:
    """Show the button that answers the question of a mail whether to go on."""
    subscriber = signup.choices_of(services.engine, _subscriber_id(services, token)).subscriber
    if subscriber.status is not SubscriberStatus.ACTIVE:
        return RedirectResponse(f"/preferences/{token}", 303)
    return pages.show(
        "keep.html",
        token=token,
        address=masked(subscriber.email),
        is_paused=signup.pause_reason(subscriber) is not None,
    )


@router.post("/preferences/{token}/keep")
def keep(token: str, services: Services) -> Response:
    """Note that the reader wants to go on, and resume the digests if that was the cause."""
    subscriber_id = _subscriber_id(services, token)
    before = signup.choices_of(services.engine, subscriber_id).subscriber
    if before.status is not SubscriberStatus.ACTIVE:
        return RedirectResponse(f"/preferences/{token}", 303)
    signup.keep(services.engine, subscriber_id, now())
    return _redirect(token, "resumed" if signup.pause_reason(before) else "kept")


@router.api_route("/preferences/{token}/follow", methods=READ)
def show_author(
    request: Request,
    token: str,
    services: Services,
    pages: Pages,
    live_index: LiveIndex,
    budget: CPUBudget,
    author: Annotated[str, Query(max_length=LONGEST_QUERY)] = "",
) -> Response:
    """Show an author to follow, and how many papers a month the archive has of them.

    Links in mails and lists have the form `/preferences/{token}/follow?author=Ada%20Lovelace`: the
    name in any form, URL-quoted. If it is no name, redirect to all topics.
    """
    known = signup.choices_of(services.engine, _subscriber_id(services, token))
    topic = _author_topic(author)
    if topic is None or known.subscriber.status is not SubscriberStatus.ACTIVE:
        return RedirectResponse(f"/preferences/{token}", 303)
    pace, search_index = "", live_index.ready()
    if search_index is not None and budget.allows(request):
        with budget.charged(request):
            pace = authors.pace_of(search_index, topic)
    return _follow_page(pages, token, known, author, topic, pace=pace)


@router.post("/preferences/{token}/follow")
def follow_author(
    token: str, form: Form, services: Services, pages: Pages, wake_editions: WakeEditions
) -> Response:
    """Add an author to the topics; all other preferences stay. Repeating it changes nothing."""
    subscriber_id = _subscriber_id(services, token)
    known = signup.choices_of(services.engine, subscriber_id)
    author = form.get("author", "")
    topic = _author_topic(author)
    if topic is None or known.subscriber.status is not SubscriberStatus.ACTIVE:
        return RedirectResponse(f"/preferences/{token}", 303)
    if _no_room(known, topic):
        return _follow_page(pages, token, known, author, topic, status=422)
    try:
        signup.add_topic(services.engine, subscriber_id, topic, now())
    except LimitError as error:
        return _too_many(services, pages, token, error)
    answer = _redirect(token, "saved")
    answer.background = BackgroundTask(wake_editions)  # matches the new topic
    return answer


def _author_topic(name: str) -> TopicQuery | None:
    """Return the topic of an author; None if the name cannot have a page."""
    return author_topic(formatting.clean(name)) if author_path(name) else None


def _follow_page(
    pages: Pages,
    token: str,
    known: Preferences,
    author: str,
    topic: TopicQuery,
    *,
    pace: str = "",
    status: int = 200,
) -> HTMLResponse:
    return pages.show(
        "follow.html",
        status=status,
        token=token,
        author=formatting.clean(author),
        query=topic.typed,
        pace=pace,
        is_followed=topic.text in dict(known.topics),
        no_room=_no_room(known, topic),
        personal=True,
    )


def _no_room(known: Preferences, topic: TopicQuery) -> str:
    """Return the limit that one more topic would exceed; "" if it is followed or there is room."""
    if topic.text in dict(known.topics):
        return ""
    values = stored_values(known)
    more = replace(values, followed=(*values.followed, FollowedTopic(topic.typed)))
    return next((error.text for error in form_input.too_many_topics(more)), "")


@router.post("/preferences/{token}/pause")
def pause(token: str, form: Form, services: Services, pages: Pages) -> Response:
    known = signup.choices_of(services.engine, _subscriber_id(services, token))
    today = slots.local_date(now(), known.subscriber.schedule)
    day = parse_pause(form.get("until", ""), today)
    if day is None:
        return _page(services, pages, token, pause_error=gettext(WRONG_PAUSE))
    return _pause(services, pages, token, day, seen=form.get("seen"))


@router.post("/preferences/{token}/resume")
def resume(token: str, form: Form, services: Services, pages: Pages) -> Response:
    return _pause(services, pages, token, None, seen=form.get("seen"))


@router.post("/preferences/{token}/data")
def mail_data_link(token: str, services: Services) -> Response:
    signup.ask_data_link(services.engine, _subscriber_id(services, token), now())
    return _redirect(token, "mailed")


def _pause(
    services: Services, pages: Pages, token: str, day: date | None, *, seen: str | None
) -> Response:
    """Set the end of the pause; None ends it now."""
    try:
        signup.pause(services.engine, _subscriber_id(services, token), day, now(), seen=seen)
    except ConflictError:
        return _page(services, pages, token, pause_error=gettext(PAUSED_MEANWHILE), status=409)
    return _redirect(token, "paused" if day else "resumed")


def _subscriber_id(services: Services, token: str) -> int:
    return services.links.read_preferences(token, now())


def _redirect(token: str, done: str) -> Response:
    """Redirect to the page (303), so that a reload does not submit the form again."""
    return RedirectResponse(f"/preferences/{token}?done={done}", 303)


def _page(
    services: Services,
    pages: Pages,
    token: str,
    *,
    done: str = "",
    values: FormInput | None = None,
    errors: tuple[FieldError, ...] = (),
    pause_error: str = "",
    is_stale: bool = False,
    silent: Collection[str] = (),
    status: int = 422,
    preview: Callable[[FormInput], SignupPreview | None] | None = None,
) -> HTMLResponse:
    """Return the page with the stored choices, or with the submitted `values`.

    `status` applies if there is an error; `is_stale` means that the choices were saved in another
    window since the form was loaded (409).
    """
    known = signup.choices_of(services.engine, _subscriber_id(services, token))
    subscriber = known.subscriber
    pause = signup.pause_of(subscriber, now())
    values = values or stored_values(known)
    is_wrong = bool(pause_error or errors or is_stale)
    return pages.show(
        "preferences.html",
        status=409 if is_stale else status if is_wrong else 200,
        token=token,
        done=done,
        seen=known.version,
        saved_meanwhile=choices_of(known) if is_stale else None,
        mistakes=errors,
        **form_input.options(values, silent),
        pause_error=pause_error,
        first_pause=slots.local_date(now(), subscriber.schedule) + timedelta(days=1),
        address=masked(subscriber.email),
        status_word=subscriber.status.value,
        paused_until=formatting.full_day(pause) if pause else "",
        is_inactive=signup.pause_reason(subscriber) is not None,
        seen_pause=pause or "",
        next_digest=next_digest(subscriber, now()),
        tried=preview(values) if preview else None,
        outlook=None if is_wrong else _outlook(services, pages, subscriber),
        digests=[
            (formatting.full_day(d.edition_on), services.links.digest(d.delivery_id, now()),
             gettext(FATES[d.status]), d.papers)
            for d in known.digests
        ],
        learned=reactions.shown(signup.interests(services.engine, subscriber.id)),
        skips=[(formatting.full_day(s.edition_on), gettext(SKIPS[s.reason])) for s in known.skips],
    )  # fmt: skip


def _outlook(services: Services, pages: Pages, subscriber: Subscriber) -> Outlook | None:
    """Return the next digest without matching a new topic; None if not active."""
    if subscriber.status is not SubscriberStatus.ACTIVE:
        return None
    digest = editions.outlook(services.engine, subscriber.email, now=now())
    if digest is None:
        return Outlook((), 0, is_ready=False)
    phrases = 0 if digest.near_misses else ROOM.phrases
    cards = tuple(
        views.card(pick.paper, views.reasons(pick.topics, phrases), pages.branding, ROOM)
        for pick in digest.picks
    )
    return Outlook(cards, digest.more, digest.near_misses)


# --- Form (pure) --------------------------------------------------------------------------------

TOO_MANY_NEW = gettext_noop(
    "You have added too many topics today. Nothing was changed. Try again tomorrow."
)
PAUSED_MEANWHILE = gettext_noop(
    "Your pause was changed in another window. This page shows the current pause. Try again."
)
WRONG_PAUSE = gettext_noop("Enter a day after today, at most a year from now.")


def stored_values(known: Preferences) -> FormInput:
    """Return the form with the stored choices."""
    schedule = known.subscriber.schedule
    rhythm = schedule.frequency.value
    if schedule.frequency is Frequency.WEEKLY:
        rhythm = f"{rhythm}-{schedule.weekday.name.lower()}"
    return FormInput(
        email=known.subscriber.email,
        followed=tuple(_followed(*topic) for topic in known.topics),
        hour=str(schedule.at.hour),
        timezone=schedule.timezone,
        rhythm=rhythm,
        max_papers=str(known.subscriber.max_papers),
        breadth=form_input.breadth_value(known.subscriber.breadth),
        near_misses_after=str(known.subscriber.near_misses_after),
    )


def _followed(query: str, label: str) -> FollowedTopic:
    """Return a stored topic; its label is a name unless it is the query, as it was typed."""
    try:
        typed = label if canonical(label) == query else ""
    except QueryError:
        typed = ""
    known = curated.in_use()
    if slug := known.slugs_by_query.get(query):
        topic = known.by_slug[slug]
        return FollowedTopic(topic.query, "" if typed or label == topic.name else label)
    return FollowedTopic(typed or query, "" if typed else label)


def validate(values: FormInput) -> tuple[FieldError, ...]:
    """Validate the form; errors of the address are dropped, because it has no such field."""
    return tuple(error for error in form_input.validate(values) if error.field != "email")


def parse_pause(until: str, today: date) -> date | None:
    """Parse an ISO date after `today`, at most `LONGEST_PAUSE` later; None if it is invalid."""
    try:
        day = date.fromisoformat(until)
    except ValueError:
        return None
    return day if today < day <= today + LONGEST_PAUSE else None
