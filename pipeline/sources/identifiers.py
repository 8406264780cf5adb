"""Parse and normalise identifiers of papers, authors and arXiv categories; always strings."""

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
_ORCID = r"\d{4}-\d{4}-\d{4}-\d{3}[\dX]"
_AT_ORCID = re.compile(
    rf"(?:(?:https?://)?(?:[a-z]+\.)?orcid\.org/|orcid(?:[ ]?id)?(?::[ ]?|[ ]))?(?P<id>{_ORCID})"
    r"/?(?:[?#]\S*)?",
    re.I | re.ASCII,
)
# https://info.arxiv.org/help/author_identifiers.html: warner_s_1, or the author's ORCID iD.
_AT_ARXIV = re.compile(
    rf"(?:https?://)?(?:[a-z]+\.)?arxiv\.org/a/(?P<id>[a-z]+(?:[_-][a-z]+)*_\d{{1,4}}|{_ORCID})"
    r"(?:\.(?:html|json|atom2?))?/?(?:[?#]\S*)?",
    re.I | re.ASCII,
)
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


@dataclass(frozen=True, slots=True)
class AuthorId:
    """An author by the id at a site with a public list of the papers: "orcid" or "arxiv"."""

    site: str
    id: str  # characters that need no escaping in a URL

    @property
    def is_mistyped(self) -> bool:
        """Return whether the id is an ORCID iD whose check digit is wrong (ISO 7064, MOD 11-2)."""
        if "_" in self.id:
            return False
        total = 0
        for digit in self.id[:-1].replace("-", ""):
            total = (total + int(digit)) * 2
        return "0123456789X"[(12 - total % 11) % 11] != self.id[-1]


def author_id(text: str) -> AuthorId | None:
    """Parse an ORCID iD, its URL, or the URL of an arXiv author page; None if it is none."""
    text = text.strip().strip("<>")
    if len(text) > 200:
        return None
    if found := _AT_ORCID.fullmatch(text):
        return AuthorId("orcid", found["id"].upper())
    if found := _AT_ARXIV.fullmatch(text):
        name = found["id"]
        return AuthorId("arxiv", name.lower() if "_" in name else name.upper())
    return None


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
