"""Pages of the built-in mailbox, for trying the site without a mail server."""

from __future__ import annotations

import re

from fastapi import APIRouter
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from pipeline.errors import NotFoundError
from pipeline.mailbox import Mailbox
from pipeline.web.middleware import MAIL_POLICY
from pipeline.web.templating import Pages

# A mail may run no script and has an opaque origin; its links open in a new tab.
FRAME_POLICY = MAIL_POLICY + (
    "frame-ancestors 'self'; sandbox allow-popups allow-popups-to-escape-sandbox"
)
HEAD = re.compile(r"<head[^>]*>", re.IGNORECASE)


def router(mailbox: Mailbox, pages: Pages) -> APIRouter:
    routes = APIRouter(prefix="/mailbox")

    @routes.api_route("", methods=["GET", "HEAD"])
    def inbox() -> Response:
        return pages.show("mailbox.html", letters=mailbox.messages())

    @routes.api_route("/{letter_id}", methods=["GET", "HEAD"])
    def letter(letter_id: str) -> Response:
        return pages.show("letter.html", mail=mailbox.read(letter_id))

    @routes.api_route("/{letter_id}/html", methods=["GET", "HEAD"])
    def html(letter_id: str) -> Response:
        part = mailbox.read(letter_id).html
        if part is None:
            raise NotFoundError(f"message {letter_id} has no HTML")
        return HTMLResponse(in_new_tabs(part), headers={"Content-Security-Policy": FRAME_POLICY})

    @routes.api_route("/{letter_id}/raw", methods=["GET", "HEAD"])
    def raw(letter_id: str) -> Response:
        # Always plain text, never the mail's own type; latin-1 decodes every octet.
        return PlainTextResponse(mailbox.read(letter_id).raw.decode("latin-1"))

    return routes


def in_new_tabs(html: str) -> str:
    """Return `html` with links that open in a new tab, not in the frame that shows it."""
    return HEAD.sub(lambda head: f'{head[0]}<base target="_blank">', html, count=1)
