"""Render mails: subject, HTML and text, the latter two in quoted-printable encoding.

    domain.Digest -> views (values) -> templates (layout) -> cards, renderer (cached, joined)

`Renderer.digest` is the fast way: each card is rendered once and cached, and a mail is joined from
fragments. `Renderer.page` is the plain way: one template, one call. Both return the same text.
"""

from pipeline.rendering.branding import Branding, MailLinks
from pipeline.rendering.fragments import Rendered
from pipeline.rendering.renderer import Renderer

__all__ = ["Branding", "MailLinks", "Rendered", "Renderer"]
