"""Branding of the newsletter, and the links of one mail."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from pipeline.rendering.colors import readable

SHEET = "#ffffff"
SHEET_DARK = "#1d1c1a"


@dataclass(frozen=True, slots=True)
class MailLinks:
    """URLs of the links in one mail: the subscriber's own, then the public pages."""

    unsubscribe: str
    preferences: str
    view: str
    subscribe: str
    privacy: str
    archive: str


@dataclass(frozen=True, slots=True)
class House:
    """Settings of the operator that all mails of this newsletter share."""

    site_url: str
    list_name: str
    operator_name: str
    operator_address: str
    accent_color: str = "#b45309"
    logo_url: str | None = None
    note: str = ""

    @property
    def host(self) -> str:
        return urlsplit(self.site_url).hostname or self.site_url

    @property
    def privacy(self) -> str:
        return f"{self.site_url}/privacy"

    @property
    def accent(self) -> str:
        """The accent colour, adjusted to be readable on white."""
        return readable(self.accent_color, SHEET)

    @property
    def accent_on_dark(self) -> str:
        return readable(self.accent_color, SHEET_DARK)
