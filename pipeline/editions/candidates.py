"""Select the papers of a digest: matches of the reader's topics, without papers sent before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from sqlalchemy import Connection

from pipeline.domain import (
    NEAR_MISSES,
    Breadth,
    Digest,
    Frequency,
    Paper,
    Pick,
    Recap,
    SkipReason,
    Subscriber,
    Subscription,
    TopicKind,
)
from pipeline.matching.ranking import Candidate, TopicCandidates, pick
from pipeline.storage import ingest_state, papers, topics
from pipeline.storage.digests import digest_of
from pipeline.storage.topics import PublishedMatch

UNPICKED = 200  # stored per digest, to be listed on the site
TRENDING_POOL = 300  # papers with the most upvotes, from which each reader's are chosen


@dataclass(frozen=True, slots=True)
class Edition:
    """Values shared by all readers of one run: the newest batch and the form of digests."""

    now: datetime
    through: int  # the newest published batch
    pause_floor: Mapping[Frequency, int]  # after a pause, only batches after this one
    trending_floor: int
    expiry: timedelta
    template: str
    inactivity_months: int = 0  # until a reader is asked to go on; 0: never
    quiet_days: int = 0  # days without a match until a no-match notice; 0: never
    spread: timedelta = timedelta(0)  # period of sending; see compiling.spread


@dataclass(frozen=True, slots=True)
class Draft:
    """A subscriber, the slot to serve, and the batches (range_from, through] that it covers."""

    subscriber: Subscriber
    slot_at: datetime
    edition_on: date
    range_from: int


class Candidates:
    """Cache of the matches and papers of one run: a topic is loaded once for all its readers."""

    def __init__(self, edition: Edition) -> None:
        self._edition = edition
        self._matches: dict[int, list[PublishedMatch]] = {}
        self._floor: dict[int, int] = {}  # topic id -> matches are loaded of batches after this one
        self._papers: dict[int, Paper] = {}
        self._trending: list[papers.Upvoted] | None = None
        self._published_at: dict[int, datetime] = {}  # of the last batch before each range

    def load(
        self,
        conn: Connection,
        drafts: Sequence[Draft],
        followed: Mapping[int, Sequence[Subscription]],
    ) -> None:
        """Load the matches and papers of these drafts that are not loaded yet."""
        needed: dict[int, int] = {}
        for draft in drafts:
            for subscription in followed[draft.subscriber.id]:
                topic_id = subscription.topic.id
                needed[topic_id] = min(needed.get(topic_id, draft.range_from), draft.range_from)
        before = {draft.range_from for draft in drafts} - self._published_at.keys()
        self._published_at |= ingest_state.published_at(conn, before)
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
        """Return the digest of a draft and None, or an empty digest and the reason for it."""
        by_topic = [(s, self._of(s, draft)) for s in followed]
        most = draft.subscriber.max_papers
        unseen = [
            TopicCandidates(s.label, _offered(s, [c for c in found if c.paper not in seen], most))
            for s, found in by_topic
        ]
        selection = pick(unseen, most)
        picks = [Pick(self._papers[p.paper], p.reasons, p.score) for p in selection.picks]
        digest = digest_of(
            draft.edition_on,
            picks,
            more=selection.more,
            topics=tuple(s.label for s in followed),
            unpicked=selection.unpicked[:UNPICKED],
            recap=self._recap(draft, followed, unseen),
        )
        if picks:
            return digest, None
        return digest, self._why_nothing(draft, any(found for _, found in by_topic))

    def _recap(
        self, draft: Draft, followed: Sequence[Subscription], unseen: Sequence[TopicCandidates]
    ) -> Recap | None:
        """Return the summary of a digest that covers more than one day; None for one day.

        A first digest has none: it is compiled from papers published before the reader joined.
        """
        before = self._published_at.get(draft.range_from)
        days = round((draft.slot_at - before) / timedelta(days=1)) if before else 1
        if days < 2 or draft.subscriber.welcome_due:
            return None
        return Recap(
            since=draft.edition_on - timedelta(days=days - 1),
            after_pause=draft.subscriber.paused_until is not None,
            matched=tuple(
                (s.label, None if s.topic.kind is TopicKind.TRENDING else len(topic.candidates))
                for s, topic in zip(followed, unseen, strict=True)
            ),
        )

    def near_misses(
        self, draft: Draft, followed: Sequence[Subscription], seen: set[int]
    ) -> Digest | None:
        """Return a digest of the nearest papers, for a draft without a match; None if none is near.

        Papers of the lowest breadth above the reader's are chosen, at most `NEAR_MISSES`.
        """
        for breadth in Breadth:
            if breadth <= draft.subscriber.breadth:
                continue
            near = [
                TopicCandidates(
                    s.label, [c for c in self._matched(s, draft, breadth) if c.paper not in seen]
                )
                for s in followed
                if s.topic.kind is TopicKind.QUERY
            ]
            if picks := pick(near, min(NEAR_MISSES, draft.subscriber.max_papers)).picks:
                return digest_of(
                    draft.edition_on,
                    [Pick(self._papers[p.paper], p.reasons, p.score) for p in picks],
                    more=0,
                    topics=tuple(s.label for s in followed),
                    near_misses=True,
                )
        return None

    def _why_nothing(self, draft: Draft, something_matched: bool) -> SkipReason:
        if something_matched:
            return SkipReason.ALL_SENT_BEFORE
        if draft.range_from >= self._edition.through:
            return SkipReason.NOTHING_NEW
        return SkipReason.NOTHING_MATCHED

    def _of(self, subscription: Subscription, draft: Draft) -> list[Candidate]:
        if subscription.topic.kind is TopicKind.TRENDING:
            return self._trending_for(draft)
        return self._matched(subscription, draft, draft.subscriber.breadth)

    def _matched(
        self, subscription: Subscription, draft: Draft, breadth: Breadth
    ) -> list[Candidate]:
        return [
            self._candidate(match.paper_id, match.score, match.phrases)
            for match in self._matches[subscription.topic.id]
            if match.batch > draft.range_from
            and match.breadth <= breadth
            and self._is_news(match.paper_id, draft.subscriber)
        ]

    def _trending_for(self, draft: Draft) -> list[Candidate]:
        """Return the most upvoted papers of the last days; none if none is new in the range.

        So if a weekend brings no papers, its digests do not contain the leftovers of Friday.
        """
        pool = self._trending or []
        through = self._edition.through  # batches of a running ingest are not published
        if not any(draft.range_from < paper.touched_batch <= through for paper in pool):
            return []
        return [
            self._candidate(paper.id, float(paper.upvotes), ())
            for paper in pool
            if self._is_news(paper.id, draft.subscriber)
        ]

    def _candidate(self, paper_id: int, score: float, phrases: tuple[str, ...]) -> Candidate:
        paper = self._papers[paper_id]
        return Candidate(
            paper_id, score, phrases, paper.title, paper.upvotes, paper.announced_on.toordinal()
        )

    def _is_news(self, paper_id: int, subscriber: Subscriber) -> bool:
        """Return whether the paper may be sent: loaded, not withdrawn, and not announced too early.

        Papers announced before `papers_from` were sent from an earlier database.
        """
        paper = self._papers.get(paper_id)
        if paper is None or paper.withdrawn:
            return False
        return subscriber.papers_from is None or paper.announced_on >= subscriber.papers_from


def _offered(
    subscription: Subscription, unseen: list[Candidate], max_papers: int
) -> list[Candidate]:
    """Return the unseen candidates of a topic; of trending only the top `max_papers`.

    The other trending papers must not be counted as matches that did not fit.
    """
    is_trending = subscription.topic.kind is TopicKind.TRENDING
    return unseen[:max_papers] if is_trending else unseen
