"""A sent digest in the browser, with the same papers, order, texts and reasons as in the mail."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from fastapi import APIRouter
from starlette.responses import HTMLResponse, Response

from pipeline.domain import Digest
from pipeline.errors import ExpiredTokenError
from pipeline.rendering import MailLinks, formatting
from pipeline.storage import digests
from pipeline.storage.database import read_only
from pipeline.storage.digests import Compilation
from pipeline.translations import gettext, ngettext
from pipeline.web.account.text import now
from pipeline.web.dependencies import READ, Pages, Services
from pipeline.web.middleware import MAIL_POLICY
from pipeline.web.papers import views

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
    shown = _load(services, token)
    if shown is None:
        return _no_longer_kept(pages, services.retention.digest)
    html = _mail(services, shown)
    return HTMLResponse(html, headers={"Content-Security-Policy": POLICY})


@router.api_route("/digests/{token}/more", methods=READ)
def show_unpicked(token: str, services: Services, pages: Pages) -> Response:
    """Show the papers that matched this digest but exceeded the reader's maximum."""
    shown = _load(services, token)
    if shown is None:
        return _no_longer_kept(pages, services.retention.digest)
    with read_only(services.engine) as conn:
        ids = digests.unpicked(conn, shown.delivery_id)
        papers = views.views_of(conn, ids, pages.branding)
    return pages.show(
        "unpicked.html",
        day=formatting.day_of_month(shown.digest.edition_on),
        papers=papers,
        counted=ngettext(
            "%(num)s more paper matched", "%(num)s more papers matched", shown.digest.more
        ),
        limit=len(ids) if shown.digest.more > len(ids) else 0,
        view=f"/digests/{token}",
    )


@dataclass(frozen=True, slots=True)
class ShownDigest:
    token: str
    delivery_id: int
    digest: Digest
    compilation: Compilation


def _load(services: Services, token: str) -> ShownDigest | None:
    """Return the digest of a link; None if it is not stored any more, or the link has expired."""
    try:
        delivery_id = services.links.read_digest(token, now())
    except ExpiredTokenError:
        return None
    with read_only(services.engine) as conn:
        made = digests.compilation(conn, delivery_id)
        digest = digests.load(conn, [delivery_id]).get(delivery_id)
    if made is None or made.created_at <= now() - services.retention.digest:
        return None
    return ShownDigest(token, delivery_id, digest, made) if digest and digest.picks else None


def _mail(services: Services, shown: ShownDigest) -> str:
    """Render the mail without its personal links, because readers share the URL of a page."""
    site, renderer = services.settings.site_url, services.renderer
    _, html, _ = renderer.page(
        shown.digest,
        MailLinks(
            subscribe=f"{site}/subscribe",
            privacy=f"{site}/privacy",
            more=f"{site}/digests/{shown.token}/more",
            unsubscribe="",
            preferences=f"{site}/link",
            view="",
            papers=f"{site}/link/papers",
        ),
    )
    note = (
        ""
        if shown.compilation.template == renderer.template_version
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
