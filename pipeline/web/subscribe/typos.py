"""Suggest corrections of mistyped addresses: ada@gmial.com, ada@gmail, ada@gmail,com. Pure.

Only a suggestion, without a DNS lookup: the domain may exist. Real providers with names similar to
larger ones are listed, so that their customers get no suggestion.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from pipeline.edit_distance import edit_distance
from pipeline.errors import AddressError
from pipeline.signup import valid_address


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Large providers and the endings of their domains; the first is the default suggestion. Names have
# at least five letters: shorter ones are too similar to each other.
_PROVIDERS: Final = {
    name: tuple(endings.split())
    for name, endings in {
        "gmail": "com",
        "googlemail": "com",
        "yahoo": "com co.uk co.in co.jp co.id co.nz co.kr co.za com.br com.ar com.mx com.au com.cn"
        " com.tw com.hk com.sg com.ph com.vn com.tr com.my ca de fr it es in gr ie se no dk pl ro"
        " nl be at cz fi hu pt",
        "hotmail": "com co.uk co.jp co.th com.br com.ar com.tr com.au com.mx ca de fr it es nl be"
        " se no dk gr fi at ch cl ru hu",
        "outlook": "com co.uk co.th co.id com.br com.ar com.tr com.au com.gr com.vn de fr it es jp"
        " kr in ie be at dk pt cz cl hu lv sa sg ph my sk id",
        "icloud": "com",
        "protonmail": "com ch",
        "rocketmail": "com",
        "rediffmail": "com",
        "fastmail": "com fm net org us cn de es uk co.uk com.au jp nl se in to mx",
        "tutanota": "com de",
    }.items()
}
# Real domains similar to those, and others with short names that look like a typo.
_REAL: Final = _words(
    """
    mail.com email.com ymail.com gmx.com gmx.net gmx.de gmx.at gmx.ch gmx.us gmx.co.uk gmx.fr gmx.es
    gmx.li gmx.eu gmx.info gmx.org web.de me.com mac.com aol.com aim.com msn.com live.com qq.com
    hotmail.co outlook.co hushmail.com hotmail.org gmailnator.com yahoo-inc.com
    """
)
_WRONG_ENDINGS: Final = {  # endings that are no top-level domain -> the intended one
    **dict.fromkeys(_words("con cmo ocm comm coom ccom cpm vom xom cim cok c0m conm clm"), "com"),
    **dict.fromkeys(_words("nte ent nett met"), "net"),
    **dict.fromkeys(_words("ogr rog orgg ogrg"), "org"),
    **dict.fromkeys(_words("eud eduu deu"), "edu"),
}
# Endings (some are real top-level domains) that are a typo after the name of a provider, unless
# `_PROVIDERS` lists them for it.
_SLIPS: Final = _words("co cm om ne c m")
_GENERIC_SECOND: Final = _words("co com org net")
_TWO_SLIPS: Final = 9  # length of a name from which two edits still count as a typo


@dataclass(frozen=True, slots=True)
class Doubt:
    """Suggested address, and whether the typed one is valid, so that it may be kept."""

    suggestion: str
    may_insist: bool


def doubt(email: str) -> Doubt | None:
    """Return a suggestion for a typed address; None if it looks right or no correction is known."""
    tidy = _tidy(email)
    local, _, domain = tidy.rpartition("@")
    meant = f"{local}@{_meant(domain.lower()) or domain}"
    if meant.casefold() == email.strip().casefold() or not _is_possible(meant):
        return None
    return Doubt(meant, may_insist=_is_possible(email))


def is_numeric(domain: str) -> bool:
    """Return whether the last label is all digits, as in an IP address but no TLD (RFC 3696)."""
    return domain.rpartition(".")[2].isdecimal()


def _is_possible(email: str) -> bool:
    domain = email.rpartition("@")[2]
    try:
        valid_address(email)
    except AddressError:
        return False
    return "." in domain and not is_numeric(domain)


def _tidy(email: str) -> str:
    """Strip mailto:, brackets, quotes and spaces; normalise separators of the domain to dots."""
    text = re.sub(r"(?i)^mailto:", "", email.strip().strip("<>\"'").strip())
    local, at, domain = text.rpartition("@")
    domain = re.sub(r"\s*[.,;]\s*", ".", domain.strip()).strip(".")
    return f"{local.strip().rstrip('@')}{at}{domain}"


def _meant(domain: str) -> str | None:
    """Return the corrected domain, or `domain` itself if it may be right.

    None if it has no dot and resembles no provider.
    """
    domain = domain.removeprefix("www.")
    if domain in _REAL:
        return domain
    if "." not in domain:
        return _without_a_point(domain)
    body, _, ending = domain.rpartition(".")
    fixed = f"{body}.{_WRONG_ENDINGS[ending]}" if ending in _WRONG_ENDINGS else domain
    name, _, ending = fixed.partition(".")
    provider = name if name in _PROVIDERS else _nearest(name)
    if provider is None or fixed in _REAL:
        return fixed
    endings = _PROVIDERS[provider]
    if ending in endings:
        return f"{provider}.{ending}"
    only_one = len(endings) == 1 and _is_known_ending(ending)
    if ending in _SLIPS or (provider == name and only_one):
        return f"{provider}.{endings[0]}"
    return fixed


def _without_a_point(domain: str) -> str | None:
    """Correct "gmailcom" or "gmail"; None if it resembles no provider."""
    for ending in ("com", ""):
        name = domain.removesuffix(ending)
        provider = name if name in _PROVIDERS else _nearest(name)
        if provider:
            return f"{provider}.{_PROVIDERS[provider][0]}"
    return None


def _is_known_ending(text: str) -> bool:
    first, _, second = text.partition(".")
    return not second or (first in _GENERIC_SECOND and len(second) == 2)


def _nearest(name: str) -> str | None:
    """Return the first provider within one edit, or two for names of `_TWO_SLIPS` letters or more.

    The first letter must be the same, or the first two letters swapped.
    """
    for provider in _PROVIDERS:
        most = 2 if len(provider) >= _TWO_SLIPS else 1
        near = abs(len(name) - len(provider)) <= most  # skips the slow comparison of long names
        begins = name[:1] == provider[:1] or name[:2] == provider[1::-1]
        if near and begins and edit_distance(name, provider) <= most:
            return provider
    return None
