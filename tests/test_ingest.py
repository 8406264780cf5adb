"""Ingest: fetch every source and publish new papers once, even if a process dies meanwhile."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import cast
from urllib.parse import parse_qs, urlsplit

import pytest
from sqlalchemy import Engine

from pipeline import ingest as ingesting
from pipeline import settings, sources
from pipeline.domain import Sighting, SourceState
from pipeline.editions import match_late_topics
from pipeline.errors import LeaseLostError, SettingsError, SourceError
from pipeline.ingest import SourceReport, state_of
from pipeline.sources import FetchResult, Validator, recorded_files
from pipeline.sources.arxiv import ArxivAPI
from pipeline.sources.client import Client
from pipeline.storage import ingest_state, topics
from pipeline.storage.database import read_only
from pipeline.storage.ingest_state import SourceRecord
from pipeline.storage.schema import BatchRow, MatchRow, SightingRow
from tests.support import SHARED
from tests.support.dying import dying, end_lease
from tests.support.factories import NOW, TODAY, make_match, make_sighting
from tests.support.newsroom import (
    Press,
    add_reader,
    count,
    empty,
    ingest,
    matches,
    published,
    rows,
    store,
    stored,
    touched,
)
from tests.support.source_answers import api, api_entry, api_error
from tests.support.source_server import Reply, Site, serve

HOUR = timedelta(hours=1)
ROOT = Path(__file__).resolve().parents[1]


def refused(retry_at: datetime | None = None) -> None:
    raise SourceError("feed", "503 Service Unavailable", retry_at=retry_at)


def record(engine: Engine, source: str) -> SourceRecord:
    with read_only(engine) as conn:
        found = ingest_state.source_state(conn, source)
    assert found is not None
    return found


# --- Batches ------------------------------------------------------------------------------------


def test_new_papers_of_all_sources_are_published_as_one_batch(engine: Engine):
    reports = ingest(engine, make_sighting("3001.00001"), make_sighting(None, source="feed"))

    assert [(r.source, r.state, r.new, r.batch) for r in reports] == [
        ("arxiv", SourceState.FRESH, 1, 1),
        ("feed", SourceState.FRESH, 1, 1),
    ]
    assert published(engine) == 1
    assert [(b.number, b.papers) for b in rows(engine, BatchRow)] == [(1, 2)]


def test_papers_beyond_the_chunk_size_are_all_matched(engine: Engine, monkeypatch):
    monkeypatch.setattr(ingesting, "MATCHED_AT_ONCE", 3)
    monkeypatch.setattr("pipeline.matching.match.AT_ONCE", 2)
    add_reader(engine, "cat:cs.IR")
    match_late_topics(engine, 0, NOW)

    ingest(engine, *(make_sighting(f"3001.0000{n}", title=f"Paper {n}") for n in range(8)))

    assert len(matches(engine)) == 8
    assert [(b.papers, b.matches) for b in rows(engine, BatchRow)] == [(8, 8)]


def test_ingest_without_new_papers_publishes_no_batch(engine: Engine):
    sighting = make_sighting()
    ingest(engine, sighting)

    (report,) = ingest(engine, sighting)

    assert (report.sightings, report.new, report.batch) == (1, 0, None)
    assert published(engine) == 1


def test_match_keeps_the_batch_of_its_first_occurrence(engine: Engine):
    """arXiv announces on Monday, Hugging Face lists on Tuesday: each match keeps its own batch."""
    add_reader(engine, "cat:cs.IR", "source:huggingface")
    match_late_topics(engine, 0, NOW)

    ingest(engine, make_sighting("3001.00001"))
    on_monday = matches(engine)
    ingest(engine, make_sighting("3001.00001", source="huggingface", upvotes=3))
    on_tuesday = matches(engine) - on_monday

    assert [batch for _, _, batch in on_monday] == [1]
    assert [batch for _, _, batch in on_tuesday] == [2]
    assert touched(engine) == {"3001.00001": 2}


# --- Sources ------------------------------------------------------------------------------------


def test_failed_source_does_not_stop_the_others(engine: Engine):
    retry_at = NOW + HOUR
    broken = Press("feed", news=lambda: refused(retry_at))
    sources = [broken, Press("arxiv", [make_sighting()])]

    reports = ingesting.ingest(engine, sources, now=NOW)

    assert [(r.source, r.state, r.batch) for r in reports] == [
        ("feed", SourceState.FAILED, None),
        ("arxiv", SourceState.FRESH, 1),
    ]
    known = record(engine, "feed")
    assert (known.error, known.since, known.failures) == ("503 Service Unavailable", NOW, 1)
    assert known.next_try_at == retry_at


def test_unexpected_exception_in_one_source_does_not_stop_the_others(engine: Engine):
    def stumble() -> None:
        raise KeyError("paper")

    sources = [Press("feed", news=stumble), Press("arxiv", [make_sighting()])]

    reports = ingesting.ingest(engine, sources, now=NOW)

    assert [r.state for r in reports] == [SourceState.FAILED, SourceState.FRESH]
    assert record(engine, "feed").error == "cannot be read: KeyError('paper')"


def test_failed_source_is_not_queried_before_its_retry_time(engine: Engine):
    requests: list[object] = []
    source = Press("feed", news=lambda: refused(NOW + HOUR), requests=requests)
    ingesting.ingest(engine, [source], now=NOW)

    ingesting.ingest(engine, [source], now=NOW + HOUR / 2)
    (report,) = ingesting.ingest(engine, [source], now=NOW + HOUR)

    assert len(requests) == 2
    assert report.state is SourceState.FAILED
    assert (record(engine, "feed").failures, record(engine, "feed").since) == (2, NOW)


def test_recovered_source_is_fresh_without_failures(engine: Engine):
    ingesting.ingest(engine, [Press("feed", news=refused)], now=NOW)

    ingesting.ingest(engine, [Press("feed", [make_sighting(None, source="feed")])], now=NOW + HOUR)

    known = record(engine, "feed")
    assert (known.state, known.since, known.failures, known.error) == (
        SourceState.FRESH, NOW + HOUR, 0, None,
    )  # fmt: skip


def test_source_continues_from_its_stored_cursor(engine: Engine):
    requests: list[object] = []
    source = Press(cursor="page 2", requests=requests)

    ingesting.ingest(engine, [source], now=NOW)
    ingesting.ingest(engine, [source], now=NOW)
    ingesting.ingest(engine, [source], now=NOW, since=NOW.date())

    two_weeks_ago = (NOW - timedelta(days=14)).date()
    assert requests == [(two_weeks_ago, None), (two_weeks_ago, "page 2"), (NOW.date(), None)]


def test_missing_announcement_is_recorded_as_source_error_until_filled(engine: Engine):
    """The papers that arrived are stored; the error is cleared when the gap is filled."""
    with_gap = Press(sightings=[make_sighting()], gaps=("the feed of 2030-01-01 was missed",))

    (report,) = ingesting.ingest(engine, [with_gap], now=NOW)
    kept = record(engine, with_gap.name)
    ingesting.ingest(engine, [Press()], now=NOW)

    assert (report.new, report.error) == (1, "the feed of 2030-01-01 was missed")
    assert (kept.state, kept.error) == (SourceState.FRESH, report.error)
    assert record(engine, with_gap.name).error is None


def test_source_listing_a_known_paper_for_the_first_time_is_fresh(engine: Engine):
    """Hugging Face lists a paper known from arXiv: FRESH is returned though no paper is new."""
    ingest(engine, make_sighting("3001.00001"))

    (report,) = ingest(engine, make_sighting("3001.00001", source="huggingface"), now=NOW + HOUR)

    assert (report.state, report.new, report.touched) == (SourceState.FRESH, 0, 1)


def test_ingesting_recorded_answers_does_not_change_source_states(engine: Engine):
    found = recorded_reading(make_sighting())

    first = ingesting.ingest_recorded(engine, [("arxiv", found)], now=NOW)
    second = ingesting.ingest_recorded(engine, [("arxiv", found)], now=NOW)

    assert [(r.state, r.new, r.batch) for r in first + second] == [
        (SourceState.FRESH, 1, 1),
        (SourceState.STALE, 0, None),
    ]
    with read_only(engine) as conn:
        assert ingest_state.list_source_states(conn) == []


def recorded_reading(*sightings: Sighting) -> FetchResult:
    return FetchResult(sightings)


@pytest.mark.full
def test_http_validator_is_stored_only_with_its_papers_after_a_crash(engine: Engine):
    """If a validator were stored alone, the server would return 304 and papers would be lost."""
    url = "https://example.org/feed"
    source = Press("feed", [make_sighting(None, source="feed")],
                   validators=((url, Validator('"1"')),))  # fmt: skip
    kept: list[object] = []
    for after in range(1, 60):
        empty(engine)
        with dying(engine, after) as seen:
            ingesting.ingest(engine, [source], now=NOW)
        with read_only(engine) as conn:
            validator = ingest_state.http_validator(conn, url)
        kept.append(validator)
        assert validator is None or count(engine, SightingRow) == 1
        if len(seen) <= after:
            break

    assert kept[0] is None
    assert kept[-1] == ('"1"', None)


MONDAY = datetime(2030, 1, 7, 13, tzinfo=NOW.tzinfo)


@pytest.mark.parametrize(
    ("news_at", "due", "now", "state"),
    [
        (MONDAY, True, MONDAY, SourceState.FRESH),
        (MONDAY, True, MONDAY + 5 * HOUR, SourceState.FRESH),
        (MONDAY, True, MONDAY + 22 * HOUR, SourceState.QUIET),  # Tuesday morning: not due yet
        (MONDAY, True, MONDAY + 24 * HOUR, SourceState.STALE),  # Tuesday afternoon
        (MONDAY, False, MONDAY + 240 * HOUR, SourceState.QUIET),
        (None, True, MONDAY, SourceState.STALE),
        (None, False, MONDAY, SourceState.QUIET),
        (MONDAY - 90 * 24 * HOUR, True, MONDAY, SourceState.STALE),
    ],
)
def test_source_is_stale_if_a_due_day_had_no_news(
    news_at: datetime | None, due: bool, now: datetime, state: SourceState
):
    assert state_of(news_at, lambda _day: due, now) is state


# --- One run at a time --------------------------------------------------------------------------


def test_concurrent_ingest_returns_without_work(engine: Engine):
    reading_now, second_is_done = threading.Event(), threading.Event()

    def slowly() -> None:
        reading_now.set()
        assert second_is_done.wait(30)

    first: list[object] = []
    thread = threading.Thread(
        target=lambda: first.extend(
            ingesting.ingest(engine, [Press("arxiv", [make_sighting()], slowly)], now=NOW)
        )
    )
    thread.start()
    assert reading_now.wait(30)
    second = ingest(engine, make_sighting())
    second_is_done.set()
    thread.join(30)

    assert (len(first), second) == (1, [])
    assert (published(engine), len(stored(engine))) == (1, 1)
    assert len(ingest(engine, make_sighting())) == 1  # the lease was released


@pytest.mark.parametrize("moment", ["reading", "matching"])
def test_ingest_that_lost_its_lease_writes_nothing_more(engine: Engine, moment: str):
    """Meanwhile another run has taken the lease, finished and released it."""
    add_reader(engine, "retrieval")
    theirs, ours = make_sighting("3001.00001"), make_sighting("3001.00002")

    def sleep() -> None:
        end_lease(engine)
        ingest(engine, theirs)

    sources = [Press("arxiv", [ours], sleep)]
    if moment == "matching":  # everything is stored; the last source is slow
        sources = [Press("arxiv", [ours]), Press("feed", news=sleep)]

    with pytest.raises(LeaseLostError):
        ingesting.ingest(engine, sources, now=NOW)

    assert published(engine) == 1
    assert [b.number for b in rows(engine, BatchRow)] == [1]
    expected = ["3001.00001"] if moment == "reading" else ["3001.00002", "3001.00001"]
    assert [paper.key for paper in stored(engine)] == expected


def test_only_the_lease_holder_publishes(engine: Engine):
    with engine.begin() as conn:
        token = ingest_state.take_lease(conn, now=NOW, until=NOW + HOUR)
        assert ingest_state.take_lease(conn, now=NOW + HOUR / 2, until=NOW + HOUR) is None
        assert ingest_state.take_lease(conn, now=NOW + 2 * HOUR, until=NOW + 3 * HOUR) is not None
        assert token is not None

    with engine.begin() as conn, pytest.raises(LeaseLostError):
        ingest_state.publish_batch(conn, 1, token=token, papers=0, matches=0, now=NOW)
    with engine.begin() as conn, pytest.raises(LeaseLostError):
        ingest_state.hold_lease(conn, token, until=NOW + HOUR)


# --- Papers that arXiv knows --------------------------------------------------------------------


LISTED = make_sighting("3001.00001", source="huggingface", categories=())


@pytest.fixture
def site() -> Iterator[Site]:
    with serve() as site:
        yield site


def look_up(
    engine: Engine, site: Site, *found: Sighting, now: datetime = NOW
) -> list[SourceReport]:
    client = Client("Paperboy/test", allow_private=True, sleep=lambda seconds: None)
    sources = [Press("huggingface", found)]
    return ingesting.ingest(engine, sources, now=now, arxiv=ArxivAPI(client, site.url))


def test_paper_without_categories_gets_those_of_arxiv_before_it_is_matched(engine, site):
    add_reader(engine, "cat:cs.AI")
    match_late_topics(engine, 0, NOW)
    site.replies["/api/query"] = Reply(api(api_entry("3001.00001v2", title="From arXiv")))

    (report,) = look_up(engine, site, LISTED)
    look_up(engine, site, LISTED, now=NOW + 25 * HOUR)

    assert site.paths == ["/api/query?id_list=3001.00001&max_results=1"]
    (paper,) = stored(engine)
    assert paper.categories == ("cs.AI", "cs.LG")
    assert (paper.title, paper.sources) == ("From arXiv", ("arxiv", "huggingface"))
    assert paper.announced_on == TODAY  # and not when it was submitted to arXiv
    assert (report.new, published(engine), len(matches(engine))) == (1, 1, 1)


def test_look_up_is_limited_to_new_papers_that_arxiv_has_not_announced(engine, site, monkeypatch):
    monkeypatch.setattr(ingesting, "IDS", 2)
    monkeypatch.setattr(ingesting, "LOOK_UPS", 2)
    site.replies["/api/query"] = Reply(api())
    old = NOW.date() - timedelta(days=15)
    ingest(
        engine,
        make_sighting("3001.00009"),
        make_sighting("3001.00008", source="huggingface", announced_on=old, title="Old"),
        make_sighting(None, source="feed", title="No id"),
    )
    found = [replace(LISTED, arxiv_id=f"3001.0000{n}", source_id=str(n), title=f"Paper {n}")
             for n in range(5)]  # fmt: skip

    look_up(engine, site, *found)
    look_up(engine, site, now=NOW + HOUR)
    look_up(engine, site, now=NOW + 2 * HOUR)

    ids = [parse_qs(urlsplit(path).query)["id_list"][0] for path in site.paths]
    assert ids == ["3001.00004,3001.00003", "3001.00002,3001.00001", "3001.00000"]


def test_id_unknown_to_arxiv_is_requested_once_a_day_for_two_weeks(engine, site):
    site.replies["/api/query"] = Reply(api())

    for hour in range(0, 20 * 24, 4):
        look_up(engine, site, LISTED, now=NOW + hour * HOUR)

    assert 12 <= len(site.paths) <= 18
    assert stored(engine)[0].categories == ()


def test_failed_look_up_changes_nothing_and_is_repeated_by_the_next_run(engine, site):
    site.replies["/api/query"] = Reply(status=500)
    look_up(engine, site, LISTED)
    before = stored(engine)
    site.replies["/api/query"] = Reply(api(api_entry("3001.00001v1")))

    look_up(engine, site, now=NOW + HOUR)

    assert before[0].categories == ()
    assert stored(engine)[0].categories == ("cs.AI", "cs.LG")
    assert published(engine) == 2


@pytest.mark.parametrize(
    "reply", [Reply(api_error(), status=400), Reply(status=503, headers={"Retry-After": "7200"})]
)
def test_refused_look_up_is_not_repeated_the_same_day(engine, site, reply):
    site.replies["/api/query"] = reply

    look_up(engine, site, LISTED)
    look_up(engine, site, now=NOW + HOUR)
    look_up(engine, site, now=NOW + 25 * HOUR)

    assert len(site.paths) == 2


def test_no_look_up_before_the_time_that_arxiv_named(engine, site):
    def busy() -> None:
        raise SourceError("arxiv", "503", retry_at=NOW + 2 * HOUR)

    ingesting.ingest(engine, [Press("arxiv", news=busy)], now=NOW)

    look_up(engine, site, LISTED, now=NOW + HOUR)

    assert site.paths == []


def test_no_look_up_of_any_paper_before_the_time_that_arxiv_named_for_one(engine, site):
    site.replies["/api/query"] = Reply(status=429, headers={"Retry-After": "86400"})

    for hour in range(25):
        paper = replace(LISTED, arxiv_id=f"3001.{hour:05}", source_id=str(hour), title=f"P {hour}")
        look_up(engine, site, paper, now=NOW + hour * HOUR)

    assert len(site.paths) == 2
    assert published(engine) == 25
    with engine.connect() as conn:
        assert [one.source for one in ingest_state.list_source_states(conn)] == ["huggingface"]


@pytest.mark.parametrize("broken", [KeyError("entry"), SourceError("arxiv", "503")])
def test_papers_are_published_if_the_look_up_fails(engine, broken):
    class Broken:
        def look_up(self, _ids: object, *, now: datetime) -> tuple[Sighting, ...]:
            raise broken

    [report] = ingesting.ingest(
        engine, [Press("huggingface", [LISTED])], now=NOW, arxiv=cast("ArxivAPI", Broken())
    )

    assert (report.new, report.error, published(engine)) == (1, None, 1)


def test_look_up_of_a_run_that_lost_its_lease_writes_nothing(engine):
    class Slow:
        def look_up(self, _ids: object, *, now: datetime) -> tuple[Sighting, ...]:
            end_lease(engine)
            ingest(engine, make_sighting("3001.00002"))
            raise SourceError("arxiv", "429", retry_at=now + HOUR)

    with pytest.raises(LeaseLostError):
        ingesting.ingest(
            engine, [Press("huggingface", [LISTED])], now=NOW, arxiv=cast("ArxivAPI", Slow())
        )

    with engine.connect() as conn:
        assert ingest_state.source_state(conn, ingest_state.LOOK_UP) is None


# --- Crashes ------------------------------------------------------------------------------------


def ready_to_match(engine: Engine) -> None:
    """Add a reader with two topics that are matched through the published batch."""
    add_reader(engine, "au:lovelace", "cat:cs.IR")
    match_late_topics(engine, published(engine), NOW)


@pytest.mark.full
@pytest.mark.parametrize(
    ("backend", "step"), [("sqlite", 3), ("postgresql", 9)], indirect=["backend"]
)
def test_next_ingest_publishes_everything_once_after_a_crash(engine: Engine, step: int):
    """Kill a run before each of its statements; the next run drops leftovers."""
    found = [make_sighting("3001.00001"), make_sighting("3001.00002"),
             make_sighting("3001.00001", source="huggingface")]  # fmt: skip
    after, died = 1, True
    while died:
        empty(engine)
        ready_to_match(engine)
        with dying(engine, after) as seen:
            ingest(engine, *found)
        died = len(seen) > after
        end_lease(engine)

        ingest(engine, *found)

        batch_of = {paper.key: paper.batch for paper in stored(engine)}
        assert batch_of == {"3001.00001": 1, "3001.00002": 1}
        assert published(engine) == 1
        assert len(matches(engine)) == 4
        assert {batch for _, _, batch in matches(engine)} == {1}
        assert record(engine, "arxiv").state is SourceState.FRESH
        assert record(engine, "huggingface").state is SourceState.FRESH
        after += step


def test_outdated_matches_of_a_crashed_ingest_are_deleted(engine: Engine):
    """The paper has been removed from the category since."""
    ready_to_match(engine)
    store(engine, make_sighting("3001.00001", categories=("math.CO",), authors=()))
    (paper,) = stored(engine)
    with engine.begin() as conn:
        topic = topics.find_or_add(conn, "cat:cs.ir", NOW)
        topics.add_matches(conn, [(make_match(topic, paper), 1)])

    ingest(engine)

    assert (published(engine), matches(engine)) == (1, set())


@pytest.mark.full
@pytest.mark.parametrize(
    ("backend", "step"), [("sqlite", 1), ("postgresql", 4)], indirect=["backend"]
)
def test_next_ingest_looks_up_papers_after_a_crash(engine: Engine, site: Site, step: int):
    """Kill a run before each of its statements."""
    site.replies["/api/query"] = Reply(api(api_entry("3001.00001v1")))
    after, died = 1, True
    while died:
        empty(engine)
        ready_to_match(engine)
        with dying(engine, after) as seen:
            look_up(engine, site, LISTED)
        died = len(seen) > after
        end_lease(engine)

        look_up(engine, site, LISTED)

        (paper,) = stored(engine)
        assert (paper.categories, paper.batch) == (("cs.AI", "cs.LG"), 1)
        assert published(engine) == 1
        after += step


@pytest.mark.full
def test_next_ingest_completes_after_sigkill(engine: Engine, database_url: str):
    """SIGKILL in the second chunk of the matches of 260 papers with two topics."""
    ready_to_match(engine)
    killed = subprocess.run(
        [sys.executable, "-m", "tests.support.dying", database_url], cwd=ROOT, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert (published(engine), len(stored(engine))) == (0, 260)
    assert count(engine, MatchRow) == 500
    assert ingest(engine, make_sighting()) == []  # its lease has not expired yet
    end_lease(engine)

    ingest(engine)

    assert (published(engine), len(stored(engine))) == (1, 260)
    assert len(matches(engine)) == 520
    assert {batch for _, _, batch in matches(engine)} == {1}


# --- Recorded answers ---------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.shared
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_recorded_hugging_face_papers_are_stored_once(engine: Engine):
    paths = sorted((SHARED / "hf_daily_papers").glob("*.json"))
    readings = [reading for path in paths for reading in recorded_files.read_file(path)]
    distinct = {s.arxiv_id for _, found in readings for s in found.sightings}

    first = ingesting.ingest_recorded(engine, readings, now=NOW)
    kept = stored(engine)
    second = ingesting.ingest_recorded(engine, readings, now=NOW)

    assert None not in distinct
    assert {paper.key for paper in kept} == distinct
    assert len(kept) == sum(report.new for report in first) == len(distinct)
    assert [report.new for report in second] == [0] * len(readings)
    assert {(p.key, p.batch) for p in stored(engine)} == {(p.key, p.batch) for p in kept}


# --- The table of sources -----------------------------------------------------------------------


def test_live_sources_are_built_by_name_in_the_given_order():
    loaded = settings.load(None)

    built = sources.build(["huggingface", "arxiv"], Client("a test"), loaded)

    assert [source.name for source in built] == ["huggingface", "arxiv"]
    assert set(loaded.sources) <= set(sources.LIVE)


@pytest.mark.parametrize("name", ["arxive", "biorxiv"])
def test_unknown_or_recorded_source_cannot_be_fetched(name: str):
    with pytest.raises(SettingsError, match=f"unknown source: {name}; there are arxiv, hugging"):
        sources.build(["arxiv", name], Client("a test"), settings.load(None))


def test_rate_limit_of_a_source_is_the_gap_of_its_entry():
    """arXiv's terms of use allow one request in three seconds."""
    assert sources.request_gap("arxiv") == timedelta(seconds=3)
    assert sources.request_gap("unknown") == timedelta(seconds=1)
