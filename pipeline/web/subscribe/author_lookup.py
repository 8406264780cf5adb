"""Look up the papers of an author at ORCID or arXiv, when a reader presses the button for it.

At most two requests run at a time, in threads of their own; a form waits `SECONDS` for all of its
own. Results are kept in the memory of the process for ten minutes, for the previews that follow.
Ids of authors are personal data: they are neither logged nor stored.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from functools import partial
from importlib.metadata import version
from threading import Lock
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from pipeline.errors import SourceError
from pipeline.references import Reference, read_works
from pipeline.settings import Settings
from pipeline.sources import request_gap
from pipeline.sources.documents import DocumentError
from pipeline.sources.identifiers import AuthorId
from pipeline.storage import rate_limits
from pipeline.web.client_address import VisitorLimit

if TYPE_CHECKING:
    from pipeline.sources.client import Client

log = structlog.get_logger(__name__)

MOST_AUTHORS: Final = 3  # of one list
SECONDS: Final = 5.0  # that a form waits, in all
SECONDS_OF_FETCH: Final = 4.0
PATIENCE: Final = timedelta(seconds=2)  # for a turn under the rate limit of a site
AT_ONCE: Final = 2
QUEUE: Final = 6  # look-ups that run or wait
OF_ONE: Final = 6  # look-ups a minute of one visitor
OF_ALL: Final = 500  # an hour at one site, by all visitors and processes
AN_HOUR: Final = timedelta(hours=1)
KEPT: Final = 600.0  # seconds
MOST_KEPT: Final = 30  # results in memory
LARGEST: Final = 2 * 1024 * 1024  # octets as transferred
LARGEST_UNPACKED: Final = 8 * 1024 * 1024  # ORCID describes a work in some kilobytes of JSON
NO_LIST: Final = frozenset({400, 404, 409})  # unknown (arXiv, ORCID); locked or deactivated


@dataclass(frozen=True, slots=True)
class AuthorSite:
    """A site with lists of papers by author."""

    title: str
    url: str  # with a placeholder for the id
    accept: str
    hosts: frozenset[str]  # of redirects: ORCID redirects an iD that was merged into another


SITES: Final[Mapping[str, AuthorSite]] = MappingProxyType(
    {
        "orcid": AuthorSite(
            "ORCID",
            "https://pub.orcid.org/v3.0/{}/works",
            "application/json",
            frozenset({"pub.orcid.org"}),
        ),
        "arxiv": AuthorSite(
            "arXiv",
            "https://arxiv.org/a/{}.atom",
            "application/atom+xml",
            frozenset({"arxiv.org", "www.arxiv.org", "export.arxiv.org"}),
        ),
    }
)


class Problem(Enum):
    """Why no papers of an author were found."""

    MISTYPED = auto()  # the check digit of the iD is wrong; nothing was requested
    OFF = auto()  # by the setting
    WAITING = auto()  # for the button
    BUSY = auto()  # a limit is reached: of the visitor, of the site, or of the queue
    FAILED = auto()  # no answer in time, or none that can be read
    UNKNOWN = auto()  # the site has no such author, or shows no list
    EMPTY = auto()
    TOO_MANY = auto()  # beyond MOST_AUTHORS


Result = tuple[Reference, ...] | Problem


class _NoTurnError(SourceError):
    """Raised if the rate limit of a site leaves no turn in time."""


@dataclass(slots=True)
class AuthorLookup:
    """Fetch the papers of authors within limits, and keep the results for `KEPT` seconds."""

    client: Client | None  # None if the setting is off
    sites: Mapping[str, AuthorSite] = field(default_factory=lambda: SITES)
    clock: Callable[[], float] = time.monotonic
    _limit: VisitorLimit = field(default_factory=lambda: VisitorLimit(OF_ONE))
    _kept: OrderedDict[AuthorId, tuple[float, Result]] = field(default_factory=OrderedDict)
    _pending: dict[AuthorId, Future[Result]] = field(default_factory=dict)
    _not_before: dict[str, float] = field(default_factory=dict)  # by site, from Retry-After
    _lock: Lock = field(default_factory=Lock)
    _workers: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(AT_ONCE, "author-lookup")
    )

    @classmethod
    def of(cls, settings: Settings, engine: Engine) -> AuthorLookup:
        """Return a look-up whose turns are counted in the database, for all processes."""
        if not settings.author_lookup:
            return cls(None)
        from pipeline.sources.client import Client, DownloadLimits, user_agent
        from pipeline.sources.public_addresses import Proxy

        bounds = DownloadLimits(
            SECONDS_OF_FETCH, SECONDS_OF_FETCH, SECONDS_OF_FETCH, LARGEST, LARGEST_UNPACKED
        )
        agent = user_agent(version("paperboy"), settings.site_url, settings.contact)
        proxy = Proxy.of(settings)
        turns = partial(wait_turn, engine)
        return cls(Client(agent, turns, bounds=bounds, proxy=proxy, pauses=()))

    def results(
        self, authors: Iterable[AuthorId], visitor: str | None, *, is_wanted: bool
    ) -> dict[AuthorId, Result]:
        """Return the papers of each author, or the reason why there are none.

        Unless `is_wanted`, only results in memory are used. Waits at most `SECONDS`; a result that
        comes later is kept, and found by the next call.
        """
        due = self.clock() + SECONDS
        found: dict[AuthorId, Result] = {}
        started: dict[AuthorId, Future[Result]] = {}
        for author in authors:
            known = self._known(author)
            if known is not None:
                found[author] = known
            elif len(found) + len(started) >= MOST_AUTHORS:
                found[author] = Problem.TOO_MANY
            elif not is_wanted:
                found[author] = Problem.WAITING
            elif future := self._start(author, visitor, due):
                started[author] = future
            else:
                found[author] = Problem.BUSY
        for author, future in started.items():
            try:
                found[author] = future.result(max(0.0, due - self.clock()))
            except TimeoutError:
                found[author] = Problem.FAILED
        return found

    def _known(self, author: AuthorId) -> Result | None:
        if author.is_mistyped:
            return Problem.MISTYPED
        if self.client is None:
            return Problem.OFF
        with self._lock:
            self._forget()
            kept = self._kept.get(author)
            return kept[1] if kept else None

    def _forget(self) -> None:
        """Remove the results that are too old; the oldest are first."""
        now = self.clock()
        while self._kept:
            author, (until, _) = next(iter(self._kept.items()))
            if until > now and len(self._kept) <= MOST_KEPT:
                break
            del self._kept[author]

    def _start(self, author: AuthorId, visitor: str | None, due: float) -> Future[Result] | None:
        """Queue a fetch, once for all requests of an author; return None if a limit is reached."""
        with self._lock:
            if running := self._pending.get(author):
                return running
            if len(self._pending) >= QUEUE or not self._limit.takes(visitor, self.clock()):
                return None
            self._pending[author] = self._workers.submit(self._load, author, due)
            return self._pending[author]

    def _load(self, author: AuthorId, due: float) -> Result:
        try:
            result = Problem.BUSY if self.clock() >= due else self._fetch(author)
            if result not in (Problem.BUSY, Problem.FAILED):
                self._keep(author, result)
            return result
        finally:
            with self._lock:
                del self._pending[author]

    def _keep(self, author: AuthorId, result: Result) -> None:
        with self._lock:
            self._kept[author] = (self.clock() + KEPT, result)
            self._forget()

    def _fetch(self, author: AuthorId) -> Result:
        if self.clock() < self._not_before.get(author.site, 0.0):
            return Problem.BUSY
        try:
            return self._read(author)
        except (_NoTurnError, SQLAlchemyError) as error:
            log.info("author_lookup.no_turn", site=author.site, error=type(error).__name__)
            return Problem.BUSY
        except DocumentError:
            log.warning("author_lookup.malformed", site=author.site)
        except SourceError as error:  # its message may contain the URL, and so the id
            log.info("author_lookup.failed", site=author.site, retryable=error.retryable)
            if error.retry_at:
                wait = (error.retry_at - datetime.now(UTC)).total_seconds()
                self._not_before[author.site] = self.clock() + wait
        return Problem.FAILED

    def _read(self, author: AuthorId) -> Result:
        assert self.client is not None  # noqa: S101  (nothing is fetched if the setting is off)
        site = self.sites[author.site]
        answer = self.client.get(
            site.url.format(author.id),
            source=author.site,
            limit=author.site,
            now=datetime.now(UTC),
            headers={"Accept": site.accept},
            accept=NO_LIST,
            hosts=site.hosts,
        )
        if answer.status != 200:
            return Problem.UNKNOWN
        return read_works(author, answer.body) or Problem.EMPTY


def wait_turn(engine: Engine, limit: str) -> None:
    """Sleep until a request fits the rate limits; raise _NoTurnError if none does soon.

    Nothing is counted then. arXiv's limit is that of its source, and no turn is taken far ahead:
    visitors delay a daily run by `PATIENCE` and one turn at most.
    """
    with engine.begin() as conn:
        now = datetime.now(UTC)
        name = f"author-lookup:{limit}"
        if not rate_limits.count(conn, name, most=OF_ALL, window=AN_HOUR, now=now):
            raise _NoTurnError(limit, "too many look-ups")
        wait = rate_limits.take_turn(conn, limit, gap=request_gap(limit))
        if wait > PATIENCE:
            raise _NoTurnError(limit, "no turn in time")
    time.sleep(wait.total_seconds())
