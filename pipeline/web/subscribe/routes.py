"""Sign-up form, with a preview of the digest that needs no email address."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import Response

from pipeline import signup
from pipeline.bootstrap import Services
from pipeline.domain import Breadth, Frequency
from pipeline.errors import LimitError
from pipeline.rendering import formatting
from pipeline.storage.database import read_only
from pipeline.web import forms
from pipeline.web.client_address import CPUBudget, client_ip
from pipeline.web.forms import Fields
from pipeline.web.papers.recent import RecentPapers
from pipeline.web.papers.search_index import LiveIndex
from pipeline.web.subscribe import curated, form_input, time_zones
from pipeline.web.subscribe.form_input import FieldError, FormInput
from pipeline.web.subscribe.preview import SignupPreview, Wanted, signup_preview
from pipeline.web.templating import Pages

STATIC: Final = Path(__file__).parents[1] / "static"
A_DAY: Final = {"Cache-Control": "public, max-age=86400"}
PERSONAL: Final = {"Cache-Control": "no-store", "X-Robots-Tag": "noindex, nofollow"}
TRAP: Final = "homepage"  # honeypot: a hidden field that only bots fill in
TOPICS: Final = frozenset({"topics", "queries"})  # fields that are validated for a preview

Posted = Annotated[Fields, Depends(forms.fields)]


def router(services: Services, pages: Pages, live_index: LiveIndex, meter: CPUBudget) -> APIRouter:
    """Return the routes; `meter` limits previews, sign-ups have the limits of `signup.ask`."""
    routes = APIRouter()
    settings = services.settings
    recent = RecentPapers(live_index, services.engine)
    assets = {name: (STATIC / name).read_bytes() for name in ("subscribe.css", "subscribe.js")}
    version = sha256(b"".join(assets.values())).hexdigest()[:8]

    @routes.api_route("/subscribe", methods=["GET", "HEAD"])
    def form(request: Request, topic: Annotated[list[str], Query()] = []) -> Response:  # noqa: B006
        """Show the form; with a preview if the index was used before and the rate limit allows."""
        typed = form_input.prefilled(topic, settings.max_papers)
        shows_preview = recent.is_ready and meter.allows(request)
        return _page(typed, tried=_tried(request, typed) if shows_preview else None)

    @routes.post("/subscribe")
    def send(request: Request, fields: Posted) -> Response:
        typed = form_input.parse(fields)
        if fields.get("do") == "preview":
            return _previewed(request, typed)
        if fields.get(TRAP):
            return _sent(typed)
        if mistakes := form_input.validate(typed):
            return _page(typed, mistakes, status=422)
        now = datetime.now(UTC)
        try:
            signup.request_subscription(
                services.engine,
                typed.email,
                form_input.choices(typed),
                ip=_ip(request),
                suppression_key=services.suppression_key,
                now=now,
                limits=services.signup_limits,
            )
        except LimitError as error:
            answer = _page(typed, (FieldError("", _too_often(error, now)),), status=429)
            answer.headers["Retry-After"] = str(_seconds_to(error, now))
            return answer
        return _sent(typed)

    @routes.post("/subscribe/preview")
    def preview(request: Request, fields: Posted) -> Response:
        """Return the preview as an HTML fragment for subscribe.js, which sends no address."""
        if not meter.allows(request):
            return _private(pages.show("subscribe_busy.html", status=429))
        tried = _tried(request, form_input.parse(fields))
        return _private(pages.show("subscribe_preview.html", tried=tried))

    @routes.api_route("/subscribe.css", methods=["GET", "HEAD"])
    def style() -> Response:
        return Response(assets["subscribe.css"], media_type="text/css", headers=A_DAY)

    @routes.api_route("/subscribe.js", methods=["GET", "HEAD"])
    def script() -> Response:
        return Response(assets["subscribe.js"], media_type="text/javascript", headers=A_DAY)

    def _previewed(request: Request, typed: FormInput) -> Response:
        """Return the whole page with the preview, for browsers without JavaScript."""
        about_topics = tuple(m for m in form_input.validate(typed) if m.field in TOPICS)
        if not meter.allows(request):
            return _page(typed, (FieldError("", TOO_MANY_PREVIEWS),), status=429)
        tried, status = _tried(request, typed), 422 if about_topics else 200
        return _page(typed, about_topics, tried=tried, status=status)

    def _ip(request: Request) -> str | None:
        return client_ip(request, settings.trusted_proxies)

    def _tried(request: Request, typed: FormInput) -> SignupPreview | None:
        wanted = Wanted(
            form_input.size(typed.max_papers) or settings.max_papers,
            form_input.breadth(typed.breadth) or Breadth.BALANCED,
            weekly=typed.rhythm.startswith(Frequency.WEEKLY),
        )
        with meter.charged(request):
            asked = form_input.topic_entries(typed)
            looked_at = recent.get()
            with read_only(services.engine) as conn:
                return signup_preview(looked_at, conn, asked, wanted, pages.branding)

    def _page(
        typed: FormInput,
        mistakes: Sequence[FieldError] = (),
        *,
        tried: SignupPreview | None = None,
        status: int = 200,
    ) -> Response:
        answer = pages.show(
            "subscribe.html",
            status=status,
            version=version,
            typed=typed,
            mistakes=mistakes,
            tried=tried,
            groups=curated.in_use().groups,
            curated=len(curated.in_use().topics),
            hours=form_input.HOURS,
            rhythms=form_input.RHYTHMS,
            sizes=form_input.sizes(typed.max_papers),
            breadths=form_input.BREADTHS,
            regions=time_zones.by_region(),
            listed=time_zones.is_listed(typed.timezone),
            trap=TRAP,
            longest=form_input.LONGEST_QUERY,
        )
        return _private(answer) if typed.email or mistakes else answer

    def _sent(typed: FormInput) -> Response:
        """Return the same page for any address, also when no mail was queued."""
        topics = formatting.listed([topic.label for topic in form_input.topic_entries(typed)])
        answer = pages.show("subscribe_sent.html", version=version, typed=typed, topics=topics)
        return _private(answer)

    return routes


TOO_MANY_PREVIEWS: Final = "Too many previews in one minute. Wait a moment, then try again."


def _too_often(error: LimitError, now: datetime) -> str:
    minutes = -(-_seconds_to(error, now) // 60)
    wait = formatting.count(minutes, "minute", "minutes")
    if minutes > 90:
        wait = formatting.count(round(minutes / 60), "hour", "hours")
    return (
        "Nothing was sent: your network has asked for many confirmation mails, and we keep "
        f"inboxes safe from floods. Press “Subscribe” again in {wait}."
    )


def _seconds_to(error: LimitError, now: datetime) -> int:
    return max(1, int((error.retry_at - now).total_seconds()))


def _private(answer: Response) -> Response:
    """Forbid caching and indexing of a response."""
    answer.headers.update(PERSONAL)
    return answer
