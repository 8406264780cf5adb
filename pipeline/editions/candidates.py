"""Select the papers of a digest: matches of the reader's topics, without papers sent before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from sqlalchemy import Connection

from pipeline import slots
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
from pipeline.editions.profiles import LIKED_ENOUGH, Profiles
from pipeline.matching.ranking import LIKING_WEIGHT, Candidate, Picked, TopicCandidates, pick
from pipeline.storage import ingest_state, papers, topics
from pipeline.storage.digests import digest_of
from pipeline.storage.topics import PublishedMatch

UNPICKED = 200  # stored per digest, to be listed on the site
OUTSIDE_POOL = 3_000  # newest papers, from which those outside the topics are chosen
OUTSIDE_SHARE = 5  # of so many places, one may be for a paper outside the topics
NOTHING_LEARNED: Mapping[int, float] = {}
TRENDING_POOL = 300  # papers with the most upvotes, from which each reader's are chosen


@dataclass(frozen=True, slots=True)
class Edition:
    """Values shared by all readers of one run: the newest batch and the form of digests."""

    now: datetime
    through: int  # the newest published batch
    pause_floor: Mapping[Frequency, int]  # after a pause, only batches after this one
    trending_floor: int
    trending_oldest: int  # papers of batches up to it may have been sent before `NEVER_TWICE`
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
        self._profiles = Profiles()
        self._pool_floor = edition.through  # papers outside topics are of batches after this one
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
                conn,
                self._edition.trending_floor,
                self._edition.through,
                TRENDING_POOL,
                oldest=self._edition.trending_oldest,
            )
            self._load_papers(conn, (paper.id for paper in self._trending))
        self._load_papers(conn, (m.paper_id for t in missing for m in self._matches[t]))
        self._load_profiles(conn, drafts)

    def _load_profiles(self, conn: Connection, drafts: Sequence[Draft]) -> None:
        """Load the profiles of these readers and the papers that they are compared with."""
        ids = [draft.subscriber.id for draft in drafts]
        self._profiles.load_readers(conn, ids)
        if not any(self._profiles[id_] for id_ in ids):
            return
        # Older papers are no news outside the topics, and a cursor may be years old.
        oldest = self._edition.trending_floor
        floor = min(
            (max(d.range_from, oldest) for d in drafts if self._may_leave_topics(d)), default=None
        )
        pool: list[Paper] = []
        if floor is not None and floor < self._pool_floor:
            new = papers.in_batches(conn, floor, self._edition.through)
            self._papers |= {paper.id: paper for paper in new if paper.id not in self._papers}
            pool, self._pool_floor = new[-OUTSIDE_POOL:], floor
        self._profiles.load_papers(conn, self._papers.values())
        if pool:
            self._profiles.set_pool(pool)

    def _may_leave_topics(self, draft: Draft) -> bool:
        reader = self._profiles[draft.subscriber.id]
        return reader is not None and reader.outside

    def _load_papers(self, conn: Connection, ids: Iterable[int]) -> None:
        missing = set(ids) - self._papers.keys()
        self._papers |= papers.by_ids(conn, missing)

    def digest(
        self, draft: Draft, followed: Sequence[Subscription], seen: set[int]
    ) -> tuple[Digest, SkipReason | None]:
        """Return the digest of a draft and None, or an empty digest and the reason for it."""
        liking = self._likeness(draft, followed)
        by_topic = [(s, self._of(s, draft, liking)) for s in followed]
        fresh = [(s, [c for c in found if c.paper not in seen]) for s, found in by_topic]
        needed = sum(bool(found) for _, found in fresh)
        outside = self._outside(draft, needed, seen | liking.keys())
        most = draft.subscriber.max_papers - len(outside)
        unseen = [TopicCandidates(s.label, _offered(s, found, most)) for s, found in fresh]
        selection = pick(unseen, most)
        added: set[int] = set()
        if liking and (left := most - len(selection.picks)) > 0:
            broader = self._broader(draft, followed, unseen, seen, liking, left)
            added = {one.paper for topic in broader for one in topic.candidates}
            selection = pick([*unseen, *broader], most) if added else selection
        picks = [
            self._pick(draft, picked, is_explained=picked.rose or picked.paper in added)
            for picked in selection.picks
        ]
        digest = digest_of(
            draft.edition_on,
            [*picks, *outside] if picks else [],
            more=selection.more,
            topics=tuple(s.label for s in followed),
            unpicked=selection.unpicked[:UNPICKED],
            recap=self._recap(draft, followed, unseen),
        )
        if picks:
            return digest, None
        return digest, self._why_nothing(draft, any(found for _, found in by_topic))

    def _broader(
        self,
        draft: Draft,
        followed: Sequence[Subscription],
        unseen: Sequence[TopicCandidates],
        seen: set[int],
        likeness: Mapping[int, float],
        left: int,
    ) -> list[TopicCandidates]:
        """Return matches of a broader setting that the reader would like, for the places left.

        At most so many papers, so that they displace no match of the reader's own setting.
        """
        known = seen | {one.paper for topic in unseen for one in topic.candidates}
        found = []
        for subscription in followed:
            if subscription.topic.kind is not TopicKind.QUERY:
                continue
            liked = [
                one
                for one in self._matched(subscription, draft, Breadth.MORE, likeness)
                if one.paper not in known and one.likeness >= LIKED_ENOUGH
            ]
            found.append(TopicCandidates(subscription.label, liked))
        ordered = sorted({(-c.likeness, c.paper) for topic in found for c in topic.candidates})
        best = {paper for _, paper in ordered[:left]}
        return [
            TopicCandidates(topic.label, [c for c in topic.candidates if c.paper in best])
            for topic in found
        ]

    def _pick(self, draft: Draft, picked: Picked, *, is_explained: bool) -> Pick:
        reader = self._profiles[draft.subscriber.id]
        why = self._profiles.reason(reader, picked.paper) if reader and is_explained else None
        reasons = (*picked.reasons, why) if why else picked.reasons
        return Pick(self._papers[picked.paper], reasons, picked.score)

    def _likeness(self, draft: Draft, followed: Sequence[Subscription]) -> dict[int, float]:
        """Return the likeness of the papers that may be sent, by id; {} for most readers."""
        reader = self._profiles[draft.subscriber.id]
        if reader is None:
            return {}
        ids = {
            match.paper_id
            for subscription in followed
            for match in self._matches[subscription.topic.id]
            if match.batch > draft.range_from and match.paper_id in self._papers
        }
        if any(s.topic.kind is TopicKind.TRENDING for s in followed):
            ids |= {paper.id for paper in self._trending or () if paper.id in self._papers}
        return self._profiles.likeness(reader, sorted(ids))

    def _outside(self, draft: Draft, needed: int, known: set[int]) -> list[Pick]:
        """Return papers outside the topics that the reader would like, best first.

        At most one in `OUTSIDE_SHARE` places, none of the `needed` ones (one for each topic with a
        match), and no paper in `known`: sent before, or a match at any breadth.
        """
        reader = self._profiles[draft.subscriber.id]
        if reader is None or not reader.outside:
            return []
        most = draft.subscriber.max_papers
        room = min(most // OUTSIDE_SHARE, most - needed)
        picks: list[Pick] = []
        if room <= 0:
            return []
        for likeness, id_ in self._profiles.liked_in_pool(reader, draft.range_from, known):
            why = self._profiles.reason(reader, id_)
            if why and self._is_news(id_, draft.subscriber) and len(picks) < room:
                picks.append(Pick(self._papers[id_], (why,), round(likeness, 6)))
        return picks

    def _recap(
        self, draft: Draft, followed: Sequence[Subscription], unseen: Sequence[TopicCandidates]
    ) -> Recap | None:
        """Return the summary of a digest that covers more than one day; None for one day.

        A first digest has none: it is compiled from papers published before the reader joined.
        """
        before = self._published_at.get(draft.range_from)
        if before is None or draft.subscriber.welcome_due:
            return None
        covered = _edition_of(before, draft.subscriber)
        if (draft.edition_on - covered).days < 2:
            return None
        return Recap(
            since=covered + timedelta(days=1),
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

    def _of(
        self, subscription: Subscription, draft: Draft, likeness: Mapping[int, float]
    ) -> list[Candidate]:
        if subscription.topic.kind is TopicKind.TRENDING:
            return self._trending_for(draft, likeness)
        return self._matched(subscription, draft, draft.subscriber.breadth, likeness)

    def _matched(
        self,
        subscription: Subscription,
        draft: Draft,
        breadth: Breadth,
        likeness: Mapping[int, float] = NOTHING_LEARNED,
    ) -> list[Candidate]:
        return [
            self._candidate(match.paper_id, match.score, match.phrases, likeness)
            for match in self._matches[subscription.topic.id]
            if match.batch > draft.range_from
            and match.breadth <= breadth
            and self._is_news(match.paper_id, draft.subscriber)
        ]

    def _trending_for(self, draft: Draft, likeness: Mapping[int, float]) -> list[Candidate]:
        """Return the most upvoted papers of the last days; none if none is new in the range.

        So if a weekend brings no papers, its digests do not contain the leftovers of Friday.
        """
        pool = self._trending or []
        through = self._edition.through  # batches of a running ingest are not published
        if not any(draft.range_from < paper.touched_batch <= through for paper in pool):
            return []
        return [
            self._candidate(paper.id, float(paper.upvotes), (), likeness)
            for paper in pool
            if self._is_news(paper.id, draft.subscriber)
        ]

    def _candidate(
        self,
        paper_id: int,
        score: float,
        phrases: tuple[str, ...],
        likeness: Mapping[int, float],
    ) -> Candidate:
        paper = self._papers[paper_id]
        return Candidate(
            paper_id,
            score,
            phrases,
            paper.title,
            paper.upvotes,
            paper.announced_on.toordinal(),
            likeness.get(paper_id, 0.0),
        )

    def _is_news(self, paper_id: int, subscriber: Subscriber) -> bool:
        """Return whether the paper may be sent: loaded, not withdrawn, and not announced too early.

        Papers announced before `papers_from` were sent from an earlier database.
        """
        paper = self._papers.get(paper_id)
        if paper is None or paper.withdrawn:
            return False
        return subscriber.papers_from is None or paper.announced_on >= subscriber.papers_from


def _edition_of(published_at: datetime, reader: Subscriber) -> date:
    """Return the date of the reader's edition that covered a batch: of the first slot after it.

    Or of the last edition, if that was compiled so late that the batch came after its slot.
    """
    schedule, last = reader.schedule, reader.last_edition_on
    edition_on = slots.local_date(slots.first_slot(schedule, published_at), schedule)
    was_late = last is not None and slots.local_date(published_at, schedule) <= last
    return min(edition_on, last) if last and was_late else edition_on


def _offered(
    subscription: Subscription, unseen: list[Candidate], max_papers: int
) -> list[Candidate]:
    """Return the unseen candidates of a topic; of trending only `max_papers`.

    They are the top ones, or those of twice as many that the reader's profile puts first. The other
    trending papers must not be counted as matches that did not fit.
    """
    if subscription.topic.kind is not TopicKind.TRENDING:
        return unseen
    top = unseen[: 2 * max_papers] if any(one.likeness for one in unseen) else unseen
    most = max((one.score for one in top), default=0.0) or 1.0
    ordered = sorted(top, key=lambda one: -one.score / most - LIKING_WEIGHT * one.likeness)
    return ordered[:max_papers]
