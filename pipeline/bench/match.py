"""Benchmark of matching: topics against papers, compared with SQLite's FTS5 and plain Python."""

from __future__ import annotations

import resource
import sqlite3
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pipeline.bench import synthetic
from pipeline.bench.synthetic import Followed
from pipeline.domain import Match, Paper, Topic
from pipeline.embedding import Embeddings, Model
from pipeline.errors import PaperboyError
from pipeline.matching.corpus import CorpusStatistics, statistics
from pipeline.matching.index import PaperIndex
from pipeline.matching.match import match, parse_topics
from pipeline.matching.query import Words, parse
from pipeline.matching.ranking import Candidate, TopicCandidates, pick
from pipeline.matching.semantic import SemanticSimilarity
from pipeline.matching.tokens import forms, stem

MOST: Final = 10  # papers of a digest
SAMPLE: Final = 200  # topics matched in plain Python, and digests picked one by one
STATUS: Final = Path("/proc/self/status")
READ: Final = 100  # papers that a model embeds


@dataclass(frozen=True, slots=True)
class Plan:
    papers: int
    topics: int
    readers: int


@dataclass(frozen=True, slots=True)
class Report:
    """Result of a run. Seconds depend on the machine; compare the ratios."""

    plan: Plan
    index_s: float  # CPU seconds to index the papers
    match_s: float  # all topics, with the words that matched
    matches: int
    memory_mb: float  # increase of the peak
    fts5_s: float  # the same topics in SQLite, in C; every word must occur in the paper
    plain_s: float  # the same in plain Python with sets of words, extrapolated
    pick_us: float  # per reader, as digests are compiled
    embed_s: float | None  # the model embeds 1,000 papers; None without a model
    embed_mb: float | None  # increase of the peak by loading and running the model
    arrays_s: float  # all readers at once, as arrays: only the best papers of their topics

    def as_json(self) -> dict[str, Any]:
        return {
            "papers": self.plan.papers,
            "topics": self.plan.topics,
            "readers": self.plan.readers,
            "index_s": round(self.index_s, 3),
            "match_s": round(self.match_s, 3),
            "us_per_topic": round(1e6 * self.match_s / self.plan.topics, 1),
            "matches": self.matches,
            "memory_mb": round(self.memory_mb, 1),
            "ratio_fts5": round(self.fts5_s / self.match_s, 3),
            "ratio_plain": round(self.plain_s / self.match_s, 3),
            "pick_us": round(self.pick_us, 1),
            "embed_s": None if self.embed_s is None else round(self.embed_s, 1),
            "embed_mb": None if self.embed_mb is None else round(self.embed_mb, 1),
            "arrays_s": round(self.arrays_s, 2),
            "readers_per_s": round(1e6 / self.pick_us),
        }


def run(plan: Plan, model: Sequence[str] = ()) -> Report:
    """Run the benchmark; `model` has the paths of an embedding model to include.

    Raise PaperboyError if a topic alone finds other papers than among all topics.
    """
    papers = synthetic.papers(plan.papers)
    topics = synthetic.topics(plan.topics, papers)
    corpus = statistics(papers)
    queries = parse_topics(topics)
    before = _peak_mb()
    index_s, _ = _timed(lambda: PaperIndex(papers, corpus))
    match_s, found = _timed(lambda: list(match(queries, papers, corpus=corpus)))
    memory = _peak_mb() - before
    _check(topics, papers, found, corpus)
    embed_s, embed_mb = _model_costs(model)
    followed = synthetic.readers(plan.readers, len(topics))
    return Report(
        plan,
        index_s,
        match_s - index_s,
        len(found),
        memory,
        _fts5(topics, papers),
        _plain(topics[:SAMPLE], papers) * len(topics) / min(SAMPLE, len(topics)),
        _picking(found, papers, followed[:SAMPLE]),
        embed_s,
        embed_mb,
        _timed(lambda: fan_out(found, followed, len(topics)))[0],
    )


def _model_costs(places: Sequence[str]) -> tuple[float | None, float | None]:
    """Return seconds for 1,000 papers, and megabytes; None for both if there is no model.

    Runs in a process of its own, so that its peak memory is the model's. Raise SettingsError.
    """
    if not places:
        return None, None
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as own:
        return own.submit(_read, tuple(places)).result()


def _read(places: Sequence[str]) -> tuple[float, float]:
    papers = synthetic.papers(READ)
    before = _peak_mb()
    embedder = Embeddings(Model(places))
    seconds, _ = _timed(lambda: SemanticSimilarity(papers, embedder))
    return 1_000 * seconds / len(papers), _peak_mb() - before


def _timed(work: Any) -> tuple[float, Any]:
    started = time.process_time()
    outcome = work()
    return time.process_time() - started, outcome


def _peak_mb() -> float:
    # On Linux, getrusage() starts a child with the peak of its parent; this file does not.
    if STATUS.exists():
        return int(STATUS.read_text().split("VmHWM:")[1].split()[0]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


def _check(
    topics: Sequence[Topic],
    papers: Sequence[Paper],
    found: Sequence[Match],
    corpus: CorpusStatistics,
) -> None:
    """Check that topics matched alone find the same papers; raise PaperboyError if not."""
    of = defaultdict(set)
    for one in found:
        of[one.topic_id].add(one.paper_id)
    for topic in topics[:: max(1, len(topics) // 20)]:
        alone = {one.paper_id for one in match(parse_topics([topic]), papers, corpus=corpus)}
        if alone != of[topic.id]:
            raise PaperboyError(f"the topic {topic.query!r} finds other papers by itself")


# --- Alternatives -------------------------------------------------------------------------------


def _fts5(topics: Sequence[Topic], papers: Sequence[Paper]) -> float:
    """Return CPU seconds of FTS5 for all topics: every word required, ranked by its own BM25."""
    database = sqlite3.connect(":memory:")
    database.execute("CREATE VIRTUAL TABLE p USING fts5(title, abstract, tokenize='porter')")
    database.executemany("INSERT INTO p VALUES (?, ?)", ((p.title, p.abstract) for p in papers))
    queries = [" ".join(f'"{form}"' for form in forms(topic.query)) for topic in topics]

    def search() -> None:
        for query in queries:
            database.execute(
                "SELECT rowid, bm25(p, 3, 1) FROM p WHERE p MATCH ?", (query,)
            ).fetchall()

    seconds, _ = _timed(search)
    database.close()
    return seconds


def _plain(topics: Sequence[Topic], papers: Sequence[Paper]) -> float:
    """Return CPU seconds to check for each topic and paper if all words of the topic occur."""
    words = [{stem(form) for form in forms(f"{p.title} {p.abstract}")} for p in papers]
    stems = [_stems(topic) for topic in topics]
    seconds, _ = _timed(lambda: [[i for i, has in enumerate(words) if one <= has] for one in stems])
    return seconds


def _stems(topic: Topic) -> set[str]:
    query = parse(topic.query)
    return {stem(form) for form in query.forms} if isinstance(query, Words) else set()


# --- Fan-out ------------------------------------------------------------------------------------


def _picking(found: Sequence[Match], papers: Sequence[Paper], followed: Followed) -> float:
    """Return microseconds per reader to pick a digest; topic candidates are shared by all."""
    offers: dict[int, list[Candidate]] = defaultdict(list)
    for one in found:
        paper = papers[one.paper_id]
        offers[one.topic_id].append(Candidate(one.paper_id, one.score, one.phrases, paper.title))
    wanted = [
        [TopicCandidates(str(topic), offers[topic]) for topic in dict.fromkeys(row)]
        for row in followed.tolist()
    ]
    seconds, _ = _timed(lambda: [pick(one, MOST) for one in wanted])
    return 1e6 * seconds / len(wanted)


def fan_out(found: Sequence[Match], followed: Followed, topic_count: int) -> npt.NDArray[np.int64]:
    """Return the best papers of each reader's topics: a row of MOST, -1 if there are fewer.

    Ignores the quotas of topics and near-duplicates: it measures the cost of joining alone.
    """
    topic = np.array([one.topic_id for one in found], dtype=np.int64)
    order = np.lexsort((-np.array([one.score for one in found]), topic))
    paper = np.array([one.paper_id for one in found], dtype=np.int64)[order]
    score = np.array([one.score for one in found])[order]
    starts = np.searchsorted(topic[order], np.arange(topic_count + 1))
    best = np.full((topic_count, MOST), -1, dtype=np.int64)
    worth = np.full((topic_count, MOST), -np.inf)
    for rank in range(MOST):
        has = starts[:-1] + rank < starts[1:]
        at = starts[:-1][has] + rank
        best[has, rank], worth[has, rank] = paper[at], score[at] / score[starts[:-1][has]]
    rows = []
    for some in np.array_split(followed, max(1, len(followed) // 50_000)):
        papers, values = best[some].reshape(len(some), -1), worth[some].reshape(len(some), -1)
        first = np.argsort(-values, axis=1, kind="stable")[:, :MOST]
        rows.append(np.take_along_axis(papers, first, axis=1))
    return np.concatenate(rows)
