"""Normalise untrusted text for display: plain, one line, NFC, without markup, bounded length."""

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

# Unicode's Cc and Cf, surrogates, noncharacters, invisible fillers, and the variation selectors
# that can hide text. FE0E and FE0F stay: emoji need them. White space is normalised later.
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


_WITHOUT_END = _words("br hr wbr")
_NEVER_TEXT = _words("script style iframe")
_STANDS_ALONE = _BLOCK | _words("div ul ol table tbody thead section article html body head dl")
_INSIDE_TAG = re.compile(r"<[A-Za-z/!]*$")


def clean(text: str, limit: int = ABSTRACT_LIMIT) -> str:
    """Return `text` as one line of plain text, truncated to `limit` characters with an ellipsis.

    Remove markup and invisible characters, convert TeX, normalise to NFC. A comparison (`a < b`),
    an unknown tag without attributes (`<think>`) and TeX that cannot be parsed are kept. The result
    is text, not HTML: templates must still escape it.
    """
    text = _UNSEEN.sub("", text[: 4 * limit])
    text = untex(_fold(_without_markup(text)))
    text = _UNSEEN.sub("", _strip_tags(text))
    text = _MARK_PILE.sub(r"\1", unicodedata.normalize("NFC", text))
    return _cut(_fold(text), limit)


def clean_title(text: str) -> str:
    return clean(text, TITLE_LIMIT)


def clean_names(names: Iterable[str]) -> tuple[str, ...]:
    """Clean names and return them in order, without empty ones; at most MOST_AUTHORS are read."""
    read = (clean(name, NAME_LIMIT) for name, _ in zip(names, range(MOST_AUTHORS), strict=False))
    return tuple(name for name in read if name)


def clean_keywords(words: Iterable[str]) -> tuple[str, ...]:
    """Clean and deduplicate keywords and return them in order; at most MOST_KEYWORDS are read."""
    read = (clean(w, KEYWORD_LIMIT) for w, _ in zip(words, range(MOST_KEYWORDS), strict=False))
    return tuple(dict.fromkeys(word for word in read if word))


_SUFFIX = re.compile(r"(?:Jr|Sr|II|III|IV|Ph\.?D|M\.?D)\.?$", re.I)
GROUP = (
    r"(?:Collaborations?|Consorti(?:um|a)|Team|Group|Project|Network|Initiative|Committee"
    r"|Task Force)\b"
)
_ON_BEHALF = re.compile(
    rf"\s*\(?\b(?:for|on behalf of|representing|from)\s+"
    rf"((?:the\s+)?(?:[^\s,;:()]+\s+){{0,8}}?{GROUP})\)?",
    re.I,
)
_GROUP_THEN_NAMES = re.compile(rf"({GROUP})\s*:", re.I)
_OTHERS = re.compile(
    r"[\s,;]{0,3}(?:\bet\.?\s+al(?:ii|ia)?\b\.?"
    r"|(?:\band|&)\s+(?:\d+\s+)?(?:many\s+)?others\b\.?|\.{3}|…)",
    re.I,
)
_BETWEEN_NAMES = re.compile(r"\s*[,;|]\s*(?:(?:and\b|&)\s*)?|\s+(?:and|&)\s+")
_BETWEEN_INVERTED = re.compile(r"\s*;\s*(?:and\s+)?|\s+(?:and|&)\s+")
_INVERTED = re.compile(r"[^\s,.]+(?:[\s-][^\s,.]+){0,3},\s*[^,]+$")  # Lovelace, Ada
_INITIALS = re.compile(r"(?:[A-Z]\.?[\s-]?){1,4}$")
_FOOTNOTE = re.compile(r"(?<=\w)[\s\d*†‡§¶¹²³⁴⁵]*[\d*†‡§¶¹²³⁴⁵]$")


def split_authors(text: str) -> tuple[str, ...]:
    """Split a list of authors in any common format and return the names.

    A collaboration is returned as a name; affiliations in brackets and "et al." are removed.
    "Lovelace, Ada; Hopper, Grace" returns two names.
    """
    text = _ON_BEHALF.sub(r", \1, ", _fold(text[: NAME_LIMIT * MOST_AUTHORS]))
    text = _OTHERS.sub(",", _GROUP_THEN_NAMES.sub(r"\1,", _without_brackets(text)))
    names: list[str] = []
    for part in _parts(text):
        if names and _SUFFIX.match(part):
            names[-1] += f", {part}"
        elif name := _FOOTNOTE.sub("", part).strip("*†‡§¶ "):
            names.append(name)
    return clean_names(names)


def _parts(text: str) -> list[str]:
    inverted = [part for part in _BETWEEN_INVERTED.split(text) if part.strip(" ,")]
    is_list = ";" in text or all(" " not in part.partition(",")[0].strip() for part in inverted)
    if (
        len(inverted) > 1
        and is_list
        and all(_INVERTED.match(part.strip(" ,")) for part in inverted)
    ):
        return [part.strip(" ,") for part in inverted]
    parts = [part for part in map(str.strip, _BETWEEN_NAMES.split(text)) if part]
    surnames, initials = parts[::2], parts[1::2]
    is_inverted = len(surnames) == len(initials) and all(map(_INITIALS.match, initials))
    if is_inverted and not any("." in name or _INITIALS.match(name) for name in surnames):
        return [", ".join(pair) for pair in zip(surnames, initials, strict=True)]
    return parts


_WORK = (
    r"(?:paper|submission|article|manuscript|preprint|pre-print|work|report|note|document|e-?print"
    r"|version)"
)
_BEING = (
    r"(?:(?:has|have|had|is|was|are|were|will|be|been|being|hereby|now|already|therefore|thus"
    r"|temporarily|permanently|voluntarily|since|also|officially)\s+)*"
)
_WITHDRAWN = re.compile(
    rf"(?:^\W*{_BEING}"
    rf"|(?:^\W*|\b(?:this|the|our|present|current|entire|whole|arxiv)\s+(?:arxiv\s+)?){_WORK}\s*"
    rf"(?:\([^()]*\)\s*)?:?\s*{_BEING}|^\W*(?:it|this)\s+{_BEING})(?:withdrawn|retracted)\b",
    re.I,
)
_AUTHORS_WITHDREW = re.compile(
    rf"\b(?:i|we|authors?|administrators?|admins?)\s+"
    rf"(?:(?:have|has|hereby|would like to|wish to|decided to)\s+)*"
    rf"(?:withdr[ae]w(?:n|s)?|retract(?:ed|s)?)\s+(?:this|the|our)\s+(?:entire\s+)?{_WORK}\b"
    r"|\bwithdrawn\s+by\s+(?:the\s+)?(?:authors?|submitter|arxiv)\b",
    re.I,
)
_ELSEWHERE = re.compile(
    r"\s+(?:and\s+\w+\s+)?"
    r"(?:from\s+(?!(?:the\s+)?arxiv\b)|(?:submission|paper|article|manuscript|preprint)\b)",
    re.I,
)
_OF_ANOTHER = re.compile(
    r"\b(?:submitted|accepted|replaces?|supersedes?|not|never|mistakenly|erroneously|(?:v|version\s*)\d+"
    r"|(?:first|second|previous|earlier|older|original|old|prior|initial|former)\s+(?:\w+\s+)?"
    r"|(?:version|part|section|proof|claim|code|data\w*|results?)s?\s+(?:\w+\s+)?(?:of|in)\s+(?:this|the|our))\b"
    r"|withdrawn (?:by mistake|in error)\b",
    re.I,
)
_SAID = re.compile(r"\b(?:withdr[ae]w\w*|retract\w*)(?: by mistake| in error)?", re.I)


def is_withdrawn(note: str) -> bool:
    """Return whether arXiv's comment states that the paper itself is withdrawn.

    Return False if only one version or part, another paper, or a submission to a conference is.
    """
    note = _fold(note)
    for sentence in re.split(r"[.;!?](?:\s|$)|\s-+\s|[\[\]]", note):
        said = _SAID.search(sentence)
        if said is None or _OF_ANOTHER.search(sentence, 0, said.end()):
            continue
        for clause in (sentence, *sentence.split(",")):
            found = _WITHDRAWN.search(clause.strip()) or _AUTHORS_WITHDREW.search(clause.strip())
            if found and not _ELSEWHERE.match(clause.strip(), found.end()):
                return True
    return False


def https_link(url: object) -> str | None:
    """Return `url` if it is an absolute http(s) URL without credentials, safe to print; else None.

    A URL over 2,000 characters, or with quotes, brackets or invisible characters, is rejected.
    """
    if not isinstance(url, str):
        return None
    url = url.strip()
    if not url or len(url) > URL_LIMIT or not url.isprintable() or _UNSEEN.search(url):
        return None
    if any(character in url for character in " <>\"'\\`{}|^"):
        return None
    try:
        parts = urlsplit(url)
        is_valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return url if is_valid and "@" not in parts.netloc else None


def _without_markup(text: str) -> str:
    # Repeat: feeds escape HTML once or twice, and removing a tag can form another one.
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
        text = _without_tags(_DECLARATION.sub("", text))
        if text == before:
            break
    return text


def _without_tags(text: str) -> str:
    found = list(_TAG.finditer(text))
    paired = _paired(text, found)
    parts, done = [], 0
    for match in found:
        if match.start() in paired or _is_markup(text, match):
            parts += [text[done : match.start()], " " if match[2].lower() in _BLOCK else ""]
            done = match.end()
    return "".join(parts) + text[done:]


def _paired(text: str, found: list[re.Match[str]]) -> set[int]:
    """Return the start offsets of HTML tags that form a pair; a <code> token has no partner."""
    paired: set[int] = set()
    waiting: dict[str, list[re.Match[str]]] = {}
    for match in found:
        name = match[2].lower()
        if name not in _HTML:
            continue
        if not match[1]:
            waiting.setdefault(name, []).append(match)
        elif opened := waiting.get(name):
            first = opened.pop()
            # "between <code> and </code>" mentions tokens; the tags of <b>bold</b> touch words.
            if name in _STANDS_ALONE or not (_is_apart(text, first) and _is_apart(text, match)):
                paired |= {first.start(), match.start()}
    return paired


def _is_apart(text: str, match: re.Match[str]) -> bool:
    around = text[match.start() - 1 : match.start()] + text[match.end() : match.end() + 1]
    return not around.strip(" .,;:!?")


def _is_markup(text: str, match: re.Match[str]) -> bool:
    """Return whether a tag without a partner is markup rather than words in angle brackets."""
    name, rest = match[2].lower(), match[3].strip(" /\t\r\n")
    # "a <b and c> d" is a comparison: words without a value are no attributes.
    if "=" in rest or (not rest and match[3]) or (name in _NEVER_TEXT and not rest):
        return True
    if name not in _HTML or rest:
        return False
    if _INSIDE_TAG.search(text, max(0, match.start() - 12), match.start()):
        return True
    return name in _WITHOUT_END or (name in _BLOCK and not _is_apart(text, match))


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
