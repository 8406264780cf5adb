"""What the operator hears: one line of log for each edition, alerts, and a report each month."""

from __future__ import annotations

import email
import email.policy
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from typing import Any

import pytest
from sqlalchemy import Engine, insert
from structlog.testing import capture_logs

from pipeline import bootstrap, editions, settings, signup, watch
from pipeline.bootstrap import Services
from pipeline.doctor import Finding
from pipeline.domain import CountedEvent, DeliveryStatus, SuppressionReason
from pipeline.storage import addresses, daily_counts, deliveries, send_controls, suppressions
from pipeline.storage.schema import DeliveryRow, OperatorReportRow, SubscriberRow, SuppressionRow
from tests.support.dispatching import send
from tests.support.factories import NOW, TODAY, make_sighting
from tests.support.newsroom import SUPPRESSION_KEY, add_reader, ingest, rows
from tests.support.outbox import add_delivery, alter

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
OVER = datetime(TODAY.year, TODAY.month, TODAY.day, tzinfo=UTC) + 36 * HOUR


def finished(engine: Engine, now: datetime) -> list[dict[str, Any]]:
    with capture_logs() as logs:
        watch.finish_editions(engine, now)
    return [line for line in logs if line["event"] == "edition.finished"]


def test_edition_is_summed_up_once_when_it_is_over(engine: Engine):
    add_delivery(engine, status=DeliveryStatus.SENT, sent_at=NOW + HOUR)
    add_delivery(engine, status=DeliveryStatus.SENT, sent_at=NOW + 2 * HOUR)
    add_delivery(engine, status=DeliveryStatus.FAILED)
    add_delivery(engine, status=DeliveryStatus.EXPIRED)

    assert finished(engine, OVER - HOUR) == []
    (line,) = finished(engine, OVER)

    counts = {"sent": 2, "failed": 1, "expired": 1, "cancelled": 0}
    assert line.items() >= {"edition": str(TODAY), "compiled": 4, "seconds": 7200, **counts}.items()
    assert line["log_level"] == "info"
    assert finished(engine, OVER) == finished(engine, OVER + 5 * DAY) == []


def test_edition_with_mail_under_way_is_not_over(engine: Engine):
    waiting = add_delivery(engine)
    assert finished(engine, OVER) == []

    alter(engine, waiting, status=DeliveryStatus.EXPIRED)

    assert len(finished(engine, OVER + HOUR)) == 1


def test_day_without_an_edition_has_no_line(engine: Engine):
    assert finished(engine, NOW) == []


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.parametrize("readers", [1, 8])
def test_log_of_an_edition_does_not_grow_with_its_readers(engine: Engine, inbox, readers: int):
    for number in range(readers):
        add_reader(engine, "cat:cs.IR", email=f"r{number}@example.org", now=NOW - HOUR)
    ingest(engine, make_sighting(), now=NOW - HOUR)

    with capture_logs() as logs:
        edition = {"now": NOW, "expiry": 18 * HOUR, "template": "1"}
        assert len(list(editions.publish(engine, **edition))) == readers
        assert send(engine, inbox).sent == readers

    assert [line["event"] for line in logs if line["log_level"] != "debug"] == []


# --- Mail to the operator -----------------------------------------------------------------------

OPERATOR = watch.Operator("ops@example.org", SUPPRESSION_KEY)
BROKEN = Finding("dkim x", False, "signs, and x._domainkey is not published", "publish: x TXT y")
MORNING = datetime(2030, 1, 9, 0, 37, tzinfo=UTC)


def alert(engine: Engine, now: datetime, *failures: Finding) -> None:
    watch.alert(engine, OPERATOR, now, lambda: failures)


def mails(engine: Engine) -> list[tuple[str, str]]:
    return [(row.kind, row.status) for row in rows(engine, DeliveryRow, DeliveryRow.id)]


def test_operator_gets_one_mail_a_day_while_something_is_wrong(engine: Engine):
    for hours in range(30):
        alert(engine, MORNING + hours * HOUR, BROKEN)

    assert [kind for kind, _ in mails(engine)] == ["alert", "alert"]


def test_operator_gets_no_mail_while_all_is_well(engine: Engine):
    for hours in range(30):
        alert(engine, MORNING + hours * HOUR)

    assert mails(engine) == []


def test_all_well_is_mailed_once_after_an_alert_and_not_on_its_day(engine: Engine):
    alert(engine, MORNING, BROKEN)
    for hours in range(1, 80):
        alert(engine, MORNING + hours * HOUR)

    assert [kind for kind, _ in mails(engine)] == ["alert", "all-well"]
    alert(engine, MORNING + 5 * DAY, BROKEN)
    assert [kind for kind, _ in mails(engine)] == ["alert", "all-well", "alert"]


def test_checks_do_not_run_again_after_the_mail_of_the_day(engine: Engine):
    alert(engine, MORNING, BROKEN)

    def check() -> list[Finding]:
        raise AssertionError("checks wait for other hosts")

    watch.alert(engine, OPERATOR, MORNING + HOUR, check)


def test_mail_of_a_wrong_clock_does_not_silence_later_days(engine: Engine):
    alert(engine, MORNING + 400 * DAY, BROKEN)
    alert(engine, MORNING, BROKEN)
    alert(engine, MORNING + DAY)

    assert [kind for kind, _ in mails(engine)] == ["alert", "alert", "all-well"]


@pytest.mark.full
def test_concurrent_workers_queue_one_mail(engine: Engine):
    """Each worker has decided before another has written."""
    together = threading.Barrier(3)

    def check() -> list[Finding]:
        together.wait(30)
        return [BROKEN]

    threads = [
        threading.Thread(target=watch.alert, args=(engine, OPERATOR, MORNING, check))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert mails(engine) == [("alert", "queued")]


@pytest.mark.parametrize("reason", SuppressionReason)
def test_suppressed_address_is_neither_stored_nor_mailed(engine: Engine, reason: SuppressionReason):
    """It was erased, bounces, or the operator of the list has suppressed it."""
    watch._log_suppressed.cache_clear()
    hash_ = addresses.address_hash(OPERATOR.email, SUPPRESSION_KEY)
    with engine.begin() as conn:
        suppressions.suppress(conn, hash_, reason, MORNING - DAY)

    with capture_logs() as logs:
        for hours in range(3):
            alert(engine, MORNING + hours * HOUR, BROKEN)

    assert [line["event"] for line in logs] == ["operator_mail.suppressed"]
    for table in (SubscriberRow, DeliveryRow, OperatorReportRow):
        assert rows(engine, table) == []
    with engine.begin() as conn:
        suppressions.lift(conn, hash_)
    alert(engine, MORNING + 3 * HOUR, BROKEN)
    assert [kind for kind, _ in mails(engine)] == ["alert"]


def test_alert_does_not_override_a_suppression(engine: Engine):
    alert(engine, MORNING, BROKEN)
    hash_ = addresses.address_hash(OPERATOR.email, SUPPRESSION_KEY)
    older = {"hash": hash_, "reason": SuppressionReason.HARD, "since": MORNING - HOUR}
    with engine.begin() as conn:
        conn.execute(insert(SuppressionRow).values(older))  # by another process, just before
        assert deliveries.claim(conn, 9, "token", HOUR, MORNING) == []


@pytest.fixture
def services(database_url: str) -> Iterator[Services]:
    site = "https://papers.example.org"
    loaded = settings.load(
        None, database_url=database_url, site_url=site, operator_email="Ops <ops@example.org>"
    )
    built = bootstrap.build(loaded)
    yield built
    built.engine.dispose()


def received(services: Services, now: datetime) -> EmailMessage:
    with services.engine.begin() as conn:
        (delivery,) = deliveries.claim(conn, 9, "token", HOUR, now)
        assert deliveries.mark(conn, [delivery.id], "token", HOUR, now) == {delivery.id}
        content = services.load(conn, [delivery]).get(delivery.id)
    wire = services.compose(delivery, content, now=now).replace(b"\r\n..", b"\r\n.")
    return email.message_from_bytes(wire, policy=email.policy.default)


def bodies(mail: EmailMessage) -> list[str]:
    return [" ".join(mail.get_body((form,)).get_content().split()) for form in ("plain", "html")]


def test_alert_contains_findings_and_advice_without_addresses(services: Services):
    leak = replace(BROKEN, detail="rejected ada@example.org <script>")

    services.watch(MORNING, lambda: [BROKEN, leak])

    mail = received(services, MORNING)
    assert (mail["To"], mail["Subject"]) == ("ops@example.org", "Paperboy needs your attention")
    for body in bodies(mail):
        assert "dkim x: signs, and x._domainkey is not published" in body
        assert "publish: x TXT y" in body
        assert "ada@" not in body
    assert "&lt;script&gt;" in bodies(mail)[1]


def test_alert_is_sent_while_all_sending_is_stopped(services: Services):
    """The reason for the stop is what the operator must hear; readers' mail waits."""
    with services.engine.begin() as conn:
        send_controls.pause(conn, None, "restored copy", MORNING, automatic=True)
    add_delivery(services.engine, not_before=MORNING, expires_at=MORNING + DAY)

    services.watch(MORNING, lambda: [BROKEN])

    assert received(services, MORNING)["To"] == "ops@example.org"


def test_operator_who_reads_or_has_left_gets_alerts_and_keeps_the_subscription(services: Services):
    reader = add_reader(services.engine, "cat:cs.IR", email="ops@example.org", now=MORNING - DAY)
    services.watch(MORNING, lambda: [BROKEN])
    assert received(services, MORNING)["To"] == "ops@example.org"

    signup.leave(services.engine, reader.secret, MORNING + HOUR)
    services.watch(MORNING + DAY, lambda: [BROKEN])

    assert received(services, MORNING + DAY)["To"] == "ops@example.org"
    assert len(rows(services.engine, SubscriberRow)) == 1


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_no_mail_without_operator_email(engine: Engine):
    Services(settings.load(None), engine).watch(MORNING, lambda: [BROKEN])

    assert mails(engine) == []


def test_monthly_report_has_figures_and_no_addresses(services: Services):
    engine, february = services.engine, datetime(2030, 2, 1, 0, 37, tzinfo=UTC)
    for name in ("ada", "bob", "cyd"):
        add_reader(engine, "cat:cs.IR", email=f"{name}@example.org")
    add_reader(engine, "au:lovelace", email="dan@example.org")
    ingest(engine, make_sighting())
    with engine.begin() as conn:
        for days in (0, 1):
            sent = {("digest", CountedEvent.SENT): 20, ("digest", CountedEvent.COMPLAINED): 1}
            daily_counts.add(conn, sent, NOW + days * DAY)
        daily_counts.add(conn, {("digest", CountedEvent.SENT): 7}, february)

    for hours in range(100):
        services.watch(february + hours * HOUR, list)

    mail = received(services, february)
    for body in (bodies(mail)[0], re.sub("</?b>", "", bodies(mail)[1])):
        for line in (
            "Month: 2030-01", "Readers now: 4", "Readers who joined: 4", "Readers who left: 0",
            "Mails sent: 40", "Mails reported as spam: 2", "Days without an edition: 29",
            "Papers of arxiv: 1", "Followers of cat:cs.ir: 3",
        ):  # fmt: skip
            assert line in body
        assert "lovelace" not in body, "a topic of one reader may name that reader"
        assert "ada" not in body
    assert len(mails(engine)) == 1


def test_new_installation_gets_no_monthly_report(services: Services):
    add_reader(services.engine, "cat:cs.IR", now=datetime(2030, 2, 1, tzinfo=UTC))

    services.watch(datetime(2030, 2, 1, 9, tzinfo=UTC), list)
    services.watch(datetime(2030, 2, 20, 9, tzinfo=UTC), list)

    assert mails(services.engine) == []
