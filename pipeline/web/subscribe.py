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
from pipeline.rendering import words
from pipeline.storage.database import reading
from pipeline.web import forms, wishing, zones
from pipeline.web.clients import Meter, client_ip
from pipeline.web.curated import CURATED, GROUPS
from pipeline.web.forms import Fields
from pipeline.web.library import Library
from pipeline.web.pages import Pages
from pipeline.web.recent import RecentPapers
from pipeline.web.trial import Trial, Wanted, trial
from pipeline.web.wishing import Mistake, Typed

STATIC: Final = Path(__file__).parent / "static"
A_DAY: Final = {"Cache-Control": "public, max-age=86400"}
PERSONAL: Final = {"Cache-Control": "no-store", "X-Robots-Tag": "noindex, nofollow"}
TRAP: Final = "homepage"  # honeypot: a hidden field that only bots fill in
TOPICS: Final = frozenset({"topics", "queries"})  # fields that are validated for a preview

Posted = Annotated[Fields, Depends(forms.fields)]


def router(services: Services, pages: Pages, library: Library, meter: Meter) -> APIRouter:
    """Return the routes; `meter` limits previews, sign-ups have the limits of `signup.ask`."""
    routes = APIRouter()
    settings = services.settings
    recent = RecentPapers(library, services.engine)
    assets = {name: (STATIC / name).read_bytes() for name in ("subscribe.css", "subscribe.js")}
    version = sha256(b"".join(assets.values())).hexdigest()[:8]

    @routes.api_route("/subscribe", methods=["GET", "HEAD"])
    def form(request: Request, topic: Annotated[list[str], Query()] = []) -> Response:  # noqa: B006
        """Show the form; with a preview if the index was used before and the rate limit allows."""
        typed = wishing.prefilled(topic, settings.max_papers)
        shows_preview = recent.is_ready and meter.allows(request)
        return _page(typed, tried=_tried(request, typed) if shows_preview else None)

    @routes.post("/subscribe")
    def send(request: Request, fields: Posted) -> Response:
        typed = wishing.read(fields)
        if fields.get("do") == "preview":
            return _previewed(request, typed)
        if fields.get(TRAP):
            return _sent(typed)
        if mistakes := wishing.mistakes(typed):
            return _page(typed, mistakes, status=422)
        now = datetime.now(UTC)
        try:
            signup.ask(
                services.engine,
                typed.email,
                wishing.wishes(typed),
                ip=_ip(request),
                suppression_key=services.suppression_key,
                now=now,
                limits=services.signup_limits,
            )
        except LimitError as error:
            answer = _page(typed, (Mistake("", _too_often(error, now)),), status=429)
            answer.headers["Retry-After"] = str(_seconds_to(error, now))
            return answer
        return _sent(typed)

    @routes.post("/subscribe/preview")
    def preview(request: Request, fields: Posted) -> Response:
        """Return the preview as an HTML fragment for subscribe.js, which sends no address."""
        if not meter.allows(request):
            return _private(pages.show("subscribe_busy.html", status=429))
        tried = _tried(request, wishing.read(fields))
        return _private(pages.show("subscribe_preview.html", tried=tried))

    @routes.api_route("/subscribe.css", methods=["GET", "HEAD"])
    def style() -> Response:
        return Response(assets["subscribe.css"], media_type="text/css", headers=A_DAY)

    @routes.api_route("/subscribe.js", methods=["GET", "HEAD"])
    def script() -> Response:
        return Response(assets["subscribe.js"], media_type="text/javascript", headers=A_DAY)

    def _previewed(request: Request, typed: Typed) -> Response:
        """Return the whole page with the preview, for browsers without JavaScript."""
        about_topics = tuple(m for m in wishing.mistakes(typed) if m.field in TOPICS)
        if not meter.allows(request):
            return _page(typed, (Mistake("", TOO_MANY_PREVIEWS),), status=429)
        tried, status = _tried(request, typed), 422 if about_topics else 200
        return _page(typed, about_topics, tried=tried, status=status)

    def _ip(request: Request) -> str | None:
        return client_ip(request, settings.trusted_proxies)

    def _tried(request: Request, typed: Typed) -> Trial | None:
        wanted = Wanted(
            wishing.size(typed.max_papers) or settings.max_papers,
            wishing.breadth(typed.breadth) or Breadth.BALANCED,
            weekly=typed.rhythm.startswith(Frequency.WEEKLY),
        )
        with meter.charged(request):
            asked = wishing.asked(typed)
            looked_at = recent.get()
            with reading(services.engine) as conn:
                return trial(looked_at, conn, asked, wanted, pages.house)

    def _page(
        typed: Typed,
        mistakes: Sequence[Mistake] = (),
        *,
        tried: Trial | None = None,
        status: int = 200,
    ) -> Response:
        answer = pages.show(
            "subscribe.html",
            status=status,
            version=version,
            typed=typed,
            mistakes=mistakes,
            tried=tried,
            groups=GROUPS,
            curated=len(CURATED),
            hours=wishing.HOURS,
            rhythms=wishing.RHYTHMS,
            sizes=wishing.sizes(typed.max_papers),
            breadths=wishing.BREADTHS,
            regions=zones.by_region(),
            listed=zones.is_listed(typed.timezone),
            trap=TRAP,
            longest=wishing.LONGEST_QUERY,
        )
        return _private(answer) if typed.email or mistakes else answer

    def _sent(typed: Typed) -> Response:
        """Return the same page for any address, also when no mail was queued."""
        topics = words.listed([topic.label for topic in wishing.asked(typed)])
        answer = pages.show("subscribe_sent.html", version=version, typed=typed, topics=topics)
        return _private(answer)

    return routes


TOO_MANY_PREVIEWS: Final = "Too many previews in one minute. Wait a moment, then try again."


def _too_often(error: LimitError, now: datetime) -> str:
    minutes = -(-_seconds_to(error, now) // 60)
    wait = words.count(minutes, "minute", "minutes")
    if minutes > 90:
        wait = words.count(round(minutes / 60), "hour", "hours")
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
