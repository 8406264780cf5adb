"""Readiness is measured by progress in the database; metrics are for the operator."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, update
from starlette.testclient import TestClient

from pipeline import settings
from pipeline.bootstrap import Services
from pipeline.domain import DeliveryStatus, SourceState, SubscriberStatus
from pipeline.storage import ingest_state, stats
from pipeline.storage.database import read_only
from pipeline.storage.ingest_state import SourceRecord
from pipeline.storage.schema import PaperRow
from pipeline.storage.stats import Stats
from pipeline.web import create_app
from pipeline.web.ops import stuck
from tests.support.factories import make_sighting
from tests.support.newsroom import ingest, store
from tests.support.outbox import add_delivery, add_subscriber, set_status, suppress
from tests.support.plans import is_indexed, selecting

SITE = "https://papers.example.org"
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
TOKEN = "a-token-for-those-who-watch"


def now() -> datetime:
    return datetime.now(UTC)


def site(engine: Engine, peer: str = "127.0.0.1", **changes: str) -> TestClient:
    loaded = settings.load(None, site_url=SITE, **changes)
    app = create_app(Services(loaded, engine))
    return TestClient(app, base_url=SITE, client=(peer, 5000))


def reasons(engine: Engine) -> list[str]:
    answer = site(engine).get("/readyz")
    told = answer.json()
    assert told["ready"] is (answer.status_code == 200)
    assert told["ready"] is (told["reasons"] == [])
    return told["reasons"]


# --- Ready --------------------------------------------------------------------------------------


def test_new_installation_is_ready(engine: Engine):
    assert reasons(engine) == []


@pytest.mark.parametrize(("waited", "is_stuck"), [(29 * MINUTE, False), (31 * MINUTE, True)])
def test_overdue_unsent_mail_is_reported(engine: Engine, waited: timedelta, is_stuck: bool):
    add_delivery(engine, not_before=now() - waited, expires_at=now() + HOUR)

    found = reasons(engine)

    assert bool(found) is is_stuck
    assert not found or found[0].startswith("a mail is due and nobody sends it, for 31 minutes")


def test_unsendable_mail_is_not_reported_as_overdue(engine: Engine):
    left, barred = add_subscriber(engine), add_subscriber(engine)
    for subscriber in (left, barred):
        add_delivery(
            engine, subscriber_id=subscriber, not_before=now() - HOUR, expires_at=now() + HOUR
        )
    set_status(engine, left, SubscriberStatus.UNSUBSCRIBED)
    suppress(engine, barred)
    add_delivery(engine, not_before=now() + HOUR)  # to be retried later
    add_delivery(engine, not_before=now() - HOUR, status=DeliveryStatus.LEASED)

    assert reasons(engine) == []


@pytest.mark.parametrize(("overdue", "is_stuck"), [(29 * MINUTE, False), (31 * MINUTE, True)])
def test_overdue_uncompiled_digest_is_reported(engine: Engine, overdue: timedelta, is_stuck: bool):
    add_subscriber(engine, next_slot_at=now() - overdue)
    add_subscriber(engine, next_slot_at=now() - 9 * HOUR, status=SubscriberStatus.UNSUBSCRIBED)

    assert [reason[:30] for reason in reasons(engine)] == (
        ["the hour of a reader has come "] if is_stuck else []
    )


def test_sources_not_requested_for_hours_are_reported(engine: Engine):
    """One source that was requested, or that waits for its next try, shows that the task runs."""
    late = now() - 4 * HOUR
    record = SourceRecord("arxiv", SourceState.FAILED, late, late)
    with engine.begin() as conn:
        ingest_state.put_source_state(conn, record)
    assert reasons(engine) == ["no source was asked, for 240 minutes"]

    waiting = SourceRecord("huggingface", SourceState.FAILED, late, late, next_try_at=now() + HOUR)
    with engine.begin() as conn:
        ingest_state.put_source_state(conn, waiting)

    assert reasons(engine) == []


def test_unpublished_papers_are_reported(engine: Engine):
    ingest(engine, make_sighting(), now=now())
    store(engine, make_sighting(), batch=2)
    with engine.begin() as conn:
        conn.execute(update(PaperRow).values(created_at=now() - 4 * HOUR))

    assert [reason[:40] for reason in reasons(engine)] == [
        "papers were read and are not published, "
    ]


def test_missing_source_request_is_measured_from_the_start_time():
    nothing = Stats(0, None, None, None, None, ())
    started = datetime(2030, 1, 2, tzinfo=UTC)

    assert stuck(nothing, started + 2 * HOUR, started) == []
    assert len(stuck(nothing, started + 4 * HOUR, started)) == 1


# --- Metrics ------------------------------------------------------------------------------------


def figures(engine: Engine) -> dict[str, float]:
    answer = site(engine).get("/metrics")
    assert answer.status_code == 200
    lines = [line for line in answer.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_metrics_equal_the_database_counts(engine: Engine):
    ingest(engine, make_sighting(), now=now() - HOUR)
    for status in (DeliveryStatus.QUEUED, DeliveryStatus.SENT, DeliveryStatus.SENT):
        add_delivery(
            engine, "ada@example.org" if status is DeliveryStatus.QUEUED else "",
            status=status, created_at=now(), not_before=now() - 10 * MINUTE,
        )  # fmt: skip
    add_delivery(engine, status=DeliveryStatus.SENT, created_at=now() - 25 * HOUR)
    suppress(engine, add_subscriber(engine))

    told = figures(engine)

    assert told['paperboy_deliveries_unsettled{status="queued"}'] == 1
    assert told['paperboy_deliveries_unsettled{status="uncertain"}'] == 0
    assert told['paperboy_deliveries_last_day{kind="digest",status="sent"}'] == 2
    assert told['paperboy_suppressions{reason="manual"}'] == 1
    assert told['paperboy_source_state{source="arxiv",state="fresh"}'] == 1
    assert told["paperboy_published_batch"] == told["paperboy_ready"] == 1
    assert 600 <= told["paperboy_due_seconds"] < 700
    assert 3600 <= told["paperboy_batch_age_seconds"] < 3700
    assert 3600 <= told["paperboy_asked_age_seconds"] < 3700
    assert told["paperboy_slot_seconds"] == 0
    assert "@" not in str(told)


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("peer", "headers", "status"),
    [
        ("127.0.0.1", {}, 200),
        ("::1", {}, 200),
        ("203.0.113.7", {}, 403),
        ("socket", {}, 403),
        ("127.0.0.1", {"X-Forwarded-For": "127.0.0.1"}, 403),  # forwarded by a proxy for a stranger
        ("127.0.0.1", {"Forwarded": "for=203.0.113.7"}, 403),
    ],
)
def test_metrics_without_a_token_are_limited_to_loopback(
    engine: Engine, peer: str, headers: dict[str, str], status: int
):
    answer = site(engine, peer).get("/metrics", headers=headers)

    assert answer.status_code == status
    assert answer.headers["cache-control"] == "no-store"
    assert (status == 200) is ("paperboy_ready" in answer.text)


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("said", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"Bearer {TOKEN}x", 403),
        (TOKEN, 403),
        ("Bearer é", 403),
        ("", 403),
    ],
)
def test_metrics_with_a_token_require_the_token(engine: Engine, said: str, status: int):
    """From any address; without the token access is refused on this machine, too."""
    headers = {"Authorization": said.encode()}

    for peer in ("203.0.113.7", "127.0.0.1"):
        answer = site(engine, peer, metrics_token=TOKEN).get("/metrics", headers=headers)
        assert answer.status_code == status


def test_health_queries_of_large_tables_use_an_index(engine: Engine):
    """However large the tables are: each query of a large table uses an index."""
    with selecting(engine) as seen, read_only(engine) as conn:
        stats.read_stats(conn, now())
        stats.unsettled(conn)
        stats.last_day(conn, now())

    large = [
        found for found in seen
        if any(f"FROM {name}" in found[0] for name in ("deliveries", "subscribers", "papers"))
    ]  # fmt: skip
    assert len(large) == 6
    for statement, parameters in large:
        assert is_indexed(engine, statement, parameters), statement
