"""Reactions to papers: more or less like this, save; and the profile that is learned from them.

Each change locks the subscriber's row and computes the profile anew from the latest ones in
the same transaction, so that concurrent changes follow one another and a second one of the same
kind changes nothing. Reactions of readers who are not active raise NotFoundError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice

from sqlalchemy import Connection, Engine

from pipeline.domain import Liking, Paper, SubscriberStatus
from pipeline.errors import NotFoundError
from pipeline.logs import set_aside
from pipeline.matching import profile
from pipeline.matching.corpus import CorpusStatistics
from pipeline.matching.profile import Opinion, Profile, Terms, author_keys
from pipeline.matching.semantic import Judged, learn_vector, readable, text
from pipeline.signup.choices import existing_subscriber
from pipeline.storage import embeddings, papers, reactions, saved_mails, subscribers
from pipeline.storage.database import read_only, retry_transaction
from pipeline.storage.reactions import Reaction, StoredProfile

LEARNED_FROM = 600  # newest likes and dislikes; own papers are at most half of them
SAVED = 50  # newest saved papers, whose authors are suggested
SHOWN = 100  # other papers of the digests with liked ones
VECTORS = 200  # vectors read of likes and dislikes (the newest), and of random papers
EXAMPLES = 20  # newest liked papers, one of which is named in a digest
MORE_OF, LESS_OF = 10, 6  # terms and authors shown to the reader
ENOUGH_SHARED = 3  # terms
LONGEST_NOTE = 300
REMOVED = 1_000  # terms and authors that a reader can remove


@dataclass(frozen=True, slots=True)
class Learned:
    """A term or an author of a profile, and the liked papers that it comes from."""

    id: str  # with which it is removed
    name: str
    titles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Interests:
    """What a reader's reactions say, as it is shown to the reader."""

    profile: StoredProfile
    more: tuple[Learned, ...]
    less: tuple[Learned, ...]
    authors: tuple[Learned, ...]
    judged: tuple[Reaction, ...]  # papers liked or disliked, the last one first
    saved: tuple[Reaction, ...]  # newest `SAVED` papers of the list
    saved_count: int


def interests(engine: Engine, subscriber_id: int) -> Interests:
    """Return the reactions of a reader and what was learned; raise NotFoundError."""
    with read_only(engine) as conn:
        existing_subscriber(conn, subscriber_id)
        stored = reactions.profile_of(conn, subscriber_id)
        judged = tuple(reactions.judged_by(conn, subscriber_id, LEARNED_FROM))
        saved = tuple(reactions.saved_by(conn, subscriber_id, most=SAVED))
        saved_count = reactions.count_saved(conn, subscriber_id)
    learned = _profile(subscriber_id, stored)
    if learned is None:
        return Interests(stored, (), (), (), judged, saved, saved_count)
    return Interests(
        stored,
        _terms(learned, [one for one in judged if one.liking is Liking.MORE], 1.0)[:MORE_OF],
        _terms(learned, [one for one in judged if one.liking is Liking.LESS], -1.0)[:LESS_OF],
        _authors(learned, judged)[:MORE_OF],
        judged,
        saved,
        saved_count,
    )


def more_of(liked: Sequence[Reaction]) -> tuple[Learned, ...]:
    """Return the terms that a profile of these liked papers alone would weigh most.

    If several papers share at least `ENOUGH_SHARED` of them, those of one paper are left out.
    """
    found = _terms(profile.learn(_opinions(liked, 0)), liked, 1.0)
    shared = tuple(one for one in found if len(one.titles) > 1)
    return (shared if len(shared) >= ENOUGH_SHARED else found)[:MORE_OF]


def reaction_to(engine: Engine, subscriber_id: int, key: str) -> tuple[Paper, Reaction | None]:
    """Return a paper and the reader's reaction to it; raise NotFoundError."""
    with read_only(engine) as conn:
        existing_subscriber(conn, subscriber_id)
        paper = _paper(conn, key)
        return paper, reactions.to_paper(conn, subscriber_id, paper.key, paper.id)


def _profile(subscriber_id: int, stored: StoredProfile) -> Profile | None:
    """Return the profile; None if nothing was learned, or if it is damaged, until it is learned."""
    if not stored.terms:
        return None
    try:
        return Profile.load(stored.terms, stored.authors)
    except ValueError as error:
        set_aside("profile", subscriber_id, error)
        return None


def is_learning(engine: Engine, subscriber_id: int) -> bool:
    """Return whether the reactions of a reader change digests."""
    with read_only(engine) as conn:
        return reactions.profile_of(conn, subscriber_id).is_on


def like(
    engine: Engine,
    subscriber_id: int,
    key: str,
    liking: Liking,
    now: datetime,
    corpus: CorpusStatistics | None = None,
) -> None:
    """Store whether the reader wants more or less like a paper; NEITHER undoes it.

    `corpus` weighs the terms of a paper that has none stored.
    """
    _change(
        engine, subscriber_id, key, now, corpus, lambda one: replace(one, liking=liking, at=now)
    )


def save(
    engine: Engine,
    subscriber_id: int,
    key: str,
    now: datetime,
    corpus: CorpusStatistics | None = None,
    *,
    saved: bool = True,
) -> None:
    """Put a paper into the reader's list, or take it out, with its note."""

    def change(one: Reaction) -> Reaction:
        if saved:
            return replace(one, saved_at=one.saved_at or now)
        return replace(one, saved_at=None, note="")

    _change(engine, subscriber_id, key, now, corpus, change)


def annotate(engine: Engine, subscriber_id: int, key: str, note: str, now: datetime) -> None:
    """Store a note of one line, at most `LONGEST_NOTE` characters, and save the paper."""
    line = " ".join(note.split())[:LONGEST_NOTE]
    _change(
        engine,
        subscriber_id,
        key,
        now,
        None,
        lambda one: replace(one, note=line, saved_at=one.saved_at or now),
    )


def configure(
    engine: Engine,
    subscriber_id: int,
    now: datetime,
    *,
    is_on: bool | None = None,
    outside: bool | None = None,
) -> None:
    """Switch the profile, or papers outside the topics, on or off; None leaves it as it is."""

    def change(stored: StoredProfile) -> StoredProfile:
        return replace(
            stored,
            is_on=stored.is_on if is_on is None else is_on,
            outside=stored.outside if outside is None else outside,
        )

    _reconfigure(engine, subscriber_id, now, change)


def forget(engine: Engine, subscriber_id: int, term: str, now: datetime) -> None:
    """Remove a term or an author, by `Learned.id`, from the profile, for good.

    With a term all terms that share a word with it go: they would take its place in the list. What
    the profile does not contain is ignored, so that the stored list stays bounded.
    """

    def change(stored: StoredProfile) -> StoredProfile:
        learned = _profile(subscriber_id, stored)
        if learned is None or not (term in learned.authors or learned.weight_of(term)):
            return stored
        return replace(stored, removed=tuple(dict.fromkeys((*stored.removed, term)))[:REMOVED])

    _reconfigure(engine, subscriber_id, now, change)


@retry_transaction
def reset(engine: Engine, subscriber_id: int, now: datetime) -> None:
    """Forget all likes, the reader's own papers and the profile; saved papers stay."""
    with engine.begin() as conn:
        active_subscriber(conn, subscriber_id, now)
        stored = reactions.profile_of(conn, subscriber_id)
        reactions.delete_likes(conn, subscriber_id)
        empty = StoredProfile(
            is_on=stored.is_on, outside=stored.outside, saved_weekly=stored.saved_weekly
        )
        reactions.put_profile(conn, subscriber_id, empty, now)


# --- One transaction ----------------------------------------------------------------------------


@retry_transaction
def _change(
    engine: Engine,
    subscriber_id: int,
    key: str,
    now: datetime,
    corpus: CorpusStatistics | None,
    change: Callable[[Reaction], Reaction],
) -> None:
    with engine.begin() as conn:
        active_subscriber(conn, subscriber_id, now)
        paper = papers.by_key(conn, key)
        # A paper of the reader's own list may not be stored: then only its reaction has its key.
        known = reactions.to_paper(
            conn, subscriber_id, paper.key if paper else key, paper.id if paper else None
        )
        changed = change(
            known or _new(conn, paper or _paper(conn, key), now, corpus or CorpusStatistics())
        )
        if changed != known:
            reactions.put(conn, subscriber_id, changed)
            if changed.liking is not (known.liking if known else Liking.NEITHER):
                learn_anew(conn, subscriber_id, reactions.profile_of(conn, subscriber_id), now)
            if not changed.saved_at:
                saved_mails.cancel_if_empty(conn, subscriber_id)


@retry_transaction
def _reconfigure(
    engine: Engine,
    subscriber_id: int,
    now: datetime,
    change: Callable[[StoredProfile], StoredProfile],
) -> None:
    with engine.begin() as conn:
        active_subscriber(conn, subscriber_id, now)
        learn_anew(conn, subscriber_id, change(reactions.profile_of(conn, subscriber_id)), now)


def learn_anew(conn: Connection, subscriber_id: int, stored: StoredProfile, now: datetime) -> None:
    """Store the profile of the latest reactions; `stored` has the reader's settings."""
    latest = reactions.judged_by(conn, subscriber_id, LEARNED_FROM)
    opinions = _opinions(latest, subscriber_id)
    liked = {one.paper_id for one in latest if one.paper_id and one.liking is Liking.MORE}
    beside = reactions.shown_beside(conn, subscriber_id, liked, SHOWN)
    removed = _sharing_words(stored.removed, latest)
    shown = list(_readable((terms for _, terms in beside), subscriber_id))
    learned = profile.learn(opinions, shown, removed)
    left = [one for one in latest if removed.isdisjoint(stems for stems, _ in one.telling)]
    model, vector = _learn_vector(conn, left[:VECTORS], [id_ for id_, _ in beside])
    reactions.put_profile(
        conn,
        subscriber_id,
        replace(
            stored,
            terms=learned.dump() if opinions else b"",
            authors=learned.authors,
            liked=tuple(
                (one.title, tuple(profile.place(stems) for stems, _ in one.telling))
                for one in islice((one for one in latest if one.liking is Liking.MORE), EXAMPLES)
            ),
            likes=sum(one.likes for one in opinions),
            vector=vector,
            vector_model=model,
        ),
        now,
    )


def _learn_vector(
    conn: Connection, judged: Sequence[Reaction], beside: Sequence[int]
) -> tuple[str, bytes]:
    """Return the name of a model and the vector of a profile, from vectors that are stored.

    Papers without one take no part. Of several models that is used which embedded most of the
    newest papers. Returns "" and b"" if there is none.
    """
    models = embeddings.models(conn)
    ids = [one.paper_id for one in judged if one.paper_id]
    if not models or not ids:
        return "", b""
    keys = {
        id_: embeddings.key(text(paper))
        for id_, paper in papers.by_ids(conn, [*ids, *beside]).items()
    }
    newest = [keys[id_] for id_ in ids[:EXAMPLES] if id_ in keys]
    model = max(models, key=lambda one: len(embeddings.load_vectors(conn, one, newest)))
    usual = embeddings.random_vectors(conn, model, VECTORS)
    by_key = readable(usual | embeddings.load_vectors(conn, model, keys.values()))
    vectors = {id_: by_key[key] for id_, key in keys.items() if key in by_key}
    known = [
        Judged(vectors[one.paper_id], one.at.toordinal(), one.liking is Liking.MORE)
        for one in judged
        if one.paper_id in vectors
    ]
    if not known:
        return "", b""
    shown = [vectors[id_] for id_ in beside if id_ in vectors]
    learned = learn_vector(known, shown, [by_key[key] for key in usual if key in by_key])
    return model, learned.dump()


def _sharing_words(removed: Sequence[str], latest: Sequence[Reaction]) -> set[str]:
    """Return removed terms and authors, and the terms of papers that share a word with them."""
    if not removed:
        return set()
    words = {word for term in removed for word in term.split()}
    terms = {stems for one in latest for stems, _ in one.telling if words & set(stems.split())}
    return words | terms | set(removed)


def _readable(dumped: Iterable[bytes], subscriber_id: int) -> Iterator[Terms]:
    """Yield dumped terms without damaged ones, so that these do not block the reader's changes."""
    for one in dumped:
        try:
            yield Terms.load(one)
        except ValueError as error:
            set_aside("reaction", subscriber_id, error)


def _opinions(found: Iterable[Reaction], subscriber_id: int) -> list[Opinion]:
    return [
        Opinion(terms, author_keys(one.authors), one.at.toordinal(), one.liking is Liking.MORE)
        for one in found
        for terms in _readable([one.terms], subscriber_id)
    ]


def active_subscriber(conn: Connection, subscriber_id: int, now: datetime) -> None:
    """Lock the row of an active subscriber and note the day; raise NotFoundError for any other."""
    subscriber = existing_subscriber(conn, subscriber_id, for_change=True)
    if subscriber.status is not SubscriberStatus.ACTIVE:
        raise NotFoundError("this subscription is not active")
    subscribers.note_activity(conn, subscriber_id, now.date())


def _paper(conn: Connection, key: str) -> Paper:
    """Return a visible paper by its key, or by "id:" and its id, as in a mail on request."""
    paper = papers.by_key(conn, key)
    if paper is None:
        raise NotFoundError("no paper has this key")
    return paper


def _new(conn: Connection, paper: Paper, now: datetime, corpus: CorpusStatistics) -> Reaction:
    dumped = papers.terms_of(conn, [paper.id]).get(paper.id)
    return Reaction(
        key=paper.key,
        paper_id=paper.id,
        title=paper.title,
        authors=paper.authors,
        terms=dumped or profile.terms_of(paper, corpus).dump(),
        telling=tuple(profile.telling_terms(paper, corpus)),
        at=now,
        year=paper.announced_on.year,
    )


# --- Terms and authors, to be shown -------------------------------------------------------------


def _terms(learned: Profile, found: Sequence[Reaction], sign: float) -> tuple[Learned, ...]:
    """Return the terms of papers that weigh most in a profile, without parts of longer terms.

    A term of several papers counts once for each: the few words of a bare title weigh much.
    """
    written: dict[str, str] = {}
    titles: dict[str, list[str]] = {}
    for one in found:
        for stems, name in one.telling:
            written.setdefault(stems, name)
            titles.setdefault(stems, []).append(one.title)
    weights = {stems: sign * learned.weight_of(stems) for stems in written}
    ordered = sorted(
        (s for s in weights if weights[s] > 0), key=lambda s: (-weights[s] * len(titles[s]), s)
    )
    chosen: list[str] = []
    for stems in ordered:
        words = set(stems.split())
        if not any(words & set(other.split()) for other in chosen):
            chosen.append(stems)
    return tuple(Learned(s, written[s], tuple(titles[s])) for s in chosen)


def _authors(learned: Profile, found: Sequence[Reaction]) -> tuple[Learned, ...]:
    """Return the authors of a profile, those of most liked papers first."""
    titles: dict[str, list[str]] = {key: [] for key in learned.authors}
    for one in found:
        if one.liking is Liking.MORE:
            for key in author_keys(one.authors).keys() & titles.keys():
                titles[key].append(one.title)
    ordered = sorted(titles, key=lambda key: (-len(titles[key]), learned.authors[key]))
    return tuple(Learned(key, learned.authors[key], tuple(titles[key])) for key in ordered)
