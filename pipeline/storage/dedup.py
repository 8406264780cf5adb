"""Deduplicate sightings that announce the same paper, and merge their content. Pure."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from typing import Any

from pipeline.domain import Sighting
from pipeline.sources import SOURCES


def title_key(title: str) -> str:
    """Return a hash of 32 hex digits that ignores case, accents, punctuation and spacing."""
    folded = unicodedata.normalize("NFKD", title).casefold()
    letters = "".join(c for c in folded if c.isalnum())
    return hashlib.sha256((letters or title).encode()).hexdigest()[:32]


def author_key(authors: Sequence[str]) -> str:
    """Return the first author's surname and initial, without accents; "" if there is none."""
    if not authors:
        return ""
    name = unicodedata.normalize("NFKD", authors[0]).casefold()
    surname_first = "," in name
    words = re.findall(r"[^\W\d_]+", "".join(c for c in name if not unicodedata.combining(c)))
    if not words:
        return ""
    surname, given = (words[0], words[1:]) if surname_first else (words[-1], words[:-1])
    return f"{surname} {given[0][0]}" if given else surname


def paper_key(arxiv_id: str | None, doi: str | None, title: str) -> str:
    """Return the public id of a paper: its arXiv id, "doi:...", or "title:" and 16 hex digits.

    `title` is the `title_key`.
    """
    if arxiv_id:
        return arxiv_id
    return f"doi:{doi}" if doi else f"title:{title[:16]}"


def with_arxiv_id(sighting: Sighting) -> Sighting:
    """Replace a DOI that arXiv minted (10.48550/arxiv.*) by the arXiv id that it contains."""
    prefix = "10.48550/arxiv."
    if sighting.doi and sighting.doi.startswith(prefix):
        named = re.sub(r"v\d+$", "", sighting.doi.removeprefix(prefix))
        return replace(sighting, arxiv_id=sighting.arxiv_id or named, doi=None)
    return sighting


@dataclass(slots=True)
class KnownPaper:
    """A stored paper in memory, to compare with a chunk of sightings and to merge them into."""

    id: int
    arxiv_id: str | None
    doi: str | None
    title_key: str
    author_key: str
    version: int
    content: dict[str, Any]
    upvotes: int | None
    comments: int | None
    stars: int | None
    announced_on: date
    batch: int
    touched_batch: int
    sources: set[str] = field(default_factory=set)


def same_work(
    sighting: Sighting, candidates: Sequence[KnownPaper], seen: KnownPaper | None = None
) -> list[KnownPaper]:
    """Return the papers of `candidates` that this sighting announces, best evidence first.

    `candidates` are the papers with an equal arXiv id, DOI or title, and `seen`: the paper that the
    same source announced with the same source id before. If several are returned, they are
    duplicates of one work, to be merged. Papers with different arXiv ids are never the same work.
    """
    fits = [
        paper
        for paper in candidates
        if not (paper.arxiv_id and sighting.arxiv_id and paper.arxiv_id != sighting.arxiv_id)
    ]
    by_arxiv = [p for p in fits if sighting.arxiv_id and p.arxiv_id == sighting.arxiv_id]
    by_name = [p for p in fits if seen is not None and p.id == seen.id]
    by_doi = [p for p in fits if sighting.doi and p.doi == sighting.doi]
    found = {p.id: p for p in (*by_arxiv, *by_name, *by_doi)}
    if found:
        return _one_arxiv_id(list(found.values()))
    return _by_title(sighting, fits, candidates)[:1]


def _by_title(
    sighting: Sighting, fits: Sequence[KnownPaper], known: Sequence[KnownPaper]
) -> list[KnownPaper]:
    key, author = title_key(sighting.title), author_key(sighting.authors)
    equal = sorted((p for p in fits if p.title_key == key), key=lambda paper: paper.id)
    by_author = [p for p in equal if author and p.author_key == author]
    if by_author:
        return by_author
    has_id = bool(sighting.arxiv_id or sighting.doi)
    candidates = [p for p in equal if not (p.arxiv_id or p.doi)] if has_id else equal
    only_one = sum(p.title_key == key for p in known) == 1
    if not only_one or not candidates:
        return []
    (candidate,) = candidates
    two_authors = author and candidate.author_key and author != candidate.author_key
    return [] if two_authors else [candidate]


def _one_arxiv_id(found: list[KnownPaper]) -> list[KnownPaper]:
    """Return the papers without an arXiv id or with the first one: they can be one work."""
    ids = [p.arxiv_id for p in found if p.arxiv_id]
    return [p for p in found if not p.arxiv_id or p.arxiv_id == ids[0]]


def content_of(sighting: Sighting) -> dict[str, Any]:
    return {
        "title": sighting.title,
        "abstract": sighting.abstract,
        "authors": list(sighting.authors),
        "author_count": sighting.author_count or len(sighting.authors),
        "categories": list(sighting.categories),
        "keywords": list(sighting.keywords),
        "links": {name: link for name, link in asdict(sighting.links).items() if link},
        "note": sighting.note,
        "withdrawn": sighting.withdrawn,
        "words_from": sighting.source,
        "words_version": sighting.version,
        "announced": {sighting.source: _iso(sighting.announced_on)},
        **({"organization": sighting.organization} if sighting.organization else {}),
    }


def _iso(day: date | None) -> str | None:
    return None if day is None else day.isoformat()


def merged(content: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Return `content` merged with `theirs`, which wins if it is newer or more authoritative.

    `theirs` is `content_of` a sighting, or the content of a duplicate paper. Missing fields are
    filled; categories, keywords and links are united; each source keeps its earliest announcement.
    """
    result = dict(content)
    if _knows_better(content, theirs):
        for name in ("title", "abstract", "authors", "author_count", "note"):
            result[name] = theirs[name] or content[name]
        result["withdrawn"] = theirs["withdrawn"]
        result["words_from"] = theirs["words_from"]
        result["words_version"] = _newest_version(content, theirs)
    for name in ("abstract", "authors", "author_count", "note"):
        result[name] = result[name] or theirs[name]
    result["categories"] = _union(
        theirs["categories"] if theirs["words_from"] == "arxiv" else (),
        content["categories"],
        theirs["categories"],
    )
    result["keywords"] = _union(content["keywords"], theirs["keywords"])
    result["links"] = content["links"] | {
        name: link
        for name, link in theirs["links"].items()
        if name not in content["links"] or theirs["words_from"] == content["words_from"]
    }
    if organization := theirs.get("organization"):
        result["organization"] = organization
    result["announced"] = {
        source: _earliest(content["announced"].get(source), theirs["announced"].get(source))
        for source in sorted({*content["announced"], *theirs["announced"]})
    }
    return result


def _earliest(*days: str | None) -> str | None:
    return min((day for day in days if day), default=None)


def _knows_better(content: dict[str, Any], theirs: dict[str, Any]) -> bool:
    if content["words_from"] == theirs["words_from"]:
        ours, their_version = content["words_version"], theirs["words_version"]
        return their_version is None or ours is None or their_version >= ours
    return _authority(theirs["words_from"]) < _authority(content["words_from"])


def _newest_version(content: dict[str, Any], theirs: dict[str, Any]) -> int | None:
    """Return the version of `theirs`; if it has none, the known one of the same source.

    Version numbers of different sources are not comparable.
    """
    same_source = content["words_from"] == theirs["words_from"]
    version: int | None = theirs["words_version"]
    return version or (content["words_version"] if same_source else None)


def _authority(source: str) -> int:
    """Return the place of a source in the order of authority; unlisted sources come last."""
    return list(SOURCES).index(source) if source in SOURCES else len(SOURCES)


def _union(*lists: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(word for words in lists for word in words))
