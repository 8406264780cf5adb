"""Messages in the broker that Celery cannot parse are dropped, with the faulty field named."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest
import structlog
from kombu.transport import redis

from pipeline import broker

ARGUMENTS = b64encode(b"[[], {}, {}]").decode()
PLAIN = {"properties.body_encoding": None}
MISSING = object()


def message(**changes: Any) -> dict[str, Any]:
    """Return a wake-up in Celery's format, changed by dotted path; MISSING deletes a field."""
    made: dict[str, Any] = {
        "body": ARGUMENTS,
        "headers": {"task": "pipeline.dispatch", "id": "1"},
        "properties": {"delivery_tag": "t", "delivery_info": {}, "body_encoding": "base64"},
    }
    for path, value in changes.items():
        *parents, name = path.split(".")
        place = made
        for parent in parents:
            place = place[parent]
        if value is MISSING:
            del place[name]
        else:
            place[name] = value
    return made


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, None),
        ({"body": "[[1], {}, {}]", **PLAIN}, None),
        ({"properties": []}, "no properties or no headers"),
        ({"headers": []}, "no properties or no headers"),
        ({"headers": MISSING}, "no properties or no headers"),
        ({"properties.delivery_tag": 7}, "no delivery tag"),
        ({"properties.delivery_info": []}, "no delivery info"),
        ({"headers.task": None}, "no task or no id"),
        ({"headers.id": MISSING}, "no task or no id"),
        ({"body": 7}, "no arguments"),
        ({"body": MISSING}, "no arguments"),
        ({"body": "***"}, "no arguments"),
        ({"body": b64encode(b"\xff").decode()}, "no arguments"),
        ({"body": ARGUMENTS, **PLAIN}, "no arguments"),
        ({"body": "[[], {}]", **PLAIN}, "no arguments"),
        ({"body": "[[], {}, {}, {}]", **PLAIN}, "no arguments"),
        ({"body": "[{}, {}, {}]", **PLAIN}, "no arguments"),
        ({"body": "[[], [], {}]", **PLAIN}, "no arguments"),
        ({"body": '{"a": 1, "b": 2, "c": 3}', **PLAIN}, "no arguments"),
        ({"body": "[" * 100_000, **PLAIN}, "no arguments"),
    ],
)
def test_fault_returns_the_reason_a_message_cannot_be_parsed(changes, fault):
    assert broker.fault(message(**changes)) == fault


@pytest.mark.parametrize("other", [None, [], "text", 7])
def test_fault_rejects_a_message_that_is_no_object(other):
    assert broker.fault(other) == "not an object"


@pytest.mark.parametrize(
    ("queue", "given", "is_delivered"),
    [
        ("dispatch", message(), True),
        ("dispatch", message(body="***"), False),
        ("worker@host.celery.pidbox", {"method": "ping"}, True),
        ("celeryev.0f1e", {"headers": {"hostname": "worker@host"}}, False),
    ],
)
def test_deliver_drops_faulty_messages_but_not_remote_control(
    monkeypatch, queue, given, is_delivered
):
    delivered = []
    monkeypatch.setattr(redis.Transport, "_deliver", lambda _self, *what: delivered.append(what))

    broker.Transport._deliver(object.__new__(broker.Transport), given, queue)

    assert delivered == ([(given, queue)] if is_delivered else [])


@pytest.mark.parametrize(("queue", "is_logged"), [("dispatch", True), ("celeryev.0f1e", False)])
def test_deliver_logs_faulty_messages_but_no_events_of_workers(monkeypatch, queue, is_logged):
    """Each other worker sends an event every two seconds."""
    with structlog.testing.capture_logs() as logged:
        broker.Transport._deliver(object.__new__(broker.Transport), {"headers": {}}, queue)

    assert bool(logged) is is_logged


def test_brpop_read_skips_an_undecodable_message(monkeypatch):
    channel = object.__new__(broker.Channel)
    monkeypatch.setattr(redis.Channel, "_brpop_read", lambda _self, **options: options)
    assert channel._brpop_read(a=1) == {"a": 1}

    def fail(_self, **_options):
        raise UnicodeDecodeError("utf-8", b"", 0, 1, "no")

    monkeypatch.setattr(redis.Channel, "_brpop_read", fail)
    assert channel._brpop_read() is True


def test_message_that_cannot_be_restored_is_removed_from_the_indices(monkeypatch):
    restored, removed = [], []

    def restore(_self, tag, client=None, leftmost=False):
        if tag == "bad":
            raise KeyError("properties")
        restored.append((tag, client, leftmost))

    class Indices:
        def __init__(self, tag):
            self.tag = tag

        def execute(self):
            removed.append(self.tag)

    monkeypatch.setattr(redis.QoS, "restore_by_tag", restore)
    monkeypatch.setattr(redis.QoS, "_remove_from_indices", lambda _self, tag: Indices(tag))
    qos = object.__new__(broker.QoS)

    qos.restore_by_tag("good", client="c", leftmost=True)
    qos.restore_by_tag("plain")
    qos.restore_by_tag("bad")

    assert restored == [("good", "c", True), ("plain", None, False)]
    assert removed == ["bad"]
