"""Quality of a learned order, on people and on labelled sets; docs/matching.md has the results.

The likes of a person are their earlier submissions, and the papers of the day on which they
submitted one are ranked. In a labelled set some relevant papers of a topic are liked, and the
matches of the topic are ordered as in a digest, with and without what was learned.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from random import Random
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pipeline.bench.quality import RESAMPLES, LabelledSet, ndcg, rows
from pipeline.errors import PaperboyError
from pipeline.matching.corpus import statistics
from pipeline.matching.index import PaperIndex
from pipeline.matching.match import PaperText, TopicText
from pipeline.matching.profile import (
    Opinion,
    TermTable,
    author_keys,
    learn,
    terms_of,
    with_author,
)
from pipeline.matching.query import plain_words
from pipeline.matching.ranking import Candidate, TopicCandidates, pick
from pipeline.matching.semantic import (
    OF_LIKENESS,
    Embedder,
    Judged,
    Vectors,
    learn_vector,
    text,
)

Scores = npt.NDArray[np.float64]

LIKED: Final = ((1, 1), (2, 3), (4, 6), (7, 12), (13, 100))  # number of earlier submissions
REACTIONS: Final = (2, 4, 10, 30)  # newest submissions that are known, of at least as many
FIRST: Final = 3  # places of hit@3
TOPIC_LIKES: Final = (1, 2, 4, 8)  # of a topic of a labelled set
USUAL: Final = 200  # random papers, which stand for those shown while these are few
DRAWS: Final = 5  # of papers to like
RANKED: Final = 50  # best matches of a topic


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


@dataclass(frozen=True, slots=True)
class TopicQuality:
    """The order of the matches of topics of a labelled set; means over topics of 100."""

    liked: int
    topics: int
    static: float  # nDCG@10 of the order of a digest without likes
    learned: float
    error: float  # standard error of the difference of both, by resampling topics

    def as_json(self) -> dict[str, Any]:
        return {
            "liked": self.liked,
            "topics": self.topics,
            "ndcg@10_static": round(self.static, 1),
            "ndcg@10_learned": round(self.learned, 1),
            "error": round(self.error, 1),
        }


Order = Callable[[Episode], Scores]


def measure(folder: Path, embedder: Embedder | None = None) -> list[Quality]:
    """Return the quality of each order, with an embedder also of those with vectors.

    Raise PaperboyError if a file is missing or malformed.
    """
    try:
        papers = _papers(folder)
        episodes = list(_episodes(folder, papers))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PaperboyError(
            f"{folder} is not in the form of docs/matching.md: {error!r}"
        ) from error
    known = _Known(papers)
    orders: dict[str, Order] = {
        "upvotes": lambda one: np.array([float(paper.upvotes) for paper in one.listed]),
        "terms": known.likeness,
        "people": known.shares_author,
        "terms and people": known.likeness_and_authors,
    }
    if embedder:
        similarity = _Similarity(known, papers, embedder)
        orders["vector"] = similarity.cosines
        orders["terms and vector"] = similarity.likeness
        orders["terms, vector and people"] = lambda one: known.with_authors(
            one, similarity.likeness(one)
        )
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
        profile = learn(liked, [self._terms[id_] for id_ in self.shown(episode)])
        listed = self._table.rows([self._numbers[paper.text.id] for paper in episode.listed])
        return self._table.likeness(profile, listed).astype(np.float64)

    def likeness_and_authors(self, episode: Episode) -> Scores:
        return self.with_authors(episode, self.likeness(episode))

    def with_authors(self, episode: Episode, likeness: Scores) -> Scores:
        pairs = zip(likeness, self.shares_author(episode), strict=True)
        return np.array([with_author(terms) if shared else terms for terms, shared in pairs])

    def shares_author(self, episode: Episode) -> Scores:
        known = {key for paper in episode.liked for key in self._authors[paper.text.id]}
        listed = (self._authors[paper.text.id].keys() for paper in episode.listed)
        return np.array([float(not known.isdisjoint(authors)) for authors in listed])

    def shown(self, episode: Episode) -> list[str]:
        """Return the other papers of the days on which the liked ones were listed."""
        liked = {paper.text.id for paper in episode.liked}
        days = {paper.day for paper in episode.liked}
        return [id_ for day in days for id_ in self._listed[day] if id_ not in liked]


class _Similarity:
    """The vectors of all papers."""

    def __init__(self, known: _Known, papers: Mapping[str, DatedPaper], embedder: Embedder) -> None:
        self._known = known
        rows = embedder.papers([text(paper.text) for paper in papers.values()])
        self._vectors: dict[str, Vectors] = dict(zip(papers, rows, strict=True))
        chosen = Random(0).sample(range(len(rows)), min(USUAL, len(rows)))  # noqa: S311
        self._usual = list(rows[chosen])

    def cosines(self, episode: Episode) -> Scores:
        liked = [
            Judged(self._vectors[paper.text.id], paper.day.toordinal()) for paper in episode.liked
        ]
        shown = [self._vectors[id_] for id_ in self._known.shown(episode)]
        profile = learn_vector(liked, shown, self._usual)
        listed = np.array([self._vectors[paper.text.id] for paper in episode.listed])
        return (listed @ profile.direction - profile.usual).astype(np.float64)

    def likeness(self, episode: Episode) -> Scores:
        return self._known.likeness(episode) + OF_LIKENESS * self.cosines(episode)


def _newest(episode: Episode, most: int) -> Episode:
    liked = episode.liked[-most:]
    return Episode(episode.person, episode.day, liked, episode.listed, episode.submitted)


# --- Topics of a labelled set ------------------------------------------------------------------


def measure_topics(labelled: LabelledSet) -> list[TopicQuality]:
    """Return the quality of the order of a digest with 1, 2, 4 and 8 likes, for one topic each.

    The papers liked are chosen at random among the best, `DRAWS` times, and are not ranked.
    """
    index = PaperIndex(labelled.papers)
    corpus = index.statistics()
    table = TermTable()
    table.add({n: terms_of(paper, corpus) for n, paper in enumerate(labelled.papers)})
    chance = Random(0)  # noqa: S311  (the same draws each time)
    qualities = []
    for count in TOPIC_LIKES:
        pairs = [
            pair
            for topic in labelled.topics
            if (pair := _with_likes(index, table, labelled, topic, count, chance))
        ]
        if pairs:
            means = np.array(pairs)
            gains = means[:, 1] - means[:, 0]
            drawn = np.random.default_rng(0).choice(gains, (RESAMPLES, len(gains))).mean(axis=1)
            static, learned = means.mean(axis=0).tolist()
            qualities.append(TopicQuality(count, len(pairs), static, learned, float(drawn.std())))
    return qualities


def _with_likes(
    index: PaperIndex,
    table: TermTable,
    labelled: LabelledSet,
    topic: TopicText,
    count: int,
    chance: Random,
) -> tuple[float, float] | None:
    """Return nDCG@10 without and with likes; None if the topic has too few relevant papers."""
    found = index.find(plain_words(topic.query), floor=False)
    scores = dict(zip(found.papers.tolist(), found.scores.tolist(), strict=True))
    grades = {
        number: labelled.grades[topic.id].get(labelled.papers[number].id, 0) for number in scores
    }
    if labelled.is_judged:
        known = labelled.grades[topic.id]
        grades = {n: grade for n, grade in grades.items() if labelled.papers[n].id in known}
    best = max(grades.values(), default=0)
    good = sorted(number for number, grade in grades.items() if grade == best > 0)
    if len(good) < count + 2:
        return None
    orders = []
    for _ in range(DRAWS):
        liked = chance.sample(good, count)
        best_first = sorted(grades.keys() - set(liked), key=lambda number: -scores[number])
        rest = {number: grades[number] for number in best_first[:RANKED]}
        profile = learn([Opinion(table.terms(number), {}, 0) for number in liked])
        likeness = table.likeness(profile, table.rows(list(rest))).tolist()
        orders.append(
            [
                ndcg([rest[paper] for paper in _as_picked(rest, scores, likes)])
                for likes in ([0.0] * len(rest), likeness)
            ]
        )
    static, learned = np.mean(orders, axis=0).tolist()
    return static, learned


def _as_picked(
    papers: Iterable[int], scores: Mapping[int, float], likeness: Iterable[float]
) -> list[int]:
    """Return papers in the order of a digest with one topic."""
    candidates = [
        Candidate(paper, scores[paper], title=str(paper), likeness=liked)
        for paper, liked in zip(papers, likeness, strict=True)
    ]
    selection = pick([TopicCandidates("", candidates)], len(candidates))
    return [picked.paper for picked in selection.picks]


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
