"""The papers a reader may get: what matched their topics, less what they have had."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from sqlalchemy import Connection

from pipeline.domain import (
    Digest,
    Frequency,
    Paper,
    Pick,
    SkipReason,
    Subscriber,
    Subscription,
    TopicKind,
)
from pipeline.matching.ranking import Candidate, TopicCandidates, pick
from pipeline.storage import papers, topics
from pipeline.storage.digests import digest_of
from pipeline.storage.topics import PublishedMatch

TRENDING_POOL = 300  # papers with the most upvotes, among which a reader's own are chosen


@dataclass(frozen=True, slots=True)
class Edition:
    """What is the same for every reader of one run: the newest batch and how digests look."""

    now: datetime
    through: int  # the newest batch
    pause_floor: Mapping[Frequency, int]  # how far back a reader looks after a pause
    trending_floor: int
    expiry: timedelta
    template: str
    quiet_days: int = 0  # after which a reader is told why nothing came; 0: never
    spread: timedelta = timedelta(0)  # over which its digests leave; see compiling.spread


@dataclass(frozen=True, slots=True)
class Draft:
    """A reader, the slot they are served, and the batches (range_from, through] it covers."""

    subscriber: Subscriber
    slot_at: datetime
    edition_on: date
    range_from: int


class Candidates:
    """Matches and papers of one run, read once per topic however many readers follow it."""

    def __init__(self, edition: Edition) -> None:
        self._edition = edition
        self._matches: dict[int, list[PublishedMatch]] = {}
        self._floor: dict[int, int] = {}  # topic -> its matches are loaded from after this batch
        self._papers: dict[int, Paper] = {}
        self._trending: list[papers.Upvoted] | None = None

    def load(
        self,
        conn: Connection,
        drafts: Sequence[Draft],
        followed: Mapping[int, Sequence[Subscription]],
    ) -> None:
        """Read what these drafts need and earlier ones did not."""
        needed: dict[int, int] = {}
        for draft in drafts:
            for subscription in followed[draft.subscriber.id]:
                topic_id = subscription.topic.id
                needed[topic_id] = min(needed.get(topic_id, draft.range_from), draft.range_from)
        missing = {t: floor for t, floor in needed.items() if floor < self._floor.get(t, 1 << 62)}
        for floor in sorted(set(missing.values())):
            ids = [topic_id for topic_id, after in missing.items() if after == floor]
            self._matches |= topics.matches_of(
                conn, ids, after=floor, through=self._edition.through
            )
        self._floor |= missing
        if self._trending is None:
            self._trending = papers.most_upvoted(
                conn, self._edition.trending_floor, self._edition.through, TRENDING_POOL
            )
            self._load_papers(conn, (paper.id for paper in self._trending))
        self._load_papers(conn, (m.paper_id for t in missing for m in self._matches[t]))

    def _load_papers(self, conn: Connection, ids: Iterable[int]) -> None:
        missing = set(ids) - self._papers.keys()
        self._papers |= papers.by_ids(conn, missing)

    def digest(
        self, draft: Draft, followed: Sequence[Subscription], seen: set[int]
    ) -> tuple[Digest, SkipReason | None]:
        """The digest of this draft, or an empty one and the reason why it is empty."""
        by_topic = [(s, self._of(s, draft)) for s in followed]
        most = draft.subscriber.max_papers
        unseen = [
            TopicCandidates(s.label, _offered(s, [c for c in found if c.paper not in seen], most))
            for s, found in by_topic
        ]
        selection = pick(unseen, most)
        picks = [Pick(self._papers[p.paper], p.reasons, p.score) for p in selection.picks]
        digest = digest_of(
            draft.edition_on, picks, more=selection.more, topics=tuple(s.label for s in followed)
        )
        if picks:
            return digest, None
        return digest, self._why_nothing(draft, any(found for _, found in by_topic))

    def _why_nothing(self, draft: Draft, something_matched: bool) -> SkipReason:
        if something_matched:
            return SkipReason.ALL_SENT_BEFORE
        if draft.range_from >= self._edition.through:
            return SkipReason.NOTHING_NEW
        return SkipReason.NOTHING_MATCHED

    def _of(self, subscription: Subscription, draft: Draft) -> list[Candidate]:
        if subscription.topic.kind is TopicKind.TRENDING:
            return self._trending_for(draft)
        return [
            self._candidate(match.paper_id, match.score, match.phrases)
            for match in self._matches[subscription.topic.id]
            if match.batch > draft.range_from
            and match.breadth <= draft.subscriber.breadth
            and self._is_news(match.paper_id, draft.subscriber)
        ]

    def _trending_for(self, draft: Draft) -> list[Candidate]:
        """The most upvoted of the last days; nothing where no newer one came since the last time.

        A quiet weekend so stays quiet, instead of bringing what was left over on Friday.
        """
        pool = self._trending or []
        through = self._edition.through  # what an ingest run touches meanwhile is no news yet
        if not any(draft.range_from < paper.touched_batch <= through for paper in pool):
            return []
        return [
            self._candidate(paper.id, float(paper.upvotes), ())
            for paper in pool
            if self._is_news(paper.id, draft.subscriber)
        ]

    def _candidate(self, paper_id: int, score: float, phrases: tuple[str, ...]) -> Candidate:
        paper = self._papers[paper_id]
        return Candidate(paper_id, score, phrases, title=paper.title, upvotes=paper.upvotes)

    def _is_news(self, paper_id: int, subscriber: Subscriber) -> bool:
        """Whether the paper can be read, and no database before this one has sent it."""
        paper = self._papers.get(paper_id)
        if paper is None or paper.withdrawn:
            return False
        return subscriber.papers_from is None or paper.announced_on >= subscriber.papers_from


def _offered(
    subscription: Subscription, unseen: list[Candidate], max_papers: int
) -> list[Candidate]:
    """Trending offers its top and no more: what lies below it has not found no place."""
    is_trending = subscription.topic.kind is TopicKind.TRENDING
    return unseen[:max_papers] if is_trending else unseen
