"""Convert the TeX of BibTeX fields to text and back."""

from __future__ import annotations

import re

from pipeline.sources.text import clean

_DEEPEST_GROUPS = 8

# Escaped signs are kept out of `clean` in the private use area, so that they are no TeX there.
_SIGNS = "&%$#_{}~^\\"
_KEPT = {sign: chr(0xE000 + place) for place, sign in enumerate(_SIGNS)}
_SIGN_OF = {kept: sign for sign, kept in _KEPT.items()}
_COMMANDS = {
    "textbraceleft": "{", "textbraceright": "}", "textbackslash": "\\", "textasciitilde": "~",
    "textasciicircum": "^", "textdollar": "$", "textunderscore": "_",
}  # fmt: skip
_NAMES = "|".join(_COMMANDS)
_ESCAPED = re.compile(
    rf"\{{\\(?P<group>{_NAMES})\}}|\\(?P<name>{_NAMES})(?:\{{\}}|(?![A-Za-z])\s?)"
    r"|\\(?P<sign>[&%$#_{}])(?P<html>(?<=&)amp;)?"
)
_GROUP = re.compile(r"(\\[A-Za-z]+\*?|[\^_])?\{([^{}]*)\}")
_WRITTEN = {sign: f"\\{sign}" for sign in "&%$#_"} | {
    sign: f"{{\\{name}}}" for name, sign in _COMMANDS.items() if sign not in "$_"
}


def to_text(field: str, limit: int) -> str:
    """Return a BibTeX field as one line of plain text, at most `limit` characters.

    Braces that only protect capitals are removed; TeX that cannot be parsed is kept.
    """
    field = field[: 4 * limit].translate({ord(kept): None for kept in _SIGN_OF})
    text = clean(_ESCAPED.sub(_kept, field), limit)
    for _ in range(_DEEPEST_GROUPS if "{" in text else 0):
        before = text
        text = _GROUP.sub(lambda found: found[0] if found[1] else found[2], text)
        if text == before:
            break
    return "".join(_SIGN_OF.get(letter, letter) for letter in text)


def _kept(match: re.Match[str]) -> str:
    return _KEPT[match["sign"] or _COMMANDS[match["group"] or match["name"]]]


def from_text(text: str) -> str:
    """Return text as the content of a BibTeX field in braces, with special characters escaped."""
    return "".join(_WRITTEN.get(letter, letter) for letter in text)
