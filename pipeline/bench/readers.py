"""Quality of a learned order: rank the papers of the day on which a person submitted one.

The likes of a person are their earlier submissions. See docs/matching.md for the results.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pipeline.bench.quality import rows
from pipeline.errors import PaperboyError
from pipeline.matching.corpus import statistics
from pipeline.matching.match import PaperText
from pipeline.matching.profile import (
    SAME_AUTHOR,
    Opinion,
    Terms,
    TermTable,
    author_keys,
    learn,
    terms_of,
)

Scores = npt.NDArray[np.float64]

LIKED: Final = ((1, 1), (2, 3), (4, 6), (7, 12), (13, 100))  # number of earlier submissions
REACTIONS: Final = (2, 4, 10, 30)  # newest submissions that are known, of at least as many
FIRST: Final = 3  # places of hit@3


@dataclass(frozen=True, slots=True)
class DatedPaper:
    """A paper and the day on which it was listed."""

    text: PaperText
    day: date
    upvotes: int


@dataclass(frozen=True, slots=True)
class Episode:
    """A day on which a person submitted papers, and their earlier ones, oldest first."""

    person: str
    day: date
    liked: tuple[DatedPaper, ...]
    listed: tuple[DatedPaper, ...]  # all papers of the day
    submitted: frozenset[str]  # ids, some of `listed`


@dataclass(frozen=True, slots=True)
class Quality:
    """Means over people of the mean of their episodes, 0 to 1."""

    order: str
    liked: str  # "4-6", or "newest 4"
    people: int
    episodes: int
    auc: float
    mrr: float
    hit3: float

    def as_json(self) -> dict[str, Any]:
        return {
            "order": self.order,
            "liked": self.liked,
            "people": self.people,
            "episodes": self.episodes,
            "auc": round(self.auc, 3),
            "mrr": round(self.mrr, 3),
            "hit3": round(self.hit3, 3),
        }


Order = Callable[[Episode], Scores]


def measure(folder: Path) -> list[Quality]:
    """Return the quality of each order. Raise PaperboyError if a file is missing or malformed."""
    try:
        papers = _papers(folder)
        episodes = list(_episodes(folder, papers))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PaperboyError(
            f"{folder} is not in the form of docs/matching.md: {error!r}"
        ) from error
    known = _Known(papers)
    orders: Mapping[str, Order] = {
        "upvotes": lambda one: np.array([float(paper.upvotes) for paper in one.listed]),
        "terms": known.likeness,
        "people": known.shares_author,
        "terms and people": lambda one: (
            known.likeness(one) + SAME_AUTHOR * known.shares_author(one)
        ),
    }
    found = []
    for first, last in LIKED:
        some = [one for one in episodes if first <= len(one.liked) <= last]
        label = str(first) if first == last else f"{first}-{last}"
        found += [_quality(name, label, some, order) for name, order in orders.items()]
    for most in REACTIONS:
        some = [_newest(one, most) for one in episodes if len(one.liked) >= most]
        found += [_quality(name, f"newest {most}", some, order) for name, order in orders.items()]
    return [one for one in found if one.episodes]


class _Known:
    """The terms and authors of all papers, and the profile of each episode."""

    def __init__(self, papers: Mapping[str, DatedPaper]) -> None:
        corpus = statistics(paper.text for paper in papers.values())
        self._terms = {id_: terms_of(paper.text, corpus) for id_, paper in papers.items()}
        self._numbers = {id_: number for number, id_ in enumerate(papers)}
        self._table = TermTable({self._numbers[id_]: one for id_, one in self._terms.items()})
        self._authors = {id_: author_keys(paper.text.authors) for id_, paper in papers.items()}
        self._listed: defaultdict[date, list[str]] = defaultdict(list)
        for id_, paper in papers.items():
            self._listed[paper.day].append(id_)

    def likeness(self, episode: Episode) -> Scores:
        liked = [
            Opinion(self._terms[paper.text.id], self._authors[paper.text.id], paper.day.toordinal())
            for paper in episode.liked
        ]
        profile = learn(liked, self._shown(episode))
        listed = [self._numbers[paper.text.id] for paper in episode.listed]
        return self._table.likeness(profile, listed).astype(np.float64)

    def shares_author(self, episode: Episode) -> Scores:
        known = {key for paper in episode.liked for key in self._authors[paper.text.id]}
        listed = (self._authors[paper.text.id].keys() for paper in episode.listed)
        return np.array([float(not known.isdisjoint(authors)) for authors in listed])

    def _shown(self, episode: Episode) -> list[Terms]:
        """Return the other papers of the days on which the liked ones were listed."""
        liked = {paper.text.id for paper in episode.liked}
        days = {paper.day for paper in episode.liked}
        return [self._terms[id_] for day in days for id_ in self._listed[day] if id_ not in liked]


def _newest(episode: Episode, most: int) -> Episode:
    liked = episode.liked[-most:]
    return Episode(episode.person, episode.day, liked, episode.listed, episode.submitted)


# --- Measures -----------------------------------------------------------------------------------


def _quality(name: str, liked: str, episodes: Sequence[Episode], order: Order) -> Quality:
    people: defaultdict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for episode in episodes:
        people[episode.person].append(_measures(episode, order(episode)))
    means = [np.mean(measures, axis=0) for measures in people.values()]
    auc, mrr, hit3 = np.mean(means, axis=0) if means else (0.0, 0.0, 0.0)
    return Quality(name, liked, len(people), len(episodes), float(auc), float(mrr), float(hit3))


def _measures(episode: Episode, scores: Scores) -> tuple[float, float, float]:
    """Return AUC, reciprocal rank of the first submitted paper, and whether it is in the first 3.

    Equal scores count half in the AUC, and keep the order of the list in the ranks.
    """
    wanted = np.array([paper.text.id in episode.submitted for paper in episode.listed])
    ours, others = scores[wanted, None], scores[~wanted]
    auc = np.mean((ours > others) + 0.5 * (ours == others))
    rank = 1 + int(np.argmax(wanted[np.argsort(-scores, kind="stable")]))
    return float(auc), 1 / rank, float(rank <= FIRST)


# --- Files --------------------------------------------------------------------------------------


def _episodes(folder: Path, papers: Mapping[str, DatedPaper]) -> Iterator[Episode]:
    """Yield the days of each person in order, from the second one on.

    Days are left out of whose papers none or all were submitted by the person.
    """
    by_day: defaultdict[date, list[DatedPaper]] = defaultdict(list)
    for paper in papers.values():
        by_day[paper.day].append(paper)
    for row in rows(folder / "people.jsonl", "person", "submissions"):
        days: defaultdict[date, list[str]] = defaultdict(list)
        for one in row["submissions"]:
            days[date.fromisoformat(one["day"])].append(str(one["paper"]))
        liked: list[DatedPaper] = []
        for day in sorted(days):
            listed = tuple(by_day[day])
            submitted = frozenset(days[day]) & {paper.text.id for paper in listed}
            if liked and 0 < len(submitted) < len(listed):
                yield Episode(str(row["person"]), day, tuple(liked), listed, submitted)
            liked += [papers[id_] for id_ in days[day] if id_ in papers]


def _papers(folder: Path) -> dict[str, DatedPaper]:
    path = folder / "papers.jsonl"
    path = path if path.exists() else folder / "papers.jsonl.gz"
    return {
        str(row["id"]): DatedPaper(
            PaperText(
                str(row["id"]), row["title"], row.get("abstract", ""), tuple(row.get("authors", ()))
            ),
            date.fromisoformat(row["day"]),
            int(row.get("upvotes") or 0),
        )
        for row in rows(path, "id", "title", "day", text="title")
    }
