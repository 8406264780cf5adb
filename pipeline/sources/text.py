"""Words from outside, made safe to show: plain text, one line, NFC, no markup, bounded."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable
from urllib.parse import urlsplit

from pipeline.sources.latex import untex

TITLE_LIMIT = 500
ABSTRACT_LIMIT = 10_000
NAME_LIMIT = 200
MOST_AUTHORS = 5_000  # the longest list seen has 3,303
KEYWORD_LIMIT = 100
MOST_KEYWORDS = 50
URL_LIMIT = 2_000

# Unicode's Cc and Cf, surrogates, noncharacters, invisible fillers and the variation selectors
# that can smuggle text; FE0E and FE0F stay, emoji need them. White space is folded later.
_UNSEEN = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891"
    "\u08e2\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ud800-\udfff\ufdd0-\ufdef\ufe00-\ufe0d\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff"
    "\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff]"
)
_MARK_PILE = re.compile(r"([\u0300-\u036f]{4})[\u0300-\u036f]+")

_TAG = re.compile(r"<(/?)([A-Za-z][A-Za-z0-9:._-]*)((?:[\s/][^<>]*)?)>")
_WITH_CONTENT = re.compile(r"<(script|style)\b[^<>]*>[^<]*(?:<(?!/?\1)[^<]*)*</\1\s*>", re.I)
_DECLARATION = re.compile(r"<!--.*?(?:-->|\Z)|<!\[CDATA\[|\]\]>|<[!?][A-Za-z][^<>]*>", re.S)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_HTML = _words(
    "a abbr address area article aside audio b base blockquote body br button canvas caption cite"
    " code col dd del details dfn div dl dt em embed fieldset figcaption figure font footer form"
    " frame frameset h1 h2 h3 h4 h5 h6 head header hr html i iframe img input ins italic kbd label"
    " legend li link main mark math meta nav noscript object ol option p param picture pre q s samp"
    " script section select small source span strike strong style sub sup svg table tbody td"
    " template textarea tfoot th thead time title tr track tt u ul var video wbr bold sc sec"
    " mi mn mo mrow msub msup mfrac msqrt mtext mover munder msubsup mtable mtr mtd semantics"
    " annotation jats:p jats:title jats:sec jats:italic jats:bold jats:sub jats:sup"
)
_BLOCK = _words("p br div li tr td th h1 h2 h3 h4 h5 h6 title sec jats:p jats:title")


def clean(text: str, limit: int = ABSTRACT_LIMIT) -> str:
    """`text` as one line of plain text of at most `limit` characters, cut with an ellipsis.

    A comparison (`a < b`), an unknown tag without attributes (`<think>`) and TeX that cannot be
    read stay as they are. What comes back is text: whoever puts it into HTML must still escape.
    """
    text = _UNSEEN.sub("", text[: 4 * limit])
    text = untex(_fold(_without_markup(text)))
    text = _UNSEEN.sub("", _strip_tags(text))
    text = _MARK_PILE.sub(r"\1", unicodedata.normalize("NFC", text))
    return _cut(_fold(text), limit)


def clean_title(text: str) -> str:
    return clean(text, TITLE_LIMIT)


def clean_names(names: Iterable[str]) -> tuple[str, ...]:
    """Names in their order, empty ones left out; at most MOST_AUTHORS are read."""
    read = (clean(name, NAME_LIMIT) for name, _ in zip(names, range(MOST_AUTHORS), strict=False))
    return tuple(name for name in read if name)


def clean_keywords(words: Iterable[str]) -> tuple[str, ...]:
    """Keywords in their order, each once."""
    read = (clean(w, KEYWORD_LIMIT) for w, _ in zip(words, range(MOST_KEYWORDS), strict=False))
    return tuple(dict.fromkeys(word for word in read if word))


_SUFFIX = re.compile(r"(?:Jr|Sr|II|III|IV|Ph\.?D|M\.?D)\.?$", re.I)
_BETWEEN_NAMES = re.compile(r"\s*[,;]\s*(?:and\s+)?|\s+and\s+")


def split_authors(text: str) -> tuple[str, ...]:
    """Names out of one string with commas and "and"; affiliations in brackets are left out."""
    parts = [part.strip() for part in _BETWEEN_NAMES.split(_without_brackets(_fold(text)))]
    names: list[str] = []
    for part in parts:
        if names and _SUFFIX.match(part):
            names[-1] += f", {part}"
        elif part:
            names.append(part)
    return clean_names(names)


def is_withdrawn(note: str) -> bool:
    """Whether arXiv's comment says that the paper itself is withdrawn, not moved elsewhere."""
    return re.search(r"\bwithdrawn\b(?!\s+from\b)", note, re.I) is not None


def https_link(url: object) -> str | None:
    """`url` when it is an absolute http(s) address that is safe to print, else None."""
    if not isinstance(url, str):
        return None
    url = url.strip()
    if not url or len(url) > URL_LIMIT or not url.isprintable() or _UNSEEN.search(url):
        return None
    if any(character in url for character in " <>\"'\\`{}|^"):
        return None
    try:
        parts = urlsplit(url)
        known = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return url if known and "@" not in parts.netloc else None


def _without_markup(text: str) -> str:
    # Feeds escape once or twice, and taking a tag out can make another one.
    for _ in range(3 if "<" in text or "&" in text else 0):
        before = text
        text = _UNSEEN.sub("", html.unescape(_strip_tags(text)))
        if text == before:
            break
    return text


def _strip_tags(text: str) -> str:
    for _ in range(3 if "<" in text else 0):
        before = text
        text = _WITH_CONTENT.sub(" ", text)
        text = _TAG.sub(_replace_tag, _DECLARATION.sub("", text))
        if text == before:
            break
    return text


def _replace_tag(match: re.Match[str]) -> str:
    closing, name, rest = match[1], match[2].lower(), match[3].strip(" /\t\r\n")
    # "a <b and c> d" is a comparison: words without a value are no attributes.
    is_tag = (name in _HTML and not rest) or "=" in rest or (not rest and bool(match[3]))
    if not is_tag and not (closing and name in _HTML):
        return match[0]
    return " " if name in _BLOCK else ""


def _without_brackets(text: str) -> str:
    depth = 0
    kept: list[str] = []
    for character in text:
        if character == ")":
            depth = max(0, depth - 1)
            continue
        depth += character == "("
        if not depth:
            kept.append(character)
    return "".join(kept)


def _fold(text: str) -> str:
    return " ".join(text.split())


def _cut(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    head = text[: limit - 1]
    words, _, rest = head.rpartition(" ")
    return (words if words and len(rest) < 40 else head).rstrip() + "…"
