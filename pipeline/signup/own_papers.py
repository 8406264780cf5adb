"""Papers that a reader brings: what a list says about the reader, as reactions to be stored.

A list is read without storing anything. Stored papers are reactions with `is_own`, liked like the
papers of a digest; those that the archive has are linked to it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, Engine

from pipeline.domain import Liking, Paper
from pipeline.matching import profile
from pipeline.matching.corpus import CorpusStatistics, Readable
from pipeline.matching.match import PaperText
from pipeline.matching.profile import Terms
from pipeline.references import Reference
from pipeline.signup import reactions as learning
from pipeline.signup.choices import paper_as_json
from pipeline.storage import papers, reactions
from pipeline.storage.database import retry_transaction
from pipeline.storage.dedup import author_key, title_key
from pipeline.storage.reactions import Reaction

MOST_OWN: Final = 300  # stored of one reader
MOST_REQUESTED: Final = 100  # in a request, which a stranger may have made
LARGEST_REQUESTED: Final = 150_000  # octets of JSON, of all of them together
AUTHORS: Final = 10  # first ones, and the last
TERMS: Final = 80  # heaviest ones that a request has of each paper; the archive has all
TELLING: Final = 12  # terms that name what each paper is about, in a request the first ones
TELLING_REQUESTED: Final = 8
COMPARED: Final = 40  # heaviest terms of each paper, of which those that others share come first
LONGEST_TITLE, LONGEST_NAME = 300, 100


@dataclass(frozen=True, slots=True)
class OwnPapers:
    """Papers of a list as they would be stored: the newest ones, newest first."""

    reactions: tuple[Reaction, ...]
    texts: tuple[Readable, ...]  # of the same papers
    total: int  # papers of the list, also those that would not be stored
    known: int  # of them, that the archive has
    unknown: int  # given by an id alone that the archive does not have: nothing to learn from

    @property
    def requested(self) -> tuple[Reaction, ...]:
        """Return the first papers, as a request stores them."""
        found: list[Reaction] = []
        size = 0
        for one in self.reactions[:MOST_REQUESTED]:
            small = replace(
                one,
                title=one.title[:LONGEST_TITLE],
                authors=tuple(name[:LONGEST_NAME] for name in one.authors),
                terms=_heaviest(one.terms),
                telling=one.telling[:TELLING_REQUESTED],
            )
            size += len(json.dumps(paper_as_json(small)))
            if size > LARGEST_REQUESTED:
                break
            found.append(small)
        return tuple(found)


def read(
    conn: Connection,
    entries: Sequence[Reference],
    corpus: CorpusStatistics,
    now: datetime,
    *,
    most: int = MOST_OWN,
) -> OwnPapers:
    """Return the papers of a list, those of the archive linked to it. Nothing is stored.

    `corpus` weighs the terms of a paper that has none stored, at most `most` papers.
    """
    newest = sorted(entries, key=lambda one: -(one.year or 0))
    linked = _linked(conn, newest)
    stored = papers.terms_of(conn, (paper.id for paper in linked.values()))
    kept: dict[str, Reference] = {}  # one of each paper
    for entry in newest:
        if entry.title or entry.key in linked:
            kept.setdefault(linked[entry.key].key if entry.key in linked else entry.key, entry)
    used = [(entry, linked.get(entry.key)) for entry in [*kept.values()][: max(0, most)]]
    texts = [paper or _text(entry) for entry, paper in used]
    found = [
        _reaction(entry, paper, text, stored, corpus, now)
        for (entry, paper), text in zip(used, texts, strict=True)
    ]
    return OwnPapers(
        _with_shared_terms(found),
        tuple(texts),
        total=len(kept),
        known=len({paper.key for paper in linked.values()}),
        unknown=sum(not (entry.title or entry.key in linked) for entry in newest),
    )


def add(conn: Connection, subscriber_id: int, own: Iterable[Reaction], now: datetime) -> int:
    """Store papers of a reader, whose row is locked, and learn from them; return how many are new.

    Nothing is removed or changed: a paper that is one of the reader's own stays as it is, one that
    the reader disliked stays disliked. At most `MOST_OWN` are stored in all.
    """
    known = reactions.of_reader(conn, subscriber_id)
    by_key = {one.key: one for one in known}
    by_id = {one.paper_id: one for one in known if one.paper_id}
    room = MOST_OWN - sum(one.is_own for one in known)
    added = 0
    for one in _relinked(conn, list(own)):
        before = by_id.get(one.paper_id or 0) or by_key.get(one.key)
        if added >= room:
            break
        if before and (before.is_own or before.liking is Liking.LESS):
            continue
        at = before.at if before and before.liking is Liking.MORE else now
        stored = replace(before or one, is_own=True, liking=Liking.MORE, at=at)
        reactions.put(conn, subscriber_id, stored)
        by_key[stored.key] = stored
        added += 1
    if added:
        learning.learn_anew(conn, subscriber_id, reactions.profile_of(conn, subscriber_id), now)
    return added


@retry_transaction
def remove(engine: Engine, subscriber_id: int, key: str, now: datetime) -> None:
    """Remove a paper from a reader's own ones, and what was learned from it; idempotent.

    Its place in the reader's list stays. Raise NotFoundError if the reader is not active.
    """
    with engine.begin() as conn:
        learning.active_subscriber(conn, subscriber_id, now)
        own = [one for one in reactions.of_reader(conn, subscriber_id) if one.is_own]
        for one in own:
            if one.key == key:
                cleared = replace(one, liking=Liking.NEITHER, is_own=False)
                reactions.put(conn, subscriber_id, cleared)
                stored = reactions.profile_of(conn, subscriber_id)
                learning.learn_anew(conn, subscriber_id, stored, now)


def _with_shared_terms(found: Sequence[Reaction]) -> tuple[Reaction, ...]:
    """Return papers with the first `TELLING` terms, those that several papers share first."""
    counts = Counter(term for one in found for term in {stems for stems, _ in one.telling})
    ordered = (sorted(one.telling, key=lambda term: counts[term[0]] < 2) for one in found)
    return tuple(
        replace(one, telling=tuple(terms[:TELLING]))
        for one, terms in zip(found, ordered, strict=True)
    )


# --- Papers of the archive ----------------------------------------------------------------------


def _linked(conn: Connection, entries: Sequence[Reference]) -> dict[str, Paper]:
    """Return the papers of the archive by `Reference.key`; a title needs the same author."""
    titles = {entry.key: title_key(entry.title) for entry in entries if entry.title}
    found = papers.identified(
        conn,
        arxiv_ids=[entry.arxiv_id for entry in entries if entry.arxiv_id],
        dois=[entry.doi for entry in entries if entry.doi],
        title_keys=list(titles.values()),
    )
    linked: dict[str, Paper] = {}
    for entry in entries:
        by_id = found.get(entry.arxiv_id or "") or found.get(entry.doi or "")
        by_title = found.get(titles.get(entry.key, ""))
        if by_title and not _may_be_same(entry, by_title):
            by_title = None
        if paper := by_id or by_title:
            linked[entry.key] = paper
    return linked


def _may_be_same(entry: Reference, paper: Paper) -> bool:
    """Return whether a paper of equal title can be that of the list: ids and authors agree."""
    has_other_id = entry.arxiv_id and ":" not in paper.key and paper.key != entry.arxiv_id
    authors = {author_key(entry.authors), author_key(paper.authors)} - {""}
    return not has_other_id and len(authors) < 2


def _relinked(conn: Connection, own: Sequence[Reaction]) -> list[Reaction]:
    """Return papers of a request with the ids and terms that the archive has for their keys."""
    names = [one.key for one in own]
    found = papers.identified(
        conn,
        arxiv_ids=[name for name in names if ":" not in name],
        dois=[name.removeprefix("doi:") for name in names if name.startswith("doi:")],
    )
    linked = {one.key: found.get(one.key.removeprefix("doi:")) for one in own}
    stored = papers.terms_of(conn, [paper.id for paper in linked.values() if paper])
    return [
        replace(one, key=paper.key, paper_id=paper.id, terms=stored.get(paper.id, one.terms))
        if (paper := linked[one.key])
        else replace(one, paper_id=None)
        for one in own
    ]


def _text(entry: Reference) -> PaperText:
    return PaperText(entry.key, entry.title, entry.abstract, entry.authors, keywords=entry.keywords)


def _reaction(
    entry: Reference,
    paper: Paper | None,
    text: Readable,
    stored: Mapping[int, bytes],
    corpus: CorpusStatistics,
    now: datetime,
) -> Reaction:
    dumped = stored.get(paper.id) if paper else None
    terms, telling = profile.terms_with_names(text, corpus, COMPARED)
    return Reaction(
        key=paper.key if paper else entry.key,
        paper_id=paper.id if paper else None,
        title=text.title,
        authors=(*text.authors[:AUTHORS], *text.authors[AUTHORS:][-1:]),
        terms=dumped or terms.dump(),
        telling=tuple(telling),
        at=now,
        liking=Liking.MORE,
        is_own=True,
        year=paper.announced_on.year if paper else entry.year,
    )


def _heaviest(dumped: bytes) -> bytes:
    terms = Terms.load(dumped)
    return Terms(terms.places[:TERMS], terms.weights[:TERMS], terms.common).dump()
