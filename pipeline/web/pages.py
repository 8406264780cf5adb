"""Fill the templates; every value is escaped."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse

from pipeline.rendering import House
from pipeline.settings import Settings


@dataclass(frozen=True, slots=True)
class Pages:
    """The pages of one site: what all of them say."""

    house: House
    contact: str  # where readers reach the operator
    has_mailbox: bool

    @classmethod
    def of(cls, settings: Settings, *, has_mailbox: bool) -> Pages:
        return cls(
            house=House(
                site_url=settings.site_url,
                list_name=settings.list_name,
                operator_name=settings.operator_name,
                operator_address=settings.operator_address,
                accent_color=settings.accent_color,
                logo_url=settings.logo_url,
                note=settings.note,
            ),
            contact=settings.reply_to or settings.sender,
            has_mailbox=has_mailbox,
        )

    def show(self, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
        html = _environment().get_template(template).render(site=self, **values)
        return HTMLResponse(html, status)

    def message(
        self, title: str, text: str, *, status: int = 200, personal: bool = False
    ) -> HTMLResponse:
        """A page with nothing but a few words; `personal` offers no list of papers."""
        return self.show("message.html", status=status, title=title, text=text, personal=personal)


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("pipeline.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
