"""Read the answers of ORCID and arXiv about an author's papers, as if they had been pasted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Final

from pipeline.domain import Sighting
from pipeline.references.reading import MOST_ENTRIES, Reference, merged, reference_of
from pipeline.sources.arxiv_formats import read_xml
from pipeline.sources.documents import DocumentError, parse_json
from pipeline.sources.identifiers import AuthorId
from pipeline.sources.latex import formulas_within
from pipeline.sources.text import clean_title

_FORMULA_SECONDS: Final = 0.2
_MOST_SUMMARIES: Final = 10  # of one work, one for each source that added it; all name the work
_OWN: Final = frozenset({"self", "version-of"})  # relations of an id that identifies the work
_ID_TYPES: Final = frozenset({"arxiv", "doi"})


def read_works(author: AuthorId, answer: bytes) -> tuple[Reference, ...]:
    """Return the papers in an answer, at most `MOST_ENTRIES`, without duplicates.

    ORCID's list of works (API v3.0) has titles, ids and years; arXiv's Atom feed also has authors
    and abstracts. Raise DocumentError if the answer is something else.
    """
    found = _orcid_works(answer) if author.site == "orcid" else _arxiv_papers(answer)
    with formulas_within(_FORMULA_SECONDS):
        return merged(islice(found, MOST_ENTRIES))


def _arxiv_papers(answer: bytes) -> Iterator[Reference]:
    yield from map(_from_sighting, read_xml(answer, whole=True).sightings)


def _from_sighting(one: Sighting) -> Reference:
    year = one.announced_on.year if one.announced_on else None
    return Reference(one.title, one.authors, one.abstract, year, one.arxiv_id, one.doi)


def _orcid_works(answer: bytes) -> Iterator[Reference]:
    works = parse_json(answer)
    if not isinstance(works, dict) or not isinstance(works.get("group"), list):
        raise DocumentError("is no list of works")
    for group in works["group"]:
        if work := _from_group(group):
            yield work


def _from_group(group: object) -> Reference | None:
    """Return one work; each source that added it to the record has a summary in its group."""
    summaries = list(islice(_objects(_at(group, "work-summary")), _MOST_SUMMARIES))
    titles = (_text_at(one, "title", "title", "value") for one in summaries)
    years = (_text_at(one, "publication-date", "year", "value") for one in summaries)
    return reference_of(
        title=clean_title(next(filter(None, titles), "")),
        year=next(filter(None, years), ""),
        ids=[text for one in (group, *summaries) for text in _ids(one)],
    )


def _ids(work: object) -> Iterator[str]:
    """Yield the DOIs and arXiv ids of a work, not those of the book or series that it is in."""
    for one in _objects(_at(work, "external-ids", "external-id")):
        kind = _text_at(one, "external-id-type").lower()
        relation = _text_at(one, "external-id-relationship").lower() or "self"
        if kind in _ID_TYPES and relation in _OWN:
            yield _text_at(one, "external-id-normalized", "value")
            yield _text_at(one, "external-id-value")


def _at(value: object, *path: str) -> Any:
    """Return the value at a path of nested objects; None if there is none."""
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _text_at(value: object, *path: str) -> str:
    found = _at(value, *path)
    return found.strip() if isinstance(found, str) else ""


def _objects(value: object) -> Iterable[dict[str, Any]]:
    return (one for one in value if isinstance(one, dict)) if isinstance(value, list) else ()
