"""A sent digest in the browser, with the same papers, order, texts and reasons as in the mail."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Final

from fastapi import APIRouter
from starlette.responses import HTMLResponse, Response

from pipeline.domain import Digest
from pipeline.errors import ExpiredTokenError
from pipeline.rendering import MailLinks
from pipeline.storage import digests
from pipeline.storage.database import read_only
from pipeline.storage.digests import Compilation
from pipeline.translations import gettext, ngettext
from pipeline.web.account.text import now
from pipeline.web.dependencies import READ, Pages, Services
from pipeline.web.middleware import MAIL_POLICY

# The mail may run no script and submit no form, and has an opaque origin.
POLICY: Final = MAIL_POLICY + (
    "frame-ancestors 'none'; sandbox allow-popups allow-popups-to-escape-sandbox"
)
BODY: Final = re.compile(r"<body[^>]*>", re.IGNORECASE)
NEWER = (
    '<p style="margin:0;padding:12px 20px;background:#1f1d1a;color:#ffffff;text-align:center;'
    'font:14px/1.5 Helvetica,Arial,sans-serif">{}</p>'
)


router = APIRouter()


@router.api_route("/digests/{token}", methods=READ)
def show_digest(token: str, services: Services, pages: Pages) -> Response:
    kept = services.retention.digest
    try:
        delivery_id = services.links.read_digest(token, now())
    except ExpiredTokenError:
        return _no_longer_kept(pages, kept)
    with read_only(services.engine) as conn:
        made = digests.compilation(conn, delivery_id)
        digest = digests.load(conn, [delivery_id]).get(delivery_id)
    is_over = made is None or made.created_at <= now() - kept
    if made is None or digest is None or not digest.picks or is_over:
        return _no_longer_kept(pages, kept)
    html = _mail(services, digest, made)
    return HTMLResponse(html, headers={"Content-Security-Policy": POLICY})


def _mail(services: Services, digest: Digest, made: Compilation) -> str:
    """Render the mail without its personal links, because readers share the URL of a page."""
    site, renderer = services.settings.site_url, services.renderer
    _, html, _ = renderer.page(
        digest,
        MailLinks(
            subscribe=f"{site}/subscribe",
            privacy=f"{site}/privacy",
            archive=f"{site}/papers",
            unsubscribe="",
            preferences=f"{site}/link",
            view="",
        ),
    )
    note = (
        ""
        if made.template == renderer.template_version
        else NEWER.format(
            gettext(
                "The design of our emails has changed since this one was sent. The papers, "
                "their order and the reasons are the same."
            )
        )
    )
    return in_main(html, note)


def _no_longer_kept(pages: Pages, kept: timedelta) -> Response:
    return pages.message(
        gettext("This digest is no longer stored"),
        ngettext(
            "Digests can be read here for %(num)s day, unless the subscription is erased. "
            "The papers themselves are still available.",
            "Digests can be read here for %(num)s days, unless the subscription is erased. "
            "The papers themselves are still available.",
            kept.days,
        ),
        status=410,
    )


def in_main(html: str, note: str) -> str:
    """Wrap the body of the mail in <main>, a landmark for screen readers; `note` comes first."""
    opened = BODY.sub(lambda body: f"{body[0]}<main>{note}", html, count=1)
    return opened.replace("</body>", "</main></body>", 1)
