"""Profiles of the readers of one run: how much each would like a paper, and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from sqlalchemy import Connection

from pipeline.domain import Paper, Reason, ReasonKind
from pipeline.logs import set_aside
from pipeline.matching.profile import Profile, Terms, TermTable, author_keys, with_author
from pipeline.matching.semantic import ProfileVector, VectorTable, text
from pipeline.storage import embeddings, papers, reactions

LIKED_ENOUGH: Final = 0.04  # likeness from which a paper is sent that would not be otherwise
SIGNED_ENOUGH: Final = 0.11  # the same for an author of a liked paper: 0.1 for the author
LIKES_FOR_OUTSIDE: Final = 4  # likes from which a digest has papers outside the topics
NEAREST: Final = 30  # papers of a pool that are compared by all their terms


@dataclass(frozen=True, slots=True)
class ReaderProfile:
    """What one reader likes, for the papers of this run."""

    profile: Profile
    outside: bool  # whether papers outside the topics may be sent
    liked: Sequence[tuple[str, Sequence[int]]]  # title and heavy terms of the newest liked papers
    vector: ProfileVector | None  # of the semantic model `model`
    model: str


class Profiles:
    """Profiles of the readers in a chunk, and the terms of the papers of a run."""

    def __init__(self) -> None:
        self._table = TermTable()
        self._vectors: defaultdict[str, VectorTable] = defaultdict(VectorTable)  # by model
        self._authors: dict[int, Mapping[str, str]] = {}
        self._papers_of: defaultdict[str, list[int]] = defaultdict(list)  # by author key
        self._readers: dict[int, ReaderProfile] = {}
        self.set_pool(())

    def __getitem__(self, subscriber_id: int) -> ReaderProfile | None:
        return self._readers.get(subscriber_id)

    def load_readers(self, conn: Connection, subscriber_ids: Sequence[int]) -> None:
        """Load the profiles of a chunk, in place of the last one."""
        self._readers = {}
        stored = reactions.profiles_in_use(conn, subscriber_ids)
        for id_, one in stored.items():
            try:
                self._readers[id_] = ReaderProfile(
                    Profile.load(one.terms, one.authors),
                    one.outside and one.likes >= LIKES_FOR_OUTSIDE,
                    one.liked,
                    ProfileVector.load(one.vector) if one.vector else None,
                    one.vector_model,
                )
            except ValueError as error:  # without it, the digest has the usual order
                set_aside("profile", id_, error)

    def load_papers(self, conn: Connection, found: Collection[Paper]) -> None:
        """Load the terms, authors and vectors of papers, once in a run."""
        self._load_vectors(conn, found)
        new = {paper.id: paper for paper in found if paper.id not in self._authors}
        terms = {}
        for id_, dumped in papers.terms_of(conn, new).items():
            try:
                terms[id_] = Terms.load(dumped)
            except ValueError as error:
                set_aside("terms", id_, error)
        self._table.add(terms)
        for id_, paper in new.items():
            self._authors[id_] = author_keys(paper.authors)
            for key in self._authors[id_]:
                self._papers_of[key].append(id_)

    def _load_vectors(self, conn: Connection, found: Collection[Paper]) -> None:
        """Load the vectors of the models by which these readers have one.

        After a change of the model new papers have none by the former one, and add nothing.
        """
        for model in {one.model for one in self._readers.values() if one.vector}:
            table = self._vectors[model]
            keys = {p.id: embeddings.key(text(p)) for p in found if p.id not in table}
            stored = embeddings.load_vectors(conn, model, keys.values())
            table.add(keys, {id_: stored[key] for id_, key in keys.items() if key in stored})

    def likeness(self, reader: ReaderProfile, ids: Sequence[int]) -> dict[int, float]:
        """Return how much the reader would like papers, by id; 0 if nothing is known of one."""
        likeness = self._table.likeness(reader.profile, self._table.rows(ids)).tolist()
        found = dict(zip(ids, likeness, strict=True))
        if reader.vector is not None:
            for id_, added in self._vectors[reader.model].likeness(reader.vector, ids).items():
                found[id_] += added
        for id_ in self._by_known_authors(reader) & found.keys():
            found[id_] = with_author(found[id_])
        return found

    def set_pool(self, found: Sequence[Paper]) -> None:
        """Choose the papers from which `liked_in_pool` chooses; they must be loaded."""
        self._pool = np.array([paper.id for paper in found], np.int64)
        self._pool_place = {paper.id: place for place, paper in enumerate(found)}
        self._pool_batches = np.array([paper.batch for paper in found], np.int64)
        self._pool_terms = self._table.pool(self._table.rows(self._pool.tolist()))

    def liked_in_pool(
        self, reader: ReaderProfile, after_batch: int, known: Collection[int]
    ) -> list[tuple[float, int]]:
        """Return papers of the pool that the reader would like: likeness and id, best first.

        Only those of batches after `after_batch`, without `known`.
        """
        is_new = self._pool_batches > after_batch
        is_new[[self._pool_place[id_] for id_ in self._pool_place.keys() & known]] = False
        nearest = self._table.nearest(reader.profile, self._pool_terms, is_new, NEAREST)
        ids = set(self._pool[nearest].tolist())
        signed = {
            id_
            for id_ in self._by_known_authors(reader) & self._pool_place.keys()
            if is_new[self._pool_place[id_]]
        }
        likeness = self.likeness(reader, sorted(ids | signed))
        liked = (
            (value, id_)
            for id_, value in likeness.items()
            if value >= (SIGNED_ENOUGH if id_ in signed else LIKED_ENOUGH)
        )
        return sorted(liked, key=lambda one: (-one[0], one[1]))

    def _by_known_authors(self, reader: ReaderProfile) -> set[int]:
        known = reader.profile.authors.keys() & self._papers_of.keys()
        return {id_ for key in known for id_ in self._papers_of[key]}

    def reason(self, reader: ReaderProfile, paper: int) -> Reason | None:
        """Return an author of a liked paper, else the liked paper that is most similar."""
        if name := reader.profile.known(self._authors.get(paper, {})):
            return Reason(name, kind=ReasonKind.LIKED_AUTHOR)
        if paper not in self._table:
            return None
        terms = self._table.terms(paper)
        weights = dict(zip(terms.places.tolist(), terms.weights.tolist(), strict=True))
        title, likeness = "", 0.0
        for other, places in reader.liked:
            common = sum(weights.get(place, 0.0) for place in places)
            if common > likeness:
                title, likeness = other, common
        return Reason(title, kind=ReasonKind.LIKED) if title else None
