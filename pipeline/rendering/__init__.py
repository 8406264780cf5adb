"""A digest as readers see it: subject, HTML and text, ready for the wire.

    domain.Digest -> views (what is shown) -> templates (how) -> cards, renderer (kept, joined)

`Renderer.digest` is the fast way: each card is made once and kept, and a mail is joined from
pieces. `Renderer.page` is the plain way: one template, one call. Both give the same words.
"""

from pipeline.rendering.house import House, MailLinks
from pipeline.rendering.renderer import Renderer
from pipeline.rendering.wire import Rendered

__all__ = ["House", "MailLinks", "Rendered", "Renderer"]
