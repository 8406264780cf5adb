"""Write papers as BibTeX, RIS, CSL-JSON and Markdown."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Final
from urllib.parse import quote

from pipeline.domain import Paper
from pipeline.matching.tokens import STOP_WORDS
from pipeline.references import tex
from pipeline.rendering.formatting import clean
from pipeline.sources.identifiers import ArxivName, arxiv_name, doi
from pipeline.sources.text import GROUP

BIBTEX_AUTHORS: Final = 100  # at most, then "and others"; some papers have thousands
MARKDOWN_AUTHORS: Final = 10  # at most, then "et al."

Notes = Mapping[str, str]
"""One line of a reader's own for each paper, by its key."""


def bibtex(papers: Iterable[Paper], notes: Notes | None = None) -> str:
    """Return BibTeX entries in the form of arXiv's own export, with unique citation keys."""
    return "\n".join(
        _entry(key, paper, (notes or {}).get(paper.key, "")) for key, paper in _with_keys(papers)
    )


def _entry(key: str, paper: Paper, note: str) -> str:
    work = _Work.of(paper)
    names = [_tex_name(name) for name in paper.authors[:BIBTEX_AUTHORS]]
    if names and max(paper.author_count, len(paper.authors)) > len(names):
        names.append("others")
    fields = {
        "title": " ".join(map(_tex_word, clean(paper.title).split())),
        "author": " and ".join(names),
        "year": str(work.year or ""),
        "eprint": work.arxiv.id if work.arxiv else "",
        "archivePrefix": "arXiv" if work.arxiv else "",
        "primaryClass": tex.from_text("".join(paper.categories[:1])) if work.arxiv else "",
        "doi": "" if work.arxiv else re.sub(r"[{}\\%]", lambda sign: quote(sign[0]), work.doi),
        "url": work.url,
        "annote": tex.from_text(clean(note)),
    }
    lines = [f"  {name} = {{{value}}},\n" for name, value in fields.items() if value]
    return f"@misc{{{key},\n{''.join(lines)}}}\n"


def ris(papers: Iterable[Paper], notes: Notes | None = None) -> str:
    """Return RIS records, with CRLF."""
    return "".join(
        f"{tag}  - {clean(value)}\r\n"
        for paper in papers
        for tag, value in _tags(paper, (notes or {}).get(paper.key, ""))
        if value or tag == "ER"
    )


def _tags(paper: Paper, note: str) -> Iterator[tuple[str, str]]:
    work = _Work.of(paper)
    yield "TY", "GEN"
    yield "TI", paper.title
    for name in paper.authors:
        yield "AU", _name(name).inverted
    yield "PY", str(work.year or "")
    yield "AB", paper.abstract
    yield "DO", work.doi
    yield "UR", work.url
    yield "PB", "arXiv" if work.arxiv else ""
    for keyword in paper.keywords:
        yield "KW", keyword
    yield "N1", note
    yield "ER", ""


def csl_json(papers: Iterable[Paper], notes: Notes | None = None) -> str:
    """Return a JSON list of CSL items, as citation processors and Zotero read it."""
    items = [
        _item(key, paper, (notes or {}).get(paper.key, "")) for key, paper in _with_keys(papers)
    ]
    return json.dumps(items, ensure_ascii=False, indent=2) + "\n"


def _item(key: str, paper: Paper, note: str) -> dict[str, Any]:
    work = _Work.of(paper)
    item = {
        "id": key,
        "type": "article",  # CSL's type for preprints
        "title": clean(paper.title),
        "author": [_name(name).csl for name in paper.authors],
        "issued": {"date-parts": [[work.year]]} if work.year else None,
        "abstract": clean(paper.abstract),
        "DOI": work.doi,
        "URL": work.url,
        "number": f"arXiv:{work.arxiv.id}" if work.arxiv else "",
        "publisher": "arXiv" if work.arxiv else "",
        "keyword": clean(", ".join(paper.keywords)),
        "annote": clean(note),
    }
    return {name: value for name, value in item.items() if value}


def markdown(papers: Iterable[Paper], notes: Notes | None = None) -> str:
    """Return a Markdown list: "- [Title](url). Authors. Year. Note"."""
    return "".join(
        f"- {'. '.join(_sentences(paper, (notes or {}).get(paper.key, '')))}\n" for paper in papers
    )


def _sentences(paper: Paper, note: str) -> Iterator[str]:
    work = _Work.of(paper)
    title = _markdown(paper.title)
    url = re.sub(r"[()<>]", lambda sign: quote(sign[0]), work.url)
    yield f"[{title}]({url})" if url else title
    if names := ", ".join(map(_markdown, paper.authors[:MARKDOWN_AUTHORS])):
        yield f"{names} et al" if len(paper.authors) > MARKDOWN_AUTHORS else names
    year = f"{work.year}." if work.year else ""
    if last := " ".join(filter(None, (year, _markdown(note)))):
        yield last


def _markdown(text: str) -> str:
    return re.sub(r"[\\`*_{}\[\]<>#|~&]", r"\\\g<0>", clean(text))


# --- Identifiers --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Work:
    """How a paper is cited; a text is "" if unknown."""

    arxiv: ArxivName | None
    doi: str
    url: str
    year: int  # 0 if unknown: the paper has no day but `date.min`

    @classmethod
    def of(cls, paper: Paper) -> _Work:
        arxiv = arxiv_name(paper.key)
        if arxiv:
            issued = f"10.48550/arXiv.{arxiv.id}"
            return cls(arxiv, issued, arxiv.abstract_page, _year(arxiv))
        issued = doi(paper.key) or ""
        links = paper.links
        url = f"https://doi.org/{quote(issued, safe='/:;(),')}" if issued else ""
        url = url or links.abstract or links.pdf or ""
        day = paper.announced_on
        return cls(None, issued, url, day.year if day > date.min else 0)


def _year(name: ArxivName) -> int:
    """Return the year in which arXiv gave the id; arXiv began in 1991."""
    year = int(name.id.rpartition("/")[2][:2])
    return year + (1900 if year > 90 else 2000)


def year_of(paper: Paper) -> str:
    """Return the year in which a paper is cited; "" if unknown."""
    return str(_Work.of(paper).year or "")


# --- Citation keys ------------------------------------------------------------------------------

_LONGEST_WORD = 40
_ASCII = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "æ": "ae", "œ": "oe", "ð": "d", "þ": "th"})


def citation_key(paper: Paper) -> str:
    """Return the first family name, the year and the first word: lovelace2026analytical. ASCII."""
    family = _ascii(_name(paper.authors[0]).family.split()[-1:]) if paper.authors else ""
    words = [_ascii([word]) for word in paper.title.split()]
    word = next((word for word in words if word and word not in STOP_WORDS), "")
    year = _Work.of(paper).year or ""
    return f"{family[:_LONGEST_WORD] or 'paper'}{year}{word[:_LONGEST_WORD]}"


def _with_keys(papers: Iterable[Paper]) -> Iterator[tuple[str, Paper]]:
    """Yield each paper with its citation key, of which a second one ends with -2."""
    counts: dict[str, int] = {}
    for paper in papers:
        key = citation_key(paper)
        counts[key] = counts.get(key, 0) + 1
        yield (key if counts[key] == 1 else f"{key}-{counts[key]}"), paper


def _ascii(words: list[str]) -> str:
    folded = unicodedata.normalize("NFKD", "".join(words).casefold().translate(_ASCII))
    return "".join(letter for letter in folded if letter.isascii() and letter.isalnum())


# --- Names --------------------------------------------------------------------------------------

_SUFFIX = re.compile(r"(?:Jr|Sr|II|III|IV)\.?", re.I)
_IS_GROUP = re.compile(rf"\b{GROUP}", re.I)


@dataclass(frozen=True, slots=True)
class _Name:
    """Name of an author; a group has only a family name."""

    family: str
    given: str = ""
    suffix: str = ""
    is_group: bool = False

    @property
    def inverted(self) -> str:
        return ", ".join(filter(None, (self.family, self.given, self.suffix)))

    @property
    def csl(self) -> dict[str, str]:
        if self.is_group:
            return {"literal": self.family}
        parts = {"family": self.family, "given": self.given, "suffix": self.suffix}
        return {name: value for name, value in parts.items() if value}


def _name(name: str) -> _Name:
    """Split a name; a particle such as "van der" belongs to the family name."""
    name = clean(name)
    plain, *behind = [part.strip() for part in name.split(",")]
    suffix = behind.pop() if behind and _SUFFIX.fullmatch(behind[-1]) else ""
    if len(behind) > 1 or _IS_GROUP.search(name) or not plain:
        return _Name(name, is_group=True)
    if behind:
        return _Name(plain, behind[0], suffix)
    words = plain.split()
    start = len(words) - 1
    while start > 1 and words[start - 1].islower():
        start -= 1
    return _Name(" ".join(words[start:]), " ".join(words[:start]), suffix)


def _tex_name(name: str) -> str:
    parts = _name(name)
    written = [tex.from_text(part) for part in (parts.family, parts.suffix, parts.given) if part]
    if parts.is_group or re.search(r"(?i)(?:^|\s)(?:and|others)(?:\s|$)", name):
        return f"{{{tex.from_text(clean(name))}}}"
    return ", ".join(written)


def _tex_word(word: str) -> str:
    """Escape a word of a title; braces keep the capitals of BERT, which styles would lower."""
    written = tex.from_text(word)
    return f"{{{written}}}" if any(map(str.isupper, word[1:])) else written
