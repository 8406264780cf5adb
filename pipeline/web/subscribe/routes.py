"""Sign-up form, with a preview of the digest that needs no email address."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache, partial
from hashlib import sha256
from typing import Annotated, Final

from fastapi import APIRouter, Query
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response

from pipeline import signup
from pipeline.errors import LimitError
from pipeline.rendering import formatting
from pipeline.translations import gettext, gettext_noop, ngettext
from pipeline.web import static_files
from pipeline.web.dependencies import (
    READ,
    AuthorLookup,
    ClientIP,
    CPUBudget,
    Form,
    Pages,
    RecentPapers,
    Services,
)
from pipeline.web.subscribe import form_input
from pipeline.web.subscribe.form_input import FieldError, FormInput
from pipeline.web.subscribe.preview import SignupPreview, charged_preview
from pipeline.web.subscribe.start import PaperList, read_list, read_papers

A_DAY: Final = {"Cache-Control": "public, max-age=86400"}
PERSONAL: Final = {"Cache-Control": "no-store", "X-Robots-Tag": "noindex, nofollow"}
TRAP: Final = "homepage"  # honeypot: a hidden field that only bots fill in
TOPICS: Final = frozenset({"topics", "queries"})  # fields that are validated for a preview


router = APIRouter()


@router.api_route("/subscribe", methods=READ)
def show_form(
    request: Request,
    services: Services,
    pages: Pages,
    recent: RecentPapers,
    budget: CPUBudget,
    topic: Annotated[list[str], Query()] = [],  # noqa: B006
) -> Response:
    """Show the form; with a preview if the index was used before and the rate limit allows."""
    values = form_input.prefilled(topic, services.settings.max_papers)
    shows_preview = recent.is_ready and budget.allows(request)
    preview = (
        charged_preview(request, values, services, pages, recent, budget) if shows_preview else None
    )
    answer = _page(pages, recent, values, preview=preview)
    if recent.is_ready:
        answer.background = BackgroundTask(recent.count_topics)
    return answer


@router.post("/subscribe")
def subscribe(
    request: Request,
    form: Form,
    ip: ClientIP,
    services: Services,
    pages: Pages,
    recent: RecentPapers,
    budget: CPUBudget,
    authors: AuthorLookup,
) -> Response:
    """Request a subscription; without JavaScript also show the page with a preview.

    A suggestion that is adopted replaces its topic in the form; nothing is stored.
    """
    values = form_input.adopt(form_input.parse(form), form.get("adopt", ""))
    if form.get("do") == "preview" or "adopt" in form:
        if not budget.allows(request):
            return _busy(pages, recent, values)
        errors = tuple(error for error in form_input.validate(values) if error.field in TOPICS)
        listed = _list_of(values, authors, ip, is_wanted="adopt" not in form)
        preview = charged_preview(request, values, services, pages, recent, budget, listed)
        return _page(pages, recent, values, errors, preview=preview, status=422 if errors else 200)
    if form.get(TRAP):
        return _sent(pages, values)
    if errors := form_input.validate(values):
        return _page(pages, recent, values, errors, status=422)
    choices = form_input.choices(values)
    if values.papers:
        if not budget.allows(request):
            return _busy(pages, recent, values)
        with budget.charged(request):
            papers = read_list(values.papers, authors, ip, is_wanted=True)
            if papers.problems:
                problems = [FieldError("papers", text) for text in papers.problems]
                return _page(pages, recent, values, problems, status=422)
            own = read_papers(papers, services, recent)
        choices = replace(choices, papers=own.requested)
    now = datetime.now(UTC)
    try:
        signup.request_subscription(
            services.engine,
            values.email,
            choices,
            ip=ip,
            suppression_key=services.suppression_key,
            now=now,
            limits=services.signup_limits,
        )
    except LimitError as error:
        answer = _page(pages, recent, values, (FieldError("", _too_often(error, now)),), status=429)
        answer.headers["Retry-After"] = str(_seconds_to(error, now))
        return answer
    return _sent(pages, values)


@router.post("/subscribe/preview")
def show_preview(
    request: Request,
    form: Form,
    ip: ClientIP,
    services: Services,
    pages: Pages,
    recent: RecentPapers,
    budget: CPUBudget,
    authors: AuthorLookup,
) -> Response:
    """Return the preview as an HTML fragment for subscribe.js, which sends no address.

    It comes while a reader types, so no author is looked up.
    """
    if not budget.allows(request):
        return _private(pages.show("subscribe_busy.html", status=429, is_large=False))
    values = form_input.parse(form)
    listed = _list_of(values, authors, ip, is_wanted=False)
    preview = charged_preview(request, values, services, pages, recent, budget, listed)
    return _private(pages.show("subscribe_answer.html", tried=preview))


@router.api_route("/subscribe.css", methods=READ)
def show_stylesheet() -> Response:
    style = static_files.read("subscribe.css")
    return Response(style, media_type="text/css", headers=A_DAY)


@router.api_route("/subscribe.js", methods=READ)
def show_script() -> Response:
    script = static_files.read("subscribe.js")
    return Response(script, media_type="text/javascript", headers=A_DAY)


def _list_of(
    values: FormInput, authors: AuthorLookup, ip: str | None, *, is_wanted: bool
) -> Callable[[], PaperList] | None:
    """Return a function that reads the list of papers in a form; None if there is none."""
    if not values.papers:
        return None
    return partial(read_list, values.papers, authors, ip, is_wanted=is_wanted)


@cache
def _version() -> str:
    """Return a hash of the style sheet and the script, for their URLs; cached for the process."""
    files = (static_files.read(name) for name in ("subscribe.css", "subscribe.js"))
    return sha256(b"".join(files)).hexdigest()[:8]


def _page(
    pages: Pages,
    recent: RecentPapers,
    values: FormInput,
    errors: Sequence[FieldError] = (),
    *,
    preview: SignupPreview | None = None,
    status: int = 200,
) -> Response:
    answer = pages.show(
        "subscribe.html",
        status=status,
        version=_version(),
        mistakes=errors,
        **form_input.options(values, recent.silent_topics),
        tried=preview,
        trap=TRAP,
        longest=form_input.LONGEST_QUERY,
    )
    return _private(answer) if values.email or errors else answer


def _busy(pages: Pages, recent: RecentPapers, values: FormInput) -> Response:
    return _page(pages, recent, values, (FieldError("", gettext(TOO_MANY_PREVIEWS)),), status=429)


def _sent(pages: Pages, values: FormInput) -> Response:
    """Return the same page for any address, also when no mail was queued."""
    topics = formatting.listed([topic.label for topic in form_input.topic_entries(values)])
    answer = pages.show("subscribe_sent.html", version=_version(), typed=values, topics=topics)
    return _private(answer)


TOO_MANY_PREVIEWS: Final = gettext_noop("Too many previews. Try again in a minute.")


def _too_often(error: LimitError, now: datetime) -> str:
    minutes = -(-_seconds_to(error, now) // 60)
    if minutes > 90:
        return ngettext(
            "Too many confirmation emails were requested from your network. Nothing was sent. "
            "Try again in %(num)s hour.",
            "Too many confirmation emails were requested from your network. Nothing was sent. "
            "Try again in %(num)s hours.",
            round(minutes / 60),
        )
    return ngettext(
        "Too many confirmation emails were requested from your network. Nothing was sent. "
        "Try again in %(num)s minute.",
        "Too many confirmation emails were requested from your network. Nothing was sent. "
        "Try again in %(num)s minutes.",
        minutes,
    )


def _seconds_to(error: LimitError, now: datetime) -> int:
    return max(1, int((error.retry_at - now).total_seconds()))


def _private(answer: Response) -> Response:
    """Forbid caching and indexing of a response."""
    answer.headers.update(PERSONAL)
    return answer
