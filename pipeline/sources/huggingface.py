"""Hugging Face Daily Papers source: a curated list of papers per day, with upvotes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any

from pipeline.domain import Links, Sighting
from pipeline.errors import SourceError
from pipeline.sources import FetchResult, Validator
from pipeline.sources.client import Client, Response
from pipeline.sources.documents import (
    DocumentError,
    Skipped,
    collect,
    count_in,
    day_in,
    moment_in,
    parse_json,
    strings_in,
    text_in,
)
from pipeline.sources.identifiers import arxiv_name
from pipeline.sources.text import (
    MOST_AUTHORS,
    clean,
    clean_keywords,
    clean_names,
    clean_title,
    https_link,
)

NAME = "huggingface"
_PAGE = 50  # the API's maximum; three days on record had more papers
_MOST_PAGES = 10
_MOST_DAYS = 92  # of backfill in one fetch; the next fetch continues at the cursor
_REREAD = timedelta(days=14)  # upvotes settle over one to two weeks
_REREAD_EVERY = 8  # hours between two fetches of an older day
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class HuggingFace:
    """Client of `GET /api/daily_papers?date=`: 500 requests in five minutes without a token.

    The cursor is the last day that was fetched.
    """

    client: Client
    token: str | None = field(default=None, repr=False)
    site: str = "https://huggingface.co"

    @property
    def name(self) -> str:
        return NAME

    def news_due(self, on: date) -> bool:
        """Return whether `on` is a weekday; lists on weekends are possible but not scheduled."""
        return on.weekday() < 5

    def read(self, *, since: date, cursor: str | None, now: datetime) -> FetchResult:
        first = day_in(cursor)
        new_days = _new_days(since if first is None else first - _DAY, now.date())
        look = _DayQuery(self, now)
        for day in (*_older_days(new_days[0], now), *new_days):
            look.read_day(day)
        return FetchResult(
            sightings=tuple(look.sightings),
            cursor=new_days[-1].isoformat(),
            unchanged=look.saw_unchanged and not look.sightings,
            skipped=look.skipped.lines,
            validators=tuple(look.validators),
        )

    def page(self, day: date, number: int, now: datetime) -> Response:
        url = f"{self.site}/api/daily_papers?date={day.isoformat()}&limit={_PAGE}"
        return self.client.get(
            f"{url}&p={number}" if number else url,
            source=NAME,
            limit=NAME,
            now=now,
            headers={"Authorization": f"Bearer {self.token}"} if self.token else None,
            conditional=number == 0,
        )


class _DayQuery:
    """One fetch of several days: the sightings, skipped entries and validators so far."""

    def __init__(self, source: HuggingFace, now: datetime) -> None:
        self._source, self._now = source, now
        self.sightings: list[Sighting] = []
        self.skipped = Skipped()
        self.validators: list[tuple[str, Validator]] = []
        self.saw_unchanged = False

    def read_day(self, day: date) -> None:
        for number in range(_MOST_PAGES):
            answer = self._source.page(day, number, self._now)
            # A 304 for the first page says nothing about the second: continue as if it were full.
            if answer.unchanged:
                self.saw_unchanged = True
            elif self._keep(answer, day) < _PAGE:
                return

    def _keep(self, answer: Response, day: date) -> int:
        """Parse and keep a page, and return its number of entries; raise SourceError."""
        try:
            sightings, entries = read_daily_papers(parse_json(answer.body), day, self.skipped)
        except DocumentError as error:
            raise SourceError(NAME, f"the list of {day} {error}") from error
        self.sightings += sightings
        if answer.validator and entries:
            self.validators.append((answer.url, answer.validator))
        return entries


def _new_days(first: date, today: date) -> list[date]:
    """Return the days from `first` to `today`, inclusive: at least one, at most _MOST_DAYS."""
    first = min(first, today)
    return [first + n * _DAY for n in range(min((today - first).days + 1, _MOST_DAYS))]


def _older_days(first_new: date, now: datetime) -> Iterator[date]:
    """Return the days before `first_new` to fetch again this hour, out of the last 14.

    Each day is due every _REREAD_EVERY hours, so that the requests are spread over the hours.
    """
    day = max(now.date() - _REREAD, date(2023, 5, 1))
    while day < first_new:
        if day.toordinal() % _REREAD_EVERY == now.hour % _REREAD_EVERY:
            yield day
        day += _DAY


def read_daily_papers(answer: Any, day: date, skipped: Skipped) -> tuple[tuple[Sighting, ...], int]:
    """Parse the response for `day`; return its sightings and its number of entries.

    Raise DocumentError if it is an error or not a list.
    """
    if isinstance(answer, dict) and "error" in answer:
        raise DocumentError(f"is an error: {clean(str(answer['error']), 200)}")
    if not isinstance(answer, list):
        raise DocumentError("is no list of papers")

    def read(entry: Any) -> Sighting:
        return entry_sighting(entry, day)

    return collect(answer, read, skipped, called=f"{day} entry"), len(answer)


def entry_sighting(entry: Any, day: date | None) -> Sighting:
    """Parse one entry; raise DocumentError if the id or the title is missing.

    Other fields may be absent: the API added them over the years. `day` is the requested date, used
    if the entry has none.
    """
    paper = entry.get("paper") if isinstance(entry, dict) else None
    if not isinstance(paper, dict):
        raise DocumentError("is not a paper")
    name = arxiv_name(paper.get("id"))
    if name is None:
        raise DocumentError(f"has no arXiv id ({clean(str(paper.get('id')), 60)})")
    title = clean_title(text_in(paper, "title") or text_in(entry, "title"))
    if not title:
        raise DocumentError(f"{name.id} has no title")
    authors = _authors(paper.get("authors"))
    return Sighting(
        source=NAME,
        source_id=name.id,
        title=title,
        abstract=clean(text_in(paper, "summary") or text_in(entry, "summary")),
        authors=authors,
        author_count=len(authors),
        keywords=clean_keywords(strings_in(paper.get("ai_keywords"))),
        arxiv_id=name.id,
        announced_on=day_in(paper.get("submittedOnDailyAt")) or day,
        published_at=moment_in(paper.get("publishedAt")),
        upvotes=count_in(paper.get("upvotes")),
        comments=count_in(entry.get("numComments")),
        links=Links(
            abstract=name.abstract_page,
            pdf=name.pdf,
            code=https_link(paper.get("githubRepo")),
            project=https_link(paper.get("projectPage")),
            discussion=f"https://huggingface.co/papers/{name.id}",
        ),
        organization=_organization(paper.get("organization") or entry.get("organization")),
        stars=count_in(paper.get("githubStars")),
    )


def _organization(named: Any) -> str:
    """Return the name of the organization that claimed the paper on its page; "" if none did."""
    if not isinstance(named, dict):
        return ""
    return clean(text_in(named, "fullname") or text_in(named, "name"), 80)


def _authors(listed: Any) -> tuple[str, ...]:
    """Return all author names, including those that the page hides: they wrote the paper, too."""
    people = listed[:MOST_AUTHORS] if isinstance(listed, list) else []
    return clean_names(text_in(person, "name") for person in people if isinstance(person, dict))
