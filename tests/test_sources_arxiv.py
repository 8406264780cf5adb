"""arXiv's feed, API and calendar, from a server on loopback that returns its formats."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import pytest

from pipeline.errors import SourceError
from pipeline.sources import Validator
from pipeline.sources.arxiv import Arxiv, ArxivAPI, feed_day, first_feed_day
from pipeline.sources.arxiv_formats import read_listing, read_xml
from pipeline.sources.client import Client
from pipeline.sources.documents import DocumentError, Skipped
from tests.support.source_answers import (
    api,
    api_entry,
    api_error,
    feed,
    feed_entry,
    listed,
    listing,
    oai,
    oai_record,
    rss,
    rss_item,
)
from tests.support.source_server import Reply, Site, serve

NOW = datetime(2026, 7, 31, 6, tzinfo=UTC)  # a Friday, two hours after the feed was built
FRIDAY = NOW.date()
FEED = "/atom/cs.AI+cs.CL"
API = "/api/query"


@pytest.fixture
def site() -> Iterator[Site]:
    with serve() as site:
        site.replies[FEED] = Reply(feed(feed_entry()))
        site.replies[API] = Reply(api())
        yield site


@pytest.fixture
def client() -> Client:
    return Client("Paperboy/test", allow_private=True, sleep=lambda seconds: None)


@pytest.fixture
def arxiv(site, client) -> Arxiv:
    return Arxiv(client, ("cs.AI", "cs.CL"), feed_base=site.url, api_base=site.url)


def read(arxiv: Arxiv, cursor: str | None = "2026-07-30/x", now: datetime = NOW):
    return arxiv.read(since=FRIDAY, cursor=cursor, now=now)


# --- The feed -----------------------------------------------------------------------------------


def test_feed_entry_is_parsed_into_all_sighting_fields(site, arxiv):
    site.replies[FEED] = Reply(
        feed(
            feed_entry(
                title="On $L^2$ & a < b",
                abstract="We prove x < y & more.",
                authors=r"Mikol\'a\v{s} Janota (Prague (CZ)), Ada Lovelace",
                categories=("cs.CL", "cs.AI"),
            )
        )
    )

    (sighting,) = read(arxiv).sightings

    assert (sighting.source, sighting.source_id, sighting.version) == ("arxiv", "2607.28624", 1)
    assert sighting.title == "On L² & a < b"
    assert sighting.abstract == "We prove x < y & more."
    assert sighting.authors == ("Mikoláš Janota", "Ada Lovelace")
    assert sighting.categories == ("cs.CL", "cs.AI")
    assert sighting.announced_on == FRIDAY
    assert sighting.links.abstract == "https://arxiv.org/abs/2607.28624"
    assert not sighting.update_only


@pytest.mark.parametrize(
    ("kind", "update_only"),
    [("new", False), ("cross", False), ("replace", True), ("replace-cross", True)],
)
def test_only_new_and_cross_entries_create_papers(site, arxiv, kind, update_only):
    """A replacement, here a v2, may only update a known paper."""
    site.replies[FEED] = Reply(feed(feed_entry("2607.00001v2", kind=kind)))

    (sighting,) = read(arxiv).sightings

    assert sighting.update_only is update_only
    assert (sighting.arxiv_id, sighting.version) == ("2607.00001", 2)


def test_duplicate_feed_entries_are_merged(site, arxiv):
    """If one is a cross-list and one a replacement, the paper stays a candidate."""
    site.replies[FEED] = Reply(
        feed(
            feed_entry(kind="replace-cross", categories=("cs.LG",)),
            feed_entry(kind="cross", categories=("cs.AI", "cs.LG")),
        )
    )

    (sighting,) = read(arxiv).sightings

    assert not sighting.update_only
    assert sighting.categories == ("cs.AI", "cs.LG")


def test_feed_date_is_kept_on_daylight_saving_changes(site, arxiv):
    """Midnight in New York is 05:00 UTC in winter and 04:00 in summer; the date is New York's."""
    for on in ("2026-03-09T00:00:00-04:00", "2026-11-02T00:00:00-05:00"):
        site.replies[FEED] = Reply(feed(feed_entry(on=on)))

        reading = read(arxiv, cursor=f"{on[:10]}/x")

        assert reading.sightings[0].announced_on == date.fromisoformat(on[:10])


def test_feed_with_a_new_date_but_the_same_papers_is_unchanged(site, arxiv):
    """The date of a feed does not prove that it is new; only its papers do."""
    site.replies[FEED] = Reply(
        feed(*(feed_entry(f"2607.0000{n}v1", on="2026-07-30T00:00:00-04:00") for n in (1, 2)))
    )
    thursday = read(arxiv, cursor="2026-07-29/x", now=NOW - timedelta(days=1))

    site.replies[FEED] = Reply(feed(*(feed_entry(f"2607.0000{n}v1") for n in (2, 1))))
    friday = read(arxiv, cursor=thursday.cursor)

    assert len(thursday.sightings) == 2
    assert (friday.unchanged, friday.sightings, friday.cursor) == (True, (), None)


def test_empty_weekend_feed_sends_no_api_request(site, arxiv):
    site.replies[FEED] = Reply(feed())

    reading = read(arxiv, cursor="2026-07-31/x", now=NOW + timedelta(days=1))

    assert reading.sightings == ()
    assert not reading.unchanged
    assert API not in {urlsplit(path).path for path in site.paths}


def test_unchanged_feed_is_requested_with_its_validator(site, arxiv, client):
    site.replies[FEED] = Reply(feed(feed_entry()), headers={"ETag": '"7"'})
    first = read(arxiv)
    assert first.validators == ((f"{site.url}{FEED}", Validator('"7"')),)

    client.validators.put(*first.validators[0])
    site.replies[FEED] = Reply(status=304)
    second = read(arxiv, cursor=first.cursor)

    assert site.requests[-1][1]["If-None-Match"] == '"7"'
    assert second.unchanged


@pytest.mark.full
def test_full_feed_is_read_again_per_category(site, arxiv):
    """A feed has at most 2,000 papers; if it is full, some may be missing."""
    full = feed(*(feed_entry(f"2607.{n:05}v1", title="x") for n in range(2000)))
    site.replies[FEED] = Reply(full)
    site.replies["/atom/cs.AI"] = Reply(feed(feed_entry("2607.00001v1"), feed_entry()))
    site.replies["/atom/cs.CL"] = Reply(feed(feed_entry("2607.00001v1"), feed_entry("2607.3v1")))

    reading = read(arxiv)

    assert [s.arxiv_id for s in reading.sightings] == ["2607.00001", "2607.28624"]
    assert reading.skipped == ("entry 2: has no arXiv id (oai:arXiv.org:2607.3v1)",)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (feed(title='Feed error for query "cs.XX"'), "Feed error for query"),
        (b"", "empty"),
        (b"Service unavailable", "not well-formed"),
        (b"<html><body>Sorry</body></html>", "unknown kind, <html>"),
        (feed(feed_entry())[:-200], "not well-formed"),
        (b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "b">]><feed/>', "DTD"),
    ],
)
def test_unreadable_feed_raises_a_retryable_error(site, arxiv, body, why):
    site.replies[FEED] = Reply(body)

    with pytest.raises(SourceError, match=why) as raised:
        read(arxiv)
    assert raised.value.source == "arxiv"
    assert raised.value.retryable


# --- Missed days --------------------------------------------------------------------------------


def asked_of_the_api(site: Site) -> list[dict[str, list[str]]]:
    return [parse_qs(urlsplit(path).query) for path in site.paths if path.startswith(API)]


def test_missed_days_are_filled_from_the_api(site, arxiv):
    """The last fetch was on Tuesday, so the papers of Wednesday and Thursday are missing."""
    site.replies[API] = Reply(
        api(
            api_entry("2607.00001v1", published="2026-07-27T17:00:00Z"),  # Tuesday's, known
            api_entry("2607.00002v1", published="2026-07-27T19:00:00Z"),
            api_entry("2607.00003v1", published="2026-07-29T12:00:00Z"),
            api_entry("2607.00004v1", published="2026-07-29T19:00:00Z"),  # Friday's, in the feed
        )
    )

    reading = read(arxiv, cursor="2026-07-28/x")

    days = {s.arxiv_id: s.announced_on for s in reading.sightings}
    assert days == {
        "2607.00002": date(2026, 7, 29),
        "2607.00003": date(2026, 7, 30),
        "2607.28624": FRIDAY,
    }
    query = asked_of_the_api(site)[0]["search_query"][0]
    assert query == ("(cat:cs.AI OR cat:cs.CL) AND submittedDate:[202607230000 TO 202607292359]")


def on_friday(*names: str) -> Reply:
    """Return a reply of the API with Thursday's papers, submitted on Wednesday."""
    return Reply(api(*(api_entry(f"{name}v1", published="2026-07-29T12:00:00Z") for name in names)))


def test_missed_day_is_requested_until_the_api_has_it(site, arxiv):
    """The API is late on Friday and down on Monday; papers of the feed are returned at once."""
    friday = read(arxiv, cursor="2026-07-29/x")
    site.replies[FEED] = Reply(feed(feed_entry("2608.00001v1", on="2026-08-03T00:00:00-04:00")))
    site.replies[API] = Reply(status=500)
    monday = read(arxiv, cursor=friday.cursor, now=NOW + timedelta(days=3))
    site.replies[API] = on_friday("2607.00003")
    later = read(arxiv, cursor=monday.cursor, now=NOW + timedelta(days=3, hours=1))
    asked = len(asked_of_the_api(site))
    last = read(arxiv, cursor=later.cursor, now=NOW + timedelta(days=3, hours=2))

    assert [s.arxiv_id for s in friday.sightings] == ["2607.28624"]
    assert ["does not have it yet" in line for line in friday.gaps] == [True]
    assert [s.arxiv_id for s in monday.sightings] == ["2608.00001"]
    assert ["the API failed" in line for line in monday.gaps] == [True]
    assert {s.arxiv_id: s.announced_on for s in later.sightings} == {
        "2607.00003": date(2026, 7, 30)
    }
    assert (later.gaps, last.gaps, last.sightings) == ((), (), ())
    assert len(asked_of_the_api(site)) == asked, "what has come is not asked for again"


def test_api_failure_raises_if_the_feed_has_no_new_papers(site, arxiv):
    first = read(arxiv, cursor="2026-07-29/x")
    site.replies[API] = Reply(status=500)

    with pytest.raises(SourceError):
        read(arxiv, cursor=first.cursor, now=NOW + timedelta(hours=1))


def test_later_api_papers_show_that_a_missed_day_is_empty(site, arxiv):
    """On a holiday that the calendar lacks, or if a category has no papers that day."""
    site.replies[API] = Reply(api(api_entry(published="2026-07-29T19:00:00Z")))

    reading = read(arxiv, cursor="2026-07-29/x")

    assert reading.gaps == ()
    assert reading.cursor is not None
    assert "2026-07-30" not in reading.cursor


def test_missed_day_is_given_up_after_a_week_and_reported_for_two_more(site, arxiv):
    """It is requested for a week, reported for two more weeks, and then dropped."""
    cursor = read(arxiv, cursor="2026-07-29/x").cursor

    said = {}
    for days in range(1, 24):
        reading = read(arxiv, cursor=cursor, now=NOW + timedelta(days=days))
        cursor = reading.cursor or cursor
        said[days] = [line for line in reading.gaps if "2026-07-30" in line]

    assert all("asked again" in said[days][0] for days in range(1, 7))
    assert all("given up" in said[days][0] for days in range(7, 21))
    assert said[21] == []


def test_first_read_backfills_from_since(site, arxiv):
    arxiv.read(since=date(2026, 7, 1), cursor=None, now=NOW)

    assert len(asked_of_the_api(site)) == 6  # one week per request, from six days before


def test_api_is_not_requested_if_no_day_was_missed(site, arxiv):
    """From Friday to Monday: the weekend is no gap."""
    site.replies[FEED] = Reply(feed(feed_entry(on="2026-08-03T00:00:00-04:00")))

    reading = read(arxiv, cursor="2026-07-31/x", now=NOW + timedelta(days=3))

    assert asked_of_the_api(site) == []
    assert reading.cursor is not None
    assert reading.cursor.startswith("2026-08-03/")


# --- The API ------------------------------------------------------------------------------------


def test_api_pages_are_read_to_the_end(site, client):
    names = [f"2607.{n:05}v1" for n in range(3)]
    pages = [Reply(api(api_entry(name), total=3)) for name in names]
    site.replies[API] = [*pages, Reply(status=500)]

    answers = list(ArxivAPI(client, site.url).search("ti:x", now=NOW))

    assert [a.sightings[0].arxiv_id for a in answers] == [name[:-2] for name in names]
    assert [q["start"] for q in asked_of_the_api(site)] == [["0"], ["1"], ["2"]]


def test_empty_page_before_the_end_is_retried(site, client):
    site.replies[API] = [Reply(api(total=1)), Reply(api(api_entry(), total=1))]

    answers = list(ArxivAPI(client, site.url).search("ti:x", now=NOW))

    assert [len(a.sightings) for a in answers] == [1]


def test_page_that_stays_empty_raises(site, client):
    site.replies[API] = Reply(api(total=1))

    with pytest.raises(SourceError, match="empty page at 0 of 1"):
        list(ArxivAPI(client, site.url).search("ti:x", now=NOW))


def test_search_without_results_returns_an_empty_answer(site, client):
    (answer,) = ArxivAPI(client, site.url).search("id:0000.0000", now=NOW)

    assert (answer.sightings, answer.total) == ((), 0)


@pytest.mark.parametrize(("status", "scheme"), [(400, "https"), (200, "http")])
def test_both_forms_of_an_api_error_entry_raise(site, client, status, scheme):
    """400 and https today, 200 and http in older replies."""
    site.replies[API] = Reply(api_error(scheme), status=status)

    with pytest.raises(SourceError, match="incorrect id format for abc") as raised:
        list(ArxivAPI(client, site.url).search("abc", now=NOW))
    assert not raised.value.retryable
    assert len(site.requests) == 1


# --- Formats ------------------------------------------------------------------------------------


def test_api_entry_has_the_date_of_the_first_version():
    (sighting,) = read_xml(api(api_entry("astro-ph/0601001v2", comment="12 pages"))).sightings

    assert (sighting.arxiv_id, sighting.version) == ("astro-ph/0601001", 2)
    assert sighting.published_at == datetime(2026, 7, 30, 12, tzinfo=UTC)
    assert sighting.announced_on is None
    assert sighting.categories == ("cs.AI", "cs.LG")
    assert (sighting.note, sighting.abstract) == ("12 pages", "We do things.")


def test_withdrawn_paper_is_recognized_by_its_comment():
    answer = read_xml(api(api_entry(comment="This paper has been withdrawn by the author")))

    assert answer.sightings[0].withdrawn


def test_paper_with_3303_authors_keeps_all_authors():
    authors = tuple(f"Author {n}" for n in range(3303))

    (sighting,) = read_xml(api(api_entry(authors=authors))).sightings

    assert sighting.author_count == len(sighting.authors) == 3303


def test_rss_item_is_parsed_like_an_atom_entry():
    (from_rss,) = read_xml(rss(rss_item(title="a < b"))).sightings

    assert (from_rss.arxiv_id, from_rss.version) == ("2607.28624", 1)
    assert (from_rss.title, from_rss.abstract) == ("a < b", "We do things.")
    assert from_rss.announced_on == FRIDAY
    assert from_rss.authors == ("Ada Lovelace",)
    assert from_rss.doi == "10.1000/abc"


@pytest.mark.parametrize(
    ("first", "update_only"),
    [("Thu, 30 Jul 2026 12:00:00 GMT", False), ("Tue, 03 Sep 2019 14:03:55 GMT", True)],
)
def test_old_oai_record_is_update_only(first, update_only):
    """Its datestamp is the last change; only the date of the first version shows if it is new."""
    (sighting,) = read_xml(oai(oai_record(first=first))).sightings

    assert sighting.update_only is update_only
    assert sighting.authors == ("Pedro Orvalho", "Mikoláš Janota")
    assert (sighting.version, sighting.doi) == (2, "10.1000/abc")
    assert sighting.categories == ("cs.SE", "cs.AI")


def test_oai_resumption_token_and_errors_are_parsed():
    assert read_xml(oai(oai_record(), token="abc|2000")).resumption == "abc|2000"
    assert read_xml(oai(oai_record())).resumption is None
    assert read_xml(oai(error='<error code="noRecordsMatch">none</error>')).sightings == ()
    with pytest.raises(DocumentError, match="badArgument"):
        read_xml(oai(error='<error code="badArgument">no such set</error>'))


def test_oai_record_is_new_for_a_week_after_its_first_version():
    def updates(first):
        return read_xml(oai(oai_record(first=first))).sightings[0].update_only

    changed = oai_record()
    on = date.fromisoformat(changed.partition("<datestamp>")[2][:10])
    assert updates(f"{on - timedelta(days=7):%a, %d %b %Y} 12:00:00 GMT") is False
    assert updates(f"{on - timedelta(days=8):%a, %d %b %Y} 12:00:00 GMT") is True
    assert updates("long ago") is False


@pytest.mark.parametrize(("version", "expected"), [("v12", 12), ("v9999", 9999), ("v10000", None)])
def test_oai_record_version_is_the_last_one_listed(version, expected):
    record = oai_record()
    last = record.rindex('version="v')
    end = record.index('"', last + 9)
    changed = record[:last] + f'version="{version}' + record[end:]

    assert read_xml(oai(changed)).sightings[0].version == expected


@pytest.mark.parametrize(
    ("total", "expected"),
    [
        ("7", 7),
        ("0", 0),
        ("999999999", 999_999_999),
        ("1000000000", None),
        ("many", None),
        ("", None),
    ],
)
def test_api_total_is_a_number_or_unknown(total, expected):
    answer = read_xml(api(api_entry()).replace(b">1<", f">{total}<".encode()))

    assert (answer.total, answer.entries) == (expected, 1)


def test_api_error_message_is_truncated():
    said = "x" * 300
    with pytest.raises(DocumentError, match=r"of the API: x{199}…$"):
        read_xml(api_error().replace(b"incorrect id format for abc", said.encode()))
    with pytest.raises(DocumentError, match=r"of the API: no reason given$"):
        read_xml(api_error().replace(b"incorrect id format for abc", b""))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ("<subtitle>no such list</subtitle>", "Feed error no such list"),
        ("<description>no list</description>", "Feed error no list"),
        ("", "Feed error"),
    ],
)
def test_feed_error_contains_the_reason(fields, words):
    answer = feed(title="Feed error").replace(b"</title>", f"</title>{fields}".encode())

    with pytest.raises(DocumentError, match=f"error of the feed: {words}$"):
        read_xml(answer)


def test_truncated_response_returns_the_entries_before_the_cut():
    whole = feed(feed_entry(), feed_entry("2607.28625v1"))
    skipped = Skipped()
    cut = whole[: whole.rindex(b"<title>")]

    (sighting,) = read_xml(cut, skipped=skipped).sightings

    assert sighting.arxiv_id == "2607.28624"
    assert [line.partition(": ")[0] for line in skipped.lines] == ["entry 2", "the end"]
    with pytest.raises(DocumentError):
        read_xml(cut, whole=True)
    with pytest.raises(DocumentError, match="no whole entry before"):
        read_xml(feed(feed_entry())[:-200])
    assert read_xml(whole, whole=True).entries == 2
    with pytest.raises(DocumentError, match="unknown kind, <html>"):
        read_xml(b"<html></html>")


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (rss_item().replace("oai:arXiv.org:2607.28624v1</guid>", "</guid>"), "2607.28624"),
        (rss_item(kind="replace"), "replaced"),
        (rss_item(kind="cross"), "cross"),
        (rss_item().replace("<arxiv:announce_type>new</arxiv:announce_type>", ""), "new"),
        (rss_item(kind="replace").replace(
            "<arxiv:announce_type>replace</arxiv:announce_type>", ""), "replaced"),
        (rss_item().replace("arXiv:2607.28624v1 Announce Type: new \nAbstract: ", ""), "new"),
        (rss_item().replace("Fri, 31 Jul 2026 00:00:00 -0400", "on a Friday"), "undated"),
    ],
)  # fmt: skip
def test_rss_item_values_are_read_from_alternative_fields(entry, expected):
    (sighting,) = read_xml(rss(entry)).sightings

    assert (sighting.arxiv_id, sighting.abstract) == ("2607.28624", "We do things.")
    assert sighting.update_only is (expected == "replaced")
    assert sighting.announced_on == (None if expected == "undated" else FRIDAY)
    assert sighting.categories == ("cs.AI",)


def test_paper_is_a_candidate_if_any_of_its_entries_is_new():
    entries = [
        feed_entry(kind="replace", title="Old", categories=("cs.LG",)),
        feed_entry(kind="new", title="New", categories=("cs.AI", "cs.LG")),
        feed_entry(kind="new", title="Again", categories=("cs.CL",)),
        feed_entry("2607.28625v1"),
    ]

    found = read_xml(feed(*entries))

    assert [one.title for one in found.sightings] == ["New", "A paper"]
    assert found.sightings[0].categories == ("cs.AI", "cs.LG", "cs.CL")
    assert found.entries == 4


def test_listing_page_distinguishes_new_from_replaced_papers():
    page = listing(
        "<h3>New submissions (showing 1 of 1 entries)</h3>",
        listed(title="a &lt; b"),
        "<h3>Cross submissions (showing 1 of 1 entries)</h3>",
        listed("2607.28646"),
        "<h3>Replacement submissions (showing 1 of 1 entries)</h3>",
        listed("2112.07752", version=5),
    )

    answer = read_listing(page.decode())

    seen = [(s.arxiv_id, s.version, s.update_only) for s in answer.sightings]
    assert seen == [("2608.09949", 1, False), ("2607.28646", 1, False), ("2112.07752", 5, True)]
    assert answer.sightings[0].title == "a < b"
    assert answer.sightings[0].authors == ("Ada Lovelace", "Grace Hopper")
    assert answer.sightings[0].categories == ("cs.AI", "cs.LG")
    assert {s.announced_on for s in answer.sightings} == {date(2026, 8, 12)}


# --- The calendar -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("day", "due"),
    [
        ("2026-07-31", True),  # Friday: announced on Thursday evening
        ("2026-08-01", False),  # Saturday
        ("2026-08-02", False),  # Sunday
        ("2026-08-03", True),  # Monday: announced on Sunday evening
        ("2026-06-19", True),  # the holiday itself shows Thursday evening's
        ("2026-09-08", False),  # after Labor Day evening
        ("2026-11-27", False),  # after Thanksgiving evening
        ("2026-12-30", False),
        ("2026-12-31", True),
        ("2027-01-01", False),
    ],
)
def test_news_due_follows_the_announcement_calendar(arxiv, day, due):
    assert arxiv.news_due(date.fromisoformat(day)) is due


@pytest.mark.parametrize(
    ("submitted", "shown"),
    [
        ("2026-07-30T17:59:00+00:00", "2026-07-31"),  # Thursday 13:59 in New York
        ("2026-07-30T18:01:00+00:00", "2026-08-03"),  # Thursday 14:01: Sunday evening
        ("2026-07-31T18:01:00+00:00", "2026-08-04"),  # Friday 14:01: Monday evening
        ("2026-08-02T12:00:00+00:00", "2026-08-04"),
        ("2026-11-26T12:00:00+00:00", "2026-11-30"),  # Thanksgiving: no announcement
        ("2026-03-06T18:30:00+00:00", "2026-03-09"),  # 13:30 in winter time
        ("2026-03-09T18:30:00+00:00", "2026-03-11"),  # 14:30 in summer time
    ],
)
def test_first_feed_day_follows_the_next_submission_cutoff(submitted, shown):
    day = first_feed_day(datetime.fromisoformat(submitted))

    assert day == date.fromisoformat(shown)
    assert feed_day(day)
