"""Render HTML templates with autoescaping; an undefined variable raises an error."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse

from pipeline import translations
from pipeline.rendering import Branding, formatting, views
from pipeline.settings import Settings
from pipeline.translations import ngettext

MOST_CATEGORIES: Final = 6  # named on a page; a site may read a hundred


@dataclass(frozen=True, slots=True)
class Pages:
    """Renderer of one site's pages, with the values that all of them share."""

    branding: Branding
    contact: str  # address of the operator: REPLY_TO, or the sender if that is not set
    has_mailbox: bool
    sources: tuple[str, ...]  # that are read, by name
    arxiv_categories: tuple[str, ...]  # empty if arXiv is not read
    looks_up_authors: bool  # at ORCID and arXiv, when a reader presses the button

    @classmethod
    def of(cls, settings: Settings, *, has_mailbox: bool) -> Pages:
        return cls(
            branding=Branding.of(settings),
            contact=settings.reply_to or settings.sender,
            has_mailbox=has_mailbox,
            sources=settings.sources,
            arxiv_categories=settings.arxiv_categories if "arxiv" in settings.sources else (),
            looks_up_authors=settings.author_lookup,
        )

    @property
    def coverage(self) -> str:
        """Return what the site reads: "Hugging Face and arXiv (cs.CL and cs.LG)"."""
        categories = f" ({abridged(self.arxiv_categories)})" if self.arxiv_categories else ""
        titles = [
            f"{views.source_title(source)}{categories if source == 'arxiv' else ''}"
            for source in self.sources
        ]
        return formatting.listed(titles)

    def show(self, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
        html = _environment().get_template(template).render(site=self, **values)
        return HTMLResponse(html, status)

    def message(
        self, title: str, text: str, *, status: int = 200, personal: bool = False
    ) -> HTMLResponse:
        """Return a page with a title and a paragraph; `personal` leaves out the list of papers."""
        return self.show("message.html", status=status, title=title, text=text, personal=personal)


def abridged(names: tuple[str, ...]) -> str:
    """Return the names as a list of words, at most `MOST_CATEGORIES` and the number of others."""
    more = len(names) - MOST_CATEGORIES
    if more <= 0:
        return formatting.listed(names)
    shown = ", ".join(names[:MOST_CATEGORIES])
    return ngettext("%(names)s and %(num)s more", "%(names)s and %(num)s more", more, names=shown)


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
