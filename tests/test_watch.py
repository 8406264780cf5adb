"""The log of an edition: one line when it is over, and none for each of its mails."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine
from structlog.testing import capture_logs

from pipeline import editions
from pipeline.domain import DeliveryStatus
from pipeline.watch import watch
from tests.support.dispatching import send
from tests.support.factories import NOW, TODAY, make_sighting
from tests.support.newsroom import add_reader, ingest
from tests.support.outbox import add_delivery, alter

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
OVER = datetime(TODAY.year, TODAY.month, TODAY.day, tzinfo=UTC) + 36 * HOUR


def finished(engine: Engine, now: datetime) -> list[dict[str, Any]]:
    with capture_logs() as logs:
        watch(engine, now)
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
