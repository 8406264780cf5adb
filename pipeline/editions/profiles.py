"""Profiles of the readers of one run: how much each would like a paper, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from sqlalchemy import Connection

from pipeline.domain import Paper, Reason, ReasonKind
from pipeline.logs import set_aside
from pipeline.matching.profile import SAME_AUTHOR, Profile, Terms, TermTable, author_keys
from pipeline.storage import papers, reactions

LIKED_ENOUGH: Final = 0.04  # likeness from which a paper is sent that would not be otherwise
LIKES_FOR_OUTSIDE: Final = 4  # likes from which a digest has papers outside the topics
EXPLAINED_BY: Final = 30  # newest liked papers, one of which is named


@dataclass(frozen=True, slots=True)
class ReaderProfile:
    """What one reader likes, for the papers of this run."""

    profile: Profile
    outside: bool  # whether papers outside the topics may be sent
    liked: tuple[tuple[str, Terms], ...]  # title and terms of the newest liked papers


class Profiles:
    """Profiles of the readers in a chunk, and the terms of the papers of a run."""

    def __init__(self) -> None:
        self._table = TermTable()
        self._missing: set[int] = set()  # papers without stored terms
        self._authors: dict[int, Mapping[str, str]] = {}
        self._readers: dict[int, ReaderProfile] = {}

    def __getitem__(self, subscriber_id: int) -> ReaderProfile | None:
        return self._readers.get(subscriber_id)

    def load_readers(self, conn: Connection, subscriber_ids: Sequence[int]) -> None:
        """Load the profiles of a chunk, in place of the last one."""
        self._readers = {}
        stored = reactions.profiles_in_use(conn, subscriber_ids)
        liked = reactions.liked_by(conn, list(stored), EXPLAINED_BY)
        for id_, one in stored.items():
            try:
                self._readers[id_] = ReaderProfile(
                    Profile.load(one.terms, one.authors),
                    one.outside and one.likes >= LIKES_FOR_OUTSIDE,
                    tuple((title, Terms.load(terms)) for title, terms in liked[id_]),
                )
            except ValueError as error:  # without it, the digest has the usual order
                set_aside("profile", id_, error)

    def load_papers(self, conn: Connection, found: Iterable[Paper]) -> None:
        """Load the terms and authors of papers, once in a run."""
        new = {paper.id: paper for paper in found if paper.id not in self._authors}
        terms = {}
        for id_, dumped in papers.terms_of(conn, new).items():
            try:
                terms[id_] = Terms.load(dumped)
            except ValueError as error:
                set_aside("terms", id_, error)
        self._table.add(terms)
        self._authors |= {id_: author_keys(paper.authors) for id_, paper in new.items()}

    def likeness(self, reader: ReaderProfile, ids: Sequence[int]) -> dict[int, float]:
        """Return how much the reader would like papers, by id; 0 if nothing is known of one."""
        found = dict(zip(ids, self._table.likeness(reader.profile, ids).tolist(), strict=True))
        if reader.profile.authors:
            for id_ in ids:
                if reader.profile.known(self._authors.get(id_, {})):
                    found[id_] += SAME_AUTHOR
        return found

    def reason(self, reader: ReaderProfile, paper: int) -> Reason | None:
        """Return an author of a liked paper, else the liked paper that is most similar."""
        if name := reader.profile.known(self._authors.get(paper, {})):
            return Reason(name, kind=ReasonKind.LIKED_AUTHOR)
        if not reader.liked or paper not in self._table:
            return None
        terms = self._table.terms(paper)
        weights = dict(zip(terms.places.tolist(), terms.weights.tolist(), strict=True))
        common = [_likeness(weights, one) for _, one in reader.liked]
        best = int(np.argmax(common))
        return Reason(reader.liked[best][0], kind=ReasonKind.LIKED) if common[best] > 0 else None


def _likeness(weights: Mapping[int, float], other: Terms) -> float:
    pairs: Iterable[tuple[int, float]]
    pairs = zip(other.places.tolist(), other.weights.tolist(), strict=True)
    return sum((weights.get(place, 0.0) * weight for place, weight in pairs), 0.0)
