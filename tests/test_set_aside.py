"""A stored row that cannot be parsed is skipped and logged; all other readers get their mail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, text, update
from structlog.testing import capture_logs

from pipeline import editions, logs, settings
from pipeline.bootstrap import Services
from pipeline.dispatch import Tally
from pipeline.doctor import database as doctor
from pipeline.doctor.finding import Finding, Installation
from pipeline.domain import DeliveryStatus, Subscriber
from pipeline.storage import ingest_state
from pipeline.storage.database import read_only
from pipeline.storage.schema import (
    DeliveryRow,
    PaperVersionRow,
    PickRow,
    SourceStateRow,
    SubscriberRow,
    TopicRow,
)
from tests.support import newsroom
from tests.support.factories import NOW, make_sighting
from tests.support.newsroom import ingest, rows
from tests.support.site import open_site

BOB = "bob@example.org"
EVE = "eve@example.org"
LATER = NOW + timedelta(days=1)
TEA = {"title": "Tea leaves", "arxiv_id": "3001.00001", "source_id": "3001.00001"}
SEA = {"title": "Sea shells", "arxiv_id": "3001.00002", "source_id": "3001.00002"}


@pytest.fixture
def services(engine: Engine, inbox) -> Services:
    return Services(settings.load(None, smtp_url=inbox.url), engine)


@pytest.fixture(autouse=True)
def set_aside(monkeypatch) -> Iterator[Callable[[], set[tuple[str, object]]]]:
    """Return a function that returns (kind, id) of each row logged as set aside."""
    monkeypatch.setattr(logs, "_set_aside", set())
    with capture_logs() as entries:
        yield lambda: {
            (entry["kind"], entry["id"]) for entry in entries if entry["event"] == "row.set_aside"
        }


def add_reader(engine: Engine, *queries: str, email: str) -> Subscriber:
    """Return a new reader with a slot due at NOW."""
    return newsroom.add_reader(engine, *queries, email=email, now=NOW - timedelta(hours=1))


def alter(engine: Engine, table: Any, condition: Any, **values: Any) -> None:
    with engine.begin() as conn:
        conn.execute(update(table).where(condition).values(**values))


def alter_as_text(engine: Engine, statement: str) -> None:
    """Store a value that our types refuse, as an older version or a manual change might."""
    with engine.begin() as conn:
        conn.execute(text(statement))


def publish_and_send(services: Services, now: datetime = NOW) -> Tally:
    list(services.publish(now))
    return services.dispatch(once=True, clock=now)


def findings(engine: Engine, services: Services) -> list[Finding]:
    installation = Installation(services.settings, NOW)
    vars(installation)["services"] = services
    return list(doctor.stored_rows(installation))


def named_by_the_doctor(engine: Engine, services: Services) -> str:
    return "; ".join(f.detail for f in findings(engine, services) if f.ok is False)


def recipients(inbox) -> list[str]:
    return sorted(mail.rcpt_to[0] for mail in inbox.received)


# --- Topics -------------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.parametrize("stored", ["\ufdfa" * 2_100, "(tea", '"', "", "-tea"])
def test_unparsable_topic_is_set_aside_and_other_digests_are_sent(
    engine, services, inbox, set_aside, stored
):
    eve = add_reader(engine, "broken", "tea", email=EVE)
    add_reader(engine, "sea", email=BOB)
    alter(engine, TopicRow, TopicRow.query == "broken", query=stored)
    (topic,) = [row for row in rows(engine, TopicRow) if row.query == stored]
    ingest(engine, make_sighting(**TEA), make_sighting(**SEA))

    publish_and_send(services)

    assert recipients(inbox) == [BOB, EVE], "its reader gets the other topics"
    assert set_aside() == {("topic", topic.id)}
    assert f"topic {topic.id}" in named_by_the_doctor(engine, services)
    assert editions.preview(engine, eve.email, now=LATER).topics == ("tea",)
    assert editions.outlook(engine, eve.email, now=LATER) is not None


def test_topic_that_parses_again_is_matched_from_where_it_stopped(engine, services, inbox):
    """The topic stays behind until a version can parse it, and then no match is lost."""
    add_reader(engine, "sea", email=EVE)
    alter(engine, TopicRow, TopicRow.query == "sea", query="(sea")
    ingest(engine, make_sighting(**SEA))
    publish_and_send(services)
    assert recipients(inbox) == []

    alter(engine, TopicRow, TopicRow.query == "(sea", query="sea")
    ingest(engine, make_sighting(**TEA), now=LATER)
    list(services.publish(LATER))

    behind = [row.matched_through for row in rows(engine, TopicRow)]
    assert behind == [newsroom.published(engine)]
    assert newsroom.matches(engine)


@pytest.mark.parametrize("kind", ["unheard of", ""])
def test_topic_of_unknown_kind_does_not_block_other_digests(engine, services, inbox, kind):
    add_reader(engine, "tea", email=EVE)
    add_reader(engine, "sea", email=BOB)
    alter(engine, TopicRow, TopicRow.query == "tea", kind=kind)
    ingest(engine, make_sighting(**TEA), make_sighting(**SEA))

    publish_and_send(services)

    assert recipients(inbox) == [BOB]


# --- Papers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [{}, [], None, {"title": None}, "no object", {"announced": {"arxiv": "tomorrow"}}]
)
def test_unreadable_paper_is_set_aside_and_digests_are_sent(
    engine, services, inbox, set_aside, content
):
    add_reader(engine, "tea", "sea", email=BOB)
    ingest(engine, make_sighting(**TEA), make_sighting(**SEA))
    alter(engine, PaperVersionRow, PaperVersionRow.paper_id == 1, content=content)

    publish_and_send(services)
    site = open_site(engine)

    assert recipients(inbox) == [BOB]
    assert ("paper", 1) in set_aside()
    assert "paper 1" in named_by_the_doctor(engine, services)
    assert site.get("/").status_code == 200


def test_paper_corrupted_after_picking_is_left_out_of_the_digest(
    engine, services, inbox, set_aside
):
    add_reader(engine, "tea", "sea", email=BOB)
    add_reader(engine, "tea", email=EVE)
    ingest(engine, make_sighting(**TEA), make_sighting(**SEA))
    list(services.publish(NOW))
    (tea,) = [
        r.paper_id for r in rows(engine, PaperVersionRow) if r.content["title"] == "Tea leaves"
    ]
    alter(engine, PaperVersionRow, PaperVersionRow.paper_id == tea, content={"title": 5})

    services.dispatch(once=True, clock=NOW)

    assert recipients(inbox) == [BOB], "with what is left of it"
    assert ("paper", tea) in set_aside()


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.parametrize("column", ["paper_versions SET content", "picks SET reasons"])
def test_invalid_json_in_a_column_does_not_block_sending(engine, services, inbox, column):
    """PostgreSQL refuses broken JSON; SQLite stores any text."""
    add_reader(engine, "tea", email=EVE)
    add_reader(engine, "sea", email=BOB)
    ingest(engine, make_sighting(**TEA), make_sighting(**SEA))
    list(services.publish(NOW))
    alter_as_text(engine, f"UPDATE {column} = '{{broken' WHERE paper_id = 1")

    services.dispatch(once=True, clock=NOW)

    assert BOB in recipients(inbox) or EVE in recipients(inbox)


@pytest.mark.full
def test_paper_with_a_huge_abstract_does_not_block_sending(engine, services, inbox):
    add_reader(engine, "tea", email=EVE)
    ingest(engine, make_sighting(**TEA), make_sighting(**SEA))
    alter(
        engine, PaperVersionRow, PaperVersionRow.paper_id == 2,
        content=rows(engine, PaperVersionRow)[1].content | {"abstract": "word \ufdfa " * 120_000},
    )  # fmt: skip

    publish_and_send(services)

    assert recipients(inbox) == [EVE]


# --- Readers ------------------------------------------------------------------------------------

BAD_WISHES: list[dict[str, Any]] = [
    {"timezone": "Mars/Olympus"},
    {"timezone": "../../etc/passwd"},
    {"timezone": ""},
    {"frequency": "hourly"},
    {"weekday": 9},
    {"max_papers": 0},
    {"max_papers": -3},
    {"breadth": 77},
]


@pytest.mark.full
@pytest.mark.parametrize("choices", BAD_WISHES, ids=lambda choices: str(choices))
def test_subscriber_with_invalid_preferences_does_not_block_others(
    engine, services, inbox, set_aside, choices
):
    eve = add_reader(engine, "tea", email=EVE)
    add_reader(engine, "tea", email=BOB)
    alter(engine, SubscriberRow, SubscriberRow.id == eve.id, **choices)
    ingest(engine, make_sighting(**TEA))

    publish_and_send(services)

    assert recipients(inbox) == [BOB]
    assert ("subscriber", eve.id) in set_aside()
    assert f"subscriber {eve.id}" in named_by_the_doctor(engine, services)


@pytest.mark.parametrize("choices", BAD_WISHES, ids=lambda choices: str(choices))
def test_subscriber_with_invalid_preferences_can_open_them_and_unsubscribe(engine, choices):
    site = open_site(engine)
    eve = site.reader(EVE)
    site.alter(eve, **choices)

    page = site.get(site.preferences(eve))
    left = site.post(f"/unsubscribe/{eve.secret}", data={"List-Unsubscribe": "One-Click"})

    assert (page.status_code, left.status_code) == (200, 200)
    assert [r.status for r in rows(engine, SubscriberRow)] == ["unsubscribed"]


def test_chunks_of_invalid_subscribers_do_not_block_later_subscribers(
    engine, services, inbox, monkeypatch
):
    monkeypatch.setattr("pipeline.editions.compiler.CHUNK", 2)
    for number in range(5):
        add_reader(engine, "tea", email=f"eve{number}@example.org")
    alter(engine, SubscriberRow, SubscriberRow.id > 0, breadth=77)
    add_reader(engine, "tea", email=BOB)
    ingest(engine, make_sighting(**TEA))

    publish_and_send(services)

    assert recipients(inbox) == [BOB]


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.parametrize("column", ["at", "created_at", "paused_until"])
def test_unconvertible_column_value_does_not_block_other_subscribers(
    engine, services, inbox, set_aside, column
):
    """If a value cannot be converted, the query fails before any of its rows is returned."""
    eve = add_reader(engine, "tea", email=EVE)
    add_reader(engine, "tea", email=BOB)
    alter_as_text(engine, f"UPDATE subscribers SET {column} = '25:61' WHERE id = {eve.id}")
    ingest(engine, make_sighting(**TEA))

    publish_and_send(services)

    assert recipients(inbox) == [BOB]
    assert ("subscriber", eve.id) in set_aside()


# --- Deliveries ---------------------------------------------------------------------------------


def test_deliveries_of_unknown_kind_stay_queued_and_do_not_block_others(
    engine, services, inbox, set_aside
):
    """There are more of them than one claim takes, and all are older."""
    for number in range(4):
        add_reader(engine, "tea", email=f"eve{number}@example.org")
    ingest(engine, make_sighting(**TEA))
    list(services.publish(NOW))
    alter(engine, DeliveryRow, DeliveryRow.id > 0, kind="postcard")
    add_reader(engine, "tea", email=BOB)
    list(services.publish(NOW))

    tally = services.dispatch(once=True, clock=NOW + timedelta(minutes=1))

    assert (tally.sent, recipients(inbox)) == (1, [BOB])
    assert {kind for kind, _ in set_aside()} == {"delivery"}
    strange = [r for r in rows(engine, DeliveryRow) if r.kind == "postcard"]
    assert {r.status for r in strange} == {DeliveryStatus.QUEUED}, "kept for a version that can"
    assert "delivery" in named_by_the_doctor(engine, services)


def test_digest_is_sent_without_a_pick_that_has_no_paper(engine, services, inbox):
    add_reader(engine, "tea", "sea", email=BOB)
    ingest(engine, make_sighting(**TEA), make_sighting(**SEA))
    list(services.publish(NOW))
    alter(engine, PickRow, PickRow.position == 0, paper_version=99)

    services.dispatch(once=True, clock=NOW)

    assert recipients(inbox) == [BOB]


def test_template_error_for_one_subscriber_does_not_block_others(
    engine, services, inbox, monkeypatch
):
    eve = add_reader(engine, "tea", email=EVE)
    add_reader(engine, "tea", email=BOB)
    ingest(engine, make_sighting(**TEA))
    compose = Services.compose

    def fail_for_eve(self, delivery, told, **more):
        if delivery.subscriber_id == eve.id:
            raise ZeroDivisionError
        return compose(self, delivery, told, **more)

    monkeypatch.setattr(Services, "compose", fail_for_eve)
    publish_and_send(services)

    assert recipients(inbox) == [BOB]


# --- Sources, and a healthy database ------------------------------------------------------------


def test_source_in_an_unknown_state_is_reported_and_read_again(engine, services):
    ingest(engine, make_sighting(**TEA))
    alter(engine, SourceStateRow, SourceStateRow.source == "arxiv", state="bored")

    assert "source arxiv" in named_by_the_doctor(engine, services)
    assert open_site(engine).get("/readyz").status_code in {200, 503}
    assert ingest(engine, make_sighting(**SEA), now=LATER)
    with read_only(engine) as conn:
        assert [record.source for record in ingest_state.list_source_states(conn)] == ["arxiv"]


def test_doctor_reports_no_set_aside_rows_in_a_valid_database(engine, services):
    add_reader(engine, "tea", email=EVE)
    ingest(engine, make_sighting(**TEA))
    list(services.publish(NOW))

    assert [finding.ok for finding in findings(engine, services)] == [True]
