"""Hugging Face Daily Papers, from a server on loopback that returns its format."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import pytest

from pipeline.errors import SourceError
from pipeline.sources import Validator
from pipeline.sources.client import Client
from pipeline.sources.huggingface import HuggingFace
from tests.support.source_server import Reply, Site, serve

NOW = datetime(2026, 7, 31, 9, tzinfo=UTC)
TODAY = NOW.date()
YESTERDAY = "2026-07-30"
LIST = "/api/daily_papers"


def entry(arxiv_id: str = "2607.28624", **fields) -> dict:
    paper = {"id": arxiv_id, "title": f"A paper called {arxiv_id}", "authors": [], "upvotes": 3}
    return {"paper": paper | fields, "numComments": 2, "somethingNew": {"of": "tomorrow"}}


def reply(*entries: object, **headers: str) -> Reply:
    return Reply(json.dumps(entries).encode(), headers=headers)


def day(on: str, page: int = 0) -> str:
    return f"{LIST}?date={on}&limit=50" + (f"&p={page}" if page else "")


@pytest.fixture
def site() -> Iterator[Site]:
    with serve() as site:
        site.replies[LIST] = reply()
        yield site


@pytest.fixture
def source(site) -> HuggingFace:
    client = Client("Paperboy/test", allow_private=True, sleep=lambda seconds: None)
    return HuggingFace(client, site=site.url)


def read(source: HuggingFace, cursor: str | None = TODAY.isoformat(), now: datetime = NOW):
    return source.read(since=TODAY, cursor=cursor, now=now)


def test_entry_is_parsed_into_all_sighting_fields(site, source):
    site.replies[day("2026-07-31")] = reply(
        entry(
            title="Faster $O(n)$ search for <b>a < b</b>",
            summary="We search.\nAnd find.",
            authors=[{"name": "Ada Lovelace", "hidden": False}, {"name": "Grace Hopper"}],
            publishedAt="2026-07-30T00:00:00.000Z",
            submittedOnDailyAt="2026-07-31T00:00:00.000Z",
            upvotes=145,
            githubStars=1_200,
            ai_keywords=["world model", "world model", "language"],
            githubRepo="https://github.com/ada/search",
            projectPage="javascript:alert(1)",
            organization={"name": "analytics", "fullname": "Analytical <b>Society</b>"},
        )
    )

    (sighting,) = read(source).sightings

    assert sighting.source == "huggingface"
    assert sighting.source_id == sighting.arxiv_id == "2607.28624"
    assert sighting.title == "Faster O(n) search for a < b"
    assert sighting.abstract == "We search. And find."
    assert sighting.authors == ("Ada Lovelace", "Grace Hopper")
    assert sighting.keywords == ("world model", "language")
    assert (sighting.upvotes, sighting.comments, sighting.stars) == (145, 2, 1_200)
    assert sighting.announced_on == TODAY
    assert sighting.published_at == datetime(2026, 7, 30, tzinfo=UTC)
    assert sighting.links.abstract == "https://arxiv.org/abs/2607.28624"
    assert sighting.links.pdf == "https://arxiv.org/pdf/2607.28624"
    assert sighting.links.code == "https://github.com/ada/search"
    assert sighting.links.project is None
    assert sighting.links.discussion == "https://huggingface.co/papers/2607.28624"
    assert sighting.organization == "Analytical Society"


@pytest.mark.parametrize("named", [None, "a", [], {}, {"fullname": None}, {"fullname": 3}])
def test_organization_without_a_name_is_left_out(site, source, named):
    site.replies[day("2026-07-31")] = reply(entry(organization=named))

    assert read(source).sightings[0].organization == ""


def test_entry_with_only_id_and_title_is_parsed(site, source):
    site.replies[day("2026-07-31")] = reply({"paper": {"id": "2405.15125", "title": "Old"}})

    (sighting,) = read(source).sightings

    assert (sighting.upvotes, sighting.comments, sighting.stars) == (None, None, None)
    assert sighting.abstract == ""
    assert sighting.announced_on == TODAY


def test_numeric_id_keeps_its_trailing_zero(site, source):
    """If 2503.02130 is a number in the JSON, it is parsed as written."""
    body = b'[{"paper": {"id": 2503.02130, "title": "Zero"}}]'
    site.replies[day("2026-07-31")] = Reply(body)

    assert read(source).sightings[0].arxiv_id == "2503.02130"


def test_full_page_is_followed_by_the_next_page(site, source):
    """A response has at most fifty papers; some days have more."""
    site.replies[day("2026-07-31")] = reply(*(entry(f"2607.{n:05}") for n in range(50)))
    site.replies[day("2026-07-31", page=1)] = reply(entry("2607.99999"))

    reading = read(source)

    assert len(reading.sightings) == 51
    assert day("2026-07-31", page=2) not in site.paths


def test_invalid_entry_is_skipped_with_one_message(site, source):
    bad = [{"paper": {"id": "no id", "title": "x"}}, "text", {"paper": {"id": "2607.00001"}}]
    site.replies[day("2026-07-31")] = reply(*bad, entry())

    reading = read(source)

    assert [s.arxiv_id for s in reading.sightings] == ["2607.28624"]
    assert reading.skipped == (
        "2026-07-31 entry 1: has no arXiv id (no id)",
        "2026-07-31 entry 2: is not a paper",
        "2026-07-31 entry 3: 2607.00001 has no title",
    )


def test_early_incomplete_list_is_read_again_later(site, source):
    site.replies[day("2026-07-31")] = [
        reply(entry("2607.00001")),
        reply(entry(), entry("2607.00001")),
    ]

    early = read(source, now=NOW.replace(hour=4))
    late = read(source, cursor=early.cursor)

    assert (len(early.sightings), len(late.sightings)) == (1, 2)
    assert early.cursor == late.cursor == "2026-07-31"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b'{"error": "Internal problem"}', "is an error: Internal problem"),
        (b"", "is empty"),
        (b"<html>busy</html>", "is not JSON"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"papers": []}', "is no list"),
        (b"[" + b"{}," * 600_000 + b"{}]", "lists and objects"),
    ],
)
def test_response_that_is_not_a_list_raises(site, source, body, why):
    """If the body is empty with status 200, that is an error, too, not a day without papers."""
    site.replies[day("2026-07-31")] = Reply(body)

    with pytest.raises(SourceError, match=why) as raised:
        read(source)
    assert raised.value.source == "huggingface"
    assert raised.value.retryable
    assert "\n" not in str(raised.value)


def test_missed_days_are_read_starting_one_day_before_the_cursor(site, source):
    """The day before is fetched, too: its list may have grown since the last fetch."""
    reading = read(source, cursor="2026-07-28")

    for on in ("2026-07-27", "2026-07-28", "2026-07-29", YESTERDAY, "2026-07-31"):
        assert day(on) in site.paths
    assert reading.cursor == "2026-07-31"


def test_first_read_starts_at_since(site, source):
    source.read(since=date(2026, 7, 20), cursor=None, now=NOW)

    assert day("2026-07-20") in site.paths
    assert len([path for path in site.paths if path >= day("2026-07-20")]) == 12


def test_long_backfill_is_limited_to_92_days_per_read(site, source):
    reading = source.read(since=date(2026, 1, 1), cursor=None, now=NOW)

    assert reading.cursor == "2026-04-02"
    assert len(site.paths) == 92


def test_last_two_weeks_are_reread_spread_over_the_hours(site, source):
    """Upvotes settle within one to two weeks; no single hour requests all the days."""
    most = 0
    for hour in range(8):
        before = len(site.paths)
        read(source, now=NOW.replace(hour=hour))
        most = max(most, len(site.paths) - before)

    asked = {path for path in site.paths if "&p=" not in path}
    assert asked == {day(str(TODAY - timedelta(days=n))) for n in range(15)}
    assert most <= 4


def test_unchanged_day_returns_no_sightings(site, source):
    site.replies[day("2026-07-31")] = Reply(status=304)
    url = f"{site.url}{day('2026-07-31')}"
    source.client.validators.put(url, Validator('"1"'))

    reading = read(source)

    assert reading.unchanged
    assert reading.sightings == ()


def test_second_page_is_read_after_an_unchanged_first_page(site, source):
    site.replies[day("2026-07-31")] = Reply(status=304)
    site.replies[day("2026-07-31", page=1)] = reply(entry())
    source.client.validators.put(f"{site.url}{day('2026-07-31')}", Validator('"1"'))

    assert len(read(source).sightings) == 1


def test_validators_are_returned_with_the_papers(site, source):
    site.replies[day("2026-07-31")] = reply(entry(), ETag='"7"')

    reading = read(source)

    assert reading.validators == ((f"{site.url}{day('2026-07-31')}", Validator('"7"')),)


def test_token_is_sent_if_configured(site, source):
    with_token = HuggingFace(source.client, token="hf_secret", site=site.url)

    read(source)
    read(with_token)

    assert "Authorization" not in site.requests[0][1]
    assert site.requests[-1][1]["Authorization"] == "Bearer hf_secret"


def test_news_due_is_true_on_friday_and_false_on_saturday():
    source = HuggingFace(Client("Paperboy/test"))

    assert source.news_due(date(2026, 7, 31))
    assert not source.news_due(date(2026, 8, 1))
