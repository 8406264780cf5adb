"""The papers of the last month, ready to be searched, once for all who look at this process."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import date, timedelta
from functools import lru_cache
from typing import Final

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from pipeline.domain import Paper
from pipeline.matching.index import PaperIndex, Scored
from pipeline.matching.query import parse
from pipeline.storage import batches, papers
from pipeline.storage.database import reading

log = structlog.get_logger(__name__)

DAYS: Final = 30
MOST_PAPERS: Final = 8_000  # an index of so many takes about ten seconds and 200 MB to make


class Recent:
    """Papers announced within `DAYS` days before the newest one, newest first."""

    def __init__(self, papers: Sequence[Paper], batch: int) -> None:
        self.papers = _readable(papers)
        self.batch = batch  # the newest one that was looked at
        self.days = tuple(sorted({paper.announced_on for paper in self.papers}))
        self._index = PaperIndex(self.papers)
        self.search = lru_cache(maxsize=1_000)(self._search)

    def _search(self, query: str) -> tuple[Scored, ...]:
        """What a canonical query finds, best first."""
        return tuple(self._index.search(parse(query)))

    @property
    def newest(self) -> date | None:
        return self.days[-1] if self.days else None


class RecentPapers:
    """Keeps one `Recent`, and makes the next one while the old one still answers."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._kept: Recent | None = None
        self._lock = threading.Lock()  # held by whoever makes the next one

    @property
    def is_ready(self) -> bool:
        """Whether an answer takes no time."""
        return self._kept is not None

    def get(self) -> Recent:
        """At most one batch behind; whoever is first of all waits until it is made."""
        kept = self._kept
        if kept is None:
            with self._lock:
                self._kept = self._kept or self._made()
                return self._kept
        if kept.batch != self._published() and self._lock.acquire(blocking=False):
            threading.Thread(target=self._renew, name="recent papers", daemon=True).start()
        return kept

    def _renew(self) -> None:
        try:
            self._kept = self._made()
        except DBAPIError:
            log.warning("recent papers not renewed", exc_info=True)  # whoever asks next tries again
        finally:
            self._lock.release()

    def _made(self) -> Recent:
        with reading(self._engine) as conn:
            through = batches.published(conn)
            newest = papers.announced(conn, through_batch=through, limit=1)
            since = newest[0].announced_on - timedelta(days=DAYS - 1) if newest else None
            found = papers.announced(conn, since=since, through_batch=through, limit=MOST_PAPERS)
        made = Recent(found, through)
        log.info("recent papers ready", papers=len(made.papers), batch=through)
        return made

    def _published(self) -> int:
        with reading(self._engine) as conn:
            return batches.published(conn)


def _readable(found: Sequence[Paper]) -> list[Paper]:
    """Without the withdrawn ones; where the limit cut a day in two, without that day."""
    if len(found) == MOST_PAPERS:
        found = [paper for paper in found if paper.announced_on > found[-1].announced_on]
    return [paper for paper in found if not paper.withdrawn]
