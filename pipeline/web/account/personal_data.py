"""Personal data: export, change of address and erasure by a mailed link; the privacy page."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Final

from fastapi import APIRouter
from starlette.responses import HTMLResponse, Response

from pipeline import purge, signup
from pipeline.domain import Paper
from pipeline.errors import AddressError
from pipeline.rendering import formatting
from pipeline.storage import bounce_scores, papers
from pipeline.storage.database import read_only
from pipeline.translations import gettext, gettext_noop, ngettext
from pipeline.web.account.text import masked, now
from pipeline.web.dependencies import READ, ClientIP, Form, Pages, Services

WRONG_ADDRESS: Final = gettext_noop("Enter an email address such as name@example.org.")

router = APIRouter()


@router.api_route("/data/{token}", methods=READ)
def show_data(token: str, services: Services, pages: Pages) -> Response:
    return _page(services, pages, token)


@router.post("/data/{token}/export")
def export_data(token: str, services: Services) -> Response:
    records = signup.export(services.engine, _subscriber_id(services, token))
    name = f"{services.settings.site_host}-{now():%Y-%m-%d}.json"
    return Response(
        json.dumps(records, indent=2, ensure_ascii=False),
        media_type="application/json",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


@router.post("/data/{token}/erase")
def erase_subscriber(token: str, form: Form, services: Services, pages: Pages) -> Response:
    """Erase the subscriber; without the field `sure`, show the question first."""
    subscriber_id = _subscriber_id(services, token)
    if form.get("sure") != "yes":
        known = signup.choices_of(services.engine, subscriber_id)
        return pages.show("erase.html", token=token, address=masked(known.subscriber.email))
    signup.erase_by_id(services.engine, subscriber_id, now())
    return pages.show("erased.html")


@router.post("/data/{token}/address")
def request_new_address(
    token: str, form: Form, ip: ClientIP, services: Services, pages: Pages
) -> Response:
    email = form.get("email", "")
    try:
        signup.ask_new_address(
            services.engine,
            _subscriber_id(services, token),
            email,
            ip=ip,
            suppression_key=services.suppression_key,
            now=now(),
            limits=services.signup_limits,
        )
    except AddressError:
        return _page(services, pages, token, status=422, email=email, error=gettext(WRONG_ADDRESS))
    return pages.show("asked.html", address=masked(email.strip()))


@router.api_route("/link", methods=READ)
def show_link_form(pages: Pages) -> Response:
    return _link_form(pages)


@router.api_route("/link/papers/{key:path}", methods=READ)
def show_link_form_for_paper(key: str, services: Services, pages: Pages) -> Response:
    """Show the form for a link to the reader's own page of a paper."""
    paper = _paper(services, key)
    if paper is None:
        return pages.show("no_paper.html", status=404, key=formatting.clean(key))
    return _link_form(pages, paper)


@router.post("/link")
def mail_link(form: Form, ip: ClientIP, services: Services, pages: Pages) -> Response:
    """Return the same page for any address, so that it does not reveal subscribers."""
    email, key = form.get("email", ""), form.get("paper", "")
    try:
        signup.ask_link(
            services.engine,
            email,
            ip=ip,
            suppression_key=services.suppression_key,
            now=now(),
            limits=services.signup_limits,
            paper=key,
        )
    except AddressError:
        paper = _paper(services, key) if key else None
        return _link_form(pages, paper, email, gettext(WRONG_ADDRESS))
    return pages.show("linked.html")


@router.api_route("/privacy", methods=READ)
def show_privacy(services: Services, pages: Pages) -> Response:
    """Show what is stored and for how long; the periods are those of the purge."""
    kept = services.retention
    return pages.show(
        "privacy.html",
        pending=_days(kept.pending),
        ip=_days(kept.ip),
        counters=_days(purge.COUNTERS),
        asked=_days(purge.ASKED),
        digest=_days(kept.digest),
        delivery=_days(kept.delivery),
        event=_days(kept.event),
        strike=_days(bounce_scores.MEMORY),
        mail_server=services.settings.smtp.host,
    )


def _link_form(
    pages: Pages, paper: Paper | None = None, email: str = "", error: str = ""
) -> HTMLResponse:
    """Return the form; with an `error` of the address, its status is 422."""
    return pages.show(
        "link.html",
        status=422 if error else 200,
        email=email,
        error=error,
        paper=paper,
        title=formatting.clean(paper.title) if paper else "",
    )


def _paper(services: Services, key: str) -> Paper | None:
    with read_only(services.engine) as conn:
        return papers.by_key(conn, key)


def _days(span: timedelta) -> str:
    return ngettext("%(num)s day", "%(num)s days", span.days)


def _subscriber_id(services: Services, token: str) -> int:
    return services.links.read_data(token, now())


def _page(
    services: Services,
    pages: Pages,
    token: str,
    *,
    status: int = 200,
    email: str = "",
    error: str = "",
) -> HTMLResponse:
    known = signup.choices_of(services.engine, _subscriber_id(services, token))
    return pages.show(
        "data.html",
        status=status,
        token=token,
        address=masked(known.subscriber.email),
        email=email,
        error=error,
    )
