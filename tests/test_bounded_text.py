"""Values from outside that are too long for their column, or invalid text, raise no error."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import Column, MetaData, String, insert, select
from sqlalchemy import Table as PlainTable

from pipeline.feedback.process import Effect, Event, Feedback
from pipeline.feedback.webhooks import ses
from pipeline.feedback.webhooks.ses import Message
from pipeline.storage.schema import BoundedText, EventRow, SightingRow, Table, bounded
from tests.support.factories import KEY, NOW, SENDER, make_sighting
from tests.support.newsroom import ingest, rows

COLUMNS = [
    column
    for table in Table.metadata.sorted_tables
    for column in table.columns
    if isinstance(column.type, String | BoundedText) and column.type.length
]
LENGTHS = sorted({column.type.length for column in COLUMNS})
ODD = ["a\0b", "half \ud800 a pair", "\udfff", "\ufdfa" * 2_000, "é" * 3_000, "x" * 5_000]


def test_every_string_column_with_a_length_is_bounded_text():
    assert [str(one) for one in COLUMNS if not isinstance(one.type, BoundedText)] == []
    assert len(COLUMNS) > 20


@pytest.mark.parametrize("length", LENGTHS)
def test_bounded_column_accepts_and_finds_any_text(engine, length):
    probe = PlainTable("probe", MetaData(), Column("value", BoundedText(length)))
    probe.create(engine)
    with engine.begin() as conn:
        for value in ODD:
            conn.execute(insert(probe).values(value=value))
            found = conn.execute(select(probe.c.value).where(probe.c.value == value)).scalars()
            assert [len(one) <= length for one in found] == [True], ascii(value[:20])


@pytest.mark.parametrize("length", LENGTHS)
def test_long_texts_with_a_common_prefix_stay_different(length):
    long = "x" * 3_000
    assert bounded(long + "1", length) != bounded(long + "2", length)
    assert bounded("x" * length, length) == "x" * length


@pytest.mark.parametrize("value", ODD)
def test_event_with_any_name_is_stored_once(engine, value):
    feedback = Feedback(engine, SENDER, KEY)
    event = Event(value, value, json.dumps(value), ())

    feedback.take("generic", event, NOW)

    assert feedback.take("generic", event, NOW) == (Effect.KNOWN,)
    assert len(rows(engine, EventRow)) == 1


@pytest.mark.parametrize("value", ODD)
def test_ses_message_with_any_name_is_stored(engine, value):
    said = {"eventType": value, "mail": {"messageId": value, "source": value}}
    message = Message(value, json.dumps(said))

    Feedback(engine, SENDER, KEY).take("ses", ses.parse(message), NOW)

    assert len(rows(engine, EventRow)) == 1


@pytest.mark.parametrize("field", ["source_id", "doi", "title"])
@pytest.mark.parametrize("value", ODD[:2] + ODD[3:])
def test_paper_with_odd_text_is_stored_once_with_the_others(engine, field, value):
    odd = make_sighting(None, **{"source_id": "", "doi": None, field: value})
    other = make_sighting()

    reports = [*ingest(engine, odd, other), *ingest(engine, odd, other)]

    assert [report.error for report in reports] == [None, None]
    assert len(rows(engine, SightingRow)) == 2
