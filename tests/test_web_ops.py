"""Readiness is measured by progress in the database; metrics are for the operator."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from importlib.metadata import version

import pytest
from sqlalchemy import Engine, update
from starlette.testclient import TestClient

from pipeline import settings
from pipeline.bootstrap import Services
from pipeline.domain import CountedEvent, DeliveryStatus, SourceState, SubscriberStatus
from pipeline.storage import daily_counts, ingest_state, send_controls, stats
from pipeline.storage.database import read_only
from pipeline.storage.ingest_state import SourceRecord
from pipeline.storage.schema import PaperRow
from pipeline.storage.stats import Stats, Week, problems
from pipeline.web import create_app
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

    assert problems(nothing, started + 2 * HOUR, started) == []
    assert len(problems(nothing, started + 4 * HOUR, started)) == 1


def test_reasons_are_empty_just_before_their_time_is_over():
    at = datetime(2030, 1, 9, tzinfo=UTC)
    record = SourceRecord("arxiv", SourceState.FAILED, at - 24 * HOUR, at - HOUR)
    week = Week(sent=20, complained=2, bounced=9, sent_in_two_days=9, expired_yesterday=9)
    made = Stats(
        1, at - timedelta(days=7), None, None, None, (record,), paused_since=at - 24 * HOUR,
        week=week,
    )  # fmt: skip

    assert problems(made, at, at) == []


def source(*, since: timedelta, checked: timedelta, next_try: timedelta | None = None):
    at = datetime(2030, 1, 9, tzinfo=UTC)
    state = SourceRecord(
        "arxiv", SourceState.FAILED, at - since, at - checked,
        next_try_at=at + next_try if next_try else None,
    )  # fmt: skip
    other = SourceRecord("huggingface", SourceState.FRESH, at, at)
    return problems(Stats(0, None, None, None, None, (state, other)), at, at)


def test_source_that_fails_for_over_a_day_is_reported():
    failing = ["the source arxiv fails, for 1560 minutes"]

    assert source(since=26 * HOUR, checked=HOUR) == failing
    assert source(since=26 * HOUR, checked=30 * MINUTE, next_try=HOUR) == failing
    assert source(since=26 * HOUR, checked=25 * HOUR) == []  # it failed for an hour, so far
    assert source(since=90 * HOUR, checked=30 * HOUR) == []  # no longer in the settings


@pytest.mark.parametrize(
    ("week", "complaint_rate", "bounce_rate"),
    [
        (Week(sent=100, complained=2, bounced=9), 0.0, 0.0),
        (Week(sent=100, complained=3, bounced=10), 0.003, 0.1),
        (Week(sent=10_000, complained=10, bounced=500), 0.001, 0.05),
        (Week(complained=3), 0.003, 0.0),
    ],
)
def test_rates_of_small_lists_are_judged_leniently(
    week: Week, complaint_rate: float, bounce_rate: float
):
    assert week.complaint_rate == pytest.approx(complaint_rate)
    assert week.bounce_rate == pytest.approx(bounce_rate)


def test_rates_do_not_change_during_a_day(engine: Engine):
    """Only whole days count, and only list mail: strangers can request the other kinds."""
    midnight = datetime(2030, 1, 9, tzinfo=UTC)
    event, sent = CountedEvent.COMPLAINED, CountedEvent.SENT

    def week(at: datetime) -> tuple[int, int]:
        with read_only(engine) as conn:
            made = stats.read_stats(conn, at).week
        return made.sent, made.complained

    with engine.begin() as conn:
        for days, count in ((0, 1), (1, 10), (7, 100), (8, 1_000)):
            at = midnight - timedelta(days=days)
            daily_counts.add(conn, {("digest", sent): count, ("welcome", event): count}, at)
            daily_counts.add(conn, {("confirmation", event): count, ("", event): count}, at)

    assert {week(midnight + hour * HOUR) for hour in range(24)} == {(110, 110)}
    assert week(midnight + 24 * HOUR) == (11, 11)


def test_lost_edition_is_reported_on_the_next_day(engine: Engine):
    with engine.begin() as conn:
        day = now() - timedelta(days=1)
        daily_counts.add(conn, {("digest", CountedEvent.EXPIRED): 6}, day)
        daily_counts.add(conn, {("digest", CountedEvent.SENT): 2}, day)
        daily_counts.add(conn, {("digest", CountedEvent.SENT): 3}, day - timedelta(days=1))
        daily_counts.add(conn, {("digest", CountedEvent.SENT): 100}, day - timedelta(days=2))

    assert reasons(engine) == ["6 digests expired yesterday and 5 were sent in two days"]


def test_few_expired_mails_on_a_day_without_an_edition_are_no_outage(engine: Engine):
    """A weekly list: 100 digests were sent on Monday, and some expired on Tuesday."""
    with engine.begin() as conn:
        tuesday = now() - timedelta(days=1)
        daily_counts.add(conn, {("digest", CountedEvent.EXPIRED): 20}, tuesday)
        daily_counts.add(conn, {("digest", CountedEvent.SENT): 100}, tuesday - timedelta(days=1))

    assert reasons(engine) == []
    assert not Week(expired_yesterday=4).has_lost_edition
    assert Week(expired_yesterday=5).has_lost_edition


def test_forgotten_stop_of_sending_is_reported_after_a_day(engine: Engine):
    with engine.begin() as conn:
        send_controls.pause(conn, None, "maintenance", now() - 25 * HOUR)

    assert reasons(engine) == ["sending is stopped by the operator, for 1500 minutes"]
    assert figures(engine)["paperboy_paused"] == 1


# --- Metrics ------------------------------------------------------------------------------------


def figures(engine: Engine) -> dict[str, float]:
    answer = site(engine).get("/metrics")
    assert answer.status_code == 200
    lines = [line for line in answer.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_source_that_was_removed_has_no_metrics(engine: Engine):
    old = now() - 30 * HOUR
    with engine.begin() as conn:
        for record in (
            SourceRecord("removed", SourceState.FAILED, old, old),
            SourceRecord("backoff", SourceState.FAILED, old, old, next_try_at=now() + HOUR),
            SourceRecord("arxiv", SourceState.FRESH, old, now()),
        ):
            ingest_state.put_source_state(conn, record)

    lines = site(engine).get("/metrics").text

    for name in ("source_state", "source_failures"):
        found = set(re.findall(rf'paperboy_{name}{{source="(\w+)"', lines))
        assert found == {"arxiv", "backoff"}


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
    assert told['paperboy_subscribers{status="active"}'] == 5
    assert now().timestamp() - 60 < told["paperboy_last_edition_timestamp_seconds"]
    assert (told.get("paperboy_disk_free_bytes", 0) > 0) is (engine.dialect.name == "sqlite")
    assert "@" not in str(told)


def test_counters_are_totals_of_the_database(engine: Engine):
    """A counter that is not incremented yet is 0, so that its first increase is visible."""
    with engine.begin() as conn:
        for days in (0, 400):
            sent = {("digest", CountedEvent.SENT): 7, ("", CountedEvent.LEFT): 1}
            daily_counts.add(conn, sent, now() - timedelta(days=days))

    told = figures(engine)

    assert told['paperboy_mails_sent_total{kind="digest"}'] == 14
    assert told['paperboy_mails_complained_total{kind="digest"}'] == 0
    assert told["paperboy_subscribers_left_total"] == 2
    assert told["paperboy_subscribers_joined_total"] == 0
    assert not any("_created" in name for name in told)
    assert told[f'paperboy_build_info{{version="{version("paperboy")}"}}'] == 1


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
        stats.last_edition_at(conn)
        stats.subscribers(conn)

    large = [
        found for found in seen
        if any(f"FROM {name}" in found[0] for name in ("deliveries", "subscribers", "papers"))
    ]  # fmt: skip
    assert len(large) == 10
    for statement, parameters in large:
        assert is_indexed(engine, statement, parameters), statement
