"""Personal data pages: export, change of address, erasure; only by a short-lived mailed link."""

from __future__ import annotations

import json

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, Response

from pipeline import signup
from pipeline.bootstrap import Services
from pipeline.errors import AddressError
from pipeline.translations import gettext, gettext_noop
from pipeline.web.account.common import LOOK, Sent, now
from pipeline.web.account.text import masked
from pipeline.web.client_address import client_ip
from pipeline.web.templating import Pages

WRONG_ADDRESS = gettext_noop("Enter an email address such as name@example.org.")


def router(services: Services, pages: Pages) -> APIRouter:
    routes = APIRouter()
    engine = services.engine

    @routes.api_route("/data/{token}", methods=LOOK)
    def show(token: str) -> Response:
        return _page(token)

    @routes.post("/data/{token}/export")
    def export(token: str) -> Response:
        held = signup.export(engine, _whose(token))
        name = f"{services.settings.site_host}-{now():%Y-%m-%d}.json"
        return Response(
            json.dumps(held, indent=2, ensure_ascii=False),
            media_type="application/json",
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )

    @routes.post("/data/{token}/erase")
    def erase(token: str, form: Sent) -> Response:
        subscriber_id = _whose(token)
        if form.get("sure") != "yes":
            known = signup.choices_of(engine, subscriber_id)
            return pages.show("erase.html", token=token, address=masked(known.subscriber.email))
        signup.erase_by_id(engine, subscriber_id, now())
        return pages.show("erased.html")

    @routes.post("/data/{token}/address")
    def move(request: Request, token: str, form: Sent) -> Response:
        email = form.get("email", "")
        try:
            signup.ask_new_address(
                engine,
                _whose(token),
                email,
                ip=client_ip(request, services.settings.trusted_proxies),
                suppression_key=services.suppression_key,
                now=now(),
                limits=services.signup_limits,
            )
        except AddressError:
            return _page(token, status=422, email=email, error=gettext(WRONG_ADDRESS))
        return pages.show("asked.html", address=masked(email.strip()))

    @routes.api_route("/link", methods=LOOK)
    def link() -> Response:
        return pages.show("link.html", email="", error="")

    @routes.post("/link")
    def mail_link(request: Request, form: Sent) -> Response:
        """Return the same page for any address, so that it does not reveal subscribers."""
        email = form.get("email", "")
        try:
            signup.ask_link(
                engine,
                email,
                ip=client_ip(request, services.settings.trusted_proxies),
                suppression_key=services.suppression_key,
                now=now(),
                limits=services.signup_limits,
            )
        except AddressError:
            return pages.show("link.html", status=422, email=email, error=gettext(WRONG_ADDRESS))
        return pages.show("linked.html")

    def _whose(token: str) -> int:
        return services.links.read_data(token, now())

    def _page(token: str, *, status: int = 200, email: str = "", error: str = "") -> HTMLResponse:
        known = signup.choices_of(engine, _whose(token))
        return pages.show(
            "data.html",
            status=status,
            token=token,
            address=masked(known.subscriber.email),
            email=email,
            error=error,
        )

    return routes
