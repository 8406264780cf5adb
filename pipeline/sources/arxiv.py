"""arXiv source: the daily feed for new papers, the API for days the feed no longer lists."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Self
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from pipeline.domain import Sighting
from pipeline.errors import SourceError
from pipeline.sources import FetchResult, Validator
from pipeline.sources.arxiv_formats import SOURCE, ParsedDocument, RefusedError, each_once, read_xml
from pipeline.sources.client import Client
from pipeline.sources.documents import DocumentError

LIMIT = "arxiv"  # one rate limit for API, feeds and OAI-PMH together, as the terms of use ask
_HOSTS = frozenset({"arxiv.org", "rss.arxiv.org", "export.arxiv.org", "oaipmh.arxiv.org"})
_FEED_CAP = 2_000  # entries in a feed at most; a full feed may be truncated
_SLICE = 1_000  # papers per page; the API allows 2,000
_MOST_RESULTS = 30_000  # of one query
_WINDOW = timedelta(days=7)
_LONGEST_HOLD = timedelta(days=6)  # from submission to announcement, over a holiday and a weekend
_DAY = timedelta(days=1)
_ASKED_FOR = timedelta(days=7)  # the API lags a day or two; after this a missed day is given up
_REPORTED_FOR = timedelta(days=21)


@dataclass(frozen=True, slots=True)
class ArxivAPI:
    """Client of `export.arxiv.org/api/query`, which is refreshed once a day at midnight."""

    client: Client
    base: str = "https://export.arxiv.org"

    def search(
        self, query: str, *, now: datetime, since: date | None = None, until: date | None = None
    ) -> Iterator[ParsedDocument]:
        """Yield the pages of results for a query in arXiv's query language, up to 30,000 papers.

        `since` and `until` (both inclusive) limit the UTC day on which the first version was
        submitted. Raise SourceError if a request fails, or if a page before the end is empty twice.
        """
        if since or until:
            query = f"({query}) AND {_submitted(since or date(1991, 1, 1), until or now.date())}"
        start, total = 0, 1
        while start < min(total, _MOST_RESULTS):
            answer = self._page(query, start, now)
            yield answer
            total = answer.total or 0
            start += answer.entries or _SLICE

    def look_up(self, arxiv_ids: Sequence[str], *, now: datetime) -> tuple[Sighting, ...]:
        """Return the papers with these ids by one request.

        Unknown ids are left out. The sightings only update papers that are stored. Raise
        SourceError if the request fails.
        """
        answer = self._answer({"id_list": ",".join(arxiv_ids), "max_results": len(arxiv_ids)}, now)
        return tuple(replace(sighting, update_only=True) for sighting in answer.sightings)

    def _page(self, query: str, start: int, now: datetime) -> ParsedDocument:
        params = {
            "search_query": query,
            "start": start,
            "max_results": _SLICE,
            "sortBy": "submittedDate",
            "sortOrder": "ascending",
        }
        for _ in range(2):  # retry once: the API sometimes returns an empty page too early
            answer = self._answer(params, now)
            if answer.entries or (answer.total or 0) <= start:
                return answer
        raise SourceError(SOURCE, f"gave an empty page at {start} of {answer.total}")

    def _answer(self, params: Mapping[str, object], now: datetime) -> ParsedDocument:
        fetched = self.client.get(
            f"{self.base}/api/query?{urlencode(params)}",
            source=SOURCE,
            limit=LIMIT,
            now=now,
            accept=frozenset({400}),
            hosts=_HOSTS,
        )
        return _understood(fetched.body)


@dataclass(frozen=True, slots=True)
class _Cursor:
    """The last feed day that was fetched, a fingerprint of that feed, and the missing days.

    The fingerprint detects a feed that arXiv repeats under the next day's date, as it has done. A
    missing day stays in the cursor until the API returns papers of it or of a later day; if it
    never does, the day is queried for 7 days and reported for 21.
    """

    day: date
    fingerprint: str = ""
    missing: tuple[date, ...] = ()

    def __str__(self) -> str:
        days = "".join(f"/{day.isoformat()}" for day in self.missing)
        return f"{self.day.isoformat()}/{self.fingerprint}{days}"

    @classmethod
    def parse(cls, text: str | None) -> Self | None:
        day, _, rest = (text or "").partition("/")
        fingerprint, *missing = rest.split("/")
        try:
            return cls(
                date.fromisoformat(day), fingerprint, tuple(map(date.fromisoformat, missing))
            )
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class _Filled:
    """Papers of missed feed days, fetched from the API."""

    sightings: tuple[Sighting, ...] = ()
    latest: date = date.min  # the latest feed day the API has papers of: its lag
    error: SourceError | None = None


@dataclass(frozen=True, slots=True)
class _Feed:
    sightings: tuple[Sighting, ...] = ()
    skipped: tuple[str, ...] = ()
    validators: tuple[tuple[str, Validator], ...] = ()
    unchanged: bool = False


@dataclass(frozen=True, slots=True)
class Arxiv:
    """The daily Atom feed of some categories, with the API as backfill for missed days."""

    client: Client
    categories: tuple[str, ...]
    feed_base: str = "https://rss.arxiv.org"
    api_base: str = "https://export.arxiv.org"

    @property
    def name(self) -> str:
        return SOURCE

    def news_due(self, on: date) -> bool:
        """Return whether `on` is a feed day.

        The feed is rebuilt at midnight in New York (04:00 or 05:00 UTC), Monday to Friday.
        """
        return feed_day(on)

    def read(self, *, since: date, cursor: str | None, now: datetime) -> FetchResult:
        last = _Cursor.parse(cursor)
        feed = self._feed(self.categories, now, conditional=last is not None)
        fingerprint = _fingerprint(feed.sightings)
        repeated = feed.unchanged or (last is not None and fingerprint == last.fingerprint)
        fresh = () if repeated else feed.sightings
        day = max((s.announced_on for s in fresh if s.announced_on), default=None)

        today = now.astimezone(NEW_YORK).date()
        new = tuple(feed_days(last.day + _DAY if last else since, day or today))
        missing = tuple(sorted({*(last.missing if last else ()), *new}))
        requested = tuple(d for d in missing if last is None or today - d <= _ASKED_FOR)
        filled = self._fill(requested, now, keep_feed=bool(last and fresh))
        left = tuple(d for d in missing if d > filled.latest or d not in requested)
        left = tuple(d for d in left if today - d <= (_REPORTED_FOR if last else _ASKED_FOR))
        moved = _next_cursor(last, day, new, fingerprint, left)
        return FetchResult(
            sightings=(*filled.sightings, *fresh),
            cursor=moved if moved != cursor else None,
            unchanged=repeated and not filled.sightings,
            skipped=feed.skipped,
            validators=feed.validators,
            gaps=tuple(_gaps(left, today, filled.error)),
        )

    def _feed(self, categories: tuple[str, ...], now: datetime, *, conditional: bool) -> _Feed:
        """Fetch one feed for all categories; if it is full (2,000 entries), fetch each half."""
        fetched = self.client.get(
            f"{self.feed_base}/atom/{'+'.join(categories)}",
            source=SOURCE,
            limit=LIMIT,
            now=now,
            conditional=conditional,
            hosts=_HOSTS,
        )
        if fetched.unchanged:
            return _Feed(unchanged=True)
        answer = _understood(fetched.body)
        if answer.entries < _FEED_CAP or len(categories) == 1:
            validators = ((fetched.url, fetched.validator),) if fetched.validator else ()
            return _Feed(answer.sightings, answer.skipped, validators)
        middle = len(categories) // 2
        halves = (categories[:middle], categories[middle:])
        # Unconditional requests: if one half returned 304, its papers would be missing.
        return _joined([self._feed(half, now, conditional=False) for half in halves])

    def _fill(self, days: tuple[date, ...], now: datetime, *, keep_feed: bool) -> _Filled:
        """Return the papers of `days` from the API; with `keep_feed`, return its error, if any.

        Without `keep_feed`, raise SourceError if the API fails. With it, the error must not discard
        the feed: that is replaced at midnight, while the API can be queried again tomorrow.
        """
        if not days:
            return _Filled()
        try:
            return self._missed(days, now)
        except SourceError as error:
            if not keep_feed:
                raise
            return _Filled(error=error)

    def _missed(self, days: tuple[date, ...], now: datetime) -> _Filled:
        """Return the papers scheduled for `days`.

        The API does not return the announcement day; it is computed from the submission time.
        """
        api = ArxivAPI(self.client, self.api_base)
        query = " OR ".join(f"cat:{category}" for category in self.categories)
        found: dict[str, Sighting] = {}
        latest = date.min
        for first, last in _windows(days[0] - _LONGEST_HOLD, days[-1]):
            for answer in api.search(query, now=now, since=first, until=last):
                for sighting in answer.sightings:
                    if sighting.published_at is None:
                        continue
                    day = first_feed_day(sighting.published_at)
                    latest = max(latest, day)
                    if day in days:
                        found[sighting.source_id] = replace(sighting, announced_on=day)
        return _Filled(tuple(found.values()), latest)


def _understood(body: bytes) -> ParsedDocument:
    try:
        return read_xml(body, whole=True)
    except DocumentError as error:
        # The API's "Error" entry is about the query, so a retry would return it again.
        again = not isinstance(error, RefusedError)
        raise SourceError(SOURCE, f"the answer {error}", retryable=again) from error


def _joined(feeds: list[_Feed]) -> _Feed:
    """Merge feeds; a paper in several is returned once, as new if any feed lists it as new."""
    return _Feed(
        sightings=each_once(sighting for feed in feeds for sighting in feed.sightings),
        skipped=tuple(line for feed in feeds for line in feed.skipped),
    )


def _fingerprint(sightings: tuple[Sighting, ...]) -> str:
    """Return a hash of paper ids and versions, independent of order and date; "" if empty."""
    papers = sorted(f"{s.source_id}v{s.version}" for s in sightings)
    return hashlib.sha256("\n".join(papers).encode()).hexdigest()[:16] if papers else ""


def _next_cursor(
    last: _Cursor | None,
    day: date | None,
    new: tuple[date, ...],
    fingerprint: str,
    missing: tuple[date, ...],
) -> str | None:
    if day is not None and (last is None or day >= last.day):
        return str(_Cursor(day, fingerprint, missing))
    reached = new[-1] if new else last.day if last else None
    if reached is None:
        return None
    return str(_Cursor(reached, last.fingerprint if last else "", missing))


def _gaps(missing: tuple[date, ...], today: date, error: SourceError | None) -> Iterator[str]:
    """Return one report line with the reason for each missing day."""
    for day in missing:
        if today - day > _ASKED_FOR:
            yield f"the feed of {day} was missed, and the API never had its papers: given up"
        else:
            why = f"the API failed: {error.message}" if error else "the API does not have it yet"
            yield f"the feed of {day} was missed, and {why}; it is asked again"


def _windows(first: date, last: date) -> Iterator[tuple[date, date]]:
    """Split the range into weeks, to keep each query far below the API's 30,000 results."""
    while first <= last:
        end = min(first + _WINDOW - _DAY, last)
        yield first, end
        first = end + _DAY


def _submitted(first: date, last: date) -> str:
    start = datetime.combine(first, time.min, UTC)
    end = datetime.combine(last, time(23, 59), UTC)
    return f"submittedDate:[{start:%Y%m%d%H%M} TO {end:%Y%m%d%H%M}]"


NEW_YORK = ZoneInfo("America/New_York")
_CUTOFF = time(14)
_ONE_DAY = timedelta(days=1)

# Evenings without an announcement. For other years only weekends are excluded.
_HOLIDAYS = frozenset(
    date(2026, month, day)
    for month, day in (
        (1, 1), (1, 19), (6, 19), (7, 3), (9, 7), (11, 26), (12, 25), (12, 29), (12, 31),
    )
)  # fmt: skip


def feed_day(day: date) -> bool:
    """Return whether the feed lists new papers on `day`: arXiv announced the evening before."""
    evening = day - _ONE_DAY
    return evening.weekday() not in {4, 5} and evening not in _HOLIDAYS


def feed_days(first: date, end: date) -> Iterator[date]:
    """Return the feed days from `first` up to but not including `end`."""
    for number in range((end - first).days):
        day = first + number * _ONE_DAY
        if feed_day(day):
            yield day


def first_feed_day(submitted_at: datetime) -> date:
    """Return the earliest feed day of a submission; if moderators hold it, it appears later."""
    local = submitted_at.astimezone(NEW_YORK)
    day = local.date() if local.time() < _CUTOFF else local.date() + _ONE_DAY
    while day.weekday() >= 5:  # weekend submissions count as Monday's
        day += _ONE_DAY
    evening = day + 2 * _ONE_DAY if day.weekday() == 4 else day  # Friday's are announced on Sunday
    while not feed_day(evening + _ONE_DAY):
        evening += _ONE_DAY
    return evening + _ONE_DAY
