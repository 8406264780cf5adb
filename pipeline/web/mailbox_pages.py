"""Pages of the built-in mailbox, for trying the site without a mail server."""

from __future__ import annotations

import re

from fastapi import APIRouter
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from pipeline.errors import NotFoundError
from pipeline.web.dependencies import READ, Mailbox, Pages
from pipeline.web.middleware import MAIL_POLICY

# A mail may run no script and has an opaque origin; its links open in a new tab.
FRAME_POLICY = MAIL_POLICY + (
    "frame-ancestors 'self'; sandbox allow-popups allow-popups-to-escape-sandbox"
)
HEAD = re.compile(r"<head[^>]*>", re.IGNORECASE)


router = APIRouter(prefix="/mailbox")


@router.api_route("", methods=READ)
def list_mails(mailbox: Mailbox, pages: Pages) -> Response:
    return pages.show("mailbox.html", letters=mailbox.messages())


@router.api_route("/{letter_id}", methods=READ)
def show_mail(letter_id: str, mailbox: Mailbox, pages: Pages) -> Response:
    return pages.show("letter.html", mail=mailbox.read(letter_id))


@router.api_route("/{letter_id}/html", methods=READ)
def show_html_part(letter_id: str, mailbox: Mailbox) -> Response:
    part = mailbox.read(letter_id).html
    if part is None:
        raise NotFoundError(f"message {letter_id} has no HTML")
    return HTMLResponse(in_new_tabs(part), headers={"Content-Security-Policy": FRAME_POLICY})


@router.api_route("/{letter_id}/raw", methods=READ)
def show_source(letter_id: str, mailbox: Mailbox) -> Response:
    # Always plain text, never the mail's own type; latin-1 decodes every octet.
    return PlainTextResponse(mailbox.read(letter_id).raw.decode("latin-1"))


def in_new_tabs(html: str) -> str:
    """Return `html` with links that open in a new tab, not in the frame that shows it."""
    return HEAD.sub(lambda head: f'{head[0]}<base target="_blank">', html, count=1)
