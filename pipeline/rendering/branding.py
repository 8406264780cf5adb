"""Branding of the newsletter, with a readable accent colour, and the links of one mail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from pipeline.settings import Settings

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
    more: str  # papers that matched but did not fit
    papers: str = ""  # with "/" and the key of a paper: the page to react to it; "" for none


@dataclass(frozen=True, slots=True)
class Branding:
    """Settings of the operator that all mails of this newsletter share."""

    site_url: str
    list_name: str
    operator_name: str
    operator_address: str
    accent_color: str = "#b45309"
    logo_url: str | None = None
    note: str = ""
    thumbnails: bool = False

    @classmethod
    def of(cls, settings: Settings) -> Branding:
        return cls(
            site_url=settings.site_url,
            list_name=settings.list_name,
            operator_name=settings.operator_name,
            operator_address=settings.operator_address,
            accent_color=settings.accent_color,
            logo_url=settings.logo_url,
            note=settings.note,
            thumbnails=settings.thumbnails,
        )

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


READABLE = 5.0  # WCAG requires 4.5 : 1; a little more survives colour inversion in mail apps

RGB = tuple[int, int, int]
BLACK: RGB = (0, 0, 0)
WHITE: RGB = (255, 255, 255)


def readable(color: str, background: str) -> str:
    """Return `color` ("#b45309"), moved towards black or white until text in it is readable."""
    target = BLACK if _luminance(_parse(background)) > 0.5 else WHITE
    steps = ("#{:02x}{:02x}{:02x}".format(*_mix(_parse(color), target, n / 20)) for n in range(21))
    return next(step for step in steps if contrast(step, background) >= READABLE)


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of WCAG 2.2: 1 for equal colours, 21 for black on white."""
    light, dark = sorted((_luminance(_parse(one)), _luminance(_parse(other))), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _parse(color: str) -> RGB:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def _mix(color: RGB, target: RGB, share: float) -> RGB:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(color, target, strict=True))
    return red, green, blue


def _luminance(color: RGB) -> float:
    red, green, blue = (_linear(part / 255) for part in color)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _linear(part: float) -> float:
    if part <= 0.04045:
        return part / 12.92
    return float(((part + 0.055) / 1.055) ** 2.4)
