"""Read every source, match new papers to topics, and publish them as a batch.

A run becomes visible only with its last transaction. If a run crashes, the next run matches and
publishes the papers that it stored, and deletes its matches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

import structlog
from sqlalchemy import Connection, Engine

from pipeline.domain import Breadth, Match, Sighting, SourceState
from pipeline.errors import LeaseLostError, SourceError
from pipeline.logs import set_aside
from pipeline.matching.corpus import CorpusStatistics, statistics
from pipeline.matching.match import match, parse_topics
from pipeline.matching.profile import terms_of
from pipeline.matching.semantic import Embedder
from pipeline.sources import FetchResult, Source, Validator
from pipeline.storage import ingest_state, papers, reactions, sightings, topics
from pipeline.storage.database import in_chunks, read_only, retry_transaction, server_now
from pipeline.storage.ingest_state import SourceRecord

if TYPE_CHECKING:
    from pipeline.sources.arxiv import ArxivAPI

log = structlog.get_logger(__name__)

LEASE = timedelta(minutes=15)
CHUNK = 500  # sightings or matches per transaction
MATCHED_AT_ONCE = 2_000  # papers in memory
WEIGHED_AT_ONCE = 2_000  # papers whose terms are stored in a run: about three seconds
WEIGHED_FOR = 30  # days after which papers without terms are left without
LOOK_BACK = timedelta(days=14)  # a source without a cursor is read from this long ago
NEWS_BY = 12  # UTC hour by which a source publishes on a day that its calendar lists


ARXIV = "arxiv"
LOOK_UPS, IDS = 5, 100  # requests of a run for papers by their ids, and ids of a request


Calendar = Callable[[date], bool]
"""Return whether a source publishes on a UTC day; see `Source.news_due`."""


@dataclass(frozen=True, slots=True)
class StoredValidators:
    """Validators of conditional requests, read only: ingest stores new ones with the papers."""

    engine: Engine

    def get(self, url: str) -> Validator | None:
        with read_only(self.engine) as conn:
            known = ingest_state.http_validator(conn, url)
        return Validator(*known) if known else None


@dataclass(frozen=True, slots=True)
class SourceReport:
    """Result of reading one source. `batch` is None if no new paper came from it."""

    source: str
    state: SourceState
    sightings: int = 0
    new: int = 0
    touched: int = 0
    batch: int | None = None
    error: str | None = None


@dataclass(slots=True)
class _Run:
    """One ingest run: its lease, and the batch it writes."""

    engine: Engine
    token: int
    batch: int
    now: datetime
    embedder: Embedder | None = None
    reports: list[SourceReport] = field(default_factory=list)

    def hold(self, conn: Connection) -> None:
        """Renew the lease and lock its row for the rest of the transaction.

        Every writing transaction of a run calls this first. Raises LeaseLostError if another run
        has taken the lease over.
        """
        ingest_state.hold_lease(conn, self.token, until=server_now(conn) + LEASE)


def ingest(
    engine: Engine,
    sources: Iterable[Source],
    *,
    now: datetime,
    since: date | None = None,
    embedder: Embedder | None = None,
    arxiv: ArxivAPI | None = None,
) -> list[SourceReport]:
    """Read `sources` and publish new papers; return a report per source.

    With `arxiv`, papers that arXiv has not announced get its categories and text from there. An
    error of one source does not stop the others. Returns an empty list if another run holds the
    lease. Raises LeaseLostError if another run took over the lease after it had expired; then none
    of this run's writes is visible.
    """
    looks = (partial(_read, source=s, since=since) for s in sources)
    return _ingest(engine, now, looks, embedder, arxiv)


def ingest_recorded(
    engine: Engine,
    readings: Iterable[tuple[str, FetchResult]],
    *,
    now: datetime,
    embedder: Embedder | None = None,
) -> list[SourceReport]:
    """Ingest recorded responses, given as (source, reading), in the same way.

    The stored state of the live sources does not change.
    """
    looks = (partial(_store_recorded, name=name, found=found) for name, found in readings)
    return _ingest(engine, now, looks, embedder)


def _ingest(
    engine: Engine,
    now: datetime,
    looks: Iterable[Callable[[_Run], SourceReport]],
    embedder: Embedder | None,
    arxiv: ArxivAPI | None = None,
) -> list[SourceReport]:
    run = _begin(engine, now, embedder)
    if run is None:
        log.info("ingest.skipped", reason="another run is at work")
        return []
    try:
        for look in looks:
            run.reports.append(look(run))
        if arxiv:
            _look_up(run, arxiv)
        return _publish(run)
    finally:
        with engine.begin() as conn:
            ingest_state.release_lease(conn, run.token)


def _begin(engine: Engine, now: datetime, embedder: Embedder | None) -> _Run | None:
    """Take the lease and delete matches of a crashed run; return None if another run holds it."""
    with engine.begin() as conn:
        clock = server_now(conn)
        token = ingest_state.take_lease(conn, now=clock, until=clock + LEASE)
        if token is None:
            return None
        published = ingest_state.published_batch(conn)
        dropped = topics.delete_unpublished_matches(conn, published)
    if dropped:
        log.warning("matches.dropped", batch=published + 1, matches=dropped)
    return _Run(engine, token, published + 1, now, embedder)


# --- One source ---------------------------------------------------------------------------------


def _read(run: _Run, source: Source, since: date | None) -> SourceReport:
    """Read one source and store its papers; return a report of the error if that fails.

    A source with a `next_try_at` in the future is skipped.
    """
    with read_only(run.engine) as conn:
        known = ingest_state.source_state(conn, source.name)
    if known and known.next_try_at and known.next_try_at > run.now:
        message = f"{known.error}; not asked again before {known.next_try_at:%Y-%m-%d %H:%M} UTC"
        return SourceReport(source.name, known.state, error=message)
    try:
        found = source.read(
            since=since or (run.now - LOOK_BACK).date(),
            cursor=known.cursor if known and since is None else None,
            now=run.now,
        )
    except SourceError as error:
        return _failed(run, known, error)
    except Exception as error:  # a bug in one source must not stop the others
        log.exception("source.broken", source=source.name)
        return _failed(run, known, SourceError(source.name, f"cannot be read: {error!r}"))
    return _store(run, source, known, found)


def _store(
    run: _Run, source: Source, known: SourceRecord | None, found: FetchResult
) -> SourceReport:
    total = _store_all(run, found)
    record = after_reading(
        known, source.name, news=total.touched, due=source.news_due, cursor=found.cursor,
        gaps=found.gaps, now=run.now,
    )  # fmt: skip
    for line in found.gaps:
        log.warning("announcement.missing", source=source.name, error=line)
    with run.engine.begin() as conn:
        # Advance the cursor and the validators only after all papers before them are stored.
        run.hold(conn)
        ingest_state.put_source_state(conn, record)
        for url, validator in found.validators:
            ingest_state.put_http_validator(
                conn, url, validator.etag, validator.last_modified, run.now
            )
    return _report(source.name, record.state, total, found)


def _store_recorded(run: _Run, name: str, found: FetchResult) -> SourceReport:
    total = _store_all(run, found)
    if total.touched:
        return _report(name, SourceState.FRESH, total, found)
    return _report(name, SourceState.STALE if total.sightings else SourceState.QUIET, total, found)


def _store_all(run: _Run, found: FetchResult) -> sightings.StoreCounts:
    total = sightings.StoreCounts()
    for chunk in in_chunks(found.sightings, CHUNK):
        # Compilation locks the papers that it picks, so concurrent transactions may deadlock.
        total = total + _store_chunk(run, chunk)
    return total


@retry_transaction
def _store_chunk(run: _Run, chunk: Sequence[Sighting]) -> sightings.StoreCounts:
    with run.engine.begin() as conn:
        run.hold(conn)
        return sightings.store(conn, chunk, batch=run.batch, now=run.now)


def _report(
    name: str, state: SourceState, total: sightings.StoreCounts, found: FetchResult
) -> SourceReport:
    log.info("source.read", source=name, state=state, sightings=total.sightings, new=total.new,
             skipped=len(found.skipped))  # fmt: skip
    return SourceReport(
        name,
        state,
        sightings=total.sightings,
        new=total.new,
        touched=total.touched,
        error="; ".join((*found.gaps, *found.skipped)) or None,
    )


def _failed(run: _Run, known: SourceRecord | None, error: SourceError) -> SourceReport:
    record = after_failure(known, error, run.now)
    with run.engine.begin() as conn:
        run.hold(conn)
        ingest_state.put_source_state(conn, record)
    log.warning("source.failed", source=error.source, error=error.message,
                failures=record.failures)  # fmt: skip
    return SourceReport(error.source, SourceState.FAILED, error=error.message)


def after_failure(known: SourceRecord | None, error: SourceError, now: datetime) -> SourceRecord:
    """Return the new record of a source that could not be read. Pure."""
    record = known or SourceRecord(error.source, SourceState.FAILED, now, now)
    return replace(
        record,
        state=SourceState.FAILED,
        since=record.since if record.state is SourceState.FAILED else now,
        checked_at=now,
        error=error.message,
        failures=record.failures + 1,
        next_try_at=error.retry_at,
    )


def after_reading(
    known: SourceRecord | None,
    name: str,
    *,
    news: int,
    due: Calendar,
    cursor: str | None,
    now: datetime,
    gaps: Sequence[str] = (),
) -> SourceRecord:
    """Return the new record of a source that was read, with `news` new or changed papers. Pure."""
    news_at = now if news else (known.news_at if known else None)
    state = state_of(news_at, due, now)
    unchanged = known is not None and known.state is state
    return SourceRecord(
        source=name,
        state=state,
        since=known.since if known and unchanged else now,
        checked_at=now,
        read_at=now,
        news_at=news_at,
        cursor=cursor or (known.cursor if known else None),
        error="; ".join(gaps) or None,
    )


def state_of(news_at: datetime | None, due: Calendar, now: datetime) -> SourceState:
    """Return FRESH, QUIET or STALE. Pure.

    STALE means that a day on which the source was due has passed without new papers; today counts
    from NEWS_BY.
    """
    today = now.date()
    if news_at is not None and news_at.date() >= today:
        return SourceState.FRESH
    last = news_at.date() if news_at else today - timedelta(days=1)
    days = [last + timedelta(days=n) for n in range(1, min((today - last).days, 30) + 1)]
    missed = [day for day in days if due(day) and (day < today or now.hour >= NEWS_BY)]
    return SourceState.STALE if missed else SourceState.QUIET


# --- Papers that arXiv knows ---------------------------------------------------------------------


def _look_up(run: _Run, arxiv: ArxivAPI) -> None:
    """Request papers by their ids, and merge the answers, until all are stored or one fails.

    After a failure the next run requests them again; the next day, if arXiv rejects the request. No
    request is made before the time that arXiv named, here or in its feed. Raises LeaseLostError
    only: without the answers, papers are published as their sources list them.
    """
    with read_only(run.engine) as conn:
        known = [ingest_state.source_state(conn, name) for name in (ARXIV, ingest_state.LOOK_UP)]
        missing = papers.missing_from(conn, ARXIV, now=run.now, limit=LOOK_UPS * IDS)
    if any(one and one.next_try_at and one.next_try_at > run.now for one in known):
        return
    try:
        for ids in in_chunks(missing, IDS):
            counts = _merge(run, ids, arxiv.look_up(ids, now=run.now))
            log.info("papers.looked_up", source=ARXIV, papers=len(ids), found=counts.sightings)
    except SourceError as error:
        log.warning("papers.look_up_failed", source=ARXIV, error=error.message)
        _postpone(run, missing, error)
    except LeaseLostError:
        raise
    except Exception:  # a bug in the look-up must not stop the digests
        log.exception("papers.look_up_broken", source=ARXIV)


def _postpone(run: _Run, missing: Sequence[str], error: SourceError) -> None:
    """Store when arXiv may be requested again, if it named a time or rejected the request."""
    if not error.retryable:
        _merge(run, missing, ())
    if error.retry_at:
        with run.engine.begin() as conn:
            run.hold(conn)
            known = ingest_state.source_state(conn, ingest_state.LOOK_UP)
            refused = SourceError(ingest_state.LOOK_UP, error.message, retry_at=error.retry_at)
            ingest_state.put_source_state(conn, after_failure(known, refused, run.now))


@retry_transaction
def _merge(run: _Run, ids: Sequence[str], found: Sequence[Sighting]) -> sightings.StoreCounts:
    with run.engine.begin() as conn:
        run.hold(conn)
        papers.mark_looked_up(conn, ids, run.now)
        return sightings.store(conn, found, batch=run.batch, now=run.now)


# --- The batch ----------------------------------------------------------------------------------


def _publish(run: _Run) -> list[SourceReport]:
    """Match the new and changed papers and publish them as a batch, if there are any."""
    with read_only(run.engine) as conn:
        touched = papers.touched_ids(conn, run.batch - 1)
        oldest = ingest_state.look_back(conn, run.now, days=topics.MATCHED_FOR)
        followed = topics.matched_through(conn, run.batch - 1)
        has_readers = bool(followed) or reactions.is_any_profile(conn)
        corpus = statistics(papers.recent(conn, through_batch=run.batch) if has_readers else ())
    if not touched:
        return run.reports
    new = matches = 0
    unmatched: set[object] = set()

    def aside(kind: str, id_: object, error: Exception) -> None:
        set_aside(kind, id_, error)
        if kind == "topic":
            unmatched.add(id_)

    queries = parse_topics(followed, aside)
    for chunk in in_chunks(touched, MATCHED_AT_ONCE):
        with read_only(run.engine) as conn:
            some = list(papers.by_ids(conn, chunk).values())
        news = [paper for paper in some if paper.batch > oldest]
        found = list(match(queries, news, corpus=corpus, embedder=run.embedder, set_aside=aside))
        _write_matches(run, found)
        new += sum(paper.batch == run.batch for paper in some)
        matches += sum(one.breadth is not Breadth.NEAR_MISS for one in found)
    if has_readers:
        _store_terms(run, corpus)
    with run.engine.begin() as conn:
        run.hold(conn)
        ingest_state.publish_batch(conn, run.batch, token=run.token, papers=new, matches=matches,
                        now=run.now)  # fmt: skip
        # A topic that could not be matched keeps its position, and is matched later if that
        # succeeds.
        matched = [t.id for t in followed if t.id not in unmatched]
        topics.advance(conn, matched, from_batch=run.batch - 1, to_batch=run.batch)
    log.info("batch.published", batch=run.batch, papers=new, matches=matches,
             topics=len(followed))  # fmt: skip
    return [replace(r, batch=run.batch) if r.touched else r for r in run.reports]


def _store_terms(run: _Run, corpus: CorpusStatistics) -> None:
    """Store the terms of papers, with which digests are ordered for readers who reacted.

    Also those of papers that an earlier run left without terms, at most `WEIGHED_AT_ONCE`.
    """
    with read_only(run.engine) as conn:
        floor = ingest_state.look_back(conn, run.now, days=WEIGHED_FOR)
        missing = papers.without_terms(conn, after_batch=floor, limit=WEIGHED_AT_ONCE)
    for chunk in in_chunks(missing, CHUNK):
        with read_only(run.engine) as conn:
            some = papers.by_ids(conn, chunk).values()
        terms = {(one.id, one.version): terms_of(one, corpus).dump() for one in some}
        with run.engine.begin() as conn:
            run.hold(conn)
            papers.store_terms(conn, terms)


def _write_matches(run: _Run, matches: Sequence[Match]) -> None:
    for chunk in in_chunks(matches, CHUNK):
        with run.engine.begin() as conn:
            run.hold(conn)
            topics.add_matches(conn, [(found, run.batch) for found in chunk])
