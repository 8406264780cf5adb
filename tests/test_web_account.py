"""Account pages: GET shows, POST acts, and a link allows only the action that it was mailed for."""

from __future__ import annotations

import json
import logging
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, time, timedelta
from html import unescape
from typing import Any
from urllib.parse import urlencode

import pytest
from sqlalchemy import Engine

from pipeline import editions, purge, signup
from pipeline.cli.subscribers import _row
from pipeline.domain import (
    UNTIL_ACTIVE,
    Breadth,
    DeliveryKind,
    DeliveryStatus,
    Frequency,
    Schedule,
    SkipReason,
    Subscriber,
    SubscriberStatus,
)
from pipeline.errors import ConflictError
from pipeline.storage.schema import (
    DeliveryRow,
    EventRow,
    MatchRow,
    PaperVersionRow,
    PendingConfirmationRow,
    RefusalRow,
    RequestRow,
    SkipRow,
    StrikeRow,
    SubscriberRow,
    SuppressionRow,
)
from pipeline.web.account.text import FATES, SKIPS, WHYS, delivery_time, masked
from pipeline.web.subscribe import curated
from tests.support.factories import make_schedule, make_sighting
from tests.support.newsroom import ingest, published, rows
from tests.support.site import ADA, ELSEWHERE, Site, links_in, now, open_site, path

NASTY = "<img src=x onerror=alert(1)>"
PARIS = make_schedule(8, "Europe/Paris")


@pytest.fixture
def site(engine: Engine) -> Site:
    return open_site(engine)


def ids(html: str) -> set[str]:
    return set(re.findall(r'href="https://arxiv.org/abs/([^"]+)"', html))


# --- Texts for the reader -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slot", "spoken"),
    [
        (datetime(2026, 11, 24, 7, tzinfo=UTC), "Today, Tuesday 24 November, at 08:00"),
        (datetime(2026, 11, 25, 7, tzinfo=UTC), "Tomorrow, Wednesday 25 November, at 08:00"),
        (datetime(2026, 11, 30, 7, tzinfo=UTC), "Monday 30 November, at 08:00"),
        (datetime(2027, 1, 4, 7, tzinfo=UTC), "Monday, 4 January 2027, at 08:00"),
    ],
)
def test_next_digest_time_is_shown_in_the_readers_time_zone(slot, spoken):
    at = datetime(2026, 11, 24, 5, tzinfo=UTC)

    assert delivery_time(slot, PARIS, at) == f"{spoken} Europe/Paris"


def test_day_names_use_the_readers_local_date():
    """At half past eleven at night in Paris the next day has begun in Tokyo."""
    at = datetime(2026, 11, 24, 22, 30, tzinfo=UTC)
    slot = datetime(2026, 11, 24, 23, tzinfo=UTC)

    assert delivery_time(slot, make_schedule(8, "Asia/Tokyo"), at).startswith("Today, Wednesday 25")


def test_every_stored_reason_has_a_text():
    assert set(SKIPS) == set(SkipReason)
    assert set(FATES) == set(DeliveryStatus)
    assert set(WHYS) == set(signup.UnsubscribeReason)


@pytest.mark.parametrize(
    ("email", "shown"),
    [
        ("ada@example.org", "a•••@e•••.org"),
        ("a@b.co.uk", "a•••@b•••.uk"),
        ("root@localhost", "r•••@l•••"),
    ],
)
def test_masked_hides_most_of_an_address(email, shown):
    assert masked(email) == shown


# --- Confirm ------------------------------------------------------------------------------------


def test_confirmation_page_shows_the_request_and_one_button(site):
    link = site.ask(ADA, "retrieval", NASTY, hour=6, timezone="Asia/Tokyo")

    page = site.get(link).text

    assert page.count("<button") == page.count("<form") == 1
    assert "Every day at 06:00, Asia/Tokyo time" in page
    assert "<dd>Balanced</dd>" in page
    assert "a•••@e•••.org" in page
    assert ADA not in page
    assert "&lt;img src=x" in page
    assert "<img" not in page
    assert signup.WORDING in page


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_link_scanner_requests_do_not_confirm(site, method):
    link = site.ask()

    answer = site.browser.request(method, path(link))

    assert answer.status_code == 200
    assert [row.status for row in rows(site.engine, SubscriberRow)] == [SubscriberStatus.PENDING]
    assert [row.used_at for row in rows(site.engine, RequestRow)] == [None]


@pytest.mark.parametrize("hour", [0, 6, 8, 23])  # UTC; the digest is due at 07:00 UTC
def test_confirming_queues_a_welcome_and_shows_the_next_digest_time(site, hour, time_machine):
    """The welcome is today's edition: at 06:16 the next digest comes tomorrow, not at 07:00."""
    time_machine.move_to(datetime(2030, 1, 2, hour, 16, tzinfo=UTC))
    site.announce()
    link = site.ask(hour=8, timezone="Europe/Paris")

    answer = site.post(link)
    site.publish(everyone=False)

    [reader] = rows(site.engine, SubscriberRow)
    welcome = site.deliveries()[-1]
    assert (welcome.kind, welcome.status) == (DeliveryKind.WELCOME, DeliveryStatus.QUEUED)
    assert "Your first digest is being prepared" in answer.text
    assert delivery_time(reader.next_slot_at, PARIS, now()) in answer.text
    [preferences] = [to for to in links_in(answer.text) if "/preferences/" in to]
    assert site.get(preferences).status_code == 200


def test_confirming_wakes_the_worker_and_does_no_matching(engine):
    """Matching a new topic to weeks of papers takes longer than a visitor waits for a page."""
    woken = []
    site = open_site(engine, wake_editions=lambda: woken.append(rows(engine, SubscriberRow)[0]))
    site.announce()

    site.post(site.ask())

    assert [reader.welcome_due for reader in woken] == [True]
    assert rows(engine, MatchRow) == []


def test_confirming_again_without_papers_shows_a_notice(site):
    link = site.ask()
    site.post(link)
    site.publish(everyone=False)

    answer = site.post(link)

    assert "There was no paper on your topics" in answer.text
    assert [row.kind for row in site.deliveries()] == [DeliveryKind.CONFIRMATION]


def test_reader_returning_on_a_digest_day_is_shown_the_next_digest(site):
    """Today's edition is not compiled again; the page promises the next one."""
    site.announce()
    ada = site.reader()
    site.publish()
    signup.leave(site.engine, ada.secret, now())
    link = site.ask()

    page = site.post(link).text
    before = len(site.deliveries())
    site.publish(everyone=False)

    assert "arrives in a few minutes" not in page
    assert "Your next digest also covers the last few days" in page
    assert "Next digest" in page
    assert len(site.deliveries()) == before
    assert not site.again(ada).welcome_due


def test_confirming_repeatedly_queues_one_welcome(site):
    site.announce()
    link = site.ask()

    answers = []
    for _ in range(3):
        answers.append(site.post(link))
        site.publish(everyone=False)

    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert all("You are subscribed" in answer.text for answer in answers)
    assert [row.kind for row in site.deliveries()].count(DeliveryKind.WELCOME) == 1
    assert "Already confirmed" in site.get(link).text


def test_cross_site_confirmation_is_rejected(site):
    answer = site.post(site.ask(), headers=ELSEWHERE)

    assert answer.status_code == 403
    assert [row.status for row in rows(site.engine, SubscriberRow)] == [SubscriberStatus.PENDING]


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("flaw", ["old", "altered", "of another purpose", "of nobody"])
def test_invalid_confirmation_link_returns_410_and_links_to_the_form(site, method, flaw):
    link = site.ask()
    links = site.services.links
    bad = {
        "old": links.confirm(1, now() - timedelta(hours=73)),
        "altered": link.replace("/confirm/", "/confirm/4"),
        "of another purpose": links.preferences(1, now()).replace("/preferences/", "/confirm/"),
        "of nobody": links.confirm(4711, now()),
    }[flaw]

    answer = site.browser.request(method, path(bad))

    assert answer.status_code == 410
    assert 'href="/subscribe"' in answer.text
    assert [row.status for row in rows(site.engine, SubscriberRow)] == [SubscriberStatus.PENDING]


# --- Preferences --------------------------------------------------------------------------------

CHOICE = {
    "topic": ["trending"],
    "queries": 'stones\r\n"small print"',
    "frequency": "weekly-friday",
    "hour": "6",
    "timezone": "Asia/Tokyo",
    "max_papers": "3",
    "breadth": "more",
}


def test_all_preferences_can_be_changed(site):
    ada = site.reader()

    answer = site.post(site.preferences(ada), data=CHOICE)
    page = site.get(answer.headers["location"]).text

    assert answer.status_code == 303
    assert 'role="status"' in page
    known = signup.choices_of(site.engine, ada.id)
    assert known.subscriber.schedule.frequency is Frequency.WEEKLY
    assert known.subscriber.schedule.weekday.name == "FRIDAY"
    assert (known.subscriber.schedule.timezone, known.subscriber.max_papers) == ("Asia/Tokyo", 3)
    assert known.subscriber.breadth is Breadth.MORE
    assert [label for _, label in known.topics] == ["Trending", "stones", '"small print"']


def test_preferences_offer_tried_queries_and_adopt_one_at_once(site):
    """The button saves the whole form with its topic replaced."""
    today = now().date()
    sightings = [make_sighting(title=f"Moss {n}", announced_on=today) for n in range(3)]
    ingest(site.engine, *sightings, now=now())
    ada = site.reader(ADA, "ferns", "Moss cat:q-bio.TO")
    site.post("/subscribe/preview", data={"queries": "moss"})  # the index is ready
    page = site.get(site.preferences(ada)).text
    adopted = unescape(re.findall(r'name="adopt" value="([^"]*)"', page)[0])

    answer = site.post(
        site.preferences(ada),
        data={**CHOICE, "queries": "ferns\nMoss cat:q-bio.TO", "adopt": adopted,
              "seen": seen_in(page)},
    )  # fmt: skip

    assert adopted == "Moss cat:q-bio.TO\nMoss"
    assert answer.headers["location"].endswith("?done=saved")
    known = signup.choices_of(site.engine, ada.id)
    assert [label for _, label in known.topics] == ["Trending", "ferns", "Moss"]
    assert known.subscriber.max_papers == 3


def adoption(site: Site, url: str, topic: str, query: str) -> tuple[str, dict[str, str]]:
    """Open the link of a suggestion; return the URL and the fields of its form."""
    page = site.get(f"{url}/adopt?{urlencode({'topic': topic, 'query': query})}")
    fields = re.findall(r'name="(\w+)" value="([^"]*)"', page.text)
    return f"{url}/adopt", {name: unescape(value) for name, value in fields}


LONG_NAME = "<b>" + "x" * 90  # an import allows it, the form does not


def test_suggestion_in_a_mail_is_adopted_by_post_only(site):
    """Opening the link changes nothing; a second tap does, and all other preferences stay."""
    topics = ("ferns", '"a < b" moss')
    choices = signup.Choices(
        signup.parse_queries(topics),
        Schedule(time(8, 30)),
        names={"ferns": "Green", topics[1]: LONG_NAME},
    )
    ada = signup.add(site.engine, ADA, choices, confirmed=True, suppression_key="", now=now())
    url, before = site.preferences(ada), signup.choices_of(site.engine, ada.id)

    page = site.get(f"{url}/adopt?{urlencode({'topic': LONG_NAME, 'query': 'moss'})}")
    target, fields = adoption(site, url, LONG_NAME, "moss")
    opened = signup.choices_of(site.engine, ada.id)
    answers = [site.post(target, data=fields) for _ in range(2)]

    assert "&lt;b&gt;xxx" in page.text
    assert opened == before
    assert answers[0].headers["location"] == f"{url}?done=saved"
    assert answers[1].headers["location"] == url  # done before
    known = signup.choices_of(site.engine, ada.id)
    assert known.topics == (("ferns", "Green"), ("moss", LONG_NAME))
    assert known.subscriber == before.subscriber


def test_suggestion_replaces_the_query_that_is_the_label(site):
    ada = site.reader(ADA, "Ferns AND walls", "trending")
    url = site.preferences(ada)

    target, fields = adoption(site, url, "Ferns AND walls", "Ferns")
    site.post(target, data=fields)

    labels = [label for _, label in signup.choices_of(site.engine, ada.id).topics]
    assert labels == ["Ferns", "trending"]


@pytest.mark.parametrize(
    ("topic", "query"),
    [("moss", "trees"), ("ferns", ""), ("ferns", 'ti:"'), ("ferns", "walls"), ("ferns", "ferns")],
)
def test_suggestion_that_does_not_fit_any_more_leads_to_the_preferences(site, topic, query):
    ada = site.reader(ADA, "ferns", "walls")
    url = site.preferences(ada)
    before = signup.choices_of(site.engine, ada.id)

    opened = site.get(f"{url}/adopt?{urlencode({'topic': topic, 'query': query})}")
    sent = site.post(f"{url}/adopt", data={"old": topic, "query": query})

    assert opened.headers["location"] == sent.headers["location"] == url
    assert signup.choices_of(site.engine, ada.id) == before


# --- Following an author ------------------------------------------------------------------------


def test_author_is_followed_by_post_only_and_all_other_preferences_stay(site):
    """The page shows the topic and its papers a month; repeating the press changes nothing."""
    choices = signup.Choices(
        signup.parse_queries(("ferns", "trending")), Schedule(time(8, 30)), names={"ferns": "Green"}
    )
    ada = signup.add(site.engine, ADA, choices, confirmed=True, suppression_key="", now=now())
    site.announce(make_sighting(authors=("Bo <i> Fern",), announced_on=now().date()))
    site.browser.app.state.live_index.renew()
    preferences, before = site.preferences(ada), signup.choices_of(site.engine, ada.id)
    url = f"{preferences}/follow"

    page = site.get(f"{url}?{urlencode({'author': 'Bo <i> Fern'})}").text
    opened = signup.choices_of(site.engine, ada.id)
    answers = [site.post(url, data={"author": name}) for name in ("Bo <i> Fern", "BO I FERN")]
    again = site.get(f"{url}?author=bo+i+fern").text

    assert "Follow Bo &lt;i&gt; Fern?" in page
    assert "about 1 paper a month" in page
    assert opened == before
    assert {one.headers["location"] for one in answers} == {f"{preferences}?done=saved"}
    known = signup.choices_of(site.engine, ada.id)
    assert known.topics == (*before.topics, ('au:"bo i fern"', 'au:"Bo <i> Fern"'))
    assert known.subscriber == before.subscriber
    assert "You follow bo i fern" in again
    assert "<button" not in again


def test_twenty_topics_of_their_own_leave_no_room_for_an_author(site):
    ada = site.reader(ADA, "trending", *(f"stone{number}" for number in range(20)))
    url, before = f"{site.preferences(ada)}/follow", labels(site, ada)

    page = site.get(f"{url}?author=Bo+Fern")
    answer = site.post(url, data={"author": "Bo Fern"})

    assert (page.status_code, answer.status_code) == (200, 422)
    for shown in (page.text, answer.text):
        assert "Enter at most 20 topics of your own, not 21." in shown
        assert "<button" not in shown
    assert labels(site, ada) == before


@pytest.mark.parametrize("name", ["", '"', "...", "x" * 121])
def test_author_without_a_name_leads_to_the_preferences(site, name):
    ada = site.reader()
    url = site.preferences(ada)

    opened = site.get(f"{url}/follow?{urlencode({'author': name})}")
    sent = site.post(f"{url}/follow", data={"author": name})

    assert opened.headers["location"] == sent.headers["location"] == url
    assert len(labels(site, ada)) == 1


def test_unsubscribed_reader_follows_no_author(site):
    ada = site.reader()
    signup.leave(site.engine, ada.secret, now())
    url = site.preferences(ada)

    opened, sent = (
        site.get(f"{url}/follow?author=Ada"),
        site.post(f"{url}/follow", data={"author": "Ada"}),
    )

    assert opened.headers["location"] == sent.headers["location"] == url
    assert len(labels(site, ada)) == 1


def test_new_authors_of_a_day_are_limited(site, monkeypatch):
    monkeypatch.setattr("pipeline.signup.abuse_limits.NEW_TOPICS", 1)
    ada = site.reader()
    url = f"{site.preferences(ada)}/follow"

    answers = [site.post(url, data={"author": name}) for name in ("Bo Fern", "Bo Fern", "Cy Reed")]

    assert [one.status_code for one in answers] == [303, 303, 429]
    assert "retry-after" in answers[2].headers
    assert labels(site, ada)[1:] == ['au:"Bo Fern"']


def test_near_misses_are_marked_in_the_next_digest(site):
    long_ago = now() - timedelta(days=30)
    older = (
        make_sighting(abstract="One quantum.", announced_on=long_ago.date()) for _ in range(25)
    )
    ingest(site.engine, *older, now=long_ago)
    choices = signup.Choices(signup.parse_queries(("quantum",)), near_misses_after=1)
    ada = signup.add(site.engine, ADA, choices, confirmed=True, suppression_key="", now=now())
    site.announce(make_sighting(title="Light", abstract="A quantum.", announced_on=now().date()))
    editions.match_late_topics(site.engine, published(site.engine), now())

    page = site.get(site.preferences(ada)).text

    assert "These come nearest." in page
    assert "Light" in page
    assert "“quantum”" not in page


def test_stale_preferences_form_returns_409_and_keeps_the_saved_choice(site):
    """The second window returns 409 with the stored choice and its own input; it can save again."""
    ada = site.reader(ADA, "retrieval")
    url = site.preferences(ada)
    seen = seen_in(site.get(url).text)
    site.post(url, data={**CHOICE, "queries": "stones", "seen": seen})

    stale = site.post(url, data={**CHOICE, "queries": "rivers", "hour": "9", "seen": seen})

    assert stale.status_code == 409
    assert [label for _, label in signup.choices_of(site.engine, ada.id).topics] == [
        "Trending",
        "stones",
    ]
    assert "Trending, stones. Every Friday at 06:00" in stale.text
    assert re.search(r">\s*rivers</textarea>", stale.text)
    assert re.search(r'value="9" selected', stale.text)

    again = site.post(
        url, data={**CHOICE, "queries": "rivers", "hour": "9", "seen": seen_in(stale.text)}
    )

    assert again.status_code == 303
    assert signup.choices_of(site.engine, ada.id).topics[-1][1] == "rivers"


def test_concurrent_preference_changes_raise_one_conflict(site):
    """The comparison is made under the lock of the subscriber's row."""
    ada = site.reader()
    seen = signup.choices_of(site.engine, ada.id).version
    together = threading.Barrier(2)

    def save(topic: str) -> bool:
        together.wait()
        try:
            signup.change(
                site.engine,
                ada.id,
                signup.Choices(signup.parse_queries((topic,))),
                now(),
                seen=seen,
            )
        except ConflictError:
            return False
        return True

    with ThreadPoolExecutor(2) as windows:
        assert sorted(windows.map(save, ["stones", "rivers"])) == [False, True]


def seen_in(html: str) -> str:
    return re.findall(r'name="seen" value="([^"]+)"', html)[0]


def shown_topics(html: str) -> list[tuple[str, str, str]]:
    """Return the name, the label without a name, and the query of each followed topic."""
    field = r'name="name" value="([^"]*)"[^>]*placeholder="([^"]*)".*?name="query"[^>]*>\n(.*?)</'
    return [tuple(map(unescape, found)) for found in re.findall(field, html, re.S)]


def saved(site: Site, reader: Subscriber, *followed: tuple[str, str], **fields: Any) -> Any:
    """Save followed topics, (name, query) pairs, and return the response."""
    rows = {"name": [name for name, _ in followed], "query": [query for _, query in followed]}
    return site.post(
        site.preferences(reader), data={**CHOICE, "topic": [], "queries": "", **rows, **fields}
    )


def labels(site: Site, reader: Subscriber) -> list[str]:
    return [label for _, label in signup.choices_of(site.engine, reader.id).topics]


def test_preferences_form_is_filled_with_the_stored_values(site):
    """Saving the form without a change changes nothing, even if a topic has an unusual name."""
    ada = site.reader()
    site.post(
        site.preferences(ada), data={**CHOICE, "name": ["Rubble"], "query": ["gravel OR sand"]}
    )
    before = signup.choices_of(site.engine, ada.id)

    page = site.get(site.preferences(ada)).text

    followed = shown_topics(page)
    assert followed == [
        ("Rubble", "gravel OR sand", "gravel OR sand"),
        ("", "Trending", "trending"),
        ("", "stones", "stones"),
        ("", '"small print"', '"small print"'),
    ]
    assert 'value="trending"' not in page  # a followed topic is not suggested
    assert re.search(r'value="weekly-friday" selected', page)
    assert re.search(r'value="6" selected', page)
    assert re.search(r'value="more" selected', page)

    saved(site, ada, *((name, query) for name, _, query in followed))
    assert before == signup.choices_of(site.engine, ada.id)


def test_topic_without_a_name_has_its_default_label_again(site):
    agents = curated.in_use().by_slug["agents"].query
    ada = site.reader()
    saved(site, ada, ("Robots that act", agents), ("My rocks", "granite"))
    assert labels(site, ada) == ["Robots that act", "My rocks"]

    saved(site, ada, ("", agents), ("  ", "granite"))

    assert labels(site, ada) == ["Agents", "granite"]


def test_label_that_is_only_the_query_is_shown_as_no_name(site):
    """An import and the command line store the query as typed, which may be a curated one."""
    agents = curated.in_use().by_slug["agents"].query
    ada = site.reader(ADA, agents, "agents", "Small  Stones")

    page = site.get(site.preferences(ada)).text

    assert shown_topics(page) == [
        ("", "Agents", agents),
        ("", "agents", "agents"),
        ("", "Small Stones", "Small Stones"),
    ]


def test_topics_without_a_query_and_marked_ones_are_removed(site):
    ada = site.reader()

    saved(site, ada, ("A", "granite"), ("B", "basalt"), ("C", " "), remove=["0"], queries="chalk")

    assert labels(site, ada) == ["B", "chalk"]


@pytest.mark.parametrize(
    ("typed", "stored"),
    [
        (NASTY, NASTY),
        ("  two\n lines\t", "two lines"),
        ("\u202eback\x00wards", "backwards"),
        ("أبحاث الصخور", "أبحاث الصخور"),
        ("🪨 rocks", "🪨 rocks"),
        ("n" * 60, "n" * 60),
    ],
)
def test_name_of_a_topic_is_cleaned_and_escaped(site, typed, stored):
    ada = site.reader()

    assert saved(site, ada, (typed, "granite")).status_code == 303

    page = site.get(site.preferences(ada)).text
    assert labels(site, ada) == [stored]
    assert shown_topics(page) == [(stored, "granite", "granite")]
    assert NASTY not in page


@pytest.mark.parametrize(
    ("followed", "field", "text"),
    [
        ((("n" * 61, "granite"),), "name-0", "A name has at most 60 characters. This one has 61."),
        ((("Rocks", "granite"), ("rocks", "basalt")), "name-1", "Two topics are called “rocks”."),
        ((("", "basalt"), ("Basalt", "granite")), "name-1", "Two topics are called “Basalt”."),
        ((("", "basalt"), ("", "(open")), "query-1", "parenthesis"),
    ],
)  # fmt: skip
def test_invalid_followed_topic_is_reported_at_its_field(site, followed, field, text):
    ada = site.reader()
    before = labels(site, ada)

    answer = saved(site, ada, *followed)

    assert answer.status_code == 422
    assert text in answer.text
    assert f'href="#{field}"' in answer.text
    assert f'aria-describedby="{field}-mistake"' in answer.text
    assert [(name, query) for name, _, query in shown_topics(answer.text)] == [*followed]
    assert labels(site, ada) == before


def test_number_of_followed_topics_is_limited(site):
    ada = site.reader()
    known = [("", topic.query) for topic in curated.in_use().topics]
    own = [("", f"stone{number}") for number in range(21)]

    assert saved(site, ada, *known[:50]).status_code == 303
    for followed, text in ((known[:51], "at most 50"), (own, "at most 20")):
        answer = saved(site, ada, *followed)
        assert answer.status_code == 422
        assert text in answer.text
    saved(site, ada, *known[:20])
    assert len(labels(site, ada)) == 20


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("queries", "(never closed"),
        ("hour", "25"),
        ("timezone", "Mars/Olympus"),
        ("frequency", "hourly"),
        ("max_papers", "0"),
        ("max_papers", "many"),
        ("breadth", "all"),
    ],
)
def test_invalid_preference_is_reported_at_its_field_and_not_saved(site, field, value):
    ada = site.reader()
    before = signup.choices_of(site.engine, ada.id)

    answer = site.post(site.preferences(ada), data={**CHOICE, field: value})

    assert answer.status_code == 422
    assert f'aria-describedby="{field}-mistake' in answer.text
    assert f'id="{field}-mistake"' in answer.text
    assert signup.choices_of(site.engine, ada.id) == before


def test_changed_topics_show_their_preview_after_lookup(engine):
    """The papers of a new topic are looked up in the background and shown on the next request."""
    site = open_site(engine, wake_editions=lambda: site.publish(everyone=False))
    site.announce(
        make_sighting("3001.00001", title="On retrieval", announced_on=now().date()),
        make_sighting("3001.00002", title="On granite", abstract="", announced_on=now().date()),
    )
    ada = site.reader(ADA, "retrieval")
    assert "being matched" in site.get(site.preferences(ada)).text

    answer = site.post(site.preferences(ada), data={**CHOICE, "topic": [], "queries": "granite"})

    page = site.get(answer.headers["location"]).text
    assert ids(page) == {"3001.00002"}
    assert "being matched" not in page
    assert site.deliveries() == []


def test_titles_are_escaped_on_the_preferences_page(site):
    site.announce(make_sighting(title=f"Retrieval {NASTY}", announced_on=now().date()))
    ada = site.reader(ADA, f"retrieval {NASTY}", "retrieval")

    page = site.get(site.preferences(ada)).text

    assert "<img" not in page
    assert "&lt;img" in page


def test_pause_lasts_until_its_date_or_resume(site):
    ada = site.reader()
    until = now().date() + timedelta(days=10)

    paused = site.post(f"{site.preferences(ada)}/pause", data={"until": until.isoformat()})
    page = site.get(paused.headers["location"]).text

    assert site.again(ada).paused_until == until
    assert "Paused until" in page
    assert "Resume now" in page

    site.post(f"{site.preferences(ada)}/resume", data={"seen": until.isoformat()})

    assert "Paused until" not in site.get(site.preferences(ada)).text


@pytest.mark.parametrize("days", [-1, 0, 400])
def test_pause_date_out_of_range_is_rejected(site, days):
    ada = site.reader()
    until = (now() + timedelta(days=days)).date()

    answer = site.post(f"{site.preferences(ada)}/pause", data={"until": until.isoformat()})

    assert answer.status_code == 422
    assert 'aria-describedby="until-error"' in answer.text
    assert site.again(ada).paused_until is None


def test_preferences_show_the_reason_for_a_skipped_digest(site):
    ada = site.reader(ADA, "granite")
    site.announce()
    site.publish()

    page = site.get(site.preferences(ada)).text

    assert "Days without a digest" in page
    assert SKIPS[SkipReason.NOTHING_MATCHED] in page


def test_preferences_link_to_recent_digests(site):
    site.announce(make_sighting("3001.00001", announced_on=now().date()))
    ada = site.reader()
    site.publish()

    page = site.get(site.preferences(ada)).text

    [digest] = [to for to in links_in(page) if "/digests/" in to]
    assert "3001.00001" in site.get(digest).text


def test_preferences_of_an_unsubscribed_reader_have_no_topic_field(site):
    ada = site.reader()
    site.post(f"/unsubscribe/{ada.secret}")

    page = site.get(site.preferences(ada)).text

    assert "You are unsubscribed: no email" in page
    assert 'name="queries"' not in page


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_opening_preferences_changes_nothing(site, method):
    ada = site.reader()
    before = rows(site.engine, SubscriberRow)

    for act in ("", "/pause", "/resume", "/data"):
        site.browser.request(method, site.preferences(ada) + act)

    assert rows(site.engine, SubscriberRow) == before
    assert site.deliveries() == []


def test_preferences_link_expires_after_30_days_and_links_to_a_new_one(site):
    ada = site.reader()
    old = site.services.links.preferences(ada.id, now() - timedelta(days=30, seconds=1))

    answers = [site.get(old), site.post(old, data=CHOICE)]

    assert [answer.status_code for answer in answers] == [410, 410]
    assert 'href="/link"' in answers[0].text
    assert signup.choices_of(site.engine, ada.id).subscriber.schedule == ada.schedule


def test_json_and_oversized_preferences_forms_are_rejected(site):
    ada = site.reader()

    answers = [
        site.post(site.preferences(ada), json=CHOICE),
        site.post(site.preferences(ada), data={"queries": "x" * 200_000}),
    ]

    assert [answer.status_code for answer in answers] == [415, 413]


# --- Request a link -----------------------------------------------------------------------------


def test_link_request_does_not_reveal_if_an_address_is_subscribed(site):
    site.reader()

    answers = [site.post("/link", data={"email": to}) for to in (ADA, "nobody@example.org")]

    assert answers[0].text == answers[1].text
    assert [answer.status_code for answer in answers] == [200, 200]
    assert [row.kind for row in site.deliveries()] == [DeliveryKind.LINK]


def test_link_request_reports_an_invalid_address_at_its_field(site):
    answer = site.post("/link", data={"email": NASTY})

    assert answer.status_code == 422
    assert 'aria-describedby="email-error"' in answer.text
    assert "<img" not in answer.text


@pytest.mark.full
def test_too_many_link_requests_return_429_with_retry_after(site):
    answers = [site.post("/link", data={"email": f"r{n}@example.org"}) for n in range(60)]

    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["retry-after"]) > 0


# --- Personal data ------------------------------------------------------------------------------


def test_preferences_token_is_rejected_on_data_pages(site):
    ada = site.reader()
    stolen = site.preferences(ada).replace("/preferences/", "/data/")

    answers = [
        site.get(stolen),
        site.post(f"{stolen}/export"),
        site.post(f"{stolen}/erase", data={"sure": "yes"}),
        site.post(f"{stolen}/address", data={"email": "eve@example.org"}),
    ]

    assert [answer.status_code for answer in answers] == [410] * 4
    assert site.again(ada).email == ADA


def test_data_link_is_mailed_on_request_and_expires(site):
    ada = site.reader()

    answer = site.post(f"{site.preferences(ada)}/data")

    assert answer.status_code == 303
    assert [(row.kind, row.status) for row in site.deliveries()] == [
        (DeliveryKind.DATA_LINK, DeliveryStatus.QUEUED)
    ]
    assert site.get(site.data(ada)).status_code == 200
    old = site.services.links.data(ada.id, now() - timedelta(hours=25))
    assert site.get(old).status_code == 410


def test_export_downloads_all_data_as_json(site):
    site.announce()
    ada = site.reader(ADA, "retrieval")
    site.publish()

    answer = site.post(f"{site.data(ada)}/export")

    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["cache-control"] == "no-store"
    held = json.loads(answer.text)
    assert held["subscriber"]["email"] == ADA
    assert [topic["query"] for topic in held["topics"]] == ["retrieval"]
    assert len(held["mails"][0]["papers"]) == 1


def test_erasing_requires_confirmation_and_removes_all_data(site):
    site.announce()
    ada = site.reader()
    site.publish()
    links = site.services.links
    view = links.digest(site.deliveries()[0].id, now())
    preferences, data = site.preferences(ada), site.data(ada)

    asked = site.post(f"{data}/erase", data={"sure": ""})
    assert "Erase your data?" in asked.text
    assert site.again(ada).email == ADA

    erased = site.post(f"{data}/erase", data={"sure": "yes"})

    assert "Your data is erased" in erased.text
    dump = str([rows(site.engine, table) for table in (SubscriberRow, DeliveryRow, RequestRow)])
    assert "ada.lovelace" not in dump
    assert [site.get(link).status_code for link in (preferences, data, view)] == [404, 404, 410]


def test_new_address_takes_effect_only_when_confirmed(site):
    ada = site.reader()
    new = "ada@byron.example"

    answer = site.post(f"{site.data(ada)}/address", data={"email": new})

    [asked] = site.deliveries()
    assert (asked.kind, asked.address) == (DeliveryKind.NEW_ADDRESS, new)
    assert new not in answer.text
    assert site.again(ada).email == ADA

    link = site.services.links.new_address(asked.request_id, now())
    page = site.get(link)
    assert page.text.count("<button") == 1
    assert signup.WORDING in page.text
    assert site.again(ada).email == ADA
    answers = [site.post(link) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert site.again(ada).email == new


def test_invalid_new_address_is_reported_at_its_field(site):
    ada = site.reader()

    answer = site.post(f"{site.data(ada)}/address", data={"email": "ada at byron"})

    assert answer.status_code == 422
    assert 'aria-describedby="email-error"' in answer.text
    assert site.deliveries() == []


# --- View in browser ----------------------------------------------------------------------------


@pytest.fixture
def sent(site: Site) -> str:
    """Return the path of a digest of two papers."""
    site.announce(
        make_sighting("3001.00001", title=f"Retrieval {NASTY}", announced_on=now().date()),
        make_sighting("3001.00002", title="More retrieval", announced_on=now().date()),
    )
    site.reader()
    site.publish()
    return path(site.services.links.digest(site.deliveries()[0].id, now()))


def test_digest_page_is_unchanged_by_later_papers(site, sent):
    [delivery] = site.deliveries()
    before = site.get(sent).text
    words = {**rows(site.engine, PaperVersionRow)[0].content, "title": "A later title"}
    site.announce(
        make_sighting("3001.00002", title=words["title"], upvotes=999, announced_on=now().date()),
        make_sighting("3001.00003", title="Retrieval again", announced_on=now().date()),
    )

    answer = site.get(sent)

    assert delivery.id == site.deliveries()[0].id
    assert answer.text == before
    assert "A later title" not in answer.text
    assert "3001.00003" not in answer.text
    assert "design of our emails has changed" not in answer.text


def test_digest_with_an_older_template_shows_a_notice(site, sent):
    with site.engine.begin() as conn:
        conn.execute(DeliveryRow.__table__.update().values(template="an older one"))

    answer = site.get(sent)

    assert "design of our emails has changed" in answer.text
    assert "3001.00001" in answer.text


def test_digest_page_is_sandboxed_without_scripts_or_forms(site, sent):
    answer = site.get(sent)

    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "form-action 'none'" in policy
    assert "sandbox" in policy
    assert "allow-scripts" not in policy
    assert "allow-same-origin" not in policy
    assert "<img src=x" not in answer.text
    assert answer.headers["x-robots-tag"].startswith("noindex")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "no-referrer"


def test_digest_page_contains_no_secret_token_or_address(site, sent):
    """No link on it acts for the reader: it has no secret, no token and not its own URL."""
    [reader] = rows(site.engine, SubscriberRow)

    page = site.get(sent).text

    assert reader.secret not in page
    assert sent.rpartition("/")[2] not in page
    assert reader.email not in page
    for to in links_in(page):
        assert not re.search("/(unsubscribe|preferences|digests|data|confirm|new-address)/", to), to
    assert [to for to in links_in(page) if to.endswith("/link")]


@pytest.mark.parametrize("end", ["ninety days", "an old link", "erased", "papers gone"])
def test_expired_or_erased_digest_returns_410(site, sent, end):
    [reader] = rows(site.engine, SubscriberRow)
    [delivery] = site.deliveries()
    if end == "ninety days":
        with site.engine.begin() as conn:
            old = now() - timedelta(days=90)
            conn.execute(DeliveryRow.__table__.update().values(created_at=old))
    elif end == "an old link":
        sent = site.services.links.digest(delivery.id, now() - timedelta(days=90))
    elif end == "erased":
        signup.erase_by_id(site.engine, reader.id, now())
    else:
        with site.engine.begin() as conn:
            conn.exec_driver_sql("DELETE FROM picks")

    answer = site.get(sent)

    assert answer.status_code == 410
    assert "no longer stored" in answer.text


def test_altered_digest_link_returns_410(site, sent):
    assert site.get(sent.replace("/digests/1.", "/digests/2.")).status_code == 410


@pytest.fixture
def unpicked(site: Site) -> str:
    """Return the path of the two papers that matched a digest of five but did not fit."""
    words = ("moss", "fern", "birch", "larch", "beech", "maple", "cedar", "willow")
    for number, word in enumerate(words, 1):
        title = "A survey of cars" if number == 8 else f"{word} {'retrieval ' * (8 - number)}"
        site.announce(make_sighting(f"3001.0000{number}", title=title, announced_on=now().date()))
    site.reader()
    site.publish()
    return path(f"{site.services.links.digest(site.deliveries()[0].id, now())}/more")


def test_papers_that_did_not_fit_are_listed_best_first(site, unpicked):
    site.announce(make_sighting("3001.00009", title="Later retrieval", announced_on=now().date()))

    page = site.get(unpicked)

    assert page.status_code == 200
    assert re.findall(r'href="/papers/3001\.0000(\d)"', page.text) == ["6", "7"]
    assert "<h1>2 more papers matched</h1>" in page.text
    assert page.headers["x-robots-tag"].startswith("noindex")
    assert page.headers["cache-control"] == "no-store"


def test_digest_page_links_to_the_papers_that_did_not_fit(site, unpicked):
    assert unpicked in site.get(unpicked.removesuffix("/more")).text


def test_papers_that_did_not_fit_are_forgotten_with_the_digest(site, unpicked):
    [reader] = rows(site.engine, SubscriberRow)

    signup.erase_by_id(site.engine, reader.id, now())

    assert site.get(unpicked).status_code == 410
    assert [row.unpicked for row in rows(site.engine, DeliveryRow)] == [[]]


# --- All account pages --------------------------------------------------------------------------


def personal_pages(site: Site) -> list[str]:
    ada = site.reader()
    links = site.services.links
    return [
        f"/unsubscribe/{ada.secret}",
        links.confirm(1, now()),
        links.new_address(1, now()),
        site.preferences(ada),
        site.data(ada),
        links.digest(1, now()),
        "/link",
    ]


def test_personal_pages_are_not_cached_indexed_or_referred(site):
    for page in personal_pages(site):
        answer = site.get(page)

        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-robots-tag"].startswith("noindex")
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "set-cookie" not in answer.headers
        assert ADA not in answer.text


def test_cross_site_posts_to_personal_pages_are_rejected(site):
    ada = site.reader()
    before = rows(site.engine, SubscriberRow)
    preferences, data = site.preferences(ada), site.data(ada)
    posts = [
        preferences, f"{preferences}/pause", f"{preferences}/resume", f"{preferences}/data",
        f"{data}/export", f"{data}/erase", f"{data}/address", "/link",
    ]  # fmt: skip

    answers = [site.post(to, data={"sure": "yes"}, headers=ELSEWHERE) for to in posts]

    assert {answer.status_code for answer in answers} == {403}
    assert rows(site.engine, SubscriberRow) == before


def test_logs_contain_no_links_or_addresses(site, caplog, capsys):
    caplog.set_level(logging.DEBUG)
    site.announce()
    link = site.ask()
    site.post(link)
    [reader] = rows(site.engine, SubscriberRow)
    pages = [link, site.preferences(reader), site.data(reader), f"/unsubscribe/{reader.secret}"]

    for page in pages:
        site.get(page)
    site.post(f"{site.preferences(reader)}/data")
    site.post("/link", data={"email": ADA})
    site.post(f"/unsubscribe/{reader.secret}")

    logged = caplog.text + "".join(capsys.readouterr())
    logged = re.sub(r"HTTP Request: .*", "", logged)  # logged by the test's client, not by the site
    assert "subscriber" in logged
    for secret in (ADA, reader.secret, *(page.rsplit("/", 1)[1] for page in pages)):
        assert secret not in logged


# --- Privacy ------------------------------------------------------------------------------------


def test_privacy_page_shows_the_configured_retention_periods(engine):
    kept = {
        "pending_days": 5,
        "ip_days": 6,
        "digest_days": 101,
        "delivery_days": 202,
        "event_days": 31,
    }
    site = open_site(engine, operator_name="Ada & Sons", operator_address="1 Quay, Ockham", **kept)

    page = site.get("/privacy").text

    for days in (*kept.values(), purge.COUNTERS.days, purge.ASKED.days):
        assert f"<td>{days} days</td>" in page
    assert "<td>90 days</td>" not in page
    assert "Ada &amp; Sons, 1 Quay, Ockham" in page


def test_columns_with_reader_data_equal_the_documented_list():
    """Document the purpose of each new column in templates/privacy.html, and add its name below.

    These are the tables whose rows belong to a subscriber.
    """
    told = {
        SubscriberRow: "id email email_key address_hash status at timezone frequency weekday "
        "max_papers breadth near_misses_after secret paused_until next_slot_at last_slot_at "
        "last_edition_on cursor created_at confirmed_at left_at left_reason welcome_due "
        "papers_from active_on",
        RequestRow: "id kind subscriber_id email choices created_at expires_at used_at ip "
        "redacted email_key origin wording",
        SkipRow: "subscriber_id edition_on slot_at reason range_from range_to",
        PendingConfirmationRow: "id address_hash requested_at inbox requester",
        SuppressionRow: "hash reason since",
        StrikeRow: "address_hash edition_on kind noted_at",
        RefusalRow: "delivery_id edition_on address_hash domain kind ends_as wording server at "
        "counted",
        EventRow: "id provider event_id kind effect received_at delivery_id subscriber_id "
        "address_hash raw",
    }

    for table, columns in told.items():
        assert set(table.__table__.c.keys()) == set(columns.split())


# --- Secrets and tokens -------------------------------------------------------------------------


@pytest.mark.parametrize("shown", ["", "/leave"])
def test_preferences_pages_do_not_contain_the_secret(site, shown):
    """The secret never expires: each copy of a page with it could unsubscribe the reader later."""
    ada = site.reader()
    page = site.preferences(ada)

    assert ada.secret not in site.get(page + shown).text
    assert f"{page.partition('example.org')[2]}/leave" in site.get(page).text
    site.post(f"{page}/leave")
    assert site.again(ada).status is SubscriberStatus.UNSUBSCRIBED
    assert ada.secret not in site.get(page + shown).text
    assert ada.secret not in site.post(f"{page}/leave/why", data={"why": "too-many"}).text
    site.post(f"{page}/leave/undo")
    assert site.again(ada).status is SubscriberStatus.ACTIVE


def test_cross_site_post_to_preferences_leave_is_rejected(site):
    ada = site.reader()

    answer = site.post(f"{site.preferences(ada)}/leave", headers=ELSEWHERE)

    assert answer.status_code == 403
    assert site.again(ada).status is SubscriberStatus.ACTIVE


# --- Inactivity ---------------------------------------------------------------------------------


def everything(site: Site) -> list[Any]:
    return [rows(site.engine, table) for table in (SubscriberRow, DeliveryRow, RequestRow, SkipRow)]


@pytest.mark.parametrize("paused_until", [None, UNTIL_ACTIVE])
def test_opening_the_question_changes_nothing_and_its_button_answers_it(site, paused_until):
    ada = site.reader()
    site.alter(ada, active_on=date(2020, 1, 1), paused_until=paused_until)
    page = f"{site.preferences(ada)}/keep"
    before = everything(site)

    shown = [site.get(page), site.browser.head(page)]

    assert [answer.status_code for answer in shown] == [200, 200]
    assert everything(site) == before
    button = "Resume my digests" if paused_until else "Keep them coming"
    assert f"<button>{button}</button>" in shown[0].text
    assert ADA not in shown[0].text
    answers = [site.post(page) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [303, 303]
    done = "resumed" if paused_until else "kept"
    assert answers[0].headers["location"].endswith(f"?done={done}")
    after = site.again(ada)
    assert after.active_on == now().date()
    assert after.paused_until == (now().date() if paused_until else None)
    assert site.post(page, headers=ELSEWHERE).status_code == 403


def test_unsubscribed_reader_is_not_asked(site):
    ada = site.reader()
    page = site.preferences(ada)
    site.post(f"{page}/leave")

    for answer in (site.get(f"{page}/keep"), site.post(f"{page}/keep")):
        assert (answer.status_code, answer.headers["location"]) == (303, page)


def test_preferences_show_a_pause_because_of_inactivity(site):
    ada = site.reader()
    site.alter(ada, paused_until=UNTIL_ACTIVE)
    page = site.preferences(ada)

    shown = site.get(page).text

    assert "Paused because of inactivity" in shown
    assert "9999" not in re.sub(r'name="seen" value="[^"]+"', "", shown)
    assert signup.export(site.engine, ada.id)["subscriber"]["pause_reason"] == "inactivity"
    assert _row(site.again(ada), ())["pause_reason"] == "inactivity"
    site.post(f"{page}/resume", data={"seen": str(UNTIL_ACTIVE)})
    assert "inactivity" not in site.get(page).text
    assert signup.export(site.engine, ada.id)["subscriber"]["pause_reason"] is None


# --- Pause --------------------------------------------------------------------------------------


def test_stale_pause_form_returns_409_and_keeps_the_pause(site):
    ada = site.reader()
    page = site.preferences(ada)
    until, later = (str(now().date() + timedelta(days=days)) for days in (7, 14))
    site.post(f"{page}/pause", data={"until": until, "seen": ""})

    stale = [
        site.post(f"{page}/pause", data={"until": later, "seen": ""}),
        site.post(f"{page}/resume", data={"seen": later}),
    ]

    assert [answer.status_code for answer in stale] == [409, 409]
    assert all("changed in another window" in answer.text for answer in stale)
    assert str(site.again(ada).paused_until) == until
    assert f'name="seen" value="{until}"' in stale[0].text
    site.post(f"{page}/resume", data={"seen": until}, follow_redirects=False)
    assert "Paused until" not in site.get(page).text
