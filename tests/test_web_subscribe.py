"""The subscribe form: input is kept, addresses do not leak, a preview needs no address."""

from __future__ import annotations

import html
import re
import shutil
import threading
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import time_machine
from playwright.sync_api import Browser, FloatRect, Page, expect, sync_playwright
from sqlalchemy import Engine
from starlette.requests import Request
from starlette.testclient import TestClient

import pipeline.web
from pipeline import ingest, settings, signup
from pipeline.bootstrap import Services
from pipeline.domain import Breadth, Frequency, Weekday
from pipeline.errors import SettingsError
from pipeline.matching.index import PaperIndex
from pipeline.matching.query import _Parser, canonical, parse
from pipeline.signup import Choices, parse_queries
from pipeline.signup.choices import as_json, from_json
from pipeline.sources import FetchResult, recorded_files
from pipeline.storage.schema import DeliveryRow, RequestRow, SubscriberRow
from pipeline.web import client_address, create_app
from pipeline.web.client_address import VisitorLimit, client_ip
from pipeline.web.papers.recent import RecentWindow
from pipeline.web.server import listen, server
from pipeline.web.subscribe import curated, form_input
from pipeline.web.subscribe.form_input import FormInput
from pipeline.web.subscribe.preview import HELPED, unread_categories
from tests.support import CHROMIUM, SHARED
from tests.support.factories import make_paper, make_schedule, make_sighting
from tests.support.newsroom import add_reader, rows
from tests.support.site import open_site

SITE = "https://papers.example.org"
TEMPLATES = Path(pipeline.web.__file__).parent / "templates"
FRIDAY = date(2030, 1, 4)
GOOD = {
    "email": "ada@example.org",
    "topic": ["trending", "reinforcement-learning"],
    "queries": '"small stones"\nmoss  on walls\n\n',
    "frequency": "weekly-friday",
    "hour": "7",
    "timezone": "Asia/Tokyo",
    "max_papers": "20",
    "breadth": "fewer",
    "homepage": "",
    "do": "subscribe",
}


@pytest.fixture
def backend() -> str:
    """Return SQLite only: the two databases differ in storage, which other tests cover."""
    return "sqlite"


@pytest.fixture
def services(engine: Engine) -> Services:
    return Services(settings.load(None, site_url=SITE), engine)


@pytest.fixture
def site(services: Services) -> TestClient:
    return TestClient(create_app(services), base_url=SITE, follow_redirects=False)


@pytest.fixture
def announce(engine: Engine):
    def announce(*titles: str, on: date = FRIDAY, **more) -> None:
        sightings = [make_sighting(title=title, announced_on=on, **more) for title in titles]
        ingest.ingest_recorded(
            engine, [("arxiv", FetchResult(sightings=sightings))], now=datetime.now(UTC)
        )

    return announce


@pytest.fixture
def asked(engine: Engine):
    """Return a function that returns the choices of each stored request."""

    def asked() -> list[Choices]:
        return [from_json(row.choices) for row in rows(engine, RequestRow, RequestRow.id)]

    return asked


@pytest.fixture
def stored(engine: Engine):
    """Return a function that counts the rows that forms have stored."""

    def stored() -> int:
        return sum(len(rows(engine, row)) for row in (RequestRow, SubscriberRow, DeliveryRow))

    return stored


def form(**changes) -> dict:
    return {**GOOD, **changes}


def field(page: str, name: str) -> str:
    """Return the opening tag of the field with this id; fail if there is none."""
    found = re.search(rf'<(?:input|select|textarea|fieldset)[^>]*\bid="{name}"[^>]*>', page)
    assert found, f"no field {name}"
    return found[0]


# --- Curated topics -----------------------------------------------------------------------------

TOPICS = curated.read(curated.DEFAULT)
CURATED = TOPICS.topics


def test_curated_topics_have_unique_canonical_queries():
    queries = [canonical(topic.query) for topic in CURATED]

    assert [canonical(query) for query in queries] == queries
    assert len(set(queries)) == len({topic.slug for topic in CURATED}) == len(CURATED) >= 70
    assert len({topic.name for topic in CURATED}) == len(CURATED)
    assert CURATED[0].query == "trending"
    assert all(re.fullmatch("[a-z0-9-]+", topic.slug) for topic in CURATED)


OWN = """
[[groups]]
name = "Fields"

[[groups.topics]]
slug = "trending"
name = "Trending"
query = "trending"

[[groups.topics]]
slug = "moss"
name = "Moss & lichen"
query = '''
ti:moss OR
ti:lichen'''
"""


@pytest.fixture
def own_topics(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "topics.toml"
    path.write_text(OWN)
    yield path
    curated.configure(None)


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_curated_topics_of_the_operator_replace_ours(engine: Engine, own_topics: Path):
    site = open_site(engine, curated_topics=own_topics)

    assert "Moss &amp; lichen" in site.get("/subscribe").text
    assert 'value="agents"' not in site.get("/subscribe").text
    assert site.get("/topics/moss").status_code == 200
    assert site.get("/topics/agents").status_code == 404
    assert curated.in_use().by_slug["moss"].query == "ti:moss OR ti:lichen"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[[groups]]", "[[groups", "line 2"),
        ('slug = "moss"', 'slug = "Moss!"', "group Fields, topic Moss!: the slug must"),
        ('slug = "moss"', 'slug = "trending"', "topic trending: has the same slug as trending"),
        ('name = "Moss & lichen"', "", "group Fields, topic moss: needs a slug, a name"),
        ('name = "Moss & lichen"', 'name = "trending"', "topic moss: has the same name"),
        ("ti:moss OR\nti:lichen", "ti:(", "topic moss: the query cannot be parsed: "),
        ("ti:moss OR\nti:lichen", "Trending", "topic moss: has the same query as trending"),
        ('slug = "moss"', 'slug = "moss"\nlabel = "x"', "topic moss: unknown keys: label"),
        ('name = "Fields"', "", "group 1, topic trending: its group needs a name"),
        ('query = "trending"', 'query = "other"', "needs a topic with the slug and the query"),
    ],
)
def test_invalid_curated_topics_stop_the_start_and_name_the_entry(
    own_topics: Path, old: str, new: str, message: str
):
    assert old in OWN
    own_topics.write_text(OWN.replace(old, new))

    with pytest.raises(SettingsError, match="CURATED_TOPICS") as error:
        curated.configure(own_topics)

    assert message in str(error.value)
    assert curated.in_use() is TOPICS


def test_every_archive_of_arxiv_has_a_topic():
    others = {"cs", "econ", "eess", "math", "math-ph", "q-bio", "q-fin", "stat"}
    physics = {"astro-ph", "cond-mat", "gr-qc", "nlin", "physics", "quant-ph"}
    particles = {"hep-ex", "hep-lat", "hep-ph", "hep-th", "nucl-ex", "nucl-th"}

    covered = {name for topic in CURATED for name in re.findall(r"cat:([\w-]+)", topic.query)}

    assert others | physics | particles <= covered


@pytest.mark.full
@pytest.mark.shared
def test_machine_learning_topics_match_5_to_400_of_2000_papers():
    """On ten days of arXiv each of them has 5 to 400 of 2,000 papers: not empty, not everything."""
    [(_, found)] = recorded_files.read_file(SHARED / "arxiv_papers.jsonl.gz")
    papers = [
        make_paper(sighting.title, abstract=sighting.abstract, categories=sighting.categories)
        for sighting in found.sightings[:2_000]
    ]
    index = PaperIndex(papers)
    groups = {"Popular", "Language models", "Images, video and sound", "Machine learning"}
    popular = [topic for topic in CURATED if topic.group in groups and topic.query != "trending"]

    brought = {
        topic.slug: len(index.search(parse(topic.query), with_phrases=False)) for topic in popular
    }

    assert {slug: number for slug, number in brought.items() if not 5 <= number <= 400} == {}


def test_chosen_curated_topic_keeps_its_name():
    typed = FormInput(slugs=("agents",), queries="reasoning\nsmall  stones\nAgents")
    choices = form_input.choices(typed)

    agents, reasoning = TOPICS.by_slug["agents"].query, TOPICS.by_slug["reasoning"].query
    assert [query.typed for query in choices.topics] == [agents, reasoning, "small  stones"]
    assert choices.names == {agents: "Agents", reasoning: "Reasoning"}
    assert choices.labels == ("Agents", "Reasoning", "small stones")


@pytest.mark.parametrize("do", ["subscribe", "preview"])
def test_form_parses_each_typed_topic_once(site, announce, monkeypatch, do):
    """Validation, preview, storage and the response read the parsed query."""
    announce("Small stones", "Moss on walls")
    site.post("/subscribe", data=form(email="eve@example.org"))  # curated topics are cached
    parsed = []
    parse_tokens = _Parser.query
    monkeypatch.setattr(
        _Parser, "query", lambda self: parsed.append(self.text) or parse_tokens(self)
    )

    assert site.post("/subscribe", data=form(do=do)).status_code == 200

    typed = ["moss  on walls", '"small stones"']
    assert sorted(parsed.count(text) for text in typed) == [1, 1]
    if do == "subscribe":
        assert sorted(parsed) == sorted(typed)


def test_topic_names_round_trip_through_json():
    choices = Choices(
        parse_queries(("cat:cs.RO", " moss ")), make_schedule(), 5, {"cat:cs.RO": "Robots"}
    )

    assert from_json(as_json(choices)) == choices
    assert choices.labels == ("Robots", "moss")


# --- The empty form -----------------------------------------------------------------------------


def test_subscribe_form_has_the_expected_defaults(site):
    page = site.get("/subscribe").text

    assert re.findall(r'value="([^"]*)" checked', page) == []
    assert "Without a topic you get the trending papers." in page
    assert ">Every day, 08:00, UTC</span>" in page
    assert "Sources: Hugging Face and arXiv (cs.AI, cs.CL, cs.CV, cs.LG and stat.ML)." in page
    assert '<option value="8" selected>08:00</option>' in page
    assert '<option value="daily" selected>Every day</option>' in page
    assert "<option selected>10</option>" in page
    assert page.count("<h1") == 1
    assert "data-guess" in field(page, "timezone")


def test_schedule_is_summarised_without_invalid_values():
    paris = FormInput(rhythm="weekly-friday", hour="7", timezone="Europe/Paris")

    assert form_input.schedule_line(paris) == "Every Friday, 07:00, Paris"
    assert form_input.schedule_line(FormInput(hour="77", timezone="Mars/Base")) == "Every day"


@pytest.mark.parametrize(("name", "value"), [("hour", "24"), ("breadth", "all"), ("email", "")])
def test_schedule_is_opened_only_if_it_has_an_error(site, name, value):
    page = site.post("/subscribe", data=form(**{name: value})).text

    assert ('<details class="all fold" open>' in page) == (name != "email")


def test_topic_in_the_url_is_filled_in(site):
    page = site.get("/subscribe", params={"topic": ["agents", 'moss "<b>on walls</b>"']}).text

    assert re.findall(r'value="([^"]*)" checked', page) == ["agents"]
    assert "moss &#34;&lt;b&gt;on walls&lt;/b&gt;&#34;</textarea>" in page


def test_templates_contain_no_inline_script_or_style():
    """The policies `script-src 'self'` and `style-src 'self'` would block them, too."""
    for template in TEMPLATES.rglob("*.html"):
        source = template.read_text("utf-8")
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", source, re.I), template
        assert not re.search(r"<script(?![^>]*\ssrc=\"/)|<script[^>]*>(?!</script>)", source)


def test_scripts_are_loaded_from_this_site_only(site):
    answer = site.get("/subscribe")

    policy = answer.headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "connect-src 'self';" in policy
    assert "unsafe" not in policy
    assert re.findall(r'(?:src|<link[^>]* href)="(?!/)[^"]*"', answer.text) == []
    for path in re.findall(r'(?:src|<link[^>]* href)="(/subscribe[^"]*)"', answer.text):
        assert site.get(path).status_code == 200


# --- Submit -------------------------------------------------------------------------------------


def test_valid_form_queues_a_confirmation_and_shows_the_next_step(site, asked, engine):
    answer = site.post("/subscribe", data=GOOD)

    assert answer.status_code == 200
    assert "Check your inbox" in answer.text
    assert "ada@example.org" in answer.text
    assert answer.headers["cache-control"] == "no-store"
    [choices] = asked()
    assert choices.labels == (
        "Trending",
        "Reinforcement learning",
        '"small stones"',
        "moss on walls",
    )
    assert choices.topics[1].typed == TOPICS.by_slug["reinforcement-learning"].query
    assert choices.max_papers == 20
    assert choices.breadth is Breadth.FEWER
    assert choices.schedule == make_schedule(
        7, "Asia/Tokyo", frequency=Frequency.WEEKLY, weekday=Weekday.FRIDAY
    )
    assert len(rows(engine, DeliveryRow)) == 1


def test_form_without_topics_stores_default_wishes(site, asked):
    site.post("/subscribe", data={"email": "ada@example.org"})

    [choices] = asked()
    assert choices.topics == ()
    assert choices.schedule == make_schedule()


@pytest.mark.parametrize(
    ("typed", "understood"), [("8", 8), ("08", 8), ("08:00", 8), ("0", 0), ("23:00", 23)]
)
def test_hour_is_parsed_from_common_formats(site, asked, typed, understood):
    site.post("/subscribe", data=form(hour=typed))

    assert asked()[0].schedule.at.hour == understood


def test_known_and_unknown_addresses_get_the_same_response(site, engine, stored):
    """The form does not reveal if an address is subscribed."""
    signup.add(
        engine,
        "ada@example.org",
        Choices(),
        confirmed=True,
        suppression_key=Services(settings.load(None), engine).suppression_key,
        now=datetime.now(UTC),
    )

    known = site.post("/subscribe", data=GOOD)
    unknown = site.post("/subscribe", data=form(email="eva@example.org"))

    assert known.text.replace("ada@", "eva@") == unknown.text
    assert (known.status_code, known.headers) == (
        unknown.status_code,
        unknown.headers | {"content-length": known.headers["content-length"]},
    )


def test_filled_honeypot_gets_the_same_page_and_stores_nothing(site, stored):
    caught = site.post("/subscribe", data=form(homepage="https://spam.example"))
    nothing = stored()
    honest = site.post("/subscribe", data=GOOD)

    assert nothing == 0
    assert stored() > 0
    assert (caught.status_code, caught.text) == (honest.status_code, honest.text)


def test_honeypot_is_hidden_from_users_and_screen_readers(site):
    page = site.get("/subscribe").text

    trap = re.search(r'<p class="trap" aria-hidden="true">.*?</p>', page)
    assert trap
    assert 'tabindex="-1" autocomplete="off"' in trap[0]


# --- Mistakes -----------------------------------------------------------------------------------

MISTAKES = [
    ("email", {"email": ""}, "Enter your email address"),
    ("email", {"email": "ada"}, "must have an @-sign"),
    ("email", {"email": "ada@example"}, "The address is incomplete"),
    ("email", {"email": "ada@exa mple.org"}, "This address is not valid"),
    ("email", {"email": "a" * 300 + "@example.org"}, "This address is not valid"),
    ("queries", {"queries": "fine\n(moss"}, "This parenthesis is never closed."),
    ("queries", {"queries": '"moss'}, "This quotation mark is never closed."),
    ("queries", {"queries": "-moss"}, "This only excludes papers"),
    ("queries", {"queries": "moss au:"}, "au: needs a word right after the colon."),
    ("queries", {"queries": "x" * 501}, "at most 500 characters. This one has 501"),
    (
        "queries",
        {"queries": "\n".join(map(str, range(21)))},
        "at most 20 topics of your own, not 21",
    ),
    ("topics", {"topic": [topic.slug for topic in CURATED]}, "at most 50 topics"),
    ("timezone", {"timezone": "Mars/Olympus"}, "Unknown time zone “Mars/Olympus”"),
    ("timezone", {"timezone": "../../etc/passwd"}, "Unknown time zone"),
    ("hour", {"hour": "24"}, "between 00:00 and 23:00"),
    ("hour", {"hour": "half past"}, "between 00:00 and 23:00"),
    ("frequency", {"frequency": "hourly"}, "how often"),
    ("frequency", {"frequency": "weekly-someday"}, "how often"),
    ("max_papers", {"max_papers": "0"}, "from 1 to 50"),
    ("max_papers", {"max_papers": "51"}, "from 1 to 50"),
    ("max_papers", {"max_papers": "many"}, "from 1 to 50"),
    ("breadth", {"breadth": "all"}, "how strict"),
]


@pytest.mark.parametrize(("name", "changes", "words"), MISTAKES)
def test_invalid_field_is_reported_at_its_field_and_input_is_kept(
    site, stored, name, changes, words
):
    sent = form(**changes)

    answer = site.post("/subscribe", data=sent)

    page = answer.text
    assert answer.status_code == 422
    assert stored() == 0
    told = re.search(rf'id="{name}-mistake">(.*?)</div>', page, re.S)
    assert told
    assert words in told[1]
    assert f'<a href="#{name}">' in page
    assert 'aria-invalid="true"' in field(page, name)
    assert f"{name}-mistake" in field(page, name)
    assert "autofocus" in re.search(r'<div class="summary"[^>]*>', page)[0]
    assert f'value="{sent["email"]}"' in page
    assert sent["queries"] in page.replace("&#34;", '"')
    assert set(re.findall(r'value="([^"]*)" checked', page)) == set(sent["topic"])


def test_syntax_error_in_a_topic_is_marked(site):
    page = site.post("/subscribe", data=form(queries="green moss) on <walls>")).text

    assert "green moss<mark>)</mark> on &lt;walls&gt;" in page


def test_all_form_errors_are_reported_at_once(site):
    page = site.post("/subscribe", data=form(email="", queries="(", hour="")).text

    assert len(re.findall(r'<li><a href="#', page)) == 3


@pytest.mark.parametrize("name", ["Asia/Calcutta", "Europe/Kiev", "US/Eastern"])
def test_old_time_zone_names_are_accepted(site, name, asked):
    wrong = site.post("/subscribe", data=form(timezone=name, email="")).text
    site.post("/subscribe", data=form(timezone=name))

    assert f"<option selected>{name}</option>" in wrong
    assert asked()[0].schedule.timezone == name


def test_every_listed_time_zone_is_known():
    names = [name for _, cities in form_input.zones_by_region() for name, _ in cities]

    assert len(names) == len(set(names)) > 400
    assert all(map(form_input.is_known_zone, names))
    assert form_input.city_of_zone("America/Argentina/Buenos_Aires") == "Buenos Aires, Argentina"


# --- Origin and rate limits ---------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/subscribe", "/subscribe/preview"])
def test_json_multipart_and_cross_site_forms_are_rejected(site, stored, path):
    """The form is rejected as JSON, as multipart, and from another site's page."""
    fields = {"email": "ada@example.org"}

    assert site.post(path, json=fields).status_code == 415
    assert site.post(path, files={"email": (None, "ada@example.org")}).status_code == 415
    assert site.post(path).status_code == 415
    elsewhere = {"Origin": "https://elsewhere.example", "Sec-Fetch-Site": "cross-site"}
    assert site.post(path, data=fields, headers=elsewhere).status_code == 403
    assert stored() == 0


def test_oversized_or_malformed_form_is_rejected(site):
    assert site.post("/subscribe", data={"queries": "x" * 200_000}).status_code == 413
    many = "&".join(["topic=agents"] * 1_000)
    header = {"Content-Type": "application/x-www-form-urlencoded"}
    assert site.post("/subscribe", content=many, headers=header).status_code == 400
    assert site.post("/subscribe", content=b"email=\xff", headers=header).status_code == 400


@time_machine.travel("2030-01-04T10:10:00Z")
def test_too_many_signups_from_one_ip_address_return_429(engine, stored):
    services = Services(settings.load(None, site_url=SITE, signups_per_hour=5), engine)
    site = TestClient(create_app(services), base_url=SITE, client=("192.0.2.7", 4711))
    answers = [site.post("/subscribe", data=form(email=f"r{n}@example.org")) for n in range(5)]
    before = stored()

    stopped = site.post("/subscribe", data=form(email="r5@example.org"))

    assert {answer.status_code for answer in answers} == {200}
    assert stopped.status_code == 429
    assert 1 <= int(stopped.headers["retry-after"]) <= 3600
    assert "Nothing was sent" in stopped.text
    assert 'value="r5@example.org"' in stopped.text
    assert stored() == before


@pytest.mark.parametrize(
    ("peer", "forwarded", "seen"),
    [
        ("192.0.2.7", "203.0.113.9", "192.0.2.7"),  # any client can send the header
        ("10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "198.51.100.1, 203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "203.0.113.9, 10.0.0.2", "203.0.113.9"),
        ("10.0.0.1", "203.0.113.9, nonsense", "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("::ffff:10.0.0.1", "2001:db8::7", "2001:db8::7"),
        ("10.0.0.1", "198.51.100.7:40123", "198.51.100.7"),
        ("10.0.0.1", "[2001:db8::7]:40123", "2001:db8::7"),
        ("10.0.0.1", "[2001:db8::7]", "2001:db8::7"),
        ("10.0.0.1", '"[2001:db8::7]:40123"', "2001:db8::7"),
        ("10.0.0.1", "fe80::1%eth0", "fe80::1"),
        ("10.0.0.1", "::ffff:198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", "::FFFF:198.51.100.7:443", "198.51.100.7"),
        ("10.0.0.1", "198.51.100.7, , 10.0.0.2:80,", "198.51.100.7"),
        ("10.0.0.1", "unknown, 198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", "198.51.100.7:http", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.7.example:80", "10.0.0.1"),
        ("testclient", "203.0.113.9", "testclient"),
    ],
)
def test_x_forwarded_for_is_used_only_from_trusted_proxies(peer, forwarded, seen):
    headers = [(b"x-forwarded-for", forwarded.encode())]
    request = Request({"type": "http", "client": (peer, 1), "headers": headers})

    assert client_ip(request, ("10.0.0.0/8",)) == seen
    assert client_ip(request, ()) == peer


@pytest.mark.parametrize(
    ("forwarded", "seen"),
    [
        ("for=192.0.2.60;proto=http;by=203.0.113.43", "192.0.2.60"),
        ('For="[2001:db8:cafe::17]:4711"', "2001:db8:cafe::17"),
        ("for=198.51.100.1, for=192.0.2.43", "192.0.2.43"),
        ("proto=https ; for=192.0.2.43:99 , for=10.0.0.9", "192.0.2.43"),
        ("for=192.0.2.43, for=_hidden", "10.0.0.1"),
        ("for=unknown", "10.0.0.1"),
        ("by=192.0.2.43", "10.0.0.1"),
    ],
)
def test_forwarded_header_is_used_only_without_x_forwarded_for(forwarded, seen):
    """RFC 7239. With X-Forwarded-For present, Forwarded is ignored: the client may have sent it."""

    def ip(*headers: tuple[bytes, bytes]) -> str | None:
        request = Request({"type": "http", "client": ("10.0.0.1", 1), "headers": headers})
        return client_ip(request, ("10.0.0.0/8",))

    standard = (b"forwarded", forwarded.encode())
    assert ip(standard) == seen
    assert ip(standard, (b"x-forwarded-for", b"203.0.113.9")) == "203.0.113.9"


def test_trusted_proxies_must_be_addresses_or_networks():
    assert settings.load(None, trusted_proxies="10.0.0.1, fd00::/8").trusted_proxies == (
        "10.0.0.1",
        "fd00::/8",
    )
    with pytest.raises(SettingsError, match="TRUSTED_PROXIES: must be addresses or networks"):
        settings.load(None, trusted_proxies="proxy.example.org")


def test_throttle_resets_each_minute():
    throttle = VisitorLimit(2)

    taken = [throttle.takes("a", second) for second in (0, 30, 59, 60)]

    assert taken == [True, True, False, True]
    assert throttle.takes("b", 60)


# --- Preview ------------------------------------------------------------------------------------


def test_preview_shows_todays_papers_with_matched_words(site, announce):
    announce("Moss on Walls", "Ferns", on=FRIDAY)
    announce("Yesterday's Moss", on=FRIDAY - timedelta(days=1))

    page = site.post("/subscribe/preview", data={"queries": "moss"}).text

    assert "Your digest of Friday, 4 January 2030" in page
    assert "Moss on Walls" in page
    assert "Matched “Moss”" in page
    assert "Ferns" not in page
    assert "Yesterday&#39;s Moss" not in page
    assert "about 1 paper a day" in page


def test_preview_looks_back_a_week_if_there_is_no_paper_today(site, announce):
    announce("Ferns", on=FRIDAY)
    announce("Moss on Walls", on=FRIDAY - timedelta(days=3))

    page = site.post("/subscribe/preview", data={"queries": "moss"}).text

    assert "No papers today. In the seven days up to Friday" in page
    assert "Moss on Walls" in page
    assert "none on 1 of 2 days" in page


def test_preview_for_a_weekly_schedule_shows_a_week(site, announce):
    announce("Moss Today", on=FRIDAY)
    announce("Moss on Tuesday", on=FRIDAY - timedelta(days=3))

    page = site.post(
        "/subscribe/preview", data={"queries": "moss", "frequency": "weekly-monday"}
    ).text

    assert "Moss Today" in page
    assert "Moss on Tuesday" in page


@pytest.mark.full
def test_preview_warns_of_topics_with_too_many_or_too_few_papers(site, announce):
    announce(*(f"Moss {n}" for n in range(25)), on=FRIDAY)
    for day in range(1, 12):
        announce(*(f"Moss {day} {n}" for n in range(20)), on=FRIDAY - timedelta(days=day))
    announce("A rare Newt", on=FRIDAY)

    page = site.post("/subscribe/preview", data={"queries": "ti:moss\nnewt\ngryphon"}).text

    assert "about 20 papers a day" in page
    assert "That is a lot" in page
    assert "1 paper in 12 days, none on 11 of 12 days" in page
    assert "That is rare" in page
    assert "no papers in these days" in page
    assert "Together" in page


def suggested(page: str) -> list[tuple[str, str, str]]:
    """Return the word, query and volume of each suggestion, as read."""
    parts = re.findall(
        r'adopt">([^<]+)<button [^>]*><span[^>]*>([^<]+)</span></button> <span>([^<]+)<', page
    )
    return [tuple(html.unescape(part).strip() for part in one) for one in parts]


def test_preview_suggests_only_queries_that_find_papers(site, announce):
    """Corrections, an author of this name, and a broader phrase: each was tried."""
    announce("Moss on old walls", on=FRIDAY, authors=("Ada Lovelace",), categories=("cs.CR",))
    announce(
        *(f"Walls {n}" for n in range(30)),
        on=FRIDAY,
        authors=("Carl Gauss",),
        categories=("cs.CR",),
    )
    queries = [
        "Ada Lovelace",
        "Moss of Walls and Caves",
        "mosss",
        "cs.CR",
        "Charles Babbage",
        "tilte:ferns",
    ]

    page = site.post("/subscribe/preview", data={"queries": "\n".join(queries)}).text

    assert suggested(page) == [
        ("Author:", 'au:"Ada Lovelace"', "about 1 paper a day"),
        ("Broader:", "Moss of Walls", "about 1 paper a day"),
        ("Did you mean:", "moss", "about 1 paper a day"),
        ("Did you mean:", "cat:cs.CR", "about 31 papers a day"),
    ]


def adoption(page: str, number: int = 0) -> str:
    found = re.findall(r'name="adopt" value="([^"]*)"', page)
    return html.unescape(found[number])


def test_suggestion_replaces_its_topic_in_the_form_without_javascript(site, announce, asked):
    announce(*(f"Moss {n}" for n in range(3)), on=FRIDAY)
    form = {"queries": "ferns\nmoss cat:q-bio.TO", "email": "ada@example.org", "hour": "6"}
    page = site.post("/subscribe", data={**form, "do": "preview"}).text

    answer = site.post("/subscribe", data={**form, "adopt": adoption(page)})

    assert answer.status_code == 200
    assert re.search(r">\s*ferns\nmoss</textarea>", answer.text)
    assert 'value="ada@example.org"' in answer.text
    assert re.search(r'value="6" selected', answer.text)
    assert "about 3 papers a day" in answer.text
    assert asked() == []


def test_suggestion_replaces_a_named_topic(site, announce):
    announce(*(f"Note {n}" for n in range(3)), on=FRIDAY, abstract="Reasoning about reasoning.")
    topic = next(one for one in curated.in_use().topics if one.name == "Reasoning")
    form = {"topic": [topic.slug, "trending"]}
    adopted = adoption(site.post("/subscribe/preview", data=form).text)

    answer = site.post("/subscribe", data={**form, "adopt": adopted})

    assert adopted.startswith(f"{topic.name}\n")
    assert f'value="{topic.slug}" checked' not in answer.text
    assert 'value="trending" checked' in answer.text
    typed = re.findall(r'<textarea id="queries".*?>\s*(.*?)</textarea>', answer.text)
    assert [html.unescape(text) for text in typed] == [adopted.partition("\n")[2]]


@pytest.mark.parametrize("adopted", ["", "ferns", "ferns\n", "gone\nmoss", "\n\n", "a\nb\nc" * 99])
def test_adoption_of_an_unknown_topic_loses_nothing(adopted):
    form = form_input.FormInput(slugs=("robotics",), queries="ferns\ntrees")

    found = form_input.adopt(form, adopted)

    assert found.slugs == form.slugs
    assert found.lines[:2] == form.lines


def test_preview_suggests_narrower_queries_and_reports_overlap(site, announce):
    announce(*(f"Fine moss {n}" for n in range(3)), on=FRIDAY, abstract="")
    announce(*(f"Note {n}" for n in range(20)), on=FRIDAY, abstract="On moss, that is fine moss.")
    queries = 'fine moss\n"moss that grows" cat:cs.XY\nti:moss'

    page = site.post("/subscribe/preview", data={"queries": queries}).text

    assert ("Narrower:", 'ti:"fine moss"', "about 3 papers a day") in suggested(page)
    assert "3 of its 3 papers also match “fine moss”." in page


def test_preview_suggests_a_broader_query_for_an_empty_topic(site, announce):
    announce(*(f"Moss {n}" for n in range(3)), on=FRIDAY)

    page = site.post("/subscribe/preview", data={"queries": "moss cat:q-bio.TO"}).text

    assert suggested(page) == [("Broader:", "moss", "about 3 papers a day")]


def test_only_the_first_five_topics_get_suggestions(site, announce):
    """This bounds the number of searches for one preview."""
    announce(*(f"Moss {n}" for n in range(3)), on=FRIDAY)
    queries = "\n".join(f"moss cat:q-bio.TO -fern{n}" for n in range(9))

    page = site.post("/subscribe/preview", data={"queries": queries}).text

    assert page.count("Broader:") == HELPED == 5


def test_trending_preview_shows_the_most_upvoted_of_the_week(site, announce):
    announce("Liked", on=FRIDAY - timedelta(days=2), upvotes=7)
    announce("Loved", on=FRIDAY - timedelta(days=3), upvotes=70)
    announce("Unknown", on=FRIDAY)

    page = site.post("/subscribe/preview", data={"topic": "trending"}).text

    assert page.index("Loved") < page.index("Liked")
    assert "Unknown" not in page


def test_invalid_topic_does_not_block_the_preview_of_others(site, announce):
    announce("Moss on Walls")

    answer = site.post("/subscribe/preview", data={"queries": "moss\n(fern"})

    assert answer.status_code == 200
    assert "Moss on Walls" in answer.text
    assert "<mark>(</mark>fern" in answer.text


def test_preview_suggests_a_known_category_for_an_unknown_one(site, announce):
    announce("Moss on Walls")

    page = site.post("/subscribe/preview", data={"queries": "moss cat:cs.ML\nfern"}).text

    assert page.count("Did you mean cat:cs.LG? cat:cs.ML is unknown.") == 1


def test_preview_names_categories_that_the_site_does_not_read(site, announce):
    announce("Moss on Walls")

    page = site.post("/subscribe/preview", data={"queries": "cat:math.AG\ncat:cs.CL\nmoss"}).text

    assert (
        "This site does not read math.AG, only cs.AI, cs.CL, cs.CV, cs.LG and stat.ML. "
        "Papers in math.AG are found if they are also in one of these.</span>" in page
    )
    assert page.count("This site does not read") == 1


@pytest.mark.parametrize(
    ("query", "unread"),
    [
        ("cat:cs.LG", []),
        ("cat:cs", []),
        ("cat:cs.l*", []),
        ("cat:math.AG", []),  # the whole archive is read
        ("cat:math-ph", ["math-ph"]),
        ("cat:quant-ph OR (moss cat:hep*)", ["quant-ph", "hep*"]),
        ("moss -cat:quant-ph", []),
        ("cat:cs.ML", []),  # corrected by another hint
        ("moss", []),
    ],
)
def test_categories_are_read_if_their_archive_or_a_part_of_them_is(query, unread):
    assert list(unread_categories(parse(query), ("cs.LG", "math"))) == unread
    assert list(unread_categories(parse(query), ())) == []


def test_preview_respects_the_breadth(site, announce):
    announce("Walls", abstract="Moss once.")
    announce("Moss", abstract="It grows.")

    broad, narrow = (
        site.post("/subscribe/preview", data={"queries": "moss", "breadth": breadth}).text
        for breadth in ("more", "fewer")
    )

    assert "about 2 papers a day" in broad
    assert "Walls" in broad
    assert "about 1 paper a day" in narrow
    assert "Walls" not in narrow


def test_preview_escapes_source_text(site, announce):
    announce("Moss <img src=x onerror=alert(1)>")

    page = site.post("/subscribe/preview", data={"queries": "moss"}).text

    assert "<img" not in page
    assert "&lt;img" in page


def test_preview_without_papers_shows_a_notice(site):
    assert (
        "There are no papers yet" in site.post("/subscribe/preview", data={"queries": "moss"}).text
    )


def test_preview_stores_nothing_and_is_not_cached(site, announce, stored):
    announce("Moss on Walls")

    answer = site.post("/subscribe/preview", data=GOOD)

    assert stored() == 0
    assert answer.headers["cache-control"] == "no-store"
    assert "ada@example.org" not in answer.text


def test_preview_button_without_script_keeps_the_input(site, announce, stored):
    announce("Moss on Walls")

    answer = site.post("/subscribe", data=form(do="preview", queries="moss", email="ada@"))

    assert answer.status_code == 200
    assert "Moss on Walls" in answer.text
    assert 'value="ada@"' in answer.text
    assert "moss</textarea>" in answer.text
    assert "data-guess" not in answer.text
    assert stored() == 0


@pytest.mark.parametrize("earlier", [(), ("Moss on Walls",)])
def test_new_papers_reach_the_preview(site, announce, earlier):
    announce(*earlier)
    site.post("/subscribe/preview", data={"queries": "moss"})
    announce("Newest Moss", on=FRIDAY + timedelta(days=1))

    def shown() -> bool:
        return "Newest Moss" in site.post("/subscribe/preview", data={"queries": "moss"}).text

    assert any(shown() or threading.Event().wait(0.1) for _ in range(50))


@pytest.mark.parametrize("fields", [{"do": "preview"}, {"adopt": "moss\nferns"}])
def test_many_lines_are_not_parsed_when_too_many_previews_were_made(
    site, announce, monkeypatch, fields
):
    """A form of 90 KB is cheap to refuse; parsing its lines takes seconds."""
    announce("Moss on Walls")
    budget = site.app.state.budget
    monkeypatch.setattr(budget, "allows", lambda _request: False)
    lines = "\n".join(f"ti:w{n}" for n in range(6_000))
    parsed = []
    monkeypatch.setattr(form_input, "parse_topic", parsed.append)

    answer = site.post("/subscribe", data={"queries": lines, **fields})

    assert answer.status_code == 429
    assert len(parsed) <= form_input.MOST_QUERIES


@pytest.mark.full
def test_too_many_previews_return_429_with_a_message(site, announce, monkeypatch):
    announce("Moss on Walls")
    clock = SimpleNamespace(monotonic=lambda: 0.0, thread_time=time.thread_time)
    monkeypatch.setattr(client_address, "time", clock)  # the counters restart at each minute

    answers = [site.post("/subscribe/preview", data={"queries": "moss"}) for _ in range(130)]

    assert answers[0].status_code == 200
    assert answers[-1].status_code == 429
    assert "Wait a minute" in answers[-1].text


@pytest.mark.parametrize(
    ("typed", "labels"),
    [
        (FormInput(), ["Trending"]),
        (FormInput(slugs=("agents", "agents", "nonsense")), ["Agents"]),
        (FormInput(queries=" moss \r\n\nmoss\nfern"), ["moss", "fern"]),
    ],
)
def test_asked_returns_the_topics_typed_in_the_form(typed, labels):
    assert [topic.label for topic in form_input.topic_entries(typed)] == labels


# --- Topics without recent papers -----------------------------------------------------------------


def offered(site, *chosen: str) -> list[str]:
    """Return the curated topics of the form, after the topics were counted."""
    site.post("/subscribe/preview", data={"queries": "moss"})  # builds the index
    site.get("/subscribe")
    page = site.get("/subscribe", params={"topic": chosen}).text
    slugs = re.findall(r'name="topic" value="([^"]*)"', page)
    assert f"All {len(slugs)} topics, by field" in page
    return slugs


def test_topics_without_a_paper_in_30_days_are_not_offered(site, announce):
    announce("Diffusion models", on=FRIDAY)
    announce("LLM agents", on=FRIDAY - timedelta(days=20))
    announce("Robot learning", on=FRIDAY - timedelta(days=31))

    slugs = offered(site)

    assert {"trending", "diffusion-models", "agents"} <= set(slugs)
    assert not {"robot-learning", "galaxies"} & set(slugs)
    assert "galaxies" in offered(site, "galaxies")


def test_list_of_topics_and_preferences_offer_the_topics_of_the_form(
    site, services, engine, announce
):
    announce("Diffusion models", on=FRIDAY)
    announce("LLM agents", on=FRIDAY - timedelta(days=20))
    followed = TOPICS.by_slug["galaxies"]
    reader = add_reader(engine, followed.query)
    shown = set(offered(site))

    listed = site.get("/topics").text
    page = site.get(services.links.preferences(reader.id, datetime.now(UTC))).text

    assert not {"robot-learning", followed.slug} & shown
    assert set(re.findall('href="/topics/([^"]+)"', listed)) == shown
    suggested = set(re.findall('name="topic" value="([^"]*)"', page))
    assert shown <= suggested <= {*shown, followed.slug}
    assert followed.name in page


@pytest.mark.parametrize("days", [(), (0,), (0, 19)])
def test_all_topics_are_offered_before_three_weeks_of_papers_are_known(site, announce, days):
    for day in days:
        announce("Diffusion models", on=FRIDAY - timedelta(days=day))

    assert len(offered(site)) == len(CURATED)


def test_topics_are_counted_once_for_each_index(site, announce, monkeypatch):
    announce("Diffusion models", on=FRIDAY)
    counted = []
    monkeypatch.setattr(RecentWindow, "silent_topics", lambda self: counted.append(self) or ())

    for _ in range(3):
        offered(site)

    assert len(counted) == 1


# --- In a real browser --------------------------------------------------------------------------


@pytest.fixture
def url(engine: Engine, announce) -> Iterator[str]:
    """Serve the site on loopback with one paper; yield its URL."""
    announce("Moss on Walls")
    with listen("127.0.0.1", 0) as socket:
        url = f"http://127.0.0.1:{socket.getsockname()[1]}"
        running = server(create_app(Services(settings.load(None, site_url=url), engine)))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [socket]})
        thread.start()
        yield url
        running.should_exit = True
        thread.join()


@pytest.fixture
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=next(filter(None, map(shutil.which, CHROMIUM))),
            args=["--no-sandbox"],
        )
        yield chromium
        chromium.close()


def phone(chromium: Browser, **more) -> Page:
    return chromium.new_context(
        viewport={"width": 375, "height": 700}, timezone_id="America/Lima", **more
    ).new_page()


@pytest.mark.full
@pytest.mark.browser
def test_signup_works_in_a_mobile_browser(url, chromium, asked):
    """The zone is guessed, the preview follows the choice, and the address is never sent for it."""
    tab, sent, complaints = phone(chromium), [], []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("request", lambda request: sent.append((request.url, request.post_data or "")))

    tab.goto(f"{url}/subscribe")
    tab.get_by_label("Email address").fill("ada@example.org")
    tab.get_by_label("Your own topics").fill("moss")
    expect(tab.get_by_role("link", name="Moss on Walls")).to_be_visible()
    previews = [data for path, data in sent if path.endswith("/subscribe/preview")]
    tab.get_by_label("Email address").press("Enter")

    expect(tab.get_by_role("heading", level=1)).to_have_text("Check your inbox")
    [choices] = asked()
    assert [query.typed for query in choices.topics] == ["moss"]
    assert choices.schedule.timezone == "America/Lima"
    assert previews
    assert not any("ada" in data for data in previews)
    assert complaints == []


@pytest.mark.full
@pytest.mark.browser
@pytest.mark.parametrize(("width", "height"), [(375, 667), (1280, 800)])
def test_first_screen_shows_a_paper_and_the_fields_of_the_form(url, chromium, width, height):
    """The preview is beside the form on a wide screen, and below it on a phone."""
    tab = chromium.new_context(viewport={"width": width, "height": height}).new_page()

    def place(selector: str) -> FloatRect:
        box = tab.locator(selector).bounding_box()
        assert box
        return box

    tab.goto(url)
    title = place(".card .title")
    tab.goto(f"{url}/subscribe")
    send, preview = place(".send"), place("#preview")

    assert title["y"] + title["height"] <= height
    assert send["y"] + send["height"] <= height
    assert (preview["y"] < send["y"]) == (width > 1000)


@pytest.mark.full
@pytest.mark.browser
def test_schedule_line_follows_the_fields(url, chromium):
    tab = phone(chromium)

    tab.goto(f"{url}/subscribe")
    expect(tab.locator("#schedule")).to_have_text("Every day, 08:00, Lima")
    tab.get_by_text("Schedule and matching").click()
    tab.get_by_label("How often").select_option("Every Friday")

    expect(tab.locator("#schedule")).to_have_text("Every Friday, 08:00, Lima")


@pytest.mark.full
@pytest.mark.browser
def test_topics_can_be_found_by_their_name(url, chromium):
    tab = phone(chromium)

    tab.goto(f"{url}/subscribe")
    tab.get_by_text("topics, by field").click()
    tab.get_by_label("Find a topic").fill("exoplan")

    expect(tab.get_by_label("Planets and exoplanets")).to_be_visible()
    expect(tab.get_by_label("Galaxies")).to_be_hidden()


@pytest.mark.full
@pytest.mark.browser
@pytest.mark.parametrize("java_script_enabled", [True, False])
def test_one_tap_adopts_a_suggestion(url, chromium, java_script_enabled):
    tab = phone(chromium, java_script_enabled=java_script_enabled)
    tab.goto(f"{url}/subscribe")
    tab.get_by_label("Your own topics").fill("ferns\nmoss cat:q-bio.TO")
    if not java_script_enabled:
        tab.get_by_role("button", name="Preview").click()
    button = tab.get_by_role("button", name="moss", exact=True)
    box = button.bounding_box()

    button.click()

    assert box
    assert box["height"] >= 44
    expect(tab.get_by_label("Your own topics")).to_have_value("ferns\nmoss")
    expect(tab.get_by_role("link", name="Moss on Walls")).to_be_visible()


@pytest.mark.full
@pytest.mark.browser
def test_form_without_scripts_previews_and_submits(url, chromium, asked):
    tab = phone(chromium, java_script_enabled=False)

    tab.goto(f"{url}/subscribe")
    tab.get_by_label("Your own topics").fill("moss")
    tab.get_by_role("button", name="Preview").click()
    expect(tab.get_by_role("link", name="Moss on Walls")).to_be_visible()
    tab.get_by_text("Schedule and matching").click()
    tab.get_by_label("Time zone").select_option("America/Lima")
    tab.get_by_role("button", name="Subscribe").click()
    expect(tab.locator("#summary")).to_be_focused()
    tab.get_by_label("Email address").fill("ada@example.org")
    tab.get_by_label("Email address").press("Enter")

    expect(tab.get_by_role("heading", level=1)).to_have_text("Check your inbox")
    [choices] = asked()
    assert choices.labels == ("moss",)
    assert choices.schedule.timezone == "America/Lima"
