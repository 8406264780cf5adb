"""Render HTML templates with autoescaping; an undefined variable raises an error."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse

from pipeline import translations
from pipeline.rendering import Branding
from pipeline.settings import Settings


@dataclass(frozen=True, slots=True)
class Pages:
    """Renderer of one site's pages, with the values that all of them share."""

    branding: Branding
    contact: str  # address of the operator: REPLY_TO, or the sender if that is not set
    has_mailbox: bool

    @classmethod
    def of(cls, settings: Settings, *, has_mailbox: bool) -> Pages:
        return cls(
            branding=Branding.of(settings),
            contact=settings.reply_to or settings.sender,
            has_mailbox=has_mailbox,
        )

    def show(self, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
        html = _environment().get_template(template).render(site=self, **values)
        return HTMLResponse(html, status)

    def message(
        self, title: str, text: str, *, status: int = 200, personal: bool = False
    ) -> HTMLResponse:
        """Return a page with a title and a paragraph; `personal` leaves out the list of papers."""
        return self.show("message.html", status=status, title=title, text=text, personal=personal)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("pipeline.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    translations.extend(environment)
    return environment
