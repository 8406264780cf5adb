"""Parse and normalise paper identifiers (arXiv ids, DOIs, arXiv categories); always strings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

# https://info.arxiv.org/help/arxiv_identifier.html: YYMM.NNNN until 2014, YYMM.NNNNN since 2015,
# archive/YYMMNNN before April 2007 (with an optional subject class, which is not part of the name).
_NEW = r"\d{2}(?:0[1-9]|1[0-2])\.\d{4,5}"
_OLD = r"[a-z]+(?:-[a-z]+)?(?:\.[A-Z]{2})?/\d{7}"
_ARXIV = re.compile(
    rf"(?:oai:arxiv\.org:|arxiv:|(?:https?://)?(?:[a-z]+\.)?arxiv\.org/(?:abs|pdf|html|format)/"
    rf"|(?:https?://)?(?:www\.)?huggingface\.co/papers/)?"
    rf"(?P<id>{_NEW}|{_OLD})(?:v(?P<version>[1-9]\d{{0,3}}))?(?:\.pdf)?/?",
    re.I | re.ASCII,
)
_DOI = re.compile(r"(?:https?://(?:dx\.)?doi\.org/|doi:\s*)?(?P<doi>10\.\d{4,9}/\S+)", re.I)
_CATEGORY = re.compile(r"[a-z][a-z-]*(?:\.[A-Za-z][A-Za-z-]*)?")


@dataclass(frozen=True, slots=True)
class ArxivName:
    """An arXiv id ("2503.02130", "astro-ph/0601001"), and its version if one was given."""

    id: str
    version: int | None = None

    @property
    def abstract_page(self) -> str:
        return f"https://arxiv.org/abs/{self.id}"

    @property
    def pdf(self) -> str:
        return f"https://arxiv.org/pdf/{self.id}"


def arxiv_name(text: object) -> ArxivName | None:
    """Parse an arXiv id, a URL of its pages or an OAI identifier; return None if it is none.

    Numbers return None: 2503.02130 as a number has already lost its last zero.
    """
    if not isinstance(text, str) or len(text) > 200:
        return None
    match = _ARXIV.fullmatch(text.strip())
    if match is None:
        return None
    version = int(match["version"]) if match["version"] else None
    return ArxivName(_without_subject(match["id"].lower()), version)


def doi(text: object) -> str | None:
    """Return a DOI in lower case (for comparison) without the resolver; None if it is none."""
    if not isinstance(text, str) or len(text) > 300:
        return None
    match = _DOI.fullmatch(unquote(text.strip()).rstrip(".,;"))
    if match is None or not match["doi"].isprintable():
        return None
    return match["doi"].lower()


def arxiv_categories(names: object) -> tuple[str, ...]:
    """Return arXiv's own categories, deduplicated and in order, without MSC and ACM classes.

    Only the first 100 names are looked at; return () if `names` is no list or tuple.
    """
    if not isinstance(names, (list, tuple)):
        return ()
    candidates = (n for n in names[:100] if isinstance(n, str) and len(n) < 40)
    return tuple(dict.fromkeys(n for n in candidates if _CATEGORY.fullmatch(n)))


def _without_subject(name: str) -> str:
    """Remove the subject class of an old id: math.GT/0309136 becomes math/0309136."""
    archive, slash, number = name.partition("/")
    return f"{archive.partition('.')[0]}/{number}" if slash else name
